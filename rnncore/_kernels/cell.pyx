"""From arrays to a run: what Python hands to the time loop is looked at here, array by array, before any kernel runs.

`Cell` is a cell's kernels as layers call them; `Ragged` the order in which sequences of several lengths run.
"""

import numpy as np

from .memory import empty

cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from libc.string cimport memset

from .blas cimport FLOAT32, FLOAT64, check_dimension, load
from .crew cimport Member
from .driver cimport back_block, backward, engine, forward, side_strips, sums_of_rows, wanted
from .leaf cimport leaf_of
from .pack cimport Pack
from .products cimport input_gradient, input_weight_gradient, project_blas, project_panels, softmax_rows
from .run cimport BLAS, BLAS_ROWS, PANELS, SOFTMAX, Matrix, Run, Schedule, Table, row_at, state_rows

cnp.import_array()

cdef enum:
    TOKENS = 2      # what `data` takes for a dtype besides: NumPy's intp
    TABLE_ROWS = 64 # of a table, made at once
    BACK_TABLE_ROWS = 256
    STRIP_ROWS = 128    # of x and y: with fewer, weights are multiplied as they are, for copies would take longer
    FAR_STRIP_ROWS = 32 # the same where weights' rows are so far apart that they fall out of every cache in between
    FAR_BYTES = 2048
    STRIP_STEPS = 48    # each of which reads W_hh: with fewer, it is multiplied as W_ih is

cdef double TABLE_WORK = 1e9    # floating-point operations between two looks for Ctrl-C, without the GIL: some 10 ms


# --- sequences of several lengths ---------------------------------------------------------------------------------------

@cython.final
@cython.auto_pickle(False)
cdef class Ragged:
    """The order in which sequences of several lengths run.

    Parameters
    ----------
    lengths : ndarray (N,) of int64
        Any order, from 0 to `T`; ValueError otherwise.
    T : int
        Steps of the padded sequences.

    Attributes
    ----------
    T : int
        The longest length: steps that there are.
    order : ndarray (N,)
        The sequences, the longest first.
    lengths : ndarray (N,)
        Theirs.
    offsets : ndarray (T+1,)
        Rows of all times before t, in packed order.
    rows : int
        Of all times: the sum of the lengths.
    """

    def __cinit__(self, lengths not None, Py_ssize_t T):
        cdef Py_ssize_t t, n, place
        if type(lengths) is not np.ndarray or lengths.ndim != 1 or lengths.dtype != np.int64:
            raise ValueError(f"expected lengths (N,) of int64, got {lengths!r:.80}")
        self.N, self.T, self.t_0 = len(lengths), 0, 0
        cdef const long long[:] given = lengths
        for n in range(self.N):
            if not 0 <= given[n] <= T:
                raise ValueError(f"expected lengths between 0 and {T}, got {given[n]}")
            self.T = max(self.T, <Py_ssize_t>given[n])
        self.places, self.sizes = np.empty(self.N, np.intp), np.empty(self.N, np.intp)
        self.starts = np.zeros(self.T + 1, np.intp)
        cdef Py_ssize_t *order = <Py_ssize_t *>cnp.PyArray_DATA(<cnp.ndarray>self.places)
        cdef Py_ssize_t *sizes = <Py_ssize_t *>cnp.PyArray_DATA(<cnp.ndarray>self.sizes)
        cdef Py_ssize_t *offsets = <Py_ssize_t *>cnp.PyArray_DATA(<cnp.ndarray>self.starts)
        for n in range(self.N):  # how many there are of each length; from the longest on, how many are at least so long
            offsets[given[n]] += 1
        for t in range(self.T, 0, -1):
            offsets[t - 1] += offsets[t]
        for n in range(self.N - 1, -1, -1):  # the place behind the last of a length, downwards
            t = given[n]
            offsets[t] -= 1
            order[offsets[t]], sizes[offsets[t]] = n, t
        # offsets[t] are those that are longer than t now
        place = 0
        for t in range(self.T + 1):
            n = offsets[t]
            offsets[t] = place
            place += n

    # What C follows is nobody else's to change: copies.
    @property
    def order(self):
        return self.places.copy()

    @property
    def lengths(self):
        return self.sizes.copy()

    @property
    def offsets(self):
        return self.starts.copy()

    @property
    def rows(self):
        return int(self.starts[-1])

    def row(self, Py_ssize_t t):
        """Return how many rows come before those of time t."""
        return int(self.starts[t])

    @property
    def full(self):
        """Whether all sequences have as many steps as the longest."""
        return self.rows == self.N * self.T

    def where(self):
        """Return time and sequence of each row in packed order: two arrays."""
        times = np.repeat(np.arange(self.T), np.diff(self.starts))
        return times, self.places[np.arange(len(times)) - self.starts[times]]

    def cut(self, Py_ssize_t t_0, Py_ssize_t t_1):
        """Return the order of the steps from t_0 to t_1 alone; x and y stay those of the whole."""
        cdef Ragged part = Ragged.__new__(Ragged, np.zeros(0, np.int64), 0)
        if not 0 <= t_0 <= t_1 <= self.T:
            raise ValueError(f"expected 0 <= t_0 <= t_1 <= {self.T}, got {t_0} and {t_1}")
        part.N, part.T, part.t_0, part.places = self.N, t_1 - t_0, self.t_0 + t_0, self.places
        part.sizes = np.clip(self.sizes - t_0, 0, t_1 - t_0)
        part.starts = self.starts[t_0 : t_1 + 1] - self.starts[t_0]
        return part

    def clear(self, y not None):
        """Write zeros into y (T, N, ·), contiguous or with its first two axes swapped, behind each sequence's end."""
        cdef cnp.ndarray a
        if (
            type(y) is not np.ndarray or y.ndim != 3 or y.shape[1] != self.N or y.shape[0] < self.T or self.t_0
            or not y.flags.writeable or not (y.flags.c_contiguous or y.swapaxes(0, 1).flags.c_contiguous)
        ):
            raise ValueError(f"expected an array (T, {self.N}, ·) of {self.T} steps or more, got {y!r:.80}")
        a = y
        self.clear_rows(<char *>cnp.PyArray_DATA(a), cnp.PyArray_DIM(a, 0), a.strides[0], a.strides[1],
                        cnp.PyArray_DIM(a, 2) * a.itemsize)

    cdef void clear_rows(self, char *y, Py_ssize_t T, Py_ssize_t of_t, Py_ssize_t of_n, Py_ssize_t row) noexcept:
        """The same of T steps of rows of so many bytes, so far apart from one time, and one sequence, to the next."""
        cdef Py_ssize_t *order = <Py_ssize_t *>cnp.PyArray_DATA(<cnp.ndarray>self.places)
        cdef Py_ssize_t *sizes = <Py_ssize_t *>cnp.PyArray_DATA(<cnp.ndarray>self.sizes)
        cdef Py_ssize_t N = self.N, k, t
        with nogil:
            for k in range(N):
                if of_t == row:
                    memset(y + order[k] * of_n + sizes[k] * row, 0, (T - sizes[k]) * row)
                else:
                    for t in range(sizes[k], T):
                        memset(y + t * of_t + order[k] * of_n, 0, row)

    cdef int schedule(self, Schedule *s) except -1:
        s.T, s.N = self.T, self.N
        s.offsets = <const Py_ssize_t *>cnp.PyArray_DATA(<cnp.ndarray>self.starts)
        s.lengths = <const Py_ssize_t *>cnp.PyArray_DATA(<cnp.ndarray>self.sizes)
        s.order = <const Py_ssize_t *>cnp.PyArray_DATA(<cnp.ndarray>self.places)
        return 0


# --- from arrays to a run ---------------------------------------------------------------------------------------------

cdef inline int type_of(int dtype) noexcept:
    return cnp.NPY_INTP if dtype == TOKENS else cnp.NPY_FLOAT if dtype == FLOAT32 else cnp.NPY_DOUBLE


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
            cnp.PyArray_TYPE(x) == type_of(run.dtype)
            and cnp.PyArray_NDIM(x) == ndim
            and cnp.PyArray_DIM(x, 0) == a
            and (ndim < 2 or cnp.PyArray_DIM(x, 1) == b)
            and (ndim < 3 or cnp.PyArray_DIM(x, 2) == c)
            and (cnp.PyArray_ISCARRAY(x) if writes else cnp.PyArray_ISCARRAY_RO(x))
        ):
            return <char *>cnp.PyArray_DATA(x)
    shape = (a, b, c)[:ndim]
    raise ValueError(f"expected a C-contiguous array of shape {shape} and {run.item} bytes an element, got {array!r:.80}")


cdef char *rows_in(object array, const Run *run, bint writes, Py_ssize_t width) except? NULL:
    """The first byte of an array whose rows, of `width` elements, are those of the schedule: (T, N, width), or packed."""
    cdef Py_ssize_t rows = row_at(&run.schedule, run.schedule.T)
    if run.schedule.offsets == NULL:
        return data(array, run, writes, run.schedule.T, run.schedule.N, width)
    return data(array, run, writes, rows, width)


cdef char *padded_in(object array, const Run *run, Ragged ragged, bint writes, Py_ssize_t width, Py_ssize_t *step,
                     Py_ssize_t *sequence) except? NULL:
    """The same for a padded array (T, N, width), contiguous or with its first two axes swapped, in the caller's order; and how
    many rows there are from one time to the next, and from one sequence to the next. An array of two dimensions is packed,
    and both are 0."""
    cdef cnp.ndarray x
    cdef Py_ssize_t T, N
    cdef bint swapped
    cdef char *at
    step[0] = sequence[0] = 0
    if ragged is None or type(array) is not np.ndarray or cnp.PyArray_NDIM(<cnp.ndarray>array) != 3:
        return rows_in(array, run, writes, width)
    x = array
    T, N, swapped = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1), not cnp.PyArray_IS_C_CONTIGUOUS(x)
    if N != ragged.N or T < ragged.t_0 + ragged.T:
        raise ValueError(f"expected {ragged.N} sequences of {ragged.t_0 + ragged.T} steps or more, got {N} of {T}")
    if swapped:
        at, step[0], sequence[0] = data(x.swapaxes(0, 1), run, writes, N, T, width), 1, T
    else:
        at, step[0], sequence[0] = data(x, run, writes, T, N, width), N, 1
    return at + ragged.t_0 * step[0] * width * run.item


cdef char *column_of(object y, Run *run, Ragged ragged, Py_ssize_t column, bint writes) except? NULL:
    """The first byte of a column of y, as `padded_in` takes it, and the stride of its rows in the run; NULL for None."""
    run.y_stride = 0
    if y is None:
        return NULL
    if type(y) is not np.ndarray or not 2 <= cnp.PyArray_NDIM(<cnp.ndarray>y) <= 3:
        raise ValueError(f"expected an array of two or three dimensions, got {y!r:.80}")
    run.y_stride = cnp.PyArray_DIM(<cnp.ndarray>y, cnp.PyArray_NDIM(<cnp.ndarray>y) - 1)
    if not 0 <= column <= run.y_stride - run.width[0]:
        raise ValueError(f"expected a column between 0 and {run.y_stride - run.width[0]}, got {column}")
    return padded_in(y, run, ragged, writes, run.y_stride, &run.y_step, &run.y_sequence) + column * run.item


cdef char *states_at(object array, const Run *run, bint writes, Py_ssize_t k, int state) except? NULL:
    """The first byte of entry k of a state's array (K, N, width)."""
    cdef Py_ssize_t K = -1, width = run.width[state]
    if type(array) is np.ndarray and cnp.PyArray_NDIM(<cnp.ndarray>array) == 3:
        K = cnp.PyArray_DIM(<cnp.ndarray>array, 0)
    if not 0 <= k < K:
        raise ValueError(f"expected an array of more than {k} states (N, {width}), got {array!r:.80}")
    return data(array, run, writes, K, run.schedule.N, width) + k * run.schedule.N * width * run.item


cdef int as_dtype(tuple packs, object x, bint packed) except -1:
    """The dtype of an array (T, N, I), or maybe packed, or for tokens of their rows, for `data` to check."""
    cdef int ndim = cnp.PyArray_NDIM(<cnp.ndarray>x) if type(x) is np.ndarray else 0
    cdef object numbers = x
    if ndim != 3 and not (packed and ndim == 2):
        raise ValueError(f"expected an array x (T, N, I), or packed, got {x!r:.80}")
    if packs and type(packs[0]) is Pack and (<Pack>packs[0]).rows is not None:
        numbers = (<Pack>packs[0]).rows
    return FLOAT32 if cnp.PyArray_TYPE(<cnp.ndarray>numbers) == cnp.NPY_FLOAT else FLOAT64


cdef const Py_ssize_t *tokens_in(object array, const Run *run, Ragged ragged, Py_ssize_t U, Py_ssize_t *step,
                                 Py_ssize_t *sequence) except? NULL:
    """The first token of an array as `padded_in` takes it, of width 1 and NumPy's intp: all from 0 to U - 1."""
    cdef Run tokens = run[0]
    tokens.dtype, tokens.item = TOKENS, sizeof(Py_ssize_t)
    cdef const Py_ssize_t *first = <const Py_ssize_t *>padded_in(array, &tokens, ragged, False, 1, step, sequence)
    cdef const Py_ssize_t *all_ = <const Py_ssize_t *>cnp.PyArray_DATA(<cnp.ndarray>array)
    cdef Py_ssize_t k
    for k in range(cnp.PyArray_SIZE(<cnp.ndarray>array)):
        if not 0 <= all_[k] < U:
            raise ValueError(f"expected tokens from 0 to {U - 1}, got {all_[k]}")
    return first


cdef Py_ssize_t rows_at_once(Py_ssize_t rows, Py_ssize_t width, Py_ssize_t K) noexcept:
    """Rows of a product with a matrix (K, width) that are TABLE_WORK: a multiple of `rows`."""
    return rows * max(<Py_ssize_t>1, <Py_ssize_t>(TABLE_WORK / (2.0 * rows * width * K)))


cdef int timed(Run *run, object x, bint reverse, Ragged ragged) except -1:
    """Fill in the schedule of a sequence x: (T, N, I), or packed."""
    run.schedule.reverse = reverse
    if ragged is not None:
        return ragged.schedule(&run.schedule)
    run.schedule.T, run.schedule.N = cnp.PyArray_DIM(<cnp.ndarray>x, 0), cnp.PyArray_DIM(<cnp.ndarray>x, 1)
    run.schedule.offsets = run.schedule.lengths = NULL
    return 0


cdef inline Py_ssize_t spread(Py_ssize_t size) noexcept:
    """Bytes from row to row where many rows are read column by column: an odd number of cache lines, so that the same
    column of all rows is not kept in the same few places of a cache."""
    return (size + 63) // 64 * 64 + 64 * (1 - (size + 63) // 64 % 2)


cdef char *workspace(list alive, const Run *run, Py_ssize_t rows, Py_ssize_t columns) except NULL:
    """Memory for a run, which `alive` keeps."""
    alive.append(empty((max(rows, 1), columns), cnp.PyArray_DescrFromType(
        cnp.NPY_FLOAT if run.dtype == FLOAT32 else cnp.NPY_DOUBLE)))
    return <char *>cnp.PyArray_DATA(<cnp.ndarray>alive[-1])


cdef int matrix_in(object W, const Run *run, Matrix *matrix, Py_ssize_t K, Py_ssize_t P) except -1:
    """A matrix (K, P) that gradients are multiplied with: as it is, or if it has one dimension in strips, or blas' blocks."""
    cdef Py_ssize_t strip = 4 * run.leaf.width
    if type(W) is not np.ndarray or cnp.PyArray_NDIM(<cnp.ndarray>W) == 2:
        matrix.first, matrix.row, matrix.step = data(W, run, False, K, P), P, strip
    elif run.engine == BLAS:
        matrix.first = data(W, run, False, K * P)
    else:
        matrix.first, matrix.row, matrix.step = data(W, run, False, K * ((P + strip - 1) // strip * strip)), strip, K * strip
    return 0


cdef int at_the_side(list alive, Run *run, int members) except -1:
    """Memory for what the weights' gradients copy, if they do: of several members each has half."""
    cdef Py_ssize_t strip = 4 * run.leaf.width, most = run.width[0] if run.tokens != NULL else max(run.I, run.width[0])
    cdef Py_ssize_t rows = min(back_block(run) * run.schedule.N, row_at(&run.schedule, run.schedule.T))
    if run.inner != NULL:
        most = max(most, run.H)
    rows = run.leaf.copies(run.dgates_row, most, rows) if run.engine == PANELS else 0
    if rows > 0:
        run.side_strips = min((most + strip - 1) // strip, <Py_ssize_t>(side_strips if members == 1 else side_strips // 2))
        run.side_size = rows * run.side_strips * strip * run.item
        run.side = workspace(alive, run, members * rows, run.side_strips * strip)
    return 0


cdef tuple taped(Run *run, object dtype):
    """Have a prepared forward run keep what the way back needs; return where: the gates and what lies between two phases (or
    None), then each state's rows before the first step and after each."""
    cdef Py_ssize_t rows = row_at(&run.schedule, run.schedule.T), CH = run.cell.columns * run.H
    cdef int k
    gates = inner = None
    run.tape = True
    if run.cell.keeps_gates:
        gates = empty((rows, CH), dtype)
        run.gates = data(gates, run, True, rows, CH)
    if run.cell.keeps_inner or run.projects:
        inner = empty((rows, run.H), dtype)
        run.inner = data(inner, run, True, rows, run.H)
    states = []
    for k in range(run.cell.states):
        states.append(empty((state_rows(&run.schedule), run.width[k]), dtype))
        run.state[k] = data(states[k], run, True, state_rows(&run.schedule), run.width[k])
    return (gates, inner, *states)


cdef double *doubles(object array, Py_ssize_t n) except NULL:
    """The first of n writable float64."""
    if (
        type(array) is not np.ndarray or cnp.PyArray_TYPE(<cnp.ndarray>array) != cnp.NPY_DOUBLE
        or cnp.PyArray_NDIM(<cnp.ndarray>array) != 1 or cnp.PyArray_DIM(<cnp.ndarray>array, 0) != n
        or not cnp.PyArray_ISCARRAY(<cnp.ndarray>array)
    ):
        raise ValueError(f"expected {n} writable float64, got {array!r:.80}")
    return <double *>cnp.PyArray_DATA(<cnp.ndarray>array)


cdef Table nothing


@cython.final
@cython.auto_pickle(False)
cdef class Cell:
    """A cell's kernels, for one layer in one or both directions. All arrays are of one dtype and, but for padded ones,
    C-contiguous.

    `packs` and `reverses` have one entry per direction. `x` is (T, N, I). `y` is (T, N, ·), whose columns from `column` on
    are the directions' one after the other, or None. With `ragged`, x, y and their gradients are each packed, (rows, ·), or
    padded, where the memory's first two axes may be swapped: of these only the rows that there are get read or written.
    `initial` and `final` hold one array (K, N, ·) per state (h; c), of which entry k is the first direction's; they may not
    share memory. With weights that are a pack's `over` rows, x holds tokens in place of numbers, (T, N, 1) of intp.
    `n_threads` is the most threads to use; 0 for as many as pay, -n for as many as pay, but n at most.
    """

    def __cinit__(self):
        self.table = &nothing  # until `of` names one: a cell that Python made refuses all weights
        self.form = ()

    @staticmethod
    cdef Cell of(const Table *table):
        cdef Cell cell = Cell.__new__(Cell)
        cell.table = table
        cell.form = tuple([table.scale[g] for g in range(table.G)]), table.interleaved, table.shift, table.output_scale
        return cell

    cdef int begin(self, Run *run, Pack pack, int dtype) except -1:
        """Fill in cell and sizes."""
        memset(run, 0, sizeof(Run))
        run.cell = self.table
        run.dtype = dtype
        run.leaf = leaf_of(dtype)
        run.item = 4 if dtype == FLOAT32 else 8
        run.engine = engine
        run.I, run.H, run.projects = pack.input_size, pack.hidden_size, pack.projects
        run.width[0], run.width[1] = pack.state_size, pack.hidden_size
        if pack.gates != run.cell.G:
            raise ValueError(f"expected weights of {run.cell.G} gates, got {pack.gates}")
        if run.projects and not run.cell.may_project or run.cell.states < 2 and pack.peeps:
            raise ValueError("expected weights without projection or peepholes for this cell")
        return 0

    cdef object prepare(self, Run *run, Pack pack, int dtype):
        """Begin a forward pass with the weights of the engine in use; return what keeps these in memory."""
        cdef Py_ssize_t GH, CH, P, width
        cdef int p
        self.begin(run, pack, dtype)
        GH, CH, P = run.cell.G * run.H, run.cell.columns * run.H, run.width[0]
        run.phases = run.cell.phases
        for p in range(run.phases):
            run.phase[p] = run.cell.forward[run.engine][p]
        if run.engine == PANELS:
            weights = pack.for_panels(run.leaf.width, self.form)
            width = len(weights[2])
            run.gate_panels = 1 if run.cell.interleaved else run.cell.G
            run.vectors = width // run.leaf.width // run.gate_panels
            run.panels_ih = data(weights[0], run, False, width * run.I)
            run.panels_hh = data(weights[1], run, False, width * P)
            run.panels_bias = data(weights[2], run, False, width)
            for p in range(run.phases):
                run.phase_vectors[p] = run.vectors
            if run.cell.shift:
                run.panels_bias_hh = data(weights[3], run, False, run.vectors * run.leaf.width)
            if run.projects:
                width = len(weights[5])
                run.panels_hr = data(weights[4], run, False, width * run.H)
                run.panels_b_hr = data(weights[5], run, False, width)
                run.phase[run.phases], run.phase_vectors[run.phases] = project_panels, width // run.leaf.width
                run.phases += 1
            if pack.peeps:
                run.panels_peephole = data(weights[6], run, False, len(weights[6]))
        else:
            load()
            check_dimension(max(CH, run.I, P))
            weights = pack.for_blas(run.cell.shift, run.cell.split)
            run.vectors = run.gate_panels = 1
            for p in range(run.phases):
                run.phase_vectors[p] = 1
            run.W_ih.first = data(weights[0], run, False, GH, run.I)
            run.W_hh_T = data(weights[1], run, False, GH * P)
            run.bias = data(weights[2], run, False, CH)
            if run.projects:
                run.W_hr_T = data(weights[3], run, False, run.H * P)
                run.b_hr = data(weights[4], run, False, P)
                run.phase[run.phases], run.phase_vectors[run.phases] = project_blas, 1
                run.phases += 1
            if pack.peeps:
                run.peephole = data(weights[5], run, False, 3 * run.H)
        if run.projects and run.cell.output == SOFTMAX:
            run.phase[run.phases], run.phase_vectors[run.phases] = softmax_rows, 0
            run.phases += 1
        return weights

    cdef object table_of(self, Run *run, Pack pack):
        """What W_ih makes of the pack's rows, for a prepared run: (U, table_row); made once for each engine."""
        cdef Py_ssize_t U = len(pack.rows), start, stop, step, u
        cdef char *out
        cdef char *E
        cdef char *z
        run.table_row = run.cell.columns * run.H
        if run.engine == PANELS:
            run.table_row = run.vectors * run.gate_panels * run.leaf.width
        key = run.engine, run.leaf.width
        made = pack.sums
        if made is None or made[0] != key:
            alive = []
            E = data(pack.rows, run, False, U, run.I)
            z = workspace(alive, run, TABLE_ROWS, run.table_row)
            table = np.zeros((U, run.table_row), pack.rows.dtype)  # of a GRU's columns, one is of h alone
            out = <char *>cnp.PyArray_DATA(<cnp.ndarray>table)
            if run.engine == BLAS:
                check_dimension(max(TABLE_ROWS, run.I, run.table_row))
            step = rows_at_once(TABLE_ROWS, run.table_row, run.I)
            for start in range(0, U, step):
                u, stop = start, min(start + step, U)
                with nogil:
                    while u < stop:
                        sums_of_rows(run, out + u * run.table_row * run.item, E + u * run.I * run.item,
                                     min(<Py_ssize_t>TABLE_ROWS, stop - u), z)
                        u += TABLE_ROWS
                PyErr_CheckSignals()
            pack.sums = made = key, table
        table = made[1]
        run.table = data(table, run, False, U, run.table_row)
        return table

    def dtable(self, Pack pack not None):
        """Return zeros for the gradient of what W_ih makes of the pack's rows: (U, columns*H)."""
        return np.zeros((len(pack.rows), self.table.columns * pack.hidden_size), pack.rows.dtype)

    def rows_backward(self, Pack pack not None, dtable not None, dW_ih not None, bint fresh):
        """Return the gradient of the pack's rows (U, I), from that of what W_ih makes of them, as `backward` has added it up;
        add that of W_ih, or write it if it is `fresh`."""
        cdef Run run
        cdef Member who
        cdef Py_ssize_t U = len(pack.rows), I = pack.input_size, CH = self.table.columns * pack.hidden_size
        cdef Py_ssize_t start, stop, step, u, n
        cdef char *sums
        cdef char *E
        cdef char *dE
        self.begin(&run, pack, as_dtype((pack,), pack.rows[None], True))
        if run.engine == BLAS:
            load()
            check_dimension(max(BACK_TABLE_ROWS, run.I, CH))
        drows = empty((U, I), pack.rows.dtype)
        E, dE, sums = data(pack.rows, &run, False, U, I), data(drows, &run, True, U, I), data(dtable, &run, False, U, CH)
        W_ih = pack.arrays[0] if run.engine == BLAS else pack.strips_of(0, run.leaf.width)
        matrix_in(W_ih, &run, &run.W_ih, run.cell.G * run.H, I)
        run.dW_ih = data(dW_ih, &run, True, run.cell.G * run.H, I)
        memset(&who, 0, sizeof(who))
        who.size = 1
        step = rows_at_once(BACK_TABLE_ROWS, 2 * CH, I)
        for start in range(0, U, step):
            u, stop = start, min(start + step, U)
            with nogil:
                while u < stop:
                    n = min(<Py_ssize_t>BACK_TABLE_ROWS, stop - u)
                    input_weight_gradient(&run, sums + u * CH * run.item, CH, E + u * I * run.item, n, u > 0 or not fresh, &who)
                    input_gradient(&run, sums + u * CH * run.item, CH, dE + u * I * run.item, n, &who)
                    u += BACK_TABLE_ROWS
            PyErr_CheckSignals()
        return drows

    def infer(self, tuple packs not None, x not None, tuple initial not None, Py_ssize_t k, y, tuple final not None,
              tuple reverses not None, int n_threads=0, Ragged ragged=None, Py_ssize_t column=0):
        """Run forwards and keep nothing but y and the final states."""
        self._forward(packs, x, initial, k, y, final, reverses, n_threads, ragged, False, column)

    def forward(self, tuple packs not None, x not None, tuple initial not None, Py_ssize_t k, y, tuple final not None,
                tuple reverses not None, int n_threads=0, Ragged ragged=None, Py_ssize_t column=0):
        """Run forwards and return, for each direction, what `backward` needs."""
        return self._forward(packs, x, initial, k, y, final, reverses, n_threads, ragged, True, column)

    def _forward(self, tuple packs, x, tuple initial, Py_ssize_t k, y, tuple final, tuple reverses, int n_threads,
                 Ragged ragged, bint tape, Py_ssize_t column):
        cdef Run runs[2]
        cdef Run *run
        cdef int r, j, count = len(packs), dtype = as_dtype(packs, x, ragged is not None)
        cdef Pack pack
        numbers = np.dtype(np.float32 if dtype == FLOAT32 else np.float64)
        if not 1 <= count <= 2 or len(reverses) != count:
            raise ValueError(f"expected one or two packs and as many directions, got {count} and {len(reverses)}")
        alive, kept = [], []
        for r in range(count):
            run = &runs[r]
            pack = packs[r]
            alive.append(self.prepare(run, pack, dtype))
            timed(run, x, reverses[r], ragged)
            if pack.rows is None:
                run.x = padded_in(x, run, ragged, False, run.I, &run.x_step, &run.x_sequence)
            else:
                alive.append(self.table_of(run, pack))
                run.tokens = tokens_in(x, run, ragged, len(pack.rows), &run.x_step, &run.x_sequence)
            if run.engine == BLAS:
                check_dimension(max(run.schedule.N, BLAS_ROWS))
            run.y = column_of(y, run, ragged, column, True)
            column += run.width[0]
            for j in range(run.cell.states):
                run.initial[j] = states_at(initial[j], run, False, k + r, j)
                run.final[j] = states_at(final[j], run, True, k + r, j)
            if tape:
                kept.append(taped(run, numbers))
        if (
            runs[0].engine != runs[count - 1].engine or runs[0].leaf != runs[count - 1].leaf
            or runs[0].H != runs[count - 1].H or runs[0].width[0] != runs[count - 1].width[0]
            or runs[0].projects != runs[count - 1].projects
            or (runs[0].tokens == NULL) != (runs[count - 1].tokens == NULL)
        ):
            raise ValueError("expected directions of one size, engine and instruction set")
        with nogil:
            forward(runs, count, n_threads, NULL)
        return tuple(kept) if tape else None

    def backward(self, tuple packs not None, x not None, tuple kept not None, dy, Py_ssize_t column, tuple dstates not None,
                 Py_ssize_t k, tuple dxs not None, tuple grads not None, tuple reverses not None, bint fresh=False,
                 int n_threads=0, Ragged ragged=None, tuple row_norms=None):
        """Run backwards from `kept`, as `forward` returned it.

        `column` is the first direction's first in dy. `dstates`, in the order of `ragged`, hold the final states' gradients
        and get the initial states'. Each direction has its own `dxs`, which is written, or None, and `grads`, keyed like its
        pack's arrays: those that are there are added to, or if they are `fresh`, matrices are written; and, if wanted, `row_norms`: per state,
        float64 (rows,) for the norm of each row's gradient. Of tokens, dx is left as it is, and `grads` has no
        gradient of W_ih but `table`, as `dtable` makes it, which is added to.
        """
        cdef Run runs[2]
        cdef int r, members, count = len(packs), dtype = as_dtype(packs, x, ragged is not None)
        if not 1 <= count <= 2 or not count == len(reverses) == len(kept) == len(dxs) == len(grads) or (
            row_norms is not None and len(row_norms) != count
        ):
            raise ValueError("expected one or two packs and as many of all that each direction has")
        alive = []
        for r in range(count):
            alive.append(self.prepare_back(
                &runs[r], dtype, packs[r], x, kept[r], dy, column, dstates, k + r, dxs[r], grads[r], reverses[r], ragged,
                None if row_norms is None else row_norms[r]))
            runs[r].fresh = fresh
            column += runs[r].width[0]
        if runs[0].engine != runs[count - 1].engine or runs[0].leaf != runs[count - 1].leaf:
            raise ValueError("expected directions of one engine and instruction set")
        members = wanted(&runs[0], count, n_threads)
        for r in range(count):
            at_the_side(alive, &runs[r], (members + count - 1) // count)
        if row_at(&runs[0].schedule, runs[0].schedule.T) > 0:
            with nogil:
                backward(runs, count, members)

    def block(self, Pack pack not None, bint double, Py_ssize_t N):
        """Return in how many steps at a time `backward` sums gradients up: a power of two."""
        cdef Run run
        self.begin(&run, pack, FLOAT64 if double else FLOAT32)
        run.schedule.N = N
        return back_block(&run)

    def kept(self, Pack pack not None):
        """Return how many elements `forward` keeps of each step of a sequence."""
        cdef Run run
        cdef int j
        cdef Py_ssize_t size
        self.begin(&run, pack, FLOAT32)
        size = run.cell.columns * run.H if run.cell.keeps_gates else 0
        size += run.H if run.cell.keeps_inner or run.projects else 0
        for j in range(run.cell.states):
            size += run.width[j]
        return size

    cdef object prepare_back(self, Run *run, int dtype, Pack pack, x, tuple kept, dy, Py_ssize_t column, tuple dstates,
                             Py_ssize_t k, dx, dict grads, bint reverse, Ragged ragged, tuple row_norms):
        """Fill in a backward run; return what keeps its workspace and weights in memory."""
        cdef int j
        cdef Py_ssize_t N, H, P, GH, CH, rows, all_rows
        cdef bint blocked, strips
        self.begin(run, pack, dtype)
        timed(run, x, reverse, ragged)
        N, H, P, GH, CH = run.schedule.N, run.H, run.width[0], run.cell.G * run.H, run.cell.columns * run.H
        all_rows = row_at(&run.schedule, run.schedule.T)
        if pack.rows is None:
            run.x = padded_in(x, run, ragged, False, run.I, &run.x_step, &run.x_sequence)
        else:
            run.tokens = tokens_in(x, run, ragged, len(pack.rows), &run.x_step, &run.x_sequence)
        run.vectors, run.gate_panels = (H + run.leaf.width - 1) // run.leaf.width, run.cell.G  # for `shared_by_rows`
        rows = back_block(run) * N
        blocked = run.engine == BLAS
        if blocked:
            load()
            check_dimension(max(rows, spread(CH * run.item), run.I, P))
        rows = min(rows, all_rows)
        strips = all_rows >= (FAR_STRIP_ROWS if max(run.I, P) * run.item >= FAR_BYTES else STRIP_ROWS)
        weights = pack.for_backward(run.cell.split) if blocked else pack.for_gradients(
            run.leaf.width, strips and pack.rows is None and dx is not None, strips or run.schedule.T >= STRIP_STEPS)
        matrix_in(weights[0], run, &run.W_ih, GH, run.I)
        matrix_in(weights[1], run, &run.W_hh, GH, P)
        run.tape = True
        for j in range(self.table.states):
            run.state[j] = data(kept[2 + j], run, False, state_rows(&run.schedule), run.width[j])
            run.dstate[j] = states_at(dstates[j], run, True, k, j)
        if self.table.keeps_gates:
            run.gates = data(kept[0], run, False, all_rows, CH)
        run.dy = column_of(dy, run, ragged, column, False)
        if pack.rows is None:
            if dx is not None:
                run.dx = padded_in(dx, run, ragged, True, run.I, &run.dx_step, &run.dx_sequence)
            run.dW_ih = data(grads["W_ih"], run, True, GH, run.I) if "W_ih" in grads else NULL
        else:
            run.dtable = data(grads["table"], run, True, len(pack.rows), CH)
        run.dW_hh = data(grads["W_hh"], run, True, GH, P) if "W_hh" in grads else NULL
        run.db_ih = data(grads["b_ih"], run, True, GH) if "b_ih" in grads else NULL
        run.db_hh = data(grads["b_hh"], run, True, GH) if "b_hh" in grads else NULL
        alive = [weights]
        run.dgates_row = spread(CH * run.item) // run.item
        run.dgates = workspace(alive, run, rows, run.dgates_row)
        run.sums = workspace(alive, run, 1, CH + P)
        if run.projects or self.table.keeps_inner:
            run.inner = data(kept[1], run, False, all_rows, H)
            run.dinner = workspace(alive, run, N, H)
        if run.projects:
            matrix_in(weights[2], run, &run.W_hr, P, H)
            run.dout = workspace(alive, run, rows, P)
            run.dW_hr = data(grads["W_hr"], run, True, P, H) if "W_hr" in grads else NULL
            run.db_hr = data(grads["b_hr"], run, True, P) if "b_hr" in grads else NULL
        if pack.peeps:
            run.peephole = data(weights[3], run, False, 3 * H)
            run.dpeephole = data(grads["w_peephole"], run, True, 3 * H)
        if run.x_step or run.dx_step:
            run.x_rows = workspace(alive, run, rows, run.I if pack.rows is None else sizeof(Py_ssize_t) // run.item)
        if ragged is not None and not reverse:
            run.h_before = workspace(alive, run, rows, P)
        if row_norms is not None:
            for j in range(self.table.states):
                run.flow[j] = workspace(alive, run, rows, run.width[j])
                run.row_norms[j] = doubles(row_norms[j], all_rows)
        return alive
