"""The one door to BLAS: matrix products through the function pointers that SciPy's Cython interface exports.

Callers see row-major matrices and Py_ssize_t. Column-major order and the width of BLAS's integers stay in this file.
SciPy is imported at the first product, not with this module.
"""

from cpython.pycapsule cimport PyCapsule_GetName, PyCapsule_GetPointer
import numpy as np

from libc.limits cimport INT_MAX
from libc.stdint cimport INT64_MAX, int64_t
from libc.string cimport memset

# ?gemm and ?gemv as Fortran declares them, for 32-bit (LP64) and 64-bit (ILP64) integers
ctypedef void (*sgemm_lp64)(char *, char *, int *, int *, int *, float *, const float *, int *, const float *, int *,
                            float *, float *, int *) noexcept nogil
ctypedef void (*dgemm_lp64)(char *, char *, int *, int *, int *, double *, const double *, int *, const double *, int *,
                            double *, double *, int *) noexcept nogil
ctypedef void (*sgemm_ilp64)(char *, char *, int64_t *, int64_t *, int64_t *, float *, const float *, int64_t *,
                             const float *, int64_t *, float *, float *, int64_t *) noexcept nogil
ctypedef void (*dgemm_ilp64)(char *, char *, int64_t *, int64_t *, int64_t *, double *, const double *, int64_t *,
                             const double *, int64_t *, double *, double *, int64_t *) noexcept nogil

ctypedef void (*sgemv_lp64)(char *, int *, int *, float *, const float *, int *, const float *, int *, float *,
                            float *, int *) noexcept nogil
ctypedef void (*dgemv_lp64)(char *, int *, int *, double *, const double *, int *, const double *, int *, double *,
                            double *, int *) noexcept nogil
ctypedef void (*sgemv_ilp64)(char *, int64_t *, int64_t *, float *, const float *, int64_t *, const float *, int64_t *,
                             float *, float *, int64_t *) noexcept nogil
ctypedef void (*dgemv_ilp64)(char *, int64_t *, int64_t *, double *, const double *, int64_t *, const double *,
                             int64_t *, double *, double *, int64_t *) noexcept nogil

# A step's product goes to BLAS in pieces of at most 16 rows, 64 columns and 256 terms. OpenBLAS wakes its threads from
# 16*64*256 multiplications on (a step is too short for that to pay), and has kernels for small products that copy no
# operand.
cdef enum:
    ROWS = 16
    TERMS = 256

cdef void *sgemm = NULL
cdef void *dgemm = NULL
cdef void *sgemv = NULL
cdef void *dgemv = NULL
cdef Py_ssize_t largest = 0  # the largest dimension BLAS can count; 0 until `load` has run


def integer_bits(str signature):
    """Return 32 or 64: the width of BLAS's integers, from the C signature of a SciPy capsule.

    Raises
    ------
    ImportError
        If the signature names neither.
    """
    arguments = [argument.strip() for argument in signature.partition("(")[2].rstrip(")").split(",")]
    if "int *" in arguments:
        return 32
    if not {"int64_t *", "long *", "long long *"}.isdisjoint(arguments):
        return 64
    raise ImportError(f"expected a BLAS with 32- or 64-bit integers from SciPy, got {signature!r}")


cdef int load() except -1:
    """Take the routines from SciPy, once."""
    global sgemm, dgemm, sgemv, dgemv, largest
    if largest:
        return 0
    from scipy.linalg import cython_blas

    capsules = [cython_blas.__pyx_capi__[name] for name in ("sgemm", "dgemm", "sgemv", "dgemv")]
    bits = {integer_bits((<bytes>PyCapsule_GetName(capsule)).decode()) for capsule in capsules}
    if len(bits) != 1:
        raise ImportError(f"expected one width of integer from SciPy's BLAS, got {sorted(bits)}")
    sgemm, dgemm, sgemv, dgemv = routine(capsules[0]), routine(capsules[1]), routine(capsules[2]), routine(capsules[3])
    largest = <Py_ssize_t>INT_MAX if bits == {32} else <Py_ssize_t>INT64_MAX
    return 0


cdef void *routine(object capsule) except NULL:
    return PyCapsule_GetPointer(capsule, PyCapsule_GetName(capsule))


def largest_dimension():
    """Return the largest dimension that SciPy's BLAS can count: 2**31 - 1 or 2**63 - 1."""
    load()
    return largest


cdef int check_dimension(Py_ssize_t dimension) except -1:
    if dimension > largest:
        raise ValueError(f"expected no dimension above {largest}, the largest that SciPy's BLAS counts, got {dimension}")
    return 0


# Row-major C (m, n) = op(A) (m, k) op(B) (k, n) + beta C. BLAS is column-major and sees every matrix transposed, so it
# is asked for C^T = op(B)^T op(A)^T: operands and sizes swapped, transposition flags as they are.
#
# One row is a matrix times a vector, c = op(B)^T a + beta c, for which ?gemm would copy all of B first.
cdef inline void multiply_lp64(bint ta, bint tb, int m, int n, int k, const real *a, int lda, const real *b, int ldb,
                               real beta, real *c, int ldc) noexcept nogil:
    cdef real alpha = 1
    cdef int one = 1
    cdef char trans_a = b"T" if ta else b"N"
    cdef char trans_b = b"T" if tb else b"N"
    if m == 1 and not ta:
        if real is float:
            (<sgemv_lp64>sgemv)(&trans_b, &k if tb else &n, &n if tb else &k, &alpha, b, &ldb, a, &one, &beta, c, &one)
        else:
            (<dgemv_lp64>dgemv)(&trans_b, &k if tb else &n, &n if tb else &k, &alpha, b, &ldb, a, &one, &beta, c, &one)
    elif real is float:
        (<sgemm_lp64>sgemm)(&trans_b, &trans_a, &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &ldc)
    else:
        (<dgemm_lp64>dgemm)(&trans_b, &trans_a, &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &ldc)


cdef inline void multiply_ilp64(bint ta, bint tb, int64_t m, int64_t n, int64_t k, const real *a, int64_t lda,
                                const real *b, int64_t ldb, real beta, real *c, int64_t ldc) noexcept nogil:
    cdef real alpha = 1
    cdef int64_t one = 1
    cdef char trans_a = b"T" if ta else b"N"
    cdef char trans_b = b"T" if tb else b"N"
    if m == 1 and not ta:
        if real is float:
            (<sgemv_ilp64>sgemv)(&trans_b, &k if tb else &n, &n if tb else &k, &alpha, b, &ldb, a, &one, &beta, c, &one)
        else:
            (<dgemv_ilp64>dgemv)(&trans_b, &k if tb else &n, &n if tb else &k, &alpha, b, &ldb, a, &one, &beta, c, &one)
    elif real is float:
        (<sgemm_ilp64>sgemm)(&trans_b, &trans_a, &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &ldc)
    else:
        (<dgemm_ilp64>dgemm)(&trans_b, &trans_a, &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &ldc)


cdef void product(
    int dtype, bint trans_a, bint trans_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const void *a, Py_ssize_t lda, const void *b, Py_ssize_t ldb, double beta, void *c, Py_ssize_t ldc,
) noexcept nogil:
    """C = op(A) op(B) + beta C for row-major matrices; dimensions were checked, and `load` was called, by the caller.

    With beta = 0 what C held does not matter (NaN included).
    """
    if m == 1 and beta == 0:  # not every ?gemv overwrites a NaN then
        memset(c, 0, n * (4 if dtype == FLOAT32 else 8))
    if largest == INT_MAX:
        if dtype == FLOAT32:
            multiply_lp64[float](trans_a, trans_b, <int>m, <int>n, <int>k, <const float *>a, <int>lda,
                                 <const float *>b, <int>ldb, <float>beta, <float *>c, <int>ldc)
        else:
            multiply_lp64[double](trans_a, trans_b, <int>m, <int>n, <int>k, <const double *>a, <int>lda,
                                  <const double *>b, <int>ldb, beta, <double *>c, <int>ldc)
    elif dtype == FLOAT32:
        multiply_ilp64[float](trans_a, trans_b, m, n, k, <const float *>a, lda, <const float *>b, ldb, <float>beta,
                              <float *>c, ldc)
    else:
        multiply_ilp64[double](trans_a, trans_b, m, n, k, <const double *>a, lda, <const double *>b, ldb, beta,
                               <double *>c, ldc)


def blocked(b):
    """Return a matrix (k, n) as `product_blocked` reads it: blocks of 64 columns, one after the other, each row-major."""
    return np.concatenate([b[:, j : j + COLUMNS].ravel() for j in range(0, b.shape[1], COLUMNS)])


cdef void product_blocked(
    int dtype, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const void *a, Py_ssize_t lda, const void *b, double beta, void *c,
    Py_ssize_t ldc,
) noexcept nogil:
    """C (m, n) = A (m, k) B (k, n) + beta C, B as `blocked` returns it; in the calling thread alone."""
    cdef Py_ssize_t item = 4 if dtype == FLOAT32 else 8
    cdef Py_ssize_t i, j, p, width
    for j from 0 <= j < n by COLUMNS:
        width = min(<Py_ssize_t>COLUMNS, n - j)
        for i from 0 <= i < m by ROWS:
            for p from 0 <= p < k by TERMS:
                product(
                    dtype, False, False, min(<Py_ssize_t>ROWS, m - i), width, min(<Py_ssize_t>TERMS, k - p),
                    <const char *>a + (i * lda + p) * item, lda, <const char *>b + (j * k + p * width) * item, width,
                    beta if p == 0 else 1, <char *>c + (i * ldc + j) * item, ldc,
                )
