"""What all ways out and in share: the classes whose modules go there, the options, shapes and dtype that make one."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np

from ..cells import GRUCell, LSTMCell, RNNCell
from ..checks import as_real, check_shape
from ..jordan import JordanRNN
from ..layers import GRU, LSTM, RNN
from ..train.embedding import Embedding
from ..train.linear import Linear
from ..weights import Weights

__all__ = ["KINDS", "common_dtype", "kind_of", "made", "option_names", "options_of", "shapes_of"]

KINDS: dict[str, Any] = {
    kind.__name__: kind for kind in (RNN, LSTM, GRU, JordanRNN, RNNCell, LSTMCell, GRUCell, Linear, Embedding)
}


def kind_of(module: Any) -> Any:
    """Return which of the classes a module is of.

    Raises
    ------
    TypeError
        If it is of none.
    """
    for kind in KINDS.values():
        if isinstance(module, kind):
            return kind
    raise TypeError(f"expected one of {', '.join(KINDS)}, got {type(module).__name__}")


def option_names(kind: Any) -> list[str]:
    """Return what a class's constructor takes, but for what the arrays say themselves: their dtype and values."""
    return [name for name in signature(kind).parameters if name not in ("dtype", "rng")]


def options_of(module: Any) -> dict[str, Any]:
    """Return the options that a module was made with: they are its attributes."""
    return {name: getattr(module, name) for name in option_names(kind_of(module))}


def shapes_of(kind: Any, options: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the parameters of a module made with these options."""
    sizes = {name: options[name] for name in signature(kind._shapes).parameters if name in options}
    return kind._shapes(**sizes)  # type: ignore[no-any-return]


def made(kind: Any, options: Mapping[str, Any], arrays: Mapping[str, np.ndarray], dtype: np.dtype[Any]) -> Any:
    """Return a module made with these options, and with these arrays for its parameters, so that none are drawn.

    Raises
    ------
    TypeError, ValueError
        If an option is wrong, or an array's shape.
    """
    shapes = shapes_of(kind, options)
    own = {name: as_real(arrays[name], dtype, name) for name in shapes}
    for name, shape in shapes.items():
        check_shape(own[name].shape, shape, name)
    return kind(**options, dtype=dtype, rng=Weights(own))


def common_dtype(arrays: Mapping[str, np.ndarray]) -> np.dtype[Any]:
    """Return the dtype of all arrays.

    Raises
    ------
    ValueError
        If there are several.
    """
    dtypes = {array.dtype.name: array.dtype for array in arrays.values()}
    if len(dtypes) != 1:
        raise ValueError(f"expected weights of one dtype, got {' and '.join(sorted(dtypes))}")
    return dtypes.popitem()[1]
