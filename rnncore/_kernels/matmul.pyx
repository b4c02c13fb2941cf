"""Products of whole matrices, outside of time: a linear layer's. By BLAS in the blas engine; else our own, shared by as many
threads as a layer's call has by itself, and with the same bits for any number of them.

Parts of the product go to whoever comes first. In a part, products are those of some rows of op(a) with a strip of op(b), four
vectors wide (simd/strips.h), of TERMS at a time. Rows of a^T are copied for that, and columns of b^T; those of b, where there
are rows enough to pay for it. A row or a few times b^T is a vector product for each number.
"""

import numpy as np

cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from libc.string cimport memset

from .blas cimport FLOAT32, FLOAT64, check_dimension, load, product
from .crew cimport Member, Watch, fewer, gather_crew, limit, look, raise_stopped, run_crew
from .driver cimport engine
from .leaf cimport Leaf, leaf_of
from .memory import empty
from .pool cimport POOL_MOST, Counter, counter_reset, counter_take
from .run cimport BLAS, PANELS

cnp.import_array()

cdef enum:
    FEW = 32            # rows that do not pay for copies
    ROWS = 256          # of a part
    TERMS = 512         # at a time
    NEAR_BYTES = 1024   # of a row of b that need no copy
    SINGLE = 3          # rows of a that are multiplied with b^T one by one

cdef object FLOAT = np.dtype(np.float64)

cdef double WORK = 4e6  # floating-point operations that a thread is woken for
cdef double BLAS_WORK = 1e9 # between two looks for Ctrl-C

cdef struct Job:
    const Leaf *leaf
    Py_ssize_t item, m, n, k
    const char *a
    const char *b
    char *out
    bint trans_a, trans_b
    bint add                    # to what out holds
    Py_ssize_t groups, spans    # of rows, of columns: a part of out is one of each
    Py_ssize_t members
    bint copies                 # strips of op(b)
    char *memory                # of so many bytes for each member: a strip and, of a^T, what a part needs
    Py_ssize_t size
    Counter next
    Watch watch


cdef inline Py_ssize_t copied_row(const Job *job) noexcept nogil:
    """Elements of a row of a^T as it is copied: whole vectors, and whole cache lines, an odd number of them, so that rows are
    not in each other's way."""
    cdef Py_ssize_t line = 64 // job.item
    return ((min(job.k, <Py_ssize_t>TERMS) + line - 1) // line | 1) * line


cdef void copy_rows(const Job *job, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t k_0, Py_ssize_t k, char *to) noexcept nogil:
    """Rows of a^T from `first` on, of their elements the k from k_0 on: a vector of these at a time."""
    cdef Py_ssize_t width = job.leaf.width, row
    for row from 0 <= row < k by width:
        job.leaf.pack(to + row * job.item, job.a + ((k_0 + row) * job.m + first) * job.item, job.m, min(width, k - row), rows,
                      copied_row(job), 1, 0)


cdef void copy_strip(const Job *job, Py_ssize_t j, Py_ssize_t columns, Py_ssize_t k_0, Py_ssize_t k,
                     char *to) noexcept nogil:
    """Columns of op(b) from j on, of their elements the k from k_0 on, as a strip."""
    cdef Py_ssize_t width = job.leaf.width, item = job.item, v
    if job.trans_b:
        for v from 0 <= v < columns by width:
            job.leaf.pack(to + v * item, job.b + ((j + v) * job.k + k_0) * item, job.k, min(width, columns - v), k,
                          4 * width, 1, 0)
    else:
        job.leaf.strips(to, job.b + (k_0 * job.n + j) * item, job.n, k, columns, 0, k, 0)


cdef bint multiply(const Job *job, Py_ssize_t q, char *strip, Member *who) noexcept nogil:
    """The q-th part of out; returns whether to go on."""
    cdef Py_ssize_t width = 4 * job.leaf.width, n = job.n, item = job.item, strips = (n + width - 1) // width
    cdef Py_ssize_t g = q // job.spans, s = q % job.spans
    cdef Py_ssize_t first = job.m * g // job.groups, rows = job.m * (g + 1) // job.groups - first
    cdef Py_ssize_t j_0 = strips * s // job.spans * width, j_1 = min(strips * (s + 1) // job.spans * width, n)
    cdef Py_ssize_t k_0 = 0, k, j, columns, row, a_row = job.k, b_row = n
    cdef char *turned = strip + TERMS * width * item if job.copies else strip
    cdef const char *a
    cdef const char *b
    if not job.copies and job.trans_b:
        for row in range(rows):
            for j from j_0 <= j < j_1 by width:
                columns = min(width, j_1 - j)
                job.leaf.dots(job.out + (row * n + j) * item, job.a + row * job.k * item, job.b + j * job.k * item, columns,
                              job.k)
                if not look(who, 2.0 * columns * job.k):
                    return False
        return True
    while k_0 < job.k:
        k = min(job.k - k_0, <Py_ssize_t>TERMS)
        a = job.a + (first * job.k + k_0) * item
        if job.trans_a:
            copy_rows(job, first, rows, k_0, k, turned)
            a, a_row = turned, copied_row(job)
        j = j_0
        while j < j_1:
            columns = min(width, j_1 - j)
            b = job.b + (k_0 * n + j) * item
            if job.copies:
                copy_strip(job, j, columns, k_0, k, strip)
                b, b_row = strip, width
            job.leaf.inner(job.out + (first * n + j) * item, n, a, a_row, b, b_row, 0, 0, columns, rows, k, job.add or k_0 > 0, 0)
            j += width
            if not look(who, 2.0 * rows * columns * k):
                return False
        k_0 += k
    return True


cdef void member_of(void *job_, int member) noexcept nogil:
    """What one member of a crew does."""
    cdef Job *job = <Job *>job_
    cdef Member who
    cdef Py_ssize_t q = counter_take(&job.next)
    memset(&who, 0, sizeof(who))
    who.number, who.watch = member, &job.watch
    while q < job.groups * job.spans and multiply(job, q, job.memory + member * job.size if job.memory != NULL else NULL,
                                                  &who):
        q = counter_take(&job.next)


cdef void cut(Job *job, int n_threads) noexcept nogil:
    """Into parts, for `n_threads` members, or for 0 as many as pay: some for each, or as many of one size as there are
    members where each part makes copies of its own."""
    cdef Py_ssize_t width = 4 * job.leaf.width, strips = (job.n + width - 1) // width
    job.members = min(n_threads, <int>POOL_MOST)
    if n_threads == 0:
        job.members = fewer(<int>max(min(2.0 * job.m * job.n * job.k / WORK, <double>limit), 1.0))
    job.groups, job.spans = (job.m + ROWS - 1) // ROWS, 1
    if job.trans_a and job.m >= 2 * FEW * job.members:
        job.groups = (job.groups + job.members - 1) // job.members * job.members
    elif job.members > 1:
        job.spans = min(((1 if job.trans_a else 3) * job.members + job.groups - 1) // job.groups, strips)
    job.members = min(job.members, job.groups * job.spans)
    job.copies = job.m > SINGLE if job.trans_b else job.n * job.item > NEAR_BYTES and job.m >= FEW
    job.size = TERMS * width * job.item if job.copies else 0
    if job.trans_a:
        job.size += min(job.m, <Py_ssize_t>ROWS) * copied_row(job) * job.item
    counter_reset(&job.next)


def matmul(a not None, b not None, bint trans_a=False, bint trans_b=False, int n_threads=0, into=None):
    """Return op(a) op(b) for C-contiguous matrices of one dtype, float32 or float64; without the GIL, in up to `n_threads`
    threads, or for 0 as many as pay. At most one of them is transposed. With trans_a, the product may be added to the
    writable matrix `into`, which shares no memory with the others, and is then returned.

    Raises
    ------
    ValueError
        If they are not that, or sizes do not match, or exceed what BLAS counts where it is asked.
    """
    cdef cnp.ndarray left, right, out, workspace
    cdef Py_ssize_t lda, ldb, m, n, k, item, first, step, k_0, terms
    cdef int dtype
    cdef Job job
    for array in (a, b):  # exactly arrays: a subclass could tell anything about its shape
        if type(array) is not np.ndarray or array.ndim != 2 or array.dtype != a.dtype or not array.flags.c_contiguous:
            raise ValueError(f"expected C-contiguous matrices of one dtype, got {array!r:.80}")
    if a.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"expected float32 or float64, got {a.dtype}")
    left, right, dtype = a, b, FLOAT32 if a.dtype == np.float32 else FLOAT64
    lda, ldb = a.shape[1], b.shape[1]
    m, k = a.shape[::-1] if trans_a else a.shape
    n = b.shape[0 if trans_b else 1]
    if trans_a and trans_b or b.shape[1 if trans_b else 0] != k:
        raise ValueError(f"expected matrices that match, got {a.shape}{'ᵀ' * trans_a} and {b.shape}{'ᵀ' * trans_b}")
    if n_threads < 0:
        raise ValueError(f"expected a number of threads, or 0, got {n_threads}")
    if into is not None and not (
        trans_a and type(into) is np.ndarray and into.dtype == a.dtype and into.shape == (m, n)
        and cnp.PyArray_ISCARRAY(<cnp.ndarray>into)
    ):
        raise ValueError(f"expected a writable C-contiguous matrix of shape {(m, n)} for aᵀb, got {into!r:.80}")
    if m == 0 or n == 0 or k == 0:
        return np.zeros((m, n), a.dtype) if into is None else into
    if engine == PANELS and trans_b and (n <= SINGLE < m or SINGLE < m < min(n, <Py_ssize_t>FEW)):
        return np.ascontiguousarray(matmul(b, a, False, True, n_threads).T)  # the other way round there is less to copy
    out = empty((m, n), a.dtype) if into is None else into
    if engine == BLAS:
        load()
        check_dimension(max(m, n, k))
        job.a, job.out, item = <const char *>cnp.PyArray_DATA(left), <char *>cnp.PyArray_DATA(out), cnp.PyArray_ITEMSIZE(left)
        step = min(max(<Py_ssize_t>(BLAS_WORK / (2.0 * n * k)), <Py_ssize_t>ROWS), m)
        terms = max(<Py_ssize_t>(BLAS_WORK / (2.0 * n * step)), <Py_ssize_t>ROWS)
        for first from 0 <= first < m by step:
            for k_0 from 0 <= k_0 < k by terms:
                with nogil:
                    product(dtype, trans_a, trans_b, min(step, m - first), n, min(terms, k - k_0),
                            job.a + (first + k_0 * m if trans_a else first * k + k_0) * item, lda,
                            <const char *>cnp.PyArray_DATA(right) + (k_0 if trans_b else k_0 * n) * item, ldb, into is not None or k_0 > 0,
                            job.out + first * n * item, n)
                PyErr_CheckSignals()
        return out
    job.leaf, job.item, job.m, job.n, job.k = leaf_of(dtype), cnp.PyArray_ITEMSIZE(left), m, n, k
    job.a, job.b = <const char *>cnp.PyArray_DATA(left), <const char *>cnp.PyArray_DATA(right)
    job.out, job.trans_a, job.trans_b, job.add = <char *>cnp.PyArray_DATA(out), trans_a, trans_b, into is not None
    cut(&job, n_threads)
    job.memory = NULL
    if job.size:
        workspace = empty((job.members * job.size // <Py_ssize_t>sizeof(double),), FLOAT)
        job.memory = <char *>cnp.PyArray_DATA(workspace)
    with nogil:
        gather_crew(&job.watch, <int>job.members, 2.0 * m * n * k)
        if not run_crew(&job.watch, member_of, &job):
            raise_stopped()
    return out
