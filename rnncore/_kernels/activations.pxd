# The functions of the cells, for one value.

from libc.math cimport exp, expf, tanh as tanh_f64, tanhf

from .blas cimport real


cdef inline real tanh(real x) noexcept nogil:
    return tanhf(x) if real is float else tanh_f64(x)


cdef inline real sigmoid(real x) noexcept nogil:
    """1 / (1 + e^-x): relative accuracy in both tails; e^-x = inf gives 0."""
    return 1 / (1 + (expf(-x) if real is float else exp(-x)))


cdef inline real relu(real x) noexcept nogil:
    """max(x, 0); NaN stays NaN."""
    return 0 if x < 0 else x
