"""Weights as the kernels read them, made once for each set of weights."""

import numpy as np

from .blas import blocked

from .blas cimport FLOAT32, FLOAT64
from .leaf cimport DIGEST, Digest, Leaf, leaf_of, quickest_digest
from .memory cimport vector_of

cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.string cimport memset

cnp.import_array()

cdef enum:
    KEEP_GIL = 1 << 18  # bytes that are read, or packed, before another thread could have woken up
    MAX_GATES = 4
    FAR = 1 << 20       # bytes of a matrix that is written past the caches: it would drive out what is needed sooner
    AT_ONCE = 1 << 20   # bytes that are packed before others may have the GIL, and Ctrl-C is looked for


cdef int check_matrix(object W, str name) except -1:
    if not cnp.PyArray_CheckExact(W) or cnp.PyArray_NDIM(<cnp.ndarray>W) != 2 or cnp.PyArray_SIZE(<cnp.ndarray>W) == 0:
        raise ValueError(f"expected a matrix {name}, got {W!r:.80}")
    return 0


cdef int check_vector(object b, Py_ssize_t size, str name) except -1:
    if b is not None and not (
        cnp.PyArray_CheckExact(b) and cnp.PyArray_NDIM(<cnp.ndarray>b) == 1 and cnp.PyArray_DIM(<cnp.ndarray>b, 0) == size
    ):
        raise ValueError(f"expected {name} of shape ({size},), got {b!r:.80}")
    return 0


cdef void add(char *to, const char *more, Py_ssize_t n, Py_ssize_t item) noexcept:
    cdef Py_ssize_t k
    for k in range(n):
        if item == sizeof(float):
            (<float *>to)[k] += (<const float *>more)[k]
        else:
            (<double *>to)[k] += (<const double *>more)[k]


cdef Py_ssize_t fill_panels(const Leaf *leaf, char *out, const char *W, Py_ssize_t item, Py_ssize_t gates, Py_ssize_t H,
                            Py_ssize_t K, const double *scales, bint interleaved, Py_ssize_t v) noexcept nogil:
    """Panels of a matrix (gates*H, K), as `in_panels` says, from vector v on: about AT_ONCE bytes. Returns the next vector, or 0
    after the last."""
    cdef Py_ssize_t width = leaf.width, groups = (H + width - 1) // width, sets = 1 if interleaved else gates
    cdef Py_ssize_t vectors = groups * (gates if interleaved else 1), count, abreast, q, set, gate, unit, done = 0
    while v < vectors and done < AT_ONCE:
        count = panel_vectors(vectors - v)
        abreast = min(count, leaf.abreast)
        for set in range(sets):
            for q in range(count):
                gate = (v + q) % gates if interleaved else set
                unit = ((v + q) // gates if interleaved else v + q) * width
                leaf.pack(out + ((v * sets + set * count + q - q % abreast) * K + q % abreast) * width * item,
                          W + (gate * H + unit) * K * item, K, H - unit, K, abreast * width, scales[gate],
                          gates * H * K * item >= FAR)
        v += count
        done += sets * count * K * width * item
    return v if v < vectors else 0


cdef cnp.ndarray in_panels(cnp.ndarray source, const double *scales, Py_ssize_t gates, Py_ssize_t width,
                           bint interleaved=False):
    """Return a matrix (gates*H, K), or a vector (gates*H,), each gate times its scale, as simd/panels.h lays it out: vectors
    of `width` units of one gate, units beyond H zero, in panels of 4, 2 or 1 vectors; all gates of the same vectors side by
    side, in a panel each or, `interleaved`, as the vectors of one."""
    cdef Py_ssize_t H, K, item = cnp.PyArray_ITEMSIZE(source), v = 0
    cdef int type_ = cnp.PyArray_TYPE(source)
    cdef const Leaf *leaf = leaf_of(FLOAT32 if type_ == cnp.NPY_FLOAT else FLOAT64)
    cdef cnp.ndarray out
    cdef char *to
    cdef const char *from_ = <const char *>cnp.PyArray_DATA(source)
    H, K = cnp.PyArray_DIM(source, 0) // gates, cnp.PyArray_DIM(source, 1) if cnp.PyArray_NDIM(source) == 2 else 1
    if gates > MAX_GATES or not cnp.PyArray_ISCARRAY_RO(source) or width != leaf.width or type_ not in (
        cnp.NPY_FLOAT, cnp.NPY_DOUBLE
    ):
        raise ValueError(f"expected a C-contiguous matrix of up to {MAX_GATES} gates, got {source!r:.80}")
    out = vector_of(gates * ((H + width - 1) // width * width) * K, type_)
    to = <char *>cnp.PyArray_DATA(out)
    while True:
        if cnp.PyArray_NBYTES(out) < KEEP_GIL:
            v = fill_panels(leaf, to, from_, item, gates, H, K, scales, interleaved, v)
        else:
            with nogil:
                v = fill_panels(leaf, to, from_, item, gates, H, K, scales, interleaved, v)
            PyErr_CheckSignals()
        if v == 0:
            return out


cdef object in_strips(W, Py_ssize_t strip):
    """Return a matrix (K, P) as simd/strips.h lays it out for gradients: all rows of the first `strip` columns, then of the
    next; what the last ones lack is not set, but may be read."""
    cdef cnp.ndarray source = W, out
    cdef Py_ssize_t K = cnp.PyArray_DIM(source, 0), P = cnp.PyArray_DIM(source, 1), item = cnp.PyArray_ITEMSIZE(source)
    cdef Py_ssize_t k, rows = max(AT_ONCE // (P * item), <Py_ssize_t>1)
    cdef int type_ = cnp.PyArray_TYPE(source)
    cdef const Leaf *leaf = leaf_of(FLOAT32 if type_ == cnp.NPY_FLOAT else FLOAT64)
    if not cnp.PyArray_ISCARRAY_RO(source) or type_ not in (cnp.NPY_FLOAT, cnp.NPY_DOUBLE) or strip != 4 * leaf.width:
        raise ValueError(f"expected a C-contiguous matrix of float32 or float64 for strips of {4 * leaf.width}, got {W!r:.80}")
    out = vector_of((P + strip - 1) // strip * strip * K, type_)
    for k from 0 <= k < K by rows:
        with nogil:
            leaf.strips(cnp.PyArray_DATA(out), cnp.PyArray_DATA(source), P, K, P, k, min(k + rows, K), K * P * item >= FAR)
        PyErr_CheckSignals()
    return out


cpdef bytes digest(tuple arrays):
    """Return what tells C-contiguous arrays of float32 or float64 from others of the same sizes, as far as the
    instruction set stays: `bytes`."""
    cdef char state[DIGEST]
    cdef cnp.ndarray array
    cdef Digest mix = quickest_digest()
    cdef Py_ssize_t size
    memset(state, 0, DIGEST)
    for item in arrays:
        if type(item) is not np.ndarray or not cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>item):
            raise ValueError(f"expected C-contiguous arrays, got {item!r:.80}")
        array = item
        size = cnp.PyArray_NBYTES(array)
        if size < KEEP_GIL:
            mix(state, cnp.PyArray_DATA(array), size)
        else:
            with nogil:
                mix(state, cnp.PyArray_DATA(array), size)
    return PyBytes_FromStringAndSize(state, DIGEST)


@cython.final
@cython.auto_pickle(False)
cdef class Pack:
    """The weights of one layer in one direction, and what the engines made of them, each at its first use.

    Parameters
    ----------
    W_ih : ndarray (G*H, I)
    W_hh : ndarray (G*H, P), P being H without W_hr
    b_ih, b_hh : ndarray (G*H,) or None
    W_hr : ndarray (P, H) or None
        What turns a cell's hidden units into its state and output.
    b_hr : ndarray (P,) or None
    w_peephole : ndarray (3*H,) or None
        i f o.
    """

    def __cinit__(self, W_ih not None, W_hh not None, b_ih=None, b_hh=None, W_hr=None, b_hr=None, w_peephole=None):
        cdef Py_ssize_t GH, H, P
        check_matrix(W_ih, "W_ih")
        check_matrix(W_hh, "W_hh")
        GH, H = cnp.PyArray_DIM(<cnp.ndarray>W_hh, 0), cnp.PyArray_DIM(<cnp.ndarray>W_hh, 1)
        P = H
        if W_hr is not None:
            check_matrix(W_hr, "W_hr")
            H = cnp.PyArray_DIM(<cnp.ndarray>W_hr, 1)
        if cnp.PyArray_DIM(<cnp.ndarray>W_ih, 0) != GH or GH % H:
            raise ValueError(f"expected weights (G*H, I) and (G*H, P) with H = {H}, got {W_ih.shape} and {W_hh.shape}")
        if W_hr is not None and cnp.PyArray_DIM(<cnp.ndarray>W_hr, 0) != P:
            raise ValueError(f"expected W_hr of shape ({P}, H), got {W_hr.shape}")
        check_vector(b_ih, GH, "b_ih")
        check_vector(b_hh, GH, "b_hh")
        check_vector(b_hr, P, "b_hr")
        check_vector(w_peephole, 3 * H, "w_peephole")
        self.gates, self.input_size, self.hidden_size, self.state_size = GH // H, cnp.PyArray_DIM(<cnp.ndarray>W_ih, 1), H, P
        self.projects, self.peeps, self.strips = W_hr is not None, w_peephole is not None, {}
        self.arrays = W_ih, W_hh, b_ih, b_hh, W_hr, b_hr, w_peephole

    def over(self, rows not None):
        """Return the same weights for a run that reads numbers of `rows`, a matrix (U, I), in place of rows of x: what
        W_ih makes of each is formed once, at first use."""
        if type(rows) is not np.ndarray or rows.shape[1:] != (self.input_size,) or not cnp.PyArray_ISCARRAY_RO(
            <cnp.ndarray>rows
        ) or rows.dtype != self.arrays[0].dtype:
            raise ValueError(f"expected a C-contiguous matrix (U, {self.input_size}) of {self.arrays[0].dtype}, got {rows!r:.80}")
        cdef Pack pack = Pack.__new__(Pack, *self.arrays)
        pack.peeps, pack.base, pack.rows = self.peeps, self, rows
        return pack

    cdef cnp.ndarray zeros(self, cnp.npy_intp n):
        return cnp.PyArray_ZEROS(1, &n, cnp.PyArray_TYPE(<cnp.ndarray>self.arrays[0]), 0)

    cdef cnp.ndarray of_h(self):
        """The biases of h."""
        return self.zeros(self.gates * self.hidden_size) if self.arrays[3] is None else self.arrays[3]

    cdef cnp.ndarray bias(self, Py_ssize_t gates):
        """The biases of x, plus those of h of the first `gates` gates."""
        cdef Py_ssize_t GH = self.gates * self.hidden_size, item = cnp.PyArray_ITEMSIZE(<cnp.ndarray>self.arrays[0])
        cdef cnp.ndarray bias = self.zeros(GH), b
        for given, n in ((self.arrays[2], GH), (self.arrays[3], gates * self.hidden_size)):
            if given is not None:
                b = given
                if cnp.PyArray_TYPE(b) != cnp.PyArray_TYPE(bias) or not cnp.PyArray_ISCARRAY_RO(b):
                    raise ValueError(f"expected biases as weights are, {bias.dtype} and C-contiguous, got {b!r:.80}")
                add(<char *>cnp.PyArray_DATA(bias), <const char *>cnp.PyArray_DATA(b), n, item)
        return bias

    cdef tuple for_blas(self, int shift, int split):
        """W_ih; W_hh^T in blocks, of the first `split` gates and of the others; the bias of the gates' columns, of x for gate g
        in place (g + shift) % G, and of h in g + shift; W_hr^T in blocks; its bias; the peepholes."""
        if self.base is not None:
            return self.base.for_blas(shift, split)
        W_ih, W_hh, _, _, W_hr, b_hr, w_peephole = self.arrays
        if self.blas_forward is None or self.blas_forward[-1] != (shift, split):
            cut, bias, last = split * self.hidden_size, self.bias(self.gates - shift), shift * self.hidden_size
            if shift:
                bias = np.concatenate((bias[-last:], bias[:-last], self.of_h()[-last:]))
            W_hh_T = np.concatenate([blocked(W.T) for W in (W_hh[:cut], W_hh[cut:]) if len(W)])
            W_hr_T = None if W_hr is None else blocked(W_hr.T)
            b_hr = self.zeros(self.state_size) if b_hr is None else b_hr
            self.blas_forward = W_ih, W_hh_T, bias, W_hr_T, b_hr, w_peephole, (shift, split)
        return self.blas_forward

    cdef tuple for_gradients(self, int width, bint of_x, bint of_h):
        """W_ih, if `of_x`, and W_hh and W_hr, if `of_h`, in strips of four vectors of `width` units, or as they are; and the
        peepholes."""
        W_ih, W_hh, _, _, W_hr, _, w_peephole = self.arrays
        if of_x:
            W_ih = self.strips_of(0, width)
        if of_h:
            W_hh, W_hr = self.strips_of(1, width), self.strips_of(4, width)
        return W_ih, W_hh, W_hr, w_peephole

    cdef object strips_of(self, int k, int width):
        """One of these; itself if it is a strip."""
        if self.base is not None:
            return self.base.strips_of(k, width)
        W, key = self.arrays[k], (k, width)
        if W is None or cnp.PyArray_DIM(<cnp.ndarray>W, 1) <= 4 * width:
            return W
        if key not in self.strips:
            self.strips[key] = in_strips(W, 4 * width)
        return self.strips[key]

    cdef tuple for_backward(self, int split):
        """W_ih; W_hh in blocks, of the first `split` gates and of the others; W_hr in blocks; the peepholes."""
        if self.base is not None:
            return self.base.for_backward(split)
        W_ih, W_hh, _, _, W_hr, _, w_peephole = self.arrays
        if self.blas_backward is None or self.blas_backward[-1] != split:
            cut = split * self.hidden_size
            blocks = np.concatenate([blocked(W) for W in (W_hh[:cut], W_hh[cut:]) if len(W)])
            self.blas_backward = W_ih, blocks, None if W_hr is None else blocked(W_hr), w_peephole, split
        return self.blas_backward

    cdef tuple for_panels(self, int width, tuple form):
        """In panels, each gate times its scale: W_ih, W_hh, the bias, that of a gate's part over h alone, W_hr and its
        bias, the peepholes; then the width of a vector, and `form`: the gates' scales, whether their vectors interleave,
        the shift of `bias`, and the output's scale."""
        if self.base is not None:
            return self.base.for_panels(width, form)
        made = self.panels
        if made is None or made[-2:] != (width, form):
            made = self.panels = (*self.make_panels(width, form), width, form)
        return made

    cdef tuple make_panels(self, int width, tuple form):
        """The first seven of these."""
        cdef double scales[MAX_GATES]
        cdef double once[MAX_GATES]
        cdef Py_ssize_t G = self.gates, k
        cdef bint interleaved
        cdef int shift
        each, interleaved, shift, out_scale = form
        if len(each) != G or G > MAX_GATES or not 0 <= shift < G:
            raise ValueError(f"expected as many scales as there are gates, at most {MAX_GATES}, got {each}")
        for k in range(G):
            scales[k], once[k] = each[k], each[0]
        W_ih, W_hh, _, _, W_hr, b_hr, w_peephole = self.arrays
        bias, of_h, peepholes = self.bias(G - shift), None, None
        W_ih, W_hh, bias = [in_panels(W, scales, G, width, interleaved) for W in (W_ih, W_hh, bias)]
        if shift:
            of_h = in_panels(self.of_h()[(G - shift) * self.hidden_size :], scales + G - 1, 1, width)
        if self.peeps:
            peepholes = in_panels(w_peephole, once, 3, width, True)
        if self.projects:
            once[0] = out_scale
            W_hr, b_hr = [
                in_panels(W, once, 1, width) for W in (W_hr, self.zeros(self.state_size) if b_hr is None else b_hr)]
        return W_ih, W_hh, bias, of_h, W_hr, b_hr, peepholes
