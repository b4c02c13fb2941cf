"""Layers against the peers, the NumPy reference and the limit, by mode and cell.

    pytest bench                                # one thread; groups of contenders on the same work, with their times
    pytest bench --quick                        # a subset of two minutes
    pytest bench --threads 2 -k "training and lstm"
    pytest bench --benchmark-autosave           # and later: pytest-benchmark compare

Modes are those of `rnncore bench`: inference, ragged, bidirectional, call, stream, training, ragged-training; "threads"
is inference on 2 and more. Results are compared with rnncore's before anything is timed. Contenders that are not
installed are left out. Ratios that count, with contenders in processes of their own and blocks that alternate, are
those of `rnncore bench`; the contenders are the same.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

from rnncore.measure import limits, modes, peers, training
from rnncore.measure.peers import LIMIT, PEERS, REFERENCE, Case
from rnncore.measure.worker import calibrated, each
from rnncore.runtime import usable_cpus

CELLS, SIZES, QUICK_SIZES = ("lstm", "rnn", "gru"), (64, 128, 256), (64,)
QUICK_BATCHES = {"call": [1], "stream": [1]}
TIMED = [mode for mode in modes.MODES if mode != "memory"]
SINGLE_STEPS = 2000


def cases(mode: str, quick: bool, threads: int) -> list[Case]:
    sizes, batch = (QUICK_SIZES, QUICK_BATCHES.get(mode, [8])) if quick else (SIZES, None)
    found = [*modes.cases(mode=[mode], cell=CELLS, hidden=sizes, batch=batch)]
    if mode in ("inference", "training"):
        found += [replace(case, dtype="float64") for case in found if case.N == 8 and case.H == sizes[-1]]
    return [replace(case, threads=threads) for case in found]


def all_cases(config: pytest.Config) -> list[tuple[str, Case]]:
    quick, threads = config.getoption("--quick"), config.getoption("--threads")
    found = [(mode, case) for mode in TIMED for case in cases(mode, quick, threads)]
    large = modes.cases(cell=CELLS, hidden=[256], batch=[32] if quick else [1, 32])
    more = limits.thread_numbers(usable_cpus())[1:]
    return found + [("threads", replace(case, threads=n)) for n in (more[-1:] if quick else more) for case in large]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    contenders = [
        (mode, case, name)
        for mode, case in all_cases(metafunc.config)
        for name in ("rnncore", *PEERS, REFERENCE, LIMIT)
        if peers.does(name, case)
    ]
    ids = [
        f"{mode}-{case.cell}-{case.dtype}-{case.sizes.replace('=', '').replace(' ', '-')}-threads{case.threads}-{name}"
        for mode, case, name in contenders
    ]
    values = [(mode, case.threads, case, name) for mode, case, name in contenders]
    metafunc.parametrize("mode,threads,case,name", values, ids=ids, indirect=["threads"])


def build(name: str, case: Case) -> peers.Built:
    for module in PEERS.get(name, ()):
        pytest.importorskip(module)
    return (training if case.kind == "training" else peers).build(name, asdict(case))


@lru_cache(maxsize=1)
def expected(case: Case) -> Any:
    return parts(build("rnncore", case)[1]())


def parts(results: Any) -> list[np.ndarray]:
    return [np.array(part) for part in (results if isinstance(results, tuple) else (results,))]


def test_layer(benchmark: Any, threads: int, mode: str, case: Case, name: str, request: pytest.FixtureRequest) -> None:
    run, results, *prepare = build(name, case)
    found = results()
    for actual, wanted in zip(parts(found), expected(case), strict=True) if found is not None else ():
        assert np.linalg.norm(actual - wanted) <= case.tolerance * np.linalg.norm(wanted)
    benchmark.group = f"{case.cell} {mode}: {case}"
    if prepare and benchmark.enabled:
        seconds = float(request.config.getoption("benchmark_max_time"))
        benchmark.pedantic(run, setup=prepare[0], rounds=calibrated(run, seconds, prepare=prepare[0]))
    else:
        benchmark(run)
    if benchmark.enabled and case.kind in ("call", "stream") and name != LIMIT:
        levels = np.percentile(each(run, SINGLE_STEPS), [50, 99, 99.9])
        benchmark.extra_info.update(zip(("p50", "p99", "p99.9"), levels.tolist(), strict=True))
