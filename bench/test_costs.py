"""What the package itself costs: the time of `import rnncore`, and the memory of gradients, tapes and calls.

    pytest bench -k "import or memory"

Bytes are in each benchmark's `extra_info`, which saved JSON holds; its time means nothing.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict
from typing import Any

import pytest

from rnncore.measure import modes, peers, training
from rnncore.measure.peers import PEERS, Case
from rnncore.measure.results import OWN


@pytest.mark.parametrize("module", ["numpy", "rnncore", "torch", "onnxruntime", "openvino", "jax"])
def test_import(benchmark: Any, module: str) -> None:
    """A fresh interpreter that imports it, files being in the system's cache."""
    pytest.importorskip(module)
    benchmark.group = "import, interpreter included"
    command = [sys.executable, "-c", f"import {module}"]
    rounds = 3 if benchmark.enabled else 1
    benchmark.pedantic(lambda: subprocess.run(command, check=True), rounds=rounds, warmup_rounds=rounds - 1)


CASES = modes.cases(mode=["memory"], cell=["lstm", "rnn", "gru"], hidden=[64, 256], batch=[1, 32])


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", ["rnncore", "torch"])
def test_memory(benchmark: Any, case: Case, name: str) -> None:
    for module in PEERS.get(name, ()):
        pytest.importorskip(module)
    _, results = training.build(name, asdict(case))
    benchmark.group = f"memory: {case}"
    found = benchmark.pedantic(results, rounds=1)
    benchmark.extra_info.update(zip(("bytes", *OWN), map(int, found), strict=False))
    assert found[0] >= peers.sequence(case).nbytes
