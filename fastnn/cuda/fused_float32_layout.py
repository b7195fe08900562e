"""How a block takes a narrow network in float32: what it holds in shared memory, and which warp owns what."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn.cuda import fused
from fastnn.cuda._jit import SIMULATED
from fastnn.cuda.fused import N_IN, N_OUT, Description
from fastnn.cuda.fused_float32 import COLUMNS, table_of

#: A part of the gradients of weights: its layer (-1: none), its first row, and which share of the samples it sums.
LAYER, ROW, SHARE, PART = range(4)
# Rows of a part; it has all columns.
_PART_ROWS = 32
_WIDTHS = (32, 64)
# Blocks of so many warps are tried: a multiprocessor's registers allow 255 for each thread of 8.
_WARPS = (8, 6, 4)


class NarrowShape(NamedTuple):
    """What a kernel is compiled for."""

    width: int
    warps: int
    parts: int  # of the gradients of weights, that a warp owns
    rows: int  # that a warp takes forwards and backwards, 4 or 8

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def shared(self) -> int:
        """Elements of shared memory beside the network's: a number for each thread."""
        return self.threads

    @property
    def lane_rows(self) -> int:
        """Rows of a lane, where it computes 4 columns of a layer as wide as any."""
        return self.rows * self.width // 128

    @property
    def line(self) -> int:
        """From row to row in shared memory: on whole vectors, and in different banks."""
        return self.width + 4


class Layout(NamedTuple):
    """A network as a block takes it."""

    shape: NarrowShape
    # int64: layers as of `fused_float32.table_of`; a row of the plan for the loss; who owns which part, a row of `PART`
    # for each of a warp's parts, warp after warp.
    table: np.ndarray
    n_layers: int
    weights: int  # numbers that weights and biases take in shared memory
    shares: int  # gradients that a block leaves: of shares of its samples

    @property
    def size(self) -> int:
        """Numbers in shared memory: the weights, X and dY of each layer, sums for biases."""
        shape = self.shape
        return self.weights + self.n_layers * (2 * shape.rows * shape.warps * shape.line + shape.width)


def layout_for(description: Description, rows: int, most: int, per_share: int = 0) -> Layout | None:
    """The layout with most warps that takes at most so many numbers of shared memory; None if there is none.

    ``rows`` of a warp; ``per_share``: numbers that each share of the samples needs more.
    """
    width = next((each for each in _WIDTHS if each >= description.width), 0)
    for warps in _WARPS:
        if width and len(_parts(description)) <= warps:
            found = lay_out(description, NarrowShape(width, warps, 1, rows))
            if found.shape.shared + found.size + found.shares * per_share <= most:
                # In the simulator threads are dear.
                return lay_out(description, NarrowShape(width, 1, warps, rows)) if SIMULATED else found
    return None


def _parts(description: Description) -> list[tuple[int, int]]:
    """The layer and the first row of each part."""
    layers = description.table.reshape(-1, fused.COLUMNS)[:, N_IN].tolist()
    return [(layer, i) for layer, n_in in enumerate(layers) for i in range(0, n_in, _PART_ROWS)]


def lay_out(description: Description, shape: NarrowShape) -> Layout:
    """A network for blocks of this shape, whose warps own parts enough."""
    layers, weights = table_of(description, shape.line)
    for_loss = np.zeros(row.WIDTH, np.int64)
    for_loss[row.N_OUT] = layers.reshape(-1, COLUMNS)[-1, N_OUT]
    parts, warps = _parts(description), shape.warps
    shares = warps * shape.parts // len(parts)
    owned = np.full((warps * shape.parts, PART), -1, np.int64)
    for k, (share, part) in enumerate((share, part) for share in range(shares) for part in parts):
        owned[k % warps * shape.parts + k // warps] = *part, share
    table = np.concatenate([layers, for_loss, owned.reshape(-1)])
    return Layout(shape, table, description.n_layers, weights, shares)
