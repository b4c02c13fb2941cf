"""The LSTM cell: one phase per step. Equations (1) to (7) are those of `rnncore.reference.lstm`.

Gates stand side by side in a row, in torch's order i f g o. The tape keeps them after activation.
"""

from .activations cimport sigmoid, tanh
from .blas cimport FLOAT32, real
from .driver cimport Cell, Run, Step, Table, recur, recur_back


cdef void gates_forward(real *h, real *c, real *gates, const real *c_before, const real *bias,
                        Py_ssize_t n, Py_ssize_t H) noexcept nogil:
    """In: gates holds W_ih x_t + W_hh h_{t-1}. Out: gates holds i, f, g, o."""
    cdef Py_ssize_t r, j
    cdef real i, f, g, o
    for r in range(n):
        for j in range(H):
            i = sigmoid(gates[j] + bias[j])                      # (2)
            f = sigmoid(gates[H + j] + bias[H + j])              # (3)
            g = tanh(gates[2 * H + j] + bias[2 * H + j])         # (4)
            o = sigmoid(gates[3 * H + j] + bias[3 * H + j])      # (5)
            c[j] = f * c_before[j] + i * g                       # (6)
            h[j] = o * tanh(c[j])                                # (7)
            gates[j], gates[H + j], gates[2 * H + j], gates[3 * H + j] = i, f, g, o
        h += H
        c += H
        c_before += H
        gates += 4 * H


cdef void gates_backward(real *dgates, real *dc, const real *dh, const real *gates, const real *c,
                         const real *c_before, Py_ssize_t n, Py_ssize_t H) noexcept nogil:
    """dgates: the gradient of z, the gates before activation. dc goes in as c_t's gradient and out as c_{t-1}'s."""
    cdef Py_ssize_t r, j
    cdef real i, f, g, o, tanh_c, dc_t
    for r in range(n):
        for j in range(H):
            i, f, g, o = gates[j], gates[H + j], gates[2 * H + j], gates[3 * H + j]
            tanh_c = tanh(c[j])
            dc_t = dc[j] + dh[j] * o * (1 - tanh_c * tanh_c)             # (7')
            dgates[3 * H + j] = dh[j] * tanh_c * o * (1 - o)             # (7') (5')
            dgates[2 * H + j] = dc_t * i * (1 - g * g)                   # (6') (4')
            dgates[H + j] = dc_t * c_before[j] * f * (1 - f)             # (6') (3')
            dgates[j] = dc_t * g * i * (1 - i)                           # (6') (2')
            dc[j] = dc_t * f                                             # (6')
        dgates += 4 * H
        dc += H
        dh += H
        gates += 4 * H
        c += H
        c_before += H


cdef void forward(const Run *run, const Step *s) noexcept nogil:
    recur(run, s)                                                        # (1)
    if run.dtype == FLOAT32:
        gates_forward(<float *>s.after[0], <float *>s.after[1], <float *>s.gates, <const float *>s.before[1],
                      <const float *>run.bias, s.n, s.H)
    else:
        gates_forward(<double *>s.after[0], <double *>s.after[1], <double *>s.gates, <const double *>s.before[1],
                      <const double *>run.bias, s.n, s.H)


cdef void backward(const Run *run, const Step *s) noexcept nogil:
    if run.dtype == FLOAT32:
        gates_backward(<float *>s.dgates, <float *>s.dstate[1], <const float *>s.dstate[0], <const float *>s.gates,
                       <const float *>s.after[1], <const float *>s.before[1], s.n, s.H)
    else:
        gates_backward(<double *>s.dgates, <double *>s.dstate[1], <const double *>s.dstate[0], <const double *>s.gates,
                       <const double *>s.after[1], <const double *>s.before[1], s.n, s.H)
    recur_back(run, s)                                                   # (1')


cdef Table table
table.G = 4
table.states = 2
table.keeps_gates = True
table.phases = 1
table.forward[0] = forward
table.backward[0] = backward

cell = Cell.of("lstm", &table)
