"""One layer against torch.nn and the NumPy reference: inference, and training (forward and backward, all gradients).

    pytest bench                        # one thread; groups of contenders on the same work, with their ratio
    pytest bench --threads 2 -k "lstm and inference"

Results are compared before anything is timed. Contenders that are not installed are left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnncore as rc
from rnncore.reference import lstm as reference_lstm
from rnncore.reference import rnn as reference_rnn

T = 100
SHAPES = [(1, 64), (1, 128), (1, 256), (8, 128), (32, 256)]  # N, I = H
TOLERANCE = 1e-4


class Case:
    """The same layer, input and upstream gradient for every contender, in float32."""

    def __init__(self, kind: str, N: int, H: int) -> None:
        self.kind, self.H = kind, H
        self.layer: Any = rc.LSTM(H, H, rng=0) if kind == "lstm" else rc.RNN(H, H, rng=0)
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((T, N, H)).astype(np.float32)
        self.dy = rng.standard_normal((T, N, H)).astype(np.float32)
        self.weights = list(self.layer.parameters().values())
        self.zero = np.zeros((N, H), np.float32)

    def rnncore(self) -> tuple[Any, Any]:
        def train() -> Any:
            _, _, tape = self.layer.forward(self.x)
            return self.layer.backward(tape, self.dy)[2]["weight_hh_l0"]

        return lambda: self.layer(self.x)[0], train

    def reference(self) -> tuple[Any, Any]:
        x, dy, zero, weights = self.x, self.dy, self.zero, self.weights

        def lstm() -> Any:
            y, _, _, tape = reference_lstm.forward(x, zero, zero, *weights)
            return reference_lstm.backward(dy, zero, zero, tape, x, y, zero, zero, *weights[:2]).dW_hh

        def rnn() -> Any:
            y, _ = reference_rnn.forward(x, zero, *weights)
            return reference_rnn.backward(dy, zero, x, y, zero, *weights[:2]).dW_hh

        if self.kind == "lstm":
            return lambda: reference_lstm.forward(x, zero, zero, *weights)[0], lstm
        return lambda: reference_rnn.forward(x, zero, *weights)[0], rnn

    def torch(self) -> tuple[Any, Any]:
        torch = pytest.importorskip("torch")
        module = getattr(torch.nn, self.kind.upper())(self.H, self.H)
        module.load_state_dict({name: torch.tensor(array) for name, array in self.layer.state_dict().items()})
        x, dy = torch.tensor(self.x), torch.tensor(self.dy)
        x_grad = x.clone().requires_grad_()

        def infer() -> Any:
            with torch.inference_mode():
                return module(x)[0].numpy()

        def train() -> Any:
            module.zero_grad()
            x_grad.grad = None
            y, _ = module(x_grad)
            y.backward(dy)
            return module.weight_hh_l0.grad.numpy()

        return infer, train


@pytest.fixture(scope="module", params=[f"{kind}-N{N}-H{H}" for kind in ("rnn", "lstm") for N, H in SHAPES])
def case(request: pytest.FixtureRequest) -> Case:
    kind, N, H = request.param.split("-")
    return Case(kind, int(N[1:]), int(H[1:]))


@pytest.mark.parametrize("contender", ["rnncore", "torch", "reference"])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_layer(benchmark: Any, request: pytest.FixtureRequest, case: Case, mode: str, contender: str) -> None:
    run = getattr(case, contender)()[mode == "training"]
    expected = case.rnncore()[mode == "training"]()
    assert np.linalg.norm(run() - expected) <= TOLERANCE * np.linalg.norm(expected)
    benchmark.group = (
        f"{mode} {request.node.callspec.params['case']}, T={T}, threads={request.getfixturevalue('threads')}"
    )
    benchmark(run)
