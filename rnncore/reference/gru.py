"""The GRU, defined.

    (1)  a_t = W_ih x_t + b_ih              rows in the order r z n
    (2)  s_t = W_hh h_{t-1} + b_hh          rows in the order r z n
    (3)  r_t = σ(a_r + s_r)         (4)  z_t = σ(a_z + s_z)
    (5)  n_t = tanh(a_n + r_t * s_n)
    (6)  h_t = (1 - z_t) * n_t + z_t * h_{t-1}

That is `reset_after`, as in torch and cuDNN. Without it, as in the paper, r_t acts on the state before the product:

    (2)  s_n = W_hn (r_t * h_{t-1}) + b_hn
    (5)  n_t = tanh(a_n + s_n)

Rows of x_t and h_t are sequences.

References
----------
Cho et al., Learning phrase representations using RNN encoder–decoder, doi:10.3115/v1/D14-1179. There z_t and 1 - z_t
have changed places in (6).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .functions import sigmoid

__all__ = ["Gradients", "Tape", "backward", "forward"]


class Tape(NamedTuple):
    """What `backward` needs of `forward`: activated gates (T, N, 3*H), and s_n (T, N, H), for `reset_after` alone."""

    gates: np.ndarray
    s_n: np.ndarray


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
    reset_after: bool = True,
) -> tuple[np.ndarray, np.ndarray, Tape]:
    """Run over a sequence.

    Parameters
    ----------
    x : ndarray (T, N, I)
    h_0 : ndarray (N, H)
    W_ih : ndarray (3*H, I)
    W_hh : ndarray (3*H, H)
    b_ih, b_hh : ndarray (3*H,)
    reset_after : bool
        Whether r_t acts after the product with W_hn (ONNX: linear_before_reset=1) or on the state before it.

    Returns
    -------
    y : ndarray (T, N, H)
        h_1, …, h_T.
    h_n : ndarray (N, H)
        h_T; h_0 if T = 0.
    tape : Tape
    """
    T, N, H = *x.shape[:2], W_hh.shape[1]
    dtype = np.result_type(x, h_0, W_ih, W_hh, b_ih, b_hh)
    y, s_ns, gates = np.empty((T, N, H), dtype), np.empty((T, N, H), dtype), np.empty((T, N, 3 * H), dtype)
    W_hn, b_hn = W_hh[2 * H :], b_hh[2 * H :]
    h = h_0
    for t in range(T):
        a_r, a_z, a_n = np.split(x[t] @ W_ih.T + b_ih, 3, axis=1)  # (1)
        s_r, s_z, s_n = np.split(h @ W_hh.T + b_hh, 3, axis=1)  # (2)
        r = sigmoid(a_r + s_r)  # (3)
        z = sigmoid(a_z + s_z)  # (4)
        if reset_after:
            n = np.tanh(a_n + r * s_n)  # (5)
        else:
            s_n = (r * h) @ W_hn.T + b_hn  # (2)
            n = np.tanh(a_n + s_n)  # (5)
        h = (1 - z) * n + z * h  # (6)
        y[t], s_ns[t], gates[t] = h, s_n, np.concatenate([r, z, n], axis=1)
    return y, h, Tape(gates, s_ns)


def backward(
    dy: np.ndarray,
    dh_n: np.ndarray,
    tape: Tape,
    x: np.ndarray,
    y: np.ndarray,
    h_0: np.ndarray,
    W_ih: np.ndarray,
    W_hh: np.ndarray,
    reset_after: bool = True,
) -> Gradients:
    """Propagate gradients back through time.

    Parameters
    ----------
    dy : ndarray (T, N, H)
        Gradient of the loss with respect to y.
    dh_n : ndarray (N, H)
        Gradient with respect to the final state.
    tape : Tape
        From `forward`.
    x, y, h_0, W_ih, W_hh, reset_after
        What went into `forward`, and the y that came out.

    Returns
    -------
    Gradients
        db_ih and db_hh differ with `reset_after`: b_hn stands inside r_t * (·).
    """
    H = W_hh.shape[1]
    dx, dW_ih, dW_hh = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_hh)
    db_ih, db_hh = np.zeros_like(W_hh[:, 0]), np.zeros_like(W_hh[:, 0])
    W_hrz, W_hn = W_hh[: 2 * H], W_hh[2 * H :]
    dh = dh_n
    for t in reversed(range(len(x))):
        h_before = y[t - 1] if t > 0 else h_0
        r, z, n = np.split(tape.gates[t], 3, axis=1)
        dh = dh + dy[t]
        dn, dz = dh * (1 - z), dh * (h_before - n)  # (6')
        dh = dh * z  # (6')
        da_n = dn * (1 - n * n)  # (5')
        if reset_after:
            ds_n, dr = da_n * r, da_n * tape.s_n[t]  # (5')
            dh = dh + ds_n @ W_hn  # (2')
            dW_hh[2 * H :] += ds_n.T @ h_before  # (2')
        else:
            ds_n = da_n  # (5')
            drh = ds_n @ W_hn  # (2')
            dr, dh = drh * h_before, dh + drh * r  # (2')
            dW_hh[2 * H :] += ds_n.T @ (r * h_before)  # (2')
        da_z = dz * z * (1 - z)  # (4')
        da_r = dr * r * (1 - r)  # (3')
        ds_rz = np.concatenate([da_r, da_z], axis=1)
        dh = dh + ds_rz @ W_hrz  # (2')
        dW_hh[: 2 * H] += ds_rz.T @ h_before  # (2')
        db_hh += np.concatenate([ds_rz, ds_n], axis=1).sum(axis=0)  # (2')
        da = np.concatenate([ds_rz, da_n], axis=1)
        dx[t] = da @ W_ih  # (1')
        dW_ih += da.T @ x[t]  # (1')
        db_ih += da.sum(axis=0)  # (1')
    return Gradients(dx, dh, dW_ih, dW_hh, db_ih, db_hh)
