"""The GRU's kernels, of both conventions, against the reference."""

import numpy as np
import pytest
from common import DTYPES, assert_close, assert_same, random_case, run_layer, run_reference
from test_rnn import SHAPES

import rnncore as rc

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.parametrize("reset_after", [True, False])]


@pytest.mark.parametrize("T,N,I,H", [*SHAPES, (3, 2, 5, 37), (2, 6, 70, 70)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes(reset_after, dtype, T, N, I, H):
    gru = rc.GRU(I, H, reset_after=reset_after, dtype=dtype, rng=H)
    case = random_case(gru, T, N, seed=T)
    assert_same(run_layer(gru, case), run_reference(gru, case), dtype)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"reverse": True}, {"bias": False}])
@pytest.mark.parametrize("L", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_stacks_and_directions(reset_after, dtype, L, options):
    gru = rc.GRU(3, 5, L, reset_after=reset_after, dtype=dtype, rng=L, **options)
    case = random_case(gru, 6, 4)
    assert_same(run_layer(gru, case), run_reference(gru, case), dtype)


@pytest.mark.parametrize("options", [{"bidirectional": True}, {"reverse": True}])
@pytest.mark.parametrize("T,N", [(200, 3), (3, 600)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_several_blocks_of_time(reset_after, dtype, T, N, options):
    gru = rc.GRU(3, 4, 2, reset_after=reset_after, dtype=dtype, rng=0, **options)
    case = random_case(gru, T, N)
    assert_same(run_layer(gru, case), run_reference(gru, case), dtype)


@pytest.mark.parametrize("engine", ["panels"], indirect=True)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_beyond_the_second_level_cache(reset_after, dtype):
    """Sums over x are then made for a block of time at once, and not step by step."""
    gru = rc.GRU(150, 200, reset_after=reset_after, dtype=dtype, rng=0)
    case = random_case(gru, 12, 6)
    assert_same(run_layer(gru, case), run_reference(gru, case), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saturated_gates(reset_after, dtype):
    """Pre-activations far out on both sides: gates at 0 and 1, no NaN, no warning."""
    gru = rc.GRU(1, 8, reset_after=reset_after, dtype=dtype, rng=0)
    with gru.editing() as params:
        for array in params.values():
            array *= 2000
    case = random_case(gru, 5, 3)
    y, _, tape = gru.forward(case["x"], case["state"])
    dx, _, grads = gru.backward(tape, case["dy"])
    assert np.abs(y).max() > 0.5 and all(np.isfinite(a).all() for a in (y, dx, *grads.values()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_open_update_gate_keeps_the_state(reset_after, dtype):
    """z = 1: the last state is the first one, and so is its gradient."""
    gru = rc.GRU(3, 17, reset_after=reset_after, dtype=dtype, rng=0)
    with gru.editing() as params:
        params["bias_ih_l0"][17:34] = 1000
    case = random_case(gru, 9, 2)
    _, h_n, tape = gru.forward(case["x"], case["state"])
    _, dh_0, grads = gru.backward(tape, None, case["dstate"])
    assert_close(h_n, case["state"], dtype, "forward")
    assert_close(dh_0, case["dstate"], dtype, "backward")
    assert not any(np.any(g) for g in grads.values())
