"""A run: what was asked for, measured case by case, and held against the bars of a preset."""

from __future__ import annotations

import platform
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import rnncore

from .. import runtime
from . import limits, peers
from .paired import Contender, ContenderError, Interval, Workers
from .peers import LIMIT, PEERS, REFERENCE, Case
from .presets import NUMPY, ONE_THREAD, PRESETS, Bar, Preset
from .results import OWN, QUICK, Measurement, Report, Settings, Verdict
from .scaling import growth

__all__ = ["chosen", "planned", "prepare", "run"]

T = TypeVar("T")


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
