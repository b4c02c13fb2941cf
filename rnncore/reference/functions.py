"""The functions of the cells, and their slopes in terms of their values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["functions", "sigmoid", "slopes"]

Function = Callable[[np.ndarray], np.ndarray]
Slope = Callable[[np.ndarray, np.ndarray], np.ndarray]


def sigmoid(a: np.ndarray) -> np.ndarray:
    """σ(a) = 1 / (1 + e^-a)."""
    with np.errstate(over="ignore"):  # e^-a = inf gives 0
        return np.asarray(1 / (1 + np.exp(-a)))


def relu(a: np.ndarray) -> np.ndarray:
    """max(a, 0), NaN staying NaN."""
    return np.where(a < 0, np.zeros_like(a), a)


functions: dict[str, Function] = {"tanh": np.tanh, "relu": relu, "sigmoid": sigmoid}

# dh, h = f(a) -> dh f'(a)
slopes: dict[str, Slope] = {
    "tanh": lambda dh, h: np.asarray(dh * (1 - h * h)),
    "relu": lambda dh, h: np.where(h <= 0, np.zeros_like(dh), dh),
    "sigmoid": lambda dh, h: np.asarray(dh * h * (1 - h)),
}
