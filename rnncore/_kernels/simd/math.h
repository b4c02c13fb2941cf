/* exp, tanh and sigmoid of vectors: branch-free, right at 0, inf and NaN.

   All rest on e^x = 2^n e^r with n = round(x / ln 2) and |r| <= ln(2)/2. On that interval
       e^r - 1 = r + r^2 q(r),
   where q is a minimax polynomial whose error, relative to e^r - 1, is 2^-25.3 (float32, degree 4) and 2^-55.6
   (float64, degree 9). float32's is weighted, to 2^-27.2 for 0 < r < 1/8: tanh errs most just below powers of two.
   1/ln 2 and ln 2 in two parts, the first short enough for n times it to be exact: Cody and Waite, 1980.

   Largest errors in ULP, where the result is a normal number, by tests/ulp.py:
                                          exp     tanh    sigmoid  relu
       every float32, AVX2 and AVX-512    1.08    2.47    2.49     exact
       every float32, generic             1.05    2.47    2.49     exact
       5e7 of float64, any of the three   1.03    2.51    2.46     (a sample: --dtype float64 --samples 5e7)
   Subnormal results: exp within 0.75 of the smallest subnormal number, tanh exact; sigmoid 0 as soon as 2^n overflows
   (x < -88.37 and x < -709.43), where the result is below 0.36 of the smallest normal number. */

#if REAL_BITS == 32
#define MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits */
#define MANTISSA_BITS 23
#define ONE_BITS 0x3f800000
#define LOG2E 1.44269504088896341f
#define LN2_HIGH 0.693359375f
#define LN2_LOW -2.12194440054690583e-4f
#define EXP_LOWEST -120.0f /* below, e^x is 0 */
#define EXP_HIGHEST 105.0f /* above, it is inf */
#define SIGMOID_BOUND 88.0f
#define TANH_HIGHEST 20.0f /* above, tanh(x/2) is 1 */
#else
#define MAGIC 6755399441055744.0
#define MANTISSA_BITS 52
#define ONE_BITS 0x3ff0000000000000
#define LOG2E 1.44269504088896340736
#define LN2_HIGH 0.693145751953125
#define LN2_LOW 1.42860682030941723212e-6
#define EXP_LOWEST -760.0
#define EXP_HIGHEST 720.0
#define SIGMOID_BOUND 709.0
#define TANH_HIGHEST 40.0
#endif

/* 2^n for an integer n from -(bias) to bias + 1, which give 0 and inf, in the form n + MAGIC */
static inline V NAME(power_of_two)(V magic_n)
{
    return (V)(((VI)magic_n << MANTISSA_BITS) + ((VI){0} + (bits)ONE_BITS));
}

/* e^r - 1, where x = n ln 2 + r; stores n + MAGIC */
static inline V NAME(reduced_expm1)(V x, V *magic_n)
{
    V m = NAME(fma)(x, NAME(all)(LOG2E), NAME(all)(MAGIC));
    V n = m - NAME(all)(MAGIC);
    V r = NAME(fma)(n, NAME(all)(-LN2_LOW), NAME(fma)(n, NAME(all)(-LN2_HIGH), x));
    V q;
#if REAL_BITS == 32
    q = NAME(all)(0.00139277405f);
    q = NAME(fma)(q, r, NAME(all)(0.0083625149f));
    q = NAME(fma)(q, r, NAME(all)(0.041666463f));
    q = NAME(fma)(q, r, NAME(all)(0.166665837f));
    q = NAME(fma)(q, r, NAME(all)(0.5f));
#else
    q = NAME(all)(2.5114546204282160247e-8);
    q = NAME(fma)(q, r, NAME(all)(2.7626407877588621125e-7));
    q = NAME(fma)(q, r, NAME(all)(2.7557227753789210167e-6));
    q = NAME(fma)(q, r, NAME(all)(0.000024801504271837581279));
    q = NAME(fma)(q, r, NAME(all)(0.00019841269903214294648));
    q = NAME(fma)(q, r, NAME(all)(0.0013888888932490257788));
    q = NAME(fma)(q, r, NAME(all)(0.0083333333333145290075));
    q = NAME(fma)(q, r, NAME(all)(0.041666666666573434196));
    q = NAME(fma)(q, r, NAME(all)(0.16666666666666686054));
    q = NAME(fma)(q, r, NAME(all)(0.50000000000000055431));
#endif
    *magic_n = m;
    return NAME(fma)(r * r, q, r);
}

static inline V NAME(exp)(V x)
{
    V magic_n, n, half, p;
    p = NAME(reduced_expm1)(NAME(at_least)(EXP_LOWEST, NAME(at_most)(EXP_HIGHEST, x)), &magic_n);
    /* 2^n in two factors: neither leaves the range of exponents, the product may */
    n = magic_n - NAME(all)(MAGIC);
    half = NAME(fma)(n, NAME(all)((real)0.5), NAME(all)(MAGIC));
    n = n - (half - NAME(all)(MAGIC));
    return (NAME(all)(1) + p) * NAME(power_of_two)(half) * NAME(power_of_two)(n + NAME(all)(MAGIC));
}

/* 1 / (1 + e^-x): relative accuracy in both tails, as far as results are normal numbers. Beyond the bounds e^-x is 0 or
   inf. */
static inline V NAME(sigmoid)(V x)
{
    V magic_n, p = NAME(reduced_expm1)(-NAME(at_least)(-SIGMOID_BOUND - 1, NAME(at_most)(SIGMOID_BOUND, x)), &magic_n);
    return NAME(all)(1) / NAME(fma)(NAME(power_of_two)(magic_n), NAME(all)(1) + p, NAME(all)(1));
}

/* With t = e^(2|x|) - 1, computed without cancellation: tanh |x| = t / (t + 2), and the sign of x */
static inline V NAME(tanh)(V x)
{
    VI sign = (VI)x & (((VI){0} + 1) << (REAL_BITS - 1));
    V a = (V)((VI)x ^ sign), magic_n, p, s, t;
    p = NAME(reduced_expm1)(NAME(at_most)(TANH_HIGHEST, a + a), &magic_n);
    s = NAME(power_of_two)(magic_n);
    t = NAME(fma)(s, p, s - NAME(all)(1));
    return (V)((VI)(t / (t + NAME(all)(2))) | sign);
}

/* max(x, 0); NaN stays */
static inline V NAME(relu)(V x)
{
    return NAME(select)(x < NAME(all)(0), NAME(all)(0), x);
}

#undef MAGIC
#undef MANTISSA_BITS
#undef ONE_BITS
#undef LOG2E
#undef LN2_HIGH
#undef LN2_LOW
#undef EXP_LOWEST
#undef EXP_HIGHEST
#undef SIGMOID_BOUND
#undef TANH_HIGHEST
