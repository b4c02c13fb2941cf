"""Decoding: one start becomes a sequence of tokens, each of them the input of the next step (one to many).

A model is a function ``step(tokens, state)``, tokens (N,) of int, that returns logits (N, V) and the next state. Of an
embedding, a recurrent layer and a head it takes three lines:

>>> import numpy as np
>>> import rnncore as rc
>>> embedding, lstm, head = rc.train.Embedding(7, 4, rng=0), rc.LSTM(4, 8, rng=1), rc.train.Linear(8, 7, rng=2)
>>> def step(tokens, state):
...     y, state = lstm(embedding(tokens[None]), state)  # a sequence of one step, (1, N, E)
...     return head(y[0]), state
>>> tokens, lengths = rc.decode.generate(step, [0, 0, 3], 10, temperature=1.0, stop=6, rng=0)
>>> tokens.shape[0], lengths.shape
(3, (3,))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .checks import as_int, as_integers, as_real, as_scalar, check_shape, positive_int

__all__ = ["beam_search", "generate"]

Step = Callable[[np.ndarray, Any], tuple[ArrayLike, Any]]


def generate(
    step: Step,
    first: ArrayLike,
    n_steps: int,
    state: Any = None,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    stop: int | None = None,
    rng: np.random.Generator | int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return a sequence for each row: the likeliest token at every step (greedy), or one drawn at random.

    Parameters
    ----------
    step : callable
        ``step(tokens, state) -> (logits, state)``, with tokens (N,) of int64 and logits (N, V). A logit of -inf rules
        a token out.
    first : array_like of int (N,)
        What the first step reads, one token per row. It may lie beyond V, as a start symbol of its own does.
    n_steps : int
        The most tokens of a sequence.
    state : optional
        What the first step gets, for all rows; None in most models means zeros.
    temperature : float
        By which logits are divided before a token is drawn: below 1 makes likely tokens likelier. 0 is greedy: of
        equally likely tokens the first.
    top_k : int, optional
        Draw among the k likeliest tokens alone. At most V.
    stop : int, optional
        The token that ends a sequence.
    rng : numpy.random.Generator, int or None
        What tokens are drawn with: each row has a child of its own (``rng.spawn``), so that what row n draws does not
        depend on the other rows, or on how many there are.

    Returns
    -------
    tokens : numpy.ndarray of int64 (N, S)
        The sequences without `first`. S is n_steps, or less if all have stopped before. From `stop` on, a row holds
        nothing but `stop`.
    lengths : numpy.ndarray of int64 (N,)
        How many tokens come before the `stop`; n_steps where none came.

    Raises
    ------
    TypeError
        If a number, `first` or `rng` is of the wrong kind, or `step` does not return two things.
    ValueError
        If a number is out of range, a token negative, logits are not of shape (N, V), or a row's largest logit is
        NaN or infinite. What `step` itself raises goes through.

    Notes
    -----
    A row that has stopped is stepped along with the others, with `stop` as its token; its logits are not looked at.

    Examples
    --------
    A weather chain: 0 sun, 1 rain, 2 the end of the record.

    >>> import numpy as np
    >>> import rnncore as rc
    >>> logits = np.log([[0.6, 0.3, 0.1], [0.3, 0.5, 0.2]])
    >>> step = lambda tokens, state: (logits[tokens % 2], state)
    >>> tokens, lengths = rc.decode.generate(step, [0, 1, 1], 20, temperature=1.0, stop=2, rng=0)
    >>> all((row[:n] < 2).all() and (row[n:] == 2).all() for row, n in zip(tokens, lengths))
    True
    """
    tokens, n_steps, stop = _start(first, n_steps, stop)
    temperature = as_scalar(temperature, "temperature", low=0, below=math.inf)
    top_k = None if top_k is None else positive_int(top_k, "top_k")
    generators = _children(rng, len(tokens)) if temperature else []
    live, lengths = np.ones(len(tokens), bool), np.zeros(len(tokens), np.int64)
    columns: list[np.ndarray] = []
    V = None
    for _ in range(n_steps):
        logits, state = _logits(step, tokens, state, live, V, stop)
        V = logits.shape[1]
        if top_k is not None and top_k > V:
            raise ValueError(f"expected top_k of at most {V}, the number of tokens, got {top_k}")
        tokens = draw(logits, temperature, top_k, np.array([generator.random() for generator in generators]))
        tokens[~live] = stop
        live &= tokens != stop
        lengths += live
        columns.append(tokens.copy())  # the step may do with its own what it likes
        if not live.any():
            break
    return np.stack(columns, axis=1), lengths


def beam_search(
    step: Step,
    first: ArrayLike,
    n_steps: int,
    width: int,
    state: Any = None,
    *,
    stop: int | None = None,
    length_penalty: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the best sequences found for each row, going on with the `width` best beginnings at every step.

    Parameters
    ----------
    step : callable
        ``step(tokens, state) -> (logits, state)``, as for `generate`, but that the number of rows changes: N at first,
        then N times as many as there are beginnings. All that it needs to know of a row has to be in `state`.
    first : array_like of int (N,)
        What the first step reads, one token per row.
    n_steps : int
        The most tokens of a sequence.
    width : int
        How many beginnings of each row to go on with. 1 is greedy.
    state : optional
        What the first step gets. States are arrays (..., N, ·), as those of rnncore's layers and cells are, tuples of
        them, or None: beginnings are taken from the last axis but one.
    stop : int, optional
        The token that ends a sequence. One that has ended keeps its place as long as it is among the best.
    length_penalty : float
        Rank sequences by log P / length**length_penalty, with the `stop` counted in the length. At 0, the default,
        every token makes a sequence worse; at 1 it is the mean per token that counts.

    Returns
    -------
    tokens : numpy.ndarray of int64 (N, W, S)
        The sequences, best first, without `first`. W is `width`, or less if there are no more sequences. S is n_steps,
        or less if all have ended before. From `stop` on, there is nothing but `stop`.
    lengths : numpy.ndarray of int64 (N, W)
        How many tokens come before the `stop`; n_steps where none came.
    log_probs : numpy.ndarray of float64 (N, W)
        Natural logarithm of each one's probability, `stop` included, not divided by anything. Where it is -inf, there
        is no such sequence.

    Raises
    ------
    TypeError
        If a number, or `first`, is of the wrong kind, or `step` does not return two things.
    ValueError
        If a number is out of range, a token negative, logits are not of shape (rows, V), a row's largest logit is NaN
        or infinite, or a state has no axis of that many rows. What `step` itself raises goes through.

    Notes
    -----
    Math, with z the logits after token k_t and a the length penalty::

        (1)  log P = Σ_t z_t,k_t - log Σ_v exp(z_t,v)
        (2)  score = log P / length**a

    With `width` large enough for all beginnings, the best sequence is the best there is; otherwise it may have been
    left behind. Sequences with the same score are ranked by the rank of what they began with, then by token.

    References
    ----------
    Lowerre (1976), The Harpy speech recognition system. Carnegie Mellon University. Wu et al. (2016), Google's neural
    machine translation system. arXiv:1609.08144, section 7, for length penalties.

    Examples
    --------
    Where the likeliest first token leads to nothing likely, greedy decoding goes wrong:

    >>> import numpy as np
    >>> import rnncore as rc
    >>> logits = np.log([[0.1, 0.5, 0.4], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05]])
    >>> step = lambda tokens, state: (logits[tokens], state)
    >>> rc.decode.generate(step, [0], 2)[0].tolist()
    [[1, 0]]
    >>> tokens, lengths, log_probs = rc.decode.beam_search(step, [0], 2, width=2)
    >>> tokens.tolist(), np.exp(log_probs).round(2).tolist()
    ([[[2, 0], [1, 0]]], [[0.36, 0.2]])
    """
    tokens, n_steps, stop = _start(first, n_steps, stop)
    width = positive_int(width, "width")
    length_penalty = as_scalar(length_penalty, "length_penalty", low=0, below=math.inf)
    N = len(tokens)
    n = np.arange(N)[:, None]
    found = np.empty((N, 1, 0), np.int64)
    lengths, log_probs, ended = np.zeros((N, 1), np.int64), np.zeros((N, 1)), np.zeros((N, 1), bool)
    V = None
    for t in range(n_steps):
        logits, state = _logits(step, tokens, state, ~ended.reshape(-1), V, stop)
        B, V = found.shape[1], logits.shape[1]
        gains = _log_softmax(logits).reshape(N, B, V)
        gains[ended] = -np.inf
        gains[ended, 0] = 0.0  # it goes on in one way, as it is
        totals = log_probs[..., None] + gains  # (1) log P = Σ_t z_t,k_t - log Σ_v exp(z_t,v)
        counts = np.where(ended, lengths + 1, t + 1)[..., None]
        with np.errstate(over="ignore"):  # (2) score = log P / length**a, times (t + 1)**a of all, or it could overflow
            scores = totals * np.minimum(((t + 1) / counts) ** length_penalty, 1e200)
        best = np.argsort(-scores.reshape(N, B * V), axis=1, kind="stable")[:, :width]
        parents, chosen = best // V, best % V
        was_ended = ended[n, parents]
        chosen = np.where(was_ended, max(stop, 0), chosen)
        log_probs = totals.reshape(N, B * V)[n, best]
        ended = was_ended | (chosen == stop) | (log_probs == -np.inf)
        lengths = lengths[n, parents] + ~ended
        found = np.concatenate([found[n, parents], chosen[..., None]], axis=2)
        if ended.all():
            break
        tokens = chosen.reshape(-1)
        state = _rows(state, (n * B + parents).reshape(-1), N * B)
    return found, lengths, log_probs


def draw(logits: np.ndarray, temperature: float, top_k: int | None, u: np.ndarray) -> np.ndarray:
    """Return a token for each row of logits (N, V) of float64: the likeliest at a temperature of 0, else one drawn by a
    uniform number in [0, 1), u (N,)."""
    tokens: np.ndarray
    if temperature == 0:
        tokens = logits.argmax(axis=1)
        return tokens
    if top_k is not None and top_k < logits.shape[1]:
        likeliest = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
        z = np.full_like(logits, -np.inf)
        np.put_along_axis(z, likeliest, np.take_along_axis(logits, likeliest, axis=1), axis=1)
        logits = z
    with np.errstate(over="ignore", invalid="ignore"):  # -inf is right for what a tiny temperature rules out
        mass = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature).cumsum(axis=1)
    # u is at most 1 - 2**-53, so that u times the last mass, rounded, is below it
    tokens = (mass <= (u * mass[:, -1])[:, None]).sum(axis=1)
    return tokens


def _children(rng: np.random.Generator | int | None, count: int) -> list[np.random.Generator]:
    try:
        return np.random.default_rng(rng).spawn(count)
    except TypeError as error:  # of a RandomState, say, or a Generator over one's bits
        kinds = "a numpy.random.Generator that can spawn, an int or None"
        raise TypeError(f"expected rng to be {kinds}, got {type(rng).__name__}") from error


def _start(first: ArrayLike, n_steps: int, stop: int | None) -> tuple[np.ndarray, int, int]:
    """Return a copy of the tokens to begin with, the number of steps, and the token that ends, -1 for none."""
    tokens = as_integers(first, "first")
    check_shape(tokens.shape, ("N",), "first")
    if tokens.size and tokens.min() < 0:
        raise ValueError(f"expected first tokens of at least 0, got {tokens.min()}")
    n_steps = positive_int(n_steps, "n_steps")
    if stop is None:
        return tokens.copy(), n_steps, -1
    stop = as_int(stop, "stop")
    if stop < 0:
        raise ValueError(f"expected stop of at least 0, got {stop}")
    return tokens.copy(), n_steps, stop


def _logits(
    step: Step, tokens: np.ndarray, state: Any, live: np.ndarray, V: int | None, stop: int
) -> tuple[np.ndarray, Any]:
    """Return what a step says, looked at: logits (rows, V) of float64, and the state. Rows not `live` may say anything.

    `V` is that of the step before.
    """
    result = step(tokens, state)
    if not isinstance(result, tuple) or len(result) != 2:
        got = f"{len(result)} of them" if isinstance(result, tuple) else type(result).__name__
        raise TypeError(f"expected step to return logits and a state, got {got}")
    logits = as_real(result[0], np.dtype(np.float64), "logits")
    check_shape(logits.shape, (len(live), "V" if V is None else V), "logits")
    V = logits.shape[1]
    if stop >= V or V == 0:
        raise ValueError(f"expected logits of more than {max(stop, 0)} tokens, got {V}")
    top = logits.max(axis=1)
    wrong = np.flatnonzero(live & ~np.isfinite(top))
    if wrong.size:
        raise ValueError(f"expected logits whose largest is finite, got {top[wrong[0]]} in row {wrong[0]}")
    return logits, result[1]


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # rows that are not looked at
        z: np.ndarray = logits - logits.max(axis=1, keepdims=True)
        z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
    return z


def _rows(state: Any, rows: np.ndarray, count: int) -> Any:
    """Return a state with these of its `count` rows, which are its arrays' last axis but one."""
    if state is None:
        return None
    if isinstance(state, tuple):
        return tuple(_rows(part, rows, count) for part in state)
    shape = np.shape(state) if isinstance(state, np.ndarray) else ()
    if shape[-2:-1] != (count,):
        got = f"shape {shape}" if isinstance(state, np.ndarray) else type(state).__name__
        raise ValueError(f"expected a state of arrays (..., {count}, ·), tuples of them, or None, got {got}")
    return state.take(rows, axis=-2)
