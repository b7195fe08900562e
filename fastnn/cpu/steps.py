"""Whole batches: loss and gradient, a chunk of training steps, prediction, Jacobians. What Python calls.

A batch is walked in pieces that fit the cache: forwards, loss and backwards of one piece before the next. Neither the
loss nor a gradient depends on the size of the pieces, to the last bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn._jit import kernel, native_call, scalar
from fastnn.cpu.simd import pointer
from fastnn.cpu.walk import call_backward, call_forward, mix
from fastnn.losses import LOSS_ARGUMENTS
from fastnn.optimizers import BEGIN_ARGUMENTS, UPDATE_ARGUMENTS

_call_loss = native_call(LOSS_ARGUMENTS, 0)
_call_begin = native_call(BEGIN_ARGUMENTS, 3)
_call_update = native_call(UPDATE_ARGUMENTS, 0)

# Positions in Work.natives.
FORWARD, BACKWARD, LOSS, BEGIN, UPDATE, N_NATIVES = range(6)

# Row losses are summed in blocks of this many rows; pieces hold whole blocks, so the sum does not see the pieces.
LOSS_BLOCK = 64


class Work(NamedTuple):
    """What a kernel needs of a network: arrays only, so that it is a plain argument of compiled code.

    T is the parameters' dtype, P the rows of a piece.
    """

    plan: Any  # int64 (n_rows, WIDTH)
    natives: Any  # int64 (N_NATIVES,), addresses
    reals: Any  # T, the rows' numbers
    theta: Any  # T (n_parameters,)
    gradient: Any  # T (n_parameters,)
    running: Any  # T, running statistics
    space: Any  # T (P * space_width,), slots
    shared: Any  # T, transposed weights and statistics
    x: Any  # T (P * n_inputs,), gathered rows
    y: Any  # T (P * target columns,)
    weights: Any  # T (P,), ones where samples carry no weights
    row_losses: Any  # T (P,)
    loss_reals: Any  # T (4,), the loss's parameters


class Batches(NamedTuple):
    """Training data: ``order`` empty means rows in their order, ``weights`` empty means all one."""

    x: Any  # T (n, n_inputs)
    y: Any  # T (n, target columns)
    weights: Any  # T (n,) or (0,)
    order: Any  # int64 (n,) or (0,)
    labels: int  # 1: y holds class numbers
    mode: int  # SKIP_LAST where the loss starts from pre-activations, else 0


@scalar
def _gather(x, order, start, rows, out):
    cols = x.shape[1]
    for i in range(rows):
        src = x[order[start + i]]
        dst = out[i * cols : (i + 1) * cols]
        for j in range(cols):
            dst[j] = src[j]


@scalar
def _total_weight(data, start, count, T):
    if data.weights.size == 0:
        return T(count)
    total = T(0)
    for i in range(start, start + count):
        total += data.weights[data.order[i] if data.order.size else i]
    return total


@scalar
def _batch(work, data, start, count, mode, key, learn, want_dx, dx):
    """Mean loss and total weight of ``count`` rows from ``start``; gradients go to ``work.gradient`` and ``dx``."""
    T = type(work.reals[0])
    n_rows, n_in, y_cols = work.plan.shape[0], data.x.shape[1], data.y.shape[1]
    piece = work.row_losses.size
    q = work.plan[n_rows - 1]
    n_out, ld_out = q[row.N_OUT], q[row.LD_OUT]
    plan, reals, theta = pointer(work.plan.reshape(-1), 0), pointer(work.reals, 0), pointer(work.theta, 0)
    space, shared, running = pointer(work.space, 0), pointer(work.shared, 0), pointer(work.running, 0)
    out, d = pointer(work.space, q[row.OUT] * piece), pointer(work.space, q[row.D_OUT] * piece)
    all_x, all_y = data.x.reshape(-1), data.y.reshape(-1)
    total_weight = _total_weight(data, start, count, T)
    scale = T(1) / total_weight if total_weight != T(0) else T(0)
    total, block = T(0), T(0)
    for done in range(0, count, piece):
        rows = min(piece, count - done)
        first = start + done
        x, y, w = pointer(work.x, 0), pointer(work.y, 0), pointer(work.weights, 0)
        if data.order.size:
            _gather(data.x, data.order, first, rows, work.x)
            _gather(data.y, data.order, first, rows, work.y)
            if data.weights.size:
                for i in range(rows):
                    work.weights[i] = data.weights[data.order[first + i]]
        else:
            x, y = pointer(all_x, first * n_in), pointer(all_y, first * y_cols)
            if data.weights.size:
                w = pointer(data.weights, first)
        call_forward(
            work.natives[FORWARD],
            (plan, n_rows, reals, theta, running, space, shared, piece, x, n_in, rows, done, key, mode),
        )
        _call_loss(
            work.natives[LOSS],
            (
                out, ld_out, y, y_cols, data.labels, w, d, ld_out, rows, n_out, scale,
                pointer(work.row_losses, 0), pointer(work.loss_reals, 0),
            ),
        )  # fmt: skip
        for i in range(rows):
            block += work.row_losses[i]
            if (done + i) % LOSS_BLOCK == LOSS_BLOCK - 1:
                total += block
                block = T(0)
        if learn or want_dx:
            call_backward(
                work.natives[BACKWARD],
                (
                    plan, n_rows, reals, theta, pointer(work.gradient, 0), space, shared, piece, x, n_in,
                    pointer(dx, done * n_in), n_in, rows, mode, learn, np.int64(done > 0), want_dx,
                ),
            )  # fmt: skip
    return (total + block) * scale, total_weight


@scalar
def _penalty(work, learn):
    """Sum of l1 |w| + l2 w^2 over the layers that ask for it; its gradient is added to ``work.gradient``."""
    T = type(work.reals[0])
    total = T(0)
    for r in range(work.plan.shape[0]):
        q = work.plan[r]
        if q[row.PENALTY] < 0:
            continue
        l1, l2 = work.reals[q[row.PENALTY]], work.reals[q[row.PENALTY] + 1]
        begin, end = q[row.W], q[row.W] + q[row.N_IN] * q[row.N_OUT]
        w, g = work.theta[begin:end], work.gradient[begin:end]
        absolute, square = T(0), T(0)
        for i in range(w.size):
            absolute += abs(w[i])
            square += w[i] * w[i]
        total += l1 * absolute + l2 * square
        if learn:
            for i in range(w.size):
                sign = T(1) if w[i] > T(0) else (T(-1) if w[i] < T(0) else T(0))
                g[i] += l1 * sign + T(2) * l2 * w[i]
    return total


@scalar
def _clip(gradient, clip_value, clip_norm):
    """Clip in place, elements first, then the norm (infinity: not at all), as PyTorch's two functions do."""
    T = type(gradient[0])
    if clip_value < T(np.inf):
        for i in range(gradient.size):
            g = gradient[i]
            g = -clip_value if g < -clip_value else g
            gradient[i] = clip_value if g > clip_value else g
    if clip_norm < T(np.inf):
        square = T(0)
        for i in range(gradient.size):
            square += gradient[i] * gradient[i]
        factor = clip_norm / (np.sqrt(square) + T(1e-6))
        if not factor >= T(1):
            for i in range(gradient.size):
                gradient[i] *= factor


class Optimization(NamedTuple):
    """The optimizer's side of a chunk of steps."""

    slots: Any  # T (n_slots, n_parameters)
    scalars: Any  # float64 (8,)
    hyper: Any  # float64 (8,)
    coefficients: Any  # T (12,)
    clip_value: Any  # T, infinity: no clipping
    clip_norm: Any  # T, infinity: no clipping


@kernel
def train(
    work,
    data,
    opt,
    rates,
    batch_size,
    start,
    key,
    step,
    losses,
    weights,
):
    """``len(rates)`` training steps over consecutive batches from row ``start``; writes each step's loss and weight.

    Returns the number of steps done: fewer than asked if a loss is not finite, and then the parameters are those
    before that step, whose loss is written.
    """
    n = data.order.size if data.order.size else data.x.shape[0]
    stride = work.theta.size
    mode = data.mode | row.TRAINING | row.KEEP
    dx = work.x  # not written: no dLoss/dX is asked for
    for s in range(rates.size):
        count = min(batch_size, n - start)
        step_key = mix(key + np.uint64(step + s) * np.uint64(0xD1342543DE82EF95))
        loss, weight = _batch(work, data, start, count, mode, step_key, 1, 0, dx)
        loss += _penalty(work, True)
        losses[s] = loss
        weights[s] = weight
        if not np.isfinite(loss):
            return s
        _clip(work.gradient, opt.clip_value, opt.clip_norm)
        _call_begin(
            work.natives[BEGIN],
            (pointer(opt.scalars, 0), pointer(opt.hyper, 0), rates[s], pointer(opt.coefficients, 0)),
        )
        _call_update(
            work.natives[UPDATE],
            (
                pointer(work.theta, 0), pointer(work.gradient, 0), pointer(opt.slots.reshape(-1), 0),
                stride, stride, pointer(opt.coefficients, 0),
            ),
        )  # fmt: skip
        start += count
    return rates.size


@kernel
def loss_and_gradients(work, data, training, key, learn, want_dx, dx):
    """Mean loss (with penalties if ``learn``) over all rows; gradients into ``work.gradient`` and ``dx`` (n, I)."""
    mode = data.mode | (row.TRAINING if training else 0) | (row.KEEP if learn or want_dx else 0)
    loss, _ = _batch(work, data, 0, data.x.shape[0], mode, key, learn, want_dx, dx.reshape(-1))
    if learn:
        loss += _penalty(work, True)
    return loss


@scalar
def _piece_forward(work, x, done, rows, mode):
    call_forward(
        work.natives[FORWARD],
        (
            pointer(work.plan.reshape(-1), 0), work.plan.shape[0], pointer(work.reals, 0), pointer(work.theta, 0),
            pointer(work.running, 0), pointer(work.space, 0), pointer(work.shared, 0), work.row_losses.size,
            pointer(x.reshape(-1), done * x.shape[1]), x.shape[1], rows, done, np.uint64(0), mode,
        ),
    )  # fmt: skip


@kernel
def predict(work, x, out):
    """out (n, O) = the network's values for x (n, I)."""
    n, piece = x.shape[0], work.row_losses.size
    q = work.plan[work.plan.shape[0] - 1]
    ld = q[row.LD_OUT]
    for done in range(0, n, piece):
        rows = min(piece, n - done)
        _piece_forward(work, x, done, rows, 0)
        base = q[row.OUT] * piece
        for i in range(rows):
            src = work.space[base + i * ld : base + (i + 1) * ld]
            dst = out[done + i]
            for j in range(dst.size):
                dst[j] = src[j]


@kernel
def jacobian(work, x, out):
    """out (n, O, I) = d output / d input: one backward pass an output, seeded with a unit vector."""
    n, piece = x.shape[0], work.row_losses.size
    T = type(work.reals[0])
    n_rows, n_in = work.plan.shape[0], x.shape[1]
    q = work.plan[n_rows - 1]
    n_out, ld = q[row.N_OUT], q[row.LD_OUT]
    flat = out.reshape(-1)
    for done in range(0, n, piece):
        rows = min(piece, n - done)
        _piece_forward(work, x, done, rows, row.KEEP)
        base = q[row.D_OUT] * piece
        for k in range(n_out):
            seed = work.space[base : base + rows * ld]
            seed[:] = T(0)
            for i in range(rows):
                seed[i * ld + k] = T(1)
            call_backward(
                work.natives[BACKWARD],
                (
                    pointer(work.plan.reshape(-1), 0), n_rows, pointer(work.reals, 0), pointer(work.theta, 0),
                    pointer(work.gradient, 0), pointer(work.space, 0), pointer(work.shared, 0), piece,
                    pointer(x.reshape(-1), done * n_in), n_in,
                    pointer(flat, (done * n_out + k) * n_in), n_out * n_in,
                    rows, row.KEEP, 0, np.int64(done + k > 0), 1,
                ),
            )  # fmt: skip
