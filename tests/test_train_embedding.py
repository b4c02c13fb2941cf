"""Embedding: values against torch, the scattered gradient against a plain loop, and bad tokens."""

from __future__ import annotations

import copy
import pickle
import tracemalloc
from typing import Any

import numpy as np
import pytest
from common import import_peer
from hypothesis import given, settings
from hypothesis import strategies as st

from rnncore.train import Embedding


def scattered(tokens: np.ndarray, dy: np.ndarray, V: int) -> np.ndarray:
    dW = np.zeros((V, dy.shape[-1]))
    for t in np.ndindex(tokens.shape):
        dW[tokens[t]] += dy[t]
    return dW


def test_values_by_hand() -> None:
    embedding = Embedding(3, 2, dtype="float64")
    embedding.load_state_dict({"weight": [[1, 2], [3, 4], [5, 6]]})
    x, tape = embedding.forward([[2, 0], [2, 2]])
    np.testing.assert_array_equal(x, [[[5, 6], [1, 2]], [[5, 6], [5, 6]]])
    dtokens, grads = embedding.backward(tape, np.array([[[1, -1], [10, 20]], [[3, 4], [0.5, 0]]]))
    assert dtokens is None
    np.testing.assert_array_equal(grads["weight"], [[10, 20], [0, 0], [4.5, 3]])


def test_gradient_against_differences() -> None:
    rng = np.random.default_rng(0)
    embedding = Embedding(5, 3, dtype="float64", rng=1)
    tokens, weights = rng.integers(0, 4, (6, 2)), rng.standard_normal((6, 2, 3))
    _, grads = embedding.backward(embedding.forward(tokens)[1], weights)
    params = embedding.state_dict()
    expected = np.zeros((5, 3))
    for i in np.ndindex(5, 3):
        for step in (1.0, -1.0):  # exact: the lookup is linear in the table
            params["weight"][i] += step
            embedding.load_state_dict(params)
            expected[i] += step * (embedding(tokens) * weights).sum() / 2
            params["weight"][i] -= step
    assert np.linalg.norm(grads["weight"] - expected) < 1e-12 * np.linalg.norm(expected)
    assert np.all(grads["weight"][4] == 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_like_torch(dtype: str) -> None:
    torch = import_peer("torch")
    rng = np.random.default_rng(2)
    embedding = Embedding(11, 5, dtype=dtype, rng=3)
    peer = torch.nn.Embedding(11, 5, dtype=getattr(torch, dtype))
    peer.load_state_dict({"weight": torch.from_numpy(embedding.state_dict()["weight"])})
    tokens, dy = rng.integers(0, 11, (20, 4)), rng.standard_normal((20, 4, 5)).astype(dtype)
    peer_x = peer(torch.from_numpy(tokens))
    peer_x.backward(torch.from_numpy(dy))
    x, tape = embedding.forward(tokens)
    _, grads = embedding.backward(tape, dy)
    np.testing.assert_array_equal(x, peer_x.detach().numpy())
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(grads["weight"], peer.weight.grad.numpy(), rtol=tolerance, atol=tolerance)
    assert x.dtype == grads["weight"].dtype == dtype


def test_initial_values() -> None:
    weight = Embedding(300, 200, rng=0).parameters()["weight"]
    assert abs(weight.mean()) < 0.02 and abs(weight.std() - 1) < 0.02
    np.testing.assert_array_equal(weight, Embedding(300, 200, rng=0).parameters()["weight"])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.lists(st.integers(0, 6), max_size=3), st.integers(0, 2**32 - 1))
def test_any_shape(V: int, E: int, shape: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    embedding = Embedding(V, E, dtype="float64", rng=rng)
    tokens, dy = rng.integers(0, V, shape), rng.standard_normal((*shape, E))
    x, tape = embedding.forward(tokens)
    np.testing.assert_array_equal(x, embedding.parameters()["weight"][tokens])
    np.testing.assert_array_equal(embedding(tokens), x)
    _, grads = embedding.backward(tape, dy)
    np.testing.assert_allclose(grads["weight"], scattered(tokens, dy, V), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("V", "E", "n"), [(100, 64, 5000), (3, 1000, 400), (2, 70_000, 5)])
def test_gradient_across_blocks(V: int, E: int, n: int) -> None:
    rng = np.random.default_rng(5)
    embedding = Embedding(V, E, rng=0)
    tokens, dy = rng.integers(0, V, n), rng.standard_normal((n, E)).astype(np.float32)
    _, tape = embedding.forward(tokens)
    _, grads = embedding.backward(tape, dy)
    expected = scattered(tokens, dy.astype(np.float64), V)
    np.testing.assert_array_equal(grads["weight"], expected.astype(np.float32))  # summed in float64, in order
    np.testing.assert_array_equal(grads["weight"], embedding.backward(tape, dy)[1]["weight"])


@pytest.mark.parametrize("V", [3, 5, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_accumulate(dtype: str, V: int) -> None:
    rng = np.random.default_rng(6)
    embedding = Embedding(V, 2, dtype=dtype, rng=0)
    tokens, dy = rng.integers(0, min(V, 4), (20, 2)), rng.standard_normal((20, 2, 2)).astype(dtype)
    _, tape = embedding.forward(tokens)
    total = np.full((V, 2), 0.5, dtype)
    for times in (1, 2):
        assert embedding.backward(tape, dy, accumulate={"weight": total})[1]["weight"] is total
        expected = 0.5 + times * scattered(tokens, dy.astype(np.float64), V)
        np.testing.assert_allclose(total, expected, atol=1e-5 if dtype == "float32" else 1e-13)
    assert (total[4:] == 0.5).all()
    kept = total.copy()
    with pytest.raises(ValueError, match="expected dy"):
        embedding.backward(tape, dy[1:], accumulate={"weight": total})
    np.testing.assert_array_equal(total, kept)


def test_accumulating_takes_no_second_table() -> None:
    embedding = Embedding(100_000, 16, rng=0)
    _, tape = embedding.forward([1, 2, 1])
    total = {"weight": np.zeros((100_000, 16), np.float32)}
    tracemalloc.start()
    try:
        embedding.backward(tape, np.ones((3, 16)), accumulate=total)
        assert tracemalloc.get_traced_memory()[1] < total["weight"].nbytes / 10
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64", ">i4"])
def test_integers_of_any_type(dtype: str) -> None:
    embedding = Embedding(5, 2, rng=0)
    np.testing.assert_array_equal(embedding(np.array([4, 0], dtype)), embedding([4, 0]))


def test_tape_holds_a_copy() -> None:
    embedding = Embedding(5, 2, rng=0)
    tokens = np.array([1, 1, 3])
    x, tape = embedding.forward(tokens)
    tokens[:] = 0
    _, grads = embedding.backward(tape, np.ones_like(x))
    np.testing.assert_array_equal(grads["weight"][:, 0], [0, 2, 0, 1, 0])


def test_result_is_the_callers() -> None:
    embedding = Embedding(5, 2, rng=0)
    before = embedding.state_dict()["weight"]
    x = embedding([1, 2])
    x += 100
    np.testing.assert_array_equal(embedding.parameters()["weight"], before)


def test_tape_is_refused() -> None:
    embedding = Embedding(5, 2, rng=0)
    x, tape = embedding.forward([1, 2])
    with pytest.raises(ValueError, match="another module"):
        copy.deepcopy(embedding).backward(tape, x)
    with pytest.raises(TypeError, match="tape"):
        pickle.dumps(tape)
    with pytest.raises(TypeError, match="tape"):
        embedding.backward("tape", x)  # type: ignore[arg-type]
    with embedding.editing() as params:
        params["weight"] *= 2
    with pytest.raises(ValueError, match="changed"):
        embedding.backward(tape, x)


def test_bad_input() -> None:
    embedding = Embedding(5, 2)
    for call in (embedding, embedding.forward):
        with pytest.raises(ValueError, match="expected tokens from 0 to 4, got 5"):
            call([[0, 5]])
        with pytest.raises(ValueError, match="expected tokens from 0 to 4, got -1"):
            call([0, -1])
        with pytest.raises(ValueError, match="got 18446744073709551615"):
            call(np.array([2**64 - 1], np.uint64))
        wrong: Any
        for wrong in ([0.0, 1.0], [True], ["a"], [None], None):
            with pytest.raises(TypeError, match="expected tokens to be integers, got dtype"):
                call(wrong)
    _, tape = embedding.forward([0, 1])
    with pytest.raises(ValueError, match=r"expected dy of shape \(2, 2\), got \(2,\)"):
        embedding.backward(tape, [1.0, 2.0])
    with pytest.raises(TypeError, match="num_embeddings"):
        Embedding("5", 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="embedding_dim"):
        Embedding(5, -2)


def test_pickle() -> None:
    embedding = Embedding(5, 2, rng=0)
    twin = pickle.loads(pickle.dumps(embedding))
    np.testing.assert_array_equal(twin([3, 1]), embedding([3, 1]))
    assert repr(twin) == "Embedding(5, 2, dtype='float32')"
