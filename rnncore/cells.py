"""Recurrent cells: one step of one layer, as `torch.nn.RNNCell`, `LSTMCell` and `GRUCell`, with a backward step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ._kernels import gru as _gru
from ._kernels import lstm as _lstm
from ._kernels import rnn as _rnn
from ._kernels.cell import Cell
from ._kernels.step import Stack
from .checks import (
    as_array,
    as_bool,
    as_dtype,
    as_real,
    as_states,
    as_threads,
    check_bytes,
    check_shape,
    open_state,
    positive_int,
)
from .layers import as_nonlinearity
from .recurrent import NAMES, RNG, State, States, packs, recurrent_shapes, uniform
from .tape import Tape, open_tape
from .weights import Module, Weights, renamed

__all__ = ["GRUCell", "LSTMCell", "RNNCell"]


class _RecurrentCell(Module, Generic[State]):
    """One layer in one direction, called step by step."""

    _gates: int
    _state_names: tuple[str, ...]

    def __init__(self, input_size: int, hidden_size: int, bias: bool, dtype: DTypeLike, rng: RNG) -> None:
        self.input_size = positive_int(input_size, "input_size")
        self.hidden_size = positive_int(hidden_size, "hidden_size")
        self.bias = as_bool(bias, "bias")
        numbers = as_dtype(dtype)
        shapes = self._shapes(self.input_size, self.hidden_size, self.bias)
        super().__init__(numbers, uniform(shapes, self.hidden_size, numbers, rng))

    @classmethod
    def _shapes(cls, input_size: int, hidden_size: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the parameters, and with them what options they depend on."""
        return recurrent_shapes("", cls._gates, input_size, hidden_size, bias)

    @property
    def _cell(self) -> Cell:
        raise NotImplementedError

    def _renamed(self, found: dict[str, Any]) -> dict[str, Any]:
        of_layer = {name + "_l0": name for name in self._weights if name + "_l0" in found}
        return renamed(found, of_layer, self._weights)

    def __repr__(self) -> str:
        words = [str(self.input_size), str(self.hidden_size)]
        words += [] if self.bias else ["bias=False"]
        words += self._repr_words()
        if self.dtype != np.float32:
            words.append(f"dtype={self.dtype.name!r}")
        return f"{type(self).__name__}({', '.join(words)})"

    def _repr_words(self) -> list[str]:
        return []

    def _step(self, x: np.ndarray) -> tuple[np.ndarray, bool]:
        """Return x as a sequence (1, N, I), and whether it came without a batch dimension."""
        if x.ndim == 1:
            check_shape(x.shape, (self.input_size,), "x")
            return x[None, None], True
        check_shape(x.shape, ("N", self.input_size), "x")
        return x[None], False

    def _states(self, state: Any, form: str, N: int, unbatched: bool) -> States:
        """Return a state as arrays (N, H)."""
        H = self.hidden_size
        check_bytes((N, H), self.dtype, "the state")
        shape = (H,) if unbatched else (N, H)
        arrays = as_states(state, self._state_names, form, (shape,) * len(self._state_names), self.dtype)
        return tuple(array.reshape(N, H) for array in arrays)

    def _state_as_given(self, states: States, unbatched: bool) -> State:
        arrays = tuple(array[0] if unbatched else array for array in states)
        return arrays if len(arrays) > 1 else arrays[0]  # type: ignore[return-value]

    def __call__(self, x: ArrayLike, state: Any = None, *, n_threads: int | None = None) -> State:
        """Run one step and keep nothing (inference).

        Parameters
        ----------
        x : array_like (N, I) or (I,)
            The input.
        state : optional
            The state before: ``h`` for an RNNCell or GRUCell, ``(h, c)`` for an LSTMCell, each (N, H), or (H,) for one
            row. Zeros by default.
        n_threads : int, optional
            The most threads to use: fewer, where other threads compute already. By default as many as pay for work of
            this size, up to `get_num_threads()`. Results do not depend on it.

        Returns
        -------
        state : as `state`
            The state after.

        Raises
        ------
        TypeError
            If something is no array of real numbers.
        ValueError
            If a shape does not fit.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> rc.RNNCell(3, 5, rng=0)(np.ones(3)).shape
        (5,)
        """
        weights = self._weights
        threads = 0 if n_threads is None else as_threads(n_threads)
        quick = (weights.stack or self._stack(weights)).advance(x, state, threads)
        return self._advance(weights, x, state, threads, False)[0] if quick is None else quick

    def forward(self, x: ArrayLike, state: Any = None, *, n_threads: int | None = None) -> tuple[State, Tape]:
        """Run one step and keep what `backward` needs (training).

        Parameters
        ----------
        x, state, n_threads
            As for a call.

        Returns
        -------
        state
            As from a call.
        tape : Tape
            For `backward`: immutable, usable several times, valid until the parameters change. It refers to `x`
            where `x` needed no conversion; everything else is its own.

        Raises
        ------
        TypeError, ValueError
            As a call does.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> (h, c), tape = rc.LSTMCell(3, 5, rng=0).forward(np.ones((2, 3)))
        >>> h.shape, c.shape
        ((2, 5), (2, 5))
        """
        weights = self._weights
        after, kept = self._advance(weights, x, state, as_threads(n_threads), True)
        return after, Tape(self, weights, kept)

    def _stack(self, weights: Weights) -> Stack:
        """Return what runs a step with these weights where nothing needs a conversion."""
        weights.stack = stack = Stack(self._cell, packs(weights), self.dtype, False)
        return stack

    def _advance(
        self, weights: Weights, x: ArrayLike, state: Any, threads: int, keep: bool
    ) -> tuple[State, tuple[Any, ...]]:
        given, state = as_array(x, "x"), open_state(state, self._state_names, "{}")
        seq, unbatched = self._step(as_real(given, self.dtype, "x"))
        initial = self._states(state, "{}", seq.shape[1], unbatched)
        finals = tuple(np.empty_like(s) for s in initial)
        run = self._cell.forward if keep else self._cell.infer
        initial_1, finals_1 = tuple(s[None] for s in initial), tuple(s[None] for s in finals)
        kept = run(packs(weights), seq, initial_1, 0, None, finals_1, (False,), threads)
        return self._state_as_given(finals, unbatched), (unbatched, seq, kept)

    def backward(
        self,
        tape: Tape,
        dstate: Any = None,
        *,
        accumulate: Mapping[str, np.ndarray] | None = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray, State, dict[str, np.ndarray]]:
        """Propagate gradients back through one step.

        Parameters
        ----------
        tape : Tape
            From `forward`.
        dstate : optional
            Gradient of the loss with respect to the state after, in its shape. None stands for zeros.
        accumulate : dict of str to ndarray, optional
            Arrays keyed and shaped like `parameters()`, of the cell's dtype and C-contiguous, which the parameters'
            gradients are added to: over the steps of a sequence, without arrays of their own for each.
        n_threads : int, optional
            As for a call. With the panels engine, gradients do not depend on it.

        Returns
        -------
        dx : ndarray
            Gradient with respect to `x`, in its shape.
        dstate : as `dstate`
            Gradient with respect to the state before.
        grads : dict of str to ndarray
            Gradients of the parameters, keyed like `parameters()`: new arrays, or those of `accumulate`.

        Raises
        ------
        TypeError
            If something is no array of real numbers, or `tape` no tape.
        ValueError
            If a shape does not fit, or the tape is another cell's or older than the parameters.

        Notes
        -----
        Everything is checked before any array of `accumulate` changes.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> cell = rc.RNNCell(3, 5, rng=0)
        >>> h, tape = cell.forward(np.ones((2, 3)))
        >>> dx, dh, grads = cell.backward(tape, np.ones_like(h))
        >>> dx.shape, dh.shape
        ((2, 3), (2, 5))
        """
        unbatched, seq, kept = open_tape(tape, self)
        threads = as_threads(n_threads)
        dstates = tuple(s.copy() for s in self._states(dstate, "d{}", seq.shape[1], unbatched))
        dx = np.empty_like(seq)
        grads = self._grads(tape._weights, accumulate)
        named = {short: grads[name] for short, name in NAMES.items() if name in grads}
        self._cell.backward(
            packs(tape._weights), seq, kept, None, 0, tuple(s[None] for s in dstates), 0, (dx,),
            (named,), (False,), False, threads,
        )  # fmt: skip
        return dx[0, 0] if unbatched else dx[0], self._state_as_given(dstates, unbatched), grads


class RNNCell(_RecurrentCell[np.ndarray]):
    """One step of a vanilla RNN: equations (1) and (2) of `RNN`.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    bias : bool
        Whether bias_ih and bias_hh exist.
    nonlinearity : {"tanh", "relu", "sigmoid"}
        The activation.
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
    Parameters are ``weight_ih`` (H, I), ``weight_hh`` (H, H), ``bias_ih`` and ``bias_hh`` (H,).

    Examples
    --------
    >>> import numpy as np, rnncore as rc
    >>> cell = rc.RNNCell(3, 5, rng=0)
    >>> h = cell(np.ones((2, 3)))
    >>> h = cell(np.ones((2, 3)), h)
    >>> h.shape
    (2, 5)
    """

    _gates = 1
    _state_names = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: DTypeLike = "float32",
        rng: RNG = None,
    ) -> None:
        self.nonlinearity = as_nonlinearity(nonlinearity)
        super().__init__(input_size, hidden_size, bias, dtype, rng)

    @property
    def _cell(self) -> Cell:
        return _rnn.cells[self.nonlinearity]

    def _repr_words(self) -> list[str]:
        return [] if self.nonlinearity == "tanh" else [f"nonlinearity={self.nonlinearity!r}"]


class LSTMCell(_RecurrentCell[tuple[np.ndarray, np.ndarray]]):
    """One step of an LSTM: equations (1) to (7) of `LSTM`.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    bias : bool
        Whether bias_ih and bias_hh exist.
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
    Parameters are ``weight_ih`` (4*H, I), ``weight_hh`` (4*H, H), ``bias_ih`` and ``bias_hh`` (4*H,), their rows in
    the order i f g o.

    Examples
    --------
    >>> import numpy as np, rnncore as rc
    >>> cell = rc.LSTMCell(3, 5, rng=0)
    >>> (h, c), tape = cell.forward(np.ones((2, 3)))
    >>> dx, (dh, dc), grads = cell.backward(tape, (np.ones_like(h), np.zeros_like(c)))
    >>> dx.shape, grads["bias_ih"].shape
    ((2, 3), (20,))
    """

    _gates = 4
    _state_names = ("h", "c")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        rng: RNG = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, dtype, rng)

    @property
    def _cell(self) -> Cell:
        return _lstm.cell


class GRUCell(_RecurrentCell[np.ndarray]):
    """One step of a GRU: equations (1) to (6) of `GRU`.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    bias : bool
        Whether bias_ih and bias_hh exist.
    reset_after : bool
        Whether r is applied after the product with W_hn, or before it.
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
    Parameters are ``weight_ih`` (3*H, I), ``weight_hh`` (3*H, H), ``bias_ih`` and ``bias_hh`` (3*H,), their rows in
    the order r z n.

    Examples
    --------
    >>> import numpy as np, rnncore as rc
    >>> cell = rc.GRUCell(3, 5, rng=0)
    >>> h, tape = cell.forward(np.ones((2, 3)))
    >>> dx, dh, grads = cell.backward(tape, np.ones_like(h))
    >>> dx.shape, grads["bias_hh"].shape
    ((2, 3), (15,))
    """

    _gates = 3
    _state_names = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        reset_after: bool = True,
        dtype: DTypeLike = "float32",
        rng: RNG = None,
    ) -> None:
        self.reset_after = as_bool(reset_after, "reset_after")
        super().__init__(input_size, hidden_size, bias, dtype, rng)

    @property
    def _cell(self) -> Cell:
        return _gru.cells[self.reset_after]

    def _repr_words(self) -> list[str]:
        return [] if self.reset_after else ["reset_after=False"]
