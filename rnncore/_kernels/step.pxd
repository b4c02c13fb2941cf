cimport numpy as cnp

from .cell cimport Cell
from .driver cimport Scratch
from .run cimport MAX_STATES, Run


cdef class Stack:
    cdef Run *runs
    cdef int layers, states, dtype
    cdef Py_ssize_t I
    cdef Py_ssize_t vocabulary          # of how many rows the first layer takes numbers; 0 if it takes vectors
    cdef Py_ssize_t width[MAX_STATES]   # of states
    cdef bint stacked
    cdef Cell cell
    cdef tuple packs
    cdef object alive
    cdef bint usable(self) noexcept
    cdef tuple states_of(self, object state, bint stacked, bint batched, Py_ssize_t N)
    cdef int state_shape(self, cnp.npy_intp *shape, bint stacked, bint batched, Py_ssize_t N) noexcept
    cdef tuple new(self, int ndim, cnp.npy_intp *shape, bint zeros)
    cdef object result(self, tuple states)
    cdef int run(self, Py_ssize_t T, Py_ssize_t N, bint reverse, bint turned, const char *x, char **initial,
                 char **final, char *y, Scratch *scratch, int n_threads=*, const Py_ssize_t *tokens=*) except -1
