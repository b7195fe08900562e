"""Narrow networks, a launch for each pass: `fused`, `fused_float32`, `fused_training` behind the engine's arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn import _rows as row
from fastnn._objective import Objective
from fastnn.cuda import fused, fused_float32, fused_training, streams
from fastnn.cuda._jit import SIMULATED, allow_shared, most_shared, types
from fastnn.losses._base import Formula
from fastnn.plan import Plan

_INTEGERS, _REALS, _INTEGER, _REAL = types.int64[::1], types.float32[::1], types.int64, types.float32


def _in_groups(size: int, array: Any, columns: int) -> bool:
    """Whether rows of a flat array of float32 are groups of so many, and begin on as many times 4 bytes."""
    address = 0 if SIMULATED else array.device_ctypes_pointer.value
    return columns % size == 0 and address % (4 * size) == 0


class Forward:
    """The forward pass of a network whose layers are dense and narrow, on tensor cores.

    Parameters
    ----------
    description : Description
    precision : str
    multiprocessors : int
    """

    def __init__(self, description: fused.Description, precision: str, multiprocessors: int):
        self._description, self._multiprocessors = description, multiprocessors
        self._shape = fused.shape_for(description.width, precision)
        if SIMULATED:  # where a thread is dear
            self._shape = self._shape._replace(warps=1)
        self._bytes = fused.shared_bytes(self._shape, description.n_layers)
        self._run = fused.forward_kernel(self._shape, description.activations)
        allow_shared(self._run, (_INTEGERS, _INTEGER, _REALS, _REALS, _INTEGER, _REALS, _INTEGER), self._bytes)
        self._table = streams.to_device(description.table)

    def run(self, state: Any, x: Any, out: Any, n: int) -> None:
        """Write the outputs of ``n`` rows; ``x`` and ``out`` are flat."""
        layers = self._description.table.reshape(-1, fused.COLUMNS)
        pairs = _in_groups(2, x, layers[0, fused.N_IN]) * fused.X_IN_PAIRS
        pairs |= _in_groups(2, out, layers[-1, fused.N_OUT]) * fused.OUT_IN_PAIRS
        blocks = fused.blocks_for(self._shape, n, self._multiprocessors)
        self._run[blocks, self._shape.threads, streams.current(), self._bytes](
            self._table, np.int64(self._description.n_layers), state, x, np.int64(n), out, np.int64(pairs)
        )


class Float32Forward:
    """The forward pass of a network whose layers are dense and narrow, in float32.

    Parameters
    ----------
    description : Description
    table : ndarray
    weights : int
        As `fused_float32.table_of` gives them.
    warps : int
        Of a block.
    multiprocessors : int
    """

    def __init__(
        self, description: fused.Description, table: np.ndarray, weights: int, warps: int, multiprocessors: int
    ):
        layers = description.table.reshape(-1, fused.COLUMNS)
        self._n_in, self._n_out, self._n_layers = int(layers[0, fused.N_IN]), int(layers[-1, fused.N_OUT]), len(layers)
        self._weights, self._warps, self._multiprocessors = weights, warps, multiprocessors
        self._bytes = fused_float32.shared_bytes(weights, warps)
        self._run = fused_float32.forward_kernel(description.activations)
        arguments = _INTEGERS, _INTEGER, _INTEGER, _REALS, _REALS, _INTEGER, _REALS, _INTEGER
        allow_shared(self._run, arguments, self._bytes)
        self._table = streams.to_device(table)

    def run(self, state: Any, x: Any, out: Any, n: int) -> None:
        """Write the outputs of ``n`` rows; ``x`` and ``out`` are flat."""
        vectors = _in_groups(4, x, self._n_in) * fused_float32.X_IN_VECTORS
        vectors |= _in_groups(4, out, self._n_out) * fused_float32.OUT_IN_VECTORS
        blocks = min(self._multiprocessors, -(-n // fused_float32.ROWS))
        self._run[blocks, 32 * self._warps, streams.current(), self._bytes](
            self._table, np.int64(self._n_layers), np.int64(self._weights), state, x, np.int64(n), out,
            np.int64(vectors),
        )  # fmt: skip


def forward(
    plan: Plan, dtype: np.dtype[Any], precision: str | None, multiprocessors: int
) -> Forward | Float32Forward | None:
    """What takes a network forwards; None for networks that are not narrow, dense and of float32."""
    description = fused.describe(plan)
    if description is None or dtype != np.float32:
        return None
    if precision is None:
        if description.width > fused_float32.WIDTH:
            return None
        table, weights = fused_float32.table_of(description)
        warps = fused_float32.warps_for(weights, most_shared())
        return Float32Forward(description, table, weights, warps, multiprocessors) if warps else None
    if not fused.eligible(plan, precision):
        return None
    shape = fused.shape_for(description.width, precision)
    if fused.shared_bytes(shape, description.n_layers) > most_shared():
        return None
    return Forward(description, precision, multiprocessors)


class Backward:
    """Loss and gradients of a batch for a network whose layers are dense and narrow.

    Parameters
    ----------
    plan : Plan
    description : Description
    shape : TrainingShape
    objective : Objective
    batch : int
        Most samples of a batch.
    multiprocessors : int

    Attributes
    ----------
    parts : int
        Gradients, and losses, that a batch leaves to be added up: a block's each.
    """

    def __init__(
        self,
        plan: Plan,
        description: fused.Description,
        shape: fused_training.TrainingShape,
        objective: Objective,
        batch: int,
        multiprocessors: int,
    ):
        self._description, self._shape, self._objective = description, shape, objective
        self._n_parameters = np.int64(plan.n_parameters)
        self.parts = max(1, min(multiprocessors, -(-batch // (16 * shape.warps))))
        self._bytes = fused_training.shared_bytes(shape, description.n_layers)
        source = objective.resolved.source
        loss = source if isinstance(source, Formula) else None
        self._run = fused_training.training_kernel(shape, description.activations, loss)
        arguments = (
            _INTEGERS, _INTEGER, _INTEGERS, _REALS, _REALS, _REALS, _REALS, _INTEGERS, *(_INTEGER,) * 4, _REAL, _REAL,
            _REALS, *(_REAL,) * 4, _INTEGER, _REALS, _REALS,
        )  # fmt: skip
        allow_shared(self._run, arguments, self._bytes)
        self._table = streams.to_device(description.table)
        self._pieces = streams.to_device(fused_training.parts_for(description, shape))
        self._no_weights, self._no_order = streams.empty((0,), np.float32), streams.empty((0,), np.int64)

    def run(
        self,
        state: Any,
        x: Any,
        y: Any,
        order: Any,
        ordered: bool,
        start: int,
        count: int,
        scale: float,
        loss_scale: float,
        factors: Any,
        gradients: Any,
        losses: Any,
    ) -> int:
        """Passes over the samples from place ``start`` of the order; returns the number of parts written.

        ``loss_scale * factors[0]`` times what they are are gradients on their way back.
        """
        objective, real = self._objective, np.float32
        blocks = min(self.parts, -(-count // (16 * self._shape.warps)))
        weights = objective.weights if objective.weights.size else self._no_weights
        self._run[blocks, self._shape.threads, streams.current(), self._bytes](
            self._table, np.int64(self._description.n_layers), self._pieces, state, x, y, weights,
            order if ordered else self._no_order, np.int64(start), np.int64(count),
            np.int64(_in_groups(2, x, objective.x.shape[1])), np.int64(objective.labels), real(scale),
            real(loss_scale), factors, *(real(number) for number in objective.resolved.parameter_values),
            self._n_parameters, gradients, losses,
        )  # fmt: skip
        return blocks


def backward(
    plan: Plan, precision: str | None, objective: Objective, batch: int, multiprocessors: int
) -> Backward | None:
    """A `Backward` for networks and losses that it takes; None for others."""
    resolved = objective.resolved
    formula = isinstance(resolved.source, Formula)
    if precision is None or not (formula or resolved.kind == "cross_entropy"):
        return None
    if (plan.table[:, row.PENALTY] >= 0).any():
        return None
    description = fused_training.describe_training(plan, resolved.from_pre_activation)
    if (
        description is not None
        and not formula
        and description.table[-fused.COLUMNS :][fused.ACTIVATION] != fused.IDENTITY
    ):
        return None  # outputs of something else than a linear layer, taken as logits
    shape = description and fused_training.shape_for(description, precision, rowwise=not formula)
    if description is None or shape is None:
        return None
    if SIMULATED:
        shape = shape._replace(warps=1, parts=shape.warps * shape.parts)
    if fused_training.shared_bytes(shape, description.n_layers) > most_shared():
        return None
    return Backward(plan, description, shape, objective, batch, multiprocessors)
