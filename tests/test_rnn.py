"""The RNN's kernels against the reference, and against torch."""

import numpy as np
import pytest
from common import DTYPES, NONLINEARITIES, assert_same, random_case, run_layer, run_reference

import rnncore as rc

pytestmark = pytest.mark.usefixtures("engine")

# ones, primes, and sizes around the widths of SIMD registers: T, N, I, H
SHAPES = [
    (1, 1, 1, 1), (3, 2, 1, 2), (5, 3, 7, 11), (4, 1, 7, 7), (4, 7, 8, 8), (3, 8, 9, 9), (3, 9, 15, 15),
    (2, 2, 16, 16), (4, 3, 17, 17), (6, 1, 31, 31), (3, 5, 33, 33), (7, 4, 64, 64),
    (5, 1, 7, 32), (5, 1, 7, 48), (5, 1, 7, 56), (5, 1, 7, 64), (5, 1, 7, 100), (5, 1, 7, 128),  # panels of one row
]  # fmt: skip


@pytest.mark.parametrize("T,N,I,H", SHAPES)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes(dtype, nonlinearity, T, N, I, H):
    rnn = rc.RNN(I, H, nonlinearity=nonlinearity, dtype=dtype, rng=H)
    case = random_case(rnn, T, N, seed=T)
    assert_same(run_layer(rnn, case), run_reference(rnn, case), dtype)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"reverse": True}, {"bias": False}])
@pytest.mark.parametrize("L", [1, 2, 3])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_stacks_and_directions(dtype, nonlinearity, L, options):
    rnn = rc.RNN(3, 5, L, nonlinearity, dtype=dtype, rng=L, **options)
    case = random_case(rnn, 6, 4)
    assert_same(run_layer(rnn, case), run_reference(rnn, case), dtype)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"reverse": True}])
@pytest.mark.parametrize("T,N", [(1200, 1), (170, 6), (3, 600)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_several_blocks_of_time(dtype, T, N, options):
    rnn = rc.RNN(3, 4, 2, dtype=dtype, rng=0, **options)
    case = random_case(rnn, T, N)
    assert_same(run_layer(rnn, case), run_reference(rnn, case), dtype)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_weights_are_packed_without_a_word(dtype, nonlinearity):
    """Subnormal, huge and NaN: whatever NumPy is told to do about them elsewhere."""
    rnn, limits = rc.RNN(3, 5, nonlinearity=nonlinearity, dtype=dtype, rng=0), np.finfo(dtype)
    with rnn.editing() as params:
        params["weight_ih_l0"][:3, 0] = 3 * limits.smallest_subnormal, limits.max, np.nan
    x = np.zeros((4, 2, 3), dtype)
    with np.errstate(all="raise"):
        y, _ = rnn(x + np.array([0, 1, 0], dtype))
    assert np.isnan(y[:, :, 2]).all() and np.isfinite(y[0, :, [0, 3, 4]]).all()
