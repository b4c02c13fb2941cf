/* The leaf kernels' one door: a table of functions per instruction set and dtype.

   Arrays are row-major, of the table's dtype, and need no alignment beyond their elements', and outputs, which come first,
   do not overlap anything else, unless said so. Functions neither allocate nor read beyond their arrays. */

#ifndef RNNCORE_LEAF_H
#define RNNCORE_LEAF_H

#include <stddef.h>

/* y (n) = f(x (n)); y may be x */
typedef void (*map_function)(void *y, const void *x, ptrdiff_t n);

/* h (n, H) from a (n, H), which lacks the bias (H): equation (2) of the RNN; h may be a */
typedef void (*rnn_forward_function)(void *h, const void *a, const void *bias, ptrdiff_t n, ptrdiff_t H);

/* The cells' backward functions work on `units` of the H units, or P outputs, of n rows: pointers are to the first. Of what
   they write, a row begins `row` elements after the one before. */

/* da (n, H) from dh and h: equation (2') of the RNN */
typedef void (*rnn_backward_function)(void *da, ptrdiff_t row, const void *dh, const void *h, ptrdiff_t n, ptrdiff_t H,
                                      ptrdiff_t units);

/* softmax of each row of y (n, P), in place, times the scale: equation (4) of a Jordan network. Each row's parts, unless NULL,
   are its largest number, m, and the sum of all e^(y-m). */
typedef void (*softmax_function)(void *y, double (*parts)[2], ptrdiff_t n, ptrdiff_t P, double scale);

/* ds (n, P) from do and o = softmax(s): equation (4') of a Jordan network */
typedef void (*softmax_backward_function)(void *ds, const void *do_, const void *o, ptrdiff_t n, ptrdiff_t P);

/* h, c (n, H) from gates (n, 4*H), which lack the bias (4*H), and c_before: equations (2) to (7) of the LSTM, with
   peepholes (3*H), i f o, unless NULL. gates are left activated: i, f, g, o side by side. */
typedef void (*lstm_forward_function)(void *h, void *c, void *gates, const void *c_before, const void *bias,
                                      const void *peephole, ptrdiff_t n, ptrdiff_t H);

/* dgates (n, 4*H), before activation, from dh (n, H), the activated gates, c and c_before: equations (7') to (2').
   dc goes in as the gradient of c, as far as it does not pass through h, and out as that of c_before; flow (n, H), unless
   NULL, gets all of c's. */
typedef void (*lstm_backward_function)(void *dgates, ptrdiff_t row, void *dc, void *flow, const void *dh, const void *gates,
                                       const void *c, const void *c_before, const void *peephole, ptrdiff_t n, ptrdiff_t H,
                                       ptrdiff_t units);

/* GRU, reset after the product. Gates stand in the order n r z s_n, so that those of x and those of h_before are side by
   side. h (n, H) from gates (n, 4*H), which lack the bias (4*H), and h_before: equations (3) to (6); gates are left
   activated, with s_n complete. */
typedef void (*gru_forward_function)(void *h, void *gates, const void *h_before, const void *bias, ptrdiff_t n,
                                     ptrdiff_t H);

/* dgates (n, 4*H): equations (6') to (3'). dh goes in as the gradient of h and out as that of h_before, as far as it does
   not pass through the gates. */
typedef void (*gru_backward_function)(void *dgates, ptrdiff_t row, void *dh, const void *gates, const void *h_before,
                                      ptrdiff_t n, ptrdiff_t H, ptrdiff_t units);

/* GRU, reset before the product, in two parts; gates (n, 3*H) are r z n. Of r and z, and rh (n, H) = r * h_before:
   equations (3) and (4); then, when rh's product has been added to n, (5) and (6). */
typedef void (*gru_reset_function)(void *rh, void *gates, const void *h_before, const void *bias, ptrdiff_t n, ptrdiff_t H);
typedef void (*gru_new_function)(void *h, void *gates, const void *h_before, const void *bias, ptrdiff_t n, ptrdiff_t H);

/* And back: dgates of z and n, dh as above, (6') and (5'); then, from drh, dgates of r, and dh completed, (3'). */
typedef void (*gru_new_backward_function)(void *dgates, ptrdiff_t row, void *dh, const void *gates, const void *h_before,
                                          ptrdiff_t n, ptrdiff_t H, ptrdiff_t units);
typedef void (*gru_reset_backward_function)(void *dgates, ptrdiff_t row, void *dh, const void *drh, const void *gates,
                                            const void *h_before, ptrdiff_t n, ptrdiff_t H, ptrdiff_t units);

/* The panels engine: weights packed as simd/panels.h says, `vectors` of them. They, and the bias, are multiplied by
   -1/ln 2 for a sigmoid, 2/ln 2 for a tanh: functions of such sums are powers of 2. */

/* One vector of a panel whose lines are `step` elements apart, from up to `width` rows of W (rows, K), which are
   `row` elements apart, times a scale; past the caches if `far`: out then begins at a
   cache line, and `step` is whole vectors */
typedef void (*pack_function)(void *out, const void *W, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t K, ptrdiff_t step,
                              double scale, int far);

/* z (vectors, rows) = bias + a (n, K) W^T for n of the rows, from `row` on, and the vectors from v_0 to v_1, which are
   whole blocks of so many gates' panels */
typedef void (*project_function)(void *z, const void *bias, const void *a, const void *panels, ptrdiff_t gates, ptrdiff_t K,
                                 ptrdiff_t v_0, ptrdiff_t v_1, ptrdiff_t n, ptrdiff_t row, ptrdiff_t rows);

/* One step of n rows, for the units of the vectors from v_0 to v_1, which are whole blocks. The rows' sums over x begin
   at `row` of z (vectors, rows), those of the panels' vectors from begun_0 to begun_1 with the first `begun` terms of
   h_before, which `begin` has added; or, if x (n, I) is not NULL, the step forms them itself from x, bias and panels_ih. Reads
   h_before (n, K) and c_before (n, H), writes h and c (n, H); h also to y, whose rows are y_stride apart, and the
   activated gates to `gates` as for the functions above, unless these are NULL. Without `panels` there is no recurrent
   part, and there must be x. An LSTM's peephole, unless NULL, holds i f o of WIDTH units after WIDTH units, scaled as the
   gates. A GRU's bias_hh is that of s_n. `inner` (n, H) is r * h_before of a GRU that resets before the product.
   `backwards` takes the units from the last to the first: steps that do so by turns find the weights that the one before
   read last still in the cache. `shared`: other threads do other units of the same rows. `far`: panels come from memory at each
   step, as those of LAST_LEVEL_BYTES do.

   So many `steps` (0 for one) of the same rows, each `apart` rows behind the one before in x, y and gates, and n rows behind
   it, or if `apart` is negative before it, in z; in h and c as far on as in y if they are `kept`, else it writes what the one before
   has read. They go `backwards` by turns. Several need K = H, no `inner`, and gates (n, 4*H) or none. */
enum { LAST_LEVEL_BYTES = 12 << 20 };
struct panel_step {
    void *h, *c, *gates, *y, *inner;
    void *z;
    const void *h_before, *c_before, *panels;
    const void *x, *bias, *panels_ih, *bias_hh, *peephole;
    ptrdiff_t n, I, H, K, v_0, v_1, row, rows, y_stride, begun, begun_0, begun_1, steps, apart;
    int backwards, shared, far, kept;
};
typedef void (*panel_step_function)(const struct panel_step *step);

/* Add to z the first `begun` terms of h_before, for the step's rows and vectors: of each block's `gates`, to so many `sums`. */
typedef void (*begin_function)(const struct panel_step *step, ptrdiff_t gates, ptrdiff_t sums);

/* out (n, P) = a (n, K) b (K, P), or += it, of out the columns from p_0 to p_1. Of b, a *strip* of four vectors' columns
   begins b_step elements after the one before, and its rows are b_row apart: of a matrix as usual, four vectors and P; of one
   in strips that lie one behind the other, all of a strip and four vectors, which may be read in the last strip, too. `backwards`
   takes the last strip first: steps that do so by turns find what the one before read last still in the cache. */
typedef void (*inner_function)(void *out, ptrdiff_t out_row, const void *a, ptrdiff_t a_row, const void *b, ptrdiff_t b_row,
                               ptrdiff_t b_step, ptrdiff_t p_0, ptrdiff_t p_1, ptrdiff_t n, ptrdiff_t K, int add,
                               int backwards);

/* out (M, P) = a^T b, or += it, for a (n, M) and b (n, P), of out the rows from m_0 to m_1. `side` has room for so many `strips`
   of as many rows of b as `copies` says: so many are copied at a time, unless there are few rows of out. Sums of more than
   SIDE_ROWS terms, or with 16 registers of half as many, are added part by part. SMALL_BYTES are few enough to be fetched into
   the first-level cache at once. */
enum { SIDE_ROWS = 256, SMALL_BYTES = 16384 };
typedef ptrdiff_t (*copies_function)(ptrdiff_t a_row, ptrdiff_t P, ptrdiff_t n);
typedef void (*outer_function)(void *out, ptrdiff_t out_row, const void *a, ptrdiff_t a_row, const void *b, ptrdiff_t b_row,
                               ptrdiff_t P, ptrdiff_t m_0, ptrdiff_t m_1, ptrdiff_t n, int add, void *side,
                               int strips);

/* Rows from k_0 to k_1 of b (K, P), `b_row` elements apart, in strips; past the caches if `far`: out then begins at a
   cache line */
typedef void (*strips_function)(void *out, const void *b, ptrdiff_t b_row, ptrdiff_t K, ptrdiff_t P, ptrdiff_t k_0, ptrdiff_t k_1,
                                int far);

/* out (n) = b a for b (n, K), each sum in as many parts as a vector has elements */
typedef void (*dots_function)(void *out, const void *a, const void *b, ptrdiff_t n, ptrdiff_t K);

/* out (n, m) += a (n, m) */
typedef void (*add_rows_function)(void *out, ptrdiff_t out_row, const void *a, ptrdiff_t a_row, ptrdiff_t n, ptrdiff_t m);

/* out (m) = the sums of the columns of a (n, m), from the first row to the last */
typedef void (*sum_rows_function)(void *out, const void *a, ptrdiff_t a_row, ptrdiff_t n, ptrdiff_t m);

/* Training. An optimiser's step on n parameters in one pass: w from w_before and the gradient g; the moments, b or m and v,
   change in place. Equations are those of `rnncore.train`'s rules. */

/* (1) to (3) of SGD; without momentum, b is NULL. `gain` is what the gradient enters b with: 1 - d, at first 1. */
struct sgd {
    double rate, decay, momentum, gain;
    int nesterov;
};
typedef void (*sgd_function)(void *w, void *b, const void *w_before, const void *g, ptrdiff_t n, const struct sgd *s);

/* (1) to (4) of Adam at step t; `keep` is what w is multiplied with first, for AdamW 1 - rate decay.
   step = rate / (1 - beta_1^t), root_scale = 1 / sqrt(1 - beta_2^t). */
struct adam {
    double step, decay, keep, beta_1, beta_2, root_scale, epsilon;
};
typedef void (*adam_function)(void *w, void *m, void *v, const void *w_before, const void *g, ptrdiff_t n,
                              const struct adam *s);

/* The sum of (scale x)^2 over x (n), in float64; its order depends on n alone. */
typedef double (*sum_of_squares_function)(const void *x, ptrdiff_t n, double scale);

/* Mixes the n bytes of x into `state`, DIGEST bytes, which then tell them from others of as many bytes. */
enum { DIGEST = 512 };
typedef void (*digest_function)(void *state, const void *x, ptrdiff_t n);

/* A quicker one, by AES's rounds; NULL where the processor has none. */
digest_function digest_by_aes(void);

/* The machine's limits: what a loop of nothing but multiply-adds, or of nothing but loads, reaches. */

/* `rounds` of independent multiply-adds on `chains` (CHAINS * width); returns their floating-point operations */
enum { CHAINS = 12 };
typedef double (*multiply_add_function)(void *chains, ptrdiff_t rounds);

/* x (n), n a multiple of 8 vectors, read `times` times; sink (width) keeps the compiler from leaving it out */
typedef void (*read_function)(void *sink, const void *x, ptrdiff_t n, ptrdiff_t times);

enum nonlinearity { TANH, RELU, SIGMOID, IDENTITY, NONLINEARITIES };

struct leaf {
    const char *isa;
    int width;   /* elements of a vector */
    int abreast; /* vectors side by side in a panel of weights */
    map_function exp;
    map_function map[NONLINEARITIES];
    map_function panel_map[NONLINEARITIES]; /* of a panel's sums: tanh(x ln(2)/2), relu(x), sigmoid(-x ln 2) */
    rnn_forward_function rnn_forward[NONLINEARITIES];
    rnn_backward_function rnn_backward[NONLINEARITIES];
    softmax_function softmax;
    softmax_backward_function softmax_backward;
    lstm_forward_function lstm_forward;
    lstm_backward_function lstm_backward;
    gru_forward_function gru_forward;
    gru_backward_function gru_backward;
    gru_reset_function gru_reset;
    gru_new_function gru_new;
    gru_new_backward_function gru_new_backward;
    gru_reset_backward_function gru_reset_backward;
    pack_function pack;
    project_function project;
    begin_function begin;
    inner_function inner;
    outer_function outer;
    copies_function copies;
    strips_function strips;
    dots_function dots;
    add_rows_function add_rows;
    sum_rows_function sum_rows;
    panel_step_function rnn_step[NONLINEARITIES];
    panel_step_function lstm_step;
    panel_step_function gru_step;                    /* reset after the product */
    panel_step_function gru_reset_step, gru_new_step; /* before it: r, z and inner; then h from inner in h_before's place */
    sgd_function sgd;
    adam_function adam;
    sum_of_squares_function sum_of_squares;
    digest_function digest;
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
