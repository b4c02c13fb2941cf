"""What a network learns, and what it does not: the adding problem, whose answer hangs on inputs of long ago.

Tried with 8 seeds, the budget is at least 1.7 times what the winners took; the loser, with learning rates from 0.001 to
0.02 and at least 6 seeds each, never came near.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rnncore as rc
from rnncore.train import Adam, Linear, clip_grad_norm, init, mean_squared_error

T, N, H, BUDGET = 100, 32, 32, 2000
GUESS = 1 / 6  # the loss of one who always says 1: the variance of a sum of two numbers uniform in [0, 1]


def adding(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return sequences of random numbers, one of each half marked in a second channel, and the sums of those marked.

    S. Hochreiter, J. Schmidhuber, Long short-term memory, Neural Computation 9(8), 1735-1780 (1997), experiment 4
    """
    x, rows = np.zeros((T, N, 2)), np.arange(N)
    x[:, :, 0] = rng.uniform(size=(T, N))
    for half in (0, T // 2):
        x[rng.integers(half, half + T // 2, N), rows, 1] = 1
    return x, np.sum(x[:, :, 0] * x[:, :, 1], axis=0)[:, None]


def learn(layer: Any, lr: float, max_norm: float, rng: np.random.Generator) -> tuple[int, float]:
    """Return the steps it took to solve the problem, or the budget, and the mean loss of the last 50 steps."""
    head = Linear(H, 1, rng=rng)
    adam, losses, dy = Adam([layer, head], lr), [], np.zeros((T, N, H), np.float32)
    while len(losses) < BUDGET and not (len(losses) >= 50 and np.mean(losses[-50:]) < GUESS / 10):
        x, target = adding(rng)
        y, _, tape = layer.forward(x)
        z, head_tape = head.forward(y[-1])
        loss, dz = mean_squared_error(z, target, reduction="mean")
        dy[-1], head_grads = head.backward(head_tape, dz)
        _, _, grads = layer.backward(tape, dy)
        clip_grad_norm([grads, head_grads], max_norm)
        adam.step([grads, head_grads])
        losses.append(loss)
    return len(losses), float(np.mean(losses[-50:]))


def test_lstm_adds_numbers_far_apart():
    rng = np.random.default_rng(0)
    lstm = rc.LSTM(2, H, rng=rng)
    init.forget_bias(lstm)
    steps, loss = learn(lstm, 0.02, 1.0, rng)
    assert steps < BUDGET and loss < GUESS / 10


def test_relu_network_that_starts_as_the_identity_does_too():
    """Q. V. Le, N. Jaitly, G. E. Hinton, A simple way to initialize recurrent networks of rectified linear units,
    arXiv:1504.00941 (2015)"""
    rng = np.random.default_rng(0)
    rnn = rc.RNN(2, H, nonlinearity="relu", rng=rng)
    init.identity_relu(rnn)
    with rnn.editing() as params:
        params["weight_ih_l0"] = rng.normal(0, 0.1, (H, 2))  # it adds up what it hears: little, or it explodes
    steps, loss = learn(rnn, 0.002, 10.0, rng)
    assert steps < BUDGET and loss < GUESS / 10


@pytest.mark.parametrize("lr", [0.02, 0.002])
def test_tanh_network_of_the_same_size_does_not(lr):
    rng = np.random.default_rng(0)
    steps, loss = learn(rc.RNN(2, H, rng=rng), lr, 1.0, rng)
    assert steps == BUDGET and loss > 0.8 * GUESS
