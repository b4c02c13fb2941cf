"""The GRU cell. Equations (1) to (6) are those of `rnncore.reference.gru`.

With the reset after the product, one phase per step; gates stand in the order n r z s_n: sums over x in the first three,
over h in the last three. With the reset before it, as in the original, two phases, for n waits for all of r; gates stand in
the order r z n. The tape keeps them after activation.
"""

from libc.math cimport M_LOG2E
from libc.string cimport memset

from .cell cimport Cell
from .leaf cimport PanelStep
from .products cimport panel_step, recur, recur_back_add, recur_inner, recur_inner_back, units_of
from .run cimport BLAS, PANELS, Run, Step, Table


# --- reset after the product ----------------------------------------------------------------------------------------------

cdef void forward_panels(const Run *run, const Step *s) noexcept nogil:
    cdef PanelStep step
    panel_step(run, s, &step)
    run.leaf.gru_step(&step)                                                                        # (1) to (6)


cdef void forward(const Run *run, const Step *s) noexcept nogil:
    cdef Py_ssize_t r, size = run.H * run.item
    for r in range(s.n):
        memset(<char *>s.gates + (4 * r + 3) * size, 0, size)
    recur(run, s)                                                                                   # (1) (2)
    run.leaf.gru_forward(s.after[0], s.gates, s.before[0], run.bias, s.n, run.H)                    # (3) to (6)


cdef void backward(const Run *run, const Step *s) noexcept nogil:
    cdef Py_ssize_t u, units = units_of(run, s, &u)
    run.leaf.gru_backward(<char *>s.dgates + u, run.dgates_row, <char *>s.dstate[0] + u, <char *>s.gates + u,
                          <char *>s.before[0] + u, s.n, run.H, units)                               # (6') to (3')


# --- reset before it --------------------------------------------------------------------------------------------------------

cdef void reset_panels(const Run *run, const Step *s) noexcept nogil:
    cdef PanelStep step
    panel_step(run, s, &step)
    run.leaf.gru_reset_step(&step)                                                                  # (1) to (4)


cdef void new_panels(const Run *run, const Step *s) noexcept nogil:
    cdef PanelStep step
    panel_step(run, s, &step)
    step.h_before, step.inner = s.inner, s.before[0]
    run.leaf.gru_new_step(&step)                                                                    # (2) (5) (6)


cdef void reset_blas(const Run *run, const Step *s) noexcept nogil:
    recur(run, s)                                                                                   # (1) (2)
    run.leaf.gru_reset(s.inner, s.gates, s.before[0], run.bias, s.n, run.H)                         # (3) (4)


cdef void new_blas(const Run *run, const Step *s) noexcept nogil:
    recur_inner(run, s)                                                                             # (2)
    run.leaf.gru_new(s.after[0], s.gates, s.before[0], run.bias, s.n, run.H)                        # (5) (6)


cdef void new_backward(const Run *run, const Step *s) noexcept nogil:
    cdef Py_ssize_t u, units = units_of(run, s, &u)
    run.leaf.gru_new_backward(<char *>s.dgates + u, run.dgates_row, <char *>s.dstate[0] + u, <char *>s.gates + u,
                              <char *>s.before[0] + u, s.n, run.H, units)                           # (6') (5') (4')


cdef void reset_backward(const Run *run, const Step *s) noexcept nogil:
    cdef Py_ssize_t u, units = units_of(run, s, &u)
    run.leaf.gru_reset_backward(<char *>s.dgates + u, run.dgates_row, <char *>s.dstate[0] + u, <char *>s.dinner + u,
                                <char *>s.gates + u, <char *>s.before[0] + u, s.n, run.H, units)    # (2') (3')


cdef Table after, before


cdef object fill(Table *table):
    table.G = 3
    table.columns = 3 + table.shift
    table.states = 1
    table.output_scale = 1
    table.keeps_gates = True
    table.scale[0] = table.scale[1] = -M_LOG2E
    table.scale[2] = 2 * M_LOG2E
    return Cell.of(table)


after.shift, after.split = 1, 3
after.phases = 1
after.forward[BLAS][0] = forward
after.forward[PANELS][0] = forward_panels
after.back_phases = 2
after.backward[0], after.backward[1] = backward, recur_back_add                                     # (2')

before.shift, before.split = 0, 2
before.keeps_inner = True
before.phases = 2
before.forward[BLAS][0], before.forward[BLAS][1] = reset_blas, new_blas
before.forward[PANELS][0], before.forward[PANELS][1] = reset_panels, new_panels
before.back_phases = 4
before.backward[0], before.backward[1] = new_backward, recur_inner_back                             # (2')
before.backward[2], before.backward[3] = reset_backward, recur_back_add                             # (2')

cells = {True: fill(&after), False: fill(&before)}  # reset_after
