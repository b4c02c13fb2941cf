"""Linear map: the usual head on top of a recurrent layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from .._kernels.matmul import matmul
from ..checks import as_bool, as_dtype, as_real, as_threads, check_bytes, check_shape, positive_int
from ..tape import Tape, open_tape
from ..weights import Module, Weights
from .init import torch_default

__all__ = ["Linear"]

SUMMED = 256  # rows


class Linear(Module):
    """Linear map of the last axis, ``o = x Vᵀ + c``.

    Parameters
    ----------
    in_features, out_features : int
        Lengths of the last axis of x and o.
    bias : bool
        Whether there is a c.
    dtype : dtype
        float32 or float64.
    rng : numpy.random.Generator, int or None
        Initialises the parameters, uniformly within ±1/√in_features.

    Raises
    ------
    TypeError
        If a size is not an integer, or `bias` not a bool.
    ValueError
        If one is below 1 or too large, or the dtype another one.

    Notes
    -----
    Parameters are ``weight`` (out_features, in_features), V below, and ``bias`` (out_features,), c below. As many
    threads as `rnncore.set_num_threads` allows share the products, if they are large, and results do not depend on
    them (with the blas engine, BLAS's threads do). Denormal numbers are flushed to zero. Last bits may depend on how
    many rows x has.

    Math::

        (1)  o_t = V h_t + c
        (1') dh_t = Vᵀ do_t        dV = Σ_t do_t h_tᵀ        dc = Σ_t do_t

    Examples
    --------
    >>> import numpy as np
    >>> from rnncore.train import Linear
    >>> head = Linear(3, 2, rng=0)
    >>> y, tape = head.forward(np.ones((5, 4, 3)))  # any leading dimensions: here T=5, N=4
    >>> dx, grads = head.backward(tape, np.ones_like(y))
    >>> y.shape, dx.shape, grads["bias"].tolist()
    ((5, 4, 2), (5, 4, 3), [20.0, 20.0])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        rng: Any = None,
    ) -> None:
        self.in_features = positive_int(in_features, "in_features")
        self.out_features = positive_int(out_features, "out_features")
        self.bias = as_bool(bias, "bias")
        shapes = self._shapes(self.in_features, self.out_features, self.bias)
        check_bytes(shapes["weight"], np.dtype(np.float64), "weight")
        arrays: Any = rng
        if not isinstance(rng, Weights):  # inside the package, weights that fit as they are
            generator = np.random.default_rng(rng)
            arrays = {name: torch_default(shape, self.in_features, generator) for name, shape in shapes.items()}
        super().__init__(as_dtype(dtype), arrays)

    @staticmethod
    def _shapes(in_features: int, out_features: int, bias: bool) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the parameters, and with them what options they depend on."""
        return {"weight": (out_features, in_features)} | ({"bias": (out_features,)} if bias else {})

    def __call__(self, x: ArrayLike, *, n_threads: int | None = None) -> np.ndarray:
        """Return o.

        Parameters
        ----------
        x : array_like (..., in_features)
        n_threads : int, optional
            Most threads to use. By default as many as pay, of those that `set_num_threads` allows. The result is the
            same, to the bit.

        Returns
        -------
        numpy.ndarray (..., out_features)

        Raises
        ------
        TypeError
            If x does not hold real numbers.
        ValueError
            If its last axis is not of length in_features, or n_threads is below 1.

        Examples
        --------
        >>> from rnncore.train import Linear
        >>> head = Linear(3, 2, rng=0)
        >>> head([[1, 0, 0], [0, 1, 0]]).shape
        (2, 2)
        """
        return self._apply(self._weights, self._input(x), as_threads(n_threads))

    def forward(self, x: ArrayLike, *, n_threads: int | None = None) -> tuple[np.ndarray, Tape]:
        """Return o, and what `backward` needs.

        Parameters
        ----------
        x : array_like (..., in_features)
            The tape refers to it: leave it as it is until `backward` is done. (If it has to be converted, the tape
            refers to the converted copy.)
        n_threads : int, optional
            As in a call.

        Returns
        -------
        o : numpy.ndarray (..., out_features)
        tape : Tape

        Raises
        ------
        TypeError
            If x does not hold real numbers.
        ValueError
            If its last axis is not of length in_features, or n_threads is below 1.

        Examples
        --------
        With `backward`, as in the example of the class:

        >>> from rnncore.train import Linear
        >>> o, tape = Linear(3, 2, rng=0).forward([[1, 0, 0]])
        """
        weights, x = self._weights, self._input(x)
        return self._apply(weights, x, as_threads(n_threads)), Tape(self, weights, (x,))

    def backward(
        self,
        tape: Tape,
        dy: ArrayLike,
        *,
        accumulate: Mapping[str, np.ndarray] | None = None,
        n_threads: int | None = None,
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the gradients of x and of the parameters.

        Parameters
        ----------
        tape : Tape
            From this module's `forward`; may be used again.
        dy : array_like (..., out_features)
            Gradient of the loss with respect to o.
        accumulate : dict of str to numpy.ndarray, optional
            Arrays keyed and shaped like `parameters()`, of the module's dtype and C-contiguous, which the parameters'
            gradients are added to.
        n_threads : int, optional
            As in a call.

        Returns
        -------
        dx : numpy.ndarray (..., in_features)
        grads : dict of str to numpy.ndarray
            Keyed like `parameters`: new arrays, or those of `accumulate`.

        Raises
        ------
        TypeError
            If `tape` is not a tape, dy does not hold real numbers, or an array of `accumulate` is not one of those.
        ValueError
            If dy is not of o's shape, names or shapes of `accumulate` are not the parameters', the tape is from
            another module or from before the weights changed, or n_threads is below 1.

        Notes
        -----
        Everything is checked before any array of `accumulate` changes; Ctrl-C in the middle leaves them half added to.

        Examples
        --------
        >>> from rnncore.train import Linear
        >>> head = Linear(3, 1, rng=0)
        >>> o, tape = head.forward([[1, 2, 3]])
        >>> dx, grads = head.backward(tape, [[10]])
        >>> grads["weight"].tolist(), grads["bias"].tolist()
        ([[10.0, 20.0, 30.0]], [10.0])
        """
        (x,) = open_tape(tape, self)
        V, threads = tape._weights["weight"], as_threads(n_threads)
        dy = as_real(dy, self.dtype, "dy")
        check_shape(dy.shape, (*x.shape[:-1], self.out_features), "dy")
        grads: dict[str, Any] = {} if accumulate is None else self._grads(tape._weights, accumulate)
        rows, drows = x.reshape(-1, self.in_features), dy.reshape(-1, self.out_features)
        dx = matmul(drows, V, n_threads=threads).reshape(x.shape)  # (1') dh_t = Vᵀ do_t
        dV = grads.get("weight")
        grads["weight"] = matmul(drows, rows, True, n_threads=threads, into=dV)  # (1') dV = Σ_t do_t h_tᵀ
        if self.bias:
            sums = _column_sums(drows)  # (1') dc = Σ_t do_t
            grads["bias"] = sums if accumulate is None else np.add(grads["bias"], sums, out=grads["bias"])
        return dx, grads

    def _input(self, x: ArrayLike) -> np.ndarray:
        x = as_real(x, self.dtype, "x")
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"expected x of shape (..., {self.in_features}), got {x.shape}")
        return x

    def _apply(self, weights: Weights, x: np.ndarray, n_threads: int) -> np.ndarray:
        o = matmul(x.reshape(-1, self.in_features), weights["weight"], False, True, n_threads)  # (1) o_t = V h_t + c
        if self.bias:
            o += weights["bias"]
        return o.reshape(*x.shape[:-1], self.out_features)

    def __repr__(self) -> str:
        return f"Linear({self.in_features}, {self.out_features}, bias={self.bias}, dtype={self.dtype.name!r})"


def _column_sums(a: np.ndarray) -> np.ndarray:
    """The sums of a's columns: of SUMMED rows, for NumPy adds one row after the other, and of these in float64."""
    total = np.zeros(a.shape[1])
    for i in range(0, len(a), SUMMED):
        total += a[i : i + SUMMED].sum(axis=0)
    return total.astype(a.dtype)
