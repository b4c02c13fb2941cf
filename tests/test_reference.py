"""The reference's gradients against derivatives of its own forward pass, in float64, signed."""

import numpy as np
import pytest
from common import NONLINEARITIES, relative_error

from rnncore.reference import lstm, rnn

LIMIT = 1e-7


def complex_step(f, arguments, k):
    """df/d(arguments[k]): exact to rounding where f is analytic."""
    gradient = np.empty_like(arguments[k])
    for index in np.ndindex(gradient.shape):
        moved = [np.asarray(a, np.complex128) if j == k else a for j, a in enumerate(arguments)]
        moved[k][index] += 1e-30j
        gradient[index] = f(*moved).imag / 1e-30
    return gradient


def central_difference(f, arguments, k, step=1e-6):
    gradient = np.empty_like(arguments[k])
    for index in np.ndindex(gradient.shape):
        values = []
        for sign in (1, -1):
            moved = [a.copy() if j == k else a for j, a in enumerate(arguments)]
            moved[k][index] += sign * step
            values.append(f(*moved))
        gradient[index] = (values[0] - values[1]) / (2 * step)
    return gradient


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in shapes]


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("T,N,I,H", [(4, 2, 3, 5), (3, 1, 1, 1), (7, 3, 2, 4)])
def test_rnn(nonlinearity, T, N, I, H):
    arguments = draw(T, (T, N, I), (N, H), (H, I), (H, H), (H,), (H,))
    dy, dh_n = draw(T + 1, (T, N, H), (N, H))

    def loss(*arguments):
        y, h_n = rnn.forward(*arguments, nonlinearity)
        return (y * dy).sum() + (h_n * dh_n).sum()

    x, h_0, W_ih, W_hh, *_ = arguments
    y, _ = rnn.forward(*arguments, nonlinearity)
    gradients = rnn.backward(dy, dh_n, x, y, h_0, W_ih, W_hh, nonlinearity)
    derivative = central_difference if nonlinearity == "relu" else complex_step
    for k, actual in enumerate(gradients):
        assert relative_error(actual, derivative(loss, arguments, k)) < LIMIT, gradients._fields[k]


@pytest.mark.parametrize("derivative", [complex_step, central_difference])
@pytest.mark.parametrize("T,N,I,H", [(4, 2, 3, 5), (3, 1, 1, 1), (7, 3, 2, 4)])
def test_lstm(derivative, T, N, I, H):
    arguments = draw(T, (T, N, I), (N, H), (N, H), (4 * H, I), (4 * H, H), (4 * H,), (4 * H,))
    dy, dh_n, dc_n = draw(T + 1, (T, N, H), (N, H), (N, H))

    def loss(*arguments):
        y, h_n, c_n, _ = lstm.forward(*arguments)
        return (y * dy).sum() + (h_n * dh_n).sum() + (c_n * dc_n).sum()

    x, h_0, c_0, W_ih, W_hh, *_ = arguments
    y, _, _, tape = lstm.forward(*arguments)
    gradients = lstm.backward(dy, dh_n, dc_n, tape, x, y, h_0, c_0, W_ih, W_hh)
    for k, actual in enumerate(gradients):
        assert relative_error(actual, derivative(loss, arguments, k)) < LIMIT, gradients._fields[k]


def test_lstm_by_hand():
    """One unit, one step, numbers worked out by hand: gate order i f g o."""
    sigma = lambda a: 1 / (1 + np.exp(-a))  # noqa: E731
    y, h_n, c_n, _ = lstm.forward(
        np.array([[[2.0]]]), np.array([[0.5]]), np.array([[-1.0]]),
        np.array([[0.1], [0.2], [0.3], [0.4]]), np.array([[1.0], [2.0], [3.0], [4.0]]),
        np.array([0.01, 0.02, 0.03, 0.04]), np.zeros(4),
    )  # fmt: skip
    c = sigma(1.42) * -1.0 + sigma(0.71) * np.tanh(2.13)
    assert c_n[0, 0] == pytest.approx(c, rel=1e-15)
    assert h_n[0, 0] == y[0, 0, 0] == pytest.approx(sigma(2.84) * np.tanh(c), rel=1e-15)


def test_empty_sequence_passes_the_state_through():
    x, h_0, c_0, W_ih, W_hh, b_ih, b_hh = draw(0, (0, 2, 3), (2, 4), (2, 4), (16, 3), (16, 4), (16,), (16,))
    y, h_n, c_n, _ = lstm.forward(x, h_0, c_0, W_ih, W_hh, b_ih, b_hh)
    assert y.shape == (0, 2, 4)
    np.testing.assert_array_equal([h_n, c_n], [h_0, c_0])
