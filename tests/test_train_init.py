"""Initial values: distributions, orthogonality, and the recipes for whole layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnncore.train import Linear, init
from rnncore.weights import Module


def recurrent(G: int, H: int, suffixes: tuple[str, ...], bias: bool = True, P: int = 0) -> Module:
    """A module with a recurrent layer's parameters, named and shaped like torch's."""
    rng = np.random.default_rng(0)
    arrays = {}
    for end in suffixes:
        arrays["weight_ih" + end] = rng.standard_normal((G * H, 5))
        arrays["weight_hh" + end] = rng.standard_normal((G * H, P or H))
        if bias:
            arrays["bias_ih" + end] = rng.standard_normal(G * H)
            arrays["bias_hh" + end] = rng.standard_normal(G * H)
        if P:
            arrays["weight_hr" + end] = rng.standard_normal((P, H))
    return Module(np.dtype("float32"), arrays)


LAYERS = ("_l0", "_l0_reverse", "_l1", "_l1_reverse", "_l10")
each_naming = pytest.mark.parametrize("suffixes", [LAYERS, ("",)], ids=["layers", "cell"])


def test_distributions() -> None:
    shape = (300, 200)
    bound = math.sqrt(6 / 500)
    W = init.xavier_uniform(shape, rng=0, gain=2.0)
    assert W.shape == shape and np.abs(W).max() <= 2 * bound
    assert W.std() == pytest.approx(2 * math.sqrt(2 / 500), rel=0.02) and abs(W.mean()) < 0.002
    assert W.min() < -1.99 * bound and W.max() > 1.99 * bound
    W = init.xavier_normal(shape, rng=0, gain=0.5)
    assert W.std() == pytest.approx(0.5 * math.sqrt(2 / 500), rel=0.02) and abs(W.mean()) < 0.002
    assert np.abs(W).max() > 3 * W.std()
    W = init.torch_default((4 * 64, 10), 64, rng=0)
    assert W.shape == (256, 10) and 0.12 < np.abs(W).max() <= 1 / 8
    assert init.torch_default((7,), 64).shape == (7,)


def test_rng_is_a_seed_or_a_generator() -> None:
    for make in (init.xavier_uniform, init.xavier_normal, init.orthogonal):
        np.testing.assert_array_equal(make((4, 3), 1), make((4, 3), np.random.default_rng(1)))
        assert not np.array_equal(make((4, 3), 1), make((4, 3), 2))
        rng = np.random.default_rng(1)
        assert not np.array_equal(make((4, 3), rng), make((4, 3), rng))
        assert not np.array_equal(make((4, 3)), make((4, 3)))


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.floats(0.1, 3), st.integers(0, 1000))
def test_orthogonal(n: int, columns: int, blocks: int, gain: float, seed: int) -> None:
    W = init.orthogonal((blocks * n, columns), seed, gain, blocks)
    assert W.shape == (blocks * n, columns)
    for block in W.reshape(blocks, n, columns):
        product = block @ block.T if n <= columns else block.T @ block
        np.testing.assert_allclose(product, gain**2 * np.eye(min(n, columns)), atol=1e-13)


def test_orthogonal_is_uniform_over_all_rotations_and_reflections() -> None:
    rng = np.random.default_rng(0)
    many = np.array([init.orthogonal((2, 2), rng) for _ in range(2000)])
    assert np.abs(many.mean(axis=0)).max() < 0.06  # without the sign fix, diagonals would be negative
    assert abs(np.linalg.det(many).mean()) < 0.06


def test_blocks_differ() -> None:
    W = init.orthogonal((16, 4), rng=0, blocks=4).reshape(4, 4, 4)
    assert not np.allclose(W[0], W[1])


def test_identity() -> None:
    np.testing.assert_array_equal(init.identity((2, 3), 0.5), [[0.5, 0, 0], [0, 0.5, 0]])
    np.testing.assert_array_equal(init.identity((3, 3)), np.eye(3))


@each_naming
@pytest.mark.parametrize("bias", [True, False])
def test_identity_relu(suffixes: tuple[str, ...], bias: bool) -> None:
    rnn = recurrent(1, 3, suffixes, bias)
    before = rnn.parameters()
    init.identity_relu(rnn)
    for name, array in rnn.parameters().items():
        if name.startswith("weight_hh"):
            np.testing.assert_array_equal(array, np.eye(3), name)
        elif name.startswith("bias"):
            np.testing.assert_array_equal(array, np.zeros(3), name)
        else:
            np.testing.assert_array_equal(array, before[name], name)


@each_naming
@pytest.mark.parametrize("P", [0, 2])
def test_forget_bias(suffixes: tuple[str, ...], P: int) -> None:
    lstm = recurrent(4, 3, suffixes, P=P)
    before = lstm.parameters()
    init.forget_bias(lstm, 1.5)
    after = lstm.parameters()
    for end in suffixes:
        np.testing.assert_array_equal(after["bias_ih" + end][3:6], [1.5] * 3)  # gates i f g o
        np.testing.assert_array_equal(after["bias_hh" + end][3:6], [0] * 3)
    for name, array in after.items():
        others = np.ones(array.shape, bool)
        if name.startswith("bias"):
            others[3:6] = False
        np.testing.assert_array_equal(array[others], before[name][others], name)
    init.forget_bias(lstm)
    assert (lstm.parameters()["bias_ih" + suffixes[0]][3:6] == 1).all()


@pytest.mark.parametrize(
    ("recipe", "module", "message"),
    [
        (init.identity_relu, recurrent(4, 3, ("_l0",)), r"weight_hh_l0 of shape \(H, H\), got \(12, 3\)"),
        (init.identity_relu, Linear(3, 3), "expected a module with weight_hh"),
        (init.forget_bias, recurrent(4, 3, ("_l0",), bias=False), "expected a module with bias_ih"),
        (init.forget_bias, recurrent(3, 3, ("_l0",)), r"an LSTM, bias_ih_l0 of shape \(12,\), got \(9,\)"),
        (init.forget_bias, recurrent(1, 4, ("",)), r"an LSTM, bias_ih of shape \(16,\), got \(4,\)"),
        (init.forget_bias, Linear(3, 3), "expected a module with bias_ih"),
    ],
)
def test_recipes_refuse_other_modules(recipe: object, module: Module, message: str) -> None:
    before = module.parameters()
    with pytest.raises(ValueError, match=message):
        recipe(module)  # type: ignore[operator]
    assert all(np.array_equal(module.parameters()[name], array) for name, array in before.items())


def test_recipes_on_rnncores_own_layers() -> None:
    import rnncore as rc

    lstm = rc.LSTM(2, 3, num_layers=2, bidirectional=True, rng=0)
    init.forget_bias(lstm, 2.0)
    assert sum((a[3:6] == 2).all() for name, a in lstm.parameters().items() if name.startswith("bias_ih")) == 4
    rnn = rc.RNN(2, 3, nonlinearity="relu", rng=0)
    init.identity_relu(rnn)
    y, _ = rnn(np.zeros((4, 1, 2)), np.ones((1, 1, 3)))
    np.testing.assert_array_equal(y, np.ones((4, 1, 3)))  # the state is kept


def test_bad_input() -> None:
    for make in (init.xavier_uniform, init.xavier_normal, init.orthogonal, init.identity):
        with pytest.raises(ValueError, match=r"expected shape \(rows, columns\), got \(3,\)"):
            make((3,))
        with pytest.raises(ValueError, match="shape"):
            make((3, 0))
        with pytest.raises(TypeError, match="shape"):
            make(3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="shape"):
            make((3, 2.5))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="bytes"):
            make((2**40, 2**40))
    with pytest.raises(ValueError, match=r"3 equal blocks, got shape \(4, 4\)"):
        init.orthogonal((4, 4), blocks=3)
    with pytest.raises(ValueError, match="gain"):
        init.xavier_uniform((2, 2), gain=-1.0)
    with pytest.raises(TypeError, match="gain"):
        init.orthogonal((2, 2), gain="big")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="hidden_size"):
        init.torch_default((2, 2), 0)
    for recipe in (init.identity_relu, init.forget_bias):
        with pytest.raises(TypeError, match="expected a module, got dict"):
            recipe({})  # type: ignore[arg-type]
