"""A training step of a narrow network in one launch, in float32: forward, loss, backward, gradients of parameters.

For dense layers up to 64 wide, with element-wise activations before the last layer and none behind it. The weights
lie in a block's shared memory, and so do the inputs ``X`` and the gradients ``dY`` of all layers for 8 rows of each
warp. Warps go forwards and backwards on their own. Then, after a barrier, each adds ``X^T dY`` over the rows of all
warps, for its own part of the weights, to sums that it keeps in registers until all rows are done: two barriers for 64
rows, and no atomic. Slopes of activations wait in the place of the ``dY`` that will replace them; ReLU needs none,
because the next layer's input tells.

What it should cost, for 64-64-64-64-64 and 2**18 rows on an H200: 11.8 G products, 400 us at 128 a clock and
multiprocessor and 1.755 GHz. Beside 64 products of the ways forwards and backwards there are 8 loads of four numbers,
which take as long as these products; beside 64 of the gradients 4. Loads in between and the ends of layers make
500 us of it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn.activations import ActivationFunction
from fastnn.cuda import fused
from fastnn.cuda._jit import (
    SIMULATED,
    cuda,
    device,
    distance,
    kernel,
    load,
    load4,
    load_place,
    load_place4,
    place,
    rolled,
    store,
    store4,
    types,
)
from fastnn.cuda.elements import make_elements
from fastnn.cuda.fused import ACTIVATION, FIRST, IDENTITY, N_IN, N_OUT, RELU, B, Description, W
from fastnn.cuda.fused_float32 import COLUMNS, PLACE, make_gather, make_product, stage, table_of
from fastnn.cuda.kernels import targets_of
from fastnn.cuda.lone import LoneShape
from fastnn.cuda.loss import make_loss
from fastnn.cuda.mma import meet, relu
from fastnn.cuda.walk import Frame
from fastnn.losses._base import Formula, RowLoops

#: A part of the gradients of weights: its layer (-1: none), its first row, and which share of the samples it sums.
LAYER, ROW, SHARE, PART = range(4)
#: Rows that a warp takes forwards and backwards.
ROWS = 8
# Rows of a part; it has all columns.
_PART_ROWS = 32
_WIDTHS = (32, 64)
# Blocks of so many warps are tried: a multiprocessor's registers allow 255 for each thread of 8.
_WARPS = (8, 6, 4)
# Outputs up to which a lane computes 4 columns of one row.
_FEW = 16
_ZERO = np.float32(0)


class TrainingShape(NamedTuple):
    """What a kernel is compiled for."""

    width: int
    warps: int
    parts: int  # of the gradients of weights, that a warp owns

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def line(self) -> int:
        """From row to row in shared memory: on whole vectors, and in different banks."""
        return self.width + 4


class Layout(NamedTuple):
    """A network as the kernel takes it."""

    shape: TrainingShape
    table: np.ndarray  # as of `fused_float32.table_of`, and behind it a row of the plan for the loss
    weights: int  # numbers that weights and biases take in shared memory
    pieces: np.ndarray  # int64: who owns which part, a row of `PART` for each of a warp's parts, warp after warp
    shares: int  # gradients that a block leaves: of shares of its samples

    @property
    def n_layers(self) -> int:
        return (self.table.size - row.WIDTH) // COLUMNS

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory: weights, X and dY of each layer, sums for biases, a number for each thread."""
        shape, n_layers = self.shape, self.n_layers
        values = 2 * n_layers * ROWS * shape.warps * shape.line
        return 4 * (self.weights + values + n_layers * shape.width + shape.threads)


def layout_for(description: Description, most_bytes: int) -> Layout | None:
    """The layout with most warps that fits into so much shared memory; None if there is none."""
    width = next((each for each in _WIDTHS if each >= description.width), 0)
    for warps in _WARPS:
        if width and len(_parts(description)) <= warps:
            found = lay_out(description, TrainingShape(width, warps, 1))
            if found.shared_bytes <= most_bytes:
                return lay_out(description, TrainingShape(width, 1, warps)) if SIMULATED else found  # threads are dear
    return None


def _parts(description: Description) -> list[tuple[int, int]]:
    """The layer and the first row of each part."""
    layers = description.table.reshape(-1, fused.COLUMNS)[:, N_IN].tolist()
    return [(layer, i) for layer, n_in in enumerate(layers) for i in range(0, n_in, _PART_ROWS)]


def lay_out(description: Description, shape: TrainingShape) -> Layout:
    """A network for blocks of this shape, whose warps own parts enough."""
    table, weights = table_of(description, shape.line)
    for_loss = np.zeros(row.WIDTH, np.int64)
    for_loss[row.N_OUT] = table.reshape(-1, COLUMNS)[-1, N_OUT]
    parts, warps = _parts(description), shape.warps
    shares = warps * shape.parts // len(parts)
    pieces = np.full((warps * shape.parts, PART), -1, np.int64)
    for k, (share, part) in enumerate((share, part) for share in range(shares) for part in parts):
        pieces[k % warps * shape.parts + k // warps] = *part, share
    return Layout(shape, np.append(table, for_loss), weights, pieces.reshape(-1), shares)


def _all(functions):
    """One device function after the other, all with the same arguments."""
    if len(functions) == 1:
        return functions[0]
    first, others = functions[0], _all(functions[1:])

    @device
    def both(*arguments):
        first(*arguments)
        others(*arguments)

    return both


def _make_forward(width, line, rows, activations):
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


def _make_learn(width, line, part):
    """``learn(shared, x, y, count, i, j, sums)``: the products of ``count`` rows for a part, 8 rows of it a lane."""
    groups = width // 32
    columns, begin = 4 * groups, part * 32 * groups

    def step(number):
        @device
        def add(shared, left, right, a, b, sums):
            """One row."""
            for g in range(2):
                at = np.int32(left + distance(shared, number * line + 16 * g))
                a[4 * g], a[4 * g + 1], a[4 * g + 2], a[4 * g + 3] = load_place4(shared, at)
            for g in range(groups):
                at = np.int32(right + distance(shared, number * line + 32 * g))
                b[4 * g], b[4 * g + 1], b[4 * g + 2], b[4 * g + 3] = load_place4(shared, at)
            for r in range(8):
                for s in range(columns):
                    sums[begin + r * columns + s] += a[r] * b[s]

        return add

    one, four = step(0), _all([step(k) for k in range(4)])

    @device
    def learn(shared, x, y, count, sums):
        a, b = cuda.local.array(8, types.float32), cuda.local.array(columns, types.float32)
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
    width, warps, parts, line = shape.width, shape.warps, shape.parts, shape.line
    groups, slot = width // 32, ROWS * warps * line
    columns, begin, all_rows = 4 * groups, part * 32 * groups, ROWS * warps
    add = _make_learn(width, line, part)

    @device
    def learn(pieces, shared, xs, ys, warp, rows, shares, i, j, sums):
        t = (warp * parts + part) * PART
        layer, share = load(pieces, t + LAYER), load(pieces, t + SHARE)
        if layer >= 0:
            first = share * all_rows // shares
            count = min((share + 1) * all_rows // shares, rows) - first
            at = layer * slot + first * line
            add(shared, xs + at + load(pieces, t + ROW) + i, ys + at + j, count, sums)

    @device
    def write(table, pieces, partials, block, n_parameters, warp, shares, i, j, sums):
        t = (warp * parts + part) * PART
        layer, share = load(pieces, t + LAYER), load(pieces, t + SHARE)
        if layer >= 0:
            q = layer * COLUMNS
            n_in, n_out = load(table, q + N_IN), load(table, q + N_OUT)
            at = (block * shares + share) * n_parameters + load(table, q + W)
            for r in range(8):
                k = load(pieces, t + ROW) + i + (r >> 2) * 16 + (r & 3)
                for s in range(columns):
                    o = j + (s >> 2) * 32 + (s & 3)
                    if k < n_in and o < n_out:
                        store(partials, at + k * n_out + o, sums[begin + r * columns + s])

    return learn, write


@cache
def training_kernel(
    shape: TrainingShape, activations: tuple[ActivationFunction, ...], source: Formula | RowLoops
) -> Any:
    """The kernel that computes losses and gradients of some samples.

    ``train(table, n_layers, begin, pieces, shares, state, x, y, weights, order, columns, flags, vectors, first, count,
    scale, reals, n_parameters, partials, losses)``, with arrays that are flat and, where not said otherwise, float32:

    - ``table``, ``n_layers``, ``begin`` (the size of weights), ``pieces`` and ``shares`` from a `Layout`;
    - ``state``: the parameters; ``x``, ``y``, ``weights``, ``order``, ``columns`` and ``flags`` as in
      `fastnn.cuda.kernels`; ``vectors``: rows of x begin on 16 bytes;
    - ``first``, ``count``: the samples, as places of the order; ``scale`` of the mean loss; ``reals``: the loss's four
      parameters;
    - ``partials`` (blocks * shares, n_parameters) and ``losses`` (blocks,): what is to be added up.

    Launched with ``shape.threads`` threads and as much shared memory as the layout says; as many blocks as there are
    multiprocessors, or fewer.
    """
    width, warps, line, threads = shape.width, shape.warps, shape.line, shape.threads
    lane_rows, column_bits, all_rows = width // 16, width.bit_length() - 1, ROWS * warps
    mine, slot, n_sums = ROWS * line, ROWS * warps * line, shape.parts * width
    gather, backward = make_gather(ROWS, line), _make_backward(width, line, lane_rows)
    wide, few = (_make_forward(width, line, rows, activations) for rows in (lane_rows, 1))
    loss_of = make_loss(np.float32, LoneShape(32, 1, 4, ROWS), source)
    learners, writers = zip(*(_make_part(shape, part) for part in range(shape.parts)), strict=True)
    learn, write = _all(learners), _all(writers)

    @kernel(threads)
    def train(
        table, n_layers, begin, pieces, shares, state, x, y, weights, order, columns, flags, vectors, first, count,
        scale, reals, n_parameters, partials, losses,
    ):  # fmt: skip
        shared = cuda.shared.array(0, types.float32)
        t, zero, one = np.int64(cuda.threadIdx.x), np.int64(0), np.int64(1)
        block, blocks = np.int64(cuda.blockIdx.x), np.int64(cuda.gridDim.x)
        lane, warp = t & 31, t >> 5
        targets = targets_of(flags, y, columns, weights, order)
        last, n_in, end = (n_layers - 1) * COLUMNS, load(table, N_IN), first + count
        xs, ys = begin, begin + n_layers * slot
        of_biases = ys + n_layers * slot
        scratch = of_biases + n_layers * width
        stage(table, n_layers, state, shared, t, np.int64(threads))
        for e in range(t, n_layers * width, threads):
            store(shared, of_biases + e, _ZERO)
        sums = cuda.local.array(n_sums, types.float32)
        for e in range(n_sums):
            sums[e] = _ZERO
        total = _ZERO
        # Lanes that are neighbours, or two apart, read the same numbers: half the work for shared memory.
        if width == 64:
            i, column = (lane & 1) * lane_rows, lane >> 1
        else:
            i, column = ((lane & 1) | (lane >> 3 & 2)) * lane_rows, lane >> 1 & 7
        part_i, part_j = ((lane >> 1 & 1) | (lane >> 2 & 2)) * 4, ((lane & 1) | (lane >> 1 & 2) | (lane >> 2 & 4)) * 4
        cuda.syncthreads()
        for piece in range(all_rows * block, count, all_rows * blocks):
            own, before = warp * mine, first + piece + ROWS * warp
            gather(shared, xs + own, x, order, targets.ordered, before, end, n_in, vectors != 0, lane)
            meet()
            for q in range(0, n_layers * COLUMNS, COLUMNS):
                n_here, n_out, code = load(table, q + N_IN), load(table, q + N_OUT), load(table, q + ACTIVATION)
                layer, at = q // COLUMNS, load(table, q + PLACE)
                given, slopes = xs + layer * slot + own, ys + layer * slot + own
                into = slopes if q == last else given + slot
                if n_out > _FEW:
                    wide(shared, given, into, slopes, at, n_here, n_out, code, i, 4 * column)
                else:
                    few(shared, given, into, slopes, at, n_here, n_out, code, lane >> 2, 4 * (lane & 3))
            rows = max(min(np.int64(ROWS), end - before), zero)
            f = Frame(
                table, zero, reals, state, zero, zero, reals, zero, zero, shared, ys + (n_layers - 1) * slot + own,
                np.int64(line), rows, shared[scratch : scratch + threads], lane, zero, one,
            )  # fmt: skip
            total += loss_of(f, n_layers * COLUMNS, targets, before, zero, scale)
            meet()
            for q in range(last, 0, -COLUMNS):
                n_here, n_out, code = (
                    load(table, q + N_IN),
                    load(table, q + N_OUT),
                    load(table, q - COLUMNS + ACTIVATION),
                )
                given = ys + q // COLUMNS * slot + own
                before_it = xs + q // COLUMNS * slot + own
                backward(shared, given, given - slot, before_it, load(table, q + PLACE), n_here, n_out, code, i, column)
            cuda.syncthreads()
            rows = min(np.int64(all_rows), count - piece)
            learn(pieces, shared, xs, ys, warp, rows, shares, part_i, part_j, sums)
            for e in range(t, n_layers * width, threads):
                layer, j = e >> column_bits, e & (width - 1)
                if j < load(table, layer * COLUMNS + N_OUT):
                    found, at = load(shared, of_biases + e), place(shared, ys + layer * slot + j)
                    for _ in range(rows):
                        found += load_place(shared, at)
                        at = np.int32(at + distance(shared, line))
                    store(shared, of_biases + e, found)
            cuda.syncthreads()
        write(table, pieces, partials, block, n_parameters, warp, shares, part_i, part_j, sums)
        for e in range(t, n_layers * width, threads):
            q, j = (e >> column_bits) * COLUMNS, e & (width - 1)
            if load(table, q + B) >= 0 and j < load(table, q + N_OUT):
                for share in range(shares):
                    found = load(shared, of_biases + e) if share == 0 else _ZERO
                    store(partials, (block * shares + share) * n_parameters + load(table, q + B) + j, found)
        store(shared, scratch + t, total)
        cuda.syncthreads()
        if t == 0:
            total = _ZERO
            for k in range(threads):
                total += load(shared, scratch + k)
            store(losses, block, scale * total)

    return train
