"""Truncated backpropagation through time: a long sequence in windows, with the state carried from one to the next."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike

from ..checks import as_array, as_lengths, as_threads, positive_int
from ..recurrent import RNG, _Recurrent
from ..tape import Tape

__all__ = ["truncated_bptt"]

State = TypeVar("State")


@dataclass(frozen=True, eq=False, repr=False)
class Window(Generic[State]):
    """A stretch of a sequence that gradients cross, and the new outputs at its end; made by `truncated_bptt`.

    Attributes
    ----------
    first : int
        The time at which the window begins: `start`, or up to k2 - k1 steps before it.
    start, stop : int
        Times of the new outputs, the second one excluded. The window ends with them.
    y : ndarray
        The new outputs, laid out like x.
    state : as the layer's
        The state after the window's last step.
    """

    first: int
    start: int
    stop: int
    y: np.ndarray
    state: State
    _layer: _Recurrent[State]
    _tape: Tape
    _N: int
    _unbatched: bool
    _n_threads: int | None

    @overload
    def backward(
        self,
        dy: ArrayLike | None = None,
        dstate: Any = None,
        *,
        accumulate: Mapping[str, np.ndarray] | None = None,
        flow: Literal[False] = False,
        check_finite: bool = False,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]: ...
    @overload
    def backward(
        self,
        dy: ArrayLike | None = None,
        dstate: Any = None,
        *,
        accumulate: Mapping[str, np.ndarray] | None = None,
        flow: Literal[True],
        check_finite: bool = False,
    ) -> tuple[np.ndarray, dict[str, np.ndarray], State]: ...
    def backward(
        self,
        dy: ArrayLike | None = None,
        dstate: Any = None,
        *,
        accumulate: Mapping[str, np.ndarray] | None = None,
        flow: bool = False,
        check_finite: bool = False,
    ) -> Any:
        """Propagate gradients back to the beginning of the window, and no further.

        Parameters
        ----------
        dy : array_like, optional
            Gradient of the loss with respect to `y`, in its shape. None stands for zeros.
        dstate : optional
            Gradient with respect to `state`, in its shape.
        accumulate, flow, check_finite
            As for the layer's `backward`.

        Returns
        -------
        dx : ndarray
            Gradient with respect to x from `first` to `stop`, laid out like x.
        grads : dict of str to ndarray
            Gradients of the parameters, keyed like `parameters()`.
        flow
            With ``flow=True``: as from the layer's `backward`, for the times from `first` to `stop`.

        Raises
        ------
        TypeError, ValueError
            As the layer's `backward` does, with times that count from `first`: also if the parameters have changed
            since the window was made.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> rnn = rc.RNN(3, 5, rng=0)
        >>> dx = [w.backward(np.ones_like(w.y))[0] for w in rc.train.truncated_bptt(rnn, np.ones((100, 2, 3)), 40, 50)]
        >>> [d.shape for d in dx]
        [(40, 2, 3), (50, 2, 3), (30, 2, 3)]
        """
        layer, older_steps = self._layer, self.start - self.first
        if dy is not None:
            given = layer._sequence_like_y(dy, "dy", self.stop - self.start, self._N, self._unbatched)
            older = np.zeros((older_steps, *given.shape[1:]), layer.dtype)  # their errors were injected before
            dy = layer._as_given(np.concatenate([older, given]), self._unbatched)
        dx, _, *rest = layer.backward(
            self._tape,
            dy,
            dstate,
            accumulate=accumulate,
            flow=flow,  # type: ignore[call-overload]
            check_finite=check_finite,
            n_threads=self._n_threads,
        )
        return dx, *rest

    def __repr__(self) -> str:
        return f"<Window of {self._layer!r}: times {self.first} to {self.stop}, new from {self.start}>"


def truncated_bptt(
    layer: _Recurrent[State],
    x: ArrayLike,
    k1: int,
    k2: int | None = None,
    state: Any = None,
    *,
    lengths: ArrayLike | None = None,
    rng: RNG = None,
    n_threads: int | None = None,
) -> Iterator[Window[State]]:
    """Return an iterator over the windows of a long sequence: k1 new outputs each, gradients over k2 steps.

    Parameters
    ----------
    layer : RNN, LSTM, GRU or JordanRNN
        In one direction, forwards.
    x : array_like (T, N, I), or (N, T, I) with `batch_first`, or (T, I) unbatched
        The sequence. It is referred to, not copied, where it needs no conversion.
    k1 : int
        Steps between one window's end and the next; the last window has fewer new outputs if T is no multiple.
    k2 : int, optional
        The most steps that gradients are propagated back through: at least k1, the default.
    state : optional
        The initial state, zeros by default; copied.
    lengths : array_like of int (N,), optional
        The steps of each sequence. A sequence that has ended keeps its state.
    rng : numpy.random.Generator, int or None
        Draws dropout masks, a new one for each window.
    n_threads : int, optional
        As for the layer.

    Returns
    -------
    iterator of Window
        With the times ``first``, ``start`` and ``stop``, the new outputs ``y``, the ``state`` after them, and
        ``backward(dy, dstate)``, which takes their gradients and returns ``dx`` of the window and the parameters', with
        ``accumulate``, ``flow`` and ``check_finite`` as for the layer.

    Raises
    ------
    TypeError
        If `layer` is no recurrent layer, k1 or k2 no integer, or something no array of real numbers.
    ValueError
        If the layer is bidirectional or reversed, k1 is below 1 or k2 below k1, a shape does not fit, or a length is
        out of range. All of it at once, not with the first window.

    Notes
    -----
    The windows are ``[max(0, s - (k2 - k1)), min(s + k1, T))`` for s = 0, k1, 2*k1, …: the gradient of an output takes
    in at least k2 - k1 + 1 steps, where there are as many, and at most k2. With k1 = k2 windows do not overlap; with
    k1 = k2 >= T there is one, and gradients are those of the layer's `backward`; with k1 = 1 the truncation is the same
    at every output.

    A window is computed when it is asked for, with the parameters as they are then; call its `backward` before they
    change. The state at its beginning, a constant to the gradient, is the one that the window before went through,
    with the parameters of that time. Where windows overlap it is found by inference (with dropout, by a forward pass
    that draws the window's mask again) over up to k1 steps, before the window is handed out.

    References
    ----------
    R. J. Williams, J. Peng, An efficient gradient-based algorithm for on-line training of recurrent network
    trajectories, Neural Computation 2(4), 490-501 (1990), doi:10.1162/neco.1990.2.4.490

    Examples
    --------
    Learn to hold an input for three steps:

    >>> import numpy as np
    >>> import rnncore as rc
    >>> from rnncore.train import Adam, Linear, mean_squared_error, truncated_bptt
    >>> gru, head = rc.GRU(1, 16, rng=0), Linear(16, 1, rng=1)
    >>> adam = Adam([gru, head], lr=0.02)
    >>> x = np.random.default_rng(2).choice([-1.0, 1.0], (3000, 8, 1))
    >>> for window in truncated_bptt(gru, x, k1=5, k2=10):
    ...     z, tape = head.forward(window.y)
    ...     target = np.roll(x, 3, axis=0)[window.start : window.stop]
    ...     loss, dz = mean_squared_error(z, target, reduction="mean")
    ...     dy, head_grads = head.backward(tape, dz)
    ...     dx, grads = window.backward(dy)
    ...     adam.step([grads, head_grads])
    >>> loss < 0.01
    True
    """
    if not isinstance(layer, _Recurrent):
        raise TypeError(f"expected a recurrent layer, got {layer!r:.80}")
    if layer.bidirectional or layer.reverse:
        kind = "bidirectional" if layer.bidirectional else "reversed"
        raise ValueError(f"expected a layer that runs forwards in time, to carry its state, got a {kind} one")
    k1 = positive_int(k1, "k1")
    k2 = k1 if k2 is None else positive_int(k2, "k2")
    if k2 < k1:
        raise ValueError(f"expected k2 >= k1, got k1={k1} and k2={k2}")
    as_threads(n_threads)
    x, generator = as_array(x, "x"), np.random.default_rng(rng)
    state, lengths = layer._opened(state, "{}_0", lengths)
    seq, unbatched = layer._sequence(x, layer.input_size, "x")
    T, N, _ = seq.shape
    initial = layer._state_as_given(layer._states(state, "{}_0", N, unbatched), unbatched)
    ragged = layer._ragged(lengths, N, T, unbatched) is not None
    steps = as_lengths(lengths, N, unbatched).copy() if ragged else None
    return _windows(layer, seq, unbatched, k1, k2, copy.deepcopy(initial), steps, generator, n_threads)


def _windows(
    layer: _Recurrent[State],
    seq: np.ndarray,
    unbatched: bool,
    k1: int,
    k2: int,
    state: State,
    lengths: np.ndarray | None,
    rng: np.random.Generator,
    n_threads: int | None,
) -> Iterator[Window[State]]:
    T, N, _ = seq.shape

    def part(first: int, stop: int) -> tuple[np.ndarray, dict[str, Any]]:
        steps = None if lengths is None else np.clip(lengths - first, 0, stop - first)
        return layer._as_given(seq[first:stop], unbatched), {"lengths": steps, "n_threads": n_threads}

    for start in range(0, T, k1):
        first, following = (max(0, s - (k2 - k1)) for s in (start, start + k1))
        stop = min(start + k1, T)
        x, options = part(first, stop)
        same = copy.deepcopy(rng) if layer.dropout else rng
        y, end, tape = layer.forward(x, state, rng=rng, **options)
        if following >= stop:
            state = copy.deepcopy(end)  # the window's own is the caller's
        elif stop < T:
            x, options = part(first, following)
            if layer.dropout:
                _, state, _ = layer.forward(x, state, rng=same, **options)
            else:
                _, state = layer(x, state, return_sequence=False, **options)
        new = y[:, start - first :] if layer.batch_first and not unbatched else y[start - first :]
        yield Window(first, start, stop, new, end, layer, tape, N, unbatched, n_threads)
