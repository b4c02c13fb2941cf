"""Cases of one's own: a mode, and the cells, sizes, dtypes and threads to go through in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from .. import runtime
from ..checks import positive_int
from . import limits
from .peers import Case
from .presets import chosen

__all__ = ["MODES", "Mode", "cases"]

SIZES, QUICK_SIZES = (64, 128, 256, 512), (64, 256)
BATCHES, QUICK_BATCHES = (1, 8, 32), (1, 32)
DTYPES = ("float32", "float64")
STEPS = 100  # of a sequence


@dataclass(frozen=True)
class Mode:
    """What all its cases have in common, and their batches if nobody says otherwise."""

    what: str
    case: Mapping[str, Any]
    batches: tuple[int, ...] = BATCHES
    steps: int = STEPS


MODES = {
    "inference": Mode("a sequence in one call", {"kind": "sequence"}),
    "ragged": Mode("sequences of several lengths in one call", {"kind": "sequence", "ragged": True}, (8, 32, 64)),
    "bidirectional": Mode("a stack of two layers, in both directions", {"kind": "sequence", "L": 2, "D": 2}),
    "call": Mode("one step a call, with the state of the last", {"kind": "call"}, (1,), 1),
    "stream": Mode("one step of a stream a call", {"kind": "stream"}, (1,), 1),
    "training": Mode("forward and backward, all gradients", {"kind": "training"}),
    "ragged-training": Mode(
        "the same for sequences of several lengths", {"kind": "training", "ragged": True}, (8, 32, 64)
    ),
    "memory": Mode("bytes that gradients take", {"kind": "memory"}),
}


def cases(
    *,
    cell: Sequence[str] | None = None,
    mode: Sequence[str] | None = None,
    hidden: Sequence[int] | None = None,
    batch: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    dtype: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    quick: bool = False,
) -> tuple[Case, ...]:
    """Return every combination; by default an LSTM's inference in float32 on one thread, over some sizes and batches.

    Parameters
    ----------
    cell, mode, dtype : sequence of str, optional
    hidden, batch, steps, threads : sequence of int, optional
        H, which is I too; N; T, which modes of single steps do not have; and threads.
    quick : bool
        Whether the defaults are few.

    Raises
    ------
    ValueError
        If a word is unknown, a number not positive, or this machine has not so many CPUs.
    """
    cells = chosen(cell or ["lstm"], limits.GATES, "cells")
    modes = [MODES[name] for name in chosen(mode or ["inference"], MODES, "modes")]
    dtypes = chosen(dtype or DTYPES[:1], DTYPES, "dtypes")
    sizes = hidden or (QUICK_SIZES if quick else SIZES)
    numbers = threads or [1]
    for name, values in (("hidden", sizes), ("batch", batch), ("steps", steps), ("threads", numbers)):
        for value in values or ():
            positive_int(value, name)
    if max(numbers) > runtime.usable_cpus():
        raise ValueError(f"expected at most {runtime.usable_cpus()} threads on this machine, got {max(numbers)}")
    found: dict[Case, None] = {}
    for one, name, kind, number in product(modes, cells, dtypes, numbers):
        batches = batch or [N for N in one.batches if not quick or N in QUICK_BATCHES]
        times = [1] if one.steps == 1 else steps or [one.steps]
        for H, N, T in product(sizes, batches, times):
            found[Case(cell=name, dtype=kind, threads=number, H=H, N=N, T=T, **one.case)] = None  # type: ignore[arg-type]
    return tuple(found)
