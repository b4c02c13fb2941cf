"""Arrays that begin at a cache line: a vector that spans two takes twice as long to load.

What `empty` gives and gets back is kept for the next, up to KEEP bytes in all: fresh memory comes from the system page by
page, each of which it has to find and clear first, and a training step asks for a lot of it.
"""

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy

cnp.import_array()

cdef extern from "Python.h":
    int PyTraceMalloc_Track(unsigned int domain, uintptr_t start, size_t size)
    int PyTraceMalloc_Untrack(unsigned int domain, uintptr_t start)

cdef extern from *:
    """
    #include <stdint.h>
    #include <stdlib.h>
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

    /* Memory that begins at a cache line; NULL if there is none. */
    static void *new_memory(size_t size)
    {
        void *start;
        if (posix_memalign(&start, 64, size))
            return NULL;
        in_huge_pages(start, size);
        return start;
    }

    #if defined(__SANITIZE_ADDRESS__)
    enum { KEEP = 0 }; /* or the sanitizer would not see who looks at what has been given back */
    #else
    enum { KEEP = 256 << 20 };
    #endif
    """
    void in_huge_pages(char *start, size_t size)
    void *new_memory(size_t size)
    enum: KEEP  # bytes that are kept at most

cdef enum:
    LINE = 64
    SMALL = 16384       # bytes: what is smaller is left to malloc
    SIZES = 256         # four for each power of two
    TRACED = 389047     # NumPy's domain of tracemalloc

# Memory that waits to be used again, by size: the first, whose first word leads to the next, and whose second says how much
# it is; and of each size, when it was last asked for. The GIL guards it.
cdef void *waiting[SIZES]
cdef unsigned long long asked[SIZES]
cdef unsigned long long clock = 0    # times that something was asked for
cdef size_t kept = 0


cdef int size_of(size_t size, size_t *rounded) noexcept:
    """The class of a size, and its upper end: a quarter of a power of two further on at most."""
    cdef size_t step = 4096
    cdef int k = 0
    while size > 8 * step:
        step *= 2
        k += 4
    rounded[0] = (size + step - 1) // step * step
    return k + <int>(rounded[0] // step) - 1


cdef void make_room(int place, size_t size) noexcept:
    """Give what waits back to the system, the size first that was asked for longest ago, until there is room for one more
    of the size in a place; but none that was asked for later than that."""
    global kept
    cdef void *start
    cdef int k, oldest
    while kept + size > KEEP:
        oldest = place
        for k in range(SIZES):
            if waiting[k] != NULL and asked[k] < asked[oldest]:
                oldest = k
        if oldest == place:
            return
        start = waiting[oldest]
        waiting[oldest] = (<void **>start)[0]
        kept -= (<size_t *>start)[1]
        free(start)


@cython.final
@cython.auto_pickle(False)
cdef class Block:
    """Memory of an array, from `empty`; goes back when nobody refers to it."""
    cdef void *start
    cdef size_t size    # rounded
    cdef int place      # among the sizes

    def __dealloc__(self):
        global kept
        if self.start == NULL:
            return
        PyTraceMalloc_Untrack(TRACED, <uintptr_t>self.start)
        if SMALL <= self.size <= KEEP:
            make_room(self.place, self.size)
        if self.size < SMALL or kept + self.size > KEEP:
            free(self.start)
            return
        (<void **>self.start)[0], (<size_t *>self.start)[1] = waiting[self.place], self.size
        waiting[self.place] = self.start
        kept += self.size


cdef Py_ssize_t bytes_of(tuple shape, Py_ssize_t item) except -1:
    cdef object size = item
    for length in shape:
        size *= length
    return size


def empty(tuple shape not None, dtype not None):
    """Return an array of float32 or float64, uninitialised."""
    cdef int type_ = (<cnp.dtype?>dtype).type_num
    if type_ not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE):
        raise ValueError(f"expected float32 or float64, got {dtype}")
    cdef Py_ssize_t size = bytes_of(shape, 4 if type_ == cnp.NPY_FLOAT else 8)
    cdef cnp.npy_intp lengths[4]
    cdef int k
    if len(shape) > 4:
        raise ValueError(f"expected at most 4 dimensions, got {shape}")
    for k in range(len(shape)):
        lengths[k] = shape[k]
    return of_size(<int>len(shape), lengths, type_, size)


cdef cnp.ndarray vector_of(cnp.npy_intp n, int type_):
    """The same, of one dimension."""
    return of_size(1, &n, type_, n * (4 if type_ == cnp.NPY_FLOAT else 8))


cdef cnp.ndarray of_size(int ndim, cnp.npy_intp *shape, int type_, Py_ssize_t size):
    """The same of a size in bytes."""
    global kept, clock
    cdef Block block = Block.__new__(Block)
    block.place = size_of(max(size, 1), &block.size)
    clock += 1
    asked[block.place] = clock
    if block.size >= SMALL and waiting[block.place] != NULL:
        block.start = waiting[block.place]
        waiting[block.place] = (<void **>block.start)[0]
        kept -= block.size
    else:
        block.start = new_memory(block.size)
        if block.start == NULL:
            raise MemoryError(f"no memory for an array of shape {tuple([shape[k] for k in range(ndim)])}")
    PyTraceMalloc_Track(TRACED, <uintptr_t>block.start, size)
    array = cnp.PyArray_SimpleNewFromData(ndim, shape, type_, block.start)
    cnp.set_array_base(array, block)
    return array


def blank(tuple shape not None, dtype not None):
    """Return an array in a bytes object of its own, uninitialised: no flag makes it writable. Who made it must write it by
    its address before anybody else sees it."""
    dtype = np.dtype(dtype)
    cdef Py_ssize_t size = bytes_of(shape, dtype.itemsize)
    data = PyBytes_FromStringAndSize(NULL, size + LINE)
    in_huge_pages(<char *>data, size)
    return np.ndarray(shape, dtype, data, -<uintptr_t><char *>data & (LINE - 1))


def address(cnp.ndarray array not None):
    """Return where an array's first element lies."""
    return <uintptr_t>cnp.PyArray_DATA(array)


def frozen(array not None):
    """Return an array's values in a `blank` one; if they lie in one already, without a copy, but never the same object:
    what its shape or dtype is made to be is one's own affair."""
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if (
        type(owner) is bytes and len(owner) == array.nbytes + LINE and array.flags.c_contiguous
        and address(array) % LINE == 0
    ):
        return np.ndarray(array.shape, array.dtype, owner, address(array) - <uintptr_t><char *><bytes>owner)
    cdef cnp.ndarray source = np.ascontiguousarray(array).reshape(array.shape), out = blank(array.shape, array.dtype)
    memcpy(cnp.PyArray_DATA(out), cnp.PyArray_DATA(source), cnp.PyArray_NBYTES(source))
    return out
