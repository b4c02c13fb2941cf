from .run cimport Run

cdef int engine  # in use
cdef int side_strips  # of x and h that a weight's gradient copies at a time

# Memory for a pass's workspace that outlives it; begins as {NULL, 0}, and its owner frees `memory`.
cdef struct Scratch:
    char *memory
    size_t size

cdef void sums_of_rows(const Run *run, char *table, const char *x, Py_ssize_t n, char *z) noexcept nogil
cdef int forward(Run *runs, int count, int n_threads, Scratch *scratch) except -1 nogil
cdef int wanted(const Run *run, int count, int n_threads) noexcept nogil
cdef int backward(Run *runs, int count, int members) except -1 nogil
cdef Py_ssize_t back_block(const Run *run) noexcept nogil
cdef double work(const Run *run, Py_ssize_t rows) noexcept nogil
