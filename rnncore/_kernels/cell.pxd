from .pack cimport Pack
from .run cimport Run, Schedule, Table


cdef tuple taped(Run *run, object dtype)

cdef class Ragged:
    cdef object places, sizes, starts   # order, lengths, offsets
    cdef readonly Py_ssize_t T
    cdef Py_ssize_t N, t_0
    cdef void clear_rows(self, char *y, Py_ssize_t T, Py_ssize_t of_t, Py_ssize_t of_n, Py_ssize_t row) noexcept
    cdef int schedule(self, Schedule *s) except -1


cdef class Cell:
    cdef const Table *table
    cdef tuple form
    cdef int begin(self, Run *run, Pack pack, int dtype) except -1
    cdef object prepare(self, Run *run, Pack pack, int dtype)
    cdef object table_of(self, Run *run, Pack pack)
    cdef object prepare_back(self, Run *run, int dtype, Pack pack, object x, tuple kept, object dy, Py_ssize_t column,
                             tuple dstates, Py_ssize_t k, object dx, dict grads, bint reverse, Ragged ragged, tuple row_norms)

    @staticmethod
    cdef Cell of(const Table *table)
