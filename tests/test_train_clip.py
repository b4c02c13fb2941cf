"""Clipping: values against torch, extreme and non-finite gradients, and what must stay untouched."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from common import DTYPES, import_peer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rnncore import runtime
from rnncore._kernels import leaf
from rnncore._kernels.optim import sum_of_squares
from rnncore.train import clip_grad_norm, clip_grad_value

Grads = list[dict[str, np.ndarray]]


def some_grads(seed: int = 0, dtype: str = "float64", scale: float = 1.0) -> Grads:
    rng = np.random.default_rng(seed)
    shapes: list[dict[str, tuple[int, ...]]] = [{"weight": (5, 3), "bias": (5,)}, {"weight": (2, 3, 4)}]
    return [
        {name: (scale * rng.standard_normal(shape)).astype(dtype) for name, shape in group.items()} for group in shapes
    ]


def flat(grads: Grads) -> np.ndarray:
    return np.concatenate([array.ravel() for group in grads for array in group.values()])


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0, 20))
@example(0, 7.641407519397577e-160)
@example(0, 5e-324)
def test_norm(seed: int, max_norm: float) -> None:
    grads, before = some_grads(seed), flat(some_grads(seed))
    norm = clip_grad_norm(grads, max_norm)
    assert type(norm) is float and norm == pytest.approx(np.linalg.norm(before), rel=1e-14)
    np.testing.assert_allclose(flat(grads), before * min(1, max_norm / (norm + 1e-6)), rtol=1e-14)
    assert math.hypot(*flat(grads)) <= max_norm * (1 + 1e-12) + 1e-300  # hypot: the squares may be below all numbers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 3.0, 100.0, math.inf])
def test_norm_like_torch(dtype: str, max_norm: float) -> None:
    torch = import_peer("torch")
    grads = some_grads(1, dtype)
    parameters = [
        torch.nn.Parameter(torch.zeros(a.shape, dtype=getattr(torch, dtype))) for g in grads for a in g.values()
    ]
    for parameter, array in zip(parameters, (a for g in grads for a in g.values()), strict=True):
        parameter.grad = torch.from_numpy(array.copy())
    peer = torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    assert clip_grad_norm(grads, max_norm) == pytest.approx(peer, rel=tolerance)
    expected = np.concatenate([p.grad.numpy().ravel() for p in parameters])
    np.testing.assert_allclose(flat(grads), expected, rtol=2 * tolerance, atol=0)


def test_below_the_limit_nothing_changes() -> None:
    grads, before = some_grads(), flat(some_grads())
    clip_grad_norm(grads, 1e3)
    np.testing.assert_array_equal(flat(grads), before)


def test_at_the_limit_it_is_torch_again() -> None:
    grads = {"a": np.array([3.0, -4.0])}
    assert clip_grad_norm(grads, 5.0) == 5.0
    np.testing.assert_allclose(grads["a"], np.array([3, -4]) * (5 / 5.000001), rtol=1e-15)


def test_one_dict_and_generators() -> None:
    grads = some_grads()
    norm = clip_grad_norm(grads[0], math.inf)
    assert norm == pytest.approx(np.linalg.norm(flat(grads[:1])), rel=1e-14)
    assert clip_grad_norm((group for group in grads), math.inf) > norm
    assert clip_grad_norm([], 1.0) == 0.0
    assert clip_grad_norm({"bias": np.zeros(0)}, 1.0) == 0.0
    assert clip_grad_norm({"bias": np.zeros(3)}, 1.0) == 0.0


@pytest.mark.parametrize("scale", [5e-324, 1e-310, 1e-250, 1e-160, 1e160, 1e250, 1e307])
def test_norm_neither_overflows_nor_underflows(scale: float) -> None:
    grads = [{"a": np.array([3.0, 0.0]) * scale}, {"b": np.array([-4.0]) * scale}]
    assert clip_grad_norm(grads, math.inf) == pytest.approx(5 * scale, rel=1e-14)
    norm = clip_grad_norm(grads, 1.0)
    assert norm == pytest.approx(5 * scale, rel=1e-14)
    if scale > 1:
        np.testing.assert_allclose(flat(grads), [0.6, 0, -0.8], rtol=1e-14)


def test_norm_of_float32_is_computed_in_float64() -> None:
    grads = {"a": np.array([3e30, 4e30], np.float32)}
    assert clip_grad_norm(grads, 1.0) == pytest.approx(5e30, rel=1e-6)
    np.testing.assert_allclose(grads["a"], [0.6, 0.8], rtol=1e-6)
    many = np.full(200_000, 0.1, np.float32)
    assert clip_grad_norm({"a": many}, math.inf) == pytest.approx(float(many[0]) * math.sqrt(many.size), rel=1e-12)


@pytest.mark.parametrize("isa", leaf.available())
@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_of_squares(isa: str, dtype: str) -> None:
    x = np.random.default_rng(0).standard_normal(5000).astype(dtype)
    leaf.use(isa)
    try:
        for n in (*range(140), 4999):
            expected = math.fsum(x[:n].astype(np.float64) ** 2)
            sums = {sum_of_squares(np.concatenate([x[:k], x[:n]])[k:]) for k in range(3)}  # wherever it begins
            assert len(sums) == 1 and sums.pop() == pytest.approx(expected, rel=1e-14)
            assert sum_of_squares(x[:n], 0.5) == pytest.approx(expected / 4, rel=1e-14)
    finally:
        leaf.use(runtime.isa)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_non_finite_norm_leaves_gradients_alone(wrong: float, dtype: str) -> None:
    grads = some_grads(0, dtype)
    grads[1]["weight"][0, 1, 2] = wrong
    before = flat(grads)
    norm = clip_grad_norm(grads, 0.1)
    assert math.isnan(norm) if math.isnan(wrong) else norm == math.inf
    with pytest.raises(ValueError, match="finite norm"):
        clip_grad_norm(grads, 0.1, error_if_nonfinite=True)
    np.testing.assert_array_equal(flat(grads), before)


def test_an_array_given_twice_counts_once() -> None:
    array = np.array([3.0, -4.0])
    grads = [{"a": array, "b": array}, {"a": array[:]}]
    assert clip_grad_norm(grads, 2.5) == 5.0
    np.testing.assert_allclose(array, [1.5, -2], rtol=1e-6)


@pytest.mark.parametrize("view", [
    lambda a: a, lambda a: a.T, lambda a: a[None], lambda a: a[::-1], lambda a: a[:, ::-1, None].T,
    lambda a: np.lib.stride_tricks.as_strided(a[:, ::-1], writeable=True).T,
    lambda a: a.reshape(-1), lambda a: a.reshape(2, 1, -1), lambda a: a.reshape(-1)[::-1],
])  # fmt: skip
@pytest.mark.parametrize("part", [
    lambda b: b, lambda b: b[2:], lambda b: b.T[::-1], lambda b: b[::2, :3], lambda b: b[:, 1:2],
    lambda b: b[::-3, ::-1], lambda b: b[:, ::2],
])  # fmt: skip
def test_memory_given_twice_in_another_shape_counts_once(view: Any, part: Any) -> None:
    base = np.random.default_rng(0).standard_normal((8, 12))
    array, before = part(base), base.copy()
    other = view(array)
    if not np.shares_memory(array, other):  # a copy that `reshape` made
        return
    norm = clip_grad_norm([{"a": array}, {"b": other}], 0.5)
    assert norm == pytest.approx(np.linalg.norm(part(before)), rel=1e-14)
    part(before)[...] *= 0.5 / (norm + 1e-6)
    np.testing.assert_allclose(base, before, rtol=1e-14)


def test_parts_of_one_array_count_each_and_must_not_overlap() -> None:
    whole = np.random.default_rng(0).standard_normal((6, 8))
    before = whole.copy()
    halves = [{"a": whole[:, ::2]}, {"b": whole[:, 1::2]}, {"c": whole[2:2], "d": whole[:0]}]
    assert clip_grad_norm(halves, math.inf) == pytest.approx(np.linalg.norm(before), rel=1e-14)
    for other in (whole[:3], whole[:, 3:], whole[5:, 7:], whole.view(np.float32), whole.reshape(-1)[::-7]):
        for grads in ({"a": whole, "b": other}, {"b": other, "x": np.ones(3), "a": whole}):
            with pytest.raises(ValueError, match="expected gradients in memory of their own, got two that share some"):
                clip_grad_norm(grads, 0.1)
    np.testing.assert_array_equal(whole, before)


def test_an_array_must_not_overlap_itself() -> None:
    base = np.ones(12)
    for shape, strides in (((5, 3), (0, 8)), ((4, 3), (8, 8)), ((3, 2, 2), (16, -8, 8)), ((2, 2), (4, 8))):
        array = np.lib.stride_tricks.as_strided(base[4:], shape, strides)
        with pytest.raises(ValueError, match=r"memory of their own, got one of shape .*, which overlaps itself"):
            clip_grad_norm({"a": array}, 0.1)
    np.testing.assert_array_equal(base, 1)


def test_views_are_scaled_in_place() -> None:
    array = np.ones((4, 4))
    clip_grad_norm({"a": array[::2, 1:3].T}, 1.0)
    expected = np.ones((4, 4))
    expected[::2, 1:3] = 1 / 2
    np.testing.assert_allclose(array, expected, rtol=1e-6)
    line = np.arange(6.0)
    assert clip_grad_norm({"a": line[::-2]}, 1.0) == pytest.approx(math.sqrt(35), rel=1e-14)
    np.testing.assert_allclose(line, [0, 1 / math.sqrt(35), 2, 3 / math.sqrt(35), 4, 5 / math.sqrt(35)], rtol=1e-6)


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0, 3))
def test_value(seed: int, limit: float) -> None:
    grads, before = some_grads(seed), flat(some_grads(seed))
    clip_grad_value(grads, limit)
    np.testing.assert_array_equal(flat(grads), np.minimum(np.maximum(before, -limit), limit))


def test_value_of_non_finite() -> None:
    grads = {"a": np.array([np.nan, np.inf, -np.inf, 0.5], np.float32)}
    clip_grad_value(grads, 2.0)
    np.testing.assert_array_equal(grads["a"], [np.nan, 2, -2, 0.5])


def test_bad_input_changes_nothing() -> None:
    for clip in (clip_grad_norm, clip_grad_value):
        good = np.array([3.0, -4.0])
        frozen = np.ones(2)
        frozen.flags.writeable = False
        for limit in (-1.0, math.nan):
            with pytest.raises(ValueError, match=r"expected (max_norm|clip_value) of at least 0"):
                clip({"a": good}, limit)
        for wrong in ("1", None, [1.0], True, 1j):
            with pytest.raises(TypeError, match=r"expected (max_norm|clip_value)"):
                clip({"a": good}, wrong)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="expected the gradient of b to be a NumPy array, got list"):
            clip({"a": good, "b": [1.0]}, 0.1)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="got dtype int64"):
            clip([{"a": good}, {"b": np.ones(2, np.int64)}], 0.1)
        with pytest.raises(ValueError, match="read-only"):
            clip([{"a": good}, {"b": frozen}], 0.1)
        with pytest.raises(TypeError, match="expected gradients as a dict"):
            clip([good], 0.1)  # type: ignore[list-item]
        for grads, kind in ((None, "NoneType"), (1.5, "float")):
            with pytest.raises(
                TypeError, match=f"expected gradients as a dict of names to arrays, or several, got {kind}"
            ):
                clip(grads, 1)  # type: ignore[arg-type]
        np.testing.assert_array_equal(good, [3, -4])
