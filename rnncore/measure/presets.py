"""Presets: what rnncore is to reach on a grid of cases, row by row."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import geometric_mean, median
from tempfile import TemporaryDirectory
from typing import Any

import rnncore

from .paired import Interval
from .peers import LIMIT, PEERS, Case
from .results import BEST, PADDED, Measurement, Verdict, shown

__all__ = ["NUMPY", "ONE_THREAD", "PRESETS", "Bar", "Cost", "Preset"]

ONE_THREAD, NUMPY, WHOLE = "one thread", "numpy", "whole"
TRAINERS = ("torch", "jax")  # the peers that compute gradients


@dataclass(frozen=True)
class Bar:
    """What a row asks of some cases: a ratio, other ÷ rnncore, in each of them or as geometric mean.

    `against` a peer, the "best" in each case of those `among` which it is sought, the "limit" (a perfect kernel),
    rnncore on "one thread", or, of a ragged batch, rnncore's time on the "padded" one, for all its steps, times the
    part of them that lies within the lengths. Of rnncore's module for PyTorch: its layer, called from "numpy", and the
    module on the "whole" of a ragged batch.

    With `over`, rnncore's time in each case may be `SLACK` times the other's, and so many seconds more.
    """

    row: str
    cases: tuple[Case, ...]
    against: str
    each: float | None = None
    mean: float | None = None
    among: tuple[str, ...] = tuple(PEERS)
    over: float | None = None

    def others(self, found: Sequence[str]) -> list[str]:
        """Return whom to measure beside rnncore, given which peers are found."""
        return [
            name
            for name in (*found, ONE_THREAD, LIMIT, PADDED, NUMPY, WHOLE)
            if name == self.against or (self.against == BEST and name in found and name in self.among)
        ]

    def narrowed(self) -> Bar:
        """Return the bar on a few of its cases, if it has them."""
        few = tuple(case for case in self.cases if case.N in QUICK_BATCHES and case.H in QUICK_SIZES)
        return replace(self, cases=few or self.cases)

    def loses(self, ratio: Interval, measurement: Measurement) -> bool:
        """Return whether the ratio of one case lies below what is asked of each."""
        least = self.each
        if self.over is not None and measurement.seconds is not None:
            least = 1 / (SLACK + self.over / (measurement.seconds.median * ratio.median))
        return least is not None and ratio.high < least

    def words(self, found: Sequence[str]) -> str:
        first, n = self.cases[0], len(self.cases)
        case = first.group if n > 1 else str(first)
        best = f"best of {', '.join(name for name in found if name in self.among)}"
        against = {BEST: best, PADDED: "padded × sum(lengths)/(N·T)"}.get(self.against, self.against)
        asked = [f"≥ {self.each:.3}" + f" in each of {n}" * (n > 1)] if self.each is not None else []
        asked += [f"mean ≥ {self.mean}"] if self.mean is not None else []
        if self.over is not None:
            asked.append(f"at most {SLACK} times, and {self.over * 1e6:.0f} µs, of its time in each of {n}")
        return f"{case} against {against}: {', '.join(asked)}"

    def verdict(self, measured: Mapping[Case, Measurement], found: Sequence[str]) -> Verdict:
        """Return whether the measurements reach the bar; without one for every case, it is not."""
        ratios = {
            case: ratio
            for case in self.cases
            if case in measured and (ratio := measured[case].ratio(self.against, self.among))
        }
        what = self.words(found)
        if not ratios:
            return Verdict(self.row, what, None, None)
        lost = [case for case, ratio in ratios.items() if self.loses(ratio, measured[case])]
        mean = geometric_mean([ratio.median for ratio in ratios.values()])
        below = bool(lost) or (self.mean is not None and mean < self.mean)
        reached = False if below else None if len(ratios) < len(self.cases) else True
        return Verdict(self.row, what, mean, reached, tuple(f"{case}: {shown(ratios[case])}" for case in lost))


@dataclass(frozen=True)
class Cost:
    """What a row asks of the package itself: a number, and how much it may be."""

    row: str
    what: str
    unit: str
    most: float
    measure: Callable[[bool], float]  # of whether to be quick

    def verdict(self, quick: bool) -> Verdict:
        value = self.measure(quick)
        return Verdict(self.row, f"{self.what}: ≤ {self.most:g} {self.unit}", value, value <= self.most)


@dataclass(frozen=True)
class Preset:
    bars: tuple[Bar, ...]
    costs: tuple[Cost, ...] = ()

    @property
    def rows(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([bar.row for bar in self.bars] + [cost.row for cost in self.costs]))


# --- the package's own costs ------------------------------------------------------------------------------------------


def import_cost(quick: bool) -> float:
    """Return the milliseconds that `import rnncore` takes beyond `import numpy`, in fresh interpreters that find both
    compiled, as an installation has them."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def seconds(module: str) -> float:
        code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
        command = [sys.executable, "-c", code]
        return float(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)

    with TemporaryDirectory() as compiled:
        environment["PYTHONPYCACHEPREFIX"] = compiled
        seconds("rnncore")  # its files are there, and in the system's cache
        return median(1e3 * (seconds("rnncore") - seconds("numpy")) for _ in range(3 if quick else 15))


def package_size(quick: bool) -> float:
    """Return the megabytes of the installed package; of a checkout, those of it that an installation has."""
    root = Path(rnncore.__file__).parent
    files = [
        path
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyx", ".pxd", ".c", ".h")
    ]
    return sum(path.stat().st_size for path in files) / 1e6


# --- the presets ------------------------------------------------------------------------------------------------------

SIZES = (64, 128, 256, 512)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
RAGGED_BATCHES = (8, 32, 64)
TRAINING_BATCHES = (1, 8, 32, 64)
QUICK_SIZES = (64, 256)
QUICK_BATCHES = (1, 32)
SLACK = 1.1


def grid(
    cell: str,
    threads: int,
    sizes: Iterable[int] = SIZES,
    batches: Iterable[int] = BATCHES,
    kind: str = "sequence",
    **rest: Any,
) -> tuple[Case, ...]:
    shapes = product(sizes, batches)
    return tuple(Case(kind, cell, N, H, T=100, threads=threads, **rest) for H, N in shapes)  # type: ignore[arg-type]


def inference() -> Preset:
    """The inference engine's: one call, streams and sequences, against peers and against the machine."""
    bars = []
    for threads in (1, 2):
        bars += [
            Bar("lstm", grid("lstm", threads), BEST, each=1.0, mean=1.15),
            Bar("rnn", grid("rnn", threads), BEST, each=1.0, mean=1.3),
            Bar("rnn", grid("rnn", threads), "torch", mean=3.0),
            Bar("lstm-float64", grid("lstm", threads, dtype="float64"), "torch", each=1.5, mean=2.5),
        ]
    for row, H, against, each in (
        ("call", 64, "ort", 4.0),
        ("call", 128, "ort", 2.5),
        ("call", 64, "torch", 15.0),
        ("call", 128, "torch", 15.0),
        ("stream", 64, "ort", 6.0),
        ("stream", 128, "ort", 3.0),
    ):
        bars.append(Bar(row, (Case(row, "lstm", 1, H),), against, each=each))  # type: ignore[arg-type]
    for cell in ("lstm", "rnn"):
        bars += [
            Bar("limit", grid(cell, 1, sizes=SIZES[:1]), LIMIT, each=0.75),
            Bar("limit", grid(cell, 1, sizes=SIZES[1:]), LIMIT, each=0.85),
        ]
    for N, each in ((1, 1.9), (32, 1.85)):
        bars.append(Bar("two-threads", (Case("sequence", "lstm", N, 256, T=100, threads=2),), ONE_THREAD, each=each))
    bars.append(Bar("streams", (Case("streams", "lstm", 1, 256, threads=2),), ONE_THREAD, each=1.9))
    return Preset(
        tuple(bars),
        (
            Cost("import", "import rnncore beyond import numpy", "ms", 50, import_cost),
            Cost("size", "installed package", "MB", 3, package_size),
        ),
    )


def layers() -> Preset:
    """What layers can do beside: GRU, ragged batches, and a stack that runs both ways in time."""
    bars = []
    for threads, both_ways in ((1, 1.1), (2, 1.3)):
        gru = grid("gru", threads)
        ragged = grid("lstm", threads, batches=RAGGED_BATCHES, ragged=True)
        bars += [
            Bar("gru", gru, BEST, each=1.0, mean=1.25),
            Bar("gru", gru, "torch", mean=2.8),
            Bar("ragged", ragged, "torch", mean=2.5),
            Bar("ragged-cost", ragged, PADDED, each=1 / 1.15),
            Bar("bidirectional", grid("lstm", threads, L=2, D=2), BEST, mean=both_ways, among=("torch", "ort")),
        ]
    return Preset(tuple(bars))


def training() -> Preset:
    """The training engine's: gradients against peers and against the machine, a whole step of the demo's, memory."""
    bars = []
    for threads in (1, 2):
        lstm, rnn, gru = (
            grid(cell, threads, batches=TRAINING_BATCHES, kind="training") for cell in ("lstm", "rnn", "gru")
        )
        float64 = tuple(replace(case, dtype="float64") for case in lstm)
        ragged = tuple(replace(case, ragged=True) for case in lstm if case.N in RAGGED_BATCHES)
        step = Case("step", "lstm", N=16, H=256, T=32, I=64, threads=threads)  # the demo's sizes
        bars += [
            Bar("lstm", lstm, BEST, each=1.05, mean=1.4, among=TRAINERS),
            Bar("rnn", rnn, BEST, each=1.1, mean=1.6, among=TRAINERS),
            Bar("rnn", rnn, "torch", mean=4.0),
            Bar("gru", gru, BEST, each=1.1, mean=1.7, among=TRAINERS),
            Bar("gru", gru, "torch", mean=3.8),
            Bar("float64", float64, BEST, each=1.2, mean=2.0, among=TRAINERS),
            Bar("float64", float64, "torch", mean=3.0),
            Bar("ragged", ragged, "torch", mean=3.5),
            Bar("step", (step,), "torch", each=1.5),
        ]
        for cases in (lstm, rnn, gru):
            large = tuple(case for case in cases if case.N >= 32 and case.H >= 128)
            bars.append(Bar("limit", large, LIMIT, each=0.8))
        for cases in (lstm, rnn, gru, float64, ragged):
            bars.append(Bar("memory", tuple(replace(case, kind="memory") for case in cases), "torch", each=1.0))
    return Preset(tuple(bars))


def pytorch() -> Preset:
    """What rnncore's modules for PyTorch add to the layers behind them."""
    bars = []
    for threads in (1, 2):
        for cell in ("lstm", "rnn", "gru"):
            calls = grid(cell, threads, module=True)
            gradients = grid(cell, threads, batches=TRAINING_BATCHES, kind="training", module=True)
            bars += [Bar("call", calls, NUMPY, over=15e-6), Bar("gradients", gradients, NUMPY, over=50e-6)]
        for kind in ("sequence", "training"):
            ragged = grid("lstm", threads, batches=RAGGED_BATCHES, kind=kind, ragged=True, module=True)
            bars.append(Bar("packed", ragged, WHOLE, each=1.0))
    return Preset(tuple(bars))


def every() -> Preset:
    """All of them, with rows named after both: "inference/lstm"."""
    plans = {name: make() for name, make in PRESETS.items() if make is not every}
    return Preset(
        tuple(replace(bar, row=f"{name}/{bar.row}") for name, plan in plans.items() for bar in plan.bars),
        tuple(replace(cost, row=f"{name}/{cost.row}") for name, plan in plans.items() for cost in plan.costs),
    )


PRESETS: dict[str, Callable[[], Preset]] = {
    "inference": inference, "layers": layers, "training": training, "pytorch": pytorch, "all": every,
}  # fmt: skip
