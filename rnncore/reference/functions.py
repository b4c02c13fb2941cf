"""The functions of the cells, and their derivatives in terms of their values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["derivatives", "functions", "sigmoid"]

Function = Callable[[np.ndarray], np.ndarray]


def sigmoid(a: np.ndarray) -> np.ndarray:
    """σ(a) = 1 / (1 + e^-a)."""
    with np.errstate(over="ignore"):  # e^-a = inf gives 0
        return np.asarray(1 / (1 + np.exp(-a)))


def relu(a: np.ndarray) -> np.ndarray:
    """max(a, 0), NaN staying NaN."""
    return np.where(a < 0, np.zeros_like(a), a)


functions: dict[str, Function] = {"tanh": np.tanh, "relu": relu, "sigmoid": sigmoid}

# h = f(a) -> f'(a)
derivatives: dict[str, Function] = {
    "tanh": lambda h: np.asarray(1 - h * h),
    "relu": lambda h: np.where(h <= 0, np.zeros_like(h), np.ones_like(h)),
    "sigmoid": lambda h: np.asarray(h * (1 - h)),
}
