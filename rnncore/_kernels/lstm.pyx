"""The LSTM cell: one phase per step and engine. Equations (1) to (7) are those of `rnncore.reference.lstm`; (8), the
projection, is `products`'.

Gates stand side by side in a row, in torch's order i f g o. The tape keeps them after activation.
"""

from libc.math cimport M_LOG2E

from .cell cimport Cell
from .leaf cimport IDENTITY, PanelStep
from .products cimport panel_step, recur, recur_back, units_of
from .run cimport BLAS, PANELS, Run, Step, Table


cdef void forward_panels(const Run *run, const Step *s) noexcept nogil:
    cdef PanelStep step
    panel_step(run, s, &step)
    run.leaf.lstm_step(&step)                                                                       # (1) to (7)


cdef void forward(const Run *run, const Step *s) noexcept nogil:
    recur(run, s)                                                                                   # (1)
    run.leaf.lstm_forward(s.inner if run.projects else s.after[0], s.after[1], s.gates, s.before[1], run.bias,
                          run.peephole, s.n, run.H)                                                 # (2) to (7)


cdef void backward(const Run *run, const Step *s) noexcept nogil:
    cdef Py_ssize_t u, units = units_of(run, s, &u)
    run.leaf.lstm_backward(
        <char *>s.dgates + u, run.dgates_row, <char *>s.dstate[1] + u, <char *>s.flow + u if s.flow != NULL else NULL,
        <char *>s.dh + u, <char *>s.gates + u, <char *>s.after[1] + u, <char *>s.before[1] + u,
        run.peephole + u if run.peephole != NULL else NULL, s.n, run.H, units)                      # (7') to (2')


cdef Table table
table.G = table.split = table.columns = 4
table.shift = 0
table.states = 2
table.output = IDENTITY
table.output_scale = 1
table.interleaved = True
table.keeps_gates = True
table.may_project = True
table.scale[:] = [-M_LOG2E, -M_LOG2E, 2 * M_LOG2E, -M_LOG2E]
table.phases = 1
table.forward[BLAS][0] = forward
table.forward[PANELS][0] = forward_panels
table.back_phases = 2
table.backward[0], table.backward[1] = backward, recur_back                                         # (1')

cell = Cell.of(&table)
