"""Compiled functions of one network, its weights frozen in: for the user's compiled code, for Python and for C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import extending, types
from numba.core import cgutils, errors

from fastnn._jit import c_function, intrinsic, scalar, standalone
from fastnn._loops import stack
from fastnn.cpu import frozen
from fastnn.cpu.frozen import BATCH_ROWS, Step, Writer
from fastnn.cpu.simd import I64, pointer

_overload: Any = extending.overload

# What C code may expect, by the name that users give: SciPy's spelling of the signatures that it looks for.
POINTERS = "void (const T *, T *)"
INTEGRAND = "double (int, double *)"
FILTER = "int (double *, npy_intp, double *, void *)"
SIGNATURES = (POINTERS, INTEGRAND, FILTER)


def _make_run(steps: Sequence[Step], n_inputs: int, n_outputs: int, batch: int) -> Any:
    """Make ``run(x, out)``: a network's values for ``batch`` rows that lie one after the other."""

    @intrinsic
    def run(typingctx, x, out):
        def codegen(context, builder, sig, args):
            source, target = args

            def rows_from(first, rows):
                sizes = (ir.Constant(I64, n) for n in (n_inputs, n_outputs))
                begin = [
                    builder.gep(at, [builder.mul(first, n)]) for at, n in zip((source, target), sizes, strict=True)
                ]
                Writer(context, builder, x, rows).network(steps, n_inputs, *begin)

            def block(turn, nothing):
                rows_from(builder.mul(turn, ir.Constant(I64, BATCH_ROWS)), BATCH_ROWS)
                return nothing

            blocks = batch // BATCH_ROWS
            if blocks:
                frozen.loop(builder, blocks, [], block)
            if batch % BATCH_ROWS:
                rows_from(ir.Constant(I64, blocks * BATCH_ROWS), batch % BATCH_ROWS)
            return context.get_dummy_value()

        return types.void(x, out), codegen

    return run


@intrinsic
def _never_cached(typingctx: Any) -> Any:
    """Keep Numba from writing code that holds this to disk: a later process would go on with the weights of today.

    Numba looks for names of run-time addresses. The statement belongs where it is rarely passed.
    """

    def codegen(context, builder, sig, args):
        module = builder.module
        mark = cgutils.add_global_variable(
            module, ir.IntType(8), module.get_unique_name("numba.dynamic.globals.fastnn")
        )
        mark.linkage, mark.initializer = "internal", ir.Constant(ir.IntType(8), 0)
        builder.asm(ir.FunctionType(ir.VoidType(), [mark.type]), "", "r", [mark], side_effect=True)
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def _alive(typingctx: Any, array: Any) -> Any:
    """Nothing; but Numba frees an array after its last use, and a pointer to it is none."""

    def codegen(context, builder, sig, args):
        return context.get_dummy_value()

    return types.void(array), codegen


def _copy(source, target):
    """``target[...] = source`` in one or two dimensions, which compiles much faster; compiled code only."""
    raise NotImplementedError


@_overload(_copy)
def _copy_body(source, target):
    def copy_1d(source, target):
        for i in range(source.shape[0]):
            target[i] = source[i]

    def copy_2d(source, target):
        for i in range(source.shape[0]):
            for j in range(source.shape[1]):
                target[i, j] = source[i, j]

    return copy_1d if source.ndim == 1 else copy_2d


def _contiguous(array, T):
    """The array itself, or a contiguous copy of dtype T; compiled code only."""
    raise NotImplementedError


@_overload(_contiguous)
def _contiguous_body(array, T):
    _check_array(array)
    if _fits(array, T):
        return lambda array, T: array

    def copied(array, T):
        made = np.empty(array.shape, T)
        _copy(array, made)
        return made

    return copied


def _room(out, shape, T):
    """Where the values go: ``out`` itself, or a new array; compiled code only."""
    raise NotImplementedError


@_overload(_room)
def _room_body(out, shape, T):
    if isinstance(out, types.Array) and not out.mutable:
        raise errors.TypingError("out must be an array that can be written to, got a read-only one")
    if _fits(out, T):
        return lambda out, shape, T: out
    return lambda out, shape, T: np.empty(shape, T)


def _result(room, out):
    """What f returns: ``out``, which then holds the values, or the new array; compiled code only."""
    raise NotImplementedError


@_overload(_result)
def _result_body(room, out):
    if _is_none(out) or room == out:
        return lambda room, out: room

    def copied(room, out):
        _copy(room, out)
        return out

    return copied


def _has_shape(out, ndim, size, rows):
    """Whether an array, if there is one, has the right shape; compiled code only."""
    raise NotImplementedError


@_overload(_has_shape)
def _has_shape_body(out, ndim, size, rows):
    if _is_none(out):
        return lambda out, ndim, size, rows: True
    _check_array(out)
    return lambda out, ndim, size, rows: out.ndim == ndim and out.size == size and out.shape[0] == rows


def _check_array(given: Any) -> None:
    if not isinstance(given, types.Array):
        raise errors.TypingError(f"x and out must be arrays, got {given}")


def _is_none(out: Any) -> bool:
    return isinstance(out, (types.Omitted, types.NoneType))


def _fits(array: Any, T: Any) -> bool:
    return isinstance(array, types.Array) and array.layout == "C" and array.dtype == T.instance_type


def function(steps: Sequence[Step], n_inputs: int, n_outputs: int, dtype: np.dtype[Any], batch: int | None) -> Any:
    """``f(x)`` and ``f(x, out)``, for compiled code and for Python; x and out may be the same memory."""
    emitted = _make_run(steps, n_inputs, n_outputs, batch or 1)
    run = standalone(lambda x, out: emitted(x, out))
    shape_in, shape_out = ((n,) if batch is None else (batch, n) for n in (n_inputs, n_outputs))
    ndim, rows_in, rows_out = len(shape_in), shape_in[0], shape_out[0]
    size_in, size_out = int(np.prod(shape_in)), int(np.prod(shape_out))
    bad_x, bad_out = f"x must have shape {shape_in}", f"out must have shape {shape_out}"
    T = dtype.type

    def f(x, out=None):
        if not _has_shape(x, ndim, size_in, rows_in):
            _never_cached()
            raise ValueError(bad_x)
        if not _has_shape(out, ndim, size_out, rows_out):
            raise ValueError(bad_out)
        source, room = _contiguous(x, T), _room(out, shape_out, T)
        run(pointer(source, 0), pointer(room, 0))
        _alive(source)
        return _result(room, out)

    return standalone(f)


def c_pointer(steps: Sequence[Step], n_inputs: int, n_outputs: int, dtype: np.dtype[Any], signature: str) -> Any:
    """A C function of one of the ``SIGNATURES``, as an object of ctypes."""
    run = _make_run(steps, n_inputs, n_outputs, 1)
    real, T = numba.from_dtype(dtype), dtype.type
    inputs, outputs = stack(n_inputs), stack(n_outputs)

    def plain(x, out):
        run(x, out)

    @scalar
    def value(x):
        like = T(0)
        source, target = inputs(like), outputs(like)
        for j in range(n_inputs):
            source[j] = T(x[j])
        run(source, target)
        return target[0]

    def integrand(n, x):
        return float(value(x)) if n == n_inputs else np.nan

    def filter_(x, n, out, user_data):
        if n != n_inputs:
            return 0  # SciPy raises an error
        out[0] = value(x)
        return 1

    doubles = types.CPointer(types.float64)
    body: Any
    body, arguments, returned = {
        POINTERS: (plain, (types.CPointer(real), types.CPointer(real)), types.void),
        INTEGRAND: (integrand, (types.intc, doubles), types.float64),
        FILTER: (filter_, (doubles, types.intp, doubles, types.voidptr), types.intc),
    }[signature]
    compiled = c_function(body, arguments, returned)
    made = compiled.ctypes
    made.address, made.compiled = compiled.address, compiled  # which keeps the code alive
    return made
