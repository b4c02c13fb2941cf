"""What a network learns, and what it does not: the adding problem, whose answer hangs on inputs of long ago, and a sum
under a switch, for which an LSTM's recurrent weights must learn.

Tried with 8 seeds, budgets are at least 1.6 times what the winners took; the losers, with learning rates from 0.001 to
0.02 and at least 6 seeds each, never came near.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rnncore as rc
from rnncore.train import Adam, Linear, clip_grad_norm, init, mean_squared_error

T, N, H = 100, 32, 32
BUDGET, SWITCH_BUDGET = 2000, 1200
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


def switched(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return sequences of random numbers, with a switch in a second channel (1 on, -1 off, mostly 0: as it was), and
    the sums of the numbers while it was on, of variance 1.

    What enters the sum is a number times what h knows of the switch. Without recurrent weights a cell's gates see the
    input alone: it adds up since the last switch, or always, whatever the switch says.
    """
    x, times = np.zeros((T, N, 2)), np.arange(T)[:, None]
    x[:, :, 0] = rng.uniform(-1, 1, size=(T, N))
    x[:, :, 1] = rng.choice([-1, 1], size=(T, N)) * (rng.random((T, N)) < 0.1)
    x[0, :, 1] = rng.choice([-1, 1], size=N)
    last = np.maximum.accumulate(np.where(x[:, :, 1] != 0, times, 0))
    on = np.take_along_axis(x[:, :, 1], last, 0) > 0
    return x, np.sum(x[:, :, 0] * on, axis=0)[:, None] / np.sqrt(T / 6)


def learn(
    layer: Any,
    lr: float,
    max_norm: float,
    rng: np.random.Generator,
    problem: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]] = adding,
    guess: float = GUESS,
    budget: int = BUDGET,
    spoil: Callable[[dict[str, np.ndarray]], None] | None = None,
) -> tuple[int, float]:
    """Return the steps it took to solve the problem, or the budget, and the mean loss of the last 50 steps; with
    `spoil`, from gradients that it has changed."""
    head = Linear(H, 1, rng=rng)
    adam, losses, dy = Adam([layer, head], lr), [], np.zeros((T, N, H), np.float32)
    while len(losses) < budget and not (len(losses) >= 50 and np.mean(losses[-50:]) < guess / 10):
        x, target = problem(rng)
        y, _, tape = layer.forward(x)
        z, head_tape = head.forward(y[-1])
        loss, dz = mean_squared_error(z, target, reduction="mean")
        dy[-1], head_grads = head.backward(head_tape, dz)
        _, _, grads = layer.backward(tape, dy)
        if spoil is not None:
            spoil(grads)
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


def without_recurrence(kind: type, rng: np.random.Generator) -> Any:
    """A layer whose recurrent weights are zero: all that its gates know of the past, they learn by dW_hh."""
    layer = kind(2, H, rng=rng)
    with layer.editing() as params:
        params["weight_hh_l0"][...] = 0
    if kind is rc.LSTM:
        init.forget_bias(layer)
    return layer


@pytest.mark.parametrize("kind", [rc.LSTM, rc.GRU])
def test_gates_learn_to_follow_a_switch(kind):
    rng = np.random.default_rng(0)
    steps, loss = learn(without_recurrence(kind, rng), 0.02, 1.0, rng, switched, 1.0, SWITCH_BUDGET)
    assert steps < SWITCH_BUDGET and loss < 1 / 10


def zero(grads: dict[str, np.ndarray]) -> None:
    grads["weight_hh_l0"][...] = 0


def negative(grads: dict[str, np.ndarray]) -> None:
    grads["weight_hh_l0"] *= -1


@pytest.mark.parametrize("kind,spoil", [(rc.LSTM, zero), (rc.LSTM, negative), (rc.GRU, zero)])
def test_they_do_not_with_a_wrong_gradient_of_recurrent_weights(kind, spoil):
    """What the test before would say of a backward pass without dW_hh, or with its sign wrong."""
    rng = np.random.default_rng(0)
    steps, loss = learn(without_recurrence(kind, rng), 0.02, 1.0, rng, switched, 1.0, SWITCH_BUDGET, spoil)
    assert steps == SWITCH_BUDGET and loss > 1 / 4


@pytest.mark.parametrize("lr", [0.02, 0.002])
def test_tanh_network_of_the_same_size_does_not_follow_it(lr):
    rng = np.random.default_rng(0)
    steps, loss = learn(rc.RNN(2, H, rng=rng), lr, 1.0, rng, switched, 1.0, SWITCH_BUDGET)
    assert steps == SWITCH_BUDGET and loss > 1 / 2
