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


def softmax(a: np.ndarray) -> np.ndarray:
    """e^a_j / Σ_k e^a_k over a row."""
    e = np.exp(a - a.real.max(axis=-1, keepdims=True))  # a row's shift cancels; so e^a does not overflow
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


functions: dict[str, Function] = {
    "identity": lambda a: a,
    "tanh": np.tanh,
    "relu": relu,
    "sigmoid": sigmoid,
    "softmax": softmax,
}

# dh, h = f(a) -> da: dh f'(a) elementwise; for the softmax dh times the Jacobian diag(h) - h hᵀ, row by row
slopes: dict[str, Slope] = {
    "identity": lambda dh, h: dh,
    "tanh": lambda dh, h: np.asarray(dh * (1 - h * h)),
    "relu": lambda dh, h: np.where(h <= 0, np.zeros_like(dh), dh),
    "sigmoid": lambda dh, h: np.asarray(dh * h * (1 - h)),
    "softmax": lambda dh, h: np.asarray(h * (dh - (dh * h).sum(axis=-1, keepdims=True))),
}
