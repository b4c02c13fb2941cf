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

#define OF_RNN(stem) {NAME(tanh##stem), NAME(relu##stem), NAME(sigmoid##stem), NAME(identity##stem)}
#define TABLE                                                                                                          \
    {                                                                                                                  \
        STRING(ISA), NAME(width), NAME(abreast), NAME(exp_map), OF_RNN(_map),                                          \
            {NAME(tanh_2_map), NAME(relu_map), NAME(sigmoid_2_map), NAME(identity_map)}, OF_RNN(_forward),             \
            OF_RNN(_backward), NAME(softmax), NAME(softmax_backward), NAME(lstm_forward), NAME(lstm_backward),         \
            NAME(gru_forward), NAME(gru_backward), NAME(gru_reset), NAME(gru_new), NAME(gru_new_backward),             \
            NAME(gru_reset_backward), NAME(pack), NAME(project), NAME(begin), NAME(inner), NAME(outer), NAME(copies),  \
            NAME(strips), NAME(dots), NAME(add_rows), NAME(sum_rows), OF_RNN(_step), NAME(lstm_step), NAME(gru_step),  \
            NAME(gru_reset_step), NAME(gru_new_step), NAME(sgd), NAME(adam), NAME(sum_of_squares), NAME(digest),       \
            NAME(multiply_add), NAME(read)                                                                             \
    }

const struct leaf JOIN4(leaf, _, ISA, )[2] = {
#undef SUFFIX
#define SUFFIX _f32
    TABLE,
#undef SUFFIX
#define SUFFIX _f64
    TABLE,
};
