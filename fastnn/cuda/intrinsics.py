"""Loads and stores without tests, of several numbers at once, by places; and what else Numba has no words for.

Signed indices are not tested for being negative. Arrays have one dimension.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir

from fastnn.cuda._jit import SIMULATED, extending, types

__all__ = [
    "distance", "load", "load2", "load4", "load_place", "load_place4", "load_word", "place", "quotient",
    "rolled", "store", "store2", "store4", "store_word",
]  # fmt: skip

if SIMULATED:

    def load(array, i):
        return array[i]

    def store(array, i, value):
        array[i] = value

    def load2(array, i):
        return array[i], array[i + 1]

    def load4(array, i):
        return array[i], array[i + 1], array[i + 2], array[i + 3]

    def store2(array, i, a, b):
        array[i], array[i + 1] = a, b

    def store4(array, i, a, b, c, d):
        array[i], array[i + 1], array[i + 2], array[i + 3] = a, b, c, d

    def load_word(array, i):
        return int(array.view(np.int32)[i])

    def store_word(array, i, word):
        array.view(np.int32)[i] = word

    def place(array, i):
        return np.int32(i)

    def distance(array, n):
        return np.int32(n)

    load_place, load_place4 = load, load4

    def quotient(a, b):
        return a // b

    def rolled(n):
        return n

else:
    _SHARED = 3  # the address space
    _word = ir.IntType(32)

    def _address(context, builder, kind, array, i):
        data = context.make_array(kind)(context, builder, array).data
        return builder.gep(data, [i])

    @extending.intrinsic
    def load(typingctx, array, i):
        """``array[i]``."""

        def codegen(context, builder, signature, args):
            return builder.load(_address(context, builder, signature.args[0], *args))

        return array.dtype(array, types.int64), codegen

    @extending.intrinsic
    def store(typingctx, array, i, value):
        """``array[i] = value``, of the array's dtype."""

        def codegen(context, builder, signature, args):
            builder.store(args[2], _address(context, builder, signature.args[0], *args[:2]))

        return types.void(array, types.int64, array.dtype), codegen

    def _vector_at(builder, address, width):
        return builder.bitcast(
            address, ir.PointerType(ir.VectorType(address.type.pointee, width), address.type.addrspace)
        )

    def _neighbours(context, builder, kind, address):
        """Numbers from an address on, as a tuple of this kind."""
        width = len(kind)
        loaded = builder.load(_vector_at(builder, address, width), align=4 * width)
        parts = [builder.extract_element(loaded, ir.Constant(_word, k)) for k in range(width)]
        return context.make_tuple(builder, kind, parts)

    def _loading(width):
        def load(typingctx, array, i):
            """Neighbours as a tuple, by one instruction in float32; all is aligned to 4 * width bytes."""

            def codegen(context, builder, signature, args):
                address = _address(context, builder, signature.args[0], *args)
                return _neighbours(context, builder, signature.return_type, address)

            return types.UniTuple(array.dtype, width)(array, types.int64), codegen

        return extending.intrinsic(load)

    load2, load4 = _loading(2), _loading(4)

    def _store_neighbours(context, builder, signature, args):
        array, i, *parts = args
        address = _vector_at(builder, _address(context, builder, signature.args[0], array, i), len(parts))
        together = ir.Constant(address.type.pointee, ir.Undefined)
        for k, part in enumerate(parts):
            together = builder.insert_element(together, part, ir.Constant(_word, k))
        builder.store(together, address, align=4 * len(parts))

    @extending.intrinsic
    def store2(typingctx, array, i, a, b):
        """What `load2` loads."""
        return types.void(array, types.int64, *(array.dtype,) * 2), _store_neighbours

    @extending.intrinsic
    def store4(typingctx, array, i, a, b, c, d):
        """What `load4` loads."""
        return types.void(array, types.int64, *(array.dtype,) * 4), _store_neighbours

    def _word_at(context, builder, kind, array, i):
        return builder.bitcast(_address(context, builder, kind, array, i), _word.as_pointer())

    @extending.intrinsic
    def load_word(typingctx, array, i):
        """The bits of a float32 number, as an int32."""

        def codegen(context, builder, signature, args):
            return builder.load(_word_at(context, builder, signature.args[0], *args))

        return types.int32(array, types.int64), codegen

    @extending.intrinsic
    def store_word(typingctx, array, i, word):
        """What `load_word` loads."""

        def codegen(context, builder, signature, args):
            builder.store(args[2], _word_at(context, builder, signature.args[0], *args[:2]))

        return types.void(array, types.int64, types.int32), codegen

    @extending.intrinsic
    def place(typingctx, array, i):
        """Where ``array[i]`` lies in shared memory: an int32, on which one addition does what two do on addresses."""

        def codegen(context, builder, signature, args):
            address = _address(context, builder, signature.args[0], *args)
            inside = builder.addrspacecast(address, ir.PointerType(address.type.pointee, _SHARED))
            return builder.ptrtoint(inside, _word)

        return types.int32(array, types.int64), codegen

    @extending.intrinsic
    def distance(typingctx, array, n):
        """Between the places of elements that lie ``n`` apart."""

        def codegen(context, builder, signature, args):
            size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
            return builder.trunc(builder.mul(args[1], ir.Constant(args[1].type, size)), _word)

        return types.int32(array, types.int64), codegen

    def _at_place(context, builder, kind, at):
        return builder.inttoptr(at, ir.PointerType(context.get_data_type(kind.dtype), _SHARED))

    @extending.intrinsic
    def load_place(typingctx, array, at):
        """What lies at a place; ``array`` says its dtype."""

        def codegen(context, builder, signature, args):
            return builder.load(_at_place(context, builder, signature.args[0], args[1]))

        return array.dtype(array, types.int32), codegen

    @extending.intrinsic
    def load_place4(typingctx, array, at):
        """Four neighbours from a place that is a multiple of 16 bytes."""

        def codegen(context, builder, signature, args):
            address = _at_place(context, builder, signature.args[0], args[1])
            return _neighbours(context, builder, signature.return_type, address)

        return types.UniTuple(array.dtype, 4)(array, types.int32), codegen

    @extending.intrinsic
    def quotient(typingctx, a, b):
        """``a // b`` of numbers below 2**31 that are not negative: of 64 bits it would take four times as long."""

        def codegen(context, builder, signature, args):
            found = builder.udiv(*(builder.trunc(each, _word) for each in args))
            return builder.zext(found, args[0].type)

        return types.int64(types.int64, types.int64), codegen

    @extending.intrinsic
    def rolled(typingctx, n):
        """``n`` as a number that the compiler does not know.

        It would unroll every loop of a fixed length: that takes minutes for deep networks, and what all rounds together
        keep in registers spills.
        """

        def codegen(context, builder, signature, args):
            hidden = ir.InlineAsm(ir.FunctionType(args[0].type, [args[0].type]), "mov.b64 $0, $1;", "=l,l")
            return builder.call(hidden, args)

        return types.uint64(types.uint64), codegen
