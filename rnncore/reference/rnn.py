"""The vanilla RNN, defined.

    (1)  a_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh
    (2)  h_t = f(a_t)

The textbook's U, W, b are W_ih, W_hh and b_ih + b_hh, the same at every time. Rows of x_t and h_t are sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .functions import functions, slopes

__all__ = ["Gradients", "backward", "forward"]


class Gradients(NamedTuple):
    """What `backward` returns, each in the shape of what it is the gradient of."""

    dx: np.ndarray
    dh_0: np.ndarray
    dW_ih: np.ndarray
    dW_hh: np.ndarray
    db_ih: np.ndarray
    db_hh: np.ndarray


def forward(
    x: np.ndarray,
    h_0: np.ndarray,
    W_ih: np.ndarray,
    W_hh: np.ndarray,
    b_ih: np.ndarray,
    b_hh: np.ndarray,
    nonlinearity: str = "tanh",
) -> tuple[np.ndarray, np.ndarray]:
    """Run over a sequence.

    Parameters
    ----------
    x : ndarray (T, N, I)
    h_0 : ndarray (N, H)
    W_ih : ndarray (H, I)
    W_hh : ndarray (H, H)
    b_ih, b_hh : ndarray (H,)
    nonlinearity : {"tanh", "relu", "sigmoid"}
        f.

    Returns
    -------
    y : ndarray (T, N, H)
        h_1, …, h_T.
    h_n : ndarray (N, H)
        h_T; h_0 if T = 0.
    """
    f = functions[nonlinearity]
    y = np.empty((*x.shape[:2], W_hh.shape[1]), np.result_type(x, h_0, W_ih, W_hh, b_ih, b_hh))
    h = h_0
    for t in range(len(x)):
        a = x[t] @ W_ih.T + b_ih + h @ W_hh.T + b_hh  # (1)
        y[t] = h = f(a)  # (2)
    return y, h


def backward(
    dy: np.ndarray,
    dh_n: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    h_0: np.ndarray,
    W_ih: np.ndarray,
    W_hh: np.ndarray,
    nonlinearity: str = "tanh",
) -> Gradients:
    """Propagate gradients back through time.

    Parameters
    ----------
    dy : ndarray (T, N, H)
        Gradient of the loss with respect to y.
    dh_n : ndarray (N, H)
        Gradient with respect to the final state.
    x, y, h_0, W_ih, W_hh, nonlinearity
        What went into `forward`, and the y that came out.

    Returns
    -------
    Gradients
    """
    slope = slopes[nonlinearity]
    dx, dW_ih, dW_hh = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_hh)
    db = np.zeros_like(W_hh[:, 0])
    dh = dh_n
    for t in reversed(range(len(x))):
        h_before = y[t - 1] if t > 0 else h_0
        dh = dh + dy[t]
        da = slope(dh, y[t])  # (2')
        dx[t] = da @ W_ih  # (1')
        dh = da @ W_hh  # (1')
        dW_ih += da.T @ x[t]  # (1')
        dW_hh += da.T @ h_before  # (1')
        db += da.sum(axis=0)  # (1')
    return Gradients(dx, dh, dW_ih, dW_hh, db, db.copy())
