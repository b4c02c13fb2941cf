"""Losses, each returned together with its gradient."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from .._kernels.memory import empty
from .._kernels.optim import softmax
from ..checks import as_array, as_int, as_real, check_shape

__all__ = ["mean_squared_error", "softmax_cross_entropy"]

_BLOCK = 65536  # elements worked on at a time: temporaries stay in the cache, whatever the size of the input


def softmax_cross_entropy(
    logits: ArrayLike,
    targets: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    ignore_index: int | None = None,
    reduction: str = "sum",
) -> tuple[float, np.ndarray]:
    """Return the cross-entropy of softmax(logits) with the targets, summed over time and batch, and its gradient.

    Parameters
    ----------
    logits : array_like (..., C)
        Whole sequences (T, N, C), or one step (N, C). float32 stays float32; all else is taken as float64.
    targets : array_like of int (...)
        Classes, from 0 to C - 1.
    mask : array_like of bool, optional
        Broadcastable to `targets`: True where a position counts. The others add nothing to the loss and their
        gradient is exactly zero, whatever their logits (NaN too) and targets are.
    ignore_index : int, optional
        Positions with this target do not count either.
    reduction : {"sum", "mean"}
        "mean" divides loss and gradient by the number of positions that count; where none does, both are zero.

    Returns
    -------
    loss : float
        In nats, accumulated in float64.
    dlogits : numpy.ndarray (..., C)
        Gradient of the loss, of the dtype of the logits.

    Raises
    ------
    TypeError
        If targets are not integers, or `mask` is not of bool.
    ValueError
        If shapes do not match, or the target of a position that counts is out of range.

    Notes
    -----
    Logits of -inf are classes ruled out. A NaN makes the loss NaN, and the gradient of its own position only.

    Math::

        (1)  loss = Σ_t log Σ_c exp(z_tc) - z_t,k    with k = targets_t
        (1') dz_t = softmax(z_t) - onehot(k)

    Examples
    --------
    >>> from rnncore.train import softmax_cross_entropy
    >>> loss, dlogits = softmax_cross_entropy([[0.0, 0.0], [5.0, 5.0]], [0, -1], ignore_index=-1)
    >>> round(loss, 4), dlogits.tolist()
    (0.6931, [[-0.5, 0.5], [0.0, 0.0]])
    """
    logits = _as_float(logits, "logits")
    if logits.shape[-1:] in ((), (0,)):
        raise ValueError(f"expected logits of shape (..., C) with at least one class, got {logits.shape}")
    targets = as_array(targets, "targets", "integers")
    given = None if mask is None else as_array(mask, "mask", "booleans")
    ignored = None if ignore_index is None else as_int(ignore_index, "ignore_index")
    if targets.dtype.kind not in "iu":
        raise TypeError(f"expected targets to be integers, got dtype {targets.dtype}")
    check_shape(targets.shape, logits.shape[:-1], "targets")
    counts = None if given is None else _as_mask(given, targets.shape)
    if ignored is not None:
        others = targets != ignored
        counts = others if counts is None else counts & others

    C = logits.shape[-1]
    k, rows = targets.reshape(-1), None
    if counts is not None and not counts.all():
        rows = np.flatnonzero(counts)
        k = k[rows]
    if k.size and (k.min() < 0 or k.max() >= C):
        raise ValueError(f"expected targets from 0 to {C - 1}, got {k[(k < 0) | (k >= C)][0]}")
    scale = _scale(reduction, len(k))

    loss = 0.0
    z = logits.reshape(-1, C)
    dz = empty(z.shape, z.dtype) if rows is None else np.zeros_like(z)
    n = max(1, _BLOCK // C)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf: the NaN is the answer
        for i in range(0, len(k), n):
            k_t = k[i : i + n]
            z_t = z[i : i + n] if rows is None else z[rows[i : i + n]]
            dz_t = dz[i : i + n] if rows is None else z_t
            at = np.arange(len(k_t)), k_t
            z_tk = z_t[at]
            parts = np.empty((len(k_t), 2))
            if rows is None:
                np.copyto(dz_t, z_t)
            softmax(dz_t, parts, scale)
            loss_t = np.log(parts[:, 1]) + (parts[:, 0] - z_tk)
            loss += float(loss_t.sum())  # (1) loss = Σ_t log Σ_c exp(z_tc) - z_t,k
            dz_t[at] -= scale  # (1') dz_t = softmax(z_t) - onehot(k)
            if rows is not None:
                dz[rows[i : i + n]] = dz_t
    return loss * scale, dz.reshape(logits.shape)


def mean_squared_error(
    y: ArrayLike, target: ArrayLike, *, mask: ArrayLike | None = None, reduction: str = "sum"
) -> tuple[float, np.ndarray]:
    """Return the squared error of y, summed over all its elements, and its gradient. There is no factor ½.

    Parameters
    ----------
    y : array_like
        Of any shape. float32 stays float32; all else is taken as float64.
    target : array_like
        Of the same shape.
    mask : array_like of bool, optional
        With as many dimensions as `y` and broadcastable to it, as ``lengths_mask[..., None]``: True where an element
        counts. The others add nothing to the loss and their gradient is exactly zero, whatever they are.
    reduction : {"sum", "mean"}
        "mean" divides loss and gradient by the number of elements that count (elements, not positions: as torch
        does); where none does, both are zero.

    Returns
    -------
    loss : float
        Accumulated in float64.
    dy : numpy.ndarray
        Gradient of the loss, of the shape and dtype of `y`.

    Raises
    ------
    TypeError
        If an array does not hold real numbers, or `mask` is not of bool.
    ValueError
        If shapes do not match.

    Notes
    -----
    Math::

        (1)  loss = Σ (y - target)²
        (1') dy = 2 (y - target)

    Examples
    --------
    >>> from rnncore.train import mean_squared_error
    >>> loss, dy = mean_squared_error([1.0, 2.0, 3.0], [1.0, 0.0, 4.0])
    >>> loss, dy.tolist()
    (5.0, [0.0, 4.0, -2.0])
    """
    y = _as_float(y, "y")
    target = as_real(target, y.dtype, "target")
    check_shape(target.shape, y.shape, "target")
    n = y.size
    dy = np.empty_like(y)
    with np.errstate(invalid="ignore", over="ignore"):  # inf - inf: the NaN is the answer
        np.subtract(y, target, out=dy)
    if mask is not None:
        given = as_array(mask, "mask", "booleans")
        if given.ndim != y.ndim:  # (T, N) would broadcast to (T, N, F) from the wrong end
            raise ValueError(f"expected mask with {y.ndim} dimensions, got shape {given.shape}")
        counts = _as_mask(given, y.shape)
        n = int(np.count_nonzero(counts))
        dy[~counts] = 0
    scale = _scale(reduction, n)
    loss = 0.0
    flat = dy.reshape(-1)
    for i in range(0, flat.size, _BLOCK):
        loss += float(np.square(flat[i : i + _BLOCK], dtype=np.float64).sum())  # (1) loss = Σ (y - target)²
    dy *= 2 * scale  # (1') dy = 2 (y - target)
    return loss * scale, dy


def _as_float(value: ArrayLike, name: str) -> np.ndarray:
    """Return `value` as an array of float32, if that is what it holds, or else of float64."""
    dtype = getattr(value, "dtype", None)
    single = isinstance(dtype, np.dtype) and dtype.kind == "f" and dtype.itemsize == 4
    return as_real(value, np.dtype(np.float32 if single else np.float64), name)


def _as_mask(given: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if given.dtype != bool:
        raise TypeError(f"expected mask to be of bool, got dtype {given.dtype}")
    try:
        return np.broadcast_to(given, shape)
    except ValueError:
        raise ValueError(f"expected mask broadcastable to {shape}, got {given.shape}") from None


def _scale(reduction: str, n: int) -> float:
    if reduction not in ("sum", "mean"):
        raise ValueError(f"expected reduction 'sum' or 'mean', got {reduction!r}")
    return 1.0 if reduction == "sum" else 1.0 / max(n, 1)
