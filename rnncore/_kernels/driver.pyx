"""The time loop, once for all cells: forwards and backwards over a schedule, in blocks of time, without the GIL.

Forward, per block: one product for W_ih x of all its steps, then step by step the cell's phases. Both are done by one of
two engines: `panels`, packed weights and one pass for product, gates and state; `blas`, products by BLAS.
Backward, per block: step by step the cell's phases, which leave the gates' gradients of the block, then one product
each for dW_ih, dW_hh and dx, and a sum for db.
"""

import threading

import numpy as np

cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from libc.string cimport memcpy

from .blas cimport FLOAT32, FLOAT64, check_dimension, load, product, product_blocked, real
from .leaf cimport leaf_of
from .pack cimport Pack, aligned

cnp.import_array()

# Rows of one block's large products. blas: enough for it to run at full speed; panels: few enough for x and the sums
# over it to stay in the second-level cache.
cdef enum:
    BLAS_ROWS = 512
    PANEL_ROWS = 96

BLOCK_ROWS = BLAS_ROWS

cdef double SLICE = 1e9  # floating-point operations between two looks for Ctrl-C: some 10 to 50 ms of work

cdef int engine = PANELS


def use(str name not None):
    """Use an engine, "panels" or "blas", for forward passes from now on, in the whole process."""
    global engine
    engine = {"blas": BLAS, "panels": PANELS}[name]


# --- schedule ---------------------------------------------------------------------------------------------------------

cdef inline Py_ssize_t blocks(const Schedule *s) noexcept nogil:
    return (s.T + s.block - 1) // s.block


cdef inline Py_ssize_t rows(const Schedule *s, Py_ssize_t t) noexcept nogil:
    """Rows that are active at time t."""
    return s.N


cdef inline Py_ssize_t first_row(const Schedule *s, Py_ssize_t t) noexcept nogil:
    """Where the rows of time t begin in x, y and the tape's gates; for t = T, their end."""
    return t * s.N


cdef inline Py_ssize_t slot_before(const Schedule *s, Py_ssize_t t) noexcept nogil:
    """Slot of the states that step t reads. Slots are T + 1, so that the initial state needs no branch."""
    return t + 1 if s.reverse else t


cdef inline Py_ssize_t slot_after(const Schedule *s, Py_ssize_t t) noexcept nogil:
    """Slot of the states that step t writes."""
    return t if s.reverse else t + 1


cdef inline char *state_at(const Run *run, int k, Py_ssize_t slot) noexcept nogil:
    return run.state[k] + (slot if run.tape else slot & 1) * run.schedule.N * run.H * run.item


# --- products and sums ------------------------------------------------------------------------------------------------

cdef void recur(const Run *run, const Step *s) noexcept nogil:
    """gates (n, G*H) += h_{t-1} (n, H) W_hh^T."""
    cdef Py_ssize_t GH = run.cell.G * s.H
    product_blocked(run.dtype, s.n, GH, s.H, s.before[0], run.W_hh_T, 1, s.gates)


cdef void recur_back(const Run *run, const Step *s) noexcept nogil:
    """dh_{t-1} (n, H) = dgates (n, G*H) W_hh."""
    cdef Py_ssize_t GH = run.cell.G * s.H
    product_blocked(run.dtype, s.n, s.H, GH, s.dgates, run.W_hh, 0, s.dstate[0])


cdef void add_rows(real *out, const real *a, Py_ssize_t stride, Py_ssize_t n, Py_ssize_t H) noexcept nogil:
    """out (n, H) += a, whose rows are `stride` apart."""
    cdef Py_ssize_t r, j
    for r in range(n):
        for j in range(H):
            out[r * H + j] += a[r * stride + j]


cdef void add_sums(real *out, real *partial, const real *a, Py_ssize_t n, Py_ssize_t m) noexcept nogil:
    """out (m) += the column sums of a (n, m), summed in `partial` (m) first: one rounding of `out` per block."""
    cdef Py_ssize_t r, j
    for j in range(m):
        partial[j] = 0
    for r in range(n):
        for j in range(m):
            partial[j] += a[r * m + j]
    for j in range(m):
        out[j] += partial[j]


# --- the loop ---------------------------------------------------------------------------------------------------------

cdef int look_for_signals() except -1 with gil:
    return PyErr_CheckSignals()


cdef inline double work(const Run *run, Py_ssize_t n) noexcept nogil:
    """Roughly what n rows cost, in floating-point operations of a product."""
    return 2.0 * n * run.cell.G * run.H * (run.I + run.H + 100)


cdef Step step_at(const Run *run, Py_ssize_t t, Py_ssize_t row_0, Py_ssize_t block_rows) noexcept nogil:
    """The step at time t; row_0 is the first row of its block, where workspace of one block begins."""
    cdef const Schedule *schedule = &run.schedule
    cdef Step s
    cdef int k
    cdef Py_ssize_t row = first_row(schedule, t), width = run.cell.G * run.H * run.item
    cdef bint keeps = run.tape and run.cell.keeps_gates
    s.n = rows(schedule, t)
    s.H = run.H
    s.row, s.rows = row - row_0, block_rows
    s.gates = run.gates + (row if keeps else row - row_0) * width if run.gates != NULL else NULL
    s.dgates = run.dgates + (row - row_0) * width if run.dgates != NULL else NULL
    for k in range(run.cell.states):
        s.before[k] = state_at(run, k, slot_before(schedule, t))
        s.after[k] = state_at(run, k, slot_after(schedule, t))
        s.dstate[k] = run.dstate[k]
    return s


cdef int forward(const Run *run) except -1 nogil:
    cdef const Schedule *schedule = &run.schedule
    cdef Py_ssize_t b, i, r, t, t_0, t_1, row_0, n, GH = run.cell.G * run.H, width = run.H * run.item
    cdef const char *x
    cdef int p
    cdef double done = 0
    cdef Step s
    for b in range(blocks(schedule)):
        t_0 = (blocks(schedule) - 1 - b if schedule.reverse else b) * schedule.block
        t_1 = min(t_0 + schedule.block, schedule.T)
        row_0 = first_row(schedule, t_0)
        n = first_row(schedule, t_1) - row_0
        x = run.x + row_0 * run.I * run.item
        if run.engine == PANELS:
            run.leaf.project(run.z, run.panels_bias, x, run.panels_ih, n, run.I, run.vectors)
        else:
            s = step_at(run, t_0, row_0, n)
            product(run.dtype, False, True, n, GH, run.I, x, run.I, run.W_ih, run.I, 0, s.gates, GH)
        for i in range(t_1 - t_0):
            t = t_1 - 1 - i if schedule.reverse else t_0 + i
            s = step_at(run, t, row_0, n)
            for p in range(run.cell.phases):
                run.cell.forward[run.engine][p](run, &s)
            if run.y != NULL:
                for r in range(s.n):
                    memcpy(run.y + (first_row(schedule, t) + r) * run.y_stride * run.item,
                           <char *>s.after[0] + r * width, width)
            if run.interruptible:
                done += work(run, s.n)
                if done > SLICE:
                    done = 0
                    look_for_signals()
    return 0


cdef int backward(const Run *run) except -1 nogil:
    cdef const Schedule *schedule = &run.schedule
    cdef Py_ssize_t b, i, t, t_0, t_1, row_0, n, GH = run.cell.G * run.H
    cdef const char *x
    cdef const char *dy
    cdef const char *h
    cdef int p
    cdef double done = 0
    cdef Step s
    for b in range(blocks(schedule)):
        t_0 = (b if schedule.reverse else blocks(schedule) - 1 - b) * schedule.block
        t_1 = min(t_0 + schedule.block, schedule.T)
        row_0 = first_row(schedule, t_0)
        n = first_row(schedule, t_1) - row_0
        for i in range(t_1 - t_0):
            t = t_0 + i if schedule.reverse else t_1 - 1 - i
            s = step_at(run, t, row_0, n)
            if run.dy != NULL:  # dh_t is the gradient through the later steps plus the one through y_t
                dy = run.dy + first_row(schedule, t) * run.y_stride * run.item
                if run.dtype == FLOAT32:
                    add_rows(<float *>s.dstate[0], <const float *>dy, run.y_stride, s.n, s.H)
                else:
                    add_rows(<double *>s.dstate[0], <const double *>dy, run.y_stride, s.n, s.H)
            for p in range(run.cell.phases):
                run.cell.backward[p](run, &s)
            if run.interruptible:
                done += 3 * work(run, s.n)
                if done > SLICE:
                    done = 0
                    look_for_signals()
        x = run.x + row_0 * run.I * run.item
        h = state_at(run, 0, t_0 + schedule.reverse)  # h_{t-1} of the block's steps, one after the other
        product(run.dtype, True, False, GH, run.I, n, run.dgates, GH, x, run.I, 1, run.dW_ih, run.I)
        product(run.dtype, True, False, GH, run.H, n, run.dgates, GH, h, run.H, 1, run.dW_hh, run.H)
        product(run.dtype, False, False, n, run.I, GH, run.dgates, GH, run.W_ih, run.I, run.beta_dx,
                run.dx + row_0 * run.I * run.item, run.I)
        if run.dtype == FLOAT32:
            add_sums(<float *>run.db, <float *>run.db + GH, <const float *>run.dgates, n, GH)
        else:
            add_sums(<double *>run.db, <double *>run.db + GH, <const double *>run.dgates, n, GH)
    return 0


# --- from arrays to a run ---------------------------------------------------------------------------------------------

cdef char *data(object array, const Run *run, bint writes, Py_ssize_t a, Py_ssize_t b=-1, Py_ssize_t c=-1) except? NULL:
    """The first byte of an array of shape (a,), (a, b) or (a, b, c), of the run's dtype and ready for C.

    Callers guarantee all this; the check keeps a mistake of theirs from reading out of bounds. It looks at the array
    itself: a subclass could tell anything about its shape.
    """
    cdef cnp.ndarray x
    cdef int ndim = 1 if b < 0 else 2 if c < 0 else 3
    if type(array) is np.ndarray:
        x = array
        if (
            cnp.PyArray_TYPE(x) == (cnp.NPY_FLOAT if run.dtype == FLOAT32 else cnp.NPY_DOUBLE)
            and cnp.PyArray_NDIM(x) == ndim
            and cnp.PyArray_DIM(x, 0) == a
            and (ndim < 2 or cnp.PyArray_DIM(x, 1) == b)
            and (ndim < 3 or cnp.PyArray_DIM(x, 2) == c)
            and (cnp.PyArray_ISCARRAY(x) if writes else cnp.PyArray_ISCARRAY_RO(x))
        ):
            return <char *>cnp.PyArray_DATA(x)
    shape = (a, b, c)[:ndim]
    raise ValueError(f"expected a C-contiguous array of shape {shape} and {run.item} bytes an element, got {array!r:.80}")


cdef char *column_of(object y, Run *run, Py_ssize_t column, bint writes) except? NULL:
    """The first byte of a column of y (T, N, ·), and the stride of its rows in the run; NULL for None."""
    run.y_stride = 0
    if y is None:
        return NULL
    if type(y) is not np.ndarray or cnp.PyArray_NDIM(<cnp.ndarray>y) != 3:
        raise ValueError(f"expected an array (T, N, ·), got {y!r:.80}")
    run.y_stride = cnp.PyArray_DIM(<cnp.ndarray>y, 2)
    if not 0 <= column <= run.y_stride - run.H:
        raise ValueError(f"expected a column between 0 and {run.y_stride - run.H}, got {column}")
    return data(y, run, writes, run.schedule.T, run.schedule.N, run.y_stride) + column * run.item


cdef Table nothing


@cython.final
@cython.auto_pickle(False)
cdef class Cell:
    """A cell's kernels, for one layer in one direction. All arrays are C-contiguous and of one dtype.

    `x` is (T, N, I). `y` is (T, N, ·), of which the columns from `column` on are this direction's, or None. `states`
    and `finals` hold one (N, H) array per state (h; c): read, and written at the end.
    """

    def __cinit__(self):
        self.table = &nothing  # until `of` names one: a cell that Python made refuses all weights

    @staticmethod
    cdef Cell of(const Table *table):
        cdef Cell cell = Cell.__new__(Cell)
        cell.table = table
        return cell

    cdef int start(self, Run *run, Pack pack, object x, bint reverse, Py_ssize_t block_rows) except -1:
        """Fill in what all passes share."""
        cdef cnp.ndarray a
        if type(x) is not np.ndarray or cnp.PyArray_NDIM(<cnp.ndarray>x) != 3:
            raise ValueError(f"expected an array x (T, N, I), got {x!r:.80}")
        a = x
        run.cell = self.table
        run.dtype = FLOAT32 if cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT else FLOAT64
        run.leaf = leaf_of(run.dtype)
        run.item = 4 if run.dtype == FLOAT32 else 8
        run.H = pack.hidden_size
        run.I = pack.input_size
        if pack.gates != run.cell.G:
            raise ValueError(f"expected weights of {run.cell.G} gates, got {pack.gates}")
        cdef Schedule *schedule = &run.schedule
        schedule.T, schedule.N = cnp.PyArray_DIM(a, 0), cnp.PyArray_DIM(a, 1)
        run.x = data(x, run, False, schedule.T, schedule.N, run.I)
        schedule.block = min(block_rows // max(schedule.N, 1), <Py_ssize_t>(SLICE / work(run, max(schedule.N, 1))))
        schedule.block = min(max(schedule.block, 1), max(schedule.T, 1))
        schedule.reverse = reverse
        run.interruptible = (
            work(run, schedule.T * schedule.N) > SLICE and threading.current_thread() is threading.main_thread()
        )
        return 0

    cdef int start_blas(self, Run *run) except -1:
        """Load BLAS and check what it has to count."""
        load()
        check_dimension(max(run.schedule.block * run.schedule.N, run.cell.G * run.H, run.I))
        return 0

    def infer(self, Pack pack not None, x not None, tuple states not None, y, Py_ssize_t column, tuple finals not None,
              bint reverse=False):
        """Run forwards and keep nothing but y and the final states."""
        self._forward(pack, x, states, y, column, finals, reverse, False)

    def forward(self, Pack pack not None, x not None, tuple states not None, y, Py_ssize_t column,
                tuple finals not None, bint reverse=False):
        """Run forwards and return what `backward` needs: the gates (or None), then each state at T + 1 times."""
        return self._forward(pack, x, states, y, column, finals, reverse, True)

    def _forward(self, Pack pack, x, tuple states, y, Py_ssize_t column, tuple finals, bint reverse, bint tape):
        cdef Run run
        cdef int k, count = self.table.states
        cdef Py_ssize_t size, slots, GH, T, N, H, vw
        cdef int chosen = engine
        self.start(&run, pack, x, reverse, PANEL_ROWS if chosen == PANELS else BLAS_ROWS)
        cdef Schedule *schedule = &run.schedule
        T, N, H, GH = schedule.T, schedule.N, run.H, run.cell.G * run.H
        for k in range(count):  # real arrays of N*H elements: that product, and those with x's, cannot overflow
            data(states[k], &run, False, N, H)
        size = N * H
        run.engine = chosen
        run.tape = tape
        run.dgates = NULL
        run.y = column_of(y, &run, column, True)
        rows = min(<object>schedule.block * N, <object>T * N)  # of one block; exact, however large
        slots = T + 1 if tape else 2
        keeps = tape and self.table.keeps_gates
        if chosen == PANELS:
            weights = pack.for_panels(run.leaf.width)
            vw = len(weights[2])
            run.vectors = vw // run.leaf.width
            run.panels_ih = data(weights[0], &run, False, vw * run.I)
            run.panels_hh = data(weights[1], &run, False, vw * H)
            run.panels_bias = data(weights[2], &run, False, vw)
            z = aligned(rows * vw, x.dtype)
            run.z = data(z, &run, True, len(z))
        else:
            self.start_blas(&run)
            weights = pack.for_blas()
            run.W_ih = data(weights[0], &run, False, GH, run.I)
            run.W_hh_T = data(weights[1], &run, False, GH * H)
            run.bias = data(weights[2], &run, False, GH)
        gates = None
        run.gates = NULL
        if keeps or chosen == BLAS:
            gates = np.empty((<object>T * N if keeps else rows, GH), x.dtype)
            run.gates = data(gates, &run, True, len(gates), GH)
        kept = tuple([np.empty((slots, N, H), x.dtype) for _ in range(count)])
        for k in range(count):
            run.dstate[k] = NULL
            run.state[k] = data(kept[k], &run, True, slots, N, H)
            memcpy(state_at(&run, k, T if reverse else 0), data(states[k], &run, False, N, H), size * run.item)
            data(finals[k], &run, True, N, H)
        if N > 0:
            with nogil:
                forward(&run)
        for k in range(count):
            memcpy(data(finals[k], &run, True, N, H), state_at(&run, k, 0 if reverse else T), size * run.item)
        return (gates if keeps else None, *kept) if tape else None

    def backward(self, Pack pack not None, x not None, tuple kept not None, dy, Py_ssize_t column,
                 tuple dstates not None, dx not None, bint add_dx, dW_ih not None, dW_hh not None, db not None,
                 bint reverse=False):
        """Run backwards from `kept`, as `forward` returned it.

        `dstates`, (N, H) each, hold the final states' gradients and get the initial states'. `dx` is written or, with
        `add_dx`, added to; `dW_ih`, `dW_hh` and `db` (G*H,) are added to.
        """
        cdef Run run
        cdef int k
        cdef Py_ssize_t T, N, H, GH
        self.start(&run, pack, x, reverse, BLAS_ROWS)
        self.start_blas(&run)
        cdef Schedule *schedule = &run.schedule
        T, N, H, GH = schedule.T, schedule.N, run.H, run.cell.G * run.H
        weights = pack.for_backward()
        run.W_ih = data(weights[0], &run, False, GH, run.I)
        run.W_hh = data(weights[1], &run, False, GH * H)
        run.tape = True
        run.gates = NULL
        for k in range(self.table.states):
            run.state[k] = data(kept[1 + k], &run, False, T + 1, N, H)
            run.dstate[k] = data(dstates[k], &run, True, N, H)
        if self.table.keeps_gates:
            run.gates = data(kept[0], &run, False, T * N, GH)
        run.dy = column_of(dy, &run, column, False)
        rows = min(<object>schedule.block * N, <object>T * N)
        dgates = np.empty((rows, GH), x.dtype)
        sums = np.zeros((2, GH), x.dtype)  # of all blocks; of one
        run.dgates = data(dgates, &run, True, len(dgates), GH)
        run.dx = data(dx, &run, True, T, N, run.I)
        run.beta_dx = 1 if add_dx else 0
        run.dW_ih = data(dW_ih, &run, True, GH, run.I)
        run.dW_hh = data(dW_hh, &run, True, GH, H)
        run.db = data(sums, &run, True, 2, GH)
        data(db, &run, True, GH)
        if N > 0:
            with nogil:
                backward(&run)
        db += sums[0]
