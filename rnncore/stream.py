"""Streaming: one step at a time, with the state kept between them."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from ._kernels.step import Steps
from .checks import as_states, positive_int

__all__ = ["Stream"]

State = TypeVar("State")


class Stream(Steps, Generic[State]):
    """The state of `batch_size` sequences in a layer, moved on step by step; made by `layer.stream()`.

    Parameters
    ----------
    layer : RNN or LSTM
        In one direction, forwards. Its weights at each step are those that count: a change is seen by the next one.
    batch_size : int
        N, the sequences.

    Attributes
    ----------
    state : as the layer's
        ``h`` for an RNN, ``(h, c)`` for an LSTM, each (L, N, H): copies. Assign to go on from another state; None
        stands for zeros.

    Raises
    ------
    TypeError
        If `batch_size` is no integer.
    ValueError
        If the layer is bidirectional or reversed, or `batch_size` is below 1.

    Notes
    -----
    A stream begins with zeros. It holds two states' memory and no weights, and gives the same bits as the layer called
    with the whole sequence. It serves one thread at a time: another one gets a RuntimeError. The GIL is released while
    a step takes longer than a few microseconds.

    Examples
    --------
    >>> import numpy as np, rnncore as rc
    >>> lstm = rc.LSTM(3, 5, rng=0)
    >>> x = np.ones((7, 1, 3), np.float32)
    >>> stream = lstm.stream()
    >>> y = [stream.step(x_t) for x_t in x]
    >>> np.array_equal(np.stack(y), lstm(x)[0])
    True
    """

    def __new__(cls, layer: Any, batch_size: int = 1) -> Stream[State]:
        N = positive_int(batch_size, "batch_size")
        if layer.bidirectional or layer.reverse:
            kind = "bidirectional" if layer.bidirectional else "reversed"
            raise ValueError(f"expected a layer that runs forwards in time, to stream, got a {kind} one")
        layer._check_state(N)
        return super().__new__(cls, layer, N)  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"Stream({self.layer!r}, batch_size={self.batch_size})"

    @property
    def state(self) -> State:
        """The state, a copy."""
        arrays = self._states()
        return arrays if len(arrays) > 1 else arrays[0]  # type: ignore[return-value]

    @state.setter
    def state(self, state: Any) -> None:
        layer = self.layer
        shape = (layer.num_layers, self.batch_size, layer.hidden_size)
        self._set_states(as_states(state, layer._state_names, "", shape, layer.dtype))

    def reset(self, rows: ArrayLike | None = None) -> None:
        """Set the state to zeros.

        Parameters
        ----------
        rows : array_like of int, optional
            Which sequences, from 0 to N-1. All of them by default.

        Raises
        ------
        TypeError
            If `rows` holds no integers.
        ValueError
            If a row is not one of the stream's.
        """
        zeros = (np.zeros((), self.layer.dtype),) * len(self.layer._state_names)
        if rows is None:
            self._set_states(zeros)
            return
        chosen = np.asarray(rows)
        if chosen.size == 0:
            chosen = chosen.astype(np.intp)
        if chosen.dtype.kind not in "iu":
            raise TypeError(f"expected rows to be integers, got {chosen.dtype}")
        wrong = chosen[(chosen < 0) | (chosen >= self.batch_size)]
        if wrong.size:
            raise ValueError(f"expected rows between 0 and {self.batch_size - 1}, got {wrong.flat[0]}")
        self._set_states(zeros, chosen.astype(np.intp).ravel())

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self.layer, self.batch_size, self._states())


def _restored(layer: Any, batch_size: int, arrays: tuple[np.ndarray, ...]) -> Stream[Any]:
    stream: Stream[Any] = Stream(layer, batch_size)
    stream._set_states(arrays)
    return stream
