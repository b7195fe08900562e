"""The row-wise activations, softmax and log_softmax: natives for values, gradients and tangents."""

from __future__ import annotations

from llvmlite import ir

from fastnn._jit import intrinsic, scalar
from fastnn._math import exp, log
from fastnn.activations._base import define
from fastnn.activations._kernels import copy


@intrinsic
def _larger(typingctx, a, b):
    """The larger number, NaN if one is: a comparison and a select would not be vectorised as a reduction."""

    def codegen(context, builder, signature, args):
        kind = args[0].type
        function = builder.module.declare_intrinsic("llvm.maximum", [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(function, args)

    return a(a, a), codegen


@scalar
def _subtract_largest(z, a, rows, cols, ld, padding):
    """``a = z - max(z)`` row by row, ``padding`` beyond the columns."""
    copy(a, z, 0, rows * ld)
    for start in range(0, rows * ld, ld):
        largest = a[start]
        for j in range(start + 1, start + cols):
            largest = _larger(largest, a[j])
        for j in range(start, start + cols):
            a[j] = a[j] - largest
        for j in range(start + cols, start + ld):
            a[j] = padding


def _softmax_value(z, a, rows, cols, ld, params):
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


def _softmax_backward(a, d, rows, cols, ld, params):
    # dz = a * (d - a.d); the Jacobian is symmetric, so the same function maps tangents.
    for start in range(0, rows * ld, ld):
        inner = type(params[0])(0)
        for j in range(start, start + cols):
            inner += a[j] * d[j]
        for j in range(start, start + cols):
            d[j] = a[j] * (d[j] - inner)


def _softmax_tangent_backward(a, ra, d, rd, rows, cols, ld, params):
    T = type(params[0])
    for start in range(0, rows * ld, ld):
        inner, tangent = T(0), T(0)
        for j in range(start, start + cols):
            inner += a[j] * d[j]
            tangent += ra[j] * d[j] + a[j] * rd[j]
        for j in range(start, start + cols):
            rd[j] = ra[j] * (d[j] - inner) + a[j] * (rd[j] - tangent)


define(
    "softmax",
    rowwise=(_softmax_value, _softmax_backward, _softmax_backward, _softmax_tangent_backward),
)


def _log_softmax_value(z, a, rows, cols, ld, params):
    T = type(params[0])
    _subtract_largest(z, a, rows, cols, ld, T(0))
    for start in range(0, rows * ld, ld):
        total = T(0)
        for j in range(start, start + cols):
            total += exp(a[j])
        shift = log(total)
        for j in range(start, start + cols):
            a[j] -= shift


def _log_softmax_backward(a, d, rows, cols, ld, params):
    # dz = d - softmax * sum(d)
    for start in range(0, rows * ld, ld):
        total = type(params[0])(0)
        for j in range(start, start + cols):
            total += d[j]
        for j in range(start, start + cols):
            d[j] -= exp(a[j]) * total


def _log_softmax_tangent(a, ra, rows, cols, ld, params):
    # ra = rz - softmax . rz
    for start in range(0, rows * ld, ld):
        inner = type(params[0])(0)
        for j in range(start, start + cols):
            inner += exp(a[j]) * ra[j]
        for j in range(start, start + cols):
            ra[j] -= inner


def _log_softmax_tangent_backward(a, ra, d, rd, rows, cols, ld, params):
    T = type(params[0])
    for start in range(0, rows * ld, ld):
        total, tangent = T(0), T(0)
        for j in range(start, start + cols):
            total += d[j]
            tangent += rd[j]
        for j in range(start, start + cols):
            rd[j] -= exp(a[j]) * (ra[j] * total + tangent)


define(
    "log_softmax",
    rowwise=(_log_softmax_value, _log_softmax_backward, _log_softmax_tangent, _log_softmax_tangent_backward),
)
