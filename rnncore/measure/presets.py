"""Presets: what rnncore is to reach on a grid of cases, measured, and held against it row by row."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any, TypeVar

import rnncore

from .. import runtime
from . import limits, peers
from .paired import Contender, ContenderError, Interval, Workers
from .peers import LIMIT, PEERS, REFERENCE, Case
from .scaling import Growth, growth

__all__ = [
    "PRESETS",
    "Bar",
    "Cost",
    "Measurement",
    "Preset",
    "Report",
    "Settings",
    "Verdict",
    "planned",
    "prepare",
    "read",
    "run",
]

T = TypeVar("T")
BEST, ONE_THREAD, PADDED, NUMPY, WHOLE = "best", "one thread", "padded", "numpy", "whole"
OWN = ("panels", "tape", "call")  # bytes of rnncore's that no peer has
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


@dataclass(frozen=True)
class Settings:
    """How carefully: blocks of each contender, their length, the time spent on each of the machine's limits, and the
    single steps that are timed each by itself."""

    quick: bool = False
    blocks: int = 15
    block_seconds: float = 0.05
    limit_seconds: float = 0.5
    single_steps: int = 20_000


QUICK = Settings(quick=True, blocks=7, block_seconds=0.01, limit_seconds=0.1, single_steps=2000)


@dataclass(frozen=True)
class Measurement:
    """Seconds of rnncore on a case, and the ratios to it, other ÷ rnncore, by the other's name.

    A case of kind "memory" has bytes instead, of rnncore and the others, and, in no ratio, of rnncore's packed weights
    as "panels", its "tape", and what a "call" without one takes. One of single steps has the percentiles of their
    seconds, too, by name and level.
    """

    case: Case
    seconds: Interval | None
    ratios: dict[str, Interval]
    bytes: dict[str, int] = field(default_factory=dict)
    latency: dict[str, dict[str, float]] = field(default_factory=dict)

    def ratio(self, against: str, among: Iterable[str] = PEERS) -> Interval | None:
        """Return the ratio to one, or to the best of the peers that there are; to "padded", for as much work."""
        if against == BEST:
            there = [self.ratios[name] for name in among if name in self.ratios]
            return min(there, key=lambda ratio: ratio.median, default=None)
        ratio = self.ratios.get(against)
        if ratio is None or against != PADDED:
            return ratio
        valid = float(self.case.lengths.mean()) / self.case.T
        return Interval(ratio.median * valid, ratio.low * valid, ratio.high * valid)

    @property
    def fractions(self) -> dict[str, float]:
        """Return the part of a perfect kernel's speed that rnncore and the others reach; empty if that was not
        measured."""
        limit = self.ratios.get(LIMIT)
        if limit is None:
            return {}
        others = {name: limit.median / ratio.median for name, ratio in self.ratios.items() if name != LIMIT}
        return {"rnncore": limit.median, **others}


def shown(ratio: Interval) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


@dataclass(frozen=True)
class Verdict:
    """One bar, reached or not; None where nothing could be measured. A case is lost when the confidence interval of
    its ratio lies below the bar."""

    row: str
    what: str
    value: float | None
    reached: bool | None
    lost: tuple[str, ...] = ()

    @property
    def word(self) -> str:
        return {True: "reached", False: "NOT REACHED", None: "not measured"}[self.reached]

    def __str__(self) -> str:
        value = "" if self.value is None else f"{self.value:.2f}"
        first = f"{self.word:<13}{value:>6}  {self.row}: {self.what}"
        return "\n".join([first, *(f"{'lost':>19}  {case}" for case in self.lost)])


@dataclass
class Report:
    """All that a run found; `asdict` makes it JSON."""

    preset: str  # empty where cases are given
    cases: tuple[Case, ...]  # of no preset
    rows: tuple[str, ...]
    threads: tuple[int, ...]
    peers: tuple[str, ...]  # found
    missing: dict[str, list[str]]  # peers not found, and what they lack
    settings: Settings
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str
    commit: str  # of a checkout, else empty
    date: str
    limits: list[limits.Limits] = field(default_factory=list)  # on 1, 2, … threads
    measurements: list[Measurement] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    growth: list[Growth] = field(default_factory=list)  # of cases of no preset
    problems: list[str] = field(default_factory=list)
    complete: bool = False


def read(results: Mapping[str, Any]) -> Report:
    """Return the report that `asdict` and JSON made this of."""

    def case(found: Mapping[str, Any]) -> Case:
        return Case(**found)

    def measurement(found: Mapping[str, Any]) -> Measurement:
        seconds = found["seconds"] and Interval(**found["seconds"])
        ratios = {name: Interval(**ratio) for name, ratio in found["ratios"].items()}
        return Measurement(**{**found, "case": case(found["case"]), "seconds": seconds, "ratios": ratios})

    def line(found: Mapping[str, Any]) -> Growth:
        points = {name: tuple(found[name]) for name in ("values", "costs")}
        return Growth(**{**found, "case": case(found["case"]), **points})

    return Report(**{
        **results,
        **{name: tuple(results[name]) for name in ("rows", "threads", "peers")},
        "cases": tuple(map(case, results["cases"])),
        "settings": Settings(**results["settings"]),
        "limits": [limits.Limits(**found) for found in results["limits"]],
        "measurements": list(map(measurement, results["measurements"])),
        "verdicts": [Verdict(**{**found, "lost": tuple(found["lost"])}) for found in results["verdicts"]],
        "growth": list(map(line, results["growth"])),
    })  # fmt: skip


# --- the package's own costs ------------------------------------------------------------------------------------------


def import_cost(quick: bool) -> float:
    """Return the milliseconds that `import rnncore` takes beyond `import numpy`, in fresh interpreters."""

    def seconds(module: str) -> float:
        code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)

    seconds("rnncore")  # files into the system's cache
    return median(1e3 * (seconds("rnncore") - seconds("numpy")) for _ in range(3 if quick else 15))


def package_size(quick: bool) -> float:
    """Return the megabytes of the installed package."""
    root = Path(rnncore.__file__).parent
    files = [path for path in root.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
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


# --- running them -----------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Return what results depend on, beside versions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cpus": runtime.usable_cpus(),
        "system": platform.platform(),
        "isa": runtime.isa,
        "engine": runtime.engine,
    }


def versions(found: Iterable[str]) -> dict[str, str]:
    """Return those of Python, rnncore, NumPy and what the peers consist of."""
    modules = dict.fromkeys(["numpy", *(module for peer in found for module in PEERS.get(peer, ()))])
    known = {"python": platform.python_version(), "rnncore": rnncore.__version__}
    for module in modules:
        with suppress(PackageNotFoundError):
            known[module] = version(module)
    return known


def commit() -> str:
    """Return the checkout's commit that the package is imported from; empty where it is installed."""
    root = Path(rnncore.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    with suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(words, cwd=root, capture_output=True, check=True, text=True).stdout.strip()
    return ""


def chosen(names: Iterable[T] | None, known: Iterable[T], what: str) -> tuple[T, ...]:
    """Return the names in the order of the known ones; all of these for None."""
    known = tuple(known)
    names = known if names is None else tuple(names)
    for name in names:
        if name not in known:
            raise ValueError(f"expected {what} among {', '.join(map(str, known))}, got {str(name)!r}")
    return tuple(name for name in known if name in names)


def prepare(
    preset: str = "",
    cases: Iterable[Case] = (),
    *,
    rows: Iterable[str] | None = None,
    threads: Iterable[int] | None = None,
    against: Iterable[str] | None = None,
    quick: bool = False,
    command: str = "",
) -> Report:
    """Return the report of a run still to be done.

    Parameters
    ----------
    preset : str
        A key of `PRESETS`; empty for `cases`.
    cases : iterable of Case
        What to measure instead.
    rows, threads : iterable, optional
        Which of the preset's; by default all, as far as this machine has them.
    against : iterable of str, optional
        Which peers, and "reference"; by default all that are installed, with the reference for cases of no preset and
        where no peer is installed.
    quick : bool
        Whether to measure few cases, with short blocks.
    command : str
        What the run was asked for with.

    Raises
    ------
    ValueError
        If one of them is unknown, or this machine has not so many CPUs.
    """
    cases = tuple(cases)
    if not cases:
        chosen([preset], PRESETS, "a preset")
    wanted = chosen(against, (*PEERS, REFERENCE), "peers")
    missing = {peer: peers.missing(peer) for peer in wanted}
    found = tuple(peer for peer in wanted if not missing[peer])
    if against is None and not cases and found != (REFERENCE,):
        found = found[:-1]
    plan = Preset(()) if cases else PRESETS[preset]()
    numbers = sorted({case.threads for bar in plan.bars for case in bar.cases} | {case.threads for case in cases})
    return Report(
        preset=preset,
        cases=cases,
        rows=chosen(rows, plan.rows, "rows"),
        threads=chosen(threads, [n for n in numbers if n <= runtime.usable_cpus()], "threads"),
        peers=found,
        missing={peer: modules for peer, modules in missing.items() if modules},
        settings=QUICK if quick else Settings(),
        machine=machine(),
        versions=versions(found),
        command=command,
        commit=commit(),
        date=time.strftime("%Y-%m-%d"),
    )


def bars_of(report: Report) -> list[Bar]:
    """Return the bars that a run is held against, on the cases that it measures."""
    if not report.preset:
        return []
    bars = [bar for bar in PRESETS[report.preset]().bars if bar.row in report.rows]
    bars = [bar for bar in bars if bar.cases[0].threads in report.threads]
    return [bar.narrowed() for bar in bars] if report.settings.quick else bars


def planned(report: Report) -> dict[Case, list[str]]:
    """Return the cases of a run, and whom rnncore is compared with on each.

    Beside those that bars ask for, that is the limit, and for cases of no preset every peer.
    """
    others: dict[Case, dict[str, None]] = {case: dict.fromkeys(report.peers) for case in report.cases}
    always = [REFERENCE] * (REFERENCE in report.peers) + [LIMIT]
    for bar in bars_of(report):
        for case in bar.cases:
            others.setdefault(case, {}).update(dict.fromkeys(bar.others(report.peers)))
    no_modules = bool(peers.missing("torch"))
    return {
        case: [name for name in dict.fromkeys([*names, *always]) if peers.does(name, case)]
        for case, names in others.items()
        if not (case.module and no_modules)
    }


def run(
    report: Report,
    show: Callable[[Measurement | Verdict | limits.Limits], None] = lambda result: None,
    progress: Callable[[float, str], None] = lambda fraction, words: None,
) -> None:
    """Do a run, filling its report.

    Parameters
    ----------
    report : Report
        As from `prepare`. A peer that fails on a case is noted in `problems` and left out there.
    show : callable
        Called with each result when it is there.
    progress : callable
        Called with the fraction done and what comes next.
    """
    settings, others = report.settings, planned(report)
    if any(LIMIT in names for names in others.values()):
        for n in limits.thread_numbers(runtime.usable_cpus()):
            progress(0.0, "the machine's limits")
            report.limits.append(limits.measure(settings.limit_seconds, n))
            show(report.limits[-1])
    with Workers() as workers:
        for k, (case, names) in enumerate(others.items()):
            progress(k / len(others), str(case))
            measurement = measure(workers, case, names, report)
            if measurement:
                report.measurements.append(measurement)
                show(measurement)
    if report.cases:
        report.growth = growth(report.measurements)
    measured = {measurement.case: measurement for measurement in report.measurements}
    for verdict in (bar.verdict(measured, report.peers) for bar in bars_of(report)):
        report.verdicts.append(verdict)
        show(verdict)
    for cost in PRESETS[report.preset]().costs if report.preset else ():
        if cost.row in report.rows:
            progress(1.0, cost.what)
            report.verdicts.append(cost.verdict(settings.quick))
            show(report.verdicts[-1])
    report.complete = True


def measure(workers: Workers, case: Case, names: list[str], report: Report) -> Measurement | None:
    """Measure rnncore on a case, and the others as far as they do it; None if rnncore itself fails."""
    first = peers.contender("rnncore", case)
    instead = {ONE_THREAD: {"threads": 1}, NUMPY: {"module": False}}
    others = {
        name: peers.contender("rnncore", replace(case, **instead[name]))  # type: ignore[arg-type]
        if name in instead
        else peers.contender(name, case)
        for name in names
    }
    take = weigh if case.kind == "memory" else clock
    while True:
        try:
            return take(workers, case, first, others, report.settings)
        except ContenderError as error:
            report.problems.append(f"{case}: {error}")
            if error.contender == first:
                return None
            others = {name: other for name, other in others.items() if other != error.contender}


def clock(
    workers: Workers, case: Case, first: Contender, others: dict[str, Contender], settings: Settings
) -> Measurement:
    result = workers.compare(
        first,
        list(others.values()),
        tolerance=case.tolerance,
        blocks=settings.blocks,
        block_seconds=settings.block_seconds,
    )
    latency: dict[str, dict[str, float]] = {}
    if case.kind in ("call", "stream"):
        timed = {"rnncore": first} | {name: other for name, other in others.items() if name != LIMIT}
        latency = dict(zip(timed, workers.latencies(list(timed.values()), settings.single_steps), strict=True))
    return Measurement(case, result.seconds, dict(zip(others, result.ratios, strict=True)), latency=latency)


def weigh(
    workers: Workers, case: Case, first: Contender, others: dict[str, Contender], settings: Settings
) -> Measurement:
    """The same for bytes, which are the results of contenders and the same every time."""
    ours, *rest = (int(value) for value in workers.results(first))
    theirs = {name: int(workers.results(other)[0]) for name, other in others.items()}
    ratios = {name: Interval(*[value / ours] * 3) for name, value in theirs.items()}
    return Measurement(case, None, ratios, {"rnncore": ours, **theirs, **dict(zip(OWN, rest, strict=True))})
