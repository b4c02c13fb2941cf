ctypedef fused real:
    float
    double

cdef enum:
    COLUMNS = 64  # of a block of `blocked`

cdef enum:
    FLOAT32 = 0
    FLOAT64 = 1

cdef int load() except -1
cdef int check_dimension(Py_ssize_t dimension) except -1
cdef void product(
    int dtype, bint trans_a, bint trans_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    const void *a, Py_ssize_t lda, const void *b, Py_ssize_t ldb, double beta, void *c, Py_ssize_t ldc,
) noexcept nogil
cdef void product_blocked(
    int dtype, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k, const void *a, Py_ssize_t lda, const void *b, double beta, void *c,
    Py_ssize_t ldc,
) noexcept nogil
