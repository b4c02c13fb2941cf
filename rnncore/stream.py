"""Streaming: one step at a time, with the state kept between them."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from ._kernels.step import Steps
from .checks import as_rows, as_states, check_bytes, positive_int

__all__ = ["Stream"]

State = TypeVar("State")


class Stream(Steps, Generic[State]):
    """The state of `batch_size` sequences in a layer, moved on step by step; made by `layer.stream()`.

    Parameters
    ----------
    layer : RNN, LSTM, GRU, JordanRNN or train.Embedded
        In one direction, forwards. Its weights at each step are those that count: a change is seen by the next one.
    batch_size : int
        N, the sequences.

    Attributes
    ----------
    state : as the layer's
        ``h`` for an RNN or a GRU, ``(h, c)`` for an LSTM, each (L, N, ·); ``o`` (N, O) for a JordanRNN: copies. Assign
        to go on from another state; None stands for zeros. `read` and `write` do it for some of the sequences.

    Raises
    ------
    TypeError
        If `layer` is no recurrent layer, or `batch_size` no integer.
    ValueError
        If the layer is bidirectional or reversed, or `batch_size` is below 1.

    Notes
    -----
    A stream begins with zeros. It holds two states' memory, three once it has stepped some rows alone, and no weights,
    and in the panels engine gives the same bits as the layer called with the whole sequence. It serves one thread at a
    time: another one gets a RuntimeError. The GIL is released while a step takes longer than a few microseconds.

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
        if not hasattr(layer, "_state_shapes") or isinstance(layer, type):
            raise TypeError(f"expected a recurrent layer, got {layer!r:.80}")
        if layer.bidirectional or layer.reverse:
            kind = "bidirectional" if layer.bidirectional else "reversed"
            raise ValueError(f"expected a layer that runs forwards in time, to stream, got a {kind} one")
        for shape in layer._state_shapes(N):
            check_bytes(shape, layer.dtype, "the state")
        return super().__new__(cls, layer, N)  # type: ignore[return-value]

    def __repr__(self) -> str:
        return f"Stream({self.layer!r}, batch_size={self.batch_size})"

    @property
    def state(self) -> State:
        """The state, a copy."""
        return self._as_given(self._states())

    @state.setter
    def state(self, state: Any) -> None:
        self._set_states(self._as_arrays(state, self.batch_size))

    def _as_given(self, arrays: tuple[np.ndarray, ...]) -> State:
        arrays = arrays if self.layer._stacked else tuple(array[0] for array in arrays)
        return arrays if len(arrays) > 1 else arrays[0]  # type: ignore[return-value]

    def _as_arrays(self, state: Any, N: int) -> tuple[np.ndarray, ...]:
        layer = self.layer
        return as_states(state, layer._state_names, "{}", layer._state_shapes(N), layer.dtype)

    def read(self, rows: ArrayLike) -> State:
        """Return the state of some sequences, a copy.

        Parameters
        ----------
        rows : array_like of int
            Which sequences, from 0 to N-1.

        Returns
        -------
        state : as `state`
            With len(rows) in place of N.

        Raises
        ------
        TypeError
            If `rows` holds no integers.
        ValueError
            If a row is not one of the stream's.

        Examples
        --------
        >>> import rnncore as rc
        >>> h, c = rc.LSTM(3, 5, num_layers=2).stream(batch_size=1000).read([7, 512])
        >>> h.shape
        (2, 2, 5)
        """
        return self._as_given(self._states(as_rows(rows, self.batch_size)))

    def write(self, rows: ArrayLike, state: Any) -> None:
        """Set the state of some sequences, as `read` returns it; None stands for zeros.

        Parameters
        ----------
        rows : array_like of int
            Which sequences, from 0 to N-1, each at most once.
        state : as `state`
            With len(rows) in place of N.

        Raises
        ------
        TypeError
            If `rows` holds no integers, or the state no real numbers.
        ValueError
            If a row is not one of the stream's, or there twice, or a shape does not fit.

        Examples
        --------
        >>> import rnncore as rc
        >>> gru = rc.GRU(3, 5, rng=0)
        >>> stream, other = gru.stream(batch_size=1000), gru.stream()
        >>> stream.write([512], other.state)  # it goes on here
        """
        chosen = as_rows(rows, self.batch_size, once=True)
        self._set_states(self._as_arrays(state, len(chosen)), chosen)

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
        self._set_states(zeros, None if rows is None else as_rows(rows, self.batch_size))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.layer, self.batch_size, self._states()), vars(self)


def _restored(kind: type[Stream[Any]], layer: Any, batch_size: int, arrays: tuple[np.ndarray, ...]) -> Stream[Any]:
    stream = kind.__new__(kind, layer, batch_size)
    stream._set_states(arrays)
    return stream
