"""Jordan networks: kernels against the reference, free running and with the targets as teacher; layouts and states."""

import numpy as np
import pytest
from common import (
    DTYPES,
    NONLINEARITIES,
    OUTPUT_NONLINEARITIES,
    assert_close,
    assert_same,
    equal,
    random_case,
    run_layer,
    run_reference,
)

import rnncore as rc

pytestmark = pytest.mark.usefixtures("engine")
panels = pytest.mark.parametrize("engine", ["panels"], indirect=True)  # whose promise is bits

# sizes around the widths of SIMD registers: T, N, I, H, O
SHAPES = [
    (1, 1, 1, 1, 1), (5, 3, 2, 5, 1), (4, 1, 7, 16, 5), (3, 7, 5, 17, 16), (3, 9, 1, 37, 17), (2, 4, 33, 64, 37),
    (3, 5, 2, 70, 70),
]  # fmt: skip
FORCED = [False, True]


def jordan_case(layer, T, N, seed=0, lengths=None, forced=True):
    """A random case, with targets if they are to teach."""
    case = random_case(layer, T, N, seed, lengths)
    return case | {"targets": random_case(layer, T, N, seed + 1)["dy"]} if forced else case


@pytest.mark.parametrize("T,N,I,H,O", SHAPES)
@pytest.mark.parametrize("output_nonlinearity", OUTPUT_NONLINEARITIES)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes(dtype, nonlinearity, output_nonlinearity, T, N, I, H, O):
    layer = rc.JordanRNN(I, H, O, nonlinearity, output_nonlinearity, dtype=dtype, rng=H)
    for forced in FORCED:
        case = jordan_case(layer, T, N, T, forced=forced)
        assert_same(run_layer(layer, case), run_reference(layer, case), dtype)


@pytest.mark.parametrize("forced", FORCED)
@pytest.mark.parametrize("output_nonlinearity", OUTPUT_NONLINEARITIES)
@pytest.mark.parametrize("T,N", [(200, 3), (3, 600)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_several_blocks_of_time(dtype, T, N, output_nonlinearity, forced):
    layer = rc.JordanRNN(3, 4, 2, output_nonlinearity=output_nonlinearity, dtype=dtype, rng=0)
    case = jordan_case(layer, T, N, seed=1, forced=forced)
    assert_same(run_layer(layer, case), run_reference(layer, case), dtype)


@panels
@pytest.mark.parametrize("output_nonlinearity", OUTPUT_NONLINEARITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_beyond_the_second_level_cache(output_nonlinearity, dtype):
    """Sums over x are then made for a block of time at once, and not step by step."""
    layer = rc.JordanRNN(300, 400, 70, "tanh", output_nonlinearity, dtype=dtype, rng=0)
    case = random_case(layer, 12, 6)
    assert_same(run_layer(layer, case), run_reference(layer, case), dtype)


@pytest.mark.parametrize("forced", FORCED)
@pytest.mark.parametrize("lengths", [[2, 0, 6, 5, 2], [0, 0, 0, 0, 0], [6, 6, 6, 6, 6], [1, 4, 4, 0, 3]])
@pytest.mark.parametrize("output_nonlinearity", OUTPUT_NONLINEARITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_lengths(dtype, output_nonlinearity, lengths, forced):
    """Against each sequence alone; what lies behind the ends, targets included, does not matter."""
    layer = rc.JordanRNN(3, 5, 4, output_nonlinearity=output_nonlinearity, dtype=dtype, rng=0)
    case = jordan_case(layer, 6, 5, lengths=lengths, forced=forced)
    expected = run_reference(layer, case)
    behind = np.arange(6)[:, None] >= case["lengths"]
    for name in ("x", "dy", "targets") if forced else ("x", "dy"):
        case[name][behind] = np.nan
    actual = run_layer(layer, case)
    assert_same(actual, expected, dtype)
    assert not actual["forward"]["y"][behind].any() and not actual["backward"]["dx"][behind].any()
    if not forced:
        y, o_n = layer(case["x"], case["state"], lengths=lengths)
        assert_close({"y": y, "state": (o_n,)}, expected["forward"], dtype, "forward")


@pytest.mark.parametrize("forced", FORCED)
def test_no_bias(forced):
    layer = rc.JordanRNN(3, 5, 4, bias=False, rng=0)
    assert list(layer.parameters()) == ["weight_ih_l0", "weight_oh_l0", "weight_ho_l0"]
    case = jordan_case(layer, 6, 4, forced=forced)
    assert_same(run_layer(layer, case), run_reference(layer, case), "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("O", [1, 5, 16, 17, 70])
def test_a_softmax_sums_to_one(dtype, O):
    """Also of sums far out, which exp alone would send to infinity."""
    layer = rc.JordanRNN(3, 5, O, output_nonlinearity="softmax", dtype=dtype, rng=0)
    with layer.editing() as params:
        params["weight_ho_l0"] *= 1e3
    y, _ = layer(random_case(layer, 6, 4)["x"])
    np.testing.assert_allclose(y.sum(axis=2), 1, rtol=10 * np.finfo(dtype).eps)
    assert (y >= 0).all() and (O == 1 or y.max() > 0.9)


@panels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output_nonlinearity", OUTPUT_NONLINEARITIES)
def test_taught_by_its_own_outputs_it_runs_free(dtype, output_nonlinearity):
    layer = rc.JordanRNN(3, 37, 17, output_nonlinearity=output_nonlinearity, dtype=dtype, rng=0)
    case = random_case(layer, 40, 5)
    y, o_n = layer(case["x"], case["state"])
    y_forced, o_forced, _ = layer.forward(case["x"], case["state"], targets=y)
    assert equal(y_forced, y) and equal(o_forced, o_n)


def test_teaching_cuts_the_way_back():
    """A step's gradient stays with its input and the target before it; only the first reaches the initial state."""
    layer = rc.JordanRNN(3, 5, 4, rng=0)
    case = jordan_case(layer, 6, 2)
    _, _, tape = layer.forward(case["x"], case["state"], targets=case["targets"])
    for t in range(6):
        dy = np.zeros_like(case["dy"])
        dy[t] = case["dy"][t]
        dx, do_0, _ = layer.backward(tape, dy)
        assert dx[t].all() and not np.delete(dx, t, axis=0).any()
        assert do_0.all() if t == 0 else not do_0.any()
    dx, do_0, _ = layer.backward(tape, None, case["dstate"])  # the final state is the last output
    assert dx[5].all() and not dx[:5].any() and not do_0.any()


@pytest.mark.parametrize("lengths", [None, [6, 0, 4]])
@pytest.mark.parametrize("forced", FORCED)
def test_other_gradients_need_none_of_the_input(forced, lengths):
    layer = rc.JordanRNN(2, 4, 3, dtype="float64", rng=0)
    case = jordan_case(layer, 6, 3, lengths=lengths, forced=forced)
    dy, dstate = case["dy"], case["dstate"]
    _, _, tape = layer.forward(case["x"], case["state"], lengths=lengths, targets=case.get("targets"))
    dx, dinitial, grads = layer.backward(tape, dy, dstate)
    none, *others = layer._back(layer._weights, tape.open(layer), dy, dstate, None, False, False, 1, of_x=False)
    assert none is None and dx.any() and all(grad.any() for grad in grads.values())
    assert dinitial.any()
    assert equal(others[0], dinitial) and set(others[1]) == set(grads) and equal(others[1], grads)


@pytest.mark.parametrize("forced", FORCED)
def test_layouts(forced):
    plain, first = (rc.JordanRNN(3, 5, 4, batch_first=batch_first, rng=0) for batch_first in (False, True))
    for lengths in (None, [6, 2, 0]):
        case = jordan_case(plain, 6, 3, lengths=lengths, forced=forced)
        expected = run_layer(plain, case)
        turned = {name: case[name].swapaxes(0, 1) for name in ("x", "dy", "targets") if name in case}
        actual = run_layer(first, case | turned)
        for part, name in (("forward", "y"), ("backward", "dx")):
            actual[part][name] = actual[part][name].swapaxes(0, 1)
        assert equal(actual, expected)
        if not forced:
            for out in (None, np.ones((3, 6, 4), np.float32), np.ones((3, 6, 9), np.float32)[:, :, 2:6]):
                y, o_n = first(turned["x"], case["state"], lengths=lengths, out=out)
                assert out is None or y is out
                assert_close(y.swapaxes(0, 1), expected["forward"]["y"], "float32", "forward")
                assert_close((o_n,), expected["forward"]["state"], "float32", "forward")

    case = jordan_case(plain, 6, 1, lengths=[4], forced=forced)
    expected = run_layer(plain, case)
    one = {name: case[name][:, 0] for name in ("x", "dy", "targets") if name in case}
    one |= {name: case[name][0] for name in ("state", "dstate")}
    for layer in (plain, first):  # batch_first says nothing about unbatched input
        actual = run_layer(layer, case | one)
        assert actual["forward"]["y"].shape == (6, 4) and actual["forward"]["state"][0].shape == (4,)
        assert equal(actual["forward"]["y"], expected["forward"]["y"][:, 0])
        assert equal(actual["backward"]["dx"], expected["backward"]["dx"][:, 0])
        assert equal(actual["forward"]["state"][0], expected["forward"]["state"][0][0])
        assert equal(actual["backward"]["dstate"][0], expected["backward"]["dstate"][0][0])
        assert equal(actual["backward"]["grads"], expected["backward"]["grads"])


@panels
def test_the_state_is_carried():
    layer = rc.JordanRNN(3, 37, 5, output_nonlinearity="softmax", rng=0)
    case = random_case(layer, 20, 3)
    y, o_n = layer(case["x"], case["state"])
    first, between = layer(case["x"][:7], case["state"])
    second, final = layer(case["x"][7:], between)
    assert equal(np.concatenate([first, second]), y) and equal(final, o_n) and equal(o_n, y[-1])
    assert equal(layer.forward(case["x"], case["state"])[0], y)
    nothing, alone = layer(case["x"], case["state"], return_sequence=False)
    assert nothing is None and equal(alone, o_n)


@panels
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output_nonlinearity", OUTPUT_NONLINEARITIES)
def test_a_stream_is_its_layer(dtype, output_nonlinearity):
    layer = rc.JordanRNN(7, 20, 17, output_nonlinearity=output_nonlinearity, dtype=dtype, rng=0)
    case = random_case(layer, 30, 3)
    y, o_n = layer(case["x"], case["state"])
    stream = layer.stream(batch_size=3)
    assert not stream.state.any() and stream.state.shape == (3, 17)
    stream.state = case["state"]
    assert equal(np.stack([stream.step(x_t) for x_t in case["x"]]), y) and equal(stream.state, o_n)


@panels
@pytest.mark.parametrize("forced", FORCED)
@pytest.mark.parametrize("output_nonlinearity", OUTPUT_NONLINEARITIES)
@pytest.mark.parametrize("N", [1, 5, 70])
def test_any_number_of_threads(N, output_nonlinearity, forced):
    layer = rc.JordanRNN(5, 70, 64, output_nonlinearity=output_nonlinearity, rng=0)
    case = jordan_case(layer, 9, N, lengths=np.arange(N) % 10, forced=forced)
    expected = run_layer(layer, case | {"n_threads": 1})
    for n_threads in (2, 3):
        assert equal(run_layer(layer, case | {"n_threads": n_threads}), expected)


@pytest.mark.parametrize("forced", FORCED)
def test_accumulate(forced):
    layer = rc.JordanRNN(3, 5, 4, rng=0)
    case = jordan_case(layer, 6, 3, forced=forced)
    _, _, tape = layer.forward(case["x"], case["state"], **{name: case[name] for name in ("targets",) if forced})
    _, _, grads = layer.backward(tape, case["dy"], case["dstate"])
    total = {name: np.full_like(g, 0.5) for name, g in grads.items()}
    returned = layer.backward(tape, case["dy"], case["dstate"], accumulate=total)[2]
    for name, g in grads.items():
        assert returned[name] is total[name]
        np.testing.assert_allclose(total[name], g + 0.5, rtol=1e-5, atol=1e-6)


def test_checkpoints_change_nothing_of_taught_steps():
    """Nothing recurs there: the tape is that of all steps."""
    layer = rc.JordanRNN(3, 5, 4, rng=0)
    case = jordan_case(layer, 600, 3, forced=True)
    y, o_n, tape = layer.forward(case["x"], case["state"], targets=case["targets"])
    expected = layer.backward(tape, case["dy"], case["dstate"])
    for checkpoint in (0, 1, 256, 1000):
        again = layer.forward(case["x"], case["state"], targets=case["targets"], checkpoint=checkpoint)
        assert equal(again[:2], (y, o_n)) and again[2].nbytes == tape.nbytes
        assert equal(layer.backward(again[2], case["dy"], case["dstate"]), expected)
    for wrong in (-1, 2.0, "3", True):
        with pytest.raises((TypeError, ValueError), match="expected checkpoint to be"):
            layer.forward(case["x"], targets=case["targets"], checkpoint=wrong)


def test_many_taught_steps_lose_no_digits():
    """They are one step of very many rows, whose gradients are summed for each bias."""
    x, targets = np.ones((2000, 50, 2)), np.ones((2000, 50, 3))
    layers = [rc.JordanRNN(2, 4, 3, dtype=dtype, rng=0) for dtype in ("float64", "float32")]
    layers[1].load_state_dict(layers[0].state_dict())
    exact, got = [
        layer.backward(layer.forward(x, targets=targets)[2], np.full(targets.shape, 1.1))[2] for layer in layers
    ]
    for name in ("bias_h_l0", "bias_o_l0"):
        np.testing.assert_allclose(got[name], exact[name], rtol=5e-5, err_msg=name)


@pytest.mark.parametrize("forced", FORCED)
@pytest.mark.parametrize("T,N", [(0, 3), (4, 0), (0, 0)])
def test_empty_sequences_and_batches(T, N, forced):
    layer = rc.JordanRNN(3, 5, 4, output_nonlinearity="softmax", rng=0)
    case = jordan_case(layer, T, N, forced=forced)
    run = run_layer(layer, case)
    assert run["forward"]["y"].shape == (T, N, 4) and run["backward"]["dx"].shape == (T, N, 3)
    assert not any(g.any() for g in run["backward"]["grads"].values())
    if T == 0:
        assert equal(run["forward"]["state"], (case["state"],)) and equal(run["backward"]["dstate"], (case["dstate"],))
    assert layer(np.zeros((0, 3)))[0].shape == (0, 4)


@pytest.mark.parametrize("targets,words", [
    (np.zeros((6, 3, 3)), r"expected targets of shape \(T, N, 4\), got \(6, 3, 3\)"),
    (np.zeros((5, 3, 4)), r"expected targets of shape \(6, 3, 4\), got \(5, 3, 4\)"),
    (np.zeros((6, 4)), r"expected targets of shape \(6, 3, 4\), got \(6, 4\)"),
    (np.zeros((6, 3, 4), complex), "expected targets to be an array of real numbers"),
])  # fmt: skip
def test_bad_targets(targets, words):
    with pytest.raises((TypeError, ValueError), match=words):
        rc.JordanRNN(3, 5, 4, rng=0).forward(np.zeros((6, 3, 3)), targets=targets)


def test_a_tape_of_taught_steps_owns_its_inputs():
    """Its rows are packed, so that x, targets and lengths may be overwritten."""
    layer = rc.JordanRNN(3, 5, 4, rng=0)
    case = jordan_case(layer, 6, 3, lengths=[2, 6, 0])
    y, _, tape = layer.forward(case["x"], case["state"], lengths=case["lengths"], targets=case["targets"])
    expected = layer.backward(tape, case["dy"], case["dstate"])
    for array in (case["x"], case["targets"], case["state"], y):
        array[...] = np.nan
    case["lengths"][...] = 1
    assert equal(layer.backward(tape, case["dy"], case["dstate"]), expected)


@pytest.mark.parametrize("lengths", [None, [6, 0, 2]])
def test_memory_of_a_tape_is_what_there_is(lengths):
    """The formula in `forward`'s notes."""
    layer, x, targets = rc.JordanRNN(3, 5, 4, dtype="float64", rng=0), np.ones((6, 3, 3)), np.ones((6, 3, 4))
    S = 18 if lengths is None else sum(lengths)
    _, _, free = layer.forward(x, lengths=lengths)
    _, _, forced = layer.forward(x, lengths=lengths, targets=targets)
    assert free.nbytes == 8 * ((3 + S) * 4 + S * 5) + x.nbytes and forced.nbytes == 8 * (2 * S * 4 + S * 5 + S * 3)


def test_nan_in_a_gradient_comes_out():
    layer = rc.JordanRNN(3, 5, 4, output_nonlinearity="softmax", rng=0)
    case = random_case(layer, 4, 3)
    case["dy"][2, 1, 0] = np.nan
    run = run_layer(layer, case)["backward"]
    assert np.isnan(run["dx"][:3, 1]).all() and np.isfinite(run["dx"][:, [0, 2]]).all()
    assert np.isfinite(run["dx"][3]).all()
