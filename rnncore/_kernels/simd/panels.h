/* Packed products: the rows of a weight matrix in vectors of WIDTH rows, and a kernel that multiplies a few sequences by
   a few vectors with all sums in registers.

   A *panel* is 4, 2 or 1 neighbouring vectors over all K terms, stored [K][vectors][WIDTH], so that one step over k
   reads it from front to back; where there are but 16 registers, ABREAST vectors are side by side, and a panel of 4 is two
   such halves, one behind the other. Panels follow each other: 4 vectors as long as that many are left, then 2, then 1. A GRU's
   matrix has three gates' panels side by side: a *block* is those of the same 4, 2 or 1 vectors, and blocks follow each
   other. (An LSTM's vectors are its gates' by turns: four of the same units make a panel.) Sums of R rows over a panel are
   stored [R][vectors][WIDTH].

   Every sum is one chain, init + a_0 w_0 + a_1 w_1 + ..., rounded once per term where there is FMA, in this order for
   every tile: a sequence's numbers depend neither on the rows beside it nor on where the work was cut. */

#define TILE_ROWS 6 /* of the largest tile of several */

/* With 32 registers a tile of 6 rows takes all 4 vectors of a panel at once. With 16, one of more than 3 rows takes them
   in two halves: as many sums as there are registers, less those for operands, and more rows for each time a panel is
   read. For that reason, with 32, up to 8 rows are one tile of two halves if they are all there are: two tiles would read
   panels twice, and those that the first level does not hold come slower than the sums of 4 rows take them. */
#if VECTOR_BYTES == 64 || defined(__aarch64__)
#define REGISTERS 32
#define LAST_ROWS 8 /* that are left at the end, and one tile */
#else
#define REGISTERS 16
#define LAST_ROWS TILE_ROWS
#endif

/* Terms in a turn of a loop: the more, the fewer instructions beside the products. AVX2 has the most beside few products; the
   generic kernels, which few run, are to be small. */
#if VECTOR_BYTES == 32
#define UNROLL_TERMS _Pragma("GCC unroll 4")
#define UNROLL_PLAIN _Pragma("GCC unroll 4")
#else
#define UNROLL_TERMS _Pragma("GCC unroll 2")
#define UNROLL_PLAIN
#endif
enum { NAME(abreast) = REGISTERS == 32 ? 4 : 2 };
#define ABREAST NAME(abreast)

/* Keep a vector in a register: where the compiler would rather load it once for each use, loads are what takes longest. */
#if defined(__x86_64__)
#define KEEP(v) __asm__("" : "+v"(v))
#elif defined(__aarch64__)
#define KEEP(v) __asm__("" : "+w"(v))
#else
#define KEEP(v) ((void)0)
#endif

/* out[r][v] = init[r][v] + sum over k of a[r][k] panel[k][v], for ROWS rows and VECTORS of a panel's STRIDE vectors, all
   constants: the sums are registers. A half of the panel has `half` elements. Meanwhile as many bytes as AHEAD vectors a term have
   are fetched from `ahead` into the second-level cache: weights that do not fit there arrive while the ones before them are at
   work. With 16 registers, where instructions count, a line at a time: those of the next panel where this tile reads its own. */
INLINE void NAME(tile_of)(const int ROWS, const int VECTORS, const int STRIDE, const int AHEAD, real *out,
                          const real *init, ptrdiff_t init_row, const real *a, ptrdiff_t a_row, ptrdiff_t K,
                          const real *panel, ptrdiff_t half, const real *ahead)
{
    const int step = STRIDE < ABREAST ? STRIDE : ABREAST;
    V sum[24], w[4], of_k[4];
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++)
            sum[r * VECTORS + v] = NAME(load)(init + r * init_row + v * WIDTH);
    if (K < 1)
        __builtin_unreachable(); /* or the sums of no terms at all would be kept in memory beside the others */
    UNROLL_TERMS /* less to do beside the products, where two start in a cycle */
    for (ptrdiff_t k = 0; k < K; k++, panel += step * WIDTH) {
        UNROLL for (int v = 0; v < AHEAD; v += REGISTERS == 32 ? 1 : ABREAST)
            __builtin_prefetch(ahead + (REGISTERS == 32 ? (k * AHEAD + v) * WIDTH : v / ABREAST * half + k * step * WIDTH), 0, 2);
        if (REGISTERS == 16 && ROWS < VECTORS) { /* the fewer wait: all sums of 3 x 4 and what these need are 16 */
            UNROLL for (int r = 0; r < ROWS; r++) {
                of_k[r] = ALL(a[r * a_row + k]);
                KEEP(of_k[r]);
            }
            UNROLL for (int v = 0; v < VECTORS; v++) {
                w[0] = NAME(load)(panel + v / ABREAST * half + v % ABREAST * WIDTH);
                if (ROWS > 1)
                    KEEP(w[0]);
                UNROLL for (int r = 0; r < ROWS; r++)
                    sum[r * VECTORS + v] = FMA(of_k[r], w[0], sum[r * VECTORS + v]);
            }
            continue;
        }
        UNROLL for (int v = 0; v < VECTORS; v++) {
            w[v] = NAME(load)(panel + v * WIDTH);
            if (ROWS > 1 && REGISTERS == 32)
                KEEP(w[v]);
        }
        UNROLL for (int r = 0; r < ROWS; r++) {
            V a_rk = ALL(a[r * a_row + k]);
            KEEP(a_rk);
            UNROLL for (int v = 0; v < VECTORS; v++)
                sum[r * VECTORS + v] = FMA(a_rk, w[v], sum[r * VECTORS + v]);
        }
    }
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++)
            NAME(store)(out + (r * STRIDE + v) * WIDTH, sum[r * VECTORS + v]);
}

/* Of a whole panel; or, where that takes too many registers, of one half after the other. Functions of their own: those
   that share one share their stores, and get there through memory. */
#define TILE(ROWS, VECTORS, FETCH, TAIL)                                                                               \
    static __attribute__((noinline)) void NAME(tile_##ROWS##x##VECTORS##TAIL)(                                         \
        real *out, const real *init, ptrdiff_t init_row, const real *a, ptrdiff_t a_row, ptrdiff_t K,                  \
        const real *panel, ptrdiff_t half, const real *ahead)                                                          \
    {                                                                                                                  \
        enum { PART = (ROWS) * (VECTORS) > (REGISTERS == 32 ? 24 : 12) ? (VECTORS) / 2 : (VECTORS) };                  \
        for (int at = 0; at < (VECTORS) * WIDTH; at += PART * WIDTH)                                                   \
            NAME(tile_of)(ROWS, PART, VECTORS, FETCH * PART / 4, out + at, init + at, init_row, a, a_row, K,           \
                          panel + (ABREAST < (VECTORS) && at ? half : at), half,                                       \
                          !FETCH ? NULL : REGISTERS == 32 ? ahead + at * FETCH / 4 * K : at ? ahead + half : ahead);   \
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

typedef void (*NAME(tile_function))(real *out, const real *init, ptrdiff_t init_row, const real *a, ptrdiff_t a_row,
                                    ptrdiff_t K, const real *panel, ptrdiff_t half, const real *ahead);

/* The same for any 1 to LAST_ROWS rows of a (rows, K) and K terms from k on of any panel of `length` terms: the at-th tile of n
   rows. With 32 registers, if `next` is not NULL, tiles of 4 to 6 rows fetch that panel of 4 vectors between them, a quarter each,
   or where they are few a half; one of 7 or 8 fetches all of it; smaller ones are too fast for it. More at once, and what this
   tile needs itself waits behind what comes from far. With 16, instructions are what takes longest, and the processor fetches
   what comes next of itself: halves are read from front to back. There that panel is fetched by the second of several tiles, which
   waits for nothing from far, unless it has so few rows that it is too fast for it; of a panel that stays in the first level, two
   tiles of 3 rows are faster than one of 6. */
INLINE void NAME(tile)(ptrdiff_t rows, ptrdiff_t vectors, real *out, const real *init, ptrdiff_t init_row, const real *a,
                       ptrdiff_t a_row, ptrdiff_t K, const real *panel, ptrdiff_t k, ptrdiff_t length, const real *next,
                       ptrdiff_t n, ptrdiff_t at)
{
    const ptrdiff_t half = ABREAST * WIDTH * length;
    panel += k * (vectors < ABREAST ? vectors : ABREAST) * WIDTH;
    a += k;
#define TILES(ROWS) {NAME(tile_##ROWS##x1), NAME(tile_##ROWS##x2), NAME(tile_##ROWS##x4)}
    static const NAME(tile_function) tiles[LAST_ROWS][3] = {
        TILES(1), TILES(2), TILES(3), TILES(4), TILES(5), TILES(6),
#if REGISTERS == 32
        TILES(7), TILES(8),
#endif
    };
#undef TILES
#if REGISTERS == 32
    static const NAME(tile_function) whole[2] = {NAME(tile_7x4_whole), NAME(tile_8x4_whole)},
                                     ahead[2][3] = {{NAME(tile_4x4_half), NAME(tile_5x4_half), NAME(tile_6x4_half)},
                                                    {NAME(tile_4x4_quarter), NAME(tile_5x4_quarter), NAME(tile_6x4_quarter)}};
    const int parts = n > 3 * TILE_ROWS ? 4 : 2, fetches = next && vectors == 4 && n > TILE_ROWS;
    if (fetches && rows > TILE_ROWS && at == 0)
        whole[rows - 7](out, init, init_row, a, a_row, K, panel, half, next);
    else if (fetches && rows >= 4 && rows <= TILE_ROWS && at < parts)
        ahead[parts == 4][rows - 4](out, init, init_row, a, a_row, K, panel, half, next + at * K * (4 / parts) * WIDTH);
    else
#else
    const int small = length * 4 * WIDTH * (ptrdiff_t)sizeof(real) <= SMALL_BYTES;
#if VECTOR_BYTES == 32
    static const NAME(tile_function) whole[5] = {NAME(tile_2x4_whole), NAME(tile_3x4_whole), NAME(tile_4x4_whole),
                                                 NAME(tile_5x4_whole), NAME(tile_6x4_whole)};
    if (next && !small && vectors == 4 && rows > 1 && (n <= TILE_ROWS || (at == 1 && rows > 3))) {
        whole[rows - 2](out, init, init_row, a, a_row, K, panel, half, next);
        return;
    }
#else
    (void)next, (void)n, (void)at;
#endif
    if (rows > 4 && vectors == 4 && small) {
        tiles[2][2](out, init, init_row, a, a_row, K, panel, half, NULL);
        rows -= 3, out += 3 * 4 * WIDTH, init += 3 * init_row, a += 3 * a_row;
    }
#endif
        tiles[rows - 1][vectors / 2](out, init, init_row, a, a_row, K, panel, half, NULL);
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
                NAME(tile)(tile, count, z + (at * rows + (row + r) * count) * WIDTH, bias + at * WIDTH, 0, a + r * K, K, K,
                           panel, 0, K,
                           at + 8 <= v_1 * gates && n > TILE_ROWS ? panel + 4 * WIDTH * K : NULL, n, k);
            }
        }
    }
}

/* One vector of a panel, out [K][step], from up to WIDTH rows of W (rows, K), `row` elements apart, each times the scale;
   the rest zero. Exact products, rounded once. Square blocks are transposed in registers: as often as WIDTH can be halved, the vectors of the
   first half and those of the second are zipped. */
static void NAME(pack)(void *out_, const void *W_, ptrdiff_t row, ptrdiff_t rows, ptrdiff_t K, ptrdiff_t step,
                       double scale)
{
    real *out = out_;
    const real *W = W_;
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
        if (columns == WIDTH)
            UNROLL for (int k = 0; k < WIDTH; k++)
                NAME(store)(out + k * step, block[k]);
        else
            for (ptrdiff_t k = 0; k < columns; k++)
                NAME(store)(out + k * step, block[k]);
    }
}

/* --- gradients: products with matrices in strips ----------------------------------------------------------------- */

/* A *strip* is the columns of 4 neighbouring vectors of a matrix, all of its rows one after the other. Rows as they are in
   a wide matrix are far apart: they compete for few places in each cache, no processor fetches the next one of itself, and
   each is on another page. Weights are copied to strips once (`../pack.pyx`); rows of x and h, side by side for each block. A
   matrix of up to 4 vectors is a strip. */
#define STRIP (4 * WIDTH)
#define STRIP_AHEAD 8                         /* rows */
#if REGISTERS == 32
#define TILE_STEP 8                           /* elements from row to row of a tile's columns, where they are copied */
#define COPIED 6                              /* columns that are copied at a time */
#else
#define TILE_STEP 3                           /* one behind the other */
#define COPIED (ptrdiff_t)(192 / sizeof(real))
#endif

/* A matrix that is too large for the last level is read from memory once for each tile, unless it is taken in parts. */
#define LARGE (ptrdiff_t)(LAST_LEVEL_BYTES / sizeof(real))
#define PART 256 /* rows */

/* out[r][v] = init[r][v] + sum over k of a[k * a_k + r * a_r] b[k][v], or out += all that: a tile of a product with a matrix
   that is not packed. Without `init`, which has ROWS x VECTORS vectors, it is 0. Of out, the last vector has `first` elements; of
   b, whole vectors are read. */
INLINE void NAME(plain_tile)(const int ROWS, const int VECTORS, real *out, ptrdiff_t out_row, const real *a, ptrdiff_t a_k,
                             ptrdiff_t a_r, const real *b, ptrdiff_t b_row, ptrdiff_t K, ptrdiff_t first, int add, const V *init)
{
    V sum[24], w[4], of_k[4];
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
        if (REGISTERS == 16 && ROWS < VECTORS) { /* as in tile_of */
            UNROLL for (int r = 0; r < ROWS; r++) {
                of_k[r] = ALL(a[r * a_r]);
                KEEP(of_k[r]);
            }
            UNROLL for (int v = 0; v < VECTORS; v++) {
                w[0] = NAME(load)(b + v * WIDTH);
                if (ROWS > 1)
                    KEEP(w[0]);
                UNROLL for (int r = 0; r < ROWS; r++)
                    sum[r * VECTORS + v] = FMA(of_k[r], w[0], sum[r * VECTORS + v]);
            }
            continue;
        }
        if (ROWS > 2 && REGISTERS == 32) {
            UNROLL for (int v = 0; v < VECTORS; v++)
                __builtin_prefetch(b + STRIP_AHEAD * b_row + v * WIDTH, 0, 3);
            if (a_k > TILE_STEP)
                __builtin_prefetch(a + 2 * STRIP_AHEAD * a_k, 0, 3);
        }
        UNROLL for (int v = 0; v < VECTORS; v++) {
            w[v] = NAME(load)(b + v * WIDTH);
            if (ROWS > 1 && REGISTERS == 32)
                KEEP(w[v]);
        }
        UNROLL for (int r = 0; r < ROWS; r++) {
            V a_rk = ALL(a[r * a_r]);
            KEEP(a_rk);
            UNROLL for (int v = 0; v < VECTORS; v++)
                sum[r * VECTORS + v] = FMA(a_rk, w[v], sum[r * VECTORS + v]);
        }
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

/* Whether `outer` copies rows, of n terms. Copies take longer than they save while a row of b is short, or, where tiles are large,
   while it and one of a are less than a page together. Where tiles are small, they save from two strips on, but of short rows they
   take much memory for a few terms. */
static int NAME(copies)(ptrdiff_t a_row, ptrdiff_t P, ptrdiff_t n)
{
    const ptrdiff_t item = sizeof(real);
    if (REGISTERS == 32)
        return P * item >= 1024 && (a_row + P) * item >= 4096;
    return P * item >= 1024 || (P > STRIP && n >= SIDE_ROWS);
}

/* Columns of a (K, a_row), in parts of PLAIN_ROWS, each [K][TILE_STEP]. */
#define COPY(K) ((K) * TILE_STEP + 1) /* elements of a part: what is copied at once is a little more than a row */
#define COPIES (COPIED / PLAIN_ROWS * COPY(SIDE_ROWS) + 4)
INLINE void NAME(copy_columns)(real *copy, const real *a, ptrdiff_t a_row, ptrdiff_t columns, ptrdiff_t K)
{
    for (ptrdiff_t k = 0; k < K; k++, a += a_row, copy += TILE_STEP) {
        const real *next = a + 3 * STRIP_AHEAD * a_row;
        for (ptrdiff_t m = 0; m < columns; m += 64 / sizeof(real))
            __builtin_prefetch(next + m, 0, 3);
        if (columns == COPIED) {
            UNROLL for (int m = 0; m + PLAIN_ROWS < COPIED; m += PLAIN_ROWS)
                memcpy(copy + m / PLAIN_ROWS * COPY(K), a + m, (REGISTERS == 32 ? PLAIN_ROWS : 4) * sizeof(real));
            memcpy(copy + (COPIED / PLAIN_ROWS - 1) * COPY(K), a + COPIED - PLAIN_ROWS, PLAIN_ROWS * sizeof(real));
        } else
            for (ptrdiff_t m = 0; m < columns; m += PLAIN_ROWS)
                memcpy(copy + m / PLAIN_ROWS * COPY(K), a + m,
                       (size_t)(columns - m < PLAIN_ROWS ? columns - m : PLAIN_ROWS) * sizeof(real));
    }
}

/* out (M, P) = a^T b, or += it, for a (n, M) and b (n, P), and of out the rows from m_0 to m_1: a weight matrix's gradient
   from n steps. Every sum is one chain over the n, or over SIDE_ROWS of them at a time, added at its end. Where rows are far
   apart (`copies`), strips of b's are copied to `side`, and with them some columns of a, as many as pay for their lines of the
   cache. */
static void NAME(outer)(void *out_, ptrdiff_t out_row, const void *a_, ptrdiff_t a_row, const void *b_, ptrdiff_t b_row,
                        ptrdiff_t P, ptrdiff_t m_0, ptrdiff_t m_1, ptrdiff_t n, int add, void *side_, int strips)
{
    PLAIN_TABLES(outer)
    const int far = strips > 0 && NAME(copies)(a_row, P, n) && m_1 - m_0 > STRIP;
    const ptrdiff_t most = far ? strips * STRIP : STRIP;
    real copy[COPIES], *out = out_, *side = side_;
    for (ptrdiff_t k_0 = 0, K; k_0 < n; k_0 += K, add = 1) {
        K = n - k_0 < SIDE_ROWS ? n - k_0 : SIDE_ROWS;
        for (ptrdiff_t j_0 = 0, columns; j_0 < P; j_0 += columns) {
            const real *a = (const real *)a_ + k_0 * a_row, *b = (const real *)b_ + k_0 * b_row + j_0;
            columns = P - j_0 < most ? P - j_0 : most;
            for (ptrdiff_t k = 0; far && k < K; k++)
                for (ptrdiff_t j = 0; j < columns; j += STRIP)
                    memcpy(side + j * K + k * STRIP, b + k * b_row + j,
                           (size_t)(columns - j < STRIP ? columns - j : STRIP) * sizeof(real));
            for (ptrdiff_t m = m_0, rows; m < m_1; m += rows) {
                rows = far && m_1 - m > COPIED ? COPIED : far ? m_1 - m : NAME(plain_rows)(m_1 - m, columns);
                if (far)
                    NAME(copy_columns)(copy, a + m, a_row, rows, K);
                for (ptrdiff_t j = 0, width; j < columns; j += STRIP) {
                    width = columns - j < STRIP ? columns - j : STRIP;
                    const int copied = far && (REGISTERS == 32 || width > 2 * WIDTH); /* tiles of more rows than a part's */
                    for (ptrdiff_t r = 0, count; r < rows; r += count) {
                        count = NAME(plain_rows)(copied && rows - r > PLAIN_ROWS ? PLAIN_ROWS : rows - r, width);
                        const ptrdiff_t a_k = copied ? TILE_STEP : a_row;
                        NAME(plain)(whole, few, count, out + (m + r) * out_row + j_0 + j, out_row,
                                    copied ? copy + r / PLAIN_ROWS * COPY(K) + r % PLAIN_ROWS : a + m + r, a_k, a_k,
                                    far ? side + j * K : b + j, far ? STRIP : b_row, width, far, K, add);
                    }
                }
            }
        }
    }
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
#undef COPIED
#undef COPY
#undef COPIES
#undef LARGE
#undef PART
#undef PLAIN_TABLES
#undef PLAIN_FEW
#undef PLAIN_6x3
#undef UNROLL_TERMS
#undef UNROLL_PLAIN
#undef KEEP

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

/* Sums over one panel of `vectors`, the at-th of all, for `rows` rows from r on: z, or bias + x W^T if the step has x, and
   then + h_before U^T if `recurrent`. `next` is the panel whose weights are fetched meanwhile, or negative. */
INLINE void NAME(panel_sums)(const struct panel_step *s, const int recurrent, real *out, ptrdiff_t r, ptrdiff_t rows,
                             ptrdiff_t at, ptrdiff_t vectors, ptrdiff_t next, ptrdiff_t tile)
{
    const real *panels = s->panels, *panels_ih = s->panels_ih, *z = out;
    if (s->x)
        NAME(tile)(rows, vectors, out, (const real *)s->bias + at * WIDTH, 0, (const real *)s->x + r * s->I, s->I, s->I,
                   panels_ih + at * WIDTH * s->I, 0, s->I, NAME(ahead)(s, panels_ih, next, s->I), s->n, tile);
    else {
        z = (const real *)s->z + (at * s->rows + (s->row + r) * vectors) * WIDTH;
        if (REGISTERS == 16 && next >= 0 && vectors == 4)
            NAME(fetch)((const real *)s->z + (next * s->rows + (s->row + r) * 4) * WIDTH, rows * 4 * WIDTH);
    }
    if (recurrent) {
        const ptrdiff_t k = at >= s->begun_0 && at < s->begun_1 ? s->begun : 0;
        NAME(tile)(rows, vectors, out, z, vectors * WIDTH, (const real *)s->h_before + r * s->K, s->K, s->K - k,
                   panels + at * WIDTH * s->K, k, s->K, NAME(ahead)(s, panels, next, s->K), s->n, tile);
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
                NAME(tile)(rows, count, z, z, count * WIDTH, (const real *)s->h_before + r * s->K, s->K, s->begun,
                           (const real *)s->panels + at * WIDTH * s->K, 0, s->K, NULL, s->n, 0);
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
    if (s->shared && first && rows * s->K <= SMALL_BYTES / (ptrdiff_t)sizeof(real))
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

/* The sums of `rows` rows from r on, at most a tile's, and a batch of vectors from v on: each panel's sums
   [rows][vectors][WIDTH] after the other's. */
static inline void NAME(recur)(const struct panel_step *s, real *sums, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t v,
                               ptrdiff_t vectors, ptrdiff_t u, ptrdiff_t units)
{
    NAME(fetch_rows)(s, r, rows, v == (s->backwards ? s->v_1 - vectors : s->v_0), u, units);
    const ptrdiff_t count = NAME(panels)(vectors), tile = (r + TILE_ROWS - 1) / TILE_ROWS;
    for (ptrdiff_t k = 0; k < count; k++) {
        const ptrdiff_t p = NAME(panel_start)(vectors, s->backwards ? count - 1 - k : k);
        const ptrdiff_t width = NAME(panel_vectors)(vectors - p), next = v + p + (s->backwards ? -4 : 4);
        NAME(panel_sums)(s, s->panels != NULL, sums + p * rows * WIDTH, r, rows, v + p, width,
                         next >= s->v_0 && next + 4 <= s->v_1 ? next : -1, tile);
    }
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
