/* The cells' fused passes over one step, for one dtype. Equations are those of rnncore/reference. */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#include "vector.h"

#define ALL NAME(all)
#define FMA NAME(fma)

#include "math.h"

#include "panels.h"

#include "limits.h"

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

/* --- maps ------------------------------------------------------------------------------------------------------- */

#define MAP(function)                                                                                                  \
    static void NAME(function##_map)(void *y_, const void *x_, ptrdiff_t n)                                            \
    {                                                                                                                  \
        real *y = y_;                                                                                                  \
        const real *x = x_;                                                                                            \
        FOR_VECTORS(n, { STORE(y + j, NAME(function)(LOAD(x + j))); });                                                \
    }

MAP(exp)
MAP(tanh)
MAP(relu)
MAP(sigmoid)
MAP(tanh_2)
MAP(sigmoid_2)

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

#define RNN(function)                                                                                                  \
    static void NAME(function##_forward)(void *h_, const void *a_, const void *bias_, ptrdiff_t n, ptrdiff_t H)        \
    {                                                                                                                  \
        real *h = h_;                                                                                                  \
        const real *a = a_, *bias = bias_;                                                                             \
        for (; n > 0; n--, h += H, a += H)                                                                             \
            FOR_VECTORS(H, { STORE(h + j, NAME(function)(LOAD(a + j) + LOAD(bias + j))); /* (2) */ });                 \
    }                                                                                                                  \
                                                                                                                       \
    static void NAME(function##_backward)(void *da_, const void *dh_, const void *h_, ptrdiff_t n, ptrdiff_t H)        \
    {                                                                                                                  \
        real *da = da_;                                                                                                \
        const real *dh = dh_, *h = h_;                                                                                 \
        FOR_VECTORS(n *H, { STORE(da + j, NAME(function##_slope)(LOAD(dh + j), LOAD(h + j))); /* (2') */ });           \
    }

/* One step from packed weights. Sums stay in the cache between the product and the function. Whole panels of 4 vectors go
   side by side: one vector's function is a chain that waits for itself most of the time. */
#define RNN_STEP(stem, function)                                                                                       \
    static void NAME(stem##_step)(const struct panel_step *s)                                                          \
    {                                                                                                                  \
        FOR_BATCHES(s, {                                                                                               \
            NAME(recur)(s, sums, r, rows, v, vectors, v * WIDTH, vectors * WIDTH);                                     \
            for (ptrdiff_t p = 0, count; p < vectors; p += count) {                                                    \
                count = NAME(panel_vectors)(vectors - p);                                                              \
                const ptrdiff_t at = (v + p) * WIDTH, left = s->H - at;                                                \
                for (ptrdiff_t q = 0; q < rows; q++) {                                                                 \
                    const real *a = sums + (p * rows + q * count) * WIDTH;                                             \
                    real *h = (real *)s->h + (r + q) * s->H + at;                                                      \
                    real *y = s->y ? (real *)s->y + (r + q) * s->y_stride + at : h;                                    \
                    if (count == 4 && left >= 4 * WIDTH) {                                                             \
                        V h_t[4];                                                                                      \
                        UNROLL for (int k = 0; k < 4; k++)                                                             \
                            h_t[k] = NAME(function)(NAME(load)(a + k * WIDTH)); /* (2) */                              \
                        UNROLL for (int k = 0; k < 4; k++) {                                                           \
                            NAME(store)(h + k * WIDTH, h_t[k]);                                                        \
                            NAME(store)(y + k * WIDTH, h_t[k]);                                                        \
                        }                                                                                              \
                    } else                                                                                             \
                        FOR_VECTORS(left < count * WIDTH ? left : count * WIDTH, {                                     \
                            V h_t = NAME(function)(NAME(load)(a + j)); /* (2) */                                       \
                            STORE(h + j, h_t);                                                                         \
                            STORE(y + j, h_t);                                                                         \
                        });                                                                                            \
                }                                                                                                      \
            }                                                                                                          \
        });                                                                                                            \
    }

RNN(tanh)
RNN(relu)
RNN(sigmoid)
RNN_STEP(tanh, tanh_2)
RNN_STEP(relu, relu)
RNN_STEP(sigmoid, sigmoid_2)

/* --- LSTM ------------------------------------------------------------------------------------------------------- */

static void NAME(lstm_forward)(void *h_, void *c_, void *gates_, const void *c_before_, const void *bias_,
                               ptrdiff_t n, ptrdiff_t H)
{
    real *h = h_, *c = c_, *gates = gates_;
    const real *c_before = c_before_, *bias = bias_;
    for (; n > 0; n--, h += H, c += H, gates += 4 * H, c_before += H)
        FOR_VECTORS(H, {
            V i = NAME(sigmoid)(LOAD(gates + j) + LOAD(bias + j));                         /* (2) */
            V f = NAME(sigmoid)(LOAD(gates + H + j) + LOAD(bias + H + j));                 /* (3) */
            V g = NAME(tanh)(LOAD(gates + 2 * H + j) + LOAD(bias + 2 * H + j));            /* (4) */
            V o = NAME(sigmoid)(LOAD(gates + 3 * H + j) + LOAD(bias + 3 * H + j));         /* (5) */
            V c_t = FMA(f, LOAD(c_before + j), i * g);                                     /* (6) */
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
INLINE void NAME(lstm_cells)(const int WHOLE, const struct panel_step *s, real *a, ptrdiff_t r, ptrdiff_t rows,
                             ptrdiff_t u, ptrdiff_t first)
{
    const ptrdiff_t H = s->H;
    const real *c_before = (const real *)s->c_before + r * H + u;
    real *c_t = (real *)s->c + r * H + u, *gates = s->gates ? (real *)s->gates + r * 4 * H + u : NULL;
    for (ptrdiff_t q = 0; q < rows; q++, a += 4 * WIDTH, c_before += H, c_t += H) {
        V i = NAME(one_plus_exp2)(NAME(load)(a));                           /* (2), inverse */
        V f = ALL(1) / NAME(one_plus_exp2)(NAME(load)(a + WIDTH));          /* (3) */
        V below, g = NAME(tanh_parts_2)(NAME(load)(a + 2 * WIDTH), &below); /* (4) is g / below */
        V o = NAME(one_plus_exp2)(NAME(load)(a + 3 * WIDTH));               /* (5), inverse */
        V c = FMA(f, LOAD(c_before), g / (i * below));                      /* (6) */
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
static void NAME(lstm_step)(const struct panel_step *s)
{
    FOR_BATCHES(s, {
        const ptrdiff_t u_0 = v / 4 * WIDTH, u_1 = (v + vectors) / 4 * WIDTH, whole = u_1 <= s->H ? u_1 : u_1 - WIDTH;
        NAME(recur)(s, sums, r, rows, v, vectors, u_0, u_1 - u_0);
        for (ptrdiff_t u = u_0; u < whole; u += WIDTH)
            NAME(lstm_cells)(1, s, sums + (u - u_0) * 4 * rows, r, rows, u, WIDTH);
        if (whole < u_1)
            NAME(lstm_cells)(0, s, sums + (whole - u_0) * 4 * rows, r, rows, whole, s->H - whole);
        for (ptrdiff_t u = u_0; u < whole; u += WIDTH)
            NAME(lstm_outputs)(1, s, sums + (u - u_0) * 4 * rows, r, rows, u, WIDTH);
        if (whole < u_1)
            NAME(lstm_outputs)(0, s, sums + (whole - u_0) * 4 * rows, r, rows, whole, s->H - whole);
    });
}

static void NAME(lstm_backward)(void *dgates_, void *dc_, const void *dh_, const void *gates_, const void *c_,
                                const void *c_before_, ptrdiff_t n, ptrdiff_t H)
{
    real *dgates = dgates_, *dc = dc_;
    const real *dh = dh_, *gates = gates_, *c = c_, *c_before = c_before_;
    for (; n > 0; n--, dgates += 4 * H, dc += H, dh += H, gates += 4 * H, c += H, c_before += H)
        FOR_VECTORS(H, {
            V i = LOAD(gates + j), f = LOAD(gates + H + j), g = LOAD(gates + 2 * H + j), o = LOAD(gates + 3 * H + j);
            V tanh_c = NAME(tanh)(LOAD(c + j)), dh_t = LOAD(dh + j);
            V dc_t = FMA(dh_t * o, FMA(-tanh_c, tanh_c, ALL(1)), LOAD(dc + j));            /* (7') */
            STORE(dgates + 3 * H + j, NAME(sigmoid_slope)(dh_t * tanh_c, o));              /* (7') (5') */
            STORE(dgates + 2 * H + j, NAME(tanh_slope)(dc_t * i, g));                      /* (6') (4') */
            STORE(dgates + H + j, NAME(sigmoid_slope)(dc_t * LOAD(c_before + j), f));      /* (6') (3') */
            STORE(dgates + j, NAME(sigmoid_slope)(dc_t * g, i));                           /* (6') (2') */
            STORE(dc + j, dc_t * f);                                                       /* (6') */
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
#undef FOR_BATCHES
#undef INLINE
#undef UNROLL
#undef TILE_ROWS
#undef BATCH
