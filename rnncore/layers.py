"""Recurrent layers: parameters, shapes, and one runner over the stack of layers and directions.

The arithmetic is in `_kernels`; its definition is in `reference`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ._kernels import lstm as _lstm
from ._kernels import rnn as _rnn
from ._kernels.driver import BLOCK_ROWS, Cell
from ._kernels.pack import Pack
from ._kernels.step import Stack
from .checks import as_bool, as_dtype, as_real, as_states, as_threads, check_bytes, check_shape, positive_int
from .stream import Stream
from .tape import Tape, open_tape
from .weights import Module, Weights

__all__ = ["LSTM", "RNN"]

RNG = np.random.Generator | np.random.SeedSequence | int | None
State = TypeVar("State")
States = tuple[np.ndarray, ...]


def recurrent_parameters(
    suffix: str, G: int, I: int, H: int, bias: bool, dtype: np.dtype[Any], rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the names and initial values of one layer in one direction: torch's, uniform in ±1/sqrt(H)."""
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (G * H, I), "weight_hh": (G * H, H)}
    if bias:
        shapes |= {"bias_ih": (G * H,), "bias_hh": (G * H,)}
    bound = 1 / np.sqrt(H)
    for name, shape in shapes.items():
        check_bytes(shape, dtype, name + suffix)
    for name, shape in shapes.items():
        yield name + suffix, rng.uniform(-bound, bound, shape).astype(dtype)


def pack(weights: Weights, suffix: str) -> Pack:
    """Return what the kernels read of one layer in one direction; made once per `weights`."""

    def make() -> Pack:
        return Pack(
            weights["weight_ih" + suffix],
            weights["weight_hh" + suffix],
            weights.get("bias_ih" + suffix),
            weights.get("bias_hh" + suffix),
        )

    return weights.packed(suffix, make)


class _Recurrent(Module, Generic[State]):
    """A stack of `num_layers` recurrent layers in one or two directions."""

    _gates: int
    _state_names: tuple[str, ...]

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
        rng: RNG,
    ) -> None:
        self.input_size = I = positive_int(input_size, "input_size")
        self.hidden_size = H = positive_int(hidden_size, "hidden_size")
        self.num_layers = L = positive_int(num_layers, "num_layers")
        self.bias = as_bool(bias, "bias")
        self.batch_first = as_bool(batch_first, "batch_first")
        self.bidirectional = as_bool(bidirectional, "bidirectional")
        self.reverse = as_bool(reverse, "reverse")
        if type(dropout) not in (int, float) or dropout != 0:
            raise ValueError(f"expected dropout=0.0 (this version has no dropout between layers), got {dropout!r}")
        if self.bidirectional and self.reverse:
            raise ValueError("expected at most one of bidirectional=True and reverse=True, got both")
        numbers = as_dtype(dtype)
        generator = np.random.default_rng(rng)
        D = 2 if self.bidirectional else 1
        arrays: dict[str, np.ndarray] = {}
        for layer in range(L):
            for direction in range(D):
                width = D * H if layer else I
                suffix = self._suffix(layer, direction)
                arrays |= recurrent_parameters(suffix, self._gates, width, H, self.bias, numbers, generator)
        super().__init__(numbers, arrays)

    @property
    def _cell(self) -> Cell:
        raise NotImplementedError

    @property
    def _directions(self) -> tuple[bool, ...]:
        """Whether each direction runs backwards in time."""
        return (False, True) if self.bidirectional else (self.reverse,)

    @staticmethod
    def _suffix(layer: int, direction: int) -> str:
        return f"_l{layer}" + ("_reverse" if direction else "")

    def __repr__(self) -> str:
        words = [str(self.input_size), str(self.hidden_size)]
        if self.num_layers != 1:
            words.append(f"num_layers={self.num_layers}")
        words += [] if self.bias else ["bias=False"]
        words += [f"{name}=True" for name in ("batch_first", "bidirectional", "reverse") if getattr(self, name)]
        words += self._repr_words()
        if self.dtype != np.float32:
            words.append(f"dtype={self.dtype.name!r}")
        return f"{type(self).__name__}({', '.join(words)})"

    def _repr_words(self) -> list[str]:
        return []

    # --- the door -----------------------------------------------------------------------------------------------------

    def _sequence(self, value: Any, width: int, name: str) -> tuple[np.ndarray, bool]:
        """Return a sequence as (T, N, width), a view, and whether it came without a batch dimension."""
        array = as_real(value, self.dtype, name)
        if array.ndim == 2:
            check_shape(array.shape, ("T", width), name)
            return array[:, None], True
        batched: tuple[str | int, ...] = ("N", "T", width) if self.batch_first else ("T", "N", width)
        check_shape(array.shape, batched, name)
        return array.swapaxes(0, 1) if self.batch_first else array, False

    def _as_given(self, array: np.ndarray, unbatched: bool) -> np.ndarray:
        """Return a sequence (T, N, ·) in the caller's layout: a view."""
        if unbatched:
            return array[:, 0]
        return array.swapaxes(0, 1) if self.batch_first else array

    def _check_state(self, N: int) -> None:
        """Refuse a batch whose state no memory could hold."""
        check_bytes((self.num_layers * len(self._directions), N, self.hidden_size), self.dtype, "the state")

    def _states(self, state: Any, moment: str, N: int, unbatched: bool) -> States:
        """Return a state as arrays (L*D, N, H)."""
        k = self.num_layers * len(self._directions)
        self._check_state(N)
        shape = (k, self.hidden_size) if unbatched else (k, N, self.hidden_size)
        return tuple(
            array.reshape(k, N, self.hidden_size)
            for array in as_states(state, self._state_names, moment, shape, self.dtype)
        )

    def _state_as_given(self, states: States, unbatched: bool) -> State:
        arrays = tuple(array[:, 0] if unbatched else array for array in states)
        return arrays if len(self._state_names) > 1 else arrays[0]  # type: ignore[return-value]

    # --- the runner ---------------------------------------------------------------------------------------------------

    def _stack(self, weights: Weights) -> Stack:
        """Return what runs single steps, or one layer, with these weights, in one direction."""
        packs = tuple(pack(weights, self._suffix(layer, 0)) for layer in range(self.num_layers))
        weights.stack = stack = Stack(self._cell, packs, self.dtype)
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

    def _run(
        self,
        weights: Weights,
        x: np.ndarray,
        initial: States,
        finals: States,
        y: np.ndarray | None,
        keep: bool,
        n_threads: int,
    ) -> list[tuple[np.ndarray, Any]]:
        """Run the stack over x (T, N, I) into `y` and `finals`, whose memory is not `initial`'s.

        Returns, layer by layer, the input and, with `keep`, what the kernel's backward pass wants back, direction by
        direction.
        """
        run = self._cell.forward if keep else self._cell.infer
        D = len(self._directions)
        kept: list[tuple[np.ndarray, Any]] = []
        for layer in range(self.num_layers):
            last = layer + 1 == self.num_layers
            out = y if last else np.empty((*x.shape[:2], D * self.hidden_size), self.dtype)
            packs = tuple(pack(weights, self._suffix(layer, direction)) for direction in range(D))
            kept.append((x, run(packs, x, initial, layer * D, out, finals, self._directions, n_threads)))
            if out is not None:
                x = out
        return kept

    @overload
    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
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
        return_sequence: bool,
        out: np.ndarray | None = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray | None, State]: ...
    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
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
            The initial state: ``h_0`` for an RNN, ``(h_0, c_0)`` for an LSTM, each (L*D, N, H), or (L*D, H)
            unbatched. Zeros by default.
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
            The last layer's hidden state at every time; the reverse direction in the second half of the last axis.
        state : as `state`
            The final state: after the last step of each direction. An array or tuple of its own.

        Raises
        ------
        TypeError
            If something is no array of real numbers.
        ValueError
            If a shape does not fit.

        Notes
        -----
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
        if return_sequence is True and out is None and n_threads is None and not self.bidirectional:
            quick = (weights.stack or self._stack(weights)).call(x, state, self.batch_first, self.reverse)
            if quick is not None:
                return quick  # type: ignore[no-any-return]
        threads = as_threads(n_threads)
        seq, unbatched = self._sequence(x, self.input_size, "x")
        T, N, _ = seq.shape
        initial = self._states(state, "_0", N, unbatched)
        finals = tuple(np.empty_like(s) for s in initial)
        width = len(self._directions) * self.hidden_size
        y = None
        if as_bool(return_sequence, "return_sequence"):
            y = self._output(out, (seq, *initial), (T, N, width), unbatched)
        elif out is not None:
            raise ValueError("expected out=None with return_sequence=False, got an array")

        chunk = max(1, BLOCK_ROWS // max(N, 1))
        if self.bidirectional or T <= chunk or N == 0 or (self.num_layers == 1 and seq.flags.c_contiguous):
            self._run(weights, np.ascontiguousarray(seq), initial, finals, y, False, threads)
        else:  # block by block, so that neither a layer's sequence nor x in order of time is ever stored
            starts = range(0, T, chunk)
            spare = tuple(np.empty_like(s) for s in finals)
            for t in reversed(starts) if self.reverse else starts:
                part = slice(t, t + chunk)
                x_part, y_part = np.ascontiguousarray(seq[part]), None if y is None else y[part]
                self._run(weights, x_part, initial, finals, y_part, False, threads)
                initial, finals, spare = finals, spare, finals
            finals = initial
        result = self._state_as_given(finals, unbatched)
        if y is None:
            return None, result
        if out is None:
            return self._as_given(y, unbatched), result
        if not np.may_share_memory(y, out):
            np.copyto(out, self._as_given(y, unbatched))
        return out, result

    def _output(self, out: Any, reads: States, shape: tuple[int, int, int], unbatched: bool) -> np.ndarray:
        """Return where y (T, N, D*H) goes: into `out` if its layout allows and no array of `reads` lies there, else
        into memory of its own."""
        check_bytes(shape, self.dtype, "y")
        if out is None:
            return np.empty(shape, self.dtype)
        if not isinstance(out, np.ndarray):
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
        return np.empty(shape, self.dtype)

    def forward(
        self, x: ArrayLike, state: Any = None, *, n_threads: int | None = None
    ) -> tuple[np.ndarray, State, Tape]:
        """Run over a sequence and keep what `backward` needs (training).

        Parameters
        ----------
        x, state, n_threads
            As for a call.

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
        The tape holds per layer and direction (T+1)*N*H elements for each state and, for an LSTM, T*N*4*H for its
        gates; between layers T*N*D*H for the sequence.

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
        seq, unbatched = self._sequence(x, self.input_size, "x")
        T, N, _ = seq.shape
        initial = self._states(state, "_0", N, unbatched)
        finals = tuple(np.empty_like(s) for s in initial)
        y = self._output(None, (), (T, N, len(self._directions) * self.hidden_size), unbatched)
        kept = self._run(weights, np.ascontiguousarray(seq), initial, finals, y, True, threads)
        tape = Tape(self, weights, (unbatched, *kept))
        return self._as_given(y, unbatched), self._state_as_given(finals, unbatched), tape

    def backward(
        self,
        tape: Tape,
        dy: ArrayLike | None = None,
        dstate: Any = None,
        *,
        accumulate: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[np.ndarray, State, dict[str, np.ndarray]]:
        """Propagate gradients back through time, from those of `y` and of the final state.

        Parameters
        ----------
        tape : Tape
            From `forward`.
        dy : array_like, optional
            Gradient of the loss with respect to `y`, in its shape. None stands for zeros.
        dstate : optional
            Gradient with respect to the final state, in its shape: ``dh_n``, or ``(dh_n, dc_n)`` for an LSTM.
        accumulate : dict of str to ndarray, optional
            Arrays keyed and shaped like `parameters()`, of the layer's dtype and C-contiguous, which the parameters'
            gradients are added to.

        Returns
        -------
        dx : ndarray
            Gradient with respect to `x`, in its shape.
        dstate : as `dstate`
            Gradient with respect to the initial state.
        grads : dict of str to ndarray
            Gradients of the parameters, keyed like `parameters()`: new arrays, or those of `accumulate`.

        Raises
        ------
        TypeError
            If something is no array of real numbers, or `tape` no tape.
        ValueError
            If a shape does not fit, or the tape is another layer's or older than the parameters.

        Notes
        -----
        Everything is checked before any array of `accumulate` changes; Ctrl-C in the middle leaves them half added to.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> rnn = rc.RNN(3, 5, rng=0)
        >>> y, h_n, tape = rnn.forward(np.ones((7, 2, 3)))
        >>> dx, dh_0, grads = rnn.backward(tape, dy=np.ones_like(y), dstate=np.zeros_like(h_n))
        >>> dx.shape, dh_0.shape, list(grads)
        ((7, 2, 3), (1, 2, 5), ['weight_ih_l0', 'weight_hh_l0', 'bias_ih_l0', 'bias_hh_l0'])
        """
        unbatched, *kept = open_tape(tape, self)
        H, D = self.hidden_size, len(self._directions)
        T, N, _ = kept[0][0].shape
        upstream = None
        if dy is not None:
            given, flat = self._sequence(dy, D * H, "dy")
            if flat != unbatched or given.shape[:2] != (T, N):
                expected = self._as_given(np.broadcast_to(np.float32(0), (T, N, D * H)), unbatched).shape
                raise ValueError(f"expected dy of shape {expected}, got {self._as_given(given, flat).shape}")
            upstream = np.ascontiguousarray(given)
        dstates = tuple(s.copy() for s in self._states(dstate, "_n", N, unbatched))
        grads = self._grads(accumulate)
        for layer in reversed(range(self.num_layers)):
            x, states = kept[layer]
            dx = np.empty_like(x)
            for direction, reverse in enumerate(self._directions):
                k = layer * D + direction
                suffix = self._suffix(layer, direction)
                db = np.zeros(self._gates * H, self.dtype)
                self._cell.backward(
                    pack(tape._weights, suffix), x, states[direction], upstream, direction * H,
                    tuple(s[k] for s in dstates), dx, direction > 0, grads["weight_ih" + suffix],
                    grads["weight_hh" + suffix], db, reverse,
                )  # fmt: skip
                if self.bias:
                    grads["bias_ih" + suffix] += db
                    grads["bias_hh" + suffix] += db
            upstream = dx
        return self._as_given(dx, unbatched), self._state_as_given(dstates, unbatched), grads

    def _grads(self, accumulate: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
        """Return the arrays that gradients are added to."""
        weights = self._weights
        if accumulate is None:
            return {name: np.zeros_like(array) for name, array in weights.items()}
        if not isinstance(accumulate, Mapping) or set(accumulate) != set(weights):
            got = sorted(map(str, accumulate)) if isinstance(accumulate, Mapping) else type(accumulate).__name__
            raise ValueError(f"expected accumulate with the names {sorted(weights)}, got {got}")
        for name, array in accumulate.items():
            if type(array) is not np.ndarray or array.dtype != self.dtype or not array.flags.carray:
                kind = type(array).__name__
                what = f"{kind} of {array.dtype}\n{array.flags}" if isinstance(array, np.ndarray) else kind
                raise TypeError(
                    f"expected accumulate[{name!r}] to be a writable C-contiguous array of {self.dtype}, got {what}"
                )
            check_shape(array.shape, weights[name].shape, name)
        return dict(accumulate)


class RNN(_Recurrent[np.ndarray]):
    """Vanilla (Elman) RNN over sequences, as `torch.nn.RNN`, with the sigmoid besides.

    Parameters
    ----------
    input_size : int
        I, the features of each x_t.
    hidden_size : int
        H, the hidden units.
    num_layers : int
        L: each layer above the first reads the sequence of the one below.
    nonlinearity : {"tanh", "relu", "sigmoid"}
        f below.
    bias : bool
        Whether b_ih and b_hh exist.
    batch_first : bool
        Whether sequences are (N, T, ·) instead of (T, N, ·). States are not affected.
    dropout : float
        Only 0.0 in this version.
    bidirectional : bool
        Whether a second direction runs from the last step to the first; D is 2 then, else 1.
    reverse : bool
        Whether the one direction runs from the last step to the first.
    dtype : {"float32", "float64"}
        Of parameters and results.
    rng : numpy.random.Generator, int or None
        Draws the initial parameters, uniform in ±1/sqrt(H).

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be.

    Notes
    -----
    Math, for one layer and direction::

        (1)  a_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
        (2)  h_t = f(a_t)

    Parameters are named ``weight_ih_l{k}`` (H, I or D*H), ``weight_hh_l{k}`` (H, H), ``bias_ih_l{k}``,
    ``bias_hh_l{k}`` (H,), with the suffix ``_reverse`` for the second direction. The state is ``h`` (L*D, N, H).

    References
    ----------
    J. L. Elman, Finding structure in time, Cognitive Science 14 (1990), doi:10.1207/s15516709cog1402_1

    Examples
    --------
    >>> import numpy as np, rnncore as rc
    >>> rnn = rc.RNN(3, 5, nonlinearity="relu", rng=0)
    >>> y, h_n = rnn(np.ones((7, 2, 3)))
    >>> y.shape, h_n.shape
    ((7, 2, 5), (1, 2, 5))
    """

    _gates = 1
    _state_names = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reverse: bool = False,
        dtype: DTypeLike = "float32",
        rng: RNG = None,
    ) -> None:
        self.nonlinearity = as_nonlinearity(nonlinearity)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, reverse, dtype, rng
        )

    @property
    def _cell(self) -> Cell:
        return _rnn.cells[self.nonlinearity]

    def _repr_words(self) -> list[str]:
        return [] if self.nonlinearity == "tanh" else [f"nonlinearity={self.nonlinearity!r}"]


def as_nonlinearity(name: object) -> str:
    """Return `name` if an RNN has a kernel for it."""
    if not isinstance(name, str) or name not in _rnn.cells:
        raise ValueError(f"expected nonlinearity to be one of {', '.join(_rnn.cells)}, got {name!r}")
    return name


class LSTM(_Recurrent[tuple[np.ndarray, np.ndarray]]):
    """Long short-term memory over sequences, as `torch.nn.LSTM`.

    Parameters
    ----------
    input_size : int
        I, the features of each x_t.
    hidden_size : int
        H, the hidden units.
    num_layers : int
        L: each layer above the first reads the sequence of the one below.
    bias : bool
        Whether b_ih and b_hh exist.
    batch_first : bool
        Whether sequences are (N, T, ·) instead of (T, N, ·). States are not affected.
    dropout : float
        Only 0.0 in this version.
    bidirectional : bool
        Whether a second direction runs from the last step to the first; D is 2 then, else 1.
    proj_size : int
        Only 0 in this version.
    reverse : bool
        Whether the one direction runs from the last step to the first.
    dtype : {"float32", "float64"}
        Of parameters and results.
    rng : numpy.random.Generator, int or None
        Draws the initial parameters, uniform in ±1/sqrt(H).

    Raises
    ------
    TypeError, ValueError
        If an argument is not what it should be.

    Notes
    -----
    Math, for one layer and direction (σ the logistic sigmoid, * elementwise)::

        (1)  z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh        rows in the order i f g o
        (2)  i_t = σ(z_i)           (3)  f_t = σ(z_f)
        (4)  g_t = tanh(z_g)        (5)  o_t = σ(z_o)
        (6)  c_t = f_t * c_{t-1} + i_t * g_t
        (7)  h_t = o_t * tanh(c_t)

    Parameters are named ``weight_ih_l{k}`` (4*H, I or D*H), ``weight_hh_l{k}`` (4*H, H), ``bias_ih_l{k}``,
    ``bias_hh_l{k}`` (4*H,), with the suffix ``_reverse`` for the second direction. The state is ``(h, c)``, each
    (L*D, N, H).

    References
    ----------
    S. Hochreiter, J. Schmidhuber, Long short-term memory, Neural Computation 9 (1997), doi:10.1162/neco.1997.9.8.1735;
    with the forget gate of F. A. Gers, J. Schmidhuber, F. Cummins, Learning to forget, Neural Computation 12 (2000),
    doi:10.1162/089976600300015015

    Examples
    --------
    >>> import numpy as np, rnncore as rc
    >>> lstm = rc.LSTM(3, 5, rng=0)
    >>> y, (h_n, c_n), tape = lstm.forward(np.ones((7, 2, 3)))
    >>> dx, (dh_0, dc_0), grads = lstm.backward(tape, dy=np.ones_like(y))
    >>> y.shape, dx.shape, grads["weight_hh_l0"].shape
    ((7, 2, 5), (7, 2, 3), (20, 5))
    """

    _gates = 4
    _state_names = ("h", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        reverse: bool = False,
        dtype: DTypeLike = "float32",
        rng: RNG = None,
    ) -> None:
        if type(proj_size) is not int or proj_size != 0:
            raise ValueError(f"expected proj_size=0 (this version has no projections), got {proj_size!r}")
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, reverse, dtype, rng
        )

    @property
    def _cell(self) -> Cell:
        return _lstm.cell
