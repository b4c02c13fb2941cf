"""rnncore against PyTorch on one thread, blocks alternating: prints the median of the ratios of neighbouring blocks.

python bench/paired.py [layers] [optimisers]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401  (loads the BLAS whose threads are limited below)
import torch
from test_layers import SHAPES, TOLERANCE, Case, T
from test_optim import PEERS, RULES, SIZES, Steps
from threadpoolctl import threadpool_limits

import rnncore

BLOCKS, BLOCK_SECONDS = 15, 0.05


def block(run: Callable[[], Any]) -> float:
    """Seconds per call over one block."""
    start, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < BLOCK_SECONDS:
        run()
        calls += 1
    return elapsed / calls


def paired(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float]:
    """Median time of ours, and median of theirs over ours."""
    block(ours), block(theirs)
    times = [(block(ours), block(theirs)) for _ in range(BLOCKS)]
    return median(a for a, _ in times), median(b / a for a, b in times)


def layers() -> None:
    print("| cell | N | I = H | inference, µs a step | PyTorch ÷ rnncore | training, µs a step | PyTorch ÷ rnncore |")
    print("|---|---|---|---|---|---|---|")
    for kind in ("rnn", "lstm", "gru"):
        for N, H in SHAPES:
            case = Case(kind, N, H)
            cells = [kind.upper(), str(N), str(H)]
            for ours, theirs in zip(case.rnncore(), case.torch(), strict=True):
                expected = theirs()
                assert np.linalg.norm(ours() - expected) <= TOLERANCE * np.linalg.norm(expected)
                seconds, ratio = paired(ours, theirs)
                cells += [f"{seconds / T * 1e6:.1f}", f"{ratio:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)


def optimisers() -> None:
    print(f"| step of | I = H | rnncore, µs | {' | '.join(f'{peer} ÷ rnncore' for peer in PEERS)} |")
    print("|---" * (3 + len(PEERS)) + "|")
    for rule in RULES:
        for H in SIZES:
            steps = Steps(rule, H)
            results = [paired(steps.rnncore(), steps.torch(peer)) for peer in PEERS]
            cells = [rule, str(H), f"{results[-1][0] * 1e6:.0f}", *(f"{ratio:.2f}" for _, ratio in results)]
            print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    rnncore.set_num_threads(1)
    with threadpool_limits(1):
        for table in sys.argv[1:] or ["layers", "optimisers"]:
            {"layers": layers, "optimisers": optimisers}[table]()
