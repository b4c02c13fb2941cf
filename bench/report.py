"""A page of results: `python -m bench.report results.json [more.json …] [--output docs/benchmarks.md]`.

Results are those that `rnncore bench --json` wrote. All of them stand in the page, losses like wins. Several files are
parts of one page, of runs on one machine with the same versions. Pictures go to images/ beside the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import geometric_mean
from tempfile import TemporaryDirectory

from rnncore.measure import pictures
from rnncore.measure.peers import LIMIT
from rnncore.measure.results import OWN, Measurement, Report, read, shown
from rnncore.measure.scaling import VARIABLES
from rnncore.measure.table import SHOWN, duration, percent, size

MOST_PANELS = 12  # of a picture, which is then below 100 kB
CAVEATS = """\
- A ratio is the other's time ÷ rnncore's, the median over alternating blocks, with its 95 % confidence interval in
  brackets: above 1, rnncore is faster. Each contender has a process of its own, confined to as many CPUs as threads.
- A bar on each case is lost where a case's whole interval lies below it; one on a mean is held against the mean.
- What is compared gives the same results: that is checked for each case before anything is timed.
- The limit is a perfect kernel's work, multiply-adds without a pause or the weights read as often as they must be,
  timed in blocks between the others'; activations are free. With several threads it is one core's share.
- Peers are called as their own documentation says, from Python, inputs and outputs in memory, weights constant in
  inference and changed before each call in training. Other sizes, versions and machines give other figures.
- Latencies are of single steps from Python, the clock's own 50 ns included; the largest are the system's as often as
  the library's.
- Memory is what gradients take from the forward pass to the end of the backward pass, beyond parameters and results;
  beside, in no ratio, rnncore's packed weights ("panels"), tape, and a call without one.
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.report", description="Write a page of benchmark results.")
    parser.add_argument("results", nargs="+", help="files that `rnncore bench --json` wrote")
    parser.add_argument("--output", default="docs/benchmarks.md", help="the page (default: docs/benchmarks.md)")
    args = parser.parse_args(argv)
    try:
        reports = [load(name) for name in args.results]
        check_same(reports)
        write(reports, Path(args.output))
    except (OSError, ValueError, ImportError) as error:
        print(f"bench.report: error: {error}", file=sys.stderr)
        return 2
    return 0


def load(name: str) -> Report:
    try:
        report = read(json.loads(Path(name).read_text(encoding="utf-8")))
        with TemporaryDirectory() as folder:  # what is wrong inside is found before any picture is overwritten
            body([report], Path(folder))
        return report
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        words = f"{type(error).__name__}: {error}"
        raise ValueError(f"expected results of rnncore bench --json in {name}: {words}") from None


def check_same(reports: Sequence[Report]) -> None:
    """Refuse parts that are not of one whole."""
    for name in ("machine", "commit"):
        found = {json.dumps(getattr(report, name), sort_keys=True) for report in reports}
        if len(found) > 1:
            raise ValueError(f"expected results of one {name}, got {' and '.join(sorted(found))}")
    known: dict[str, str] = {}
    for report in reports:
        for name, version in report.versions.items():
            if known.setdefault(name, version) != version:
                raise ValueError(f"expected results of one version of {name}, got {known[name]} and {version}")


def write(reports: Sequence[Report], page: Path) -> None:
    """Write the page and its pictures."""
    folder = page.parent / "images"
    folder.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(body(reports, folder)), encoding="utf-8")


def body(reports: Sequence[Report], folder: Path) -> list[str]:
    measurements = [measurement for report in reports for measurement in report.measurements]
    lines = ["# Benchmarks", "", "Written by `python -m bench.report`; do not edit.", "", *conditions(reports)]
    lines += ["## How to read it", "", CAVEATS]
    lines += section("Bars", verdicts(reports))
    lines += section("Limits of the machine", limits(reports))
    lines += section("Speed", summary(measurements))
    for name, picture in pictures.PICTURES.items():
        lines += drawn(name, [panel for report in reports for panel in picture(report)], folder)
    lines += section("Latency of single steps", latencies(measurements))
    lines += section("How cost grows", growths(reports))
    lines += section("All cases", cases(measurements))
    return lines + section("What did not run", [f"- {problem}" for report in reports for problem in report.problems])


def conditions(reports: Sequence[Report]) -> list[str]:
    first = reports[0]
    versions = {name: version for report in reports for name, version in report.versions.items()}
    quick = " Some runs were quick: a rough look, not figures to quote." * any(r.settings.quick for r in reports)
    incomplete = " Some runs were ended early." * any(not r.complete for r in reports)
    facts = [
        ("machine", f"{first.machine['cpu']}, {first.machine['cpus']} CPUs, {first.machine['system']}"),
        ("instruction set, engine", f"{first.machine['isa']}, {first.machine['engine']}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
        ("commit", first.commit or "of an installed package"),
        ("measured", ", ".join(dict.fromkeys(report.date for report in reports))),
        ("commands", ", ".join(f"`{report.command}`" for report in reports)),
        ("not installed", ", ".join(dict.fromkeys(peer for report in reports for peer in report.missing)) or "nothing"),
    ]
    warning = (quick + incomplete).strip()
    return [*table(["", ""], facts), "", *([f"**{warning}**", ""] if warning else [])]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]]


def section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""] if lines else []


def verdicts(reports: Sequence[Report]) -> list[str]:
    found = [verdict for report in reports for verdict in report.verdicts]
    rows = [
        (v.row, v.what, "" if v.value is None else f"{v.value:.2f}", v.word.lower() if v.reached else f"**{v.word}**")
        for v in found
    ]
    lost = [f"- {verdict.row}: {case}" for verdict in found for case in verdict.lost]
    if not rows:
        return []
    words = ["reached", "NOT REACHED", "not measured"]
    counts = ", ".join(f"{sum(v.word == word for v in found)} {word.lower()}" for word in words)
    lines = [f"{len(found)} rows: {counts}.", "", *table(["row", "what", "value", ""], rows)]
    return lines + (["", "Lost, the whole interval below the bar:", "", *lost] if lost else [])


def limits(reports: Sequence[Report]) -> list[str]:
    """The limits of the first run that has some; those of the others are the same machine's."""
    found = next((report.limits for report in reports if report.limits), [])
    if not found:
        return []
    flops, levels = found[0].flops, found[0].bandwidth
    head = ["threads", *(f"{name}, GFLOP/s" for name in flops), *(f"{name}, GB/s" for name in levels)]
    rows = [
        [str(one.threads), *(f"{rate / 1e9:.3g}" for rate in (*one.flops.values(), *one.bandwidth.values()))]
        for one in found
    ]
    return table(head, rows)


def grouped(measurements: Iterable[Measurement]) -> dict[str, list[Measurement]]:
    groups: dict[str, dict[str, Measurement]] = {}
    for measurement in measurements:  # of a case measured twice, the last
        groups.setdefault(measurement.case.group, {})[str(measurement.case)] = measurement
    return {name: list(group.values()) for name, group in groups.items()}


def names_of(group: Iterable[Measurement]) -> list[str]:
    return list(dict.fromkeys(name for m in group for name in m.ratios if name != LIMIT))


def summary(measurements: Iterable[Measurement]) -> list[str]:
    """For each group of cases, geometric mean and smallest ratio to each contender, and what part of the limit."""
    groups = grouped(measurements)
    names = names_of(measurement for group in groups.values() for measurement in group)
    rows = []
    for title, group in groups.items():
        row = [title, str(len(group)), part([m.fractions.get("rnncore") for m in group])]
        for name in names:
            ratios = [m.ratios[name].median for m in group if name in m.ratios]
            reached = part([m.fractions.get(name) for m in group])
            row.append(f"{geometric_mean(ratios):.2f} ({min(ratios):.2f}) {reached}".strip() if ratios else "")
        rows.append(row)
    if not rows:
        return []
    text = "Geometric mean of the ratios, in brackets the smallest, and the mean part of the limit that is reached."
    return [text, "", *table(["", "cases", "rnncore", *names], rows)]


def part(fractions: Iterable[float | None]) -> str:
    found = [fraction for fraction in fractions if fraction is not None]
    return percent(geometric_mean(found) if found else None)


def drawn(name: str, panels: Sequence[pictures.Panel], folder: Path) -> list[str]:
    """Save pictures of so many panels each, and return how the page shows them."""
    lines = []
    for k in range(0, len(panels), MOST_PANELS):
        file = folder / f"benchmarks_{name}{f'_{k // MOST_PANELS + 1}' if len(panels) > MOST_PANELS else ''}.png"
        with open(file, "wb") as stream:
            pictures.save(pictures.draw(panels[k : k + MOST_PANELS]), stream, "png")
        lines += [f"![{TITLES[name]}](images/{file.name})", ""]
    return lines


TITLES = {
    "speed": "Speed-up over the best of the others, by N and H",
    "latency": "Latency of single steps",
    "roofline": "Roofline",
    "growth": "Cost by T, N, H and threads",
}


def latencies(measurements: Iterable[Measurement]) -> list[str]:
    rows = [
        [str(measurement.case), name, *(duration(levels[level]) for level in SHOWN)]
        for measurement in measurements
        for name, levels in measurement.latency.items()
    ]
    return table(["", "", *(f"p{level}" for level in SHOWN)], rows) if rows else []


def growths(reports: Iterable[Report]) -> list[str]:
    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    for report in reports:
        for line in report.growth:
            words = f"{line.exponent:.2f} ({line.values[0]}…{line.values[-1]})"
            key = line.case.group.rpartition(",")[0], line.quantity, line.name
            rows.setdefault(key, {})[line.variable] = words
    if not rows:
        return []
    text = "Exponents that fit best, by least squares between logarithms, and the range that they are fitted over."
    found = [[*key, *(words.get(variable, "") for variable in VARIABLES)] for key, words in rows.items()]
    return [text, "", *table(["", "of", "", *VARIABLES], found)]


def cases(measurements: Iterable[Measurement]) -> list[str]:
    """A table for each group: the time or bytes of rnncore, and each ratio, with parts of the limit."""
    lines = []
    for title, group in grouped(measurements).items():
        names = names_of(group)
        own = [name for name in OWN if any(name in m.bytes for m in group)]
        rows = []
        for m in group:
            takes = duration(m.seconds.median) if m.seconds else size(m.bytes["rnncore"])
            rows.append([m.case.sizes, f"{takes} {part([m.fractions.get('rnncore')])}".strip()])
            for name in names:
                ratio = m.ratios.get(name)
                rows[-1].append(f"{shown(ratio)} {part([m.fractions.get(name)])}".strip() if ratio else "")
            rows[-1] += [size(m.bytes[name]) for name in own]
        lines += [f"### {title}", "", *table(["", "rnncore", *names, *own], rows), ""]
    return lines[:-1]


if __name__ == "__main__":
    sys.exit(main())
