/* exp, tanh and sigmoid of vectors: branch-free, right at 0, inf and NaN.

   All rest on e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2)/2, or on 2^v = 2^n 2^r with n = round(v) and
   |r| <= 1/2. On these intervals
       e^r - 1 = r + r^2 q(r)   and   2^r - 1 = r ln 2 + r^2 q(r),
   where the q are minimax polynomials whose errors, relative to the left side, are 2^-25.3 and 2^-25.9 (float32, degree 4),
   2^-55.6 and 2^-54.0 (float64, degree 9). The first one of float32 is weighted, to 2^-27.2 for 0 < r < 1/8: tanh errs
   most just below powers of two. 1/ln 2 and ln 2 in two parts, the first short enough for n times it to be exact: Cody
   and Waite, 1980.

   Largest errors in ULP, where the result is a normal number, by tests/ulp.py:
                                          exp     tanh    sigmoid  relu     tanh_2  sigmoid_2
       every float32, AVX2 and AVX-512    1.08    2.06    2.49     exact    1.95    2.43
       every float32, generic             1.05    2.14    2.49     exact    1.96    2.43
       5e7 of float64, AVX2 and AVX-512   1.03    2.07    2.46     exact    2.27    2.31
       5e7 of float64, generic            0.99    2.10    2.46     exact    3.23    2.31
   (the last two rows are samples: --dtype float64 --samples 5e7)
   Subnormal results: exp within 0.75 of the smallest subnormal number, tanh exact; sigmoid 0 as soon as 2^n overflows
   (x < -88.37 and x < -709.43), where the result is below 0.36 of the smallest normal number.

   The cells' gates come from panels that are multiplied by a constant as they are packed, so that 2^v needs no product
   with 1/ln 2: `one_plus_exp2` and `tanh_parts_2`. Functions of one vector; callers interleave several for speed. */

#if REAL_BITS == 32
#define MANTISSA_BITS 23
#define MAGIC 12583039.0f /* 1.5 * 2^23 + 127: adding it rounds to an integer n, and n + 127 stands in the low bits */
#define LOG2E 1.44269504088896341f
#define LN2 0.69314718055994530942f
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440054690583e-4f
#define EXP_LOWEST -120.0f /* below, e^x is 0 */
#define EXP_HIGHEST 105.0f /* above, it is inf */
#define LOWEST_POWER -127.0f /* 0, as power_of_two has it */
#define HIGHEST_POWER 128.0f /* inf */
#define TANH_LOWEST -20.0f   /* below, 1 - e^(2x) is 1, and 1 - 2^x as well */
#else
#define MANTISSA_BITS 52
#define MAGIC 6755399441056767.0
#define LOG2E 1.44269504088896340736
#define LN2 0.69314718055994530942
#define LN2_HIGH 0.693145751953125
#define LN2_LOW 1.42860682030941723212e-6
#define EXP_LOWEST -760.0
#define EXP_HIGHEST 720.0
#define LOWEST_POWER -1023.0
#define HIGHEST_POWER 1024.0
#define TANH_LOWEST -60.0
#endif
#define SIGN (((VI){0} + 1) << (REAL_BITS - 1))

/* 2^n for an integer n from -(bias) to bias + 1, which give 0 and inf, in the form n + MAGIC */
INLINE V NAME(power_of_two)(V magic_n)
{
    return (V)((VI)magic_n << MANTISSA_BITS);
}

/* e^r - 1 */
INLINE V NAME(expm1)(V r)
{
    V q;
#if REAL_BITS == 32
    q = FMA(ALL(0.00139277405f), r, ALL(0.0083625149f));
    q = FMA(q, r, ALL(0.041666463f));
    q = FMA(q, r, ALL(0.166665837f));
    q = FMA(q, r, ALL(0.5f));
#else
    q = FMA(ALL(2.5114546204282160247e-8), r, ALL(2.7626407877588621125e-7));
    q = FMA(q, r, ALL(2.7557227753789210167e-6));
    q = FMA(q, r, ALL(0.000024801504271837581279));
    q = FMA(q, r, ALL(0.00019841269903214294648));
    q = FMA(q, r, ALL(0.0013888888932490257788));
    q = FMA(q, r, ALL(0.0083333333333145290075));
    q = FMA(q, r, ALL(0.041666666666573434196));
    q = FMA(q, r, ALL(0.16666666666666686054));
    q = FMA(q, r, ALL(0.50000000000000055431));
#endif
    return FMA(r * r, q, r);
}

/* (2^r - 1 - r ln 2) / r^2 */
INLINE V NAME(exp2_rest)(V r)
{
    V q;
#if REAL_BITS == 32
    q = FMA(ALL(0.000154035602f), r, ALL(0.00133907679f));
    q = FMA(q, r, ALL(0.00961828139f));
    q = FMA(q, r, ALL(0.055503618f));
    q = FMA(q, r, ALL(0.240226492f));
#else
    q = FMA(ALL(4.4455319984114132496e-10), r, ALL(7.0725616097936678236e-9));
    q = FMA(q, r, ALL(1.0178121329260625616e-7));
    q = FMA(q, r, ALL(1.3215442724711496351e-6));
    q = FMA(q, r, ALL(0.000015252733701155893716));
    q = FMA(q, r, ALL(0.00015403530441479869177));
    q = FMA(q, r, ALL(0.0013333558146531678847));
    q = FMA(q, r, ALL(0.0096181291076070669216));
    q = FMA(q, r, ALL(0.055504108664821236174));
    q = FMA(q, r, ALL(0.24022650695910097163));
#endif
    return q;
}

/* x / ln 2 = n + r / ln 2; returns n + MAGIC */
INLINE V NAME(split)(V x, V *r)
{
    V m = FMA(x, ALL(LOG2E), ALL(MAGIC)), n = m - ALL(MAGIC);
    *r = FMA(n, ALL(-LN2_LOW), FMA(n, ALL(-LN2_HIGH), x));
    return m;
}

/* v = n + r; returns n + MAGIC */
INLINE V NAME(split_2)(V v, V *r)
{
    V m = v + ALL(MAGIC);
    *r = v - (m - ALL(MAGIC));
    return m;
}

INLINE V NAME(exp)(V x)
{
    V m, n, half, r;
    m = NAME(split)(NAME(at_least)(EXP_LOWEST, NAME(at_most)(EXP_HIGHEST, x)), &r);
    /* 2^n in two factors: neither leaves the range of exponents, the product may */
    n = m - ALL(MAGIC);
    half = FMA(n, ALL((real)0.5), ALL(MAGIC));
    n = n - (half - ALL(MAGIC));
    return (ALL(1) + NAME(expm1)(r)) * NAME(power_of_two)(half) * NAME(power_of_two)(n + ALL(MAGIC));
}

/* 1 / (1 + e^-x): relative accuracy in both tails, as far as results are normal numbers. Beyond the bounds e^-x is 0 or
   inf. */
INLINE V NAME(sigmoid)(V x)
{
    V r, m = NAME(split)(-NAME(at_least)(-HIGHEST_POWER * LN2, NAME(at_most)(-LOWEST_POWER * LN2, x)), &r);
    return ALL(1) / FMA(NAME(power_of_two)(m), ALL(1) + NAME(expm1)(r), ALL(1));
}

/* 2^r */
INLINE V NAME(exp2_near_0)(V r)
{
    return FMA(FMA(NAME(exp2_rest)(r), r, ALL(LN2)), r, ALL(1));
}

#if VECTOR_BYTES == 64
/* 2^v. The instruction is right for any n: NaN, which infinity minus infinity is, times 2^inf is inf, and times 2^-inf is
   0. */
INLINE V NAME(power)(V v)
{
    V m = v + ALL(MAGIC), n = m - ALL(MAGIC), p = NAME(exp2_near_0)(v - n);
#if REAL_BITS == 32
    return (V)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
    return (V)_mm512_scalef_pd((__m512d)p, (__m512d)n);
#endif
}
#endif

/* 1 + 2^v, whose inverse is the sigmoid of -v ln 2 */
INLINE V NAME(one_plus_exp2)(V v)
{
#if VECTOR_BYTES == 64
    return NAME(power)(v) + ALL(1);
#else
    V r, m = NAME(split_2)(NAME(at_least)(LOWEST_POWER, NAME(at_most)(HIGHEST_POWER, v)), &r);
    return FMA(NAME(power_of_two)(m), NAME(exp2_near_0)(r), ALL(1));
#endif
}

/* 2^v, but at most nearly the largest power of 2, so that 1 + 2^v and twice that are numbers */
INLINE V NAME(exp2)(V v)
{
    v = NAME(at_most)(HIGHEST_POWER - 2, v);
#if VECTOR_BYTES == 64
    return NAME(power)(v);
#else
    V r, m = NAME(split_2)(NAME(at_least)(LOWEST_POWER, v), &r);
    return NAME(power_of_two)(m) * NAME(exp2_near_0)(r);
#endif
}

/* From 2^n and p with t = 2^n (1 + p): 1 - t, without cancellation and with the sign of x; and 1 + t. Their ratio is the
   tanh of |ln(t)/2|, and neither is ever large. */
INLINE V NAME(tanh_parts)(V power, V p, V x, V *below)
{
    V u = FMA(power, p, power - ALL(1));
    *below = FMA(power, p, power + ALL(1)); /* not 2 + u, which sees u's rounding once more */
    return (V)(((VI)u & ~SIGN) | ((VI)x & SIGN));
}

/* Numerator and denominator of tanh x */
INLINE V NAME(tanh_parts_e)(V x, V *below)
{
    V a = NAME(at_least)(TANH_LOWEST, (V)((VI)x | SIGN)), m, r;
    m = FMA(a, ALL(2 * LOG2E), ALL(MAGIC));
    r = FMA(m - ALL(MAGIC), ALL(-LN2), a + a); /* tanh hardly sees the error of n ln 2 */
    return NAME(tanh_parts)(NAME(power_of_two)(m), NAME(expm1)(r), x, below);
}

/* Numerator and denominator of the tanh of v ln(2)/2 */
INLINE V NAME(tanh_parts_2)(V v, V *below)
{
    V r, m = NAME(split_2)(NAME(at_least)(2 * TANH_LOWEST, (V)((VI)v | SIGN)), &r);
    V p = NAME(exact_fma)(r, ALL(LN2), r * r * NAME(exp2_rest)(r));
    return NAME(tanh_parts)(NAME(power_of_two)(m), p, v, below);
}

INLINE V NAME(tanh)(V x)
{
    V below, above = NAME(tanh_parts_e)(x, &below);
    return above / below;
}

/* sigmoid and tanh of a panel's sums */
INLINE V NAME(sigmoid_2)(V v)
{
    return ALL(1) / NAME(one_plus_exp2)(v);
}

INLINE V NAME(tanh_2)(V v)
{
    V below, above = NAME(tanh_parts_2)(v, &below);
    return above / below;
}

/* max(x, 0); NaN stays */
static inline V NAME(relu)(V x)
{
    return NAME(select)(x < NAME(all)(0), NAME(all)(0), x);
}

#undef MANTISSA_BITS
#undef MAGIC
#undef LOG2E
#undef LN2
#undef LN2_HIGH
#undef LN2_LOW
#undef EXP_LOWEST
#undef EXP_HIGHEST
#undef LOWEST_POWER
#undef HIGHEST_POWER
#undef TANH_LOWEST
#undef SIGN
