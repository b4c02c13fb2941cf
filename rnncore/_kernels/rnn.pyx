"""The vanilla RNN cell: one phase per step. Equations (1) and (2) are those of `rnncore.reference.rnn`.

The derivative of each activation follows from h_t alone: the tape keeps no gates.
"""

from .driver cimport Cell, Run, Step, Table, recur, recur_back
from .leaf cimport NONLINEARITIES, RELU, SIGMOID, TANH


cdef void forward(const Run *run, const Step *s) noexcept nogil:
    recur(run, s)                                                                                   # (1)
    run.leaf.rnn_forward[run.cell.nonlinearity](s.after[0], s.gates, run.bias, s.n, s.H)            # (2)


cdef void backward(const Run *run, const Step *s) noexcept nogil:
    run.leaf.rnn_backward[run.cell.nonlinearity](s.dgates, s.dstate[0], s.after[0], s.n, s.H)       # (2')
    recur_back(run, s)                                                                              # (1')


cdef Table[<int>NONLINEARITIES] tables

cdef object fill(str name, int nonlinearity):
    cdef Table *table = &tables[nonlinearity]
    table.G = 1
    table.states = 1
    table.keeps_gates = False
    table.nonlinearity = nonlinearity
    table.phases = 1
    table.forward[0] = forward
    table.backward[0] = backward
    return Cell.of(name, table)


cells = {"tanh": fill("tanh", TANH), "relu": fill("relu", RELU), "sigmoid": fill("sigmoid", SIGMOID)}
