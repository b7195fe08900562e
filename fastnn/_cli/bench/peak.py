"""How fast this core multiplies matrices: the best of the installed libraries, measured beside the workloads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn._cli.bench import peers

# (m, n, k): squares, and the forward products of two workloads.
SIZES = ((256, 256, 256), (512, 512, 512), (1024, 1024, 1024), (128, 512, 784), (128, 128, 784))
_SECONDS = 0.004  # of one block; a product that lasts longer is timed alone


class Peak:
    """The GEMM peak in one dtype.

    All libraries that are here multiply, whichever peers are asked for: a library alone may know the processor badly,
    and what is measured against its products would look too good.

    Parameters
    ----------
    dtype : str
    numpy_is_single : bool
        Whether NumPy's products run on one thread; else they are left out.
    """

    def __init__(self, dtype: str, numpy_is_single: bool):
        makers: dict[str, Callable[[Any, Any], Callable[[], Any] | None]] = {}
        if numpy_is_single:
            makers["numpy"] = _numpy_product
        for name in peers.NAMES:
            try:
                kind = peers.load(name)
            except peers.UnavailableError:
                continue
            if "product" in vars(kind):  # not a variant that inherits it
                makers[name] = kind.product
        rng = np.random.default_rng(0)
        self._products = []
        for m, n, k in SIZES:
            a, b = rng.standard_normal((m, k)).astype(dtype), rng.standard_normal((k, n)).astype(dtype)
            for library, maker in makers.items():
                product = maker(a, b)
                if product is not None:
                    self._products.append(_Timed(library, (m, n, k), product))

    def measure(self) -> None:
        """Time each product once more."""
        for product in self._products:
            product.measure()

    def result(self) -> dict[str, Any] | None:
        """The best product since the last call: its "gflops", "library" and "size"; None where nothing was measured.

        The best of the products' medians: medians, as the workloads' times are, so that a moment of turbo clock does
        not set the scale.
        """
        found: list[dict[str, Any]] = [
            {"gflops": statistics.median(each.rates), "library": each.library, "size": list(each.size)}
            for each in self._products
            if each.rates
        ]
        for each in self._products:
            each.rates.clear()
        return max(found, key=lambda entry: entry["gflops"], default=None)


class _Timed:
    """One product in one library."""

    def __init__(self, library: str, size: tuple[int, int, int], product: Callable[[], Any]):
        self.library, self.size, self._product = library, size, product
        self.rates: list[float] = []
        product()
        self._times = max(1, round(_SECONDS / self._seconds(1)))

    def _seconds(self, times: int) -> float:
        begin = time.perf_counter()
        for _ in range(times):
            self._product()
        return time.perf_counter() - begin

    def measure(self) -> None:
        m, n, k = self.size
        self.rates.append(2 * m * n * k * self._times / self._seconds(self._times) / 1e9)


def _numpy_product(a: Any, b: Any) -> Callable[[], Any]:
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)
    return lambda: np.dot(a, b, out=out)
