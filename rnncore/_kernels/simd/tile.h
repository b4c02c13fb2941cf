/* What the tiles of panels and of strips share: a tile multiplies a few rows by a few vectors, with all sums in registers.

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

/* sum[r][v] += a[r] w[v], for ROWS rows, `a_row` elements apart, and VECTORS of w, of which ABREAST are side by side and those
   behind them `half` elements from the first. */
INLINE void NAME(add_term)(const int ROWS, const int VECTORS, V *sum, const real *a, ptrdiff_t a_row, const real *w,
                           ptrdiff_t half)
{
    V a_k[8], w_k[8];
    if (REGISTERS == 16 && ROWS < VECTORS) { /* the fewer wait: all sums of 3 x 4 and what these need are 16 */
        UNROLL for (int r = 0; r < ROWS; r++) {
            a_k[r] = ALL(a[r * a_row]);
            KEEP(a_k[r]);
        }
        UNROLL for (int v = 0; v < VECTORS; v++) {
            w_k[0] = NAME(load)(w + v / ABREAST * half + v % ABREAST * WIDTH);
            if (ROWS > 1)
                KEEP(w_k[0]);
            UNROLL for (int r = 0; r < ROWS; r++)
                sum[r * VECTORS + v] = FMA(a_k[r], w_k[0], sum[r * VECTORS + v]);
        }
        return;
    }
    UNROLL for (int v = 0; v < VECTORS; v++) {
        w_k[v] = NAME(load)(w + v / ABREAST * half + v % ABREAST * WIDTH);
        if (ROWS > 1 && REGISTERS == 32)
            KEEP(w_k[v]);
    }
    UNROLL for (int r = 0; r < ROWS; r++) {
        a_k[0] = ALL(a[r * a_row]);
        KEEP(a_k[0]);
        UNROLL for (int v = 0; v < VECTORS; v++)
            sum[r * VECTORS + v] = FMA(a_k[0], w_k[v], sum[r * VECTORS + v]);
    }
}
