"""Cells are one step of their layer: same numbers, forward and backward."""

import copy
import pickle

import numpy as np
import pytest
from common import DTYPES, NONLINEARITIES, as_tuple, assert_close, equal

import rnncore as rc

KINDS = [("RNN", {"nonlinearity": n}) for n in NONLINEARITIES] + [
    ("LSTM", {}),
    ("GRU", {}),
    ("GRU", {"reset_after": False}),
]


def pair(kind, options, bias=True, dtype="float32"):
    """A cell, and the layer with its weights."""
    cell = getattr(rc, kind + "Cell")(3, 5, bias, rng=0, dtype=dtype, **options)
    layer = getattr(rc, kind)(3, 5, bias=bias, dtype=dtype, **options)
    layer.load_state_dict({name + "_l0": array for name, array in cell.state_dict().items()})
    return cell, layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind,options", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_are_the_layers_sequence(dtype, kind, options, bias):
    cell, layer = pair(kind, options, bias, dtype)
    x = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(dtype)
    y, final = layer(x)
    state, tapes = None, []
    for t in range(6):
        ahead = cell(x[t], state)
        state, tape = cell.forward(x[t], state)
        assert all(np.array_equal(a, b) for a, b in zip(as_tuple(ahead), as_tuple(state), strict=True))
        assert_close(as_tuple(state)[0], y[t], dtype, "forward")
        tapes.append(tape)
    assert_close(as_tuple(state), tuple(a[0] for a in as_tuple(final)), dtype, "forward")

    dy = np.random.default_rng(1).standard_normal(y.shape).astype(dtype)
    _, _, tape = layer.forward(x)
    dx, dstate_0, grads = layer.backward(tape, dy)
    dstate = tuple(np.zeros((4, 5), dtype) for _ in as_tuple(state))
    total = {name: 0 for name in cell.parameters()}
    for t in reversed(range(6)):
        dh = (dstate[0] + dy[t], *dstate[1:])
        dx_t, dstate, g = cell.backward(tapes[t], dh if kind == "LSTM" else dh[0])
        dstate = as_tuple(dstate)
        total = {name: total[name] + g[name] for name in total}
        assert_close(dx_t, dx[t], dtype, "backward")
    assert_close(dstate, tuple(a[0] for a in as_tuple(dstate_0)), dtype, "backward")
    assert_close(total, {name.removesuffix("_l0"): g for name, g in grads.items()}, dtype, "backward")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind,options", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_accumulate(dtype, kind, options, bias):
    """Step by step into the same arrays is the sum of the steps' gradients."""
    cell, _ = pair(kind, options, bias, dtype)
    x = np.random.default_rng(0).standard_normal((6, 4, 3)).astype(dtype)
    state, total = None, {name: np.full_like(array, 0.5) for name, array in cell.parameters().items()}
    given, expected = dict(total), {name: array.astype(float) for name, array in total.items()}
    for x_t in x:
        state, tape = cell.forward(x_t, state)
        alone, into = cell.backward(tape, state), cell.backward(tape, state, accumulate=total)
        assert equal(alone[0], into[0]) and equal(alone[1], into[1])
        for name, array in alone[2].items():
            expected[name] += array
            assert into[2][name] is total[name] is given[name]
    assert_close(total, expected, dtype, "backward")


@pytest.mark.parametrize("kind,options", KINDS)
def test_one_row(kind, options):
    cell, _ = pair(kind, options)
    x = np.ones(3, np.float32)
    after, tape = cell.forward(x)
    batch, batch_tape = cell.forward(x[None])
    for a, b in zip(as_tuple(after), as_tuple(batch), strict=True):
        assert a.shape == (5,) and np.array_equal(a, b[0])
    dx, dbefore, grads = cell.backward(tape, after)
    dx_batch, _, grads_batch = cell.backward(batch_tape, batch)
    assert dx.shape == (3,) and np.array_equal(dx, dx_batch[0]) and np.any(dx)
    assert as_tuple(dbefore)[0].shape == (5,)
    assert all(np.array_equal(grads[name], grads_batch[name]) for name in grads)
    assert as_tuple(cell(np.zeros((0, 3))))[0].shape == (0, 5)


@pytest.mark.parametrize("kind,options", KINDS)
def test_copies_pickles_and_tapes(kind, options):
    cell, _ = pair(kind, options)
    x = np.ones((2, 3))
    after, tape = cell.forward(x)
    twin = pickle.loads(pickle.dumps(cell))
    assert np.array_equal(as_tuple(twin(x))[0], as_tuple(after)[0])
    with pytest.raises(ValueError, match="another module"):
        copy.deepcopy(cell).backward(tape)
    with cell.editing() as params:
        params["weight_ih"] *= 2
    with pytest.raises(ValueError, match="before they changed"):
        cell.backward(tape)


@pytest.mark.parametrize("kind,options", KINDS)
def test_bad_input(kind, options):
    cell, _ = pair(kind, options)
    h = np.zeros((2, 5))
    for x in (np.zeros((2, 4)), np.zeros((1, 2, 3)), 1.0):
        with pytest.raises(ValueError, match="expected x of shape"):
            cell(x)
    bad = (np.zeros((3, 5)), h) if kind == "LSTM" else np.zeros((3, 5))
    with pytest.raises(ValueError, match=r"expected h of shape \(2, 5\), got \(3, 5\)"):
        cell(np.zeros((2, 3)), bad)
    with pytest.raises(TypeError, match="real numbers"):
        cell(np.zeros((2, 3), complex))
    with pytest.raises((TypeError, ValueError), match="expected"):
        cell(np.zeros((2, 3)), h if kind == "LSTM" else (h, h))
