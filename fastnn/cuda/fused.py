"""The forward pass of a narrow network in one launch, on tensor cores; activations stay in registers.

For networks of dense layers whose widths, inputs and outputs included, are at most 128. A warp takes 16 or more rows
through all layers: what a layer puts out is, in the same registers, what the next one multiplies (`fragments`).
Weights are rounded into shared memory once per block, and blocks stay until all rows are done. So device memory sees
the input, the output and, once per block, the parameters.

What it should cost, for 64-64-64-64-64 and 2**18 rows on an H200: 134 MB of input and output take 31 us at 4.3 TB/s.
In 16 bits a warp reads 8 KB of weights a layer for 32 rows: 270 MB of shared memory in all, 8 us at 33 TB/s. 8.6
GFLOP take 11 us at 790 TFLOP/s, perhaps 18 by ``mma.sync``, which reaches some 60 % of that on Hopper. Nothing waits
at a barrier, so 12 warps a multiprocessor overlap the three, and memory decides.

Nothing of one architecture is compiled in: only the width that layers are padded to, the precision, and the
activations.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn.activations import ActivationFunction
from fastnn.cuda import mma
from fastnn.cuda._jit import MAXIMUM_SHARED, SIMULATED, cuda, device, kernel, sequence, types
from fastnn.cuda.fragments import WIDTHS, column_of, fragments
from fastnn.cuda.intrinsics import load, load2, store, store2
from fastnn.cuda.scalars import activation_value, exp, log
from fastnn.plan import Plan

#: Codes of activations in the table; those of the tuple that is compiled in follow on `FIRST`.
LOG_SOFTMAX, SOFTMAX, IDENTITY, RELU, FIRST = -2, -1, 0, 1, 2
#: A row of the table, which is flat and of int64: widths, offsets into the state (B: -1 for none), and a code.
N_IN, N_OUT, W, B, ACTIVATION, COLUMNS = range(6)
#: Bits of the argument ``pairs``.
X_IN_PAIRS, OUT_IN_PAIRS = 1, 2

_ZERO, _ONE = np.float32(0), np.float32(1)


class Shape(NamedTuple):
    """What a kernel is compiled for: layers padded to ``width``, and how the work is cut."""

    width: int
    precision: str
    warps: int  # of a block
    row_tiles: int  # of 16 rows, that a warp takes at once: each weight it reads serves all of them
    column_tiles: int  # of 16 columns, whose sums are in registers at once

    @property
    def threads(self) -> int:
        return 32 * self.warps


# width -> (warps, row tiles, column tiles) for 16 bits, and for tf32, whose operands take twice the registers. Two
# sets of operand tiles, a chunk of sums and an activation's temporaries must fit into 128 registers with 16 warps,
# into 168 with 12, into 255 with 8.
_CUTS = {
    16: ((16, 2, 1), (16, 2, 1)),
    32: ((16, 2, 1), (12, 2, 1)),
    64: ((12, 2, 1), (12, 1, 2)),
    128: ((12, 1, 2), (8, 1, 2)),
}


def shape_for(width: int, precision: str) -> Shape:
    """How the work is cut for layers of at most ``width`` columns."""
    padded = next(each for each in WIDTHS if each >= width)
    return Shape(padded, precision, *_CUTS[padded][precision == "tf32"])


class Description(NamedTuple):
    """A plan as the kernel takes it."""

    table: np.ndarray  # int64, (n_layers * COLUMNS,)
    activations: tuple[ActivationFunction, ...]  # those to be compiled in
    width: int  # of the widest layer

    @property
    def n_layers(self) -> int:
        return self.table.size // COLUMNS


def describe(plan: Plan) -> Description | None:
    """The dense layers of a plan for inference, or None where it has something else that counts.

    Dropout does nothing, and an activation behind it belongs to the dense layer before it. A softmax may only be the
    last.
    """
    layers: list[list[int]] = []
    used: list[ActivationFunction | None] = []
    for q, activation in zip(plan.table.tolist(), plan.activations, strict=True):
        plain = q[row.ACT] == row.IDENTITY
        if q[row.KIND] == row.DENSE:
            layers.append([q[row.N_IN], q[row.N_OUT], q[row.W], q[row.B]])
            used.append(None if plain else activation)
        elif q[row.KIND] == row.ACTIVATION and (plain or (used and used[-1] is None)):
            if not plain:
                used[-1] = activation
        elif q[row.KIND] != row.DROPOUT:
            return None
    if not layers or any(activation is not None and activation.rowwise for activation in used[:-1]):
        return None
    width = max(max(layer[:2]) for layer in layers)
    own = tuple(dict.fromkeys(a for a in used if a is not None and not a.rowwise and not a.gate))
    table = [[*layer, _code(activation, own)] for layer, activation in zip(layers, used, strict=True)]
    return Description(np.array(table, np.int64).reshape(-1), own, width)


def _code(activation: ActivationFunction | None, own: Sequence[ActivationFunction]) -> int:
    if activation is None:
        return IDENTITY
    if activation.rowwise:
        return LOG_SOFTMAX if activation.name == "log_softmax" else SOFTMAX
    return RELU if activation.gate else FIRST + own.index(activation)


def shared_bytes(shape: Shape, n_layers: int) -> int:
    """Dynamic shared memory of a block: weights, then biases."""
    line = fragments(shape.precision, shape.width).weight_line
    return 4 * n_layers * shape.width * (line + 1)


def eligible(plan: Plan, precision: str = "bf16") -> bool:
    """Whether `forward_kernel` computes a plan: dense layers that are narrow enough and fit into shared memory."""
    found = describe(plan)
    if found is None or found.width > WIDTHS[-1]:
        return False
    return shared_bytes(shape_for(found.width, precision), found.n_layers) <= MAXIMUM_SHARED


def blocks_for(shape: Shape, n: int, multiprocessors: int) -> int:
    """Blocks for ``n`` rows: one a multiprocessor, fewer where there are not as many tiles."""
    return max(1, min(multiprocessors, -(-n // (16 * shape.row_tiles))))


def stager(shape: Any) -> Any:
    """``stage(table, n_layers, state, words, floats)``: rounded weights and biases to shared memory, zeros around.

    ``shape`` is a `Shape`, or that of a kernel that trains.
    """
    width, threads = shape.width, shape.threads
    tools = fragments(shape.precision, width)
    stage_two, size, rounds = tools.stage, width * tools.weight_line, -(-width * width // 2 // threads)

    @device
    def stage(table, n_layers, state, words, floats):
        for layer in range(n_layers):
            at = layer * COLUMNS
            n_in, n_out, w, b = table[at + N_IN], table[at + N_OUT], table[at + W], table[at + B]
            for k in range(rounds):
                e = cuda.threadIdx.x + k * threads
                i, o = e // (width // 2), e % (width // 2) * 2
                if i < width:
                    first, second = i < n_in and o < n_out, i < n_in and o + 1 < n_out
                    low = load(state, w + i * n_out + o if first else w)  # a load without a branch does not wait
                    high = load(state, w + i * n_out + o + 1 if second else w)
                    stage_two(words, layer * size, i, o, low if first else _ZERO, high if second else _ZERO)
            for o in range(cuda.threadIdx.x, width, threads):
                bias = load(state, b + o) if b >= 0 and o < n_out else _ZERO
                store(floats, n_layers * size + layer * width + o, bias)

    return stage


@device
def read_tile(x, low, high, column, n_in, pairs, whole, c):
    """A sum tile of inputs: rows that begin at ``x[low]`` and ``x[high]``, a number below 0 for no row at all.

    ``column`` is a lane's first column; beyond ``n_in`` there are zeros. ``whole``: the tile lies inside, in pairs.
    """
    for right in range(2):
        j = column + 8 * right
        for below in range(2):
            begin, e = high if below else low, 4 * right + 2 * below
            if whole:
                c[e], c[e + 1] = load2(x, begin + j)
                continue
            first = begin >= 0 and j < n_in
            if pairs:
                u, v = load2(x, begin + j if first else 0)
                c[e], c[e + 1] = u if first else _ZERO, v if first else _ZERO
            else:
                second = begin >= 0 and j + 1 < n_in
                u, v = load(x, begin + j if first else 0), load(x, begin + j + 1 if second else 0)
                c[e], c[e + 1] = u if first else _ZERO, v if second else _ZERO


@device
def write_tile(out, low, high, column, n_out, pairs, whole, c, q):
    """What `read_tile` reads."""
    for right in range(2):
        j = column + 8 * right
        for below in range(2):
            begin, e = high if below else low, q + 4 * right + 2 * below
            if whole:
                store2(out, begin + j, c[e], c[e + 1])
            elif begin >= 0 and j < n_out:
                if pairs:
                    store2(out, begin + j, c[e], c[e + 1])
                else:
                    store(out, begin + j, c[e])
                    if j + 1 < n_out:
                        store(out, begin + j + 1, c[e + 1])


def _at(function, e):
    @device
    def step(c):
        c[e] = function(c[e])

    return step


def chooser(choices: Sequence[Any]) -> Any:
    """``run(code, *arguments)``: the first choice for the code `RELU`, the second for `FIRST`, and so on."""
    chosen = device(lambda code, *arguments: None)
    for code, choice in enumerate(choices, RELU):
        chosen = _or_else(chosen, code, choice)
    return chosen


def _or_else(others, own_code, choice):
    @device
    def chosen(code, *arguments):
        if code == own_code:
            choice(*arguments)
        else:
            others(code, *arguments)

    return chosen


def along_columns(row_tiles: int, column_tiles: int) -> tuple[Any, Any]:
    """``start(c, floats, at)`` and ``clear(c, first, column, n)``, of so many sum tiles ``c``.

    They begin as the biases from ``floats[at]`` on, for all rows the same. Zeros come beyond column ``n``; ``first`` is
    the tiles' first column and ``column`` a lane's in it. What an activation makes of padding must not meet an
    infinity's product with zero.
    """
    columns, size, across = 8 * column_tiles, 8 * row_tiles * column_tiles, device(column_of)

    @device
    def start(c, floats, at):
        for q in range(size):
            c[q] = load(floats, at + across(q % columns))

    @device
    def clear(c, first, column, n):
        if n < first + 16 * column_tiles:
            for q in range(size):
                c[q] = c[q] if first + column + across(q % columns) < n else _ZERO

    return start, clear


@device
def finish_softmax(out, begin, lane, n_out, logarithm):
    """Softmax of the row that begins at ``out[begin]``, in place, by the four lanes that wrote it; -1: no row.

    Each lane reads what it wrote itself.
    """
    end = n_out if begin >= 0 else 0
    largest, total = np.float32(-np.inf), _ZERO
    for j in range(2 * (lane & 3), end, 8):
        for k in range(j, min(j + 2, end)):
            z = load(out, begin + k)
            largest = z if z > largest else largest
    largest = mma.quad_max(largest)
    for j in range(2 * (lane & 3), end, 8):
        for k in range(j, min(j + 2, end)):
            total += exp(load(out, begin + k) - largest)
    total = mma.quad_sum(total)
    rest = log(total) if logarithm else _ONE / total
    for j in range(2 * (lane & 3), end, 8):
        for k in range(j, min(j + 2, end)):
            z = load(out, begin + k) - largest
            store(out, begin + k, z - rest if logarithm else exp(z) * rest)


def product_of_layer(
    multiply: Any, right: Any, steps: Any, row_tiles: int, column_tiles: int, tiles: int, words: int
) -> Any:
    """``product(shared, at, a, c)``: all k tiles of ``a`` times the columns at ``at``, added to the sum tiles ``c``."""

    def step(k, j):
        distance = k * steps.k + j * steps.n

        @device
        def add(shared, at, a, c):
            b = right(shared, at + distance)
            for m in range(row_tiles):
                multiply(a, (m * tiles + k) * words, b, c, 8 * (m * column_tiles + j))

        return add

    return sequence([step(k, j) for k in range(tiles) for j in range(column_tiles)])


def _reader(pack: Any, words: int, row_tiles: int, tiles: int) -> Any:
    """``read(x, first_row, n, column, n_in, pairs, whole, c, a)``: operand tiles ``a`` of rows of x; ``c`` is lent."""

    def step(m, k):
        @device
        def read(x, first_row, n, column, n_in, pairs, whole, c, a):
            low = first_row + 16 * m
            high = low + 8
            low, high = low * n_in if low < n else -1, high * n_in if high < n else -1
            read_tile(x, low, high, column + 16 * k, n_in, pairs, whole, c)
            pack(c, 0, a, (m * tiles + k) * words)

        return read

    return sequence([step(m, k) for m in range(row_tiles) for k in range(tiles)])


@cache
def forward_kernel(shape: Shape, activations: tuple[ActivationFunction, ...]) -> Any:
    """The kernel ``forward(table, n_layers, state, x, n, out, pairs)``.

    ``table`` (int64) and ``n_layers`` as in `Description`; ``state``, ``x`` (n, n_in) and ``out`` (n, n_out) are flat
    float32 arrays. ``pairs``: bits that say whether rows of x and of out begin on 8 bytes, which is so if their
    number of columns is even and the array begins there. Launched with ``shape.threads`` threads and `shared_bytes`;
    any number of blocks will do, `blocks_for` is a good one.
    """
    width, warps, row_tiles, column_tiles = shape.width, shape.warps, shape.row_tiles, shape.column_tiles
    tools = fragments(shape.precision, width)
    pack, right_place, step_n, words_of_tile = tools.pack, tools.forward_place, tools.forward_steps.n, tools.words
    tiles, size = width // 16, width * tools.weight_line
    row_words, new_words = tiles * words_of_tile, column_tiles * words_of_tile  # of a row tile: in all, of a chunk
    old_words = row_words - new_words
    all_words, all_sums = row_tiles * row_words, 8 * row_tiles * column_tiles
    stage, read = stager(shape), _reader(pack, words_of_tile, row_tiles, tiles)
    multiply = product_of_layer(
        tools.multiply, tools.forward, tools.forward_steps, row_tiles, column_tiles, tiles, words_of_tile
    )
    functions = (mma.relu, *(activation_value(each, np.float32) for each in activations))
    activate = chooser([sequence([_at(function, e) for e in range(all_sums)]) for function in functions])
    start, clear = along_columns(row_tiles, column_tiles)
    # The code of an activation is long, so chunks that have one are a loop. Then they move up as new ones come, so that
    # no index depends on the chunk.
    moves = bool(activations)

    @device
    def do_chunk(chunk, floats, words, layer, place, biases, n_out, code, final, first_row, n, column, out, pairs, a,
                 following, c):  # fmt: skip
        first, end = 16 * column_tiles * chunk, 16 * column_tiles * (chunk + 1)
        if first < n_out:
            start(c, floats, biases + layer * width + first)
            multiply(words, place + layer * size + chunk * column_tiles * step_n, a, c)
            activate(code, c)
        clear(c, first, column, n_out)
        whole = pairs != 0 and end <= n_out and first_row + 16 * row_tiles - 8 < n
        for m in range(row_tiles):
            if final:
                low = first_row + 16 * m
                low, high = low * n_out if low < n else -1, (low + 8) * n_out if low + 8 < n else -1
                for j in range(column_tiles):
                    q = 8 * (m * column_tiles + j)
                    write_tile(out, low, high, first + 16 * j + column, n_out, pairs, whole, c, q)
            else:
                begin = m * row_words + (old_words if moves else chunk * new_words)
                if moves:
                    for p in range(old_words):
                        following[m * row_words + p] = following[m * row_words + p + new_words]
                for j in range(column_tiles):
                    pack(c, 8 * (m * column_tiles + j), following, begin + j * words_of_tile)

    chunks = each_chunk(do_chunk, tiles // column_tiles, moves)

    def forward(table, n_layers, state, x, n, out, pairs):
        words = cuda.shared.array(0, types.int32)
        floats = cuda.shared.array(0, types.float32)
        stage(table, n_layers, state, words, floats)
        cuda.syncthreads()
        lane, warp = mma.lane_id(), cuda.threadIdx.x >> 5
        g, column = lane >> 2, 2 * (lane & 3)
        a = cuda.local.array(all_words, types.int32)
        following = cuda.local.array(all_words, types.int32)
        c = cuda.local.array(all_sums, types.float32)
        place, biases, last = right_place(lane), n_layers * size + column, (n_layers - 1) * COLUMNS
        n_in, n_final = table[N_IN], table[last + N_OUT]
        # Neighbouring tiles go to different multiprocessors, which matters where there are few.
        first_row = g + (warp * cuda.gridDim.x + cuda.blockIdx.x) * (16 * row_tiles)
        step = warps * cuda.gridDim.x * (16 * row_tiles)
        # Simulated warps have to meet the others, and so make as many rounds.
        end = n + g if not SIMULATED else first_row + (n + step - 1) // step * step
        while first_row < end:
            in_pairs = pairs & X_IN_PAIRS
            whole = in_pairs != 0 and n_in == width and first_row + 16 * row_tiles - 8 < n
            read(x, first_row, n, column, n_in, in_pairs, whole, c, a)
            for layer in range(n_layers):
                at = layer * COLUMNS
                chunks(
                    floats, words, layer, place, biases, table[at + N_OUT], table[at + ACTIVATION], at == last,
                    first_row, n, column, out, pairs & OUT_IN_PAIRS, a, following, c,
                )  # fmt: skip
                for p in range(all_words):
                    a[p] = following[p]
            code = table[last + ACTIVATION]
            if code < 0:
                for m in range(2 * row_tiles):
                    low = first_row + 8 * m
                    finish_softmax(out, low * n_final if low < n else -1, lane, n_final, code == LOG_SOFTMAX)
            first_row += step

    return kernel(shape.threads)(forward)


def each_chunk(do_chunk: Any, count: int, in_a_loop: bool) -> Any:
    """``do_chunk(chunk, *arguments)`` for each chunk of columns."""
    if not in_a_loop:
        return sequence([_with_number(do_chunk, np.int64(k)) for k in range(count)])

    @device
    def chunks(*arguments):
        for chunk in range(count):
            do_chunk(chunk, *arguments)

    return chunks


def _with_number(function: Any, k: np.int64) -> Any:
    @device
    def step(*arguments):
        function(k, *arguments)

    return step
