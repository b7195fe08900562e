"""Threads that walk the same steps together: a barrier in shared memory, and the Python threads that enter the kernels.

A team lasts for one training run. Its threads call the same compiled chunk as the caller; inside, they wait for each
other at barriers, which take a fraction of a microsecond while all of them run. Nothing here depends on a threading
layer: forking stays safe once a run is over, and runs in several Python threads do not disturb each other.
"""

from __future__ import annotations

import ctypes
import os
import platform
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastnn import _checks
from fastnn._jit import intrinsic, scalar
from fastnn.cpu.simd import I32, I64

# int64 numbers of a team's shared memory, each on a cache line of its own.
_ARRIVED, _GENERATION, _YIELD, _SIZE = 0, 16, 32, 48
# Looks at the generation before the thread offers its core to others.
_PATIENCE = 2000


@intrinsic
def _read(typingctx: Any, pointer: Any, index: Any) -> Any:
    """Atomic load; what was written before the matching `_write` is visible after it."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(builder.gep(args[0], [args[1]]), "acquire", 8)

    return types.int64(pointer, types.int64), codegen


@intrinsic
def _write(typingctx: Any, pointer: Any, index: Any, value: Any) -> Any:
    def codegen(context, builder, sig, args):
        builder.store_atomic(args[2], builder.gep(args[0], [args[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(pointer, types.int64, types.int64), codegen


@intrinsic
def _add_one(typingctx: Any, pointer: Any, index: Any) -> Any:
    """Atomic increment; returns the number before it."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", builder.gep(args[0], [args[1]]), ir.Constant(I64, 1), "acq_rel")

    return types.int64(pointer, types.int64), codegen


@intrinsic
def _pause(typingctx: Any) -> Any:
    """Tell the core that this is a waiting loop."""

    def codegen(context, builder, sig, args):
        machine = platform.machine().lower()
        if machine in ("x86_64", "amd64", "i686"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        elif machine in ("aarch64", "arm64"):
            kind = ir.FunctionType(ir.VoidType(), [I32])
            hint = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint")
            builder.call(hint, [ir.Constant(I32, 1)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _call(typingctx: Any, address: Any) -> Any:
    """Call a C function without arguments."""

    def codegen(context, builder, sig, args):
        builder.call(builder.inttoptr(args[0], ir.FunctionType(I32, []).as_pointer()), [])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@scalar
def barrier(team, parts):
    """Return when all ``parts`` threads are here; what they wrote before is visible after."""
    if parts == 1:
        return
    generation = _read(team, _GENERATION)
    if _add_one(team, _ARRIVED) == parts - 1:
        _write(team, _ARRIVED, 0)
        _write(team, _GENERATION, generation + 1)
        return
    looks = 0
    while _read(team, _GENERATION) == generation:
        _pause()
        looks += 1
        if looks % _PATIENCE == 0:
            _call(_read(team, _YIELD))


def _address_of_yield() -> int:
    library: Any = ctypes.CDLL(None) if os.name == "posix" else ctypes.CDLL("kernel32")
    function = library.sched_yield if os.name == "posix" else library.SwitchToThread
    return int(ctypes.cast(function, ctypes.c_void_p).value or 0)


def shared_memory() -> np.ndarray:
    """What a team's barrier works on."""
    memory = np.zeros(_SIZE, np.int64)
    memory[_YIELD] = _address_of_yield()
    return memory


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def most_threads(n_threads: int | None) -> int:
    """Check ``n_threads``; None: ``FASTNN_NUM_THREADS``, or all cores that this process may run on."""
    if n_threads is not None:
        return _checks.integer("n_threads", n_threads, low=1)
    text = os.environ.get("FASTNN_NUM_THREADS", "")
    if not text:
        return available_cores()
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"FASTNN_NUM_THREADS must be an integer >= 1, got {text!r}")
    return int(text)


class Team:
    """Python threads beside the caller's own, to be closed when the run is over.

    Parameters
    ----------
    size : int
        All threads, the caller's included.
    """

    def __init__(self, size: int):
        self.size = size
        self.memory = shared_memory()
        self._tasks: list[queue.SimpleQueue[Callable[[], Any] | None]] = []
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        for _ in range(size - 1):
            tasks: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
            threading.Thread(target=self._serve, args=(tasks,), daemon=True, name="fastnn").start()
            self._tasks.append(tasks)

    def _serve(self, tasks: queue.SimpleQueue[Callable[[], Any] | None]) -> None:
        while (task := tasks.get()) is not None:
            error: BaseException | None = None
            try:
                task()
            except BaseException as raised:  # handed to the caller
                error = raised
            self._done.put(error)

    def run(self, call: Callable[[int], Any], parts: int) -> Any:
        """``call(part)`` for each part below ``parts`` at once; returns what part 0, the caller's, gave."""
        for part in range(1, parts):
            self._tasks[part - 1].put(partial(call, part))
        try:
            return call(0)
        finally:
            errors = [self._done.get() for _ in range(1, parts)]
            for error in errors:
                if error is not None:
                    raise error

    def close(self) -> None:
        """End the threads."""
        for tasks in self._tasks:
            tasks.put(None)
        self._tasks = []


class Pace:
    """Chooses how many threads walk the steps of a run: by what steps have cost, never by what they should cost.

    It begins with one thread. Now and then a short trial goes to the next number of threads up or down, and whatever
    was fastest stays. Trials become rarer as long as they change nothing, and take about a hundredth of the time
    between them.

    Parameters
    ----------
    most : int
        Largest number of threads.
    """

    _FIRST_TRIAL = 0.03  # seconds
    _RAREST_TRIAL = 4.0
    _TRIAL_SHARE = 0.01
    _LEAST_TRIAL = 0.001  # seconds: waking the threads must not count
    _GAIN = 0.97
    # A first step that takes so many times as long was waiting for a core that others use.
    _HOPELESS = 100.0

    def __init__(self, most: int):
        ladder = [1]
        while ladder[-1] * 2 <= most:
            ladder.append(ladder[-1] * 2)
        if ladder[-1] < most:
            ladder.append(most)
        self._ladder = ladder
        self._at = 0  # position of the number in use
        self._trial: int | None = None  # position of the number on trial
        self._upwards = True
        self._warm = False
        self._spent = 0.0
        self._wait = self._FIRST_TRIAL
        self._cost = 0.0  # seconds a step with the number in use

    @property
    def threads(self) -> int:
        """For the next chunk of steps."""
        return self._ladder[self._at if self._trial is None else self._trial]

    def limit(self, n_steps: int) -> int:
        """How many of ``n_steps`` the next chunk should hold: trials are short."""
        if self._trial is None:
            return n_steps
        if not self._warm:
            return 1
        seconds = max(self._LEAST_TRIAL, self._TRIAL_SHARE * self._spent)
        return min(n_steps, max(2, int(seconds / self._cost)))

    def saw(self, seconds: float, n_steps: int) -> None:
        """Take note of what the chunk cost."""
        cost = seconds / n_steps
        if self._trial is None:
            self._cost = cost
            self._spent += seconds
            if self._spent >= self._wait:
                self._begin_trial()
        elif not self._warm and cost < self._HOPELESS * self._cost:
            self._warm = True  # the first step of a trial has woken threads and touched memory
        else:
            better = self._warm and cost < self._GAIN * self._cost
            self._wait = self._FIRST_TRIAL if better else min(4 * self._wait, self._RAREST_TRIAL)
            if better:
                self._at, self._cost = self._trial, cost
            else:
                self._upwards = not self._upwards
            self._trial, self._spent = None, 0.0

    def _begin_trial(self) -> None:
        for upwards in (self._upwards, not self._upwards):
            position = self._at + (1 if upwards else -1)
            if 0 <= position < len(self._ladder):
                self._trial, self._upwards, self._warm = position, upwards, False
                return
        self._spent = 0.0


class Pool:
    """Threads for independent parts of one call, kept for later calls."""

    def __init__(self, size: int):
        self._executor = ThreadPoolExecutor(size, thread_name_prefix="fastnn")
        self.run(_nothing, size)
        begin = time.perf_counter()
        for _ in range(5):
            self.run(_nothing, size)
        self.cost = (time.perf_counter() - begin) / 5  # seconds that sharing a call takes

    def run(self, call: Callable[[int], Any], parts: int) -> None:
        """``call(part)`` for each part below ``parts``, the first in the caller's own thread."""
        others = [self._executor.submit(call, part) for part in range(1, parts)]
        try:
            call(0)
        finally:
            wait(others)
        for other in others:
            other.result()


def _nothing(part: int) -> None:
    pass


_pools: dict[tuple[int, int], Pool] = {}
_pools_lock = threading.Lock()


def pool(size: int) -> Pool:
    """The pool of that size; a forked process, in which threads do not live on, makes its own."""
    key = (os.getpid(), size)
    with _pools_lock:
        if key not in _pools:
            _pools[key] = Pool(size)
        return _pools[key]
