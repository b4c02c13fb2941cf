"""The door: everything a caller hands over is turned into what the kernels expect, or into a clear error."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

__all__ = [
    "DTYPES",
    "as_array",
    "as_bool",
    "as_checkpoint",
    "as_dtype",
    "as_int",
    "as_lengths",
    "as_real",
    "as_rows",
    "as_scalar",
    "as_states",
    "as_threads",
    "check_bytes",
    "check_shape",
    "from_tensor",
    "open_state",
    "positive_int",
]

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def as_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return `dtype` as a NumPy dtype; only float32 and float64 pass.

    Raises
    ------
    ValueError
        If `dtype` is anything else.
    """
    try:
        found = None if dtype is None else np.dtype(dtype)  # NumPy takes None for float64
    except Exception:  # of many kinds, SyntaxError among them
        found = None
    if found is None or found not in DTYPES:
        raise ValueError(f"expected dtype float32 or float64, got {dtype!r}")
    return found


def as_bool(value: object, name: str) -> bool:
    """Return `value` as a bool; refuse what is not one (a misplaced positional argument, mostly)."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"expected {name} to be True or False, got {value!r}")


def as_int(value: Any, name: str) -> int:
    """Return `value` as an int; raise TypeError if it is not an integer (a bool is not one here)."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"expected {name} to be an integer, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"expected {name} to be an integer, got {value!r}") from None


def as_checkpoint(checkpoint: Any) -> int | None:
    """Return after how many steps each to keep the states: an int of at least 0, or None."""
    if checkpoint is None:
        return None
    steps = as_int(checkpoint, "checkpoint")
    if steps < 0:
        raise ValueError(f"expected checkpoint to be 0 or more, got {steps}")
    return steps


def positive_int(value: Any, name: str) -> int:
    """Return `value` as an int of at least 1.

    Raises
    ------
    TypeError
        If it is not an integer (a bool is not one here).
    ValueError
        If it is below 1 or larger than an array dimension can be.
    """
    number = as_int(value, name)
    if not 1 <= number <= sys.maxsize:
        raise ValueError(f"expected {name} between 1 and {sys.maxsize}, got {number}")
    return number


def as_threads(n_threads: Any) -> int:
    """Return a number of threads as the kernels take it, 0 for None."""
    return 0 if n_threads is None else min(positive_int(n_threads, "n_threads"), 2**31 - 1)


def as_array(value: Any, name: str, numbers: str = "real numbers") -> np.ndarray:
    """Return `value` as an array, whatever it holds: an array as it is, if it is not of a subclass.

    This is the one step of a conversion in which code of the caller's runs. Whatever that does, to the memory of other
    arguments too, must come before anybody looks at these: where there are several, all of them pass here first, and
    shapes are looked at, and views made, after the last of them.

    Raises
    ------
    TypeError
        If `value` is not array-like.
    ValueError
        If nested sequences do not form an array.
    """
    if type(value) is np.ndarray:
        return value
    if issubclass(type(value), np.ma.MaskedArray) and np.ma.is_masked(value):
        raise TypeError(f"expected {name} to be an array of {numbers}, got a masked one: fill in what is masked")
    try:
        array = np.asarray(value)
    except MemoryError:
        raise
    except (ValueError, OverflowError) as error:
        raise ValueError(f"expected {name} to be an array of {numbers}: {error}") from error
    except Exception as error:  # an `__array__` may raise anything
        raise TypeError(
            f"expected {name} to be an array of {numbers}, got {type(value).__name__}: {error!r}"
        ) from error
    if issubclass(type(value), np.ndarray) and np.ndarray.flags.__get__(value).owndata:
        return array.copy()  # of a subclass, whose memory a view would not keep
    return array


def as_real(value: Any, dtype: np.dtype[Any], name: str) -> np.ndarray:
    """Return `value` as an aligned, C-contiguous array of `dtype`; itself, if it is one already.

    Anything array-like with real numbers is accepted: integers and booleans are numbers, complex numbers, objects,
    strings and dates are not.

    Raises
    ------
    TypeError
        If the elements are not real numbers, or `value` is not array-like.
    ValueError
        If nested sequences do not form an array.
    """
    if type(value) is np.ndarray and value.dtype == dtype:
        flags = value.flags
        if flags.c_contiguous and flags.aligned and value.dtype.isnative:
            return value
    array = as_array(value, name)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"expected {name} to be an array of real numbers, got dtype {array.dtype}")
    return np.require(array, dtype, ["C_CONTIGUOUS", "ALIGNED"])


def from_tensor(value: Any, name: str) -> Any:
    """Return a torch tensor as an array on the CPU, float32 if its floats are shorter; what is no tensor as it is.

    Torch is not imported: without it there is no tensor.

    Raises
    ------
    TypeError
        If the tensor has no numbers that an array can hold: sparse, quantized, or on the device "meta".
    """
    Tensor: Any = getattr(sys.modules.get("torch"), "Tensor", ())
    if not isinstance(value, Tensor):
        return value
    try:
        short = value.is_floating_point() and value.element_size() < 4  # bfloat16 and others that NumPy does not have
        return (value.float() if short else value).numpy(force=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TypeError(
            f"expected {name} to be an array of real numbers, got {type(value).__name__}: {error}"
        ) from error


def as_integers(value: Any, name: str) -> np.ndarray:
    """Return `value` as an array of int64; an empty one of any type passes.

    Raises
    ------
    TypeError
        If it holds no integers (booleans are none here).
    ValueError
        If nested sequences do not form an array, or an integer is too large.
    """
    array = as_array(value, name, "integers")
    if array.dtype == np.int64:
        return array
    if array.dtype.kind not in "iu" and array.size:
        raise TypeError(f"expected {name} to be an array of integers, got dtype {array.dtype}")
    if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
        raise ValueError(f"expected {name} of at most {np.iinfo(np.int64).max}, got {array.max()}")
    return np.array(array, np.int64) if array.size else np.empty(array.shape, np.int64)


def as_lengths(lengths: Any, N: int, unbatched: bool = False) -> np.ndarray:
    """Return the lengths of N sequences as an array (N,) of int64; whether they fit the sequences is not looked at.

    Raises
    ------
    TypeError
        If they are no integers.
    ValueError
        If there are not N of them.
    """
    array = as_integers(lengths, "lengths")
    if unbatched and array.ndim == 0:
        array = array[None]
    check_shape(array.shape, (N,), "lengths")
    return array


def as_rows(rows: Any, N: int, once: bool = False) -> np.ndarray:
    """Return a copy of `rows` as an array of indices from 0 to N-1, in one dimension; with `once`, each at most once.

    Raises
    ------
    TypeError
        If they are no integers.
    ValueError
        If one is out of range or there twice.
    """
    array = as_integers(rows, "rows").flatten()
    if array.size:
        ascending = np.sort(array)
        if ascending[0] < 0 or ascending[-1] >= N:
            wrong = ascending[0] if ascending[0] < 0 else ascending[-1]
            raise ValueError(f"expected rows between 0 and {N - 1}, got {wrong}")
        if once and (ascending[1:] == ascending[:-1]).any():
            raise ValueError(f"expected each row at most once, got {array.tolist()!r:.80}")
    return array


def as_scalar(value: Any, name: str, low: float = -math.inf, below: float | None = None) -> float:
    """Return `value` as a float of at least `low` and, if given, less than `below`.

    Raises
    ------
    TypeError
        If it is not one real number (a bool is not one here).
    ValueError
        If it is NaN or out of range.
    """
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"expected {name} to be a number, got {value!r}")
    if type(value) is float:
        number = value
    else:
        array = as_real(value, np.dtype(np.float64), name)
        if array.ndim:
            raise TypeError(f"expected {name} to be one number, got an array of shape {array.shape}")
        number = float(array)
    if not (number >= low and (below is None or number < below)):
        limit = "" if below is None else f" and less than {below:g}"
        raise ValueError(f"expected {name} of at least {low:g}{limit}, got {number}")
    return number


def check_shape(shape: tuple[int, ...], expected: Sequence[int | str], name: str) -> None:
    """Raise ValueError unless `shape` is `expected`, in which a letter stands for any length."""
    if shape == expected:
        return
    if len(shape) == len(expected):
        for length, wanted in zip(shape, expected, strict=True):
            if length != wanted and not isinstance(wanted, str):
                break
        else:
            return
    words = ", ".join(str(e) for e in expected) + ("," if len(expected) == 1 else "")
    raise ValueError(f"expected {name} of shape ({words}), got {shape}")


def check_bytes(shape: Sequence[int], dtype: np.dtype[Any], name: str) -> None:
    """Raise ValueError if an array of `shape` and `dtype` has more bytes than an address can count."""
    size = dtype.itemsize
    for length in shape:
        size *= length
    if size > sys.maxsize:
        raise ValueError(f"expected {name} of at most {sys.maxsize} bytes, got {size} for shape {tuple(shape)}")


def open_state(state: Any, names: tuple[str, ...], form: str) -> Any:
    """Return a state given as the cell's users write it, `h` or `(h, c)`, with what `as_array` makes of its parts."""
    if state is None:
        return None
    full = tuple(form.format(name) for name in names)
    if len(names) == 1:
        return as_array(state, full[0])
    if not isinstance(state, (tuple, list)) or len(state) != len(names):
        got = f"{len(state)} of them" if isinstance(state, (tuple, list)) else type(state).__name__
        raise TypeError(f"expected a state ({', '.join(full)}), got {got}")
    return tuple(as_array(value, name) for value, name in zip(state, full, strict=True))


def as_states(
    state: Any, names: tuple[str, ...], form: str, shapes: Sequence[tuple[int, ...]], dtype: np.dtype[Any]
) -> tuple[np.ndarray, ...]:
    """Return the arrays of a state given as the cell's users write it, `h` or `(h, c)`; zeros for None."""
    opened = open_state(state, names, form)
    if opened is None:
        return tuple(np.zeros(shape, dtype) for shape in shapes)
    full = tuple(form.format(name) for name in names)
    given = (opened,) if len(names) == 1 else opened
    arrays = tuple(as_real(value, dtype, name) for value, name in zip(given, full, strict=True))
    for array, name, shape in zip(arrays, full, shapes, strict=True):
        check_shape(array.shape, shape, name)
    return arrays
