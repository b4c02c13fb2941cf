"""Layers against torch.nn and the NumPy reference: inference, and training (forward and backward, all gradients).

    pytest bench                        # one thread; groups of contenders on the same work, with their times
    pytest bench --threads 2 -k "lstm and inference"

"ragged" is an LSTM with lengths spread over T/4 … T, "bidirectional" one of two layers. Results are compared before
anything is timed. Contenders that are not installed are left out. Ratios that count, with contenders in processes of
their own and blocks that alternate, are those of `rnncore bench`; the contenders are the same.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from rnncore.measure import peers, training
from rnncore.measure.peers import Case
from rnncore.measure.worker import calibrated

SHAPES = [(1, 64), (1, 128), (1, 256), (8, 128), (32, 256)]  # N, I = H
KINDS: dict[str, dict[str, Any]] = {
    "rnn": {"cell": "rnn"},
    "lstm": {"cell": "lstm"},
    "gru": {"cell": "gru"},
    "ragged": {"cell": "lstm", "ragged": True},
    "bidirectional": {"cell": "lstm", "L": 2, "D": 2},
}
CASES = [
    (f"{kind}-N{N}-H{H}", contender)
    for kind in KINDS
    for N, H in SHAPES
    if N > 1 or kind != "ragged"
    for contender in ("rnncore", "torch", "reference")
    if (kind, contender) != ("bidirectional", "reference")  # that is one layer in one direction
]
SECONDS = 1.0  # of training


def build(contender: str, case: Case) -> peers.Built:
    for module in peers.PEERS.get(contender, ()):
        pytest.importorskip(module)
    return (training if case.kind == "training" else peers).build(contender, asdict(case))


@lru_cache(maxsize=1)
def expected(case: Case) -> Any:
    return parts(build("rnncore", case)[1]())


def parts(results: Any) -> list[np.ndarray]:
    return [np.array(part) for part in (results if isinstance(results, tuple) else (results,))]


@pytest.mark.parametrize("name,contender", CASES)
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_layer(benchmark: Any, threads: int, name: str, mode: str, contender: str) -> None:
    kind, N, H = name.split("-")
    sizes = {"N": int(N[1:]), "H": int(H[1:]), "T": 100, "threads": threads}
    case = Case("training" if mode == "training" else "sequence", **sizes, **KINDS[kind])
    run, results, *prepare = build(contender, case)
    for actual, wanted in zip(parts(results()), expected(case), strict=True):
        assert np.linalg.norm(actual - wanted) <= case.tolerance * np.linalg.norm(wanted)
    benchmark.group = f"{mode} {name}, T={case.T}, threads={threads}"
    if prepare and benchmark.enabled:
        rounds = calibrated(run, SECONDS, prepare=prepare[0])
        benchmark.pedantic(run, setup=prepare[0], rounds=rounds)
    else:
        benchmark(run)
