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
_WIDTHS = (32, 64)
# Blocks of so many warps are tried: a multiprocessor's registers allow 255 for each thread of 8.
_WARPS = (8, 6, 4)


class NarrowShape(NamedTuple):
    """What a kernel is compiled for."""

    width: int
    warps: int
    parts: int  # of the gradients of weights, that a warp owns
    part_rows: int  # of each, 16 or 32; it has all columns
    rows: int  # that a warp takes forwards and backwards, 4 or 8

    @property
    def threads(self) -> int:
        return 32 * self.warps

    @property
    def shared(self) -> int:
        """Elements of shared memory beside the network's: a number for each thread."""
        return self.threads

    @property
    def part_sums(self) -> int:
        """Of a part, in each lane."""
        return self.part_rows * self.width // 32

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


def layout_for(
    description: Description, rows: int, most: int, alone_with: int = 0, per_share: int = 0
) -> Layout | None:
    """The layout with most warps that takes at most so many numbers of shared memory; None if there is none.

    ``rows`` of a warp; ``alone_with``: samples of a batch that one block takes alone, whose warps then own smaller
    parts, so that they have equal shares of the work; ``per_share``: numbers that each share of the samples needs more.
    """
    width = next((each for each in _WIDTHS if each >= description.width), 0)
    parts, part_rows = (2, 16) if alone_with else (1, 32)
    for warps in _WARPS:
        n_parts = len(_parts(description, part_rows))
        if width and n_parts <= warps * parts:
            # Each share should have some samples, and be worth adding up.
            shares = min(warps // n_parts, alone_with // 8) if alone_with else warps // n_parts
            shape = NarrowShape(width, warps, -(-n_parts // warps), part_rows, rows)
            found = lay_out(description, shape, max(shares, 1))
            if found.shape.shared + found.size + found.shares * per_share <= most:
                if SIMULATED:  # where threads are dear
                    shape = shape._replace(warps=1, parts=warps * shape.parts)
                return lay_out(description, shape, found.shares)
    return None


def _parts(description: Description, part_rows: int) -> list[tuple[int, int]]:
    """The layer and the first row of each part."""
    layers = description.table.reshape(-1, fused.COLUMNS)[:, N_IN].tolist()
    return [(layer, i) for layer, n_in in enumerate(layers) for i in range(0, n_in, part_rows)]


def lay_out(description: Description, shape: NarrowShape, shares: int) -> Layout:
    """A network for blocks of this shape, whose warps own parts enough for so many shares."""
    layers, weights = table_of(description, shape.line)
    for_loss = np.zeros(row.WIDTH, np.int64)
    for_loss[row.N_OUT] = layers.reshape(-1, COLUMNS)[-1, N_OUT]
    parts, warps = _parts(description, shape.part_rows), shape.warps
    owned = np.full((warps * shape.parts, PART), -1, np.int64)
    for k, (share, part) in enumerate((share, part) for share in range(shares) for part in parts):
        owned[k % warps * shape.parts + k // warps] = *part, share
    table = np.concatenate([layers, for_loss, owned.reshape(-1)])
    return Layout(shape, table, description.n_layers, weights, shares)
