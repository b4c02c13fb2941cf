"""Weights as the kernels read them, made once for each set of weights."""

import numpy as np

from .blas import blocked

cimport cython
cimport numpy as cnp

cnp.import_array()


cdef cnp.ndarray aligned(object size, object dtype):
    """An uninitialised array (size,) that begins at a cache line."""
    cdef cnp.ndarray buffer = np.empty(size * dtype.itemsize + 64, np.uint8)
    cdef Py_ssize_t start = -<Py_ssize_t>cnp.PyArray_DATA(buffer) & 63
    return buffer[start : start + size * dtype.itemsize].view(dtype)


cdef object in_panels(W, scales, width):
    """Return a matrix (gates*H, K), each gate times its scale, as simd/panels.h lays it out: vectors of `width` units of
    one gate, all gates of the same units side by side, units beyond H zero; then in panels of 4, 2 or 1 vectors."""
    gates = len(scales)
    H, K = W.shape[0] // gates, W.shape[1]
    groups = -(-H // width)
    padded = np.zeros((gates, groups * width, K), W.dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for gate, scale in enumerate(scales):
            part = W[gate * H : (gate + 1) * H]
            padded[gate, :H] = part if scale == 1 else part * np.float64(scale)  # rounded once
    vectors = padded.reshape(gates, groups, width, K).swapaxes(0, 1).reshape(gates * groups, width, K)
    out = aligned(vectors.size, W.dtype)
    first = 0
    for size in (4, 2, 1):
        last = first + (len(vectors) - first) // size * size
        part = vectors[first:last].reshape(-1, size, width, K).transpose(0, 3, 1, 2)
        out[first * width * K : last * width * K].reshape(part.shape)[...] = part
        first = last
    return out


@cython.final
@cython.auto_pickle(False)
cdef class Pack:
    """The weights of one layer in one direction, and what the engines made of them, each at its first use.

    Parameters
    ----------
    W_ih : ndarray (G*H, I)
    W_hh : ndarray (G*H, H)
    b_ih, b_hh : ndarray (G*H,) or None
    """

    def __cinit__(self, W_ih not None, W_hh not None, b_ih=None, b_hh=None):
        if type(W_ih) is not np.ndarray or type(W_hh) is not np.ndarray or W_ih.ndim != 2 or W_hh.ndim != 2:
            raise ValueError(f"expected matrices W_ih and W_hh, got {W_ih!r:.80} and {W_hh!r:.80}")
        if W_ih.size == 0 or W_hh.size == 0 or len(W_ih) != len(W_hh) or len(W_hh) % W_hh.shape[1]:
            raise ValueError(f"expected weights (G*H, I) and (G*H, H), got {W_ih.shape} and {W_hh.shape}")
        bias = np.zeros(len(W_ih), W_ih.dtype) if b_ih is None else np.asarray(b_ih + b_hh)
        if bias.shape != (len(W_ih),):
            raise ValueError(f"expected biases ({len(W_ih)},), got {bias.shape}")
        self.gates, self.input_size, self.hidden_size = len(W_hh) // W_hh.shape[1], W_ih.shape[1], W_hh.shape[1]
        self.arrays = W_ih, W_hh, bias

    cdef tuple for_blas(self):
        """W_ih, W_hh^T in blocks, bias."""
        W_ih, W_hh, bias = self.arrays
        if self.blas_forward is None:
            self.blas_forward = W_ih, blocked(W_hh.T), bias
        return self.blas_forward

    cdef tuple for_backward(self):
        """W_ih, W_hh in blocks."""
        W_ih, W_hh, _ = self.arrays
        if self.blas_backward is None:
            self.blas_backward = W_ih, blocked(W_hh)
        return self.blas_backward

    cdef tuple for_panels(self, int width, tuple scales):
        """W_ih, W_hh and bias in panels, each gate times its scale; the width of a vector, and the scales."""
        W_ih, W_hh, bias = self.arrays
        made = self.panels
        if made is None or made[3:] != (width, scales):
            made = (*[in_panels(W, scales, width) for W in (W_ih, W_hh, bias[:, None])], width, scales)
            self.panels = made
        return made
