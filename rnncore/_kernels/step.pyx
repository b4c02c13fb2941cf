"""Single steps, sequences through one layer, and training passes, compiled from the door down: where inputs need no
conversion, what a layer's or a cell's Python does before it reaches the kernels would take longer than these.
"""

import numpy as np

from ..checks import as_integers, as_real, as_rows, check_shape
from .memory import empty

cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from .blas cimport FLOAT32, FLOAT64, check_dimension
from .cell cimport Cell, Ragged, taped
from .crew cimport Guest, enter
from .driver cimport Scratch, engine, forward, work
from .leaf cimport leaf_of
from .pack cimport Pack
from .pool cimport Counter, counter_peek, counter_reset, counter_take
from .run cimport BLAS, BLAS_ROWS, MAX_STATES, Run, norm

cnp.import_array()

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef enum:
    MOST_DIMENSIONS = 3
    LARGE = 65536    # elements of a result from which on it comes from memory that was there before

cdef object FLOAT = np.dtype(np.float64)

cdef double KEEP_GIL = 2e5  # floating-point operations of a call that is over before another thread could have woken up


# Whether a thread that ran steps without the GIL has taken it back, and not yet begun the next.
cdef Counter holding


cdef void give_way() noexcept nogil:
    """Wait, for a microsecond or two at most, until another thread that runs steps lets go of the GIL: asleep it would
    take this thread many times as long to notice."""
    cdef int k
    for k in range(4000):
        if counter_peek(&holding) == 0:
            return


cdef inline bint fits(object array, int dtype) noexcept:
    """Whether it is an array that the kernels can read as it is."""
    return (
        type(array) is np.ndarray
        and cnp.PyArray_TYPE(<cnp.ndarray>array) == (cnp.NPY_FLOAT if dtype == FLOAT32 else cnp.NPY_DOUBLE)
        and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>array)
    )


cdef inline bint has_shape(object array, int ndim, const cnp.npy_intp *shape) noexcept:
    cdef int k
    if cnp.PyArray_NDIM(<cnp.ndarray>array) != ndim:
        return False
    for k in range(ndim):
        if cnp.PyArray_DIM(<cnp.ndarray>array, k) != shape[k]:
            return False
    return True


cdef inline char *first(object array) noexcept:
    return <char *>cnp.PyArray_DATA(<cnp.ndarray>array)


cdef void write_norms(double *norms, const double *row_norms, Py_ssize_t T, Py_ssize_t N) noexcept nogil:
    """The norms at each of T times of rows (T, N)."""
    cdef Py_ssize_t t
    for t in range(T):
        norms[t] = norm(leaf_of(FLOAT64), <const char *>(row_norms + t * N), N)


def norms_of(cnp.ndarray row_norms not None, Py_ssize_t T):
    """Return the norm at each time (T,), of the rows' norms, float64 (T*N,)."""
    cdef Py_ssize_t size = cnp.PyArray_SIZE(row_norms)
    if T < 0 or size % max(T, 1) or not cnp.PyArray_ISCARRAY(row_norms) or cnp.PyArray_TYPE(row_norms) != cnp.NPY_DOUBLE:
        raise ValueError(f"expected float64 for each of {T} times, got {row_norms!r:.80}")
    norms = np.empty(T)
    write_norms(<double *>first(norms), <const double *>first(row_norms), T, size // max(T, 1))
    return norms


# --- a stack of layers: calls, training passes, single steps ----------------------------------------------------------

@cython.final
@cython.auto_pickle(False)
cdef class Stack:
    """The layers of a stack in one direction, ready for single steps, sequences if it is one layer, and training passes;
    `stacked` says whether states have an axis of layers. Where the first pack's input is `over` rows, steps take numbers of
    these. Immutable; made for one set of weights."""

    def __cinit__(self, Cell cell not None, tuple packs not None, dtype not None, bint stacked=True):
        cdef int k
        if len(packs) == 0 or len(packs) > 1 and not stacked:
            raise ValueError(f"expected at least one pack, and one alone where states are not stacked, got {len(packs)}")
        self.dtype = FLOAT32 if (<cnp.dtype?>dtype).type_num == cnp.NPY_FLOAT else FLOAT64
        self.cell, self.packs, self.layers, self.stacked = cell, packs, len(packs), stacked
        self.runs = <Run *>PyMem_Calloc(self.layers, sizeof(Run))
        if self.runs == NULL:
            raise MemoryError()
        self.alive = []
        for k in range(self.layers):
            self.alive.append(cell.prepare(&self.runs[k], packs[k], self.dtype))
            if (<Pack>packs[k]).rows is not None and k == 0:
                self.alive.append(cell.table_of(&self.runs[k], packs[k]))
                self.vocabulary = len((<Pack>packs[k]).rows)
            if (
                self.runs[k].H != self.runs[0].H or self.runs[k].width[0] != self.runs[0].width[0]
                or k > 0 and self.runs[k].I != self.runs[0].width[0]
            ):
                raise ValueError("expected each pack to take what the one before gives")
            self.runs[k].y_stride = self.runs[k].width[0]
        self.states = self.runs[0].cell.states
        self.I = self.runs[0].I
        self.width = self.runs[0].width

    def __dealloc__(self):
        PyMem_Free(self.runs)

    cdef bint usable(self) noexcept:
        """Whether engine and instruction set are still those it was made for."""
        return self.runs[0].engine == engine and self.runs[0].leaf == leaf_of(self.dtype)

    cdef int run(self, Py_ssize_t T, Py_ssize_t N, bint reverse, bint turned, const char *x, char **initial,
                 char **final, char *y, Scratch *scratch, int n_threads=0, const Py_ssize_t *tokens=NULL) except -1:
        """T steps, just one if there are several layers: x (T, N, I), or tokens (T, N), states (L, N, ·), y (T, N, P) or
        NULL."""
        cdef Run run
        cdef int k, l
        cdef Py_ssize_t size
        cdef bint quick = work(&self.runs[0], T * N) * self.layers < KEEP_GIL
        if self.runs[0].engine == BLAS:
            check_dimension(max(N, BLAS_ROWS))
        for l in range(self.layers):
            run = self.runs[l]
            run.schedule.T, run.schedule.N, run.schedule.reverse = T, N, reverse
            run.x, run.tokens, run.turned = x, tokens if l == 0 else NULL, turned
            run.y = y if l + 1 == self.layers else NULL
            for k in range(self.states):
                size = N * self.width[k] * run.item
                run.initial[k], run.final[k] = initial[k] + l * size, final[k] + l * size
            if quick:
                forward(&run, 1, n_threads, scratch)
            else:
                counter_reset(&holding)
                with nogil:
                    forward(&run, 1, n_threads, scratch)
                    give_way()
                counter_take(&holding)
            x = run.final[0]
        return 0

    cdef tuple states_of(self, object state, bint stacked, bint batched, Py_ssize_t N):
        """The arrays of a state, ([L,] [N,] ·) each; None if they are not as the kernels want them."""
        cdef cnp.npy_intp shape[MOST_DIMENSIONS]
        cdef int k, ndim = self.state_shape(shape, stacked, batched, N)
        if state is None:
            return self.new(ndim, shape, True)
        arrays = (state,) if self.states == 1 else state
        if type(arrays) is not tuple or len(<tuple>arrays) != self.states:
            return None
        for k in range(self.states):
            shape[ndim - 1] = self.width[k]
            array = (<tuple>arrays)[k]
            if not fits(array, self.dtype) or not has_shape(array, ndim, shape):
                return None
        return <tuple>arrays

    cdef int state_shape(self, cnp.npy_intp *shape, bint stacked, bint batched, Py_ssize_t N) noexcept:
        """Fill in the shape of a state but for its width, which is last; return how many dimensions it has."""
        cdef int ndim = 1
        if stacked:
            shape[ndim - 1] = self.layers
            ndim += 1
        if batched:
            shape[ndim - 1] = N
            ndim += 1
        return ndim

    cdef tuple new(self, int ndim, cnp.npy_intp *shape, bint zeros):
        """New arrays for a state."""
        cdef int typenum = cnp.NPY_FLOAT if self.dtype == FLOAT32 else cnp.NPY_DOUBLE
        shape[ndim - 1] = self.width[0]
        h = cnp.PyArray_ZEROS(ndim, shape, typenum, 0) if zeros else cnp.PyArray_EMPTY(ndim, shape, typenum, 0)
        if self.states == 1:
            return (h,)
        shape[ndim - 1] = self.width[1]
        return h, cnp.PyArray_ZEROS(ndim, shape, typenum, 0) if zeros else cnp.PyArray_EMPTY(ndim, shape, typenum, 0)

    cdef object result(self, tuple states):
        return states[0] if self.states == 1 else states

    def call(self, x, state, bint batch_first, bint reverse, int n_threads=0):
        """What a layer returns for a sequence; None for several steps through several layers, or what needs a
        conversion."""
        cdef cnp.npy_intp shape[MOST_DIMENSIONS]
        cdef char *before[MAX_STATES]
        cdef char *after[MAX_STATES]
        cdef int k, ndim
        cdef Py_ssize_t T, N = 1
        cdef cnp.ndarray a
        if not fits(x, self.dtype):
            return None
        a = <cnp.ndarray>x
        ndim = cnp.PyArray_NDIM(a)
        if not 2 <= ndim <= 3 or cnp.PyArray_DIM(a, ndim - 1) != self.I:
            return None
        T = cnp.PyArray_DIM(a, 1 if ndim == 3 and batch_first else 0)
        if ndim == 3:
            N = cnp.PyArray_DIM(a, 0 if batch_first else 1)
        if T != 1 and (T == 0 or self.layers > 1 or N > 1 and batch_first) or N == 0 or not self.usable():
            return None
        initial = self.states_of(state, self.stacked, ndim == 3, N)
        if initial is None:
            return None
        for k in range(ndim):
            shape[k] = cnp.PyArray_DIM(a, k)
        shape[ndim - 1] = self.width[0]
        if T > PY_SSIZE_T_MAX // 8 // self.width[0] // N:
            return None  # more bytes than an address can count
        if T * N * self.width[0] < LARGE:
            y = cnp.PyArray_EMPTY(ndim, shape, cnp.PyArray_TYPE(a), 0)
        else:
            y = empty(tuple([shape[k] for k in range(ndim)]), a.dtype)
        ndim = self.state_shape(shape, self.stacked, ndim == 3, N)
        final = self.new(ndim, shape, False)
        for k in range(self.states):
            before[k], after[k] = first(initial[k]), first(final[k])
        self.run(T, N, reverse, False, first(x), before, after, first(y), NULL, n_threads)
        return y, self.result(final)

    def ragged(self, x, state, lengths, bint batch_first, bint reverse, int n_threads=0):
        """What a layer returns for sequences of these lengths; None for several layers, and what needs a conversion."""
        cdef cnp.npy_intp shape[MOST_DIMENSIONS]
        cdef Py_ssize_t T, N
        cdef Ragged order
        if (
            self.layers > 1 or not self.stacked or not fits(x, self.dtype) or cnp.PyArray_NDIM(<cnp.ndarray>x) != 3
            or type(lengths) is not np.ndarray or cnp.PyArray_NDIM(<cnp.ndarray>lengths) != 1
            or cnp.PyArray_TYPE(<cnp.ndarray>lengths) != cnp.NPY_INT64 or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>lengths)
        ):
            return None
        seq = cnp.PyArray_SwapAxes(<cnp.ndarray>x, 0, 1) if batch_first else x
        T, N = cnp.PyArray_DIM(<cnp.ndarray>seq, 0), cnp.PyArray_DIM(<cnp.ndarray>seq, 1)
        if N == 0 or cnp.PyArray_DIM(<cnp.ndarray>seq, 2) != self.I or cnp.PyArray_DIM(<cnp.ndarray>lengths, 0) != N:
            return None
        initial = self.states_of(state, True, True, N)
        if initial is None:
            return None
        order = Ragged.__new__(Ragged, lengths, T)
        if order.T == 0 or T > PY_SSIZE_T_MAX // 8 // self.width[0] // N:
            return None
        if order.T == T and order.full:
            return self.call(x, state, batch_first, reverse, n_threads)
        y = empty((T, N, self.width[0]), (<cnp.ndarray>x).dtype)
        order.clear_rows(<char *>first(y), T, cnp.PyArray_STRIDE(<cnp.ndarray>y, 0), cnp.PyArray_STRIDE(<cnp.ndarray>y, 1),
                         cnp.PyArray_STRIDE(<cnp.ndarray>y, 1))
        final = self.new(self.state_shape(shape, True, True, N), shape, False)
        self.cell.infer(self.packs, seq, initial, 0, y, final, (reverse,), n_threads, order)
        return cnp.PyArray_SwapAxes(<cnp.ndarray>y, 0, 1) if batch_first else y, self.result(final)

    def taped(self, x, state, bint reverse, Py_ssize_t most, int n_threads=0):
        """What a layer's `forward` returns for x (T, N, I): y, the final state, and what a tape keeps of each layer. None for
        what needs a conversion, no steps at all, and more than `most` rows."""
        cdef cnp.npy_intp shape[MOST_DIMENSIONS]
        cdef Run run
        cdef Py_ssize_t T, N, size
        cdef int k, l
        if not fits(x, self.dtype) or cnp.PyArray_NDIM(<cnp.ndarray>x) != 3 or not self.usable():
            return None
        T, N = cnp.PyArray_DIM(<cnp.ndarray>x, 0), cnp.PyArray_DIM(<cnp.ndarray>x, 1)
        if T == 0 or N == 0 or cnp.PyArray_DIM(<cnp.ndarray>x, 2) != self.I or T > most // N:
            return None
        initial = self.states_of(state, True, True, N)
        if initial is None:
            return None
        final = self.new(self.state_shape(shape, True, True, N), shape, False)
        dtype, kept = (<cnp.ndarray>x).dtype, []
        for l in range(self.layers):
            run = self.runs[l]
            run.schedule.T, run.schedule.N, run.schedule.reverse = T, N, reverse
            y = empty((T, N, self.width[0]), dtype)
            run.x, run.y = first(x), first(y)
            for k in range(self.states):
                size = N * self.width[k] * run.item
                run.initial[k], run.final[k] = first(initial[k]) + l * size, first(final[k]) + l * size
            if run.engine == BLAS:
                check_dimension(max(N, BLAS_ROWS))
            kept.append((x, (taped(&run, dtype),)))
            with nogil:
                forward(&run, 1, n_threads, NULL)
            x = y
        return y, self.result(final), tuple(kept)

    def back(self, tuple layers not None, dy, dstate, weights not None, tuple names not None, bint reverse, int n_threads=0,
             bint flow=False, bint of_x=True):
        """What a layer's `backward` returns for what `taped` keeps of each layer: dx, the initial state's gradient, those of
        the `weights` and, if wanted, of each state their norms at each time (layers, T); None for what needs a conversion, and
        no steps at all. `names` are these gradients', layer by layer, by the names that kernels have for them. Of weights that are
        not there none is formed, nor dx but `of_x`, which is None then."""
        cdef cnp.npy_intp shape[MOST_DIMENSIONS]
        cdef Py_ssize_t T, N
        cdef int k, l, typenum = cnp.NPY_FLOAT if self.dtype == FLOAT32 else cnp.NPY_DOUBLE
        cdef cnp.ndarray like
        if len(layers) != self.layers or len(names) != self.layers:
            raise ValueError(f"expected what {self.layers} layers keep, and as many names, got {len(layers)}, {len(names)}")
        T, N, _ = layers[0][0].shape
        if T * N == 0 or not self.usable():
            return None
        shape[0], shape[1], shape[2] = T, N, self.width[0]
        if dy is not None and not (fits(dy, self.dtype) and has_shape(dy, 3, shape)):
            return None
        dstates = self.states_of(dstate, True, True, N)
        if dstates is None:
            return None
        if dstate is not None:
            dstates = tuple([cnp.PyArray_NewCopy(<cnp.ndarray>array, cnp.NPY_CORDER) for array in dstates])
        grads = {}
        for name, array in weights.items():
            like = <cnp.ndarray?>array
            if cnp.PyArray_NDIM(like) > 1:  # which is written, not added to
                grads[name] = empty(array.shape, array.dtype)
            else:
                grads[name] = cnp.PyArray_ZEROS(cnp.PyArray_NDIM(like), cnp.PyArray_DIMS(like), typenum, 0)
        owns = [{short: grads[name] for short, name in (<dict?>own).items() if name in grads} for own in names]
        if sum([len(own) for own in owns]) != len(grads):
            raise ValueError(f"expected weights by names among {names}, got {tuple(grads)}")
        norms = tuple([np.empty((self.layers, T)) for k in range(self.states)]) if flow else None
        row_norms = tuple([empty((T * N,), FLOAT) for k in range(self.states)]) if flow else None
        for l in range(self.layers - 1, -1, -1):
            x, directions = layers[l]
            dx = empty(x.shape, x.dtype) if l or of_x else None
            self.cell.backward(
                self.packs[l : l + 1], x, directions, dy, 0, dstates, l, (dx,), (owns[l],), (reverse,), True, n_threads, None,
                None if row_norms is None else (row_norms,))
            dy = dx
            for k in range(self.states if flow else 0):
                write_norms(<double *>first(norms[k]) + l * T, <const double *>first(row_norms[k]), T, N)
        results = dx, self.result(dstates), grads
        return results if norms is None else (*results, self.result(norms))

    def advance(self, x, state, int n_threads=0):
        """What a cell returns; None for what needs a conversion."""
        cdef cnp.npy_intp shape[MOST_DIMENSIONS]
        cdef char *before[MAX_STATES]
        cdef char *after[MAX_STATES]
        cdef int k, ndim
        cdef Py_ssize_t N = 1
        if not fits(x, self.dtype) or not self.usable():
            return None
        ndim = cnp.PyArray_NDIM(<cnp.ndarray>x)
        if not 1 <= ndim <= 2 or cnp.PyArray_DIM(<cnp.ndarray>x, ndim - 1) != self.I:
            return None
        if ndim == 2:
            N = cnp.PyArray_DIM(<cnp.ndarray>x, 0)
        if N == 0 or self.layers != 1:
            return None
        initial = self.states_of(state, self.stacked, ndim == 2, N)
        if initial is None:
            return None
        ndim = self.state_shape(shape, self.stacked, ndim == 2, N)
        final = self.new(ndim, shape, False)
        for k in range(self.states):
            before[k], after[k] = first(initial[k]), first(final[k])
        self.run(1, N, False, False, first(x), before, after, NULL, NULL, n_threads)
        return self.result(final)


# --- streams: steps with a state of their own -------------------------------------------------------------------------

@cython.auto_pickle(False)
cdef class Steps:
    """State and buffers of a stream over `layer`, whose `_stack(weights)` makes the Stack: base of `rnncore.Stream`."""

    cdef readonly object layer
    cdef readonly Py_ssize_t batch_size
    cdef object weights         # those `stack` was made for
    cdef Stack stack
    cdef tuple now, spare       # states (L, N, ·): of now; to be written by the next step
    cdef tuple some             # memory for the states of some rows, once a step of some was taken
    cdef char *marked           # (N) zeros, between checks of rows
    cdef Py_ssize_t *tokens     # (N) of a step that takes them
    cdef Scratch scratch
    cdef bint turned            # whether the next step takes the weights from the other end than the last
    cdef Guest guest

    def __cinit__(self, layer, Py_ssize_t batch_size):
        cdef cnp.npy_intp shape[MOST_DIMENSIONS]
        if batch_size < 1:
            raise ValueError(f"expected batch_size of at least 1, got {batch_size}")
        self.layer, self.batch_size = layer, batch_size
        self.refresh()
        cdef int ndim = self.stack.state_shape(shape, True, True, batch_size)
        self.now, self.spare = self.stack.new(ndim, shape, True), self.stack.new(ndim, shape, False)

    def __dealloc__(self):
        free(self.scratch.memory)
        free(self.marked)
        free(self.tokens)

    cdef int refresh(self) except -1:
        """Take over the layer's weights as they are now."""
        cdef Stack stack
        weights = self.layer._weights
        if weights is self.weights and self.stack.usable():
            return 0
        stack = weights.stack
        if stack is None or not stack.usable():
            stack = self.layer._stack(weights)
        if self.stack is not None and (
            stack.I != self.stack.I or stack.width[0] != self.stack.width[0] or stack.width[1] != self.stack.width[1]
            or stack.layers != self.stack.layers or stack.states != self.stack.states or stack.dtype != self.stack.dtype
            or stack.vocabulary != self.stack.vocabulary
        ):
            raise ValueError("expected weights of the sizes the stream was made for")
        self.weights, self.stack = weights, stack
        return 0

    def _states(self, rows=None):
        """Return copies of the state's arrays, or of their rows."""
        enter(&self.guest, "stream")
        try:
            return tuple([array.copy() if rows is None else array[:, rows] for array in self.now])
        finally:
            self.guest.inside = False

    def _set_states(self, tuple arrays not None, rows=None):
        """Take over the values of arrays that fit the state's, or its rows."""
        enter(&self.guest, "stream")
        try:
            for array, value in zip(self.now, arrays, strict=True):
                array[:, slice(None) if rows is None else rows] = value
        finally:
            self.guest.inside = False

    def step(self, x_t, out=None, rows=None):
        """Run one step of the whole stack, from the stream's state, which moves on.

        Parameters
        ----------
        x_t : array_like (N, I), or (I,) where N is 1
            The input of each sequence; or (len(rows), I), of those of `rows`, in their order. Of a stream over tokens
            these, integers (N,), or one where N is 1; or (len(rows),).
        out : ndarray, optional
            Where to write the result: an array of its shape and the layer's dtype.
        rows : array_like of int, optional
            Which sequences to step, each at most once: from 0 to N-1, in any order. The others stay where they are, and
            cost nothing. All of them by default.

        Returns
        -------
        y_t : ndarray (N, H), or (H,), or (len(rows), H)
            The last layer's hidden state (of size P with projections): `out`, or a new array.

        Raises
        ------
        TypeError
            If `x_t` is no array of real numbers, or of integers for tokens, `out` no writable array of the layer's dtype, or
            `rows` holds no integers.
        ValueError
            If a shape does not fit, a token is not of the vocabulary, or `rows` has a row that is not the stream's, or one
            twice.
        RuntimeError
            If another thread, or this one, is inside this stream.

        Notes
        -----
        On any exception, Ctrl-C included, the state stays what it was.

        Examples
        --------
        >>> import numpy as np, rnncore as rc
        >>> stream = rc.LSTM(3, 5, rng=0).stream()
        >>> stream.step(np.ones(3)).shape
        (5,)
        >>> stream = rc.LSTM(3, 5, rng=0).stream(batch_size=1000)
        >>> stream.step(np.ones((2, 3)), rows=[7, 512]).shape
        (2, 5)
        """
        enter(&self.guest, "stream")
        try:
            return self.step_alone(x_t, out, None if rows is None else self.rows_of(rows))
        finally:
            self.guest.inside = False

    cdef object rows_of(self, object rows):
        """Indices of rows (R,), each in range and there once; a copy, for another thread may change the caller's."""
        cdef Py_ssize_t R, r, done = 0
        cdef const cnp.int64_t *indices
        if type(rows) is not np.ndarray or rows.dtype != np.int64 or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>rows):
            return as_rows(rows, self.batch_size, True)
        rows = cnp.PyArray_NewCopy(<cnp.ndarray>rows, cnp.NPY_CORDER)
        if self.marked == NULL:
            self.marked = <char *>calloc(self.batch_size, 1)
            if self.marked == NULL:
                raise MemoryError()
        R = cnp.PyArray_SIZE(<cnp.ndarray>rows)
        indices = <const cnp.int64_t *>cnp.PyArray_DATA(<cnp.ndarray>rows)
        while done < R and 0 <= indices[done] < self.batch_size and not self.marked[indices[done]]:
            self.marked[indices[done]] = 1
            done += 1
        for r in range(done):
            self.marked[indices[r]] = 0
        if done < R:
            as_rows(rows, self.batch_size, True)  # says what is wrong
        return (<object>rows).ravel()

    cdef int read_tokens(self, object given, Py_ssize_t N, bint may_be_one) except -1:
        """Copy the tokens of N rows to where no other thread changes them; return the dimensions of their result."""
        cdef Py_ssize_t U = self.stack.vocabulary, k
        cdef const cnp.int64_t *all_
        if self.tokens == NULL:
            self.tokens = <Py_ssize_t *>malloc(self.batch_size * sizeof(Py_ssize_t))
            if self.tokens == NULL:
                raise MemoryError()
        if type(given) is int and 0 <= given < U and N == 1 and may_be_one:
            self.tokens[0] = given
            return 1
        array = as_integers(given, "tokens")
        if not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray?>array):
            array = cnp.PyArray_NewCopy(<cnp.ndarray>array, cnp.NPY_CORDER)
        one = array.ndim == 0 and N == 1 and may_be_one
        if not one:
            check_shape(array.shape, (N,), "tokens")
        all_ = <const cnp.int64_t *>cnp.PyArray_DATA(<cnp.ndarray>array)
        for k in range(cnp.PyArray_SIZE(<cnp.ndarray>array)):
            if not 0 <= all_[k] < U:
                raise ValueError(f"expected tokens from 0 to {U - 1}, got {all_[k]}")
            self.tokens[k] = all_[k]
        return 1 if one else 2

    cdef int move_rows(self, object rows, bint back) except -1:
        """Copy the state of some rows into `some`, or theirs after a step from `spare` to where they belong."""
        cdef Stack stack = self.stack
        cdef Py_ssize_t R = len(rows), size, r
        cdef const cnp.int64_t *indices = <const cnp.int64_t *>cnp.PyArray_DATA(<cnp.ndarray>rows)
        cdef char *all_rows
        cdef char *part
        cdef int k, l
        for k in range(stack.states):
            size = stack.width[k] * stack.runs[0].item
            for l in range(stack.layers):
                all_rows = first(self.now[k]) + l * self.batch_size * size
                part = first(self.spare[k] if back else self.some[k]) + l * R * size
                for r in range(R):
                    if back:
                        memcpy(all_rows + indices[r] * size, part + r * size, size)
                    else:
                        memcpy(part + r * size, all_rows + indices[r] * size, size)
        return 0

    cdef object step_alone(self, object x_t, object out, object rows):
        cdef cnp.npy_intp shape[MOST_DIMENSIONS]
        cdef char *before[MAX_STATES]
        cdef char *after[MAX_STATES]
        cdef Py_ssize_t N = self.batch_size if rows is None else len(rows), P, size
        cdef const Py_ssize_t *tokens = NULL
        cdef const char *x = NULL
        cdef int k, ndim
        cdef tuple now = self.now
        self.refresh()
        cdef Stack stack = self.stack
        P, size = stack.width[0], stack.runs[0].item
        if stack.vocabulary:
            ndim = self.read_tokens(x_t, N, rows is None)
            tokens = self.tokens
        else:
            if not fits(x_t, stack.dtype):
                x_t = as_real(x_t, self.now[0].dtype, "x_t")
            ndim = 1 if N == 1 and rows is None and cnp.PyArray_NDIM(<cnp.ndarray>x_t) == 1 else 2
            shape[0], shape[ndim - 1] = N, stack.I
            if not has_shape(x_t, ndim, shape):
                check_shape(x_t.shape, (N, stack.I), "x_t")
            x = first(x_t)
        shape[0], shape[ndim - 1] = N, P
        y = out
        if out is None or not (
            fits(out, stack.dtype)
            and cnp.PyArray_ISWRITEABLE(<cnp.ndarray>out)
            and has_shape(out, ndim, shape)
            and (x == NULL or first(out) + N * P * size <= x or x + N * stack.I * size <= first(out))
        ):
            y = cnp.PyArray_EMPTY(ndim, shape, cnp.PyArray_TYPE(<cnp.ndarray>self.now[0]), 0)
            if out is not None:
                self.check_out(out, y)
        if rows is not None:
            if self.some is None:
                self.some = tuple([np.empty_like(array) for array in self.now])
            self.move_rows(rows, False)
            now = self.some
        for k in range(stack.states):
            before[k], after[k] = first(now[k]), first(self.spare[k])
        if N > 0:
            stack.run(1, N, False, self.turned, x, before, after, first(y), &self.scratch, 0, tokens)
        if rows is None:
            self.now, self.spare = self.spare, now
        else:
            self.move_rows(rows, True)
        self.turned = not self.turned
        if out is None or y is out:
            return y
        np.copyto(np.asarray(out), y)
        return out

    cdef int check_out(self, object out, cnp.ndarray y) except -1:
        got = None
        if not issubclass(type(out), np.ndarray):  # what it says of its class may be anything
            got = type(out).__name__
        elif not np.asarray(out).flags.writeable:
            got = "a read-only one"
        elif np.asarray(out).dtype != y.dtype:
            got = np.asarray(out).dtype
        if got is not None:
            raise TypeError(f"expected out to be a writable array of dtype {y.dtype}, got {got}")
        check_shape(np.asarray(out).shape, (<object>y).shape, "out")
        return 0
