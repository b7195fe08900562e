"""fastnn on a GPU, with data that lie there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastnn as fn
from fastnn._cli.bench.gpu.timing import seconds_of_numba
from fastnn._cli.bench.peers import Peer, in_precision
from fastnn._cli.bench.peers.own import output_activation
from fastnn._cli.bench.workloads import Case


class FastnnCuda(Peer):
    """``Sequential.fit`` without shuffling, and ``predict``; several networks are a ``Population``."""

    packages = ("numba", "numba-cuda", "numpy")
    on_one_core = False

    def __init__(self, case: Case):
        from fastnn.cuda._jit import cuda

        super().__init__(case)
        work = case.workload
        *hidden, n_out = work.widths[1:]
        layers = [*(fn.Dense(units, work.hidden) for units in hidden), fn.Dense(n_out, output_activation(work.loss))]
        precision = None if self.precision == "float32" else self.precision
        net = fn.Sequential(
            layers, n_inputs=work.widths[0], seed=0, dtype=case.dtype, device="cuda", precision=precision
        )
        self._net: Any = net if work.networks == 1 else fn.Population(net, work.networks)
        self._first = {
            f"{k}.{part}": value
            for k, layer in enumerate(case.weights)
            for part, value in zip(("weight", "bias"), layer, strict=True)
        }
        self._start = np.array([np.concatenate([part.ravel() for w in start for part in w]) for start in case.starts])
        self._reset()
        self._x, self._y = cuda.to_device(case.x), cuda.to_device(case.y)

    def _reset(self) -> None:
        """The initial weights, which lie on the GPU when this returns."""
        if self.case.workload.networks == 1:
            self._net.set_parameters(self._first)
        else:
            self._net.to("cpu").parameters[:] = self._start
            self._net.to("cuda").parameters  # noqa: B018, they go there when asked for

    def _begin(self) -> fn.optimizers.Optimizer:
        self._reset()
        return {"sgd": fn.SGD, "adam": fn.Adam}[self.case.workload.optimizer or ""](self.case.workload.rate)

    def _fit(self, optimizer: fn.optimizers.Optimizer, rows: slice, epochs: int) -> NDArray[Any]:
        work = self.case.workload
        quiet = {"progress": False} if work.networks == 1 else {}  # a population shows none
        history = self._net.fit(
            self._x[rows], self._y[rows], loss=work.loss or "", optimizer=optimizer, epochs=epochs,
            batch_size=work.rows, shuffle=False, **quiet,
        )  # fmt: skip
        return np.asarray(history.loss)

    def losses(self, n: int) -> NDArray[Any]:
        optimizer, work = self._begin(), self.case.workload
        starts = [k % work.batches * work.rows for k in range(n)]
        return np.concatenate([self._fit(optimizer, slice(start, start + work.rows), 1) for start in starts])

    def train(self, passes: int) -> float:
        optimizer = self._begin()
        return seconds_of_numba(lambda: self._fit(optimizer, slice(None), passes))

    def outputs(self) -> NDArray[Any]:
        out: Any = self._net.predict(self._x)
        found: NDArray[Any] = out.copy_to_host()
        return found

    def predict(self, calls: int) -> float:
        def work() -> None:
            for _ in range(calls):
                self._net.predict(self._x)

        return seconds_of_numba(work)


FastnnTF32, FastnnBF16 = in_precision(FastnnCuda, "tf32"), in_precision(FastnnCuda, "bf16")
