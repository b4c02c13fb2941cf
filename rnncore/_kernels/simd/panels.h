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

/* --- a step's sums ---------------------------------------------------------------------------------------------- */

/* Panels times rows whose sums are formed before the cell's functions are applied to them: several panels where there
   are few rows. */
#define BATCH (2 * TILE_ROWS)

/* Vectors of a batch of n rows, unless fewer are left */
INLINE ptrdiff_t NAME(batch)(ptrdiff_t n)
{
    return n <= TILE_ROWS ? BATCH / (unsigned)n * 4 : 4;
}

/* Panels of so many vectors, and the vector that the p-th begins with */
INLINE ptrdiff_t NAME(panels)(ptrdiff_t vectors)
{
    return vectors / 4 + (vectors & 3) / 2 + (vectors & 1);
}

INLINE ptrdiff_t NAME(panel_start)(ptrdiff_t vectors, ptrdiff_t p)
{
    return p <= vectors / 4 ? 4 * p : vectors / 4 * 4 + 2;
}

/* The panel that begins with vector `next`, if tiles are to fetch it. With 16 registers a single tile, which itself reads each
   panel from far, would wait for both, unless they come from memory. */
INLINE const real *NAME(ahead)(const struct panel_step *s, const real *panels, ptrdiff_t next, ptrdiff_t K)
{
    return next < 0 || (REGISTERS == 16 && s->n <= TILE_ROWS && !s->far) ? NULL : panels + next * WIDTH * K;
}

/* How many terms of h_before `begin` has added to the panel at vector `at`. */
INLINE ptrdiff_t NAME(begun)(const struct panel_step *s, ptrdiff_t at)
{
    return at >= s->begun_0 && at < s->begun_1 ? s->begun : 0;
}

/* Terms of sums over one panel of `vectors`, the at-th of all, for the rows from r on: those of x, and those of h_before from the k-th
   on. `next` is the panel whose weights are fetched meanwhile, or negative. */
INLINE struct NAME(terms) NAME(terms_x)(const struct panel_step *s, ptrdiff_t r, ptrdiff_t at, ptrdiff_t vectors, ptrdiff_t next)
{
    const real *panels = s->panels_ih;
    return NAME(terms_of)((const real *)s->x + r * s->I, s->I, s->I, 0, panels + at * WIDTH * s->I, vectors,
                          NAME(ahead)(s, panels, next, s->I));
}

INLINE struct NAME(terms) NAME(terms_h)(const struct panel_step *s, ptrdiff_t r, ptrdiff_t k, ptrdiff_t at, ptrdiff_t vectors,
                                        ptrdiff_t next)
{
    const real *panels = s->panels;
    return NAME(terms_of)((const real *)s->h_before + r * s->K, s->K, s->K, k, panels + at * WIDTH * s->K, vectors,
                          NAME(ahead)(s, panels, next, s->K));
}

/* Sums over one panel for `rows` rows from r on: z, or bias + x W^T if the step has x, and then + h_before U^T if `recurrent`.
   With 32 registers those of both are one tile's. */
INLINE void NAME(panel_sums)(const struct panel_step *s, const int recurrent, real *out, ptrdiff_t r, ptrdiff_t rows,
                             ptrdiff_t at, ptrdiff_t vectors, ptrdiff_t next, ptrdiff_t tile)
{
    const real *z = out;
    if (s->x) {
        struct NAME(terms) more;
        const int both = REGISTERS == 32 && recurrent;
        if (both)
            more = NAME(terms_h)(s, r, 0, at, vectors, next);
        NAME(tile)(rows, vectors, out, (const real *)s->bias + at * WIDTH, 0, NAME(terms_x)(s, r, at, vectors, next),
                   both ? &more : NULL, s->n, tile);
        if (both)
            return;
    } else {
        z = (const real *)s->z + (at * s->rows + (s->row + r) * vectors) * WIDTH;
        if (REGISTERS == 16 && next >= 0 && vectors == 4)
            NAME(fetch)((const real *)s->z + (next * s->rows + (s->row + r) * 4) * WIDTH, rows * 4 * WIDTH);
    }
    if (recurrent)
        NAME(tile)(rows, vectors, out, z, vectors * WIDTH, NAME(terms_h)(s, r, NAME(begun)(s, at), at, vectors, next), NULL, s->n,
                   tile);
}

/* The same for one row, and the panel behind as well, both of 4 vectors. */
INLINE void NAME(pair_sums)(const struct panel_step *s, real *out, ptrdiff_t r, ptrdiff_t at)
{
    const struct NAME(terms) h = NAME(terms_h)(s, r, NAME(begun)(s, at), at, 4, -1);
    const real *z = out;
    ptrdiff_t apart = 4 * WIDTH;
    if (s->x) {
        const struct NAME(terms) x = NAME(terms_x)(s, r, at, 4, -1);
        NAME(tile_pair)(out, (const real *)s->bias + at * WIDTH, apart, &x);
    } else {
        z = (const real *)s->z + (at * s->rows + (s->row + r) * 4) * WIDTH;
        apart *= s->rows;
    }
    NAME(tile_pair)(out, z, apart, &h);
}

/* The same for one row and the last panels from vector `at` on, one of 4 vectors perhaps and `left` that are fewer: one after the
   other each would wait for its chain. First of x, if the step has it, then of h. */
INLINE void NAME(last_sums)(const struct panel_step *s, real *out, ptrdiff_t r, ptrdiff_t at, ptrdiff_t fours, ptrdiff_t left)
{
    static const NAME(parts_function) with_four[3] = {NAME(parts_4_1_0), NAME(parts_4_2_0), NAME(parts_4_2_1)};
    for (int of_x = s->x != NULL; of_x >= 0; of_x--) {
        const ptrdiff_t K = of_x ? s->I : s->K, k = of_x ? 0 : NAME(begun)(s, at);
        const real *a = (const real *)(of_x ? s->x : s->h_before) + r * K, *panels = of_x ? s->panels_ih : s->panels;
        struct NAME(part) parts[3];
        for (ptrdiff_t v = at, count, p = 0; v < at + 4 * fours + left; v += count, p++) {
            count = NAME(panel_vectors)(at + 4 * fours + left - v);
            parts[p].panel = panels + (v * K + k * (count < ABREAST ? count : ABREAST)) * WIDTH;
            parts[p].out = out + (v - at) * WIDTH;
            parts[p].init = of_x   ? (const real *)s->bias + v * WIDTH
                            : s->x ? parts[p].out
                                   : (const real *)s->z + (v * s->rows + (s->row + r) * count) * WIDTH;
        }
        (fours ? with_four[left - 1] : NAME(parts_2_1_0))(parts, a + k, K - k, ABREAST * WIDTH * K);
    }
}

/* z += the first `begun` terms of h_before: the step of the same rows goes on from there. The last panel's sums are the
   time to fetch the other terms, which another member may have written by now. */
static void NAME(begin)(const struct panel_step *s, ptrdiff_t gates, ptrdiff_t sums)
{
    for (ptrdiff_t v = s->v_0, count; v < s->v_1; v += count) {
        count = NAME(panel_vectors)(s->v_1 - v);
        for (ptrdiff_t at = v * gates; at < v * gates + count * sums; at += count)
            for (ptrdiff_t r = 0, rows; r < s->n; r += rows) {
                rows = NAME(tile_rows)(s->n - r);
                if (v + count == s->v_1 && rows * (s->K - s->begun) <= SMALL_BYTES / (ptrdiff_t)sizeof(real))
                    for (ptrdiff_t q = r; q < r + rows; q++)
                        NAME(fetch)((const real *)s->h_before + q * s->K + s->begun, s->K - s->begun);
                real *z = (real *)s->z + (at * s->rows + (s->row + r) * count) * WIDTH;
                struct NAME(terms) terms = NAME(terms_h)(s, r, 0, at, count, -1);
                terms.K = s->begun;
                NAME(tile)(rows, count, z, z, count * WIDTH, terms, NULL, s->n, 0);
            }
    }
}

/* Fetch what comes from far while the sums of `rows` rows from r on are formed: the next tile's rows of x, at the first
   batch of vectors, and those of y for the cell to write, from unit u on as many as the batch has; and from the other
   members' caches what they have written of h_before, or it would come a line after the other, and what they have read of
   h, or it would go only when it is written. */
INLINE void NAME(fetch_rows)(const struct panel_step *s, ptrdiff_t r, ptrdiff_t rows, int first, ptrdiff_t u,
                             ptrdiff_t units)
{
    if (s->panels && s->shared && first && rows * s->K <= SMALL_BYTES / (ptrdiff_t)sizeof(real))
        NAME(fetch)((const real *)s->h_before + r * s->K, rows * s->K);
    for (ptrdiff_t q = r; s->shared && q < r + rows; q++)
        for (ptrdiff_t j = u; j < u + units && j < s->H; j += 64 / sizeof(real))
            __builtin_prefetch((const real *)s->h + q * s->H + j, 1, 3);
    if (s->y && rows > 2)
        for (ptrdiff_t q = r; q < r + rows; q++)
            NAME(fetch)((const real *)s->y + q * s->y_stride + u, units < s->H - u ? units : s->H - u);
    if (s->x && first)
        NAME(fetch)((const real *)s->x + (r + rows) * s->I,
                    (s->n - r - rows < TILE_ROWS ? s->n - r - rows : TILE_ROWS) * s->I);
}

/* The sums of one row and a batch of vectors from v on: two panels of 4 at a time, and the last one with what is left. (The generic
   kernels are to be small.) */
static void NAME(recur_row)(const struct panel_step *s, real *sums, ptrdiff_t r, ptrdiff_t v, ptrdiff_t vectors)
{
    const ptrdiff_t pairs = vectors / 8, rest = vectors & 7, goes = pairs + (rest > 0);
    for (ptrdiff_t k = 0; k < goes; k++) {
        const ptrdiff_t first = 8 * (s->backwards ? goes - 1 - k : k), size = first < 8 * pairs ? 8 : rest, left = size & 3;
        const int alike = NAME(begun)(s, v + first) == NAME(begun)(s, v + first + size - 1);
        if (size == 8 && alike)
            NAME(pair_sums)(s, sums + first * WIDTH, r, v + first);
        else if (left && size > 2 && alike)
            NAME(last_sums)(s, sums + first * WIDTH, r, v + first, size / 4, left);
        else
            for (ptrdiff_t p = first, width; p < first + size; p += width) {
                width = NAME(panel_vectors)(first + size - p);
                NAME(panel_sums)(s, 1, sums + p * WIDTH, r, 1, v + p, width, -1, 0);
            }
    }
}

/* The sums of `rows` rows from r on, at most a tile's, and a batch of vectors from v on: each panel's sums
   [rows][vectors][WIDTH] after the other's. */
static inline void NAME(recur)(const struct panel_step *s, real *sums, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t v,
                               ptrdiff_t vectors, ptrdiff_t u, ptrdiff_t units)
{
    NAME(fetch_rows)(s, r, rows, v == (s->backwards ? s->v_1 - vectors : s->v_0), u, units);
    const ptrdiff_t count = NAME(panels)(vectors), tile = (r + TILE_ROWS - 1) / TILE_ROWS;
    if (VECTOR_BYTES > 16 && rows == 1 && s->panels) {
        NAME(recur_row)(s, sums, r, v, vectors);
        return;
    }
    for (ptrdiff_t k = 0; k < count; k++) {
        const ptrdiff_t p = NAME(panel_start)(vectors, s->backwards ? count - 1 - k : k);
        const ptrdiff_t width = NAME(panel_vectors)(vectors - p), next = v + p + (s->backwards ? -4 : 4);
        NAME(panel_sums)(s, s->panels != NULL, sums + p * rows * WIDTH, r, rows, v + p, width,
                         next >= s->v_0 && next + 4 <= s->v_1 ? next : -1, tile);
    }
}

/* A cell's function of four sums, and where h and y take it. Vectors as arguments are in registers. */
typedef void (*NAME(four_function))(real *h, real *y, V a_0, V a_1, V a_2, V a_3);

/* Whether a step's sums can stay in registers until that function: those of one row and of one or two whole panels, which begin with
   as many terms. With 16 registers those of x and of h are two tiles'. The generic kernels are to be small. */
INLINE int NAME(in_registers)(const struct panel_step *s)
{
    const ptrdiff_t vectors = s->v_1 - s->v_0;
    return VECTOR_BYTES > 16 && s->n == 1 && (vectors == 4 || vectors == 8) && s->panels && s->H >= s->v_1 * WIDTH &&
           (REGISTERS == 32 || !s->x) && NAME(begun)(s, s->v_0) == NAME(begun)(s, s->v_1 - 4);
}

/* Such a step; of two panels, the first one's sums wait in memory for the second one's function. */
static __attribute__((noinline)) void NAME(register_step)(const struct panel_step *s, NAME(four_function) four)
{
    const ptrdiff_t at = s->v_0;
    const struct NAME(terms) h = NAME(terms_h)(s, 0, NAME(begun)(s, at), at, 4, -1),
                             x = s->x ? NAME(terms_x)(s, 0, at, 4, -1) : h, *more = s->x ? &h : NULL;
    const real *init = s->x ? (const real *)s->bias + at * WIDTH : (const real *)s->z + (at * s->rows + s->row * 4) * WIDTH;
    real *to = (real *)s->h + at * WIDTH, *y = s->y ? (real *)s->y + at * WIDTH : to;
    V a[8];
    if (s->v_1 - at == 4) {
        NAME(sums_of)(1, 4, 4, 0, 0, a, init, 0, x, more);
    } else {
        NAME(sums_of)(1, 8, 8, 0, 0, a, init, s->x ? 4 * WIDTH : s->rows * 4 * WIDTH, x, more);
        four(to + 4 * WIDTH, y + 4 * WIDTH, a[4], a[5], a[6], a[7]);
    }
    four(to, y, a[0], a[1], a[2], a[3]);
}

/* Run the statements for every batch of a step, `vectors` from v on, and its rows, `rows` from r on, with `sums`. */
#define FOR_BATCHES(s, SUMS, SIZE, ...)                                                                                \
    do {                                                                                                               \
        real sums[(SUMS) * WIDTH] __attribute__((aligned(64)));                                                        \
        const ptrdiff_t size = SIZE, all_ = (s)->v_1 - (s)->v_0, batches = all_ <= size ? 1 : (all_ + size - 1) / size; \
        for (ptrdiff_t b = 0; b < batches; b++) {                                                                      \
            const ptrdiff_t v = (s)->v_0 + ((s)->backwards ? batches - 1 - b : b) * size;                              \
            const ptrdiff_t vectors = (s)->v_1 - v < size ? (s)->v_1 - v : size;                                       \
            for (ptrdiff_t r = 0, rows; r < (s)->n; r += rows) {                                                       \
                rows = NAME(tile_rows)((s)->n - r);                                                                    \
                __VA_ARGS__                                                                                            \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

/* The next step of the same rows. */
INLINE void NAME(next_step)(struct panel_step *s)
{
    real *h = s->h, *c = s->c, *h_before = (real *)s->h_before, *c_before = (real *)s->c_before;
    const ptrdiff_t state = s->apart * s->H;
    s->h = s->kept ? h + state : h_before;
    s->h_before = h;
    if (c) {
        s->c = s->kept ? c + state : c_before;
        s->c_before = c;
    }
    if (s->x)
        s->x = (const real *)s->x + s->apart * s->I;
    if (s->y)
        s->y = (real *)s->y + s->apart * s->y_stride;
    if (s->gates)
        s->gates = (real *)s->gates + 4 * state;
    s->row += s->apart > 0 ? s->n : -s->n;
    s->backwards = !s->backwards;
}

/* All steps that `all` asks for, from a function of one. */
static __attribute__((noinline)) void NAME(take_steps)(const struct panel_step *all, panel_step_function one)
{
    struct panel_step s = *all;
    for (one(&s); --s.steps > 0; one(&s))
        NAME(next_step)(&s);
}

#define STEPS(stem)                                                                                                    \
    static void NAME(stem)(const struct panel_step *all)                                                               \
    {                                                                                                                  \
        if (all->steps > 1)                                                                                            \
            NAME(take_steps)(all, NAME(one_##stem));                                                                   \
        else                                                                                                           \
            NAME(one_##stem)(all);                                                                                     \
    }
