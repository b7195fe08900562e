"""Runs of training steps on a GPU: schedules go there, losses come back, and nothing else in between."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastnn._objective import Objective
from fastnn._random import step_key
from fastnn.cuda import kernels, scan, streams, table, update
from fastnn.cuda.passes import Batch, Device, Passes
from fastnn.cuda.update import LOSS, WEIGHT, WIDTH
from fastnn.optimizers import Optimizer
from fastnn.optimizers._rules import begin_steps


class Training:
    """A run of training steps.

    The optimizer's slots lie on the device until `close`; its scalars, a few numbers of each step, are the host's.

    Parameters
    ----------
    device : Device
    state : device array
        Parameters and running statistics, trained in place.
    objective : Objective
    optimizer : Optimizer
    batch_size : int
    key : int
        Of dropout.
    """

    def __init__(
        self, device: Device, state: Any, objective: Objective, optimizer: Optimizer, batch_size: int, key: int
    ):
        self._device, self._state, self._optimizer = device, state, optimizer
        self._batch, self._key, self._n = batch_size, key, objective.x.shape[0]
        self._passes = Passes(device, objective, batch_size, True, kernels.LEARNS, optimizer)
        self._clips_norm = optimizer.clip_norm is not None
        self._moments = optimizer.bind(device.plan.n_parameters, device.dtype)
        if self._moments.slots.size:
            slots = np.ascontiguousarray(self._moments.slots).reshape(self._moments.slots.size)
            self._slots.copy_to_device(slots, stream=streams.current())
        self._order: Any = None
        self._order_on_device = device.nothing
        if self._passes.alone:
            self._keys = streams.to_device(np.array([key], np.uint64))
            self._train = self._passes.trainer(optimizer.rule)
        else:
            self._update = update.update_kernel(device.real, self._passes.shape, optimizer.rule)
        self._entry, self._hyper = optimizer.begin_native.entry(device.dtype), optimizer.hyper

    @property
    def _slots(self) -> Any:
        return self._passes.part(table.SLOTS)

    def _begin(self, scalars: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """Coefficients of steps with these learning rates; the optimizer's ``scalars``, (8,), go on by these steps."""
        coefficients = np.zeros((1, rates.size, WEIGHT), self._device.dtype)
        begin_steps(self._entry, scalars[None], self._hyper, rates[None], coefficients)
        return coefficients[0]

    def run(
        self, order: np.ndarray, first_row: int, n_steps: int, step: int, threads: int = 1
    ) -> tuple[int, np.ndarray, np.ndarray]:
        """``n_steps`` steps from row ``first_row`` of ``order`` (empty: rows in their order).

        ``order`` may hold several epochs, one after the other. Returns how many steps were done (fewer if a loss was
        not finite), and each step's loss and total weight.
        """
        passes, n, batch = self._passes, self._n, self._batch
        if order is not self._order:
            self._order = order
            self._order_on_device = streams.to_device(order) if order.size else self._device.nothing
        each = -(-n // batch)
        first = first_row // n * each + first_row % n // batch
        begins = (first + np.arange(n_steps)) % each * batch
        counts = np.minimum(batch, n - begins)
        scalars = self._moments.scalars
        rates = self._optimizer.learning_rates(self._optimizer.steps, n_steps)
        schedule, ordered = passes.schedule(self._begin(scalars.copy(), rates), counts), order.size > 0
        if passes.weighted:
            passes.weigh(schedule, self._order_on_device, ordered, first, batch, n_steps)
        flags = passes.flags | ordered * kernels.ORDERED
        if passes.alone:
            self._train[1, passes.shape.threads, streams.current(), passes.shared](
                passes.rows, passes.reals, self._state, passes.work, passes.x, passes.y, passes.weights,
                self._order_on_device, schedule, self._keys, passes.columns, np.int64(flags), np.int64(first),
                np.int64(n), np.int64(batch), np.int64(step),
            )  # fmt: skip
        else:
            starts = (first + np.arange(n_steps)) // each * n * ordered + begins
            weights = streams.to_host(schedule).reshape(n_steps, WIDTH)[:, WEIGHT] if passes.weighted else counts
            self._launch(schedule, starts.tolist(), counts.tolist(), weights.tolist(), flags, step)
        found = streams.to_host(schedule).reshape(n_steps, WIDTH)
        losses, weights = found[:, LOSS].copy(), found[:, WEIGHT].copy()
        bad = np.flatnonzero(~np.isfinite(losses))
        done = int(bad[0]) if bad.size else n_steps
        self._begin(scalars, rates[:done])
        return done, losses, weights

    def _launch(
        self, schedule: Any, starts: list[int], counts: list[int], weights: list[float], flags: int, step: int
    ) -> None:
        """The steps, none of which waits for the host."""
        passes, state = self._passes, self._state
        grid = passes.update_blocks, passes.shape.threads, streams.current(), passes.shared
        for s, (start, count, weight) in enumerate(zip(starts, counts, weights, strict=True)):
            key = np.uint64(step_key(np.uint64(self._key), np.int64(step + s)))
            batch = Batch(
                state, self._order_on_device, self._device.no_real, schedule, s, flags, start, count, weight, key
            )
            parts, n_losses = passes.derive(batch)
            collected = self._clips_norm or passes.scaled
            if collected:
                passes.collect(batch, parts)
            self._update[grid](
                passes.rows, passes.reals, state, passes.work, schedule, np.int64(s), np.int64(parts),
                np.int64(n_losses), collected, passes.scaled,
            )  # fmt: skip

    def keep(self, into: Any = None) -> Any:
        """A copy of parameters, running statistics and the optimizer's state, into an older copy if there is one."""
        if into is None:
            into = (*(self._device.memory(array.size) for array in (self._state, self._slots)), np.zeros(8))
        for array, copy in zip((self._state, self._slots), into, strict=False):
            if array.size:
                copy.copy_to_device(array, stream=streams.current())
        into[2][:] = self._moments.scalars
        return into

    def restore(self, kept: Any) -> None:
        """Put back what `keep` copied."""
        for array, copy in zip((self._state, self._slots), kept, strict=False):
            if array.size:
                array.copy_to_device(copy, stream=streams.current())
        self._moments.scalars[:] = kept[2]
        self._passes.go_on()

    def finite(self) -> bool:
        """Whether all parameters are finite."""
        n = self._device.plan.n_parameters
        return n == 0 or scan.first_infinite(self._state[:n]) is None

    def close(self) -> None:
        """Bring the optimizer's state back to the host."""
        if self._moments.slots.size:
            self._moments.slots[...] = streams.to_host(self._slots).reshape(self._moments.slots.shape)
