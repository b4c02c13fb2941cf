from typing import final

import numpy as np

from .pack import Pack

@final
class Ragged:
    T: int
    @property
    def rows(self) -> int: ...
    @property
    def order(self) -> np.ndarray: ...
    @property
    def lengths(self) -> np.ndarray: ...
    @property
    def offsets(self) -> np.ndarray: ...
    def __new__(cls, lengths: np.ndarray, T: int) -> Ragged: ...
    @property
    def full(self) -> bool: ...
    def row(self, t: int) -> int: ...
    def where(self) -> tuple[np.ndarray, np.ndarray]: ...
    def cut(self, t_0: int, t_1: int) -> Ragged: ...
    def clear(self, y: np.ndarray) -> None: ...

@final
class Cell:
    def infer(
        self,
        packs: tuple[Pack, ...],
        x: np.ndarray,
        initial: tuple[np.ndarray, ...],
        k: int,
        y: np.ndarray | None,
        final: tuple[np.ndarray, ...],
        reverses: tuple[bool, ...],
        n_threads: int = 0,
        ragged: Ragged | None = None,
        column: int = 0,
    ) -> None: ...
    def forward(
        self,
        packs: tuple[Pack, ...],
        x: np.ndarray,
        initial: tuple[np.ndarray, ...],
        k: int,
        y: np.ndarray | None,
        final: tuple[np.ndarray, ...],
        reverses: tuple[bool, ...],
        n_threads: int = 0,
        ragged: Ragged | None = None,
        column: int = 0,
    ) -> tuple[tuple[np.ndarray | None, ...], ...]: ...
    def block(self, pack: Pack, double: bool, N: int) -> int: ...
    def kept(self, pack: Pack) -> int: ...
    def dtable(self, pack: Pack) -> np.ndarray: ...
    def rows_backward(self, pack: Pack, dtable: np.ndarray, dW_ih: np.ndarray, fresh: bool) -> np.ndarray: ...
    def backward(
        self,
        packs: tuple[Pack, ...],
        x: np.ndarray,
        kept: tuple[tuple[np.ndarray | None, ...], ...],
        dy: np.ndarray | None,
        column: int,
        dstates: tuple[np.ndarray, ...],
        k: int,
        dxs: tuple[np.ndarray | None, ...],
        grads: tuple[dict[str, np.ndarray], ...],
        reverses: tuple[bool, ...],
        fresh: bool = False,
        n_threads: int = 0,
        ragged: Ragged | None = None,
        row_norms: tuple[tuple[np.ndarray, ...], ...] | None = None,
    ) -> None: ...
