"""Narrow networks, a launch for each pass: the kernels of `fused` and `fused_float32` behind the engine's arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn._objective import Objective
from fastnn.activations import ActivationFunction
from fastnn.cuda import fused, fused_float32, fused_training, kernels, streams, table
from fastnn.cuda._jit import SIMULATED, allow_shared, most_shared
from fastnn.cuda.fused_float32_layout import Layout, layout_for
from fastnn.losses._base import Formula

if TYPE_CHECKING:
    from fastnn.cuda.passes import Batch, Device, Passes

_DTYPE = np.dtype(np.float32)


def _in_groups(size: int, array: Any, columns: int) -> bool:
    """Whether rows of a flat array of float32 are groups of so many, and begin on as many times 4 bytes."""
    address = 0 if SIMULATED else array.device_ctypes_pointer.value
    return columns % size == 0 and address % (4 * size) == 0


class Forward:
    """The forward pass of a network whose layers are dense and narrow, on tensor cores.

    Parameters
    ----------
    device : Device
    description : Description
    """

    def __init__(self, device: Device, description: fused.Description):
        assert device.precision is not None
        self._description, self._multiprocessors = description, device.multiprocessors
        self._shape = fused.shape_for(description.width, device.precision)
        if SIMULATED:  # where a thread is dear
            self._shape = self._shape._replace(warps=1)
        self._bytes = fused.shared_bytes(self._shape, description.n_layers)
        self._run = fused.forward_kernel(self._shape, description.activations)
        allow_shared(self._run, "inaanan", _DTYPE, self._bytes)
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
    device : Device
    description : Description
    layers : ndarray
    weights : int
        As `fused_float32.table_of` gives them.
    warps : int
        Of a block.
    """

    def __init__(self, device: Device, description: fused.Description, layers: np.ndarray, weights: int, warps: int):
        self._n_in, self._n_out = description.table[fused.N_IN], description.table[-fused.COLUMNS :][fused.N_OUT]
        self._n_layers = description.n_layers
        self._weights, self._warps, self._multiprocessors = weights, warps, device.multiprocessors
        self._bytes = fused_float32.shared_bytes(weights, warps)
        self._run = fused_float32.forward_kernel(description.activations)
        allow_shared(self._run, "innaanan", _DTYPE, self._bytes)
        self._table = streams.to_device(layers)

    def run(self, state: Any, x: Any, out: Any, n: int) -> None:
        """Write the outputs of ``n`` rows; ``x`` and ``out`` are flat."""
        vectors = _in_groups(4, x, self._n_in) * fused_float32.X_IN_VECTORS
        vectors |= _in_groups(4, out, self._n_out) * fused_float32.OUT_IN_VECTORS
        blocks = min(self._multiprocessors, -(-n // fused_float32.ROWS))
        self._run[blocks, 32 * self._warps, streams.current(), self._bytes](
            self._table, np.int64(self._n_layers), np.int64(self._weights), state, x, np.int64(n), out,
            np.int64(vectors),
        )  # fmt: skip


def forward(device: Device) -> Forward | Float32Forward | None:
    """What takes a network forwards; None for networks that are not narrow, dense and of float32."""
    plan, precision = device.plan, device.precision
    description = fused.describe(plan)
    if description is None or device.dtype != np.float32:
        return None
    if precision is None:
        if description.width > fused_float32.WIDTH:
            return None
        layers, weights = fused_float32.table_of(description)
        warps = fused_float32.warps_for(weights, most_shared())
        return Float32Forward(device, description, layers, weights, warps) if warps else None
    if not fused.eligible(plan, precision):
        return None
    shape = fused.shape_for(description.width, precision)
    if fused.shared_bytes(shape, description.n_layers) > most_shared():
        return None
    return Forward(device, description)


class Backward:
    """Loss and gradients of a batch for a network whose layers are dense and narrow, on tensor cores.

    A way of `fastnn.cuda.passes`, for training steps alone; each block leaves a gradient and a loss.

    Parameters
    ----------
    device : Device
    description : Description
    shape : TrainingShape
    objective : Objective
    batch : int
        Most samples of a batch.
    """

    unscaled, space = True, 0

    def __init__(
        self,
        device: Device,
        description: fused.Description,
        shape: fused_training.TrainingShape,
        objective: Objective,
        batch: int,
    ):
        self._description, self._shape, self._resolved = description, shape, objective.resolved
        self._n_parameters, self.piece = np.int64(device.plan.n_parameters), batch
        self.parts = self.losses = max(1, min(device.multiprocessors, -(-batch // (16 * shape.warps))))
        self._bytes = fused_training.shared_bytes(shape, description.n_layers)
        source = objective.resolved.source
        loss = source if isinstance(source, Formula) else None
        self._run = fused_training.training_kernel(shape, description.activations, loss)
        allow_shared(self._run, "iniaaaainnnnxxaxxxxnaa", _DTYPE, self._bytes)
        self._table = streams.to_device(description.table)
        self._pieces = streams.to_device(fused_training.parts_for(description, shape))
        self._no_weights, self._no_order = streams.empty((0,), np.float32), streams.empty((0,), np.int64)

    def derive(self, passes: Passes, batch: Batch) -> tuple[int, int]:
        """One launch; returns how many gradients and losses it leaves."""
        real = np.float32
        blocks = min(self.parts, -(-batch.size // (16 * self._shape.warps)))
        self._run[blocks, self._shape.threads, streams.current(), self._bytes](
            self._table, np.int64(self._description.n_layers), self._pieces, batch.state, passes.x, passes.y,
            passes.weights if passes.weighted else self._no_weights,
            batch.order if batch.flags & kernels.ORDERED else self._no_order, np.int64(batch.start),
            np.int64(batch.size), np.int64(_in_groups(2, passes.x, self._description.table[fused.N_IN])),
            np.int64(bool(batch.flags & kernels.LABELS)), real(_inverse(batch.weight)),
            real(batch.weight if passes.scaled else 1), passes.part(table.SCALE),
            *(real(number) for number in self._resolved.parameter_values), self._n_parameters,
            passes.part(table.GRADIENT), passes.part(table.PARTIAL_LOSSES),
        )  # fmt: skip
        return blocks, blocks


class Float32Backward:
    """Loss and gradients of a batch for a network whose layers are dense and narrow, in float32; see `Backward`.

    A block leaves as many gradients as the layout says.
    """

    unscaled, space = False, 0

    def __init__(self, device: Device, found: Laid, objective: Objective, batch: int):
        self._layout, shape, self._n_in = found.layout, found.layout.shape, device.plan.n_inputs
        self._rows, self.piece, self._n_parameters = shape.rows * shape.warps, batch, np.int64(device.plan.n_parameters)
        self.losses = max(1, min(device.multiprocessors, -(-batch // self._rows)))
        self.parts = self.losses * self._layout.shares
        self._run = kernels.narrow_kernel(shape, found.activations, objective.resolved.source)
        self._bytes = 4 * (shape.shared + self._layout.size)
        allow_shared(self._run, "innnaaaainnnnnxanaa", _DTYPE, self._bytes)
        self._table = streams.to_device(self._layout.table)
        self._reals = streams.to_device(np.array(objective.resolved.parameter_values, np.float32))

    def derive(self, passes: Passes, batch: Batch) -> tuple[int, int]:
        """One launch; returns how many gradients and losses it leaves."""
        layout = self._layout
        blocks = min(self.losses, -(-batch.size // self._rows))
        self._run[blocks, layout.shape.threads, streams.current(), self._bytes](
            self._table, *map(np.int64, (layout.n_layers, layout.weights, layout.shares)), batch.state, passes.x,
            passes.y, passes.weights, batch.order, passes.columns, np.int64(batch.flags),
            np.int64(_in_groups(4, passes.x, self._n_in)), np.int64(batch.start), np.int64(batch.size),
            np.float32(_inverse(batch.weight)), self._reals, self._n_parameters, passes.part(table.GRADIENT),
            passes.part(table.PARTIAL_LOSSES),
        )  # fmt: skip
        return blocks * layout.shares, blocks


class Laid(NamedTuple):
    """A network as a block takes it in float32."""

    layout: Layout
    activations: tuple[ActivationFunction, ...]


def lay_out(
    device: Device, objective: Objective, batch: int, alone: bool = False, taken: int = 0, per_share: int = 0
) -> Laid | None:
    """How a block takes batches of so many samples in float32; None for networks that it does not take.

    ``alone``: it takes them with no others beside it; ``taken``: numbers of its shared memory that are in use;
    ``per_share``: that each share of the samples needs more.
    """
    if device.dtype != np.float32 or device.precision is not None:
        return None
    description = fused_training.describe_training(device.plan, objective.resolved.from_pre_activation)
    if description is None or not _is_linear(description):
        return None
    for rows in (8, 4) if batch > 32 else (4,):
        layout = layout_for(description, rows, most_shared() // 4 - taken, batch * alone, per_share)
        if layout is not None:
            return Laid(layout, description.activations)
    return None


def _is_linear(description: fused.Description) -> bool:
    """Whether the last layer has no activation."""
    return bool(description.table[-fused.COLUMNS :][fused.ACTIVATION] == fused.IDENTITY)


def _inverse(weight: float) -> float:
    """The scale of a mean over samples of this total weight."""
    return 1 / weight if weight else 0.0


def backward(device: Device, objective: Objective, batch: int) -> Backward | Float32Backward | None:
    """What takes a network forwards and backwards; None for networks and losses that need a general way."""
    plan, precision, resolved = device.plan, device.precision, objective.resolved
    if (plan.table[:, row.PENALTY] >= 0).any():
        return None
    if precision is None:
        found = lay_out(device, objective, batch)
        return found and Float32Backward(device, found, objective, batch)
    formula = isinstance(resolved.source, Formula)
    description = fused_training.describe_training(plan, resolved.from_pre_activation)
    if description is None or not (formula or (resolved.kind == "cross_entropy" and _is_linear(description))):
        return None  # cross-entropy takes outputs of a linear layer, logits
    shape = fused_training.shape_for(description, precision, not formula, most_shared())
    if shape is None:
        return None
    if SIMULATED:  # where a thread is dear
        shape = shape._replace(warps=1, parts=shape.warps * shape.parts)
    return Backward(device, description, shape, objective, batch)
