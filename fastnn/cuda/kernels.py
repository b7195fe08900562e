"""What is launched for networks whose samples a block takes through all layers: predictions, gradients, whole epochs.

All kernels begin with ``(table, reals, state, work, ...)``: the plan, the rows' numbers, parameters with running
statistics behind them, and the workspace whose parts the table's header names.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np

from fastnn import _random
from fastnn import _rows as row
from fastnn.activations import ActivationFunction
from fastnn.cuda import table as head
from fastnn.cuda._jit import SIMULATED, cuda, device, kernel, types
from fastnn.cuda.elements import make_elements
from fastnn.cuda.fused_float32 import LINES_FROM_AFAR
from fastnn.cuda.fused_float32_layout import NarrowShape
from fastnn.cuda.fused_float32_training import Net, make_block
from fastnn.cuda.intrinsics import load, store
from fastnn.cuda.lone import LoneShape, whole_vectors
from fastnn.cuda.loss import Targets, make_loss, sample_of
from fastnn.cuda.product import AnyShape, shared_kind
from fastnn.cuda.rowwise import LANES
from fastnn.cuda.scalars import compiled
from fastnn.cuda.update import LOSS, WEIGHT, WIDTH, make_update
from fastnn.cuda.walk import Frame, make_walk
from fastnn.losses._base import Formula, RowLoops

# Bits of ``flags``.
LABELS, WEIGHTED, ORDERED, LEARNS, WANTS_DX, TRAINING, MORE, SCALED = (1 << k for k in range(8))

_step_key = _random.step_key if SIMULATED else compiled(_random.step_key)


@device
def block_frame(table, reals, state, theta, work, block, space, at, rows, shared, t):
    """A frame for a block that takes ``rows`` samples alone."""
    n_theta = load(table, head.N_THETA)
    return Frame(
        table, load(table, head.N_ROWS), reals, state, theta, n_theta, work,
        load(table, head.GRADIENT) + block * n_theta, load(table, head.STATISTICS), space, at, load(table, head.LD),
        rows, shared, t, np.int64(0), np.int64(1),
    )  # fmt: skip


@device
def targets_of(flags, y, columns, weights, order):
    """Training data beside X, as the flags say what they are."""
    return Targets(y, columns, (flags & LABELS) != 0, weights, (flags & WEIGHTED) != 0, order, (flags & ORDERED) != 0)


def make_gather(threads):
    at_once = threads // LANES

    @device
    def gather(f, x, targets, first):
        """Copy the inputs of ``f.rows`` samples from place ``first`` of the order on."""
        n, at = load(f.table, head.N_IN), f.at + load(f.table, head.X)
        for i in range(f.part * at_once + f.t // LANES, f.rows, f.parts * at_once):
            source, target = sample_of(targets, first + i) * n, at + i * f.ld
            for j in range(f.t % LANES, n, LANES):
                store(f.space, target + j, load(x, source + j))

    return gather


def make_copy_out(threads):
    at_once = threads // LANES

    @device
    def copy_out(f, place, n, out, first, factor):
        """Copy values of ``f.rows`` samples, times a factor, to rows ``first...`` of ``out``, (samples, n)."""
        for i in range(f.part * at_once + f.t // LANES, f.rows, f.parts * at_once):
            source, target = f.at + place + i * f.ld, (first + i) * n
            for j in range(f.t % LANES, n, LANES):
                store(out, target + j, factor * load(f.space, source + j))

    return copy_out


def make_move(threads):
    @device
    def move(source, target, n, t):
        """Copy ``n`` numbers."""
        for k in range(t, n, threads):
            store(target, k, load(source, k))

    return move


def make_run(walk):
    forward, activate = walk.forward, walk.activate

    @device
    def run(f, training, key, first):
        """All rows of the plan forwards, by one block."""
        for r in range(f.n_rows):
            q = head.HEADER + r * row.WIDTH
            cuda.syncthreads()
            forward(f, q, training, key, first)
            if load(f.table, q + row.ACT) == row.ROWWISE:
                cuda.syncthreads()
                activate(f, q)
        cuda.syncthreads()

    return run


@cache
def predict_kernel(
    T: Any, shape: AnyShape | LoneShape, activations: tuple[ActivationFunction, ...], in_shared: bool
) -> Any:
    """``(table, reals, state, work, x, out, n)``: values of the output layer for ``n`` rows of x.

    Blocks take tiles of ``shape.rows`` samples, whose values lie in shared memory or, not ``in_shared``, in ``work``.
    With a `LoneShape` the state lies in shared memory too.
    """
    rows, threads, scratch, lone = shape.rows, shape.threads, shape.shared, isinstance(shape, LoneShape)
    run = make_run(make_walk(T, shape, make_elements(T, activations)))
    gather, copy_out, move = make_gather(threads), make_copy_out(threads), make_move(threads)

    kind = shared_kind(T)

    @kernel(threads)
    def predict(table, reals, state, work, x, out, n):
        shared = cuda.shared.array(0, kind)
        t, block, blocks = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x), np.int64(cuda.gridDim.x)
        nobody = Targets(x, np.int64(0), False, x, False, table, False)
        begin, ld, near = np.int64(scratch), load(table, head.LD), state
        if lone:
            near = shared[begin : begin + state.size]
            move(state, near, np.int64(state.size), t)
            begin += whole_vectors(np.int64(state.size))
        for first in range(block * rows, n, blocks * rows):
            count = min(np.int64(rows), n - first)
            if in_shared:
                f = block_frame(table, reals, near, np.int64(0), work, block, shared, begin, count, shared, t)
            else:
                at = load(table, head.SPACE) + block * rows * ld
                f = block_frame(table, reals, near, np.int64(0), work, block, work, at, count, shared, t)
            gather(f, x, nobody, first)
            run(f, False, np.uint64(0), np.int64(0))
            copy_out(f, load(table, head.OUT), load(table, head.N_OUT), out, first, T(1))
            cuda.syncthreads()

    return predict


def make_derive(
    T: Any, shape: AnyShape | LoneShape, activations: tuple[ActivationFunction, ...], source: Formula | RowLoops
) -> Any:
    """``derive(...)``: some pieces of a batch through forward pass, loss and backward pass, by one block.

    Writes the block's gradient to its place and returns this thread's share of the sum of losses. Pieces ``block``,
    ``block + blocks``, ... of the batch that begins at place ``start`` of the order are this block's.
    """
    walk = make_walk(T, shape, make_elements(T, activations))
    slope, backward, learn = walk.slope, walk.backward, walk.learn
    run, loss_of = make_run(walk), make_loss(T, shape, source)
    gather, copy_out = make_gather(shape.threads), make_copy_out(shape.threads)

    @device
    def derive(
        table, reals, state, theta, work, x, targets, dx, start, count, scale, inverse, training, key, learns, wants,
        block, blocks, shared, t,
    ):  # fmt: skip
        piece, mine = load(table, head.PIECE), T(0)
        at = load(table, head.SPACE) + block * piece * load(table, head.LD)
        for first in range(block * piece, count, blocks * piece):
            rows = min(piece, count - first)
            f = block_frame(table, reals, state, theta, work, block, work, at, rows, shared, t)
            gather(f, x, targets, start + first)
            run(f, training, key, first)
            last = load(table, head.LAST)
            mine += loss_of(f, last, targets, start + first, load(table, head.LOSS), scale)
            if learns or wants:
                for r in range(f.n_rows - 1, -1, -1):
                    q = head.HEADER + r * row.WIDTH
                    cuda.syncthreads()
                    if load(table, q + row.ACT) != row.IDENTITY:
                        slope(f, q)
                        cuda.syncthreads()
                    backward(f, q, training)
                cuda.syncthreads()
            if learns:
                for r in range(f.n_rows):
                    learn(f, head.HEADER + r * row.WIDTH, np.int64(0), rows, f.gradient, first >= blocks * piece)
            if wants:
                copy_out(f, load(table, head.DX), load(table, head.N_IN), dx, first, inverse)
            cuda.syncthreads()
        return mine

    return derive


@cache
def derive_kernel(
    T: Any, shape: AnyShape, activations: tuple[ActivationFunction, ...], source: Formula | RowLoops
) -> Any:
    """One batch: each block's loss and gradient, to be added up by `fastnn.cuda.update`.

    ``(table, reals, state, work, x, y, weights, order, dx, schedule, s, columns, flags, start, count, key)``. ``flags``
    are bits of this module.
    """
    derive, update = make_derive(T, shape, activations, source), make_update(T, shape, None)
    block_sum, penalty, scale_of = update.block_sum, update.penalty, update.scale_of
    gradient_scale, inverse_scale = update.gradient_scale, update.inverse_scale
    threads = shape.threads

    kind = shared_kind(T)

    @kernel(threads)
    def run(table, reals, state, work, x, y, weights, order, dx, schedule, s, columns, flags, start, count, key):
        if load(work, load(table, head.STOPPED)) != T(0):
            return
        shared = cuda.shared.array(0, kind)
        t, block, blocks = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x), np.int64(cuda.gridDim.x)
        targets = targets_of(flags, y, columns, weights, order)
        learns = (flags & LEARNS) != 0
        scale = gradient_scale(table, work, schedule, s, (flags & SCALED) != 0)
        inverse = inverse_scale(table, work, schedule, s, (flags & SCALED) != 0)
        total = scale_of(schedule, s) * derive(
            table, reals, state, np.int64(0), work, x, targets, dx, start, count, scale, inverse,
            (flags & TRAINING) != 0, key, learns, (flags & WANTS_DX) != 0, block, blocks, shared, t,
        )  # fmt: skip
        if learns:
            total += penalty(table, reals, state, np.int64(0), block * threads + t, blocks * threads)
        total = block_sum(shared, t, total)
        if t == 0:
            store(work, load(table, head.PARTIAL_LOSSES) + block, total)

    return run


def _make_derive_narrow(
    shape: NarrowShape, activations: tuple[ActivationFunction, ...], source: Formula | RowLoops
) -> Any:
    """`make_derive` for the one block of `train_kernel`, whose state and workspace lie in shared memory."""
    begin, add, write = make_block(shape, activations, source, 4)
    n_sums, threads = shape.parts * shape.part_sums, shape.threads

    @device
    def derive(
        table, reals, state, theta, work, x, targets, dx, start, count, scale, inverse, training, key, learns, wants,
        block, blocks, shared, t,
    ):  # fmt: skip
        sums = cuda.local.array(n_sums, types.float32)
        for e in range(n_sums):
            sums[e] = np.float32(0)
        at = threads + whole_vectors(np.int64(state.size)) + np.int64(work.size)
        net = Net(
            table, load(table, head.LAYERS), load(table, head.N_LAYERS), load(table, head.SHARES), shared, at,
            at + load(table, head.N_WEIGHTS), t,
        )  # fmt: skip
        begin(net, state)
        cuda.syncthreads()
        numbers = load(table, head.LOSS)
        mine = add(net, reals, numbers, x, targets, False, start, count, scale, block, blocks, sums)
        write(net, work, load(table, head.GRADIENT), load(table, head.N_THETA), sums)
        return mine

    return derive


@cache
def narrow_kernel(shape: NarrowShape, activations: tuple[ActivationFunction, ...], source: Formula | RowLoops) -> Any:
    """Losses and gradients of a batch for a narrow network in float32, to be added up by `fastnn.cuda.update`.

    ``(table, n_layers, n_weights, shares, state, x, y, weights, order, columns, flags, vectors, first, count, scale,
    reals, n_parameters, partials, losses)``. ``table`` and the three numbers behind it are those of a
    `fused_float32_layout.Layout`; ``vectors``: rows of x begin on 16 bytes; ``first``, ``count``: the samples, as
    places of the order; ``scale`` of the mean loss; ``reals``: the loss's parameters; ``partials`` (blocks * shares,
    n_parameters) and ``losses`` (blocks,) are written.
    """
    begin, add, write = make_block(shape, activations, source, LINES_FROM_AFAR)
    n_sums, threads = shape.parts * shape.part_sums, shape.threads
    block_sum = make_update(np.float32, shape, None).block_sum

    @kernel(threads)
    def run(
        table, n_layers, n_weights, shares, state, x, y, weights, order, columns, flags, vectors, first, count, scale,
        reals, n_parameters, partials, losses,
    ):  # fmt: skip
        shared = cuda.shared.array(0, types.float32)
        t, at, zero = np.int64(cuda.threadIdx.x), np.int64(threads), np.int64(0)
        block, blocks = np.int64(cuda.blockIdx.x), np.int64(cuda.gridDim.x)
        sums = cuda.local.array(n_sums, types.float32)
        for e in range(n_sums):
            sums[e] = np.float32(0)
        net = Net(table, zero, n_layers, shares, shared, at, at + n_weights, t)
        begin(net, state)
        cuda.syncthreads()
        targets = targets_of(flags, y, columns, weights, order)
        total = add(net, reals, zero, x, targets, vectors != 0, first, count, scale, block, blocks, sums)
        write(net, partials, block * shares * n_parameters, n_parameters, sums)
        total = block_sum(shared, t, scale * total)
        if t == 0:
            store(losses, block, total)

    return run


@cache
def train_kernel(
    T: Any,
    shape: AnyShape | LoneShape | NarrowShape,
    activations: tuple[ActivationFunction, ...],
    source: Formula | RowLoops,
    rule: Any,
) -> Any:
    """Many steps of small batches in one launch; each block trains a network of its own.

    ``(table, reals, states, works, x, y, weights, orders, schedules, keys, columns, flags, first, n, batch, step)``:
    steps ``first...`` of epochs of ``n`` samples, as many as a schedule has rows; an order holds epoch after epoch.
    ``step`` is the number of the first and ``keys`` the networks', for dropout. The networks' parts of the arrays in
    the plural lie one after the other, all of one length.
    """
    narrow, update = isinstance(shape, NarrowShape), make_update(T, shape, rule)
    if isinstance(shape, NarrowShape):
        derive = _make_derive_narrow(shape, activations, source)
    else:
        derive = make_derive(T, shape, activations, source)
    block_sum, penalty, scale_of = update.block_sum, update.penalty, update.scale_of
    gradient_scale, inverse_scale, adjust = update.gradient_scale, update.inverse_scale, update.adjust
    collect, apply, factor_of = update.collect, update.apply, update.factor_of
    threads, lone = shape.threads, narrow or isinstance(shape, LoneShape)
    move = make_move(threads)

    kind = shared_kind(T)

    @kernel(threads)
    def train(
        table, reals, states, works, x, y, weights, orders, schedules, keys, columns, flags, first, n, batch, step
    ):
        shared = cuda.shared.array(0, kind)
        t, zero, one = np.int64(cuda.threadIdx.x), np.int64(0), np.int64(1)
        block, blocks = np.int64(cuda.blockIdx.x), np.int64(cuda.gridDim.x)
        key = load(keys, block)
        n_state, n_work = np.int64(states.size) // blocks, np.int64(works.size) // blocks
        n_order, n_schedule = np.int64(orders.size) // blocks, np.int64(schedules.size) // blocks
        far_state, far_work = (
            states[block * n_state : (block + 1) * n_state],
            works[block * n_work : (block + 1) * n_work],
        )
        state, work, kept = far_state, far_work, load(table, head.GRADIENT)
        if lone:
            state = shared[threads : threads + n_state]
            place = threads + whole_vectors(n_state)
            work = shared[place : place + n_work]
            move(far_state, state, n_state, t)
            move(far_work, work, kept, t)
            cuda.syncthreads()
        order = orders[block * n_order : (block + 1) * n_order]
        schedule = schedules[block * n_schedule : (block + 1) * n_schedule]
        targets = targets_of(flags, y, columns, weights, order)
        each, parts = (n + batch - 1) // batch, load(table, head.SHARES) if narrow else one
        scaled, clip = (flags & SCALED) != 0, load(table, head.CLIPS)
        clips_norm = load(reals, clip + 1) < T(np.inf)
        # Nothing is to be done with a gradient as it is; nobody reads it before the barrier of the sum of losses.
        collects = (
            parts > 1 or scaled or clips_norm or load(reals, clip) < T(np.inf) or load(table, head.PENALIZED) != 0
        )
        for s in range(np.int64(schedule.size) // WIDTH):
            epoch, begin = (first + s) // each, (first + s) % each * batch
            start, count = (epoch * n if targets.ordered else zero) + begin, min(batch, n - begin)
            scale = gradient_scale(table, work, schedule, s, scaled)
            inverse = inverse_scale(table, work, schedule, s, scaled)
            total = scale_of(schedule, s) * derive(
                table, reals, state, zero, work, x, targets, x, start, count, scale, inverse, True,
                np.uint64(_step_key(key, step + s)), True, False, zero, one, shared, t,
            )  # fmt: skip
            total += penalty(table, reals, state, zero, t, np.int64(threads))
            total = block_sum(shared, t, total)
            if t == 0:
                store(schedule, s * WIDTH + LOSS, total)
            if not math.isfinite(total):
                break
            squares = T(0)
            if collects:
                squares = collect(table, reals, state, zero, work, parts, inverse, t, np.int64(threads))
                if scaled or clips_norm:
                    squares = block_sum(shared, t, squares)
            if scaled and t == 0:
                adjust(table, work, math.isfinite(squares))
            if not scaled or math.isfinite(squares):
                factor = factor_of(table, reals, squares)
                apply(table, state, zero, work, schedule, s, factor, t, np.int64(threads))
            cuda.syncthreads()
        if lone:
            cuda.syncthreads()
            move(state, far_state, n_state, t)
            move(work, far_work, kept, t)

    return train


@cache
def weigh_kernel(T: Any, shape: AnyShape) -> Any:
    """``(weights, order, ordered, schedule, first, n, batch)``: total weight of each step's batch, a block for each."""
    update = make_update(T, shape, None)
    block_sum, threads = update.block_sum, shape.threads

    kind = shared_kind(T)

    @kernel(threads)
    def weigh(weights, order, ordered, schedule, first, n, batch):
        shared = cuda.shared.array(0, kind)
        t, s = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x)
        each = (n + batch - 1) // batch
        epoch, begin = (first + s) // each, (first + s) % each * batch
        start = (epoch * n if ordered else np.int64(0)) + begin
        total = T(0)
        for k in range(start + t, start + min(batch, n - begin), threads):
            total += load(weights, load(order, k) if ordered else k)
        total = block_sum(shared, t, total)
        if t == 0:
            store(schedule, s * WIDTH + WEIGHT, total)

    return weigh
