"""The vanilla RNN cell: one phase per step and engine. Equations (1) and (2) are those of `rnncore.reference.rnn`.

The derivative of each activation follows from h_t alone: the tape keeps no gates.
"""

from libc.math cimport M_LOG2E

from .driver cimport BLAS, PANELS, Cell, Run, Step, Table, recur, recur_back
from .leaf cimport NONLINEARITIES, RELU, SIGMOID, TANH, PanelStep


cdef void forward_panels(const Run *run, const Step *s) noexcept nogil:
    cdef PanelStep step
    step.h, step.y, step.y_stride = s.after[0], s.y, run.y_stride
    step.h_before, step.z, step.panels = s.before[0], s.z, run.panels_hh
    step.n, step.H, step.v_0, step.v_1, step.row, step.rows = s.n, s.H, s.v_0, s.v_1, s.row, s.rows
    step.x, step.bias, step.panels_ih, step.I, step.backwards = s.x, run.panels_bias, run.panels_ih, run.I, s.backwards
    run.leaf.rnn_step[run.cell.nonlinearity](&step)                                                 # (1) (2)


cdef void forward(const Run *run, const Step *s) noexcept nogil:
    recur(run, s)                                                                                   # (1)
    run.leaf.rnn_forward[run.cell.nonlinearity](s.after[0], s.gates, run.bias, s.n, s.H)            # (2)


cdef void backward(const Run *run, const Step *s) noexcept nogil:
    run.leaf.rnn_backward[run.cell.nonlinearity](s.dgates, s.dstate[0], s.after[0], s.n, s.H)       # (2')
    recur_back(run, s)                                                                              # (1')


cdef Table[<int>NONLINEARITIES] tables

cdef object fill(int nonlinearity):
    cdef Table *table = &tables[nonlinearity]
    table.G = 1
    table.states = 1
    table.keeps_gates = False
    table.nonlinearity = nonlinearity
    table.scale[0] = 2 * M_LOG2E if nonlinearity == TANH else -M_LOG2E if nonlinearity == SIGMOID else 1
    table.phases = 1
    table.forward[BLAS][0] = forward
    table.forward[PANELS][0] = forward_panels
    table.backward[0] = backward
    return Cell.of(table)


cells = {"tanh": fill(TANH), "relu": fill(RELU), "sigmoid": fill(SIGMOID)}
