"""The matrix product in bfloat16: operands rounded to 8 bits of precision, sums in float32. AVX512_BF16 only.

It takes the place of `gemm` in a plan, argument for argument: float32 comes in and goes out, and the copies from which
the tiles read, which float32 needs for large operands only, hold pairs of bfloat16 numbers along k. One instruction
multiplies two of them in each lane. Pairs lie in arrays of float32, whose values mean nothing.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types

from fastnn._jit import Native, intrinsic, routine, scalar
from fastnn._loops import stack_bytes
from fastnn._rows import CLAMP
from fastnn.cpu.gemm import gemm_arguments
from fastnn.cpu.simd import I32, I64, VECTOR_BYTES, Vectors, shift, transpose_block
from fastnn.cpu.tiles import make_tile

_I16 = ir.IntType(16)
_LANES = 16
_PANEL = 2 * _LANES
# A block of A and a panel of B lie side by side in the second-level cache.
_BLOCK_ROWS, _BLOCK_PAIRS = 256, 128
_TILE_ROWS = 8
# Fewer rows are not worth a copy of B.
LEAST_ROWS = 64


def missing() -> str | None:
    """What this CPU lacks for products in bfloat16, None if nothing."""
    if VECTOR_BYTES == 64 and llvm.get_host_cpu_features().get("avx512bf16"):
        return None
    return f"a CPU with AVX512_BF16, which this one ({llvm.get_host_cpu_name()}) does not have"


def _multiply(v: Vectors, a: Any, b: Any, c: Any) -> Any:
    """``c + a_low * b_low + a_high * b_high`` in each lane."""
    pairs = ir.VectorType(I32, v.lanes)
    function = v.declare("llvm.x86.avx512bf16.dpbf16ps.512", v.type, [v.type, pairs, pairs])
    return v.builder.call(function, [c, v.builder.bitcast(a, pairs), v.builder.bitcast(b, pairs)])


def _rounded(v: Vectors, value: Any) -> Any:
    """16 numbers as bfloat16, to nearest even; NaN stays NaN."""
    narrow = ir.VectorType(_I16, v.lanes)
    function = v.declare("llvm.x86.avx512bf16.cvtneps2bf16.512", narrow, [v.type])
    return v.builder.call(function, [value])


def _store_pairs(v: Vectors, first: Any, second: Any, order: list[int], target: Any) -> None:
    joined = v.builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, 2 * v.lanes), order))
    v.store(v.builder.bitcast(joined, v.type), target)


@intrinsic
def _pair_up(typingctx: Any, first: Any, n_first: Any, second: Any, n_second: Any, target: Any) -> Any:
    """target[i] = the pair (first[i], second[i]) for 16 lanes; numbers beyond the counts are 0."""
    n = types.int64
    signature = types.void(first, n, first, n, first)

    def codegen(context, builder, sig, args):
        first, n_first, second, n_second, target = args
        v = Vectors(builder, sig.args[0].dtype)
        low, high = (_rounded(v, v.load(at, v.first(n))) for at, n in ((first, n_first), (second, n_second)))
        _store_pairs(v, low, high, [lane + half * v.lanes for lane in range(v.lanes) for half in range(2)], target)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _narrow(typingctx: Any, source: Any, count: Any, target: Any) -> Any:
    """target[i] = the pair (source[2 i], source[2 i + 1]) for 16 lanes; numbers beyond ``count`` are 0."""
    signature = types.void(source, types.int64, source)

    def codegen(context, builder, sig, args):
        source, count, target = args
        v = Vectors(builder, sig.args[0].dtype)
        width = ir.Constant(I64, v.lanes)
        second = builder.gep(source, [width])
        rest = builder.sub(count, width)
        low, high = (_rounded(v, v.load(at, v.first(n))) for at, n in ((source, count), (second, rest)))
        _store_pairs(v, low, high, list(range(2 * v.lanes)), target)
        return context.get_dummy_value()

    return signature, codegen


_a_block = stack_bytes(_BLOCK_ROWS * _BLOCK_PAIRS * 4)
_b_panel = stack_bytes(_BLOCK_PAIRS * _PANEL * 4)
_square = stack_bytes(_LANES * _LANES * 4)

_eight, _one = make_tile(_TILE_ROWS, 2, True, _multiply), make_tile(1, 2, True, _multiply)
_eight_narrow, _one_narrow = make_tile(_TILE_ROWS, 1, True, _multiply), make_tile(1, 1, True, _multiply)


@scalar
def _pack_a(a, a_row, a_col, rows, size, block):
    """A block (rows, pairs along k) for the tiles; returns its strides."""
    pairs = (size + 1) // 2
    if a_col == 1:
        ld = (pairs + _LANES - 1) // _LANES * _LANES
        for i in range(rows):
            for p in range(0, size, _PANEL):
                _narrow(shift(a, i * a_row + p), size - p, shift(block, i * ld + p // 2))
        return ld, 1
    ld = (rows + _LANES - 1) // _LANES * _LANES
    for p in range(pairs):
        first = shift(a, 2 * p * a_col)
        for i in range(0, rows, _LANES):
            at = shift(first, i)
            has_second = rows - i if 2 * p + 1 < size else 0
            _pair_up(at, rows - i, shift(at, a_col if has_second > 0 else 0), has_second, shift(block, p * ld + i))
    return 1, ld


@scalar
def _pack_b(b, b_row, b_col, size, cols, panel, square):
    """A panel (pairs along k, 32) for the tiles; numbers that do not exist are 0."""
    if b_col == 1:
        for p in range((size + 1) // 2):
            first = shift(b, 2 * p * b_row)
            for j in range(0, _PANEL, _LANES):
                at, count = shift(first, min(j, cols)), max(cols - j, 0)
                has_second = count if 2 * p + 1 < size else 0
                _pair_up(at, count, shift(at, b_row if has_second > 0 else 0), has_second, shift(panel, p * _PANEL + j))
        return
    for p in range(0, size, _PANEL):
        for j in range(0, _PANEL, _LANES):
            for q in range(_LANES):
                row = min(j + q, cols - 1)
                _narrow(shift(b, p + row * b_col), size - p if j + q < cols else 0, shift(square, q * _LANES))
            transpose_block(square, _LANES, shift(panel, p // 2 * _PANEL + j), _PANEL)


@scalar
def _panel_product(rows, cols, pairs, a, a_row, a_col, b, c, ldc, init, ldi, chained, epilogue, e, lde, low):
    last = cols - _LANES
    i = 0
    while i < rows:
        ai, ci, si, ei = shift(a, i * a_row), shift(c, i * ldc), shift(init, i * ldi), shift(e, i * lde)
        if rows - i >= _TILE_ROWS:
            if last > 0:
                _eight(pairs, ai, a_row, a_col, b, _PANEL, ci, ldc, si, ldi, chained, epilogue, ei, lde, low, last)
            else:
                _eight_narrow(
                    pairs, ai, a_row, a_col, b, _PANEL, ci, ldc, si, ldi, chained, epilogue, ei, lde, low, cols
                )  # fmt: skip
            i += _TILE_ROWS
        else:
            if last > 0:
                _one(pairs, ai, a_row, a_col, b, _PANEL, ci, ldc, si, ldi, chained, epilogue, ei, lde, low, last)
            else:
                _one_narrow(pairs, ai, a_row, a_col, b, _PANEL, ci, ldc, si, ldi, chained, epilogue, ei, lde, low, cols)
            i += 1


@routine
def _blocks(m, n, k, a, a_row, a_col, b, b_row, b_col, c, ldc, init, ldi, chained, epilogue, e, lde, low):
    block, panel, square = _a_block(low), _b_panel(low), _square(low)
    for i in range(0, m, _BLOCK_ROWS):
        rows = min(_BLOCK_ROWS, m - i)
        for p in range(0, k, 2 * _BLOCK_PAIRS):
            size = min(2 * _BLOCK_PAIRS, k - p)
            ai, ci, ei = shift(a, i * a_row + p * a_col), shift(c, i * ldc), shift(e, i * lde)
            start, ld_start, go_on = (ci, ldc, 1) if p > 0 else (shift(init, i * ldi), ldi, chained)
            final, bound = (epilogue, low) if p + size == k else (CLAMP, type(low)(-np.inf))
            block_row, block_col = _pack_a(ai, a_row, a_col, rows, size, block)
            for j in range(0, n, _PANEL):
                cols = min(n - j, _PANEL)
                _pack_b(shift(b, p * b_row + j * b_col), b_row, b_col, size, cols, panel, square)
                _panel_product(
                    rows, cols, (size + 1) // 2, block, block_row, block_col, panel, shift(ci, j), ldc, shift(start, j),
                    ld_start, go_on, final, shift(ei, j), lde, bound,
                )  # fmt: skip


def _gemm(m, n, k, a, a_row, a_col, b, b_row, b_col, c, ldc, init, ldi, chained, one_chain, epilogue, e, lde, low):
    _blocks(m, n, k, a, a_row, a_col, b, b_row, b_col, c, ldc, init, ldi, chained, epilogue, e, lde, low)


gemm_bf16 = Native("cpu.gemm_bf16", _gemm, gemm_arguments)
