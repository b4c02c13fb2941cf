/* Leaf kernels for AVX2 and FMA. */
#include "includes.h"
#if defined(__x86_64__)
#define ISA avx2
#define VECTOR_BYTES 32
#define TARGET "avx2,fma,prfchw"
#include "target_begin.h"
#include "tables.h"
#include "target_end.h"
#endif
