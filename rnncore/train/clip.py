"""Clipping of gradients, in place."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate, islice, pairwise

import numpy as np

from .._kernels.memory import address
from .._kernels.optim import sum_of_squares
from ..checks import DTYPES, as_real, as_scalar

__all__ = ["clip_grad_norm", "clip_grad_value"]

Place = tuple[int, int, str, tuple[tuple[int, int], ...]]


def clip_grad_norm(
    grads: Mapping[str, np.ndarray] | Iterable[Mapping[str, np.ndarray]],
    max_norm: float,
    *,
    error_if_nonfinite: bool = False,
) -> float:
    """Scale gradients in place so that the norm of all of them together is at most `max_norm`; return what it was.

    Parameters
    ----------
    grads : dict of str to numpy.ndarray, or iterable of them
        As `backward` returns them. Memory that occurs twice, in whatever shape and order, counts, and is scaled, once.
    max_norm : float
        At least 0; infinity only measures.
    error_if_nonfinite : bool
        Whether a norm that is infinite or NaN is an error.

    Returns
    -------
    float
        Euclidean norm before clipping, computed in float64 without overflow. If it is infinite or NaN, the gradients
        are left as they were: look at it before `step`.

    Raises
    ------
    TypeError
        If `grads` is neither a dict nor an iterable of them, or a gradient not an array of float32 or float64.
    ValueError
        If one is read-only or overlaps itself, two share a part of their memory, `max_norm` is negative or NaN, or,
        with `error_if_nonfinite`, the norm is not finite. Nothing is scaled then.

    Notes
    -----
    Math::

        g ← g · min(1, max_norm / (norm + 1e-6))        (as torch does)

    References
    ----------
    Pascanu, Mikolov, Bengio (2013), On the difficulty of training recurrent neural networks. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> from rnncore.train import clip_grad_norm
    >>> g1, g2 = {"weight": np.array([3.0, 0.0])}, {"weight": np.array([0.0, -4.0])}
    >>> clip_grad_norm([g1, g2], max_norm=1.0)
    5.0
    >>> g2["weight"].round(4).tolist()
    [0.0, -0.8]
    """
    found = _arrays(grads)
    _check_apart(found)
    arrays, max_norm = found.values(), as_scalar(max_norm, "max_norm", low=0)
    norm = math.hypot(*map(_norm, arrays))
    if not math.isfinite(norm):
        if error_if_nonfinite:
            raise ValueError(f"expected gradients of finite norm, got {norm}")
        return norm
    factor = max_norm / (norm + 1e-6)
    if factor < 1:
        for array in arrays:
            array *= factor
    return norm


def clip_grad_value(grads: Mapping[str, np.ndarray] | Iterable[Mapping[str, np.ndarray]], clip_value: float) -> None:
    """Clip every element of the gradients to [-clip_value, clip_value], in place. NaN stays NaN.

    Parameters
    ----------
    grads : dict of str to numpy.ndarray, or iterable of them
        As `backward` returns them.
    clip_value : float
        At least 0.

    Raises
    ------
    TypeError
        If `grads` is neither a dict nor an iterable of them, or a gradient not an array of float32 or float64.
    ValueError
        If one is read-only, or `clip_value` is negative or NaN. Nothing is clipped then.

    Examples
    --------
    >>> import numpy as np
    >>> from rnncore.train import clip_grad_value
    >>> grads = {"bias": np.array([-3.0, 0.5])}
    >>> clip_grad_value(grads, 1.0)
    >>> grads["bias"].tolist()
    [-1.0, 0.5]
    """
    arrays = _arrays(grads).values()
    limit = as_scalar(clip_value, "clip_value", low=0)
    for array in arrays:
        np.clip(array, -limit, limit, out=array)


def _arrays(grads: Mapping[str, np.ndarray] | Iterable[Mapping[str, np.ndarray]]) -> dict[Place, np.ndarray]:
    """Return the arrays in `grads`, each piece of memory once."""
    found = {}
    if not isinstance(grads, Iterable):
        raise TypeError(f"expected gradients as a dict of names to arrays, or several, got {type(grads).__name__}")
    for group in [grads] if isinstance(grads, Mapping) else grads:
        if not isinstance(group, Mapping):
            raise TypeError(f"expected gradients as a dict of names to arrays, got {type(group).__name__}")
        for name, array in group.items():
            if not isinstance(array, np.ndarray):
                raise TypeError(f"expected the gradient of {name} to be a NumPy array, got {type(array).__name__}")
            if array.dtype not in DTYPES:
                raise TypeError(f"expected the gradient of {name} of float32 or float64, got dtype {array.dtype}")
            if not array.flags.writeable:
                raise ValueError(f"expected the gradient of {name} to be writable, got a read-only array")
            found[_place(array)] = array
    return found


def _place(array: np.ndarray) -> Place:
    """Return where an array's elements lie, whatever their shape and order: from which address up to which, the dtype,
    and strides and lengths of the fewest axes that reach all of them."""
    start, axes = address(array), [(array.itemsize, array.size)]
    if array.flags.forc:
        return start, start + array.nbytes, array.dtype.char, tuple(axes)
    axes = [(array.itemsize, 1)]
    for stride, length in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        inner, of_inner = axes[-1]
        if stride == inner * of_inner:
            axes[-1] = inner, of_inner * length
        else:
            axes.append((stride, length))
    start += sum(min(s, 0) * (n - 1) for s, n in zip(array.strides, array.shape, strict=True))
    end = start + sum(stride * (length - 1) for stride, length in axes) + array.itemsize if array.size else start
    return start, end, array.dtype.char, tuple(axes)


def _check_apart(found: Mapping[Place, np.ndarray]) -> None:
    """Raise ValueError if two arrays share memory, or an array's axes cross: its elements may share some, too."""
    for (*_, axes), array in found.items():
        if len(axes) > 1:
            spans = accumulate((stride * (length - 1) for stride, length in axes), initial=array.itemsize)
            if any(stride < span for (stride, _), span in zip(axes, spans, strict=False)):
                got = f"one of shape {array.shape} and strides {array.strides}"
                raise ValueError(f"expected gradients in memory of their own, got {got}, which overlaps itself")
    places = sorted(found)
    if all(one[1] <= next_[0] for one, next_ in pairwise(places)):
        return
    for k, place in enumerate(places):
        for other in islice(places, k + 1, None):
            if other[0] >= place[1]:
                break
            if np.shares_memory(found[place], found[other]):
                shapes = f"{found[place].shape} and {found[other].shape}"
                raise ValueError(f"expected gradients in memory of their own, got two that share some, of {shapes}")


def _norm(array: np.ndarray) -> float:
    """Return the Euclidean norm of all elements."""
    flat = as_real(array, array.dtype, "a gradient")  # in one piece
    total = sum_of_squares(flat)
    if 1e-200 < total < 1e200:
        return math.sqrt(total)
    scale = 2.0**-600 if total > 1 else 2.0**600  # squares left the range of float64; those of scaled numbers do not
    return math.sqrt(sum_of_squares(flat, scale)) / scale
