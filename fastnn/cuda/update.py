"""From the gradients of many blocks to a step of the optimizer.

The schedule of a chunk of steps is a matrix, a row for each: the optimizer's coefficients, the total weight of the
batch, and place for its loss.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn.cuda import lanes
from fastnn.cuda import table as head
from fastnn.cuda._jit import cuda, device, kernel
from fastnn.cuda.intrinsics import load, quotient, store
from fastnn.cuda.lanes import WARP
from fastnn.cuda.lone import LoneShape
from fastnn.cuda.product import AnyShape, shared_kind
from fastnn.cuda.scalars import compiled, sqrt
from fastnn.optimizers._rules import N_COEFFICIENTS

# Of fp16's gradients: where their scale begins, how many good steps double it, and how far.
FIRST_SCALE, STEPS_TO_GROW, LARGEST_SCALE = 64.0, 1000.0, 4096.0
# Columns of a schedule.
WEIGHT, LOSS, WIDTH = N_COEFFICIENTS, N_COEFFICIENTS + 1, N_COEFFICIENTS + 2


class Update(NamedTuple):
    """Device functions of an optimizer's step; see `make_update`."""

    block_sum: Any
    scale_of: Any
    gradient_scale: Any
    inverse_scale: Any
    adjust: Any
    penalty: Any
    collect: Any
    factor_of: Any
    apply: Any


@cache
def make_block_sum(T: Any, shape: AnyShape | LoneShape) -> Any:
    """``block_sum(shared, t, value)``: over all threads of the block, for all of them, in a fixed order."""
    # In two rounds, because barriers are what it costs.
    scratch, warps = shape.shared - shape.threads, shape.threads // WARP

    @device
    def block_sum(shared, t, value):
        cuda.syncthreads()  # nobody reads what was there before
        value = lanes.add_up(value, WARP)
        if t & (WARP - 1) == 0:
            store(shared, scratch + quotient(t, WARP), value)
        cuda.syncthreads()
        total = T(0)
        for k in range(warps):
            total += load(shared, scratch + k)
        return total

    return block_sum


@cache
def make_update(T: Any, shape: AnyShape | LoneShape, rule: Any) -> Update:
    """The functions for blocks of this shape; ``rule`` is the optimizer's `Rule`, or None where nothing is updated.

    ``block_sum(shared, t, value)`` adds up over the block, in a fixed order, for all its threads.
    ``scale_of(schedule, s)`` is 1 / the total weight of a batch.
    ``gradient_scale(table, work, schedule, s, scaled)``: dLoss/d output is multiplied by it. That is the same number
    or, ``scaled``, one that keeps gradients in the range of fp16; ``inverse_scale`` puts that right afterwards, and
    ``adjust(table, work, well)``, called by one thread, makes it smaller where a gradient was not finite.
    ``penalty(table, reals, state, theta, begin, step)``: this thread's share of sum of l1 |w| + l2 w^2.
    ``collect(table, reals, state, theta, work, parts, factor, begin, step)`` adds up the gradients of ``parts`` blocks,
    times ``factor``, and those of the penalties, clips elements, and leaves the gradient in the first block's place;
    returns this thread's share of the sum of its squares. ``factor_of`` makes of that sum what keeps the norm below
    ``clip_norm``, and ``apply`` takes the step.
    """
    block_sum = make_block_sum(T, shape)

    @device
    def scale_of(schedule, s):
        weight = load(schedule, s * WIDTH + WEIGHT)
        return T(1) / weight if weight != T(0) else T(0)

    @device
    def gradient_scale(table, work, schedule, s, scaled):
        return load(work, load(table, head.SCALE)) if scaled else scale_of(schedule, s)

    @device
    def inverse_scale(table, work, schedule, s, scaled):
        return scale_of(schedule, s) / load(work, load(table, head.SCALE)) if scaled else T(1)

    @device
    def adjust(table, work, well):
        at = load(table, head.SCALE)
        scale, steps = load(work, at), load(work, at + 1) + T(1)
        if not well:
            scale, steps = max(scale * T(0.5), T(1e-6)), T(0)
        elif steps >= T(STEPS_TO_GROW):
            scale, steps = min(scale * T(2), T(LARGEST_SCALE)), T(0)
        store(work, at, scale)
        store(work, at + 1, steps)

    @device
    def penalty(table, reals, state, theta, begin, step):
        total = T(0)
        if load(table, head.PENALIZED) != 0:
            for r in range(load(table, head.N_ROWS)):
                q = head.HEADER + r * row.WIDTH
                numbers = load(table, q + row.PENALTY)
                if numbers >= 0:
                    l1, l2 = load(reals, numbers), load(reals, numbers + 1)
                    w = theta + load(table, q + row.W)
                    for i in range(begin, load(table, q + row.N_IN) * load(table, q + row.N_OUT), step):
                        value = load(state, w + i)
                        total += l1 * abs(value) + l2 * value * value
        return total

    @device
    def penalty_slope(table, reals, value, i):
        """Of parameter i."""
        slope = T(0)
        for r in range(load(table, head.N_ROWS)):
            q = head.HEADER + r * row.WIDTH
            numbers, inside = load(table, q + row.PENALTY), i - load(table, q + row.W)
            if numbers >= 0 and 0 <= inside < load(table, q + row.N_IN) * load(table, q + row.N_OUT):
                l1, l2 = load(reals, numbers), load(reals, numbers + 1)
                sign = T(1) if value > T(0) else (T(-1) if value < T(0) else T(0))
                slope = l1 * sign + T(2) * l2 * value
        return slope

    @device
    def collect(table, reals, state, theta, work, parts, factor, begin, step):
        n, gradient, squares = load(table, head.N_THETA), load(table, head.GRADIENT), T(0)
        clip, penalized = load(reals, load(table, head.CLIPS)), load(table, head.PENALIZED) != 0
        for i in range(begin, n, step):
            g = T(0)
            for part in range(parts):
                g += load(work, gradient + part * n + i)
            g *= factor
            if penalized:
                g += penalty_slope(table, reals, load(state, theta + i), i)
            g = -clip if g < -clip else g
            g = clip if g > clip else g
            squares += g * g
            store(work, gradient + i, g)
        return squares

    @device
    def factor_of(table, reals, squares):
        clip = load(reals, load(table, head.CLIPS) + 1)
        if not clip < T(np.inf):
            return T(1)
        factor = clip / (sqrt(squares) + T(1e-6))
        return T(1) if factor >= T(1) else factor  # a NaN is kept

    apply = None if rule is None else _make_apply(T, rule)
    return Update(block_sum, scale_of, gradient_scale, inverse_scale, adjust, penalty, collect, factor_of, apply)


def _make_apply(T, rule):
    step_of, n_slots = compiled(rule.rule), rule.n_slots

    @device
    def apply(table, state, theta, work, schedule, s, factor, begin, step):
        n, gradient, slots = load(table, head.N_THETA), load(table, head.GRADIENT), load(table, head.SLOTS)
        c = s * WIDTH
        coefficients = (
            load(schedule, c), load(schedule, c + 1), load(schedule, c + 2), load(schedule, c + 3),
            load(schedule, c + 4), load(schedule, c + 5), load(schedule, c + 6), load(schedule, c + 7),
            load(schedule, c + 8), load(schedule, c + 9), load(schedule, c + 10), load(schedule, c + 11),
        )  # fmt: skip
        for i in range(begin, n, step):
            s0 = load(work, slots + i) if n_slots > 0 else T(0)
            s1 = load(work, slots + n + i) if n_slots > 1 else T(0)
            s2 = load(work, slots + 2 * n + i) if n_slots > 2 else T(0)
            g = load(work, gradient + i)
            g = g * factor if factor != T(1) else g
            p, s0, s1, s2 = step_of(load(state, theta + i), g, s0, s1, s2, coefficients)
            store(state, theta + i, T(p))
            if n_slots > 0:
                store(work, slots + i, T(s0))
            if n_slots > 1:
                store(work, slots + n + i, T(s1))
            if n_slots > 2:
                store(work, slots + 2 * n + i, T(s2))

    return apply


@cache
def update_kernel(T: Any, shape: AnyShape, rule: Any) -> Any:
    """One step of the optimizer, in one launch.

    ``(table, reals, state, work, schedule, s, parts, losses, collected, scaled)``: adds up ``losses`` losses of blocks;
    where that is not finite, nothing is updated by this step and those after it. With ``collected``, `collect_kernel`
    has added up the gradients, and the norm is clipped. With ``scaled``, for which that is needed too, a step whose
    gradient is not finite is left out, and the next ones are scaled less.
    """
    functions = make_update(T, shape, rule)
    block_sum, adjust, collect = functions.block_sum, functions.adjust, functions.collect
    factor_of, apply = functions.factor_of, functions.apply
    threads = shape.threads

    kind = shared_kind(T)

    @kernel(threads)
    def update(table, reals, state, work, schedule, s, parts, losses, collected, scaled):
        shared = cuda.shared.array(0, kind)
        t, block, blocks = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x), np.int64(cuda.gridDim.x)
        # One thread looks: this launch may set the flag, and a block must not be of two minds.
        if block_sum(shared, t, load(work, load(table, head.STOPPED)) if t == 0 else T(0)) != T(0):
            return
        total = block_sum(shared, t, partial_sum(work, load(table, head.PARTIAL_LOSSES), losses, t))
        if block == 0 and t == 0:
            store(schedule, s * WIDTH + LOSS, total)
        if not math.isfinite(total):
            if block == 0 and t == 0:
                # Blocks that see it already find the same loss as this one.
                store(work, load(table, head.STOPPED), T(1))
            return
        begin, step = block * threads + t, blocks * threads
        factor = T(1)
        if collected:
            squares = partial_sum(work, load(table, head.PARTIAL_SQUARES), blocks, t)
            squares = block_sum(shared, t, squares)
            if scaled and block == 0 and t == 0:
                adjust(table, work, math.isfinite(squares))
            if scaled and not math.isfinite(squares):
                return
            factor = factor_of(table, reals, squares)
        else:
            collect(table, reals, state, np.int64(0), work, parts, T(1), begin, step)
        apply(table, state, np.int64(0), work, schedule, s, factor, begin, step)

    partial_sum = _make_partial_sum(T, threads)
    return update


def _make_partial_sum(T, threads):
    @device
    def partial_sum(work, at, n, t):
        """This thread's share of ``n`` numbers."""
        total = T(0)
        for k in range(t, n, threads):
            total += load(work, at + k)
        return total

    return partial_sum


@cache
def collect_kernel(T: Any, shape: AnyShape) -> Any:
    """``(table, reals, state, work, schedule, s, parts, scaled)``: the gradient, and each block's share of its norm."""
    functions = make_update(T, shape, None)
    block_sum, collect, inverse_scale = functions.block_sum, functions.collect, functions.inverse_scale
    threads = shape.threads

    kind = shared_kind(T)

    @kernel(threads)
    def run(table, reals, state, work, schedule, s, parts, scaled):
        if load(work, load(table, head.STOPPED)) != T(0):
            return
        shared = cuda.shared.array(0, kind)
        t, block, blocks = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x), np.int64(cuda.gridDim.x)
        factor = inverse_scale(table, work, schedule, s, scaled)
        begin, step = block * threads + t, blocks * threads
        squares = collect(table, reals, state, np.int64(0), work, parts, factor, begin, step)
        squares = block_sum(shared, t, squares)
        if t == 0:
            store(work, load(table, head.PARTIAL_SQUARES) + block, squares)

    return run
