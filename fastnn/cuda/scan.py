"""Kernels that look at data: where in an array is the first element that fails a test?

Each block writes the smallest index it has found for each test, as a row of int64; the host takes the smallest of
these. So nothing has to be set before a launch, and the answer does not depend on the order of blocks.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn.cuda import streams
from fastnn.cuda._jit import SIMULATED, cuda, device, kernel
from fastnn.cuda.intrinsics import load, load4

THREADS = 4 if SIMULATED else 256
# Numba warns of fewer than 128 blocks; those without work cost next to nothing.
_BLOCKS = (1, 2) if SIMULATED else (128, 1024)


def blocks_for(items: int) -> int:
    """Blocks of a launch whose threads stride over so many items."""
    return min(max(-(-items // THREADS), _BLOCKS[0]), _BLOCKS[1])


def minima(scan: Any, count: int, items: int, *arguments: Any) -> list[int]:
    """Launch a kernel of this module; its ``count`` smallest indices, after one small copy."""
    blocks = blocks_for(items)
    found = streams.empty((blocks, count), np.int64)
    scan[blocks, THREADS, streams.current()](*arguments, found)
    by_block: NDArray[np.int64] = streams.to_host(found)
    return [int(smallest) for smallest in by_block.min(axis=0)]


@device
def first_item():
    """The item that this thread begins with, as int64."""
    return np.int64(cuda.blockIdx.x) * np.int64(cuda.blockDim.x) + np.int64(cuda.threadIdx.x)


@device
def step():
    """How far the thread's next item is."""
    return np.int64(cuda.gridDim.x) * np.int64(cuda.blockDim.x)


def _smallest(count: int) -> Any:
    """``(own, found)``: row ``blockIdx.x`` of ``found`` becomes the minimum of the threads' ``own``, (count,)."""

    @device
    def smallest(own, found):
        shared = cuda.shared.array((count, THREADS), np.int64)
        t = cuda.threadIdx.x
        for k in range(count):
            shared[k, t] = own[k]
        cuda.syncthreads()
        half = THREADS // 2
        while half > 0:
            if t < half:
                for k in range(count):
                    shared[k, t] = min(shared[k, t], shared[k, t + half])
            cuda.syncthreads()
            half //= 2
        if t == 0:
            for k in range(count):
                found[cuda.blockIdx.x, k] = shared[k, 0]

    return smallest


_N_WEIGHTS = 3
_smallest_1, _smallest_of_weights = _smallest(1), _smallest(_N_WEIGHTS)


@kernel(THREADS)
def finite(x, vectors, found):
    """The first element of ``x`` (n,) that is NaN or infinite, else n.

    The first ``4 * vectors`` elements are read four at a time; they need an address that is a multiple of 16.
    """
    first = cuda.local.array(1, np.int64)
    size = np.int64(x.shape[0])
    first[0] = size
    i = first_item()
    while i < vectors:
        a, b, c, d = load4(x, 4 * i)
        if not (math.isfinite(a) and math.isfinite(b) and math.isfinite(c) and math.isfinite(d)):
            for k in range(4):
                if not math.isfinite(load(x, 4 * i + k)):
                    first[0] = min(first[0], 4 * i + k)
        i += step()
    i = 4 * vectors + first_item()
    while i < size:
        if not math.isfinite(load(x, i)):
            first[0] = min(first[0], i)
        i += step()
    _smallest_1(first, found)


def first_infinite(x: Any) -> int | None:
    """Where in a contiguous device array (n,) of float32 or float64 the first NaN or infinity is."""
    n = x.shape[0]
    aligned = SIMULATED or x.device_ctypes_pointer.value % 16 == 0
    (first,) = minima(finite, 1, -(-n // 4), x, np.int64(n // 4 if aligned else 0))
    return first if first < n else None


@kernel(THREADS)
def finite_in_parts(x, apart, size, found):
    """The first of the first ``size`` elements of each part that is NaN or infinite, else ``size``; a block a part.

    Parts of ``x`` (n,) begin ``apart`` elements from each other.
    """
    first = cuda.local.array(1, np.int64)
    first[0] = size
    begin = np.int64(cuda.blockIdx.x) * apart
    for i in range(np.int64(cuda.threadIdx.x), size, THREADS):
        if not math.isfinite(load(x, begin + i)):
            first[0] = min(first[0], i)
    _smallest_1(first, found)


def parts_finite(x: Any, parts: int, size: int) -> NDArray[np.bool_]:
    """Whether the first ``size`` elements are finite, (parts,), of each of the equal parts of a device array (n,)."""
    found = streams.empty((parts, 1), np.int64)
    finite_in_parts[parts, THREADS, streams.current()](x, np.int64(x.shape[0] // parts), np.int64(size), found)
    return streams.to_host(found)[:, 0] == size


@kernel(THREADS)
def weights(w, found):
    """The first of ``w`` (n,) that is not finite, the first that is negative, the first that is not 0; else n."""
    first = cuda.local.array(_N_WEIGHTS, np.int64)
    size = np.int64(w.shape[0])
    for k in range(_N_WEIGHTS):
        first[k] = size
    i = first_item()
    while i < size:
        value = load(w, i)
        if not math.isfinite(value):
            first[0] = min(first[0], i)
        if value < type(value)(0):
            first[1] = min(first[1], i)
        if value != type(value)(0):
            first[2] = min(first[2], i)
        i += step()
    _smallest_of_weights(first, found)


def look_at_weights(w: Any) -> list[int]:
    """Where in a contiguous device array (n,) the first that is not finite, negative, not 0 is; n: nowhere."""
    return minima(weights, _N_WEIGHTS, w.shape[0], w)


# What `targets` looks for, by position in its answer.
NOT_FINITE, NOT_WHOLE, NO_LABEL, NEGATIVE, NO_PROBABILITY, NO_SIGN, NO_BIT, SUM_IS_NOT_1 = range(8)
_N_TESTS = 8
_smallest_of_tests = _smallest(_N_TESTS)


@cache
def targets(S: Any, T: Any) -> Any:
    """Kernel ``(y, n_classes, tolerance, found)``: in ``y`` (n, columns), the first elements and row with some fault.

    Computed in S, the dtype of ``y`` or the one that holds its numbers well enough to tell; T is the dtype that they
    are to become. The answers are indices ``i * columns + j``, twice the number of elements where there is none:
    not finite (increased by the number of elements if finite in S but not in T), not whole, no number from 0 to
    ``n_classes - 1``, negative, not in [0, 1], neither -1 nor 1, neither 0 nor 1; and the first row whose sum is
    further from 1 than ``tolerance``.
    """
    whole_from = S(1 / np.finfo(S).eps)  # from here on there are no fractions

    @kernel(THREADS)
    def scan(y, n_classes, tolerance, found):
        first = cuda.local.array(_N_TESTS, np.int64)
        n, columns = np.int64(y.shape[0]), np.int64(y.shape[1])
        size = n * columns
        for k in range(_N_TESTS):
            first[k] = 2 * size
        i = first_item()
        while i < n:
            total, lost = S(0), S(0)  # Kahan's sum: rows may be long
            for j in range(columns):
                at = i * columns + j
                v = S(y[i, j])
                if not math.isfinite(v):
                    first[NOT_FINITE] = min(first[NOT_FINITE], at)
                elif not math.isfinite(T(v)):
                    first[NOT_FINITE] = min(first[NOT_FINITE], size + at)
                size_of_v = abs(v)
                if size_of_v < whole_from and (size_of_v + whole_from) - whole_from != size_of_v:
                    first[NOT_WHOLE] = min(first[NOT_WHOLE], at)
                if v < S(0):
                    first[NEGATIVE] = min(first[NEGATIVE], at)
                if v < S(0) or v >= n_classes:
                    first[NO_LABEL] = min(first[NO_LABEL], at)
                if v < S(0) or v > S(1):
                    first[NO_PROBABILITY] = min(first[NO_PROBABILITY], at)
                if v != S(1):
                    if v != S(-1):
                        first[NO_SIGN] = min(first[NO_SIGN], at)
                    if v != S(0):
                        first[NO_BIT] = min(first[NO_BIT], at)
                term = v - lost
                wider = total + term
                lost = (wider - total) - term
                total = wider
            if abs((total - S(1)) - lost) > tolerance:
                first[SUM_IS_NOT_1] = min(first[SUM_IS_NOT_1], i)
            i += step()
        _smallest_of_tests(first, found)

    return scan


def look_at_targets(y: Any, dtype: Any, n_classes: int, tolerance: float) -> list[int | None]:
    """What `targets` finds in a device array (n, columns) of any real dtype and strides; None where there is none."""
    S = np.float64 if y.dtype == np.float64 else np.float32  # no integer that float32 rounds is one of those looked for
    n, columns = y.shape[0], y.shape[1]
    found = minima(targets(S, np.dtype(dtype).type), _N_TESTS, n, y, S(n_classes), S(tolerance))
    return [index if index < 2 * n * columns else None for index in found]
