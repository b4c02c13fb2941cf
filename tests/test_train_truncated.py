"""Truncated BPTT: each window against the definition and against torch, layouts, states, ragged batches, errors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from common import (
    KINDS,
    as_tuple,
    assert_close,
    equal,
    import_peer,
    pick,
    random_case,
    run_reference,
    state_of,
)

import rnncore as rc
from rnncore.train import truncated_bptt

CUTS = [(4, 4), (5, 5), (4, 7), (3, 9), (1, 6), (5, 30), (40, 40), (40, 90)]


def make(kind: str, options: dict[str, Any], **more: Any) -> Any:
    if kind == "JordanRNN":
        return rc.JordanRNN(3, 5, 4, rng=0, **options, **more)
    return getattr(rc, kind)(3, 5, 2, rng=0, **options, **more)


ALL = pytest.mark.parametrize("kind,options", [*KINDS, ("JordanRNN", {"output_nonlinearity": "tanh"})], ids=str)


def bounds(T: int, k1: int, k2: int) -> list[tuple[int, int, int]]:
    """The windows of the docstring: first, start, stop."""
    return [(max(0, start - (k2 - k1)), start, min(start + k1, T)) for start in range(0, T, k1)]


def step(layer: Any, grads: dict[str, np.ndarray]) -> None:
    with layer.editing() as params:
        for name in grads:
            params[name] -= 0.02 * grads[name]


@ALL
@pytest.mark.parametrize("k1,k2", CUTS)
@pytest.mark.parametrize("lengths", [None, [13, 0, 18, 4]])
def test_windows_are_the_definition(kind, options, k1, k2, lengths):
    """Values and gradients of every window by the reference, in float64, from a state that is held constant; parameters
    change between windows, and a state at a window's beginning is of the parameters of the window before."""
    layer = make(kind, options, dtype="float64")
    case = random_case(layer, 18, 4)
    expected_state = case["state"]
    given = copy.deepcopy(case["state"])
    given_lengths = None if lengths is None else np.array(lengths)
    windows = truncated_bptt(layer, case["x"], k1, k2, given, lengths=given_lengths)
    for array in as_tuple(given) if lengths is None else (*as_tuple(given), given_lengths):
        array.fill(1000)  # they were copied

    def stretch(first: int, stop: int, state: Any, dy: np.ndarray) -> dict[str, Any]:
        part = {"x": case["x"][first:stop], "state": state, "dy": dy[: stop - first], "dstate": case["dstate"]}
        return part if lengths is None else part | {"lengths": np.clip(np.array(lengths) - first, 0, stop - first)}

    every = bounds(18, k1, k2)
    for k, (first, start, stop) in enumerate(every):
        window = next(windows)
        assert (window.first, window.start, window.stop) == (first, start, stop)
        dy = case["dy"][first:stop].copy()
        dy[: start - first] = 0

        expected = run_reference(layer, stretch(first, stop, expected_state, dy))
        if k + 1 < len(every):
            expected_state = state_of(
                layer, run_reference(layer, stretch(first, every[k + 1][0], expected_state, dy))["forward"]["state"]
            )
        assert_close(window.y, expected["forward"]["y"][start - first :], "float64", "forward")
        assert_close(as_tuple(window.state), expected["forward"]["state"], "float64", "forward")
        dx, grads = window.backward(case["dy"][start:stop], case["dstate"])
        assert_close(dx, expected["backward"]["dx"], "float64", "backward")
        assert_close(grads, expected["backward"]["grads"], "float64", "backward")
        for array in (window.y, *as_tuple(window.state)):
            array.fill(np.nan)  # results are the caller's own: what follows does not read them
        step(layer, grads)
        with pytest.raises(ValueError, match="before they changed"):
            window.backward()
    assert next(windows, None) is None


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("k1,k2", [(5, 5), (4, 7), (1, 6)])
def test_training_with_detached_states_in_torch(kind, k1, k2):
    """Stochastic gradient descent over windows, by torch's autograd with the state detached where a window begins."""
    torch = import_peer("torch")
    layer = make(kind, {}, dtype="float64")
    module = getattr(torch.nn, kind)(3, 5, 2, dtype=torch.float64)
    module.load_state_dict({name: torch.tensor(array) for name, array in layer.parameters().items()})
    case = random_case(layer, 18, 4)
    x, dy = torch.tensor(case["x"]), torch.tensor(case["dy"])
    state = [torch.tensor(a) for a in as_tuple(case["state"])]
    for window in truncated_bptt(layer, case["x"], k1, k2, case["state"]):
        first, start, stop = window.first, window.start, window.stop
        dx, grads = window.backward(case["dy"][start:stop])
        x_window = x[first:stop].clone().requires_grad_()
        module.zero_grad()
        hs, detached = [], {first: state}  # step by step: autograd's state at every time
        for t in range(first, stop):
            h, state_t = module(x_window[t - first : t - first + 1], state_of(layer, detached.get(t, state)))
            state = list(as_tuple(state_t))
            detached[t + 1] = state
            hs.append(h)
        (torch.cat(hs)[start - first :] * dy[start:stop]).sum().backward()
        assert_close(window.y, torch.cat(hs)[start - first :].detach().numpy(), "float64", "forward")
        assert_close(dx, x_window.grad.numpy(), "float64", "backward")
        assert_close(grads, {n: p.grad.numpy() for n, p in module.named_parameters()}, "float64", "backward")
        state = [s.detach() for s in detached[max(0, start + k1 - (k2 - k1))]] if stop < 18 else state
        step(layer, grads)
        with torch.no_grad():
            for p in module.parameters():
                p -= 0.02 * p.grad
    assert_close(
        layer.state_dict(), {n: p.detach().numpy() for n, p in module.named_parameters()}, "float64", "backward"
    )


@ALL
@pytest.mark.parametrize("k1,k2", [(18, None), (18, 18), (25, 60)])
def test_one_window_is_the_layers_own_pass(kind, options, k1, k2):
    """The same bits, dropout included."""
    more = {} if kind == "JordanRNN" else {"dropout": 0.4}
    layer = make(kind, options, **more)
    case = random_case(layer, 18, 4)
    y, state, tape = layer.forward(case["x"], case["state"], rng=7)
    dx, _, grads = layer.backward(tape, case["dy"], case["dstate"])
    (window,) = truncated_bptt(layer, case["x"], k1, k2, case["state"], rng=7)
    assert equal((window.y, state, *window.backward(case["dy"], case["dstate"])), (y, window.state, dx, grads))


@ALL
@pytest.mark.parametrize("k1,k2", [(4, 4), (4, 7)])
def test_layouts_agree(kind, options, k1, k2):
    plain, first = make(kind, options), make(kind, options, batch_first=True)
    case, lengths = random_case(plain, 18, 3), [18, 5, 11]
    windows = truncated_bptt(plain, case["x"], k1, k2, case["state"], lengths=lengths)
    swapped = truncated_bptt(first, case["x"].swapaxes(0, 1), k1, k2, case["state"], lengths=lengths)
    flat = truncated_bptt(first, case["x"][:, 1], k1, k2, pick(plain, case["state"], 1), lengths=5)
    for one, two, three in zip(windows, swapped, flat, strict=True):
        new = slice(one.start, one.stop)
        dx, grads = one.backward(case["dy"][new], case["dstate"])
        dx_two, grads_two = two.backward(case["dy"].swapaxes(0, 1)[:, new], case["dstate"])
        assert equal((two.y.swapaxes(0, 1), dx_two.swapaxes(0, 1), grads_two), (one.y, dx, grads))
        dx_three, _ = three.backward(case["dy"][new, 1], pick(plain, case["dstate"], 1))
        alone = three.y, *as_tuple(three.state)
        assert_close(alone, (one.y[:, 1], *as_tuple(pick(plain, one.state, 1))), "float32", "forward")
        assert_close(dx_three, dx[:, 1], "float32", "backward")


@ALL
@pytest.mark.parametrize("k1,k2", CUTS)
def test_outputs_and_state_are_those_of_the_whole(kind, options, k1, k2):
    """While the parameters stay: the same bits as one call."""
    layer = make(kind, options)
    case = random_case(layer, 18, 4)
    y, state = layer(case["x"], case["state"])
    windows = list(truncated_bptt(layer, case["x"], k1, k2, case["state"]))
    assert equal((np.concatenate([w.y for w in windows]), windows[-1].state), (y, state))


@pytest.mark.parametrize("k1,k2", [(4, 4), (4, 7), (1, 6)])
def test_dropout(k1, k2):
    """Between windows the state is one with dropout: where all is dropped, the second layer never sees the first."""
    layer = rc.LSTM(3, 5, 2, dropout=1.0, rng=0)
    x = random_case(layer, 18, 4)["x"]
    y, _, _ = layer.forward(x)
    assert equal(np.concatenate([w.y for w in truncated_bptt(layer, x, k1, k2)]), y)
    layer = rc.LSTM(3, 5, 2, dropout=0.5, rng=0)
    rng = np.random.default_rng(3)
    one, two, other = ([w.y for w in truncated_bptt(layer, x, k1, k2, rng=r)] for r in (3, rng, rng))
    assert equal(tuple(one), tuple(two)) and not equal(tuple(two), tuple(other))
    same_x = [w.y for w in truncated_bptt(layer, np.zeros((18, 4, 3)), k1, k1, rng=3)]
    assert not equal(same_x[0], same_x[1])


def test_the_state_carried_is_one_the_window_went_through():
    """With its very mask: seen by a second layer that from then on only holds its state."""
    layer = rc.RNN(3, 5, 2, "relu", dropout=0.5, rng=0)
    windows = truncated_bptt(layer, np.ones((8, 2, 3)), 4, 6, rng=3)
    before = next(windows)
    with layer.editing() as params:
        for name in ("weight_ih_l1", "bias_ih_l1", "bias_hh_l1"):
            params[name].fill(0)
        params["weight_hh_l1"] = np.eye(5)
    after = next(windows)
    assert after.first == 2 and before.y.any()
    assert all(equal(y_t, before.y[1]) for y_t in after.y)


def test_backward_has_the_layers_defaults():
    layer = rc.GRU(3, 5, rng=0)
    case = random_case(layer, 18, 4)
    for window in truncated_bptt(layer, case["x"], 4, 7, n_threads=1):
        dx, grads = window.backward()
        assert dx.shape == (window.stop - window.first, 4, 3) and not any(np.any(g) for g in (dx, *grads.values()))
        dx, grads = window.backward(case["dy"][window.start : window.stop])
        total = {name: np.ones_like(g) for name, g in grads.items()}
        assert window.backward(case["dy"][window.start : window.stop], accumulate=total)[1] is not grads
        for name in grads:
            np.testing.assert_allclose(total[name], grads[name] + 1, rtol=1e-5, atol=1e-6)
        with pytest.raises(ValueError, match=rf"expected dy of shape \({window.stop - window.start}, 4, 5\), got"):
            window.backward(case["dy"])
        assert f"times {window.first} to {window.stop}" in repr(window)


@ALL
@pytest.mark.parametrize("lengths", [None, [18, 0, 5, 11]])
def test_gradient_flow_of_a_window(kind, options, lengths):
    """That of the layer over the window's times, from its new outputs' gradients and that of the state."""
    layer = make(kind, options, dtype="float64")
    case = random_case(layer, 18, 4)
    state = None
    for window in truncated_bptt(layer, case["x"], 4, 7, lengths=lengths):
        dy, dstate = case["dy"][window.start : window.stop], case["dstate"]
        dx, grads, flow = window.backward(dy, dstate, flow=True, check_finite=True)
        for found in (window.backward(dy, dstate), window.backward(dy, dstate, check_finite=True)):
            assert_close(found, (dx, grads), "float64", "backward")
        steps = None if lengths is None else np.clip(np.array(lengths) - window.first, 0, window.stop - window.first)
        part = case["x"][window.first : window.stop]
        whole = np.concatenate([np.zeros((window.start - window.first, *dy.shape[1:])), dy])
        if window.first:
            past = None if lengths is None else np.minimum(lengths, window.first)
            state = layer(case["x"][: window.first], lengths=past)[1]
        *_, expected = layer.backward(layer.forward(part, state, lengths=steps)[2], whole, dstate, flow=True)
        assert_close(flow, expected, "float64", "backward")


def test_what_is_not_finite_in_a_window():
    layer = rc.LSTM(3, 5, rng=0)
    first, second = truncated_bptt(layer, np.ones((8, 2, 3)), 4, 6)
    dy = np.zeros((4, 2, 5))
    dy[1, 0, 0] = np.nan
    assert np.isnan(first.backward(dy)[0]).any()
    for window, t in ((first, 1), (second, 3)):
        words = rf"expected finite gradients, got others in dx.*; back in time dh_t of l0 from t = {t} on"
        with pytest.raises(ValueError, match=words):
            window.backward(dy, check_finite=True)
    for name in ("flow", "check_finite"):
        with pytest.raises(TypeError, match=f"expected {name} to be True or False, got 1"):
            first.backward(**{name: 1})


def test_a_window_is_computed_when_it_is_asked_for():
    layer = rc.RNN(3, 5, rng=0)
    windows = truncated_bptt(layer, np.ones((8, 2, 3)), 4)
    with layer.editing() as params:
        for array in params.values():
            array.fill(0)
    assert not next(windows).y.any()


def test_empty_sequences_and_batches():
    layer = rc.LSTM(3, 5, rng=0)
    assert not list(truncated_bptt(layer, np.ones((0, 2, 3)), 4))
    for window in truncated_bptt(layer, np.ones((9, 0, 3)), 4, 6):
        assert window.y.shape == (window.stop - window.start, 0, 5)
        assert not any(g.any() for g in window.backward(window.y)[1].values())
    for window in truncated_bptt(layer, np.ones((9, 2, 3)), 4, 6, lengths=[0, 0]):
        assert not window.y.any() and not window.state[0].any()


X = np.ones((18, 4, 3))


@pytest.mark.parametrize("error,match,arguments,options", [
    (ValueError, "expected k1 between 1 and", (X, 0), {}), (ValueError, "expected k1 between 1 and", (X, -3), {}),
    (TypeError, "expected k1 to be an integer", (X, 2.0), {}), (TypeError, "expected k2 to be an", (X, 2, "3"), {}),
    (TypeError, "expected k1 to be an integer", (X, None), {}), (TypeError, "expected k1 to be an", (X, True), {}),
    (ValueError, "expected k2 >= k1, got k1=5 and k2=4", (X, 5, 4), {}),
    (ValueError, "expected k2 between 1 and", (X, 5, 0), {}),
    (ValueError, r"expected x of shape \(T, N, 3\), got \(18, 4, 2\)", (X[..., :2], 5), {}),
    (ValueError, r"expected h_0 of shape \(1, 4, 5\)", (X, 5, 5, (np.ones((1, 3, 5)), np.ones((1, 4, 5)))), {}),
    (TypeError, "expected a state", (X, 5, 5, np.ones((1, 4, 5))), {}),
    (ValueError, "lengths", (X, 5), {"lengths": [19, 1, 1, 1]}), (ValueError, "lengths", (X, 5), {"lengths": [1]}),
    (ValueError, "lengths", (X, 5), {"lengths": [-1, 1, 1, 1]}), (TypeError, "lengths", (X, 5), {"lengths": [.5] * 4}),
    (ValueError, "n_threads", (X, 5), {"n_threads": 0}), (TypeError, "rng|seed|Seed", (X, 5), {"rng": "7"}),
])  # fmt: skip
def test_bad_arguments_are_errors_at_once(error, match, arguments, options):
    with pytest.raises(error, match=match):
        truncated_bptt(rc.LSTM(3, 5, rng=0), *arguments, **options)


def test_layers_that_cannot_carry_a_state():
    for options, kind in (({"bidirectional": True}, "bidirectional"), ({"reverse": True}, "reversed")):
        with pytest.raises(ValueError, match=f"runs forwards in time, .* got a {kind} one"):
            truncated_bptt(rc.GRU(3, 5, **options), X, 5)
    for bad in (rc.GRU, rc.GRUCell(3, 5), rc.train.Linear(3, 5), None):
        with pytest.raises(TypeError, match="expected a recurrent layer"):
            truncated_bptt(bad, X, 5)
