"""Passes over batches: which kernels take a network's samples forwards and backwards, and in what memory.

A way is a class, and `_choose` the place that chooses. It has ``derive(passes, batch)``, which takes a batch forwards
and, as its flags ask, backwards, and says what it needs for that:

- ``piece``: samples whose values are in memory at once;
- ``space``: numbers that their values take;
- ``parts``, ``losses``: gradients, and losses, that it leaves to be added up, at most;
- ``unscaled``: gradients are left without the scale of fp16.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn._objective import Objective
from fastnn.activations import ActivationFunction
from fastnn.cuda import kernels, layered, narrow, streams, table, update
from fastnn.cuda._jit import SIMULATED, allow_shared, cuda, current_gpu, most_shared
from fastnn.cuda.elements import activations_of
from fastnn.cuda.fused_float32_layout import NarrowShape
from fastnn.cuda.lone import LoneShape, lone_bytes, lone_shape
from fastnn.cuda.product import AnyShape, dynamic_bytes, small_shape, stream_shape
from fastnn.cuda.table import Table
from fastnn.cuda.update import WEIGHT, WIDTH
from fastnn.optimizers import Optimizer
from fastnn.plan import Plan

# Layers up to this width: a block takes samples through all of them.
NARROW = 8 if SIMULATED else 128
# Multiply-adds of a step's forward pass up to which one block takes the batch alone, in less time than launches cost.
ALONE = 2000 if SIMULATED else 1_500_000
_ALONE_ROWS = 1024
# Samples of a piece where all blocks share them: their values should stay in the second-level cache.
PIECE = 16 if SIMULATED else 8192
# Workspace of the blocks that take samples each, for networks so deep that it would be gigabytes.
_MOST_BYTES = 1 << 29
# Blocks for a multiprocessor, where they loop over their work.
_BLOCKS_EACH = 4


class Device:
    """A network's constants on the current device.

    Attributes
    ----------
    gpu : int
        The number of the device, which holds the network's arrays.
    plan : Plan
    dtype : numpy.dtype
    precision : {None, "tf32", "bf16", "fp16"}
        Of the operands of products, on tensor cores.
    real : type
        The dtype as a function.
    activations : tuple of ActivationFunction
    multiprocessors : int
    most : int
        Blocks that fill the device.
    wide : bool
        Some layer is wider than `NARROW`.
    """

    def __init__(self, plan: Plan, dtype: np.dtype[Any], precision: str | None):
        self.gpu = current_gpu()
        self.plan, self.dtype, self.precision = plan, dtype, precision
        self.real: Any = dtype.type
        self.activations: tuple[ActivationFunction, ...] = activations_of(plan)
        self.multiprocessors = 1 if SIMULATED else cuda.get_current_device().MULTIPROCESSOR_COUNT
        self.most = self.multiprocessors * _BLOCKS_EACH
        dense = plan.table[plan.table[:, row.KIND] == row.DENSE]
        self.wide = bool((dense[:, [row.N_IN, row.N_OUT]] > NARROW).any())
        self.nothing = streams.to_device(np.zeros(1, np.int64))
        self.no_real = streams.to_device(np.zeros(1, dtype))

    def check_current(self) -> None:
        """Refuse to compute while another GPU is the current one."""
        here = current_gpu()
        if here != self.gpu:
            raise RuntimeError(
                f"the network lies on GPU {self.gpu}, but the current GPU is {here}: make GPU {self.gpu} current"
            )

    def numbers(self, *more: float) -> Any:
        """The rows' numbers, and more of them behind."""
        return streams.to_device(np.append(self.plan.reals, more).astype(self.dtype))

    def memory(self, size: int) -> Any:
        """Numbers that may be anything."""
        return streams.empty((max(size, 1),), self.dtype)


class Batch(NamedTuple):
    """A batch, and what is asked about it; the arrays lie on the device."""

    state: Any  # parameters and running statistics
    order: Any
    dx: Any  # where dLoss/dX goes, flat
    schedule: Any
    s: int  # its row of the schedule
    flags: int  # bits of `fastnn.cuda.kernels`
    start: int  # the place of its first sample in the order
    size: int
    weight: float  # the total weight, which the schedule holds too
    key: Any  # uint64, of dropout


class Samples:
    """Blocks take samples: each some pieces of the batch, through the whole network; or one block takes all."""

    unscaled = False

    def __init__(
        self, device: Device, objective: Objective, made: Table, shape: AnyShape, batch: int, piece: int, most: int
    ):
        self.piece = piece
        each = (piece * made.ld + device.plan.n_parameters) * device.dtype.itemsize
        self.parts = self.losses = max(1, min(-(-batch // piece), most, _MOST_BYTES // each))
        self.space = self.parts * piece * made.ld
        self._run = kernels.derive_kernel(device.real, shape, device.activations, objective.resolved.source)

    def derive(self, passes: Passes, batch: Batch) -> tuple[int, int]:
        blocks = min(self.parts, -(-batch.size // self.piece))
        self._run[blocks, passes.shape.threads, streams.current(), passes.shared](
            *passes.arguments(batch), passes.columns, np.int64(batch.flags), np.int64(batch.start),
            np.int64(batch.size), batch.key,
        )  # fmt: skip
        return blocks, blocks


class Layered:
    """Blocks share layers: a launch for each thing that happens to one of them."""

    unscaled = False

    def __init__(self, device: Device, objective: Objective, made: Table, shape: AnyShape, piece: int):
        self.piece, self.space, self._plan = piece, piece * made.ld, device.plan
        self._last, self._dx = int(made.numbers[table.LAST]), int(made.numbers[table.DX])
        self._layers = layered.Layers(made.numbers, shape, device.most)
        self.parts, self.losses = self._layers.splits(piece), self._layers.losses(piece)
        self._run = layered.layer_kernel(device.real, shape, device.activations, objective.resolved.source)
        self._predict = layered.layer_kernel(device.real, shape, device.activations, None)

    def derive(self, passes: Passes, batch: Batch) -> tuple[int, int]:
        layers, learns, wants = self._layers, batch.flags & kernels.LEARNS, batch.flags & kernels.WANTS_DX
        head, most = passes.arguments(batch), min(batch.size, self.piece)
        splits, losses = layers.splits(most), layers.losses(most)
        for first in range(0, batch.size, self.piece):
            rows = min(self.piece, batch.size - first)
            launches = [*layers.forward(rows), layered.Launch(layered.LOSS, self._last, losses)]
            if learns or wants:
                launches += layers.backward(rows)
            if learns:
                launches.append(layers.learn(splits))
            if wants:
                launches.append(layers.copy_out(rows, self._dx, self._plan.n_inputs))
            flags = batch.flags | (kernels.MORE if first else 0)
            for does, q, blocks, parts in launches:
                run = self._predict if does <= layered.COPY_OUT else self._run
                run[blocks, passes.shape.threads, streams.current(), passes.shared](
                    *head, passes.columns, np.int64(flags), np.int64(batch.start), np.int64(first), np.int64(rows),
                    batch.key, np.int64(does), np.int64(q), np.int64(parts),
                )  # fmt: skip
        return splits, losses


Way = Samples | Layered | narrow.Backward | narrow.Float32Backward


def _choose(
    device: Device, objective: Objective, made: Table, shape: AnyShape, batch: int, whole: bool, steps: bool
) -> Way:
    """The way of batches that are too large for one block; ``whole``: statistics are those of a whole batch."""
    if steps:
        found = narrow.backward(device, objective, batch)
        if found is not None:
            return found
    if device.wide or whole:
        return Layered(device, objective, made, shape, batch if whole else min(batch, PIECE))
    return Samples(device, objective, made, shape, batch, min(batch, shape.rows), device.most)


class Passes:
    """Losses and gradients of batches of one objective, and the memory for them.

    Parameters
    ----------
    device : Device
    objective : Objective
        Its arrays lie on the device.
    batch : int
        Most samples of a batch.
    training : bool
        With batch statistics and dropout.
    asks : int
        What is asked for beside the loss: ``LEARNS`` and ``WANTS_DX`` of `fastnn.cuda.kernels`.
    optimizer : Optimizer, optional
        For training steps; nothing but gradients of the parameters is asked for then.
    block_rows : int, optional
        One block takes every batch alone, so many samples at once. None: what suits a single network.

    Attributes
    ----------
    shape : Shape
    alone : bool
        One block takes a batch alone.
    rows, reals : device array
        The table and its numbers.
    work : device array
        Everything that the table's header names, the flag 0.
    """

    def __init__(
        self,
        device: Device,
        objective: Objective,
        batch: int,
        training: bool,
        asks: int,
        optimizer: Optimizer | None = None,
        block_rows: int | None = None,
    ):
        self._device, plan = device, device.plan
        made = table.training(plan, objective.resolved.from_pre_activation, bool(asks & kernels.WANTS_DX))
        whole = plan.whole_batch and training
        small = batch * plan.n_parameters <= ALONE and batch <= _ALONE_ROWS
        self.alone = block_rows is not None or small
        shape = (small_shape if self.alone else stream_shape)(device.dtype, device.precision)
        self.shape: AnyShape | LoneShape | NarrowShape = shape
        self.shared = dynamic_bytes(shape, device.dtype)
        self._way: Way
        if self.alone:
            piece = batch if whole else min(batch, block_rows or batch)
            self._way = Samples(device, objective, made, shape, batch, piece, 1)
        else:
            self._way = _choose(device, objective, made, shape, batch, whole, optimizer is not None)
        self.update_blocks = max(1, min(device.most, -(-plan.n_parameters // shape.threads)))
        self.weighted = objective.weights.size > 0
        self.scaled = device.precision == "fp16"
        self.flags = objective.labels * kernels.LABELS | self.weighted * kernels.WEIGHTED | asks
        self.flags |= training * kernels.TRAINING | self.scaled * kernels.SCALED
        # The objective itself is not kept: what is prepared for it goes with it (`fastnn.cuda.engine`).
        self._n = objective.x.shape[0]
        self.x, self.y = objective.x.reshape(objective.x.size), objective.y.reshape(objective.y.size)
        self.weights = objective.weights if self.weighted else device.no_real
        self.columns = np.int64(objective.y.shape[1])
        clips = (np.inf, np.inf) if optimizer is None else optimizer._clips
        self.reals = device.numbers(*objective.resolved.parameter_values, *clips)
        self._numbers = made.numbers.copy()
        self._numbers[table.LOSS] = plan.reals.size
        self._numbers[table.CLIPS] = plan.reals.size + len(objective.resolved.parameter_values)
        self._numbers[table.PIECE] = self._way.piece
        self._sizes = {
            table.STOPPED: 1, table.SCALE: 2,
            table.SLOTS: 0 if optimizer is None else optimizer.n_slots * plan.n_parameters,
            table.STATISTICS: plan.shared_size, table.PARTIAL_LOSSES: self._way.losses,
            table.PARTIAL_SQUARES: self.update_blocks,
            table.GRADIENT: self._way.parts * plan.n_parameters if asks & kernels.LEARNS else 0,
            table.SPACE: self._way.space,
        }  # fmt: skip
        self._source, self._activations = objective.resolved.source, device.activations
        if self.alone and optimizer is not None and device.precision is None:
            self._hold_in_shared_memory(objective, batch)
        self._lay_out()

    def _hold_in_shared_memory(self, objective: Objective, batch: int) -> None:
        """Choose the shape of a block that trains alone and has all in its shared memory, if that is large enough."""
        device, plan, sizes = self._device, self._device.plan, dict(self._sizes)
        n_state = plan.n_parameters + plan.n_buffers + 1
        self._sizes |= {table.SPACE: 0, table.GRADIENT: 0}
        taken = -(-n_state // 4) * 4 + self._place() + 32  # as parts begin on whole lines
        found = narrow.lay_out(device, objective, batch, True, taken, plan.n_parameters)
        if found is not None:
            layout = found.layout
            self.shape, self._activations = layout.shape, found.activations
            self._sizes[table.GRADIENT] = layout.shares * plan.n_parameters
            self._numbers[table.LAYERS], self._numbers[table.N_LAYERS] = self._numbers.size, layout.n_layers
            self._numbers[table.N_WEIGHTS], self._numbers[table.SHARES] = layout.weights, layout.shares
            self._numbers = np.append(self._numbers, layout.table)
            self.shared = lone_bytes(layout.shape, device.dtype, n_state, self._place() + layout.size)
            return
        self._sizes, lone = sizes, lone_shape()
        size = lone_bytes(lone, device.dtype, n_state, self._place())
        if size <= most_shared():
            self.shape, self.shared = lone, size

    def _place(self) -> int:
        """Write into the header where the parts of the workspace begin; returns its size."""
        size = 0
        for part, count in self._sizes.items():
            self._numbers[part] = size
            size += -(-count // 32) * 32
        return size

    def _lay_out(self) -> None:
        """Memory for the parts of the workspace; then the table goes to the device."""
        size = self._place()
        self.rows = streams.to_device(self._numbers)
        self.work, self._views = self._device.memory(size), dict[int, Any]()
        scale = np.array([update.FIRST_SCALE if self.scaled else 1, 0], self._device.dtype)
        self.part(table.SCALE).copy_to_device(scale, stream=streams.current())
        self.go_on()

    def begin(self, part: int) -> int:
        """Where a part of the workspace begins."""
        return int(self._numbers[part])

    def part(self, part: int) -> Any:
        """A part of the workspace, a view; made once, because every step may ask for it."""
        if part not in self._views:
            self._views[part] = self.work[self.begin(part) : self.begin(part) + self._sizes[part]]
        return self._views[part]

    def go_on(self) -> None:
        """Clear the flag that a loss was not finite."""
        self.part(table.STOPPED).copy_to_device(np.zeros(1, self._device.dtype), stream=streams.current())

    def schedule(self, coefficients: np.ndarray, weights: np.ndarray) -> Any:
        """A schedule on the device, flat: a row for each step."""
        made = np.zeros((len(weights), WIDTH), self._device.dtype)
        made[:, :WEIGHT] = coefficients
        made[:, WEIGHT] = weights
        return streams.to_device(made.reshape(made.size))

    def weigh(self, schedule: Any, order: Any, ordered: bool, first: int, batch: int, n_steps: int) -> None:
        """Write the total weights of batches into a schedule."""
        run = kernels.weigh_kernel(self._device.real, self.shape)
        shared = dynamic_bytes(self.shape, self._device.dtype)
        run[n_steps, self.shape.threads, streams.current(), shared](
            self.weights, order, ordered, schedule, np.int64(first), np.int64(self._n), np.int64(batch)
        )

    def trainer(self, rule: Any) -> Any:
        """`kernels.train_kernel` for these batches and the optimizer's rule; its launches take `shared` bytes."""
        device = self._device
        run = kernels.train_kernel(device.real, self.shape, self._activations, self._source, rule)
        allow_shared(run, "iaaaaaaiaunnnnnn", device.dtype, self.shared)
        return run

    def arguments(self, batch: Batch) -> tuple[Any, ...]:
        """What the kernels of all general ways begin with."""
        return (
            self.rows, self.reals, batch.state, self.work, self.x, self.y, self.weights, batch.order, batch.dx,
            batch.schedule, np.int64(batch.s),
        )  # fmt: skip

    def derive(self, batch: Batch) -> tuple[int, int]:
        """A batch forwards and, as its flags ask, backwards; returns how many gradients and losses that left."""
        return self._way.derive(self, batch)

    def collect(self, batch: Batch, parts: int) -> None:
        """Add up the gradients of all parts, with those of the penalties; clip elements."""
        run = update.collect_kernel(self._device.real, self.shape)
        run[self.update_blocks, self.shape.threads, streams.current(), self.shared](
            self.rows, self.reals, batch.state, self.work, batch.schedule, np.int64(batch.s), np.int64(parts),
            self.scaled and not self._way.unscaled,
        )  # fmt: skip
