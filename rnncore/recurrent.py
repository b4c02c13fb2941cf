"""What all recurrent layers are: parameters, shapes, and one runner over the stack of layers and directions.

The arithmetic is in `_kernels`; its definition is in `reference`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from math import isqrt
from typing import Any, Generic, Literal, TypeVar, Union, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ._kernels.cell import Cell, Ragged
from ._kernels.driver import BLOCK_ROWS
from ._kernels.memory import empty
from ._kernels.pack import Pack
from ._kernels.step import Stack, norms_of
from .checkpoint import CHECKPOINT_FROM, Part, back_checkpointed, run_checkpointed
from .checks import (
    as_array,
    as_bool,
    as_checkpoint,
    as_dtype,
    as_lengths,
    as_real,
    as_scalar,
    as_states,
    as_threads,
    check_bytes,
    check_shape,
    open_state,
    positive_int,
)
from .dropout import drop, dropout_key
from .sequences import Rows, chunks, first_row, piece, unpack, unsorted
from .stream import Stream
from .tape import Tape, open_tape
from .weights import Module, Weights, once, renamed

__all__ = ["NAMES", "RNG", "RowNorms", "State", "States", "_Recurrent", "packs", "recurrent_shapes", "uniform"]

# By name: `import numpy` leaves its random out, which takes long.
RNG = Union["np.random.Generator", "np.random.SeedSequence", int, None]
State = TypeVar("State")
States = tuple[np.ndarray, ...]
RowNorms = tuple[States, ...]  # by layer and direction, then by state


# What kernels call a parameter, and its name here but for the layer's suffix.
NAMES = {
    "W_ih": "weight_ih",
    "W_hh": "weight_hh",
    "b_ih": "bias_ih",
    "b_hh": "bias_hh",
    "W_hr": "weight_hr",
    "w_peephole": "weight_peephole",
    "table": "table",  # no parameter, but of tokens the gradient of what W_ih makes of each
}
PACKED = "W_ih", "W_hh", "b_ih", "b_hh", "W_hr", "b_hr", "w_peephole"  # what a pack is made from, in order


def recurrent_shapes(
    suffix: str, G: int, I: int, H: int, bias: bool, proj_size: int = 0, peephole: bool = False
) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the parameters of one layer in one direction: torch's."""
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (G * H, I), "weight_hh": (G * H, proj_size or H)}
    if bias:
        shapes |= {"bias_ih": (G * H,), "bias_hh": (G * H,)}
    if proj_size:
        shapes["weight_hr"] = (proj_size, H)
    if peephole:
        shapes["weight_peephole"] = (3 * H,)
    return {name + suffix: shape for name, shape in shapes.items()}


def uniform(
    shapes: Mapping[str, tuple[int, ...]], H: int, dtype: np.dtype[Any], rng: RNG | Weights
) -> Mapping[str, np.ndarray]:
    """Return arrays of these shapes, uniform in ±1/sqrt(H), which is torch's default; or, inside the package, weights
    that fit as they are."""
    if isinstance(rng, Weights):
        return rng
    for name, shape in shapes.items():
        check_bytes(shape, dtype, name)
    bound, generator = 1 / np.sqrt(H), np.random.default_rng(rng)
    return {name: generator.uniform(-bound, bound, shape).astype(dtype) for name, shape in shapes.items()}


def packs(weights: Weights, named: Sequence[Mapping[str, str]] = (NAMES,)) -> tuple[Pack, ...]:
    """Return what the kernels read, made once per `weights`, of each layer and direction: `named` are their parameters'
    names by those that kernels have for them."""

    def make() -> tuple[Pack, ...]:
        get: Any = dict(weights.items()).get
        return tuple([Pack(*[get(own.get(short)) for short in PACKED]) for own in named])

    return weights.packed(make)


class _Recurrent(Module, Generic[State]):
    """A stack of `num_layers` recurrent layers in one or two directions."""

    _gates: int
    _state_names: tuple[str, ...]
    _names: Mapping[str, str] = NAMES
    _stacked = True  # whether states have an axis of layers and directions

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        reverse: bool,
        dtype: DTypeLike,
        rng: RNG | Weights,
        proj_size: int = 0,
        peephole: bool = False,
    ) -> None:
        self.input_size = I = positive_int(input_size, "input_size")
        self.hidden_size = H = positive_int(hidden_size, "hidden_size")
        self.num_layers = L = positive_int(num_layers, "num_layers")
        self.bias = as_bool(bias, "bias")
        self.batch_first = as_bool(batch_first, "batch_first")
        self.bidirectional = as_bool(bidirectional, "bidirectional")
        self.reverse = as_bool(reverse, "reverse")
        self.dropout = as_scalar(dropout, "dropout", 0)
        if self.dropout > 1:
            raise ValueError(f"expected dropout between 0 and 1, got {dropout!r}")
        if self.dropout > 0 and L == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={L}",
                stacklevel=3,
            )
        if self.bidirectional and self.reverse:
            raise ValueError("expected at most one of bidirectional=True and reverse=True, got both")
        numbers = as_dtype(dtype)
        shapes = self._shapes(I, H, L, self.bias, self.bidirectional, proj_size, peephole)
        super().__init__(numbers, uniform(shapes, H, numbers, rng))

    @classmethod
    def _shapes(
        cls,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        bidirectional: bool,
        proj_size: int = 0,
        peephole: bool = False,
    ) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the parameters, and with them what options they depend on."""
        D = 2 if bidirectional else 1
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, direction in product(range(num_layers), range(D)):
            width = D * (proj_size or hidden_size) if layer else input_size
            suffix = cls._suffix(layer, direction)
            shapes |= recurrent_shapes(suffix, cls._gates, width, hidden_size, bias, proj_size, peephole)
        return shapes

    @property
    def _cell(self) -> Cell:
        raise NotImplementedError

    @once
    def _widths(self) -> tuple[int, ...]:
        """Sizes of the states: h's, which is that of a direction's output, and c's."""
        return (self.hidden_size,) * len(self._state_names)

    @once
    def _directions(self) -> tuple[bool, ...]:
        """Whether each direction runs backwards in time."""
        return (False, True) if self.bidirectional else (self.reverse,)

    @staticmethod
    def _suffix(layer: int, direction: int) -> str:
        return f"_l{layer}" + ("_reverse" if direction else "")

    def _renamed(self, found: dict[str, Any]) -> dict[str, Any]:
        of_cell = {name: name + "_l0" for name in found if name + "_l0" in self._weights}
        if of_cell and len(self._suffixes) > 1:
            raise ValueError(
                f"expected names such as 'weight_ih_l0' for {len(self._suffixes)} layers and directions, "
                f"got that of a cell, {next(iter(of_cell))!r}"
            )
        return renamed(found, of_cell, self._weights)

    def __repr__(self) -> str:
        words = [str(self.input_size), str(self.hidden_size)]
        if self.num_layers != 1:
            words.append(f"num_layers={self.num_layers}")
        words += [] if self.bias else ["bias=False"]
        words += [f"{name}=True" for name in ("batch_first", "bidirectional", "reverse") if getattr(self, name)]
        words += [f"dropout={self.dropout}"] if self.dropout else []
        words += self._repr_words()
        if self.dtype != np.float32:
            words.append(f"dtype={self.dtype.name!r}")
        return f"{type(self).__name__}({', '.join(words)})"

    def _repr_words(self) -> list[str]:
        return []

    # --- the door -----------------------------------------------------------------------------------------------------

    def _opened(self, state: Any, form: str, lengths: Any) -> tuple[Any, Any]:
        """Return a state and lengths as `as_array` does."""
        found = None if lengths is None else as_array(lengths, "lengths", "integers")
        return open_state(state, self._state_names, form), found

    def _key(self, rng: RNG) -> np.ndarray | None:
        """Return the key of a forward pass's dropout masks; None if it has none."""
        return dropout_key(rng) if self.dropout and self.num_layers > 1 else None

    def _sequence(self, value: Any, width: int, name: str) -> tuple[np.ndarray, bool]:
        """Return a sequence as (T, N, width), a view, and whether it came without a batch dimension."""
        batched: tuple[str | int, ...] = ("N", "T", width) if self.batch_first else ("T", "N", width)
        if self.batch_first and type(value) is np.ndarray and value.ndim == 3:
            swapped = value.swapaxes(0, 1)
            if swapped.flags.c_contiguous:  # in order of time in memory, as `y` is: no copy
                array = as_real(swapped, self.dtype, name)
                check_shape(value.shape, batched, name)
                return array, False
        array = as_real(value, self.dtype, name)
        if array.ndim == 2:
            check_shape(array.shape, ("T", width), name)
            return array[:, None], True
        check_shape(array.shape, batched, name)
        return array.swapaxes(0, 1) if self.batch_first else array, False

    def _sequence_like_y(self, value: Any, name: str, T: int, N: int, unbatched: bool) -> np.ndarray:
        """Return a sequence of the shape of y as (T, N, D*H), a view."""
        width = len(self._directions) * self._widths[0]
        given, flat = self._sequence(value, width, name)
        if flat != unbatched or given.shape[:2] != (T, N):
            expected = self._as_given(np.broadcast_to(np.float32(0), (T, N, width)), unbatched).shape
            raise ValueError(f"expected {name} of shape {expected}, got {self._as_given(given, flat).shape}")
        return given

    def _as_given(self, array: np.ndarray, unbatched: bool) -> np.ndarray:
        """Return a sequence (T, N, ·) in the caller's layout: a view."""
        if unbatched:
            return array[:, 0]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _state_shapes(self, N: int, unbatched: bool = False) -> list[tuple[int, ...]]:
        """Return the shapes of a state's arrays, as the caller has them."""
        before = (self.num_layers * len(self._directions),) if self._stacked else ()
        return [(*before, width) if unbatched else (*before, N, width) for width in self._widths]

    def _states(self, state: Any, form: str, N: int, unbatched: bool) -> States:
        """Return a state as arrays (L*D, N, ·)."""
        k = self.num_layers * len(self._directions)
        for width in self._widths:
            check_bytes((k, N, width), self.dtype, "the state")
        if state is None:
            return tuple(np.zeros((k, N, width), self.dtype) for width in self._widths)
        arrays = as_states(state, self._state_names, form, self._state_shapes(N, unbatched), self.dtype)
        return tuple(array.reshape(k, N, width) for array, width in zip(arrays, self._widths, strict=True))

    def _state_as_given(self, states: States, unbatched: bool) -> State:
        arrays = tuple(array[:, 0] if unbatched else array for array in states)
        arrays = arrays if self._stacked else tuple(array[0] for array in arrays)
        return arrays if len(self._state_names) > 1 else arrays[0]  # type: ignore[return-value]

    def _ragged(self, lengths: Any, N: int, T: int, unbatched: bool) -> Ragged | None:
        """Return the order of sequences of these lengths; None if all have T steps."""
        if lengths is None:
            return None
        ragged = Ragged(as_lengths(lengths, N, unbatched), T)
        return None if ragged.T == T and ragged.full else ragged

    @once
    def _suffixes(self) -> tuple[str, ...]:
        """What parameters' names end with, in the order of states' entries."""
        return tuple(self._suffix(*at) for at in product(*self._whole[:2]))

    @once
    def _named(self) -> tuple[dict[str, str], ...]:
        """Of each of these what may have a gradient, by the names that kernels have for it."""
        return tuple({short: name + suffix for short, name in self._names.items()} for suffix in self._suffixes)

    def _packs(self, weights: Weights) -> tuple[Pack, ...]:
        """Return what the kernels read, in the same order."""
        return packs(weights, self._named)

    # --- the runner ---------------------------------------------------------------------------------------------------

    def _stack(self, weights: Weights) -> Stack:
        """Return what runs single steps, or one layer, with these weights, in one direction."""
        weights.stack = stack = Stack(self._cell, self._packs(weights), self.dtype, self._stacked)
        return stack

    def stream(self, batch_size: int = 1) -> Stream[State]:
        """Return a stream: `batch_size` sequences that move on step by step, with a state of their own.

        Parameters
        ----------
        batch_size : int
            N, the sequences.

        Returns
        -------
        Stream
            Its ``step(x_t)`` takes (N, I) and returns (N, H).

        Raises
        ------
        TypeError
            If `batch_size` is no integer.
        ValueError
            If the layer is bidirectional or reversed, or `batch_size` is below 1.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> stream = rc.RNN(3, 5, rng=0).stream(batch_size=2)
        >>> stream.step(np.ones((2, 3))).shape
        (2, 5)
        """
        return Stream(self, batch_size)

    @once
    def _whole(self) -> Part:
        L, D = self.num_layers, len(self._directions)
        return Part(range(L), range(D), slice(0, L * D))

    @once
    def _plain(self) -> bool:
        """Whether `Stack` knows the layer's training passes."""
        return self._stacked and not self.bidirectional and not (self.dropout and self.num_layers > 1)

    def _in_time(self, array: Any) -> Any:
        """Return a batched sequence with time first, or back as the caller has it; anything else as it is."""
        if self.batch_first and type(array) is np.ndarray and array.ndim == 3:
            return array.swapaxes(0, 1)
        return array

    def _run(
        self,
        weights: Weights,
        x: np.ndarray,
        initial: States,
        finals: States,
        y: np.ndarray | None,
        n_threads: int,
        ragged: Ragged | None = None,
        keep: bool = False,
        key: np.ndarray | None = None,
        first: int = 0,
        part: Part | None = None,
    ) -> tuple[tuple[np.ndarray, Any], ...]:
        """Run a part of the stack, or all of it, over x (T, N, I), with `ragged` a view or packed, into `y`, alike, and
        `finals`, whose memory is not `initial`'s.

        Returns, layer by layer, the input and, with `keep`, what the kernel's backward pass wants back, direction by
        direction. With `key`, outputs of layers but the last one are dropped out; the first row's place is `first`.
        """
        layers, directions, _ = part or self._whole
        D, P = len(self._directions), self._widths[0]
        reverses = tuple(self._directions[d] for d in directions)
        kept: list[tuple[np.ndarray, Any]] = []
        rows = x.shape[:-1] if ragged is None else (ragged.rows,)
        for layer in layers:
            last = layer == layers[-1]
            out = y if last else empty((*rows, D * P), self.dtype)
            k = layer * D + directions[0]
            packs = self._packs(weights)[k : k + len(directions)]
            arguments = packs, x, initial, k, out, finals, reverses, n_threads, ragged, directions[0] * P
            if keep:
                kept.append((x, self._cell.forward(*arguments)))
            else:
                self._cell.infer(*arguments)
            if out is not None:
                x = out
                if key is not None and not last:
                    drop(out, self.dropout, key, layer, first)
        return tuple(kept)

    def _infer(
        self,
        weights: Weights,
        seq: np.ndarray,
        initial: States,
        y: np.ndarray | None,
        n_threads: int,
        ragged: Ragged | None,
        chunk: int | None = None,
        saved: States | None = None,
        key: np.ndarray | None = None,
        part: Part | None = None,
    ) -> States:
        """Run a part of the stack, or all of it, over seq (T, N, I), a view, or packed, into y, which holds zeros
        behind sequences' ends; return the final states.

        It goes chunk by chunk, by default so that neither a layer's sequence nor x in order of time is ever stored. The
        part's states before each chunk go to `saved`, (chunks, ·, N, ·).
        """
        T, N = len(seq), initial[0].shape[1]
        part = part or self._whole
        end = T if ragged is None else ragged.T
        if chunk is None:
            at_once = self.bidirectional or (self.num_layers == 1 and (ragged is not None or seq.flags.c_contiguous))
            chunk = max(1, end if at_once or N == 0 else BLOCK_ROWS // N)
        reverse = self._directions[part.directions[0]]
        before, after = initial, tuple(np.empty_like(s) for s in initial)
        for i, t_0, t_1 in chunks(end, chunk, reverse):
            for kept, state in zip(saved or (), before, strict=saved is not None):
                kept[i] = state[part.entries]
            cut = ragged if ragged is None or chunk >= end else ragged.cut(t_0, t_1)
            x_part, y_part = piece(seq, ragged, t_0, t_1), None if y is None else piece(y, ragged, t_0, t_1)
            first = first_row(N, ragged, t_0)
            self._run(weights, x_part, before, after, y_part, n_threads, cut, False, key, first, part)
            before, after = after, tuple(np.empty_like(s) for s in initial) if before is initial else before
        return tuple(s.copy() for s in initial) if before is initial else before

    # --- inference ----------------------------------------------------------------------------------------------------

    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        return_sequence: Literal[True] = True,
        out: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray, State]: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        return_sequence: bool,
        out: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray | None, State]: ...
    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        return_sequence: bool = True,
        out: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray | None, State]:
        """Run over a sequence and keep nothing (inference).

        Parameters
        ----------
        x : array_like (T, N, I), or (N, T, I) with `batch_first`, or (T, I) unbatched
            The sequence. Converted to the layer's dtype and C order if it is neither.
        state : optional
            The initial state: ``h_0`` for an RNN or a GRU, ``(h_0, c_0)`` for an LSTM, each (L*D, N, H), or (L*D, H)
            unbatched; with projections, ``h_0`` has P in place of H. Zeros by default.
        lengths : array_like of int (N,), optional
            The steps of each sequence, in any order: from 0 to T, which is what all have by default. What lies behind
            them in `x` does not matter. `y` is zero there; the final state is that after a sequence's last step, the
            initial one for a sequence without steps. The reverse direction begins at each sequence's own end.
        return_sequence : bool
            Whether `y` is wanted. Without, it is None and never stored.
        out : ndarray, optional
            Where to write `y`: an array of its shape and the layer's dtype.
        n_threads : int, optional
            The most threads to use: fewer, where other threads compute already. By default as many as pay for work of
            this size, up to `get_num_threads()`. Results do not depend on it.

        Returns
        -------
        y : ndarray (T, N, D*H), or (N, T, D*H) with `batch_first`, or (T, D*H) unbatched
            The last layer's hidden state at every time (P in place of H with projections); the reverse direction in the
            second half of the last axis.
        state : as `state`
            The final state: after the last step of each direction. An array or tuple of its own.

        Raises
        ------
        TypeError
            If something is no array of real numbers.
        ValueError
            If a shape does not fit, or a length is out of range.

        Notes
        -----
        There is no dropout here: it belongs to training (`forward`). With `lengths`, work is proportional to their sum:
        sequences leave the products as they end; it takes 8 bytes a step besides.

        Any number of threads may call one layer at once; the GIL is released while it works. Memory beyond the
        results, and beyond `x` where it had to be converted, does not grow with T, except in a bidirectional layer
        (one sequence for each layer above the first, and one for `x` with `batch_first`). With `batch_first`, `y` is
        a transposed view of memory in time order. T = 0 and N = 0 are allowed.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> lstm = rc.LSTM(3, 5, bidirectional=True, batch_first=True, rng=0)
        >>> y, (h_n, c_n) = lstm(np.ones((2, 7, 3)))
        >>> y.shape, h_n.shape
        ((2, 7, 10), (2, 2, 5))
        """
        weights = self._weights
        threads = 0 if n_threads is None else as_threads(n_threads)
        if return_sequence is True and out is None and not self.bidirectional:
            stack = weights.stack or self._stack(weights)
            if lengths is None:
                quick = stack.call(x, state, self.batch_first, self.reverse, threads)
            else:
                quick = stack.ragged(x, state, lengths, self.batch_first, self.reverse, threads)
            if quick is not None:
                return quick  # type: ignore[no-any-return]
        return self._general(weights, x, state, lengths, return_sequence, out, threads)

    def _general(
        self, weights: Weights, x: Any, state: Any, lengths: Any, return_sequence: bool, out: Any, threads: int
    ) -> tuple[np.ndarray | None, State]:
        """Do what a call does, with these weights; `threads` as `Cell` takes them."""
        x, whole = as_array(x, "x"), as_bool(return_sequence, "return_sequence")
        state, lengths = self._opened(state, "{}_0", lengths)
        seq, unbatched = self._sequence(x, self.input_size, "x")
        return self._read(weights, seq, unbatched, state, lengths, whole, out, threads)

    def _read(
        self,
        weights: Weights,
        seq: np.ndarray,
        unbatched: bool,
        state: Any,
        lengths: Any,
        return_sequence: bool,
        out: Any,
        threads: int,
    ) -> tuple[np.ndarray | None, State]:
        """The same, of a sequence (T, N, ·), a view, and what `_opened` made of state and lengths."""
        T, N, _ = seq.shape
        initial = self._states(state, "{}_0", N, unbatched)
        ragged = self._ragged(lengths, N, T, unbatched)
        width = len(self._directions) * self._widths[0]
        y = None
        if return_sequence:
            y = self._output(out, (seq, *initial), (T, N, width), unbatched, ragged)
        elif out is not None:
            raise ValueError("expected out=None with return_sequence=False, got an array")
        finals = self._infer(weights, seq, initial, y, threads, ragged)
        result = self._state_as_given(finals, unbatched)
        if y is None:
            return None, result
        if out is None:
            return self._as_given(y, unbatched), result
        plain = np.asarray(out)
        if not np.may_share_memory(y, plain):
            np.copyto(plain, self._as_given(y, unbatched))
        return out, result

    def _output(
        self, out: Any, reads: States, shape: tuple[int, int, int], unbatched: bool, ragged: Ragged | None = None
    ) -> np.ndarray:
        """Return where y (T, N, D*H) goes: into `out` if its layout allows and no array of `reads` lies there, else
        into memory of its own; with zeros behind each sequence's end."""
        check_bytes(shape, self.dtype, "y")
        y = self._place(out, reads, shape, unbatched)
        if ragged is not None:
            ragged.clear(y)
        return y

    def _place(self, out: Any, reads: States, shape: tuple[int, int, int], unbatched: bool) -> np.ndarray:
        if out is None:
            return empty(shape, self.dtype)
        if not issubclass(type(out), np.ndarray):  # what it says of its class may be anything
            raise TypeError(f"expected out to be a writable array of dtype {self.dtype}, got {type(out).__name__}")
        plain: np.ndarray = np.asarray(out)  # whatever a subclass says of itself
        if plain.dtype != self.dtype or not plain.flags.writeable:
            got = plain.dtype if plain.flags.writeable else "a read-only one"
            raise TypeError(f"expected out to be a writable array of dtype {self.dtype}, got {got}")
        T, N, width = shape
        check_shape(plain.shape, (T, width) if unbatched else (N, T, width) if self.batch_first else shape, "out")
        direct: np.ndarray = plain[:, None] if unbatched else plain.swapaxes(0, 1) if self.batch_first else plain
        if direct.flags.carray and not any(np.may_share_memory(direct, array) for array in reads):
            return direct
        return empty(shape, self.dtype)

    # --- training -----------------------------------------------------------------------------------------------------

    def forward(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        checkpoint: int | None = None,
        rng: RNG = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray, State, Tape]:
        """Run over a sequence and keep what `backward` needs (training).

        Parameters
        ----------
        x, state, lengths, n_threads
            As for a call.
        checkpoint : int, optional
            Keep the states every so many steps only: `backward` then runs the steps in between once more, with the
            same gradients, bit for bit. It is rounded up to blocks of steps that `backward` works on at once (of a few
            hundred rows). 0 to keep all. By default all is kept up to 25 million numbers (100 MB in float32), then the
            states about every sqrt(T) steps.
        rng : numpy.random.Generator, int or None
            Draws the dropout mask between layers, if the layer has dropout: from the generator, which moves on, or
            from a seed; None for a mask that is new each time.

        Returns
        -------
        y, state
            As from a call.
        tape : Tape
            For `backward`: immutable, usable several times, valid until the parameters change. It refers to `x`
            where `x` needed no conversion; everything else is its own.

        Raises
        ------
        TypeError, ValueError
            As a call does.

        Notes
        -----
        The tape holds per layer and direction, with S = T*N or the sum of `lengths`: (N+S)*H elements for each state
        (P instead of H for the ``h`` of projections); S*4*H for an LSTM's gates, or a GRU's, S*3*H for those of a GRU
        that resets before the product; S*H more with projections, or for the latter; and between layers S*D*H for the
        sequence. A dropout mask is drawn again from its key of 16 bytes, not kept.

        With checkpoints every k steps, ceil(T/k) of all states, and in a bidirectional layer S*D*H for each sequence
        between layers and, with `lengths`, S*I for `x`, packed. `backward` needs what the tape would hold for k steps,
        besides.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> rnn = rc.RNN(3, 5, rng=0)
        >>> y, h_n, tape = rnn.forward(np.ones((7, 2, 3)))
        >>> np.array_equal(y[-1], h_n[0])
        True
        """
        weights = self._weights
        threads = as_threads(n_threads)
        if self._plain and lengths is None and checkpoint is None:
            stack = weights.stack or self._stack(weights)
            most = CHECKPOINT_FROM // self._kept
            quick = stack.taped(self._in_time(x), state, self.reverse, most, threads)
            if quick is not None:
                y, final, kept = quick
                return self._in_time(y), final, Tape(self, weights, (False, y.shape[:2], None, None, 0, *kept))
        x, key, every = as_array(x, "x"), self._key(rng), as_checkpoint(checkpoint)
        state, lengths = self._opened(state, "{}_0", lengths)
        seq, unbatched = self._sequence(x, self.input_size, "x")
        y, final, kept = self._taped(weights, seq, unbatched, state, lengths, every, key, threads)
        return y, final, Tape(self, weights, kept)

    def _taped(
        self,
        weights: Weights,
        seq: np.ndarray,
        unbatched: bool,
        state: Any,
        lengths: Any,
        checkpoint: int | None,
        key: np.ndarray | None,
        threads: int,
    ) -> tuple[np.ndarray, State, tuple[Any, ...]]:
        """Do what `forward` does, with these weights, a sequence (T, N, ·), a view, what `_opened` made of state and
        lengths, and what `_key` made of rng; return what a tape keeps."""
        T, N, _ = seq.shape
        initial = self._states(state, "{}_0", N, unbatched)
        ragged = self._ragged(lengths, N, T, unbatched)
        steps = self._checkpoint(weights, checkpoint, T, N, T * N if ragged is None else ragged.rows)
        y = self._output(None, (), (T, N, len(self._directions) * self._widths[0]), unbatched, ragged)
        finals = tuple(np.empty_like(s) for s in initial)
        kept: tuple[Any, ...]
        if steps:
            kept = run_checkpointed(self, weights, seq, initial, finals, y, threads, ragged, key, steps)
        else:
            kept = self._run(weights, piece(seq, ragged, 0, T), initial, finals, y, threads, ragged, True, key)
        whole = unbatched, (T, N), ragged, key, steps, *kept
        return self._as_given(y, unbatched), self._state_as_given(finals, unbatched), whole

    def _checkpoint(self, weights: Weights, given: int | None, T: int, N: int, rows: int) -> int:
        """Return after how many steps each to keep the states; 0 for a tape of all."""
        steps = given
        if steps is None:
            steps = isqrt(T) + 1 if rows * self._kept > CHECKPOINT_FROM else 0
        if steps:
            double = self.dtype == np.float64
            block = max(self._cell.block(pack, double, N) for pack in self._packs(weights))
            steps = -(-min(steps, max(T, 1)) // block) * block
        return steps

    @once
    def _kept(self) -> int:
        """Elements that a tape has for each step of a sequence."""
        packs, D = self._packs(self._weights), len(self._directions)
        return sum(self._cell.kept(pack) for pack in packs) + (len(packs) - D) * self._widths[0]

    @overload
    def backward(
        self,
        tape: Tape,
        dy: ArrayLike | None = None,
        dstate: Any = None,
        *,
        accumulate: Mapping[str, np.ndarray] | None = None,
        flow: Literal[False] = False,
        check_finite: bool = False,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray, State, dict[str, np.ndarray]]: ...
    @overload
    def backward(
        self,
        tape: Tape,
        dy: ArrayLike | None = None,
        dstate: Any = None,
        *,
        accumulate: Mapping[str, np.ndarray] | None = None,
        flow: Literal[True],
        check_finite: bool = False,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray, State, dict[str, np.ndarray], State]: ...
    def backward(
        self,
        tape: Tape,
        dy: ArrayLike | None = None,
        dstate: Any = None,
        *,
        accumulate: Mapping[str, np.ndarray] | None = None,
        flow: bool = False,
        check_finite: bool = False,
        n_threads: int | None = None,
    ) -> Any:
        """Propagate gradients back through time, from those of `y` and of the final state.

        Parameters
        ----------
        tape : Tape
            From `forward`.
        dy : array_like, optional
            Gradient of the loss with respect to `y`, in its shape. None stands for zeros. What lies behind a sequence's
            end does not matter.
        dstate : optional
            Gradient with respect to the final state, in its shape: ``dh_n``, or ``(dh_n, dc_n)`` for an LSTM.
        accumulate : dict of str to ndarray, optional
            Arrays keyed and shaped like `parameters()`, of the layer's dtype and C-contiguous, which the parameters'
            gradients are added to.
        flow : bool
            Whether to return how large the gradient was at each time, too.
        check_finite : bool
            Whether a gradient that is infinite or NaN is an error.
        n_threads : int, optional
            As for a call. With the panels engine, gradients do not depend on it.

        Returns
        -------
        dx : ndarray
            Gradient with respect to `x`, in its shape; exactly zero behind a sequence's end.
        dstate : as `dstate`
            Gradient with respect to the initial state.
        grads : dict of str to ndarray
            Gradients of the parameters, keyed like `parameters()`: new arrays, or those of `accumulate`.
        flow : ndarray (L*D, T) of float64, with `flow=True`
            Norm of dL/dh_t over batch and units, of each layer, direction and time t: the gradient through `y` and all
            later steps. For an LSTM a tuple with that of dL/dc_t besides, which has the gradient through h_t in it.
            Zero where no sequence has that step. Gradients that shrink from the last time to the first vanish; those
            that grow explode.

        Raises
        ------
        TypeError
            If something is no array of real numbers, or `tape` no tape.
        ValueError
            If a shape does not fit, or the tape is another layer's or older than the parameters; with `check_finite`,
            if a gradient is not finite: says of which names, and at which time those of states began not to be.
            `accumulate` has been added to then.

        Notes
        -----
        Everything is checked before any array of `accumulate` changes; Ctrl-C in the middle leaves them half added to.
        The GIL is released. Workspace: a block of a few hundred rows of the gates' gradients, and the gradients
        between layers; of all but narrow layers, copies of such rows of x and h. Beside, for all passes with the same
        weights, a copy of these in the order that products read, made by the first pass long enough to pay for it.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> rnn = rc.RNN(3, 5, rng=0)
        >>> y, h_n, tape = rnn.forward(np.ones((7, 2, 3)))
        >>> dx, dh_0, grads = rnn.backward(tape, dy=np.ones_like(y), dstate=np.zeros_like(h_n))
        >>> dx.shape, dh_0.shape, list(grads)
        ((7, 2, 3), (1, 2, 5), ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0'])
        """
        kept, threads = open_tape(tape, self), as_threads(n_threads)
        weights = self._weights
        unbatched, _, ragged, _, steps, *layers = kept
        whole = ragged is None and not unbatched and not steps
        if self._plain and whole and accumulate is None and isinstance(flow, bool) and check_finite is False:
            stack = weights.stack or self._stack(weights)
            upstream, names = self._in_time(dy), self._named
            quick = stack.back(tuple(layers), upstream, dstate, weights, names, self.reverse, threads, flow)
            if quick is not None:
                return self._in_time(quick[0]), *quick[1:]
        return self._back(weights, kept, dy, dstate, accumulate, flow, check_finite, threads)

    def _back(
        self,
        weights: Weights,
        taped: tuple[Any, ...],
        dy: Any,
        dstate: Any,
        accumulate: Any,
        flow: bool,
        check_finite: bool,
        threads: int,
        tables: Mapping[str, np.ndarray] | None = None,
        of_x: bool = True,
    ) -> Any:
        """Do what `backward` does, with these weights and what `_taped` returned for a tape; `tables`, of tokens, are
        added to, and stand among the gradients. dx is None unless it is wanted, `of_x`."""
        unbatched, (T, N), ragged, key, steps, *kept = taped
        flows, finite = as_bool(flow, "flow"), as_bool(check_finite, "check_finite")
        dy, dstate = None if dy is None else as_array(dy, "dy"), open_state(dstate, self._state_names, "d{}_n")
        rows = T * N if ragged is None else ragged.rows
        fresh = accumulate is None and rows > 0
        grads = self._grads(weights, accumulate, fresh) | dict(tables or {})
        given = None if dy is None else self._sequence_like_y(dy, "dy", T, N, unbatched)
        dstates = self._states(dstate, "d{}_n", N, unbatched)
        if ragged is None:
            dstates = tuple(s.copy() for s in dstates)
        else:
            dstates = tuple(s.take(ragged.order, 1) for s in dstates)
        row_norms = None
        if flows or finite:
            k = self.num_layers * len(self._directions)
            row_norms = tuple(tuple(np.empty(rows) for _ in self._widths) for _ in range(k))
        dx: np.ndarray | None
        if steps:
            dx = back_checkpointed(
                self, weights, kept, given, dstates, grads, ragged, key, steps, threads, row_norms, fresh, of_x
            )
        else:
            upstream = given if given is None or ragged else np.ascontiguousarray(given)
            dx = self._run_back(
                weights, kept, upstream, dstates, grads, ragged, key, threads, row_norms, fresh, of_x=of_x
            )
        if ragged is not None:
            if dx is not None and dx.ndim == 2:
                dx = unpack(dx, ragged, np.zeros((T, N, self.input_size), self.dtype))
            dstates = tuple(unsorted(s, ragged) for s in dstates)
        given_dx = None if dx is None else self._as_given(dx, unbatched)
        results = given_dx, self._state_as_given(dstates, unbatched), grads
        if row_norms is None:
            return results
        norms = self._norms(row_norms, T, ragged)
        if finite:
            self._check_finite({} if dx is None else {"dx": dx}, dstates, grads, norms)
        return (*results, norms if len(norms) > 1 else norms[0]) if flows else results

    def _run_back(
        self,
        weights: Weights,
        kept: Sequence[tuple[np.ndarray, Any]],
        upstream: np.ndarray | None,
        dstates: States,
        grads: dict[str, np.ndarray],
        ragged: Ragged | None,
        key: np.ndarray | None,
        n_threads: int,
        row_norms: RowNorms | None = None,
        fresh: bool = False,
        first: int = 0,
        part: Part | None = None,
        dx: np.ndarray | None = None,
        of_x: bool = True,
    ) -> np.ndarray | None:
        """Run a part of the stack, or all of it, backwards: final states' gradients in `dstates` become initial ones',
        parameters' are added to `grads`, those that are there, or written where these are `fresh`, `row_norms` are
        filled in; return the gradient of the input, of one direction in `dx` if there is one, or None unless it is
        wanted, `of_x`. Padded sequences may be views."""
        layers, directions, _ = part or self._whole
        D, P = len(self._directions), self._widths[0]
        reverses = tuple(self._directions[d] for d in directions)
        for layer, (x, states) in reversed(list(zip(layers, kept, strict=True))):
            if key is not None and layer != layers[-1] and upstream is not None:
                drop(upstream, self.dropout, key, layer, first)
            k = layer * D + directions[0]
            padded = ragged is not None and x.ndim == 3
            new = np.zeros if padded or x.dtype != self.dtype else empty  # tokens have no gradient
            given = layer == layers[0] and (dx is not None or not of_x)
            dxs: Any = tuple(dx if given else new(x.shape, self.dtype) for _ in directions)
            these = slice(k, k + len(directions))
            self._cell.backward(
                self._packs(weights)[these], x, states, upstream, directions[0] * P, dstates, k, dxs,
                tuple(
                    {short: grads[name] for short, name in named.items() if name in grads}
                    for named in self._named[these]
                ),
                reverses, fresh, n_threads, ragged, None if row_norms is None else row_norms[these],
            )  # fmt: skip
            upstream = dxs[0]
            for other in dxs[1:]:
                if upstream is not None:
                    upstream += other
        return upstream

    # --- norms, and what is not finite --------------------------------------------------------------------------------

    def _norms(self, row_norms: RowNorms, T: int, ragged: Rows | None) -> States:
        """Return, per state, the norm at each time (L*D, T), of the rows' norms."""
        times = None if ragged is None else ragged.where()[0]

        def norm(of_rows: np.ndarray) -> np.ndarray:
            if times is None:
                return norms_of(of_rows, T)
            top = np.zeros(T)  # without it squares could overflow, or vanish
            with np.errstate(all="ignore"):
                np.maximum.at(top, times, of_rows)
                top[(top == 0) | np.isinf(top)] = 1
                return np.sqrt(np.bincount(times, (of_rows / top[times]) ** 2, T)) * top

        return tuple(np.array([norm(of_state) for of_state in of_all]) for of_all in zip(*row_norms, strict=True))

    def _check_finite(
        self, of_input: dict[str, np.ndarray], dstates: States, grads: dict[str, np.ndarray], norms: States
    ) -> None:
        """Raise if a gradient is not finite, with the times at which the states' began not to be."""
        of_states = {f"d{name}_0": s for name, s in zip(self._state_names, dstates, strict=True)}
        bad = [name for name, array in (of_input | of_states | grads).items() if not np.isfinite(array).all()]
        if not bad:
            return
        began = []
        for name, of_state in zip(self._state_names, norms, strict=True):
            for at, of_layer in zip(product(*self._whole[:2]), of_state, strict=True):
                if len(times := np.flatnonzero(~np.isfinite(of_layer))):
                    t = times[0] if self._directions[at[1]] else times[-1]
                    began.append(f"d{name}_t of {self._suffix(*at)[1:]} from t = {t} on")
        where = f"; back in time {'; '.join(began)}" if began else ""
        raise ValueError(f"expected finite gradients, got others in {', '.join(bad)}{where}")
