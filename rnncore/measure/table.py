"""Measurements and verdicts as lines of text: a table for each group of cases, aligned, in colours if wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import geometric_mean

from .limits import Limits
from .paired import Interval
from .peers import LIMIT, Case
from .results import Measurement, Verdict
from .scaling import VARIABLES, Growth

__all__ = ["SHOWN", "Table", "duration", "growth_lines", "percent", "size"]

LEGEND = (
    "\nColumns: time of a call by rnncore; the others' time ÷ rnncore's, with its 95 % interval; "
    "in %, of a perfect kernel's speed.\n"
    "p50, p99, p99.9: of single steps, each timed by itself.\n\n"
)
SHOWN = ("50", "99", "99.9")  # percentiles of single steps
COLOURS = {"green": 32, "red": 31, "yellow": 33, "bold": 1}
CASE, FIRST, OTHER = 22, 17, 18  # widths


def scaled(value: float, units: Sequence[str]) -> str:
    """Return three digits with the largest unit, each 1000 of the one before, that leaves one before the point."""
    for unit in units[:-1]:
        if value < 999.5:
            return f"{value:#.3g}".removesuffix(".") + f" {unit}"
        value /= 1000
    return f"{value:.1f} {units[-1]}"


def duration(seconds: float) -> str:
    """Return seconds in words.

    Examples
    --------
    >>> from rnncore.measure.table import duration
    >>> duration(2.31e-6), duration(0.0999), duration(123)
    ('2.31 µs', '99.9 ms', '123.0 s')
    """
    return scaled(seconds * 1e9, ("ns", "µs", "ms", "s"))


def size(number: float) -> str:
    """Return bytes in words, in powers of 1000."""
    return scaled(number, ("B", "kB", "MB", "GB"))


class Table:
    """What the lines of a run look like, as its results come.

    Parameters
    ----------
    planned : mapping
        Each case, with the names of whom rnncore is compared with on it.
    colours : bool
        Whether for a terminal.
    """

    def __init__(self, planned: Mapping[Case, Sequence[str]], colours: bool = False) -> None:
        self._colours = colours
        self._names: dict[str, dict[str, None]] = {}
        for case, names in planned.items():
            others = dict.fromkeys(name for name in names if name != LIMIT)
            self._names.setdefault(case.group, {}).update(others)
        self._group: list[Measurement] = []
        self._legend = LEGEND

    def lines(self, result: Measurement | Verdict | Limits) -> str:
        """Return the lines of one result: a row, after a head if it is the first of its group, or just itself."""
        if isinstance(result, Limits):
            return str(result)
        if isinstance(result, Verdict):
            colour = {True: "green", False: "red", None: "yellow"}[result.reached]
            return self.end() + str(result).replace(result.word, self._painted(result.word, colour), 1)
        before = ""
        if not self._group or self._group[-1].case.group != result.case.group:
            before = self._legend + self.end() + self._head(result.case)
            self._legend = ""
        self._group.append(result)
        return before + self._row(result)

    def end(self) -> str:
        """Return the last lines of a group: geometric means, if it has several rows; empty if nothing is open."""
        group, self._group = self._group, []
        if not group:
            return ""
        if len(group) == 1:
            return "\n"
        line = f"{'geometric mean':<{CASE}}{'':>{FIRST}}"
        for name in self._names[group[0].case.group]:
            ratios = [m.ratios[name].median for m in group if name in m.ratios]
            line += f"{f'{geometric_mean(ratios):.2f}' if ratios else '':>{OTHER - 11}}{'':11}"
        return line.rstrip() + "\n\n"

    def _head(self, case: Case) -> str:
        names = "".join(f"{name:>{OTHER}}" for name in self._names[case.group])
        return f"{self._painted(case.group, 'bold')}\n{'':{CASE}}{'rnncore':>{FIRST}}{names}\n"

    def _row(self, result: Measurement) -> str:
        takes = duration(result.seconds.median) if result.seconds else size(result.bytes["rnncore"])
        parts = result.fractions
        line = f"{result.case.sizes:<{CASE}}{takes:>{FIRST - 5}}{percent(parts.get('rnncore')):>5}"
        for name in self._names[result.case.group]:
            ratio = result.ratios.get(name)
            if ratio is None:
                line += f"{'–':>{OTHER}}"
                continue
            text = f"{ratio.median:.2f} ±{spread(ratio):.2f}"
            colour = "green" if ratio.low > 1 else "red" if ratio.high < 1 else None
            line += " " * max(1, OTHER - 5 - len(text)) + self._painted(text, colour) + f"{percent(parts.get(name)):>5}"
        if result.bytes:
            rest = [name for name in result.bytes if name != "rnncore" and name not in result.ratios]
            line += f"  ({', '.join(f'{name} {size(result.bytes[name])}' for name in rest)})"
        lines = [line.rstrip()]
        for level in SHOWN if result.latency else ():
            line = f"{f'p{level}':>{CASE}}{duration(result.latency['rnncore'][level]):>{FIRST - 5}}{'':5}"
            for name in self._names[result.case.group]:
                levels = result.latency.get(name)
                line += f"{duration(levels[level]) if levels else '–':>{OTHER - 5}}{'':5}"
            lines.append(line.rstrip())
        return "\n".join(lines)

    def _painted(self, text: str, colour: str | None) -> str:
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self._colours and colour else text


def growth_lines(lines: Sequence[Growth]) -> list[str]:
    """Return a table of exponents: a row for each kind of case, quantity and contender."""
    rows: dict[tuple[str, str, str], dict[str, float]] = {}
    for line in lines:
        kind = replace(line.case, threads=1).group.removesuffix(", 1 thread")
        rows.setdefault((kind, line.quantity, line.name), {})[line.variable] = line.exponent
    words = [(" ".join((kind, quantity, name)), found) for (kind, quantity, name), found in rows.items()]
    width = max((len(word) for word, _ in words), default=0)
    head = f"{'cost grows like the power of':<{width}}" + "".join(f"{name:>9}" for name in VARIABLES)
    return [head] * bool(rows) + [
        f"{word:<{width}}" + "".join(f"{f'{found[name]:.2f}' if name in found else '–':>9}" for name in VARIABLES)
        for word, found in words
    ]


def spread(ratio: Interval) -> float:
    """Return how far the interval reaches from the median."""
    return max(ratio.high - ratio.median, ratio.median - ratio.low)


def percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{fraction:.0%}" if fraction >= 0.01 else "<1%"
