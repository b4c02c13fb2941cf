"""Losses: values and gradients against central differences and torch; positions that do not count never matter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from common import import_peer
from hypothesis import given, settings
from hypothesis import strategies as st

from rnncore._kernels import leaf
from rnncore.train import losses, mean_squared_error, softmax_cross_entropy


def differences(f: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-5) -> np.ndarray:
    gradient = np.empty_like(x)
    for i in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[i] = step
        gradient[i] = (f(x + shift) - f(x - shift)) / (2 * step)
    return gradient


def relative_error(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


# --- cross-entropy ---


def test_cross_entropy_by_hand() -> None:
    loss, dz = softmax_cross_entropy(np.log([[1.0, 3.0], [2.0, 2.0]]), [0, 1])
    assert loss == pytest.approx(math.log(4) + math.log(2), rel=1e-15)
    np.testing.assert_allclose(dz, [[-0.75, 0.75], [0.5, -0.5]], rtol=1e-14)
    mean, dmean = softmax_cross_entropy(np.log([[1.0, 3.0], [2.0, 2.0]]), [0, 1], reduction="mean")
    assert mean == pytest.approx(loss / 2, rel=1e-15)
    np.testing.assert_allclose(dmean, dz / 2, rtol=1e-14)
    assert type(loss) is float


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("shape", [(5,), (4, 3), (3, 2, 6), (2, 2, 1, 3)])
def test_cross_entropy_gradient(shape: tuple[int, ...], reduction: str) -> None:
    rng = np.random.default_rng(0)
    z, k = rng.standard_normal(shape), rng.integers(0, shape[-1], shape[:-1])
    mask = rng.random(shape[:-1]) < 0.7
    mask.reshape(-1)[0] = True
    choices: list[dict[str, Any]] = [{}, {"mask": mask}]
    for options in choices:
        _, dz = softmax_cross_entropy(z, k, reduction=reduction, **options)
        expected = differences(lambda z: softmax_cross_entropy(z, k, reduction=reduction, **options)[0], z)  # noqa: B023
        assert relative_error(dz, expected) < 1e-7


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("ignore_index", [None, -100, 3])
def test_cross_entropy_like_torch(dtype: str, reduction: str, ignore_index: int | None) -> None:
    torch = import_peer("torch")
    rng = np.random.default_rng(1)
    z = (5 * rng.standard_normal((7, 4, 9))).astype(dtype)
    z[0, 0, :3] = -np.inf
    k = rng.integers(0, 9, (7, 4))
    k[0, 0] = 5
    if ignore_index is not None:
        k[2:4] = ignore_index
    peer_z = torch.from_numpy(z).requires_grad_()
    peer = torch.nn.functional.cross_entropy(
        peer_z.reshape(-1, 9),
        torch.from_numpy(k.reshape(-1)),
        reduction=reduction,
        ignore_index=-100 if ignore_index is None else ignore_index,
    )
    peer.backward()
    loss, dz = softmax_cross_entropy(z, k, ignore_index=ignore_index, reduction=reduction)
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    assert loss == pytest.approx(peer.item(), rel=tolerance)
    np.testing.assert_allclose(dz, peer_z.grad.numpy(), rtol=tolerance, atol=tolerance * 0.1)
    assert dz.dtype == dtype and dz.shape == z.shape


def test_cross_entropy_of_a_sequence_is_the_sum_over_steps() -> None:
    rng = np.random.default_rng(2)
    z, k = rng.standard_normal((6, 3, 5)), rng.integers(0, 5, (6, 3))
    loss, dz = softmax_cross_entropy(z, k)
    steps = [softmax_cross_entropy(z_t, k_t) for z_t, k_t in zip(z, k, strict=True)]
    assert loss == pytest.approx(sum(loss_t for loss_t, _ in steps), rel=1e-14)
    np.testing.assert_array_equal(dz, [dz_t for _, dz_t in steps])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from([np.nan, np.inf, -np.inf, 1e300, 7.0]),
    st.sampled_from(["sum", "mean"]),
    st.sampled_from(["mask", "ignore_index", "both"]),
    st.integers(0, 2**32 - 1),
)
def test_positions_that_do_not_count_never_matter(
    T: int, N: int, C: int, junk: float, reduction: str, how: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    z, k, counts = rng.standard_normal((T, N, C)), rng.integers(0, C, (T, N)), rng.random((T, N)) < 0.6
    spoiled_z, spoiled_k = z.copy(), k.copy()
    spoiled_z[~counts] = junk
    spoiled_k[~counts] = -1 if how != "mask" else 10**9
    options: dict[str, Any] = {}
    if how != "ignore_index":
        options["mask"] = counts
    if how != "mask":
        options["ignore_index"] = -1
    loss, dz = softmax_cross_entropy(spoiled_z, spoiled_k, reduction=reduction, **options)
    assert np.all(dz[~counts] == 0)
    if not counts.any():
        assert loss == 0.0
        return
    expected, dz_expected = softmax_cross_entropy(z[counts], k[counts], reduction=reduction)
    assert loss == expected
    np.testing.assert_array_equal(dz[counts], dz_expected)


def test_nan_stays_in_its_own_row() -> None:
    z = np.zeros((3, 4))
    z[1, 2] = np.nan
    loss, dz = softmax_cross_entropy(z, [0, 0, 0])
    assert math.isnan(loss) and np.isnan(dz[1]).all()
    np.testing.assert_array_equal(dz[[0, 2]], [[-0.75, 0.25, 0.25, 0.25]] * 2)
    z[1] = -np.inf
    assert math.isnan(softmax_cross_entropy(z, [0, 0, 0])[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_large_logits_are_stable(dtype: str) -> None:
    z = np.array([[1e30, 0, -1e30], [1000, 999, -np.inf], [-1e4, -1e4, -1e4]], dtype)
    loss, dz = softmax_cross_entropy(z, [0, 1, 2])
    assert loss == pytest.approx(math.log1p(math.e) + math.log(3), rel=1e-6)
    p = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(dz, np.array([[0, 0, 0], [p, -p, 0], [1 / 3, 1 / 3, -2 / 3]]), rtol=1e-5)
    assert softmax_cross_entropy(z, [2, 1, 2])[0] == pytest.approx(2e30, rel=1e-6)
    loss, dz = softmax_cross_entropy(z[1], 2)
    assert loss == math.inf and dz[2] == -1
    limit = np.finfo(dtype).max  # the difference of these two overflows
    loss, dz = softmax_cross_entropy(np.array([limit, -limit], dtype), 0)
    assert loss == 0 and np.all(dz == 0)


def test_cross_entropy_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    z, k, mask = rng.standard_normal((40, 7)), rng.integers(0, 7, 40), rng.random(40) < 0.5
    choices: list[dict[str, Any]] = [{}, {"mask": mask}]
    for options in choices:
        whole, d_whole = softmax_cross_entropy(z, k, **options)
        with monkeypatch.context() as patch:
            patch.setattr(losses, "_BLOCK", 20)
            loss, dz = softmax_cross_entropy(z, k, **options)
        assert loss == pytest.approx(whole, rel=1e-14)
        np.testing.assert_array_equal(dz, d_whole)


def test_loss_is_accumulated_in_float64() -> None:
    z = np.zeros((100_000, 2), np.float32)
    loss, _ = softmax_cross_entropy(z, np.zeros(len(z), int))
    assert loss == pytest.approx(len(z) * math.log(2), rel=1e-12)
    y = np.full(100_000, 0.1, np.float32)
    loss, _ = mean_squared_error(y, np.zeros_like(y))
    assert loss == pytest.approx(float(np.float32(0.1)) ** 2 * y.size, rel=1e-12)


@pytest.mark.parametrize("isa", leaf.available(), indirect=True)
def test_many_classes(isa: str) -> None:
    """Whose sum would lose digits in one float32; classes ruled out have a gradient of exactly zero."""
    z = (3 * np.random.default_rng(4).standard_normal((2, 300_000))).astype(np.float32)
    z[:, ::7] = -np.inf
    loss, dz = softmax_cross_entropy(z, [1, 2])
    expected, expected_dz = softmax_cross_entropy(z.astype(np.float64), [1, 2])
    assert loss == pytest.approx(expected, rel=1e-7)
    np.testing.assert_allclose(dz, expected_dz, rtol=4e-6, atol=1e-30)
    assert not dz[:, ::7].any()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0, 5), (0, 0, 1)])
def test_nothing_to_count(shape: tuple[int, ...]) -> None:
    for reduction in ("sum", "mean"):
        loss, dz = softmax_cross_entropy(np.zeros(shape), np.zeros(shape[:-1], int), reduction=reduction)
        assert loss == 0.0 and dz.shape == shape
        loss, dy = mean_squared_error(np.zeros(shape), np.zeros(shape), reduction=reduction)
        assert loss == 0.0 and dy.shape == shape


def test_mask_broadcasts() -> None:
    rng = np.random.default_rng(4)
    z, k = rng.standard_normal((5, 3, 4)), rng.integers(0, 4, (5, 3))
    steps = np.array([True, True, False, False, False])[:, None]
    loss, dz = softmax_cross_entropy(z, k, mask=steps)
    expected, dz_expected = softmax_cross_entropy(z[:2], k[:2])
    assert loss == expected
    np.testing.assert_array_equal(dz[:2], dz_expected)
    assert np.all(dz[2:] == 0)
    assert softmax_cross_entropy(z, k, mask=True)[0] == softmax_cross_entropy(z, k)[0]
    assert softmax_cross_entropy(z, k, mask=False, reduction="mean")[0] == 0.0


def test_arguments_are_not_changed() -> None:
    z, k, mask = np.ones((2, 3), np.float32), np.array([0, 2]), np.array([True, False])
    for array in (z, k, mask):
        array.flags.writeable = False
    softmax_cross_entropy(z, k, mask=mask, ignore_index=2)
    mean_squared_error(z, z, mask=mask[:, None])


def test_cross_entropy_bad_input() -> None:
    z = np.zeros((2, 3))
    for k in (-1, 3):
        with pytest.raises(ValueError, match=f"expected targets from 0 to 2, got {k}"):
            softmax_cross_entropy(z, [0, k])
    with pytest.raises(ValueError, match="expected targets from 0 to 2, got -100"):
        softmax_cross_entropy(z, [0, -100])  # nothing is ignored unasked
    with pytest.raises(TypeError, match="expected targets to be integers, got dtype float64"):
        softmax_cross_entropy(z, [0.0, 1.0])
    with pytest.raises(TypeError, match="expected targets to be integers, got dtype bool"):
        softmax_cross_entropy(z, [True, False])
    with pytest.raises(ValueError, match=r"expected targets of shape \(2,\), got \(3,\)"):
        softmax_cross_entropy(z, [0, 1, 2])
    with pytest.raises(ValueError, match=r"expected logits of shape \(..., C\)"):
        softmax_cross_entropy(1.0, 0)
    with pytest.raises(ValueError, match="at least one class"):
        softmax_cross_entropy(np.zeros((2, 0)), [0, 0])
    with pytest.raises(TypeError, match="logits"):
        softmax_cross_entropy(z + 0j, [0, 1])
    with pytest.raises(TypeError, match="expected mask to be of bool, got dtype int64"):
        softmax_cross_entropy(z, [0, 1], mask=np.array([1, 0], np.int64))
    with pytest.raises(ValueError, match=r"expected mask broadcastable to \(2,\), got \(3,\)"):
        softmax_cross_entropy(z, [0, 1], mask=[True] * 3)
    with pytest.raises(ValueError, match="expected reduction 'sum' or 'mean', got 'none'"):
        softmax_cross_entropy(z, [0, 1], reduction="none")
    with pytest.raises(TypeError):
        softmax_cross_entropy(z, [0, 1], ignore_index=0.5)  # type: ignore[arg-type]


# --- squared error ---


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("shape", [(), (4,), (3, 2, 2)])
def test_squared_error_gradient(shape: tuple[int, ...], reduction: str) -> None:
    rng = np.random.default_rng(0)
    y, target = rng.standard_normal(shape), rng.standard_normal(shape)
    mask = rng.random(shape) < 0.7 if shape else np.array(True)
    choices: list[dict[str, Any]] = [{}, {"mask": mask}]
    for options in choices:
        _, dy = mean_squared_error(y, target, reduction=reduction, **options)
        expected = differences(lambda y: mean_squared_error(y, target, reduction=reduction, **options)[0], y)  # noqa: B023
        assert relative_error(dy, expected) < 1e-7


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_squared_error_like_torch(dtype: str, reduction: str) -> None:
    torch = import_peer("torch")
    rng = np.random.default_rng(1)
    y, target = rng.standard_normal((6, 4, 3)).astype(dtype), rng.standard_normal((6, 4, 3)).astype(dtype)
    peer_y = torch.from_numpy(y).requires_grad_()
    peer = torch.nn.functional.mse_loss(peer_y, torch.from_numpy(target), reduction=reduction)
    peer.backward()
    loss, dy = mean_squared_error(y, target, reduction=reduction)
    tolerance = 1e-6 if dtype == "float32" else 1e-14
    assert loss == pytest.approx(peer.item(), rel=tolerance) and type(loss) is float
    np.testing.assert_allclose(dy, peer_y.grad.numpy(), rtol=tolerance, atol=tolerance)
    assert dy.dtype == dtype


@settings(deadline=None)
@given(st.sampled_from([np.nan, np.inf, 1e300]), st.sampled_from(["sum", "mean"]), st.integers(0, 2**32 - 1))
def test_elements_that_do_not_count_never_matter(junk: float, reduction: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y, target, steps = rng.standard_normal((4, 3, 2)), rng.standard_normal((4, 3, 2)), rng.random((4, 3)) < 0.6
    spoiled_y, spoiled_target = y.copy(), target.copy()
    spoiled_y[~steps] = junk
    spoiled_target[~steps] = junk
    loss, dy = mean_squared_error(spoiled_y, spoiled_target, mask=steps[..., None], reduction=reduction)
    assert np.all(dy[~steps] == 0)
    expected, dy_expected = mean_squared_error(y[steps], target[steps], reduction=reduction)
    assert loss == pytest.approx(expected, rel=1e-14)
    np.testing.assert_array_equal(dy[steps], dy_expected)


def test_squared_error_with_nan() -> None:
    loss, dy = mean_squared_error([np.nan, 3.0], [0.0, 1.0])
    assert math.isnan(loss) and math.isnan(dy[0]) and dy[1] == 4


def test_squared_error_bad_input() -> None:
    y = np.zeros((3, 3, 3))
    with pytest.raises(ValueError, match=r"expected target of shape \(3, 3, 3\), got \(3, 3\)"):
        mean_squared_error(y, y[0])
    with pytest.raises(ValueError, match=r"expected mask with 3 dimensions, got shape \(3, 3\)"):
        mean_squared_error(y, y, mask=np.ones((3, 3), bool))
    with pytest.raises(ValueError, match="broadcastable"):
        mean_squared_error(y, y, mask=np.ones((3, 2, 1), bool))
    with pytest.raises(TypeError, match="mask"):
        mean_squared_error(y, y, mask=np.ones((3, 3, 1)))
    with pytest.raises(TypeError, match="target"):
        mean_squared_error(y, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction"):
        mean_squared_error(y, y, reduction="average")


def test_so_many_classes_that_rows_are_cut():
    """Into slices of 2**22 numbers: three of these rows, and the rest."""
    z = np.random.default_rng(0).standard_normal((7, 1_200_000)).astype(np.float32)
    loss, dz = softmax_cross_entropy(z, np.arange(7))
    alone = [softmax_cross_entropy(z[k : k + 1], [k]) for k in range(7)]
    assert loss == pytest.approx(sum(of_row for of_row, _ in alone), rel=1e-6)
    assert all(np.array_equal(dz[k], of_row[0]) and of_row.any() for k, (_, of_row) in enumerate(alone))
