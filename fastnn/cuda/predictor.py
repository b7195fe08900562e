"""Values of the output layer: which kernels take samples forwards, and in what memory.

A way is a class with ``run(state, x, out, n)``, arrays flat, and `_choose` the place that chooses.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from fastnn.cuda import kernels, layered, narrow, streams, table
from fastnn.cuda._jit import DEFAULT_SHARED, allow_shared, most_shared
from fastnn.cuda.lone import LoneShape, lone_bytes, wide_lone_shape
from fastnn.cuda.passes import PIECE, Device
from fastnn.cuda.product import AnyShape, dynamic_bytes, stream_shape


class _Spaces(threading.local):
    """Memory for the values of samples: a thread's own on each stream, because predictions may run side by side.

    Parameters
    ----------
    device : Device
    ld : int
        Numbers of a sample.
    unit, most : int
        There is room for a multiple of ``unit`` samples, and for ``most`` at most.
    """

    def __init__(self, device: Device, ld: int, unit: int, most: int):
        self._device, self._ld, self._unit, self._most = device, ld, unit, most
        self._kept: dict[int, tuple[int, Any]] = {}

    def of(self, n: int) -> tuple[int, Any]:
        """For how many of ``n`` samples there is room at once, and the memory."""
        piece = min(self._most, -(-n // self._unit) * self._unit)
        stream = streams.address(streams.current())
        if stream not in self._kept or self._kept[stream][0] < piece:
            self._kept[stream] = piece, self._device.memory(piece * self._ld)
        return self._kept[stream]


class Samples:
    """Blocks take samples, a tile each through the whole network; where it fits, in shared memory with the weights."""

    def __init__(self, device: Device):
        made, plan = table.inference(device.plan), device.plan
        shape: AnyShape | LoneShape = (lone := wide_lone_shape())
        self._most, in_shared = device.multiprocessors, True
        self._bytes = lone_bytes(lone, device.dtype, plan.n_parameters + plan.n_buffers + 1, lone.rows * made.ld)
        if device.precision is not None or self._bytes > most_shared():
            shape, self._most = stream_shape(device.dtype, device.precision), device.most
            self._bytes = dynamic_bytes(shape, device.dtype, shape.rows * made.ld)
            in_shared = self._bytes <= DEFAULT_SHARED
        if not in_shared:
            self._bytes = dynamic_bytes(shape, device.dtype)
        self._threads, self._tile = shape.threads, shape.rows
        self._run = kernels.predict_kernel(device.real, shape, device.activations, in_shared)
        allow_shared(self._run, "iaaaaan", device.dtype, self._bytes)
        self._rows, self._reals = streams.to_device(made.numbers), device.numbers()
        self._spaces = _Spaces(device, made.ld, shape.rows, 0 if in_shared else device.most * shape.rows)

    def run(self, state: Any, x: Any, out: Any, n: int) -> None:
        _, work = self._spaces.of(n)
        self._run[min(self._most, -(-n // self._tile)), self._threads, streams.current(), self._bytes](
            self._rows, self._reals, state, work, x, out, np.int64(n)
        )


class Layered:
    """Blocks share layers: a launch for each thing that happens to one of them."""

    def __init__(self, device: Device):
        shape, made = stream_shape(device.dtype, device.precision), table.inference(device.plan)
        self._device, self._threads, self._bytes = device, shape.threads, dynamic_bytes(shape, device.dtype)
        self._out, self._layers = int(made.numbers[table.OUT]), layered.Layers(made.numbers, shape, device.most)
        self._run = layered.layer_kernel(device.real, shape, device.activations, None)
        self._rows, self._reals = streams.to_device(made.numbers), device.numbers()
        self._spaces = _Spaces(device, made.ld, shape.rows, PIECE)

    def run(self, state: Any, x: Any, out: Any, n: int) -> None:
        device, zero, (piece, work) = self._device, np.int64(0), self._spaces.of(n)
        for first in range(0, n, piece):
            rows = min(piece, n - first)
            last = self._layers.copy_out(rows, self._out, device.plan.n_outputs)
            for does, q, blocks, splits in (*self._layers.forward(rows), last):
                self._run[blocks, self._threads, streams.current(), self._bytes](
                    self._rows, self._reals, state, work, x, device.no_real, device.no_real, device.nothing, out,
                    device.no_real, zero, zero, zero, zero, np.int64(first), np.int64(rows), np.uint64(0),
                    np.int64(does), np.int64(q), np.int64(splits),
                )  # fmt: skip


def _choose(device: Device) -> narrow.Forward | narrow.Float32Forward | Samples | Layered:
    found = narrow.forward(device)
    if found is not None:
        return found
    return Layered(device) if device.wide else Samples(device)


class Predictor:
    """Values of the output layer of a network."""

    def __init__(self, device: Device):
        self._device, self.way = device, _choose(device)

    def run(self, state: Any, x: Any) -> Any:
        """(n, n_outputs) for x (n, n_inputs)."""
        n = x.shape[0]
        out = streams.empty((n, self._device.plan.n_outputs), self._device.dtype)
        self.way.run(state, x.reshape(x.size), out.reshape(out.size), n)
        return out
