"""The matrix product of a block of threads, in registers: the one that all products of the CUDA engine are made of.

A block computes a tile of ``C = A @ B``. Slices of both operands go through shared memory, from where every thread
takes four neighbours at once and adds up ``ri * rj`` elements of C in registers. While it does, the next slices are on
their way from global memory. Operands have two strides each, so one routine serves forward products, dLoss/d input
(B transposed) and dLoss/d weights (A transposed).
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn.cuda._jit import SIMULATED, cuda, device, types
from fastnn.cuda.fused_float32_layout import NarrowShape
from fastnn.cuda.intrinsics import load, load4, load_word, store, store_word
from fastnn.cuda.lone import LoneShape
from fastnn.cuda.mma import mma_bf16, mma_fp16, mma_tf32, pack_bf16, pack_fp16, round_tf32


class Shape(NamedTuple):
    """Threads of a block, and what they compute at once.

    Attributes
    ----------
    ti, tj : int
        Threads along the rows and the columns of a tile; powers of 2.
    ri, rj : int
        Rows and columns of each thread, in groups of 4.
    depth : int
        Elements along k that go through shared memory at once; a power of 2.
    """

    ti: int
    tj: int
    ri: int
    rj: int
    depth: int = 16

    @property
    def threads(self) -> int:
        return self.ti * self.tj

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return self.ti * self.ri

    @property
    def columns(self) -> int:
        """Columns of a tile."""
        return self.tj * self.rj

    @property
    def size(self) -> int:
        """Elements of C that a thread computes."""
        return self.ri * self.rj

    @property
    def shared(self) -> int:
        """Elements of shared memory: the slices, and a number for each thread."""
        return self.depth * (self.rows + self.columns + 2 * _PAD) + self.threads


class WarpShape(NamedTuple):
    """What warps compute at once on tensor cores; the same numbers as `Shape`'s.

    Attributes
    ----------
    wi, wj : int
        Warps along the rows and the columns of a tile.
    ni, nj : int
        Fragments of 16 rows, and of 8 columns, of each warp.
    precision : {"tf32", "bf16", "fp16"}
        To which operands are rounded.
    """

    wi: int
    wj: int
    ni: int
    nj: int
    precision: str

    @property
    def threads(self) -> int:
        return 32 * self.wi * self.wj

    @property
    def rows(self) -> int:
        return 16 * self.wi * self.ni

    @property
    def columns(self) -> int:
        return 8 * self.wj * self.nj

    @property
    def size(self) -> int:
        return 4 * self.ni * self.nj

    @property
    def words(self) -> int:
        """Words of 32 bits along k that go through shared memory at once, for each row of A and column of B."""
        return 8  # with more, some kernels would spill

    @property
    def depth(self) -> int:
        return self.words if self.precision == "tf32" else 2 * self.words

    @property
    def shared(self) -> int:
        return (self.words + _PAD) * (self.rows + self.columns) + self.threads


AnyShape = Shape | WarpShape
_PACK = {"bf16": pack_bf16, "fp16": pack_fp16, "tf32": device(lambda x, unused: round_tf32(x))}
_MULTIPLY_ADD = {"bf16": mma_bf16, "fp16": mma_fp16, "tf32": mma_tf32}
# Rows of a slice begin four banks apart, so that what is stored along k meets different banks.
_PAD = 4


def small_shape(dtype: np.dtype[Any], precision: str | None = None) -> AnyShape:
    """For a batch that one block takes alone, where latency counts."""
    if precision is not None:
        return WarpShape(1, 1, 1, 1, precision) if SIMULATED else WarpShape(2, 4, 2, 2, precision)
    if SIMULATED:
        return Shape(2, 2, 4, 4, 4)
    return Shape(16, 16, 4, 4, 16 if dtype == np.float32 else 8)


def stream_shape(dtype: np.dtype[Any], precision: str | None = None) -> AnyShape:
    """For many rows; with more elements for each thread, registers would spill."""
    if SIMULATED:
        return small_shape(dtype, precision)
    if precision is not None:
        return WarpShape(2, 2, 2, 2, precision)
    return Shape(16, 8, 4, 8) if dtype == np.float32 else Shape(16, 8, 4, 4, 8)


class Product(NamedTuple):
    """Device functions of a shape; see `make_product`."""

    multiply: Any
    row: Any
    column: Any


@cache
def make_product(T: Any, shape: AnyShape) -> Product:
    """The product in the dtype ``T``, or in float32 with rounded operands.

    ``multiply(sums, shared, t, a, b, i0, j0, k0, k1)`` adds to ``sums`` (local array, ``ri * rj``) the products of rows
    ``i0...`` of A and columns ``j0...`` of B along ``k0 <= k < k1``; all threads of the block call it. ``a`` and ``b``
    are (array, offset, stride along i or j, stride along k, number of rows or columns); what lies beyond that number
    counts as 0. ``row(t, e)`` and ``column(t, e)`` say where in the tile the element ``sums[e]`` of thread ``t`` lies.
    """
    if isinstance(shape, WarpShape):
        return _make_warp_product(shape)
    ti, tj, ri, rj, depth = shape
    threads, rows, columns = shape.threads, shape.rows, shape.columns
    at_b = depth * (rows + _PAD)
    of_a, of_b = _slices(T, rows, depth, threads), _slices(T, columns, depth, threads)
    n_a, n_b = rows * depth // threads, columns * depth // threads
    row_bits, column_mask = tj.bit_length() - 1, tj - 1

    @device
    def row(t, e):
        i = e // rj
        return (i >> 2) * (ti * 4) + (t >> row_bits) * 4 + (i & 3)

    @device
    def column(t, e):
        j = e % rj
        return (j >> 2) * (tj * 4) + (t & column_mask) * 4 + (j & 3)

    @device
    def add(sums, shared, t):
        left, right = cuda.local.array(ri, T), cuda.local.array(rj, T)
        low, high = (t >> row_bits) * 4, at_b + (t & column_mask) * 4
        for k in range(depth):
            for g in range(ri // 4):
                four = load4(shared, k * (rows + _PAD) + g * ti * 4 + low)
                left[4 * g], left[4 * g + 1], left[4 * g + 2], left[4 * g + 3] = four
            for g in range(rj // 4):
                four = load4(shared, k * (columns + _PAD) + g * tj * 4 + high)
                right[4 * g], right[4 * g + 1], right[4 * g + 2], right[4 * g + 3] = four
            for i in range(ri):
                for j in range(rj):
                    sums[i * rj + j] += left[i] * right[j]

    multiply = _make_multiply(T, of_a, of_b, (n_a, n_b), at_b, depth, add)
    return Product(multiply, row, column)


def _make_multiply(kind, of_a, of_b, counts, at_b, depth, add):
    """Slice after slice: each is fetched while the one before is worked on."""
    n_a, n_b = counts
    fetch_a, put_a = of_a
    fetch_b, put_b = of_b

    @device
    def multiply(sums, shared, t, a, b, i0, j0, k0, k1):
        next_a, next_b = cuda.local.array(n_a, kind), cuda.local.array(n_b, kind)
        fetch_a(next_a, a, i0, k0, k1, t)
        fetch_b(next_b, b, j0, k0, k1, t)
        k = k0
        while k < k1:
            cuda.syncthreads()  # nobody reads the slices before these any more
            put_a(next_a, shared, 0, a, t)
            put_b(next_b, shared, at_b, b, t)
            cuda.syncthreads()
            k += depth
            if k < k1:
                fetch_a(next_a, a, i0, k, k1, t)
                fetch_b(next_b, b, j0, k, k1, t)
            add(sums, shared, t)

    return multiply


class _Slices(NamedTuple):
    fetch: Any
    put: Any


@cache
def _slices(T: Any, size: int, depth: int, threads: int) -> _Slices:
    """How a slice of an operand, ``size`` by ``depth``, gets from memory to registers and on to shared memory.

    Neighbouring threads take elements that are neighbours in memory, along k or across it.
    """
    count = size * depth // threads
    size_mask, size_bits, depth_mask, depth_bits = size - 1, size.bit_length() - 1, depth - 1, depth.bit_length() - 1

    @device
    def fetch(held, operand, first, k, end, t):
        array, at, across, along, n = operand
        if across == 1:
            for q in range(count):
                e = t + q * threads
                i, kk = first + (e & size_mask), k + (e >> size_bits)
                held[q] = load(array, at + i + kk * along) if i < n and kk < end else T(0)
        else:
            for q in range(count):
                e = t + q * threads
                i, kk = first + (e >> depth_bits), k + (e & depth_mask)
                held[q] = load(array, at + i * across + kk * along) if i < n and kk < end else T(0)

    @device
    def put(held, shared, begin, operand, t):
        if operand[2] == 1:
            for q in range(count):
                e = t + q * threads
                store(shared, begin + (e >> size_bits) * (size + _PAD) + (e & size_mask), held[q])
        else:
            for q in range(count):
                e = t + q * threads
                store(shared, begin + (e & depth_mask) * (size + _PAD) + (e >> depth_bits), held[q])

    return _Slices(fetch, put)


def _make_warp_product(shape: WarpShape) -> Product:
    """On tensor cores: operands are rounded on their way to shared memory, where k is contiguous for both."""
    wi, _, ni, nj, precision = shape
    threads, rows, columns = shape.threads, shape.rows, shape.columns
    multiply_add, words, step = _MULTIPLY_ADD[precision], shape.words, 8
    stride, n_left, n_right = words + _PAD, 4 * ni, 2 * nj
    at_b, n_a, n_b = rows * stride, rows * words // threads, columns * words // threads
    of_a, of_b = _word_slices(rows, words, precision, threads), _word_slices(columns, words, precision, threads)

    @device
    def row(t, e):
        # Sums of a fragment: rows g and g + 8, columns 2 (t % 4) and the next.
        return ((t >> 5) % wi * ni + e // (4 * nj)) * 16 + ((t & 31) >> 2) + 8 * (e % 4 // 2)

    @device
    def column(t, e):
        return ((t >> 5) // wi * nj + e // 4 % nj) * 8 + 2 * (t & 3) + e % 2

    @device
    def add(sums, shared, t):
        warp, g, low = t >> 5, (t & 31) >> 2, t & 3
        first_a = (warp % wi * ni * 16 + g) * stride + low
        first_b = at_b + (warp // wi * nj * 8 + g) * stride + low
        left, right = cuda.local.array(n_left, np.int32), cuda.local.array(n_right, np.int32)
        for k in range(0, words, step):
            for i in range(ni):
                at = first_a + i * 16 * stride + k
                left[4 * i], left[4 * i + 1] = load_word(shared, at), load_word(shared, at + 8 * stride)
                left[4 * i + 2], left[4 * i + 3] = load_word(shared, at + 4), load_word(shared, at + 8 * stride + 4)
            for j in range(nj):
                at = first_b + j * 8 * stride + k
                right[2 * j], right[2 * j + 1] = load_word(shared, at), load_word(shared, at + 4)
            for i in range(ni):
                for j in range(nj):
                    e = 4 * (i * nj + j)
                    sums[e], sums[e + 1], sums[e + 2], sums[e + 3] = multiply_add(
                        left[4 * i], left[4 * i + 1], left[4 * i + 2], left[4 * i + 3], right[2 * j], right[2 * j + 1],
                        sums[e], sums[e + 1], sums[e + 2], sums[e + 3],
                    )  # fmt: skip

    multiply = _make_multiply(np.int32, of_a, of_b, (n_a, n_b), at_b, shape.depth, add)
    return Product(multiply, row, column)


def _word_slices(size: int, words: int, precision: str, threads: int) -> _Slices:
    """`_slices` for operands in words: of two numbers in 16 bits, neighbours along k, or of one in tf32."""
    count = size * words // threads
    size_mask, size_bits, word_mask, word_bits = size - 1, size.bit_length() - 1, words - 1, words.bit_length() - 1
    pairs, pack, stride, zero = precision != "tf32", _PACK[precision], words + _PAD, np.float32(0)

    @device
    def word(operand, i, k, end):
        array, at, across, along, n = operand
        at += i * across + k * along
        low = load(array, at) if i < n and k < end else zero
        if pairs:
            return pack(low, load(array, at + along) if i < n and k + 1 < end else zero)
        return pack(low, zero)

    @device
    def fetch(held, operand, first, k, end, t):
        if operand[2] == 1:
            for q in range(count):
                e = t + q * threads
                held[q] = word(operand, first + (e & size_mask), k + (e >> size_bits) * per_word, end)
        else:
            for q in range(count):
                e = t + q * threads
                held[q] = word(operand, first + (e >> word_bits), k + (e & word_mask) * per_word, end)

    @device
    def put(held, shared, begin, operand, t):
        if operand[2] == 1:
            for q in range(count):
                e = t + q * threads
                store_word(shared, begin + (e & size_mask) * stride + (e >> size_bits), held[q])
        else:
            for q in range(count):
                e = t + q * threads
                store_word(shared, begin + (e >> word_bits) * stride + (e & word_mask), held[q])

    per_word = 2 if pairs else 1
    return _Slices(fetch, put)


def shared_kind(T: Any) -> Any:
    """The dtype as `cuda.shared.array` takes it, for the memory that the launch asks for.

    Kernels have no other shared memory, so it begins on a whole vector.
    """
    return getattr(types, np.dtype(T).name)


def dynamic_bytes(shape: AnyShape | LoneShape | NarrowShape, dtype: np.dtype[Any], more: int = 0) -> int:
    """Shared memory of a launch: what the shape needs, and ``more`` elements."""
    return (shape.shared + more) * dtype.itemsize
