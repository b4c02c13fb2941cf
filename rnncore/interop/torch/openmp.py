"""PyTorch's idle threads: they spin for some milliseconds after each of its operators, on cores that rnncore's need."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

import torch

__all__ = ["release_idle_threads"]

SOFT = 1  # omp_pause_soft: what the threads know survives


def find() -> Callable[[int], int] | None:
    """Return OpenMP's omp_pause_resource_all of the library that PyTorch runs on; None where there is none, or its
    threads sleep anyway."""
    if os.environ.get("GOMP_SPINCOUNT") == "0" or os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":
        return None
    try:
        pause = ctypes.CDLL(torch._C.__file__).omp_pause_resource_all
    except (AttributeError, OSError, TypeError):
        return None
    pause.argtypes, pause.restype = [ctypes.c_int], ctypes.c_int
    return pause


pause = find()


def forget() -> None:
    """A child of `fork` has no such threads, though the library believes so: it would wait for them forever."""
    global pause
    pause = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget)


def release_idle_threads() -> None:
    """End the OpenMP threads that wait for the calling thread's next operator. That one makes new ones, which takes
    some 50 µs; inside a parallel region nothing happens."""
    if pause is not None:
        pause(SOFT)
