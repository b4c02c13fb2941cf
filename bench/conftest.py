"""Options of the suites: `pytest bench --quick`, a subset of two minutes, and `pytest bench --threads 2`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import scipy.linalg.cython_blas  # noqa: F401  (loads the BLAS whose threads are limited below)
from threadpoolctl import threadpool_limits

import rnncore

QUICK_SECONDS = 0.1  # of each contender on each case


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=1, help="threads of every contender (default: 1)")
    parser.addoption("--quick", action="store_true", help="a few cases, for a short time each")


def pytest_configure(config: pytest.Config) -> None:
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if config.getoption("--threads") == 1:
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
    if config.getoption("--quick"):
        config.option.benchmark_max_time = QUICK_SECONDS
        config.option.benchmark_min_rounds = 3


@contextmanager
def held_to(count: int) -> Iterator[None]:
    """Hold rnncore, BLAS and torch to so many threads; contenders with options of their own have them from the case."""
    before = rnncore.get_num_threads()
    rnncore.set_num_threads(count)
    try:
        import torch

        torch.set_num_threads(count)
    except ImportError:
        pass
    with threadpool_limits(count):
        yield
    rnncore.set_num_threads(before)


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of threads, in force: a test's own, or the option's."""
    count = getattr(request, "param", None) or request.config.getoption("--threads")
    with held_to(count):
        yield count
