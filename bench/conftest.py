"""Threads of all contenders, equal: `pytest bench --threads 2`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import scipy.linalg.cython_blas  # noqa: F401  (loads the BLAS whose threads are limited below)
from threadpoolctl import threadpool_limits

import rnncore


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", type=int, default=1, help="threads of every contender (default: 1)")


@pytest.fixture(scope="session", autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """The number of threads, in force for rnncore, BLAS and torch."""
    count = request.config.getoption("--threads")
    rnncore.set_num_threads(count)
    try:
        import torch

        torch.set_num_threads(count)
    except ImportError:
        pass
    with threadpool_limits(count):
        yield count
