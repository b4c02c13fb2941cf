"""Shared by the tests: the tolerance table, the reference run over a stack, random inputs, the torch twin."""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import rnncore as rc
from rnncore.reference import lstm as reference_lstm
from rnncore.reference import rnn as reference_rnn

# Largest error of a result, relative to the norm of what is expected. Sums over T*N rows make gradients less exact.
TOLERANCE = {
    ("float32", "forward"): 2e-6,
    ("float32", "backward"): 1e-5,
    ("float64", "forward"): 1e-14,
    ("float64", "backward"): 1e-13,
}
DTYPES = ("float32", "float64")
NONLINEARITIES = ("tanh", "relu", "sigmoid")


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


def as_tuple(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


def state_of(layer: Any, arrays: tuple[np.ndarray, ...]) -> Any:
    """Arrays as the layer's state: h, or (h, c)."""
    return arrays if isinstance(layer, rc.LSTM | rc.LSTMCell) else arrays[0]


def random_case(layer: Any, T: int, N: int, seed: int = 0) -> dict[str, Any]:
    """Random x, initial state, and upstream gradients on y and on the final state, for a layer in (T, N, ·)."""
    rng = np.random.default_rng(seed)
    D = 2 if layer.bidirectional else 1
    L, H = layer.num_layers, layer.hidden_size

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(layer.dtype)

    states = 2 if isinstance(layer, rc.LSTM) else 1
    return {
        "x": draw(T, N, layer.input_size),
        "state": state_of(layer, tuple(draw(L * D, N, H) for _ in range(states))),
        "dy": draw(T, N, D * H),
        "dstate": state_of(layer, tuple(draw(L * D, N, H) for _ in range(states))),
    }


def run_layer(layer: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Forward and backward of a layer on a case."""
    y, state, tape = layer.forward(case["x"], case["state"])
    dx, dstate, grads = layer.backward(tape, case["dy"], case["dstate"])
    return {
        "forward": {"y": y, "state": as_tuple(state)},
        "backward": {"dx": dx, "dstate": as_tuple(dstate), "grads": grads},
    }


def run_reference(layer: Any, case: dict[str, Any]) -> dict[str, Any]:
    """The same by the reference, in float64, layer by layer and direction by direction."""
    D, H = 2 if layer.bidirectional else 1, layer.hidden_size
    weights = {name: np.asarray(array, np.float64) for name, array in layer.parameters().items()}
    zeros = np.zeros(weights["weight_hh_l0"].shape[0])
    state_0 = [np.asarray(s, np.float64) for s in as_tuple(case["state"])]
    state_n = [np.empty_like(s) for s in state_0]
    inputs, outputs, tapes = [np.asarray(case["x"], np.float64)], [], {}

    def flip(sequence: np.ndarray, direction: int) -> np.ndarray:
        return sequence[::-1] if direction or layer.reverse else sequence

    for k in range(layer.num_layers):
        ys = []
        for d in range(D):
            suffix, row = f"_l{k}" + "_reverse" * d, k * D + d
            parameters = (weights["weight_ih" + suffix], weights["weight_hh" + suffix],
                          weights.get("bias_ih" + suffix, zeros), weights.get("bias_hh" + suffix, zeros))  # fmt: skip
            x = flip(inputs[k], d)
            if isinstance(layer, rc.LSTM):
                y, state_n[0][row], state_n[1][row], tapes[row] = reference_lstm.forward(
                    x, state_0[0][row], state_0[1][row], *parameters
                )
            else:
                y, state_n[0][row] = reference_rnn.forward(x, state_0[0][row], *parameters, layer.nonlinearity)
            ys.append(y)
        outputs.append(ys)
        inputs.append(np.concatenate([flip(y, d) for d, y in enumerate(ys)], axis=2))

    dstate = [np.asarray(s, np.float64).copy() for s in as_tuple(case["dstate"])]
    grads: dict[str, np.ndarray] = {}
    dy = np.asarray(case["dy"], np.float64)
    for k in reversed(range(layer.num_layers)):
        dx = np.zeros_like(inputs[k])
        for d in range(D):
            suffix, row = f"_l{k}" + "_reverse" * d, k * D + d
            W = weights["weight_ih" + suffix], weights["weight_hh" + suffix]
            x, part = flip(inputs[k], d), flip(dy[:, :, d * H : (d + 1) * H], d)
            if isinstance(layer, rc.LSTM):
                g = reference_lstm.backward(part, dstate[0][row], dstate[1][row], tapes[row], x, outputs[k][d],
                                            state_0[0][row], state_0[1][row], *W)  # fmt: skip
                dstate[1][row] = g.dc_0
            else:
                g = reference_rnn.backward(
                    part, dstate[0][row], x, outputs[k][d], state_0[0][row], *W, layer.nonlinearity
                )
            dstate[0][row] = g.dh_0
            dx += flip(g.dx, d)
            grads |= {"weight_ih" + suffix: g.dW_ih, "weight_hh" + suffix: g.dW_hh}
            if layer.bias:
                grads |= {"bias_ih" + suffix: g.db_ih, "bias_hh" + suffix: g.db_hh}
        dy = dx
    return {
        "forward": {"y": inputs[-1], "state": tuple(state_n)},
        "backward": {"dx": dy, "dstate": tuple(dstate), "grads": {name: grads[name] for name in weights}},
    }


def assert_same(actual: dict[str, Any], expected: dict[str, Any], dtype: str) -> None:
    """Assert that two runs agree, forward and backward."""
    for what in ("forward", "backward"):
        assert_close(actual[what], expected[what], dtype, what)
