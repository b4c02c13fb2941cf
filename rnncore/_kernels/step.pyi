from collections.abc import Mapping
from typing import Any, final

import numpy as np
from typing_extensions import disjoint_base

from .cell import Cell
from .pack import Pack

def norms_of(row_norms: np.ndarray, T: int) -> np.ndarray: ...

@final
class Stack:
    def __new__(cls, cell: Cell, packs: tuple[Pack, ...], dtype: np.dtype[Any], stacked: bool = True) -> Stack: ...
    def call(self, x: object, state: object, batch_first: bool, reverse: bool, n_threads: int = 0) -> Any: ...
    def ragged(
        self, x: object, state: object, lengths: object, batch_first: bool, reverse: bool, n_threads: int = 0
    ) -> Any: ...
    def taped(self, x: object, state: object, reverse: bool, most: int, n_threads: int = 0) -> Any: ...
    def back(
        self,
        layers: tuple[Any, ...],
        dy: object,
        dstate: object,
        weights: Mapping[str, np.ndarray],
        names: tuple[dict[str, str], ...],
        reverse: bool,
        n_threads: int = 0,
        flow: bool = False,
        of_x: bool = True,
    ) -> Any: ...
    def advance(self, x: object, state: object, n_threads: int = 0) -> Any: ...

@disjoint_base
class Steps:
    layer: Any
    batch_size: int
    def __new__(cls, layer: Any, batch_size: int) -> Steps: ...
    def _states(self, rows: np.ndarray | None = None) -> tuple[np.ndarray, ...]: ...
    def _set_states(self, arrays: tuple[np.ndarray, ...], rows: np.ndarray | None = None) -> None: ...
    def step(self, x_t: Any, out: np.ndarray | None = None, rows: Any = None) -> np.ndarray: ...
