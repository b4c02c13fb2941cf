"""PyTorch's recurrent modules, run by rnncore: subclasses that differ in `forward` alone.

What rnncore cannot run, and what is wrong, goes to the class they come from, so that errors are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import has_torch_function

from ..._kernels.calls import CHECKS, same
from .ops import advance, recurrent
from .run import calls
from .tensors import DTYPES, exchange, is_array, is_lazy
from .weights import release

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell"]

is_exporting = getattr(torch.compiler, "is_exporting", lambda: True)  # which came with PyTorch 2.7
KNOWN = (torch._C._disabled_torch_function_impl, Tensor.__torch_function__.__func__)
untraced = torch._disable_dynamo(lambda call, *arguments: call(*arguments))  # imports Dynamo when it is called
NEITHER = None, None


def runs_here(data: Tensor, weights: Sequence[Any]) -> bool:
    """Whether rnncore can run a module with such an input and weights, all else being right."""
    if torch._C._get_tracing_state() is not None:
        return False
    if torch.compiler.is_compiling():
        if not torch.compiler.is_dynamo_compiling() and torch.onnx.is_in_onnx_export():
            return False  # as it has no functions for operators that are not PyTorch's
    elif (type(data) is not Tensor or has_torch_function(weights)) and any(map(has_functions, (data, *weights))):
        return False
    return (
        holds(data, weights[0])
        and not torch.is_autocast_enabled("cpu")
        and not torch._C._are_functorch_transforms_active()
        and torch.autograd.forward_ad._current_level < 0
    )


def holds(data: Tensor, weight: Any) -> bool:
    """Whether an input and a weight are numbers of the same dtype that kernels can read."""
    if not torch.compiler.is_compiling() and exchange.holds(data) and exchange.holds(weight, data):
        return True
    return (
        data.dtype in DTYPES
        and data.is_cpu
        and data.layout is torch.strided
        and not data.is_nested
        and not is_lazy(data)
        and data.numel() > 0
        and weight is not None
        and weight.dtype is data.dtype
        and weight.is_cpu
        and weight.layout is torch.strided
    )


def fits(h: Any, data: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a state is of such a shape, of the input's dtype, and kernels can read it."""
    if not torch.compiler.is_compiling() and exchange.holds(h, data, shape):
        return True
    return is_array(h, data.dtype, shape) and not has_functions(h)


def has_functions(tensor: Any) -> bool:
    """Whether a tensor's class knows what PyTorch's functions, or operators, are for it, and others' perhaps not. False
    while PyTorch compiles."""
    if type(tensor) is Tensor or type(tensor) is nn.Parameter or torch.compiler.is_compiling():
        return False
    if not isinstance(tensor, Tensor):
        return False
    own: Any = type(tensor).__torch_function__
    return (
        getattr(own, "__func__", own) not in KNOWN or type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    )


# What a module of `torch.nn` runs: where a subclass has one of its own, that is what it wants run.
PARTS = "forward", *CHECKS


# Attributes that a quick look takes from a module's own dictionary.
OPTIONS = (
    "input_size", "hidden_size", "num_layers", "mode", "bias", "batch_first", "bidirectional", "proj_size", "dropout",
    "training", "_parameters", "_flat_weights", "_flat_weight_refs", "_flat_weights_names",
)  # fmt: skip


def parts_of(kind: type, base: type) -> list[str]:
    """Return those of PARTS that a subclass does not have from its base."""
    return [name for name in PARTS if getattr(kind, name, None) is not getattr(base, name, None)]


def checks_itself(kind: type) -> bool:
    """Whether a subclass of ours has some of PARTS beside `forward`, as it is now."""
    base = _torchs(kind)
    return base is None or not set(parts_of(kind, base)) <= {"forward"}


checks_itself._dynamo_marked_constant = True  # type: ignore[attr-defined]  # which Dynamo need not look into


def _torchs(kind: type) -> Any:
    """Return the class of `torch.nn` that one of ours is made from, if it is."""
    return next((base for base in kind.__mro__ if base.__module__ == nn.RNN.__module__), None)


class _Ours(nn.Module):
    """What layers and cells share. Comes before the class of `torch.nn` in their bases.

    A `forward` that somebody has kept, such as a wrapper of it, may still be called where `restore` has been.

    One step of one row through weights of `_theirs_from` bytes or more is left to PyTorch's own code, which reads them
    once, where rnncore's would take a digest of them besides; never with 0.
    """

    _theirs_from = 0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__ == __name__ and (forward := getattr(cls, "forward", None)):
            # by its own name in errors, without the time of one more call
            cls.forward = FunctionType(forward.__code__, globals(), "forward", forward.__defaults__)
            cls.forward.__qualname__ = f"{cls.__name__}.forward"

    @classmethod
    def _hides_nothing(cls) -> bool:
        """Whether a subclass has none of PARTS beside `forward`, and its instances' options are what their dictionaries
        say, as it is now."""
        if cls.__getattribute__ is not object.__getattribute__ or any(hasattr(cls, name) for name in OPTIONS):
            return False
        return not checks_itself(cls)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self._release()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self._release()
        super()._load_from_state_dict(*args, **options)

    def _release(self) -> None:
        for parameter in self._parameters.values():
            if parameter is not None:
                release(parameter)

    def _elsewhere(self, input: Any, hx: Any) -> Any:
        """Leave a call to the class of `torch.nn`, or make it a node of torch.fx: modules of PyTorch are not traced."""
        for argument in (input, *(hx if isinstance(hx, (tuple, list)) else (hx,))):
            if isinstance(argument, torch.fx.Proxy) and argument.tracer.root is not self:
                tracer, given = argument.tracer, (input,) if hx is None else (input, hx)
                return tracer.create_proxy("call_module", tracer.path_of_module(self), given, {})
        return super().forward(input, hx)

    def __prepare_scriptable__(self) -> nn.Module:
        kind = type(self)
        ours = next(base for base in kind.__mro__ if base.__module__ == __name__)
        return self if kind.forward is not ours.forward else _plain(self)  # type: ignore[attr-defined]


class _Recurrent(_Ours, nn.RNNBase):
    """What the three layers share."""

    def _elsewhere(self, input: Any, hx: Any) -> Any:
        """The same, with a break in the graph of `torch.compile`, as at PyTorch's layers: it cannot compile all."""
        elsewhere = super()._elsewhere
        if torch.compiler.is_dynamo_compiling() and not is_exporting():
            return untraced(elsewhere, input, hx)
        return elsewhere(input, hx)

    def forward(self, input: Any, hx: Any = None) -> Any:
        if not isinstance(self, _Ours):
            return type(self).forward(self, input, hx)
        compiling = torch.compiler.is_compiling()
        if self._theirs_from and not compiling and calls.is_one_row(self, input, self._theirs_from):
            return self._elsewhere(input, hx)
        done, call = NEITHER if compiling else calls.layer(self, input, hx)
        if done is not None:
            return done
        if call is not None and (result := recurrent(*call, looked=True)) is not None:
            y, finals = result
            return y, tuple(finals) if self.mode == "LSTM" else finals[0]
        packed = isinstance(input, PackedSequence)
        data, batch_sizes = (input.data, input.batch_sizes) if packed else (input, None)
        weights = self._current_weights()
        if checks_itself(type(self)) or not isinstance(data, Tensor) or not runs_here(data, weights):
            return self._elsewhere(input, hx)
        if not compiling and not vars(self).keys().isdisjoint(CHECKS):
            return self._elsewhere(input, hx)
        shape, lstm = data.shape, self.mode == "LSTM"
        batched = len(shape) == 3 or packed
        if len(shape) != (2 if packed or not batched else 3) or shape[-1] != self.input_size:
            return self._elsewhere(input, hx)
        dropout, key = 0.0, None
        if self.training and self.dropout != 0 and self.num_layers > 1:
            if not 0 < self.dropout <= 1:
                return self._elsewhere(input, hx)
            dropout, key = float(self.dropout), torch.randint(-(2**63), 2**63 - 1, (2,), device="cpu")
        state: Sequence[Tensor] = ()
        if hx is not None:
            state = hx if lstm else (hx,)
            k = self.num_layers * (2 if self.bidirectional else 1)
            N = int(batch_sizes[0]) if batch_sizes is not None else shape[0 if self.batch_first else 1]
            widths = (self.proj_size or self.hidden_size, self.hidden_size) if lstm else (self.hidden_size,)
            if not isinstance(state, (tuple, list)) or len(state) != len(widths):
                return self._elsewhere(input, hx)
            for h, width in zip(state, widths, strict=True):
                if not fits(h, data, (k, N, width) if batched else (k, width)):
                    return self._elsewhere(input, hx)
            if packed and input.sorted_indices is not None:
                if input.sorted_indices.numel() != N:
                    return self._elsewhere(input, hx)
                state = [h.index_select(1, input.sorted_indices) for h in state]
        options = (
            self.mode, self.input_size, self.hidden_size, self.num_layers, self.bias, self.batch_first,
            self.bidirectional, self.proj_size, data.dtype, dropout,
        )  # fmt: skip
        result = recurrent(options, data, state, weights, batch_sizes, key)
        if result is None:
            return self._elsewhere(input, hx)
        y, finals = result
        if packed:
            if input.unsorted_indices is not None:
                finals = [h.index_select(1, input.unsorted_indices) for h in finals]
            y = PackedSequence(y, batch_sizes, input.sorted_indices, input.unsorted_indices)
        return y, tuple(finals) if lstm else finals[0]

    def _current_weights(self) -> list[Any]:
        """Return `_flat_weights`, brought up to date where attributes are no longer those it was made of."""
        if torch.compiler.is_compiling():
            return [getattr(self, name) for name in self._flat_weights_names]
        if not same(self._flat_weight_refs, self._flat_weights_names, self._parameters):
            self._update_flat_weights()
            if any(weight is None for weight in self._flat_weights):
                return [None]
        weights: list[Any] = self._flat_weights
        return weights


class RNN(_Recurrent, nn.RNN):
    """`torch.nn.RNN`, run by rnncore: https://pytorch.org/docs/stable/generated/torch.nn.RNN.html."""

    _theirs_from = 4 << 20


class LSTM(_Recurrent, nn.LSTM):
    """`torch.nn.LSTM`, run by rnncore: https://pytorch.org/docs/stable/generated/torch.nn.LSTM.html."""


class GRU(_Recurrent, nn.GRU):
    """`torch.nn.GRU`, run by rnncore: https://pytorch.org/docs/stable/generated/torch.nn.GRU.html."""

    _theirs_from = 4 << 20


CELL_MODES = {"tanh": "RNN_TANH", "relu": "RNN_RELU"}
CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class _RecurrentCell(_Ours, nn.RNNCellBase):
    """What the three cells share.

    `_theirs` is PyTorch's own `forward`, which runs one row through large weights, and where a gradient may be wanted,
    if `_theirs_with_gradients`.
    """

    _mode = ""
    _theirs: Any = None
    _theirs_with_gradients = False
    _theirs_from = 3 << 20

    def forward(self, input: Any, hx: Any = None) -> Any:
        if not isinstance(self, _Ours):
            return type(self).forward(self, input, hx)
        compiling = torch.compiler.is_compiling()
        if not compiling and (
            calls.is_one_row(self, input, self._theirs_from)
            or (self._theirs_with_gradients and calls.may_want_gradient(self, input, hx))
        ):
            return self._theirs(input, hx)
        weights = self._current_weights()
        mode = self._mode or CELL_MODES.get(self.nonlinearity)
        done, call = NEITHER if compiling else calls.cell(self, mode, input, hx, weights)
        if done is not None:
            return done
        if call is not None and (after := advance(*call, looked=True)) is not None:
            return tuple(after) if mode == "LSTM" else after[0]
        if mode is None or not isinstance(input, Tensor) or not runs_here(input, weights):
            return self._elsewhere(input, hx)
        for weight in weights:
            if weight is None:
                return self._elsewhere(input, hx)
        shape, H, lstm = input.shape, self.hidden_size, mode == "LSTM"
        batched = len(shape) == 2
        if not (batched or len(shape) == 1) or shape[-1] != self.input_size:
            return self._elsewhere(input, hx)
        state: Sequence[Tensor] = ()
        if hx is not None:
            state = hx if lstm else (hx,)
            if not isinstance(state, (tuple, list)) or len(state) != (2 if lstm else 1):
                return self._elsewhere(input, hx)
            form = (shape[0], H) if batched else (H,)
            for h in state:
                if not fits(h, input, form):
                    return self._elsewhere(input, hx)
        options = (mode, self.input_size, H, 1, len(weights) == 4, False, False, 0, input.dtype, 0.0)
        after = advance(options, input, state, weights)
        if after is None:
            return self._elsewhere(input, hx)
        return tuple(after) if lstm else after[0]

    def _current_weights(self) -> list[Any]:
        """Return weights, and biases if there is one: None for what there is not."""
        if torch.compiler.is_compiling():
            weights: list[Any] = [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]
        else:
            parameters, own = self._parameters, self.__dict__  # which Python looks into first
            weights = [None if name in own else parameters.get(name) for name in CELL_WEIGHTS]
            for k, name in enumerate(CELL_WEIGHTS):
                if weights[k] is None:
                    weights[k] = getattr(self, name)
        return weights[:2] if weights[2] is None and weights[3] is None else weights


class RNNCell(_RecurrentCell, nn.RNNCell):
    """`torch.nn.RNNCell`, run by rnncore: https://pytorch.org/docs/stable/generated/torch.nn.RNNCell.html.

    Where a gradient is wanted PyTorch's own runs: autograd's way to functions written in Python costs more than a step.
    """

    _theirs = nn.RNNCell.forward
    _theirs_with_gradients = True
    _theirs_from = 3 << 18


class LSTMCell(_RecurrentCell, nn.LSTMCell):
    """`torch.nn.LSTMCell`, run by rnncore: https://pytorch.org/docs/stable/generated/torch.nn.LSTMCell.html."""

    _mode = "LSTM"
    _theirs = nn.LSTMCell.forward


class GRUCell(_RecurrentCell, nn.GRUCell):
    """`torch.nn.GRUCell`, run by rnncore: https://pytorch.org/docs/stable/generated/torch.nn.GRUCell.html."""

    _mode = "GRU"
    _theirs = nn.GRUCell.forward


def _plain(module: nn.Module) -> nn.Module:
    """Return a module of `torch.nn` with the same parameters: TorchScript runs where rnncore is not."""
    kind = type(module)
    exports = [value for base in kind.__mro__ for value in vars(base).values() if _is_exported(value)]
    plain: nn.Module = nn.Module.__new__(_rebased(kind) if exports else _torchs(kind))
    vars(plain).update(vars(module))
    vars(plain).pop("_accelerated_from", None)
    return plain


def _is_exported(method: Any) -> bool:
    """Whether it is what `torch.jit.export` made."""
    return getattr(method, "_torchscript_modifier", None) is torch._jit_internal.FunctionModifiers.EXPORT


def _rebased(kind: Any) -> Any:
    """Return a subclass as it would be of PyTorch's class in place of ours."""
    if not issubclass(kind, _Ours):
        return kind
    if kind.__module__ == __name__:
        return _torchs(kind)
    return type(kind.__name__, tuple(map(_rebased, kind.__bases__)), dict(vars(kind)))
