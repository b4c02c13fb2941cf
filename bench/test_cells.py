"""PyTorch's cells, one step a call, against rnncore's of the same weights (`rnncore.interop.torch`), in float32.

    pytest bench/test_cells.py          # one thread; groups of contenders on the same work

"step" is one call in inference mode; "decoding" 20 of them, a linear layer after each; "training" 20 steps and their
gradients. Results are compared before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

KINDS = ("RNNCell", "LSTMCell", "GRUCell")
SHAPES = ((1, 64), (1, 128), (1, 256), (1, 512), (16, 64), (16, 256))  # N, I = H
STEPS = 20


def contenders(kind: str, N: int, H: int, mode: str) -> dict[str, Callable[[], Any]]:
    torch = pytest.importorskip("torch")
    from rnncore.interop import torch as ours

    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(H, H)
    own = getattr(ours, kind)(H, H)
    own.load_state_dict(theirs.state_dict())
    head = torch.nn.Linear(H, H)
    x = torch.randn(STEPS, N, H, requires_grad=mode == "training")
    state = torch.randn(N, H), torch.randn(N, H)
    before: Any = state if kind == "LSTMCell" else state[0]

    def step(cell: Any) -> Any:
        with torch.inference_mode():
            return cell(x[0], before)

    def decoding(cell: Any) -> Any:
        h, outputs = before, []
        with torch.inference_mode():
            for t in range(STEPS):
                h = cell(x[t], h)
                outputs.append(head(h[0] if kind == "LSTMCell" else h))
        return outputs

    def training(cell: Any) -> Any:
        h, total = before, 0
        for t in range(STEPS):
            h = cell(x[t], h)
            total = total + (h[0] if kind == "LSTMCell" else h).sum()
        return torch.autograd.grad(total, [x, *cell.parameters()])

    run = {"step": step, "decoding": decoding, "training": training}[mode]
    for found, expected in zip(run(own), run(theirs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    return {"rnncore": lambda: run(own), "torch": lambda: run(theirs)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    shapes = SHAPES[:1] if metafunc.config.getoption("--quick") else SHAPES
    cases = [(kind, *shape, mode) for mode in ("step", "decoding", "training") for kind in KINDS for shape in shapes]
    metafunc.parametrize("case,contender", [(case, name) for case in cases for name in ("rnncore", "torch")])


def test_cell(benchmark: Any, threads: int, case: tuple[str, int, int, str], contender: str) -> None:
    kind, N, H, mode = case
    run = contenders(kind, N, H, mode)[contender]
    benchmark.group = f"{mode} of {kind}, N = {N}, I = H = {H}, threads={threads}"
    benchmark(run)
