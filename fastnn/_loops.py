"""Intrinsics for loops over pointers inside natives, where LLVM knows too little to vectorise well.

``accessors``  Makes loads and stores that say which region of memory they belong to; the others do not overlap it.
``load``, ``store``, ``store_row``  Memory accesses that say: what is stored here is not read by another iteration.
    Natives may work in place (two arguments are the same memory), and LLVM's run-time test for overlap would then take
    the scalar loop. An iteration must read an element before it writes it, and touch no other iteration's elements.
``masked_tail``  Last statement of a loop's body: run the last elements in masked vectors too. A loop over 10 columns is
    then one vector, where it would have been ten scalar rounds.
``full_lanes``  The same, for a loop over a fixed number of lanes: keep it whole, or LLVM unrolls it into scalars.
``one_by_one``  The same: do not vectorise, where it would take gathers and scatters.
``stack``, ``stack_bytes``  Small arrays inside a native.
``larger``  Maximum of numbers that LLVM can reduce in vectors; NaN need not win.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llvmlite import ir
from numba import types

from fastnn._jit import intrinsic


def _scopes(module: Any, regions: Iterable[str]) -> Any:
    """Metadata list of alias scopes; see "noalias and alias.scope metadata" in LLVM's language reference."""
    domain = module.add_metadata(["fastnn"])
    return module.add_metadata([module.add_metadata([f"fastnn.{region}", domain]) for region in regions])


def accessors(region: str, regions: Iterable[str]) -> tuple[Any, Any]:
    """Make ``load(pointer, i)`` and ``store(pointer, i, value)`` for memory that no access to other regions touches."""
    others = [other for other in regions if other != region]

    def mark(builder: Any, access: Any) -> Any:
        access.set_metadata("alias.scope", _scopes(builder.module, [region]))
        access.set_metadata("noalias", _scopes(builder.module, others))
        return access

    @intrinsic
    def load(typingctx, pointer, index):
        def codegen(context, builder, sig, args):
            return mark(builder, builder.load(builder.gep(args[0], [args[1]])))

        return pointer.dtype(pointer, types.int64), codegen

    @intrinsic
    def store(typingctx, pointer, index, value):
        def codegen(context, builder, sig, args):
            mark(builder, builder.store(args[2], builder.gep(args[0], [args[1]])))
            return context.get_dummy_value()

        return types.void(pointer, types.int64, pointer.dtype), codegen

    return load, store


_REGIONS = ("read", "written", "rows")
load, _ = accessors("read", _REGIONS)
_, store = accessors("written", _REGIONS)
_, store_row = accessors("rows", _REGIONS)


class _Latch(ir.Block):
    """A block whose closing jump carries its loop's hints."""

    @property
    def terminator(self) -> Any:
        return self._jump

    @terminator.setter
    def terminator(self, jump: Any) -> None:
        module = self.function.module
        # A loop's name is a node that refers to itself; the text keeps LLVM and llvmlite from merging two of them.
        name = module.add_metadata([f"fastnn.loop.{len(module.metadata)}"])
        name.operands = (name, *(module.add_metadata(hint) for hint in self._hints))
        jump.set_metadata("llvm.loop", name)
        self._jump = jump


def _hint(*hints: list[Any]) -> Any:
    """Make the statement that, at the end of a loop's body, puts these "llvm.loop" hints on the loop."""

    @intrinsic
    def hint(typingctx):
        def codegen(context, builder, sig, args):
            block = builder.block
            del block.terminator  # the attribute gives way to the property
            block._jump, block._hints = None, hints
            block.__class__ = _Latch
            return context.get_dummy_value()

        return types.void(), codegen

    return hint


_ONE_VECTOR = ["llvm.loop.interleave.count", ir.Constant(ir.IntType(32), 1)]
masked_tail = _hint(["llvm.loop.vectorize.predicate.enable", ir.Constant(ir.IntType(1), 1)], _ONE_VECTOR)
full_lanes = _hint(["llvm.loop.unroll.disable"], _ONE_VECTOR)
one_by_one = _hint(["llvm.loop.vectorize.enable", ir.Constant(ir.IntType(1), 0)])


def _stack(size_of: Any) -> Any:
    @intrinsic
    def array(typingctx, like):
        def codegen(context, builder, sig, args):
            count = size_of(context.get_abi_sizeof(args[0].type))
            with builder.goto_entry_block():  # cgutils.alloca_once would fill the array with zeros at every call
                room = builder.alloca(ir.ArrayType(args[0].type, count))
            room.align = 64
            return builder.bitcast(room, args[0].type.as_pointer())

        return types.CPointer(like)(like), codegen

    return array


def stack(count: int) -> Any:
    """Make ``array(like)``: a pointer to ``count`` uninitialised numbers of this type on the stack."""
    return _stack(lambda itemsize: count)


def stack_bytes(size: int) -> Any:
    """Make ``array(like)``: a pointer to ``size`` bytes of uninitialised numbers of this type on the stack."""
    return _stack(lambda itemsize: size // itemsize)


@intrinsic
def larger(typingctx: Any, a: Any, b: Any) -> Any:
    """The larger of two numbers. With a NaN it is either: only for shifts that cancel, where NaN shows up elsewhere.

    ``nnan`` on this one comparison is what lets LLVM reduce it in vectors.
    """

    def codegen(context, builder, sig, args):
        flags = ("nnan", "nsz")
        above = builder.fcmp_ordered(">", args[0], args[1], flags=flags)
        return builder.select(above, args[0], args[1], flags=flags)

    return a(a, a), codegen
