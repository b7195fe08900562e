"""Narrow networks in float32: a block of threads takes samples through forward pass, loss and backward pass.

For dense layers up to 64 wide, with element-wise activations before the last layer and none behind it. The weights
lie in the block's shared memory, and so do the inputs ``X`` and the gradients ``dY`` of all layers for 4 or 8 rows of
each warp. Warps go forwards and backwards on their own. Then, after a barrier, each adds ``X^T dY`` over the rows of
all warps, for its own part of the weights, to sums that it keeps in registers until all rows are done: two barriers
for 64 rows, and no atomic. Slopes of activations wait in the place of the ``dY`` that will replace them; ReLU needs
none, because the next layer's input tells. `fastnn.cuda.kernels` launches this: many blocks for a batch, or one for
many steps.

What it should cost, for 64-64-64-64-64 and 2**18 rows on an H200: 11.8 G products, 400 us at 128 a clock and
multiprocessor and 1.755 GHz. Beside 64 products forwards or backwards there are 8 loads of four numbers, which take as
long as these products; beside 64 of the gradients, 4. With what else there is to do it becomes 550 us.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn.activations import ActivationFunction
from fastnn.cuda._jit import cuda, device, sequence, types
from fastnn.cuda.elements import make_elements
from fastnn.cuda.fused import ACTIVATION, FIRST, IDENTITY, N_IN, N_OUT, RELU, B, W
from fastnn.cuda.fused_float32 import COLUMNS, PLACE, make_gather, make_product, make_stage
from fastnn.cuda.fused_float32_layout import LAYER, PART, ROW, SHARE, NarrowShape
from fastnn.cuda.intrinsics import distance, load, load4, load_place, load_place4, place, rolled, store, store4
from fastnn.cuda.lanes import meet
from fastnn.cuda.lone import LoneShape
from fastnn.cuda.loss import make_loss
from fastnn.cuda.mma import relu
from fastnn.cuda.walk import Frame
from fastnn.losses._base import Formula, RowLoops

_ZERO = np.float32(0)


class Net(NamedTuple):
    """What the device functions of a block work on."""

    table: Any  # that of a `Layout` is part of it
    layers: Any  # where that begins
    n_layers: Any
    shares: Any
    shared: Any  # float32, the first `NarrowShape.shared` of it free to use
    weights: Any  # where they begin in it
    values: Any  # and where what lies behind them begins
    t: Any  # this thread


class Block(NamedTuple):
    """Device functions, called by all threads of a block together; see `make_block`."""

    begin: Any
    add: Any
    write: Any


def _make_forward(line, rows, activations):
    """``forward(shared, source, target, slopes, weights, n_in, n_out, code, i, j)``: a lane's rows and 4 columns."""
    size = 4 * rows
    counted = np.uint64(size)
    product, elements = make_product(rows, 1, 1, line, line), make_elements(np.float32, activations)
    value_of, slope_of = elements.value, elements.slope

    @device
    def forward(shared, source, target, slopes, weights, n_in, n_out, code, i, j):
        sums = cuda.local.array(size, types.float32)
        quads = (n_in + 3) >> 2
        biases = load4(shared, weights + 4 * quads * line + j)
        for r in range(rows):
            for s in range(4):
                sums[4 * r + s] = biases[s]
        product(shared, place(shared, source + i * line), place(shared, weights + j), quads, sums)
        if code == RELU:
            for e in range(size):
                sums[e] = relu(sums[e])
        if n_out & 3 != 0:
            # What is made of padding, NaN of an infinity, must not meet the zeros that the next layer has there.
            for e in range(size):
                sums[e] = sums[e] if j + (e & 3) < n_out else _ZERO
        own = i * line + j
        for r in range(rows):
            store4(shared, target + own + r * line, sums[4 * r], sums[4 * r + 1], sums[4 * r + 2], sums[4 * r + 3])
        if code >= FIRST:
            # Not unrolled: the code of an activation is long.
            for e in range(np.int64(rolled(counted))):
                at = own + (e >> 2) * line + (e & 3)
                if j + (e & 3) < n_out:
                    z = load(shared, target + at)
                    a = value_of(code - FIRST, z)
                    store(shared, target + at, a)
                    store(shared, slopes + at, slope_of(code - FIRST, z, a))
        meet()

    return forward


def _make_backward(width, line, rows):
    """``backward(shared, source, target, before, weights, n, n_out, code, i, j)``: dLoss/d the layer's ``n`` inputs.

    A lane takes some rows, and each of the columns ``j``, ``j + width / 4``, ...: the rows of weights that neighbours
    read lie in different banks. ``before`` is the layer's input, ``code`` the activation that made it.
    """
    size, n_left, apart = 4 * rows, 4 * rows, width // 4

    def step(number):
        @device
        def add(shared, left, right, x, sums):
            """Four outputs."""
            for r in range(rows):
                at = np.int32(left + distance(shared, r * line + 4 * number))
                x[4 * r], x[4 * r + 1], x[4 * r + 2], x[4 * r + 3] = load_place4(shared, at)
            for s in range(4):
                y = load_place4(shared, np.int32(right[s] + distance(shared, 4 * number)))
                for q in range(4):
                    for r in range(rows):
                        sums[4 * r + s] += x[4 * r + q] * y[q]

        return add

    first, second = step(0), step(1)

    @device
    def backward(shared, source, target, before, weights, n, n_out, code, i, j):
        sums, x = cuda.local.array(size, types.float32), cuda.local.array(n_left, types.float32)
        right = cuda.local.array(4, np.int32)
        for e in range(size):
            sums[e] = _ZERO
        left = place(shared, source + i * line)
        for s in range(4):
            right[s] = place(shared, weights + min(j + s * apart, n - 1) * line)
        count = np.int32((n_out + 3) >> 2)
        while count >= 2:
            first(shared, left, right, x, sums)
            second(shared, left, right, x, sums)
            left, count = np.int32(left + distance(shared, 8)), np.int32(count - 2)
            for s in range(4):
                right[s] = np.int32(right[s] + distance(shared, 8))
        if count > 0:
            first(shared, left, right, x, sums)
        for s in range(4):
            column = j + s * apart
            for r in range(rows):
                at, d = (i + r) * line + column, sums[4 * r + s]
                if code != IDENTITY:
                    factor = load(shared, (before if code == RELU else target) + at)
                    gated = _ZERO if factor <= _ZERO else d
                    d = gated if code == RELU else d * factor
                store(shared, target + at, d if column < n else _ZERO)
        meet()

    return backward


def _make_learn(shape, part):
    """``learn(shared, x, y, count, sums)``: the products of ``count`` rows for a part, a fourth of its rows a lane."""
    line, down, across, begin = shape.line, shape.part_rows // 16, shape.width // 32, part * shape.part_sums
    rows, columns = 4 * down, 4 * across

    def step(number):
        @device
        def add(shared, left, right, a, b, sums):
            """One row."""
            for g in range(down):
                at = np.int32(left + distance(shared, number * line + 16 * g))
                a[4 * g], a[4 * g + 1], a[4 * g + 2], a[4 * g + 3] = load_place4(shared, at)
            for g in range(across):
                at = np.int32(right + distance(shared, number * line + 32 * g))
                b[4 * g], b[4 * g + 1], b[4 * g + 2], b[4 * g + 3] = load_place4(shared, at)
            for r in range(rows):
                for s in range(columns):
                    sums[begin + r * columns + s] += a[r] * b[s]

        return add

    one, four = step(0), sequence([step(k) for k in range(4)])

    @device
    def learn(shared, x, y, count, sums):
        a, b = cuda.local.array(rows, types.float32), cuda.local.array(columns, types.float32)
        left, right, rest = place(shared, x), place(shared, y), np.int32(count)
        while rest >= 4:
            four(shared, left, right, a, b, sums)
            left, right = np.int32(left + distance(shared, 4 * line)), np.int32(right + distance(shared, 4 * line))
            rest = np.int32(rest - 4)
        while rest > 0:
            one(shared, left, right, a, b, sums)
            left, right = np.int32(left + distance(shared, line)), np.int32(right + distance(shared, line))
            rest = np.int32(rest - 1)

    return learn


def _make_part(shape, part):
    """What a warp does with its part of that number: ``learn`` from rows of all warps, and ``write`` its sums."""
    parts, line, part_rows, begin = shape.parts, shape.line, shape.part_rows, part * shape.part_sums
    all_rows, lane_rows, columns = shape.rows * shape.warps, part_rows // 4, shape.width // 8
    slot, learn_rows = all_rows * line, _make_learn(shape, part)

    @device
    def owned(net):
        """Layer, first row and share."""
        q = net.layers + net.n_layers * COLUMNS + row.WIDTH + ((net.t >> 5) * parts + part) * PART
        return load(net.table, q + LAYER), load(net.table, q + ROW), load(net.table, q + SHARE)

    @device
    def learn(net, rows, i, j, sums):
        layer, i0, share = owned(net)
        if layer >= 0:
            first = share * all_rows // net.shares
            count = min((share + 1) * all_rows // net.shares, rows) - first
            x = net.values + layer * slot + first * line
            learn_rows(net.shared, x + i0 + i, x + net.n_layers * slot + j, count, sums)

    @device
    def write(net, out, at, n_parameters, i, j, sums):
        layer, i0, share = owned(net)
        if layer >= 0:
            q = net.layers + layer * COLUMNS
            n_in, n_out = load(net.table, q + N_IN), load(net.table, q + N_OUT)
            begins = at + share * n_parameters + load(net.table, q + W)
            for r in range(lane_rows):
                k = i0 + i + (r >> 2) * 16 + (r & 3)
                for s in range(columns):
                    o = j + (s >> 2) * 32 + (s & 3)
                    if k < n_in and o < n_out:
                        store(out, begins + k * n_out + o, sums[begin + r * columns + s])

    return learn, write


@cache
def make_block(
    shape: NarrowShape, activations: tuple[ActivationFunction, ...], source: Formula | RowLoops, lines_at_once: int
) -> Block:
    """The functions for blocks of this shape; ``lines_at_once`` of weights are fetched.

    ``begin(net, state)`` fetches weights and biases; a barrier must follow. ``add(net, reals, numbers, x, targets,
    vectors, first, count, scale, block, blocks, sums)`` takes this block's of ``count`` samples from place ``first`` of
    the order on, adds their gradients, times ``scale``, to ``sums`` (local array of ``shape.parts * shape.part_sums``)
    and to shared memory, and returns this thread's share of the sum of losses; ``numbers`` is where in ``reals`` the
    loss's parameters begin, and ``vectors`` says that rows of x begin on 16 bytes. ``write(net, out, at, n_parameters,
    sums)`` puts the gradients of all shares of the samples, one after the other, to ``out`` from ``at`` on.
    """
    width, line, threads, warp_rows, lane_rows = shape.width, shape.line, shape.threads, shape.rows, shape.lane_rows
    column_bits, all_rows, few_bits = width.bit_length() - 1, warp_rows * shape.warps, 5 - warp_rows.bit_length() + 1
    mine, slot, few_lanes = warp_rows * line, all_rows * line, 32 // warp_rows
    gather, backward = make_gather(warp_rows, line), _make_backward(width, line, lane_rows)
    stage = make_stage(lines_at_once)
    wide, few = (_make_forward(line, rows, activations) for rows in (lane_rows, 1))
    loss_of = make_loss(np.float32, LoneShape(32, 1, 4, warp_rows), source)
    learners, writers = zip(*(_make_part(shape, part) for part in range(shape.parts)), strict=True)
    learn_part, write_part = sequence(learners), sequence(writers)

    @device
    def begin(net, state):
        stage(net.table, net.layers, net.n_layers, state, net.shared, net.weights, net.t, np.int64(threads))
        of_biases = net.values + 2 * net.n_layers * slot
        for e in range(net.t, net.n_layers * width, threads):
            store(net.shared, of_biases + e, _ZERO)

    @device
    def part_place(t):
        """Of a part, a lane's first row and column; of each, neighbours or lanes that are two apart have the same."""
        return ((t >> 1 & 1) | (t >> 2 & 2)) * 4, ((t & 1) | (t >> 1 & 2) | (t >> 2 & 4)) * 4

    @device
    def add(net, reals, numbers, x, targets, vectors, first, count, scale, block, blocks, sums):
        table, shared, n_layers, t, zero, one = net.table, net.shared, net.n_layers, net.t, np.int64(0), np.int64(1)
        lane, own, total = t & 31, net.values + (t >> 5) * mine, _ZERO
        behind, to_dy = net.layers + n_layers * COLUMNS, n_layers * slot  # from an X to its dY
        n_in, end = load(table, net.layers + N_IN), first + count
        # Lanes that are neighbours, or two apart, read the same numbers: half the work for shared memory.
        if width == 64:
            i, column = (lane & 1) * lane_rows, lane >> 1
        else:
            i, column = ((lane & 1) | (lane >> 3 & 2)) * lane_rows, lane >> 1 & 7
        part_i, part_j = part_place(t)
        for piece in range(all_rows * block, count, all_rows * blocks):
            before = first + piece + (t >> 5) * warp_rows
            gather(shared, own, x, targets.order, targets.ordered, before, end, n_in, vectors, lane)
            meet()
            given = own
            for q in range(net.layers, behind, COLUMNS):
                n_here, n_out, code = load(table, q + N_IN), load(table, q + N_OUT), load(table, q + ACTIVATION)
                at, slopes = net.weights + load(table, q + PLACE), given + to_dy
                into = given + slot if q + COLUMNS < behind else slopes
                if n_out > 4 * few_lanes:
                    wide(shared, given, into, slopes, at, n_here, n_out, code, i, 4 * column)
                else:
                    few(shared, given, into, slopes, at, n_here, n_out, code, lane >> few_bits,
                        4 * (lane & (few_lanes - 1)))  # fmt: skip
                given += slot
            rows = max(min(np.int64(warp_rows), end - before), zero)
            given -= slot
            f = Frame(
                table, zero, reals, reals, zero, zero, reals, zero, zero, shared, given + to_dy, np.int64(line), rows,
                shared, lane, zero, one,
            )  # fmt: skip
            total += loss_of(f, behind, targets, before, numbers, scale)
            meet()
            for q in range(behind - COLUMNS, net.layers, -COLUMNS):
                n_here, n_out, at = load(table, q + N_IN), load(table, q + N_OUT), load(table, q + PLACE)
                d, code = given + to_dy, load(table, q - COLUMNS + ACTIVATION)
                backward(shared, d, d - slot, given, net.weights + at, n_here, n_out, code, i, column)
                given -= slot
            cuda.syncthreads()
            rows = min(np.int64(all_rows), count - piece)
            learn_part(net, rows, part_i, part_j, sums)
            for e in range(t, n_layers * width, threads):
                layer, j = e >> column_bits, e & (width - 1)
                if j < load(table, net.layers + layer * COLUMNS + N_OUT):
                    to = net.values + 2 * to_dy + e
                    found, at = load(shared, to), place(shared, net.values + to_dy + layer * slot + j)
                    for _ in range(rows):
                        found += load_place(shared, at)
                        at = np.int32(at + distance(shared, line))
                    store(shared, to, found)
            cuda.syncthreads()
        return total

    @device
    def write(net, out, at, n_parameters, sums):
        i, j = part_place(net.t)
        write_part(net, out, at, n_parameters, i, j, sums)
        of_biases = net.values + 2 * net.n_layers * slot
        for e in range(net.t, net.n_layers * width, threads):
            q, o = net.layers + (e >> column_bits) * COLUMNS, e & (width - 1)
            b = load(net.table, q + B)
            if b >= 0 and o < load(net.table, q + N_OUT):
                for share in range(net.shares):
                    found = load(net.shared, of_biases + e) if share == 0 else _ZERO
                    store(out, at + share * n_parameters + b + o, found)

    return Block(begin, add, write)
