/* Training: an optimiser's step in one pass over memory, and the sum of squares that clipping needs. A step's elements
   do not see each other: results do not depend on how arrays lie or are cut. */

static void NAME(sgd)(void *w_, void *b_, const void *w_before_, const void *g_, ptrdiff_t n, const struct sgd *s)
{
    real *w = w_, *b = b_;
    const real *w_before = w_before_, *g = g_;
    const V rate = ALL((real)s->rate), decay = ALL((real)s->decay);
    const V momentum = ALL((real)s->momentum), gain = ALL((real)s->gain);
    const int decays = s->decay != 0, nesterov = s->nesterov; /* 0 times an infinite w is no number */
    FOR_VECTORS(n, {
        V w_t = LOAD(w_before + j);
        V g_t = LOAD(g + j);
        if (decays)
            g_t = FMA(decay, w_t, g_t); /* (1) */
        if (b) {
            V b_t = FMA(gain, g_t, momentum * LOAD(b + j)); /* (2) */
            STORE(b + j, b_t);
            g_t = nesterov ? FMA(momentum, b_t, g_t) : b_t;
        }
        STORE(w + j, FMA(-rate, g_t, w_t)); /* (3) */
    });
}

static void NAME(adam)(void *w_, void *m_, void *v_, const void *w_before_, const void *g_, ptrdiff_t n,
                       const struct adam *s)
{
    real *w = w_, *m = m_, *v = v_;
    const real *w_before = w_before_, *g = g_;
    const V step = ALL((real)s->step), decay = ALL((real)s->decay), keep = ALL((real)s->keep);
    const V beta_1 = ALL((real)s->beta_1), rest_1 = ALL((real)(1 - s->beta_1));
    const V beta_2 = ALL((real)s->beta_2), rest_2 = ALL((real)(1 - s->beta_2));
    const V root_scale = ALL((real)s->root_scale), epsilon = ALL((real)s->epsilon);
    const int decays = s->decay != 0, from_m = s->beta_1 > 0.5;
    FOR_VECTORS(n, {
        V w_t = LOAD(w_before + j) * keep; /* (1) of AdamW */
        V g_t = LOAD(g + j);
        V m_t = LOAD(m + j);
        V v_t = LOAD(v + j);
        if (decays)
            g_t = FMA(decay, w_t, g_t); /* (1) */
        V change = g_t - m_t;
        m_t = from_m ? FMA(rest_1, change, m_t) : FMA(-beta_1, change, g_t); /* (2), from the nearer end */
        v_t = FMA(rest_2 * g_t, g_t, beta_2 * v_t);                          /* (3) */
        STORE(m + j, m_t);
        STORE(v + j, v_t);
        STORE(w + j, w_t - step * m_t / FMA(NAME(sqrt)(v_t), root_scale, epsilon)); /* (4) */
    });
}

typedef double NAME(doubles) __attribute__((vector_size(VECTOR_BYTES)));
enum { NAME(lanes) = VECTOR_BYTES / sizeof(double) };

static inline NAME(doubles) NAME(load_doubles)(const real *p)
{
#if VECTOR_BYTES == 64 && REAL_BITS == 32
    return (NAME(doubles))_mm512_cvtps_pd(_mm256_loadu_ps(p)); /* in one instruction, which GCC 12 does not find */
#elif VECTOR_BYTES == 32 && REAL_BITS == 32
    return (NAME(doubles))_mm256_cvtps_pd(_mm_loadu_ps(p));
#else
    real some __attribute__((vector_size(NAME(lanes) * sizeof(real))));
    memcpy(&some, p, sizeof some);
    return __builtin_convertvector(some, NAME(doubles));
#endif
}

/* Four chains of vectors of float64 hide the latency of an addition. */
static double NAME(sum_of_squares)(const void *x_, ptrdiff_t n, double scale)
{
    enum { LANES = NAME(lanes), ROUND = 4 * LANES };
    NAME(doubles) parts[4] = {{0}};
    for (const real *x = x_; n > 0; x += ROUND, n -= ROUND) {
        real last[ROUND] = {0};
        const real *from = n < ROUND ? memcpy(last, x, (size_t)n * sizeof(real)) : x;
        UNROLL for (int k = 0; k < 4; k++) {
            NAME(doubles) scaled = NAME(load_doubles)(from + k * LANES) * scale;
            parts[k] += scaled * scaled;
        }
    }
    parts[0] = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    double sum = 0;
    for (int k = 0; k < LANES; k++)
        sum += parts[0][k];
    return sum;
}
