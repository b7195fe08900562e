"""The forward pass of a narrow network in one launch, in float32: a warp takes 32 rows of its own through all layers.

For networks of dense layers whose widths, inputs and outputs included, are at most 64. The weights lie in the block's
shared memory, and blocks stay until all rows are done. What a layer puts out takes the place of what it was given, in
shared memory that belongs to one warp, so nobody waits at a barrier: while one warp reads or writes, others multiply.

What it should cost, for 64-64-64-64-64 and 2**18 rows on an H200: 4.3 G products take 145 us at 128 a clock and
multiprocessor and 1.755 GHz. A lane computes 8 rows of 8 columns, so 16 loads of four numbers each bring what 256
products need. Lanes are placed so that of each load neighbours, or lanes that are two apart, read the same numbers,
which halves what it takes of shared memory: half of what that can give in all. 134 MB of input and output take 31 us
beside it.

Nothing of one architecture is compiled in but the activations.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn.activations import ActivationFunction
from fastnn.cuda import fused
from fastnn.cuda._jit import SIMULATED, cuda, device, kernel, types
from fastnn.cuda.elements import make_elements
from fastnn.cuda.fused import ACTIVATION, FIRST, LOG_SOFTMAX, N_IN, N_OUT, RELU, B, Description, W
from fastnn.cuda.intrinsics import distance, load, load4, load_place4, place, rolled, store, store4
from fastnn.cuda.lanes import meet
from fastnn.cuda.mma import relu
from fastnn.cuda.scalars import exp, log

#: Layers up to this width.
WIDTH = 64
#: Rows that a warp takes at once.
ROWS = 32
#: A row of the table, which is flat and of int64: as in `fused`, then where a layer's weights begin in shared memory,
#: and how long their lines are. The biases are one more line.
PLACE, LINE, COLUMNS = range(fused.COLUMNS, fused.COLUMNS + 3)
#: Bits of the argument ``vectors``.
X_IN_VECTORS, OUT_IN_VECTORS = 1, 2
#: Warps of a block: 168 registers are left for each thread. Fewer where the weights leave no memory for so many.
MOST_WARPS, FEWEST_WARPS = (1, 1) if SIMULATED else (12, 4)

#: Of weights in global memory, for `make_stage`.
LINES_FROM_AFAR = 8

# From row to row of a warp's memory: the four rows that a warp reads at once lie in different banks.
_LINE = WIDTH + 8
# Outputs up to which a lane computes a whole row of them, or, beside 8 rows, 4 columns instead of 8.
_FEW, _HALF = 4, 32
# Numbers that a thread fetches from global memory before it puts the first away.
_AT_ONCE = 16
_ZERO, _ONE = np.float32(0), np.float32(1)


def table_of(description: Description, line: int | None = None) -> tuple[np.ndarray, int]:
    """The table of a network's layers, and how many numbers their weights and biases are in shared memory.

    ``line``: of all weights; None: what `forward_kernel` takes.
    """
    rows, size = [], 0
    for layer in description.table.reshape(-1, fused.COLUMNS).tolist():
        n_in, n_out = layer[N_IN], layer[N_OUT]
        own = line or (_FEW if n_out <= _FEW else _HALF if n_out <= _HALF else WIDTH)
        rows.append([*layer, size, own])
        size += (-(-n_in // 4) * 4 + 1) * own
    return np.array(rows, np.int64).reshape(-1), size


def shared_bytes(weights: int, warps: int) -> int:
    """Dynamic shared memory of a block with so many weights."""
    return 4 * (weights + warps * ROWS * _LINE)


def warps_for(weights: int, most_bytes: int) -> int:
    """Warps of a block that has so much shared memory; 0 if it holds too few of them."""
    warps = min(MOST_WARPS, (most_bytes // 4 - weights) // (ROWS * _LINE))
    return max(warps, 0) if warps >= FEWEST_WARPS else 0


def make_stage(lines_at_once: int) -> Any:
    """``stage(table, layers, n_layers, state, shared, at, t, threads)``: weights and biases to shared memory.

    They begin at ``at``, with zeros around; ``layers`` is the layers' place in the table. A warp takes a line, and
    fetches ``lines_at_once`` of its own before it puts the first away. What lines have beyond a multiple of 32 is there
    for the banks, and nobody reads it.
    """

    @device
    def stage(table, layers, n_layers, state, shared, at, t, threads):
        held = cuda.local.array(lines_at_once, types.float32)
        lane, warp, warps = t & 31, t >> 5, threads >> 5
        for q in range(layers, layers + n_layers * COLUMNS, COLUMNS):
            n_in, n_out, w, b = load(table, q + N_IN), load(table, q + N_OUT), load(table, q + W), load(table, q + B)
            begin, line = at + load(table, q + PLACE), load(table, q + LINE)
            lines, wide = (n_in + 3) & ~3, line if line < 32 else line & ~31
            for o in range(t, wide, threads):
                inside = b >= 0 and o < n_out
                bias = load(state, b + o if inside else w)  # no branch, so no wait
                store(shared, begin + lines * line + o, bias if inside else _ZERO)
            for first in range(warp, lines, warps * lines_at_once):
                for o in range(lane, wide, 32):
                    for p in range(lines_at_once):
                        k = first + p * warps
                        inside = k < n_in and o < n_out
                        value = load(state, w + k * n_out + o if inside else w)
                        held[p] = value if inside else _ZERO
                    for p in range(lines_at_once):
                        k = first + p * warps
                        if k < lines:
                            store(shared, begin + k * line + o, held[p])

    return stage


@device
def _lanes_of_row(units):
    """Base-2 logarithm of how many lanes share a row of so many units: a power of 2."""
    bits = np.int64(0)
    while (1 << bits) < min(units, np.int64(32)):
        bits += 1
    return bits


def make_gather(rows: int, line: int) -> Any:
    """``gather(shared, mine, x, order, ordered, first, end, n_in, vectors, lane)``: rows of x for a warp's memory.

    They are the samples from place ``first`` of the order on; beyond ``end``, it is the last one again. Behind them are
    zeros up to a whole vector.
    """
    vectors_at_once = _AT_ONCE // 4

    @device
    def gather(shared, mine, x, order, ordered, first, end, n_in, vectors, lane):
        held = cuda.local.array(_AT_ONCE, types.float32)
        units = n_in >> 2 if vectors else (n_in + 3) & ~3
        bits = _lanes_of_row(units)
        at_once = np.int64(32) >> bits
        for u in range(lane & ((1 << bits) - 1), units, np.int64(1) << bits):
            for i in range(lane >> bits, rows, at_once * vectors_at_once):
                for p in range(vectors_at_once):
                    index = min(first + i + p * at_once, end - 1)
                    begin = (load(order, index) if ordered else index) * n_in
                    if vectors:
                        held[4 * p], held[4 * p + 1], held[4 * p + 2], held[4 * p + 3] = load4(x, begin + 4 * u)
                    else:
                        value = load(x, begin + min(u, n_in - 1))
                        held[4 * p] = value if u < n_in else _ZERO
                for p in range(vectors_at_once):
                    to = mine + (i + p * at_once) * line
                    if i + p * at_once < rows:
                        if vectors:
                            store4(shared, to + 4 * u, held[4 * p], held[4 * p + 1], held[4 * p + 2], held[4 * p + 3])
                        else:
                            store(shared, to + u, held[4 * p])

    return gather


@device
def _copy_out(shared, mine, out, first, n, n_out, vectors, lane):
    """A warp's rows to global memory, those before row ``n``."""
    units = n_out >> 2 if vectors else n_out
    bits = _lanes_of_row(units)
    for u in range(lane & ((1 << bits) - 1), units, np.int64(1) << bits):
        for i in range(lane >> bits, min(n - first, np.int64(ROWS)), np.int64(32) >> bits):
            if vectors:
                a, b, c, d = load4(shared, mine + i * _LINE + 4 * u)
                store4(out, (first + i) * n_out + 4 * u, a, b, c, d)
            else:
                store(out, (first + i) * n_out + u, load(shared, mine + i * _LINE + u))


@device
def _softmax(shared, begin, n_out, logarithm):
    """Of a lane's own row, in place."""
    largest, total = np.float32(-np.inf), _ZERO  # a NaN need not be the largest: the sum meets every number
    for j in range(begin, begin + n_out):
        z = load(shared, j)
        largest = z if z > largest else largest
    for j in range(begin, begin + n_out):
        total += exp(load(shared, j) - largest)
    rest = log(total) if logarithm else _ONE / total
    for j in range(begin, begin + n_out):
        z = load(shared, j) - largest
        store(shared, j, z - rest if logarithm else exp(z) * rest)


def make_product(rows: int, apart: int, groups: int, line: int, weight_line: int) -> Any:
    """``product(shared, left, right, quads, sums)``: a lane's share of a layer, added to ``sums``.

    ``rows`` are ``apart`` from each other, ``groups`` of 4 columns 32. ``left`` and ``right`` are the places of the
    first row and of the first column's weights, ``quads`` a fourth of the number of inputs.
    """
    columns, n_left, down, right_down = 4 * groups, 4 * rows, apart * line, 4 * weight_line

    def step(number):
        @device
        def add(shared, left, right, x, y, sums):
            """Four inputs."""
            for r in range(rows):
                at = np.int32(left + distance(shared, r * down + 4 * number))
                x[4 * r], x[4 * r + 1], x[4 * r + 2], x[4 * r + 3] = load_place4(shared, at)
            for q in range(4):
                for g in range(groups):
                    at = np.int32(right + distance(shared, number * right_down + q * weight_line + 32 * g))
                    y[4 * g], y[4 * g + 1], y[4 * g + 2], y[4 * g + 3] = load_place4(shared, at)
                for r in range(rows):
                    for s in range(columns):
                        sums[r * columns + s] += x[4 * r + q] * y[s]

        return add

    first, second = step(0), step(1)

    @device
    def product(shared, left, right, quads, sums):
        x, y = cuda.local.array(n_left, types.float32), cuda.local.array(columns, types.float32)
        count = np.int32(quads)
        while count >= 2:
            first(shared, left, right, x, y, sums)
            second(shared, left, right, x, y, sums)
            left, right = np.int32(left + distance(shared, 8)), np.int32(right + distance(shared, 2 * right_down))
            count = np.int32(count - 2)
        if count > 0:
            first(shared, left, right, x, y, sums)

    return product


class _Cut(NamedTuple):
    """What a lane computes of a layer."""

    rows: int
    apart: int  # from one of its rows to the next
    groups: int  # of 4 columns, which are 32 apart
    line: int  # of the weights


_CUTS = _Cut(8, 4, 2, WIDTH), _Cut(8, 4, 1, _HALF), _Cut(1, 0, 1, _FEW)


def _make_layer(cut, activations):
    """``layer(shared, mine, weights, n_in, n_out, code, i, j)``: from a warp's memory to the same place.

    ``i`` and ``j`` are a lane's first row and column.
    """
    rows, apart, groups, line = cut
    columns, size = 4 * groups, 4 * groups * rows
    counted = np.uint64(size)
    product, value_of = make_product(rows, apart, groups, _LINE, line), make_elements(np.float32, activations).value

    @device
    def layer(shared, mine, weights, n_in, n_out, code, i, j):
        sums, y = cuda.local.array(size, types.float32), cuda.local.array(columns, types.float32)
        quads = (n_in + 3) >> 2
        biases = weights + 4 * quads * line + j
        for g in range(groups):
            y[4 * g], y[4 * g + 1], y[4 * g + 2], y[4 * g + 3] = load4(shared, biases + 32 * g)
        for e in range(size):
            sums[e] = y[e % columns]
        product(shared, place(shared, mine + i * _LINE), place(shared, weights + j), quads, sums)
        if code == RELU:
            for e in range(size):
                sums[e] = relu(sums[e])
        if n_out & 3 != 0:
            # What is made of padding, NaN of an infinity, must not meet the zeros that the next layer has there.
            for e in range(size):
                s = e % columns
                sums[e] = sums[e] if j + (s >> 2) * 32 + (s & 3) < n_out else _ZERO
        meet()  # everybody has read what is overwritten now
        own = mine + i * _LINE + j
        for r in range(rows):
            for g in range(groups):
                e = r * columns + 4 * g
                store4(shared, own + r * apart * _LINE + 32 * g, sums[e], sums[e + 1], sums[e + 2], sums[e + 3])
        if code >= FIRST:
            # Not unrolled: the code of an activation is long.
            for e in range(np.int64(rolled(counted))):
                s = e % columns
                right_of = (s >> 2) * 32 + (s & 3)
                if j + right_of < n_out:
                    at = own + e // columns * (apart * _LINE) + right_of
                    store(shared, at, value_of(code - FIRST, load(shared, at)))
        meet()

    return layer


@cache
def forward_kernel(activations: tuple[ActivationFunction, ...]) -> Any:
    """The kernel ``forward(table, n_layers, weights, state, x, n, out, vectors)``.

    ``table`` (int64) and ``weights`` as `table_of` gives them; ``state``, ``x`` (n, n_in) and ``out`` (n, n_out) are
    flat float32 arrays. ``vectors``: bits that say whether rows of x and of out begin on 16 bytes. Launched with whole
    warps, at most `MOST_WARPS`, and `shared_bytes`; any number of blocks will do.
    """
    wide, half, few = (_make_layer(cut, activations) for cut in _CUTS)
    gather, stage = make_gather(ROWS, _LINE), make_stage(LINES_FROM_AFAR)

    @kernel(32 * MOST_WARPS)
    def forward(table, n_layers, weights, state, x, n, out, vectors):
        shared = cuda.shared.array(0, types.float32)
        t, threads = np.int64(cuda.threadIdx.x), np.int64(cuda.blockDim.x)
        block, blocks = np.int64(cuda.blockIdx.x), np.int64(cuda.gridDim.x)
        stage(table, np.int64(0), n_layers, state, shared, np.int64(0), t, threads)
        cuda.syncthreads()
        lane, warp = t & 31, t >> 5
        # A number of A is read by lanes that differ in bits 0, 2 and 4, one of B by those that differ in 1 and 3.
        row_lane, column_lane = (lane & 2) | (lane >> 3 & 1), (lane & 1) | (lane >> 1 & 2) | (lane >> 2 & 4)
        mine = weights + warp * (ROWS * _LINE)
        n_x, last = load(table, N_IN), (n_layers - 1) * COLUMNS
        n_final, final_code = load(table, last + N_OUT), load(table, last + ACTIVATION)
        # Neighbouring rows go to different multiprocessors, which matters where there are few.
        first, step = (warp * blocks + block) * ROWS, (threads >> 5) * blocks * ROWS
        while first < n:
            gather(shared, mine, x, table, False, first, n, n_x, (vectors & X_IN_VECTORS) != 0, lane)
            meet()
            for q in range(0, n_layers * COLUMNS, COLUMNS):
                n_in, n_out, code = load(table, q + N_IN), load(table, q + N_OUT), load(table, q + ACTIVATION)
                at, line = load(table, q + PLACE), load(table, q + LINE)
                if line == WIDTH:
                    wide(shared, mine, at, n_in, n_out, code, row_lane, 4 * column_lane)
                elif line == _HALF:
                    half(shared, mine, at, n_in, n_out, code, row_lane, 4 * column_lane)
                else:
                    few(shared, mine, at, n_in, n_out, code, lane, np.int64(0))
            if final_code < 0:
                _softmax(shared, mine + lane * _LINE, n_final, final_code == LOG_SOFTMAX)
                meet()
            _copy_out(shared, mine, out, first, n, n_final, (vectors & OUT_IN_VECTORS) != 0, lane)
            meet()
            first += step

    return forward
