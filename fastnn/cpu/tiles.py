"""Register tiles of a matrix product, written as LLVM vector IR.

A tile computes ``ROWS x (vecs * lanes)`` elements of C with all its accumulators in registers. Every element is one
chain of fused multiply-adds along k, started from zero, from C itself or from a bias, so its bits do not depend on the
tile it falls into, on the batch around it, or on how a batch was cut into pieces. Where there are too few columns to
fill a vector, dot products run along k instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types

from fastnn._jit import intrinsic
from fastnn._rows import GATE, SCALE
from fastnn.cpu.simd import I64, Vectors


def local(builder: Any, stride: Any) -> Any:
    """The same number, but no loop invariant to LLVM.

    It would compute all multiples of all strides of all tiles at the entry of a product: as many instructions as a
    small product has.
    """
    kind = ir.FunctionType(I64, [I64])
    return builder.asm(kind, "", "=r,0", [stride], side_effect=True)


def lines(builder: Any, base: Any, ld: Any, count: int) -> list[Any]:
    """Pointers to the rows of a matrix, each computed from the one before."""
    out = [base]
    for _ in range(count - 1):
        out.append(builder.gep(out[-1], [ld]))
    return out


def _fma(v: Vectors, a: Any, b: Any, c: Any) -> Any:
    return v.fma(a, b, c)


def make_tile(rows: int, vecs: int, masked: bool, multiply: Callable[..., Any] = _fma) -> Any:
    """Make ``tile(k, a, a_row, a_col, b, ldb, c, ldc, init, ldi, chained, epilogue, e, lde, low, last)``.

    ``C[rows, vecs * lanes] = epilogue(init + A @ B)`` where ``A[i, p]`` lies at ``a + i * a_row + p * a_col`` (so A may
    be read transposed) and B and C are row-major. ``chained``: start from ``init[i * ldi + j]`` (ldi = 0: one bias row
    for all), else from zero. Epilogues, with NaN kept: CLAMP ``max(c, low)``, GATE ``c where e > 0 else 0``,
    SCALE ``c * e``. If ``masked``, only the first ``last`` lanes of the last vector exist. ``k >= 1``.
    ``multiply(v, a, b, c)`` emits ``a * b + c``.
    """

    @intrinsic
    def tile(typingctx, k, a, a_row, a_col, b, ldb, c, ldc, init, ldi, chained, epilogue, e, lde, low, last):
        n = types.int64
        signature = types.void(n, a, n, n, a, n, a, n, a, n, n, n, a, n, a.dtype, n)

        def codegen(context, builder, sig, args):
            k, a, a_row, a_col, b, ldb, c, ldc, init, ldi, chained, epilogue, e, lde, low, last = args
            v = Vectors(builder, sig.args[1].dtype)
            mask = v.first(last) if masked else None
            a_row = local(builder, a_row)

            def column(j):
                return ir.Constant(I64, j * v.lanes)

            def mask_of(j):
                return mask if j == vecs - 1 else None

            def block_of(base, ld):
                """Pointers to the tile's vectors in a row-major matrix."""
                out = []
                for row in lines(builder, base, ld, rows):
                    out += [(builder.gep(row, [column(j)]), mask_of(j)) for j in range(vecs)]
                return out

            function = builder.function
            names = ("chain", "loop", "done", "gate", "scale", "end")
            blocks = {name: function.append_basic_block(name) for name in names}
            head = builder.block
            builder.cbranch(builder.icmp_signed("!=", chained, ir.Constant(I64, 0)), blocks["chain"], blocks["loop"])

            builder.position_at_end(blocks["chain"])
            started = [v.load(at, m) for at, m in block_of(init, ldi)]
            builder.branch(blocks["loop"])

            builder.position_at_end(blocks["loop"])
            p = builder.phi(I64)
            a_at, b_at = builder.phi(a.type), builder.phi(b.type)
            sums = []
            for start in started:
                phi = builder.phi(v.type)
                phi.add_incoming(v.zero, head)
                phi.add_incoming(start, blocks["chain"])
                sums.append(phi)
            for before in (head, blocks["chain"]):
                p.add_incoming(ir.Constant(I64, 0), before)
                a_at.add_incoming(a, before)
                b_at.add_incoming(b, before)
            b_vectors = [v.load(builder.gep(b_at, [column(j)]), mask_of(j)) for j in range(vecs)]
            updated = []
            for i in range(rows):
                at = builder.gep(a_at, [builder.mul(a_row, ir.Constant(I64, i))])
                factor = v.splat(builder.load(at))
                updated += [multiply(v, factor, b_vectors[j], sums[i * vecs + j]) for j in range(vecs)]
            following = builder.add(p, ir.Constant(I64, 1))
            p.add_incoming(following, blocks["loop"])
            a_at.add_incoming(builder.gep(a_at, [a_col]), blocks["loop"])
            b_at.add_incoming(builder.gep(b_at, [ldb]), blocks["loop"])
            for phi, value in zip(sums, updated, strict=True):
                phi.add_incoming(value, blocks["loop"])
            builder.cbranch(builder.icmp_signed("<", following, k), blocks["loop"], blocks["done"])

            builder.position_at_end(blocks["done"])
            targets = block_of(c, ldc)
            choice = builder.switch(epilogue, blocks["end"])
            choice.add_case(ir.Constant(I64, GATE), blocks["gate"])
            choice.add_case(ir.Constant(I64, SCALE), blocks["scale"])

            builder.position_at_end(blocks["gate"])
            gated = []
            for value, (at, m) in zip(updated, block_of(e, lde), strict=True):
                gated.append(builder.select(builder.fcmp_unordered(">", v.load(at, m), v.zero), value, v.zero))
            builder.branch(blocks["end"])

            builder.position_at_end(blocks["scale"])
            scaled = [
                builder.fmul(value, v.load(at, m)) for value, (at, m) in zip(updated, block_of(e, lde), strict=True)
            ]
            builder.branch(blocks["end"])

            builder.position_at_end(blocks["end"])
            results = []
            for plain, gate, scale in zip(updated, gated, scaled, strict=True):
                phi = builder.phi(v.type)
                phi.add_incoming(plain, blocks["done"])
                phi.add_incoming(gate, blocks["gate"])
                phi.add_incoming(scale, blocks["scale"])
                results.append(phi)
            lowest = v.splat(low)
            for value, (at, m) in zip(results, targets, strict=True):
                below = builder.fcmp_ordered("<", value, lowest)
                v.store(builder.select(below, lowest, value), at, m)
            return context.get_dummy_value()

        return signature, codegen

    return tile


def make_dots(rows: int, cols: int) -> Any:
    """Make ``dots(k, a, a_row, b, ldb, c, ldc, init, ldi, chained, low)`` for a product with few columns.

    ``c[i * ldc + j] = max(init[i * ldi + j] + a[i] . b[j], low)`` (without init if not ``chained``), where the rows of
    A and the columns of B (``b + j * ldb``) are contiguous along k. Each is one vector of partial sums, added up in a
    fixed order: its bits depend neither on ``rows`` nor on ``cols``, a power of two.
    """

    @intrinsic
    def dots(typingctx, k, a, a_row, b, ldb, c, ldc, init, ldi, chained, low):
        n = types.int64
        signature = types.void(n, a, n, a, n, a, n, a, n, n, a.dtype)

        def codegen(context, builder, sig, args):
            k, a, a_row, b, ldb, c, ldc, init, ldi, chained, low = args
            v = Vectors(builder, sig.args[1].dtype)
            zero, width = ir.Constant(I64, 0), ir.Constant(I64, v.lanes)
            function, head = builder.function, builder.block
            whole, rest, tail, done = (function.append_basic_block(name) for name in ("whole", "rest", "tail", "done"))

            a_rows = lines(builder, a, a_row, rows)
            b_columns = lines(builder, b, ldb, cols)

            def further(p, sums, mask=None):
                """All sums after one more vector along k."""
                factors = [v.load(builder.gep(at, [p]), mask) for at in b_columns]
                out = []
                for i, at in enumerate(a_rows):
                    value = v.load(builder.gep(at, [p]), mask)
                    out += [v.fma(value, factor, sums[i * cols + j]) for j, factor in enumerate(factors)]
                return out

            edge = builder.sub(k, builder.srem(k, width))
            builder.cbranch(builder.icmp_signed(">", edge, zero), whole, rest)

            builder.position_at_end(whole)
            p = builder.phi(I64)
            before = [builder.phi(v.type) for _ in range(rows * cols)]
            after = further(p, before)
            following = builder.add(p, width)
            for phi, first, next_ in zip(
                [p, *before], [zero] + [v.zero] * len(after), [following, *after], strict=True
            ):
                phi.add_incoming(first, head)
                phi.add_incoming(next_, whole)
            builder.cbranch(builder.icmp_signed("<", following, edge), whole, rest)

            builder.position_at_end(rest)
            partial = [builder.phi(v.type) for _ in after]
            for phi, value in zip(partial, after, strict=True):
                phi.add_incoming(v.zero, head)
                phi.add_incoming(value, whole)
            builder.cbranch(builder.icmp_signed("<", edge, k), tail, done)

            builder.position_at_end(tail)
            completed = further(edge, partial, v.first(builder.sub(k, edge)))
            builder.branch(done)

            builder.position_at_end(done)
            sums = [builder.phi(v.type) for _ in after]
            for phi, *values in zip(sums, partial, completed, strict=True):
                phi.add_incoming(values[0], rest)
                phi.add_incoming(values[1], tail)
            some = ir.VectorType(v.real, cols)
            none, lowest = ir.Constant(some, [0.0] * cols), v.splat(low, v.real, cols)
            is_chained = builder.icmp_signed("!=", chained, zero)
            targets = zip(lines(builder, init, ldi, rows), lines(builder, c, ldc, rows), strict=True)
            for i, (start_row, target_row) in enumerate(targets):
                start = builder.load(builder.bitcast(start_row, some.as_pointer()), align=v.bits // 8)
                total = v.totals(sums[i * cols : (i + 1) * cols])
                total = builder.fadd(builder.select(is_chained, start, none), total)
                below = builder.fcmp_ordered("<", total, lowest)
                target = builder.bitcast(target_row, some.as_pointer())
                builder.store(builder.select(below, lowest, total), target, align=v.bits // 8)
            return context.get_dummy_value()

        return signature, codegen

    return dots
