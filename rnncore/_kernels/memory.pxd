cimport numpy as cnp

cdef cnp.ndarray vector_of(cnp.npy_intp n, int type_)
