"""Weights in the memory of tensors: known from call to call, for as long as they lie where they did."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..._kernels.memory import address
from ...weights import Weights
from .tensors import DTYPES, laid_out, places_of

__all__ = ["Borrowed", "Forget", "Known", "release"]


class Borrowed(Weights):
    """Weights in the memory of tensors, whose owners may change them: whoever uses them asks a `Plan` each time."""

    __slots__ = ()

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays, self._packed, self.stack = arrays, None, None


class Known:
    """The weights of a call before: where their tensors lay, what they held, and what was packed from them.

    Contents are compared, not versions: a tensor's version does not move when it is changed through `.data`, through
    an array that shares its memory or by another process, and tensors of inference mode have none.
    """

    __slots__ = ("arrays", "contents", "names", "places", "refs", "tensors", "weights")

    def __init__(self, names: tuple[str, ...], tensors: Sequence[Tensor], forget: Forget) -> None:
        self.names = names
        self.refs = tuple([weakref.ref(tensor, forget) for tensor in tensors])
        self.tensors = [tensor.detach() for tensor in tensors]  # which no `.data =` changes
        self.arrays = tuple([laid_out(tensor, DTYPES[tensor.dtype]) for tensor in self.tensors])
        where_they_lie = all(address(a) == own.data_ptr() for a, own in zip(self.arrays, self.tensors, strict=True))
        self.places = (
            places_of([*tensors, *self.tensors]) if where_they_lie else None
        )  # of copies, which nobody changes
        self.contents = b""

    def lies(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these tensors, the same ones, still lie where they did, and in the same memory: what is new may lie
        where what was freed did."""
        return self.places is not None and places_of([*tensors, *self.tensors]) == self.places

    def renew(self, contents: bytes) -> Weights:
        """Return the weights of these contents, which are others than before."""
        self.weights: Weights = Borrowed(dict(zip(self.names, self.arrays, strict=True)))
        self.contents = contents
        return self.weights


class Forget:
    """What weak references to weights call when one of these is gone: what is known of them goes with it."""

    __slots__ = ("ids", "known")

    def __init__(self, known: dict[tuple[int, ...], Known], ids: tuple[int, ...]) -> None:
        self.known, self.ids = known, ids

    def __call__(self, ref: Any) -> None:
        if (found := self.known.get(self.ids)) is None:
            return
        for own in found.refs:  # in this frame, which Dynamo leaves alone; it would look at a generator's
            if ref is own:
                del self.known[self.ids]
                return


def release(tensor: Tensor) -> None:
    """Let go of a tensor: PyTorch swaps none that weak references point at."""
    for ref in weakref.getweakrefs(tensor):
        if isinstance(ref.__callback__, Forget):
            ref.__callback__(ref)
