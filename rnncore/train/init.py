"""Initial values: arrays to assign to parameters, and two recipes that act on a whole layer.

>>> import numpy as np
>>> from rnncore.train import Linear, init
>>> head = Linear(4, 4, rng=0)
>>> with head.editing() as params:
...     params["weight"] = init.orthogonal((4, 4), rng=0)
>>> bool(np.allclose(head.parameters()["weight"] @ head.parameters()["weight"].T, np.eye(4), atol=1e-6))
True
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..checks import as_scalar, check_bytes, positive_int
from ..weights import Module

__all__ = [
    "forget_bias",
    "identity",
    "identity_relu",
    "orthogonal",
    "torch_default",
    "xavier_normal",
    "xavier_uniform",
]

_LAYER = r"(?:_l\d+(?:_reverse)?)?"  # end of a parameter's name: that of a layer's, or nothing, as in a cell


def torch_default(shape: Sequence[int], hidden_size: int, rng: Any = None) -> np.ndarray:
    """Return an array, uniform within ±1/√hidden_size: what layers start from.

    Parameters
    ----------
    shape : sequence of int
    hidden_size : int
        H of a recurrent layer; in_features of a `Linear`.
    rng : numpy.random.Generator, int or None

    Returns
    -------
    numpy.ndarray of float64
        Assignment to a parameter converts it.

    Raises
    ------
    TypeError
        If a length in `shape`, or `hidden_size`, is not an integer.
    ValueError
        If one of them is below 1 or too large.

    Examples
    --------
    >>> from rnncore.train import init
    >>> float(abs(init.torch_default((64, 16), hidden_size=16, rng=0)).max().round(2))
    0.25
    """
    bound = 1 / math.sqrt(positive_int(hidden_size, "hidden_size"))
    return np.random.default_rng(rng).uniform(-bound, bound, _shape(shape))


def xavier_uniform(shape: Sequence[int], rng: Any = None, gain: float = 1.0) -> np.ndarray:
    """Return a matrix, uniform within ±gain·√(6 / (rows + columns)).

    Parameters
    ----------
    shape : (int, int)
    rng : numpy.random.Generator, int or None
    gain : float

    Returns
    -------
    numpy.ndarray of float64

    Raises
    ------
    TypeError
        If a length in `shape` is not an integer, or `gain` not a number.
    ValueError
        If `shape` has not two lengths of at least 1, or `gain` is negative or NaN.

    References
    ----------
    Glorot, Bengio (2010), Understanding the difficulty of training deep feedforward neural networks. AISTATS.

    Examples
    --------
    >>> from rnncore.train import init
    >>> float(abs(init.xavier_uniform((200, 400), rng=0)).max().round(2))
    0.1
    """
    rows, columns = _matrix(shape)
    bound = as_scalar(gain, "gain", low=0) * math.sqrt(6 / (rows + columns))
    return np.random.default_rng(rng).uniform(-bound, bound, (rows, columns))


def xavier_normal(shape: Sequence[int], rng: Any = None, gain: float = 1.0) -> np.ndarray:
    """Return a matrix, normal with standard deviation gain·√(2 / (rows + columns)).

    Parameters
    ----------
    shape : (int, int)
    rng : numpy.random.Generator, int or None
    gain : float

    Returns
    -------
    numpy.ndarray of float64

    Raises
    ------
    TypeError
        If a length in `shape` is not an integer, or `gain` not a number.
    ValueError
        If `shape` has not two lengths of at least 1, or `gain` is negative or NaN.

    References
    ----------
    Glorot, Bengio (2010), Understanding the difficulty of training deep feedforward neural networks. AISTATS.

    Examples
    --------
    >>> from rnncore.train import init
    >>> float(init.xavier_normal((50, 150), rng=0).std().round(2))
    0.1
    """
    rows, columns = _matrix(shape)
    std = as_scalar(gain, "gain", low=0) * math.sqrt(2 / (rows + columns))
    return np.random.default_rng(rng).normal(0.0, std, (rows, columns))


def orthogonal(shape: Sequence[int], rng: Any = None, gain: float = 1.0, blocks: int = 1) -> np.ndarray:
    """Return a random matrix with orthonormal rows or, if there are more rows than columns, columns; times `gain`.

    Parameters
    ----------
    shape : (int, int)
    rng : numpy.random.Generator, int or None
    gain : float
    blocks : int
        Make this many blocks of rows, each orthogonal by itself: one per gate for recurrent weights (G*H, H), so 4 for
        an LSTM and 3 for a GRU.

    Returns
    -------
    numpy.ndarray of float64

    Raises
    ------
    TypeError
        If a length in `shape`, or `blocks`, is not an integer, or `gain` not a number.
    ValueError
        If `shape` has not two lengths of at least 1, `blocks` does not divide the rows, or `gain` is NaN.

    References
    ----------
    Saxe, McClelland, Ganguli (2014), Exact solutions to the nonlinear dynamics of learning in deep linear neural
    networks. ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> from rnncore.train.init import orthogonal
    >>> W_hh = orthogonal((4 * 8, 8), rng=0, blocks=4)
    >>> bool(np.allclose(W_hh[8:16] @ W_hh[8:16].T, np.eye(8)))
    True
    """
    rows, columns = _matrix(shape)
    blocks = positive_int(blocks, "blocks")
    if rows % blocks:
        raise ValueError(f"expected rows that make {blocks} equal blocks, got shape {(rows, columns)}")
    gain = as_scalar(gain, "gain")
    n, rng = rows // blocks, np.random.default_rng(rng)
    W = np.empty((blocks, n, columns))
    for block in W:
        Q, R = np.linalg.qr(rng.standard_normal((max(n, columns), min(n, columns))))
        Q *= np.where(np.diag(R) < 0, -gain, gain)  # R's diagonal positive makes Q unique, and Haar-distributed
        block[...] = Q if n >= columns else Q.T
    return W.reshape(rows, columns)


def identity(shape: Sequence[int], scale: float = 1.0) -> np.ndarray:
    """Return a matrix with `scale` on the diagonal and zero elsewhere.

    Parameters
    ----------
    shape : (int, int)
    scale : float

    Returns
    -------
    numpy.ndarray of float64

    Raises
    ------
    TypeError
        If a length in `shape` is not an integer, or `scale` not a number.
    ValueError
        If `shape` has not two lengths of at least 1, or `scale` is NaN.

    Examples
    --------
    >>> from rnncore.train import init
    >>> init.identity((2, 3), scale=0.5).tolist()
    [[0.5, 0.0, 0.0], [0.0, 0.5, 0.0]]
    """
    return np.eye(*_matrix(shape)) * as_scalar(scale, "scale")


def identity_relu(rnn: Module) -> None:
    """Start a ReLU network as one that keeps its state: W_hh = I and no bias, in every layer and direction.

    Parameters
    ----------
    rnn : Module
        An `RNN` or `RNNCell` with ``nonlinearity="relu"``. Input weights stay as they are.

    Raises
    ------
    TypeError
        If it is no module.
    ValueError
        If it has no square ``weight_hh``; it is then left as it was.

    References
    ----------
    Le, Jaitly, Hinton (2015), A simple way to initialize recurrent networks of rectified linear units.
    arXiv:1504.00941.

    Examples
    --------
    >>> import rnncore as rc
    >>> from rnncore.train import init
    >>> rnn = rc.RNN(3, 2, nonlinearity="relu", rng=0)
    >>> init.identity_relu(rnn)
    >>> rnn.parameters()["weight_hh_l0"].tolist(), rnn.parameters()["bias_hh_l0"].tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    """
    with _module(rnn).editing() as params:
        names = [name for name in params if re.fullmatch("weight_hh" + _LAYER, name)]
        if not names:
            raise ValueError(f"expected a module with weight_hh, got the parameters {sorted(params)}")
        for name in names:
            H = params[name].shape[-1]
            if params[name].shape != (H, H):
                raise ValueError(f"expected {name} of shape (H, H), got {params[name].shape}")
            params[name] = identity((H, H))
        for name in params:
            if re.fullmatch("bias_[ih]h" + _LAYER, name):
                params[name][...] = 0


def forget_bias(lstm: Module, value: float = 1.0) -> None:
    """Start an LSTM with open forget gates: their biases add up to `value`, in every layer and direction.

    Parameters
    ----------
    lstm : Module
        An `LSTM` or `LSTMCell` with biases. The forget gate's part of ``bias_ih`` becomes `value`, that of
        ``bias_hh`` zero.
    value : float

    Raises
    ------
    TypeError
        If it is no module, or `value` not a number.
    ValueError
        If it is no LSTM, or has no biases, or `value` is NaN; it is then left as it was.

    References
    ----------
    Gers, Schmidhuber, Cummins (2000), Learning to forget: continual prediction with LSTM. Neural Computation 12(10).
    Jozefowicz, Zaremba, Sutskever (2015), An empirical exploration of recurrent network architectures. ICML.

    Examples
    --------
    >>> import rnncore as rc
    >>> from rnncore.train import init
    >>> lstm = rc.LSTM(3, 2, rng=0)
    >>> init.forget_bias(lstm, 2.0)
    >>> lstm.parameters()["bias_ih_l0"][2:4].tolist()  # gates i f g o, two of each
    [2.0, 2.0]
    """
    value = as_scalar(value, "value")
    with _module(lstm).editing() as params:
        ends = [name[len("bias_ih") :] for name in params if re.fullmatch("bias_ih" + _LAYER, name)]
        if not ends:
            raise ValueError(f"expected a module with bias_ih and bias_hh, got the parameters {sorted(params)}")
        for end in ends:
            b_ih, b_hh = params["bias_ih" + end], params["bias_hh" + end]
            # W_hh is (G*H, H), but (G*H, P) with projections; those have a W_hr (P, H)
            H = params.get("weight_hr" + end, params["weight_hh" + end]).shape[1]
            if b_ih.shape != (4 * H,) or b_hh.shape != (4 * H,):
                raise ValueError(f"expected an LSTM, bias_ih{end} of shape ({4 * H},), got {b_ih.shape}")
            b_ih[H : 2 * H] = value  # gates i f g o
            b_hh[H : 2 * H] = 0


def _module(module: Module) -> Module:
    if not isinstance(module, Module):
        raise TypeError(f"expected a module, got {type(module).__name__}")
    return module


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(shape, Sequence) or isinstance(shape, str):
        raise TypeError(f"expected shape as a sequence of integers, got {shape!r}")
    lengths = tuple(positive_int(length, "a length in shape") for length in shape)
    check_bytes(lengths, np.dtype(np.float64), "array")
    return lengths


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    lengths = _shape(shape)
    if len(lengths) != 2:
        raise ValueError(f"expected shape (rows, columns), got {lengths}")
    return lengths[0], lengths[1]
