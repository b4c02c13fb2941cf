"""The paired timer: contenders on the same work, in blocks that alternate, each contender in a process of its own.

A process per contender, because thread pools that spin disturb each other, and because some libraries take their
number of threads from the environment only. Only one of them works at any time.
"""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..runtime import usable_cpus

__all__ = ["Comparison", "Contender", "ContenderError", "Interval", "Workers", "median_interval"]

CONFIDENCE = 0.95
LEVELS = ("1", "25", "50", "75", "90", "95", "99", "99.5", "99.9", "100")


@dataclass(frozen=True)
class Contender:
    """Work for one process: what to build there, and on how many threads.

    Attributes
    ----------
    name : str
        Contenders of one name and number of threads share a process.
    function : str
        "module:function"; called with `arguments` it returns two functions without arguments: one that does the
        work, and one that returns its results for comparison, as an array, a tuple of such, each compared by itself, or
        None if it has none. Maybe a third, which prepares each call, and whose time does not count.
    threads : int
        How many the libraries are told to use, and how many CPUs the process is confined to.
    """

    name: str
    function: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1


class ContenderError(RuntimeError):
    """A contender raised an error, died, or computed something else than the first."""

    def __init__(self, contender: Contender, message: str) -> None:
        super().__init__(f"{contender.name}: {message}")
        self.contender = contender


@dataclass(frozen=True)
class Interval:
    """A median, and where it lies with 95 % confidence."""

    median: float
    low: float
    high: float


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median of independent values with the distribution-free confidence interval of order statistics.

    The median lies between the k-th smallest and the k-th largest of n values with probability
    1 - 2 P(B < k), B binomial (n, 1/2); k is the largest for which that is at least 95 %.

    Parameters
    ----------
    values : sequence of float
        At least 6: fewer never give 95 %.

    Examples
    --------
    >>> from rnncore.measure.paired import median_interval
    >>> median_interval([5, 1, 4, 2, 3, 6])
    Interval(median=3.5, low=1, high=6)
    """
    n = len(values)
    if n < 6:
        raise ValueError(f"expected at least 6 values for a confidence of {CONFIDENCE:.0%}, got {n}")
    k, outside = 0, 0.0
    while outside + 2 * math.comb(n, k) / 2**n <= 1 - CONFIDENCE:
        outside += 2 * math.comb(n, k) / 2**n
        k += 1
    ordered = sorted(values)
    return Interval(median(ordered), ordered[k - 1], ordered[n - k])


@dataclass(frozen=True)
class Comparison:
    """Seconds per call of the first contender and of each other, and the others' time ÷ the first's in neighbouring
    blocks; in the order given."""

    seconds: Interval
    others: list[Interval]
    ratios: list[Interval]


def environment(threads: int) -> dict[str, str]:
    """Return the environment that holds every library to so many threads."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "RNNCORE_NUM_THREADS")
    xla = " --xla_cpu_multi_thread_eigen=false" if threads == 1 else ""
    return {
        **os.environ,
        **dict.fromkeys(names, str(threads)),
        "XLA_FLAGS": (os.environ.get("XLA_FLAGS", "") + xla).strip(),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def cpus(threads: int) -> list[int]:
    """Return the CPUs for so many threads, one of each core before a second of any; none where CPUs have no numbers."""
    if not hasattr(os, "sched_getaffinity"):
        return []
    usable = sorted(os.sched_getaffinity(0))
    first: dict[str, int] = {}
    for cpu in usable:
        try:
            core = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text()
        except OSError:
            core = str(cpu)
        first.setdefault(core, cpu)
    return sorted(usable, key=lambda cpu: cpu not in first.values())[:threads]


class Workers:
    """The processes of contenders, started when first needed and kept until the end of the `with`."""

    def __init__(self) -> None:
        self._workers: dict[tuple[str, int], _Worker] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def _ask(self, contender: Contender, command: str, *arguments: Any) -> Any:
        key = contender.name, contender.threads
        if key not in self._workers:
            if contender.threads > usable_cpus():
                raise ValueError(f"expected at most {usable_cpus()} threads on this machine, got {contender.threads}")
            self._workers[key] = _Worker(contender.threads)
            self._ask(contender, "pin", cpus(contender.threads))
        try:
            well, reply = self._workers[key].ask(command, arguments)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise ContenderError(contender, self._workers.pop(key).died()) from None
        if not well:
            raise ContenderError(contender, reply)
        return reply

    def results(self, contender: Contender) -> Any:
        """Build the work of a contender and return its results."""
        self._ask(contender, "build", contender.function, dict(contender.arguments))
        return self._ask(contender, "results")

    def compare(
        self,
        first: Contender,
        others: Sequence[Contender] = (),
        *,
        tolerance: float = 1e-4,
        blocks: int = 15,
        block_seconds: float = 0.05,
        idle_seconds: float = 0.005,
    ) -> Comparison:
        """Time one contender against others.

        Parameters
        ----------
        first, others : Contender
            The same work.
        tolerance : float
            Largest norm of a difference between results, relative to the norm of the first's.
        blocks : int
            Blocks of each, at least 6.
        block_seconds : float
            Length of a block, in which the work is called as often as fits, at least once.
        idle_seconds : float
            Pause before each block, in which the last contender's threads go to sleep.

        Raises
        ------
        ContenderError
            If a contender raises an error, dies, or has other results than the first; names it.
        """
        contenders = [first, *others]
        expected = None
        for contender in contenders:
            results = self.results(contender)
            if results is None:
                continue
            actual = [np.asarray(part) for part in (results if isinstance(results, tuple) else (results,))]
            expected = actual if expected is None else expected
            check_same(contender, actual, first, expected, tolerance)
        for contender in contenders:
            self._ask(contender, "calibrate", block_seconds)
        times: list[list[float]] = [[] for _ in contenders]
        for k in range(blocks):
            turn = list(zip(contenders, times, strict=True))
            for contender, seconds in turn if k % 2 == 0 else reversed(turn):  # a steady drift cancels out
                time.sleep(idle_seconds)
                seconds.append(self._ask(contender, "block"))
        ours = times[0]
        return Comparison(
            seconds=median_interval(ours),
            others=[median_interval(theirs) for theirs in times[1:]],
            ratios=[median_interval([b / a for a, b in zip(ours, theirs, strict=True)]) for theirs in times[1:]],
        )

    def latencies(
        self, contenders: Sequence[Contender], calls: int, *, blocks: int = 10, idle_seconds: float = 0.005
    ) -> list[dict[str, float]]:
        """Return how the seconds of single calls are spread, by `LEVELS`, for each of some contenders.

        Parameters
        ----------
        contenders : sequence of Contender
            As `compare` left them: built, and warm.
        calls : int
            Of each, in alternating blocks.
        blocks : int
        idle_seconds : float
            Pause before each block. Its first hundredth of calls does not count, in which a core wakes up.

        Returns
        -------
        list of dict
            Keys are percentiles: "50", "99.9".
        """
        times: list[list[float]] = [[] for _ in contenders]
        block = -(-calls // blocks)
        awake = block // 100 + 1
        for k in range(blocks):
            turn = list(zip(contenders, times, strict=True))
            for contender, seconds in turn if k % 2 == 0 else reversed(turn):
                time.sleep(idle_seconds)
                seconds += self._ask(contender, "each", awake + block)[awake:]
        levels = [float(level) for level in LEVELS]
        return [dict(zip(LEVELS, np.percentile(seconds, levels).tolist(), strict=True)) for seconds in times]


def check_same(
    contender: Contender, actual: list[np.ndarray], first: Contender, expected: list[np.ndarray], tolerance: float
) -> None:
    """Refuse results that are not those of the first contender, one by one."""
    shapes, of_first = ([part.shape for part in parts] for parts in (actual, expected))
    if shapes != of_first:
        raise ContenderError(contender, f"has results of shapes {shapes}, {first.name} {of_first}")
    for a, e in zip(actual, expected, strict=True):
        error = float(np.linalg.norm((a - e).ravel()))
        if not error <= tolerance * float(np.linalg.norm(e.ravel())):
            raise ContenderError(contender, f"has other results than {first.name}: norm of the difference {error:.2g}")


class _Worker:
    """A process that runs `worker`, from the parent's side."""

    def __init__(self, threads: int) -> None:
        self._complaints = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "rnncore.measure.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=environment(threads),
        )

    def ask(self, command: str, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        pickle.dump((command, arguments), self._process.stdin)
        self._process.stdin.flush()
        reply: tuple[bool, Any] = pickle.load(self._process.stdout)
        return reply

    def died(self) -> str:
        """Say how, and what it said last."""
        status = self._process.wait()
        self._complaints.seek(0)
        words = self._complaints.read().decode(errors="replace").split("\n")
        last = next((line for line in reversed(words) if line.strip()), "without a word")
        self.close()
        return f"died with status {status}: {last.strip()}"

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for file in (self._process.stdout, self._complaints, self._process.stdin):
            assert file is not None
            try:
                file.close()
            except OSError:  # what was still to be written to a dead process
                pass
