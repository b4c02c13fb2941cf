from typing import final

import numpy as np

from .pack import Pack

BLOCK_ROWS: int

def use(name: str) -> None: ...

@final
class Cell:
    def infer(
        self,
        pack: Pack,
        x: np.ndarray,
        states: tuple[np.ndarray, ...],
        y: np.ndarray | None,
        column: int,
        finals: tuple[np.ndarray, ...],
        reverse: bool = False,
    ) -> None: ...
    def forward(
        self,
        pack: Pack,
        x: np.ndarray,
        states: tuple[np.ndarray, ...],
        y: np.ndarray | None,
        column: int,
        finals: tuple[np.ndarray, ...],
        reverse: bool = False,
    ) -> tuple[np.ndarray | None, ...]: ...
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
