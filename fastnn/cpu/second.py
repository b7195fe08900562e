"""Hessian-vector products: Pearlmutter's R operator carried through a plan.

For a direction v in the parameters, R{q} is the derivative of q along v. A forward pass carries R{a} beside a, a
backward pass R{d} beside d, and R{gradient} is the Hessian times v: exact, at the price of a few gradients.

The tangents use a second workspace of the same layout: R{a} in the OUT slots, R{d} in the D_OUT slots, and in the SLOPE
slots f''(z) R{z} for activations or R{xhat} for normalisations.

Reference: Pearlmutter (1994), Neural Computation 6, 147-160.
"""

# Annotations are objects here: NamedTuple would compile those that are texts, one by one, at every import.

from typing import Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn._jit import kernel, native_call, scalar
from fastnn.activations import (
    BACKWARD_ARGUMENTS,
    CURVATURE_ARGUMENTS,
    TANGENT_ARGUMENTS,
    TANGENT_BACKWARD_ARGUMENTS,
)
from fastnn.cpu.gemm import call_gemm
from fastnn.cpu.simd import pointer
from fastnn.cpu.steps import FORWARD, LOSS, N_NATIVES
from fastnn.cpu.subnormals import flush_subnormals, restore_subnormals
from fastnn.cpu.walk import call_forward, copy_matrix, gate
from fastnn.losses import LOSS_ARGUMENTS
from fastnn.losses import TANGENT_ARGUMENTS as LOSS_TANGENT_ARGUMENTS

_call_loss = native_call(LOSS_ARGUMENTS, 0)
_call_loss_tangent = native_call(LOSS_TANGENT_ARGUMENTS, 0)
_call_curvature = native_call(CURVATURE_ARGUMENTS, 0)
_call_backward = native_call(BACKWARD_ARGUMENTS, 0)
_call_tangent = native_call(TANGENT_ARGUMENTS, 0)
_call_tangent_backward = native_call(TANGENT_BACKWARD_ARGUMENTS, 0)

LOSS_TANGENT = N_NATIVES


class Tangents(NamedTuple):
    """The direction, its image, and a second workspace."""

    direction: Any  # T (n_parameters,)
    product: Any  # T (n_parameters,)
    space: Any  # T, like Work.space
    shared: Any  # T, like Work.shared


@scalar
def _product(address, m, n, k, a, a_row, a_col, b, b_row, b_col, c, ldc, add):
    """C (m, n) = [C +] A @ B."""
    low = type(c[0])(-np.inf)
    call_gemm(address, (m, n, k, a, a_row, a_col, b, b_row, b_col, c, ldc, c, ldc, add, 0, row.CLAMP, c, 0, low))


@scalar
def _forward_norm(q, w, t, rx, ld_in, has_rx, rows, piece, training):
    """R{y} of a normalisation, and R{xhat} and R{1/deviation} for the way back."""
    T = type(w.reals[0])
    cols, ld = q[row.N_OUT], q[row.LD_OUT]
    layer = q[row.KIND] == row.LAYER_NORM
    xhat, rxhat = pointer(w.space, q[row.SLOPE] * piece), pointer(t.space, q[row.SLOPE] * piece)
    ry = pointer(t.space, q[row.OUT] * piece)
    if layer:
        inverse, rinverse = pointer(w.space, q[row.STATISTICS] * piece), pointer(t.space, q[row.STATISTICS] * piece)
    else:
        inverse, rinverse = pointer(w.shared, q[row.STATISTICS]), pointer(t.shared, q[row.STATISTICS])
    outer, inner = (rows, cols) if layer else (cols, rows)
    for o in range(outer):
        total, against = T(0), T(0)
        if has_rx and (layer or training):
            for i in range(inner):
                r, c = (o, i) if layer else (i, o)
                total += rx[r * ld_in + c]
                against += rx[r * ld_in + c] * xhat[r * ld + c]
        mean, mean_against = total / T(inner), against / T(inner)
        inv = inverse[o]
        rinverse[o] = -inv * inv * mean_against
        for i in range(inner):
            r, c = (o, i) if layer else (i, o)
            tangent = rx[r * ld_in + c] if has_rx else T(0)
            x = xhat[r * ld + c]
            rh = inv * (tangent - mean - x * mean_against)
            rxhat[r * ld + c] = rh
            ry[r * ld + c] = w.theta[q[row.W] + c] * rh + t.direction[q[row.W] + c] * x + t.direction[q[row.B] + c]


@scalar
def _backward_norm(q, w, t, rows, piece, training, want):
    """R{d gain}, R{d bias} (added), d and R{d} of the input."""
    T = type(w.reals[0])
    cols, ld, ld_in = q[row.N_OUT], q[row.LD_OUT], q[row.LD_IN]
    layer = q[row.KIND] == row.LAYER_NORM
    xhat, rxhat = pointer(w.space, q[row.SLOPE] * piece), pointer(t.space, q[row.SLOPE] * piece)
    d, rd = pointer(w.space, q[row.D_OUT] * piece), pointer(t.space, q[row.D_OUT] * piece)
    if layer:
        inverse, rinverse = pointer(w.space, q[row.STATISTICS] * piece), pointer(t.space, q[row.STATISTICS] * piece)
    else:
        inverse, rinverse = pointer(w.shared, q[row.STATISTICS]), pointer(t.shared, q[row.STATISTICS])
    for r in range(rows):
        for c in range(cols):
            p = r * ld + c
            t.product[q[row.W] + c] += rd[p] * xhat[p] + d[p] * rxhat[p]
            t.product[q[row.B] + c] += rd[p]
    if not want:
        return
    dx, rdx = pointer(w.space, q[row.D_IN] * piece), pointer(t.space, q[row.D_IN] * piece)
    outer, inner = (rows, cols) if layer else (cols, rows)
    for o in range(outer):
        sum_g, sum_gx, sum_rg, sum_rgx = T(0), T(0), T(0), T(0)
        if layer or training:
            for i in range(inner):
                r, c = (o, i) if layer else (i, o)
                p = r * ld + c
                gain, rgain = w.theta[q[row.W] + c], t.direction[q[row.W] + c]
                g, rg = d[p] * gain, rd[p] * gain + d[p] * rgain
                sum_g += g
                sum_gx += g * xhat[p]
                sum_rg += rg
                sum_rgx += rg * xhat[p] + g * rxhat[p]
        n = T(inner)
        inv, rinv = inverse[o], rinverse[o]
        for i in range(inner):
            r, c = (o, i) if layer else (i, o)
            p = r * ld + c
            gain, rgain = w.theta[q[row.W] + c], t.direction[q[row.W] + c]
            g, rg = d[p] * gain, rd[p] * gain + d[p] * rgain
            u = g - sum_g / n - xhat[p] * sum_gx / n
            ru = rg - sum_rg / n - rxhat[p] * sum_gx / n - xhat[p] * sum_rgx / n
            dx[r * ld_in + c] = inv * u
            rdx[r * ld_in + c] = rinv * u + inv * ru


@scalar
def _forward_row(q, act, w, t, x, ldx, rows, piece, training):
    """R{a} of one row; the forward pass itself has been done."""
    T = type(w.reals[0])
    kind, n_in, n_out, ld = q[row.KIND], q[row.N_IN], q[row.N_OUT], q[row.LD_OUT]
    has_tangent = q[row.IN] >= 0  # the network's input does not move
    ra_in, ld_in = pointer(t.space, max(q[row.IN], 0) * piece), q[row.LD_IN]
    ra = pointer(t.space, q[row.OUT] * piece)
    if kind == row.DENSE:
        a_in, ld_a = (pointer(w.space, q[row.IN] * piece), ld_in) if has_tangent else (x, ldx)
        theta, direction = pointer(w.theta, q[row.W]), pointer(t.direction, q[row.W])
        _product(q[row.GEMM], rows, n_out, n_in, a_in, ld_a, 1, direction, n_out, 1, ra, ld, 0)
        if has_tangent:
            _product(q[row.GEMM], rows, n_out, n_in, ra_in, ld_in, 1, theta, n_out, 1, ra, ld, 1)
        z = pointer(t.space, q[row.D_OUT] * piece)  # free until the way back
        if act == row.ELEMENTWISE:
            _product(q[row.GEMM], rows, n_out, n_in, a_in, ld_a, 1, theta, n_out, 1, z, ld, 0)
        if q[row.B] >= 0:
            for i in range(rows):
                for j in range(n_out):
                    ra[i * ld + j] += t.direction[q[row.B] + j]
                    z[i * ld + j] += w.theta[q[row.B] + j]
    elif kind == row.ACTIVATION:
        z = pointer(t.space, q[row.D_OUT] * piece)
        for i in range(rows):
            for j in range(n_out):
                a = w.space[q[row.IN] * piece + i * ld_in + j] if has_tangent else x[i * ldx + j]
                z[i * ld + j] = a
                ra[i * ld + j] = ra_in[i * ld_in + j] if has_tangent else T(0)
    elif kind == row.DROPOUT:
        factor = pointer(w.space, q[row.SLOPE] * piece)
        for i in range(rows):
            for j in range(n_out):
                tangent = ra_in[i * ld_in + j] if has_tangent else T(0)
                ra[i * ld + j] = tangent * factor[i * ld + j] if training else tangent
    elif kind == row.ADD:
        copy_matrix(ra_in, ld_in, ra, ld, rows, n_out)
        if q[row.SKIP] >= 0:
            skip = pointer(t.space, q[row.SKIP] * piece)
            for i in range(rows):
                for j in range(n_out):
                    ra[i * ld + j] += skip[i * ld + j]
    elif kind != row.SPLIT:
        _forward_norm(q, w, t, ra_in, ld_in, has_tangent, rows, piece, training)
    a = pointer(w.space, max(q[row.OUT], 0) * piece)
    if act == row.RELU:
        gate(a, ra, rows * ld)
    elif act == row.ELEMENTWISE:
        numbers = pointer(w.reals, q[row.REALS])
        slope, bend = pointer(w.space, q[row.SLOPE] * piece), pointer(t.space, q[row.SLOPE] * piece)
        z = pointer(t.space, q[row.D_OUT] * piece)
        _call_curvature(q[row.CURVATURE], (z, bend, rows, n_out, ld, numbers))
        for i in range(rows * ld):
            bend[i] *= ra[i]
            ra[i] *= slope[i]
    elif act == row.ROWWISE:
        _call_tangent(q[row.TANGENT], (a, ra, rows, n_out, ld, pointer(w.reals, q[row.REALS])))


@scalar
def _backward_row(q, act, w, t, x, ldx, rows, piece, training):
    """d and R{d} of the row's input from those of its output; R{gradient} is added up in ``t.product``."""
    kind, n_in, n_out, ld = q[row.KIND], q[row.N_IN], q[row.N_OUT], q[row.LD_OUT]
    d, rd = pointer(w.space, q[row.D_OUT] * piece), pointer(t.space, q[row.D_OUT] * piece)
    a, ra = pointer(w.space, max(q[row.OUT], 0) * piece), pointer(t.space, max(q[row.OUT], 0) * piece)
    if act == row.RELU:
        gate(a, d, rows * ld)
        gate(a, rd, rows * ld)
    elif act == row.ELEMENTWISE:
        slope, bend = pointer(w.space, q[row.SLOPE] * piece), pointer(t.space, q[row.SLOPE] * piece)
        for i in range(rows * ld):
            rd[i] = slope[i] * rd[i] + bend[i] * d[i]
            d[i] *= slope[i]
    elif act == row.ROWWISE:
        numbers = pointer(w.reals, q[row.REALS])
        _call_tangent_backward(q[row.TANGENT_BACKWARD], (a, ra, d, rd, rows, n_out, ld, numbers))
        _call_backward(q[row.BACKWARD], (a, d, rows, n_out, ld, numbers))
    want = q[row.D_IN] >= 0 and q[row.NEEDS_D_IN] != 0
    d_in, rd_in = pointer(w.space, max(q[row.D_IN], 0) * piece), pointer(t.space, max(q[row.D_IN], 0) * piece)
    ld_in = q[row.LD_IN]
    if kind == row.DENSE:
        has_tangent = q[row.IN] >= 0
        a_in, ld_a = (pointer(w.space, q[row.IN] * piece), ld_in) if has_tangent else (x, ldx)
        out = pointer(t.product, q[row.W])
        _product(q[row.GEMM], n_in, n_out, rows, a_in, 1, ld_a, rd, ld, 1, out, n_out, 1)
        if has_tangent:
            ra_in = pointer(t.space, q[row.IN] * piece)
            _product(q[row.GEMM], n_in, n_out, rows, ra_in, 1, ld_in, d, ld, 1, out, n_out, 1)
        if q[row.B] >= 0:
            sums = pointer(t.product, q[row.B])
            for i in range(rows):
                for j in range(n_out):
                    sums[j] += rd[i * ld + j]
        if want:
            theta, direction = pointer(w.theta, q[row.W]), pointer(t.direction, q[row.W])
            _product(q[row.GEMM], rows, n_in, n_out, d, ld, 1, theta, 1, n_out, d_in, ld_in, 0)
            _product(q[row.GEMM], rows, n_in, n_out, rd, ld, 1, theta, 1, n_out, rd_in, ld_in, 0)
            _product(q[row.GEMM], rows, n_in, n_out, d, ld, 1, direction, 1, n_out, rd_in, ld_in, 1)
    elif kind == row.BATCH_NORM or kind == row.LAYER_NORM:
        _backward_norm(q, w, t, rows, piece, training, want)
    elif want:
        copy_matrix(d, ld, d_in, ld_in, rows, n_out)
        copy_matrix(rd, ld, rd_in, ld_in, rows, n_out)
        if kind == row.SPLIT:
            skip, rskip = pointer(w.space, q[row.SKIP] * piece), pointer(t.space, q[row.SKIP] * piece)
            for i in range(rows):
                for j in range(n_out):
                    d_in[i * ld_in + j] += skip[i * ld + j]
                    rd_in[i * ld_in + j] += rskip[i * ld + j]
        elif kind == row.DROPOUT and training:
            factor = pointer(w.space, q[row.SLOPE] * piece)
            for i in range(rows):
                for j in range(n_out):
                    d_in[i * ld_in + j] *= factor[i * ld + j]
                    rd_in[i * ld_in + j] *= factor[i * ld + j]


@kernel
def hessian_vector_product(w, t, data, training, key):
    """``t.product`` = Hessian of the mean loss over all rows, penalties included, times ``t.direction``."""
    before = flush_subnormals()
    T = type(w.reals[0])
    n, n_in, y_cols = data.x.shape[0], data.x.shape[1], data.y.shape[1]
    n_rows, piece = w.plan.shape[0], w.row_losses.size
    mode = data.mode | row.KEEP | (row.TRAINING if training else 0)
    last = w.plan[n_rows - 1]
    n_out, ld = last[row.N_OUT], last[row.LD_OUT]
    total_weight = T(n)
    if data.weights.size:
        total_weight = data.weights.sum()
    scale = T(1) / total_weight
    all_x, all_y = data.x.reshape(-1), data.y.reshape(-1)
    t.product[:] = T(0)
    for done in range(0, n, piece):
        rows = min(piece, n - done)
        x, y, weights = pointer(all_x, done * n_in), pointer(all_y, done * y_cols), pointer(w.weights, 0)
        if data.weights.size:
            weights = pointer(data.weights, done)
        call_forward(
            w.natives[FORWARD],
            (
                pointer(w.plan.reshape(-1), 0), n_rows, pointer(w.reals, 0), pointer(w.theta, 0), pointer(w.running, 0),
                pointer(w.space, 0), pointer(w.shared, 0), piece, x, n_in, 0, rows, done, key, mode,
            ),
        )  # fmt: skip
        for r in range(n_rows):
            act = row.IDENTITY if r == n_rows - 1 and mode & row.SKIP_LAST else w.plan[r, row.ACT]
            _forward_row(w.plan[r], act, w, t, x, n_in, rows, piece, training)
        out, d = pointer(w.space, last[row.OUT] * piece), pointer(w.space, last[row.D_OUT] * piece)
        ro, rd = pointer(t.space, last[row.OUT] * piece), pointer(t.space, last[row.D_OUT] * piece)
        numbers = pointer(w.loss_reals, 0)
        _call_loss(
            w.natives[LOSS],
            (out, ld, y, y_cols, data.labels, weights, d, ld, rows, n_out, scale, pointer(w.row_losses, 0), numbers),
        )
        copy_matrix(ro, ld, rd, ld, rows, n_out)
        _call_loss_tangent(
            w.natives[LOSS_TANGENT], (out, ld, y, y_cols, data.labels, weights, rd, ld, rows, n_out, scale, numbers)
        )
        for r in range(n_rows - 1, -1, -1):
            act = row.IDENTITY if r == n_rows - 1 and mode & row.SKIP_LAST else w.plan[r, row.ACT]
            _backward_row(w.plan[r], act, w, t, x, n_in, rows, piece, training)
    for r in range(n_rows):
        q = w.plan[r]
        if q[row.PENALTY] >= 0:
            l2 = w.reals[q[row.PENALTY] + 1]
            begin, end = q[row.W], q[row.W] + q[row.N_IN] * q[row.N_OUT]
            for i in range(begin, end):
                t.product[i] += T(2) * l2 * t.direction[i]
    restore_subnormals(before)
