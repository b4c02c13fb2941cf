"""The LSTM cell: one phase per step and engine. Equations (1) to (7) are those of `rnncore.reference.lstm`.

Gates stand side by side in a row, in torch's order i f g o. The tape keeps them after activation.
"""

from libc.math cimport M_LOG2E

from .driver cimport BLAS, PANELS, Cell, Run, Step, Table, recur, recur_back
from .leaf cimport PanelStep


cdef void forward_panels(const Run *run, const Step *s) noexcept nogil:
    cdef PanelStep step
    step.h, step.c, step.gates, step.y, step.y_stride = s.after[0], s.after[1], s.gates, s.y, run.y_stride
    step.h_before, step.c_before, step.z, step.panels = s.before[0], s.before[1], s.z, run.panels_hh
    step.n, step.H, step.v_0, step.v_1, step.row, step.rows = s.n, s.H, s.v_0, s.v_1, s.row, s.rows
    step.x, step.bias, step.panels_ih, step.I, step.backwards = s.x, run.panels_bias, run.panels_ih, run.I, s.backwards
    run.leaf.lstm_step(&step)                                                                       # (1) to (7)


cdef void forward(const Run *run, const Step *s) noexcept nogil:
    recur(run, s)                                                                                   # (1)
    run.leaf.lstm_forward(s.after[0], s.after[1], s.gates, s.before[1], run.bias, s.n, s.H)         # (2) to (7)


cdef void backward(const Run *run, const Step *s) noexcept nogil:
    run.leaf.lstm_backward(s.dgates, s.dstate[1], s.dstate[0], s.gates, s.after[1], s.before[1], s.n, s.H)  # (7') to (2')
    recur_back(run, s)                                                                              # (1')


cdef Table table
table.G = 4
table.states = 2
table.keeps_gates = True
table.scale[:] = [-M_LOG2E, -M_LOG2E, 2 * M_LOG2E, -M_LOG2E]
table.phases = 1
table.forward[BLAS][0] = forward
table.forward[PANELS][0] = forward_panels
table.backward[0] = backward

cell = Cell.of(&table)
