"""Wide layers: a launch for each thing that happens to a row of the plan, its tiles shared by all blocks.

Networks that are not narrow, and batch normalisation over batches that one block would walk for long, are computed so;
the functions of `fastnn.cuda.walk` are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn.activations import ActivationFunction
from fastnn.cuda import table as head
from fastnn.cuda._jit import cuda, device, kernel
from fastnn.cuda.elements import make_elements
from fastnn.cuda.intrinsics import load, store
from fastnn.cuda.kernels import LEARNS, MORE, SCALED, TRAINING, make_copy_out, make_gather, targets_of
from fastnn.cuda.loss import make_loss
from fastnn.cuda.product import AnyShape, shared_kind
from fastnn.cuda.rowwise import COLUMNS, LANES
from fastnn.cuda.update import make_update
from fastnn.cuda.walk import Frame, make_walk
from fastnn.losses._base import Formula, RowLoops

# What a launch does: the first four predict.
GATHER, FORWARD, ACTIVATE, COPY_OUT, LOSS, SLOPE, BACKWARD, LEARN = range(8)


@cache
def layer_kernel(
    T: Any, shape: AnyShape, activations: tuple[ActivationFunction, ...], source: Formula | RowLoops | None
) -> Any:
    """One operation on all samples of a piece: those that predict or, with the ``source`` of a loss, the others.

    ``(table, reals, state, work, x, y, weights, order, out, schedule, s, columns, flags, start, first, rows, key,
    does, q, splits)``: the piece begins at sample ``first`` of the batch that begins at place ``start`` of the order.
    ``does`` is one of this module's operations and ``q`` the row that it is done to. In COPY_OUT, ``q`` is the place of
    the values and ``splits`` their number; in LEARN, blocks share the samples among ``splits`` gradients.
    """
    threads, kind = shape.threads, shared_kind(T)
    work_on = _predicting(T, shape, activations) if source is None else _training(T, shape, activations, source)

    @kernel(threads)
    def layer(
        table, reals, state, work, x, y, weights, order, out, schedule, s, columns, flags, start, first, rows, key,
        does, q, splits,
    ):  # fmt: skip
        if (flags & TRAINING) != 0 and load(work, load(table, head.STOPPED)) != T(0):
            return
        shared = cuda.shared.array(0, kind)
        t, block, blocks = np.int64(cuda.threadIdx.x), np.int64(cuda.blockIdx.x), np.int64(cuda.gridDim.x)
        part, parts = (block // splits, blocks // splits) if does == LEARN else (block, blocks)
        f = Frame(
            table, load(table, head.N_ROWS), reals, state, np.int64(0), load(table, head.N_THETA), work,
            load(table, head.GRADIENT), load(table, head.STATISTICS), work, load(table, head.SPACE),
            load(table, head.LD), rows, shared, t, part, parts,
        )  # fmt: skip
        targets = targets_of(flags, y, columns, weights, order)
        work_on(f, does, q, splits, x, targets, out, schedule, s, flags, start, first, key, block)

    return layer


def _predicting(T, shape, activations):
    forward, activate, *_ = make_walk(T, shape, make_elements(T, activations))
    gather, copy_out = make_gather(shape.threads), make_copy_out(shape.threads)
    inverse_scale = make_update(T, shape, None).inverse_scale

    @device
    def predict(f, does, q, splits, x, targets, out, schedule, s, flags, start, first, key, block):
        if does == GATHER:
            gather(f, x, targets, start + first)
        elif does == FORWARD:
            forward(f, q, (flags & TRAINING) != 0, key, first)
        elif does == ACTIVATE:
            activate(f, q)
        else:
            inverse = inverse_scale(f.table, f.work, schedule, s, (flags & SCALED) != 0)
            copy_out(f, q, splits, out, first, inverse)

    return predict


def _training(T, shape, activations, source):
    _, _, slope, backward, learn = make_walk(T, shape, make_elements(T, activations))
    loss_of, update = make_loss(T, shape, source), make_update(T, shape, None)
    block_sum, penalty, scale_of = update.block_sum, update.penalty, update.scale_of
    gradient_scale, threads = update.gradient_scale, shape.threads

    @device
    def train(f, does, q, splits, x, targets, out, schedule, s, flags, start, first, key, block):
        more = (flags & MORE) != 0
        if does == LOSS:
            scale = gradient_scale(f.table, f.work, schedule, s, (flags & SCALED) != 0)
            total = scale_of(schedule, s) * loss_of(f, q, targets, start + first, load(f.table, head.LOSS), scale)
            if (flags & LEARNS) != 0 and not more:
                total += penalty(f.table, f.reals, f.state, f.theta, block * threads + f.t, f.parts * threads)
            total = block_sum(f.shared, f.t, total)
            if f.t == 0:
                at = load(f.table, head.PARTIAL_LOSSES) + block
                store(f.work, at, total + load(f.work, at) if more else total)
        elif does == SLOPE:
            slope(f, q)
        elif does == BACKWARD:
            backward(f, q, (flags & TRAINING) != 0)
        else:
            split = block % splits
            begin, end = f.rows * split // splits, f.rows * (split + 1) // splits
            for r in range(f.n_rows):
                learn(f, head.HEADER + r * row.WIDTH, begin, end, f.gradient + split * f.n_theta, more)

    return train


class Launch(NamedTuple):
    """One launch for a piece of a batch: what it does to which row, and the number of its blocks."""

    does: int
    q: int
    blocks: int
    splits: int = 1


class Layers:
    """Which launches take a piece through a network, and how wide they are.

    Parameters
    ----------
    numbers : ndarray of int64
        The table.
    shape : Shape
    most : int
        Blocks that fill the device.
    """

    def __init__(self, numbers: np.ndarray, shape: AnyShape, most: int):
        # Python's integers: the driver takes no others as numbers of blocks.
        self._n_inputs, self._shape, self._most = int(numbers[head.N_IN]), shape, most
        self._rows = [*enumerate(numbers[head.HEADER :].reshape(-1, row.WIDTH).tolist())]

    def _blocks(self, items: int, each: int) -> int:
        return max(1, min(-(-items // each), 4 * self._most))

    def _spread(self, q: list[int], n_samples: int, n: int) -> int:
        """Blocks for a row's work on ``n`` columns."""
        if q[row.KIND] == row.DENSE:
            return -(-n_samples // self._shape.rows) * -(-n // self._shape.columns)
        if q[row.KIND] == row.LAYER_NORM:
            return self._blocks(n_samples, self._shape.threads // LANES)
        if q[row.KIND] == row.BATCH_NORM:
            return self._blocks(n, COLUMNS)
        return self._elements(n_samples * n)

    def _elements(self, count: int) -> int:
        return self._blocks(count, 4 * self._shape.threads)

    def losses(self, n_samples: int) -> int:
        """Blocks, and partial losses, of the loss of so many samples."""
        return min(self._blocks(n_samples, self._shape.threads // LANES), self._most)

    def splits(self, n_samples: int) -> int:
        """Gradients that are summed side by side so that weights of few tiles fill the device."""
        tiles = max((self._tiles(q) for _, q in self._rows), default=1)
        return max(1, min(self._most // tiles, n_samples // self._shape.rows))

    def _tiles(self, q: list[int]) -> int:
        dense = q[row.KIND] == row.DENSE
        return -(-q[row.N_IN] // self._shape.rows) * -(-q[row.N_OUT] // self._shape.columns) if dense else 1

    def forward(self, n_samples: int) -> Iterator[Launch]:
        """From the inputs to the outputs."""
        yield Launch(GATHER, 0, self._elements(n_samples * self._n_inputs))
        for r, q in self._rows:
            at = head.HEADER + r * row.WIDTH
            passes_on = q[row.KIND] in (row.SPLIT, row.DROPOUT, row.ACTIVATION) and q[row.IN] == q[row.OUT]
            if not passes_on or q[row.ACT] == row.ELEMENTWISE:
                yield Launch(FORWARD, at, self._spread(q, n_samples, q[row.N_OUT]))
            if q[row.ACT] == row.ROWWISE:
                yield Launch(ACTIVATE, at, self._blocks(n_samples, self._shape.threads // LANES))

    def copy_out(self, n_samples: int, place: int, n: int) -> Launch:
        """Values to the caller's array."""
        return Launch(COPY_OUT, place, self._elements(n_samples * n), n)

    def backward(self, n_samples: int) -> Iterator[Launch]:
        """From dLoss/d outputs to dLoss/d inputs."""
        for r, q in reversed(self._rows):
            at = head.HEADER + r * row.WIDTH
            if q[row.ACT] == row.ROWWISE:
                yield Launch(SLOPE, at, self._blocks(n_samples, self._shape.threads // LANES))
            elif q[row.ACT] != row.IDENTITY and not q[row.SLOPE_DONE]:
                yield Launch(SLOPE, at, self._elements(n_samples * q[row.N_OUT]))
            if q[row.D_IN] >= 0:
                yield Launch(BACKWARD, at, self._spread(q, n_samples, q[row.N_IN]))

    def learn(self, splits: int) -> Launch:
        """Gradients of all parameters."""
        tiles = max((self._tiles(q) for _, q in self._rows), default=1)
        return Launch(LEARN, 0, min(max(tiles, 8), 4 * self._most) * splits, splits)
