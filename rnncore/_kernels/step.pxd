from .driver cimport Cell, Run, Scratch


cdef class Stack:
    cdef Run *runs
    cdef int layers, states, dtype
    cdef Py_ssize_t I, H
    cdef object alive
    cdef bint usable(self) noexcept
    cdef tuple states_of(self, object state, bint stacked, bint batched, Py_ssize_t N)
    cdef object result(self, tuple states)
    cdef int run(self, Py_ssize_t T, Py_ssize_t N, bint reverse, bint turned, const char *x, char **initial,
                 char **final, char *y, Scratch *scratch) except -1
