"""Vector instructions for Numba code: pointers, and register tiles of a matrix product written as LLVM vector IR.

A tile computes ``ROWS x (vecs * lanes)`` elements of C with all its accumulators in registers. Every element is one
chain of fused multiply-adds along k, started from zero, from C itself or from a bias, so its bits do not depend on the
tile it falls into, on the batch around it, or on how a batch was cut into pieces.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastnn._jit import intrinsic
from fastnn._rows import GATE, SCALE

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def _vector_bytes() -> int:
    """Width of the host's vector registers; LLVM splits or joins vectors where its guess differs."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    if features.get("avx2"):
        return 32
    return 16


VECTOR_BYTES = _vector_bytes()
# 32 vector registers hold 8 x 2 accumulators beside the operands; AVX2 has 16 registers.
TILE_ROWS = 4 if VECTOR_BYTES == 32 else 8


def lanes(itemsize: int) -> int:
    """Elements of ``itemsize`` bytes in one vector."""
    return VECTOR_BYTES // itemsize


@intrinsic
def pointer(typingctx: Any, array: Any, offset: Any) -> Any:
    """``&array[offset]`` of a contiguous array, in elements; no bounds are checked."""
    signature = types.CPointer(array.dtype)(array, types.int64)

    def codegen(context, builder, sig, args):
        struct = cgutils.create_struct_proxy(sig.args[0])(context, builder, args[0])
        return builder.gep(struct.data, [args[1]])

    return signature, codegen


@intrinsic
def shift(typingctx: Any, base: Any, offset: Any) -> Any:
    """``base + offset`` of a pointer, in elements."""
    signature = base(base, types.int64)

    def codegen(context, builder, sig, args):
        return builder.gep(args[0], [args[1]])

    return signature, codegen


class _Vectors:
    """IR shorthand for vectors of one element type inside one function."""

    def __init__(self, builder: Any, real: Any):
        self.builder = builder
        self.bits = real.bitwidth
        self.real = ir.FloatType() if self.bits == 32 else ir.DoubleType()
        self.lanes = lanes(self.bits // 8)
        self.type = ir.VectorType(self.real, self.lanes)
        self.mask_type = ir.VectorType(I1, self.lanes)
        self.zero = ir.Constant(self.type, [0.0] * self.lanes)
        self._suffix = f"v{self.lanes}f{self.bits}"

    def _declare(self, name: str, result: Any, arguments: list[Any]) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, arguments), name)

    def splat(self, value: Any, of: Any = None) -> Any:
        """Broadcast of one number to all lanes."""
        kind = ir.VectorType(of, self.lanes) if of is not None else self.type
        undefined = ir.Constant(kind, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        first = self.builder.insert_element(undefined, value, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, undefined, zeros)

    def first(self, count: Any) -> Any:
        """Mask of the first ``count`` lanes."""
        index = ir.Constant(ir.VectorType(I64, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", index, self.splat(count, I64))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        function = self._declare(f"llvm.fma.{self._suffix}", self.type, [self.type] * 3)
        return self.builder.call(function, [a, b, c])

    def total(self, value: Any) -> Any:
        """Sum of all lanes, upper half onto lower half: a fixed order."""
        half = self.lanes // 2
        while half:
            parts = [
                self.builder.shuffle_vector(
                    value, value, ir.Constant(ir.VectorType(I32, half), list(range(at, at + half)))
                )
                for at in (0, half)
            ]
            value = self.builder.fadd(*parts)
            half //= 2
        return self.builder.extract_element(value, ir.Constant(I32, 0))

    def load(self, at: Any, mask: Any = None) -> Any:
        if mask is None:
            typed = self.builder.bitcast(at, self.type.as_pointer())
            return self.builder.load(typed, align=self.bits // 8)
        typed = self.builder.bitcast(at, self.type.as_pointer())
        name = f"llvm.masked.load.{self._suffix}.p0"
        function = self._declare(name, self.type, [typed.type, I32, self.mask_type, self.type])
        return self.builder.call(function, [typed, ir.Constant(I32, self.bits // 8), mask, self.zero])

    def store(self, value: Any, at: Any, mask: Any = None) -> None:
        typed = self.builder.bitcast(at, self.type.as_pointer())
        if mask is None:
            self.builder.store(value, typed, align=self.bits // 8)
            return
        name = f"llvm.masked.store.{self._suffix}.p0"
        function = self._declare(name, ir.VoidType(), [self.type, typed.type, I32, self.mask_type])
        self.builder.call(function, [value, typed, ir.Constant(I32, self.bits // 8), mask])


def make_tile(rows: int, vecs: int, masked: bool) -> Any:
    """Make ``tile(k, a, a_row, a_col, b, ldb, c, ldc, init, ldi, chained, epilogue, e, lde, low, last)``.

    ``C[rows, vecs * lanes] = epilogue(init + A @ B)`` where ``A[i, p]`` lies at ``a + i * a_row + p * a_col`` (so A may
    be read transposed) and B and C are row-major. ``chained``: start from ``init[i * ldi + j]`` (ldi = 0: one bias row
    for all), else from zero. Epilogues, with NaN kept: CLAMP ``max(c, low)``, GATE ``c where e > 0 else 0``,
    SCALE ``c * e``. If ``masked``, only the first ``last`` lanes of the last vector exist. ``k >= 1``.
    """

    @intrinsic
    def tile(typingctx, k, a, a_row, a_col, b, ldb, c, ldc, init, ldi, chained, epilogue, e, lde, low, last):
        n = types.int64
        signature = types.void(n, a, n, n, a, n, a, n, a, n, n, n, a, n, a.dtype, n)

        def codegen(context, builder, sig, args):
            k, a, a_row, a_col, b, ldb, c, ldc, init, ldi, chained, epilogue, e, lde, low, last = args
            v = _Vectors(builder, sig.args[1].dtype)
            mask = v.first(last) if masked else None

            def column(j):
                return ir.Constant(I64, j * v.lanes)

            def mask_of(j):
                return mask if j == vecs - 1 else None

            def block_of(base, ld):
                """Pointers to the tile's vectors in a row-major matrix."""
                out = []
                for i in range(rows):
                    row = builder.gep(base, [builder.mul(ld, ir.Constant(I64, i))])
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
                updated += [v.fma(factor, b_vectors[j], sums[i * vecs + j]) for j in range(vecs)]
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


def make_dots(rows: int) -> Any:
    """Make ``dots(k, a, a_row, b, c, ldc, init, ldi, chained, low)`` for a product with a single column.

    ``c[i * ldc] = max(init[i * ldi] + a[i] . b, low)`` (without init if not ``chained``) for rows that are contiguous
    along k. Each is one vector of partial sums, added up in a fixed order: its bits do not depend on ``rows``.
    """

    @intrinsic
    def dots(typingctx, k, a, a_row, b, c, ldc, init, ldi, chained, low):
        n = types.int64
        signature = types.void(n, a, n, a, a, n, a, n, n, a.dtype)

        def codegen(context, builder, sig, args):
            k, a, a_row, b, c, ldc, init, ldi, chained, low = args
            v = _Vectors(builder, sig.args[1].dtype)
            zero, width = ir.Constant(I64, 0), ir.Constant(I64, v.lanes)
            function, head = builder.function, builder.block
            whole, rest = function.append_basic_block("whole"), function.append_basic_block("rest")

            def row_of(base, ld, i):
                return builder.gep(base, [builder.mul(ld, ir.Constant(I64, i))])

            a_rows = [row_of(a, a_row, i) for i in range(rows)]
            edge = builder.sub(k, builder.srem(k, width))
            builder.cbranch(builder.icmp_signed(">", edge, zero), whole, rest)

            builder.position_at_end(whole)
            p = builder.phi(I64)
            before = [builder.phi(v.type) for _ in range(rows)]
            factor = v.load(builder.gep(b, [p]))
            after = [
                v.fma(v.load(builder.gep(at, [p])), factor, total) for at, total in zip(a_rows, before, strict=True)
            ]
            following = builder.add(p, width)
            for phi, first, next_ in zip([p, *before], [zero] + [v.zero] * rows, [following, *after], strict=True):
                phi.add_incoming(first, head)
                phi.add_incoming(next_, whole)
            builder.cbranch(builder.icmp_signed("<", following, edge), whole, rest)

            builder.position_at_end(rest)
            sums = [builder.phi(v.type) for _ in range(rows)]
            for phi, value in zip(sums, after, strict=True):
                phi.add_incoming(v.zero, head)
                phi.add_incoming(value, whole)
            mask = v.first(builder.sub(k, edge))
            factor = v.load(builder.gep(b, [edge]), mask)
            is_chained = builder.icmp_signed("!=", chained, zero)
            for i, (at, value) in enumerate(zip(a_rows, sums, strict=True)):
                products = v.fma(v.load(builder.gep(at, [edge]), mask), factor, value)
                start = builder.select(is_chained, builder.load(row_of(init, ldi, i)), ir.Constant(v.real, 0.0))
                total = builder.fadd(start, v.total(products))
                below = builder.fcmp_ordered("<", total, low)
                builder.store(builder.select(below, low, total), row_of(c, ldc, i))
            return context.get_dummy_value()

        return signature, codegen

    return dots


@intrinsic
def lanes_of(typingctx: Any, number: Any) -> Any:
    """Elements of this number's type in one vector: a constant inside a kernel."""

    def codegen(context, builder, sig, args):
        return ir.Constant(I64, lanes(number.bitwidth // 8))

    return types.int64(number), codegen


@intrinsic
def transpose_block(typingctx: Any, source: Any, ld_source: Any, target: Any, ld_target: Any) -> Any:
    """target (L, L) = transpose of source (L, L), for L lanes: L log2(L) shuffles between registers."""
    n = types.int64
    signature = types.void(source, n, source, n)

    def codegen(context, builder, sig, args):
        source, ld_source, target, ld_target = args
        v = _Vectors(builder, sig.args[0].dtype)
        rows = [v.load(builder.gep(source, [builder.mul(ld_source, ir.Constant(I64, i))])) for i in range(v.lanes)]
        step = 1
        while step < v.lanes:
            for i in (i for i in range(v.lanes) if not i & step):
                pair = rows[i], rows[i + step]
                # Lane k of the first row stays where k has the step's bit clear; elsewhere the other row gives it.
                first = [k if not k & step else v.lanes + (k ^ step) for k in range(v.lanes)]
                second = [k ^ step if not k & step else v.lanes + k for k in range(v.lanes)]
                rows[i], rows[i + step] = (
                    builder.shuffle_vector(*pair, ir.Constant(ir.VectorType(I32, v.lanes), mask))
                    for mask in (first, second)
                )
            step *= 2
        for i, value in enumerate(rows):
            v.store(value, builder.gep(target, [builder.mul(ld_target, ir.Constant(I64, i))]))
        return context.get_dummy_value()

    return signature, codegen
