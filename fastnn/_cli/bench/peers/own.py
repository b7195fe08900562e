"""fastnn, as its users call it: ``fit`` and ``predict``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastnn as fn
from fastnn._cli.bench.peers import Peer
from fastnn._cli.bench.workloads import Case

_OUTPUTS = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}


class Fastnn(Peer):
    """``Sequential.fit`` without shuffling, with everything it does around the steps."""

    packages = ("numba", "llvmlite", "numpy")

    def __init__(self, case: Case):
        super().__init__(case)
        work = case.workload
        *hidden, n_out = work.widths[1:]
        output = _OUTPUTS.get(work.loss) if work.loss else None
        layers = [*(fn.Dense(units, work.hidden) for units in hidden), fn.Dense(n_out, output)]
        self._net = fn.Sequential(layers, n_inputs=work.widths[0], seed=0, dtype=case.dtype)
        for k, (weight, bias) in enumerate(case.weights):
            self._net.set_parameters({f"{k}.weight": weight, f"{k}.bias": bias})
        self._start = self._net.parameters.copy()

    @staticmethod
    def product(a: NDArray[Any], b: NDArray[Any]) -> Callable[[], Any]:
        # A linear layer: one product, with what ``predict`` does around it.
        net = fn.Sequential([fn.Dense(b.shape[1])], n_inputs=b.shape[0], dtype=b.dtype)
        net.set_parameters({"0.weight": b})
        return lambda: net.predict(a)

    def _begin(self) -> fn.optimizers.Optimizer:
        self._net.parameters[:] = self._start
        return {"sgd": fn.SGD, "adam": fn.Adam}[self.case.workload.optimizer or ""](self.case.workload.rate)

    def _fit(self, optimizer: fn.optimizers.Optimizer, rows: slice, epochs: int) -> list[float]:
        work = self.case.workload
        history = self._net.fit(
            self.case.x[rows], self.case.y[rows], loss=work.loss or "", optimizer=optimizer, epochs=epochs,
            batch_size=work.rows, shuffle=False, progress=False,
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
        return self._net.predict(self.case.x)

    def predict(self, calls: int) -> float:
        predict, x = self._net.predict, self.case.x
        begin = time.perf_counter()
        for _ in range(calls):
            predict(x)
        return time.perf_counter() - begin
