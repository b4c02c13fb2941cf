"""Presets, what is asked of them, and runs of them from the command line."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
from common import import_peer
from test_measure import RAGGED, SEQUENCE, work

from rnncore import cli, runtime
from rnncore.measure import peers, presets
from rnncore.measure import run as runs
from rnncore.measure.paired import Interval
from rnncore.measure.peers import Case
from rnncore.measure.results import Measurement, Settings

CASES = (Case("sequence", "rnn", 1, 8, T=4), Case("sequence", "rnn", 2, 8, T=4))


def measured(*torch):
    return {
        case: Measurement(case, Interval(1, 1, 1), {"torch": Interval(*t), "jax": Interval(9, 9, 9)})
        for case, t in zip(CASES, torch, strict=False)
    }


@pytest.mark.parametrize(
    ("ratios", "bar", "reached", "lost"),
    [
        ([(1.1, 1.0, 1.2), (1.3, 1.2, 1.4)], {"each": 1.0, "mean": 1.15}, True, 0),
        ([(0.9, 0.8, 1.0), (1.6, 1.2, 1.7)], {"each": 1.0, "mean": 1.15}, True, 0),  # its interval reaches the bar
        ([(0.9, 0.8, 0.99), (1.6, 1.2, 1.7)], {"each": 1.0, "mean": 1.15}, False, 1),
        ([(1.0, 1.0, 1.0), (1.2, 1.2, 1.2)], {"each": 1.0, "mean": 1.15}, False, 0),
        ([(1.2, 1.1, 1.3)], {"each": 1.0}, None, 0),  # of two cases
        ([(0.2, 0.1, 0.3)], {"each": 1.0}, False, 1),
        ([], {"each": 1.0}, None, 0),
    ],
)
def test_verdict(ratios, bar, reached, lost):
    for against in ("torch", "best"):
        verdict = presets.Bar("row", CASES, against, **bar).verdict(measured(*ratios), ("torch", "jax"))
        assert (verdict.reached, len(verdict.lost)) == (reached, lost)
        assert verdict.value == (
            pytest.approx(math.prod(r[0] for r in ratios) ** (1 / len(ratios))) if ratios else None
        )
        word = {True: "reached", False: "NOT REACHED", None: "not measured"}[reached]
        assert word in str(verdict)


def test_best_among_some():
    """Who is not among them neither counts nor is measured for the bar."""
    measurement = Measurement(
        CASES[0], Interval(1, 1, 1), {"torch": Interval(3, 3, 3), "ort": Interval(4, 4, 4), "jax": Interval(2, 2, 2)}
    )
    found = ("torch", "ort", "jax")
    for among, value in ((("torch", "ort"), 3), (("ort",), 4), (tuple(peers.PEERS), 2)):
        bar = presets.Bar("row", CASES[:1], "best", mean=1.0, among=among)
        assert bar.others(found) == [name for name in found if name in among]
        assert f"against best of {', '.join(bar.others(found))}: mean ≥ 1.0" in bar.words(found)
        assert bar.verdict({CASES[0]: measurement}, found).value == pytest.approx(value)


@pytest.mark.parametrize(("lost", "high"), [(False, 1.4), (True, 1.3)])
def test_padded_ratio_is_for_as_much_work(lost, high):
    """Of 60 steps 38 lie within the lengths: a ragged call may take 1.15 times that part of a padded one's time."""
    raw = Interval(1.2, 1.1, high)
    measurement = Measurement(RAGGED, Interval(1, 1, 1), {"padded": raw, "torch": raw})
    part = 38 / 60
    assert measurement.ratio("torch") == raw
    assert measurement.ratio("padded") == Interval(*(pytest.approx(part * value) for value in (1.2, 1.1, high)))
    bar = presets.Bar("ragged-cost", (RAGGED,), "padded", each=1 / 1.15)
    assert bar.others(("torch",)) == ["padded"]
    assert bar.words(()) == f"{RAGGED} against padded × sum(lengths)/(N·T): ≥ 0.87"
    verdict = bar.verdict({RAGGED: measurement}, ())
    assert verdict.value == pytest.approx(part * 1.2)
    assert (verdict.reached, bool(verdict.lost)) == (not lost, lost)
    assert measurement.ratios["padded"] == raw  # as measured


@pytest.mark.parametrize(("high", "lost"), [(0.80, False), (0.75, True)])
def test_modules_may_take_so_much_more(high, lost):
    """A layer's 100 µs may become 110 + 15: a ratio of 0.8."""
    case = replace(SEQUENCE, module=True)
    measurement = Measurement(case, Interval(125e-6, 1e-4, 2e-4), {"numpy": Interval(0.8, 0.7, high)})
    bar = presets.Bar("call", (case,), "numpy", over=15e-6)
    assert bar.others(("torch",)) == ["numpy"]
    assert "at most 1.1 times, and 15 µs, of its time" in bar.words(())
    verdict = bar.verdict({case: measurement}, ())
    assert (verdict.reached, bool(verdict.lost)) == (not lost, lost)


def test_pytorch_preset_is_the_whole_table():
    preset = presets.pytorch()
    assert preset.rows == ("call", "gradients", "packed") and len(preset.bars) == 16
    assert all(case.module for bar in preset.bars for case in bar.cases)
    for bar in preset.bars:
        number, over, against = {
            "call": (28, 15e-6, "numpy"), "gradients": (16, 50e-6, "numpy"), "packed": (12, None, "whole")
        }[bar.row]  # fmt: skip
        assert (len(bar.cases), bar.over, bar.against) == (number, over, against)
        assert bar.each == (1.0 if bar.row == "packed" else None)
    assert {(bar.row, bar.cases[0].cell, bar.cases[0].kind, bar.cases[0].threads) for bar in preset.bars} == {
        *((row, cell, kind, threads) for row, kind in (("call", "sequence"), ("gradients", "training"))
          for cell in ("lstm", "rnn", "gru") for threads in (1, 2)),
        *(("packed", "lstm", kind, threads) for kind in ("sequence", "training") for threads in (1, 2)),
    }  # fmt: skip


def test_inference_preset_is_the_whole_table():
    preset = presets.inference()
    assert preset.rows == (
        "lstm",
        "rnn",
        "lstm-float64",
        "call",
        "stream",
        "limit",
        "two-threads",
        "streams",
        "import",
        "size",
    )
    for bar in preset.bars:
        assert len({case.threads for case in bar.cases}) == 1
        assert bar.narrowed().cases
    grids = [bar for bar in preset.bars if bar.row in ("lstm", "rnn", "lstm-float64")]
    assert all(len(bar.cases) == 28 for bar in grids)
    assert sorted(bar.cases[0].threads for bar in grids if bar.row == "lstm") == [1, 2]


def test_layers_preset_is_the_whole_table():
    preset = presets.layers()
    assert preset.rows == ("gru", "ragged", "ragged-cost", "bidirectional")
    found = tuple(peers.PEERS)
    for threads in (1, 2):
        bars = [bar for bar in preset.bars if {case.threads for case in bar.cases} == {threads}]
        assert [(bar.row, len(bar.cases), bar.each, bar.mean) for bar in bars] == [
            ("gru", 28, 1.0, 1.25),
            ("gru", 28, None, 2.8),
            ("ragged", 12, None, 2.5),
            ("ragged-cost", 12, 1 / 1.15, None),
            ("bidirectional", 28, None, {1: 1.1, 2: 1.3}[threads]),
        ]
        assert [bar.others(found) for bar in bars] == [
            list(found),
            ["torch"],
            ["torch"],
            ["padded"],
            ["torch", "ort"],
        ]
        assert bars[2].cases == bars[3].cases and all(case.ragged for case in bars[2].cases)
        assert {(case.L, case.D) for case in bars[4].cases} == {(2, 2)}
        assert {case.cell for case in bars[0].cases} == {"gru"}
    assert all(len(bar.narrowed().cases) == (2 if "ragged" in bar.row else 4) for bar in preset.bars)
    assert len(preset.bars) == 10


def test_training_preset_is_the_whole_table():
    preset = presets.training()
    assert preset.rows == ("lstm", "rnn", "gru", "float64", "ragged", "step", "limit", "memory")
    for threads in (1, 2):
        bars = [bar for bar in preset.bars if {case.threads for case in bar.cases} == {threads}]
        both, torch = ["torch", "jax"], ["torch"]
        assert [(bar.row, len(bar.cases), bar.each, bar.mean, bar.others(tuple(peers.PEERS))) for bar in bars] == [
            ("lstm", 16, 1.05, 1.4, both),
            ("rnn", 16, 1.1, 1.6, both),
            ("rnn", 16, None, 4.0, torch),
            ("gru", 16, 1.1, 1.7, both),
            ("gru", 16, None, 3.8, torch),
            ("float64", 16, 1.2, 2.0, both),
            ("float64", 16, None, 3.0, torch),
            ("ragged", 12, None, 3.5, torch),
            ("step", 1, 1.5, None, torch),
            *[("limit", 6, 0.8, None, ["limit"])] * 3,
            *[("memory", 16, 1.0, None, torch)] * 4,
            ("memory", 12, 1.0, None, torch),
        ]
        kinds = {bar.row: {case.kind for case in bar.cases} for bar in bars}
        assert kinds == {row: {row if row in ("step", "memory") else "training"} for row in preset.rows}
        assert all(case.dtype == "float64" for bar in bars if bar.row == "float64" for case in bar.cases)
    assert all(bar.narrowed().cases for bar in preset.bars)


def tiny():
    return presets.Preset(
        (
            presets.Bar("grid", CASES, "best", each=0.0),
            presets.Bar("limit", CASES[:1], "limit", each=1e9),
            presets.Bar("two", (replace(CASES[0], threads=2),), "one thread", each=0.0),
            presets.Bar("training", (replace(CASES[0], kind="training"),), "limit", each=0.0),
            presets.Bar("memory", (replace(CASES[0], kind="memory"),), "torch", each=0.0),
        ),
        (presets.Cost("size", "installed package", "MB", 3, presets.package_size),),
    )


@pytest.fixture
def tiny_preset(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "tiny", tiny)
    monkeypatch.setattr(runs, "QUICK", Settings(True, 6, 0.001, 0.002))


def bench(*args):
    return cli.main(["bench", "--preset", "tiny", "--quick", *args])


def test_bench(tiny_preset, capsys, tmp_path):
    file = tmp_path / "results.json"
    rows = "grid,limit,size"
    assert bench("--rows", rows, "--against", "ort", "--json", str(file), "--threads", "1") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "NOT REACHED" in out and "lost  RNN float32 sequence, 1 thread, N=1 H=8 T=4: " in out
    report = json.loads(file.read_text())
    assert report["complete"] is True
    assert report["problems"] == []
    assert report["measurements"][0]["case"] == asdict(CASES[0])
    assert [verdict["row"] for verdict in report["verdicts"]] == ["grid", "limit", "size"]
    assert report["verdicts"][1]["reached"] is False
    assert report["verdicts"][2]["reached"] is True
    assert [found["threads"] for found in report["limits"]] == list(range(1, len(report["limits"]) + 1))
    assert set(report["limits"][0]) == {"flops", "caches", "bandwidth", "threads"}
    assert {"python", "rnncore", "numpy"} <= set(report["versions"])


def test_bench_without_peers(tiny_preset, capsys, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda module: None)
    assert bench("--rows", "grid,limit", "--threads", "1") == 0
    out = capsys.readouterr().out
    assert "not installed: onnxruntime, onnx; measuring without ort" in out
    assert "not measured" in out.split("  grid: ")[0]


def test_bench_training_and_memory(tiny_preset, capsys, tmp_path):
    import_peer("torch")
    file = tmp_path / "results.json"
    assert bench("--rows", "training,memory", "--against", "torch", "--json", str(file)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "RNN float32 training, 1 thread\n" in out and "RNN float32 memory, 1 thread\n" in out
    assert out.count("\nN=1 H=8 T=4 ") == 2 and " kB " in out and "(panels " in out
    timing, memory = json.loads(file.read_text())["measurements"]
    assert timing["bytes"] == {} and timing["seconds"]["median"] > 0
    assert memory["seconds"] is None and list(memory["bytes"]) == ["rnncore", "torch", "panels", "tape", "call"]
    assert memory["ratios"]["torch"]["median"] == memory["bytes"]["torch"] / memory["bytes"]["rnncore"]


def test_bench_training_without_peers(capsys, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda module: None)
    args = ["bench", "--preset", "training", "--quick", "--rows", "ragged,step", "--threads", "1"]
    monkeypatch.setattr(runs, "QUICK", Settings(True, 6, 0.001, 0.002))
    assert cli.main(args) == 0
    out = capsys.readouterr().out
    assert "not installed: torch; measuring without torch" in out
    assert out.count("not measured") == 2


def test_bench_two_threads_against_one(tiny_preset, capsys):
    assert bench("--rows", "two") == 0
    out = capsys.readouterr().out
    assert ("against one thread: ≥ 0.0" in out) is (runtime.usable_cpus() > 1)  # of one CPU there is nothing to say


def test_bench_goes_on_without_a_peer_that_fails(tiny_preset, capsys, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda module: True)
    monkeypatch.setattr(peers, "contender", lambda name, case: work(name, "sleeper", seconds=0, value=len(name)))
    assert bench("--rows", "grid", "--against", "ort,jax") == 0
    out, err = capsys.readouterr()
    assert err.count("ort: has other results than rnncore") == err.count("jax: has other results") == 2
    assert "not measured" in out


def test_bench_when_rnncore_fails(tiny_preset, capsys, monkeypatch):
    monkeypatch.setattr(peers, "contender", lambda name, case: work(name, "raiser", when="build"))
    assert bench("--rows", "grid") == 0
    out, err = capsys.readouterr()
    assert "rnncore: LookupError: no luck" in err
    assert "not measured" in out


def test_interrupted_bench_keeps_what_it_has(tiny_preset, monkeypatch, tmp_path):
    def interrupt(self, text):
        if "RNN" in text:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli._Screen, "line", interrupt)
    file = tmp_path / "results.json"
    assert bench("--rows", "limit", "--json", str(file)) == 130
    report = json.loads(file.read_text())
    assert report["complete"] is False
    assert len(report["measurements"]) == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--preset", "fast"], "expected a preset among inference, layers, training, pytorch, all, tiny, got 'fast'"),
        (["--preset", ""], "expected a preset among inference, layers, training, pytorch, all, tiny, got ''"),
        (["--rows", "grid,gird"], "expected rows among grid, limit, two, training, memory, size, got 'gird'"),
        (["--against", "keras"], "expected peers among torch, ort, openvino, jax, reference, got 'keras'"),
        (["--threads", "3"], "expected threads among 1"),
        (["--threads", "one"], "argument --threads: expected numbers, got 'one'"),
        (["--json", "/no/such/folder/file"], "No such file or directory: '/no/such/folder/file'"),
    ],
)
def test_bench_errors_are_one_line(tiny_preset, capsys, args, message):
    assert bench(*args) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"rnncore bench: error: {message}")
    assert err.count("\n") == 1
    assert out == ""


def test_import_cost():
    assert presets.import_cost(quick=True) < 10_000


def test_import_loads_no_measure():
    code = "import sys, rnncore, rnncore.cli; print([name for name in sys.modules if 'measure' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
