import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnncore.demo import ngram
from rnncore.demo.ngram import WittenBell
from rnncore.demo.text import load_text, split, vocabulary

TEXT = "the cat sat on the mat; the rat sat on the cat, and that was that. " * 3 + "then a bat came"
HELD_OUT = "the bat sat on that mat!"


def slow_probability(text, V, context, character):
    """The definition, by recursion and with the text searched anew for each string."""
    counts = Counter(text[i + len(context)] for i in range(len(text) - len(context)) if text.startswith(context, i))
    lower = slow_probability(text, V, context[1:], character) if context else 1 / V
    if not counts:
        return lower
    return (counts[character] + len(counts) * lower) / (sum(counts.values()) + len(counts))


def test_by_hand():
    model = WittenBell("aab", "ab", max_order=1)
    # order 0: a twice, b once, two kinds: (2 + 2/2) / 5 and (1 + 2/2) / 5. After a: a once, b once, two kinds.
    assert model.probabilities("a").tolist() == pytest.approx(np.array([[0.6, 0.4], [2.2 / 4, 1.8 / 4]]))
    # nothing ever followed b, nor is anything known before the beginning: order 1 is order 0
    for context in ("b", ""):
        assert model.probabilities(context).tolist() == pytest.approx(np.array([[0.6, 0.4], [0.6, 0.4]]))
    expected = [-np.mean(np.log2([0.4, 0.6])), -np.mean(np.log2([0.45, 0.6]))]
    assert model.bits_per_character("ba", context="a") == pytest.approx(expected)


def test_character_that_was_never_seen_has_its_share():
    model = WittenBell("aab", "abc", max_order=1)
    assert model.probabilities("a")[:, 2] == pytest.approx([2 / 3 / 5, 2 * (2 / 15) / 4])


@pytest.mark.parametrize("context", ["", "t", "n a bat came", "!!"])
def test_against_the_definition(context):
    V = vocabulary(TEXT + HELD_OUT)
    bits = WittenBell(TEXT, V).bits_per_character(HELD_OUT, context)
    whole = context + HELD_OUT
    for order in range(6):
        slow = [
            math.log2(slow_probability(TEXT, len(V), whole[max(0, i - order) : i], whole[i]))
            for i in range(len(context), len(whole))
        ]
        assert bits[order] == pytest.approx(-np.mean(slow), rel=1e-12)


@settings(deadline=None)
@given(st.text("abc", min_size=6, max_size=60), st.text("abcd\0", max_size=9))
def test_probabilities_sum_to_one(text, context):
    probabilities = WittenBell(text, "\0abcd").probabilities(context)
    assert probabilities.shape == (6, 5)
    assert (probabilities > 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)


def test_probabilities_and_bits_agree():
    V = vocabulary(TEXT)
    model, held_out = WittenBell(TEXT, V), "that cat was a rat"
    nats = np.zeros(6)
    for i, character in enumerate(held_out):
        nats -= np.log(model.probabilities(TEXT + held_out[:i])[:, V.index(character)])
    np.testing.assert_allclose(model.bits_per_character(held_out, TEXT), nats / math.log(2) / len(held_out), rtol=1e-12)


def test_long_text_in_blocks(monkeypatch):
    V = vocabulary(TEXT + HELD_OUT)
    whole = WittenBell(TEXT, V).bits_per_character(HELD_OUT, TEXT)
    monkeypatch.setattr(ngram, "BLOCK", 5)
    np.testing.assert_allclose(WittenBell(TEXT, V).bits_per_character(HELD_OUT, TEXT), whole, rtol=1e-12)


def test_what_python_brings_along():
    """The text differs a little between Python versions, and so do the bits: 1.905 at order 4 with Python 3.11."""
    text = load_text()
    learned, held_out = split(text)
    bits = WittenBell(learned, vocabulary(text)).bits_per_character(held_out, learned)
    assert bits == pytest.approx([4.67, 3.34, 2.47, 2.03, 1.90, 1.93], abs=0.15)
    assert bits.argmin() == 4


@pytest.mark.parametrize("max_order", [-1, 3])
def test_max_order(max_order):
    with pytest.raises(ValueError, match="expected max_order between 0 and 2"):
        WittenBell("aab", "ab", max_order)


def test_unknown_and_missing_characters():
    with pytest.raises(ValueError, match="got 'z'"):
        WittenBell("aabz", "ab", 1)
    with pytest.raises(ValueError, match="at least one character"):
        WittenBell("aab", "ab", 1).bits_per_character("", "a")
