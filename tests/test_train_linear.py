"""Linear: values against torch, gradients against central differences, and the tape's contract."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from common import import_peer
from hypothesis import given, settings
from hypothesis import strategies as st

from rnncore.train import Linear


def differences(f: Any, array: np.ndarray) -> np.ndarray:
    """Gradient of f() by `array`, which is changed in place and restored; f is linear, so a step of 1 is exact."""
    gradient = np.empty_like(array)
    for i in np.ndindex(array.shape):
        kept = array[i]
        array[i] = kept + 1
        above = f()
        array[i] = kept - 1
        gradient[i] = (above - f()) / 2
        array[i] = kept
    return gradient


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def test_values_by_hand() -> None:
    head = Linear(2, 3, dtype="float64")
    head.load_state_dict({"weight": [[1, 2], [3, 4], [-5, 6]], "bias": [10, 20, 30]})
    o, tape = head.forward([1, -1])
    np.testing.assert_array_equal(o, [9, 19, 19])
    dx, grads = head.backward(tape, [1, 0, 2])
    np.testing.assert_array_equal(dx, [-9, 14])
    np.testing.assert_array_equal(grads["weight"], [[1, -1], [0, 0], [2, -2]])
    np.testing.assert_array_equal(grads["bias"], [1, 0, 2])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(4,), (5, 4), (3, 2, 4), (2, 1, 3, 4)])
def test_gradients_against_differences(shape: tuple[int, ...], bias: bool) -> None:
    rng = np.random.default_rng(0)
    head = Linear(4, 3, bias, dtype="float64", rng=1)
    x = rng.standard_normal(shape)
    weights = rng.standard_normal((*shape[:-1], 3))
    params = head.state_dict()

    def loss() -> float:
        head.load_state_dict(params)
        return float((head(x) * weights).sum())

    expected = {name: differences(loss, array) for name, array in params.items()}
    expected_dx = differences(loss, x)
    head.load_state_dict(params)
    dx, grads = head.backward(head.forward(x)[1], weights)
    assert grads.keys() == head.parameters().keys()
    assert relative_error(dx, expected_dx) < 1e-12
    for name, array in grads.items():
        assert relative_error(array, expected[name]) < 1e-12, name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
def test_like_torch(dtype: str, bias: bool) -> None:
    torch = import_peer("torch")
    rng = np.random.default_rng(2)
    head = Linear(7, 5, bias, dtype=dtype, rng=3)
    peer = torch.nn.Linear(7, 5, bias=bias, dtype=getattr(torch, dtype))
    peer.load_state_dict({name: torch.from_numpy(array) for name, array in head.state_dict().items()})
    x, dy = rng.standard_normal((6, 3, 7)).astype(dtype), rng.standard_normal((6, 3, 5)).astype(dtype)
    peer_x = torch.from_numpy(x).requires_grad_()
    peer_y = peer(peer_x)
    peer_y.backward(torch.from_numpy(dy))
    y, tape = head.forward(x)
    dx, grads = head.backward(tape, dy)
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(y, peer_y.detach().numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(dx, peer_x.grad.numpy(), rtol=tolerance, atol=tolerance)
    for name, parameter in peer.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad.numpy(), rtol=tolerance, atol=tolerance)
    assert y.dtype == dx.dtype == grads["weight"].dtype == dtype


def test_many_rows_of_one_sign_lose_no_digits() -> None:
    """A sum of 300,000 numbers one by one in float32 would be off by some 1e-3."""
    head, x = Linear(2, 3, rng=0), np.ones((300_000, 2), np.float32)
    _, tape = head.forward(x)
    _, grads = head.backward(tape, np.full((300_000, 3), 1.1))
    np.testing.assert_allclose(grads["bias"], 330_000, rtol=1e-5)
    np.testing.assert_allclose(grads["weight"], 330_000, rtol=1e-5)


def test_initial_values() -> None:
    head = Linear(400, 300, rng=0)
    for array in head.parameters().values():
        bound = 1 / np.sqrt(400)
        assert array.dtype == np.float32 and np.abs(array).max() <= bound * (1 + 1e-6)
        assert abs(array.std() - bound / np.sqrt(3)) < 0.1 * bound
    assert abs(head.parameters()["weight"].mean()) < 1e-3
    again = Linear(400, 300, rng=0).parameters()
    np.testing.assert_array_equal(head.parameters()["weight"], again["weight"])
    assert not np.array_equal(head.parameters()["weight"], Linear(400, 300, rng=1).parameters()["weight"])


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=3))
def test_any_leading_dimensions(leading: list[int]) -> None:
    head = Linear(3, 2, dtype="float64", rng=0)
    x = np.random.default_rng(0).standard_normal((*leading, 3))
    y, tape = head.forward(x)
    params = head.parameters()
    np.testing.assert_allclose(y, x @ params["weight"].T + params["bias"], atol=1e-14)
    assert y.shape == (*leading, 2)
    np.testing.assert_array_equal(head(x), y)
    dx, grads = head.backward(tape, np.ones_like(y))
    assert dx.shape == x.shape
    np.testing.assert_array_equal(grads["bias"], [np.prod(leading), np.prod(leading)])


def test_conversion_at_the_door() -> None:
    head = Linear(3, 2, rng=0)
    x = np.arange(12).reshape(3, 4)
    expected = head(np.ascontiguousarray(x.T, np.float32))
    np.testing.assert_array_equal(head(x.T), expected)
    np.testing.assert_array_equal(head(x.T.tolist()), expected)
    np.testing.assert_array_equal(head(x.T.astype(">f8")), expected)


def test_tape_serves_several_calls_and_changes_nothing() -> None:
    head = Linear(3, 2, dtype="float64", rng=0)
    x = np.random.default_rng(0).standard_normal((4, 3))
    x_before = x.copy()
    y, tape = head.forward(x)
    dy = np.ones_like(y)
    dx_1, grads_1 = head.backward(tape, dy)
    head.forward(x + 1)  # nothing of it is remembered
    dx_2, grads_2 = head.backward(tape, dy)
    np.testing.assert_array_equal(dx_1, dx_2)
    np.testing.assert_array_equal(grads_1["weight"], grads_2["weight"])
    assert grads_1["weight"] is not grads_2["weight"]
    np.testing.assert_array_equal(x, x_before)
    np.testing.assert_array_equal(dy, 1)
    dx_3, _ = head.backward(tape, -2 * dy)
    np.testing.assert_array_equal(dx_3, -2 * dx_1)


@pytest.mark.parametrize("bias", [True, False])
def test_accumulate(bias: bool) -> None:
    rng = np.random.default_rng(0)
    head = Linear(3, 2, bias, dtype="float64", rng=0)
    _, tape = head.forward(rng.standard_normal((4, 6, 3)))
    dy = rng.standard_normal((4, 6, 2))
    dx, grads = head.backward(tape, dy)
    total = {name: np.full_like(array, 0.5) for name, array in grads.items()}
    given = dict(total)
    for times in (1, 2):
        dx_again, returned = head.backward(tape, dy, accumulate=total)
        np.testing.assert_array_equal(dx_again, dx)
        for name, array in grads.items():
            assert returned[name] is given[name]
            np.testing.assert_allclose(given[name], 0.5 + times * array, rtol=1e-14)
    kept = {name: array.copy() for name, array in given.items()}
    with pytest.raises(ValueError, match="expected dy"):
        head.backward(tape, dy[1:], accumulate=total)
    for name, array in kept.items():
        np.testing.assert_array_equal(given[name], array)


def test_tape_is_refused() -> None:
    head = Linear(3, 2, rng=0)
    _, tape = head.forward(np.zeros((4, 3)))
    dy = np.zeros((4, 2))
    for other in (Linear(3, 2, rng=0), copy.deepcopy(head)):
        with pytest.raises(ValueError, match="another module"):
            other.backward(tape, dy)
    with pytest.raises(TypeError, match="expected a tape"):
        head.backward(None, dy)  # type: ignore[arg-type]
    for spoil in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="tape"):
            spoil(tape)
    with head.editing() as params:
        params["bias"] += 1
    with pytest.raises(ValueError, match="changed"):
        head.backward(tape, dy)


def test_bad_input() -> None:
    head = Linear(128, 2)
    for call in (head, head.forward):
        with pytest.raises(ValueError, match=r"expected x of shape \(..., 128\), got \(100, 8, 64\)"):
            call(np.zeros((100, 8, 64)))
        with pytest.raises(ValueError, match=r"expected x of shape \(..., 128\), got \(\)"):
            call(1.0)
        with pytest.raises(TypeError, match="real numbers"):
            call(np.zeros((3, 128), complex))
    _, tape = head.forward(np.zeros((3, 128)))
    with pytest.raises(ValueError, match=r"expected dy of shape \(3, 2\), got \(2, 3\)"):
        head.backward(tape, np.zeros((2, 3)))
    with pytest.raises(TypeError, match="dy"):
        head.backward(tape, None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="in_features"):
        Linear(1.5, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="out_features"):
        Linear(1, 0)
    with pytest.raises(TypeError, match="bias"):
        Linear(1, 2, "no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dtype"):
        Linear(1, 2, dtype="float16")
    with pytest.raises(ValueError, match="bytes"):
        Linear(2**40, 2**40)


def test_pickle_and_deepcopy() -> None:
    head = Linear(3, 2, dtype="float64", rng=0)
    x = np.random.default_rng(0).standard_normal((4, 3))
    for twin in (pickle.loads(pickle.dumps(head)), copy.deepcopy(head)):
        np.testing.assert_array_equal(twin(x), head(x))
        assert repr(twin) == repr(head) == "Linear(3, 2, bias=True, dtype='float64')"
        with twin.editing() as params:
            params["bias"] += 1
        assert not np.array_equal(twin(x), head(x))


def test_import_needs_numpy_only() -> None:
    code = "import sys, rnncore.train; print(sorted({'scipy', 'torch', 'onnx', 'sklearn'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
