from typing import Any

import numpy as np

def step(
    rule: str,
    settings: dict[str, float],
    passes: list[tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]],
    changes: list[tuple[Any, str, Any, Any]],
    locks: list[Any],
) -> bool: ...
def sum_of_squares(x: np.ndarray, scale: float = 1.0) -> float: ...
def softmax(y: np.ndarray, parts: np.ndarray, scale: float) -> None: ...
