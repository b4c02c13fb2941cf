/* The kernels of one instruction set, for both dtypes, and their table. */
#define JOIN4_(a, b, c, d) a##b##c##d
#define JOIN4(a, b, c, d) JOIN4_(a, b, c, d)
#define STRING_(a) #a
#define STRING(a) STRING_(a)
#define NAME(stem) JOIN4(stem, SUFFIX, _, ISA) /* lstm_forward_f32_avx2 */

#define REAL_BITS 32
#define SUFFIX _f32
#include "cells.h"
#undef REAL_BITS
#undef SUFFIX

#define REAL_BITS 64
#define SUFFIX _f64
#include "cells.h"
#undef REAL_BITS

#define TABLE                                                                                                          \
    {                                                                                                                  \
        STRING(ISA), NAME(width), NAME(exp_map), {NAME(tanh_map), NAME(relu_map), NAME(sigmoid_map)},                  \
            {NAME(tanh_2_map), NAME(relu_map), NAME(sigmoid_2_map)},                                                   \
            {NAME(tanh_forward), NAME(relu_forward), NAME(sigmoid_forward)},                                           \
            {NAME(tanh_backward), NAME(relu_backward), NAME(sigmoid_backward)}, NAME(lstm_forward),                    \
            NAME(lstm_backward), NAME(project), {NAME(tanh_step), NAME(relu_step), NAME(sigmoid_step)},                \
            NAME(lstm_step), NAME(multiply_add), NAME(read)                                                            \
    }

const struct leaf JOIN4(leaf, _, ISA, )[2] = {
#undef SUFFIX
#define SUFFIX _f32
    TABLE,
#undef SUFFIX
#define SUFFIX _f64
    TABLE,
};
