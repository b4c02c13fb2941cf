# The leaf kernels in C (simd/): contracts stand in simd/leaf.h.

cdef extern from "simd/leaf.h":
    cdef enum Nonlinearity "nonlinearity":
        TANH
        RELU
        SIGMOID
        NONLINEARITIES

    cdef enum:
        CHAINS

    cdef struct PanelStep "panel_step":
        void *h
        void *c
        void *gates
        void *y
        const void *h_before
        const void *c_before
        const void *z
        const void *panels
        const void *x
        const void *bias
        const void *panels_ih
        Py_ssize_t n, I, H, v_0, v_1, row, rows, y_stride
        bint backwards

    cdef struct Leaf "leaf":
        const char *isa
        int width
        void (*exp)(void *y, const void *x, Py_ssize_t n) noexcept nogil
        void (*map[3])(void *y, const void *x, Py_ssize_t n) noexcept nogil
        void (*panel_map[3])(void *y, const void *x, Py_ssize_t n) noexcept nogil
        void (*rnn_forward[3])(void *h, const void *a, const void *bias, Py_ssize_t n, Py_ssize_t H) noexcept nogil
        void (*rnn_backward[3])(void *da, const void *dh, const void *h, Py_ssize_t n, Py_ssize_t H) noexcept nogil
        void (*lstm_forward)(void *h, void *c, void *gates, const void *c_before, const void *bias,
                             Py_ssize_t n, Py_ssize_t H) noexcept nogil
        void (*lstm_backward)(void *dgates, void *dc, const void *dh, const void *gates, const void *c,
                              const void *c_before, Py_ssize_t n, Py_ssize_t H) noexcept nogil
        void (*project)(void *z, const void *bias, const void *a, const void *panels, Py_ssize_t K, Py_ssize_t v_0,
                        Py_ssize_t v_1, Py_ssize_t n, Py_ssize_t row, Py_ssize_t rows) noexcept nogil
        void (*rnn_step[3])(const PanelStep *step) noexcept nogil
        void (*lstm_step)(const PanelStep *step) noexcept nogil
        double (*multiply_add)(void *chains, Py_ssize_t rounds) noexcept nogil
        void (*read)(void *sink, const void *x, Py_ssize_t n, Py_ssize_t times) noexcept nogil

    const Leaf *leaf_tables(int k) nogil

cdef const Leaf *leaf_of(int dtype) noexcept nogil
