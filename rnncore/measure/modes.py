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
from .run import chosen

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
SCALING = "scaling"
"""Beside these: one of T, N, H and threads at a time, about the middle of each."""
SWEEPS = {"T": (25, 50, 100, 200, 400, 800), "N": (1, 2, 4, 8, 16, 32, 64), "H": (32, 64, 128, 256, 512)}
QUICK_SWEEPS = {"T": (25, 50, 100, 200), "N": (1, 4, 16, 64), "H": (32, 64, 128, 256)}
MIDDLE = {"T": 100, "N": 8, "H": 128}


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

    Mode "scaling" takes one variable at a time through its range, about the first of the sizes given: inference,
    gradients, and the bytes of either. Without other modes it refuses what it would not look at: more sizes, threads.

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
        If a word is unknown, a number not positive, this machine has not so many CPUs, or no mode looks at a number.
    """
    cells = chosen(cell or ["lstm"], limits.GATES, "cells")
    modes = chosen(mode or ["inference"], (*MODES, SCALING), "modes")
    dtypes = chosen(dtype or DTYPES[:1], DTYPES, "dtypes")
    sizes = hidden or (QUICK_SIZES if quick else SIZES)
    numbers = threads or [1]
    for name, values in (("hidden", sizes), ("batch", batch), ("steps", steps), ("threads", numbers)):
        for value in values or ():
            positive_int(value, name)
    if max(numbers) > runtime.usable_cpus():
        raise ValueError(f"expected at most {runtime.usable_cpus()} threads on this machine, got {max(numbers)}")
    if modes == (SCALING,):
        if threads:
            raise ValueError(f"expected no threads with mode {SCALING} alone, got {list(threads)}")
        for name, values in (("hidden", hidden), ("batch", batch), ("steps", steps)):
            if values and len(values) > 1:
                raise ValueError(f"expected one value of {name} with mode {SCALING} alone, got {list(values)}")
    if steps and all(word != SCALING and MODES[word].steps == 1 for word in modes):
        raise ValueError(f"expected no steps with modes of single steps alone, got {list(steps)}")
    found: dict[Case, None] = {}
    for word, name, kind, number in product(modes, cells, dtypes, numbers):
        if word == SCALING:
            continue
        one = MODES[word]
        batches = batch or [N for N in one.batches if not quick or N in QUICK_BATCHES]
        times = [1] if one.steps == 1 else steps or [one.steps]
        for H, N, T in product(sizes, batches, times):
            found[Case(cell=name, dtype=kind, threads=number, H=H, N=N, T=T, **one.case)] = None  # type: ignore[arg-type]
    if SCALING in modes:
        sweeps = {**(QUICK_SWEEPS if quick else SWEEPS), "threads": limits.thread_numbers(runtime.usable_cpus())}
        middle = MIDDLE | {name: given[0] for name, given in (("H", hidden), ("N", batch), ("T", steps)) if given}
        for work, name, kind in product(("sequence", "training", "memory"), cells, dtypes):
            for variable, values in sweeps.items():
                for value in values if (work, variable) != ("memory", "threads") else ():
                    found[Case(work, name, dtype=kind, **(middle | {variable: value}))] = None  # type: ignore[arg-type]
    return tuple(found)
