"""Interpolated Witten–Bell n-grams over characters: what a recurrent network has to beat.

The *order* k of a model is the number of characters it looks back on (its n-grams have k+1). With C(c) the number of
times context c is followed by something, C(cw) by character w, and U(c) by how many different ones,

    P_k(w|c) = (C(cw) + U(c) P_{k-1}(w|c')) / (C(c) + U(c))         c' is c without its first character
    P_0(w)   = (C(w)  + U / V)              / (C    + U)            V characters in the vocabulary

and P_k(w|c) = P_{k-1}(w|c') for a context that was never followed by anything.

References: Witten and Bell (1991), doi:10.1109/18.87000; Chen and Goodman (1999), doi:10.1006/csla.1999.0128.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .text import encode

__all__ = ["WittenBell"]

BLOCK = 1 << 16  # strings looked up at once, which bounds the memory of doing so


class _Level(NamedTuple):
    """The strings of one length in the training text. A string's *rank* is its place in `keys`."""

    keys: np.ndarray  # sorted; rank of the string without its last character, times V, plus that character
    counts: np.ndarray  # C(cw), by rank of the string
    followed: np.ndarray  # C(c), by rank of the string without its last character
    kinds: np.ndarray  # U(c), likewise

    def rank(self, key: np.ndarray) -> np.ndarray:
        """Return the ranks of strings by key, -1 where there is none."""
        place = np.minimum(np.searchsorted(self.keys, key), self.keys.size - 1)
        return np.where(self.keys[place] == key, place, -1)


class WittenBell:
    """Character n-grams of orders 0 to `max_order`, counted in one text.

    Parameters
    ----------
    text : str
        Training text, longer than `max_order`.
    vocabulary : str
        The characters over which probability is spread; see `rnncore.demo.text.vocabulary`.
    max_order : int
        Most characters of context.

    Raises
    ------
    ValueError
        If `max_order` is negative or the text not longer than it, or a character is not one of the vocabulary.

    Notes
    -----
    All strings of one length are counted, and looked up, at a time, in sorted arrays. Memory is at most 32 bytes per
    different string of each length, and while counting about 60 per character of the text.

    Examples
    --------
    >>> from rnncore.demo import WittenBell
    >>> WittenBell("aab", "ab", max_order=1).probabilities("a").tolist()
    [[0.6, 0.4], [0.55, 0.45]]
    """

    def __init__(self, text: str, vocabulary: str, max_order: int = 5) -> None:
        if not 0 <= max_order < len(text):
            raise ValueError(f"expected max_order between 0 and {len(text) - 1}, got {max_order}")
        self.vocabulary = vocabulary
        self.max_order = max_order
        codes = encode(text, vocabulary)
        self._levels: list[_Level] = []
        rank, distinct = np.zeros(codes.size, np.int64), 1  # of the empty string, at each place of the text
        for k in range(max_order + 1):
            key = rank[: codes.size - k] * len(vocabulary) + codes[k:]
            keys, rank, counts = np.unique(key, return_inverse=True, return_counts=True)
            context = keys // len(vocabulary)
            followed = np.bincount(context, counts, distinct).astype(np.int64)
            self._levels.append(_Level(keys, counts, followed, np.bincount(context, minlength=distinct)))
            distinct = keys.size

    def probabilities(self, context: str) -> np.ndarray:
        """Return the probability of every character of the vocabulary after `context`, by order from 0.

        Parameters
        ----------
        context : str
            Of which the last `max_order` characters are looked at. There may be fewer, as at the beginning of a text.

        Returns
        -------
        numpy.ndarray (max_order + 1, V) of float64
            Each row sums to 1.

        Raises
        ------
        ValueError
            If a character is not one of the vocabulary.

        Examples
        --------
        >>> from rnncore.demo import WittenBell
        >>> WittenBell("aab", "ab", max_order=1).probabilities("").tolist()  # order 1 falls back on order 0
        [[0.6, 0.4], [0.6, 0.4]]
        """
        V = len(self.vocabulary)
        strings = np.empty((V, self.max_order + 1), np.int64)
        strings[:, :-1] = self._context(context)
        strings[:, -1] = np.arange(V)
        return self._probabilities(strings)

    def bits_per_character(self, text: str, context: str = "") -> np.ndarray:
        """Return the mean of -log2 P over the characters of `text`, by order from 0.

        Parameters
        ----------
        text : str
            At least one character.
        context : str
            What `text` follows on.

        Returns
        -------
        numpy.ndarray (max_order + 1,) of float64

        Raises
        ------
        ValueError
            If the text is empty, or a character is not one of the vocabulary.

        Examples
        --------
        >>> from rnncore.demo import WittenBell
        >>> WittenBell("aab", "ab", max_order=1).bits_per_character("b", context="a").round(4).tolist()
        [1.3219, 1.152]
        """
        codes = np.concatenate([self._context(context), encode(text, self.vocabulary)])
        if codes.size == self.max_order:
            raise ValueError("expected at least one character of text, got none")
        strings = np.lib.stride_tricks.sliding_window_view(codes, self.max_order + 1)
        bits = np.zeros(self.max_order + 1)
        for start in range(0, len(strings), BLOCK):
            bits -= np.log2(self._probabilities(strings[start : start + BLOCK])).sum(axis=1)
        return bits / len(strings)

    def _context(self, context: str) -> np.ndarray:
        """Return the last `max_order` characters; -1, which nothing contains, for those before the beginning."""
        codes = encode(context[max(0, len(context) - self.max_order) :], self.vocabulary)
        return np.concatenate([np.full(self.max_order - codes.size, -1), codes])

    def _probabilities(self, strings: np.ndarray) -> np.ndarray:
        """Return the probability of each row's last character after those before it, (max_order + 1, rows)."""
        V, K = len(self.vocabulary), self.max_order
        out = np.empty((K + 1, len(strings)))
        lower = np.full(len(strings), 1.0 / V)
        for k, level in enumerate(self._levels):
            context = np.zeros(len(strings), np.int64)
            for shorter, character in zip(self._levels, strings.T[K - k : K], strict=False):
                context = shorter.rank(np.where((context < 0) | (character < 0), -1, context * V + character))
            seen = context >= 0
            string = level.rank(np.where(seen, context * V + strings[:, K], -1))
            count = np.where(string >= 0, level.counts[string], 0)
            followed, kinds = (np.where(seen, per_context[context], 0) for per_context in (level.followed, level.kinds))
            # where nothing followed, the two zeros make it (0 + 1 * lower) / 1
            kinds = np.maximum(kinds, followed == 0)
            lower = out[k] = (count + kinds * lower) / (followed + kinds)
        return out
