"""Passes over batches: which kernels take a network's samples forwards and backwards, and in what memory.

Three ways: one block takes a whole batch, for many steps a launch (`kernels.train_kernel`); blocks take some samples
each through the whole network, one launch a batch; or all blocks share every layer, a launch for each.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from fastnn import _rows as row
from fastnn._objective import Objective
from fastnn.activations import ActivationFunction
from fastnn.cuda import kernels, layered, narrow, streams, table, update
from fastnn.cuda._jit import DEFAULT_SHARED, SIMULATED, allow_shared, cuda, most_shared, types
from fastnn.cuda.elements import activations_of
from fastnn.cuda.lone import LoneShape, lone_bytes, lone_shape
from fastnn.cuda.product import AnyShape, dynamic_bytes, small_shape, stream_shape
from fastnn.cuda.update import WEIGHT, WIDTH
from fastnn.plan import Plan

# Layers up to this width: a block takes samples through all of them.
NARROW = 8 if SIMULATED else 128
# Multiply-adds of a step's forward pass up to which one block takes the batch alone, in less time than launches cost.
ALONE = 2000 if SIMULATED else 1_500_000
_ALONE_ROWS = 1024
# Samples of a piece where all blocks share them: their values should stay in the second-level cache.
_PIECE = 16 if SIMULATED else 8192
# Workspace of the blocks that take samples each, for networks so deep that it would be gigabytes.
_MOST_BYTES = 1 << 29
# Blocks for a multiprocessor, where they loop over their work.
_BLOCKS_EACH = 4


class Device:
    """A network's constants on the current device.

    Attributes
    ----------
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
        self.plan, self.dtype, self.precision = plan, dtype, precision
        self.real: Any = dtype.type
        self.activations: tuple[ActivationFunction, ...] = activations_of(plan)
        self.multiprocessors = 1 if SIMULATED else cuda.get_current_device().MULTIPROCESSOR_COUNT
        self.most = self.multiprocessors * _BLOCKS_EACH
        dense = plan.table[plan.table[:, row.KIND] == row.DENSE]
        self.wide = bool((dense[:, [row.N_IN, row.N_OUT]] > NARROW).any())
        self.nothing = streams.to_device(np.zeros(1, np.int64))
        self.no_real = streams.to_device(np.zeros(1, dtype))

    def numbers(self, *more: float) -> Any:
        """The rows' numbers, and more of them behind."""
        return streams.to_device(np.append(self.plan.reals, more).astype(self.dtype))

    def memory(self, size: int) -> Any:
        """Numbers that may be anything."""
        return streams.empty((max(size, 1),), self.dtype)


class Predictor:
    """Values of the output layer."""

    def __init__(self, device: Device):
        self._device = device
        self._shape = shape = stream_shape(device.dtype, device.precision)
        made = table.inference(device.plan)
        self._header = made.numbers[: table.HEADER]
        shared = dynamic_bytes(shape, device.dtype, shape.rows * made.ld)
        self._in_shared = shared <= DEFAULT_SHARED and not device.wide
        self._bytes = shared if self._in_shared else dynamic_bytes(shape, device.dtype)
        if device.wide:
            self._layers = layered.Layers(made.numbers, shape, device.most)
            self._run = layered.layer_kernel(device.real, shape, device.activations, None)
        else:
            self._run = kernels.predict_kernel(device.real, shape, device.activations, self._in_shared)
        self._rows, self._reals = streams.to_device(made.numbers), device.numbers()
        self._narrow = narrow.forward(device.plan, device.precision, device.multiprocessors)
        self._local = threading.local()

    def _workspace(self, n: int) -> tuple[int, Any]:
        """Memory for the values of up to ``n`` samples at once, and their number: this thread's on this stream."""
        kept: dict[int, tuple[int, Any]] = self._local.__dict__.setdefault("kept", {})
        most = _PIECE if self._device.wide else self._device.most * self._shape.rows
        piece = 0 if self._in_shared else min(most, -(-n // self._shape.rows) * self._shape.rows)
        stream = streams.address(streams.current())
        if stream not in kept or kept[stream][0] < piece:
            kept[stream] = piece, self._device.memory(piece * int(self._header[table.LD]))
        return kept[stream]

    def run(self, state: Any, x: Any) -> Any:
        """(n, n_outputs) for x (n, n_inputs)."""
        device, n = self._device, x.shape[0]
        out = streams.empty((n, device.plan.n_outputs), device.dtype)
        flat_x, flat_out = x.reshape(x.size), out.reshape(out.size)
        if self._narrow is not None:
            self._narrow.run(state, flat_x, flat_out, n)
            return out
        piece, work = self._workspace(n)
        arguments = (self._rows, self._reals, state, work)
        if not device.wide:
            blocks = min(device.most, -(-n // self._shape.rows))
            self._run[blocks, self._shape.threads, streams.current(), self._bytes](
                *arguments, flat_x, flat_out, np.int64(n)
            )
            return out
        zero = np.int64(0)
        for first in range(0, n, piece):
            rows = min(piece, n - first)
            last = self._layers.copy_out(rows, int(self._header[table.OUT]), device.plan.n_outputs)
            for does, q, blocks, splits in (*self._layers.forward(rows), last):
                self._run[blocks, self._shape.threads, streams.current(), self._bytes](
                    *arguments, flat_x, device.no_real, device.no_real, device.nothing, flat_out, device.no_real, zero,
                    zero, zero, zero, np.int64(first), np.int64(rows), np.uint64(0), np.int64(does), np.int64(q),
                    np.int64(splits),
                )  # fmt: skip
        return out


class Passes:
    """Losses and gradients of batches of one objective.

    Parameters
    ----------
    device : Device
    objective : Objective
        Its arrays lie on the device.
    batch : int
        Most samples of a batch.
    training : bool
        With batch statistics and dropout.
    wants_dx : bool
        dLoss/dX is asked for.
    slots : int, optional
        For training steps, of an optimizer with so many slots: nothing but gradients of the parameters is asked for.
    clips : tuple of float
        clip_value and clip_norm, infinity where there is none.
    block_rows : int, optional
        One block takes every batch alone, so many samples at once. None: what suits a single network.

    Attributes
    ----------
    shape : Shape
    alone : bool
        One block takes a batch alone.
    parts : int
        Gradients, and losses, that a pass leaves to be added up.
    """

    def __init__(
        self,
        device: Device,
        objective: Objective,
        batch: int,
        training: bool,
        wants_dx: bool = False,
        slots: int | None = None,
        clips: tuple[float, ...] = (np.inf, np.inf),
        block_rows: int | None = None,
    ):
        plan, resolved = device.plan, objective.resolved
        self._device, self.objective = device, objective
        made = table.training(plan, resolved.from_pre_activation, wants_dx)
        whole = plan.whole_batch and training
        small = batch * plan.n_parameters <= ALONE and batch <= _ALONE_ROWS
        self.alone = block_rows is not None or small
        self._narrow = None
        if slots is not None and not self.alone:
            self._narrow = narrow.backward(plan, device.precision, objective, batch, device.multiprocessors)
        self._layered = not self.alone and self._narrow is None and (device.wide or whole)
        shape = (
            small_shape(device.dtype, device.precision) if self.alone else stream_shape(device.dtype, device.precision)
        )
        self.shape: AnyShape | LoneShape = shape
        self.shared = dynamic_bytes(shape, device.dtype)
        self._numbers = made.numbers.copy()
        self.reals = device.numbers(*resolved.parameter_values, *clips)
        self._numbers[table.LOSS] = plan.reals.size
        self._numbers[table.CLIPS] = plan.reals.size + len(resolved.parameter_values)
        if self._layered:
            self._piece = batch if whole else min(batch, _PIECE)
            self._layers = layered.Layers(self._numbers, shape, device.most)
            self.parts, self._losses = self._layers.splits(self._piece), self._layers.losses(self._piece)
            self._run = layered.layer_kernel(device.real, shape, device.activations, resolved.source)
            self._predict = layered.layer_kernel(device.real, shape, device.activations, None)
            space = self._piece * made.ld
        elif self._narrow is not None:
            self._piece, space = batch, 0
            self.parts = self._losses = self._narrow.parts
        else:
            most = block_rows or (batch if self.alone else shape.rows)
            self._piece = batch if whole else min(batch, most)
            each = (self._piece * made.ld + plan.n_parameters) * device.dtype.itemsize
            blocks = max(1, min(-(-batch // self._piece), device.most, _MOST_BYTES // each))
            self.parts = self._losses = 1 if self.alone else blocks
            self._run = kernels.derive_kernel(device.real, shape, device.activations, resolved.source)
            space = self.parts * self._piece * made.ld
        self._numbers[table.PIECE] = self._piece
        self.update_blocks = max(1, min(device.most, -(-plan.n_parameters // shape.threads)))
        self._sizes = {
            table.STOPPED: 1, table.SCALE: 2, table.SLOTS: (slots or 0) * plan.n_parameters,
            table.STATISTICS: plan.shared_size,
            table.PARTIAL_LOSSES: self._losses, table.PARTIAL_SQUARES: self.update_blocks,
            table.GRADIENT: self.parts * plan.n_parameters, table.SPACE: space,
        }  # fmt: skip
        if self.alone and slots is not None and device.precision is None:
            lone = lone_shape()
            size = lone_bytes(lone, device.dtype, plan.n_parameters + plan.n_buffers + 1, self._place())
            if size <= most_shared():
                self.shape, self.shared = lone, size
        self.weighted = objective.weights.size > 0
        self.scaled = device.precision == "fp16"
        self.flags = objective.labels * kernels.LABELS | self.weighted * kernels.WEIGHTED
        self.flags |= training * kernels.TRAINING | self.scaled * kernels.SCALED
        self.x, self.y = objective.x.reshape(objective.x.size), objective.y.reshape(objective.y.size)
        self.weights = objective.weights if self.weighted else device.no_real
        self.columns = np.int64(objective.y.shape[1])

    def begin(self, part: int) -> int:
        """Where a part of the workspace begins."""
        return int(self._numbers[part])

    def _place(self) -> int:
        """Write into the header where the parts of the workspace begin; returns its size."""
        size = 0
        for part, count in self._sizes.items():
            self._numbers[part] = size
            size += -(-count // 32) * 32
        return size

    def workspace(self) -> Any:
        """Memory for everything that the header names, the flag 0; the table goes to the device."""
        size = self._place()
        self.rows = streams.to_device(self._numbers)
        work = self._device.memory(size)
        scale = np.array([update.FIRST_SCALE if self.scaled else 1, 0], self._device.dtype)
        begin = self.begin(table.SCALE)
        work[begin : begin + 2].copy_to_device(scale, stream=streams.current())
        self.go_on(work)
        return work

    def go_on(self, work: Any) -> None:
        """Clear the flag that a loss was not finite."""
        work[:1].copy_to_device(np.zeros(1, self._device.dtype), stream=streams.current())

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
            self.weights, order, ordered, schedule, np.int64(first), np.int64(self.objective.x.shape[0]),
            np.int64(batch),
        )  # fmt: skip

    def trainer(self, rule: Any) -> Any:
        """`kernels.train_kernel` for these batches and the optimizer's rule; its launches take `shared` bytes."""
        device, resolved = self._device, self.objective.resolved
        run = kernels.train_kernel(device.real, self.shape, device.activations, resolved.source, rule)
        reals = getattr(types, device.dtype.name)[::1]
        indices, keys = types.int64[::1], types.uint64[::1]
        allow_shared(run, (indices, *(reals,) * 6, indices, reals, keys, *(types.int64,) * 6), self.shared)
        return run

    def derive(
        self,
        state: Any,
        work: Any,
        order: Any,
        dx: Any,
        schedule: Any,
        s: int,
        flags: int,
        start: int,
        count: int,
        weight: float,
        key: Any,
    ) -> tuple[int, int]:
        """Forwards and, as the flags ask, backwards over a batch; returns how many gradients and losses that left.

        ``weight`` is the total weight of the batch, which the schedule holds too.
        """
        if self._narrow is not None:
            scale = 1 / weight if weight else 0.0
            gradient, losses, factor = (self.begin(p) for p in (table.GRADIENT, table.PARTIAL_LOSSES, table.SCALE))
            blocks = self._narrow.run(
                state, self.x, self.y, order, bool(flags & kernels.ORDERED), start, count, scale,
                weight if self.scaled else 1.0, work[factor : factor + 1],
                work[gradient : gradient + self._sizes[table.GRADIENT]], work[losses : losses + self._losses],
            )  # fmt: skip
            return blocks, blocks
        head = (self.rows, self.reals, state, work, self.x, self.y, self.weights, order, dx, schedule, np.int64(s))
        if not self._layered:
            blocks = min(self.parts, -(-count // self._piece))
            self._run[blocks, self.shape.threads, streams.current(), self.shared](
                *head, self.columns, np.int64(flags), np.int64(start), np.int64(count), key
            )
            return blocks, blocks
        learns, wants, last = flags & kernels.LEARNS, flags & kernels.WANTS_DX, self.begin(table.LAST)
        splits, n_losses = self._layers.splits(min(count, self._piece)), self._layers.losses(min(count, self._piece))
        for first in range(0, count, self._piece):
            rows = min(self._piece, count - first)
            launches = [*self._layers.forward(rows), layered.Launch(layered.LOSS, last, n_losses)]
            if learns or wants:
                launches += self._layers.backward(rows)
            if learns:
                launches.append(self._layers.learn(splits))
            if wants:
                launches.append(self._layers.copy_out(rows, self.begin(table.DX), self._device.plan.n_inputs))
            more = flags | (kernels.MORE if first else 0)
            for does, q, blocks, parts in launches:
                run = self._predict if does <= layered.COPY_OUT else self._run
                run[blocks, self.shape.threads, streams.current(), self.shared](
                    *head, self.columns, np.int64(more), np.int64(start), np.int64(first), np.int64(rows), key,
                    np.int64(does), np.int64(q), np.int64(parts),
                )  # fmt: skip
        return splits, n_losses

    def collect(self, state: Any, work: Any, schedule: Any, s: int, parts: int) -> None:
        """Add up the gradients of all parts, with those of the penalties; clip elements."""
        run = update.collect_kernel(self._device.real, self.shape)
        scaled = self.scaled and self._narrow is None  # which takes its scale off itself
        run[self.update_blocks, self.shape.threads, streams.current(), self.shared](
            self.rows, self.reals, state, work, schedule, np.int64(s), np.int64(parts), scaled
        )
