"""Parameters: immutable `Weights`, and `Module`, which owns one and puts a new one in its place when they change."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, ItemsView, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from ._kernels.memory import empty, frozen
from .checks import as_array, as_bool, as_real, check_shape, from_tensor

if TYPE_CHECKING:
    import torch

__all__ = ["IncompatibleKeys", "Module", "Weights", "once", "renamed"]

Packed = TypeVar("Packed")
Value = TypeVar("Value")


class Weights(Mapping[str, np.ndarray]):
    """Named arrays that can never change, and what kernels packed from them.

    Each array lies in a `bytes` object of its own, so that no flag makes it writable. What `packed` makes is kept
    here and nowhere else: it cannot outlive the arrays it was made from, nor become stale. `stack` is what runs single
    steps with them (`_kernels.step.Stack`), None until one is wanted.
    """

    __slots__ = ("_arrays", "_packed", "stack")

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self._arrays = {name: frozen(array) for name, array in arrays.items()}
        self._packed: Any = None
        self.stack: Any = None

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    # Mapping's own go through `__getitem__` and its exceptions.

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def items(self) -> ItemsView[str, np.ndarray]:
        return self._arrays.items()

    def packed(self, make: Callable[[], Packed]) -> Packed:
        """Return what `make()` returned, not None, on first use; should two threads make it, either may stay."""
        if self._packed is None:
            self._packed = make()
        return self._packed  # type: ignore[no-any-return]

    def with_packed(self, made: Any) -> Weights:
        """Return weights of the same arrays for which `packed` returns `made`."""
        other = Weights.__new__(Weights)
        other._arrays, other._packed, other.stack = self._arrays, made, None
        return other

    def __copy__(self) -> Weights:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Weights:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Weights, (self._arrays,)


class once(Generic[Value]):
    """A property that is formed at its first use and kept, without a lock: should two threads form it, either may stay.
    (`functools.cached_property` has one before Python 3.12, which a child of `fork` may find held, for ever.)"""

    def __init__(self, make: Callable[[Any], Value]) -> None:
        self.make, self.__doc__ = make, make.__doc__

    def __get__(self, instance: Any, owner: type) -> Value:
        if instance is None:
            return self  # type: ignore[return-value]
        value = vars(instance)[self.make.__name__] = self.make(instance)
        return value


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict(strict=False)` did not find, and found without a use for it."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def renamed(found: dict[str, Any], names: Mapping[str, str], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by their names in `names`, if they have one there.

    Raises
    ------
    ValueError
        If some came by their `own` names besides.
    """
    both = [name for name in found if name in own] if names else []
    if both:
        raise ValueError(f"expected names of a layer or of a cell, got both: {both[0]!r} and {next(iter(names))!r}")
    return {names.get(name, name): value for name, value in found.items()}


_modules: WeakValueDictionary[int, Module] = WeakValueDictionary()


def _in_child() -> None:
    """Give each module a new lock in a child of `fork`: a thread that held the old one is not there to give it back."""
    for module in list(_modules.values()):
        module._renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


class Module:
    """Something with named parameters of one dtype. Base of layers, cells and the training kit's maps.

    A subclass calls `super().__init__(dtype, arrays)` with its initial parameters, or `Weights` to take as they are;
    their names and shapes are then fixed. `self._weights` is the one place that holds them: a call reads it once and
    works on what it read.
    """

    _weights: Weights

    def __init__(self, dtype: np.dtype[Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.dtype = dtype
        if not isinstance(arrays, Weights):
            arrays = Weights({name: np.asarray(array, dtype) for name, array in arrays.items()})
        self._weights = arrays
        self._renew_lock()

    def _renew_lock(self) -> None:
        self._changing = threading.RLock()  # a signal's handler may read or write parameters wherever it comes in
        _modules[id(self)] = self

    def parameters(self) -> dict[str, np.ndarray]:
        """Return the parameters.

        Returns
        -------
        dict of str to numpy.ndarray
            Read-only arrays. They stay what they are when the module changes.

        Examples
        --------
        >>> import rnncore as rc
        >>> {name: array.shape for name, array in rc.RNNCell(3, 4).parameters().items()}
        {'weight_ih': (4, 3), 'weight_hh': (4, 4), 'bias_ih': (4,), 'bias_hh': (4,)}
        """
        return {name: frozen(array) for name, array in self._weights.items()}

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return a copy of the parameters.

        Returns
        -------
        dict of str to numpy.ndarray
            Writable arrays of the caller's own.

        Examples
        --------
        >>> import rnncore as rc
        >>> a, b = rc.LSTM(3, 4), rc.LSTM(3, 4)
        >>> b.load_state_dict(a.state_dict())
        IncompatibleKeys(missing_keys=[], unexpected_keys=[])
        """
        return {name: array.copy() for name, array in self._weights.items()}

    def load_state_dict(self, mapping: Mapping[str, Any], prefix: str = "", strict: bool = True) -> IncompatibleKeys:
        """Take over parameters by name; all of them or, on an error, none.

        Parameters
        ----------
        mapping : mapping of str to array_like
            Values are converted to the module's dtype. They may be torch tensors, on any device, with or without
            gradients, of bfloat16 as of any other real dtype.
        prefix : str
            Only names that start with it are looked at, without it: ``prefix="encoder."`` takes this module's part of
            a whole model's state dict.
        strict : bool
            Whether a missing or an unexpected name is an error.

        Returns
        -------
        IncompatibleKeys
            Named tuple ``(missing_keys, unexpected_keys)``: names as this module has them, and as they were found.

        Raises
        ------
        TypeError
            If `mapping` is no mapping of strings, a value holds no real numbers, or `strict` is not a bool.
        ValueError
            If a shape differs or, with `strict`, names do; if `mapping` has names both of a layer and of a cell, or
            those of a cell for a layer of more than one layer or direction.

        Notes
        -----
        A layer of one layer and one direction takes a cell's names as well, ``weight_ih`` for ``weight_ih_l0``, and a
        cell those of a layer. What torch's ``weight_norm`` and other parametrizations put in a weight's place
        (``weight_hh_l0_g``, ``parametrizations.…``) are unexpected names: remove them first.

        Examples
        --------
        >>> import rnncore as rc
        >>> cell, layer = rc.GRUCell(3, 4), rc.GRU(3, 4)
        >>> layer.load_state_dict(cell.state_dict())
        IncompatibleKeys(missing_keys=[], unexpected_keys=[])
        """
        if not isinstance(mapping, Mapping):
            raise TypeError(f"expected a mapping of names to arrays, got {type(mapping).__name__}")
        if not isinstance(prefix, str):
            raise TypeError(f"expected prefix to be a string, got {prefix!r}")
        found = {}
        for name, value in mapping.items():
            if not isinstance(name, str):
                raise TypeError(f"expected names to be strings, got {name!r}")
            if name.startswith(prefix):
                found[name[len(prefix) :]] = value
        found = self._renamed(found)
        current = self._weights
        keys = IncompatibleKeys([n for n in current if n not in found], [n for n in found if n not in current])
        if as_bool(strict, "strict") and any(keys):
            begun = f" behind the prefix {prefix!r}" if prefix else ""
            others = "" if found or not mapping else f"; no name begins so, among {sorted(mapping)!s:.200}"
            raise ValueError(
                f"expected the names {sorted(current)}{begun}; "
                f"missing {keys.missing_keys}, unexpected {keys.unexpected_keys}{others}"
            )
        new = self._checked({n: from_tensor(found[n], n) for n in current if n in found}, current)
        with self._changing:
            while not self._replace(current := self._weights, Weights({**current, **new})):
                pass  # a signal's handler has changed others meanwhile
        return keys

    def to_torch(self) -> torch.nn.Module:
        """Return the module of `torch.nn` that computes the same, with copies of the parameters.

        Returns
        -------
        torch.nn.Module
            Of the same name, options and dtype, on the CPU and in training mode, as torch makes its modules.

        Raises
        ------
        ImportError
            If there is no torch: ``pip install "rnncore[torch]"``.
        ValueError
            If torch has no such module (JordanRNN) or option (``peephole=True``, ``reverse=True``,
            ``reset_after=False``, ``nonlinearity="sigmoid"``).

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> import torch
        >>> gru = rc.GRU(3, 4, bidirectional=True)
        >>> module = gru.to_torch()
        >>> module
        GRU(3, 4, bidirectional=True)
        >>> x = np.ones((7, 2, 3), np.float32)
        >>> np.allclose(gru(x)[0], module(torch.tensor(x))[0].detach(), atol=1e-6)
        True
        """
        from .interop.convert import to_torch

        return to_torch(self)

    def _renamed(self, found: dict[str, Any]) -> dict[str, Any]:
        """Return values by this module's names for them, should they have come by others that it knows."""
        return found

    @contextmanager
    def editing(self) -> Iterator[dict[str, np.ndarray]]:
        """Change parameters: a context with writable copies, taken over at its end, dropped on an exception.

        Yields
        ------
        dict of str to numpy.ndarray
            Change the arrays in place, or assign others of the same shape.

        Raises
        ------
        ValueError
            At the end, if names or shapes are no longer those of the parameters.
        RuntimeError
            At the end, if the parameters were changed elsewhere meanwhile: that change would be lost.

        Examples
        --------
        >>> import rnncore as rc
        >>> lstm = rc.LSTM(3, 4, rng=0)
        >>> with lstm.editing() as params:
        ...     params["bias_hh_l0"][4:8] = 1.0  # the forget gate's
        >>> float(lstm.parameters()["bias_hh_l0"][4])
        1.0
        """
        current = self._weights
        scratch = {name: empty(array.shape, self.dtype) for name, array in current.items()}
        for name, array in current.items():
            scratch[name][...] = array
        yield scratch
        if scratch.keys() != current.keys():
            raise ValueError(f"expected the names {sorted(current)}, got {sorted(map(str, scratch))}")
        new = Weights(self._checked({name: scratch[name] for name in current}, current))
        with self._changing:
            if not self._replace(current, new):
                raise RuntimeError("the parameters were changed by another edit meanwhile; this one is dropped")

    def _checked(self, values: Mapping[str, Any], like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return values as arrays of the module's dtype, and of the shapes of those that they are like."""
        given = {name: as_array(value, name) for name, value in values.items()}
        arrays = {name: as_real(array, self.dtype, name) for name, array in given.items()}
        for name, array in arrays.items():
            check_shape(array.shape, like[name].shape, name)
        return arrays

    def _grads(
        self, weights: Mapping[str, np.ndarray], accumulate: Mapping[str, np.ndarray] | None, fresh: bool = False
    ) -> dict[str, np.ndarray]:
        """Return the arrays that gradients are added to; of matrices, if `fresh`, written to."""
        if accumulate is None:
            return {
                name: (empty if fresh and array.ndim > 1 else np.zeros)(array.shape, self.dtype)
                for name, array in weights.items()
            }
        grads = dict(accumulate) if isinstance(accumulate, Mapping) else {}
        if grads.keys() != weights.keys():
            got = sorted(map(str, grads)) if isinstance(accumulate, Mapping) else type(accumulate).__name__
            raise ValueError(f"expected accumulate with the names {sorted(weights)}, got {got}")
        for name, array in grads.items():
            if type(array) is not np.ndarray or array.dtype != self.dtype or not array.flags.carray:
                what = type(array).__name__
                if isinstance(array, np.ndarray):
                    what += f" of {array.dtype}" + ("" if array.flags.writeable else ", read-only")
                    what += "" if array.flags.c_contiguous else f", of strides {array.strides}"
                    what += "" if array.flags.aligned else ", not aligned"
                raise TypeError(
                    f"expected accumulate[{name!r}] to be a writable C-contiguous array of {self.dtype}, got {what}"
                )
            check_shape(array.shape, weights[name].shape, name)
        return {name: grads[name] for name in weights}

    def _replace(self, current: Weights, new: Weights) -> bool:
        """Put new weights in the place of the current ones, with `_changing` held, unless these are not there any more:
        no signal's handler comes in between, for there is no call."""
        own = vars(self)
        if own["_weights"] is not current:
            return False
        own["_weights"] = new
        return True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self) and not name.startswith("_"):
            raise AttributeError(f"{name} of a {type(self).__name__} is fixed when it is made")
        if name in vars(self).get("_weights", ()):
            raise AttributeError(f"{name} is a parameter, not an attribute: editing() or load_state_dict() changes it")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{name} of a {type(self).__name__} is fixed when it is made")

    def __getstate__(self) -> dict[str, Any]:
        state = vars(self).copy()  # at once: another thread may use a property `once`
        del state["_changing"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._renew_lock()
