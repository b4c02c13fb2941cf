"""How cost grows: the exponent of T, N, H or threads that fits measurements in which nothing else differs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .peers import LIMIT, Case

if TYPE_CHECKING:
    from .results import Measurement

__all__ = ["VARIABLES", "Growth", "exponent", "growth"]

VARIABLES = ("T", "N", "H", "threads")
FEWEST = 4  # points of a line


@dataclass(frozen=True)
class Growth:
    """One line: a quantity of a contender, on cases that differ in one variable alone.

    Attributes
    ----------
    case : Case
        The first of them.
    variable : str
        Of `VARIABLES`. I follows H where they were equal.
    quantity : str
        "seconds" of a call, or bytes: "gradients", "tape", "call".
    name : str
        Of the contender.
    values, costs : tuple
        The points.
    exponent : float
        Of the variable, by least squares between the logarithms.
    """

    case: Case
    variable: str
    quantity: str
    name: str
    values: tuple[int, ...]
    costs: tuple[float, ...]
    exponent: float


def exponent(values: Sequence[float], costs: Sequence[float]) -> float:
    """Return the k for which cost ~ value^k fits best: the slope of a line between logarithms, by least squares.

    Examples
    --------
    >>> from rnncore.measure.scaling import exponent
    >>> round(exponent([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0]), 6)
    2.0
    """
    return float(np.polynomial.polynomial.polyfit(np.log(values), np.log(costs), 1)[1])


def costs(measurement: Measurement) -> dict[tuple[str, str], float]:
    """Return what was measured, by quantity and contender."""
    if measurement.seconds is None:
        taken = {name: float(number) for name, number in measurement.bytes.items()}
        own = {(name, "rnncore"): taken[name] for name in ("tape", "call") if name in taken}
        return {("gradients", name): taken[name] for name in ("rnncore", *measurement.ratios)} | own
    seconds = measurement.seconds.median
    ratios = {name: ratio.median for name, ratio in measurement.ratios.items() if name != LIMIT}
    return {("seconds", name): seconds * ratio for name, ratio in {"rnncore": 1.0, **ratios}.items()}


def growth(measurements: Iterable[Measurement]) -> list[Growth]:
    """Return the lines of at least four points; of those along one variable in one kind of case, that with the most."""
    lines: dict[tuple[Case, str, str, str], dict[int, tuple[Case, float]]] = defaultdict(dict)
    for measurement in measurements:
        case = measurement.case
        for variable in VARIABLES:
            change: dict[str, Any] = {variable: 1, "I": 1 if variable == "H" and case.I == case.H else case.I}
            rest = replace(case, **change)
            for (quantity, name), cost in costs(measurement).items():
                lines[rest, variable, quantity, name][getattr(case, variable)] = case, cost
    found: dict[tuple[str, str, str, str], Growth] = {}
    for (rest, variable, quantity, name), points in lines.items():
        if len(points) < FEWEST and not (variable == "threads" and len(points) > 1):
            continue
        values = tuple(sorted(points))
        taken = tuple(points[value][1] for value in values)
        line = Growth(points[values[0]][0], variable, quantity, name, values, taken, exponent(values, taken))
        key = replace(rest, threads=1).group, variable, quantity, name
        if key not in found or len(values) > len(found[key].values):
            found[key] = line
    return list(found.values())
