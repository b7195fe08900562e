"""The product that every dense layer, forwards and backwards, is made of.

``C = epilogue(init + A @ B)`` for row-major B and C and an A that may be read transposed. One native serves the three
products of a layer: ``Z = X W + b`` (chained from the bias row), ``dW = X^T dZ`` (A read by columns, chained from dW
itself after the first piece of a batch) and ``dX = dZ W^T`` (the producer's slope in the epilogue).
"""

from __future__ import annotations

from typing import Any

from numba import types

from fastnn._jit import Native, native_call, scalar
from fastnn._rows import CLAMP
from fastnn.cpu.simd import TILE_ROWS, lanes_of, make_dots, make_tile, shift

_HALF_ROWS = TILE_ROWS // 2


def gemm_arguments(real: Any) -> tuple[Any, ...]:
    """(m, n, k, a, a_row, a_col, b, ldb, c, ldc, init, ldi, chained, epilogue, e, lde, low)."""
    p, n = types.CPointer(real), types.int64
    return (n, n, n, p, n, n, p, n, p, n, p, n, n, n, p, n, real)


def _make_panel(vecs: int, masked: bool) -> Any:
    """All rows of one panel of ``vecs`` vectors of columns."""
    big, half, one = (make_tile(rows, vecs, masked) for rows in (TILE_ROWS, _HALF_ROWS, 1))

    @scalar
    def panel(m, k, a, a_row, a_col, b, ldb, c, ldc, init, ldi, chained, epilogue, e, lde, low, last):
        i = 0
        while m - i >= TILE_ROWS:
            ai, ci, si, ei = shift(a, i * a_row), shift(c, i * ldc), shift(init, i * ldi), shift(e, i * lde)
            big(k, ai, a_row, a_col, b, ldb, ci, ldc, si, ldi, chained, epilogue, ei, lde, low, last)
            i += TILE_ROWS
        if m - i >= _HALF_ROWS:
            ai, ci, si, ei = shift(a, i * a_row), shift(c, i * ldc), shift(init, i * ldi), shift(e, i * lde)
            half(k, ai, a_row, a_col, b, ldb, ci, ldc, si, ldi, chained, epilogue, ei, lde, low, last)
            i += _HALF_ROWS
        while i < m:
            ai, ci, si, ei = shift(a, i * a_row), shift(c, i * ldc), shift(init, i * ldi), shift(e, i * lde)
            one(k, ai, a_row, a_col, b, ldb, ci, ldc, si, ldi, chained, epilogue, ei, lde, low, last)
            i += 1

    return panel


_two = _make_panel(2, masked=False)
_two_masked = _make_panel(2, masked=True)
_one_masked = _make_panel(1, masked=True)


_dots, _dot = make_dots(TILE_ROWS), make_dots(1)


@scalar
def _one_column(m, k, a, a_row, b, c, ldc, init, ldi, chained, low):
    """A product with a single column: dot products, where a tile would leave all but one lane idle."""
    i = 0
    while m - i >= TILE_ROWS:
        _dots(k, shift(a, i * a_row), a_row, b, shift(c, i * ldc), ldc, shift(init, i * ldi), ldi, chained, low)
        i += TILE_ROWS
    while i < m:
        _dot(k, shift(a, i * a_row), a_row, b, shift(c, i * ldc), ldc, shift(init, i * ldi), ldi, chained, low)
        i += 1


def _gemm(m, n, k, a, a_row, a_col, b, ldb, c, ldc, init, ldi, chained, epilogue, e, lde, low):
    lanes = lanes_of(low)
    # Not where C itself is added to: there, the chain must go on as it began.
    if n == 1 and ldb == 1 and a_col == 1 and (a_row != 1 or k == 1) and epilogue == CLAMP and chained * ldi == 0:
        _one_column(m, k, a, a_row, b, c, ldc, init, ldi, chained, low)
        return
    if n == 1 and a_row == 1 and ldc == 1 and epilogue == CLAMP:
        # A column of dW: its transpose is a row, which fills the lanes, and every chain stays as it is.
        a, b, a_col, ldb = b, a, ldb, a_col
        m, n, a_row = 1, m, 0
    j = 0
    while j < n:
        left = n - j
        bj, cj, sj, ej = shift(b, j), shift(c, j), shift(init, j), shift(e, j)
        if left >= 2 * lanes:
            _two(m, k, a, a_row, a_col, bj, ldb, cj, ldc, sj, ldi, chained, epilogue, ej, lde, low, lanes)
        elif left > lanes:
            last = left - lanes
            _two_masked(m, k, a, a_row, a_col, bj, ldb, cj, ldc, sj, ldi, chained, epilogue, ej, lde, low, last)
        else:
            _one_masked(m, k, a, a_row, a_col, bj, ldb, cj, ldc, sj, ldi, chained, epilogue, ej, lde, low, left)
        j += 2 * lanes


gemm = Native("cpu.gemm", _gemm, gemm_arguments)
call_gemm = native_call(gemm_arguments, 3)
