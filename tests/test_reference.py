"""The reference's gradients against derivatives of its own forward pass, in float64, signed."""

import numpy as np
import pytest
from common import NONLINEARITIES, relative_error

from rnncore.reference import gru, jordan, lstm, rnn
from rnncore.reference.functions import functions

LIMIT = 1e-7
OUTPUT_NONLINEARITIES = ("identity", "sigmoid", "tanh", "softmax")


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


def check(loss, arguments, gradients, derivative):
    """Assert each gradient to be the loss's derivative by the argument it belongs to; None belongs to None."""
    for k, (actual, argument) in enumerate(zip(gradients, arguments, strict=True)):
        assert (actual is None) == (argument is None), gradients._fields[k]
        if actual is not None:
            assert relative_error(actual, derivative(loss, arguments, k)) < LIMIT, gradients._fields[k]


def sigma(a):
    return 1 / (1 + np.exp(-a))


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
    check(loss, arguments, gradients, central_difference if nonlinearity == "relu" else complex_step)


@pytest.mark.parametrize("derivative", [complex_step, central_difference])
@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("T,N,I,H,P", [(4, 2, 3, 5, 2), (3, 1, 1, 1, 1), (7, 3, 2, 4, 3)])
def test_lstm(derivative, projection, peephole, T, N, I, H, P):
    P = P if projection else H
    arguments = draw(T, (T, N, I), (N, P), (N, H), (4 * H, I), (4 * H, P), (4 * H,), (4 * H,), (P, H), (3 * H,))
    arguments[7:] = [arguments[7] if projection else None, arguments[8] if peephole else None]
    dy, dh_n, dc_n = draw(T + 1, (T, N, P), (N, P), (N, H))

    def loss(*arguments):
        y, h_n, c_n, _ = lstm.forward(*arguments)
        return (y * dy).sum() + (h_n * dh_n).sum() + (c_n * dc_n).sum()

    x, h_0, c_0, W_ih, W_hh, _, _, W_hr, w_peephole = arguments
    y, _, _, tape = lstm.forward(*arguments)
    gradients = lstm.backward(dy, dh_n, dc_n, tape, x, y, h_0, c_0, W_ih, W_hh, W_hr, w_peephole)
    check(loss, arguments, gradients, derivative)


@pytest.mark.parametrize("derivative", [complex_step, central_difference])
@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("T,N,I,H", [(4, 2, 3, 5), (3, 1, 1, 1), (7, 3, 2, 4)])
def test_gru(derivative, reset_after, T, N, I, H):
    arguments = draw(T, (T, N, I), (N, H), (3 * H, I), (3 * H, H), (3 * H,), (3 * H,))
    dy, dh_n = draw(T + 1, (T, N, H), (N, H))

    def loss(*arguments):
        y, h_n, _ = gru.forward(*arguments, reset_after)
        return (y * dy).sum() + (h_n * dh_n).sum()

    x, h_0, W_ih, W_hh, *_ = arguments
    y, _, tape = gru.forward(*arguments, reset_after)
    check(loss, arguments, gru.backward(dy, dh_n, tape, x, y, h_0, W_ih, W_hh, reset_after), derivative)


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
@pytest.mark.parametrize("output_nonlinearity", OUTPUT_NONLINEARITIES)
@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("T,N,I,H,O", [(4, 2, 3, 5, 3), (3, 1, 1, 1, 1), (6, 3, 2, 3, 4)])
def test_jordan(nonlinearity, output_nonlinearity, forced, T, N, I, H, O):
    arguments = draw(T, (T, N, I), (N, O), (H, I), (H, O), (H,), (O, H), (O,), (T, N, O))
    arguments[7] = arguments[7] if forced else None
    dy, do_n = draw(T + 1, (T, N, O), (N, O))
    kinds = nonlinearity, output_nonlinearity

    def loss(*arguments):
        y, o_n, _ = jordan.forward(*arguments[:7], *kinds, arguments[7])
        return (y * dy).sum() + (o_n * do_n).sum()

    x, o_0, W_ih, W_oh, _, W_ho, _, targets = arguments
    y, _, tape = jordan.forward(*arguments[:7], *kinds, targets)
    gradients = jordan.backward(dy, do_n, tape, x, y, o_0, W_ih, W_oh, W_ho, *kinds, targets)
    check(loss, arguments, gradients, central_difference if nonlinearity == "relu" else complex_step)
    if forced:
        assert not gradients.dtargets[-1].any()


def test_lstm_by_hand():
    """One unit, one step, numbers worked out by hand: gate order i f g o."""
    y, h_n, c_n, _ = lstm.forward(
        np.array([[[2.0]]]), np.array([[0.5]]), np.array([[-1.0]]),
        np.array([[0.1], [0.2], [0.3], [0.4]]), np.array([[1.0], [2.0], [3.0], [4.0]]),
        np.array([0.01, 0.02, 0.03, 0.04]), np.zeros(4),
    )  # fmt: skip
    c = sigma(1.42) * -1.0 + sigma(0.71) * np.tanh(2.13)
    assert c_n[0, 0] == pytest.approx(c, rel=1e-15)
    assert h_n[0, 0] == y[0, 0, 0] == pytest.approx(sigma(2.84) * np.tanh(c), rel=1e-15)


def test_lstm_with_peepholes_and_projection_by_hand():
    """The same unit, projected to two outputs: the input and forget gates see c before the step, the output's after."""
    W_hr, w_peephole = np.array([[3.0], [-2.0]]), np.array([0.7, -0.5, 0.9])
    y, h_n, c_n, _ = lstm.forward(
        np.array([[[2.0]]]), np.array([[0.5, 7.0]]), np.array([[-1.0]]),
        np.array([[0.1], [0.2], [0.3], [0.4]]), np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]]),
        np.array([0.01, 0.02, 0.03, 0.04]), np.zeros(4), W_hr, w_peephole,
    )  # fmt: skip
    c = sigma(1.42 + 0.5) * -1.0 + sigma(0.71 - 0.7) * np.tanh(1.5 + 0.63)
    m = sigma(2.84 + 0.9 * c) * np.tanh(c)
    assert c_n[0, 0] == pytest.approx(c, rel=1e-15)
    assert h_n[0] == pytest.approx([3 * m, -2 * m], rel=1e-15)
    np.testing.assert_array_equal(y[0], h_n)


@pytest.mark.parametrize("reset_after", [True, False])
def test_gru_by_hand(reset_after):
    """One unit, one step, numbers worked out by hand: gate order r z n, and z keeps the state."""
    y, h_n, _ = gru.forward(
        np.array([[[2.0]]]), np.array([[0.5]]), np.array([[0.1], [0.2], [0.3]]), np.array([[1.0], [2.0], [3.0]]),
        np.array([0.01, 0.02, 0.03]), np.array([0.1, 0.2, 0.3]), reset_after,
    )  # fmt: skip
    r, z = sigma(0.21 + 0.6), sigma(0.42 + 1.2)
    n = np.tanh(0.63 + r * (1.5 + 0.3)) if reset_after else np.tanh(0.63 + 3 * (r * 0.5) + 0.3)
    assert h_n[0, 0] == y[0, 0, 0] == pytest.approx((1 - z) * n + z * 0.5, rel=1e-15)


def test_jordan_by_hand():
    """One unit, two outputs, two steps; then the second step reads a target."""
    arguments = (
        np.array([[[2.0]], [[-1.0]]]), np.array([[0.5, -0.25]]), np.array([[0.3]]), np.array([[1.0, 2.0]]),
        np.array([0.1]), np.array([[0.7], [-0.4]]), np.array([0.2, 0.05]),
    )  # fmt: skip

    def says(x, o):
        s = np.array([0.7, -0.4]) * np.tanh(0.3 * x + 0.1 + o[0] + 2 * o[1]) + [0.2, 0.05]
        return np.exp(s) / np.exp(s).sum()

    o_1 = says(2.0, (0.5, -0.25))
    y, o_n, _ = jordan.forward(*arguments, "tanh", "softmax")
    assert y[:, 0] == pytest.approx(np.array([o_1, says(-1.0, o_1)]), rel=1e-15)
    np.testing.assert_array_equal(o_n, y[-1])
    y, o_n, _ = jordan.forward(*arguments, "tanh", "softmax", np.array([[[1.0, -3.0]], [[np.nan, np.nan]]]))
    assert y[:, 0] == pytest.approx(np.array([o_1, says(-1.0, (1.0, -3.0))]), rel=1e-15)
    np.testing.assert_array_equal(o_n, y[-1])


def test_softmax_of_large_values():
    """No overflow, whatever the row's level; over rows, each for itself."""
    a = np.array([[1e4, 1e4, 0.0], [-1e4, -1e4, -1e4]])
    expected = [[0.5, 0.5, 0.0], [1 / 3, 1 / 3, 1 / 3]]
    for dtype in (np.float32, np.float64, np.complex128):
        h = functions["softmax"](a.astype(dtype))
        assert h.dtype == dtype
        np.testing.assert_allclose(h, expected, rtol=1e-6)


def test_empty_sequence_passes_the_state_through():
    x, h_0, c_0, W_ih, W_hh, b_ih, b_hh = draw(0, (0, 2, 3), (2, 4), (2, 4), (16, 3), (16, 4), (16,), (16,))
    y, h_n, c_n, _ = lstm.forward(x, h_0, c_0, W_ih, W_hh, b_ih, b_hh)
    assert y.shape == (0, 2, 4)
    np.testing.assert_array_equal([h_n, c_n], [h_0, c_0])
    for reset_after in (True, False):
        y, h_n, _ = gru.forward(x, h_0, W_ih[:12], W_hh[:12], b_ih[:12], b_hh[:12], reset_after)
        assert y.shape == (0, 2, 4)
        np.testing.assert_array_equal(h_n, h_0)
    for targets in (None, np.empty((0, 2, 4))):
        y, o_n, _ = jordan.forward(x, h_0, W_ih, W_hh, b_ih, W_hh.T, b_hh[:4], targets=targets)
        assert y.shape == (0, 2, 4)
        np.testing.assert_array_equal(o_n, h_0)
