"""The kernels alone: matrix products, optimizer updates, activations and losses, beside what the machine can do.

Each family is measured in one process (``setup_cache``), which compiles its loop once; the tracked functions look the
numbers up.
"""

from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

import fastnn as fn
from fastnn._cli.bench.peak import Peak
from fastnn._rows import CLAMP, GATE
from fastnn.cpu.gemm import gemm
from fastnn.cpu.state import aligned

from . import _loops

DTYPES = ("float32", "float64")
# Widths of a network and the rows of a batch, or of a piece of one.
NETWORKS = (
    ((20, 64, 64, 1), 32),
    ((784, 128, 10), 32),
    ((784, 128, 10), 128),
    ((784, 512, 512, 10), 128),
    ((17, 256, 256, 6), 256),
    ((4, 32, 16, 4), 512),
)
PARAMETERS = (4096, 100_000, 2_000_000)  # with their moments in the first-level cache, the second or third, and memory
ROWS, COLUMNS = 32, 64  # of activations: 2,048 elements, in the first-level cache
LOSS_ROWS, LOSS_COLUMNS = 128, 16
_LIMIT = 600  # seconds; on an empty cache nearly all kernels of the library are compiled


class Product(NamedTuple):
    """One of a dense layer's products: C (m, n) = A (m, k) @ B (k, n)."""

    use: str  # "forward" X W + b with ReLU, "weights" X^T dZ, "inputs" dZ W^T with the slope of a ReLU
    m: int
    n: int
    k: int

    @property
    def name(self):
        return f"{self.use} {self.m} x {self.n} x {self.k}"

    @property
    def flops(self):
        """A multiplication and an addition for each of k terms of m n sums."""
        return 2 * self.m * self.n * self.k


def products_of(widths, rows):
    """The products of a training step; the first layer needs no gradient of its inputs."""
    found = []
    for layer, (n_in, n_out) in enumerate(pairwise(widths)):
        found += [Product("forward", rows, n_out, n_in), Product("weights", n_in, n_out, rows)]
        if layer > 0:
            found.append(Product("inputs", rows, n_in, n_out))
    return found


_SQUARES = [Product(use, 1024, 1024, 1024) for use in ("forward", "weights", "inputs")]
PRODUCTS = {each.name: each for network in NETWORKS for each in products_of(*network)}
PRODUCTS |= {each.name: each for each in _SQUARES}

OPTIMIZERS = {name: fn.optimizers.get(name) for name in fn.optimizers.names() if name != fn.LBFGS.name}
OPTIMIZERS["sgd momentum"] = fn.SGD(momentum=0.9)


def update_bytes(n, n_slots, itemsize):
    """Bytes that an update moves: parameters and slots are read and written, gradients read."""
    return n * itemsize * (3 + 2 * n_slots)


def _normal(dtype, *shape):
    """Normal numbers that begin on a cache line, as the engine's workspaces do."""
    out = aligned(int(np.prod(shape)), np.dtype(dtype))
    out[:] = np.random.default_rng(0).standard_normal(out.size)
    return out


def product_seconds(product, dtype):
    """Seconds of one product, with operands laid out and an epilogue as the engine has them."""
    use, m, n, k = product
    a, b, c, start, e = (_normal(dtype, *shape) for shape in ((m, k), (k, n), (m, n), (n,), (m, n)))
    a_strides = (1, m) if use == "weights" else (k, 1)
    b_strides = (1, k) if use == "inputs" else (n, 1)
    modes = {"forward": (1, 0, CLAMP), "weights": (0, 1, CLAMP), "inputs": (0, 0, GATE)}[use]
    low = np.dtype(dtype).type(0.0 if use == "forward" else -np.inf)
    entry = gemm.entry(np.dtype(dtype))
    return _loops.seconds(_loops.products, entry, (m, n, k), a, a_strides, b, b_strides, c, start, modes, e, low)


def update_seconds(optimizer, n, dtype):
    """Seconds of one update of n parameters."""
    kind, optimizer = np.dtype(dtype), optimizer.copy()
    theta, grad = _normal(dtype, n), _normal(dtype, n)
    slots = aligned(optimizer.n_slots * n, kind)
    slots[: optimizer.n_slots * n] = optimizer.initial_slots(n, kind).ravel()
    scalars, rate = optimizer.bind(n, kind).scalars, optimizer.learning_rates(0, 1)[0]
    begin, update = (native.entry(kind) for native in (optimizer.begin_native, optimizer.update_native))
    coefficients = np.zeros(12, kind)
    return _loops.seconds(
        _loops.updates, begin, update, theta, grad, slots, scalars, optimizer.hyper, rate, coefficients
    )


@cache
def copy_gigabytes(size):
    """GB/s, read and written, of copies between two halves of so many bytes."""
    a, b = (aligned(size // 16, np.dtype("float64")) for _ in range(2))
    return (a.nbytes + b.nbytes) / _loops.seconds(_loops.copies, a, b) / 1e9


def activation_seconds(activation, dtype, slope):
    """Seconds of one call on ROWS x COLUMNS elements."""
    arrays = [_normal(dtype, ROWS, COLUMNS) for _ in range(3 if slope else 2)]
    params = np.array(activation.parameter_values, dtype)
    loop, native = _loops.values, activation.value_native
    if slope:
        loop, native = _loops.values_and_slopes, activation.forward_native
    return _loops.seconds(loop, native.entry(np.dtype(dtype)), *arrays, ROWS, COLUMNS, params)


def loss_seconds(loss, dtype):
    """Seconds of row losses and gradient of LOSS_ROWS x LOSS_COLUMNS outputs; labels where rows are classes."""
    kind, rng = np.dtype(dtype), np.random.default_rng(0)
    shape = LOSS_ROWS, LOSS_COLUMNS
    y = rng.integers(0, LOSS_COLUMNS, LOSS_ROWS) if loss.rowwise else rng.integers(0, 2, shape)
    y, labels = loss.prepare_targets(y, LOSS_COLUMNS, kind)
    fused = {"binary_cross_entropy": "sigmoid"}.get(loss.name, "softmax" if loss.rowwise else "identity")
    resolved = loss.resolve(fused, LOSS_COLUMNS)
    o, d = _normal(dtype, *shape), _normal(dtype, *shape)
    weights, row_losses = np.ones(LOSS_ROWS, kind), np.empty(LOSS_ROWS, kind)
    return _loops.seconds(
        _loops.losses, resolved.native.entry(kind), o, y.ravel(), y.shape[1], int(labels), weights, d, *shape,
        kind.type(1 / LOSS_ROWS), row_losses, np.array(resolved.parameter_values, kind),
    )  # fmt: skip


class _Measured:
    """``setup_cache`` gives a dictionary whose keys are the parameters."""

    def setup(self, found, *key):
        self.found = found[key]


class _Products(_Measured):
    def setup_cache(self):
        """GFLOP/s and share of the peak of each product; GFLOP/s of the peak, the best of all, other libraries too."""
        found = {}
        for dtype in DTYPES:
            peak, rates = Peak(dtype, numpy_is_single=True), {}
            for k, (name, product) in enumerate(PRODUCTS.items()):
                if k % (len(PRODUCTS) // 3) == 0:
                    peak.measure()
                rates[name] = product.flops / product_seconds(product, dtype) / 1e9
            peak.measure()
            best = max(peak.result()["gflops"], *rates.values())
            found |= {(name, dtype): (rate, rate / best) for name, rate in rates.items()} | {(dtype,): best}
        return found

    setup_cache.timeout = _LIMIT


class Products(_Products):
    """Matrix products of the standard networks, and of squares: use m x n x k."""

    params = (tuple(PRODUCTS), DTYPES)
    param_names = ("product", "dtype")

    def track_gflops(self, found, product, dtype):
        return self.found[0]

    track_gflops.unit = "GFLOP/s"

    def track_share_of_peak(self, found, product, dtype):
        return self.found[1]

    track_share_of_peak.unit = "of the peak"


class PeakProduct(_Products):
    """The best of all products measured, in fastnn and in the other libraries that are here: this machine's peak."""

    params = (DTYPES,)
    param_names = ("dtype",)
    unit = "GFLOP/s"

    def track_gflops(self, found, dtype):
        return self.found


class Updates(_Measured):
    """Updates of optimizers, by the bytes that they read and write."""

    params = (tuple(OPTIMIZERS), PARAMETERS, DTYPES)
    param_names = ("optimizer", "parameters", "dtype")

    def setup_cache(self):
        """GB/s of each update, and of copies over as much memory."""
        found = {}
        for name, optimizer in OPTIMIZERS.items():
            for n in PARAMETERS:
                for dtype in DTYPES:
                    slots, itemsize = optimizer.n_slots, np.dtype(dtype).itemsize
                    rate = update_bytes(n, slots, itemsize) / update_seconds(optimizer, n, dtype) / 1e9
                    found[name, n, dtype] = rate, copy_gigabytes((2 + slots) * n * itemsize)
        return found

    setup_cache.timeout = _LIMIT

    def track_gigabytes(self, found, optimizer, parameters, dtype):
        return self.found[0]

    track_gigabytes.unit = "GB/s"

    def track_share_of_copy(self, found, optimizer, parameters, dtype):
        return self.found[0] / self.found[1]

    track_share_of_copy.unit = "of a copy's GB/s"


class Activations(_Measured):
    """Activations in the first-level cache; those of whole rows have no slopes."""

    params = (fn.activations.names(), DTYPES, ("value", "value and slope"))
    param_names = ("activation", "dtype", "what")
    unit = "ns an element"

    def setup_cache(self):
        found = {}
        for name, dtype, what in ((n, d, w) for n in fn.activations.names() for d in DTYPES for w in self.params[2]):
            activation, slope = fn.activations.get(name), what != "value"
            if not (slope and activation.rowwise):
                found[name, dtype, what] = activation_seconds(activation, dtype, slope) / (ROWS * COLUMNS) * 1e9
        return found

    setup_cache.timeout = _LIMIT

    def setup(self, found, *key):
        if key not in found:
            raise NotImplementedError
        super().setup(found, *key)

    def track_nanoseconds(self, found, activation, dtype, what):
        return self.found


class Losses(_Measured):
    """Losses with their gradients, in the first-level cache."""

    params = (fn.losses.names(), DTYPES)
    param_names = ("loss", "dtype")
    unit = "ns an element"

    def setup_cache(self):
        n = LOSS_ROWS * LOSS_COLUMNS
        return {
            (name, dtype): loss_seconds(fn.losses.get(name), dtype) / n * 1e9
            for name in fn.losses.names()
            for dtype in DTYPES
        }

    setup_cache.timeout = _LIMIT

    def track_nanoseconds(self, found, loss, dtype):
        return self.found
