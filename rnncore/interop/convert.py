"""Modules of `torch.nn` made into layers and cells, and the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import from_tensor
from ..weights import Module
from .kinds import KINDS, common_dtype, kind_of, made, option_names, options_of, shapes_of

if TYPE_CHECKING:
    import torch

__all__ = ["from_torch"]

# What each option has to be for torch to have the module.
THEIRS: dict[str, tuple[Any, ...]] = {
    "nonlinearity": ("tanh", "relu"),
    "peephole": (False,),
    "reset_after": (True,),
    "reverse": (False,),
}
# What torch's own options have to be for rnncore to have the module.
OURS = {"padding_idx": None, "max_norm": None, "scale_grad_by_freq": False}


def from_torch(module: torch.nn.Module) -> Any:
    """Return the layer or cell that computes what a module of `torch.nn` does, with copies of its weights.

    Parameters
    ----------
    module : torch.nn.RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell, Linear or Embedding
        Or of a subclass, whose own `forward` is not looked at. Weights may lie on any device.

    Returns
    -------
    RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell, train.Linear or train.Embedding
        With the module's options and dtype; float32 for float16 and bfloat16.

    Raises
    ------
    ImportError
        If there is no torch: ``pip install "rnncore[torch]"``.
    TypeError
        If `module` is something else, or its weights are of another dtype.
    ValueError
        If a weight is missing, if an option is one that rnncore does not have (an Embedding's `padding_idx`, `max_norm`
        or `scale_grad_by_freq`), if weights are of several dtypes, or if one is a plain tensor that a hook computes
        before each call, as torch's deprecated `weight_norm` and `prune` have it: it may be out of date.

    Notes
    -----
    Of a parametrized module (`torch.nn.utils.parametrize`) the computed weights are taken.

    Examples
    --------
    >>> import numpy as np, rnncore as rc
    >>> import torch
    >>> module = torch.nn.LSTM(3, 4, num_layers=2, batch_first=True)
    >>> lstm = rc.from_torch(module)
    >>> lstm
    LSTM(3, 4, num_layers=2, batch_first=True)
    >>> x = np.ones((5, 7, 3), np.float32)
    >>> np.allclose(lstm(x)[0], module(torch.tensor(x))[0].detach(), atol=1e-6)
    True
    """
    torch = _torch()
    found = {name: kind for name, kind in KINDS.items() if isinstance(module, getattr(torch.nn, name, ()))}
    if len(found) != 1:
        known = ", ".join(name for name in KINDS if hasattr(torch.nn, name))
        got = " and ".join(found) or type(module).__name__
        raise TypeError(f"expected one of {known} of torch.nn, got {got}")
    ((name, kind),) = found.items()
    for option, value in OURS.items():
        if getattr(module, option, value) != value:
            raise ValueError(f"expected {name} with {option}={value}, got {option}={getattr(module, option)}")
    options = {option: getattr(module, option) for option in option_names(kind) if hasattr(module, option)}
    if name == "RNN":  # which looks at its mode
        options["nonlinearity"] = str(module.mode).removeprefix("RNN_").lower()
    if name == "Linear":
        options["bias"] = module.bias is not None
    elif hasattr(module, "bias_ih"):  # a cell, which PyTorch asks for its biases, not for what it was made with
        options["bias"] = module.bias_ih is not None or module.bias_hh is not None
    arrays = {name: _array(module, name) for name in shapes_of(kind, options)}
    return made(kind, options, arrays, common_dtype(arrays))


def _array(module: torch.nn.Module, name: str) -> np.ndarray:
    """Return a module's weight by its name, as the module computes it."""
    torch = _torch()
    weight = getattr(module, name, None)
    if not isinstance(weight, torch.Tensor):
        raise ValueError(f"expected {name} to be a tensor, got {type(weight).__name__}")
    if name in vars(module):  # neither a Parameter, a buffer nor a property
        raise ValueError(
            f"expected {name} to be a parameter or parametrized, got a tensor that a hook may have to compute anew "
            "(torch.nn.utils.remove_weight_norm, or the like, makes it a parameter)"
        )
    if weight.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(f"expected {name} of float64, float32, float16 or bfloat16, got {weight.dtype}")
    return from_tensor(weight, name)  # type: ignore[no-any-return]


def to_torch(module: Module) -> torch.nn.Module:
    """Return the module of `torch.nn` that computes what a layer or cell does: see `Module.to_torch`."""
    torch = _torch()
    name, options = kind_of(module).__name__, options_of(module)
    if not hasattr(torch.nn, name):
        raise ValueError(f"expected a module that torch.nn has, got {name}")
    for option, values in THEIRS.items():
        if options.get(option, values[0]) not in values:
            allowed = " or ".join(map(repr, values))
            raise ValueError(f"expected {option}={allowed}, as torch.nn.{name} has it, got {options[option]!r}")
        if len(values) == 1:
            options.pop(option, None)
    arrays = module.state_dict()
    # On "meta" no weights are drawn, which would take time, and numbers from torch's generator.
    twin = getattr(torch.nn, name)(**options, dtype=getattr(torch, module.dtype.name), device="meta")
    twin.to_empty(device="cpu")
    twin.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    return twin


def _torch() -> Any:
    """Return the package, or say what installs it."""
    try:
        import torch
    except ImportError as error:
        raise ImportError('expected torch, to have its modules: pip install "rnncore[torch]"') from error
    return torch
