"""Training's passes over flat memory: an optimiser's step and, no Python code in between, its change of hands; the sum
of squares that clipping needs; the softmax of a loss."""

import numpy as np

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject_GenericSetAttr
from libc.stdlib cimport free, malloc

from .blas cimport FLOAT32, FLOAT64
from .crew cimport fewer, limit, share_out
from .leaf cimport Adam, Leaf, Sgd, leaf_of
from .pool cimport Counter, counter_reset, counter_take, denormals_flush, denormals_restore

cnp.import_array()

cdef enum:
    PART = 1 << 13          # elements that a thread takes at a time
    SHARE = 1 << 16         # and for which one is woken
    LOOK = 1 << 22          # numbers of a softmax between two looks for Ctrl-C

cdef struct Pass:
    const Leaf *leaf
    Py_ssize_t n, item
    char *w
    const char *before
    const char *g
    char *moments[2]

cdef struct Job:
    const Pass *passes
    Py_ssize_t count
    const Adam *adam            # or NULL, and
    const Sgd *sgd
    Counter next


cdef cnp.ndarray checked(object array, cnp.ndarray like, bint writable=False):
    """The array, if it is one of floats in one piece, of the other's dtype and shape."""
    if type(array) is np.ndarray:
        a = <cnp.ndarray>array
        if (
            cnp.PyArray_TYPE(a) in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE) and cnp.PyArray_TYPE(a) == cnp.PyArray_TYPE(like)
            and cnp.PyArray_SAMESHAPE(a, like)
            and (cnp.PyArray_ISCARRAY(a) if writable else cnp.PyArray_ISCARRAY_RO(a))
        ):
            return a
    raise ValueError(f"expected C-contiguous arrays of one shape, of float32 or float64, got {array!r:.80}")


cdef void member_of(void *job_, int member) noexcept nogil:
    """What one member of a crew does: whichever part of whichever pass comes next."""
    cdef Job *job = <Job *>job_
    cdef Py_ssize_t q = counter_take(&job.next), before = 0, k, parts, at, n
    cdef const Pass *p
    cdef char *b
    for k in range(job.count):
        p = &job.passes[k]
        parts = (p.n + PART - 1) // PART
        while q < before + parts:
            at, n = (q - before) * PART * p.item, min(<Py_ssize_t>PART, p.n - (q - before) * PART)
            b = p.moments[0] + at if p.moments[0] != NULL else NULL
            if job.adam != NULL:
                p.leaf.adam(p.w + at, b, p.moments[1] + at, p.before + at, p.g + at, n, job.adam)
            else:
                p.leaf.sgd(p.w + at, b, p.before + at, p.g + at, n, job.sgd)
            q = counter_take(&job.next)
        before += parts


cdef const Leaf *leaf_for(cnp.ndarray array) noexcept:
    return leaf_of(FLOAT32 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT else FLOAT64)


def step(str rule not None, dict settings not None, list passes not None, list changes not None, list locks not None):
    """Do an optimiser's step whole; or, if what it was prepared from is no longer in place, nothing.

    Parameters
    ----------
    rule : "sgd" or "adam"
    settings : dict
        Fields of the rule's struct in simd/leaf.h.
    passes : list of (w, before, g, moments)
        `w` is `memory.blank`; `moments` a list of one array, or none, for SGD; of two for Adam.
    changes : list of (owner, name, old, new)
        Attributes to change once the passes are done. They must exist, in the owner's own dict.
    locks : list of locks
        Taken, in this order, before the first look at an attribute, and held until the last is changed.

    Returns
    -------
    bool
        Whether all attributes had their `old` values when the locks were taken, and the step is done.

    Notes
    -----
    Only waiting for a lock can be interrupted: from then on no Python code runs until the function returns, hence no
    signal's handler either, and no object is made. The passes run without the GIL, shared by as many threads as pay, and
    flush denormal numbers to zero.
    """
    cdef Sgd sgd
    cdef Adam adam
    cdef bint is_adam = rule == "adam"
    cdef Py_ssize_t count = len(passes), held = 0, total = 0, k
    cdef Job job
    cdef Pass *p
    cdef Pass *run = <Pass *>malloc((count or 1) * sizeof(Pass))
    if run == NULL:
        raise MemoryError()
    try:
        if is_adam:
            adam = settings
        elif rule == "sgd":
            sgd = settings
        else:
            raise ValueError(f"expected a rule 'sgd' or 'adam', got {rule!r}")
        for k in range(count):
            w, before, g, moments = passes[k]
            if len(moments) != 2 if is_adam else len(moments) > 1:
                raise ValueError(f"expected the moments of {rule}, got {len(moments)}")
            p = &run[k]
            p.w = <char *>cnp.PyArray_DATA(checked(w, w))
            p.before = <const char *>cnp.PyArray_DATA(checked(before, w))
            p.g = <const char *>cnp.PyArray_DATA(checked(g, w))
            p.moments[0] = p.moments[1] = NULL
            for i, moment in enumerate(moments):
                p.moments[<int>i] = <char *>cnp.PyArray_DATA(checked(moment, w, True))
            p.leaf, p.n, p.item = leaf_for(w), cnp.PyArray_SIZE(w), cnp.PyArray_ITEMSIZE(w)
            total += p.n
        job.passes, job.count = run, count
        job.adam, job.sgd = &adam if is_adam else NULL, &sgd
        counter_reset(&job.next)
        for lock in locks:
            lock.acquire()
            held += 1
        for owner, name, old, _ in changes:
            if getattr(owner, name) is not old:
                return False
        with nogil:
            share_out(member_of, &job, fewer(<int>max(min(total // SHARE, <Py_ssize_t>limit), <Py_ssize_t>1)))
        for owner, name, _, new in changes:
            PyObject_GenericSetAttr(owner, name, new)
        return True
    finally:
        for k in range(held):
            locks[k].release()
        free(run)


def sum_of_squares(x not None, double scale=1.0):
    """Return the sum of (scale x)² over an array, in float64 and without the GIL."""
    cdef cnp.ndarray array = checked(x, x)
    cdef const Leaf *leaf = leaf_for(array)
    cdef const void *data = cnp.PyArray_DATA(array)
    cdef Py_ssize_t n = cnp.PyArray_SIZE(array)
    cdef double total
    with nogil:
        total = leaf.sum_of_squares(data, n, scale)
    return total


def softmax(y not None, parts not None, double scale):
    """Turn each row of y (n, C) into its softmax times a scale, in place, without the GIL and with denormal numbers flushed to
    zero; leave in the rows of `parts`, (n, 2) of float64, its largest number, m, and the sum of all e^(y-m)."""
    cdef cnp.ndarray array = checked(y, y, True), both = checked(parts, parts, True)
    cdef const Leaf *leaf = leaf_for(array)
    cdef unsigned long mode
    cdef double (*of_rows)[2]
    cdef Py_ssize_t n, C, step, first
    if array.ndim != 2 or cnp.PyArray_TYPE(both) != cnp.NPY_DOUBLE or both.ndim != 2 or both.shape[0] != array.shape[0] \
            or both.shape[1] != 2:
        raise ValueError(f"expected rows, and float64 (rows, 2), got {y.shape} and {parts.dtype} {parts.shape}")
    of_rows = <double (*)[2]>cnp.PyArray_DATA(both)
    n, C = array.shape[0], array.shape[1]
    step = max(LOOK // max(C, <Py_ssize_t>1), <Py_ssize_t>1)
    for first from 0 <= first < (n if C else 0) by step:
        with nogil:
            mode = denormals_flush()
            leaf.softmax(<char *>cnp.PyArray_DATA(array) + first * C * cnp.PyArray_ITEMSIZE(array), of_rows + first,
                         min(step, n - first), C, scale)
            denormals_restore(mode)
        PyErr_CheckSignals()
