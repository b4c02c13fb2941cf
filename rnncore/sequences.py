"""Rows of sequences: padded (T, N, ·), or packed, which is in order of time without what is not there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ._kernels.cell import Ragged

__all__ = ["Rows", "chunks", "first_row", "packed", "piece", "unpack", "unsorted"]


class Rows(Protocol):
    """What a sequence's rows are in packed order: a `Ragged`'s, or those of steps that do not wait for each other."""

    @property
    def order(self) -> np.ndarray: ...
    def where(self) -> tuple[np.ndarray, np.ndarray]: ...


def packed(seq: np.ndarray, ragged: Rows) -> np.ndarray:
    """Return the rows there are of a sequence (T, N, ·), a view, in packed order."""
    T, N, width = seq.shape
    times, rows = ragged.where()
    if seq.flags.c_contiguous:
        flat: np.ndarray = seq.reshape(T * N, width).take(times * N + rows, 0)
        return flat
    return np.ascontiguousarray(seq[times, rows])


def unpack(packed_rows: np.ndarray, ragged: Rows, seq: np.ndarray) -> np.ndarray:
    """Write rows in packed order to their places in a contiguous sequence (T, N, ·); return it."""
    T, N, width = seq.shape
    times, rows = ragged.where()
    seq.reshape(T * N, width)[times * N + rows] = packed_rows
    return seq


def unsorted(state: np.ndarray, ragged: Rows) -> np.ndarray:
    """Return a state (K, N, ·) whose sequences are in packed order in the caller's."""
    out: np.ndarray = np.empty_like(state)
    out[:, ragged.order] = state
    return out


def chunks(T: int, steps: int, reverse: bool) -> Iterator[tuple[int, int, int]]:
    """Yield number, beginning and end of each chunk of so many of T steps from t = 0 on, in the order they run in."""
    starts = range(0, T, steps)
    for i, t in enumerate(reversed(starts) if reverse else starts):
        yield i, t, min(t + steps, T)


def first_row(N: int, ragged: Ragged | None, t: int) -> int:
    """Return how many rows come before those of time t."""
    return t * N if ragged is None else ragged.row(t)


def piece(seq: np.ndarray, ragged: Ragged | None, t_0: int, t_1: int) -> np.ndarray:
    """Return the steps from t_0 to t_1 of a sequence, a view: contiguous; or all of a padded one, in which `ragged.cut`
    knows them."""
    if ragged is None:
        return np.ascontiguousarray(seq[t_0:t_1])
    return seq if seq.ndim == 3 else seq[ragged.row(t_0) : ragged.row(t_1)]
