"""fastnn, as its users call it: ``fit`` and ``predict``."""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastnn as fn
from fastnn._cli.bench import machine
from fastnn._cli.bench.peers import Peer, UnavailableError
from fastnn._cli.bench.workloads import Case
from fastnn._rows import CLAMP
from fastnn.cpu.gemm import gemm


def output_activation(loss: str | None) -> str | None:
    """What belongs before a loss."""
    return {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}.get(loss or "")


class Fastnn(Peer):
    """``Sequential.fit`` without shuffling, with everything it does around the steps."""

    packages = ("numba", "llvmlite", "numpy")
    n_threads = 1

    def __init__(self, case: Case):
        super().__init__(case)
        work = case.workload
        *hidden, n_out = work.widths[1:]
        layers = [*(fn.Dense(units, work.hidden) for units in hidden), fn.Dense(n_out, output_activation(work.loss))]
        self._net = fn.Sequential(layers, n_inputs=work.widths[0], seed=0, dtype=case.dtype)
        for k, (weight, bias) in enumerate(case.weights):
            self._net.set_parameters({f"{k}.weight": weight, f"{k}.bias": bias})
        self._start = self._net.parameters.copy()

    @staticmethod
    def product(a: NDArray[Any], b: NDArray[Any]) -> Callable[[], Any]:
        (m, k), n, out = a.shape, b.shape[1], np.empty((a.shape[0], b.shape[1]), a.dtype)
        real = ctypes.c_float if a.dtype == np.float32 else ctypes.c_double
        p, size = ctypes.c_void_p, ctypes.c_int64
        kinds = (size, size, size, p, size, size, p, size, size, p, size, p, size, size, size, size, p, size, real)
        function = ctypes.CFUNCTYPE(None, *kinds)(gemm.address(a.dtype))
        to = out.ctypes.data
        arguments = (
            m, n, k, a.ctypes.data, k, 1, b.ctypes.data, n, 1, to, n, to, 0, 0, 0, CLAMP, to, 0, -math.inf
        )  # fmt: skip

        def multiply(operands: tuple[Any, ...] = (a, b, out)) -> None:  # which live as long as the function
            function(*arguments)

        return multiply

    def _begin(self) -> fn.optimizers.Optimizer:
        self._net.parameters[:] = self._start
        return {"sgd": fn.SGD, "adam": fn.Adam}[self.case.workload.optimizer or ""](self.case.workload.rate)

    def _fit(self, optimizer: fn.optimizers.Optimizer, rows: slice, epochs: int) -> list[float]:
        work = self.case.workload
        history = self._net.fit(
            self.case.x[rows], self.case.y[rows], loss=work.loss or "", optimizer=optimizer, epochs=epochs,
            batch_size=work.rows, shuffle=False, progress=False, n_threads=self.n_threads,
        )  # fmt: skip
        return history.loss

    def losses(self, n: int) -> NDArray[Any]:
        optimizer, rows = self._begin(), self.case.workload.rows
        return np.concatenate([self._fit(optimizer, slice(k * rows, (k + 1) * rows), 1) for k in range(n)])

    def train(self, passes: int) -> float:
        optimizer = self._begin()
        begin = time.perf_counter()
        self._fit(optimizer, slice(None), passes)
        return time.perf_counter() - begin

    def outputs(self) -> NDArray[Any]:
        return self._net.predict(self.case.x, self.n_threads)

    def predict(self, calls: int) -> float:
        predict, x, threads = self._net.predict, self.case.x, self.n_threads
        begin = time.perf_counter()
        for _ in range(calls):
            predict(x, threads)
        return time.perf_counter() - begin


class FastnnThreads(Fastnn):
    """The same with as many threads as there are cores, where fastnn finds that they pay."""

    on_one_core = False
    n_threads = machine.usable_cores()

    def __init__(self, case: Case):
        if self.n_threads == 1:
            raise UnavailableError("this process may use one core only")
        super().__init__(case)

    def run(self, passes: int) -> float:
        with machine.all_cores():
            return super().run(passes)
