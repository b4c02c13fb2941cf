"""Products of whole matrices by both engines, sizes that cut them into parts, the same bits for any threads."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import rnncore as rc
from rnncore import runtime
from rnncore._kernels import driver
from rnncore._kernels.matmul import matmul
from rnncore.train import Linear

# around what kernels take at once (vectors, tiles, strips) and what the product is cut into (FEW, ROWS, TERMS, SINGLE)
EDGES = [1, 2, 3, 4, 5, 7, 16, 17, 31, 32, 33, 63, 64, 65, 100, 255, 256, 257, 511, 512, 513, 1030]


def case(m: int, n: int, k: int, form: str, dtype: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a and b as `form` wants them, "nn", "nt" or "tn", and their product."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
    expected = a.astype(float) @ b.astype(float)
    return np.ascontiguousarray(a.T if form == "tn" else a), np.ascontiguousarray(b.T if form == "nt" else b), expected


def run(a: np.ndarray, b: np.ndarray, form: str) -> np.ndarray:
    return matmul(a, b, form == "tn", form == "nt")


def assert_product(actual: np.ndarray, expected: np.ndarray, k: int, dtype: str) -> None:
    assert actual.dtype == dtype and actual.shape == expected.shape and actual.flags.c_contiguous
    np.testing.assert_allclose(actual, expected, rtol=0, atol=8 * k * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["nn", "nt", "tn"])
@pytest.mark.parametrize(
    "m,n,k",
    [
        (1, 1, 1), (1, 7, 3), (5, 1, 4), (6, 7, 8), (3, 9000, 2), (2, 3, 9000), (4, 33, 513), (40, 130, 33),
        (257, 300, 70), (33, 257, 1030), (600, 65, 513), (70, 1030, 520),
    ],
)  # fmt: skip
def test_values(m, n, k, form, dtype, engine):
    a, b, expected = case(m, n, k, form, dtype)
    assert_product(run(a, b, form), expected, k, dtype)
    if form == "tn":
        into = np.arange(m * n, dtype=dtype).reshape(m, n) / (m * n)
        before = into.copy()
        assert matmul(a, b, True, into=into) is into
        assert_product(into, before + expected, k + 1, dtype)


@given(
    m=st.sampled_from(EDGES), n=st.sampled_from(EDGES), k=st.sampled_from(EDGES),
    form=st.sampled_from(["nn", "nt", "tn"]), dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=int(os.environ.get("RNNCORE_EXAMPLES", 60)), deadline=None)
def test_any_sizes(m, n, k, form, dtype, seed):
    a, b, expected = case(m, n, k, form, dtype, seed)
    assert_product(run(a, b, form), expected, k, dtype)


@pytest.fixture
def panels():
    before = rc.get_num_threads()
    driver.use("panels")
    yield
    driver.use(runtime.engine)
    rc.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["nn", "nt", "tn"])
@pytest.mark.parametrize(
    "m,n,k", [(3, 9000, 600), (7, 9000, 600), (9000, 3, 600), (300, 900, 600), (2000, 40, 600), (700, 7000, 500)]
)
def test_same_bits_for_any_threads(m, n, k, form, dtype, panels):
    a, b, _ = case(m, n, k, form, dtype)
    rc.set_num_threads(1)
    alone = run(a, b, form)
    for threads in (2, 3, 5):
        rc.set_num_threads(threads)
        for _ in range(2):
            assert np.array_equal(run(a, b, form), alone), threads
    rc.set_num_threads(1)
    for threads in (1, 2, 5):
        assert np.array_equal(matmul(a, b, form == "tn", form == "nt", threads), alone), threads


def test_many_python_threads(panels):
    rc.set_num_threads(2)
    cases = [(form, *case(130, 200, 300, form, "float32")) for form in ("nn", "nt", "tn")] * 4
    with ThreadPoolExecutor(4) as others:
        for _ in range(10):
            for product, (*_, expected) in zip(others.map(lambda c: run(c[1], c[2], c[0]), cases), cases, strict=True):
                assert_product(product, expected, 300, "float32")


@pytest.mark.parametrize("form", ["nn", "tn"])
def test_rows_do_not_depend_on_others(form, panels):
    """Of a^T as well as of a: a row's numbers are the same alone, in a few, in many."""
    a, b, _ = case(300, 90, 700, form, "float32")
    whole = run(a, b, form)
    for rows in (slice(0, 1), slice(7, 12), slice(250, 300), slice(1, 299)):
        part = np.ascontiguousarray(a[:, rows] if form == "tn" else a[rows])
        assert np.array_equal(run(part, b, form), whole[rows])


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 3), (2, 3, 0)])
@pytest.mark.parametrize("form", ["nn", "nt", "tn"])
def test_nothing(shape, form, engine):
    a, b, expected = case(*shape, form, "float64")
    assert np.array_equal(run(a, b, form), expected)


def test_refuses_what_it_cannot_read(engine):
    a = np.zeros((2, 3))
    for x, y in [
        (a, a), (a, np.zeros((3, 2), "f4")), (a[:, ::2], np.zeros((2, 2))), (a, [1]), (a, np.zeros(3)),
        (a.astype(int), np.zeros((3, 2), int)),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="expected"):
            matmul(x, y)
    with pytest.raises(ValueError, match="expected"):
        matmul(a, np.zeros((4, 2)), True, True)
    fixed = np.zeros((3, 3))
    fixed.flags.writeable = False
    for into in (np.zeros((3, 2)), np.zeros((3, 3), "f4"), np.zeros((3, 6))[:, ::2], fixed, [1], np.zeros(9)):
        with pytest.raises(ValueError, match="expected a writable"):
            matmul(a, a, True, into=into)
    with pytest.raises(ValueError, match="expected a writable"):
        matmul(a, np.zeros((3, 2)), into=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="threads"):
        matmul(a, a, True, n_threads=-1)
    with pytest.raises(TypeError):
        matmul(a, None)


def test_a_head_is_trained_without_blas():
    """Whose threads would keep the cores that a layer's are waiting for."""
    code = (
        "import sys, numpy as np, rnncore as rc\n"
        "from rnncore.train import Linear\n"
        "head = Linear(64, 40, rng=0)\n"
        "o, tape = head.forward(np.ones((100, 64), 'f4'))\n"
        "head.backward(tape, o)\n"
        "head(np.ones(64, 'f4'))\n"
        "print('scipy' in sys.modules)\n"
    )
    environment = {**os.environ, "RNNCORE_ENGINE": "panels"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False"]


def test_linear_alike_by_both_engines():
    head, rng = Linear(70, 50, dtype="float64", rng=0), np.random.default_rng(1)
    x, dy = rng.standard_normal((9, 8, 70)), rng.standard_normal((9, 8, 50))
    found = {}
    try:
        for engine in ("panels", "blas"):
            driver.use(engine)
            o, tape = head.forward(x)
            dx, grads = head.backward(tape, dy)
            found[engine] = o, dx, *grads.values()
    finally:
        driver.use(runtime.engine)
    for one, other in zip(found["panels"], found["blas"], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
