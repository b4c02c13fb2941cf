/* A digest by AES's rounds, of processors that have them for vectors of 32 bytes. */
#include "includes.h"

#if defined(__x86_64__)
#include <cpuid.h>

__attribute__((target("avx2,vaes"))) static inline __m256i mix(__m256i chain, const char *x)
{
    chain = _mm256_aesenc_epi128(chain, _mm256_loadu_si256((const __m256i *)x));
    return _mm256_aesenc_epi128(chain, _mm256_setzero_si256());
}

/* Two rounds are a bijection of the chain, whatever the word, and of the word, whatever the chain: one changed word never
   goes unseen. A changed byte reaches all 16 that the next word is mixed with: several words of one chain go unseen with a
   probability below 2^-64, if they are changed at random. Eight chains hide the latency of a round. */
__attribute__((target("avx2,vaes"))) static void by_aes(void *state, const void *x_, ptrdiff_t n)
{
    enum { SIZE = 32, ROUND = 8 * SIZE };
    __m256i chain[8];
    const char *x = x_;
    char last[ROUND] = {0};
    for (int k = 0; k < 8; k++)
        chain[k] = _mm256_loadu_si256((const __m256i *)state + k);
    for (; n > 0; x += ROUND, n -= ROUND) {
        if (n < ROUND)
            x = memcpy(last, x, (size_t)n);
        for (int k = 0; k < 8; k++)
            chain[k] = mix(chain[k], x + k * SIZE);
    }
    for (int k = 0; k < 8; k++)
        _mm256_storeu_si256((__m256i *)state + k, chain[k]);
}

#endif

digest_function digest_by_aes(void)
{
#if defined(__x86_64__)
    unsigned a, b, c, d;
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & bit_VAES))
        return by_aes;
#endif
    return NULL;
}
