"""What needs a whole row or column of values: softmax, layer and batch normalisation.

A row is shared by a few neighbouring threads, a column by threads that take every so many rows; what they find they
hand each other, within a warp or through shared memory. Formulas and notation as in `fastnn.cpu.norm`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from fastnn import _rows as row
from fastnn.cuda import lanes
from fastnn.cuda._jit import SIMULATED, cuda, device
from fastnn.cuda.intrinsics import load, store
from fastnn.cuda.product import AnyShape
from fastnn.cuda.scalars import exp, log, sqrt

# Threads that share a row; columns that a block takes at once.
LANES = 2 if SIMULATED else 8
COLUMNS = 2 if SIMULATED else 32


class Rowwise(NamedTuple):
    """Device functions of (f, q), with ``training`` for batch normalisation; see `make_rowwise`."""

    softmax: Any
    softmax_backward: Any
    batch_norm: Any
    batch_norm_backward: Any
    layer_norm: Any
    layer_norm_backward: Any


def _over_row(over):
    @device
    def over_row(value):
        lanes.meet()  # what others have read before, one may write after
        return over(value, LANES)

    return over_row


#: ``(value)``: the sum over the threads that share a row, for all of them; in a fixed order.
row_sum = _over_row(lanes.add_up)
#: The largest of theirs; a NaN need not be it.
row_largest = _over_row(lanes.largest)


@cache
def make_column_sum(T: Any, shape: AnyShape) -> Any:
    """``(f, value)``: the sum over the threads of a block that share a column, for all of them; in a fixed order."""
    scratch, groups = shape.shared - shape.threads, shape.threads // COLUMNS

    @device
    def column_sum(f, value):
        store(f.shared, scratch + f.t, value)
        cuda.syncthreads()
        total, first = T(0), scratch + f.t % COLUMNS
        for k in range(groups):
            total += load(f.shared, first + k * COLUMNS)
        cuda.syncthreads()
        return total

    return column_sum


@cache
def make_rowwise(T: Any, shape: AnyShape) -> Rowwise:
    """The functions for blocks of this shape, in the dtype ``T``.

    ``softmax`` works in place on the row's output; ``..._backward`` turn dLoss/d output into dLoss/d input, and softmax
    does so in place.
    """
    at_once, groups = shape.threads // LANES, shape.threads // COLUMNS
    column_sum = make_column_sum(T, shape)

    @device
    def softmax(f, q):
        n, logarithm = load(f.table, q + row.N_OUT), load(f.table, q + row.VALUE)
        lane = f.t % LANES
        for first in range(f.part * at_once, f.rows, f.parts * at_once):
            i = first + f.t // LANES
            out = f.at + load(f.table, q + row.OUT) + i * f.ld
            end = n if i < f.rows else 0
            largest = load(f.space, out) if i < f.rows else T(0)
            for j in range(lane, end, LANES):
                z = load(f.space, out + j)
                largest = z if z > largest else largest
            largest = row_largest(largest)
            total = T(0) if end > 0 else T(1)
            for j in range(lane, end, LANES):
                z = load(f.space, out + j) - largest
                e = exp(z)
                total += e
                store(f.space, out + j, z if logarithm else e)
            total = row_sum(total)
            rest = log(total) if logarithm else T(1) / total
            for j in range(lane, end, LANES):
                a = load(f.space, out + j)
                store(f.space, out + j, a - rest if logarithm else a * rest)

    @device
    def softmax_backward(f, q):
        # softmax: dz = a (d - sum(a d)); its logarithm: dz = d - exp(a) sum(d)
        n, logarithm = load(f.table, q + row.N_OUT), load(f.table, q + row.VALUE)
        lane = f.t % LANES
        for first in range(f.part * at_once, f.rows, f.parts * at_once):
            i = first + f.t // LANES
            out = f.at + load(f.table, q + row.OUT) + i * f.ld
            d = f.at + load(f.table, q + row.D_OUT) + i * f.ld
            end = n if i < f.rows else 0
            total = T(0)
            for j in range(lane, end, LANES):
                dj = load(f.space, d + j)
                total += dj if logarithm else load(f.space, out + j) * dj
            total = row_sum(total)
            for j in range(lane, end, LANES):
                a, dj = load(f.space, out + j), load(f.space, d + j)
                store(f.space, d + j, dj - exp(a) * total if logarithm else a * (dj - total))

    @device
    def layer_norm(f, q):
        n, slope = load(f.table, q + row.N_OUT), load(f.table, q + row.SLOPE)
        w, b = f.theta + load(f.table, q + row.W), f.theta + load(f.table, q + row.B)
        eps = load(f.reals, load(f.table, q + row.REALS) + 1)
        lane, count = f.t % LANES, T(n)
        for first in range(f.part * at_once, f.rows, f.parts * at_once):
            i = first + f.t // LANES
            at = f.at + i * f.ld
            source, target = at + load(f.table, q + row.IN), at + load(f.table, q + row.OUT)
            end = n if i < f.rows else 0
            total = T(0)
            for j in range(lane, end, LANES):
                total += load(f.space, source + j)
            mean = row_sum(total) / count
            square = T(0)
            for j in range(lane, end, LANES):
                centred = load(f.space, source + j) - mean
                square += centred * centred
            inverse = T(1) / sqrt(row_sum(square) / count + eps)
            for j in range(lane, end, LANES):
                normal = (load(f.space, source + j) - mean) * inverse
                if slope >= 0:
                    store(f.space, at + slope + j, normal)
                store(f.space, target + j, load(f.state, w + j) * normal + load(f.state, b + j))
            if slope >= 0 and lane == 0 and end > 0:
                store(f.space, at + load(f.table, q + row.STATISTICS), inverse)

    @device
    def layer_norm_backward(f, q):
        n, w = load(f.table, q + row.N_OUT), f.theta + load(f.table, q + row.W)
        lane, count = f.t % LANES, T(n)
        for first in range(f.part * at_once, f.rows, f.parts * at_once):
            i = first + f.t // LANES
            at = f.at + i * f.ld
            d, d_in = at + load(f.table, q + row.D_OUT), at + load(f.table, q + row.D_IN)
            normal = at + load(f.table, q + row.SLOPE)
            end = n if i < f.rows else 0
            total, product = T(0), T(0)
            for j in range(lane, end, LANES):
                g = load(f.space, d + j) * load(f.state, w + j)
                total += g
                product += g * load(f.space, normal + j)
            mean, mean_product = row_sum(total) / count, row_sum(product) / count
            inverse = load(f.space, at + load(f.table, q + row.STATISTICS)) if end > 0 else T(0)
            for j in range(lane, end, LANES):
                g = load(f.space, d + j) * load(f.state, w + j)
                store(f.space, d_in + j, inverse * (g - mean - load(f.space, normal + j) * mean_product))

    @device
    def batch_norm(f, q, training):
        n, slope = load(f.table, q + row.N_OUT), load(f.table, q + row.SLOPE)
        source, target = f.at + load(f.table, q + row.IN), f.at + load(f.table, q + row.OUT)
        w, b = f.theta + load(f.table, q + row.W), f.theta + load(f.table, q + row.B)
        numbers = load(f.table, q + row.REALS)
        momentum, eps = load(f.reals, numbers), load(f.reals, numbers + 1)
        group, count = f.t // COLUMNS, T(f.rows)
        for first in range(f.part * COLUMNS, n, f.parts * COLUMNS):
            j = first + f.t % COLUMNS
            end = f.rows if j < n else 0
            running = f.theta + load(f.table, q + row.RUNNING) + (j if j < n else 0)
            mean, variance = load(f.state, running), load(f.state, running + n)
            if training:
                total = T(0)
                for i in range(group, end, groups):
                    total += load(f.space, source + i * f.ld + j)
                batch_mean = column_sum(f, total) / count
                square = T(0)
                for i in range(group, end, groups):
                    centred = load(f.space, source + i * f.ld + j) - batch_mean
                    square += centred * centred
                square = column_sum(f, square)
                if group == 0 and end > 0:
                    unbiased = square / (count - T(1)) if f.rows > 1 else square / count
                    store(f.state, running, momentum * mean + (T(1) - momentum) * batch_mean)
                    store(f.state, running + n, momentum * variance + (T(1) - momentum) * unbiased)
                mean, variance = batch_mean, square / count
            inverse = T(1) / sqrt(variance + eps)
            if slope >= 0 and group == 0 and end > 0:
                store(f.work, f.statistics + load(f.table, q + row.STATISTICS) + j, inverse)
            for i in range(group, end, groups):
                normal = (load(f.space, source + i * f.ld + j) - mean) * inverse
                if slope >= 0:
                    store(f.space, f.at + slope + i * f.ld + j, normal)
                store(f.space, target + i * f.ld + j, load(f.state, w + j) * normal + load(f.state, b + j))

    @device
    def batch_norm_backward(f, q, training):
        n, w = load(f.table, q + row.N_OUT), f.theta + load(f.table, q + row.W)
        d, d_in = f.at + load(f.table, q + row.D_OUT), f.at + load(f.table, q + row.D_IN)
        normal, statistics = f.at + load(f.table, q + row.SLOPE), f.statistics + load(f.table, q + row.STATISTICS)
        group, count = f.t // COLUMNS, T(f.rows)
        for first in range(f.part * COLUMNS, n, f.parts * COLUMNS):
            j = first + f.t % COLUMNS
            end = f.rows if j < n else 0
            mean, mean_product = T(0), T(0)
            if training:  # with running statistics, mean and variance are constants
                total, product = T(0), T(0)
                for i in range(group, end, groups):
                    di = load(f.space, d + i * f.ld + j)
                    total += di
                    product += di * load(f.space, normal + i * f.ld + j)
                mean, mean_product = column_sum(f, total) / count, column_sum(f, product) / count
            factor = load(f.state, w + j) * load(f.work, statistics + j) if end > 0 else T(0)
            for i in range(group, end, groups):
                at = i * f.ld + j
                change = load(f.space, d + at) - mean - load(f.space, normal + at) * mean_product
                store(f.space, d_in + at, factor * change)

    return Rowwise(softmax, softmax_backward, batch_norm, batch_norm_backward, layer_norm, layer_norm_backward)
