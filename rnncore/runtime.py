"""Process-wide choices and what they came to: engine, instruction set, threads, BLAS."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from ._kernels import crew, driver, leaf
from .checks import positive_int

__all__ = ["engine", "get_num_threads", "info", "isa", "set_num_threads", "usable_cpus"]


def _choice(variable: str, known: tuple[str, ...], available: tuple[str, ...]) -> str:
    """Return what an environment variable chooses, by default the first that is available."""
    value = os.environ.get(variable) or available[0]
    if value not in known:
        raise ValueError(f"expected {variable} to be one of {', '.join(known)}, got {value!r}")
    if value not in available:
        raise ValueError(f"expected {variable} to be one of {', '.join(available)} here, got {value!r}")
    return value


engine = _choice("RNNCORE_ENGINE", ("panels", "blas"), ("panels", "blas"))
driver.use(engine)
isa = _choice("RNNCORE_ISA", ("generic", "avx2", "avx512", "neon"), leaf.available())
leaf.use(isa)


def usable_cpus() -> int:
    """Return how many CPUs' worth of time this process may use: its affinity mask, and its cgroup's quota if lower."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cpus, *map(math.floor, _quotas(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")))]))


def _quotas(membership: Path, root: Path) -> list[float]:
    """Return the limits, in CPUs, of the cgroups this process is in: version 2's cpu.max, version 1's cfs_quota."""
    found = []
    with suppress(OSError, ValueError):
        for line in membership.read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":
                top, files = root, ["cpu.max"]
            elif "cpu" in controllers.split(","):
                top, files = root / controllers, ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            else:
                continue
            group = top / path.lstrip("/")
            for place in [group, *group.parents]:  # a parent's limit holds for its children
                with suppress(OSError, ValueError):
                    quota, period = " ".join((place / file).read_text() for file in files).split()
                    if quota not in ("max", "-1") and float(quota) > 0 < float(period):
                        found.append(float(quota) / float(period))
                if place == top:
                    break
    return found


def get_num_threads() -> int:
    """Return the most threads a call uses that does not say how many.

    Returns
    -------
    int
        What `set_num_threads` or the environment's ``RNNCORE_NUM_THREADS`` said; else the CPUs this process might use
        when rnncore was imported, or those that the calling thread may run on now, if they are fewer.
    """
    return crew.get_limit()


def set_num_threads(n: int) -> None:
    """Set the most threads that a call uses which does not say how many; process-wide.

    Parameters
    ----------
    n : int
        At least 1, the calling thread among them. More than 256 count as 256.

    Raises
    ------
    TypeError, ValueError
        If `n` is no positive integer.

    Notes
    -----
    Calls for which threads would not pay use fewer, and so do calls made while other threads compute: together they use
    no more. Results do not depend on it. Threads park in the kernel between calls. `train.Linear` and
    optimisers have as many, too. The `blas` engine has the threads of SciPy's BLAS instead.

    Examples
    --------
    >>> import rnncore as rc
    >>> before = rc.get_num_threads()
    >>> rc.set_num_threads(1)
    >>> rc.get_num_threads()
    1
    >>> rc.set_num_threads(before)
    """
    crew.set_limit(min(positive_int(n, "n"), crew.MOST_THREADS))


def _threads() -> int | None:
    """Return what the environment says of threads, if it does."""
    value = os.environ.get("RNNCORE_NUM_THREADS")
    if not value:
        return None
    digits = value.lstrip("0")[:20]
    if not (value.isascii() and value.isdecimal() and digits):
        raise ValueError(f"expected RNNCORE_NUM_THREADS to be a positive integer, got {value!r}")
    return min(int(digits), crew.MOST_THREADS)


_asked = _threads()
crew.set_limit(_asked or min(usable_cpus(), crew.MOST_THREADS), _asked is not None)


def info() -> dict[str, Any]:
    """Return what rnncore runs with.

    Returns
    -------
    dict
        ``version``; ``isa``, the instruction set of the kernels; ``engine``; ``threads``, how many a
        call may use with the `panels` engine; ``blas``, the library behind the other engine, with its threads. Imports
        SciPy.

    Examples
    --------
    >>> import rnncore as rc
    >>> rc.info()["engine"]
    'panels'
    """
    import scipy

    from . import __version__
    from ._kernels.blas import largest_dimension

    built = scipy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    width = "LP64" if largest_dimension() < 2**32 else "ILP64"
    return {
        "version": __version__,
        "isa": isa,
        "engine": engine,
        "threads": get_num_threads(),
        "blas": f"{built['name']} {built['version']} ({width}, threads: {_blas_threads()}) "
        f"through SciPy {scipy.__version__}",
    }


def _blas_threads() -> int:
    """Return the threads of SciPy's BLAS: asked of the library where threadpoolctl is installed, else what such
    libraries choose, which is the environment's word or the CPUs this process may use."""
    try:
        import threadpoolctl
    except ImportError:
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
        given = [value for name in names if (value := os.environ.get(name, "")).isdecimal() and int(value) > 0]
        return int(given[0]) if given else usable_cpus()
    pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
    pools.sort(key=lambda pool: "scipy" in pool["filepath"])  # NumPy brings a BLAS of its own
    return int(pools[-1]["num_threads"]) if pools else 1
