"""exp, tanh and sigmoid of every instruction set this machine has: errors in ULP, and the corners."""

import os
import shutil
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from common import DTYPES
from ulp import FUNCTIONS, Errors, measure

import rnncore as rc
from rnncore._kernels import leaf
from rnncore._kernels.pack import digest

LARGEST = {"float32": 88.7, "float64": 709.7}  # of which exp is finite


@pytest.mark.parametrize("isa", leaf.available())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_errors(function, dtype, isa):
    rng = np.random.default_rng(0)
    largest = LARGEST[dtype]
    samples = [rng.uniform(-bound, bound, 50_000) for bound in (0.02, 0.4, 1.0, 3.0, 10.0, largest)]
    samples.append(np.exp(rng.uniform(-80, np.log(largest), 50_000)) * rng.choice([-1, 1], 50_000))
    x = np.concatenate(samples).astype(dtype)
    errors = measure(function, [isa], [x], dtype)[isa]
    assert errors.normal > len(x) / 3 and errors.good(), list(errors.lines())


@pytest.mark.parametrize("x,right,wrong", [
    (1.0, 3.0, 3.0 + 9 * 2**-22), (1.0, 3.0, np.nan), (1.0, 3.0, np.inf), (1.0, 3.0, -3.0), (1.0, np.inf, 3e38),
    (0.0, 0.0, -0.0), (0.0, 0.0, 1e-37), (0.0, 1e-40, 1e-37), (0.0, 1e-40, np.nan), (np.nan, np.nan, 0.0),
])  # fmt: skip
def test_the_measure_sees_what_is_wrong(x, right, wrong):
    for value in (right, wrong):
        errors = Errors("float32")
        x_32, right_32, y = np.float32([[0, x], [1, right], [1, value]])
        errors.add(x_32, right_32.astype(float), right_32, y)
        assert errors.good() == (value is right), list(errors.lines())


@pytest.mark.parametrize("isa", leaf.available())
@pytest.mark.parametrize("dtype", DTYPES)
def test_corners(dtype, isa):
    tiny = np.finfo(dtype).tiny
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e4, -1e4, tiny, -tiny], dtype)
    expected = {
        "exp": [1, 1, np.inf, 0, np.nan, np.inf, 0, 1, 1],
        "tanh": [0.0, -0.0, 1, -1, np.nan, 1, -1, tiny, -tiny],
        "sigmoid": [0.5, 0.5, 1, 0, np.nan, 1, 0, 0.5, 0.5],
        "relu": [0.0, 0.0, np.inf, 0, np.nan, 1e4, 0, tiny, 0],
        "sigmoid_2": [0.5, 0.5, 0, 1, np.nan, 0, 1, 0.5, 0.5],
    }
    for function, values in expected.items():
        y = leaf.apply(function, x, isa)
        np.testing.assert_array_equal(y, np.array(values, dtype), err_msg=function)
        if function == "tanh":
            assert np.signbit(y[1]) and not np.signbit(y[0])
    y = leaf.apply("tanh_2", x[:7], isa)
    np.testing.assert_array_equal(y, np.array([0.0, -0.0, 1, -1, np.nan, 1, -1], dtype))
    assert np.signbit(y[1]) and not np.signbit(y[0])


@pytest.mark.parametrize("isa", leaf.available())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_value_does_not_depend_on_its_place(function, dtype, isa):
    """Whole vectors and tails give the same bits."""
    x = np.random.default_rng(0).uniform(-5, 5, 67).astype(dtype)
    y = leaf.apply(function, x, isa)
    for n in range(68):
        assert np.array_equal(leaf.apply(function, x[67 - n :], isa), y[67 - n :])


def test_bad_arguments():
    for arguments, error in [
        (("exp", np.zeros(3), "avx1024"), ValueError), (("sin", np.zeros(3), "generic"), KeyError),
        (("exp", np.zeros(3, int), "generic"), TypeError), (("exp", None, "generic"), TypeError),
        (("exp", np.zeros(3), None), TypeError),
    ]:  # fmt: skip
        with pytest.raises(error):
            leaf.apply(*arguments)
    with pytest.raises(ValueError, match="expected one of"):
        leaf.use("mmx")


def test_the_kernels_own_c_test(tmp_path):
    """Every instruction set against loops in double precision, in C; .ci/full runs it for other machines too."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler here")
    root = Path(__file__).parent.parent
    sources = [root / "tests/leaf_selftest.c", *sorted((root / "rnncore/_kernels/simd").glob("*.c"))]
    include = root / "rnncore/_kernels"
    flags = ["-O2", "-ffp-contract=off", "-Wno-psabi", f"-I{include}", *map(str, sources), "-lm"]
    subprocess.run([compiler, *flags, "-o", str(tmp_path / "test")], check=True)
    done = subprocess.run([tmp_path / "test"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "generic float64: 2 elements a vector, 0 failures" in done.stdout, done.stdout


@pytest.mark.parametrize("isa", leaf.available())
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_instruction_set_runs_every_cell(dtype, isa):
    """The kernels' own test files again, in a process that was told which instruction set to use."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import rnncore as rc\n"
        "from common import KINDS, OUTPUT_NONLINEARITIES, assert_same, random_case, run_layer, run_reference\n"
        "from test_rnn import SHAPES\n"
        "assert rc.info()['isa'] == sys.argv[2]\n"
        "for T, N, I, H in SHAPES:\n"
        "    H, more = max(H, 4), {'dtype': sys.argv[3], 'rng': 0}\n"
        "    layers = [rc.RNN(I, H, nonlinearity=f, **more) for f in ('relu', 'sigmoid')]\n"
        "    layers += [rc.JordanRNN(I, H, 5, output_nonlinearity=f, **more) for f in OUTPUT_NONLINEARITIES]\n"
        "    layers += [getattr(rc, k)(I, H, 2, bidirectional=True, **options, **more) for k, options in KINDS]\n"
        "    for layer in layers:\n"
        "        case = random_case(layer, T, N)\n"
        "        assert_same(run_layer(layer, case), run_reference(layer, case), sys.argv[3])\n"
    )
    command = [sys.executable, "-c", code, os.path.dirname(__file__), isa, dtype]
    done = subprocess.run(command, env=os.environ | {"RNNCORE_ISA": isa}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variable,value,words", [
    ("RNNCORE_ISA", "sse9", "expected RNNCORE_ISA to be one of generic, avx2, avx512, neon, got 'sse9'"),
    ("RNNCORE_ENGINE", "fast", "expected RNNCORE_ENGINE to be one of panels, blas, got 'fast'"),
])  # fmt: skip
def test_the_environment_is_checked_at_import(variable, value, words):
    command = [sys.executable, "-c", "import rnncore"]
    done = subprocess.run(command, env=os.environ | {variable: value}, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.strip().endswith(f"ValueError: {words}")


def test_an_instruction_set_of_another_machine_is_refused():
    other = next(isa for isa in ("neon", "avx512") if isa not in leaf.available())
    command = [sys.executable, "-c", "import rnncore"]
    done = subprocess.run(command, env=os.environ | {"RNNCORE_ISA": other}, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"got '{other}'" in done.stderr


def test_info():
    info = rc.info()
    assert list(info) == ["version", "isa", "engine", "threads", "blas"]
    assert info["version"] == rc.__version__ and info["engine"] == "panels" and info["isa"] in leaf.available()
    assert info["threads"] >= 1 and "SciPy" in info["blas"]


@pytest.mark.parametrize("isa", leaf.available())
def test_digest_tells_arrays_apart(isa):
    """One changed element never goes unseen; the changes that training makes do not either."""
    rng = np.random.default_rng(0)
    before = rc.info()["isa"]
    leaf.use(isa)
    try:
        arrays = rng.standard_normal((40, 33)).astype(np.float32), rng.standard_normal(7)
        known = digest(arrays)
        assert digest(tuple(a.copy() for a in arrays)) == known
        for k, array in enumerate(arrays):
            for i in range(array.size):
                other = array.copy()
                other.flat[i] = -other.flat[i]
                assert digest((*arrays[:k], other, *arrays[k + 1 :])) != known, (k, i)
        for change in (lambda a: -a, lambda a: a * 2, lambda a: a[::-1], lambda a: np.roll(a, 64), np.zeros_like):
            assert digest(tuple(np.ascontiguousarray(change(a)) for a in arrays)) != known, change
        words = rng.integers(2**63, size=192, dtype=np.uint64)
        known_words, one = digest((words.view("f8"),)), np.uint64(1)
        for far, i, j in product((16, 32, 64), range(64), range(64)):  # two bits, of two words that one chain may have
            other = words.copy()
            other[3] ^= one << np.uint64(i)
            other[3 + far] ^= one << np.uint64(j)
            assert digest((other.view("f8"),)) != known_words, (far, i, j)
        assert digest((arrays[0].T.copy(), arrays[1])) != known
        assert digest(arrays[::-1]) != known
    finally:
        leaf.use(before)


def test_digest_refuses_what_it_cannot_read():
    for wrong in (np.ones((3, 4)).T, [1.0], "x"):
        with pytest.raises(ValueError, match="expected C-contiguous arrays"):
            digest((wrong,))
