"""An optimiser's step against torch.optim: the parameters of an LSTM and a Linear head, in float32.

    pytest bench/test_optim.py          # one thread; groups of contenders on the same work

First steps are compared with rnncore's before anything is timed. "torch" is torch's default, a loop over the
parameters; "foreach" and "fused" are its options of these names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnncore as rc

SIZES = (64, 256, 1024)  # I = H = outputs of the head
RULES: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 1e-3, "momentum": 0.9},
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3, "weight_decay": 0.1},
}
PEERS: dict[str, dict[str, bool]] = {"torch": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}


class Steps:
    """One rule's steps by every contender, each with parameters of its own, and the same gradients."""

    def __init__(self, rule: str, H: int) -> None:
        self.rule, self.modules = rule, [rc.LSTM(H, H, rng=0), rc.train.Linear(H, H, rng=1)]
        rng = np.random.default_rng(0)
        self.grads = [
            {name: rng.standard_normal(w.shape, np.float32) for name, w in module.parameters().items()}
            for module in self.modules
        ]

    def weights(self) -> list[np.ndarray]:
        return [w for module in self.modules for w in module.state_dict().values()]

    def rnncore(self) -> Callable[[], Any]:
        opt = getattr(rc.train, self.rule)(self.modules, **RULES[self.rule])
        return lambda: opt.step(self.grads)

    def torch(self, peer: str) -> Callable[[], Any]:
        torch = pytest.importorskip("torch")
        parameters = [torch.nn.Parameter(torch.tensor(w)) for w in self.weights()]
        for parameter, g in zip(parameters, (g for group in self.grads for g in group.values()), strict=True):
            parameter.grad = torch.tensor(g)
        step = getattr(torch.optim, self.rule)(parameters, **RULES[self.rule], **PEERS[peer]).step
        ours = self.rnncore()
        for _ in range(3):
            ours(), step()
        for parameter, w in zip(parameters, self.weights(), strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), w, rtol=1e-5, atol=1e-6)
        return step


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    sizes = SIZES[:1] if metafunc.config.getoption("--quick") else SIZES
    cases = [(f"{rule}-H{H}", name) for rule in RULES for H in sizes for name in ("rnncore", *PEERS)]
    metafunc.parametrize("case,contender", cases)


def test_step(benchmark: Any, threads: int, case: str, contender: str) -> None:
    rule, H = case.split("-H")
    steps = Steps(rule, int(H))
    run = steps.rnncore() if contender == "rnncore" else steps.torch(contender)
    benchmark.group = f"step of {rule}, LSTM and Linear, I = H = {H}, threads={threads}"
    benchmark(run)
