"""A plan walked by blocks of threads: one function for each thing that happens to a row of it.

Every function shares its work among ``parts`` blocks, of which this one is ``part``. So the same functions serve a
block that takes some samples through the whole network alone (part 0 of 1, a barrier after each row), and launches of
many blocks, one row of the plan each. All threads of a block call them together.

The values of a sample lie in one row of ``space``, at the places that the table names; see `fastnn.cuda.table`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn.cuda._jit import cuda, device
from fastnn.cuda.elements import Elements
from fastnn.cuda.intrinsics import load, rolled, store
from fastnn.cuda.lone import LoneShape, make_lone_product
from fastnn.cuda.product import AnyShape, make_product
from fastnn.cuda.rowwise import COLUMNS, LANES, make_column_sum, make_rowwise


class Frame(NamedTuple):
    """What the functions of a block work on; T is the network's dtype, offsets count elements."""

    table: Any  # int64, the rows of the plan
    n_rows: Any
    reals: Any  # T, the rows' numbers
    state: Any  # T, parameters and running statistics
    theta: Any  # where this network's parameters begin in it
    n_theta: Any
    work: Any  # T: gradients, statistics
    gradient: Any  # where this block's gradient begins in it
    statistics: Any  # where 1 / deviation of batch normalisations begin in it
    space: Any  # T, values of samples
    at: Any  # where those of the first sample begin
    ld: Any  # from one sample to the next
    rows: Any  # samples
    shared: Any  # T, shared memory of the block
    t: Any  # this thread
    part: Any
    parts: Any


class Walk(NamedTuple):
    """Device functions: ``forward(f, q, training, key, first)``, ``activate``, ``slope``, ``backward``, ``learn``."""

    forward: Any
    activate: Any
    slope: Any
    backward: Any
    learn: Any


@cache
def make_walk(T: Any, shape: AnyShape | LoneShape, elements: Elements) -> Walk:
    """The functions for blocks of this shape; ``q`` is the offset of a row in the table.

    ``forward``: what the row computes, up to an element-wise activation. Key and first sample decide dropout factors.
    ``activate(f, q)``: softmax and log_softmax, where the row ends with one.
    ``slope(f, q)``: dLoss/d output becomes dLoss/d pre-activation, unless the next row's product has done that.
    ``backward(f, q, training)``: dLoss/d input.
    ``learn(f, q, begin, end, gradient, more)``: gradients of the row's parameters from some samples, written to
    ``gradient`` in ``work``, or with ``more`` added to what is there.
    """
    value_of, slope_of, dropout_of = elements
    softmax, softmax_backward, batch_norm, batch_norm_backward, layer_norm, layer_norm_backward = make_rowwise(T, shape)
    column_sum = make_column_sum(T, shape)
    one, nothing, at_once, groups = np.int64(1), np.int64(0), shape.threads // LANES, shape.threads // COLUMNS

    @device
    def bias(f, c, i, j):
        _, begin, _, _ = c
        return load(f.state, begin + j) if begin >= 0 else T(0)

    @device
    def store_output(f, c, i, j, z):
        _, _, out, low = c
        z = low if z < low else z  # NaN is not less
        store(f.space, out + i * f.ld + j, z)

    @device
    def is_elementwise(f, c):
        return load(f.table, c[0] + row.ACT) == row.ELEMENTWISE

    @device
    def apply(f, c, i, j):
        q, _, begin, _ = c
        slope, code = load(f.table, q + row.SLOPE), load(f.table, q + row.VALUE)
        out = begin + i * f.ld + j
        z = load(f.space, out)
        a = value_of(code, z)
        if slope >= 0:
            store(f.space, f.at + slope + i * f.ld + j, slope_of(code, z, a))
        store(f.space, out, a)

    @device
    def never(f, c):
        return False

    @device
    def nothing_more(f, c, i, j):
        return

    @device
    def zero(f, c, i, j):
        return T(0)

    @device
    def store_d_in(f, c, i, j, value):
        """With the slope of the row before, whose gradient this is."""
        begin, epilogue, slot = c
        at = i * f.ld + j
        if epilogue != row.CLAMP:
            factor = load(f.space, slot + at)
            if epilogue == row.SCALE:
                value *= factor
            elif factor <= T(0):
                value = T(0)
        store(f.space, begin + at, value)

    @device
    def gradient_before(f, c, i, j):
        begin, n, more = c
        return load(f.work, begin + i * n + j) if more else T(0)

    @device
    def store_gradient(f, c, i, j, value):
        begin, n, _ = c
        store(f.work, begin + i * n + j, value)

    run_forward = _tiled(T, shape, bias, store_output, is_elementwise, apply)
    run_backward = _tiled(T, shape, zero, store_d_in, never, nothing_more)
    run_learn = _tiled(T, shape, gradient_before, store_gradient, never, nothing_more)

    @device
    def spread(f):
        """This thread's first sample, the step to its next, and its first value; neighbours share a sample's values.

        Rows and columns are counted, because a division of 64 bits takes as long as a hundred products.
        """
        return f.part * at_once + f.t // LANES, f.parts * at_once, f.t % LANES

    @device
    def forward(f, q, training, key, first):
        kind, n = load(f.table, q + row.KIND), load(f.table, q + row.N_OUT)
        source, target = f.at + load(f.table, q + row.IN), f.at + load(f.table, q + row.OUT)
        begin, step, lane = spread(f)
        if kind == row.DENSE:
            n_in = load(f.table, q + row.N_IN)
            a = (f.space, source, f.ld, one, f.rows)
            b = (f.state, f.theta + load(f.table, q + row.W), one, n, n)
            # What is the same for all elements is looked up once.
            offset = load(f.table, q + row.B)
            low = T(0) if load(f.table, q + row.ACT) == row.RELU else T(-np.inf)
            c = (q, f.theta + offset if offset >= 0 else np.int64(-1), target, low)
            run_forward(f, c, a, b, f.rows, n, nothing, n_in)
        elif kind == row.BATCH_NORM:
            batch_norm(f, q, training)
        elif kind == row.LAYER_NORM:
            layer_norm(f, q)
        elif kind == row.DROPOUT and training:
            slope = f.at + load(f.table, q + row.SLOPE)
            rate = load(f.reals, load(f.table, q + row.REALS))
            for i in range(begin, f.rows, step):
                for at in range(i * f.ld + lane, i * f.ld + n, LANES):
                    factor = dropout_of(key, first + i, q // row.WIDTH - 1, at - i * f.ld, rate)
                    store(f.space, slope + at, factor)
                    store(f.space, target + at, load(f.space, source + at) * factor)
        elif kind == row.ADD:
            skip = f.at + load(f.table, q + row.SKIP)
            for i in range(begin, f.rows, step):
                for at in range(i * f.ld + lane, i * f.ld + n, LANES):
                    store(f.space, target + at, load(f.space, source + at) + load(f.space, skip + at))
        elif kind == row.ACTIVATION and load(f.table, q + row.ACT) == row.ELEMENTWISE:
            slope, code = load(f.table, q + row.SLOPE), load(f.table, q + row.VALUE)
            for i in range(begin, f.rows, step):
                for at in range(i * f.ld + lane, i * f.ld + n, LANES):
                    z = load(f.space, source + at)
                    a = value_of(code, z)
                    if slope >= 0:
                        store(f.space, f.at + slope + at, slope_of(code, z, a))
                    store(f.space, target + at, a)
        elif source != target:
            for i in range(begin, f.rows, step):
                for at in range(i * f.ld + lane, i * f.ld + n, LANES):
                    store(f.space, target + at, load(f.space, source + at))

    @device
    def activate(f, q):
        if load(f.table, q + row.ACT) == row.ROWWISE:
            softmax(f, q)

    @device
    def slope(f, q):
        act, n = load(f.table, q + row.ACT), load(f.table, q + row.N_OUT)
        out, d = f.at + load(f.table, q + row.OUT), f.at + load(f.table, q + row.D_OUT)
        begin, step, lane = spread(f)
        if act == row.ROWWISE:
            softmax_backward(f, q)
        elif act != row.IDENTITY and load(f.table, q + row.SLOPE_DONE) == 0:
            factor = f.at + load(f.table, q + row.SLOPE)
            for i in range(begin, f.rows, step):
                for at in range(i * f.ld + lane, i * f.ld + n, LANES):
                    value = load(f.space, d + at)
                    if act == row.ELEMENTWISE:
                        value *= load(f.space, factor + at)
                    elif load(f.space, out + at) <= T(0):
                        value = T(0)
                    store(f.space, d + at, value)

    @device
    def backward(f, q, training):
        kind, n = load(f.table, q + row.KIND), load(f.table, q + row.N_OUT)
        d = f.at + load(f.table, q + row.D_OUT)
        if load(f.table, q + row.D_IN) < 0:
            return
        d_in = f.at + load(f.table, q + row.D_IN)
        begin, step, lane = spread(f)
        if kind == row.DENSE:
            n_in = load(f.table, q + row.N_IN)
            a = (f.space, d, f.ld, one, f.rows)
            b = (f.state, f.theta + load(f.table, q + row.W), n, one, n_in)
            c = (d_in, load(f.table, q + row.EPILOGUE), f.at + load(f.table, q + row.EPILOGUE_SLOT))
            run_backward(f, c, a, b, f.rows, n_in, nothing, n)
        elif kind == row.BATCH_NORM:
            batch_norm_backward(f, q, training)
        elif kind == row.LAYER_NORM:
            layer_norm_backward(f, q)
        else:
            other = f.at + load(f.table, q + (row.SKIP if kind == row.SPLIT else row.SLOPE))
            for i in range(begin, f.rows, step):
                for at in range(i * f.ld + lane, i * f.ld + n, LANES):
                    value = load(f.space, d + at)
                    if kind == row.SPLIT:
                        value += load(f.space, other + at)
                    elif kind == row.DROPOUT and training:
                        value *= load(f.space, other + at)
                    store(f.space, d_in + at, value)

    @device
    def store_column(f, gradient, j, n, value, more):
        """Gradient j of ``n``, from what the threads that share the column have found."""
        total, at = column_sum(f, value), gradient + j
        if f.t < COLUMNS and j < n:
            store(f.work, at, load(f.work, at) + total if more else total)

    @device
    def learn(f, q, begin, end, gradient, more):
        kind, n = load(f.table, q + row.KIND), load(f.table, q + row.N_OUT)
        d = f.at + load(f.table, q + row.D_OUT)
        w, b = gradient + load(f.table, q + row.W), load(f.table, q + row.B)
        group = f.t // COLUMNS
        if kind == row.DENSE:
            n_in = load(f.table, q + row.N_IN)
            a = (f.space, f.at + load(f.table, q + row.IN), one, f.ld, n_in)
            run_learn(f, (w, n, more), a, (f.space, d, one, f.ld, n), n_in, n, begin, end)
            if b >= 0:
                for first in range(f.part * COLUMNS, n, f.parts * COLUMNS):
                    j, total = first + f.t % COLUMNS, T(0)
                    for i in range(begin + group, end if j < n else begin, groups):
                        total += load(f.space, d + i * f.ld + j)
                    store_column(f, gradient + b, j, n, total, more)
        elif kind == row.BATCH_NORM or kind == row.LAYER_NORM:
            normal = f.at + load(f.table, q + row.SLOPE)
            for first in range(f.part * COLUMNS, n, f.parts * COLUMNS):
                j, gain, bias = first + f.t % COLUMNS, T(0), T(0)
                for i in range(begin + group, end if j < n else begin, groups):
                    di = load(f.space, d + i * f.ld + j)
                    gain += di * load(f.space, normal + i * f.ld + j)
                    bias += di
                store_column(f, w, j, n, gain, more)
                store_column(f, gradient + b, j, n, bias, more)

    return Walk(forward, activate, slope, backward, learn)


def _tiled(T, shape, start, finish, follows, after):
    """``run(f, c, a, b, n_i, n_j, k0, k1)``: a product whose tiles the blocks share.

    Elements begin as ``start(f, c, i, j)`` and go to ``finish(f, c, i, j, sum)``. Then, if ``follows(f, c)``,
    ``after(f, c, i, j)`` is called for each, in a loop that is not unrolled: the code of an activation is long.
    """
    if isinstance(shape, LoneShape):
        return make_lone_product(T, shape, start, finish, follows, after)
    product = make_product(T, shape)
    multiply, tile_row, tile_column = product
    size, rows, columns = shape.size, shape.rows, shape.columns
    counted = np.uint64(size)

    @device
    def run(f, c, a, b, n_i, n_j, k0, k1):
        sums = cuda.local.array(size, T)
        across = (n_j + columns - 1) // columns
        for tile in range(f.part, (n_i + rows - 1) // rows * across, f.parts):
            i0, j0 = tile // across * rows, tile % across * columns
            for e in range(size):
                i, j = i0 + tile_row(f.t, e), j0 + tile_column(f.t, e)
                sums[e] = start(f, c, i, j) if i < n_i and j < n_j else T(0)
            multiply(sums, f.shared, f.t, a, b, i0, j0, k0, k1)
            for e in range(size):
                i, j = i0 + tile_row(f.t, e), j0 + tile_column(f.t, e)
                if i < n_i and j < n_j:
                    finish(f, c, i, j, sums[e])
            if follows(f, c):
                for e in range(np.int64(rolled(counted))):
                    i, j = i0 + tile_row(f.t, e), j0 + tile_column(f.t, e)
                    if i < n_i and j < n_j:
                        after(f, c, i, j)

    return run
