"""The leaf kernels in C: which instruction set's are in use, and their functions for tests to look at."""

import numpy as np

cimport numpy as cnp
from libc.string cimport memset

from .blas cimport FLOAT32, FLOAT64

cnp.import_array()

cdef const Leaf *chosen = leaf_tables(0)  # float32, float64
cdef Digest by_aes = digest_by_aes()  # NULL if there is none


cdef const Leaf *leaf_of(int dtype) noexcept nogil:
    return &chosen[dtype]


cdef Digest quickest_digest() noexcept nogil:
    if by_aes != NULL and chosen.width * sizeof(float) >= 32:  # by_aes wants AVX2
        return by_aes
    return chosen.digest


cdef const Leaf *find(str isa) except NULL:
    cdef const Leaf *tables
    cdef int k = 0
    while True:
        tables = leaf_tables(k)
        if tables == NULL:
            raise ValueError(f"expected one of {', '.join(available())}, got {isa!r}")
        if tables.isa.decode() == isa:
            return tables
        k += 1


def width(dtype not None):
    """Return how many elements of float32 or float64 a vector of the instruction set in use has."""
    return leaf_of(FLOAT32 if np.dtype(dtype) == np.float32 else FLOAT64).width


def available():
    """Return the instruction sets this machine can run, best first."""
    cdef int k = 0
    names = []
    while leaf_tables(k) != NULL:
        names.append(leaf_tables(k).isa.decode())
        k += 1
    return tuple(names)


def use(str isa not None):
    """Use the kernels of one instruction set from now on, in the whole process."""
    global chosen
    chosen = find(isa)


def apply(str function not None, x not None, str isa not None):
    """Return exp, tanh, relu or sigmoid of a float32 or float64 array, as the kernels of `isa` compute it; or tanh_2 or
    sigmoid_2, as they compute them of a panel's sums: tanh(x ln(2)/2), sigmoid(-x ln 2)."""
    cdef const Leaf *leaf
    cdef cnp.ndarray a = np.array(x, order="C")  # a plain array, whatever x says of itself
    cdef cnp.ndarray y = np.empty_like(a)
    if a.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"expected an array of float32 or float64, got {a.dtype}")
    leaf = &find(isa)[FLOAT32 if a.dtype == np.float32 else FLOAT64]
    maps = {"tanh": TANH, "relu": RELU, "sigmoid": SIGMOID}
    panel_maps = {"tanh_2": TANH, "sigmoid_2": SIGMOID}
    if function == "exp":
        leaf.exp(cnp.PyArray_DATA(y), cnp.PyArray_DATA(a), a.size)
    elif function in panel_maps:
        leaf.panel_map[<int>panel_maps[function]](cnp.PyArray_DATA(y), cnp.PyArray_DATA(a), a.size)
    else:
        leaf.map[<int>maps[function]](cnp.PyArray_DATA(y), cnp.PyArray_DATA(a), a.size)
    return y


def multiply_add(str dtype not None, Py_ssize_t rounds):
    """Run independent multiply-adds on vectors of "float32" or "float64"; return the floating-point operations."""
    cdef const Leaf *leaf = leaf_of(FLOAT32 if dtype == "float32" else FLOAT64)
    cdef double chains[CHAINS * 16]  # enough for the widest vectors
    cdef double operations
    memset(chains, 0, sizeof(chains))
    with nogil:
        operations = leaf.multiply_add(chains, rounds)
    return operations


def read(const unsigned char[::1] x not None, Py_ssize_t times):
    """Read the bytes of a buffer, as far as they fill whole groups of 8 vectors, `times` times."""
    cdef const Leaf *leaf = leaf_of(FLOAT32)
    cdef float sink[64]
    cdef Py_ssize_t n = x.shape[0] // sizeof(float)
    with nogil:
        leaf.read(sink, &x[0], n, times)
