/* Leaf kernels for any machine: vectors of 16 bytes, which compilers map to what there is. */
#include "includes.h"
#define ISA generic
#define VECTOR_BYTES 16
#include "tables.h"
