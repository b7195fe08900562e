"""Whole batches: loss and gradient, and a chunk of training steps. What Python calls.

A batch is walked in pieces that fit the cache: forwards, loss and backwards of one piece, then its share of the
parameters' gradients, before the next. Threads share the rows of a piece, wait for each other, and share the
parameters. Neither the loss nor a gradient depends on the size of the pieces or the number of threads, to the last bit.

Kernels are called with arrays and turn them into pointers at once: Numba counts references to an array wherever it is
handed on, with atomic instructions that take as long as the arithmetic of a small network.
"""

# Annotations are objects here: NamedTuple would compile those that are texts, one by one, at every import.

from typing import Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn._jit import kernel, native_call, scalar
from fastnn._random import step_key
from fastnn.cpu.simd import pointer, shift
from fastnn.cpu.subnormals import flush_subnormals, restore_subnormals
from fastnn.cpu.sums import SUM_ROWS
from fastnn.cpu.team import barrier
from fastnn.cpu.walk import call_backward, call_forward, call_learn, call_update, share
from fastnn.losses import LOSS_ARGUMENTS
from fastnn.optimizers import BEGIN_ARGUMENTS

_call_loss = native_call(LOSS_ARGUMENTS, 0)
_call_begin = native_call(BEGIN_ARGUMENTS, 3)

# Positions in Work.natives.
FORWARD, BACKWARD, LEARN, LOSS, BEGIN, UPDATE, N_NATIVES = range(7)

# Rows of a piece are shared among threads in multiples of this.
ROW_UNIT = 16
# From so many parameters on, updating a block while it is in the cache is worth a call for each.
_MANY_PARAMETERS = 1 << 14


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
    shared: Any  # T, statistics of batch normalisations
    x: Any  # T (P * n_inputs,), gathered rows
    y: Any  # T (P * target columns,)
    weights: Any  # T (P,), ones where samples carry no weights
    row_losses: Any  # T (P,)
    loss_reals: Any  # T (4,), the loss's parameters


class Share(NamedTuple):
    """Which of the threads that walk the same steps this one is."""

    team: Any  # int64, what the barrier works on
    part: int
    parts: int


class Batches(NamedTuple):
    """Training data: ``order`` empty means rows in their order, ``weights`` empty means all one."""

    x: Any  # T (n, n_inputs)
    y: Any  # T (n, target columns)
    weights: Any  # T (n,) or (0,)
    order: Any  # int64 (n,) or (0,)
    labels: int  # 1: y holds class numbers
    mode: int  # SKIP_LAST where the loss starts from pre-activations, else 0
    factor: Any  # T, multiplies the loss
    decay: Any  # T: decay / 2 / (total weight of a batch) is the l2 of the rows whose penalty is SHARED_PENALTY


class Optimization(NamedTuple):
    """The optimizer's side of a chunk of steps."""

    slots: Any  # T (n_slots, n_parameters)
    scalars: Any  # float64 (8,)
    hyper: Any  # float64 (8,)
    coefficients: Any  # T (12,)
    clip_value: Any  # T, infinity: no clipping
    clip_norm: Any  # T, infinity: no clipping


class Frame(NamedTuple):
    """`Work` as pointers."""

    plan: Any
    n_rows: Any
    natives: Any
    reals: Any
    theta: Any
    n_theta: Any
    gradient: Any
    running: Any
    space: Any
    shared: Any
    piece: Any
    x: Any
    y: Any
    weights: Any
    row_losses: Any
    loss_reals: Any
    team: Any
    part: Any
    parts: Any


class Feed(NamedTuple):
    """`Batches` as pointers."""

    x: Any
    n_in: Any
    y: Any
    y_cols: Any
    labels: Any
    weights: Any
    weighted: Any
    order: Any
    ordered: Any
    factor: Any
    decay: Any


class Update(NamedTuple):
    """`Optimization` as pointers."""

    slots: Any
    scalars: Any
    hyper: Any
    coefficients: Any
    clip_value: Any
    clip_norm: Any


@scalar
def frame(work, team):
    return Frame(
        pointer(work.plan, 0), work.plan.shape[0], pointer(work.natives, 0), pointer(work.reals, 0),
        pointer(work.theta, 0), work.theta.size, pointer(work.gradient, 0), pointer(work.running, 0),
        pointer(work.space, 0), pointer(work.shared, 0), work.row_losses.size, pointer(work.x, 0), pointer(work.y, 0),
        pointer(work.weights, 0), pointer(work.row_losses, 0), pointer(work.loss_reals, 0),
        pointer(team.team, 0), team.part, team.parts,
    )  # fmt: skip


@scalar
def _feed(data):
    return Feed(
        pointer(data.x, 0), data.x.shape[1], pointer(data.y, 0), data.y.shape[1], data.labels,
        pointer(data.weights, 0), data.weights.size > 0, pointer(data.order, 0), data.order.size > 0, data.factor,
        data.decay,
    )  # fmt: skip


@scalar
def _gather(src, cols, order, rows, out):
    """out (rows, cols) = the rows of src that order names."""
    for i in range(rows):
        a, b = shift(src, order[i] * cols), shift(out, i * cols)
        for j in range(cols):
            b[j] = a[j]


@scalar
def _total_weight(feed, start, count, T):
    if not feed.weighted:
        return T(count)
    total = T(0)
    for i in range(start, start + count):
        total += feed.weights[feed.order[i] if feed.ordered else i]
    return total


@scalar
def forward(f, x, n_in, at, rows, first, key, mode):
    call_forward(
        f.natives[FORWARD],
        (
            f.plan, f.n_rows, f.reals, f.theta, f.running, f.space, f.shared, f.piece, x, n_in, at, rows, first, key,
            mode,
        ),
    )  # fmt: skip


@scalar
def backward(f, dx, lddx, at, rows, mode, want_dx):
    call_backward(
        f.natives[BACKWARD],
        (f.plan, f.n_rows, f.reals, f.theta, f.space, f.shared, f.piece, dx, lddx, at, rows, mode, want_dx),
    )


@scalar
def _learn(f, x, n_in, rows, mode, accumulate, finish, update, slots, coefficients):
    call_learn(
        f.natives[LEARN],
        (
            f.plan, f.n_rows, f.reals, f.theta, f.gradient, f.space, f.shared, f.piece, x, n_in, rows, mode,
            accumulate, finish, f.part, f.parts, update, slots, f.n_theta, coefficients,
        ),
    )  # fmt: skip


@scalar
def _own_rows(f, feed, first, done, rows, scale, mode, key, derive, want_dx, dx):
    """This thread's rows of a piece, from data to dLoss/d activations; returns the piece's inputs."""
    n_in, y_cols = feed.n_in, feed.y_cols
    last = shift(f.plan, (f.n_rows - 1) * row.WIDTH)
    n_out, ld_out = last[row.N_OUT], last[row.LD_OUT]
    at = share(rows, f.part, f.parts, ROW_UNIT)
    count = share(rows, f.part + 1, f.parts, ROW_UNIT) - at
    x, y, w = f.x, f.y, f.weights
    if feed.ordered:
        order = shift(feed.order, first + at)
        _gather(feed.x, n_in, order, count, shift(x, at * n_in))
        _gather(feed.y, y_cols, order, count, shift(y, at * y_cols))
        if feed.weighted:
            _gather(feed.weights, 1, order, count, shift(w, at))
    else:
        x, y = shift(feed.x, first * n_in), shift(feed.y, first * y_cols)
        if feed.weighted:
            w = shift(feed.weights, first)
    if count > 0:
        forward(f, shift(x, at * n_in), n_in, at, count, done + at, key, mode)
        out = shift(f.space, last[row.OUT] * f.piece + at * ld_out)
        d = shift(f.space, last[row.D_OUT] * f.piece + at * ld_out)
        _call_loss(
            f.natives[LOSS],
            (
                out, ld_out, shift(y, at * y_cols), y_cols, feed.labels, shift(w, at), d, ld_out, count, n_out, scale,
                shift(f.row_losses, at), f.loss_reals,
            ),
        )  # fmt: skip
        if derive:
            backward(f, shift(dx, (done + at) * n_in), n_in, at, count, mode, want_dx)
    return x


@scalar
def _batch(f, feed, start, count, mode, key, learn, want_dx, dx):
    """Everything about ``count`` rows from ``start`` but the last piece's share of the parameters' gradients.

    Returns the mean loss, the total weight, and what `_learn` still needs: the last piece's inputs, its rows and
    whether there were pieces before it.
    """
    T = type(f.reals[0])
    total_weight = _total_weight(feed, start, count, T)
    scale = feed.factor / total_weight if total_weight != T(0) else T(0)
    if feed.decay != T(0) and f.part == 0:  # nobody reads it before the barrier
        f.reals[row.SHARED_PENALTY + 1] = T(0.5) * feed.decay / total_weight if total_weight != T(0) else T(0)
    total, done = T(0), 0
    while True:
        rows = min(f.piece, count - done)
        x = _own_rows(f, feed, start + done, done, rows, scale, mode, key, learn + want_dx, want_dx, dx)
        barrier(f.team, f.parts)
        for block in range(0, rows, SUM_ROWS):
            block_total = T(0)
            for i in range(block, min(block + SUM_ROWS, rows)):
                block_total += f.row_losses[i]
            total += block_total
        if done + rows == count:
            return total * scale, total_weight, x, rows, np.int64(done > 0)
        if learn:
            _learn(f, x, feed.n_in, rows, mode, np.int64(done > 0), 0, 0, f.gradient, f.reals)
        barrier(f.team, f.parts)
        done += rows


@kernel
def _norms(w, n):
    """Sum of |w| and sum of w^2; a kernel, whose sums may be reordered, so that they fill vectors."""
    absolute, square = type(w[0])(0), type(w[0])(0)
    for i in range(n):
        absolute += abs(w[i])
        square += w[i] * w[i]
    return absolute, square


@scalar
def _penalty(f):
    """Sum of l1 |w| + l2 w^2 over the layers that ask for it."""
    T = type(f.reals[0])
    total = T(0)
    for r in range(f.n_rows):
        q = shift(f.plan, r * row.WIDTH)
        if q[row.PENALTY] < 0:
            continue
        absolute, square = _norms(shift(f.theta, q[row.W]), q[row.N_IN] * q[row.N_OUT])
        total += f.reals[q[row.PENALTY]] * absolute + f.reals[q[row.PENALTY] + 1] * square
    return total


@scalar
def _norm_factor(gradient, n, clip_value, clip_norm):
    """What the gradient, its elements clipped, is to be multiplied by so that its norm stays below ``clip_norm``."""
    T = type(clip_value)
    if not clip_norm < T(np.inf):
        return T(1)
    square = T(0)
    for i in range(n):
        g = gradient[i]
        g = -clip_value if g < -clip_value else g
        g = clip_value if g > clip_value else g
        square += g * g
    return clip_norm / (np.sqrt(square) + T(1e-6))


@scalar
def _clip(gradient, n, clip_value, factor):
    """Clip in place, elements first, then the norm (infinity: not at all), as PyTorch's two functions do."""
    T = type(clip_value)
    if clip_value < T(np.inf):
        for i in range(n):
            g = gradient[i]
            g = -clip_value if g < -clip_value else g
            gradient[i] = clip_value if g > clip_value else g
    if not factor >= T(1):
        for i in range(n):
            gradient[i] *= factor


@scalar
def is_finite(x):
    """A function of its own: a kernel's fast-math flags would let LLVM take the difference ``x - x`` for 0."""
    return np.isfinite(x)


@scalar
def training_step(f, feed, o, start, count, mode, key, rate):
    """One step over ``count`` rows from ``start``: its loss and weight; no update where the loss is not finite."""
    T = type(o.clip_value)
    clips = o.clip_value < T(np.inf) or o.clip_norm < T(np.inf)
    at_once = not clips and (f.parts > 1 or f.n_theta >= _MANY_PARAMETERS)
    update = f.natives[UPDATE]
    loss, weight, x, rows, more = _batch(f, feed, start, count, mode, key, 1, 0, f.x)  # no dLoss/dX is written
    loss += _penalty(f)
    if not is_finite(loss):
        return loss, weight
    if f.part == 0:
        _call_begin(f.natives[BEGIN], (o.scalars, o.hyper, rate, o.coefficients))
    barrier(f.team, f.parts)
    _learn(f, x, feed.n_in, rows, mode, more, 1, update if at_once else 0, o.slots, o.coefficients)
    if not at_once:
        own = share(f.n_theta, f.part, f.parts, ROW_UNIT)
        own_count = share(f.n_theta, f.part + 1, f.parts, ROW_UNIT) - own
        theta, gradient, own_slots = shift(f.theta, own), shift(f.gradient, own), shift(o.slots, own)
        if clips:
            barrier(f.team, f.parts)
            factor = _norm_factor(f.gradient, f.n_theta, o.clip_value, o.clip_norm)
            barrier(f.team, f.parts)
            _clip(gradient, own_count, o.clip_value, factor)
        call_update(update, (theta, gradient, own_slots, own_count, f.n_theta, o.coefficients))
    barrier(f.team, f.parts)
    return loss, weight


@kernel
def train(work, share_, data, opt, rates, batch_size, start, key, step, losses, weights):
    """``len(rates)`` training steps over consecutive batches from row ``start``; writes each step's loss and weight.

    Returns the number of steps done: fewer than asked if a loss is not finite, and then the parameters are those
    before that step, whose loss is written. All threads of a team call it with the same arguments but for ``share_``.
    """
    before = flush_subnormals()
    f, feed, n = frame(work, share_), _feed(data), data.order.size if data.order.size else data.x.shape[0]
    o = Update(
        pointer(opt.slots, 0), pointer(opt.scalars, 0), pointer(opt.hyper, 0), pointer(opt.coefficients, 0),
        opt.clip_value, opt.clip_norm,
    )  # fmt: skip
    rate, loss_of, weight_of, n_steps = pointer(rates, 0), pointer(losses, 0), pointer(weights, 0), rates.size
    mode = data.mode | row.TRAINING | row.KEEP
    n_done = n_steps
    for s in range(n_steps):
        count = min(batch_size, n - start)
        loss, weight = training_step(f, feed, o, start, count, mode, step_key(key, step + s), rate[s])
        if f.part == 0:
            loss_of[s] = loss
            weight_of[s] = weight
        if not is_finite(loss):
            n_done = s
            break
        start += count
    restore_subnormals(before)
    return n_done


@kernel
def loss_and_gradients(work, share_, data, training, key, learn, want_dx, dx):
    """Mean loss (with penalties if ``learn``) over all rows; gradients into ``work.gradient`` and ``dx`` (n, I)."""
    before = flush_subnormals()
    f, feed = frame(work, share_), _feed(data)
    mode = data.mode | (row.TRAINING if training else 0) | (row.KEEP if learn or want_dx else 0)
    loss, _, x, rows, more = _batch(f, feed, 0, data.x.shape[0], mode, key, learn, want_dx, pointer(dx, 0))
    if learn:
        _learn(f, x, feed.n_in, rows, mode, more, 1, 0, f.gradient, f.reals)
        loss += _penalty(f)
    restore_subnormals(before)
    return loss
