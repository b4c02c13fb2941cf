"""The LSTM cell: one phase per step. Equations (1) to (7) are those of `rnncore.reference.lstm`.

Gates stand side by side in a row, in torch's order i f g o. The tape keeps them after activation.
"""

from .driver cimport Cell, Run, Step, Table, recur, recur_back


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
table.phases = 1
table.forward[0] = forward
table.backward[0] = backward

cell = Cell.of("lstm", &table)
