cimport numpy as cnp


cdef class Pack:
    cdef object arrays
    cdef object blas_forward, blas_backward, panels
    cdef dict strips            # of W_ih, W_hh and W_hr: 0, 1 and 4 of `arrays`
    cdef Py_ssize_t gates, input_size, hidden_size, state_size
    cdef bint projects, peeps
    cdef Pack base              # of what `over` returned
    cdef object rows            # (U, I), or None
    cdef object sums            # what W_ih makes of them, and for which engine
    cdef cnp.ndarray zeros(self, cnp.npy_intp n)
    cdef cnp.ndarray of_h(self)
    cdef cnp.ndarray bias(self, Py_ssize_t gates)
    cdef tuple make_panels(self, int width, tuple form)
    cdef tuple for_blas(self, int shift, int split)
    cdef tuple for_gradients(self, int width, bint of_x, bint of_h)
    cdef object strips_of(self, int k, int width)
    cdef tuple for_backward(self, int split)
    cdef tuple for_panels(self, int width, tuple form)


cdef inline Py_ssize_t panel_vectors(Py_ssize_t left) noexcept nogil:
    """Vectors of the panel that begins where `left` are left (simd/panels.h)."""
    return 4 if left >= 4 else 2 if left >= 2 else 1

cpdef bytes digest(tuple arrays)
