from typing import final

import numpy as np

from .pack import Pack

BLOCK_ROWS: int
MOST_THREADS: int

def use(name: str) -> None: ...
def set_limit(n: int) -> None: ...
def get_limit() -> int: ...

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
    ) -> list[tuple[np.ndarray | None, ...]]: ...
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
        dW_ih: np.ndarray,
        dW_hh: np.ndarray,
        db: np.ndarray,
        reverse: bool = False,
    ) -> None: ...
