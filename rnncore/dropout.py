"""Dropout between layers: masks that are a function of key, layer and place."""

from __future__ import annotations

import numpy as np

__all__ = ["drop", "dropout_key"]

DROP_ROWS = 512  # that one counter of a mask's generator draws


def drop(y: np.ndarray, p: float, key: np.ndarray, layer: int, first: int = 0) -> None:
    """Multiply rows of a layer's sequence, or of its gradient, with its dropout mask, in place; `first` is the first's
    place in the whole sequence.

    The mask is 0 with probability p, else 1/(1-p). It is a function of key, layer and place: whatever part of it is
    drawn again, it is the same.
    """
    rows = y.reshape(-1, y.shape[-1])
    scale = y.dtype.type(1 / (1 - p) if p < 1 else 0)
    for start in range(first - first % DROP_ROWS, first + len(rows), DROP_ROWS):
        random = np.random.Generator(np.random.Philox(key=key, counter=[0, 0, start // DROP_ROWS, layer]))
        from_, to = max(start, first), min(start + DROP_ROWS, first + len(rows))
        keep = random.random((to - start, rows.shape[1]), np.float32)[from_ - start :] >= p
        rows[from_ - first : to - first] *= keep * scale


def dropout_key(rng: np.random.Generator | np.random.SeedSequence | int | None) -> np.ndarray:
    """Return a key for `drop`, drawn from a generator or made from a seed; without one, a new one."""
    return np.random.default_rng(rng).integers(2**64, size=2, dtype=np.uint64)
