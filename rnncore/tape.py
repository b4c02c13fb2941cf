"""What a forward pass keeps for its backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

__all__ = ["Tape"]


@dataclass(frozen=True, eq=False, repr=False)
class Tape:
    """What `forward` kept for `backward`: immutable, usable any number of times, by the module that made it.

    A tape owns what it holds, but for the input `x`, which it refers to where it was already an aligned array of the
    module's dtype, C-contiguous as it is or in order of time: do not overwrite `x` before the last backward call. It is
    refused by another module, and by its own once the parameters have changed.

    Attributes
    ----------
    nbytes : int
        Bytes of the arrays it keeps, `x` included.
    """

    _module: Any  # with `_weights`, another object once a parameter has changed
    _weights: Any
    _kept: tuple[Any, ...]  # arrays, or tuples of arrays, and what else the module wants to find again

    @property
    def nbytes(self) -> int:
        arrays: dict[int, np.ndarray] = {}
        todo: list[Any] = list(self._kept)
        while todo:
            item = todo.pop()
            if isinstance(item, tuple):
                todo.extend(item)
            elif isinstance(item, np.ndarray):
                arrays[id(item)] = item
        return sum(array.nbytes for array in arrays.values())

    def open(self, module: Any) -> tuple[Any, ...]:
        """Return what was kept, for `module`.

        Raises
        ------
        ValueError
            If another module made this tape, or `module`'s parameters have changed since.
        """
        if self._module is not module:
            raise ValueError(f"expected a tape of this {type(module).__name__}, got one of another module")
        if self._weights is not module._weights:
            raise ValueError("expected a tape of the current parameters, got one from before they changed")
        return self._kept

    def __repr__(self) -> str:
        return f"<Tape of {self._module!r}, {self.nbytes} bytes>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a tape can be neither copied nor pickled: it belongs to one module in one process")


def open_tape(tape: Any, module: Any) -> tuple[Any, ...]:
    """Return what `tape` kept for `module`; raise TypeError if it is no tape."""
    if not isinstance(tape, Tape):
        raise TypeError(f"expected a tape as returned by forward, got {type(tape).__name__}")
    return tape.open(module)
