/* Packed products: the rows of a weight matrix in vectors of WIDTH rows, and a kernel that multiplies a few sequences by
   a few vectors with all sums in registers.

   A *panel* is 4, 2 or 1 neighbouring vectors over all K terms, stored [K][vectors][WIDTH], so that one step over k
   reads it from front to back. Panels follow each other: 4 vectors as long as that many are left, then 2, then 1.
   Sums of R rows over a panel are stored [R][vectors][WIDTH].

   Every sum is one chain, init + a_0 w_0 + a_1 w_1 + ..., rounded once per term where there is FMA, in this order for
   every tile: a sequence's numbers depend neither on the rows beside it nor on where the work was cut. */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

/* Rows of the largest tile: with 4 vectors, as many sums as there are registers, less those for operands. */
#if VECTOR_BYTES == 64 || defined(__aarch64__)
#define TILE_ROWS 6
#else
#define TILE_ROWS 3
#endif

/* out[r][v] = init[r][v] + sum over k of a[r][k] panel[k][v], for ROWS rows and VECTORS vectors, both constants: the sums
   are registers. */
INLINE void NAME(tile_of)(const int ROWS, const int VECTORS, real *out, const real *init, ptrdiff_t init_row,
                          const real *a, ptrdiff_t K, const real *panel)
{
    V sum[24];
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++)
            sum[r * VECTORS + v] = NAME(load)(init + r * init_row + v * WIDTH);
    for (ptrdiff_t k = 0; k < K; k++, panel += VECTORS * WIDTH)
        UNROLL for (int r = 0; r < ROWS; r++)
            UNROLL for (int v = 0; v < VECTORS; v++)
                sum[r * VECTORS + v] =
                    NAME(fma)(NAME(all)(a[r * K + k]), NAME(load)(panel + v * WIDTH), sum[r * VECTORS + v]);
    UNROLL for (int r = 0; r < ROWS; r++)
        UNROLL for (int v = 0; v < VECTORS; v++)
            NAME(store)(out + (r * VECTORS + v) * WIDTH, sum[r * VECTORS + v]);
}

#define TILE(ROWS, VECTORS)                                                                                            \
    case 8 * (ROWS) + (VECTORS):                                                                                       \
        NAME(tile_of)(ROWS, VECTORS, out, init, init_row, a, K, panel);                                                \
        break;
#define TILES(ROWS) TILE(ROWS, 1) TILE(ROWS, 2) TILE(ROWS, 4)

/* The same for any 1 to TILE_ROWS rows of a (rows, K) and any panel. */
static __attribute__((noinline)) void NAME(tile)(ptrdiff_t rows, ptrdiff_t vectors, real *out, const real *init,
                                                 ptrdiff_t init_row, const real *a, ptrdiff_t K, const real *panel)
{
    switch (8 * rows + vectors) {
        TILES(1)
        TILES(2)
        TILES(3)
#if TILE_ROWS > 3
        TILES(4)
        TILES(5)
        TILES(6)
#endif
    }
}

/* Vectors of the panel that begins where `left` are left. */
INLINE ptrdiff_t NAME(panel_vectors)(ptrdiff_t left)
{
    return left >= 4 ? 4 : left >= 2 ? 2 : 1;
}

/* Rows of the next tile where `left` are left: tiles as equal as can be. */
INLINE ptrdiff_t NAME(tile_rows)(ptrdiff_t left)
{
    ptrdiff_t tiles = (left + TILE_ROWS - 1) / TILE_ROWS;
    return (left + tiles - 1) / tiles;
}

/* z = bias + a W^T: the sums of each panel over all n rows, one panel after the other. */
static void NAME(project)(void *z_, const void *bias_, const void *a_, const void *panels_, ptrdiff_t K, ptrdiff_t v_0,
                          ptrdiff_t v_1, ptrdiff_t n, ptrdiff_t row, ptrdiff_t rows)
{
    real *z = z_;
    const real *bias = bias_, *a = a_, *panels = panels_;
    for (ptrdiff_t v = v_0, count; v < v_1; v += count) {
        count = NAME(panel_vectors)(v_1 - v);
        for (ptrdiff_t r = 0, tile; r < n; r += tile) {
            tile = NAME(tile_rows)(n - r);
            NAME(tile)(tile, count, z + (v * rows + (row + r) * count) * WIDTH, bias + v * WIDTH, 0, a + r * K, K,
                       panels + v * WIDTH * K);
        }
    }
}

/* Panels times rows whose sums are formed before the cell's functions are applied to them: several panels where there
   are few rows. */
#define BATCH (2 * TILE_ROWS)

/* Vectors of the next batch of n rows where `left` are left: whole panels. */
static inline ptrdiff_t NAME(batch)(ptrdiff_t n, ptrdiff_t left)
{
    const ptrdiff_t vectors = n <= TILE_ROWS ? BATCH / n * 4 : 4;
    return left > vectors ? vectors : n <= TILE_ROWS ? left : NAME(panel_vectors)(left);
}

/* sums = z + h_before U^T for `rows` rows from r on, at most a tile's, and a batch of vectors from v on: each panel's sums
   [rows][vectors][WIDTH] after the other's. */
static inline void NAME(recur)(const struct panel_step *s, real *sums, ptrdiff_t r, ptrdiff_t rows, ptrdiff_t v,
                               ptrdiff_t vectors)
{
    for (ptrdiff_t p = 0, count; p < vectors; p += count) {
        count = NAME(panel_vectors)(vectors - p);
        const real *z = (const real *)s->z + ((v + p) * s->rows + (s->row + r) * count) * WIDTH;
        NAME(tile)(rows, count, sums + p * rows * WIDTH, z, count * WIDTH, (const real *)s->h_before + r * s->H, s->H,
                   (const real *)s->panels + (v + p) * WIDTH * s->H);
    }
}

#undef TILE
#undef TILES
