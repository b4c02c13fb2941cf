"""The demo: a character model of real English, trained in a minute, measured against n-grams, then asked to write."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..checks import as_int
from ..file import check_writable
from .charlm import CharLM, Progress, budget
from .ngram import WittenBell
from .text import encode, load_text, split, vocabulary

__all__ = ["CharLM", "Progress", "Result", "WittenBell", "run"]

SECONDS = 60.0
PROMPT = "The "
MAX_ORDER = 5


class Result(NamedTuple):
    """What `run` made and measured."""

    model: CharLM
    bits: float  # of the model, per held-out character
    baselines: dict[int, float]  # the same of the n-grams, by order: characters of context
    training: Progress | None
    sample: str


def run(
    text: str | os.PathLike[str] | None = None,
    *,
    cell: str | None = None,
    hidden: int | None = None,
    layers: int | None = None,
    seconds: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    save: str | os.PathLike[str] | None = None,
    load: str | os.PathLike[str] | None = None,
    prompt: str | None = None,
    temperature: float = 0.7,
    length: int = 600,
    progress: Callable[[Progress], object] | None = None,
    write: Callable[[str], object] = lambda piece: None,
) -> Result:
    """Train a character model, compare it with n-grams on held-out text, and let it write.

    Model and n-grams are measured alike: on the last tenth of the text, with the text before it as context, over the
    characters of the whole text (those of the loaded model, with `load`).

    Parameters
    ----------
    text : path-like, optional
        UTF-8 file to learn from; by default the help topics that come with CPython.
    cell : {"lstm", "rnn"}, optional
    hidden, layers : int, optional
        Units per layer and recurrent layers; by default an LSTM with one layer of 256. A loaded model has its own.
    seconds, steps : float and int, optional
        How long to train; `steps` goes before `seconds`. By default 60 seconds, or not at all with `load`.
    seed : int
        With `steps`, the same seed gives the same result again.
    save, load : path-like, optional
        File to write the model to, and file to take a model from.
    prompt : str, optional
        What the sample goes on from.
    temperature : float
        Of the sample: below 1 it is more predictable than the text, above 1 less.
    length : int
        Characters of the sample.
    progress : callable, optional
        Called after every step of training. Ctrl-C ends training early, and nothing else.
    write : callable, optional
        Given the report and the sample, piece by piece, as they come to be.

    Returns
    -------
    Result

    Raises
    ------
    OSError
        If a file cannot be read or written.
    TypeError
        If a number is not one, or not an integer where it should be.
    ValueError
        If an argument is out of range, a file is not what it should be, or a character is not one the model knows.

    Examples
    --------
    >>> from rnncore.demo import run
    >>> result = run(hidden=16, steps=20, length=30)
    >>> result.training.steps, len(result.sample), sorted(result.baselines)
    (20, 30, [1, 2, 3, 4, 5])
    >>> result.bits > result.baselines[1]  # 20 steps are few
    True
    """
    for name, number in (("seed", seed), ("length", length)):
        if as_int(number, name) < 0:
            raise ValueError(f"expected a {name} of at least 0, got {number}")
    if steps is not None:
        seconds = None
    elif seconds is None and load is None:
        seconds = SECONDS
    trains = steps is not None or seconds is not None
    if trains:
        budget(seconds, steps)
    everything = load_text(text)
    learned, held_out = split(everything)
    if load is None:
        lm = CharLM(
            vocabulary(everything),
            cell="lstm" if cell is None else cell,
            hidden=256 if hidden is None else hidden,
            layers=1 if layers is None else layers,
            rng=seed,
        )
    else:
        lm = CharLM.load(load)
        for name, wanted in {"cell": cell, "hidden": hidden, "layers": layers}.items():
            if wanted not in (None, getattr(lm, name)):
                raise ValueError(f"expected {name} {getattr(lm, name)}, as in {os.fspath(load)}, got {wanted}")
        encode(everything, lm.vocabulary)  # or an error now
    if prompt is None:
        prompt = PROMPT if set(PROMPT) <= set(lm.vocabulary) else held_out[0]
    letters = lm.sample(prompt, length, temperature, np.random.default_rng(seed))
    if save is not None:
        check_writable(save)  # an error now rather than after the training

    size = sum(array.size for module in lm.modules.values() for array in module.parameters().values())
    name = lm.cell.upper()
    write(
        f"text      {'pydoc_data.topics' if text is None else os.fspath(text)}: {len(learned):,} characters, "
        f"then {len(held_out):,} held out; {len(lm.vocabulary)} different\n"
        f"model     {name}, {lm.layers} x {lm.hidden}, {size:,} parameters\n"
    )
    training = lm.train(learned, seconds=seconds, steps=steps, progress=progress) if trains else None
    if training is not None:
        write(
            f"trained   {training.steps:,} steps, {training.characters:,} characters in {training.seconds:.1f} s "
            f"({training.rate:,.0f}/s){', interrupted' if training.fraction < 1 else ''}\n"
        )
    if save is not None:
        lm.save(save)

    write("\nbits per held-out character (n-grams: interpolated Witten-Bell, order = characters of context)\n")
    by_order = WittenBell(learned, lm.vocabulary, MAX_ORDER).bits_per_character(held_out, learned)
    baselines = {order: float(by_order[order]) for order in range(1, MAX_ORDER + 1)}
    for order, bits in baselines.items():
        write(f"  n-gram, order {order}   {bits:.3f}\n")
    bits = lm.bits_per_character(held_out, learned)
    write(f"  {name:<17} {bits:.3f}\n")

    write(f"\nsample at temperature {temperature:g}\n\n{prompt}")
    sample = []
    for letter in letters:
        sample.append(letter)
        write(letter)
    write("\n")
    return Result(lm, bits, baselines, training, "".join(sample))
