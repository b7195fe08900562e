"""Vector instructions for Numba code, written as LLVM vector IR: pointers, copies and transposes.

``Vectors`` is the shorthand in which these and the register tiles of ``tiles`` are written.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastnn._jit import intrinsic

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


@intrinsic
def as_pointer(typingctx: Any, address: Any, like: Any) -> Any:
    """A number as a pointer of the type of ``like``."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], context.get_value_type(sig.args[1]))

    return like(types.int64, like), codegen


@intrinsic
def address_of(typingctx: Any, at: Any) -> Any:
    """A pointer as a number."""

    def codegen(context, builder, sig, args):
        return builder.ptrtoint(args[0], I64)

    return types.int64(at), codegen


class Vectors:
    """IR shorthand for vectors of one element type inside one function; ``count`` lanes, None: a whole register's."""

    def __init__(self, builder: Any, real: Any, count: int | None = None):
        self.builder = builder
        self.bits = real.bitwidth
        self.real = ir.FloatType() if self.bits == 32 else ir.DoubleType()
        self.lanes = count or lanes(self.bits // 8)
        self.type = ir.VectorType(self.real, self.lanes)
        self.mask_type = ir.VectorType(I1, self.lanes)
        self.zero = ir.Constant(self.type, [0.0] * self.lanes)
        self._suffix = f"v{self.lanes}f{self.bits}"

    def declare(self, name: str, result: Any, arguments: list[Any]) -> Any:
        return cgutils.get_or_insert_function(self.builder.module, ir.FunctionType(result, arguments), name)

    def splat(self, value: Any, of: Any = None, lanes: int | None = None) -> Any:
        """Broadcast of one number to all lanes."""
        lanes = lanes or self.lanes
        undefined = ir.Constant(ir.VectorType(of or self.real, lanes), ir.Undefined)
        zeros = ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        first = self.builder.insert_element(undefined, value, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(first, undefined, zeros)

    def first(self, count: Any) -> Any:
        """Mask of the first ``count`` lanes."""
        index = ir.Constant(ir.VectorType(I64, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", index, self.splat(count, I64))

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        function = self.declare(f"llvm.fma.{self._suffix}", self.type, [self.type] * 3)
        return self.builder.call(function, [a, b, c])

    def pick(self, a: Any, b: Any, index: list[int]) -> Any:
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(index)), index))

    def totals(self, values: list[Any]) -> Any:
        """Sums of all lanes of each vector, as a vector; always upper half onto lower half. A power of two of vectors.

        Two vectors' halves are added in one instruction, so that many sums cost little more than one.
        """
        if len(values) > self.lanes:
            sums = [self.totals(half) for half in (values[: len(values) // 2], values[len(values) // 2 :])]
            return self.pick(sums[0], sums[1], list(range(len(values))))
        groups, width = 1, self.lanes  # each vector holds ``groups`` sums, spread over ``width`` lanes each
        while width > 1:
            half = width // 2
            low = [group * width + lane for group in range(groups) for lane in range(half)]
            if len(values) > 1:
                low += [self.lanes + lane for lane in low]
                groups *= 2
            high = [lane + half for lane in low]
            pairs = [(values[i], values[min(i + 1, len(values) - 1)]) for i in range(0, len(values), 2)]
            values = [self.builder.fadd(self.pick(a, b, low), self.pick(a, b, high)) for a, b in pairs]
            width = half
        return values[0]

    def load(self, at: Any, mask: Any = None) -> Any:
        if mask is None:
            typed = self.builder.bitcast(at, self.type.as_pointer())
            return self.builder.load(typed, align=self.bits // 8)
        typed = self.builder.bitcast(at, self.type.as_pointer())
        name = f"llvm.masked.load.{self._suffix}.p0"
        function = self.declare(name, self.type, [typed.type, I32, self.mask_type, self.type])
        return self.builder.call(function, [typed, ir.Constant(I32, self.bits // 8), mask, self.zero])

    def store(self, value: Any, at: Any, mask: Any = None) -> None:
        typed = self.builder.bitcast(at, self.type.as_pointer())
        if mask is None:
            self.builder.store(value, typed, align=self.bits // 8)
            return
        name = f"llvm.masked.store.{self._suffix}.p0"
        function = self.declare(name, ir.VoidType(), [self.type, typed.type, I32, self.mask_type])
        self.builder.call(function, [value, typed, ir.Constant(I32, self.bits // 8), mask])


@intrinsic
def lanes_of(typingctx: Any, number: Any) -> Any:
    """Elements of this number's type in one vector: a constant inside a kernel."""

    def codegen(context, builder, sig, args):
        return ir.Constant(I64, lanes(number.bitwidth // 8))

    return types.int64(number), codegen


@intrinsic
def copy_vectors(typingctx: Any, source: Any, target: Any) -> Any:
    """target[:2 * lanes] = source[:2 * lanes]."""

    def codegen(context, builder, sig, args):
        v = Vectors(builder, sig.args[0].dtype)
        for i in range(2):
            at = [ir.Constant(I64, i * v.lanes)]
            v.store(v.load(builder.gep(args[0], at)), builder.gep(args[1], at))
        return context.get_dummy_value()

    return types.void(source, source), codegen


@intrinsic
def transpose_block(typingctx: Any, source: Any, ld_source: Any, target: Any, ld_target: Any) -> Any:
    """target (L, L) = transpose of source (L, L), for L lanes: L log2(L) shuffles between registers."""
    n = types.int64
    signature = types.void(source, n, source, n)

    def codegen(context, builder, sig, args):
        source, ld_source, target, ld_target = args
        v = Vectors(builder, sig.args[0].dtype)
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
