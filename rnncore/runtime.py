"""Process-wide choices and what they came to: engine, instruction set, threads, BLAS."""

from __future__ import annotations

import os
from typing import Any

from ._kernels import driver, leaf

__all__ = ["engine", "info", "isa"]


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


def info() -> dict[str, Any]:
    """Return what rnncore runs with.

    Returns
    -------
    dict
        ``version``; ``isa``, the instruction set of the kernels; ``engine``; ``threads``, how many the
        engine may use; ``blas``, the library behind its products. Imports SciPy.

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
        "threads": _blas_threads(),
        "blas": f"{built['name']} {built['version']} ({width}) through SciPy {scipy.__version__}",
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


def usable_cpus() -> int:
    """Return the CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
