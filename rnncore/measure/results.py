"""What a run finds: measurements, verdicts and the report of all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from . import limits
from .paired import Interval
from .peers import LIMIT, PEERS, Case
from .scaling import Growth

__all__ = ["BEST", "OWN", "PADDED", "QUICK", "Measurement", "Report", "Settings", "Verdict", "read", "shown"]

BEST, PADDED = "best", "padded"  # of what ratios can be against, those that are none of a contender as it was measured
OWN = ("panels", "tape", "call")  # bytes of rnncore's that no peer has


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
        for name, ratio in ratios.items():
            if not ratio.median > 0:
                raise ValueError(f"expected ratios above 0, got {ratio.median} for {name}")
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
