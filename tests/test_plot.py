"""The pictures: what is drawn, not how it looks."""

from __future__ import annotations

import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

import rnncore as rc
from rnncore.plot import gradient_flow

matplotlib.use("Agg")

FLOW = np.exp(np.random.default_rng(0).standard_normal((2, 30)))


@pytest.fixture(autouse=True)
def closed():
    yield
    pyplot.close("all")


def drawn(ax):
    """Label, style and values of each line."""
    for line in ax.lines:
        np.testing.assert_array_equal(line.get_xdata(), np.arange(len(line.get_ydata())))
    return [(line.get_label(), line.get_linestyle(), np.asarray(line.get_ydata()).tolist()) for line in ax.lines]


def test_an_array_is_one_line_per_layer():
    ax = gradient_flow(FLOW)
    assert drawn(ax) == [("0", "-", FLOW[0].tolist()), ("1", "-", FLOW[1].tolist())]
    assert ax.get_yscale() == "log" and ax.get_xlabel() and ax.get_ylabel() and ax.get_legend()
    alone = gradient_flow(FLOW[:1].tolist())
    assert [line[1:] for line in drawn(alone)] == [("-", FLOW[0].tolist())] and alone.get_legend() is None


def test_cells_of_an_lstm_are_dashed_in_the_colour_of_their_layer():
    ax = gradient_flow((FLOW, 2 * FLOW), labels=["forwards", "backwards"])
    assert [line[:2] for line in drawn(ax)] == [
        ("forwards h", "-"), ("forwards c", "--"), ("backwards h", "-"), ("backwards c", "--"),
    ]  # fmt: skip
    assert drawn(ax)[1][2] == (2 * FLOW[0]).tolist() and drawn(ax)[2][2] == FLOW[1].tolist()
    colours = [line.get_color() for line in ax.lines]
    assert colours[0] == colours[1] != colours[2] == colours[3]


def test_several_flows_have_their_names():
    _, (other, ax) = pyplot.subplots(2)
    flows = {"before": FLOW[:1, :7], "after": (FLOW[:1], FLOW[1:])}
    assert gradient_flow(flows, ax=ax) is ax and not other.lines
    labels = ["before", "after h", "after c"]
    assert [line[0] for line in drawn(ax)] == labels and [len(line[2]) for line in drawn(ax)] == [7, 30, 30]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == labels


def test_names_of_any_type():
    labels = [line[0] for line in drawn(gradient_flow({0: FLOW, 10: FLOW}, labels=iter([1, "b"])))]
    assert labels == ["0 1", "0 b", "10 1", "10 b"]


def test_what_backward_returns():
    for layer, labels in ((rc.GRU(3, 5, 2, rng=0), ["0", "1"]), (rc.LSTM(3, 5, rng=0), ["h", "c"])):
        y, _, tape = layer.forward(np.ones((30, 2, 3)))
        *_, flow = layer.backward(tape, np.ones_like(y), flow=True)
        lines = drawn(gradient_flow(flow))
        assert [line[0] for line in lines] == labels
        assert [line[2] for line in lines] == np.concatenate(flow).reshape(2, 30).tolist()


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_what_has_no_place_on_the_scale_is_a_gap(bad):
    flow = FLOW[:1].copy()
    flow[0, 5:9] = bad
    ax = gradient_flow(flow)
    assert np.isnan(ax.lines[0].get_ydata()).nonzero()[0].tolist() == [5, 6, 7, 8]
    assert np.array_equal(flow[0, 5:9], [bad] * 4, equal_nan=True)  # the caller's stays
    gradient_flow(np.full((1, 4), bad)).figure.canvas.draw()


@pytest.mark.parametrize("error,match,arguments", [
    (ValueError, r"expected a flow of shape \(L\*D, T\).* got \(30,\)", (FLOW[0],)),
    (ValueError, r"got \(2, 30\), \(1, 30\)", ((FLOW, FLOW[:1]),)), (ValueError, "or two of them", ((FLOW,) * 3,)),
    (ValueError, "expected a flow", ((),)), (ValueError, "expected 2 labels, got 1", (FLOW, ["h"])),
    (TypeError, "expected a flow to be an array of real numbers", ({"x": "flow"},)), (TypeError, "real", (1j * FLOW,)),
])  # fmt: skip
def test_bad_flows_are_errors(error, match, arguments):
    with pytest.raises(error, match=match):
        gradient_flow(*arguments)
    assert not pyplot.get_fignums()


def test_matplotlib_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"rnncore\[plot\]"):
        gradient_flow(FLOW)


def test_importing_it_imports_no_matplotlib():
    code = "import sys, rnncore; rnncore.train, rnncore.plot.gradient_flow; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
