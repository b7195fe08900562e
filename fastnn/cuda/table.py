"""The plan as the kernels read it: a header, then the plan's rows with places for the values of a sample.

All values of a sample, inputs included, lie in one row of memory. In inference they take the few places that
`fastnn.plan.sample_places` finds; for training everything that a backward pass needs keeps a place of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fastnn import _rows as row
from fastnn.cuda.elements import activations_of
from fastnn.plan import Plan, sample_places

# The header: numbers of the network, then where the parts of the workspace begin; it is as long as a row.
(
    N_ROWS,
    N_IN,
    N_OUT,
    N_THETA,
    LD,  # from one sample to the next
    X,  # place of the inputs
    OUT,  # place of the outputs
    DX,  # place of dLoss/d inputs
    LAST,  # offset of the last row in the table
    PIECE,  # samples that a block takes at once
    LOSS,  # where in the numbers the loss's parameters begin
    CLIPS,  # where in the numbers clip_value and clip_norm begin
    PENALIZED,  # whether any row has a penalty
    STOPPED,  # offsets in the workspace from here on: a flag, set where a loss is not finite
    SCALE,  # by what fp16 multiplies gradients on their way back, and how many steps that has gone well
    SLOTS,  # the optimizer's
    STATISTICS,  # of batch normalisations
    PARTIAL_LOSSES,  # a number for each block
    PARTIAL_SQUARES,  # a number for each block
    GRADIENT,  # (blocks, n_theta)
    SPACE,  # values of samples
    LAYERS,  # where in the table a narrow network's layers lie (`fastnn.cuda.fused_float32_layout`), how many, how many
    N_LAYERS,  # numbers their weights are in shared memory, and how many gradients a block leaves
    N_WEIGHTS,
    SHARES,
) = range(25)
HEADER = row.WIDTH
# Rows of values begin in different banks of shared memory, and on whole vectors.
_BANKS = 32


@dataclass(frozen=True)
class Table:
    """A plan for the kernels, on the host.

    Attributes
    ----------
    numbers : ndarray of int64
        Header and rows.
    ld : int
        Elements of a sample's values.
    """

    numbers: np.ndarray
    ld: int


def _header(plan: Plan, ld: int, x: int, out: int, dx: int) -> np.ndarray:
    header = np.zeros(HEADER, np.int64)
    header[[N_ROWS, N_IN, N_OUT, N_THETA]] = len(plan.table), plan.n_inputs, plan.n_outputs, plan.n_parameters
    header[[LD, X, OUT, DX, LAST]] = ld, x, out, dx, HEADER + (len(plan.table) - 1) * row.WIDTH
    header[PENALIZED] = (plan.table[:, row.PENALTY] >= 0).any()
    return header


def _coded(plan: Plan) -> np.ndarray:
    """The plan's rows with the codes of their activations, and the running statistics behind the parameters."""
    rows = plan.table.copy()
    codes = {activation: code for code, activation in enumerate(activations_of(plan))}
    for q, activation in zip(rows, plan.activations, strict=True):
        if activation is not None and q[row.ACT] == row.ELEMENTWISE:
            q[row.VALUE] = codes[activation]
        elif activation is not None and q[row.ACT] == row.ROWWISE:
            q[row.VALUE] = activation.name == "log_softmax"
    rows[:, row.RUNNING] += plan.n_parameters
    return rows


def inference(plan: Plan) -> Table:
    """For predictions: values lie where others are not needed any more, and nothing is kept."""
    places = sample_places(plan, 4)  # values begin on whole vectors
    rows = _coded(plan)
    rows[:, [row.IN, row.SKIP, row.OUT]] = places.rows
    rows[:, [row.SLOPE, row.D_IN, row.D_OUT]] = -1
    ld = -(-places.size // _BANKS) * _BANKS + _BANKS // 2
    header = _header(plan, ld, places.rows[0].input, places.rows[-1].output, -1)
    return Table(np.concatenate([header, rows.ravel()]), ld)


def training(plan: Plan, from_pre_activation: bool, want_dx: bool) -> Table:
    """For gradients: of the parameters, and with ``want_dx`` of the inputs."""
    rows = _coded(plan)
    x, dx = plan.space_width, -1
    ld = x + -(-plan.n_inputs // _BANKS) * _BANKS
    if want_dx:
        dx, ld = ld, ld + ld - x
    outside = rows[:, row.IN] < 0
    rows[outside, row.IN] = x
    rows[rows[:, row.D_IN] < 0, row.D_IN] = dx
    rows[outside & (rows[:, row.KIND] == row.SPLIT), row.OUT] = x
    rows[(rows[:, row.KIND] == row.ADD) & (rows[:, row.SKIP] < 0), row.SKIP] = x
    if not want_dx:
        rows[rows[:, row.NEEDS_D_IN] == 0, row.D_IN] = -1
    if from_pre_activation:
        rows[-1, [row.ACT, row.SLOPE]] = row.IDENTITY, -1
    return Table(np.concatenate([_header(plan, ld, x, rows[-1, row.OUT], dx), rows.ravel()]), ld)
