/* Passes over parameters' memory: an optimiser's step, the sum of squares that clipping needs, what tells whether they have
   changed. A step's elements do not see each other: results do not depend on how arrays lie or are cut. */

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

INLINE void NAME(add_squares)(NAME(doubles) *parts, const real *x, double scale)
{
    UNROLL for (int k = 0; k < 4; k++) {
        NAME(doubles) scaled = NAME(load_doubles)(x + k * NAME(lanes)) * scale;
        parts[k] += scaled * scaled;
    }
}

/* Four chains of vectors of float64 hide the latency of an addition. */
static double NAME(sum_of_squares)(const void *x_, ptrdiff_t n, double scale)
{
    enum { LANES = NAME(lanes), ROUND = 4 * LANES };
    NAME(doubles) parts[4] = {{0}};
    const real *x = x_;
    for (; n >= ROUND; x += ROUND, n -= ROUND)
        NAME(add_squares)(parts, x, scale);
    if (n > 0) {
        real last[ROUND] = {0};
        memcpy(last, x, (size_t)n * sizeof(real));
        NAME(add_squares)(parts, last, scale);
    }
    parts[0] = (parts[0] + parts[1]) + (parts[2] + parts[3]);
    double sum = 0;
    for (int k = 0; k < LANES; k++)
        sum += parts[0][k];
    return sum;
}

typedef uint64_t NAME(words) __attribute__((vector_size(VECTOR_BYTES)));

static inline NAME(words) NAME(load_words)(const char *x)
{
    NAME(words) word;
    memcpy(&word, x, sizeof word);
    return word;
}

/* The lower half of each word times a constant of 32 bits. */
static inline NAME(words) NAME(lower_times)(NAME(words) x, NAME(words) constant)
{
#if VECTOR_BYTES == 64
    return (NAME(words))_mm512_mul_epu32((__m512i)x, (__m512i)constant);
#elif VECTOR_BYTES == 32
    return (NAME(words))_mm256_mul_epu32((__m256i)x, (__m256i)constant);
#elif defined(__x86_64__)
    return (NAME(words))_mm_mul_epu32((__m128i)x, (__m128i)constant);
#elif defined(__aarch64__)
    return (NAME(words))vmull_u32(vmovn_u64((uint64x2_t)x), vmovn_u64((uint64x2_t)constant));
#else
    return (x & UINT32_MAX) * constant;
#endif
}

/* Each word turned to the left by 24 or 25 bits, whichever is quicker. */
static inline NAME(words) NAME(turned)(NAME(words) x)
{
#if VECTOR_BYTES == 32
    return (NAME(words))_mm256_shuffle_epi8((__m256i)x, _mm256_setr_epi8(5, 6, 7, 0, 1, 2, 3, 4, 13, 14, 15, 8, 9, 10, 11, 12,
                                                                         5, 6, 7, 0, 1, 2, 3, 4, 13, 14, 15, 8, 9, 10, 11, 12));
#else
    return x << 25 | x >> 39;
#endif
}

/* Each step of a chain is a bijection, of the word for any state and of the state for any word (the upper half goes into the
   lower; the lower gets times an odd number, the upper one something added that the lower one decides): one changed word never
   goes unseen, several in one chain with a probability of about 2^-64, if they are changed at random. Whoever wants to can
   find words that do: it is no cryptographic hash. */
static inline NAME(words) NAME(mix)(NAME(words) chain, const char *x)
{
    const NAME(words) even = (NAME(words)){0} + 0x9e3779b8u; /* 2^32 over the golden ratio */
    chain = NAME(turned)(chain) ^ NAME(load_words)(x);
    chain ^= chain >> 32;
    return chain + NAME(lower_times)(chain, even);
}

/* Eight chains hide the latency of a step; an array of them would live in memory. */
#define FOR_CHAINS(STEP) STEP(a, 0) STEP(b, 1) STEP(c, 2) STEP(d, 3) STEP(e, 4) STEP(f, 5) STEP(g, 6) STEP(h, 7)

static void NAME(digest)(void *state, const void *x_, ptrdiff_t n)
{
    enum { SIZE = VECTOR_BYTES, ROUND = 8 * SIZE };
    const char *x = x_, *before = state;
#define TAKE(chain, k) NAME(words) chain = NAME(load_words)(before + k * SIZE);
#define MIX(chain, k) chain = NAME(mix)(chain, x + k * SIZE);
#define GIVE(chain, k) memcpy(after + k * SIZE, &chain, SIZE);
    FOR_CHAINS(TAKE)
    for (; n >= ROUND; x += ROUND, n -= ROUND) {
        FOR_CHAINS(MIX)
    }
    if (n > 0) {
        char last[ROUND] = {0};
        memcpy(last, x, (size_t)n);
        x = last;
        FOR_CHAINS(MIX)
    }
    char *after = state;
    FOR_CHAINS(GIVE)
#undef TAKE
#undef MIX
#undef GIVE
#undef FOR_CHAINS
}
