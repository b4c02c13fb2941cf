/* Leaf kernels for AVX-512 (F and DQ). */
#include "includes.h"
#if defined(__x86_64__)
#define ISA avx512
#define VECTOR_BYTES 64
#define TARGET "avx512f,avx512dq,avx2,fma,prfchw"
#include "target_begin.h"
#include "tables.h"
#include "target_end.h"
#endif
