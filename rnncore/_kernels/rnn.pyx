"""The vanilla RNN cell: one phase per step. Equations (1) and (2) are those of `rnncore.reference.rnn`.

The derivative of each activation follows from h_t alone: the tape keeps no gates.
"""

from .activations cimport relu, sigmoid, tanh
from .blas cimport FLOAT32, real
from .driver cimport Cell, Phase, Run, Step, Table, recur, recur_back

cdef enum Nonlinearity:
    TANH
    RELU
    SIGMOID


cdef inline void gates_forward(Nonlinearity f, real *h, const real *a, const real *bias,
                               Py_ssize_t n, Py_ssize_t H) noexcept nogil:
    """h_t (n, H) from a (n, H), which holds W_ih x_t + W_hh h_{t-1}."""
    cdef Py_ssize_t r, j
    for r in range(n):
        for j in range(H):
            if f == TANH:
                h[j] = tanh(a[j] + bias[j])         # (2)
            elif f == RELU:
                h[j] = relu(a[j] + bias[j])         # (2)
            else:
                h[j] = sigmoid(a[j] + bias[j])      # (2)
        h += H
        a += H


cdef inline void gates_backward(Nonlinearity f, real *da, const real *dh, const real *h,
                                Py_ssize_t n, Py_ssize_t H) noexcept nogil:
    cdef Py_ssize_t j
    for j in range(n * H):
        if f == TANH:
            da[j] = dh[j] * (1 - h[j] * h[j])       # (2')
        elif f == RELU:
            da[j] = 0 if h[j] <= 0 else dh[j]       # (2')
        else:
            da[j] = dh[j] * h[j] * (1 - h[j])       # (2')


cdef inline void forward(Nonlinearity f, const Run *run, const Step *s) noexcept nogil:
    recur(run, s)                                   # (1)
    if run.dtype == FLOAT32:
        gates_forward(f, <float *>s.after[0], <const float *>s.gates, <const float *>run.bias, s.n, s.H)
    else:
        gates_forward(f, <double *>s.after[0], <const double *>s.gates, <const double *>run.bias, s.n, s.H)


cdef inline void backward(Nonlinearity f, const Run *run, const Step *s) noexcept nogil:
    if run.dtype == FLOAT32:
        gates_backward(f, <float *>s.dgates, <const float *>s.dstate[0], <const float *>s.after[0], s.n, s.H)
    else:
        gates_backward(f, <double *>s.dgates, <const double *>s.dstate[0], <const double *>s.after[0], s.n, s.H)
    recur_back(run, s)                              # (1')


# One pair of phases per activation, which is a constant inside it.
cdef void tanh_forward(const Run *run, const Step *s) noexcept nogil:
    forward(TANH, run, s)

cdef void tanh_backward(const Run *run, const Step *s) noexcept nogil:
    backward(TANH, run, s)

cdef void relu_forward(const Run *run, const Step *s) noexcept nogil:
    forward(RELU, run, s)

cdef void relu_backward(const Run *run, const Step *s) noexcept nogil:
    backward(RELU, run, s)

cdef void sigmoid_forward(const Run *run, const Step *s) noexcept nogil:
    forward(SIGMOID, run, s)

cdef void sigmoid_backward(const Run *run, const Step *s) noexcept nogil:
    backward(SIGMOID, run, s)


cdef Table[3] tables

cdef object fill(str name, Nonlinearity f, Phase forward_phase, Phase backward_phase):
    cdef Table *table = &tables[<int>f]
    table.G = 1
    table.states = 1
    table.keeps_gates = False
    table.phases = 1
    table.forward[0] = forward_phase
    table.backward[0] = backward_phase
    return Cell.of(name, table)


cells = {
    "tanh": fill("tanh", TANH, tanh_forward, tanh_backward),
    "relu": fill("relu", RELU, relu_forward, relu_backward),
    "sigmoid": fill("sigmoid", SIGMOID, sigmoid_forward, sigmoid_backward),
}
