"""What this machine can do at most, on one core or several, and the time a perfect kernel would need.

Limits are the best of many short runs: everything that disturbs a run makes it slower, never faster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from .._kernels import leaf

__all__ = ["GATES", "Limits", "Product", "cache_sizes", "measure", "perfect", "perfect_training", "thread_numbers"]

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
USUAL_CACHES = {"L1": 32 << 10, "L2": 512 << 10, "L3": 8 << 20}  # where the system does not tell
LARGEST_BUFFER = 512 << 20
RUN_SECONDS, LONG_RUN_SECONDS = 0.001, 0.01  # on one thread; on several, which take 0.05 ms to begin and end together
PRIVATE = ("L1", "L2")
TRIALS, TRIAL_SECONDS = 20, 0.05


@dataclass(frozen=True)
class Limits:
    """Of as many cores as threads, all together.

    Attributes
    ----------
    flops : dict
        Floating-point operations a second by dtype, multiply-adds counted as two.
    caches : dict
        Bytes of "L1", "L2" and, where there is one, "L3".
    bandwidth : dict
        Bytes read a second, by the level they lie in: those of `caches`, and "DRAM".
    threads : int
    """

    flops: dict[str, float]
    caches: dict[str, int]
    bandwidth: dict[str, float]
    threads: int = 1

    def __str__(self) -> str:
        rates = [
            ", ".join(f"{name} {rate / 1e9:.3g}" for name, rate in found.items())
            for found in (self.flops, self.bandwidth)
        ]
        threads = f"{self.threads} thread" + "s" * (self.threads > 1)
        return f"limits, {threads}: {rates[0]} GFLOP/s; reading {rates[1]} GB/s"


def cache_sizes(cpu: Path = Path("/sys/devices/system/cpu/cpu0")) -> dict[str, int]:
    """Return the bytes of a core's data caches by level, as the system tells; usual ones where it does not."""
    sizes = {}
    try:
        for index in sorted((cpu / "cache").glob("index*")):
            if (index / "type").read_text().strip() != "Instruction":
                size = (index / "size").read_text().strip()
                sizes["L" + (index / "level").read_text().strip()] = int(size.removesuffix("K")) << 10
    except (OSError, ValueError):
        return USUAL_CACHES
    return dict(sorted(sizes.items())) or USUAL_CACHES


def best(run: Callable[[int], float], seconds: float, run_seconds: float = RUN_SECONDS) -> float:
    """Return the largest rate of many short runs; `run(n)` does n rounds and returns their amount of work."""
    rounds, amount, elapsed = 1, 0.0, 0.0
    while elapsed < run_seconds:
        rounds *= 2
        start = time.perf_counter()
        amount = run(rounds)
        elapsed = time.perf_counter() - start
    rate, end = amount / elapsed, time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        amount = run(rounds)
        rate = max(rate, amount / (time.perf_counter() - start))
    return rate


def together(runs: Sequence[Callable[[int], float]], seconds: float) -> float:
    """Return the `best` rate of several at once, each in a thread of its own."""
    if len(runs) == 1:
        return best(runs[0], seconds)
    with ThreadPoolExecutor(len(runs) - 1) as pool:

        def run(rounds: int) -> float:
            others = [pool.submit(other, rounds) for other in runs[1:]]
            return runs[0](rounds) + sum(other.result() for other in others)

        return best(run, seconds, LONG_RUN_SECONDS)


def reader(size: int) -> Callable[[int], float]:
    """Return what reads so many bytes, over and over, and says how many it read."""
    x = lines_of(size)

    def run(rounds: int) -> float:
        leaf.read(x, rounds)
        return float(rounds * x.size)

    return run


def lines_of(size: int) -> np.ndarray:
    """Return `size` bytes, cut to whole kilobytes, that begin at a cache line."""
    line = 64
    x = np.ones(size + line, np.uint8)  # written, so that every page is one of its own
    return x[-x.ctypes.data % line :][: max(size // 1024, 1) * 1024]


def measure(seconds: float = 0.3, threads: int = 1) -> Limits:
    """Measure the limits of some cores together with the instruction set in use, for so many seconds each.

    Notes
    -----
    The bandwidth of the first level is measured on half its size, that of others on the geometric mean of their size
    and the one before: well inside either. DRAM's on four times the last level. From the third level on, threads share
    a size, down to twice that of the second.
    """
    caches = cache_sizes()
    sizes, before = {}, min(caches.values()) // 4
    for name, room in caches.items():
        sizes[name], before = math.isqrt(before * room), room
    sizes["DRAM"] = min(4 * max(caches.values()), LARGEST_BUFFER)
    own = max([room for name, room in caches.items() if name in PRIVATE], default=0)
    shares = {name: size if name in PRIVATE else max(size // threads, 2 * own) for name, size in sizes.items()}
    return Limits(
        flops={
            name: together([partial(leaf.multiply_add, name)] * threads, seconds) for name in ("float32", "float64")
        },
        caches=caches,
        bandwidth={name: together([reader(size) for _ in range(threads)], seconds) for name, size in shares.items()},
        threads=threads,
    )


def thread_numbers(cpus: int) -> list[int]:
    """Return the numbers of threads to measure: all up to 8, then powers of two, and as many as there are CPUs."""
    return [n for n in range(1, cpus + 1) if n <= 8 or n & (n - 1) == 0 or n == cpus]


class Product(NamedTuple):
    """Of a batch's rows, each with K numbers, and the weights (G*H, K), which are read so many times."""

    rows: int
    K: int
    H: int
    reads: int

    def operations(self, cell: str) -> int:
        return 2 * self.rows * GATES[cell] * self.H * self.K

    def bytes(self, cell: str, dtype: DTypeLike) -> int:
        return self.reads * self.once(cell, dtype)

    def once(self, cell: str, dtype: DTypeLike) -> int:
        return GATES[cell] * self.H * self.K * np.dtype(dtype).itemsize


def perfect(cell: str, dtype: DTypeLike, products: Sequence[Product], threads: int = 1) -> Callable[[], None]:
    """Return work that takes as long as perfect kernels would for a forward pass, on one core as it is now: a machine's
    clock may change by half from one minute to the next, and with it what a kernel can reach.

    Each product is its multiply-adds, or reading its weights, whichever takes longer: those of the input once a call,
    the recurrent ones once for each step. Activations are free. With several threads it is the share of one, as if
    work could be shared out without loss.

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru"}
    dtype : float32 or float64
    products : sequence of Product
    threads : int
    """
    name = np.dtype(dtype).name  # once: it takes NumPy longer than small work does
    each = leaf.multiply_add(name, 1)
    rounds, reading = 0, dict[int, int]()
    for product in products:
        compute = math.ceil(product.operations(cell) / each / threads)
        weights = product.once(cell, dtype) // threads
        if least(partial(leaf.multiply_add, name, compute)) >= least(
            partial(leaf.read, lines_of(weights), product.reads)
        ):
            rounds += compute
        else:
            reading[product.reads] = reading.get(product.reads, 0) + weights
    buffers = [(lines_of(weights), reads) for reads, weights in reading.items()]

    def run() -> None:
        if rounds:
            leaf.multiply_add(name, rounds)
        for weights, reads in buffers:
            leaf.read(weights, reads)

    return run


def least(run: Callable[[], Any]) -> float:
    """Return the least seconds of some calls."""
    seconds, end = math.inf, time.perf_counter() + TRIAL_SECONDS
    for _ in range(TRIALS):
        start = time.perf_counter()
        run()
        seconds = min(seconds, (now := time.perf_counter()) - start)
        if now > end:
            break
    return seconds


def perfect_training(cell: str, dtype: DTypeLike, products: Sequence[Product], threads: int = 1) -> Callable[[], None]:
    """Return work that takes as long as perfect kernels would for a sequence forward and backward: multiply-adds alone,
    three times those of the forward pass, for each product's two factors have a gradient, shared by so many threads.

    Parameters
    ----------
    cell : {"rnn", "lstm", "gru"}
    dtype : float32 or float64
    products : sequence of Product
        Of the forward pass.
    threads : int
    """
    name = np.dtype(dtype).name
    operations = 3 * sum(product.operations(cell) for product in products)
    rounds = math.ceil(operations / leaf.multiply_add(name, 1) / threads)
    others = ThreadPoolExecutor(threads)

    def run() -> None:
        shares = [others.submit(leaf.multiply_add, name, rounds) for _ in range(threads - 1)]
        leaf.multiply_add(name, rounds)
        for share in shares:
            share.result()

    return run
