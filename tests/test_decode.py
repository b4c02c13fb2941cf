"""Decoding: against chains of argmax, softmax's frequencies and brute force; stops, penalties, states, errors."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from common import pick, state_of, state_shapes
from scipy.stats import chisquare

import rnncore as rc
from rnncore.decode import beam_search, draw, generate
from rnncore.train import Embedding, Linear

LAYERS = {
    "RNN": lambda: rc.RNN(3, 6, dtype="float64", rng=1),
    "LSTM": lambda: rc.LSTM(3, 6, 2, dtype="float64", rng=1),
    "LSTM with projections": lambda: rc.LSTM(3, 6, proj_size=4, dtype="float64", rng=1),
    "GRU": lambda: rc.GRU(3, 6, 2, dtype="float64", rng=1),
    "JordanRNN": lambda: rc.JordanRNN(3, 6, 5, dtype="float64", rng=1),
}
KINDS = pytest.mark.parametrize("kind", LAYERS)
# From 0, greedy goes to 1 with 0.5, and from there to 0 with 0.4; over 2 there is a way with 0.4 * 0.9.
TRAP = np.log([[0.1, 0.5, 0.4], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05]])


def chain(logits):
    """The step of a Markov chain."""
    return lambda tokens, state: (np.asarray(logits)[tokens], state)


def model(kind, V, N):
    """A step of an untrained model whose logits are far apart, and random initial states of N rows."""
    layer, rng = LAYERS[kind](), np.random.default_rng(2)
    state = state_of(layer, tuple(rng.normal(size=shape) for shape in state_shapes(layer, N)))
    width = layer(np.zeros((1, N, 3)), state)[0].shape[2]
    embedding, head = Embedding(V, 3, dtype="float64", rng=3), Linear(width, V, dtype="float64", rng=4)
    with head.editing() as params:
        params["weight"] *= 8

    def step(tokens, state):
        y, state = layer(embedding(tokens[None]), state)
        return head(y[0]), state

    return step, state, [pick(layer, state, [n]) for n in range(N)]


def log_softmax(z):
    return z - np.log(np.exp(z).sum())


def everything(step, token, state, n_steps, stop=None, begun=(), log_prob=0.0):
    """Every sequence of one row, as far as its stop, with its log P."""
    if n_steps == len(begun) or (begun and begun[-1] == stop):
        return {begun: log_prob}
    logits, state = step(np.array([token]), state)
    found = {}
    for k, gain in enumerate(log_softmax(logits[0])):
        found |= everything(step, k, state, n_steps, stop, (*begun, k), log_prob + gain)
    return found


def sequences(tokens, lengths, stop):
    """What a row of beam search found: sequences as far as their stop."""
    return [(*row[:n].tolist(), *([stop] if n < len(row) else [])) for row, n in zip(tokens, lengths, strict=True)]


# --- generate ---------------------------------------------------------------------------------------------------------


@KINDS
def test_greedy_is_a_chain_of_argmax(kind):
    step, state, alone = model(kind, 7, 5)
    tokens, lengths = generate(step, [0, 1, 2, 3, 3], 12, state)
    assert tokens.dtype == lengths.dtype == np.int64 and lengths.tolist() == [12] * 5
    for n, token in enumerate([0, 1, 2, 3, 3]):
        row, state = [], alone[n]
        for _ in range(12):
            logits, state = step(np.array([token]), state)
            token = int(logits[0].argmax())
            row.append(token)
        assert tokens[n].tolist() == row
    assert len(np.unique(tokens)) > 1


def test_of_equally_likely_tokens_greedy_takes_the_first():
    assert generate(chain(np.zeros((4, 4))), [2], 3)[0].tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("temperature", [1e-2, 1e-300, 5e-324])
def test_low_temperatures_are_greedy(temperature):
    step, state, _ = model("LSTM", 7, 5)
    greedy, _ = generate(step, np.arange(5), 12, state)
    assert np.array_equal(generate(step, np.arange(5), 12, state, temperature=temperature, rng=0)[0], greedy)
    warm, _ = generate(step, np.arange(5), 12, state, temperature=1.0, rng=0)
    assert not np.array_equal(warm, greedy)


@pytest.mark.parametrize("temperature,top_k", [(1.0, None), (0.5, None), (2.0, None), (1.0, 3), (0.7, 1), (2.0, 5)])
def test_frequencies_are_those_of_the_softmax(temperature, top_k):
    """And would not be those of a temperature a tenth higher."""
    z, N = np.array([0.3, -np.inf, 1.5, -1.0, 0.2, 0.9]), 50_000
    tokens, _ = generate(chain(np.tile(z, (6, 1))), np.zeros(N, int), 1, temperature=temperature, top_k=top_k, rng=5)
    counts = np.bincount(tokens[:, 0], minlength=6)
    kept = np.argsort(-z)[: min(top_k or 6, 5)]
    assert counts.sum() == counts[kept].sum()
    if top_k != 1:
        for wrong, (low, high) in ((1.0, (0.01, 1)), (1.1, (0, 1e-6))):
            p = np.exp(z[kept] / temperature / wrong)
            assert low <= chisquare(counts[kept], N * p / p.sum()).pvalue <= high


def test_what_is_drawn_depends_on_all_that_was():
    """Pairs of tokens of a chain come as often as they should."""
    P = np.array([[0.1, 0.9], [0.7, 0.3]])
    tokens, _ = generate(chain(np.log(P)), np.zeros(20_000, int), 2, temperature=1.0, rng=1)
    expected = P[0][:, None] * P * len(tokens)
    assert chisquare(np.bincount(tokens @ [2, 1]), expected.reshape(-1)).pvalue > 0.01


def test_top_k_takes_k_of_equals():
    tokens, _ = generate(chain(np.zeros((5, 5))), np.zeros(200, int), 5, temperature=1.0, top_k=2, rng=0)
    assert np.unique(tokens).tolist() == [0, 1]
    assert np.unique(generate(chain(np.zeros((5, 5))), [0] * 200, 5, temperature=1.0, top_k=5)[0]).size == 5


def test_a_draw_never_takes_what_is_ruled_out():
    z = np.array([[-np.inf, 0.1, -0.2, 0.3, -np.inf], [0.0, -np.inf, -np.inf, -np.inf, -np.inf]])
    for u, expected in ((0.0, [1, 0]), (np.nextafter(1.0, 0), [3, 0])):
        assert draw(z, 1.0, None, np.full(2, u)).tolist() == expected
        assert draw(z, 1.0, 5, np.full(2, u)).tolist() == expected
    for seed in range(2000):  # totals of all kinds, none of which u times it is rounded up to
        z = np.random.default_rng(seed).normal(size=(1, 4))
        z[0, 3] = -np.inf
        assert draw(z, 1.0, None, np.array([np.nextafter(1.0, 0)])) <= 2


def test_draws_of_a_row_are_its_own():
    step, state, alone = model("GRU", 7, 5)
    options = {"temperature": 1.5, "stop": 6}
    tokens, lengths = generate(step, np.arange(5), 30, state, rng=3, **options)
    some, of_some = generate(step, np.arange(3), 30, state[:, :3], rng=3, **options)
    assert np.array_equal(some, tokens[:3, : some.shape[1]]) and np.array_equal(of_some, lengths[:3])
    short, _ = generate(step, [0], 8, alone[0], rng=3, **options)
    assert np.array_equal(short[0], tokens[0, : short.shape[1]])
    assert len({tuple(row) for row in generate(step, [1] * 5, 30, rng=3, **options)[0].tolist()}) == 5

    rng = np.random.default_rng(3)
    first, second = (generate(step, np.arange(5), 30, state, rng=rng, **options)[0] for _ in range(2))
    assert np.array_equal(first, tokens) and not np.array_equal(second[:, :8], first[:, :8])


def test_a_row_ends_with_its_stop():
    """Row n says n, n-1, …, 0, which stops it; what follows is not looked at."""
    seen = []

    def step(tokens, state):
        seen.append(tokens.tolist())
        z = np.full((4, 5), np.nan)
        live = tokens > 0
        z[live] = np.log(1e-9 + np.eye(5)[tokens[live] - 1])
        return z, state

    for options in ({}, {"temperature": 1e-3}):
        seen.clear()
        tokens, lengths = generate(step, [1, 4, 2, 4], 50, stop=0, **options)
        assert tokens.tolist() == [[0, 0, 0, 0], [3, 2, 1, 0], [1, 0, 0, 0], [3, 2, 1, 0]]
        assert lengths.tolist() == [0, 3, 1, 3]
        assert seen == [[1, 4, 2, 4], [0, 3, 1, 3], [0, 2, 0, 2], [0, 1, 0, 1]]
    tokens, lengths = generate(step, [1, 4, 2, 4], 2, stop=0)
    assert tokens.tolist() == [[0, 0], [3, 2], [1, 0], [3, 2]] and lengths.tolist() == [0, 2, 1, 2]


def test_a_start_may_be_no_token_of_the_head():
    z = np.eye(4)[[2, 0, 1, 3]][:, :3]
    assert generate(chain(z), [3], 2)[0].tolist() == [[0, 2]]
    assert beam_search(chain(z), [3], 2, 1)[0].tolist() == [[[0, 2]]]


def test_no_rows():
    step, _, _ = model("LSTM", 7, 1)
    for options in ({}, {"temperature": 1.0}):
        tokens, lengths = generate(step, np.empty(0, int), 4, stop=2, **options)
        assert len(tokens) == len(lengths) == 0
    assert [len(found) for found in beam_search(step, np.empty(0, int), 4, 3)] == [0, 0, 0]


def test_what_a_step_does_to_its_tokens_stays_there():
    def step(tokens, state):
        z = TRAP[tokens]
        tokens[:] = 99
        return z, state

    assert generate(step, [0, 2], 2)[0].tolist() == [[1, 0], [0, 1]]
    assert beam_search(step, [0, 2], 2, 2)[0][:, 0].tolist() == [[2, 0], [0, 1]]
    first = np.array([0, 2])
    generate(step, first, 1), beam_search(step, first, 1, 1)
    assert first.tolist() == [0, 2]


# --- beam search ------------------------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("stop", [None, 1])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 3.0])
def test_a_beam_of_all_finds_all_in_order(kind, stop, length_penalty):
    step, state, alone = model(kind, 3, 4)
    found = beam_search(step, [0, 1, 2, 0], 4, 81, state, stop=stop, length_penalty=length_penalty)
    for n, first in enumerate([0, 1, 2, 0]):
        expected = everything(step, first, alone[n], 4, stop)
        ranked = sorted(expected, key=lambda s: -expected[s] / len(s) ** length_penalty)
        tokens, lengths, log_probs = (part[n] for part in found)
        real = log_probs > -np.inf
        assert real.tolist() == [True] * len(expected) + [False] * (81 - len(expected))
        assert sequences(tokens[real], lengths[real], stop) == ranked
        np.testing.assert_allclose(log_probs[real], [expected[s] for s in ranked], rtol=1e-12)
        if stop is not None:
            behind = np.arange(4) >= lengths[real, None]
            assert (tokens[real][behind] == stop).all()


@KINDS
def test_every_log_prob_is_that_of_its_sequence(kind):
    """Narrow beams: each sequence carried its own state along, whatever places it took."""
    step, state, alone = model(kind, 6, 3)
    tokens, lengths, log_probs = beam_search(step, [0, 1, 2], 5, 4, state, stop=5)
    assert tokens.shape[:2] == (3, 4)
    for n, first in enumerate([0, 1, 2]):
        expected = everything(step, first, alone[n], 5, 5)
        found = sequences(tokens[n], lengths[n], 5)
        assert len({*found}) == 4
        np.testing.assert_allclose(log_probs[n], [expected[s] for s in found], rtol=1e-12)
        assert (np.diff(log_probs[n]) <= 0).all()


@KINDS
def test_a_beam_of_one_is_greedy(kind):
    step, state, _ = model(kind, 7, 5)
    for stop in (None, 3):
        expected = generate(step, np.arange(5), 12, state, stop=stop)
        tokens, lengths, log_probs = beam_search(step, np.arange(5), 12, 1, state, stop=stop)
        assert np.array_equal(tokens[:, 0], expected[0]) and np.array_equal(lengths[:, 0], expected[1])
        assert log_probs.shape == (5, 1)


def test_a_beam_sees_what_greedy_does_not():
    greedy = generate(chain(TRAP), [0], 2)[0]
    tokens, _, log_probs = beam_search(chain(TRAP), [0], 2, 2)
    assert greedy.tolist() == [[1, 0]] and tokens.tolist() == [[[2, 0], [1, 0]]]
    np.testing.assert_allclose(np.exp(log_probs), [[0.36, 0.2]])


def test_wider_beams_find_better_sequences():
    step, state, _ = model("LSTM", 7, 40)
    first = np.arange(40) % 7
    best = [beam_search(step, first, 8, width, state)[2][:, 0].mean() for width in (1, 3, 10, 50)]
    assert (np.diff(best) > 0).all()


def test_rows_of_a_batch_do_not_meet():
    step, state, alone = model("LSTM", 7, 3)
    tokens, lengths, log_probs = beam_search(step, [0, 1, 2], 9, 4, state, stop=3)
    for n in range(3):
        t, l, p = beam_search(step, [n], 9, 4, alone[n], stop=3)
        assert np.array_equal(t[0], tokens[n, :, : t.shape[2]]) and np.array_equal(l[0], lengths[n])
        np.testing.assert_allclose(p[0], log_probs[n], rtol=1e-12)


def test_length_penalty():
    """Stopping at once has P = 0.4; going on has 0.6 * 0.5 = 0.3, and 0.55 per token."""
    z = np.log([[0.4, 0.6, 1e-9], [0.5, 1e-9, 0.5], [0.5, 1e-9, 0.5]])
    for length_penalty, expected in ((0.0, [0, 0]), (0.5, [1, 0]), (1.0, [1, 0])):
        tokens, lengths, log_probs = beam_search(chain(z), [0], 2, 3, stop=0, length_penalty=length_penalty)
        assert tokens[0, 0].tolist() == expected and lengths[0, 0] == sum(expected)
        np.testing.assert_allclose(np.exp(log_probs[0, 0]), 0.3 if expected[0] else 0.4, rtol=1e-6)


@pytest.mark.parametrize("length_penalty", [100.0, 500.0, 1e4, 1e300])
def test_a_length_penalty_beyond_all_numbers(length_penalty):
    """It only ranks: sequences of one length by their P, and longer ones first."""
    z = np.log([[0.1, 0.2, 0.7]] * 3)
    tokens, _, _ = beam_search(chain(z), [0], 5, 2, length_penalty=length_penalty)
    assert tokens[0, 0].tolist() == [2] * 5 and sorted(tokens[0, 1].tolist()) == [1, 2, 2, 2, 2]
    tokens, lengths, _ = beam_search(chain(z), [0], 5, 3, stop=0, length_penalty=length_penalty)
    assert tokens[0, 0].tolist() == [2] * 5 and lengths[0].tolist() == [5] * 3


def test_a_sequence_that_has_ended_can_be_overtaken():
    """It stays while two others pass it, and goes when there are too many."""
    z = np.log([[0.2, 0.4, 0.4], [0.01, 0.98, 0.01], [0.01, 0.01, 0.98]])
    tokens, lengths, _ = beam_search(chain(z), [0], 3, 3, stop=0)
    assert tokens[0].tolist() == [[1, 1, 1], [2, 2, 2], [0, 0, 0]] and lengths.tolist() == [[3, 3, 0]]
    assert beam_search(chain(z), [0], 3, 2, stop=0)[0][0].tolist() == [[1, 1, 1], [2, 2, 2]]


def test_it_ends_when_all_have_ended():
    calls = []

    def step(tokens, state):
        calls.append(len(tokens))
        return np.log([[0.2, 0.8, 1e-30], [1.0, 1e-30, 1e-30], [1.0, 1e-30, 1e-30]])[tokens], state

    tokens, lengths, log_probs = beam_search(step, [0, 1], 50, 2, stop=0)
    assert tokens.shape[2] < 50 and len(calls) == tokens.shape[2] and calls[:2] == [2, 4]
    assert tokens[0, :, :2].tolist() == [[1, 0], [0, 0]] and lengths[0].tolist() == [1, 0]
    assert np.exp(log_probs[0]).round(9).tolist() == [0.8, 0.2]


def test_fewer_sequences_than_places():
    z = np.log([[0.25, 0.75], [0.5, 0.5]])
    tokens, lengths, log_probs = beam_search(chain(z), [0], 2, 100, stop=0)
    assert np.exp(log_probs).round(9).tolist() == [[0.375, 0.375, 0.25, 0.0]]
    assert tokens[0, :3].tolist() == [[1, 0], [1, 1], [0, 0]] and lengths[0, :3].tolist() == [1, 2, 0]
    with np.errstate(divide="ignore"):
        ruled_out = np.log([[0.0, 1.0], [0.5, 0.5]])
    tokens, _, log_probs = beam_search(chain(ruled_out), [0], 2, 4)
    assert np.exp(log_probs).tolist() == [[0.5, 0.5, 0.0, 0.0]]
    assert tokens[0, :2].tolist() == [[1, 0], [1, 1]]


def test_what_follows_on_a_token_ruled_out_is_not_looked_at():
    z = np.array([[-np.inf, 0.0, -np.inf], [0.0, 1.0, -np.inf], [np.nan] * 3])
    tokens, _, log_probs = beam_search(chain(z), [0], 3, 5)
    assert tokens[0, :3].tolist() == [[1, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert (log_probs[0] > -np.inf).tolist() == [True, True, True, False, False]


def test_states_of_any_structure_follow():
    """A state that spells out the whole sequence, in an array of each kind."""

    def step(tokens, state):
        history, (twice, none), one = state
        assert none is None and one == ()
        np.testing.assert_array_equal(twice[1], 2 * history)
        t = np.flatnonzero(np.append(history[0], 0) == 0)[0]
        history = history.copy()
        history[:, t] = tokens + 1
        np.testing.assert_array_equal(history[:, 0], 1)
        z = np.random.default_rng(t).normal(size=(len(tokens), 3)) + TRAP[tokens]
        seen.append(history[:, : t + 1])
        return z, (history, (np.stack([history, 2 * history]), None), ())

    seen = []
    history = np.zeros((2, 6))
    tokens, _, _ = beam_search(step, [0, 0], 6, 4, (history, (np.stack([history, 2 * history]), None), ()))
    read = {tuple(row) for row in (seen[-1][:, 1:] - 1).astype(int).tolist()}  # by the last step, row by row
    assert {tuple(row[:5]) for row in tokens.reshape(-1, 6).tolist()} <= read


# --- bad input --------------------------------------------------------------------------------------------------------


GOOD = {"first": [0], "n_steps": 2}
BAD = [
    ({"first": [[0]]}, ValueError, r"expected first of shape \(N,\), got \(1, 1\)"),
    ({"first": 0}, ValueError, r"expected first of shape \(N,\), got \(\)"),
    ({"first": [0.5]}, TypeError, "expected first to be an array of integers"),
    ({"first": [0, -1]}, ValueError, "expected first tokens of at least 0, got -1"),
    ({"n_steps": 0}, ValueError, "expected n_steps between 1 and"),
    ({"n_steps": 2.0}, TypeError, "expected n_steps to be an integer"),
    ({"stop": -1}, ValueError, "expected stop of at least 0, got -1"),
    ({"stop": 3}, ValueError, "expected logits of more than 3 tokens, got 3"),
    ({"stop": 0.0}, TypeError, "expected stop to be an integer"),
]
BAD_DRAW = [
    ({"temperature": -0.1}, ValueError, "expected temperature of at least 0 and less than inf, got -0.1"),
    ({"temperature": math.nan}, ValueError, "got nan"),
    ({"temperature": math.inf}, ValueError, "got inf"),
    ({"temperature": "hot"}, TypeError, "expected temperature"),
    ({"top_k": 0}, ValueError, "expected top_k between 1 and"),
    ({"top_k": 4}, ValueError, "expected top_k of at most 3, the number of tokens, got 4"),
    ({"top_k": 1.5}, TypeError, "expected top_k to be an integer"),
]
BAD_BEAM = [
    ({"width": 0}, ValueError, "expected width between 1 and"),
    ({"width": None}, TypeError, "expected width to be an integer"),
    ({"length_penalty": -1}, ValueError, "expected length_penalty of at least 0"),
    ({"length_penalty": math.nan}, ValueError, "got nan"),
    ({"state": np.zeros((1, 2, 6))}, ValueError, r"expected a state of arrays \(..., 1, ·\), .* got shape \(1, 2, 6\)"),
    ({"state": (np.zeros(1),)}, ValueError, r"got shape \(1,\)"),
    ({"state": {"h": np.zeros((1, 1))}}, ValueError, "got dict"),
]


@pytest.mark.parametrize("options,kind,words", [*BAD, *BAD_DRAW], ids=str)
def test_generate_refuses(options, kind, words):
    with pytest.raises(kind, match=words):
        generate(chain(TRAP), **GOOD | options)


@pytest.mark.parametrize("rng", [np.random.RandomState(0), 0.5], ids=["RandomState", "float"])
def test_generate_draws_with_what_has_children(rng):
    with pytest.raises(TypeError, match=f"expected rng .* that can spawn, .* got {type(rng).__name__}"):
        generate(chain(TRAP), **GOOD | {"temperature": 1, "rng": rng})


@pytest.mark.parametrize("options,kind,words", [*BAD, *BAD_BEAM], ids=str)
def test_beam_search_refuses(options, kind, words):
    with pytest.raises(kind, match=words):
        beam_search(chain(TRAP), **GOOD | {"width": 2} | options)


@pytest.mark.parametrize("result,kind,words", [
    (np.zeros((2, 3)), TypeError, "expected step to return logits and a state, got ndarray"),
    ((np.zeros((2, 3)), None, None), TypeError, "got 3 of them"),
    ((np.zeros(3), None), ValueError, r"expected logits of shape \(2, V\), got \(3,\)"),
    ((np.zeros((3, 3)), None), ValueError, r"expected logits of shape \(2, V\), got \(3, 3\)"),
    ((np.zeros((1, 2, 3)), None), ValueError, r"expected logits of shape \(2, V\), got \(1, 2, 3\)"),
    ((np.zeros((2, 0)), None), ValueError, "expected logits of more than 0 tokens, got 0"),
    ((np.array([[0, 0], [0, np.nan]]), None), ValueError, "expected logits whose largest is finite, got nan in row 1"),
    ((np.array([[np.inf, 0], [0, 0]]), None), ValueError, "got inf in row 0"),
    ((np.full((2, 3), -np.inf), None), ValueError, "got -inf in row 0"),
    ((np.zeros((2, 3), complex), None), TypeError, "expected logits to be an array of real numbers"),
], ids=str)  # fmt: skip
def test_a_step_is_looked_at(result, kind, words):
    for search in (generate, lambda *given: beam_search(*given, width=2)):
        with pytest.raises(kind, match=words):
            search(lambda tokens, state: result, [0, 1], 2)


def test_logits_keep_their_width():
    widths = iter([3, 4, 3, 4])
    for search in (generate, lambda *given: beam_search(*given, width=1)):
        with pytest.raises(ValueError, match=r"expected logits of shape \(2, 3\), got \(2, 4\)"):
            search(lambda tokens, state: (np.zeros((2, next(widths))), None), [0, 1], 2)


def test_what_a_step_raises_goes_through():
    step, state, _ = model("RNN", 7, 2)
    with pytest.raises(ValueError, match="expected tokens from 0 to 6, got 7"):
        generate(step, [0, 7], 2, state)
    with pytest.raises(ValueError, match=r"expected h_0 of shape \(1, 3, 6\)"):
        generate(step, [0, 1, 2], 2, state)


def test_it_is_imported_when_asked_for():
    code = (
        "import sys, rnncore as rc\n"
        "print('rnncore.decode' in sys.modules, 'decode' in dir(rc))\n"
        "print(rc.decode.__all__, 'rnncore.train' in sys.modules, 'scipy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n['beam_search', 'generate'] False False\n"
