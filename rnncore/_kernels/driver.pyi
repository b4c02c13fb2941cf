from typing import final

import numpy as np

BLOCK_ROWS: int

@final
class Pack:
    @property
    def W_ih(self) -> np.ndarray: ...
    @property
    def W_hh(self) -> np.ndarray: ...
    @property
    def W_hh_T(self) -> np.ndarray: ...
    @property
    def bias(self) -> np.ndarray: ...
    @property
    def hidden_size(self) -> int: ...
    def __init__(
        self, W_ih: np.ndarray, W_hh: np.ndarray, b_ih: np.ndarray | None = None, b_hh: np.ndarray | None = None
    ) -> None: ...

@final
class Cell:
    @property
    def name(self) -> str: ...
    @property
    def gates(self) -> int: ...
    @property
    def states(self) -> int: ...
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
