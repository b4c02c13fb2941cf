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
    def where(self) -> tuple[np.ndarray, np.ndarray]: ...
    def cut(self, t_0: int, t_1: int) -> Ragged: ...

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
        batch_first: bool = False,
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
    ) -> tuple[tuple[np.ndarray | None, ...], ...]: ...
    def backward(
        self,
        pack: Pack,
        x: np.ndarray,
        kept: tuple[np.ndarray | None, ...],
        dy: np.ndarray | None,
        column: int,
        dstates: tuple[np.ndarray, ...],
        dx: np.ndarray,
        add_dx: bool,
        grads: dict[str, np.ndarray],
        reverse: bool = False,
        ragged: Ragged | None = None,
        n_threads: int = 0,
    ) -> None: ...
