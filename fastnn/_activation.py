"""How an activation becomes machine code. The scalar sources are in ``_curves``, the table in ``activations``.

Matrices are row-major with leading dimension ``ld >= cols``; every native takes ``(pointers, rows, cols, ld, params)``
in this order, where ``params`` points to two parameters in the dtype of the computation. Element-wise natives run over
``rows * ld`` contiguous numbers, padding included; row-wise ones compute the first ``cols`` of a row and, where they
write values, put 0 into its padding. ``a`` may be the memory of ``z``, and so may ``s``; ``a`` and ``s`` must differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as numba_intrinsic

from fastnn._jit import Native, scalar
from fastnn._math import exp, log

Scalar = Callable[..., Any]
# Typed as Any: what it makes is called by compiled code, with fewer arguments than its Python signature.
intrinsic: Any = numba_intrinsic

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
def _copy(typingctx, target, source, start, n):  # type: ignore[no-untyped-def]
    """``target[start:start + n] = source[start:start + n]``; the two may be the same memory."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        to, origin, first, count = args
        size = context.get_abi_sizeof(context.get_value_type(signature.args[0].dtype))
        cgutils.raw_memmove(builder, builder.gep(to, [first]), builder.gep(origin, [first]), count, size)
        return context.get_dummy_value()

    return types.void(target, source, types.int64, types.int64), codegen


# Where ``z`` may be the memory of ``a``, LLVM's run-time alias check would send exactly that case down the scalar loop.
# So the numbers are copied to where the result goes, a block at a time, and the loop has one pointer for both.


def _inlined(function: Scalar) -> Any:
    """A scalar that is inlined whatever its size.

    Several elementary functions in one pass LLVM's limit, and a call that is left over keeps the loop scalar: 15 ns an
    element instead of 0.7.
    """
    compiled = scalar(function)
    compiled.targetoptions["forceinline"] = True
    return compiled


def _value_native(name: str | None, value: Scalar) -> Native:
    value = _inlined(value)

    def body(z, a, rows, cols, ld, params):  # type: ignore[no-untyped-def]
        p0, p1 = params[0], params[1]
        total = rows * ld
        for start in range(0, total, BLOCK):
            n = min(BLOCK, total - start)
            _copy(a, z, start, n)
            for i in range(start, start + n):
                a[i] = value(a[i], p0, p1)

    return Native(name and f"{name}.value", body, VALUE_ARGUMENTS)


def _forward_native(name: str | None, value: Scalar, slope: Scalar) -> Native:
    """One loop for both, so that the compiler shares what they have in common."""
    value, slope = _inlined(value), _inlined(slope)

    def body(z, a, s, rows, cols, ld, params):  # type: ignore[no-untyped-def]
        p0, p1 = params[0], params[1]
        total = rows * ld
        for start in range(0, total, BLOCK):
            n = min(BLOCK, total - start)
            _copy(s, z, start, n)
            for i in range(start, start + n):
                x = s[i]
                y = value(x, p0, p1)
                s[i] = slope(x, y, p0, p1)
                a[i] = y

    return Native(name and f"{name}.forward", body, FORWARD_ARGUMENTS)


def _curvature_native(name: str | None, value: Scalar, curvature: Scalar) -> Native:
    value, curvature = _inlined(value), _inlined(curvature)

    def body(z, c, rows, cols, ld, params):  # type: ignore[no-untyped-def]
        p0, p1 = params[0], params[1]
        total = rows * ld
        for start in range(0, total, BLOCK):
            n = min(BLOCK, total - start)
            _copy(c, z, start, n)
            for i in range(start, start + n):
                x = c[i]
                c[i] = curvature(x, value(x, p0, p1), p0, p1)

    return Native(name and f"{name}.curvature", body, CURVATURE_ARGUMENTS)


def _with_parameters(function: Scalar) -> Scalar:
    """A user's function of one number with the arguments of ours."""
    function = _inlined(function)

    def value(z, p0, p1):  # type: ignore[no-untyped-def]
        return function(z)

    return value


def _with_value_and_parameters(function: Scalar) -> Scalar:
    function = _inlined(function)

    def slope(z, a, p0, p1):  # type: ignore[no-untyped-def]
        return function(z)

    return slope


@intrinsic
def _larger(typingctx, a, b):  # type: ignore[no-untyped-def]
    """The larger number, NaN if one is: a comparison and a select would not be vectorised as a reduction."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        kind = args[0].type
        function = builder.module.declare_intrinsic("llvm.maximum", [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(function, args)

    return a(a, a), codegen


@scalar
def _subtract_largest(z, a, rows, cols, ld, padding):  # type: ignore[no-untyped-def]
    """``a = z - max(z)`` row by row, ``padding`` beyond the columns."""
    _copy(a, z, 0, rows * ld)
    for start in range(0, rows * ld, ld):
        largest = a[start]
        for j in range(start + 1, start + cols):
            largest = _larger(largest, a[j])
        for j in range(start, start + cols):
            a[j] = a[j] - largest
        for j in range(start + cols, start + ld):
            a[j] = padding


def _softmax_value(z, a, rows, cols, ld, params):  # type: ignore[no-untyped-def]
    T = type(params[0])
    _subtract_largest(z, a, rows, cols, ld, T(-1000))
    for i in range(rows * ld):  # one long loop: ten classes alone would not fill a vector
        a[i] = exp(a[i])
    for start in range(0, rows * ld, ld):
        total = T(0)
        for j in range(start, start + cols):
            total += a[j]
        scale = T(1) / total
        for j in range(start, start + cols):
            a[j] *= scale


def _softmax_backward(a, d, rows, cols, ld, params):  # type: ignore[no-untyped-def]
    # dz = a * (d - a.d); the Jacobian is symmetric, so the same function maps tangents.
    for start in range(0, rows * ld, ld):
        inner = type(params[0])(0)
        for j in range(start, start + cols):
            inner += a[j] * d[j]
        for j in range(start, start + cols):
            d[j] = a[j] * (d[j] - inner)


def _softmax_tangent_backward(a, ra, d, rd, rows, cols, ld, params):  # type: ignore[no-untyped-def]
    T = type(params[0])
    for start in range(0, rows * ld, ld):
        inner, tangent = T(0), T(0)
        for j in range(start, start + cols):
            inner += a[j] * d[j]
            tangent += ra[j] * d[j] + a[j] * rd[j]
        for j in range(start, start + cols):
            rd[j] = ra[j] * (d[j] - inner) + a[j] * (rd[j] - tangent)


def _log_softmax_value(z, a, rows, cols, ld, params):  # type: ignore[no-untyped-def]
    T = type(params[0])
    _subtract_largest(z, a, rows, cols, ld, T(0))
    for start in range(0, rows * ld, ld):
        total = T(0)
        for j in range(start, start + cols):
            total += exp(a[j])
        shift = log(total)
        for j in range(start, start + cols):
            a[j] -= shift


def _log_softmax_backward(a, d, rows, cols, ld, params):  # type: ignore[no-untyped-def]
    # dz = d - softmax * sum(d)
    for start in range(0, rows * ld, ld):
        total = type(params[0])(0)
        for j in range(start, start + cols):
            total += d[j]
        for j in range(start, start + cols):
            d[j] -= exp(a[j]) * total


def _log_softmax_tangent(a, ra, rows, cols, ld, params):  # type: ignore[no-untyped-def]
    # ra = rz - softmax . rz
    for start in range(0, rows * ld, ld):
        inner = type(params[0])(0)
        for j in range(start, start + cols):
            inner += exp(a[j]) * ra[j]
        for j in range(start, start + cols):
            ra[j] -= inner


def _log_softmax_tangent_backward(a, ra, d, rd, rows, cols, ld, params):  # type: ignore[no-untyped-def]
    T = type(params[0])
    for start in range(0, rows * ld, ld):
        total, tangent = T(0), T(0)
        for j in range(start, start + cols):
            total += d[j]
            tangent += rd[j]
        for j in range(start, start + cols):
            rd[j] -= exp(a[j]) * (ra[j] * total + tangent)


ROWWISE: dict[str, tuple[Scalar, ...]] = {
    "softmax": (_softmax_value, _softmax_backward, _softmax_backward, _softmax_tangent_backward),
    "log_softmax": (_log_softmax_value, _log_softmax_backward, _log_softmax_tangent, _log_softmax_tangent_backward),
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of an activation and the numbers it takes."""

    name: str
    default: float
    low: float | None = None
    low_open: bool = False


@dataclass(frozen=True)
class Definition:
    """One row of the table: scalar sources and what the engine must know.

    ``value(z, p0, p1)``, ``slope(z, a, p0, p1)`` and ``curvature(z, a, p0, p1)`` are plain functions of numbers of one
    dtype; their elementary functions are globals of their module, so that another device can compile the same source
    with its own. Row-wise activations have natives (``ROWWISE``) and no sources.
    """

    name: str
    value: Scalar | None = None
    slope: Scalar | None = None
    curvature: Scalar | None = None
    parameters: tuple[Parameter, ...] = ()
    trainable: bool = True
    gate: bool = False
    builtin: bool = True

    def __getstate__(self) -> dict[str, Any]:
        return {key: part for key, part in self.__dict__.items() if key != "natives"}  # addresses die with the process

    @cached_property
    def natives(self) -> dict[str, Native | None]:
        name = f"activation.{self.name}" if self.builtin else None
        if self.value is None:
            bodies = zip(
                ("value", "backward", "tangent", "tangent_backward"),
                ROWWISE[self.name],
                (VALUE_ARGUMENTS, BACKWARD_ARGUMENTS, TANGENT_ARGUMENTS, TANGENT_BACKWARD_ARGUMENTS),
                strict=True,
            )
            return {part: Native(f"{name}.{part}", body, arguments) for part, body, arguments in bodies}
        value, slope, curvature = self.value, self.slope, self.curvature
        if not self.builtin:
            value = _with_parameters(value)
            slope, curvature = (f and _with_value_and_parameters(f) for f in (slope, curvature))
        return {
            "value": _value_native(name, value),
            "forward": _forward_native(name, value, slope) if slope else None,
            "curvature": _curvature_native(name, value, curvature) if curvature else None,
        }
