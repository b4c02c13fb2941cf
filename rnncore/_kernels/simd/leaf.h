/* The leaf kernels' one door: a table of functions per instruction set and dtype.

   Arrays are row-major, of the table's dtype, and need no alignment beyond their elements'. Outputs come first and may
   not overlap anything else unless said so. Functions neither allocate nor read beyond their arrays. */

#ifndef RNNCORE_LEAF_H
#define RNNCORE_LEAF_H

#include <stddef.h>

/* y (n) = f(x (n)); y may be x */
typedef void (*map_function)(void *y, const void *x, ptrdiff_t n);

/* h (n, H) from a (n, H), which lacks the bias (H): equation (2) of the RNN */
typedef void (*rnn_forward_function)(void *h, const void *a, const void *bias, ptrdiff_t n, ptrdiff_t H);

/* da (n, H) from dh and h: equation (2') of the RNN */
typedef void (*rnn_backward_function)(void *da, const void *dh, const void *h, ptrdiff_t n, ptrdiff_t H);

/* h, c (n, H) from gates (n, 4*H), which lack the bias (4*H), and c_before: equations (2) to (7) of the LSTM.
   gates are left activated: i, f, g, o side by side. */
typedef void (*lstm_forward_function)(void *h, void *c, void *gates, const void *c_before, const void *bias,
                                      ptrdiff_t n, ptrdiff_t H);

/* dgates (n, 4*H), before activation, from dh (n, H), the activated gates, c and c_before: equations (7') to (2').
   dc goes in as the gradient of c and out as that of c_before. */
typedef void (*lstm_backward_function)(void *dgates, void *dc, const void *dh, const void *gates, const void *c,
                                       const void *c_before, ptrdiff_t n, ptrdiff_t H);

/* The panels engine: weights packed as simd/panels.h says, `vectors` of them. They, and the bias, are multiplied by
   -1/ln 2 for a sigmoid, 2/ln 2 for a tanh: functions of such sums are powers of 2. */

/* z (vectors, rows) = bias + a (n, K) W^T for n of the rows, from `row` on, and the vectors from v_0 to v_1, which are
   whole panels */
typedef void (*project_function)(void *z, const void *bias, const void *a, const void *panels, ptrdiff_t K, ptrdiff_t v_0,
                                 ptrdiff_t v_1, ptrdiff_t n, ptrdiff_t row, ptrdiff_t rows);

/* One step of n rows, for the units of the vectors from v_0 to v_1, which are whole panels. The rows' sums over x begin
   at `row` of z (vectors, rows); or, if x (n, I) is not NULL, the step forms them itself from x, bias and panels_ih. Reads
   h_before and c_before (n, H), writes h and c; h also to y, whose rows are y_stride apart, and an LSTM's activated gates
   to `gates` (n, 4*H), unless these are NULL. `backwards` takes the units from the last to the first: steps that do so by
   turns find the weights that the one before read last still in the cache. */
struct panel_step {
    void *h, *c, *gates, *y;
    const void *h_before, *c_before, *z, *panels;
    const void *x, *bias, *panels_ih;
    ptrdiff_t n, I, H, v_0, v_1, row, rows, y_stride;
    int backwards;
};
typedef void (*panel_step_function)(const struct panel_step *step);

/* The machine's limits: what a loop of nothing but multiply-adds, or of nothing but loads, reaches. */

/* `rounds` of independent multiply-adds on `chains` (CHAINS * width); returns their floating-point operations */
enum { CHAINS = 12 };
typedef double (*multiply_add_function)(void *chains, ptrdiff_t rounds);

/* x (n), n a multiple of 8 vectors, read `times` times; sink (width) keeps the compiler from leaving it out */
typedef void (*read_function)(void *sink, const void *x, ptrdiff_t n, ptrdiff_t times);

enum nonlinearity { TANH, RELU, SIGMOID, NONLINEARITIES };

struct leaf {
    const char *isa;
    int width; /* elements of a vector */
    map_function exp;
    map_function map[NONLINEARITIES];
    map_function panel_map[NONLINEARITIES]; /* of a panel's sums: tanh(x ln(2)/2), relu(x), sigmoid(-x ln 2) */
    rnn_forward_function rnn_forward[NONLINEARITIES];
    rnn_backward_function rnn_backward[NONLINEARITIES];
    lstm_forward_function lstm_forward;
    lstm_backward_function lstm_backward;
    project_function project;
    panel_step_function rnn_step[NONLINEARITIES];
    panel_step_function lstm_step;
    multiply_add_function multiply_add;
    read_function read;
};

/* The k-th instruction set this machine can run, best first, as a table for float32 and one for float64; NULL past the
   last, which is always "generic". */
const struct leaf *leaf_tables(int k);

extern const struct leaf leaf_generic[2];
#if defined(__x86_64__)
extern const struct leaf leaf_avx2[2], leaf_avx512[2];
#elif defined(__aarch64__)
extern const struct leaf leaf_neon[2];
#endif

#endif
