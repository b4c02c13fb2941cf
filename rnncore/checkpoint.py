"""Checkpoints: forward passes that keep the states every so many steps, and run the steps in between again to go back.

A part of the stack runs chunk by chunk, forwards and then backwards again: all layers, in one direction. The upper
layers of a bidirectional stack need all of the lower ones' sequences: a part is there one layer in one direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ._kernels.cell import Ragged
from .dropout import drop
from .sequences import chunks, first_row, packed, piece
from .weights import Weights

if TYPE_CHECKING:
    from .recurrent import RowNorms, States, _Recurrent

__all__ = ["CHECKPOINT_FROM", "Part", "back_checkpointed", "run_checkpointed"]

CHECKPOINT_FROM = 25_000_000  # elements of a tape from which on there are checkpoints by default


class Part(NamedTuple):
    """What of a stack runs at once: layers, each reading the one before, directions, and their entries of states."""

    layers: range
    directions: range
    entries: slice


def parts_of(layer: _Recurrent[Any]) -> list[Part]:
    layers, directions, _ = layer._whole
    if len(directions) == 1:
        return [layer._whole]
    return [Part(range(l, l + 1), range(d, d + 1), slice(2 * l + d, 2 * l + d + 1)) for l in layers for d in directions]


def run_checkpointed(
    layer: _Recurrent[Any],
    weights: Weights,
    seq: np.ndarray,
    initial: States,
    finals: States,
    y: np.ndarray,
    n_threads: int,
    ragged: Ragged | None,
    key: np.ndarray | None,
    steps: int,
) -> tuple[tuple[np.ndarray, States], ...]:
    """Run over seq (T, N, I), a view, into y and finals; return each part's input, and its states before each chunk."""
    T, N, width = y.shape
    parts = parts_of(layer)
    x = seq if len(parts) == 1 or ragged is None else packed(seq, ragged)
    count = len(list(chunks(T if ragged is None else ragged.T, steps, False)))
    kept = []
    for part in parts:
        last = part.layers[-1] + 1 == layer.num_layers
        if part.directions[0] == 0:
            out = y if last else np.empty((T, N, width) if ragged is None else (ragged.rows, width), layer.dtype)
        saved = tuple(np.empty((count, *s[part.entries].shape), layer.dtype) for s in initial)
        after = layer._infer(weights, x, initial, out, n_threads, ragged, steps, saved, key, part)
        for final, state in zip(finals, after, strict=True):
            final[part.entries] = state[part.entries]
        kept.append((x, saved))
        if not last and part.directions[-1] == 1:
            if key is not None:
                drop(out, layer.dropout, key, part.layers[-1])
            x = out
    return tuple(kept)


def back_checkpointed(
    layer: _Recurrent[Any],
    weights: Weights,
    kept: Sequence[tuple[np.ndarray, States]],
    dy: np.ndarray | None,
    dstates: States,
    grads: dict[str, np.ndarray],
    ragged: Ragged | None,
    key: np.ndarray | None,
    steps: int,
    n_threads: int,
    row_norms: RowNorms | None,
    fresh: bool,
    of_x: bool,
) -> np.ndarray | None:
    """Run backwards from `kept`, as `_Recurrent._run_back` does, and dy (T, N, D*P), a view; return dx (T, N, I), or
    packed, or None unless it is wanted, `of_x`."""
    _, N, _ = dstates[0].shape
    upstream = dy
    parts = parts_of(layer)
    initial, finals = tuple(np.empty_like(s) for s in dstates), tuple(np.empty_like(s) for s in dstates)
    for part, (x, saved) in reversed(list(zip(parts, kept, strict=True))):
        if part.directions[-1] + 1 == len(layer._directions):  # of a layer's directions, the second comes first
            wanted = of_x or part.layers[0] > 0
            dx = np.zeros(x.shape, layer.dtype) if wanted else None
            if key is not None and part.layers[-1] + 1 < layer.num_layers and upstream is not None:
                drop(upstream, layer.dropout, key, part.layers[-1])
        T, new = len(x) if ragged is None else ragged.T, fresh
        for i, t_0, t_1 in reversed(list(chunks(T, steps, layer._directions[part.directions[0]]))):
            cut = None if ragged is None else ragged.cut(t_0, t_1)
            first, end = first_row(N, ragged, t_0), first_row(N, ragged, t_1)
            for state, states in zip(initial, saved, strict=True):
                state[part.entries] = states[i]
            x_part = piece(x, ragged, t_0, t_1)
            dx_part = None if dx is None else piece(dx, ragged, t_0, t_1)
            dy_part = None if upstream is None else piece(upstream, ragged, t_0, t_1)
            tapes = layer._run(weights, x_part, initial, finals, None, n_threads, cut, True, key, first, part)
            rows = None if row_norms is None else tuple(tuple(s[first:end] for s in of_k) for of_k in row_norms)
            into = dx_part if len(parts) == 1 else None
            back = layer._run_back(
                weights, tapes, dy_part, dstates, grads, cut, key, n_threads, rows, new, first, part, into, wanted
            )
            new = False
            if dx_part is not None and into is None:
                dx_part += back
        if part.directions[0] == 0:
            upstream = dx
    return dx
