/* Packed products: the rows of a weight matrix in vectors of WIDTH rows, and a kernel that multiplies a few sequences by
   a few vectors with all sums in registers.

   A *panel* is 4, 2 or 1 neighbouring vectors over all K terms, stored [K][vectors][WIDTH], so that one step over k
   reads it from front to back; where there are but 16 registers, ABREAST vectors are side by side, and a panel of 4 is two
   such halves, one behind the other. Panels follow each other: 4 vectors as long as that many are left, then 2, then 1. A GRU's
   matrix has three gates' panels side by side: a *block* is those of the same 4, 2 or 1 vectors, and blocks follow each
   other. (An LSTM's vectors are its gates' by turns: four of the same units make a panel.) Sums of R rows over a panel are
   stored [R][vectors][WIDTH]. */

/* What is added to a tile's sums: K terms of a's rows times as many of a panel, whose halves are `half` elements apart. Meanwhile
   FETCH vectors a term, if the tile is of all four of a panel, are fetched from `ahead` into the second-level cache: weights that do
   not fit there arrive while the ones before them are at work. With 16 registers, where instructions count, a line at a time: those
   of the next panel where this tile reads its own. */
struct NAME(terms) {
    const real *a, *panel, *ahead;
    ptrdiff_t a_row, K, half;
};

/* sum[r][v] = init[r][v] + sum over k of a[r][k] panel[k][v], for ROWS rows and VECTORS of a panel's STRIDE vectors, from the at-th
   on, all but that constants. The sums are registers; with 32 of them they stay there for `more` terms, unless NULL. One row may be
   multiplied by two whole panels, 8 vectors: then init_row is what is between theirs. */
INLINE void NAME(sums_of)(const int ROWS, const int VECTORS, const int STRIDE, const int FETCH, int at, V *sum,
                          const real *init, ptrdiff_t init_row, struct NAME(terms) terms, const struct NAME(terms) *more)
{
    const int step = STRIDE < ABREAST ? STRIDE : ABREAST, AHEAD = FETCH * VECTORS / 4;
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++)
            sum[r * VECTORS + v] = NAME(load)(init + (r + v / 4) * init_row + (at + v % 4) * WIDTH);
    for (;; terms = *more, more = NULL) {
        const real *a = terms.a, *panel = terms.panel + (ABREAST < STRIDE && at ? terms.half : at * WIDTH), *ahead = terms.ahead;
        if (AHEAD)
            ahead += REGISTERS == 32 ? at * WIDTH * FETCH / 4 * terms.K : at ? terms.half : 0;
        if (terms.K < 1)
            __builtin_unreachable(); /* or the sums of no terms at all would be kept in memory beside the others */
        UNROLL_TERMS /* less to do beside the products, where two start in a cycle */
        for (ptrdiff_t k = 0; k < terms.K; k++, panel += step * WIDTH) {
            if (REGISTERS == 32)
                UNROLL for (int v = 0; v < AHEAD; v++)
                    __builtin_prefetch(ahead + (k * AHEAD + v) * WIDTH, 0, 2);
            else
                UNROLL for (int v = 0; v < AHEAD; v += ABREAST)
                    __builtin_prefetch(ahead + v / ABREAST * terms.half + k * step * WIDTH, 0, 2);
            NAME(add_term)(ROWS, VECTORS, sum, a + k, terms.a_row, panel, terms.half);
        }
        if (REGISTERS == 16 || !more)
            break;
    }
}

/* The same, stored: out[r][v] */
INLINE void NAME(tile_of)(const int ROWS, const int VECTORS, const int STRIDE, const int FETCH, int at, real *out,
                          const real *init, ptrdiff_t init_row, struct NAME(terms) terms, const struct NAME(terms) *more)
{
    V sum[24];
    NAME(sums_of)(ROWS, VECTORS, STRIDE, FETCH, at, sum, init, init_row, terms, more);
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++)
            NAME(store)(out + (r * STRIDE + at + v) * WIDTH, sum[r * VECTORS + v]);
}

/* Of a whole panel; or, where that takes too many registers, of one half after the other. Functions of their own: those
   that share one share their stores, and get there through memory. */
#define TILE(ROWS, VECTORS, FETCH, TAIL)                                                                               \
    static __attribute__((noinline)) void NAME(tile_##ROWS##x##VECTORS##TAIL)(                                         \
        real *out, const real *init, ptrdiff_t init_row, const real *a, ptrdiff_t a_row, ptrdiff_t K,                  \
        const real *panel, ptrdiff_t half, const real *ahead, const struct NAME(terms) *more)                          \
    {                                                                                                                  \
        enum { AT_ONCE = (ROWS) * (VECTORS) > (REGISTERS == 32 ? 24 : 12) ? (VECTORS) / 2 : (VECTORS) };               \
        for (int at = 0; at < (VECTORS); at += AT_ONCE) {                                                              \
            if (AT_ONCE < (VECTORS))                                                                                   \
                __asm__("" : "+r"(at)); /* or there would be a copy of it all for each half */                         \
            NAME(tile_of)(ROWS, AT_ONCE, VECTORS, FETCH, at, out, init, init_row,                                      \
                          (struct NAME(terms)){a, panel, ahead, a_row, K, half}, more);                                \
        }                                                                                                              \
    }
#define TILES(ROWS) TILE(ROWS, 1, 0, ) TILE(ROWS, 2, 0, ) TILE(ROWS, 4, 0, )
TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
#if REGISTERS == 32
TILES(7) TILES(8)
TILE(4, 4, 2, _half) TILE(5, 4, 2, _half) TILE(6, 4, 2, _half)
TILE(7, 4, 4, _whole) TILE(8, 4, 4, _whole)
TILE(4, 4, 1, _quarter) TILE(5, 4, 1, _quarter) TILE(6, 4, 1, _quarter)
#elif VECTOR_BYTES == 32
TILE(2, 4, 4, _whole) TILE(3, 4, 4, _whole) TILE(4, 4, 4, _whole) TILE(5, 4, 4, _whole) TILE(6, 4, 4, _whole)
#endif
#undef TILE
#undef TILES

/* One row and two whole panels: a chain of sums takes four cycles a term, in which a core can do eight. */
static __attribute__((noinline)) void NAME(tile_pair)(real *out, const real *init, ptrdiff_t apart, const struct NAME(terms) *terms)
{
    NAME(tile_of)(1, 8, 8, 0, 0, out, init, apart, *terms, NULL);
}

/* One row and up to three panels of fewer vectors, or of 4 and fewer: where each is, the sums begin, and they go. */
struct NAME(part) {
    const real *panel, *init;
    real *out;
};

INLINE void NAME(add_part)(const int VECTORS, V *sum, V a_k, const real **panel, ptrdiff_t half)
{
    UNROLL for (int v = 0; v < VECTORS; v++)
        sum[v] = FMA(a_k, NAME(load)(*panel + v / ABREAST * half + v % ABREAST * WIDTH), sum[v]);
    *panel += (VECTORS < ABREAST ? VECTORS : ABREAST) * WIDTH;
}

INLINE void NAME(parts_of)(const int A, const int B, const int C, const struct NAME(part) *parts, const real *a, ptrdiff_t K,
                           ptrdiff_t half)
{
    const real *panel[3] = {parts[0].panel, parts[1].panel, C ? parts[2].panel : NULL};
    V sum[8];
    UNROLL for (int v = 0; v < A; v++)
        sum[v] = NAME(load)(parts[0].init + v * WIDTH);
    UNROLL for (int v = 0; v < B; v++)
        sum[A + v] = NAME(load)(parts[1].init + v * WIDTH);
    UNROLL for (int v = 0; v < C; v++)
        sum[A + B + v] = NAME(load)(parts[2].init + v * WIDTH);
    if (K < 1)
        __builtin_unreachable();
    UNROLL_TERMS
    for (ptrdiff_t k = 0; k < K; k++) {
        V a_k = ALL(a[k]);
        KEEP(a_k);
        NAME(add_part)(A, sum, a_k, &panel[0], half);
        NAME(add_part)(B, sum + A, a_k, &panel[1], half);
        NAME(add_part)(C, sum + A + B, a_k, &panel[2], half);
    }
    UNROLL for (int v = 0; v < A; v++)
        NAME(store)(parts[0].out + v * WIDTH, sum[v]);
    UNROLL for (int v = 0; v < B; v++)
        NAME(store)(parts[1].out + v * WIDTH, sum[A + v]);
    UNROLL for (int v = 0; v < C; v++)
        NAME(store)(parts[2].out + v * WIDTH, sum[A + B + v]);
}

typedef void (*NAME(parts_function))(const struct NAME(part) *parts, const real *a, ptrdiff_t K, ptrdiff_t half);
#define PARTS(A, B, C)                                                                                                 \
    static void NAME(parts_##A##_##B##_##C)(const struct NAME(part) *parts, const real *a, ptrdiff_t K, ptrdiff_t half) \
    {                                                                                                                  \
        NAME(parts_of)(A, B, C, parts, a, K, half);                                                                    \
    }
PARTS(2, 1, 0) PARTS(4, 1, 0) PARTS(4, 2, 0) PARTS(4, 2, 1)
PARTS(1, 1, 1) PARTS(2, 2, 2)
#undef PARTS

typedef void (*NAME(tile_function))(real *out, const real *init, ptrdiff_t init_row, const real *a, ptrdiff_t a_row, ptrdiff_t K,
                                    const real *panel, ptrdiff_t half, const real *ahead, const struct NAME(terms) *more);

/* Terms from k on of the K of a panel of so many vectors */
INLINE struct NAME(terms) NAME(terms_of)(const real *a, ptrdiff_t a_row, ptrdiff_t K, ptrdiff_t k, const real *panel,
                                         ptrdiff_t vectors, const real *ahead)
{
    return (struct NAME(terms)){.a = a + k, .panel = panel + k * (vectors < ABREAST ? vectors : ABREAST) * WIDTH, .ahead = ahead,
                                .a_row = a_row, .K = K - k, .half = ABREAST * WIDTH * K};
}

/* The same for any 1 to LAST_ROWS rows, and any panel: the at-th tile of n rows. With 32 registers, if there is a panel `ahead`,
   tiles of 4 to 6 rows fetch that panel of 4 vectors between them, a quarter each, or where they are few a half; one of 7 or 8
   fetches all of it; smaller ones are too fast for it. More at once, and what this tile needs itself waits behind what comes from
   far. With 16, instructions are what takes longest, and the processor fetches what comes next of itself: halves are read from
   front to back. There that panel is fetched by the second of several tiles, which waits for nothing from far, unless it has so few
   rows that it is too fast for it; of a panel that stays in the first level, two tiles of 3 rows are faster than one of 6.
   With 32 registers there may be `more` terms, whose `ahead` moves to this tile's share. */
INLINE void NAME(tile)(ptrdiff_t rows, ptrdiff_t vectors, real *out, const real *init, ptrdiff_t init_row,
                       struct NAME(terms) t, struct NAME(terms) *more, ptrdiff_t n, ptrdiff_t at)
{
#define TILES(ROWS) {NAME(tile_##ROWS##x1), NAME(tile_##ROWS##x2), NAME(tile_##ROWS##x4)}
    static const NAME(tile_function) tiles[LAST_ROWS][3] = {
        TILES(1), TILES(2), TILES(3), TILES(4), TILES(5), TILES(6),
#if REGISTERS == 32
        TILES(7), TILES(8),
#endif
    };
#undef TILES
    NAME(tile_function) f = tiles[rows - 1][vectors / 2];
#if REGISTERS == 32
    static const NAME(tile_function) whole[2] = {NAME(tile_7x4_whole), NAME(tile_8x4_whole)},
                                     part[2][3] = {{NAME(tile_4x4_half), NAME(tile_5x4_half), NAME(tile_6x4_half)},
                                                   {NAME(tile_4x4_quarter), NAME(tile_5x4_quarter), NAME(tile_6x4_quarter)}};
    const int parts = n > 3 * TILE_ROWS ? 4 : 2, fetches = t.ahead && vectors == 4 && n > TILE_ROWS;
    if (fetches && rows > TILE_ROWS && at == 0)
        f = whole[rows - 7];
    else if (fetches && rows >= 4 && rows <= TILE_ROWS && at < parts) {
        f = part[parts == 4][rows - 4];
        t.ahead += at * t.K * (4 / parts) * WIDTH;
        if (more)
            more->ahead += at * more->K * (4 / parts) * WIDTH;
    }
#else
    const int small = t.half * 4 / ABREAST * (ptrdiff_t)sizeof(real) <= SMALL_BYTES;
#if VECTOR_BYTES == 32
    static const NAME(tile_function) whole[5] = {NAME(tile_2x4_whole), NAME(tile_3x4_whole), NAME(tile_4x4_whole),
                                                 NAME(tile_5x4_whole), NAME(tile_6x4_whole)};
    if (t.ahead && !small && vectors == 4 && rows > 1 && (n <= TILE_ROWS || (at == 1 && rows > 3)))
        f = whole[rows - 2];
#else
    (void)n, (void)at;
#endif
    if (rows > 4 && vectors == 4 && small) {
        tiles[2][2](out, init, init_row, t.a, t.a_row, t.K, t.panel, t.half, NULL, NULL);
        f = tiles[rows - 4][2], out += 3 * 4 * WIDTH, init += 3 * init_row, t.a += 3 * t.a_row;
    }
#endif
    f(out, init, init_row, t.a, t.a_row, t.K, t.panel, t.half, t.ahead, more);
}

/* Vectors of the panel that begins where `left` are left. */
INLINE ptrdiff_t NAME(panel_vectors)(ptrdiff_t left)
{
    return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Rows of the next tile where `left` are left: tiles as equal as can be. With 16 registers as many of 6 as there are, as tiles of
   2, 3 and 6 rows have the fewest instructions for their products. */
INLINE ptrdiff_t NAME(tile_rows)(ptrdiff_t left)
{
    if (left <= LAST_ROWS)
        return left; /* divisions take as long as a small step's other work */
#if REGISTERS == 16
    return left == TILE_ROWS + 1 ? 4 : TILE_ROWS;
#else
    ptrdiff_t tiles = (left + TILE_ROWS - 1) / TILE_ROWS;
    return (left + tiles - 1) / tiles;
#endif
}

/* Fetch n elements into the first-level cache. */
INLINE void NAME(fetch)(const real *a, ptrdiff_t n)
{
    const ptrdiff_t line = 64 / sizeof(real);
    for (ptrdiff_t k = 0; k < n; k += line)
        __builtin_prefetch(a + k, 0, 3);
}

/* z = bias + a W^T: the sums of each panel over all n rows, one panel after the other. */
static void NAME(project)(void *z_, const void *bias_, const void *a_, const void *panels_, ptrdiff_t gates, ptrdiff_t K,
                          ptrdiff_t v_0, ptrdiff_t v_1, ptrdiff_t n, ptrdiff_t row, ptrdiff_t rows)
{
    real *z = z_;
    const real *bias = bias_, *a = a_, *panels = panels_;
    for (ptrdiff_t v = v_0, count; v < v_1; v += count) {
        count = NAME(panel_vectors)(v_1 - v);
        for (ptrdiff_t at = v * gates; at < (v + count) * gates; at += count) {
            const real *panel = panels + at * WIDTH * K;
            for (ptrdiff_t r = 0, tile, k = 0; r < n; r += tile, k++) {
                tile = NAME(tile_rows)(n - r);
                if (at == v_0 * gates) /* a comes from far: the next tile's rows */
                    NAME(fetch)(a + (r + tile) * K, (n - r - tile < TILE_ROWS ? n - r - tile : TILE_ROWS) * K);
                struct NAME(terms) terms = NAME(terms_of)(
                    a + r * K, K, K, 0, panel, count, at + 8 <= v_1 * gates && n > TILE_ROWS ? panel + 4 * WIDTH * K : NULL);
                NAME(tile)(tile, count, z + (at * rows + (row + r) * count) * WIDTH, bias + at * WIDTH, 0, terms, NULL, n, k);
            }
        }
    }
}

/* One vector of a panel, out [K][step], from up to WIDTH rows of W (rows, K), `row` elements apart, each times the scale;
   the rest zero; past the caches if `far`, where a vector is a line. Square blocks are transposed in registers: as often as
   WIDTH can be halved, the vectors of the first half and those of the second are zipped. */
static void NAME(pack)(void *out_, const void *W_, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t K, ptrdiff_t step,
                       double scale, int far)
{
    real *out = out_;
    const real *W = W_;
    far = far && VECTOR_BYTES == 64;
    for (ptrdiff_t k_0 = 0; k_0 < K; k_0 += WIDTH, out += WIDTH * step) {
        const ptrdiff_t columns = K - k_0 < WIDTH ? K - k_0 : WIDTH;
        V block[WIDTH], zipped[WIDTH];
        if (rows >= WIDTH && columns == WIDTH)
            UNROLL for (int r = 0; r < WIDTH; r++)
                block[r] = NAME(scaled)(NAME(load)(W + r * row + k_0), scale);
        else
            for (int r = 0; r < WIDTH; r++)
                block[r] = r < rows ? NAME(scaled)(NAME(load_first)(W + r * row + k_0, columns), scale) : ALL(0);
        UNROLL for (int half = 1; half < WIDTH; half *= 2) {
            UNROLL for (int r = 0; r < WIDTH / 2; r++) {
                zipped[2 * r] = NAME(zip_first)(block[r], block[r + WIDTH / 2]);
                zipped[2 * r + 1] = NAME(zip_last)(block[r], block[r + WIDTH / 2]);
            }
            UNROLL for (int r = 0; r < WIDTH; r++)
                block[r] = zipped[r];
        }
        if (columns == WIDTH && far)
            UNROLL for (int k = 0; k < WIDTH; k++)
                NAME(store_far)(out + k * step, block[k]);
        else if (columns == WIDTH)
            UNROLL for (int k = 0; k < WIDTH; k++)
                NAME(store)(out + k * step, block[k]);
        else
            for (ptrdiff_t k = 0; k < columns; k++)
                NAME(store)(out + k * step, block[k]);
    }
    if (far)
        NAME(fence)();
}
