/* Leaf kernels for AArch64, whose NEON needs no switch. */
#include "includes.h"
#if defined(__aarch64__)
#define ISA neon
#define VECTOR_BYTES 16
#include "tables.h"
#endif
