"""Fixtures shared by the tests."""

import os
import signal
from importlib.util import find_spec

import pytest

from rnncore import runtime
from rnncore._kernels import driver, leaf

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores Ctrl-C


@pytest.fixture(params=["panels", "blas"])
def engine(request):
    """Each engine in turn."""
    driver.use(request.param)
    yield request.param
    driver.use(runtime.engine)


@pytest.fixture
def isa(request):
    """An instruction set, one of `leaf.available()`."""
    leaf.use(request.param)
    yield request.param
    leaf.use(runtime.isa)


def pytest_collection_modifyitems(items):
    """Examples in docstrings that need torch are skipped without it, unless RNNCORE_REQUIRE_PEERS says otherwise."""
    if os.environ.get("RNNCORE_REQUIRE_PEERS") or find_spec("torch"):
        return
    for item in items:
        if isinstance(item, pytest.DoctestItem) and "import torch" in (item.dtest.docstring or ""):
            item.add_marker(pytest.mark.skip(reason="could not import 'torch'"))
