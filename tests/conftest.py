"""Fixtures shared by the tests."""

import pytest

from rnncore import runtime
from rnncore._kernels import driver


@pytest.fixture(params=["panels", "blas"])
def engine(request):
    """Each engine in turn."""
    driver.use(request.param)
    yield request.param
    driver.use(runtime.engine)
