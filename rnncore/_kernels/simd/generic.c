/* Leaf kernels for any machine: vectors of 16 bytes, which compilers map to what there is. Few run them: they are to be small. */
#include "includes.h"
#define ISA generic
#define VECTOR_BYTES 16
#if defined(__OPTIMIZE__) && !defined(__clang__)
#pragma GCC optimize("O2")
#endif
#include "tables.h"
