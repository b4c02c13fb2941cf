"""The LSTM's kernels against the reference."""

import numpy as np
import pytest
from common import DTYPES, assert_same, random_case, run_layer, run_reference
from test_rnn import SHAPES

import rnncore as rc

pytestmark = pytest.mark.usefixtures("engine")


@pytest.mark.parametrize("T,N,I,H", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes(dtype, T, N, I, H):
    lstm = rc.LSTM(I, H, dtype=dtype, rng=H)
    case = random_case(lstm, T, N, seed=T)
    assert_same(run_layer(lstm, case), run_reference(lstm, case), dtype)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"reverse": True}, {"bias": False}])
@pytest.mark.parametrize("L", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_stacks_and_directions(dtype, L, options):
    lstm = rc.LSTM(3, 5, L, dtype=dtype, rng=L, **options)
    case = random_case(lstm, 6, 4)
    assert_same(run_layer(lstm, case), run_reference(lstm, case), dtype)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"reverse": True}])
@pytest.mark.parametrize("T,N", [(1200, 1), (170, 6), (3, 600)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_several_blocks_of_time(dtype, T, N, options):
    lstm = rc.LSTM(3, 4, 2, dtype=dtype, rng=0, **options)
    case = random_case(lstm, T, N)
    assert_same(run_layer(lstm, case), run_reference(lstm, case), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saturated_gates(dtype):
    """Pre-activations far out on both sides: gates at 0 and 1, no NaN, no warning."""
    lstm = rc.LSTM(1, 8, dtype=dtype, rng=0)
    with lstm.editing() as params:
        for array in params.values():
            array *= 2000
    case = random_case(lstm, 5, 3)
    y, (_, c_n) = lstm(case["x"], case["state"])
    assert np.isfinite(y).all() and np.isfinite(c_n).all() and np.abs(y).max() > 0.5
