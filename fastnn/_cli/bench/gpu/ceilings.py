"""What the GPU can do at the most, measured beside the workloads: a copy in its memory, and large matrix products."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastnn._cli.bench.gpu.timing import seconds_of_numba, seconds_of_torch

_NUMBERS = 1 << 28  # of float32 in a copy, far more than the caches hold
_SIDE = 8192  # of the matrices
_TIMES = 5  # each in one block


class Ceilings:
    """Bandwidth and arithmetic peaks; takes the place of the CPU's ``Peak`` in ``measure.compare``.

    The peaks are PyTorch's products in float32, tf32 and bf16; without PyTorch there are none.
    """

    def __init__(self) -> None:
        from fastnn.cuda._jit import cuda

        source, target = (cuda.device_array(_NUMBERS, np.float32) for _ in range(2))
        self._copy = partial(target.copy_to_device, source)
        self._copy_bytes = 2 * source.nbytes  # read and written
        self._products = _products()
        self._bandwidths: list[float] = []
        self._rates: dict[str, list[float]] = {precision: [] for precision in self._products}
        self.measure()  # the first calls are slower
        self.result()

    def measure(self) -> None:
        """Time the copy and each product once more."""
        self._bandwidths.append(self._copy_bytes * _TIMES / seconds_of_numba(partial(_repeat, self._copy)) / 1e9)
        for precision, product in self._products.items():
            self._rates[precision].append(2 * _SIDE**3 * _TIMES / seconds_of_torch(partial(_repeat, product)) / 1e9)

    def result(self) -> dict[str, Any]:
        """Medians since the last call: "gigabytes_per_second", and "gflops" by precision."""
        found = {
            "gigabytes_per_second": statistics.median(self._bandwidths),
            "gflops": {precision: statistics.median(rates) for precision, rates in self._rates.items()},
        }
        for rates in (self._bandwidths, *self._rates.values()):
            rates.clear()
        return found


def _repeat(function: Callable[[], Any]) -> None:
    for _ in range(_TIMES):
        function()


def _products() -> dict[str, Callable[[], Any]]:
    """A large matrix product in each precision."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {}
    a, b = (torch.randn(_SIDE, _SIDE, device="cuda") for _ in range(2))

    def product(x: Any, y: Any, precision: str) -> None:
        torch.set_float32_matmul_precision(precision)
        x @ y

    return {
        "float32": partial(product, a, b, "highest"),
        "tf32": partial(product, a, b, "high"),
        "bf16": partial(product, a.bfloat16(), b.bfloat16(), "highest"),
    }
