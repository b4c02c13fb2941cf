"""The door to BLAS: integer widths, dimensions, and a real 64-bit-integer BLAS behind the same kernels."""

import subprocess
import sys

import numpy as np
import pytest
from common import assert_same, import_peer, random_case, run_layer, run_reference

import rnncore as rc
from rnncore._kernels import blas
from rnncore._kernels.pack import Pack

ARGUMENTS = "char *, char *, {0}, {0}, {0}, float *, float *, {0}, float *, {0}, float *, float *, {0}"


@pytest.mark.parametrize("integer,bits", [("int *", 32), ("int64_t *", 64), ("long *", 64), ("long long *", 64)])
def test_integer_width_from_a_signature(integer, bits):
    assert blas.integer_bits(f"void ({ARGUMENTS.format(integer)})") == bits


@pytest.mark.parametrize("signature", ["", "void (short *, float *)", "int64_t", "void (interval *)"])
def test_an_unknown_width_is_refused(signature):
    with pytest.raises(ImportError, match="32- or 64-bit integers"):
        blas.integer_bits(signature)


def test_scipys_width():
    from scipy.linalg import cython_blas

    bits = blas.integer_bits(str(cython_blas.__pyx_capi__["sgemm"]).split('"')[1])
    assert blas.largest_dimension() == 2 ** (bits - 1) - 1


@pytest.mark.parametrize("engine", ["blas"], indirect=True)
def test_dimensions_are_checked_before_they_are_narrowed(engine):
    """N rows above what 32 bits count: an error, before anything that size is computed."""
    if blas.largest_dimension() > 2**32:
        pytest.skip("this SciPy's BLAS counts in 64 bits")
    x = np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), (1, 2**31, 1), (0, 0, 0))
    rnn = rc.RNN(1, 1, rng=0)
    cell, pack = rnn._cell, Pack(*rnn.parameters().values())
    with pytest.raises(ValueError, match="C-contiguous array"):  # the driver takes no broadcast array at all
        cell.infer(
            (pack,), x, (np.zeros((1, 1, 1), np.float32),), 0, None, (np.zeros((1, 1, 1), np.float32),), (False,)
        )
    huge = np.empty((1, 2**31, 1), np.float32)  # 8 GiB of addresses, none of them touched
    with pytest.raises(ValueError, match=r"no dimension above 2147483647"):
        cell.infer((pack,), huge, (huge,), 0, None, (huge,), (False,))


def test_blocked():
    """Blocks of 64 columns, the last one narrower."""
    b = np.arange(3 * 150).reshape(3, 150)
    blocks = blas.blocked(b)
    assert blocks.shape == (450,)
    for j, width in ((0, 64), (64, 64), (128, 22)):
        assert np.array_equal(blocks[3 * j : 3 * (j + width)].reshape(3, width), b[:, j : j + width])


@pytest.mark.parametrize("N,H", [(1, 300), (17, 130), (40, 70)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_larger_than_a_block(dtype, N, H):
    """More rows, columns and terms than one piece of a step's product has."""
    lstm = rc.LSTM(3, H, dtype=dtype, rng=0)
    case = random_case(lstm, 3, N)
    assert_same(run_layer(lstm, case), run_reference(lstm, case), dtype)


ILP64 = """
import ctypes, glob, sys, types
import numpy as np
import scipy_openblas64

library = ctypes.CDLL(glob.glob(scipy_openblas64.get_lib_dir() + "/libscipy_openblas64_.[sd]*")[0])
new = ctypes.pythonapi.PyCapsule_New
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
capsules, names = {}, []
for name, real in (("sgemm", "float"), ("dgemm", "double"), ("sgemv", "float"), ("dgemv", "double")):
    kinds = "CCIIIRRIRIRRI" if "gemm" in name else "CIIRRIRIRRI"
    pointers = {"C": "char *", "I": "int64_t *", "R": real + " *"}
    names.append(f"void ({', '.join(pointers[k] for k in kinds)})".encode())
    function = getattr(library, f"scipy_{name}_64_")
    capsules[name] = new(ctypes.cast(function, ctypes.c_void_p), names[-1], None)
fake = types.ModuleType("scipy.linalg.cython_blas")
fake.__pyx_capi__ = capsules
import scipy.linalg
sys.modules["scipy.linalg.cython_blas"] = scipy.linalg.cython_blas = fake

sys.path.insert(0, sys.argv[1])
import rnncore as rc
from common import assert_same, random_case, run_layer, run_reference
from rnncore._kernels.blas import largest_dimension
assert largest_dimension() == 2**63 - 1
for dtype in ("float32", "float64"):
    rnn, lstm = rc.RNN(5, 7, 2, dtype=dtype, rng=0), rc.LSTM(5, 7, bidirectional=True, dtype=dtype, rng=0)
    for N, layer in ((1, rnn), (3, lstm)):
        case = random_case(layer, 11, N)
        assert_same(run_layer(layer, case), run_reference(layer, case), dtype)
print("same")
"""


def test_a_blas_with_64_bit_integers(request):
    import_peer("scipy_openblas64")
    command = [sys.executable, "-c", ILP64, str(request.path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "same\n", done.stderr
