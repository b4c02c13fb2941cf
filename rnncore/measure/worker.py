"""The process of one contender: does what `paired` asks of it, through a pipe, until the pipe closes.

Commands and replies are pickled: (name of a function, arguments) and (whether it went well, result or error).
"""

from __future__ import annotations

import gc
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from itertools import repeat
from typing import Any

Clock = Callable[[], float]
Work = Callable[[], Any]


def timed(run: Work, calls: int, clock: Clock = time.perf_counter, prepare: Work | None = None) -> float:
    """Return the seconds that so many calls take together, without what prepares each."""
    if prepare is None:
        start = clock()
        for _ in repeat(None, calls):
            run()
        return clock() - start
    elapsed = 0.0
    for _ in repeat(None, calls):
        prepare()
        start = clock()
        run()
        elapsed += clock() - start
    return elapsed


def calibrated(run: Work, seconds: float, clock: Clock = time.perf_counter, prepare: Work | None = None) -> int:
    """Return how many calls take about so many seconds, at least 1; takes as long, and warms up."""
    calls = 1
    while (elapsed := timed(run, calls, clock, prepare)) < seconds / 2:
        calls *= 2
    return max(1, round(calls * seconds / max(elapsed, 1e-9)))


def each(run: Work, calls: int, clock: Clock = time.perf_counter) -> list[float]:
    """Return the seconds of each of so many calls, with what the clock itself takes, some 50 ns."""
    moments = [0.0] * (2 * calls)
    for k in range(0, 2 * calls, 2):
        moments[k] = clock()
        run()
        moments[k + 1] = clock()
    return [end - begin for begin, end in zip(moments[::2], moments[1::2], strict=True)]


class Session:
    """What a worker can be asked for."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._run: Work = lambda: None
        self._results: Work = lambda: None
        self._prepare: Work | None = None
        self._calls = 1

    def pin(self, cpus: list[int]) -> None:
        """Stay on these CPUs, where the system can say so."""
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cpus)

    def build(self, function: str, arguments: dict[str, Any]) -> None:
        """Build the work by a function named "module:function", in place of the last."""
        self._forget()  # its memory first
        gc.collect()
        module, name = function.split(":")
        self._run, self._results, *prepare = getattr(import_module(module), name)(**arguments)
        self._prepare = prepare[0] if prepare else None

    def results(self) -> Any:
        return self._results()

    def calibrate(self, seconds: float) -> None:
        self._calls = calibrated(self._run, seconds, prepare=self._prepare)

    def block(self) -> float:
        """Return the seconds per call of one block."""
        gc.disable()
        try:
            return timed(self._run, self._calls, prepare=self._prepare) / self._calls
        finally:
            gc.enable()

    def each(self, calls: int) -> list[float]:
        """Return the seconds of single calls."""
        gc.disable()
        try:
            return each(self._run, calls)
        finally:
            gc.enable()


def serve() -> None:
    """Answer until there is nobody to answer to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pipe
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between the replies
    session = Session()
    while True:
        try:
            name, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply = True, getattr(session, name)(*arguments)
        except Exception as error:
            reply = False, f"{type(error).__name__}: {error}"
        pickle.dump(reply, replies)
        replies.flush()


if __name__ == "__main__":
    serve()
