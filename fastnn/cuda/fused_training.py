"""A training step of a narrow network in one launch, on tensor cores: forward, loss, backward, gradients of parameters.

A block takes 16 rows for each warp. Its warps go forward and backward on their own, activations and gradients in
registers (`fragments`), and leave the inputs ``X`` and the gradients ``dY`` of all layers in shared memory. Then,
after a barrier, each warp adds ``X^T dY`` of its own part of the weights to sums that it keeps in registers until all
rows are done: two barriers for a tile of rows, and no atomic. A bias's gradient is one more product, with ones for
``X^T``.

Slopes wait in the place of the ``dY`` that will replace them, written and read by the same thread, in the precision of
the operands. ReLU needs none: the next layer's input tells.

64-64-64-64-64, 16 bits, 8 warps, 128 rows: X and dY take 144 KB of shared memory, weights 36, a thread's sums 80
registers. In a tile 8 KB of weights are read by 8 warps for 4 + 3 products (448 KB), X and dY are written (128 KB)
and read (192 KB): 770 KB, 6,000 cycles at 128 B a cycle, and 2,800 + 256 ``mma`` are 4,800 cycles at 60 % of the
peak. 2**18 rows are 16 tiles for each of 132 multiprocessors: 55 us if nothing but shared memory counted, 31 us for
input and targets from device memory. Two warps a scheduler overlap them in part.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn.activations import ActivationFunction
from fastnn.cuda import mma
from fastnn.cuda._jit import MAXIMUM_SHARED, SIMULATED, cuda, device, kernel, sequence, types
from fastnn.cuda.fragments import WIDTHS, fragments
from fastnn.cuda.fused import (
    ACTIVATION,
    COLUMNS,
    FIRST,
    IDENTITY,
    N_IN,
    N_OUT,
    RELU,
    B,
    Description,
    W,
    along_columns,
    describe,
    each_chunk,
    product_of_layer,
    read_tile,
    stager,
)  # fmt: skip
from fastnn.cuda.fused_losses import cross_entropy, formula, with_slopes
from fastnn.cuda.intrinsics import load, store
from fastnn.plan import Plan

#: A part of the gradients of weights: its layer (-1: none), and its first row and column, in tiles of 16.
LAYER, ROW, COLUMN, PART = range(4)

# Blocks of so many warps are tried: a multiprocessor's registers allow 255 for each thread of 8.
_WARPS = (8, 6, 4)

_ZERO, _ONE = np.float32(0), np.float32(1)


class TrainingShape(NamedTuple):
    """What a kernel is compiled for."""

    width: int
    precision: str
    warps: int
    parts: int  # of the gradients of weights, that a warp owns

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def part_tiles(self) -> tuple[int, int]:
        """Tiles of a part, down and across: as many as serve each operand read several times."""
        down = 2 if self.precision == "tf32" else 4  # operands of tf32 take twice the registers
        return min(self.width // 16, down), min(self.width // 16, 2)


def shared_bytes(shape: TrainingShape, n_layers: int) -> int:
    """Dynamic shared memory of a block: weights, biases, then X and dY of each layer."""
    tools = fragments(shape.precision, shape.width)
    return 4 * n_layers * (shape.width * (tools.weight_line + 1) + 2 * 16 * shape.warps * tools.row_line)


def shape_for(
    description: Description, precision: str, rowwise: bool = False, most_bytes: int = MAXIMUM_SHARED
) -> TrainingShape | None:
    """The shape with most warps whose registers and shared memory hold a network; None if there is none.

    ``rowwise``: the loss is cross-entropy, which keeps all outputs of a row in registers.
    """
    most = 32 if precision == "tf32" else (64 if rowwise else WIDTHS[-1])  # operands of tf32 take twice the registers
    if description.width > most:
        return None
    padded = next(each for each in WIDTHS if each >= description.width)
    # A part of 64 x 32 is 64 sums in each thread, and 16 for biases: there are registers for one, or for two of 32 x
    # 32.
    most_parts = 1 if padded > 32 else 2
    for warps in _WARPS:
        for parts in range(1, most_parts + 1):
            shape = TrainingShape(padded, precision, warps, parts)
            fits = len(_parts(description, shape)) <= warps * parts
            if fits and shared_bytes(shape, description.n_layers) <= most_bytes:
                return shape
    return None


def describe_training(plan: Plan, from_pre_activation: bool) -> Description | None:
    """A plan's dense layers, or None. ``from_pre_activation``: the loss takes the place of the last activation."""
    found = describe(plan) if all(plan.table[:, row.KIND] == row.DENSE) else None
    if found is None:
        return None
    table = found.table.reshape(-1, COLUMNS).copy()
    if from_pre_activation:
        table[-1, ACTIVATION] = IDENTITY
    if (table[:, ACTIVATION] < 0).any() or not all(a.definition.builtin and a.trainable for a in found.activations):
        return None
    return found._replace(table=table.reshape(-1))


def _parts(description: Description, shape: TrainingShape) -> list[tuple[int, int, int]]:
    down, across = shape.part_tiles
    return [
        (layer, i, j)
        for layer, q in enumerate(description.table.reshape(-1, COLUMNS).tolist())
        for i in range(0, -(-q[N_IN] // 16), down)
        for j in range(0, -(-q[N_OUT] // 16), across)
    ]


def parts_for(description: Description, shape: TrainingShape) -> np.ndarray:
    """Who owns which part: int64, flat, a row of `PART` numbers for each of a warp's parts, warp after warp."""
    table = np.zeros((shape.parts, shape.warps, PART), np.int64)
    table[..., LAYER] = -1
    for k, part in enumerate(_parts(description, shape)):
        table[k // shape.warps, k % shape.warps] = part
    return np.ascontiguousarray(table.swapaxes(0, 1)).reshape(-1)


def _adder(tools, shape, part):
    """``add(shared, x, y, left, ones, sums)``: the products of 16 rows for a warp's part, and the columns' sums."""
    down, across = shape.part_tiles
    words, multiply, rows_left, rows_right, steps = (
        tools.words, tools.multiply, tools.rows_left, tools.rows_right, tools.rows_steps
    )  # fmt: skip
    begin = part * _sums_of_part(shape)

    def left_at(i):
        @device
        def step(shared, x, y, left, ones, sums):
            rows_left(shared, x + i * steps.n, left, i * words)

        return step

    def column_at(j):
        @device
        def step(shared, x, y, left, ones, sums):
            b = rows_right(shared, y + j * steps.n)
            for i in range(down):
                multiply(left, i * words, b, sums, begin + 8 * (i * across + j))
            multiply(ones, 0, b, sums, begin + 8 * (down * across + j))

        return step

    return sequence([*(left_at(i) for i in range(down)), *(column_at(j) for j in range(across))])


def _sums_of_part(shape):
    down, across = shape.part_tiles
    return 8 * (down + 1) * across


def _writer(shape, part):
    """``write(table, pieces, partials, begin, inverse, lane, warp, sums)``: a warp's part, to the flat gradient."""
    down, across = shape.part_tiles
    parts, first_sum = shape.parts, part * _sums_of_part(shape)

    @device
    def write(table, pieces, partials, begin, inverse, lane, warp, sums):
        t = (warp * parts + part) * PART
        layer = pieces[t + LAYER]
        if layer >= 0:
            at = layer * COLUMNS
            n_in, n_out, w, b = table[at + N_IN], table[at + N_OUT], table[at + W], table[at + B]
            first_row, first_column = 16 * pieces[t + ROW] + (lane >> 2), 16 * pieces[t + COLUMN] + 2 * (lane & 3)
            for j in range(across):
                for e in range(8):
                    o = first_column + 16 * j + (e >> 2) * 8 + (e & 1)
                    for i in range(down):
                        r = first_row + 16 * i + (e >> 1 & 1) * 8
                        if r < n_in and o < n_out:
                            found = sums[first_sum + 8 * (i * across + j) + e] * inverse
                            store(partials, begin + w + r * n_out + o, found)
                    if first_row == 0 and (e >> 1 & 1) == 0 and b >= 0 and o < n_out:
                        store(partials, begin + b + o, sums[first_sum + 8 * (down * across + j) + e] * inverse)

    return write


def _row_reader(tools, tiles):
    """``read(x, low, high, column, n_in, pairs, whole, c, a, shared, at)``: 16 rows as operand tiles, and kept."""
    pack, keep, words, step = tools.pack, tools.keep, tools.words, tools.keep_step

    def tile_at(k):
        @device
        def read(x, low, high, column, n_in, pairs, whole, c, a, shared, at):
            read_tile(x, low, high, column + 16 * k, n_in, pairs, whole, c)
            pack(c, 0, a, k * words)
            keep(a, k * words, shared, at + k * step)

        return read

    return sequence([tile_at(k) for k in range(tiles)])


@cache
def training_kernel(shape: TrainingShape, activations: tuple[ActivationFunction, ...], loss: Any) -> Any:
    """The kernel that computes losses and gradients of some rows.

    ``train(table, n_layers, pieces, state, x, y, weights, order, first, count, pairs, labels, scale, loss_scale,
    factors, p0, p1, p2, p3, n_parameters, partials, losses)``, with arrays that are flat and, where not said
    otherwise, float32:

    - ``table``, ``n_layers`` as in `Description`, ``pieces`` from `parts_for`, ``state`` the parameters;
    - ``x`` (n, n_in), ``y`` (n, n_out) or, if ``labels`` is not 0, (n,) of class numbers, ``weights`` (n,) or empty
      for 1;
    - ``order`` (int64): of it the rows ``order[first : first + count]`` are taken; if it is empty, rows ``first`` and
      on;
    - ``pairs``: rows of x begin on 8 bytes; ``scale`` of the mean loss; ``loss_scale * factors[0]`` times that are the
      gradients on their way back, which keeps those of fp16 above its smallest numbers; ``p0`` to ``p3`` belong to the
      loss;
    - ``partials`` (blocks, n_parameters) and ``losses`` (blocks,): what each block adds to the gradient and the loss.

    ``loss`` is a `fastnn.losses._base.Formula`, or None: cross-entropy after a softmax, with ``p0`` as label smoothing.
    Launched with ``shape.threads`` threads and `shared_bytes`; as many blocks as there are multiprocessors, or fewer.
    """
    width, warps, parts, tiles = shape.width, shape.warps, shape.parts, shape.width // 16
    tools = fragments(shape.precision, width)
    column_tiles = min(tiles, 2) if width < 64 else 1  # in registers at once, beside 80 sums of a part
    pack, keep, keep_place, keep_step, kept = tools.pack, tools.keep, tools.keep_place, tools.keep_step, tools.kept
    forward_place, backward_place = tools.forward_place, tools.backward_place
    left_place, right_place, rows_steps = tools.rows_left_place, tools.rows_right_place, tools.rows_steps
    forward_n, backward_n, rows_n, rows_k = tools.forward_steps.n, tools.backward_steps.n, rows_steps.n, rows_steps.k
    words, one, size, slot = tools.words, tools.one, width * tools.weight_line, 16 * warps * tools.row_line
    moves = bool(activations)  # see `fused.forward_kernel`
    warp_rows, n_chunks, n_sums = 16 * tools.row_line, tiles // column_tiles, 8 * column_tiles
    all_words, new_words, old_sums, all_sums = tiles * words, column_tiles * words, 8 * tiles - n_sums, 8 * tiles
    old_words, part_words = all_words - new_words, shape.part_tiles[0] * words
    sums_of_all = parts * _sums_of_part(shape)
    stage = stager(shape)
    forwards, backwards = (
        product_of_layer(tools.multiply, right, steps, 1, column_tiles, tiles, words)
        for right, steps in ((tools.forward, tools.forward_steps), (tools.backward, tools.backward_steps))
    )
    activate, read = with_slopes(activations, n_sums), _row_reader(tools, tiles)
    start, clear = along_columns(1, column_tiles)
    rowwise = loss is None
    gradients = cross_entropy(all_sums) if rowwise else formula(loss, n_sums)
    adders = [_adder(tools, shape, part) for part in range(parts)]
    writers = [_writer(shape, part) for part in range(parts)]

    def part_step(part):
        add = adders[part]

        @device
        def step(pieces, shared, xs, ys, lane, warp, left, ones, sums):
            t = (warp * parts + part) * PART
            layer = pieces[t + LAYER]
            if layer >= 0 or SIMULATED:  # simulated warps have to meet the others
                x = xs + max(layer, 0) * slot + left_place(lane) + pieces[t + ROW] * rows_n
                y = ys + max(layer, 0) * slot + right_place(lane) + pieces[t + COLUMN] * rows_n
                for k in range(warps):
                    add(shared, x + k * rows_k, y + k * rows_k, left, ones, sums)

        return step

    learn, write = sequence([part_step(part) for part in range(parts)]), sequence(writers)

    @device
    def append(chunk, c, shared, at, following):
        """Put a chunk of sum tiles behind those before it, and in shared memory."""
        begin = old_words if moves else chunk * new_words
        if moves:
            for p in range(old_words):
                following[p] = following[p + new_words]
        for j in range(column_tiles):
            pack(c, 8 * j, following, begin + j * words)
            keep(following, begin + j * words, shared, at + (chunk * column_tiles + j) * keep_step)

    def outputs_at(k):
        @device
        def step(outputs, following, shared, at):
            pack(outputs, 8 * k, following, k * words)
            keep(following, k * words, shared, at + k * keep_step)

        return step

    put_outputs = sequence([outputs_at(k) for k in range(tiles)])

    @device
    def chunk_forward(
        chunk, floats, shared, place, bias, n_out, code, final, column, into, onward, y, begins, share, factor, p0,
        p1, p2, p3, total, a, following, c, s, left, outputs,
    ):  # fmt: skip
        j, tile = 16 * column_tiles * chunk, chunk * column_tiles
        if j < n_out:
            start(c, floats, bias + j)
            forwards(shared, place + tile * forward_n, a, c)
            activate(code, c, s)
        clear(c, j, column, n_out)
        if not final:
            if code >= FIRST:
                for k in range(column_tiles):
                    pack(s, 8 * k, left, 0)
                    keep(left, 0, shared, into + (tile + k) * keep_step)
            append(chunk, c, shared, onward, following)
        elif rowwise:
            if moves:
                for q in range(old_sums):
                    outputs[q] = outputs[q + n_sums]
            for q in range(n_sums):
                outputs[(old_sums if moves else chunk * n_sums) + q] = c[q]
        else:
            gradients(c, s, code, y, begins, share, factor, j + column, n_out, p0, p1, p2, p3, total)
            append(chunk, c, shared, into, following)

    @device
    def chunk_backward(chunk, shared, place, n, code, column, slopes, into, a, following, c, s):
        j, tile = 16 * column_tiles * chunk, chunk * column_tiles
        for q in range(n_sums):
            c[q] = _ZERO
        if j < n:
            backwards(shared, place + tile * backward_n, a, c)
            if code != IDENTITY:
                for k in range(column_tiles):
                    kept(shared, slopes + (tile + k) * keep_step, s, 8 * k)
                for q in range(n_sums):
                    gated = _ZERO if s[q] <= _ZERO else c[q]
                    c[q] = gated if code == RELU else c[q] * s[q]
        clear(c, j, column, n)
        append(chunk, c, shared, into, following)

    chunks_forward, chunks_backward = (
        each_chunk(step, n_chunks, moves) for step in (chunk_forward, chunk_backward)
    )  # fmt: skip

    def train(
        table, n_layers, pieces, state, x, y, weights, order, first, count, pairs, labels, scale, loss_scale, factors,
        p0, p1, p2, p3, n_parameters, partials, losses,
    ):  # fmt: skip
        loss_scale *= load(factors, 0)
        shared = cuda.shared.array(0, types.int32)
        floats = cuda.shared.array(0, types.float32)
        stage(table, n_layers, state, shared, floats)
        a = cuda.local.array(all_words, types.int32)
        following = cuda.local.array(all_words, types.int32)
        c = cuda.local.array(n_sums, types.float32)
        s = cuda.local.array(n_sums, types.float32)
        outputs = cuda.local.array(all_sums, types.float32)
        left = cuda.local.array(part_words, types.int32)
        ones = cuda.local.array(words, types.int32)
        sums = cuda.local.array(sums_of_all, types.float32)
        begins = cuda.local.array(2, types.int64)
        share = cuda.local.array(2, types.float32)
        factor = cuda.local.array(2, types.float32)
        total = cuda.local.array(1, types.float32)
        for q in range(sums_of_all):
            sums[q] = _ZERO
        for p in range(words):
            ones[p] = one
        total[0] = _ZERO
        lane, warp = mma.lane_id(), cuda.threadIdx.x >> 5
        column = 2 * (lane & 3)
        xs = n_layers * (size + width)
        ys, mine = xs + n_layers * slot, warp * warp_rows + keep_place(lane)
        biases, last = n_layers * size + column, (n_layers - 1) * COLUMNS
        n_in, n_final = table[N_IN], table[last + N_OUT]
        cuda.syncthreads()
        for begin in range(16 * warps * cuda.blockIdx.x, count, 16 * warps * cuda.gridDim.x):
            for r in range(2):
                k = begin + 16 * warp + 8 * r + (lane >> 2)
                begins[r], w = -1, _ZERO
                if k < count:
                    begins[r] = load(order, first + k) if order.size > 0 else first + k
                    w = load(weights, begins[r]) if weights.size > 0 else _ONE
                share[r] = w if rowwise else w / np.float32(n_final)
                factor[r] = scale * loss_scale * share[r]
            low, high = begins[0], begins[1]
            low, high = low * n_in if low >= 0 else -1, high * n_in if high >= 0 else -1
            whole = pairs != 0 and n_in == width and low >= 0 and high >= 0
            read(x, low, high, column, n_in, pairs, whole, c, a, shared, xs + mine)
            for r in range(2):
                begins[r] = begins[r] * (n_final if labels == 0 else 1) if begins[r] >= 0 else -1
            for layer in range(n_layers):
                at, into = layer * COLUMNS, ys + layer * slot + mine
                chunks_forward(
                    floats, shared, forward_place(lane) + layer * size, biases + layer * width, table[at + N_OUT],
                    table[at + ACTIVATION], at == last, column, into, xs + (layer + 1) * slot + mine, y, begins, share,
                    factor, p0, p1, p2, p3, total, a, following, c, s, left, outputs,
                )  # fmt: skip
                if at == last and rowwise:
                    gradients(outputs, y, begins, share, factor, column, table[at + N_OUT], labels, p0, total)
                    put_outputs(outputs, following, shared, into)
                for p in range(all_words):
                    a[p] = following[p]
            layer = n_layers - 1
            while layer > 0:
                n, code = table[layer * COLUMNS + N_IN], table[(layer - 1) * COLUMNS + ACTIVATION]
                into = ys + (layer - 1) * slot + mine
                slopes = xs + layer * slot + mine if code == RELU else into
                place = backward_place(lane) + layer * size
                chunks_backward(shared, place, n, code, column, slopes, into, a, following, c, s)
                for p in range(all_words):
                    a[p] = following[p]
                layer -= 1
            cuda.syncthreads()
            learn(pieces, shared, xs, ys, lane, warp, left, ones, sums)
            cuda.syncthreads()
        write(table, pieces, partials, cuda.blockIdx.x * n_parameters, _ONE / loss_scale, lane, warp, sums)
        floats[cuda.threadIdx.x] = total[0]
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            loss_here = _ZERO
            for k in range(32 * warps):
                loss_here += floats[k]
            losses[cuda.blockIdx.x] = scale * loss_here

    return kernel(shape.threads)(train)
