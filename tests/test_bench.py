"""`rnncore bench` on cases of one's own, and what is made of results: tables, pictures, a report."""

import importlib
import io
import itertools
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rnncore import cli
from rnncore.measure import modes, peers, pictures, presets
from rnncore.measure import run as runs
from rnncore.measure.modes import cases
from rnncore.measure.paired import Interval
from rnncore.measure.peers import Case
from rnncore.measure.results import Measurement, Settings, Verdict, read, shown
from rnncore.measure.scaling import exponent, growth
from rnncore.measure.table import Table, duration, growth_lines, size

CASE = Case("sequence", "lstm", N=1, H=8, T=4)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(runs, "QUICK", Settings(True, 6, 0.001, 0.002))


def bench(*args):
    return cli.main(["bench", "--quick", *args])


class Terminal(io.StringIO):
    def isatty(self):
        return True


# --- cases ------------------------------------------------------------------------------------------------------------


def test_every_combination():
    found = cases(cell=["gru", "rnn"], hidden=[8, 9], batch=[1, 2], steps=[3], dtype=["float64"], mode=["training"])
    assert len(set(found)) == len(found) == 8
    assert {(case.kind, case.T, case.dtype, case.threads) for case in found} == {("training", 3, "float64", 1)}
    assert {(case.cell, case.H, case.I, case.N) for case in found} == {
        (cell, H, H, N) for cell in ("gru", "rnn") for H in (8, 9) for N in (1, 2)
    }


def test_default_cases():
    assert {(case.kind, case.cell, case.T) for case in cases()} == {("sequence", "lstm", 100)}
    assert len(cases()) == 12 and len(cases(quick=True)) == 4
    assert cases(mode=["stream"], hidden=[8]) == (Case("stream", "lstm", 1, 8),)
    assert all(case.ragged and case.N > 1 for case in cases(mode=["ragged", "ragged-training"]))


@pytest.mark.parametrize("mode", modes.MODES)
def test_modes_run(mode, capsys):
    """Against what needs no peer, with a limit wherever there is work."""
    steps = ["--steps", "4"] if modes.MODES[mode].steps > 1 else []
    args = ["--mode", mode, "--hidden", "8", "--batch", "2", *steps, "--against", "reference"]
    assert bench(*args) == 0
    out, err = capsys.readouterr()
    assert err == ""
    row = next(line for line in out.splitlines() if line.startswith("N=2 H=8"))
    assert ("%" in row) == (mode != "memory")
    assert ("±" in row) == (mode not in ("memory", "bidirectional"))


def test_latencies_of_steps(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "QUICK", Settings(True, 6, 0.001, 0.002, 100))
    args = ["--mode", "call,stream,training", "--hidden", "8", "--batch", "1", "--steps", "4", "--against", "reference"]
    assert bench(*args, "--json", str(tmp_path / "results.json")) == 0
    out = capsys.readouterr().out
    assert [out.count(f" {level} ") for level in ("p50", "p99", "p99.9")] == [2, 2, 2]
    *single, training = json.loads((tmp_path / "results.json").read_text())["measurements"]
    assert training["latency"] == {}
    for measurement in single:
        assert set(measurement["latency"]) == {"rnncore", "reference"}
        for levels in measurement["latency"].values():
            assert 0 < levels["50"] <= levels["99"] <= levels["99.9"] <= levels["100"]


# --- how cost grows ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-1, 0, 0.5, 1, 2])
def test_exponent(power):
    values = [3, 7, 20, 100]
    assert exponent(values, [5 * value**power for value in values]) == pytest.approx(power, abs=1e-9)


def test_growth_along_each_variable():
    """A cost of T N H² / threads, of a peer T N H; lines have at least four points, but for threads."""
    sweeps = {"T": (10, 20, 40, 80), "N": (1, 2, 3), "H": (8, 16, 32, 64, 128), "threads": (1, 2)}
    measurements = {}
    for variable, values in sweeps.items():
        for value in values:
            case = Case(**({"kind": "sequence", "cell": "gru", "T": 40, "N": 2, "H": 32} | {variable: value}))
            seconds = case.T * case.N * case.H**2 / case.threads
            ratio = case.threads / case.H
            measurements[case] = Measurement(
                case,
                Interval(seconds, 0, 0),
                {"torch": Interval(ratio, 0, 0), "limit": Interval(1, 1, 1)},
            )
    found = {(line.name, line.variable): line for line in growth(measurements.values())}
    exponents = {key: round(line.exponent, 6) for key, line in found.items()}
    assert exponents == {
        ("rnncore", "T"): 1, ("rnncore", "H"): 2, ("rnncore", "threads"): -1,
        ("torch", "T"): 1, ("torch", "H"): 1, ("torch", "threads"): 0,
    }  # fmt: skip
    assert found["rnncore", "H"].values == (8, 16, 32, 64, 128)
    head, ours, theirs = growth_lines(list(found.values()))
    assert head.split() == ["cost", "grows", "like", "the", "power", "of", "T", "N", "H", "threads"]
    assert ours.split() == ["GRU", "float32", "sequence", "seconds", "rnncore", "1.00", "–", "2.00", "-1.00"]
    assert theirs.split()[-4:] in (["1.00", "–", "1.00", "0.00"], ["1.00", "–", "1.00", "-0.00"])
    assert len(head) == len(ours) == len(theirs) and growth_lines([]) == []


def test_memory_grows_with_the_sequence():
    taken = {T: {"rnncore": 100 * T, "panels": 7, "tape": 60 * T, "call": 9} for T in (10, 20, 40, 80)}
    measurements = [Measurement(Case("memory", "rnn", 1, 8, T=T), None, {}, found) for T, found in taken.items()]
    found = {line.quantity: round(line.exponent, 6) for line in growth(measurements)}
    assert found == {"gradients": 1, "tape": 1, "call": 0}


def test_scaling_mode():
    found = cases(mode=["scaling"], hidden=[16], steps=[50], quick=True)
    assert {case.kind for case in found} == {"sequence", "training", "memory"}
    middle = Case("sequence", "lstm", N=8, H=16, T=50)
    differing = [
        [name for name in ("T", "N", "H", "threads") if getattr(case, name) != getattr(middle, name)] for case in found
    ]
    assert all(len(names) <= 1 for names in differing)
    assert {name for names in differing for name in names} >= {"T", "N", "H"}
    assert not [case for case in found if case.kind == "memory" and case.threads > 1]
    both = cases(mode=["scaling", "stream"], hidden=[16, 32], steps=[50], threads=[1], quick=True)
    more = {(case.kind, case.H) for case in both if case not in found}
    assert set(found) < set(both) and more == {("stream", 16), ("stream", 32)}


def test_growth_is_printed_and_kept(capsys, tmp_path):
    args = ["--mode", "inference", "--hidden", "4", "--batch", "1", "--steps", "2,4,8,16", "--against", "reference"]
    assert bench(*args, "--json", str(tmp_path / "results.json")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:5] for line in lines[-2:]] == [
        ["LSTM", "float32", "sequence", "seconds", name] for name in ("rnncore", "reference")
    ]
    growths = json.loads((tmp_path / "results.json").read_text())["growth"]
    assert [(line["variable"], line["values"]) for line in growths] == [("T", [2, 4, 8, 16])] * 2
    assert 0.5 < growths[1]["exponent"] < 1.5


# --- tables -----------------------------------------------------------------------------------------------------------


def measured(case=CASE, **ratios):
    return Measurement(case, Interval(1e-6, 1e-6, 1e-6), {name: Interval(*r) for name, r in ratios.items()})


def test_fractions_of_the_limit():
    fractions = measured(torch=(2, 2, 2), limit=(0.8, 0.8, 0.8), ort=(0.5, 0.5, 0.5)).fractions
    assert fractions == {"rnncore": 0.8, "torch": 0.4, "ort": 1.6}
    assert measured(torch=(2, 2, 2)).fractions == {}


def test_table_is_aligned():
    second, other = (Case("sequence", "lstm", N=64, H=512, T=400), Case("call", "lstm", N=1, H=8))
    names = ["torch", "jax", "limit"]
    table = Table({CASE: names, second: names, other: ["torch"]})
    blocks = [
        table.lines(measured(torch=(2, 1.9, 2.2), jax=(3, 3, 3), limit=(0.8, 0.8, 0.8))),
        table.lines(measured(second, torch=(8, 7, 9), limit=(0.9, 0.8, 1.0))),
        table.lines(measured(other, torch=(100.5, 90, 130))),
    ]
    _, legend, _, gap, head, names, first = blocks[0].split("\n")
    assert legend.startswith("Columns: time of a call by rnncore") and gap == ""
    assert head == CASE.group
    assert first.split() == ["N=1", "H=8", "T=4", "1.00", "µs", "80%", "2.00", "±0.20", "40%", "3.00", "±0.00", "27%"]
    assert len(first) == len(names) and names.split() == ["rnncore", "torch", "jax"]
    row, mean, gap, head, _, last = [*blocks[1].split("\n"), *blocks[2].split("\n")]
    assert row.split()[-1] == "–" and row.index("±") == first.index("±")
    assert mean.split() == ["geometric", "mean", "4.00", "3.00"] and mean.index("4.00") == first.index("2.00")
    assert (gap, head) == ("", other.group) and "100.50 ±29.50" in last
    assert table.end() == "\n" and table.end() == ""


def test_verdicts_end_a_table():
    table = Table({CASE: ["torch"]}, colours=True)
    table.lines(measured(torch=(2, 2, 2)))
    verdict = Verdict("row", "what", 1.5, True, ())
    assert table.lines(verdict) == "\n\x1b[32mreached\x1b[0m        1.50  row: what"
    assert "\x1b[31mNOT REACHED\x1b[0m" in table.lines(Verdict("row", "what", 1.5, False))
    assert "\x1b[33mnot measured\x1b[0m" in table.lines(Verdict("row", "what", None, None))


@pytest.mark.parametrize(("ratio", "colour"), [((2, 1.1, 3), 32), ((0.5, 0.4, 0.9), 31), ((1, 0.9, 1.1), None)])
def test_colours_do_not_move_columns(ratio, colour):
    plain, painted = (Table({CASE: ["torch"]}, colours) for colours in (False, True))
    result = measured(torch=ratio)
    plain, painted = plain.lines(result), painted.lines(result)
    assert (f"\x1b[{colour}m" in painted) == (colour is not None)
    assert re.sub(r"\x1b\[\d+m", "", painted) == plain


def test_units():
    words = [duration(seconds) for seconds in (1e-9, 12.34e-6, 0.09996, 0.9999, 4.0)]
    assert words == ["1.00 ns", "12.3 µs", "100 ms", "1.0 s", "4.0 s"]
    assert [size(number) for number in (12, 318_444, 2.5e9)] == ["12.0 B", "318 kB", "2.5 GB"]


# --- pictures ---------------------------------------------------------------------------------------------------------


def results():
    """Those of a run on a few small cases, each sort of which is there."""
    return json.loads((Path(__file__).parent / "data" / "bench.json").read_text(encoding="utf-8"))


def test_reports_are_read_as_they_are_written():
    report = read(results())
    assert json.loads(json.dumps(asdict(report))) == results()
    assert report.measurements[0].case in report.cases and report.complete


def test_pictures_show_what_there_is():
    pytest.importorskip("matplotlib")
    report = read(results())
    panels = {name: picture(report) for name, picture in pictures.PICTURES.items()}
    assert {name: len(found) > 0 for name, found in panels.items()} == dict.fromkeys(pictures.PICTURES, True)
    axes = {name: pictures.draw(found).axes for name, found in panels.items()}
    singles = [measurement for measurement in report.measurements if measurement.latency]
    assert [ax.get_title() for ax in axes["latency"]][: len(singles)] == [str(single.case) for single in singles]
    for ax, single in zip(axes["latency"], singles, strict=False):
        assert [line.get_label() for line in ax.lines] == list(single.latency)
        assert ax.lines[0].get_ydata()[2] == pytest.approx(1e6 * single.latency["rnncore"]["50"])
    first = report.measurements[0]
    numbers = [text.get_text() for text in axes["speed"][0].texts]
    assert f"{first.ratio('best', pictures.COLOURS).median:.2f}" in numbers
    assert {ax.get_xlabel() for ax in axes["growth"] if ax.lines} >= {"T", "N", "H"}
    reached = next(line for line in axes["roofline"][0].lines if line.get_label() == "rnncore")
    assert max(reached.get_ydata()) < 2 * report.limits[0].flops["float32"] / 1e9


def test_speed_ups_over_N_and_H_alone():
    """Cases that differ in T or I have pictures of their own."""
    pytest.importorskip("matplotlib")
    found = [
        measured(Case("sequence", "lstm", N=1, H=H, T=T, I=I), torch=(H + T + I,) * 3)
        for T, I, H in ((10, 0, 8), (10, 0, 9), (100, 0, 8), (100, 3, 8))
    ]
    axes = pictures.draw(pictures.speed_ups(replace(read(results()), measurements=found))).axes
    shown = {ax.get_title().split("\n")[0]: [text.get_text() for text in ax.texts] for ax in axes}
    assert shown == {
        "LSTM float32 sequence, 1 thread, T=10": ["18.00", "19.00"],
        "LSTM float32 sequence, 1 thread, T=100": ["108.00"],
        "LSTM float32 sequence, 1 thread, T=100, I=3": ["111.00"],
    }


def test_nothing_to_draw(tmp_path):
    pytest.importorskip("matplotlib")
    with open(tmp_path / "nothing.png", "wb") as file:
        pictures.save(pictures.draw([]), file, "png")
    assert (tmp_path / "nothing.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("suffix", "begin"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("PDF", b"%PDF")])
def test_plot(tmp_path, suffix, begin):
    pytest.importorskip("matplotlib")
    file = tmp_path / f"picture.{suffix}"
    assert bench(*SMALL, "--against", "reference", "--plot", str(file)) == 0
    assert file.read_bytes().startswith(begin)


def test_files_stay_as_they_were_until_a_run_has_ended(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    files, seen = [tmp_path / "old.json", tmp_path / "old.png"], []
    for file in files:
        file.write_text("old")

    def begin():
        seen.extend(file.read_text() for file in files)
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_Screen", begin)
    plot = ["--plot", str(files[1])]
    assert bench(*SMALL, *plot, "--json", "/no/such/file") == 2 and files[1].read_text() == "old"
    assert bench(*SMALL, *plot, "--json", str(files[0])) == 130 and seen == ["old", "old"]
    assert json.loads(files[0].read_text())["complete"] is False and files[1].read_bytes().startswith(b"\x89PNG")
    assert sorted(tmp_path.iterdir()) == files


def test_plot_without_matplotlib(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert bench(*SMALL, "--plot", str(tmp_path / "picture.png")) == 2
    out, err = capsys.readouterr()
    assert err == "rnncore bench: error: expected matplotlib, to draw with: pip install rnncore[plot]\n" and out == ""


# --- the report -------------------------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "tests" / "data" / "bench.json"


@pytest.fixture
def report(monkeypatch):
    """`python -m bench.report` as a function."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("bench.report").main


def test_report(report, tmp_path):
    pytest.importorskip("matplotlib")
    page = tmp_path / "benchmarks.md"
    assert report([str(STORED), "--output", str(page)]) == 0
    text, found = page.read_text(encoding="utf-8"), read(results())
    drawn = re.findall(r"!\[.+?\]\(images/(benchmarks_\w+\.png)\)", text)
    assert sorted(drawn) == sorted(file.name for file in (tmp_path / "images").iterdir())
    assert {name.removeprefix("benchmarks_").split(".")[0] for name in drawn} == set(pictures.PICTURES)
    assert all((tmp_path / "images" / name).stat().st_size < 100_000 for name in drawn)
    for words in (found.machine["cpu"], found.commit, found.date, f"`{found.command}`", found.versions["torch"]):
        assert words in text
    for verdict in found.verdicts:
        assert f"| {verdict.row} | {verdict.what} |" in text and verdict.word.lower() in text.lower()
        assert all(case in text for case in verdict.lost)
    assert "3 rows: 1 reached, 1 not reached, 1 not measured." in text
    assert "Some runs were quick" in text and all(problem in text for problem in found.problems)
    for measurement in found.measurements:
        assert f"| {measurement.case.sizes} | " in text
        assert all(shown(ratio) in text for name, ratio in measurement.ratios.items() if name != "limit")
    tables = [line.count("|") for line in text.splitlines()]
    assert all(a == b for a, b in itertools.pairwise(tables) if a and b)


def test_report_of_several_runs(report, tmp_path):
    """Of a case measured twice, the last counts; many panels are several pictures."""
    pytest.importorskip("matplotlib")
    second = results()
    second["measurements"] = second["measurements"][:1] + [
        {**second["measurements"][1], "case": {**second["measurements"][1]["case"], "threads": n}} for n in range(3, 20)
    ]
    second |= {"command": "rnncore bench --second", "problems": [], "verdicts": [], "growth": []}
    (tmp_path / "second.json").write_text(json.dumps(second))
    assert report([str(STORED), str(tmp_path / "second.json"), "--output", str(tmp_path / "page.md")]) == 0
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "`rnncore bench --second`" in text and "19 threads" in text
    assert "images/benchmarks_speed_1.png" in text and "images/benchmarks_speed_2.png" in text
    row = f"| {read(second).measurements[0].case.sizes} | "
    assert text.split("### LSTM float32 sequence, 1 thread\n")[1].split("###")[0].count(row) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"commit": "another"}, "expected results of one commit, got"),
        ({"machine": results()["machine"] | {"cpu": "another"}}, "expected results of one machine, got"),
        ({"versions": {"numpy": "0.1"}}, "expected results of one version of numpy, got"),
        ({"measurements": [{}]}, "expected results of rnncore bench --json in "),
        ({"settings": {"loud": True}}, "expected results of rnncore bench --json in "),
    ],
)
def test_report_of_what_does_not_belong_together(report, tmp_path, capsys, change, message):
    (tmp_path / "other.json").write_text(json.dumps(results() | change))
    assert report([str(STORED), str(tmp_path / "other.json"), "--output", str(tmp_path / "page.md")]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"bench.report: error: {message}") and err.count("\n") == 1 and out == ""
    assert not (tmp_path / "page.md").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"missing": None}, "TypeError: 'NoneType'"),
        ({"machine": {}}, "KeyError: 'cpu'"),
        ({"versions": None}, "AttributeError: 'NoneType'"),
        ({"measurements": [{"ratios": {"torch": {"median": "x", "low": 1, "high": 1}}}]}, "TypeError: "),
        ({"measurements": [{"ratios": {"torch": {"median": 0, "low": 0, "high": 0}}}]}, "ValueError: expected ratios"),
        ({"measurements": [{"seconds": None}]}, "ValueError: min()"),
        ({"growth": [{"values": []}]}, "ValueError: x and y"),
        ({"measurements": [{"case": {"kind": "sequence", "cell": "foo", "N": 1, "H": 8}}]}, "KeyError: 'foo'"),
    ],
)
def test_report_of_results_that_are_wrong_inside(report, tmp_path, capsys, change, message):
    pytest.importorskip("matplotlib")
    found = results()
    for name, value in change.items():
        found[name] = [{**found[name][0], **value[0]}] if isinstance(value, list) else value
    (tmp_path / "other.json").write_text(json.dumps(found))
    (tmp_path / "images").mkdir()
    assert report([str(tmp_path / "other.json"), "--output", str(tmp_path / "page.md")]) == 2
    out, err = capsys.readouterr()
    start = f"bench.report: error: expected results of rnncore bench --json in {tmp_path / 'other.json'}: {message}"
    assert err.startswith(start) and err.count("\n") == 1 and out == ""
    assert not (tmp_path / "page.md").exists() and not [*(tmp_path / "images").iterdir()]


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_report_of_something_else(report, tmp_path, capsys, text):
    (tmp_path / "other.json").write_text(text)
    assert report([str(tmp_path / "other.json")]) == 2
    assert "expected results of rnncore bench --json in" in capsys.readouterr().err
    assert report([str(tmp_path / "missing.json")]) == 2


def test_report_as_a_command(tmp_path):
    pytest.importorskip("matplotlib")
    command = [sys.executable, "-m", "bench.report", str(STORED), "--output", str(tmp_path / "page.md")]
    subprocess.run(command, check=True, cwd=ROOT)
    assert (tmp_path / "page.md").read_text(encoding="utf-8").startswith("# Benchmarks\n")


# --- the command ------------------------------------------------------------------------------------------------------

SMALL = ["--hidden", "8", "--batch", "1", "--steps", "4"]


@pytest.mark.parametrize(
    ("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_on_a_terminal_only(monkeypatch, capsys, environment, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    args = [*SMALL, "--against", "reference"]
    assert bench(*args) == 0
    assert "\x1b" not in capsys.readouterr().out
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    assert bench(*args) == 0
    assert ("\x1b[" in terminal.getvalue()) == coloured


def test_output_that_cannot_show_every_character(monkeypatch, tmp_path):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    assert bench(*SMALL, "--against", "reference", "--json", str(tmp_path / "results.json")) == 0
    assert b" ?s " in raw.getvalue() and json.loads((tmp_path / "results.json").read_text())["complete"]


def test_own_cases_without_peers(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(peers, "find_spec", lambda module: None)
    assert bench(*SMALL, "--cell", "rnn,gru", "--mode", "inference", "--json", str(tmp_path / "results.json")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "not installed: torch; measuring without torch" in out and "reference" in out
    report = json.loads((tmp_path / "results.json").read_text())
    assert [measurement["case"]["cell"] for measurement in report["measurements"]] == ["rnn", "gru"]
    assert all(set(measurement["ratios"]) == {"reference", "limit"} for measurement in report["measurements"])
    assert report["command"] == ("rnncore bench --cell rnn,gru --mode inference --hidden 8 --batch 1 --steps 4 --quick")
    assert report["date"] and report["peers"] == ["reference"] and report["verdicts"] == []


def test_preset_without_peers_has_the_reference(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda module: None)
    report = runs.prepare("all", quick=True, threads=[1])
    plan = runs.planned(report)
    assert report.peers == ("reference",) and not any(case.module for case in plan)
    assert all(
        ("reference" in names, "limit" in names) == (peers.does("reference", case), peers.does("limit", case))
        for case, names in plan.items()
    )


def test_presets_leave_the_reference_out_unless_asked(monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda module: True)
    assert runs.prepare("inference").peers == tuple(peers.PEERS)
    assert runs.prepare("inference", against=["reference", "ort"]).peers == ("ort", "reference")
    assert runs.prepare(cases=[CASE]).peers == (*peers.PEERS, "reference")


def test_all_presets_are_all_rows():
    found = presets.every()
    plans = {name: make() for name, make in presets.PRESETS.items() if name != "all"}
    assert len(found.bars) == sum(len(plan.bars) for plan in plans.values())
    assert set(found.rows) == {f"{name}/{row}" for name, plan in plans.items() for row in plan.rows}


def test_all_presets_print_every_row(monkeypatch, capsys):
    tiny = presets.Preset((presets.Bar("lstm", (CASE,), "reference", each=0.0, among=()),))
    small = presets.Preset((), (presets.Cost("size", "installed package", "MB", 3, presets.package_size),))
    plans = {"one": lambda: tiny, "two": lambda: small, "all": presets.every}
    monkeypatch.setattr(presets, "PRESETS", plans)
    assert bench("--preset", "all", "--against", "reference") == 0
    out = capsys.readouterr().out
    assert "reached" in out and " one/lstm: " in out and " two/size: " in out
    assert bench("--preset", "all", "--rows", "two/size") == 0
    assert "lstm" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--preset", "layers", "--hidden", "8"], "expected a preset or cases of your own, got --preset, --hidden"),
        (["--rows", "lstm", "--cell", "gru"], "expected a preset or cases of your own, got --rows, --cell"),
        (["--cell", "elman"], "expected cells among rnn, lstm, gru, got 'elman'"),
        (["--mode", "fast"], "expected modes among inference, ragged, "),
        (["--dtype", "float16"], "expected dtypes among float32, float64, got 'float16'"),
        (["--hidden", "0"], "expected hidden between 1 and "),
        (["--batch", "1,-1"], "expected batch between 1 and "),
        (["--steps", "0"], "expected steps between 1 and "),
        (["--mode", "stream,call", "--steps", "5"], "expected no steps with modes of single steps alone, got [5]"),
        (["--mode", "scaling", "--threads", "2"], "expected no threads with mode scaling alone, got [2]"),
        (["--mode", "scaling", "--hidden", "8,9"], "expected one value of hidden with mode scaling alone, got [8, 9]"),
        (["--plot", "picture.bmp"], "expected a picture's name to end in .png, .svg, .pdf, got 'picture.bmp'"),
        (["--plot", "/no/such/folder/picture.png"], "No such file or directory: '/no/such/folder/picture.png'"),
        (["--hidden", "8,many"], "argument --hidden: expected numbers, got '8,many'"),
        (["--hidden", "8", "--threads", "10000"], "expected at most "),
        (["--hidden", "8", "--threads", "0"], "expected threads between 1 and "),
        (
            ["--hidden", "8", "--against", "keras"],
            "expected peers among torch, ort, openvino, jax, reference",
        ),
    ],
)
def test_bad_arguments_are_one_line(capsys, args, message):
    assert bench(*args) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"rnncore bench: error: {message}")
    assert err.count("\n") == 1
    assert out == ""


# --- pytest bench -----------------------------------------------------------------------------------------------------


def suite(*args):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ROOT / "bench"), *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_suite_checks_times_and_saves(tmp_path):
    pytest.importorskip("pytest_benchmark")
    file = tmp_path / "saved.json"
    chosen = "(stream or training) and lstm and float32 and (rnncore or reference or limit) and not ragged"
    done = suite("--quick", "-k", chosen, f"--benchmark-json={file}")
    assert done.returncode == 0, done.stdout
    saved = {found["name"]: found for found in json.loads(file.read_text())["benchmarks"]}
    assert len(saved) == 6
    assert {found["group"].split(":")[0] for found in saved.values()} == {"lstm stream", "lstm training"}
    steps = next(found for name, found in saved.items() if "stream" in name and "rnncore" in name)
    assert 0 < steps["extra_info"]["p50"] <= steps["extra_info"]["p99.9"]
    compared = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", "compare", str(file)], capture_output=True, text=True, cwd=tmp_path
    )
    assert compared.returncode == 0 and "lstm stream" in compared.stdout + compared.stderr


def test_suite_has_every_cell_in_every_mode():
    pytest.importorskip("pytest_benchmark")
    counts = {}
    for args in ((), ("--quick",)):
        done = suite("--collect-only", *args)
        assert done.returncode == 0, done.stdout
        names = re.findall(r"test_layer\[(.+)\]", done.stdout)
        counts[args] = len(names)
        for mode in (mode for mode in modes.MODES if mode != "memory"):
            for cell in ("lstm", "rnn", "gru"):
                assert [name for name in names if name.startswith(f"{mode}-{cell}-")], (mode, cell)
        assert "test_import" in done.stdout and "test_memory" in done.stdout and "test_step" in done.stdout
    assert counts["--quick",] < counts[()] / 3
