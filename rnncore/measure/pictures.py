"""Pictures of a report: speed-up over sizes, latency, the roofline, and how cost grows; by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ..plot import require_matplotlib
from .paired import LEVELS
from .peers import PEERS, REFERENCE, products
from .results import BEST, Measurement, Report
from .scaling import VARIABLES, Growth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PICTURES", "check", "draw", "save"]

Panel = Callable[["Axes"], None]
FORMATS = (".png", ".svg", ".pdf")
COLUMNS, WIDTH, HEIGHT = 3, 4.0, 3.2  # panels side by side; inches of each
COLOURS = {name: f"C{k}" for k, name in enumerate(("rnncore", *PEERS, REFERENCE))}
MARKS = dict(zip(COLOURS, "os^vDx", strict=True))


def check(name: str) -> str:
    """Return the format that a file's name asks for; an error if it is none, or there is no matplotlib."""
    require_matplotlib()
    suffix = PurePath(name).suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(f"expected a picture's name to end in {', '.join(FORMATS)}, got {name!r}")
    return suffix[1:]


# --- panels -----------------------------------------------------------------------------------------------------------


def speed_ups(report: Report) -> list[Panel]:
    """Return a heat map for each group of cases that differ in N and H alone, I being H or all the same: the best
    peer's time, or bytes, ÷ rnncore's."""
    groups: dict[str, list[Measurement]] = {}
    for measurement in report.measurements:
        case = measurement.case
        if measurement.ratio(BEST, COLOURS) is not None:
            title = case.group + f", T={case.T}" * (case.T > 1) + f", I={case.I}" * (case.I != case.H)
            groups.setdefault(title, []).append(measurement)
    return [heat_map(name, group) for name, group in groups.items()]


def heat_map(title: str, group: Sequence[Measurement]) -> Panel:
    Ns, Hs = (sorted({getattr(measurement.case, name) for measurement in group}) for name in ("N", "H"))
    values = np.full((len(Ns), len(Hs)), np.nan)
    for measurement in group:
        ratio = measurement.ratio(BEST, COLOURS)
        assert ratio is not None
        values[Ns.index(measurement.case.N), Hs.index(measurement.case.H)] = ratio.median

    def panel(ax: Axes) -> None:
        ax.imshow(np.log2(values), cmap="RdYlGn", vmin=-3, vmax=3, aspect="auto", origin="lower")
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                color = "white" if abs(np.log2(value)) > 2.3 else "black"
                ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=8, color=color)
        ax.set_xticks(range(len(Hs)), map(str, Hs))
        ax.set_yticks(range(len(Ns)), map(str, Ns))
        ax.set(xlabel="H", ylabel="N")
        ax.set_title(f"{title}\nbest of the others ÷ rnncore", fontsize=9)

    return panel


def latencies(report: Report) -> list[Panel]:
    """Return the distribution of single steps for each case that has one."""
    return [latency(measurement) for measurement in report.measurements if measurement.latency]


def latency(measurement: Measurement) -> Panel:
    def panel(ax: Axes) -> None:
        for name, levels in measurement.latency.items():
            ax.plot(range(len(LEVELS)), [1e6 * levels[level] for level in LEVELS], label=name, **line_of(name))
        ax.set_yscale("log")
        ax.set_xticks(range(len(LEVELS)), LEVELS, fontsize=7)
        ax.set(xlabel="percentile", ylabel="µs a step")
        ax.set_title(str(measurement.case), fontsize=9)
        ax.legend(fontsize=7)

    return panel


def rooflines(report: Report) -> list[Panel]:
    """Return, for each number of threads with limits and dtype, the roof and what sequences reach below it."""
    panels = []
    for limits in report.limits:
        for dtype, peak in limits.flops.items():
            points = [
                measurement
                for measurement in report.measurements
                if (measurement.case.kind, measurement.case.dtype, measurement.case.threads)
                == ("sequence", dtype, limits.threads)
            ]
            if points:
                title = f"sequences, {dtype}, threads: {limits.threads}"
                panels.append(roofline(title, peak, limits.bandwidth, points))
    return panels


def roofline(title: str, peak: float, bandwidth: dict[str, float], points: Sequence[Measurement]) -> Panel:
    found: dict[str, list[tuple[float, float]]] = {}
    for measurement in points:
        case = measurement.case
        operations = sum(product.operations(case.cell) for product in products(case))
        intensity = operations / sum(product.bytes(case.cell, case.dtype) for product in products(case))
        for name, ratio in {"rnncore": 1.0, **{k: r.median for k, r in measurement.ratios.items()}}.items():
            if name in COLOURS and measurement.seconds:
                found.setdefault(name, []).append((intensity, operations / (measurement.seconds.median * ratio)))

    def panel(ax: Axes) -> None:
        intensities = [x for marks in found.values() for x, _ in marks]
        x = np.geomspace(min(intensities) / 2, 2 * max(intensities), 200)
        for k, (level, rate) in enumerate(bandwidth.items()):
            ax.plot(x, np.minimum(peak, rate * x) / 1e9, color=str(0.15 * k), lw=1, ls="-" if k == 0 else "--")
            ax.annotate(level, (x[0], min(peak, rate * x[0]) / 1e9), fontsize=7)
        for name, marks in found.items():
            ax.plot(*np.array(marks).T / [[1], [1e9]], MARKS[name], color=COLOURS[name], ms=3, label=name)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.xaxis.set_minor_formatter("")
        ax.set(xlabel="operations a byte of weights read", ylabel="GFLOP/s")
        ax.set_title(title, fontsize=9)
        ax.legend(fontsize=7)

    return panel


def growths(report: Report) -> list[Panel]:
    """Return what each quantity costs along each variable."""
    groups: dict[tuple[str, str, str], list[Growth]] = {}
    for line in report.growth:
        kind = line.case.group.rpartition(",")[0]
        groups.setdefault((kind, line.quantity, line.variable), []).append(line)
    ordered = sorted(groups.items(), key=lambda item: (item[0][:2], VARIABLES.index(item[0][2])))
    return [growth(*key, lines) for key, lines in ordered]


def growth(kind: str, quantity: str, variable: str, lines: Sequence[Growth]) -> Panel:
    def panel(ax: Axes) -> None:
        for line in lines:
            label = f"{line.name}, {variable}^{line.exponent:.2f}"
            ax.plot(line.values, line.costs, label=label, **line_of(line.name))
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        values = sorted({value for line in lines for value in line.values})
        ax.set_xticks(values, map(str, values))
        ax.set(xlabel=variable, ylabel="seconds" if quantity == "seconds" else "bytes")
        ax.set_title(f"{kind}: {quantity}", fontsize=9)
        ax.legend(fontsize=7)

    return panel


def line_of(name: str) -> dict[str, Any]:
    return {"color": COLOURS.get(name, "black"), "marker": MARKS.get(name, "."), "ms": 3, "lw": 1.2}


PICTURES: dict[str, Callable[[Report], list[Panel]]] = {
    "speed": speed_ups, "latency": latencies, "roofline": rooflines, "growth": growths,
}  # fmt: skip


# --- figures ----------------------------------------------------------------------------------------------------------


def draw(panels: Iterable[Panel]) -> Figure:
    """Return a figure of some panels, side by side and below each other."""
    require_matplotlib()
    from matplotlib.figure import Figure

    panels = list(panels)
    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(WIDTH * columns, HEIGHT * rows), layout="constrained", dpi=80)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, panel in zip(axes, panels, strict=False):
        panel(ax)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    return figure


def save(figure: Figure, file: BinaryIO, format: str) -> None:
    """Write a figure; a PNG with few colours, which takes a third of the bytes."""
    if format != "png":
        figure.savefig(file, format=format)
        return
    from PIL import Image

    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    Image.open(buffer).convert("RGB").quantize(64).save(file, "png", optimize=True)
