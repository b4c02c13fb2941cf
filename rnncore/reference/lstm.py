"""The LSTM, defined.

    (1)  z_t = W_ih x_t + b_ih + W_hh h_{t-1} + b_hh        rows in the order i f g o
    (2)  i_t = σ(z_i + p_i * c_{t-1})       (3)  f_t = σ(z_f + p_f * c_{t-1})
    (4)  g_t = tanh(z_g)                    (5)  o_t = σ(z_o + p_o * c_t)
    (6)  c_t = f_t * c_{t-1} + i_t * g_t
    (7)  m_t = o_t * tanh(c_t)
    (8)  h_t = W_hr m_t

Peepholes p and the projection W_hr are there if given; else (2), (3) and (5) have no term in c, and h_t = m_t. As (5)
reads c_t it comes after (6). Rows of x_t, h_t and c_t are sequences.

References
----------
Peepholes: Gers, Schraudolph and Schmidhuber, Learning precise timing with LSTM recurrent networks, JMLR 3 (2002).
Projection: Sak, Senior and Beaufays, Long short-term memory based recurrent neural network architectures for large
vocabulary speech recognition, arXiv:1402.1128.
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
    """What `backward` returns, each in the shape of what it is the gradient of; None where that was None."""

    dx: np.ndarray
    dh_0: np.ndarray
    dc_0: np.ndarray
    dW_ih: np.ndarray
    dW_hh: np.ndarray
    db_ih: np.ndarray
    db_hh: np.ndarray
    dW_hr: np.ndarray | None
    dw_peephole: np.ndarray | None


def forward(
    x: np.ndarray,
    h_0: np.ndarray,
    c_0: np.ndarray,
    W_ih: np.ndarray,
    W_hh: np.ndarray,
    b_ih: np.ndarray,
    b_hh: np.ndarray,
    W_hr: np.ndarray | None = None,
    w_peephole: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tape]:
    """Run over a sequence.

    Parameters
    ----------
    x : ndarray (T, N, I)
    h_0 : ndarray (N, P)
    c_0 : ndarray (N, H)
    W_ih : ndarray (4*H, I)
    W_hh : ndarray (4*H, P)
    b_ih, b_hh : ndarray (4*H,)
    W_hr : ndarray (P, H), optional
        The projection; without it P = H.
    w_peephole : ndarray (3*H,), optional
        p in the order i f o.

    Returns
    -------
    y : ndarray (T, N, P)
        h_1, …, h_T.
    h_n : ndarray (N, P)
    c_n : ndarray (N, H)
        h_T and c_T; h_0 and c_0 if T = 0.
    tape : Tape
    """
    T, N, H, P = *x.shape[:2], W_hh.shape[0] // 4, W_hh.shape[1]
    dtype = np.result_type(x, h_0, c_0, W_ih, W_hh, b_ih, b_hh, *(a for a in (W_hr, w_peephole) if a is not None))
    y, cs, gates = np.empty((T, N, P), dtype), np.empty((T, N, H), dtype), np.empty((T, N, 4 * H), dtype)
    p = None if w_peephole is None else w_peephole.reshape(3, H)
    h, c = h_0, c_0
    for t in range(T):
        z_i, z_f, z_g, z_o = np.split(x[t] @ W_ih.T + b_ih + h @ W_hh.T + b_hh, 4, axis=1)  # (1)
        i = sigmoid(z_i if p is None else z_i + p[0] * c)  # (2)
        f = sigmoid(z_f if p is None else z_f + p[1] * c)  # (3)
        g = np.tanh(z_g)  # (4)
        c = f * c + i * g  # (6)
        o = sigmoid(z_o if p is None else z_o + p[2] * c)  # (5)
        m = o * np.tanh(c)  # (7)
        h = m if W_hr is None else m @ W_hr.T  # (8)
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
    W_hr: np.ndarray | None = None,
    w_peephole: np.ndarray | None = None,
) -> Gradients:
    """Propagate gradients back through time.

    Parameters
    ----------
    dy : ndarray (T, N, P)
        Gradient of the loss with respect to y.
    dh_n : ndarray (N, P)
    dc_n : ndarray (N, H)
        Gradients with respect to the final states.
    tape : Tape
        From `forward`.
    x, y, h_0, c_0, W_ih, W_hh, W_hr, w_peephole
        What went into `forward`, and the y that came out.

    Returns
    -------
    Gradients
    """
    H, P = W_hh.shape[0] // 4, W_hh.shape[1]
    dx, dW_ih, dW_hh = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_hh)
    db, dW_hr, dp = np.zeros_like(W_hh[:, 0]), np.zeros((P, H), W_hh.dtype), np.zeros((3, H), W_hh.dtype)
    p = None if w_peephole is None else w_peephole.reshape(3, H)
    dh, dc = dh_n, dc_n
    for t in reversed(range(len(x))):
        h_before, c_before = (y[t - 1], tape.c[t - 1]) if t > 0 else (h_0, c_0)
        i, f, g, o = np.split(tape.gates[t], 4, axis=1)
        tanh_c = np.tanh(tape.c[t])
        dm = dh = dh + dy[t]
        if W_hr is not None:
            dm = dh @ W_hr  # (8')
            dW_hr += dh.T @ (o * tanh_c)  # (8')
        do = dm * tanh_c  # (7')
        dc = dc + dm * o * (1 - tanh_c * tanh_c)  # (7')
        dz_o = do * o * (1 - o)  # (5')
        if p is not None:
            dc = dc + dz_o * p[2]  # (5')
            dp[2] += (dz_o * tape.c[t]).sum(axis=0)  # (5')
        di, df, dg = dc * g, dc * c_before, dc * i  # (6')
        dc = dc * f  # (6')
        dz_g = dg * (1 - g * g)  # (4')
        dz_f = df * f * (1 - f)  # (3')
        dz_i = di * i * (1 - i)  # (2')
        if p is not None:
            dc = dc + dz_f * p[1] + dz_i * p[0]  # (3') (2')
            dp[1] += (dz_f * c_before).sum(axis=0)  # (3')
            dp[0] += (dz_i * c_before).sum(axis=0)  # (2')
        dz = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)
        dx[t] = dz @ W_ih  # (1')
        dh = dz @ W_hh  # (1')
        dW_ih += dz.T @ x[t]  # (1')
        dW_hh += dz.T @ h_before  # (1')
        db += dz.sum(axis=0)  # (1')
    return Gradients(
        dx, dh, dc, dW_ih, dW_hh, db, db.copy(),
        None if W_hr is None else dW_hr, None if w_peephole is None else dp.reshape(-1),
    )  # fmt: skip
