"""Sums over the rows of matrices, column by column: gradients of biases, and what batch normalisation needs.

The rows are added up in blocks of ``SUM_ROWS``, each in registers, and then block by block: rounding errors grow with
the number of rows in a block and of blocks, not of rows. Where a batch is walked in pieces these hold whole blocks, so
the sums do not depend on the pieces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from fastnn._jit import intrinsic, scalar
from fastnn.cpu.simd import I64, Vectors, lanes_of, shift

SUM_ROWS = 64

# Emits ``total`` plus a term of x and y, elements of the two matrices.
Plus = Callable[[Vectors, Any, Any, Any], Any]


def _make_tile(vecs: int, masked: bool, plus: Plus) -> Any:
    """Make ``sums(rows, d, ld, e, lde, out, add, last)`` for ``vecs`` vectors of columns.

    Four chains take turns and are added up in a fixed order at the end. ``rows >= 1``. If ``masked``, only the first
    ``last`` lanes of the last vector exist.
    """
    chains = 4

    @intrinsic
    def sums(typingctx, rows, d, ld, e, lde, out, add, last):
        n = types.int64
        signature = types.void(n, d, n, d, n, d, n, n)

        def codegen(context, builder, sig, args):
            rows, d, ld, e, lde, out, add, last = args
            v = Vectors(builder, sig.args[1].dtype)
            mask = v.first(last) if masked else None
            columns = [ir.Constant(I64, j * v.lanes) for j in range(vecs)]
            masks = [None] * (vecs - 1) + [mask]
            zero, one = ir.Constant(I64, 0), ir.Constant(I64, 1)
            head, loop = builder.block, builder.function.append_basic_block("sums")
            more, done = (builder.function.append_basic_block(name) for name in ("more", "done"))
            builder.branch(loop)

            builder.position_at_end(loop)
            i, at, beside = builder.phi(I64), builder.phi(d.type), builder.phi(e.type)
            before = [[builder.phi(v.type) for _ in range(chains)] for _ in columns]
            after = []
            for column, its_mask, chain in zip(columns, masks, before, strict=True):
                x, y = (v.load(builder.gep(row, [column]), its_mask) for row in (at, beside))
                after.append([*chain[1:], plus(v, chain[0], x, y)])
            following = builder.add(i, one)
            i.add_incoming(zero, head)
            i.add_incoming(following, loop)
            for pointer, start, stride in ((at, d, ld), (beside, e, lde)):
                pointer.add_incoming(start, head)
                pointer.add_incoming(builder.gep(pointer, [stride]), loop)
            for olds, news in zip(before, after, strict=True):
                for old, new in zip(olds, news, strict=True):
                    old.add_incoming(v.zero, head)
                    old.add_incoming(new, loop)
            builder.cbranch(builder.icmp_signed("<", following, rows), loop, more)

            builder.position_at_end(more)
            totals = [builder.fadd(builder.fadd(a, b), builder.fadd(c, d)) for a, b, c, d in after]
            adds = builder.icmp_signed("!=", add, zero)
            for column, its_mask, total in zip(columns, masks, totals, strict=True):
                place = builder.gep(out, [column])
                v.store(builder.fadd(builder.select(adds, v.load(place, its_mask), v.zero), total), place, its_mask)
            builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return signature, codegen

    return sums


def _make(plus: Plus) -> Any:
    """Make ``sums(rows, cols, d, ld, e, lde, out, accumulate)``: ``out[j] = [out[j] +] sum of term(d[i, j], e[i, j])``.

    With ``lde = 0`` e is one row for all.
    """
    two, one = _make_tile(2, False, plus), _make_tile(1, True, plus)

    @scalar
    def sums(rows, cols, d, ld, e, lde, out, accumulate):
        lanes = lanes_of(d[0])
        for first in range(0, rows, SUM_ROWS):
            count, add = min(SUM_ROWS, rows - first), accumulate + first
            j = 0
            while cols - j >= 2 * lanes:
                two(count, shift(d, first * ld + j), ld, shift(e, first * lde + j), lde, shift(out, j), add, lanes)
                j += 2 * lanes
            while cols > j:
                last = min(lanes, cols - j)
                one(count, shift(d, first * ld + j), ld, shift(e, first * lde + j), lde, shift(out, j), add, last)
                j += lanes

    return sums


def _square(v: Vectors, total: Any, x: Any, y: Any) -> Any:
    difference = v.builder.fsub(x, y)
    return v.fma(difference, difference, total)


column_sums = _make(lambda v, total, x, y: v.builder.fadd(total, x))
column_squares = _make(_square)
column_products = _make(lambda v, total, x, y: v.fma(x, y, total))
