"""Treat subnormal numbers as zero while a kernel runs.

Arithmetic on numbers below the smallest normal one (1e-38 in float32) is many times slower on most CPUs, and moments of
parameters without gradient, or what is left of a gradient behind saturated units, decay into them within a thousand
steps. The mode belongs to the thread and is put back when the kernel returns; kernels raise no exceptions in between.
"""

from __future__ import annotations

import platform
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastnn._jit import intrinsic
from fastnn.cpu.simd import I32, I64

_MACHINE = platform.machine().lower()
_X86 = _MACHINE in ("x86_64", "amd64")
_ARM = _MACHINE in ("aarch64", "arm64")
# MXCSR: results to zero (bit 15), operands to zero (bit 6). FPCR: both (bit 24).
_FLUSH = 0x8040 if _X86 else 1 << 24


def _x86(builder: Any, name: str, place: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [place.type])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.x86.sse.{name}"), [place])


@intrinsic
def flush_subnormals(typingctx: Any) -> Any:
    """Begin to treat subnormal numbers as zero; returns the mode that was."""

    def codegen(context, builder, sig, args):
        if _X86:
            with builder.goto_entry_block():
                room = builder.alloca(I32)
            place = builder.bitcast(room, ir.IntType(8).as_pointer())
            _x86(builder, "stmxcsr", place)
            before = builder.load(room)
            builder.store(builder.or_(before, ir.Constant(I32, _FLUSH)), room)
            _x86(builder, "ldmxcsr", place)
            return builder.zext(before, I64)
        if _ARM:
            before = builder.asm(ir.FunctionType(I64, []), "mrs $0, fpcr", "=r", [], side_effect=True)
            _set_fpcr(builder, builder.or_(before, ir.Constant(I64, _FLUSH)))
            return before
        return ir.Constant(I64, 0)

    return types.int64(), codegen


def _set_fpcr(builder: Any, mode: Any) -> None:
    builder.asm(ir.FunctionType(ir.VoidType(), [I64]), "msr fpcr, $0", "r", [mode], side_effect=True)


@intrinsic
def restore_subnormals(typingctx: Any, mode: Any) -> Any:
    """Put back the mode that `flush_subnormals` returned."""

    def codegen(context, builder, sig, args):
        if _X86:
            with builder.goto_entry_block():
                room = builder.alloca(I32)
            builder.store(builder.trunc(args[0], I32), room)
            _x86(builder, "ldmxcsr", builder.bitcast(room, ir.IntType(8).as_pointer()))
        elif _ARM:
            _set_fpcr(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen
