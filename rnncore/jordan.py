"""Recurrence from the output: `JordanRNN`, and teacher forcing, which makes its time parallel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from ._kernels import rnn as _rnn
from ._kernels.cell import Cell, Ragged
from .checkpoint import Part
from .checks import as_array, as_bool, as_checkpoint, as_dtype, as_lengths, as_threads, positive_int
from .layers import as_nonlinearity
from .recurrent import RNG, RowNorms, States, _Recurrent, uniform
from .sequences import packed, unpack
from .tape import Tape
from .weights import Module, Weights, once

__all__ = ["JordanRNN"]

JORDAN_NAMES = {
    "W_ih": "weight_ih",
    "W_hh": "weight_oh",
    "b_ih": "bias_h",
    "W_hr": "weight_ho",
    "b_hr": "bias_o",
}


class JordanRNN(_Recurrent[np.ndarray]):
    """RNN whose recurrence runs from its output, not from its hidden units.

    Parameters
    ----------
    input_size, hidden_size, output_size : int
        I, H and O.
    nonlinearity : {"tanh", "relu", "sigmoid"}
        f below.
    output_nonlinearity : {"identity", "sigmoid", "tanh", "softmax"}
        g below.
    bias : bool
        Whether b_h and b_o exist.
    batch_first : bool
        Whether sequences are (N, T, ·) instead of (T, N, ·). States are not affected.
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
    Math::

        (1)  a_t = W_ih x_t + W_oh o_{t-1} + b_h
        (2)  h_t = f(a_t)
        (3)  s_t = W_ho h_t + b_o
        (4)  o_t = g(s_t)

    The textbook's U, W, V, b and c are W_ih, W_oh, W_ho, b_h and b_o. The result is the sequence of outputs, y (T, N,
    O), and the state is the last of them, ``o`` (N, O), or (O,) unbatched. Parameters are named ``weight_ih_l0`` (H,
    I), ``weight_oh_l0`` (H, O), ``bias_h_l0`` (H,), ``weight_ho_l0`` (O, H) and ``bias_o_l0`` (O,).

    What h_t knows of the past is what the outputs say: less than hidden recurrence can remember. In return, training
    needs no recurrence where the outputs of the past are known (`forward` with `targets`): all steps run at once.

    References
    ----------
    M. I. Jordan, Serial order: a parallel distributed processing approach, Institute for Cognitive Science report 8604,
    University of California, San Diego (1986); I. Goodfellow, Y. Bengio, A. Courville, Deep Learning (2016), section
    10.2

    Examples
    --------
    >>> import numpy as np, rnncore as rc
    >>> rnn = rc.JordanRNN(3, 5, 2, output_nonlinearity="softmax", rng=0)
    >>> y, o_n = rnn(np.ones((7, 4, 3)))
    >>> y.shape, o_n.shape, np.allclose(y.sum(axis=2), 1)
    ((7, 4, 2), (4, 2), True)
    """

    _gates = 1
    _state_names = ("o",)
    _names = JORDAN_NAMES
    _stacked = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        nonlinearity: str = "tanh",
        output_nonlinearity: str = "identity",
        bias: bool = True,
        batch_first: bool = False,
        *,
        dtype: DTypeLike = "float32",
        rng: RNG = None,
    ) -> None:
        self.input_size = I = positive_int(input_size, "input_size")
        self.hidden_size = H = positive_int(hidden_size, "hidden_size")
        self.output_size = O = positive_int(output_size, "output_size")
        self.nonlinearity = as_nonlinearity(nonlinearity)
        if not isinstance(output_nonlinearity, str) or output_nonlinearity not in _rnn.OUTPUTS:
            known = ", ".join(_rnn.OUTPUTS)
            raise ValueError(f"expected output_nonlinearity to be one of {known}, got {output_nonlinearity!r}")
        self.output_nonlinearity = output_nonlinearity
        self.bias = as_bool(bias, "bias")
        self.batch_first = as_bool(batch_first, "batch_first")
        self.num_layers, self.bidirectional, self.reverse, self.dropout = 1, False, False, 0.0
        numbers = as_dtype(dtype)
        Module.__init__(self, numbers, uniform(self._shapes(I, H, O, self.bias), H, numbers, rng))

    @classmethod
    def _shapes(  # type: ignore[override]
        cls, input_size: int, hidden_size: int, output_size: int, bias: bool
    ) -> dict[str, tuple[int, ...]]:
        I, H, O = input_size, hidden_size, output_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih_l0": (H, I), "weight_oh_l0": (H, O)}
        shapes |= {"bias_h_l0": (H,)} if bias else {}
        shapes |= {"weight_ho_l0": (O, H)}
        return shapes | ({"bias_o_l0": (O,)} if bias else {})

    @property
    def _cell(self) -> Cell:
        return _rnn.jordan_cells[self.nonlinearity, self.output_nonlinearity]

    @once
    def _widths(self) -> tuple[int, ...]:
        return (self.output_size,)

    def __repr__(self) -> str:
        words = [str(n) for n in (self.input_size, self.hidden_size, self.output_size)]
        words += [] if self.nonlinearity == "tanh" else [f"nonlinearity={self.nonlinearity!r}"]
        if self.output_nonlinearity != "identity":
            words.append(f"output_nonlinearity={self.output_nonlinearity!r}")
        words += [] if self.bias else ["bias=False"]
        words += ["batch_first=True"] * self.batch_first
        words += [f"dtype={self.dtype.name!r}"] if self.dtype != np.float32 else []
        return f"JordanRNN({', '.join(words)})"

    def forward(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | None = None,
        checkpoint: int | None = None,
        targets: ArrayLike | None = None,
        rng: RNG = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray, Tape]:
        """Run over a sequence and keep what `backward` needs (training).

        Parameters
        ----------
        x, state, lengths, n_threads
            As for a call.
        checkpoint
            As for the other layers' `forward`. With `targets`, where nothing recurs, all is kept whatever it says.
        targets : array_like, optional
            What the outputs should be, in the shape of `y`. With them (teacher forcing), step t reads targets[t-1] in
            place of o_{t-1}, and no step waits for another; without (free running), what the network itself said.
        rng : optional
            Not used: there is no dropout. Here for the sake of one signature.

        Returns
        -------
        y : ndarray
            The outputs, as from a call.
        state : ndarray
            The last output.
        tape : Tape
            As from the other layers' `forward`. With `targets`, `backward` passes no gradient from step to step, and
            none to the targets.

        Raises
        ------
        TypeError, ValueError
            As a call does.

        Notes
        -----
        The tape holds (N+S)*O and S*H elements, S being T*N or the sum of `lengths`; with `targets`, 2*S*O, S*H, and
        S*I for `x`.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> rnn = rc.JordanRNN(3, 5, 2, rng=0)
        >>> x, targets = np.ones((7, 4, 3)), np.zeros((7, 4, 2))
        >>> y, o_n, tape = rnn.forward(x, targets=targets)
        >>> dx, do_0, grads = rnn.backward(tape, y - targets)
        >>> dx.shape, do_0.shape, sorted(grads)[0]
        ((7, 4, 3), (4, 2), 'bias_h_l0')
        """
        if targets is None:
            return super().forward(x, state, lengths=lengths, checkpoint=checkpoint, n_threads=n_threads)
        weights = self._weights
        threads = as_threads(n_threads)
        as_checkpoint(checkpoint)
        x, targets = as_array(x, "x"), as_array(targets, "targets")
        state, lengths = self._opened(state, "{}_0", lengths)
        seq, unbatched = self._sequence(x, self.input_size, "x")
        T, N, _ = seq.shape
        (o_0,) = self._states(state, "{}_0", N, unbatched)
        given = self._sequence_like_y(targets, "targets", T, N, unbatched)
        forced = Forced(np.full(N, T) if lengths is None else as_lengths(lengths, N, unbatched), T)
        before = np.concatenate([o_0, given[:-1]])[: T or 1]  # (T, N, O), or o_0 alone
        y = self._output(None, (), (T, N, self.output_size), unbatched)
        y.fill(0)
        rows = np.empty((1, forced.rows, self.output_size), self.dtype)
        x_rows, initial = packed(seq, forced)[None], packed(before, forced)[None]
        kept = self._run(weights, x_rows, (initial,), (np.empty_like(initial),), rows, threads, keep=True)
        unpack(rows[0], forced, y)
        o_n = np.concatenate([o_0, y])[forced.lengths, np.arange(N)][None]
        tape = Tape(self, weights, (unbatched, (T, N), forced, None, 0, *kept))
        return self._as_given(y, unbatched), self._state_as_given((o_n,), unbatched), tape

    def _run_back(
        self,
        weights: Weights,
        kept: Sequence[tuple[np.ndarray, Any]],
        upstream: np.ndarray | None,
        dstates: States,
        grads: dict[str, np.ndarray],
        ragged: Ragged | Forced | None,
        key: np.ndarray | None,
        n_threads: int,
        row_norms: RowNorms | None = None,
        fresh: bool = False,
        first: int = 0,
        part: Part | None = None,
        dx: np.ndarray | None = None,
        of_x: bool = True,
    ) -> np.ndarray | None:
        if not isinstance(ragged, Forced):
            return super()._run_back(
                weights, kept, upstream, dstates, grads, ragged, key, n_threads, row_norms, fresh, first, part, dx, of_x
            )
        (do,) = dstates
        dy = np.zeros((ragged.rows, self.output_size), self.dtype) if upstream is None else packed(upstream, ragged)
        last = ragged.times == ragged.lengths[ragged.places] - 1  # the final state is the last output
        dy[last] += do[0, ragged.places[last]]
        before = np.zeros((1, len(dy), self.output_size), self.dtype)
        dx = super()._run_back(
            weights, kept, dy[None], (before,), grads, None, key, n_threads, row_norms, fresh, of_x=of_x
        )
        first = ragged.times == 0
        do[0, ragged.places[first]] = before[0, first]
        return None if dx is None else dx[0]


class Forced:
    """The rows of sequences whose steps do not wait for each other: all at one time, in order of time. In place of a
    `Ragged`: `order` is the caller's."""

    def __init__(self, lengths: np.ndarray, T: int) -> None:
        self.lengths, self.order = lengths.copy(), np.arange(len(lengths))
        self.times, self.places = Ragged(lengths, T).where()
        self.rows = len(self.times)

    def where(self) -> tuple[np.ndarray, np.ndarray]:
        return self.times, self.places
