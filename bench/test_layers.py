"""Layers against torch.nn and the NumPy reference: inference, and training (forward and backward, all gradients).

    pytest bench                        # one thread; groups of contenders on the same work, with their ratio
    pytest bench --threads 2 -k "lstm and inference"

"ragged" is an LSTM with lengths spread over T/4 … T, "bidirectional" one of two layers. Results are compared before
anything is timed. Contenders that are not installed are left out.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import rnncore as rc
from rnncore.reference import gru as reference_gru
from rnncore.reference import lstm as reference_lstm
from rnncore.reference import rnn as reference_rnn

T = 100
SHAPES = [(1, 64), (1, 128), (1, 256), (8, 128), (32, 256)]  # N, I = H
KINDS = ("rnn", "lstm", "gru", "ragged", "bidirectional")
TOLERANCE = 1e-4


class Case:
    """The same layer, input and upstream gradient for every contender, in float32."""

    def __init__(self, kind: str, N: int, H: int) -> None:
        self.kind = kind
        self.cell = kind if kind in ("rnn", "gru") else "lstm"
        D = 2 if kind == "bidirectional" else 1
        self.stack: dict[str, Any] = {"num_layers": D, "bidirectional": D == 2}
        self.sizes = H, H
        self.layer: Any = getattr(rc, self.cell.upper())(*self.sizes, **self.stack, rng=0)
        rng = np.random.default_rng(0)
        self.x = rng.standard_normal((T, N, H)).astype(np.float32)
        self.dy = rng.standard_normal((T, N, D * H)).astype(np.float32)
        self.weights = list(self.layer.parameters().values())
        self.zero = np.zeros((N, H), np.float32)
        self.lengths = rng.permutation(np.linspace(T / 4, T, N).round().astype(int)) if kind == "ragged" else None

    def rnncore(self) -> tuple[Any, Any]:
        ragged = {} if self.lengths is None else {"lengths": self.lengths}

        def train() -> Any:
            _, _, tape = self.layer.forward(self.x, **ragged)
            return self.layer.backward(tape, self.dy)[2]["weight_hh_l0"]

        return lambda: self.layer(self.x, **ragged)[0], train

    def reference(self) -> tuple[Any, Any]:
        x, zero, weights = self.x, self.zero, self.weights
        valid = np.float32(1) if self.lengths is None else np.arange(T)[:, None, None] < self.lengths[:, None]
        dy = self.dy * valid

        def lstm() -> Any:
            y, _, _, tape = reference_lstm.forward(x, zero, zero, *weights)
            return reference_lstm.backward(dy, zero, zero, tape, x, y, zero, zero, *weights[:2]).dW_hh

        def gru() -> Any:
            y, _, tape = reference_gru.forward(x, zero, *weights)
            return reference_gru.backward(dy, zero, tape, x, y, zero, *weights[:2]).dW_hh

        def rnn() -> Any:
            y, _ = reference_rnn.forward(x, zero, *weights)
            return reference_rnn.backward(dy, zero, x, y, zero, *weights[:2]).dW_hh

        if self.cell == "lstm":
            return lambda: reference_lstm.forward(x, zero, zero, *weights)[0] * valid, lstm
        if self.cell == "gru":
            return lambda: reference_gru.forward(x, zero, *weights)[0], gru
        return lambda: reference_rnn.forward(x, zero, *weights)[0], rnn

    def torch(self) -> tuple[Any, Any]:
        torch = pytest.importorskip("torch")
        module = getattr(torch.nn, self.cell.upper())(*self.sizes, **self.stack)
        module.load_state_dict({name: torch.tensor(array) for name, array in self.layer.state_dict().items()})
        x, dy = torch.tensor(self.x), torch.tensor(self.dy)
        x_grad = x.clone().requires_grad_()
        lengths = None if self.lengths is None else torch.tensor(self.lengths)

        def run(x: Any) -> Any:
            if lengths is None:
                return module(x)[0]
            packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
            return torch.nn.utils.rnn.pad_packed_sequence(module(packed)[0], total_length=T)[0]

        def infer() -> Any:
            with torch.inference_mode():
                return run(x).numpy()

        def train() -> Any:
            module.zero_grad()
            x_grad.grad = None
            run(x_grad).backward(dy)
            return module.weight_hh_l0.grad.numpy()

        return infer, train


CASES = [
    (f"{kind}-N{N}-H{H}", contender)
    for kind in KINDS
    for N, H in SHAPES
    if N > 1 or kind != "ragged"
    for contender in ("rnncore", "torch", "reference")
    if (kind, contender) != ("bidirectional", "reference")  # that is one layer in one direction
]


@lru_cache(maxsize=1)
def case_of(name: str) -> Case:
    kind, N, H = name.split("-")
    return Case(kind, int(N[1:]), int(H[1:]))


@pytest.mark.parametrize("name,contender", CASES)
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_layer(benchmark: Any, threads: int, name: str, mode: str, contender: str) -> None:
    case = case_of(name)
    run = getattr(case, contender)()[mode == "training"]
    expected = case.rnncore()[mode == "training"]()
    assert np.linalg.norm(run() - expected) <= TOLERANCE * np.linalg.norm(expected)
    benchmark.group = f"{mode} {name}, T={T}, threads={threads}"
    benchmark(run)
