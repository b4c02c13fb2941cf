"""The text a character model learns from: loaded, split, and turned into numbers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

__all__ = ["encode", "load_text", "split", "vocabulary"]

LEAST = 1000  # characters; less than this teaches nothing
MOST_HELD_OUT = 100_000  # characters; bits per character are known to about 0.01 by then


def load_text(path: str | os.PathLike[str] | None = None) -> str:
    """Return the text of a file, or the English that every CPython brings along.

    Parameters
    ----------
    path : path-like, optional
        A UTF-8 file. Without one: the help topics of `pydoc_data.topics`, one after the other in the module's order.

    Returns
    -------
    str
        With line ends as "\\n", and without a byte order mark.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not UTF-8 or has fewer than 1000 characters, or if this Python comes without `pydoc_data`.

    Examples
    --------
    >>> from rnncore.demo.text import load_text
    >>> len(load_text()) > 300_000
    True
    """
    if path is None:
        try:
            from pydoc_data.topics import topics
        except ImportError:
            raise ValueError("expected pydoc_data.topics in this Python, got none: name a file to learn from") from None
        return "".join(topics.values())
    name = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8 text in {name}, got {error.reason} at byte {error.start}") from None
    if len(text) < LEAST:
        raise ValueError(f"expected at least {LEAST} characters in {name}, got {len(text)}")
    return text


def split(text: str) -> tuple[str, str]:
    """Return the training part and the held-out part: the last tenth, at most 100,000 characters of it.

    Parameters
    ----------
    text : str

    Returns
    -------
    learned, held_out : str

    Examples
    --------
    >>> from rnncore.demo.text import split
    >>> split("0123456789")
    ('012345678', '9')
    """
    cut = len(text) * 9 // 10
    return text[:cut], text[cut : cut + MOST_HELD_OUT]


def vocabulary(text: str) -> str:
    """Return the characters of `text`, each once, sorted.

    Made from the whole text, held-out part included, so that every model spreads its probability over the same
    characters: one that the training part lacks is unlikely, not impossible.

    Parameters
    ----------
    text : str

    Returns
    -------
    str

    Examples
    --------
    >>> from rnncore.demo.text import vocabulary
    >>> vocabulary("banana")
    'abn'
    """
    return "".join(sorted(set(text)))


def encode(text: str, vocabulary: str) -> np.ndarray:
    """Return the place of each character of `text` in `vocabulary`.

    Parameters
    ----------
    text : str
    vocabulary : str
        As the function of this name returns it.

    Returns
    -------
    numpy.ndarray (len(text),) of int64

    Raises
    ------
    ValueError
        If a character is not in it; the message says which.

    Examples
    --------
    >>> from rnncore.demo.text import encode
    >>> encode("banana", "abn").tolist()
    [1, 0, 2, 0, 2, 0]
    """
    known, points = _points(vocabulary), _points(text)
    codes = np.searchsorted(known, points)
    absent = points != known[np.minimum(codes, known.size - 1)]
    if absent.any():
        names = ", ".join(repr(chr(point)) for point in np.unique(points[absent])[:10])
        raise ValueError(f"expected characters of the model's vocabulary, got {names}")
    return codes


def _points(text: str) -> np.ndarray:
    # a command line may bring lone surrogates: bytes that were no UTF-8
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
