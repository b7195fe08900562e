"""Forward and backward pass of one piece of a batch: two natives that walk any plan."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from fastnn import _rows as row
from fastnn._jit import Native, native_call, scalar
from fastnn.activations import BACKWARD_ARGUMENTS, FORWARD_ARGUMENTS, VALUE_ARGUMENTS
from fastnn.cpu.gemm import call_gemm
from fastnn.cpu.norm import call_norm_backward, call_norm_forward
from fastnn.cpu.simd import lanes_of, shift, transpose_block

_call_value = native_call(VALUE_ARGUMENTS, 0)
_call_value_and_slope = native_call(FORWARD_ARGUMENTS, 0)
_call_rowwise_backward = native_call(BACKWARD_ARGUMENTS, 0)


def forward_arguments(real: Any) -> tuple[Any, ...]:
    """(plan, n_rows, reals, theta, running, space, shared, piece, x, ldx, rows, first, key, mode).

    ``first`` is the index in the batch of this piece's first sample and ``key`` the step's random key: together they
    decide the dropout factors, so these do not depend on the cut into pieces. ``mode`` is a set of bits of ``_rows``.
    """
    p, n = types.CPointer(real), types.int64
    return (types.CPointer(n), n, p, p, p, p, p, n, p, n, n, n, types.uint64, n)


def backward_arguments(real: Any) -> tuple[Any, ...]:
    """(plan, n_rows, reals, theta, gradient, space, shared, piece, x, ldx, dx, lddx, rows, mode, and three flags).

    Expects a forward pass with KEEP over the same piece, and dLoss/d output in the last row's D_OUT. The flags are
    ``learn``: write the parameters' gradient, ``accumulate``: or rather add to it, and ``want_dx``: write dLoss/d input
    to ``dx``.
    """
    p, n = types.CPointer(real), types.int64
    return (types.CPointer(n), n, p, p, p, p, p, n, p, n, p, n, n, n, n, n, n)


@scalar
def mix(key):
    """Finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of 64-bit integers with good avalanche."""
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


@scalar
def _dropout_row(factor, cols, rate, key):
    """factor[j] = 0 with probability ``rate``, else 1 / (1 - rate).

    A counter-based generator: one hash of the column under the row's key, by the constants of Wellons' lowbias32.
    """
    T = type(rate)
    kept = T(1) / (T(1) - rate)
    limit = np.uint32(rate * T(4294967040.0))  # the largest float32 below 2**32
    low, high = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    for j in range(cols):
        # Numba multiplies two uint32 as uint64: every product is cut back.
        h = np.uint32(np.uint32(np.uint32(j) * np.uint32(0x9E3779B9)) ^ low)
        h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
        h = np.uint32((h ^ (h >> np.uint32(15)) ^ high) * np.uint32(0x846CA68B))
        h = np.uint32(h ^ (h >> np.uint32(16)))
        factor[j] = kept if h >= limit else T(0)


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


@scalar
def transpose(w, rows, cols, out):
    """out (cols, rows) = transpose of w (rows, cols)."""
    lanes = lanes_of(w[0])
    whole_rows, whole_cols = rows // lanes * lanes, cols // lanes * lanes
    for i in range(0, whole_rows, lanes):
        for j in range(0, whole_cols, lanes):
            transpose_block(shift(w, i * cols + j), cols, shift(out, j * rows + i), rows)
    for i in range(rows):
        for j in range(whole_cols if i < whole_rows else 0, cols):
            out[j * rows + i] = w[i * cols + j]


def _forward(plan, n_rows, reals, theta, running, space, shared, piece, x, ldx, rows, first, key, mode):
    T = type(reals[0])
    for r in range(n_rows):
        q = shift(plan, r * row.WIDTH)
        kind, n_in, n_out, act = q[row.KIND], q[row.N_IN], q[row.N_OUT], q[row.ACT]
        if kind == row.SPLIT:
            continue
        src, ld_in = x, ldx
        if q[row.IN] >= 0:
            src, ld_in = shift(space, q[row.IN] * piece), q[row.LD_IN]
        out, ld_out = shift(space, q[row.OUT] * piece), q[row.LD_OUT]
        slope = shift(space, max(q[row.SLOPE], 0) * piece)
        numbers = shift(reals, q[row.REALS])
        if r == n_rows - 1 and mode & row.SKIP_LAST:
            act = row.IDENTITY
        if kind == row.DENSE:
            low = T(0) if act == row.RELU else T(-np.inf)
            w, b = shift(theta, q[row.W]), shift(theta, max(q[row.B], 0))
            chained = np.int64(q[row.B] >= 0)
            call_gemm(
                q[row.GEMM],
                (rows, n_out, n_in, src, ld_in, 1, w, n_out, out, ld_out, b, 0, chained, row.CLAMP, out, 0, low),
            )
        elif kind == row.ACTIVATION:
            copy_matrix(src, ld_in, out, ld_out, rows, n_out)
        elif kind == row.DROPOUT:
            if mode & row.TRAINING:
                for i in range(rows):
                    row_key = mix(key + np.uint64(first + i) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(r))
                    _dropout_row(shift(slope, i * ld_out), n_out, numbers[0], row_key)
                    a, f, o = shift(src, i * ld_in), shift(slope, i * ld_out), shift(out, i * ld_out)
                    for j in range(n_out):
                        o[j] = a[j] * f[j]
            else:
                copy_matrix(src, ld_in, out, ld_out, rows, n_out)
        elif kind == row.ADD:
            skip, ld_skip = x, ldx
            if q[row.SKIP] >= 0:
                skip, ld_skip = shift(space, q[row.SKIP] * piece), ld_out
            _add_matrices(src, ld_in, skip, ld_skip, out, ld_out, rows, n_out)
        else:
            statistics = shift(running, q[row.RUNNING])
            inverse = shift(shared, q[row.W_T])
            if kind == row.LAYER_NORM:
                inverse = shift(space, q[row.RUNNING] * piece)
                statistics = running
            gain, bias = shift(theta, q[row.W]), shift(theta, q[row.B])
            call_norm_forward(
                q[row.FORWARD],
                (
                    src, ld_in, out, ld_out, slope, inverse, gain, bias, statistics,
                    rows, n_out, numbers[0], numbers[1], mode & row.TRAINING,
                ),
            )  # fmt: skip
        if act == row.ELEMENTWISE and mode & row.KEEP:
            _call_value_and_slope(q[row.FORWARD], (out, out, slope, rows, n_out, ld_out, numbers))
        elif act >= row.ELEMENTWISE:
            _call_value(q[row.VALUE], (out, out, rows, n_out, ld_out, numbers))


@scalar
def bias_gradient(d, ld, rows, cols, out, accumulate):
    """Column sums; each is one chain over the rows, like the elements of dW."""
    T = type(d[0])
    if accumulate == 0:
        for j in range(cols):
            out[j] = T(0)
    for i in range(rows):
        p = shift(d, i * ld)
        for j in range(cols):
            out[j] += p[j]


def _backward(
    plan, n_rows, reals, theta, gradient, space, shared, piece, x, ldx, dx, lddx, rows, mode, learn, accumulate, want_dx
):
    T = type(reals[0])
    minus_infinity = T(-np.inf)
    for r in range(n_rows - 1, -1, -1):
        q = shift(plan, r * row.WIDTH)
        kind, n_in, n_out, act = q[row.KIND], q[row.N_IN], q[row.N_OUT], q[row.ACT]
        src, ld_in = x, ldx
        if q[row.IN] >= 0:
            src, ld_in = shift(space, q[row.IN] * piece), q[row.LD_IN]
        ld_out = q[row.LD_OUT]
        out = shift(space, max(q[row.OUT], 0) * piece)
        slope = shift(space, max(q[row.SLOPE], 0) * piece)
        d = shift(space, q[row.D_OUT] * piece)
        d_in, ld_d = dx, lddx
        if q[row.D_IN] >= 0:
            d_in, ld_d = shift(space, q[row.D_IN] * piece), q[row.LD_IN]
        want = np.int64(want_dx != 0 or (q[row.D_IN] >= 0 and q[row.NEEDS_D_IN] != 0))
        if r == n_rows - 1 and mode & row.SKIP_LAST:
            act = row.IDENTITY
        if act != row.IDENTITY and q[row.SLOPE_DONE] == 0:
            if act == row.RELU:
                for i in range(rows * ld_out):
                    d[i] = T(0) if out[i] <= T(0) else d[i]
            elif act == row.ELEMENTWISE:
                for i in range(rows * ld_out):
                    d[i] *= slope[i]
            else:
                _call_rowwise_backward(q[row.BACKWARD], (out, d, rows, n_out, ld_out, shift(reals, q[row.REALS])))
        if kind == row.DENSE:
            if learn:
                dw = shift(gradient, q[row.W])
                call_gemm(
                    q[row.GEMM],
                    (
                        n_in, n_out, rows, src, 1, ld_in, d, ld_out, dw, n_out, dw, n_out, accumulate,
                        row.CLAMP, dw, 0, minus_infinity,
                    ),
                )  # fmt: skip
                if q[row.B] >= 0:
                    bias_gradient(d, ld_out, rows, n_out, shift(gradient, q[row.B]), accumulate)
            if want:
                w_t = shift(shared, q[row.W_T])
                if accumulate == 0:
                    transpose(shift(theta, q[row.W]), n_in, n_out, w_t)
                e = shift(space, max(q[row.EPILOGUE_SLOT], 0) * piece)
                call_gemm(
                    q[row.GEMM],
                    (
                        rows, n_in, n_out, d, ld_out, 1, w_t, n_in, d_in, ld_d, d_in, 0, 0,
                        q[row.EPILOGUE], e, q[row.LD_IN], minus_infinity,
                    ),
                )  # fmt: skip
        elif kind == row.BATCH_NORM or kind == row.LAYER_NORM:
            inverse = shift(shared, q[row.W_T])
            if kind == row.LAYER_NORM:
                inverse = shift(space, q[row.RUNNING] * piece)
            call_norm_backward(
                q[row.BACKWARD],
                (
                    d, ld_out, d_in, ld_d, slope, inverse, shift(theta, q[row.W]), shift(gradient, q[row.W]),
                    shift(gradient, q[row.B]), rows, n_out, mode & row.TRAINING, np.int64(learn), accumulate, want,
                ),
            )  # fmt: skip
        elif want:
            if kind == row.SPLIT:
                _add_matrices(d, ld_out, shift(space, q[row.SKIP] * piece), ld_out, d_in, ld_d, rows, n_out)
            elif kind == row.DROPOUT and mode & row.TRAINING:
                _multiply(d, slope, ld_out, d_in, ld_d, rows, n_out)
            else:
                copy_matrix(d, ld_out, d_in, ld_d, rows, n_out)


forward = Native("cpu.forward", _forward, forward_arguments)
backward = Native("cpu.backward", _backward, backward_arguments)
call_forward = native_call(forward_arguments, 2)
call_backward = native_call(backward_arguments, 2)
