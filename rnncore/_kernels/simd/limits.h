/* What a core can do at most, for `rnncore.measure` to hold the kernels against: loops bound by nothing but the units
   for multiply-adds, and by nothing but loads. */

/* CHAINS hide the latency of an FMA on two units (2 x 4 to 5 cycles) and fit 16 registers with their operands. Each runs
   to the fixed point of x = x / 2 + 1: no overflow, no denormals. */
static double NAME(multiply_add)(void *chains_, ptrdiff_t rounds)
{
    real *chains = chains_;
    V x[CHAINS];
    const V half = ALL((real)0.5), one = ALL(1);
    for (int k = 0; k < CHAINS; k++)
        x[k] = NAME(load)(chains + k * WIDTH);
    for (ptrdiff_t i = 0; i < rounds; i++)
        _Pragma("GCC unroll 16") for (int k = 0; k < CHAINS; k++)
            x[k] = FMA(x[k], half, one);
    for (int k = 0; k < CHAINS; k++)
        NAME(store)(chains + k * WIDTH, x[k]);
    return 2.0 * CHAINS * WIDTH * (double)rounds;
}

/* An exclusive or takes one cycle and its operand from memory: eight sums leave the loads as the only limit. */
static void NAME(read)(void *sink, const void *x_, ptrdiff_t n, ptrdiff_t times)
{
    VI sum[8] = {{0}};
    for (; times > 0; times--) {
        const real *x = x_;
        for (ptrdiff_t i = 0; i + 8 * WIDTH <= n; i += 8 * WIDTH)
            UNROLL for (int k = 0; k < 8; k++)
                sum[k] ^= (VI)NAME(load)(x + i + k * WIDTH);
        __asm__ volatile("" ::: "memory"); /* the next pass reads memory again */
    }
    for (int k = 1; k < 8; k++)
        sum[0] ^= sum[k];
    NAME(store)(sink, (V)sum[0]);
}
