"""Arrays that begin at a cache line: a vector that spans two takes twice as long to load."""

import numpy as np

cimport numpy as cnp
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uintptr_t
from libc.string cimport memcpy

cnp.import_array()

cdef extern from *:
    """
    #include <stdint.h>
    #if defined(__linux__)
    #include <sys/mman.h>
    #endif

    /* New memory in huge pages, as NumPy's arrays have it from this size on: faults of small ones would take longer
       than the pass that writes it. */
    static void in_huge_pages(char *start, size_t size)
    {
    #if defined(__linux__) && defined(MADV_HUGEPAGE)
        const uintptr_t page = 4096, first = ((uintptr_t)start + page - 1) / page * page;
        if (size >= 1u << 22)
            madvise((void *)first, size - (first - (uintptr_t)start), MADV_HUGEPAGE);
    #endif
    }
    """
    void in_huge_pages(char *start, size_t size)

cdef enum:
    LINE = 64


cdef Py_ssize_t bytes_of(tuple shape, dtype) except -1:
    cdef object size = dtype.itemsize
    for length in shape:
        size *= length
    return size


def empty(tuple shape not None, dtype not None):
    """Return an array, uninitialised."""
    dtype = np.dtype(dtype)
    cdef cnp.npy_intp size = bytes_of(shape, dtype) + LINE
    cdef cnp.ndarray memory = cnp.PyArray_SimpleNew(1, &size, cnp.NPY_UINT8)
    return np.ndarray(shape, dtype, memory, -<uintptr_t>cnp.PyArray_DATA(memory) & (LINE - 1))


def blank(tuple shape not None, dtype not None):
    """Return an array in a bytes object of its own, uninitialised: no flag makes it writable. Who made it must write it by
    its address before anybody else sees it."""
    dtype = np.dtype(dtype)
    cdef Py_ssize_t size = bytes_of(shape, dtype)
    data = PyBytes_FromStringAndSize(NULL, size + LINE)
    in_huge_pages(<char *>data, size)
    return np.ndarray(shape, dtype, data, -<uintptr_t><char *>data & (LINE - 1))


def frozen(array not None):
    """Return an array's values in a `blank` one; if it is one already, without a copy."""
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if (
        type(owner) is bytes and len(owner) == array.nbytes + LINE and array.flags.c_contiguous
        and array.ctypes.data % LINE == 0
    ):
        return array[...]
    cdef cnp.ndarray source = np.ascontiguousarray(array).reshape(array.shape), out = blank(array.shape, array.dtype)
    memcpy(cnp.PyArray_DATA(out), cnp.PyArray_DATA(source), cnp.PyArray_NBYTES(source))
    return out
