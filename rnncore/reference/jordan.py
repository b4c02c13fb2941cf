"""The Jordan network, defined: what recurs is the output.

    (1)  a_t = W_ih x_t + b_h + W_oh o_{t-1}
    (2)  h_t = f(a_t)
    (3)  s_t = W_ho h_t + b_o
    (4)  o_t = g(s_t)

Under teacher forcing step t > 1 reads in (1) the target of the step before in place of o_{t-1}. Rows of x_t, h_t and
o_t are sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .functions import functions, slopes

__all__ = ["Gradients", "Tape", "backward", "forward"]


class Tape(NamedTuple):
    """What `backward` needs of `forward`: hidden values (T, N, H)."""

    h: np.ndarray


class Gradients(NamedTuple):
    """What `backward` returns, each in the shape of what it is the gradient of; None where that was None."""

    dx: np.ndarray
    do_0: np.ndarray
    dW_ih: np.ndarray
    dW_oh: np.ndarray
    db_h: np.ndarray
    dW_ho: np.ndarray
    db_o: np.ndarray
    dtargets: np.ndarray | None


def forward(
    x: np.ndarray,
    o_0: np.ndarray,
    W_ih: np.ndarray,
    W_oh: np.ndarray,
    b_h: np.ndarray,
    W_ho: np.ndarray,
    b_o: np.ndarray,
    nonlinearity: str = "tanh",
    output_nonlinearity: str = "identity",
    targets: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, Tape]:
    """Run over a sequence.

    Parameters
    ----------
    x : ndarray (T, N, I)
    o_0 : ndarray (N, O)
    W_ih : ndarray (H, I)
    W_oh : ndarray (H, O)
    b_h : ndarray (H,)
    W_ho : ndarray (O, H)
    b_o : ndarray (O,)
    nonlinearity : {"tanh", "relu", "sigmoid"}
        f.
    output_nonlinearity : {"identity", "sigmoid", "tanh", "softmax"}
        g; the softmax goes over a row.
    targets : ndarray (T, N, O), optional
        Teacher forcing: what the steps read in place of the output before; the first reads o_0, none the last target.

    Returns
    -------
    y : ndarray (T, N, O)
        o_1, …, o_T, the network's own also under teacher forcing.
    o_n : ndarray (N, O)
        o_T; o_0 if T = 0.
    tape : Tape
    """
    f, g = functions[nonlinearity], functions[output_nonlinearity]
    dtype = np.result_type(x, o_0, W_ih, W_oh, b_h, W_ho, b_o, *([] if targets is None else [targets]))
    y, hs = np.empty((*x.shape[:2], W_oh.shape[1]), dtype), np.empty((*x.shape[:2], W_oh.shape[0]), dtype)
    read = y if targets is None else targets
    o = o_0
    for t in range(len(x)):
        o_before = read[t - 1] if t > 0 else o_0
        a = x[t] @ W_ih.T + b_h + o_before @ W_oh.T  # (1)
        hs[t] = h = f(a)  # (2)
        s = h @ W_ho.T + b_o  # (3)
        y[t] = o = g(s)  # (4)
    return y, o, Tape(hs)


def backward(
    dy: np.ndarray,
    do_n: np.ndarray,
    tape: Tape,
    x: np.ndarray,
    y: np.ndarray,
    o_0: np.ndarray,
    W_ih: np.ndarray,
    W_oh: np.ndarray,
    W_ho: np.ndarray,
    nonlinearity: str = "tanh",
    output_nonlinearity: str = "identity",
    targets: np.ndarray | None = None,
) -> Gradients:
    """Propagate gradients back through time.

    Parameters
    ----------
    dy : ndarray (T, N, O)
        Gradient of the loss with respect to y.
    do_n : ndarray (N, O)
        Gradient with respect to the final state.
    tape : Tape
        From `forward`.
    x, y, o_0, W_ih, W_oh, W_ho, nonlinearity, output_nonlinearity, targets
        What went into `forward`, and the y that came out.

    Returns
    -------
    Gradients
        The last row of dtargets is zero. Targets cut the way back: a step's do is then that of its own output alone.
    """
    f_slope, g_slope = slopes[nonlinearity], slopes[output_nonlinearity]
    dx, dW_ih, dW_oh, dW_ho = np.zeros_like(x), np.zeros_like(W_ih), np.zeros_like(W_oh), np.zeros_like(W_ho)
    db_h, db_o = np.zeros_like(W_oh[:, 0]), np.zeros_like(W_ho[:, 0])
    dtargets = None if targets is None else np.zeros_like(targets)
    read = y if targets is None else targets
    do = do_n
    for t in reversed(range(len(x))):
        o_before = read[t - 1] if t > 0 else o_0
        do = do + dy[t]
        ds = g_slope(do, y[t])  # (4')
        dh = ds @ W_ho  # (3')
        dW_ho += ds.T @ tape.h[t]  # (3')
        db_o += ds.sum(axis=0)  # (3')
        da = f_slope(dh, tape.h[t])  # (2')
        dx[t] = da @ W_ih  # (1')
        do = da @ W_oh  # (1')
        dW_ih += da.T @ x[t]  # (1')
        dW_oh += da.T @ o_before  # (1')
        db_h += da.sum(axis=0)  # (1')
        if dtargets is not None and t > 0:
            dtargets[t - 1], do = do, np.zeros_like(do)
    return Gradients(dx, do, dW_ih, dW_oh, db_h, dW_ho, db_o, dtargets)
