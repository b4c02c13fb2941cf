/* One vector type, V, of `real`, and what the instruction sets do differently on it. Arithmetic and comparison are the
   compiler's own operators; a comparison gives VI, all bits set where it holds. Included once per dtype. */

#define V NAME(V)
#define VI NAME(VI)
#define real NAME(real)
#define bits NAME(bits)

#if REAL_BITS == 32
typedef float real;
typedef int32_t bits;
#else
typedef double real;
typedef int64_t bits;
#endif
typedef real V __attribute__((vector_size(VECTOR_BYTES)));
typedef bits VI __attribute__((vector_size(VECTOR_BYTES)));

enum { NAME(width) = VECTOR_BYTES / sizeof(real) };
#define WIDTH NAME(width)

/* a * b + c, rounded once where the instruction set can. */
static inline V NAME(fma)(V a, V b, V c)
{
#if VECTOR_BYTES == 64 && REAL_BITS == 32
    return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif VECTOR_BYTES == 64
    return (V)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif VECTOR_BYTES == 32 && REAL_BITS == 32
    return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif VECTOR_BYTES == 32
    return (V)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__) && REAL_BITS == 32
    return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif defined(__aarch64__)
    return (V)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

/* The same, for float32 rounded once everywhere: where it takes more than one instruction, not for products. */
static inline V NAME(exact_fma)(V a, V b, V c)
{
#if VECTOR_BYTES == 16 && REAL_BITS == 32 && !defined(__aarch64__)
    typedef double D __attribute__((vector_size(2 * VECTOR_BYTES)));
    return __builtin_convertvector(
        __builtin_convertvector(a, D) * __builtin_convertvector(b, D) + __builtin_convertvector(c, D), V);
#else
    return NAME(fma)(a, b, c);
#endif
}

static inline V NAME(all)(real a)
{
#if VECTOR_BYTES == 64 && REAL_BITS == 32
    return (V)_mm512_set1_ps(a);
#elif VECTOR_BYTES == 64
    return (V)_mm512_set1_pd(a);
#elif VECTOR_BYTES == 32 && REAL_BITS == 32
    return (V)_mm256_set1_ps(a);
#elif VECTOR_BYTES == 32
    return (V)_mm256_set1_pd(a);
#elif REAL_BITS == 32
    return (V){a, a, a, a};
#else
    return (V){a, a};
#endif
}

static inline V NAME(select)(VI where, V a, V b)
{
    return (V)((where & (VI)a) | (~where & (VI)b));
}

/* x where it is at most (at least) the bound, which it is cut off at; NaN stays. x86's instructions return their second
   operand where one is NaN; NEON's return NaN. */
static inline V NAME(at_most)(real bound, V x)
{
#if VECTOR_BYTES == 64 && REAL_BITS == 32
    return (V)_mm512_min_ps((__m512)NAME(all)(bound), (__m512)x);
#elif VECTOR_BYTES == 64
    return (V)_mm512_min_pd((__m512d)NAME(all)(bound), (__m512d)x);
#elif VECTOR_BYTES == 32 && REAL_BITS == 32
    return (V)_mm256_min_ps((__m256)NAME(all)(bound), (__m256)x);
#elif VECTOR_BYTES == 32
    return (V)_mm256_min_pd((__m256d)NAME(all)(bound), (__m256d)x);
#elif defined(__aarch64__) && REAL_BITS == 32
    return (V)vminq_f32((float32x4_t)NAME(all)(bound), (float32x4_t)x);
#elif defined(__aarch64__)
    return (V)vminq_f64((float64x2_t)NAME(all)(bound), (float64x2_t)x);
#else
    return NAME(select)(x > NAME(all)(bound), NAME(all)(bound), x);
#endif
}

static inline V NAME(at_least)(real bound, V x)
{
#if VECTOR_BYTES == 64 && REAL_BITS == 32
    return (V)_mm512_max_ps((__m512)NAME(all)(bound), (__m512)x);
#elif VECTOR_BYTES == 64
    return (V)_mm512_max_pd((__m512d)NAME(all)(bound), (__m512d)x);
#elif VECTOR_BYTES == 32 && REAL_BITS == 32
    return (V)_mm256_max_ps((__m256)NAME(all)(bound), (__m256)x);
#elif VECTOR_BYTES == 32
    return (V)_mm256_max_pd((__m256d)NAME(all)(bound), (__m256d)x);
#elif defined(__aarch64__) && REAL_BITS == 32
    return (V)vmaxq_f32((float32x4_t)NAME(all)(bound), (float32x4_t)x);
#elif defined(__aarch64__)
    return (V)vmaxq_f64((float64x2_t)NAME(all)(bound), (float64x2_t)x);
#else
    return NAME(select)(x < NAME(all)(bound), NAME(all)(bound), x);
#endif
}

static inline V NAME(sqrt)(V x)
{
#if VECTOR_BYTES == 64 && REAL_BITS == 32
    return (V)_mm512_sqrt_ps((__m512)x);
#elif VECTOR_BYTES == 64
    return (V)_mm512_sqrt_pd((__m512d)x);
#elif VECTOR_BYTES == 32 && REAL_BITS == 32
    return (V)_mm256_sqrt_ps((__m256)x);
#elif VECTOR_BYTES == 32
    return (V)_mm256_sqrt_pd((__m256d)x);
#elif defined(__x86_64__) && REAL_BITS == 32
    return (V)_mm_sqrt_ps((__m128)x);
#elif defined(__x86_64__)
    return (V)_mm_sqrt_pd((__m128d)x);
#elif defined(__aarch64__) && REAL_BITS == 32
    return (V)vsqrtq_f32((float32x4_t)x);
#elif defined(__aarch64__)
    return (V)vsqrtq_f64((float64x2_t)x);
#else
    for (int k = 0; k < WIDTH; k++)
        x[k] = (real)__builtin_sqrt(x[k]); /* float32's too: rounded twice, a root is still the nearest */
    return x;
#endif
}

static inline V NAME(load)(const real *p)
{
    V v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void NAME(store)(real *p, V v)
{
    memcpy(p, &v, sizeof v);
}

/* Past the caches where vectors can go there, at an address that is a multiple of theirs: a line that is written whole need not be
   read before, and drives out nothing that is needed sooner. `fence` is for what others are to read. */
static inline void NAME(store_far)(real *p, V v)
{
#if VECTOR_BYTES == 64 && REAL_BITS == 32
    _mm512_stream_ps(p, (__m512)v);
#elif VECTOR_BYTES == 64
    _mm512_stream_pd(p, (__m512d)v);
#elif VECTOR_BYTES == 32 && REAL_BITS == 32
    _mm256_stream_ps(p, (__m256)v);
#elif VECTOR_BYTES == 32
    _mm256_stream_pd(p, (__m256d)v);
#else
    NAME(store)(p, v);
#endif
}

static inline void NAME(fence)(void)
{
#if VECTOR_BYTES > 16
    _mm_sfence();
#endif
}

/* The first n of a vector, 0 behind them; nothing behind them is read or written. */
static inline V NAME(load_first)(const real *p, ptrdiff_t n)
{
#if VECTOR_BYTES == 64 && REAL_BITS == 32
    return (V)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
#elif VECTOR_BYTES == 64
    return (V)_mm512_maskz_loadu_pd((__mmask8)((1u << n) - 1), p);
#else
    V v = {0};
    memcpy(&v, p, (size_t)n * sizeof(real));
    return v;
#endif
}

static inline void NAME(store_first)(real *p, V v, ptrdiff_t n)
{
#if VECTOR_BYTES == 64 && REAL_BITS == 32
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
#elif VECTOR_BYTES == 64
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
#else
    memcpy(p, &v, (size_t)n * sizeof(real));
#endif
}

/* The elements of a and b by turns: of their first halves, or their last. */
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (VI){__VA_ARGS__})
#endif

static inline V NAME(zip_first)(V a, V b)
{
#if VECTOR_BYTES * 8 / REAL_BITS == 16
    return SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif VECTOR_BYTES * 8 / REAL_BITS == 8
    return SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#elif VECTOR_BYTES * 8 / REAL_BITS == 4
    return SHUFFLE(a, b, 0, 4, 1, 5);
#else
    return SHUFFLE(a, b, 0, 2);
#endif
}

static inline V NAME(zip_last)(V a, V b)
{
#if VECTOR_BYTES * 8 / REAL_BITS == 16
    return SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif VECTOR_BYTES * 8 / REAL_BITS == 8
    return SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#elif VECTOR_BYTES * 8 / REAL_BITS == 4
    return SHUFFLE(a, b, 2, 6, 3, 7);
#else
    return SHUFFLE(a, b, 1, 3);
#endif
}
#undef SHUFFLE

/* x times a number of float64, which for float32 is two: its first 24 bits, and the rest, whose sign is the same, so that an
   infinite x stays infinite. Rounded once, but for about one number in 2^24. */
static inline V NAME(scaled)(V x, double scale)
{
#if REAL_BITS == 32 && (VECTOR_BYTES > 16 || defined(__aarch64__))
    uint64_t word;
    double first;
    memcpy(&word, &scale, sizeof word);
    word &= ~(uint64_t)0 << 29;
    memcpy(&first, &word, sizeof first);
    if (scale == first) /* and infinity times the rest would be none */
        return x * (real)first;
    return NAME(fma)(x, NAME(all)((real)first), x * (real)(scale - first));
#elif REAL_BITS == 32
    for (int k = 0; k < WIDTH; k++)
        x[k] = (real)(x[k] * scale);
    return x;
#else
    return x * scale;
#endif
}
