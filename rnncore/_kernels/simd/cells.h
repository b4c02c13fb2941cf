/* The cells' fused passes over one step, for one dtype. Equations are those of rnncore/reference. */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#include "vector.h"

#define ALL NAME(all)
#define FMA NAME(fma)

/* Run the statements for every vector of a row of H elements, at j; LOAD and STORE are whole or partial as fits. */
#define FOR_VECTORS(H, ...)                                                                                            \
    do {                                                                                                               \
        ptrdiff_t j = 0;                                                                                               \
        for (; j + WIDTH <= (H); j += WIDTH) {                                                                         \
            enum { WHOLE = 1, first = WIDTH };                                                                         \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
        if (j < (H)) {                                                                                                 \
            enum { WHOLE = 0 };                                                                                        \
            const ptrdiff_t first = (H) - j;                                                                           \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    } while (0)
#define LOAD(p) (WHOLE || first == WIDTH ? NAME(load)(p) : NAME(load_first)(p, first))
#define STORE(p, v) (WHOLE || first == WIDTH ? NAME(store)(p, v) : NAME(store_first)(p, v, first))

#include "math.h"

/* The sum of a vector's elements, of every fourth at first: no long chain. */
INLINE real NAME(sum_of)(V v)
{
    real sum[4] = {0};
    UNROLL for (int k = 0; k < WIDTH; k++)
        sum[k % 4] += v[k];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/* The largest of them; NaN may be passed over, unless it comes first. */
INLINE real NAME(most_of)(V v)
{
    real most[4] = {v[0], v[0], v[0], v[0]};
    UNROLL for (int k = 1; k < WIDTH; k++)
        most[k % 4] = v[k] > most[k % 4] ? v[k] : most[k % 4];
    UNROLL for (int k = 1; k < 4; k++)
        most[0] = most[k] > most[0] ? most[k] : most[0];
    return most[0];
}

#include "tile.h"

#include "panels.h"

#include "steps.h"

#include "strips.h"

#include "limits.h"

#include "train.h"

/* --- maps ------------------------------------------------------------------------------------------------------- */

#define MAP(function)                                                                                                  \
    static void NAME(function##_map)(void *y_, const void *x_, ptrdiff_t n)                                            \
    {                                                                                                                  \
        real *y = y_;                                                                                                  \
        const real *x = x_;                                                                                            \
        FOR_VECTORS(n, { STORE(y + j, NAME(function)(LOAD(x + j))); });                                                \
    }

static inline V NAME(identity)(V x)
{
    return x;
}

MAP(exp)
MAP(tanh)
MAP(relu)
MAP(sigmoid)
MAP(tanh_2)
MAP(sigmoid_2)
MAP(identity)

/* --- RNN -------------------------------------------------------------------------------------------------------- */

/* f'(a) times dh, from h = f(a) */
static inline V NAME(tanh_slope)(V dh, V h)
{
    return dh * FMA(-h, h, ALL(1));
}

static inline V NAME(relu_slope)(V dh, V h)
{
    return NAME(select)(h <= ALL(0), ALL(0), dh);
}

static inline V NAME(sigmoid_slope)(V dh, V h)
{
    return dh * h * (ALL(1) - h);
}

static inline V NAME(identity_slope)(V dh, V h)
{
    (void)h;
    return dh;
}

#define RNN(function)                                                                                                  \
    static void NAME(function##_forward)(void *h_, const void *a_, const void *bias_, ptrdiff_t n, ptrdiff_t H)        \
    {                                                                                                                  \
        real *h = h_;                                                                                                  \
        const real *a = a_, *bias = bias_;                                                                             \
        for (; n > 0; n--, h += H, a += H)                                                                             \
            FOR_VECTORS(H, { STORE(h + j, NAME(function)(LOAD(a + j) + LOAD(bias + j))); /* (2) */ });                 \
    }                                                                                                                  \
                                                                                                                       \
    static void NAME(function##_backward)(void *da_, ptrdiff_t row, const void *dh_, const void *h_, ptrdiff_t n,      \
                                          ptrdiff_t H, ptrdiff_t units)                                                \
    {                                                                                                                  \
        real *da = da_;                                                                                                \
        const real *dh = dh_, *h = h_;                                                                                 \
        for (; n > 0; n--, da += row, dh += H, h += H)                                                                 \
            FOR_VECTORS(units, { STORE(da + j, NAME(function##_slope)(LOAD(dh + j), LOAD(h + j))); /* (2') */ });      \
    }

/* One step from packed weights. Sums stay in the cache between the product and the function. Whole panels of 4 vectors go
   side by side: one vector's function is a chain that waits for itself most of the time. */
#define RNN_STEP(stem, function)                                                                                       \
    INLINE void NAME(stem##_of)(real *h, real *y, V a_0, V a_1, V a_2, V a_3)                                          \
    {                                                                                                                  \
        V h_t[4] = {NAME(function)(a_0), NAME(function)(a_1), NAME(function)(a_2), NAME(function)(a_3)}; /* (2) */     \
        UNROLL for (int k = 0; k < 4; k++) {                                                                           \
            NAME(store)(h + k * WIDTH, h_t[k]);                                                                        \
            NAME(store)(y + k * WIDTH, h_t[k]);                                                                        \
        }                                                                                                              \
    }                                                                                                                  \
                                                                                                                       \
    static void NAME(four_##stem)(real *h, real *y, V a_0, V a_1, V a_2, V a_3)                                        \
    {                                                                                                                  \
        NAME(stem##_of)(h, y, a_0, a_1, a_2, a_3);                                                                     \
    }                                                                                                                  \
                                                                                                                       \
    static __attribute__((noinline)) void NAME(one_##stem##_step)(const struct panel_step *s)                          \
    {                                                                                                                  \
        if (NAME(in_registers)(s)) {                                                                                   \
            NAME(register_step)(s, NAME(four_##stem));                                                                 \
            return;                                                                                                    \
        }                                                                                                              \
        FOR_BATCHES(s, BATCH * 4, NAME(batch)(s->n), {                                                                 \
            NAME(recur)(s, sums, r, rows, v, vectors, v * WIDTH, vectors * WIDTH);                                     \
            for (ptrdiff_t p = 0, count; p < vectors; p += count) {                                                    \
                count = NAME(panel_vectors)(vectors - p);                                                              \
                const ptrdiff_t at = (v + p) * WIDTH, left = s->H - at;                                                \
                for (ptrdiff_t q = 0; q < rows; q++) {                                                                 \
                    const real *a = sums + (p * rows + q * count) * WIDTH;                                             \
                    real *h = (real *)s->h + (r + q) * s->H + at;                                                      \
                    real *y = s->y ? (real *)s->y + (r + q) * s->y_stride + at : h;                                    \
                    if (count == 4 && left >= 4 * WIDTH)                                                               \
                        NAME(stem##_of)(h, y, NAME(load)(a), NAME(load)(a + WIDTH), NAME(load)(a + 2 * WIDTH),         \
                                        NAME(load)(a + 3 * WIDTH));                                                    \
                    else                                                                                               \
                        FOR_VECTORS(left < count * WIDTH ? left : count * WIDTH, {                                     \
                            V h_t = NAME(function)(NAME(load)(a + j)); /* (2) */                                       \
                            STORE(h + j, h_t);                                                                         \
                            STORE(y + j, h_t);                                                                         \
                        });                                                                                            \
                }                                                                                                      \
            }                                                                                                          \
        });                                                                                                            \
    }                                                                                                                  \
    STEPS(stem##_step)

RNN(tanh)
RNN(relu)
RNN(sigmoid)
RNN(identity)
RNN_STEP(tanh, tanh_2)
RNN_STEP(relu, relu)
RNN_STEP(sigmoid, sigmoid_2)
RNN_STEP(identity, identity)

/* --- softmax ---------------------------------------------------------------------------------------------------- */

#define SUMMED 512 /* numbers of a row in one chain of sums; those of many in float64 */

static void NAME(softmax)(void *y_, double (*parts)[2], ptrdiff_t n, ptrdiff_t P, double scale)
{
    real *y = y_;
    for (; n > 0; n--, y += P) {
        real most;
        double sum = 0;
        V part = ALL(y[0]);
        ptrdiff_t rest = 0;
        for (; rest + WIDTH <= P; rest += WIDTH) {
            V y_j = NAME(load)(y + rest);
            part = NAME(select)(y_j > part, y_j, part); /* NaN comes through the sum */
        }
        most = NAME(most_of)(part);
        for (; rest < P; rest++)
            most = y[rest] > most ? y[rest] : most;
        for (ptrdiff_t at = 0; at < P; at += SUMMED) {
            real *from = y + at;
            part = ALL(0);
            FOR_VECTORS(P - at < SUMMED ? P - at : SUMMED, {
                V e = NAME(exp)(LOAD(from + j) - ALL(most));                               /* (4) */
                STORE(from + j, e);
                part += LOAD(from + j);
            });
            sum += (double)NAME(sum_of)(part);
        }
        V factor = ALL((real)(scale / sum));
        FOR_VECTORS(P, { STORE(y + j, LOAD(y + j) * factor); });
        if (parts)
            (*parts)[0] = (double)most, (*parts++)[1] = sum;
    }
}

#undef SUMMED

static void NAME(softmax_backward)(void *ds_, const void *do__, const void *o_, ptrdiff_t n, ptrdiff_t P)
{
    real *ds = ds_;
    const real *do_ = do__, *o = o_;
    for (; n > 0; n--, ds += P, do_ += P, o += P) {
        V part = {0};
        FOR_VECTORS(P, { part = FMA(LOAD(do_ + j), LOAD(o + j), part); });
        const real sum = NAME(sum_of)(part);
        FOR_VECTORS(P, { STORE(ds + j, (LOAD(do_ + j) - ALL(sum)) * LOAD(o + j)); });      /* (4') */
    }
}

/* --- LSTM ------------------------------------------------------------------------------------------------------- */

static void NAME(lstm_forward)(void *h_, void *c_, void *gates_, const void *c_before_, const void *bias_,
                               const void *peephole, ptrdiff_t n, ptrdiff_t H)
{
    real *h = h_, *c = c_, *gates = gates_;
    const real *c_before = c_before_, *bias = bias_, *w = peephole;
    for (; n > 0; n--, h += H, c += H, gates += 4 * H, c_before += H)
        FOR_VECTORS(H, {
            V c_t = LOAD(c_before + j);
            V i = LOAD(gates + j) + LOAD(bias + j);
            V f = LOAD(gates + H + j) + LOAD(bias + H + j);
            V g = NAME(tanh)(LOAD(gates + 2 * H + j) + LOAD(bias + 2 * H + j));            /* (4) */
            V o = LOAD(gates + 3 * H + j) + LOAD(bias + 3 * H + j);
            i = NAME(sigmoid)(w ? FMA(LOAD(w + j), c_t, i) : i);                           /* (2) */
            f = NAME(sigmoid)(w ? FMA(LOAD(w + H + j), c_t, f) : f);                       /* (3) */
            c_t = FMA(f, c_t, i * g);                                                      /* (6) */
            o = NAME(sigmoid)(w ? FMA(LOAD(w + 2 * H + j), c_t, o) : o);                   /* (5) */
            STORE(h + j, o * NAME(tanh)(c_t));                                             /* (7) */
            STORE(c + j, c_t);
            STORE(gates + j, i);
            STORE(gates + H + j, f);
            STORE(gates + 2 * H + j, g);
            STORE(gates + 3 * H + j, o);
        });
}

/* A step's equations (2) to (6) for `rows` rows from r on, and the units from u on: WIDTH of them if WHOLE, else `first`.
   Sums are those of i, f and o times -1/ln 2, of g times 2/ln 2. Leaves c_t and the inverse of o in their place. */
INLINE void NAME(lstm_cells)(const int WHOLE, const int PEEPHOLE, const struct panel_step *s, real *a, ptrdiff_t r,
                             ptrdiff_t rows, ptrdiff_t u, ptrdiff_t first)
{
    const ptrdiff_t H = s->H;
    const real *c_before = (const real *)s->c_before + r * H + u, *w = PEEPHOLE ? (const real *)s->peephole + 3 * u : NULL;
    real *c_t = (real *)s->c + r * H + u, *gates = s->gates ? (real *)s->gates + r * 4 * H + u : NULL;
    for (ptrdiff_t q = 0; q < rows; q++, a += 4 * WIDTH, c_before += H, c_t += H) {
        V c = LOAD(c_before), a_i = NAME(load)(a), a_f = NAME(load)(a + WIDTH), a_o = NAME(load)(a + 3 * WIDTH);
        if (PEEPHOLE) {
            a_i = FMA(NAME(load)(w), c, a_i);
            a_f = FMA(NAME(load)(w + WIDTH), c, a_f);
        }
        V i = NAME(one_plus_exp2)(a_i);                                     /* (2), inverse */
        V f = ALL(1) / NAME(one_plus_exp2)(a_f);                            /* (3) */
        V below, g = NAME(tanh_parts_2)(NAME(load)(a + 2 * WIDTH), &below); /* (4) is g / below */
        if (PEEPHOLE) {
            c = FMA(f, c, g / (i * below));                                 /* (6) */
            a_o = FMA(NAME(load)(w + 2 * WIDTH), c, a_o);
        }
        V o = NAME(one_plus_exp2)(a_o);                                     /* (5), inverse */
        if (!PEEPHOLE)
            c = FMA(f, c, g / (i * below));                                 /* (6) */
        STORE(c_t, c);
        NAME(store)(a, c);
        NAME(store)(a + WIDTH, o);
        if (gates) {
            STORE(gates + q * 4 * H, ALL(1) / i);
            STORE(gates + q * 4 * H + H, f);
            STORE(gates + q * 4 * H + 2 * H, g / below);
            STORE(gates + q * 4 * H + 3 * H, ALL(1) / o);
        }
    }
}

/* Equation (7) of the same, from what they left; o and tanh share a division, as i and g do above. */
INLINE void NAME(lstm_outputs)(const int WHOLE, const struct panel_step *s, const real *a, ptrdiff_t r, ptrdiff_t rows,
                               ptrdiff_t u, ptrdiff_t first)
{
    const ptrdiff_t H = s->H, y_stride = s->y_stride;
    real *h_t = (real *)s->h + r * H + u, *y = s->y ? (real *)s->y + r * y_stride + u : NULL;
    for (ptrdiff_t q = 0; q < rows; q++, a += 4 * WIDTH, h_t += H) {
        V below, above = NAME(tanh_parts_e)(NAME(load)(a), &below);
        V h = above / (below * NAME(load)(a + WIDTH));                      /* (7) */
        STORE(h_t, h);
        if (y)
            STORE(y + q * y_stride, h);
    }
}

/* One step from packed weights, whose panels are the four gates of WIDTH units. In two passes over a batch of sums: the
   functions of one row wait for each other, (7) for (6) for (2), but not for other rows', and a core sees only so far
   ahead. */
INLINE void NAME(lstm_step_of)(const int PEEPHOLE, const struct panel_step *s)
{
    FOR_BATCHES(s, BATCH * 4, NAME(batch)(s->n), {
        const ptrdiff_t u_0 = v / 4 * WIDTH, u_1 = (v + vectors) / 4 * WIDTH, whole = u_1 <= s->H ? u_1 : u_1 - WIDTH;
        NAME(recur)(s, sums, r, rows, v, vectors, u_0, u_1 - u_0);
        for (ptrdiff_t u = u_0; u < whole; u += WIDTH)
            NAME(lstm_cells)(1, PEEPHOLE, s, sums + (u - u_0) * 4 * rows, r, rows, u, WIDTH);
        if (whole < u_1)
            NAME(lstm_cells)(0, PEEPHOLE, s, sums + (whole - u_0) * 4 * rows, r, rows, whole, s->H - whole);
        for (ptrdiff_t u = u_0; u < whole; u += WIDTH)
            NAME(lstm_outputs)(1, s, sums + (u - u_0) * 4 * rows, r, rows, u, WIDTH);
        if (whole < u_1)
            NAME(lstm_outputs)(0, s, sums + (whole - u_0) * 4 * rows, r, rows, whole, s->H - whole);
    });
}

static __attribute__((noinline)) void NAME(lstm_peephole_step)(const struct panel_step *s)
{
    NAME(lstm_step_of)(1, s);
}

static __attribute__((noinline)) void NAME(one_lstm_step)(const struct panel_step *s)
{
    if (s->peephole)
        NAME(lstm_peephole_step)(s);
    else
        NAME(lstm_step_of)(0, s);
}

STEPS(lstm_step)

static void NAME(lstm_backward)(void *dgates_, ptrdiff_t row, void *dc_, void *flow_, const void *dh_, const void *gates_,
                                const void *c_, const void *c_before_, const void *peephole, ptrdiff_t n, ptrdiff_t H,
                                ptrdiff_t units)
{
    real *dgates = dgates_, *dc = dc_, *flow = flow_;
    const real *dh = dh_, *gates = gates_, *c = c_, *c_before = c_before_, *w = peephole;
    for (; n > 0; n--, dgates += row, dc += H, dh += H, gates += 4 * H, c += H, c_before += H, flow += flow ? H : 0)
        FOR_VECTORS(units, {
            V i = LOAD(gates + j), f = LOAD(gates + H + j), g = LOAD(gates + 2 * H + j), o = LOAD(gates + 3 * H + j);
            V tanh_c = NAME(tanh)(LOAD(c + j)), dh_t = LOAD(dh + j);
            V dc_t = FMA(dh_t * o, FMA(-tanh_c, tanh_c, ALL(1)), LOAD(dc + j));            /* (7') */
            V dz_o = NAME(sigmoid_slope)(dh_t * tanh_c, o);                                /* (7') (5') */
            if (w)
                dc_t = FMA(LOAD(w + 2 * H + j), dz_o, dc_t);                               /* (5') */
            if (flow)
                STORE(flow + j, dc_t);
            V dz_i = NAME(sigmoid_slope)(dc_t * g, i);                                     /* (6') (2') */
            V dz_f = NAME(sigmoid_slope)(dc_t * LOAD(c_before + j), f);                    /* (6') (3') */
            V dc_before = dc_t * f;                                                        /* (6') */
            if (w)
                dc_before = FMA(LOAD(w + j), dz_i, FMA(LOAD(w + H + j), dz_f, dc_before)); /* (2') (3') */
            STORE(dgates + 3 * H + j, dz_o);
            STORE(dgates + 2 * H + j, NAME(tanh_slope)(dc_t * i, g));                      /* (6') (4') */
            STORE(dgates + H + j, dz_f);
            STORE(dgates + j, dz_i);
            STORE(dc + j, dc_before);
        });
}

/* --- GRU -------------------------------------------------------------------------------------------------------- */

static void NAME(gru_forward)(void *h_, void *gates_, const void *h_before_, const void *bias_, ptrdiff_t n, ptrdiff_t H)
{
    real *h = h_, *gates = gates_;
    const real *h_before = h_before_, *bias = bias_;
    for (; n > 0; n--, h += H, gates += 4 * H, h_before += H)
        FOR_VECTORS(H, {
            V r = NAME(sigmoid)(LOAD(gates + H + j) + LOAD(bias + H + j));                 /* (3) */
            V z = NAME(sigmoid)(LOAD(gates + 2 * H + j) + LOAD(bias + 2 * H + j));         /* (4) */
            V s_n = LOAD(gates + 3 * H + j) + LOAD(bias + 3 * H + j);
            V new = NAME(tanh)(FMA(r, s_n, LOAD(gates + j) + LOAD(bias + j)));             /* (5) */
            STORE(h + j, FMA(z, LOAD(h_before + j), (ALL(1) - z) * new));                  /* (6) */
            STORE(gates + j, new);
            STORE(gates + H + j, r);
            STORE(gates + 2 * H + j, z);
            STORE(gates + 3 * H + j, s_n);
        });
}

static void NAME(gru_backward)(void *dgates_, ptrdiff_t row, void *dh_, const void *gates_, const void *h_before_,
                               ptrdiff_t n, ptrdiff_t H, ptrdiff_t units)
{
    real *dgates = dgates_, *dh = dh_;
    const real *gates = gates_, *h_before = h_before_;
    for (; n > 0; n--, dgates += row, dh += H, gates += 4 * H, h_before += H)
        FOR_VECTORS(units, {
            V new = LOAD(gates + j), r = LOAD(gates + H + j), z = LOAD(gates + 2 * H + j), s_n = LOAD(gates + 3 * H + j);
            V dh_t = LOAD(dh + j);
            V da_n = NAME(tanh_slope)(dh_t * (ALL(1) - z), new);                           /* (6') (5') */
            STORE(dgates + j, da_n);
            STORE(dgates + H + j, NAME(sigmoid_slope)(da_n * s_n, r));                     /* (5') (3') */
            STORE(dgates + 2 * H + j, NAME(sigmoid_slope)(dh_t * (LOAD(h_before + j) - new), z)); /* (6') (4') */
            STORE(dgates + 3 * H + j, da_n * r);                                           /* (5') */
            STORE(dh + j, dh_t * z);                                                       /* (6') */
        });
}

static void NAME(gru_reset)(void *rh_, void *gates_, const void *h_before_, const void *bias_, ptrdiff_t n, ptrdiff_t H)
{
    real *rh = rh_, *gates = gates_;
    const real *h_before = h_before_, *bias = bias_;
    for (; n > 0; n--, rh += H, gates += 3 * H, h_before += H)
        FOR_VECTORS(H, {
            V r = NAME(sigmoid)(LOAD(gates + j) + LOAD(bias + j));                         /* (3) */
            STORE(gates + j, r);
            STORE(gates + H + j, NAME(sigmoid)(LOAD(gates + H + j) + LOAD(bias + H + j))); /* (4) */
            STORE(rh + j, r * LOAD(h_before + j));                                         /* (2) */
        });
}

static void NAME(gru_new)(void *h_, void *gates_, const void *h_before_, const void *bias_, ptrdiff_t n, ptrdiff_t H)
{
    real *h = h_, *gates = gates_;
    const real *h_before = h_before_, *bias = bias_;
    for (; n > 0; n--, h += H, gates += 3 * H, h_before += H)
        FOR_VECTORS(H, {
            V new = NAME(tanh)(LOAD(gates + 2 * H + j) + LOAD(bias + 2 * H + j));          /* (5) */
            V z = LOAD(gates + H + j);
            STORE(gates + 2 * H + j, new);
            STORE(h + j, FMA(z, LOAD(h_before + j), (ALL(1) - z) * new));                  /* (6) */
        });
}

static void NAME(gru_new_backward)(void *dgates_, ptrdiff_t row, void *dh_, const void *gates_, const void *h_before_,
                                   ptrdiff_t n, ptrdiff_t H, ptrdiff_t units)
{
    real *dgates = dgates_, *dh = dh_;
    const real *gates = gates_, *h_before = h_before_;
    for (; n > 0; n--, dgates += row, dh += H, gates += 3 * H, h_before += H)
        FOR_VECTORS(units, {
            V z = LOAD(gates + H + j), new = LOAD(gates + 2 * H + j), dh_t = LOAD(dh + j);
            STORE(dgates + H + j, NAME(sigmoid_slope)(dh_t * (LOAD(h_before + j) - new), z)); /* (6') (4') */
            STORE(dgates + 2 * H + j, NAME(tanh_slope)(dh_t * (ALL(1) - z), new));         /* (6') (5') */
            STORE(dh + j, dh_t * z);                                                       /* (6') */
        });
}

static void NAME(gru_reset_backward)(void *dgates_, ptrdiff_t row, void *dh_, const void *drh_, const void *gates_,
                                     const void *h_before_, ptrdiff_t n, ptrdiff_t H, ptrdiff_t units)
{
    real *dgates = dgates_, *dh = dh_;
    const real *drh = drh_, *gates = gates_, *h_before = h_before_;
    for (; n > 0; n--, dgates += row, dh += H, drh += H, gates += 3 * H, h_before += H)
        FOR_VECTORS(units, {
            V r = LOAD(gates + j), drh_t = LOAD(drh + j);
            STORE(dgates + j, NAME(sigmoid_slope)(drh_t * LOAD(h_before + j), r));         /* (2') (3') */
            STORE(dh + j, FMA(drh_t, r, LOAD(dh + j)));                                    /* (2') */
        });
}

/* From packed weights, a GRU's blocks: sums of one are [gate][rows][vectors][WIDTH], r and z times -1/ln 2, n times 2/ln 2.
   A batch's sums: those of r, z, a_n and s_n of 4 vectors, or of more where there are few rows. */
enum { NAME(gru_sums) = LAST_ROWS * 4 * 4 };

INLINE ptrdiff_t NAME(gru_batch)(ptrdiff_t n)
{
    return n == 1 ? 12 : n == 2 ? 8 : 4;
}

/* Run the statements for every block of a batch, of `count` vectors from p on, in the step's direction. */
#define FOR_BLOCKS(s, ...)                                                                                             \
    do {                                                                                                               \
        const ptrdiff_t blocks = NAME(panels)(vectors);                                                                \
        for (ptrdiff_t k = 0; k < blocks; k++) {                                                                       \
            const ptrdiff_t p = NAME(panel_start)(vectors, (s)->backwards ? blocks - 1 - k : k);                       \
            const ptrdiff_t count = NAME(panel_vectors)(vectors - p);                                                  \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    } while (0)

/* The panel that comes after gate g's of the block of `count` vectors from v on, in the step's direction; negative if that
   would be the next block's, and there is no whole one. */
INLINE ptrdiff_t NAME(next_gate)(const struct panel_step *s, ptrdiff_t v, ptrdiff_t count, int g)
{
    if (s->backwards ? g > 0 : g < 2)
        return 3 * v + (s->backwards ? g - 1 : g + 1) * count;
    const ptrdiff_t next = s->backwards ? v - 4 : v + count;
    return next >= s->v_0 && next + 4 <= s->v_1 ? 3 * next + (s->backwards ? 2 * 4 : 0) : -1;
}

/* The sums of one gate of a block, `count` vectors from v on, with the recurrent product. */
INLINE void NAME(gate_sums)(const struct panel_step *s, const int g, real *sums, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t v,
                            ptrdiff_t count)
{
    NAME(panel_sums)(s, 1, sums, r, rows, 3 * v + g * count, count, NAME(next_gate)(s, v, count, g),
                     (r + TILE_ROWS - 1) / TILE_ROWS);
}

/* Those of r and z, the second a `gate` behind the first, in the step's direction. */
INLINE void NAME(gates_sums)(const struct panel_step *s, real *sums, ptrdiff_t gate, ptrdiff_t r, ptrdiff_t rows,
                             ptrdiff_t v, ptrdiff_t count)
{
    if (rows == 1 && count == 4 && NAME(begun)(s, 3 * v) == NAME(begun)(s, 3 * v + 4))
        NAME(pair_sums)(s, sums, r, 3 * v);
    else
        for (int k = 0; k < 2; k++) {
            const int g = s->backwards ? 1 - k : k;
            NAME(gate_sums)(s, g, sums + g * gate, r, rows, v, count);
        }
}

/* The two sums of n, which meet after the reset alone: s_n of h_before, and a_n of x, if the step forms that itself. */
INLINE void NAME(new_sums)(const struct panel_step *s, real *a_n, real *s_n, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t v,
                           ptrdiff_t count)
{
    const ptrdiff_t at = 3 * v + 2 * count, next = NAME(next_gate)(s, v, count, 2), tile = (r + TILE_ROWS - 1) / TILE_ROWS;
    if (s->x)
        NAME(panel_sums)(s, 0, a_n, r, rows, at, count, next, tile);
    NAME(tile)(rows, count, s_n, (const real *)s->bias_hh + v * WIDTH, 0, NAME(terms_h)(s, r, 0, at, count, next), NULL, s->n, tile);
}

/* All of these for one row of a block of fewer vectors than 4: panel by panel each would wait for its chain. */
INLINE void NAME(one_row_sums)(const struct panel_step *s, real *a, ptrdiff_t r, ptrdiff_t v, ptrdiff_t count)
{
    for (int of_x = s->x != NULL; of_x >= 0; of_x--) {
        const ptrdiff_t K = of_x ? s->I : s->K;
        const real *row = (const real *)(of_x ? s->x : s->h_before) + r * K, *panels = of_x ? s->panels_ih : s->panels;
        struct NAME(part) parts[3];
        for (int g = 0; g < 3; g++) {
            const ptrdiff_t at = 3 * v + g * count;
            parts[g].panel = panels + at * WIDTH * K;
            parts[g].out = a + (g < 2 || of_x ? g : 3) * count * WIDTH;
            parts[g].init = of_x    ? (const real *)s->bias + at * WIDTH
                            : g > 1 ? (const real *)s->bias_hh + v * WIDTH
                            : s->x  ? parts[g].out
                                    : (const real *)s->z + (at * s->rows + (s->row + r) * count) * WIDTH;
        }
        (count == 2 ? NAME(parts_2_2_2) : NAME(parts_1_1_1))(parts, row, K, 0);
    }
}

/* Equations (3), and (5) up to its tanh, for all sums of a block. r takes the place of its sum; `sum`, that of n, may be a_n. */
INLINE void NAME(gru_resets)(real *sum, real *a_r, const real *a_n, const real *s_n, ptrdiff_t n)
{
    for (ptrdiff_t k = 0; k < n; k += WIDTH) {
        V reset = ALL(1) / NAME(one_plus_exp2)(NAME(load)(a_r + k));                           /* (3) */
        NAME(store)(a_r + k, reset);
        NAME(store)(sum + k, FMA(reset, NAME(load)(s_n + k), NAME(load)(a_n + k)));            /* (5) */
    }
}

/* What a tape keeps of that: r, and s_n without its scale of 2/ln 2. `stride` is that of rows. */
INLINE void NAME(gru_keep)(const int WHOLE, const struct panel_step *s, const real *reset, const real *s_n,
                           ptrdiff_t stride, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t u, ptrdiff_t first)
{
    const ptrdiff_t H = s->H;
    real *gates = (real *)s->gates + r * 4 * H + u;
    for (ptrdiff_t q = 0; q < rows; q++, gates += 4 * H) {
        STORE(gates + H, NAME(load)(reset + q * stride));
        STORE(gates + 3 * H, NAME(load)(s_n + q * stride) * ALL((real)0.34657359027997265471));
    }
}

/* Equations (4), (5) and (6) of the same. z is 1/(1+t), and 1-z is t/(1+t): one division for z and tanh. */
INLINE V NAME(gru_output)(V t, V above, V below, V h_before)
{
    return FMA(t, above, h_before * below) / FMA(t, below, below);
}

INLINE void NAME(gru_outputs)(const int WHOLE, const struct panel_step *s, const real *a_z, const real *a_n,
                              ptrdiff_t stride, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t u, ptrdiff_t first)
{
    const ptrdiff_t H = s->H, y_stride = s->y_stride;
    const real *h_before = (const real *)s->h_before + r * H + u;
    real *h = (real *)s->h + r * H + u, *y = s->y ? (real *)s->y + r * y_stride + u : NULL;
    real *gates = s->gates ? (real *)s->gates + r * 4 * H + u : NULL;
    for (ptrdiff_t q = 0; q < rows; q++, a_z += stride, a_n += stride, h_before += H, h += H) {
        V t = NAME(exp2)(NAME(load)(a_z)), below, above = NAME(tanh_parts_2)(NAME(load)(a_n), &below);
        V h_t = NAME(gru_output)(t, above, below, LOAD(h_before));                             /* (4) (5) (6) */
        STORE(h, h_t);
        if (y)
            STORE(y + q * y_stride, h_t);
        if (gates) {
            STORE(gates + q * 4 * H, above / below);
            STORE(gates + q * 4 * H + 2 * H, ALL(1) / (ALL(1) + t));
        }
    }
}

/* Call a pass, pass(WHOLE, s, ..., rows' stride, r, rows, u, first), for each vector k of a block, whole ones and what is
   left of the last. */
#define FOR_UNITS(s, pass, ...)                                                                                        \
    for (ptrdiff_t k = 0; k < count; k++) {                                                                            \
        const ptrdiff_t u = (v + p + k) * WIDTH;                                                                       \
        if (u + WIDTH <= (s)->H)                                                                                       \
            pass(1, s, __VA_ARGS__, count * WIDTH, r, rows, u, WIDTH);                                                 \
        else                                                                                                           \
            pass(0, s, __VA_ARGS__, count * WIDTH, r, rows, u, (s)->H - u);                                            \
    }

static __attribute__((noinline)) void NAME(one_gru_step)(const struct panel_step *s)
{
    FOR_BATCHES(s, NAME(gru_sums), NAME(gru_batch)(s->n), {
        NAME(fetch_rows)(s, r, rows, v == (s->backwards ? s->v_1 - vectors : s->v_0), v * WIDTH, vectors * WIDTH);
        FOR_BLOCKS(s, {
            const ptrdiff_t gate = count * rows * WIDTH;
            real *a = sums + 4 * p * rows * WIDTH;
            if (VECTOR_BYTES > 16 && rows == 1 && count < 4 && !NAME(begun)(s, 3 * (v + p)) && !NAME(begun)(s, 3 * (v + p) + count)) {
                NAME(one_row_sums)(s, a, r, v + p, count);                                          /* (1) (2) */
                continue;
            }
            if (!s->backwards)
                NAME(gates_sums)(s, a, gate, r, rows, v + p, count);                            /* (1) (2) */
            NAME(new_sums)(s, a + 2 * gate, a + 3 * gate, r, rows, v + p, count);
            if (s->backwards)
                NAME(gates_sums)(s, a, gate, r, rows, v + p, count);
        });
        FOR_BLOCKS(s, {
            const ptrdiff_t gate = count * rows * WIDTH;
            real *a = sums + 4 * p * rows * WIDTH;
            const real *a_n = a + 2 * gate;
            if (!s->x)
                a_n = (const real *)s->z + ((3 * (v + p) + 2 * count) * s->rows + (s->row + r) * count) * WIDTH;
            NAME(gru_resets)(a + 2 * gate, a, a_n, a + 3 * gate, gate);
            if (s->gates)
                FOR_UNITS(s, NAME(gru_keep), a + k * WIDTH, a + 3 * gate + k * WIDTH)
        });
        FOR_BLOCKS(s, {
            const real *a = sums + (4 * p + count) * rows * WIDTH;
            FOR_UNITS(s, NAME(gru_outputs), a + k * WIDTH, a + count * rows * WIDTH + k * WIDTH)
        });
    });
}

STEPS(gru_step)

/* The original: r and z, and r * h_before for the product that n waits for. z is kept as it comes out of the sum. */
INLINE void NAME(gru_gates)(const int WHOLE, const struct panel_step *s, const real *a_r, const real *a_z,
                            ptrdiff_t stride, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t u, ptrdiff_t first)
{
    const ptrdiff_t H = s->H;
    real *gates = (real *)s->gates + r * 3 * H + u;
    for (ptrdiff_t q = 0; q < rows; q++, gates += 3 * H) {
        V reset = ALL(1) / NAME(one_plus_exp2)(NAME(load)(a_r + q * stride));                  /* (3) */
        STORE((real *)s->inner + (r + q) * H + u, reset * LOAD((const real *)s->h_before + (r + q) * H + u)); /* (2) */
        STORE(gates, reset);
        STORE(gates + H, ALL(1) / NAME(one_plus_exp2)(NAME(load)(a_z + q * stride)));          /* (4) */
    }
}

static void NAME(gru_reset_step)(const struct panel_step *s)
{
    FOR_BATCHES(s, NAME(gru_sums), NAME(gru_batch)(s->n), {
        FOR_BLOCKS(s, {
            NAME(gates_sums)(s, sums + 2 * p * rows * WIDTH, count * rows * WIDTH, r, rows, v + p, count); /* (1) (2) */
        });
        FOR_BLOCKS(s, {
            const real *a = sums + 2 * p * rows * WIDTH;
            FOR_UNITS(s, NAME(gru_gates), a + k * WIDTH, a + count * rows * WIDTH + k * WIDTH)
        });
    });
}

INLINE void NAME(gru_news)(const int WHOLE, const struct panel_step *s, const real *a, ptrdiff_t stride, ptrdiff_t r,
                           ptrdiff_t rows, ptrdiff_t u, ptrdiff_t first)
{
    const ptrdiff_t H = s->H, y_stride = s->y_stride;
    const real *h_before = (const real *)s->inner + r * H + u;
    real *h = (real *)s->h + r * H + u, *y = s->y ? (real *)s->y + r * y_stride + u : NULL;
    real *gates = (real *)s->gates + r * 3 * H + u;
    for (ptrdiff_t q = 0; q < rows; q++, a += stride, h_before += H, h += H, gates += 3 * H) {
        V new = NAME(tanh_2)(NAME(load)(a)), z = LOAD(gates + H);                              /* (5) */
        V h_t = FMA(z, LOAD(h_before), (ALL(1) - z) * new);                                    /* (6) */
        STORE(gates + 2 * H, new);
        STORE(h, h_t);
        if (y)
            STORE(y + q * y_stride, h_t);
    }
}

static void NAME(gru_new_step)(const struct panel_step *s)
{
    FOR_BATCHES(s, NAME(gru_sums), NAME(gru_batch)(s->n), {
        FOR_BLOCKS(s, NAME(gate_sums)(s, 2, sums + p * rows * WIDTH, r, rows, v + p, count););         /* (1) (2) */
        FOR_BLOCKS(s, FOR_UNITS(s, NAME(gru_news), sums + (p * rows + k) * WIDTH));
    });
}

#undef V
#undef VI
#undef real
#undef bits
#undef WIDTH
#undef ALL
#undef FMA
#undef FOR_VECTORS
#undef LOAD
#undef STORE
#undef MAP
#undef RNN
#undef RNN_STEP
#undef STEPS
#undef FOR_BATCHES
#undef FOR_BLOCKS
#undef FOR_UNITS
#undef INLINE
#undef UNROLL
#undef REGISTERS
#undef TILE_ROWS
#undef LAST_ROWS
#undef ABREAST
#undef UNROLL_TERMS
#undef UNROLL_PLAIN
#undef KEEP
#undef BATCH
