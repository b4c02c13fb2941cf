"""The LSTM, defined.

    (1)  z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh        rows in the order i f g o
    (2)  i_t = σ(z_i)           (3)  f_t = σ(z_f)
    (4)  g_t = tanh(z_g)        (5)  o_t = σ(z_o)
    (6)  c_t = f_t * c_{t-1} + i_t * g_t
    (7)  h_t = o_t * tanh(c_t)

Rows of x_t, h_t and c_t are sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .functions import sigmoid

__all__ = ["Gradients", "Tape", "backward", "forward"]


class Tape(NamedTuple):
    """What `backward` needs of `forward`: activated gates (T, N, 4*H), and cell states (T, N, H)."""

    gates: np.ndarray
    c: np.ndarray


class Gradients(NamedTuple):
    """What `backward` returns, each in the shape of what it is the gradient of."""

    dx: np.ndarray
    dh_0: np.ndarray
    dc_0: np.ndarray
    dW_ih: np.ndarray
    dW_hh: np.ndarray
    db_ih: np.ndarray
    db_hh: np.ndarray


def forward(
    x: np.ndarray,
    h_0: np.ndarray,
    c_0: np.ndarray,
    W_ih: np.ndarray,
    W_hh: np.ndarray,
    b_ih: np.ndarray,
    b_hh: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tape]:
    """Run over a sequence.

    Parameters
    ----------
    x : ndarray (T, N, I)
    h_0, c_0 : ndarray (N, H)
    W_ih : ndarray (4*H, I)
    W_hh : ndarray (4*H, H)
    b_ih, b_hh : ndarray (4*H,)

    Returns
    -------
    y : ndarray (T, N, H)
        h_1, …, h_T.
    h_n, c_n : ndarray (N, H)
        h_T and c_T; h_0 and c_0 if T = 0.
    tape : Tape
    """
    T, N, H = *x.shape[:2], W_hh.shape[1]
    dtype = np.result_type(x, h_0, c_0, W_ih, W_hh, b_ih, b_hh)
    y, cs, gates = np.empty((T, N, H), dtype), np.empty((T, N, H), dtype), np.empty((T, N, 4 * H), dtype)
    h, c = h_0, c_0
    for t in range(T):
        z = x[t] @ W_ih.T + b_ih + h @ W_hh.T + b_hh  # (1)
        i = sigmoid(z[:, :H])  # (2)
        f = sigmoid(z[:, H : 2 * H])  # (3)
        g = np.tanh(z[:, 2 * H : 3 * H])  # (4)
        o = sigmoid(z[:, 3 * H :])  # (5)
        c = f * c + i * g  # (6)
        h = o * np.tanh(c)  # (7)
        y[t], cs[t], gates[t] = h, c, np.concatenate([i, f, g, o], axis=1)
    return y, h, c, Tape(gates, cs)


def backward(
    dy: np.ndarray,
    dh_n: np.ndarray,
    dc_n: np.ndarray,
    tape: Tape,
    x: np.ndarray,
    y: np.ndarray,
    h_0: np.ndarray,
    c_0: np.ndarray,
    W_ih: np.ndarray,
    W_hh: np.ndarray,
) -> Gradients:
    """Propagate gradients back through time.

    Parameters
    ----------
    dy : ndarray (T, N, H)
        Gradient of the loss with respect to y.
    dh_n, dc_n : ndarray (N, H)
        Gradients with respect to the final states.
    tape : Tape
        From `forward`.
    x, y, h_0, c_0, W_ih, W_hh
        What went into `forward`, and the y that came out.

    Returns
    -------
    Gradients
    """
    dx, dW_ih, dW_hh = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_hh)
    db = np.zeros_like(W_hh[:, 0])
    dh, dc = dh_n, dc_n
    for t in reversed(range(len(x))):
        h_before, c_before = (y[t - 1], tape.c[t - 1]) if t > 0 else (h_0, c_0)
        i, f, g, o = np.split(tape.gates[t], 4, axis=1)
        tanh_c = np.tanh(tape.c[t])
        dh = dh + dy[t]
        do = dh * tanh_c  # (7')
        dc = dc + dh * o * (1 - tanh_c * tanh_c)  # (7')
        di, df, dg = dc * g, dc * c_before, dc * i  # (6')
        dc = dc * f  # (6')
        dz_o = do * o * (1 - o)  # (5')
        dz_g = dg * (1 - g * g)  # (4')
        dz_f = df * f * (1 - f)  # (3')
        dz_i = di * i * (1 - i)  # (2')
        dz = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)
        dx[t] = dz @ W_ih  # (1')
        dh = dz @ W_hh  # (1')
        dW_ih += dz.T @ x[t]  # (1')
        dW_hh += dz.T @ h_before  # (1')
        db += dz.sum(axis=0)  # (1')
    return Gradients(dx, dh, dc, dW_ih, dW_hh, db, db.copy())
