/* Gradients: products with matrices in strips.

   A *strip* is the columns of 4 neighbouring vectors of a matrix, all of its rows one after the other. Rows as they are in
   a wide matrix are far apart: they compete for few places in each cache, no processor fetches the next one of itself, and
   each is on another page. Weights are copied to strips once (`../pack.pyx`); rows of x and h, side by side for each block. A
   matrix of up to 4 vectors is a strip. */
#define STRIP (4 * WIDTH)
#define STRIP_AHEAD 8                         /* rows */
#define TILE_STEP 8                           /* elements from row to row of a tile's columns, where they are copied */

/* A matrix that is too large for the last level is read from memory once for each tile, unless it is taken in parts. */
#define LARGE (ptrdiff_t)(LAST_LEVEL_BYTES / sizeof(real))
#define PART 256 /* rows */

/* out[r][v] = init[r][v] + sum over k of a[k * a_k + r * a_r] b[k][v], or out += all that: a tile of a product with a matrix
   that is not packed. Without `init`, which has ROWS x VECTORS vectors, it is 0. Of out, the last vector has `first` elements; of
   b, whole vectors are read. */
INLINE void NAME(plain_tile)(const int ROWS, const int VECTORS, real *out, ptrdiff_t out_row, const real *a, ptrdiff_t a_k,
                             ptrdiff_t a_r, const real *b, ptrdiff_t b_row, ptrdiff_t K, ptrdiff_t first, int add, const V *init)
{
    V sum[24];
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++) {
            sum[r * VECTORS + v] = ALL(0);
            KEEP(sum[r * VECTORS + v]); /* or they would be cleared in memory */
        }
    if (init)
        UNROLL for (int r = 0; r < ROWS; r++)
            UNROLL for (int v = 0; v < VECTORS; v++)
                sum[r * VECTORS + v] = init[r * VECTORS + v];
    if (K < 1)
        __builtin_unreachable();
    UNROLL for (int r = 0; r < ROWS; r++) /* what is written at the end */
        UNROLL for (int v = 0; v < VECTORS; v++)
            __builtin_prefetch(out + r * out_row + v * WIDTH, 1, 3);
    UNROLL_PLAIN
    for (ptrdiff_t k = 0; k < K; k++, a += a_k, b += b_row) {
        if (ROWS > 2 && REGISTERS == 32) {
            UNROLL for (int v = 0; v < VECTORS; v++)
                __builtin_prefetch(b + STRIP_AHEAD * b_row + v * WIDTH, 0, 3);
            if (a_k > TILE_STEP)
                __builtin_prefetch(a + 2 * STRIP_AHEAD * a_k, 0, 3);
        }
        NAME(add_term)(ROWS, VECTORS, sum, a, a_r, b, ABREAST * WIDTH);
    }
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++) {
            real *p = out + r * out_row + v * WIDTH;
            V s = sum[r * VECTORS + v];
            if (v + 1 < VECTORS || first == WIDTH)
                NAME(store)(p, add ? NAME(load)(p) + s : s);
            else
                NAME(store_first)(p, add ? NAME(load_first)(p, first) + s : s, first);
        }
}

#define PLAIN(ROWS, VECTORS)                                                                                           \
    static __attribute__((noinline)) void NAME(outer_##ROWS##x##VECTORS)(                                              \
        real *out, ptrdiff_t out_row, const real *a, ptrdiff_t a_row, const real *b, ptrdiff_t b_row, ptrdiff_t K,     \
        ptrdiff_t first, int add, const V *init)                                                                       \
    {                                                                                                                  \
        NAME(plain_tile)(ROWS, VECTORS, out, out_row, a, a_row, 1, b, b_row, K, first, add, init);                     \
    }                                                                                                                  \
    static __attribute__((noinline)) void NAME(inner_##ROWS##x##VECTORS)(                                              \
        real *out, ptrdiff_t out_row, const real *a, ptrdiff_t a_row, const real *b, ptrdiff_t b_row, ptrdiff_t K,     \
        ptrdiff_t first, int add, const V *init)                                                                       \
    {                                                                                                                  \
        NAME(plain_tile)(ROWS, VECTORS, out, out_row, a, 1, a_row, b, b_row, K, first, add, init);                     \
    }
#if REGISTERS == 32
#define PLAIN_ROWS 6
PLAIN(4, 4) PLAIN(5, 4) PLAIN(6, 4) PLAIN(6, 3)
#define PLAIN_6x3(stem) NAME(stem##_6x3)
#else
#define PLAIN_ROWS 3
#define PLAIN_6x3(stem) NULL
#endif
PLAIN(1, 1) PLAIN(1, 2) PLAIN(1, 3) PLAIN(1, 4)
PLAIN(2, 1) PLAIN(2, 2) PLAIN(2, 3) PLAIN(2, 4)
PLAIN(3, 1) PLAIN(3, 2) PLAIN(3, 3) PLAIN(3, 4)
PLAIN(6, 1) PLAIN(6, 2)
PLAIN(12, 1)
#undef PLAIN

typedef void (*NAME(plain_function))(real *out, ptrdiff_t out_row, const real *a, ptrdiff_t a_row, const real *b,
                                     ptrdiff_t b_row, ptrdiff_t K, ptrdiff_t first, int add, const V *init);

/* Rows of the next tile of a product with a strip of `width` columns, where `left` are left: tiles as equal as can be. Of a
   narrow strip 6 or 12, or there would be fewer sums than products that a core has at work at a time. */
INLINE ptrdiff_t NAME(plain_rows)(ptrdiff_t left, ptrdiff_t width)
{
    if (width <= WIDTH && left >= 12)
        return 12;
    if ((width <= 2 * WIDTH || (width == 3 * WIDTH && PLAIN_ROWS == 6)) && left >= 6)
        return 6;
    const ptrdiff_t most = width > 3 * WIDTH ? PLAIN_ROWS : 3, tiles = (left + most - 1) / most;
    return (left + tiles - 1) / tiles;
}

/* One tile with a strip b (K, width) that ends within a vector, behind which b's next row begins, and behind the last row nothing
   that may be read: the last rows' terms from a copy. (Beside a masked load for each term GCC would leave no sum in a register,
   and without masks it is a call of memcpy.) a_k elements lead from a term's a to the next one's. */
static __attribute__((noinline)) void NAME(plain_part)(NAME(plain_function) tile, real *out, ptrdiff_t out_row, const real *a,
                                                       ptrdiff_t a_row, ptrdiff_t a_k, const real *b, ptrdiff_t b_row,
                                                       ptrdiff_t width, ptrdiff_t K, int add)
{
    const ptrdiff_t vectors = (width + WIDTH - 1) / WIDTH, first = width - (vectors - 1) * WIDTH, rest = WIDTH - first;
    const ptrdiff_t rows = b_row >= rest ? 1 : (rest + b_row - 1) / b_row, whole = K > rows ? K - rows : 0;
    V sums[24], ends[4 * WIDTH];
    for (ptrdiff_t k = whole, at = 0; k < K; k++)
        for (ptrdiff_t v = 0; v < vectors; v++, at++)
            ends[at] = NAME(load_first)(b + k * b_row + v * WIDTH, v + 1 < vectors ? WIDTH : first);
    if (whole > 0)
        tile((real *)sums, vectors * WIDTH, a, a_row, b, b_row, whole, WIDTH, 0, NULL);
    tile(out, out_row, a + whole * a_k, a_row, (const real *)ends, vectors * WIDTH, K - whole, first, add, whole > 0 ? sums : NULL);
}

/* One tile of so many rows, with a strip b (K, width), of which whole vectors may be read where there is `room`. */
INLINE void NAME(plain)(const NAME(plain_function) *whole, const NAME(plain_function) few[3][12], ptrdiff_t rows, real *out,
                        ptrdiff_t out_row, const real *a, ptrdiff_t a_row, ptrdiff_t a_k, const real *b, ptrdiff_t b_row,
                        ptrdiff_t width, int room, ptrdiff_t K, int add)
{
    const ptrdiff_t vectors = (width + WIDTH - 1) / WIDTH;
    const NAME(plain_function) tile = (vectors == 4 ? whole : few[vectors - 1])[rows - 1];
    if (room || width == vectors * WIDTH)
        tile(out, out_row, a, a_row, b, b_row, K, width - (vectors - 1) * WIDTH, add, NULL);
    else
        NAME(plain_part)(tile, out, out_row, a, a_row, a_k, b, b_row, width, K, add);
}

#if PLAIN_ROWS == 6
#define PLAIN_TABLES(stem)                                                                                             \
    static const NAME(plain_function) whole[] = {NAME(stem##_1x4), NAME(stem##_2x4), NAME(stem##_3x4),                 \
                                                 NAME(stem##_4x4), NAME(stem##_5x4), NAME(stem##_6x4)};                \
    PLAIN_FEW(stem)
#else
#define PLAIN_TABLES(stem)                                                                                             \
    static const NAME(plain_function) whole[] = {NAME(stem##_1x4), NAME(stem##_2x4), NAME(stem##_3x4)};                \
    PLAIN_FEW(stem)
#endif
#define PLAIN_FEW(stem)                                                                                                \
    static const NAME(plain_function) few[3][12] = {                                                                   \
        {NAME(stem##_1x1), NAME(stem##_2x1), NAME(stem##_3x1), [5] = NAME(stem##_6x1), [11] = NAME(stem##_12x1)},      \
        {NAME(stem##_1x2), NAME(stem##_2x2), NAME(stem##_3x2), [5] = NAME(stem##_6x2)},                                \
        {NAME(stem##_1x3), NAME(stem##_2x3), NAME(stem##_3x3), [5] = PLAIN_6x3(stem)}};

/* Of `outer`: terms of a chain, of which as many rows of b, in a strip, stay in the first level beside what a tile reads of a; and
   columns of a that each strip is multiplied by in turn, those of a tile or those of whole lines of the cache. */
#if REGISTERS == 32
#define CHAIN SIDE_ROWS
#define GROUP PLAIN_ROWS
#else
#define CHAIN (SIDE_ROWS / 2)
#define GROUP (ptrdiff_t)(192 / sizeof(real))
#endif

/* Rows from k_0 to k_1 of b (K, P), `b_row` elements apart, in strips [strip][K][STRIP], what the last one lacks not set; past the
   caches if `far`. A few strips by turns: they are written to pages of their own. */
static void NAME(strips)(void *out_, const void *b_, ptrdiff_t b_row, ptrdiff_t K, ptrdiff_t P, ptrdiff_t k_0, ptrdiff_t k_1, int far)
{
    for (ptrdiff_t p_0 = 0, p_1; p_0 < P; p_0 = p_1) {
        p_1 = P - p_0 < 8 * STRIP ? P : p_0 + 8 * STRIP;
        for (ptrdiff_t k = k_0; k < k_1; k++)
            for (ptrdiff_t p = p_0; p < p_1; p += STRIP) {
                real *out = (real *)out_ + p * K + k * STRIP;
                const real *b = (const real *)b_ + k * b_row + p;
                if (P - p < STRIP)
                    memcpy(out, b, (size_t)(P - p) * sizeof(real));
                else
                    UNROLL for (int v = 0; v < STRIP; v += WIDTH) {
                        if (far)
                            NAME(store_far)(out + v, NAME(load)(b + v));
                        else
                            NAME(store)(out + v, NAME(load)(b + v));
                    }
            }
    }
    if (far)
        NAME(fence)();
}

/* Rows of b that `outer` copies at a time, of n terms, or 0. Where tiles are small, strips save from two on. Where they are large,
   columns of a are copied with them, and that takes longer than it saves while a row of b is short, or it and one of a are less
   than a page together. */
static ptrdiff_t NAME(copies)(ptrdiff_t a_row, ptrdiff_t P, ptrdiff_t n)
{
    const ptrdiff_t item = sizeof(real);
    const int pays = REGISTERS == 32 ? P * item >= 1024 && (a_row + P) * item >= 4096 : P > STRIP && n >= 32;
    return !pays ? 0 : n < CHAIN ? n : CHAIN;
}

/* Columns of a tile of a (K, a_row), [K][TILE_STEP]. */
INLINE void NAME(copy_columns)(real *copy, const real *a, ptrdiff_t a_row, ptrdiff_t columns, ptrdiff_t K)
{
    for (ptrdiff_t k = 0; k < K; k++, a += a_row, copy += TILE_STEP) {
        __builtin_prefetch(a + 3 * STRIP_AHEAD * a_row, 0, 3);
        if (columns == PLAIN_ROWS)
            memcpy(copy, a, PLAIN_ROWS * sizeof(real));
        else
            memcpy(copy, a, (size_t)columns * sizeof(real));
    }
}

/* out (M, P) = a^T b, or += it, for a (n, M) and b (n, P), and of out the rows from m_0 to m_1: a weight matrix's gradient
   from n steps. Every sum is one chain over the n, or over CHAIN of them at a time, added at its end. Where that
   pays (`copies`), strips of b's are copied to `side`; and with 32 registers some columns of a. */
static void NAME(outer)(void *out_, ptrdiff_t out_row, const void *a_, ptrdiff_t a_row, const void *b_, ptrdiff_t b_row,
                        ptrdiff_t P, ptrdiff_t m_0, ptrdiff_t m_1, ptrdiff_t n, int add, void *side_, int strips)
{
    PLAIN_TABLES(outer)
    const int far = strips > 0 && NAME(copies)(a_row, P, n) && m_1 - m_0 > STRIP, copied = far && REGISTERS == 32;
    const ptrdiff_t most = far ? strips * STRIP : STRIP, a_k = copied ? TILE_STEP : a_row;
    real copy[REGISTERS == 32 ? CHAIN * TILE_STEP : 1], *out = out_, *side = side_;
    for (ptrdiff_t k_0 = 0, K; k_0 < n; k_0 += K, add = 1) {
        K = n - k_0 < CHAIN ? n - k_0 : CHAIN;
        for (ptrdiff_t j_0 = 0, columns; j_0 < P; j_0 += columns) {
            const real *a = (const real *)a_ + k_0 * a_row, *b = (const real *)b_ + k_0 * b_row + j_0;
            columns = P - j_0 < most ? P - j_0 : most;
            if (far)
                NAME(strips)(side, b, b_row, K, columns, 0, K, 0);
            for (ptrdiff_t m = m_0, rows; m < m_1; m += rows) {
                rows = !far ? NAME(plain_rows)(m_1 - m, columns) : m_1 - m < GROUP ? m_1 - m : GROUP;
                if (copied)
                    NAME(copy_columns)(copy, a + m, a_row, rows, K);
                for (ptrdiff_t j = 0, width; j < columns; j += STRIP) {
                    width = columns - j < STRIP ? columns - j : STRIP;
                    for (ptrdiff_t r = 0, count; r < rows; r += count) {
                        count = NAME(plain_rows)(rows - r, width);
                        NAME(plain)(whole, few, count, out + (m + r) * out_row + j_0 + j, out_row,
                                    copied ? copy + r : a + m + r, a_k, a_k,
                                    far ? side + j * K : b + j, far ? STRIP : b_row, width, far, K, add);
                    }
                }
            }
        }
    }
}

/* One row and two strips, `apart` from each other: as many sums as a core has products at work at a time. */
static __attribute__((noinline)) void NAME(inner_pair)(real *out, const real *a, const real *b, ptrdiff_t b_row, ptrdiff_t apart,
                                                       ptrdiff_t K, int add)
{
    V sum[8];
    UNROLL for (int v = 0; v < 8; v++)
        sum[v] = ALL(0);
    if (K < 1)
        __builtin_unreachable();
    UNROLL_PLAIN
    for (ptrdiff_t k = 0; k < K; k++, b += b_row) {
        NAME(add_term)(1, 4, sum, a + k, 0, b, ABREAST * WIDTH);
        NAME(add_term)(1, 4, sum + 4, a + k, 0, b + apart, ABREAST * WIDTH);
    }
    UNROLL for (int v = 0; v < 8; v++)
        NAME(store)(out + v * WIDTH, add ? NAME(load)(out + v * WIDTH) + sum[v] : sum[v]);
}

/* out (n, P) = a (n, K) b (K, P), or += it, and of out the columns from p_0 to p_1: the gradient of x, or of h. A strip of b
   begins b_step elements after the one before. Every sum is one chain over the K, or over PART of them at a time. */
static void NAME(inner)(void *out_, ptrdiff_t out_row, const void *a_, ptrdiff_t a_row, const void *b_, ptrdiff_t b_row,
                        ptrdiff_t b_step, ptrdiff_t p_0, ptrdiff_t p_1, ptrdiff_t n, ptrdiff_t K, int add, int backwards)
{
    PLAIN_TABLES(inner)
    const real *a = a_, *b = b_;
    real *out = out_;
    const ptrdiff_t step = K * out_row >= LARGE ? PART : K, first = p_0 / STRIP;
    const ptrdiff_t strips = p_0 < p_1 ? (p_1 + STRIP - 1) / STRIP - first : 0; /* a member may have no columns */
    for (ptrdiff_t k = 0; k < K; k += step)
        for (ptrdiff_t s = 0; s < strips; s++) {
            const ptrdiff_t at = first + (backwards ? strips - 1 - s : s);
            const ptrdiff_t j = at * STRIP > p_0 ? at * STRIP : p_0, end = (at + 1) * STRIP < p_1 ? (at + 1) * STRIP : p_1;
            const ptrdiff_t pair = backwards ? at - 1 : at; /* this strip and the next one */
            if (n == 1 && s + 1 < strips && pair * STRIP >= p_0 && (pair + 2) * STRIP <= p_1) {
                NAME(inner_pair)(out + pair * STRIP, a + k, b + pair * b_step + k * b_row, b_row, b_step,
                                 K - k < step ? K - k : step, add || k);
                s++;
                continue;
            }
            for (ptrdiff_t r = 0, rows; r < n; r += rows) {
                rows = NAME(plain_rows)(n - r, end - j);
                NAME(plain)(whole, few, rows, out + r * out_row + j, out_row, a + r * a_row + k, a_row, 1,
                            b + at * b_step + k * b_row + j - at * STRIP, b_row, end - j, b_step > STRIP && j % WIDTH == 0,
                            K - k < step ? K - k : step, add || k);
            }
        }
}

static void NAME(add_rows)(void *out_, ptrdiff_t out_row, const void *a_, ptrdiff_t a_row, ptrdiff_t n, ptrdiff_t m)
{
    real *out = out_;
    const real *a = a_;
    for (; n > 0; n--, out += out_row, a += a_row)
        FOR_VECTORS(m, { STORE(out + j, LOAD(out + j) + LOAD(a + j)); });
}

/* A few rows at a time: fewer passes over the sums. */
static void NAME(sum_rows)(void *out_, const void *a_, ptrdiff_t a_row, ptrdiff_t n, ptrdiff_t m)
{
    real *out = out_;
    const real *a = a_;
    FOR_VECTORS(m, { STORE(out + j, ALL(0)); });
    for (; n >= 4; n -= 4, a += 4 * a_row)
        FOR_VECTORS(m, {
            const real *p = a + j;
            STORE(out + j, LOAD(out + j) + LOAD(p) + LOAD(p + a_row) + LOAD(p + 2 * a_row) + LOAD(p + 3 * a_row));
        });
    NAME(add_rows)(out, 0, a, a_row, n, m);
}

/* A few of b's rows at a time: sums that do not wait for each other. */
INLINE void NAME(dots_of)(const int ROWS, real *out, const real *a, const real *b, ptrdiff_t K)
{
    V sum[4];
    UNROLL for (int r = 0; r < ROWS; r++)
        sum[r] = ALL(0);
    FOR_VECTORS(K, {
        V a_j = LOAD(a + j);
        UNROLL for (int r = 0; r < ROWS; r++)
            sum[r] = FMA(a_j, LOAD(b + r * K + j), sum[r]);
    });
    for (int r = 0; r < ROWS; r++)
        out[r] = NAME(sum_of)(sum[r]);
}

static void NAME(dots)(void *out_, const void *a_, const void *b_, ptrdiff_t n, ptrdiff_t K)
{
    real *out = out_;
    const real *a = a_, *b = b_;
    for (; n >= 4; n -= 4, out += 4, b += 4 * K)
        NAME(dots_of)(4, out, a, b, K);
    for (; n > 0; n--, out++, b += K)
        NAME(dots_of)(1, out, a, b, K);
}
#undef PLAIN_ROWS
#undef STRIP_AHEAD
#undef TILE_STEP
#undef STRIP
#undef CHAIN
#undef GROUP
#undef LARGE
#undef PART
#undef PLAIN_TABLES
#undef PLAIN_FEW
#undef PLAIN_6x3

