"""Shared by the tests: the tolerance table, the kinds of layers, random inputs, the reference run over a stack."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import rnncore as rc
from rnncore.reference import gru, jordan, lstm, rnn

# Largest error of a result, relative to the norm of what is expected. Sums over T*N rows make gradients less exact.
TOLERANCE = {
    ("float32", "forward"): 2e-6,
    ("float32", "backward"): 1e-5,
    ("float64", "forward"): 1e-14,
    ("float64", "backward"): 1e-13,
}
DTYPES = ("float32", "float64")
NONLINEARITIES = ("tanh", "relu", "sigmoid")
OUTPUT_NONLINEARITIES = ("identity", "sigmoid", "tanh", "softmax")
# The layers that stack, with what changes their equations; made with at least 4 hidden units.
KINDS = [
    ("RNN", {}), ("LSTM", {}), ("LSTM", {"proj_size": 3}), ("LSTM", {"peephole": True}),
    ("LSTM", {"proj_size": 2, "peephole": True}), ("GRU", {}), ("GRU", {"reset_after": False}),
]  # fmt: skip


def import_peer(name: str) -> ModuleType:
    """Import a library to compare with; without it, skip, or fail where RNNCORE_REQUIRE_PEERS says so."""
    if os.environ.get("RNNCORE_REQUIRE_PEERS"):
        return __import__(name)
    return pytest.importorskip(name)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """||actual - expected|| / ||expected||."""
    assert actual.shape == expected.shape
    norm = np.linalg.norm(expected)
    return (
        float(np.linalg.norm(actual.astype(np.float64) - expected) / norm)
        if norm
        else float(np.abs(actual).max(initial=0))
    )


def assert_close(actual: Any, expected: Any, dtype: str, what: str, label: str = "") -> None:
    """Assert that arrays, or tuples or dicts of them, agree within the table's tolerance; `what` is its column."""
    if isinstance(expected, dict):
        assert list(actual) == list(expected)
        for name in expected:
            assert_close(actual[name], expected[name], dtype, what, name)
    elif isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for k, (a, e) in enumerate(zip(actual, expected, strict=True)):
            assert_close(a, e, dtype, what, f"{label}[{k}]")
    else:
        assert actual.dtype == dtype, label
        error = relative_error(actual, np.asarray(expected, np.float64))
        assert error <= TOLERANCE[dtype, what], f"{label}: relative error {error:.2e}"


def equal(a: Any, b: Any) -> bool:
    """Whether arrays, or tuples or dicts of them, hold the same bits; NaN equals NaN."""
    if isinstance(a, dict):
        return all(equal(a[name], b[name]) for name in a)
    if isinstance(a, tuple):
        return all(equal(x, y) for x, y in zip(a, b, strict=True))
    return np.array_equal(a, b, equal_nan=True)


def as_tuple(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


def state_of(layer: Any, arrays: tuple[np.ndarray, ...]) -> Any:
    """Arrays as the layer's state: h, or (h, c)."""
    return arrays if isinstance(layer, rc.LSTM | rc.LSTMCell) else arrays[0]


def pick(layer: Any, state: Any, chosen: Any) -> Any:
    """The state of some sequences, or of one."""
    return state_of(layer, tuple(np.ascontiguousarray(a[..., chosen, :]) for a in as_tuple(state)))


def state_shapes(layer: Any, N: int) -> list[tuple[int, ...]]:
    """The shapes of a state's arrays."""
    if isinstance(layer, rc.JordanRNN):
        return [(N, layer.output_size)]
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    h, c = (rows, N, getattr(layer, "proj_size", 0) or layer.hidden_size), (rows, N, layer.hidden_size)
    return [h, c] if isinstance(layer, rc.LSTM) else [h]


def random_case(layer: Any, T: int, N: int, seed: int = 0, lengths: Any = None) -> dict[str, Any]:
    """Random x, initial state, and upstream gradients on y and on the final state, for a layer in (T, N, ·).

    With `lengths`, what lies behind a sequence's end is as random as the rest.
    """
    rng = np.random.default_rng(seed)
    shapes = state_shapes(layer, N)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(layer.dtype)

    case = {
        "x": draw(T, N, layer.input_size),
        "state": state_of(layer, tuple(draw(*shape) for shape in shapes)),
        "dy": draw(T, N, (2 if layer.bidirectional else 1) * shapes[0][-1]),
        "dstate": state_of(layer, tuple(draw(*shape) for shape in shapes)),
    }
    return case if lengths is None else case | {"lengths": np.asarray(lengths)}


def run_layer(layer: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Forward and backward of a layer on a case."""
    options = {name: case[name] for name in ("lengths", "targets", "rng", "n_threads") if name in case}
    y, state, tape = layer.forward(case["x"], case["state"], **options)
    dx, dstate, grads = layer.backward(tape, case["dy"], case["dstate"], n_threads=case.get("n_threads"))
    return {
        "forward": {"y": y, "state": as_tuple(state)},
        "backward": {"dx": dx, "dstate": as_tuple(dstate), "grads": grads},
    }


NAMES = {"W_ih": "weight_ih", "W_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh"}
# The reference of each layer, what it calls the parameters, in its order, and the options that it takes.
REFERENCES = {
    rc.RNN: (rnn, NAMES, ("nonlinearity",)),
    rc.LSTM: (lstm, NAMES | {"W_hr": "weight_hr", "w_peephole": "weight_peephole"}, ()),
    rc.GRU: (gru, NAMES, ("reset_after",)),
    rc.JordanRNN: (
        jordan,
        {"W_ih": "weight_ih", "W_oh": "weight_oh", "b_h": "bias_h", "W_ho": "weight_ho", "b_o": "bias_o"},
        ("nonlinearity", "output_nonlinearity"),
    ),
}


def reference_parameters(layer: Any, suffix: str) -> dict[str, Any]:
    """What the reference takes of one layer in one direction: a missing bias is zero, as long as what comes before."""
    found: dict[str, Any] = {}
    rows = 0
    for name, ours in REFERENCES[type(layer)][1].items():
        array = layer.parameters().get(ours + suffix)
        if array is None and name.startswith("b"):
            array = np.zeros(rows)
        found[name] = None if array is None else np.asarray(array, np.float64)
        rows = rows if array is None else len(array)
    return found


def run_reference(layer: Any, case: dict[str, Any]) -> dict[str, Any]:
    """The same by the reference, in float64, layer by layer and direction by direction."""
    if "lengths" in case:
        return run_ragged_reference(layer, case)
    module, names, options = REFERENCES[type(layer)]
    extra = [getattr(layer, option) for option in options] + [case[name] for name in ("targets",) if name in case]
    D = 2 if layer.bidirectional else 1
    state_0, dstate = (
        [np.array(a, np.float64).reshape(-1, *a.shape[-2:]) for a in as_tuple(case[name])]
        for name in ("state", "dstate")
    )
    state_n = [np.empty_like(s) for s in state_0]
    inputs, kept = [np.asarray(case["x"], np.float64)], {}

    def flip(sequence: np.ndarray, direction: int) -> np.ndarray:
        return sequence[::-1] if direction or layer.reverse else sequence

    for k in range(layer.num_layers):
        ys = []
        for d in range(D):
            row, parameters = k * D + d, reference_parameters(layer, f"_l{k}" + "_reverse" * d)
            initial = [s[row] for s in state_0]
            y, *rest = module.forward(flip(inputs[k], d), *initial, *parameters.values(), *extra)
            for s, final in zip(state_n, rest, strict=False):
                s[row] = final
            tape = rest[len(state_n) :]  # an RNN needs none
            matrices = [array for name, array in parameters.items() if not name.startswith("b")]
            kept[row] = tape, (flip(inputs[k], d), y, *initial, *matrices, *extra)
            ys.append(y)
        inputs.append(np.concatenate([flip(y, d) for d, y in enumerate(ys)], axis=2))

    grads: dict[str, np.ndarray] = {}
    dy = np.asarray(case["dy"], np.float64)
    for k in reversed(range(layer.num_layers)):
        dx = np.zeros_like(inputs[k])
        for d, part in enumerate(np.split(dy, D, axis=2)):
            row = k * D + d
            tape, arguments = kept[row]
            g = module.backward(flip(part, d), *[s[row] for s in dstate], *tape, *arguments)
            dx += flip(g[0], d)
            for s, ds in zip(dstate, g[1:], strict=False):
                s[row] = ds
            of_parameters = zip(names.values(), g[1 + len(dstate) :], strict=False)
            grads |= {name + f"_l{k}" + "_reverse" * d: array for name, array in of_parameters}
        dy = dx

    def as_given(states: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        return tuple(s.reshape(a.shape) for s, a in zip(states, as_tuple(case["state"]), strict=True))

    return {
        "forward": {"y": inputs[-1], "state": as_given(state_n)},
        "backward": {"dx": dy, "dstate": as_given(dstate), "grads": {name: grads[name] for name in layer.parameters()}},
    }


def run_ragged_reference(layer: Any, case: dict[str, Any]) -> dict[str, Any]:
    """The sequences of each length alone, in their places among zeros; gradients of the parameters are sums."""
    y, dx = (np.zeros(case[name].shape) for name in ("dy", "x"))
    states, dstates = (tuple(np.zeros(a.shape) for a in as_tuple(case["state"])) for _ in range(2))
    grads = {name: np.zeros(array.shape) for name, array in layer.parameters().items()}
    for length in np.unique(case["lengths"]):
        chosen = np.flatnonzero(case["lengths"] == length)
        part = {name: case[name][:length, chosen] for name in ("x", "dy", "targets") if name in case}
        part |= {name: pick(layer, case[name], chosen) for name in ("state", "dstate")}
        alone = run_reference(layer, part)
        y[:length, chosen], dx[:length, chosen] = alone["forward"]["y"], alone["backward"]["dx"]
        for whole, some in zip(states + dstates, alone["forward"]["state"] + alone["backward"]["dstate"], strict=True):
            whole[..., chosen, :] = some
        for name, array in alone["backward"]["grads"].items():
            grads[name] += array
    return {"forward": {"y": y, "state": states}, "backward": {"dx": dx, "dstate": dstates, "grads": grads}}


def assert_same(actual: dict[str, Any], expected: dict[str, Any], dtype: str) -> None:
    """Assert that two runs agree, forward and backward."""
    for what in ("forward", "backward"):
        assert_close(actual[what], expected[what], dtype, what)
