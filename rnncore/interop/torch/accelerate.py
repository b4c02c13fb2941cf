"""Models of PyTorch: their recurrent modules run by rnncore, in place, and back again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from . import modules

__all__ = ["Report", "accelerate", "restore"]

OURS: dict[Any, Any] = {
    nn.RNN: modules.RNN, nn.LSTM: modules.LSTM, nn.GRU: modules.GRU,
    nn.RNNCell: modules.RNNCell, nn.LSTMCell: modules.LSTMCell, nn.GRUCell: modules.GRUCell,
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What `accelerate` did.

    Attributes
    ----------
    replaced : dict of str to str
        Names of the modules that rnncore runs now, "" for the model itself, and their classes.
    left : dict of str to str
        Names of recurrent modules that were left alone, and why.
    """

    replaced: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name or 'the model itself'}: {kind}, run by rnncore" for name, kind in self.replaced.items()]
        lines += [f"{name or 'the model itself'}: left alone: {why}" for name, why in self.left.items()]
        return "\n".join(lines) or "no recurrent module found"


def accelerate(model: nn.Module) -> Report:
    """Let rnncore run every recurrent layer and cell of a model, in place.

    Parameters
    ----------
    model : torch.nn.Module
        Any module. Its `RNN`, `LSTM`, `GRU`, `RNNCell`, `LSTMCell` and `GRUCell` change their class, and nothing else:
        they stay the same objects with the same parameters, buffers and hooks, so that optimisers, and whatever else
        refers to them, go on as before.

    Returns
    -------
    Report
        Names of the modules it replaced, and of those it left alone: subclasses and modules with a `forward` of their
        own, or a part of it (`check_forward_args`, `permute_hidden`, …), subclasses that let nobody make subclasses of
        them, and modules of TorchScript.

    Raises
    ------
    TypeError
        If `model` is no module.

    Examples
    --------
    >>> import torch
    >>> from rnncore.interop.torch import accelerate
    >>> model = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(3, 4), "head": torch.nn.Linear(4, 2)})
    >>> print(accelerate(model))
    rnn: LSTM, run by rnncore
    """
    _check(model)
    report = Report()
    for name, module in model.named_modules():
        kind: Any = _unparametrized(module)
        base = next((base for base in OURS if issubclass(kind, base)), None)
        if isinstance(module, (modules._Recurrent, modules._RecurrentCell)):
            report.left[name] = "rnncore runs it already"
        elif base is None:
            if isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
                report.left[name] = f"{kind.__name__} is none of those that rnncore runs"
            elif getattr(module, "original_name", None) in {base.__name__ for base in OURS}:
                report.left[name] = "a module of TorchScript"
        elif own := modules.parts_of(kind, base) or [part for part in modules.PARTS if part in vars(module)]:
            report.left[name] = f"{kind.__name__} has a {own[0]} of its own"
        else:
            try:
                ours = OURS[base] if kind is base else _subclass(kind, base)
            except Exception as error:  # of an __init_subclass__ or a metaclass, whatever it may want
                report.left[name] = f"no subclass of {kind.__name__} can be made: {error}"
                continue
            vars(module)["_accelerated_from"] = kind
            _change(module, ours)
            report.replaced[name] = kind.__name__
    return report


def restore(model: nn.Module) -> None:
    """Undo `accelerate`: give the modules of a model that it changed the classes they had.

    Parameters
    ----------
    model : torch.nn.Module
        A model that `accelerate` has changed, or a part or a copy of one. Modules that were made as rnncore's stay.

    Raises
    ------
    TypeError
        If `model` is no module.

    Examples
    --------
    >>> import torch
    >>> from rnncore.interop.torch import accelerate, restore
    >>> model = torch.nn.Sequential(torch.nn.LSTM(3, 4))
    >>> report = accelerate(model)
    >>> restore(model)
    >>> type(model[0]) is torch.nn.LSTM
    True
    """
    _check(model)
    for module in model.modules():
        kind = vars(module).pop("_accelerated_from", None)
        if kind is not None:
            _change(module, kind)


def _check(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, got {type(model).__name__}")


def _unparametrized(module: nn.Module) -> type[nn.Module]:
    """Return a module's class, without the one that `torch.nn.utils.parametrize` puts on top of it."""
    return type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)


def _change(module: nn.Module, kind: type[nn.Module]) -> None:
    """Change a module's class; a class on top of it that parametrizes stays there."""
    if parametrize.is_parametrized(module):
        top = type(module)
        body = {name: value for name, value in vars(top).items() if name not in ("__dict__", "__weakref__")}
        kind = type(f"Parametrized{kind.__name__}", (kind,), body)
    module.__class__ = kind


_subclasses: dict[tuple[Any, Any], Any] = {}


def _subclass(kind: Any, base: Any) -> Any:
    """Return a subclass of `kind`, which is one of `base` and has its forward: rnncore's takes its place. What it makes
    can be copied and pickled where `kind` can."""

    def __reduce_ex__(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        return _new, (kind, base), self.__getstate__()

    if (kind, base) not in _subclasses:
        body = {"__reduce_ex__": __reduce_ex__, "__module__": kind.__module__, "__doc__": kind.__doc__}
        _subclasses[kind, base] = type(kind.__name__, (kind, OURS[base]), body)
    return _subclasses[kind, base]


def _new(kind: Any, base: Any) -> Any:
    ours = _subclass(kind, base)
    return ours.__new__(ours)
