"""The matrix product of a dense layer: one native for all three uses.

``Y = X W + b`` (bias and ReLU in the epilogue), ``dW = X^T dZ`` (A read by columns; started from dW itself after the
first piece of a batch) and ``dX = dZ W^T`` (B read by columns; the producer's slope in the epilogue).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from fastnn._jit import Native, native_call, routine, scalar
from fastnn._loops import stack_bytes
from fastnn._rows import CLAMP
from fastnn.cpu.simd import TILE_ROWS, VECTOR_BYTES, copy_vectors, lanes_of, shift, transpose_block
from fastnn.cpu.tiles import make_dots, make_tile

_HALF_ROWS = TILE_ROWS // 2
# Part of B is copied here, in the order in which the tiles read it; it stays in the first-level cache.
_BUFFER_BYTES = 32 * 1024
# Beyond this, B falls out of the second-level cache before it is read again, and rows of A are worked on in blocks.
_LARGE_BYTES = 1 << 21
_BLOCK_ROWS = 384
# With fewer rows, a copy of B costs more than it saves.
_LEAST_ROWS = 64


def gemm_arguments(real: Any) -> tuple[Any, ...]:
    """(m, n, k, a, a_row, a_col, b, b_row, b_col, c, ldc, init, ldi, chained, one_chain, epilogue, e, lde, low).

    ``C (m, n) = epilogue(init + A @ B)``, where ``A[i, p]`` lies at ``a + i * a_row + p * a_col`` and ``B[p, j]`` at
    ``b + p * b_row + j * b_col``; C is row-major. ``chained``: start from ``init[i * ldi + j]`` (ldi = 0: one bias row
    for all), else from zero. Epilogues, with NaN kept: CLAMP ``max(c, low)``, GATE ``c where e > 0 else 0``, SCALE
    ``c * e``; ``low`` holds for all. ``k >= 1``.

    ``one_chain``: every element must be one chain of sums along k, because a later product will go on with it. Without
    it, products with few columns may add up several partial sums; how, depends on n and k alone.
    """
    p, n = types.CPointer(real), types.int64
    return (n, n, n, p, n, n, p, n, n, p, n, p, n, n, n, n, p, n, real)


_buffer_of = stack_bytes(_BUFFER_BYTES)


def _make_panel(vecs: int, masked: bool) -> Any:
    """All but the last few rows of one panel of ``vecs`` vectors of columns."""
    tall, low = (make_tile(rows, vecs, masked) for rows in (TILE_ROWS, _HALF_ROWS))

    @scalar
    def panel(m, k, a, a_row, a_col, b, ldb, c, ldc, init, ldi, chained, epilogue, e, lde, bound, last):
        i = 0
        while m - i >= TILE_ROWS:
            ai, ci, si, ei = shift(a, i * a_row), shift(c, i * ldc), shift(init, i * ldi), shift(e, i * lde)
            tall(k, ai, a_row, a_col, b, ldb, ci, ldc, si, ldi, chained, epilogue, ei, lde, bound, last)
            i += TILE_ROWS
        if m - i >= _HALF_ROWS:
            ai, ci, si, ei = shift(a, i * a_row), shift(c, i * ldc), shift(init, i * ldi), shift(e, i * lde)
            low(k, ai, a_row, a_col, b, ldb, ci, ldc, si, ldi, chained, epilogue, ei, lde, bound, last)

    return panel


_two = _make_panel(2, masked=False)
_two_masked = _make_panel(2, masked=True)
_one_masked = _make_panel(1, masked=True)

# A row that is left over takes wide tiles: few chains at a time would wait for each other.
_row_of_8, _row_of_4 = (make_tile(1, vecs, False) for vecs in (8, 4))
_row_of_2, _row_of_1 = (make_tile(1, vecs, True) for vecs in (2, 1))


@scalar
def _one_row(n, k, a, a_col, b, ldb, c, init, chained, epilogue, e, low, lanes):
    j = 0
    while n - j >= 8 * lanes:
        bj, cj, sj, ej = shift(b, j), shift(c, j), shift(init, j), shift(e, j)
        _row_of_8(k, a, 0, a_col, bj, ldb, cj, 0, sj, 0, chained, epilogue, ej, 0, low, lanes)
        j += 8 * lanes
    if n - j >= 4 * lanes:
        bj, cj, sj, ej = shift(b, j), shift(c, j), shift(init, j), shift(e, j)
        _row_of_4(k, a, 0, a_col, bj, ldb, cj, 0, sj, 0, chained, epilogue, ej, 0, low, lanes)
        j += 4 * lanes
    while n > j:
        bj, cj, sj, ej = shift(b, j), shift(c, j), shift(init, j), shift(e, j)
        last = min(n - j, 2 * lanes) - lanes
        if last > 0:
            _row_of_2(k, a, 0, a_col, bj, ldb, cj, 0, sj, 0, chained, epilogue, ej, 0, low, last)
        else:
            _row_of_1(k, a, 0, a_col, bj, ldb, cj, 0, sj, 0, chained, epilogue, ej, 0, low, last + lanes)
        j += 2 * lanes


@routine
def _panels(m, n, k, a, a_row, a_col, b, ldb, c, ldc, init, ldi, chained, epilogue, e, lde, low):
    """The product where B is row-major: panels of two vectors of columns, then the rows that are left over."""
    lanes = lanes_of(low)
    whole = m // _HALF_ROWS * _HALF_ROWS
    j = 0
    while j < n and whole > 0:
        left = n - j
        bj, cj, sj, ej = shift(b, j), shift(c, j), shift(init, j), shift(e, j)
        if left >= 2 * lanes:
            _two(whole, k, a, a_row, a_col, bj, ldb, cj, ldc, sj, ldi, chained, epilogue, ej, lde, low, lanes)
        elif left > lanes:
            last = left - lanes
            _two_masked(whole, k, a, a_row, a_col, bj, ldb, cj, ldc, sj, ldi, chained, epilogue, ej, lde, low, last)
        else:
            _one_masked(whole, k, a, a_row, a_col, bj, ldb, cj, ldc, sj, ldi, chained, epilogue, ej, lde, low, left)
        j += 2 * lanes
    for i in range(whole, m):
        ai, ci, si, ei = shift(a, i * a_row), shift(c, i * ldc), shift(init, i * ldi), shift(e, i * lde)
        _one_row(n, k, ai, a_col, b, ldb, ci, si, chained, epilogue, ei, low, lanes)


@scalar
def _pack(b, b_row, b_col, rows, cols, lanes, buffer):
    """buffer (rows, 2 * lanes) = B's rows; columns beyond ``cols`` stay as they are."""
    ld = 2 * lanes
    if b_col == 1:
        for p in range(rows):
            source, target = shift(b, p * b_row), shift(buffer, p * ld)
            if cols == ld:
                copy_vectors(source, target)
            else:
                for j in range(cols):
                    target[j] = source[j]
        return
    whole = rows // lanes * lanes if b_row == 1 else 0
    for j in range(0, cols, lanes):
        width = min(lanes, cols - j)
        blocked = whole if width == lanes else 0
        for p in range(0, blocked, lanes):
            transpose_block(shift(b, p + j * b_col), b_col, shift(buffer, p * ld + j), ld)
        for p in range(blocked, rows):
            for q in range(j, j + width):
                buffer[p * ld + q] = b[p * b_row + q * b_col]


@routine
def _packed(m, n, k, a, a_row, a_col, b, b_row, b_col, c, ldc, init, ldi, chained, epilogue, e, lde, low):
    """The product from a copy of B, block by block: where B is read by columns, or does not fit the cache."""
    lanes = lanes_of(low)
    buffer = _buffer_of(low)
    block_rows = _BLOCK_ROWS if b_col == 1 else m
    block_k = _BUFFER_BYTES // (2 * VECTOR_BYTES)
    for i in range(0, m, block_rows):
        rows = min(block_rows, m - i)
        for p in range(0, k, block_k):
            size = min(block_k, k - p)
            last = p + size == k
            ai, ci, ei = shift(a, i * a_row + p * a_col), shift(c, i * ldc), shift(e, i * lde)
            start, ld_start, go_on = (ci, ldc, 1) if p > 0 else (shift(init, i * ldi), ldi, chained)
            final, bound = (epilogue, low) if last else (CLAMP, type(low)(-np.inf))
            for j in range(0, n, 2 * lanes):
                cols = min(n - j, 2 * lanes)
                _pack(shift(b, p * b_row + j * b_col), b_row, b_col, size, cols, lanes, buffer)
                _panels(
                    rows, cols, size, ai, a_row, a_col, buffer, 2 * lanes, shift(ci, j), ldc, shift(start, j), ld_start,
                    go_on, final, shift(ei, j), lde, bound,
                )  # fmt: skip


@routine
def _turned(m, n, k, a, a_col, b, b_row, c, ldc, init, ldi, chained, low):
    """A narrow dW: its transpose has long rows, which fill the lanes, and every chain stays as it is."""
    # Numba compiles a routine once more for literal arguments; these are none.
    one, clamp, unused = np.int64(1), np.int64(CLAMP), np.int64(0)
    if ldc == 1:
        _panels(one, m, k, b, unused, b_row, a, a_col, c, unused, init, unused, chained, clamp, c, unused, low)
        return
    buffer = _buffer_of(low)
    block = _BUFFER_BYTES // VECTOR_BYTES * lanes_of(low) // n
    for i in range(0, m, block):
        rows = min(block, m - i)
        if chained != 0:
            for r in range(rows):
                for j in range(n):
                    buffer[j * rows + r] = init[(i + r) * ldi + j]
        _panels(
            n, rows, k, b, one, b_row, shift(a, i), a_col, buffer, rows, buffer, rows, chained, clamp, buffer, unused,
            low,
        )  # fmt: skip
        for r in range(rows):
            for j in range(n):
                c[(i + r) * ldc + j] = buffer[j * rows + r]


# Rows x columns of dot products at a time.
_dots_44, _dots_42, _dots_41, _dots_11 = (make_dots(*shape) for shape in ((4, 4), (4, 2), (4, 1), (1, 1)))


@scalar
def _four_rows(k, a, a_row, b, ldb, n, c, ldc, init, ldi, chained, low):
    j = 0
    while n - j >= 4:
        bj, cj, sj = shift(b, j * ldb), shift(c, j), shift(init, j)
        _dots_44(k, a, a_row, bj, ldb, cj, ldc, sj, ldi, chained, low)
        j += 4
    if n - j >= 2:
        bj, cj, sj = shift(b, j * ldb), shift(c, j), shift(init, j)
        _dots_42(k, a, a_row, bj, ldb, cj, ldc, sj, ldi, chained, low)
        j += 2
    if n - j >= 1:
        bj, cj, sj = shift(b, j * ldb), shift(c, j), shift(init, j)
        _dots_41(k, a, a_row, bj, ldb, cj, ldc, sj, ldi, chained, low)


@routine
def _few_columns(m, n, k, a, a_row, b, b_row, b_col, c, ldc, init, ldi, chained, low):
    """Dot products along k, where a tile would leave most lanes idle; from a copy of B unless it lies by columns."""
    buffer = _buffer_of(low)
    block = k if b_row == 1 else min(k, _BUFFER_BYTES // VECTOR_BYTES)
    p = 0
    while p < k:
        size = min(block, k - p)
        columns, ldb = shift(b, p * b_row), b_col
        if b_row != 1:
            for j in range(n):
                for q in range(size):
                    buffer[j * size + q] = columns[q * b_row + j * b_col]
            columns, ldb = buffer, size
        start, ld_start, go_on = (c, ldc, 1) if p > 0 else (init, ldi, chained)
        bound = low if p + size == k else type(low)(-np.inf)
        i = 0
        while m - i >= 4:
            ai, ci, si = shift(a, i * a_row + p), shift(c, i * ldc), shift(start, i * ld_start)
            _four_rows(size, ai, a_row, columns, ldb, n, ci, ldc, si, ld_start, go_on, bound)
            i += 4
        while i < m:
            ai = shift(a, i * a_row + p)
            for j in range(n):
                cj, sj = shift(c, i * ldc + j), shift(start, i * ld_start + j)
                _dots_11(size, ai, 0, shift(columns, j * ldb), 0, cj, 0, sj, 0, go_on, bound)
            i += 1
        p += size


def _gemm(m, n, k, a, a_row, a_col, b, b_row, b_col, c, ldc, init, ldi, chained, one_chain, epilogue, e, lde, low):
    lanes = lanes_of(low)
    # A tile costs k, dot products n (k / lanes + the sum over lanes, which was measured as worth 4).
    few = n == 1 or k * (lanes - n) >= 4 * lanes * n
    if few and one_chain == 0 and a_col == 1 and epilogue == CLAMP:
        _few_columns(m, n, k, a, a_row, b, b_row, b_col, c, ldc, init, ldi, chained, low)
    elif one_chain != 0 and a_row == 1 and n < lanes and m > n:
        _turned(m, n, k, a, a_col, b, b_row, c, ldc, init, ldi, chained, low)
    elif b_col != 1 or (m >= _LEAST_ROWS and k * n * (VECTOR_BYTES // lanes) > _LARGE_BYTES):
        _packed(m, n, k, a, a_row, a_col, b, b_row, b_col, c, ldc, init, ldi, chained, epilogue, e, lde, low)
    else:
        _panels(m, n, k, a, a_row, a_col, b, b_row, c, ldc, init, ldi, chained, epilogue, e, lde, low)


gemm = Native("cpu.gemm", _gemm, gemm_arguments)
call_gemm = native_call(gemm_arguments, 3)
