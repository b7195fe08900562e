"""How the scalar sources of an activation become machine code.

Matrices are row-major with leading dimension ``ld >= cols``; every native takes ``(pointers, rows, cols, ld, params)``
in this order, where ``params`` points to two parameters in the dtype of the computation. Element-wise natives run over
``rows * ld`` contiguous numbers, padding included; row-wise ones compute the first ``cols`` of a row and, where they
write values, put 0 into its padding. ``a`` may be the memory of ``z``, and so may ``s``; ``a`` and ``s`` must differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types
from numba.core import cgutils

from fastnn._jit import Native, intrinsic, scalar

Scalar = Callable[..., Any]

# Elements copied, then computed in place, before the next ones: small enough to stay in the first-level cache.
BLOCK = 1024


def _arguments(n_pointers: int) -> Callable[[Any], tuple[Any, ...]]:
    def arguments(real: Any) -> tuple[Any, ...]:
        pointer = types.CPointer(real)
        return (*[pointer] * n_pointers, types.int64, types.int64, types.int64, pointer)

    return arguments


VALUE_ARGUMENTS = _arguments(2)  # (z, a, rows, cols, ld, params)
FORWARD_ARGUMENTS = _arguments(3)  # (z, a, s, rows, cols, ld, params): a = f(z), s = f'(z)
CURVATURE_ARGUMENTS = _arguments(2)  # (z, c, rows, cols, ld, params): c = f''(z)
BACKWARD_ARGUMENTS = _arguments(2)  # (a, d, ...), in place: gradient of a -> gradient of z
TANGENT_ARGUMENTS = _arguments(2)  # (a, ra, ...), in place: tangent of z -> tangent of a
TANGENT_BACKWARD_ARGUMENTS = _arguments(4)  # (a, ra, d, rd, ...), rd in place: tangent of d -> tangent of z's gradient


@intrinsic
def copy(typingctx, target, source, start, n):
    """``target[start:start + n] = source[start:start + n]``; the two may be the same memory."""

    def codegen(context, builder, signature, args):
        to, origin, first, count = args
        size = context.get_abi_sizeof(context.get_value_type(signature.args[0].dtype))
        cgutils.raw_memmove(builder, builder.gep(to, [first]), builder.gep(origin, [first]), count, size)
        return context.get_dummy_value()

    return types.void(target, source, types.int64, types.int64), codegen


# Where ``z`` may be the memory of ``a``, LLVM's run-time alias check would send exactly that case down the scalar loop.
# So the numbers are copied to where the result goes, a block at a time, and the loop has one pointer for both.


def value_native(name: str | None, value: Scalar) -> Native:
    value = scalar(value)

    def body(z, a, rows, cols, ld, params):
        p0, p1 = params[0], params[1]
        total = rows * ld
        for start in range(0, total, BLOCK):
            n = min(BLOCK, total - start)
            copy(a, z, start, n)
            for i in range(start, start + n):
                a[i] = value(a[i], p0, p1)

    return Native(name and f"{name}.value", body, VALUE_ARGUMENTS)


def forward_native(name: str | None, value: Scalar, slope: Scalar) -> Native:
    """One loop for both, so that the compiler shares what they have in common."""
    value, slope = scalar(value), scalar(slope)

    def body(z, a, s, rows, cols, ld, params):
        p0, p1 = params[0], params[1]
        total = rows * ld
        for start in range(0, total, BLOCK):
            n = min(BLOCK, total - start)
            copy(s, z, start, n)
            for i in range(start, start + n):
                x = s[i]
                y = value(x, p0, p1)
                s[i] = slope(x, y, p0, p1)
                a[i] = y

    return Native(name and f"{name}.forward", body, FORWARD_ARGUMENTS)


def curvature_native(name: str | None, value: Scalar, curvature: Scalar) -> Native:
    value, curvature = scalar(value), scalar(curvature)

    def body(z, c, rows, cols, ld, params):
        p0, p1 = params[0], params[1]
        total = rows * ld
        for start in range(0, total, BLOCK):
            n = min(BLOCK, total - start)
            copy(c, z, start, n)
            for i in range(start, start + n):
                x = c[i]
                c[i] = curvature(x, value(x, p0, p1), p0, p1)

    return Native(name and f"{name}.curvature", body, CURVATURE_ARGUMENTS)


def with_parameters(function: Scalar) -> Scalar:
    """A user's function of one number with the arguments of ours."""
    function = scalar(function)

    def value(z, p0, p1):
        return function(z)

    return value


def with_value_and_parameters(function: Scalar) -> Scalar:
    function = scalar(function)

    def slope(z, a, p0, p1):
        return function(z)

    return slope
