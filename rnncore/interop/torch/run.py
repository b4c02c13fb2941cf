"""From tensors to kernels and back: a layer of given options, run with the weights that tensors hold at the moment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import has_torch_function

from ..._kernels.calls import Calls
from ..._kernels.cell import Ragged
from ..._kernels.memory import empty
from ..._kernels.tensors import Exchange
from ...checks import check_shape
from ...layers import GRU, LSTM, RNN
from ...recurrent import _Recurrent
from ...runtime import get_num_threads
from ...weights import Weights
from .openmp import release_idle_threads
from .tensors import DTYPES, array_of, exchange, is_array, laid_out, places_of, tensor_of
from .weights import Borrowed, Forget, Known

__all__ = ["GATES", "Plan", "Unfit", "calls", "dropout_key", "plan_of"]

INT64 = np.dtype(np.int64)
GATES = {"LSTM": 4, "GRU": 3, "RNN_TANH": 1, "RNN_RELU": 1}
LONG_WORK = 2e7  # floating-point operations of a pass from which on idle threads of PyTorch's cost more than new ones


class Unfit(ValueError):
    """Sizes, weights or lengths that rnncore has no layer for; PyTorch may make something of them all the same."""


class Rows(NamedTuple):
    """How a sequence lies in time: packed ones of one length are as padded ones, `ragged` is None. A cell's `step` has
    no axis of time, nor its states one of layers."""

    T: int
    N: int
    ragged: Ragged | None
    packed: bool
    unbatched: bool
    step: bool = False


class Kept(NamedTuple):
    """What a forward pass keeps for its backward pass: of each layer the input, and what each direction keeps; the
    first layer's input and the weights, as tensors of its own, which no `.data =` changes, and where they lay."""

    rows: Rows
    weights: Weights
    layers: Sequence[tuple[np.ndarray, Any]]
    given: Sequence[Tensor] = ()
    places: Any = None


Needed = tuple[tuple[bool, ...], tuple[bool, ...]]


class Plan:
    """A layer of given options, for weights of others. `plan_of` makes them, one for all layers of the same options.

    In what follows, `hx` is empty for zeros, `key` is a dropout mask's or None, and results are new tensors. Kernels
    look at each array before they run.
    """

    def __init__(
        self, mode: str, I: int, H: int, L: int, bias: bool, batch_first: bool, bidirectional: bool, proj_size: int,
        dtype: torch.dtype, dropout: float,
    ) -> None:  # fmt: skip
        if mode not in GATES:
            raise Unfit(f"expected mode to be one of {', '.join(GATES)}, got {mode!r}")
        if I < 1 or H < 1:
            raise Unfit(f"expected at least one input and one hidden unit, got {I} and {H}")
        self.mode, self.batch_first, self.bidirectional, self.dropout = mode, batch_first, bidirectional, dropout
        self.L, self.D, self.torch_dtype, self.dtype = L, 2 if bidirectional else 1, dtype, DTYPES[dtype]
        self.widths = (proj_size or H, H) if mode == "LSTM" else (H,)
        # of what each direction keeps for the way back: the gates' columns, what lies before a projection, the states
        self.kept = (4 * H if mode in ("LSTM", "GRU") else 0, H if proj_size else 0, *self.widths)
        kind: Any = {"LSTM": LSTM, "GRU": GRU}.get(mode, RNN)
        own: dict[str, Any] = {"proj_size": proj_size} if kind is LSTM else {}
        own |= {"nonlinearity": mode[len("RNN_") :].lower()} if kind is RNN else {}
        self.shapes = kind._shapes(I, H, L, bias, bidirectional, proj_size)
        self.row_work = 2 * sum(map(math.prod, self.shapes.values()))  # a multiply-add for each weight
        self.layer: _Recurrent[Any] = kind(
            I, H, L, bias=bias, batch_first=batch_first, dropout=dropout, bidirectional=bidirectional,
            dtype=self.dtype, rng=Borrowed(dict.fromkeys(self.shapes, np.empty(0))), **own,
        )  # fmt: skip
        self.known: dict[tuple[int, ...], Known] = {}
        self.dependent: dict[tuple[tuple[bool, ...], bool], Needed] = {}

    def weights(self, tensors: Sequence[Tensor]) -> Weights:
        """Return the weights that tensors hold at this moment; packed once for as long as they hold the same."""
        held: Weights = calls.known(self, tensors)[1]
        return held

    def know(self, tensors: Sequence[Tensor]) -> Known:
        """Return what is known of weights from now on."""
        if len(tensors) != len(self.shapes):
            raise Unfit(f"expected the weights {', '.join(self.shapes)}, got {len(tensors)} tensors")
        for (name, shape), tensor in zip(self.shapes.items(), tensors, strict=True):
            own_operators = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
            if own_operators or not is_array(tensor, self.torch_dtype, shape):
                got = f"{type(tensor).__name__} {tuple(tensor.shape)} of {tensor.dtype} on {tensor.device}"
                raise Unfit(f"expected {name} of shape {shape} and {self.torch_dtype} on the CPU, got {got}")
        ids = tuple(map(id, tensors))
        self.known[ids] = known = Known(tuple(self.shapes), tensors, Forget(self.known, ids))
        return known

    def threads(self, shape: Sequence[int]) -> int:
        """Return how many threads a pass over an input of this shape may use, as kernels take it: as many as pay, but
        no more than PyTorch may. If it is a long one of several, PyTorch's idle threads leave them the cores."""
        n = torch.get_num_threads()
        if n == 1:
            return -1
        limit = get_num_threads()
        if limit > 1 and self.row_work * math.prod(shape[:-1]) >= LONG_WORK:
            release_idle_threads()
        return 0 if n >= limit else -n

    def rows(self, input: Tensor, batch_sizes: Tensor | None, step: bool = False) -> Rows:
        shape = input.shape
        if step:
            return Rows(1, 1 if len(shape) == 1 else shape[0], None, False, len(shape) == 1, True)
        if batch_sizes is not None:
            ragged = ragged_of(batch_sizes)
            T, N = len(batch_sizes), int(batch_sizes[0])
            if shape != (ragged.rows, self.layer.input_size):
                raise Unfit(f"expected input of shape {(ragged.rows, self.layer.input_size)}, got {tuple(shape)}")
            return Rows(T, N, None if ragged.full else ragged, True, False)
        if len(shape) == 2:
            check_shape(shape, ("T", self.layer.input_size), "input")
            return Rows(shape[0], 1, None, False, True)
        if len(shape) != 3 or shape[2] != self.layer.input_size:
            check_shape(shape, ("N" if self.batch_first else "T", "·", self.layer.input_size), "input")
        T, N = (shape[1], shape[0]) if self.batch_first else (shape[0], shape[1])
        return Rows(T, N, None, False, False)

    def needed(self, wanted: tuple[bool, ...], states: int, several: bool) -> Needed:
        """Return which of input, states and weights the `wanted` ones' gradients depend on, as those of PyTorch's own
        operators do, for several steps or one: they may not change before the backward pass. And which they do not."""
        found = self.dependent.get((wanted, several))
        if found is None:
            needed = self.find_needed(wanted, states, several)
            self.dependent[wanted, several] = found = needed, tuple([not each for each in needed])
        return found

    def find_needed(self, wanted: tuple[bool, ...], states: int, several: bool) -> tuple[bool, ...]:
        """Return the first of what `needed` returns."""
        kinds = [name.partition("_l")[0] for name in self.shapes][: len(self.shapes) // (self.L * self.D)]
        below, given, weights = wanted[0], wanted[1 : 1 + states], iter(wanted[1 + states :])
        own = [dict(zip(kinds, weights, strict=False)) for _ in range(self.L * self.D)]  # by layer and direction
        x, h = any(of["weight_ih"] for of in own[: self.D]), any(of["weight_hh"] for of in own)
        needed = [x, *(h, below or any(given[:1]) or any(wanted[1 + states :]))[:states]]
        for k in range(0, len(own), self.D):
            for of in own[k : k + self.D]:
                of_projection = several and of.get("weight_hr", False)
                gates = below or any(given) or any(of[kind] for kind in kinds if kind != "weight_hr")
                depends = {
                    "weight_ih": below, "weight_hh": any(given[:1]) or (several and gates) or of_projection,
                    "weight_hr": gates or of_projection,
                }  # fmt: skip
                needed += [depends.get(kind, False) for kind in kinds]
            below = below or any(given) or any(any(of.values()) for of in own[k : k + self.D])
        return tuple(needed)

    def view(self, x: Tensor, rows: Rows) -> np.ndarray:
        """Return a sequence as the kernels take it, (T, N, ·) or packed: a view, if it is aligned."""
        array: np.ndarray = array_of(x, self.dtype)
        if not array.flags.aligned:
            array = array.copy()
        if rows.packed:
            return array.reshape(rows.T, rows.N, -1) if rows.ragged is None else array
        if rows.step:
            return array.reshape(1, rows.N, -1)
        return array[:, None] if rows.unbatched else array.swapaxes(0, 1) if self.batch_first else array

    def given(self, y: np.ndarray, rows: Rows) -> Tensor:
        """Return such a sequence as the caller has it."""
        if rows.packed:
            y = y.reshape(-1, y.shape[-1])
        elif rows.step:
            y = y[0, 0] if rows.unbatched else y[0]
        elif rows.unbatched:
            y = y[:, 0]
        elif self.batch_first:
            y = y.swapaxes(0, 1)
        return tensor_of(y)

    def initial(self, hx: Sequence[Tensor | None], rows: Rows) -> tuple[np.ndarray, ...]:
        """Return states, or their gradients, as the kernels take them: (L*D, N, ·). Not to be written to."""
        k = self.L * self.D
        if not hx:
            return tuple([np.zeros((k, rows.N, width), self.dtype) for width in self.widths])
        return tuple([
            np.zeros((k, rows.N, width), self.dtype) if h is None
            else laid_out(h, self.dtype).reshape(k, rows.N, width)
            for h, width in zip(hx, self.widths, strict=True)
        ])  # fmt: skip

    def plain(self, rows: Rows, key: Tensor | None) -> bool:
        """Whether `Stack` knows the layer's training passes over such a sequence."""
        return key is None and not (rows.packed or rows.unbatched or self.bidirectional)

    def tensors(self, states: Any, step: bool = False) -> list[Tensor]:
        """Return what a layer returns for states."""
        arrays = states if type(states) is tuple else (states,)
        return [tensor_of(array, step) for array in arrays]

    def empty(self, x: np.ndarray) -> np.ndarray:
        """Return memory for the output over x."""
        return empty((*x.shape[:-1], self.D * self.widths[0]), self.dtype)

    def states(self, states: tuple[np.ndarray, ...], rows: Rows) -> list[Tensor]:
        """Return states as the caller has them."""
        return self.tensors(tuple([array[:, 0] for array in states]) if rows.unbatched else states, rows.step)

    def infer(
        self,
        input: Tensor,
        hx: Sequence[Tensor],
        tensors: Sequence[Tensor],
        batch_sizes: Tensor | None,
        key: Tensor | None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Run and keep nothing: y and the final states."""
        if batch_sizes is None and key is None:
            result, after = calls.infer(self, input, hx, tensors, False)
            return result, list(after) if type(after) is tuple else [after]
        weights, threads, layer = self.weights(tensors), self.threads(input.shape), self.layer
        rows = self.rows(input, batch_sizes)
        x = self.view(input, rows)
        y = self.empty(x)
        finals = layer._infer(weights, x, self.initial(hx, rows), y, threads, rows.ragged, key=dropout_key(key))
        return self.given(y, rows), self.states(finals, rows)

    def advance(self, input: Tensor, hx: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[Tensor]:
        """Run one step of a layer that is a cell, and keep nothing: the states after it."""
        after = calls.infer(self, input, hx, tensors, True)
        return list(after) if type(after) is tuple else [after]

    def forward(
        self,
        input: Tensor,
        hx: Sequence[Tensor],
        tensors: Sequence[Tensor],
        batch_sizes: Tensor | None,
        key: Tensor | None,
        step: bool = False,
    ) -> tuple[Tensor, list[Tensor], Kept]:
        """The same, or what `infer` does, with what `backward` needs."""
        own = input.detach()
        if batch_sizes is None and key is None and (quick := calls.taped(self, own, hx, tensors, step)) is not None:
            y, after, known, weights, layers = quick
            given, (T, N, _) = [own, *known.tensors], layers[0][0].shape
            rows = Rows(T, N, None, False, False, step)
            return y, after, Kept(rows, weights, layers, given, places_of(given))
        rows, (known, weights) = self.rows(own, batch_sizes, step), calls.known(self, tensors)
        given = [own, *known.tensors]
        places = places_of(given)
        x, initial = np.ascontiguousarray(self.view(own, rows)), self.initial(hx, rows)
        y, finals = self.empty(x), tuple([np.empty_like(state) for state in initial])
        threads = self.threads(input.shape)
        layers = self.layer._run(weights, x, initial, finals, y, threads, rows.ragged, True, dropout_key(key))
        return self.given(y, rows), self.states(finals, rows), Kept(rows, weights, layers, given, places)

    def at_present(self, kept: Kept) -> Kept:
        """Return what `forward` kept, with input and weights where they lie now: who shards a model frees the memory of
        weights after each pass, and puts them elsewhere for the next."""
        if places_of(kept.given) == kept.places:
            return kept
        input, *tensors = kept.given
        (_, lowest), *above = kept.layers
        x = np.ascontiguousarray(self.view(input, kept.rows))
        return Kept(kept.rows, self.weights(tensors), ((x, lowest), *above))

    def backward(
        self,
        kept: Kept,
        dy: Tensor | None,
        dhx: Sequence[Tensor | None],
        key: Tensor | None,
        wanted: tuple[bool, ...] = (),
    ) -> tuple[Tensor | None, Sequence[Tensor], Sequence[Tensor | None]]:
        """Return the gradients of input, states and weights, from those of y and the final states, None for zeros.
        Input's and weights' that are not `wanted` may be None; of these it has the first and the last."""
        rows, weights, layers, *_ = kept
        of_x, of_weights = (wanted[0], wanted[-len(self.shapes) :]) if wanted else (True, (True,) * len(self.shapes))
        if self.plain(rows, key):
            quick: Any = calls.back(self, weights, layers, dy, dhx, rows.step, of_x, of_weights)
            if quick is not None:
                return quick  # type: ignore[no-any-return]
        threads = self.threads(layers[0][0].shape)
        upstream = None if dy is None else np.ascontiguousarray(self.view(dy, rows))
        given = self.initial(dhx, rows)
        dstates = tuple([state if d is None else state.copy() for d, state in zip(dhx, given, strict=True)])
        fresh = layers[0][0].size > 0
        some = {name: weights[name] for name, one in zip(weights, of_weights, strict=True) if one}
        grads = self.layer._grads(some, None, fresh)
        dx = self.layer._run_back(
            weights, layers, upstream, dstates, grads, rows.ragged, dropout_key(key), threads, fresh=fresh, of_x=of_x
        )
        dweights = [tensor_of(grads[name]) if name in grads else None for name in weights]
        return None if dx is None else self.given(dx, rows), self.states(dstates, rows), dweights

    def tape(self, kept: Kept) -> list[Tensor]:
        """Return what `forward` kept as tensors: layer by layer, its input but for the first's, then what each
        direction keeps."""
        tape: list[Tensor] = []
        for k, (below, directions) in enumerate(kept.layers):
            if k:
                tape.append(torch.from_numpy(below.reshape(-1, below.shape[-1])))
            for arrays in directions:
                tape += [torch.from_numpy(array) for array in arrays if array is not None]
        return tape

    def kept_on(
        self, tape: Sequence[Tensor], input: Tensor, tensors: Sequence[Tensor], batch_sizes: Tensor | None,
        step: bool = False,
    ) -> Kept:  # fmt: skip
        """Return what `forward` kept, from a tape of it."""
        rows = self.rows(input, batch_sizes, step)
        x = np.ascontiguousarray(self.view(input, rows))
        return Kept(rows, self.weights(tensors), self.unroll(x, tape))

    def unroll(self, x: np.ndarray, tape: Sequence[Tensor]) -> list[tuple[np.ndarray, Any]]:
        """Return a tape's arrays as they were: of each layer the input, and what each direction keeps."""
        each = len(self.kept) - self.kept.count(0)
        if len(tape) != self.L * (self.D * each + 1) - 1:
            raise ValueError(f"expected the tape of {self.layer!r}, got {len(tape)} tensors")
        rest = iter([array.numpy(force=True) for array in tape])
        kept, width = [], self.D * self.widths[0]
        for k in range(self.L):
            below = x
            if k:
                below = next(rest)
                check_shape(below.shape, (x.size // x.shape[-1], width), "a layer's input on the tape")
                below = below.reshape(*x.shape[:-1], width)
            directions = tuple([tuple([next(rest) if width else None for width in self.kept]) for _ in range(self.D)])
            kept.append((below, directions))
        return kept


plan_of = lru_cache(maxsize=256, typed=True)(Plan)


def calls_of(exchange: Exchange) -> Calls:
    """Return what looks at calls, and at their tensors in this way."""
    watchers = (
        torch._C._get_tracing_state,
        partial(torch.is_autocast_enabled, "cpu"),
        torch._C._are_functorch_transforms_active,
        torch._C._len_torch_dispatch_stack,
    )

    def array(tensor: Tensor, step: bool) -> np.ndarray:
        return array_of(tensor, DTYPES[tensor.dtype], step)

    return Calls(
        exchange, plan_of, Unfit, array, tensor_of, watchers, has_torch_function, torch.is_grad_enabled,
        torch.autograd.forward_ad,
    )  # fmt: skip


calls = calls_of(exchange)


def ragged_of(batch_sizes: Tensor) -> Ragged:
    """Return the order of the rows of a PackedSequence."""
    sizes = array_of(batch_sizes, INT64) if batch_sizes.is_cpu and batch_sizes.dtype is torch.int64 else np.empty(0)
    if sizes.ndim != 1 or len(sizes) == 0 or sizes[-1] < 1 or (sizes[1:] > sizes[:-1]).any():
        raise Unfit(f"expected batch_sizes of int64, descending and positive, got {batch_sizes!r:.80}")
    return Ragged(np.searchsorted(-sizes, -np.arange(sizes[0])), len(sizes))


def dropout_key(key: Tensor | None) -> np.ndarray | None:
    """Return a dropout mask's key, two numbers of 64 bits, as `dropout.drop` takes it."""
    return None if key is None else key.numpy(force=True).view(np.uint64)
