"""The machine: which cores this process may use, how it keeps to one of them, and what a reader must know about it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from fastnn._cli.info import cpu_name

# Before anything is pinned. Empty where the system does not tell (macOS, Windows).
ALLOWED = frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()
# The last one: the first serves most interrupts.
CORE = max(ALLOWED, default=None)


def usable_cores() -> int:
    """Cores this process may use."""
    return len(ALLOWED) or os.cpu_count() or 1


@contextlib.contextmanager
def _on(cores: frozenset[int]) -> Iterator[None]:
    if not ALLOWED:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def one_core() -> AbstractContextManager[None]:
    """Keep this thread, and those it starts meanwhile, on one core, where the system can do it."""
    return _on(ALLOWED if CORE is None else frozenset({CORE}))


def all_cores() -> AbstractContextManager[None]:
    """Within ``one_core``: let this thread, and those it starts meanwhile, use all cores again."""
    return _on(ALLOWED)


def one_blas_thread() -> AbstractContextManager[Any] | None:
    """Keep NumPy's matrix products on one thread; None where nothing here can do it.

    Libraries that are loaded later are not held.
    """
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        return contextlib.nullcontext() if usable_cores() == 1 else None
    limits: AbstractContextManager[Any] = threadpool_limits(1, "blas")
    return limits


def facts() -> dict[str, Any]:
    """What a report says about the machine, without names of people, hosts or folders."""
    return {
        "cpu": cpu_name(),
        "architecture": platform.machine(),
        "cores_usable": usable_cores(),
        "pinned_to_core": CORE,
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
