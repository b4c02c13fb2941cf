# The leaf kernels in C (simd/): contracts stand in simd/leaf.h.

cdef extern from *:
    # NumPy's headers bring in complex.h, whose macro `I` would stand in the way of the input size
    """
    #include <complex.h>
    #undef I
    """

cdef extern from "simd/leaf.h":
    cdef enum Nonlinearity "nonlinearity":
        TANH
        RELU
        SIGMOID
        IDENTITY
        NONLINEARITIES

    cdef enum:
        CHAINS
        DIGEST

    ctypedef void (*Digest "digest_function")(void *state, const void *x, Py_ssize_t n) noexcept nogil

    cdef struct PanelStep "panel_step":
        void *h
        void *c
        void *gates
        void *y
        void *inner
        const void *h_before
        const void *c_before
        void *z
        const void *panels
        const void *x
        const void *bias
        const void *panels_ih
        const void *bias_hh
        const void *peephole
        Py_ssize_t n, I, H, K, v_0, v_1, row, rows, y_stride, begun, begun_0, begun_1, steps, apart
        bint backwards, shared, far, kept

    cdef struct Sgd "sgd":
        double rate, decay, momentum, gain
        bint nesterov

    cdef struct Adam "adam":
        double step, decay, keep, beta_1, beta_2, root_scale, epsilon

    cdef struct Leaf "leaf":
        const char *isa
        int width
        int abreast
        void (*exp)(void *y, const void *x, Py_ssize_t n) noexcept nogil
        void (*map[4])(void *y, const void *x, Py_ssize_t n) noexcept nogil
        void (*panel_map[4])(void *y, const void *x, Py_ssize_t n) noexcept nogil
        void (*rnn_forward[4])(void *h, const void *a, const void *bias, Py_ssize_t n, Py_ssize_t H) noexcept nogil
        void (*rnn_backward[4])(void *da, Py_ssize_t row, const void *dh, const void *h, Py_ssize_t n, Py_ssize_t H,
                                Py_ssize_t units) noexcept nogil
        void (*softmax)(void *y, double (*parts)[2], Py_ssize_t n, Py_ssize_t P, double scale) noexcept nogil
        void (*softmax_backward)(void *ds, const void *do_, const void *o, Py_ssize_t n, Py_ssize_t P) noexcept nogil
        void (*lstm_forward)(void *h, void *c, void *gates, const void *c_before, const void *bias,
                             const void *peephole, Py_ssize_t n, Py_ssize_t H) noexcept nogil
        void (*lstm_backward)(void *dgates, Py_ssize_t row, void *dc, void *flow, const void *dh, const void *gates,
                              const void *c, const void *c_before, const void *peephole, Py_ssize_t n, Py_ssize_t H,
                              Py_ssize_t units) noexcept nogil
        void (*gru_forward)(void *h, void *gates, const void *h_before, const void *bias, Py_ssize_t n,
                            Py_ssize_t H) noexcept nogil
        void (*gru_backward)(void *dgates, Py_ssize_t row, void *dh, const void *gates, const void *h_before, Py_ssize_t n,
                             Py_ssize_t H, Py_ssize_t units) noexcept nogil
        void (*gru_reset)(void *rh, void *gates, const void *h_before, const void *bias, Py_ssize_t n,
                          Py_ssize_t H) noexcept nogil
        void (*gru_new)(void *h, void *gates, const void *h_before, const void *bias, Py_ssize_t n,
                        Py_ssize_t H) noexcept nogil
        void (*gru_new_backward)(void *dgates, Py_ssize_t row, void *dh, const void *gates, const void *h_before, Py_ssize_t n,
                                 Py_ssize_t H, Py_ssize_t units) noexcept nogil
        void (*gru_reset_backward)(void *dgates, Py_ssize_t row, void *dh, const void *drh, const void *gates, const void *h_before,
                                   Py_ssize_t n, Py_ssize_t H, Py_ssize_t units) noexcept nogil
        void (*pack)(void *out, const void *W, Py_ssize_t row, Py_ssize_t rows, Py_ssize_t K, Py_ssize_t step,
                     double scale, int far) noexcept nogil
        void (*project)(void *z, const void *bias, const void *a, const void *panels, Py_ssize_t gates, Py_ssize_t K,
                        Py_ssize_t v_0, Py_ssize_t v_1, Py_ssize_t n, Py_ssize_t row, Py_ssize_t rows) noexcept nogil
        void (*inner)(void *out, Py_ssize_t out_row, const void *a, Py_ssize_t a_row, const void *b, Py_ssize_t b_row,
                      Py_ssize_t b_step, Py_ssize_t p_0, Py_ssize_t p_1, Py_ssize_t n, Py_ssize_t K, int add,
                      int backwards) noexcept nogil
        void (*outer)(void *out, Py_ssize_t out_row, const void *a, Py_ssize_t a_row, const void *b, Py_ssize_t b_row,
                      Py_ssize_t P, Py_ssize_t m_0, Py_ssize_t m_1, Py_ssize_t n, int add, void *side,
                      int strips) noexcept nogil
        Py_ssize_t (*copies)(Py_ssize_t a_row, Py_ssize_t P, Py_ssize_t n) noexcept nogil
        void (*strips)(void *out, const void *b, Py_ssize_t b_row, Py_ssize_t K, Py_ssize_t P, Py_ssize_t k_0, Py_ssize_t k_1,
                       int far) noexcept nogil
        void (*dots)(void *out, const void *a, const void *b, Py_ssize_t n, Py_ssize_t K) noexcept nogil
        void (*add_rows)(void *out, Py_ssize_t out_row, const void *a, Py_ssize_t a_row, Py_ssize_t n, Py_ssize_t m) noexcept nogil
        void (*sum_rows)(void *out, const void *a, Py_ssize_t a_row, Py_ssize_t n, Py_ssize_t m) noexcept nogil
        void (*begin)(const PanelStep *step, Py_ssize_t gates, Py_ssize_t sums) noexcept nogil
        void (*rnn_step[4])(const PanelStep *step) noexcept nogil
        void (*lstm_step)(const PanelStep *step) noexcept nogil
        void (*gru_step)(const PanelStep *step) noexcept nogil
        void (*gru_reset_step)(const PanelStep *step) noexcept nogil
        void (*gru_new_step)(const PanelStep *step) noexcept nogil
        void (*sgd)(void *w, void *b, const void *w_before, const void *g, Py_ssize_t n, const Sgd *s) noexcept nogil
        void (*adam)(void *w, void *m, void *v, const void *w_before, const void *g, Py_ssize_t n,
                     const Adam *s) noexcept nogil
        double (*sum_of_squares)(const void *x, Py_ssize_t n, double scale) noexcept nogil
        Digest digest
        double (*multiply_add)(void *chains, Py_ssize_t rounds) noexcept nogil
        void (*read)(void *sink, const void *x, Py_ssize_t n, Py_ssize_t times) noexcept nogil

    enum:
        SIDE_ROWS
        LAST_LEVEL_BYTES
        SMALL_BYTES

    const Leaf *leaf_tables(int k) nogil
    Digest digest_by_aes() nogil

cdef const Leaf *leaf_of(int dtype) noexcept nogil

cdef Digest quickest_digest() noexcept nogil
