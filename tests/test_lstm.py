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


# sizes around the widths of SIMD registers: T, N, I, H, P
PROJECTIONS = [
    (1, 1, 1, 2, 1), (3, 2, 1, 5, 1), (4, 3, 5, 16, 5), (4, 7, 17, 17, 16), (2, 9, 3, 37, 17), (3, 1, 7, 64, 37),
    (3, 5, 2, 70, 69), (2, 4, 33, 70, 33),
]  # fmt: skip


@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("T,N,I,H,P", PROJECTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_projections(dtype, T, N, I, H, P, peephole):
    lstm = rc.LSTM(I, H, proj_size=P, peephole=peephole, dtype=dtype, rng=H)
    assert lstm.parameters()["weight_hr_l0"].shape == (P, H)
    case = random_case(lstm, T, N, seed=T)
    assert_same(run_layer(lstm, case), run_reference(lstm, case), dtype)


@pytest.mark.parametrize("T,N,I,H", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_peepholes(dtype, T, N, I, H):
    lstm = rc.LSTM(I, H, peephole=True, dtype=dtype, rng=H)
    assert lstm.parameters()["weight_peephole_l0"].shape == (3 * H,)
    case = random_case(lstm, T, N, seed=T)
    assert_same(run_layer(lstm, case), run_reference(lstm, case), dtype)


@pytest.mark.parametrize("more", [{}, {"bidirectional": True}, {"reverse": True}, {"bias": False}])
@pytest.mark.parametrize("L", [2, 3])
@pytest.mark.parametrize("options", [{"proj_size": 4}, {"peephole": True}, {"proj_size": 1, "peephole": True}])
@pytest.mark.parametrize("dtype", DTYPES)
def test_stacks_of_projections_and_peepholes(dtype, options, L, more):
    lstm = rc.LSTM(3, 5, L, dtype=dtype, rng=L, **options, **more)
    case = random_case(lstm, 6, 4)
    assert_same(run_layer(lstm, case), run_reference(lstm, case), dtype)


@pytest.mark.parametrize("T,N", [(200, 3), (3, 600)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_projections_and_peepholes_in_several_blocks_of_time(dtype, T, N):
    lstm = rc.LSTM(3, 4, bidirectional=True, proj_size=2, peephole=True, dtype=dtype, rng=0)
    case = random_case(lstm, T, N)
    assert_same(run_layer(lstm, case), run_reference(lstm, case), dtype)


@pytest.mark.parametrize("options", [{}, {"proj_size": 90, "peephole": True}])
@pytest.mark.parametrize("engine", ["panels"], indirect=True)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_beyond_the_second_level_cache(options, dtype):
    """Sums over x are then made for a block of time at once, and not step by step."""
    lstm = rc.LSTM(150, 200, dtype=dtype, rng=0, **options)
    case = random_case(lstm, 12, 6)
    assert_same(run_layer(lstm, case), run_reference(lstm, case), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_peepholes_of_zero_change_nothing(dtype):
    plain, peeping = (rc.LSTM(3, 21, peephole=peephole, dtype=dtype, rng=0) for peephole in (False, True))
    peeping.load_state_dict({**plain.parameters(), "weight_peephole_l0": np.zeros(63)})
    case = random_case(plain, 6, 4)
    actual, expected = run_layer(peeping, case), run_layer(plain, case)
    assert actual["backward"]["grads"].pop("weight_peephole_l0").all()
    assert_same(actual, expected, dtype)


@pytest.mark.parametrize("options", [{}, {"proj_size": 3, "peephole": True}])
@pytest.mark.parametrize("dtype", DTYPES)
def test_saturated_gates(dtype, options):
    """Pre-activations far out on both sides: gates at 0 and 1, no NaN, no warning."""
    lstm = rc.LSTM(1, 8, dtype=dtype, rng=0, **options)
    with lstm.editing() as params:
        for array in params.values():
            array *= 2000
    case = random_case(lstm, 5, 3)
    y, (_, c_n) = lstm(case["x"], case["state"])
    assert np.isfinite(y).all() and np.isfinite(c_n).all() and np.abs(y).max() > 0.5
