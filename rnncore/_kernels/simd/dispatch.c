/* Which instruction sets this machine can run. */

#include "leaf.h"

const struct leaf *leaf_tables(int k)
{
    const struct leaf *found[4] = {0};
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
        found[count++] = leaf_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        found[count++] = leaf_avx2;
#elif defined(__aarch64__)
    found[count++] = leaf_neon;
#endif
    found[count++] = leaf_generic;
    return k >= 0 && k < count ? found[k] : NULL;
}
