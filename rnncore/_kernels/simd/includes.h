/* What must be included before the target changes. */
#include <stdint.h>
#include <string.h>

#include "leaf.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
