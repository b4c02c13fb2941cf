"""The vanilla RNN cell: one phase per step and engine. Equations (1) and (2) are those of `rnncore.reference.rnn`, and of
`rnncore.reference.jordan`, whose output, (3) and (4), is `products`'.

The derivative of each activation follows from h_t alone: the tape keeps no gates.
"""

from libc.math cimport M_LOG2E

from .cell cimport Cell
from .leaf cimport IDENTITY, RELU, SIGMOID, TANH, PanelStep
from .products cimport panel_step, recur, recur_back, units_of
from .run cimport BLAS, PANELS, SOFTMAX, Run, Step, Table


cdef void forward_panels(const Run *run, const Step *s) noexcept nogil:
    cdef PanelStep step
    panel_step(run, s, &step)
    run.leaf.rnn_step[run.cell.nonlinearity](&step)                                                 # (1) (2)


cdef void forward(const Run *run, const Step *s) noexcept nogil:
    recur(run, s)                                                                                   # (1)
    run.leaf.rnn_forward[run.cell.nonlinearity](s.inner if run.projects else s.after[0], s.gates, run.bias, s.n,
                                                run.H)                                              # (2)


cdef void backward(const Run *run, const Step *s) noexcept nogil:
    cdef Py_ssize_t u, units = units_of(run, s, &u)
    run.leaf.rnn_backward[run.cell.nonlinearity](
        <char *>s.dgates + u, run.dgates_row, <char *>s.dh + u, <char *>(s.inner if run.projects else s.after[0]) + u,
        s.n, run.H, units)                                                                          # (2')


cdef double scale(int function):
    """By which weights are multiplied for a function of panels' sums."""
    return 2 * M_LOG2E if function == TANH else -M_LOG2E if function == SIGMOID else 1


FUNCTIONS = {"tanh": TANH, "relu": RELU, "sigmoid": SIGMOID}
OUTPUTS = {"identity": IDENTITY, "sigmoid": SIGMOID, "tanh": TANH, "softmax": SOFTMAX}
cdef Table[3][5] tables


cdef object fill(int nonlinearity, int output):
    cdef Table *table = &tables[nonlinearity][output]
    table.G = table.split = table.columns = table.states = 1
    table.shift = 0
    table.nonlinearity, table.scale[0] = nonlinearity, scale(nonlinearity)
    table.output, table.output_scale = output, scale(output)
    table.keeps_gates = False
    table.may_project = True
    table.phases = 1
    table.forward[BLAS][0] = forward
    table.forward[PANELS][0] = forward_panels
    table.back_phases = 2
    table.backward[0], table.backward[1] = backward, recur_back                                     # (1')
    return Cell.of(table)


jordan_cells = {(f, g): fill(FUNCTIONS[f], OUTPUTS[g]) for f in FUNCTIONS for g in OUTPUTS}
cells = {f: jordan_cells[f, "identity"] for f in FUNCTIONS}
