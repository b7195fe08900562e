"""One piece of a batch: three natives that walk any plan.

``forward`` and ``backward`` (dLoss/d activations) work on some rows of a piece and touch no others, so threads may
share a piece. ``learn`` sums the parameters' gradients over all rows of it, and may update the parameters at once;
there, threads share the parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from fastnn import _rows as row
from fastnn._jit import Native, native_call, scalar
from fastnn._random import dropout_factor, dropout_limit, sample_key
from fastnn.activations import BACKWARD_ARGUMENTS, FORWARD_ARGUMENTS, VALUE_ARGUMENTS
from fastnn.cpu.gemm import call_gemm
from fastnn.cpu.norm import call_norm_backward, call_norm_forward
from fastnn.cpu.simd import shift
from fastnn.cpu.sums import column_sums
from fastnn.optimizers import UPDATE_ARGUMENTS

# Rows of a weight matrix, or biases, are shared among threads and worked on in multiples of this.
UNIT = 16

_call_value = native_call(VALUE_ARGUMENTS, 0)
_call_value_and_slope = native_call(FORWARD_ARGUMENTS, 0)
_call_rowwise_backward = native_call(BACKWARD_ARGUMENTS, 0)
call_update = native_call(UPDATE_ARGUMENTS, 0)


def forward_arguments(real: Any) -> tuple[Any, ...]:
    """(plan, n_rows, reals, theta, running, space, shared, piece, x, ldx, at, rows, first, key, mode).

    ``x`` and ``rows`` are what is to be computed, ``at`` is the first of these rows in the piece. ``first`` is its
    index in the batch and ``key`` the step's random key: together they decide the dropout factors, so these do not
    depend on the cut into pieces. ``mode`` is a set of bits of ``_rows``.
    """
    p, n = types.CPointer(real), types.int64
    return (types.CPointer(n), n, p, p, p, p, p, n, p, n, n, n, n, types.uint64, n)


def backward_arguments(real: Any) -> tuple[Any, ...]:
    """(plan, n_rows, reals, theta, space, shared, piece, dx, lddx, at, rows, mode, want_dx).

    Expects a forward pass with KEEP over the same rows, and dLoss/d output in the last row's D_OUT. Writes dLoss/d
    output of all rows of the plan, and dLoss/d input to ``dx`` if ``want_dx``.
    """
    p, n = types.CPointer(real), types.int64
    return (types.CPointer(n), n, p, p, p, p, n, p, n, n, n, n, n)


def learn_arguments(real: Any) -> tuple[Any, ...]:
    """(plan, n_rows, reals, theta, gradient, space, shared, piece, x, ldx, rows, mode, 5 numbers, slots, stride, coef).

    Expects a backward pass over all ``rows`` of the piece. The numbers: ``accumulate``: add to the gradient of earlier
    pieces, ``finish``: this is the last piece of the batch, ``part`` of ``parts``: this thread's share of the
    parameters, ``update``: address of the optimizer's update, which is then applied to each block of parameters as soon
    as its gradient is complete and still in the cache, or 0.
    """
    p, n = types.CPointer(real), types.int64
    return (types.CPointer(n), n, p, p, p, p, p, n, p, n, n, n, n, n, n, n, n, p, n, p)


@scalar
def _dropout_row(factor, cols, rate, key):
    """factor[j] = 0 with probability ``rate``, else 1 / (1 - rate)."""
    T = type(rate)
    kept, limit = T(1) / (T(1) - rate), dropout_limit(rate)
    for j in range(cols):
        factor[j] = dropout_factor(key, j, limit, kept)


@scalar
def gate(a, d, n):
    """d = 0 where the ReLU's output a is 0; NaN lets pass what is there."""
    zero = type(a[0])(0)
    for i in range(n):
        kept = d[i]  # read in any case: LLVM makes no vectors of a branch, which is mispredicted every other time
        d[i] = zero if a[i] <= zero else kept


@scalar
def _inverse(q, space, shared, piece, at):
    """1 / deviation of each sample of a layer normalisation, or of each column of a batch normalisation."""
    if q[row.KIND] == row.LAYER_NORM:
        return shift(space, q[row.STATISTICS] * piece + at)
    return shift(shared, q[row.STATISTICS])


@scalar
def copy_matrix(src, lds, dst, ldd, rows, cols):
    """dst[:rows, :cols] = src[:rows, :cols]."""
    for i in range(rows):
        a, b = shift(src, i * lds), shift(dst, i * ldd)
        for j in range(cols):
            b[j] = a[j]


@scalar
def _add_matrices(a, lda, b, ldb, out, ldo, rows, cols):
    for i in range(rows):
        p, q, o = shift(a, i * lda), shift(b, i * ldb), shift(out, i * ldo)
        for j in range(cols):
            o[j] = p[j] + q[j]


@scalar
def _multiply(d, factor, ld, out, ldo, rows, cols):
    for i in range(rows):
        p, q, o = shift(d, i * ld), shift(factor, i * ld), shift(out, i * ldo)
        for j in range(cols):
            o[j] = p[j] * q[j]


def _forward(plan, n_rows, reals, theta, running, space, shared, piece, x, ldx, at, rows, first, key, mode):
    T = type(reals[0])
    for r in range(n_rows):
        q = shift(plan, r * row.WIDTH)
        kind, n_in, n_out, act = q[row.KIND], q[row.N_IN], q[row.N_OUT], q[row.ACT]
        if kind == row.SPLIT:
            continue
        src, ld_in = x, ldx
        if q[row.IN] >= 0:
            ld_in = q[row.LD_IN]
            src = shift(space, q[row.IN] * piece + at * ld_in)
        ld_out = q[row.LD_OUT]
        out = shift(space, q[row.OUT] * piece + at * ld_out)
        slope = shift(space, max(q[row.SLOPE], 0) * piece + at * ld_out)
        numbers = shift(reals, q[row.REALS])
        if r == n_rows - 1 and mode & row.SKIP_LAST:
            act = row.IDENTITY
        if kind == row.DENSE:
            low = T(0) if act == row.RELU else T(-np.inf)
            w, b = shift(theta, q[row.W]), shift(theta, max(q[row.B], 0))
            chained = np.int64(q[row.B] >= 0)
            call_gemm(
                q[row.GEMM],
                (rows, n_out, n_in, src, ld_in, 1, w, n_out, 1, out, ld_out, b, 0, chained, 0, row.CLAMP, out, 0, low),
            )
        elif kind == row.ACTIVATION:
            copy_matrix(src, ld_in, out, ld_out, rows, n_out)
        elif kind == row.DROPOUT:
            if mode & row.TRAINING:
                for i in range(rows):
                    _dropout_row(shift(slope, i * ld_out), n_out, numbers[0], sample_key(key, first + i, r))
                    a, f, o = shift(src, i * ld_in), shift(slope, i * ld_out), shift(out, i * ld_out)
                    for j in range(n_out):
                        o[j] = a[j] * f[j]
            else:
                copy_matrix(src, ld_in, out, ld_out, rows, n_out)
        elif kind == row.ADD:
            skip, ld_skip = x, ldx
            if q[row.SKIP] >= 0:
                skip, ld_skip = shift(space, q[row.SKIP] * piece + at * ld_out), ld_out
            _add_matrices(src, ld_in, skip, ld_skip, out, ld_out, rows, n_out)
        else:
            statistics = shift(running, max(q[row.RUNNING], 0))
            gain, bias = shift(theta, q[row.W]), shift(theta, q[row.B])
            call_norm_forward(
                q[row.FORWARD],
                (
                    src, ld_in, out, ld_out, slope, _inverse(q, space, shared, piece, at), gain, bias, statistics,
                    rows, n_out, numbers[0], numbers[1], mode & row.TRAINING, mode & row.KEEP,
                ),
            )  # fmt: skip
        if act == row.ELEMENTWISE and mode & row.KEEP:
            _call_value_and_slope(q[row.FORWARD], (out, out, slope, rows, n_out, ld_out, numbers))
        elif act >= row.ELEMENTWISE:
            _call_value(q[row.VALUE], (out, out, rows, n_out, ld_out, numbers))


def _backward(plan, n_rows, reals, theta, space, shared, piece, dx, lddx, at, rows, mode, want_dx):
    T = type(reals[0])
    for r in range(n_rows - 1, -1, -1):
        q = shift(plan, r * row.WIDTH)
        kind, n_in, n_out, act = q[row.KIND], q[row.N_IN], q[row.N_OUT], q[row.ACT]
        ld_out = q[row.LD_OUT]
        out = shift(space, max(q[row.OUT], 0) * piece + at * ld_out)
        slope = shift(space, max(q[row.SLOPE], 0) * piece + at * ld_out)
        d = shift(space, q[row.D_OUT] * piece + at * ld_out)
        d_in, ld_d = dx, lddx
        if q[row.D_IN] >= 0:
            ld_d = q[row.LD_IN]
            d_in = shift(space, q[row.D_IN] * piece + at * ld_d)
        if r == n_rows - 1 and mode & row.SKIP_LAST:
            act = row.IDENTITY
        if act != row.IDENTITY and q[row.SLOPE_DONE] == 0:
            if act == row.RELU:
                gate(out, d, rows * ld_out)
            elif act == row.ELEMENTWISE:
                for i in range(rows * ld_out):
                    d[i] *= slope[i]
            else:
                _call_rowwise_backward(q[row.BACKWARD], (out, d, rows, n_out, ld_out, shift(reals, q[row.REALS])))
        if want_dx == 0 and (q[row.D_IN] < 0 or q[row.NEEDS_D_IN] == 0):
            continue
        if kind == row.DENSE:
            ld_e = q[row.LD_IN]
            e = shift(space, max(q[row.EPILOGUE_SLOT], 0) * piece + at * ld_e)
            call_gemm(
                q[row.GEMM],
                (
                    rows, n_in, n_out, d, ld_out, 1, shift(theta, q[row.W]), 1, n_out, d_in, ld_d, d_in, 0, 0, 0,
                    q[row.EPILOGUE], e, ld_e, T(-np.inf),
                ),
            )  # fmt: skip
        elif kind == row.BATCH_NORM or kind == row.LAYER_NORM:
            unused = shift(space, 0)
            call_norm_backward(
                q[row.BACKWARD],
                (
                    d, ld_out, d_in, ld_d, slope, _inverse(q, space, shared, piece, at), shift(theta, q[row.W]),
                    unused, unused, rows, n_out, mode & row.TRAINING, 0, 0, 1,
                ),
            )  # fmt: skip
        elif kind == row.SPLIT:
            _add_matrices(d, ld_out, shift(space, q[row.SKIP] * piece + at * ld_out), ld_out, d_in, ld_d, rows, n_out)
        elif kind == row.DROPOUT and mode & row.TRAINING:
            _multiply(d, slope, ld_out, d_in, ld_d, rows, n_out)
        else:
            copy_matrix(d, ld_out, d_in, ld_d, rows, n_out)


@scalar
def share(n, part, parts, unit):
    """Begin of a part of ``n`` things, in whole units; the end is the begin of the next."""
    return n if part == parts else n * part // parts // unit * unit


@scalar
def _share_or_turn(n, part, parts, turn):
    """This part's range of ``n`` columns or rows, and the next turn; what is too small to be shared goes round."""
    if n >= UNIT * parts:
        return share(n, part, parts, UNIT), share(n, part + 1, parts, UNIT), turn
    mine = turn % parts == part
    return 0, n if mine else 0, turn + 1


@scalar
def _add_penalty(gradient, w, n, l1, l2):
    T = type(l1)
    for i in range(n):
        sign = T(1) if w[i] > T(0) else (T(-1) if w[i] < T(0) else T(0))
        gradient[i] += l1 * sign + T(2) * l2 * w[i]


def _learn(
    plan, n_rows, reals, theta, gradient, space, shared, piece, x, ldx, rows, mode,
    accumulate, finish, part, parts, update, slots, stride, coef,
):  # fmt: skip
    T = type(reals[0])
    turn = 0
    for r in range(n_rows):
        q = shift(plan, r * row.WIDTH)
        kind, n_in, n_out, ld_out = q[row.KIND], q[row.N_IN], q[row.N_OUT], q[row.LD_OUT]
        d = shift(space, q[row.D_OUT] * piece)
        if kind == row.DENSE:
            src, ld_in = x, ldx
            if q[row.IN] >= 0:
                src, ld_in = shift(space, q[row.IN] * piece), q[row.LD_IN]
            first, end, turn = _share_or_turn(n_in, part, parts, turn)
            # Without an update there is nothing to gain from small blocks.
            block = q[row.BLOCK] if update != 0 else n_in
            dw = shift(gradient, q[row.W] + first * n_out)
            while first < end:
                count = min(block, end - first)
                begin = q[row.W] + first * n_out
                if update == 0 or accumulate != 0:
                    # Otherwise nobody will read the gradient, and its blocks take the same place, in the cache.
                    dw = shift(gradient, begin)
                call_gemm(
                    q[row.GEMM],
                    (
                        count, n_out, rows, shift(src, first), 1, ld_in, d, ld_out, 1, dw, n_out, dw, n_out, accumulate,
                        1, row.CLAMP, dw, 0, T(-np.inf),
                    ),
                )  # fmt: skip
                if finish != 0 and q[row.PENALTY] >= 0:
                    l1, l2 = reals[q[row.PENALTY]], reals[q[row.PENALTY] + 1]
                    _add_penalty(dw, shift(theta, begin), count * n_out, l1, l2)
                if update != 0:
                    call_update(update, (shift(theta, begin), dw, shift(slots, begin), count * n_out, stride, coef))
                first += count
            first, end, turn = _share_or_turn(n_out, part, parts, turn)
            if q[row.B] >= 0 and first < end:
                begin, count = q[row.B] + first, end - first
                db = shift(gradient, begin)
                column_sums(rows, count, shift(d, first), ld_out, d, 0, db, accumulate)
                if update != 0:
                    call_update(update, (shift(theta, begin), db, shift(slots, begin), count, stride, coef))
        elif kind == row.BATCH_NORM or kind == row.LAYER_NORM:
            turn += 1
            if turn % parts != part:
                continue
            gain, bias = q[row.W], q[row.B]
            call_norm_backward(
                q[row.BACKWARD],
                (
                    d, ld_out, d, ld_out, shift(space, q[row.SLOPE] * piece), _inverse(q, space, shared, piece, 0),
                    shift(theta, gain), shift(gradient, gain), shift(gradient, bias), rows, n_out,
                    mode & row.TRAINING, 1, accumulate, 0,
                ),
            )  # fmt: skip
            if update != 0:
                call_update(
                    update, (shift(theta, gain), shift(gradient, gain), shift(slots, gain), n_out, stride, coef)
                )
                call_update(
                    update, (shift(theta, bias), shift(gradient, bias), shift(slots, bias), n_out, stride, coef)
                )


forward = Native("cpu.forward", _forward, forward_arguments)
backward = Native("cpu.backward", _backward, backward_arguments)
learn = Native("cpu.learn", _learn, learn_arguments)
call_forward = native_call(forward_arguments, 2)
call_backward = native_call(backward_arguments, 2)
call_learn = native_call(learn_arguments, 2)
