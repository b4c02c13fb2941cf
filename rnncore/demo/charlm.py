"""A character-level language model: embedding, recurrent layers, linear head; trained by truncated BPTT."""

from __future__ import annotations

import io
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..checks import as_int, as_scalar, check_shape, positive_int
from ..decode import draw
from ..file import write_whole
from ..layers import LSTM, RNN
from ..train import AdamW, Embedded, Embedding, Linear, clip_grad_norm, softmax_cross_entropy
from .text import encode

__all__ = ["CharLM", "Progress", "budget"]

CELLS: dict[str, Any] = {"rnn": RNN, "lstm": LSTM}
RATES = {"rnn": 3e-3, "lstm": 1e-2}  # chosen with 256 units, 16 streams and chunks of 32, before there was weight decay
FORMAT = "rnncore character model, version 1"
RUN_IN = 1000  # characters of context read before the first one is predicted
SLICE = 4096  # characters per call when reading long texts, which bounds the memory


class Progress(NamedTuple):
    """How far training has come, in whole steps."""

    steps: int
    characters: int
    seconds: float
    bits: float  # per character of training text, running mean over about 20 steps; NaN before the first
    fraction: float  # of the budget

    @property
    def rate(self) -> float:
        """Characters per second."""
        return self.characters / self.seconds if self.seconds else 0.0


def budget(seconds: float | None, steps: int | None) -> float:
    """Return how much there is of the one of the two that is given.

    Parameters
    ----------
    seconds : float or None
    steps : int or None

    Returns
    -------
    float

    Raises
    ------
    TypeError
        If it is not a number, or `steps` not an integer.
    ValueError
        If both or none are given, or it is negative, infinite or NaN.

    Examples
    --------
    >>> from rnncore.demo.charlm import budget
    >>> budget(None, 300)
    300
    """
    if (seconds is None) == (steps is None):
        raise ValueError(f"expected either seconds or steps, got {'neither' if steps is None else 'both'}")
    if steps is None:
        return as_scalar(seconds, "seconds", low=0, below=math.inf)
    if as_int(steps, "steps") < 0:
        raise ValueError(f"expected steps of at least 0, got {steps}")
    return steps


class CharLM:
    """Predicts the next character of a text from all those before it.

    Parameters
    ----------
    vocabulary : str
        The characters it knows, sorted, each once; see `rnncore.demo.text.vocabulary`.
    cell : {"lstm", "rnn"}
    hidden, layers, embedding : int
        Units per layer, recurrent layers, and size of the vector that stands for a character.
    rng : numpy.random.Generator, int or None
        Initialises the weights.

    Raises
    ------
    TypeError
        If a size is not an integer.
    ValueError
        If one is below 1, there is no such cell, or the vocabulary is not a str of sorted characters.

    Examples
    --------
    >>> from rnncore.demo import CharLM
    >>> lm = CharLM(" .abcdr", hidden=16, embedding=8, rng=0)
    >>> done = lm.train("abracadabra. " * 50, steps=250, lr=0.01)
    >>> "".join(lm.sample("abracad", 19, temperature=0.1, rng=0))
    'abra. abracadabra. '
    """

    def __init__(
        self,
        vocabulary: str,
        *,
        cell: str = "lstm",
        hidden: int = 256,
        layers: int = 1,
        embedding: int = 64,
        rng: np.random.Generator | int | None = None,
    ) -> None:
        if cell not in CELLS:
            raise ValueError(f"expected cell {' or '.join(map(repr, CELLS))}, got {cell!r}")
        if not isinstance(vocabulary, str) or not vocabulary or sorted(set(vocabulary)) != list(vocabulary):
            raise ValueError(f"expected a vocabulary of sorted characters, each once, got {vocabulary!r:.60}")
        self.vocabulary = vocabulary
        self.cell = cell
        self.hidden = positive_int(hidden, "hidden")
        self.layers = positive_int(layers, "layers")
        rng = np.random.default_rng(rng)
        self.modules = {
            "embedding": Embedding(len(vocabulary), positive_int(embedding, "embedding"), rng=rng),
            "recurrent": CELLS[cell](embedding, hidden, layers, rng=rng),
            "head": Linear(hidden, len(vocabulary), rng=rng),
        }
        self._reader = Embedded(self.modules["embedding"], self.modules["recurrent"])

    def train(
        self,
        text: str,
        *,
        seconds: float | None = None,
        steps: int | None = None,
        batch: int = 16,
        chunk: int = 32,
        lr: float | None = None,
        max_norm: float = 1.0,
        weight_decay: float = 0.1,
        progress: Callable[[Progress], object] | None = None,
    ) -> Progress:
        """Learn from `text` for a while, by AdamW with a learning rate that falls to zero towards the end.

        `batch` streams read the text in a circle, each from its own place. A step reads `chunk` characters of each,
        beginning with the state that the step before ended with, and differentiates through these `chunk` alone.

        Parameters
        ----------
        text : str
        seconds : float, optional
        steps : int, optional
            The budget: one of the two. With `steps`, the same weights and text give the same weights again.
        batch, chunk : int
        lr : float, optional
            Highest learning rate; by default 0.01 for an LSTM, 0.003 for an RNN.
        max_norm : float
            To which the norm of a step's gradient is clipped.
        weight_decay : float
            Of AdamW: what keeps a long training from learning the text by heart.
        progress : callable, optional
            Called after every step.

        Returns
        -------
        Progress
            With a fraction below 1 if Ctrl-C (KeyboardInterrupt, also out of `progress`) ended training early. The
            model is then as the last whole step left it.

        Raises
        ------
        TypeError
            If a number is not one, or `steps`, `batch` or `chunk` not an integer.
        ValueError
            If both or none of `seconds` and `steps` are given, a number is out of range, the text is empty, or a
            character is not one of the vocabulary. Nothing has been learned then.

        Examples
        --------
        >>> from rnncore.demo import CharLM
        >>> done = CharLM("ab", hidden=8, rng=0).train("aab" * 99, steps=5)
        >>> done.steps, done.characters, done.fraction  # 16 streams, 32 characters of each at a step
        (5, 2560, 1.0)
        """
        total = budget(seconds, steps)
        codes = encode(text, self.vocabulary)
        if not codes.size:
            raise ValueError("expected a text to learn from, got an empty one")
        starts = np.arange(positive_int(batch, "batch")) * codes.size // batch
        places = starts + np.arange(positive_int(chunk, "chunk") + 1)[:, None]
        modules = list(self.modules.values())
        lr = RATES[self.cell] if lr is None else lr
        adam = AdamW(modules, lr, weight_decay=weight_decay)
        done, state = Progress(0, 0, 0.0, math.nan, 0.0 if total else 1.0), None
        whole = done, [module.parameters() for module in modules]
        start = time.monotonic()
        try:
            while done.fraction < 1.0:
                adam.lr = lr * 0.5 * (1 + math.cos(math.pi * done.fraction))
                window = codes[(places + done.steps * chunk) % codes.size]
                loss, state, grads = self._gradients(window[:-1], window[1:], state)
                clip_grad_norm(grads, max_norm)
                adam.step(grads)
                count, elapsed, bits = done.steps + 1, time.monotonic() - start, loss / math.log(2)
                mean = bits if count == 1 else done.bits + (bits - done.bits) / 20
                fraction = (elapsed if steps is None else count) / total
                done = Progress(count, count * batch * chunk, elapsed, mean, min(1.0, fraction))
                whole = done, [module.parameters() for module in modules]
                if progress is not None:
                    progress(done)
        except KeyboardInterrupt:
            done, parameters = whole
            for module, arrays in zip(modules, parameters, strict=True):
                module.load_state_dict(arrays)
        return done

    def _gradients(self, x: np.ndarray, targets: np.ndarray, state: Any) -> tuple[float, Any, list[dict[str, Any]]]:
        """Return the mean loss in nats, the state at the end, and each module's gradients. Codes are (T, N)."""
        reader, head = self._reader, self.modules["head"]
        y, state, tape = reader.forward(x, state)
        logits, logits_tape = head.forward(y)
        loss, dlogits = softmax_cross_entropy(logits, targets, reduction="mean")
        dy, head_grads = head.backward(logits_tape, dlogits)
        _, embedding_grads, recurrent_grads = reader.backward(tape, dy)
        return loss, state, [embedding_grads, recurrent_grads, head_grads]

    def _read(self, x: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        """Return the logits after each character of x, (T, N, V), and the state at the end."""
        y, state = self._reader(x, state)
        return self.modules["head"](y), state

    def bits_per_character(self, text: str, context: str) -> float:
        """Return the mean of -log2 P over the characters of `text`.

        Parameters
        ----------
        text : str
        context : str
            What `text` follows on, at least one character; the last 1000 are read to warm up the state.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If the text or the context is empty, or a character is not one of the vocabulary.

        Examples
        --------
        >>> from rnncore.demo import CharLM
        >>> lm = CharLM("ab", hidden=8, rng=0)  # untrained, it knows as much as a coin
        >>> round(lm.bits_per_character("abba", context="a"))
        1
        """
        if not text or not context:
            raise ValueError(
                f"expected at least one character of text and one of context, got {len(text)} and {len(context)}"
            )
        context = context[-RUN_IN:]
        codes = encode(context + text, self.vocabulary)[:, None]
        nats, state = 0.0, None
        for start in range(0, len(codes) - 1, SLICE):
            logits, state = self._read(codes[start : start + SLICE][: len(codes) - 1 - start], state)
            targets = codes[start + 1 : start + 1 + SLICE]
            counted = slice(max(0, len(context) - 1 - start), None)
            if len(targets[counted]):
                nats += softmax_cross_entropy(logits[counted], targets[counted], reduction="sum")[0]
        return nats / math.log(2) / len(text)

    def sample(
        self, prompt: str, n: int, temperature: float = 1.0, rng: np.random.Generator | int | None = None
    ) -> Iterator[str]:
        """Return an iterator over `n` characters that go on from `prompt`, each drawn when asked for.

        Parameters
        ----------
        prompt : str
            At least one character.
        n : int
        temperature : float
            By which logits are divided: below 1 makes likely characters likelier.
        rng : numpy.random.Generator, int or None
            What the characters are drawn with.

        Returns
        -------
        iterator of str
            One character at a time. It draws with the weights that the model has by then.

        Raises
        ------
        TypeError
            If `temperature` is not a number, or `n` not an integer.
        ValueError
            If the prompt is empty or has a character that is not one of the vocabulary, `n` is negative, or the
            temperature is not above 0 or not finite: at once, not with the first character.

        Examples
        --------
        >>> from rnncore.demo import CharLM
        >>> lm = CharLM("ab", hidden=8, rng=0)
        >>> text = "".join(lm.sample("a", 50, rng=0))
        >>> len(text), sorted(set(text))
        (50, ['a', 'b'])
        """
        if not prompt:
            raise ValueError("expected a prompt of at least one character, got an empty one")
        if as_int(n, "n") < 0:
            raise ValueError(f"expected n of at least 0, got {n}")
        temperature = as_scalar(temperature, "temperature", low=0, below=math.inf)
        if temperature == 0:
            raise ValueError(f"expected a temperature above 0, got {temperature}")
        return self._draw(encode(prompt, self.vocabulary), n, temperature, np.random.default_rng(rng))

    def _draw(self, codes: np.ndarray, n: int, temperature: float, rng: np.random.Generator) -> Iterator[str]:
        state = None
        for _ in range(n):
            logits, state = self._read(codes[:, None], state)
            codes = draw(logits[-1].astype(np.float64), temperature, None, np.array([rng.random()]))
            yield self.vocabulary[codes[0]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a file: NumPy's .npz format, no pickles.

        Parameters
        ----------
        path : path-like
            Taken as it is: no suffix is added.

        Raises
        ------
        OSError
            If the file cannot be written; it is then as it was, or not there if it was not.

        Examples
        --------
        >>> import os, tempfile
        >>> from rnncore.demo import CharLM
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     CharLM("ab", hidden=8).save(os.path.join(folder, "model.npz"))
        ...     CharLM.load(os.path.join(folder, "model.npz")).hidden
        8
        """
        about = {"format": FORMAT, "vocabulary": self.vocabulary, "cell": self.cell}
        # as bytes, for NumPy's strings lose a "\\0" at their end
        arrays: dict[str, Any] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
        for prefix, module in self.modules.items():
            arrays.update({f"{prefix}.{name}": array for name, array in module.parameters().items()})
        whole = io.BytesIO()
        np.savez(whole, **arrays)
        write_whole(path, whole.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CharLM:
        """Return the model that `save` wrote.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        CharLM

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is not such a file, or not all of it. No code of a file runs, and memory stays within a small multiple
            of its size, as with `rnncore.load`.

        Examples
        --------
        >>> import os, tempfile
        >>> from rnncore.demo import CharLM
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     CharLM("ab", hidden=8).save(os.path.join(folder, "model.npz"))
        ...     lm = CharLM.load(os.path.join(folder, "model.npz"))
        >>> lm.vocabulary, lm.cell, lm.hidden
        ('ab', 'lstm', 8)
        """
        from ..interop.files import read_npz
        from ..interop.kinds import shapes_of

        whole = Path(path).read_bytes()
        try:
            stored = read_npz(whole, "about")
            arrays = {name: read() for name, read in stored.arrays.items()}
            about = json.loads(stored.about or "{}")
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']!r}")
            V, H = len(about["vocabulary"]), arrays["recurrent.weight_hh_l0"].shape[1]
            L = sum(name.startswith("recurrent.weight_hh_l") for name in arrays)
            E = arrays["recurrent.weight_ih_l0"].shape[1]
            options = {"num_embeddings": V, "embedding_dim": E, "in_features": H, "out_features": V, "bias": True}
            options |= {"input_size": E, "hidden_size": H, "num_layers": L, "bidirectional": False}
            kinds = {"embedding": Embedding, "recurrent": CELLS[about["cell"]], "head": Linear}
            for prefix, kind in kinds.items():  # before anything of these sizes is made
                for name, shape in shapes_of(kind, options).items():
                    check_shape(arrays[f"{prefix}.{name}"].shape, shape, f"{prefix}.{name}")
            lm = cls(about["vocabulary"], cell=about["cell"], hidden=H, layers=L, embedding=E, rng=0)
            for prefix, module in lm.modules.items():
                module.load_state_dict(arrays, prefix=f"{prefix}.")
        except Exception as error:  # zipfile, zlib, NumPy and json have a dozen kinds for a file that is not theirs
            got = f"{type(error).__name__}: {error!s:.200}"
            raise ValueError(f"expected a whole file saved as {FORMAT!r} in {os.fspath(path)}, got {got}") from error
        return lm
