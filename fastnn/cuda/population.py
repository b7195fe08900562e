"""Many networks of one plan on a GPU: they are trained in the same launch, a block for each.

What belongs to a network lies at the same distance from what belongs to the next, in one array: parameters with
running statistics behind them, workspaces, orders of the samples, schedules.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn import _random
from fastnn._objective import Objective
from fastnn.cuda import kernels, scan, streams, table
from fastnn.cuda._jit import SIMULATED, cuda, kernel
from fastnn.cuda.engine import Engine
from fastnn.cuda.intrinsics import load, store
from fastnn.cuda.passes import Device, Passes
from fastnn.cuda.scan import THREADS
from fastnn.cuda.update import LOSS, WEIGHT, WIDTH
from fastnn.optimizers import Optimizer
from fastnn.optimizers._rules import begin_steps
from fastnn.plan import Plan

# Samples that a block takes at once: the values of those of all running blocks should stay in the second-level cache.
_BLOCK_ROWS = 8 if SIMULATED else 128
# One launch lasts about this long, so that Ctrl-C is served in time, but never less than an epoch.
_LAUNCH_SECONDS = 0.1
_FIRST_STEPS = 64
_MOST_ROWS = 1 << 22  # of the orders of a launch


@cache
def _move_kernel() -> Any:
    """``(which, source, first, apart, target, target_first, target_apart, size)``: elements of the networks ``which``.

    They begin at ``first`` and lie ``apart`` from those of the next network.
    """

    @kernel(THREADS)
    def move(which, source, first, apart, target, target_first, target_apart, size):
        k = load(which, np.int64(cuda.blockIdx.x))
        begin, target_begin = first + k * apart, target_first + k * target_apart
        for i in range(np.int64(cuda.threadIdx.x), size, THREADS):
            store(target, target_begin + i, load(source, begin + i))

    return move


class _Parts(NamedTuple):
    """Where each network's part of an array begins."""

    array: Any
    first: int
    apart: int  # from one network's to the next's; 0: all have the same


def _move(which: np.ndarray, source: _Parts, target: _Parts, size: int) -> None:
    """Copy ``size`` elements of each of the networks ``which``, (networks,) int64."""
    if which.size and size:
        _move_kernel()[which.size, THREADS, streams.current()](
            streams.to_device(which), source.array, np.int64(source.first), np.int64(source.apart), target.array,
            np.int64(target.first), np.int64(target.apart), np.int64(size),
        )  # fmt: skip


class Networks:
    """Parameters and running statistics of networks of one plan.

    Parameters
    ----------
    plan : Plan
    theta : ndarray, (n, n_parameters)
        Copied to the device.
    running : ndarray, (n, n_buffers)
        Copied to the device.
    precision : {None, "tf32", "bf16", "fp16"}

    Attributes
    ----------
    states : device array, (n * size,)
        ``size`` numbers for each network: its parameters, then its running statistics.
    """

    def __init__(self, plan: Plan, theta: np.ndarray, running: np.ndarray, precision: str | None):
        self.plan, self.n = plan, len(theta)
        self.device = Device(plan, theta.dtype, precision)
        self.size = max(plan.n_parameters + plan.n_buffers, 1)  # no array may be empty
        self.states = streams.to_device(self._joined(theta, running))

    def _joined(self, theta: np.ndarray, running: np.ndarray) -> np.ndarray:
        nothing = np.zeros((self.n, self.size - theta.shape[1] - running.shape[1]), theta.dtype)
        return np.concatenate([theta, running, nothing], axis=1).reshape(self.n * self.size)

    @property
    def parameters(self) -> Any:
        """The parameters, (n, n_parameters), a view of ``states``."""
        return self.states.reshape(self.n, self.size)[:, : self.plan.n_parameters]

    def pull(self, theta: np.ndarray, running: np.ndarray) -> None:
        """Copy parameters and running statistics to the host."""
        self.device.check_current()
        held = streams.to_host(self.states).reshape(self.n, self.size)
        theta[:] = held[:, : theta.shape[1]]
        running[:] = held[:, theta.shape[1] : theta.shape[1] + running.shape[1]]

    def state(self, k: int) -> Any:
        """Those of one network, a view."""
        return self.states[k * self.size : (k + 1) * self.size]

    def predict(self, x: Any) -> Any:
        """Values of the output layers, (n, rows, n_outputs), on the device."""
        size = x.shape[0] * self.plan.n_outputs
        out = streams.empty((self.n * size,), self.device.dtype)
        engine = Engine.of_state(self.device, self.states)
        for k in range(self.n):
            engine.state = self.state(k)
            own = out[k * size : (k + 1) * size]
            own.copy_to_device(engine.predict(x).reshape(size), stream=streams.current())
        return out.reshape(self.n, x.shape[0], self.plan.n_outputs)

    def evaluate(self, objective: Objective) -> np.ndarray:
        """Mean losses over all rows in inference mode, (n,), without penalties."""
        engine, losses = Engine.of_state(self.device, self.states), np.empty(self.n)
        for k in range(self.n):
            engine.state = self.state(k)
            losses[k] = engine.evaluate(objective)
        return losses


class Training:
    """Epochs of all networks, each with its own order, learning rate and dropout.

    Parameters
    ----------
    networks : Networks
    models : sequence of Sequential
        Whose random state, steps and epochs go on.
    optimizers : sequence of Optimizer
        Of one kind and with the same hyper-parameters, but for the learning rate.
    objective : Objective
    batch_size : int
    shuffle : bool
    """

    def __init__(
        self, networks: Networks, models: Sequence[Any], optimizers: Sequence[Optimizer], objective: Objective,
        batch_size: int, shuffle: bool,
    ):  # fmt: skip
        self._networks, self._models, self._optimizers = networks, models, optimizers
        self._batch, self._shuffle, self._rows = batch_size, shuffle, objective.x.shape[0]
        self._each = -(-self._rows // batch_size)
        self._n, device, first = networks.n, networks.device, optimizers[0]
        device.check_current()
        self._passes = Passes(device, objective, batch_size, True, kernels.LEARNS, first, _BLOCK_ROWS)
        self._moments = [each.bind(device.plan.n_parameters, device.dtype) for each in optimizers]
        self._scalars = np.stack([each.scalars for each in self._moments])
        self._hyper, self._begin = first.hyper, first.begin_native.entry(device.dtype)
        self._train = self._passes.trainer(first.rule)
        self._active = np.ones(self._n, bool)
        self._make_workspaces()
        self._states = _Parts(networks.states, 0, networks.size)
        self._kept_states = _Parts(device.memory(networks.states.size), 0, networks.size)
        self._memories = _Parts(self._works, 0, self._size)
        self._kept_memories = _Parts(device.memory(self._n * self._memory), 0, self._memory)
        self._kept_scalars = self._scalars.copy()
        self._keep(np.arange(self._n))

    def _make_workspaces(self) -> None:
        """One for each network; what the first parts hold, up to the optimizer's slots, lasts from step to step."""
        passes, everyone, one = self._passes, np.arange(self._n), self._passes.work
        self._size = one.size
        self._works = self._networks.device.memory(self._n * one.size)
        self._slots, self._memory = passes.begin(table.SLOTS), passes.begin(table.STATISTICS)
        _move(everyone, _Parts(one, 0, 0), _Parts(self._works, 0, self._size), self._slots)
        slots = np.stack([each.slots for each in self._moments])
        if slots.size:
            source = _Parts(streams.to_device(slots.reshape(slots.size)), 0, slots[0].size)
            _move(everyone, source, _Parts(self._works, self._slots, self._size), slots[0].size)

    def run(self, epochs: int) -> np.ndarray:
        """Mean losses, (epochs, n); not finite from the epoch on in which a network diverged."""
        losses = np.full((epochs, self._n), np.nan)
        count, done = max(1, _FIRST_STEPS // self._each), 0
        while done < epochs and self._active.any():
            count = max(1, min(count, _MOST_ROWS // (self._n * self._rows), epochs - done))
            begin = time.perf_counter()
            losses[done : done + count] = self._epochs(count)
            done += count
            seconds = time.perf_counter() - begin
            count = int(min(count * _LAUNCH_SECONDS / max(seconds, 1e-6), 2 * count))
        return losses

    def _epochs(self, count: int) -> np.ndarray:
        """So many epochs of all networks in one launch, (count, n); those that diverge are stopped."""
        before = [model._shuffle_rng.bit_generator.state for model in self._models]
        found, _ = self._launch(0, self._n, count)
        good = self._active & np.isfinite(found).all(axis=0) & self._finite(0, self._n)
        found[:, ~self._active] = np.nan
        for k in np.flatnonzero(good).tolist():
            self._models[k]._steps += count * self._each
            self._models[k]._epochs += count
        self._keep(np.flatnonzero(good))
        for k in np.flatnonzero(self._active & ~good).tolist():
            self._models[k]._shuffle_rng.bit_generator.state = before[k]
            found[:, k] = self._one_by_one(k, count)
        return found

    def _one_by_one(self, k: int, count: int) -> np.ndarray:
        """Again, one network alone, to find its last epoch that was finite; there it stays."""
        model, own, losses = self._models[k], np.array([k]), np.full(count, np.nan)
        self._restore(k)
        for epoch in range(count):
            found, done = self._launch(k, k + 1, 1)
            if np.isfinite(found[0, 0]):
                if self._finite(k, k + 1)[0]:
                    losses[epoch] = found[0, 0]
                    model._steps += self._each
                    model._epochs += 1
                    self._keep(own)
                    continue
            else:
                losses[epoch] = found[0, 0]
            model._steps += int(done[0])
            self._restore(k)
            self._active[k] = False
            # Later launches find it in its place, and stop at its first loss.
            nothing = np.full(self._networks.size, np.nan, self._networks.device.dtype)
            self._networks.state(k).copy_to_device(nothing, stream=streams.current())
            break
        return losses

    def _orders(self, low: int, high: int, count: int) -> np.ndarray:
        """The order of the rows in each epoch of each network that is still trained, (high - low, count * rows)."""
        n = self._rows
        orders = np.zeros((high - low, count * n), np.int64)
        for k in range(low, high):
            for epoch in range(count if self._active[k] else 0):
                orders[k - low, epoch * n : (epoch + 1) * n] = self._models[k]._shuffle_rng.permutation(n)
        return orders

    def _launch(self, low: int, high: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """``count`` epochs of the networks ``low...high - 1``: their mean losses, (count, networks), and steps done.

        A network that meets a loss that is not finite does no further step, and its epoch has that loss.
        """
        passes, nets, m, each = self._passes, self._networks, high - low, self._each
        steps = count * each
        rates = np.stack(
            [o.learning_rates(int(self._scalars[k, 0]), steps) for k, o in enumerate(self._optimizers[low:high], low)]
        )
        coefficients = np.zeros((m, steps, WEIGHT), nets.device.dtype)
        begin_steps(self._begin, self._scalars[low:high], self._hyper, rates, coefficients)
        sizes = np.minimum(self._batch, self._rows - np.arange(each) * self._batch)
        schedule = passes.schedule(coefficients.reshape(m * steps, WEIGHT), np.tile(sizes, m * count))
        orders = nets.device.nothing
        if self._shuffle:
            orders = streams.to_device(self._orders(low, high, count).reshape(m * count * self._rows))
        if passes.weighted:  # networks follow one another as epochs do
            passes.weigh(schedule, orders, self._shuffle, 0, self._batch, m * steps)
        keys = [_random.ahead(np.uint64(o._dropout_key), np.int64(o._steps)) for o in self._models[low:high]]
        flags = passes.flags | self._shuffle * kernels.ORDERED
        zero = np.int64(0)
        self._train[m, passes.shape.threads, streams.current(), passes.shared](
            passes.rows, passes.reals, nets.states[low * nets.size : high * nets.size],
            self._works[low * self._size : high * self._size], passes.x, passes.y, passes.weights, orders, schedule,
            streams.to_device(np.array(keys, np.uint64)), passes.columns, np.int64(flags), zero, np.int64(self._rows),
            np.int64(self._batch), zero,
        )  # fmt: skip
        found = streams.to_host(schedule).reshape(m, count, each, WIDTH).astype(np.float64)
        return _means(found[..., LOSS], found[..., WEIGHT])

    def _finite(self, low: int, high: int) -> np.ndarray:
        """Whether all parameters are finite, for each network."""
        size = self._networks.size
        states = self._networks.states[low * size : high * size]
        return scan.parts_finite(states, high - low, self._networks.plan.n_parameters)

    def _keep(self, which: np.ndarray) -> None:
        """Copy what the networks ``which`` are now."""
        _move(which, self._states, self._kept_states, self._networks.size)
        _move(which, self._memories, self._kept_memories, self._memory)
        self._kept_scalars[which] = self._scalars[which]

    def _restore(self, k: int) -> None:
        """Put back what `_keep` copied of a network."""
        which = np.array([k])
        _move(which, self._kept_states, self._states, self._networks.size)
        _move(which, self._kept_memories, self._memories, self._memory)
        self._scalars[k] = self._kept_scalars[k]

    def close(self) -> None:
        """Leave every network at its last finite epoch, and bring the optimizers' states back to the host."""
        everyone, size = np.arange(self._n), self._moments[0].slots.size
        _move(everyone, self._kept_states, self._states, self._networks.size)
        slots = self._networks.device.memory(self._n * size)
        _move(everyone, self._kept_memories._replace(first=self._slots), _Parts(slots, 0, size), size)
        held = streams.to_host(slots)
        for k, moments in enumerate(self._moments):
            moments.slots[...] = held[k * size : (k + 1) * size].reshape(moments.slots.shape)
            moments.scalars[:] = self._kept_scalars[k]


def _means(losses: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean losses of epochs, (epochs, networks), and steps done, (networks,), from (networks, epochs, steps)."""
    bad = ~np.isfinite(losses)
    flat = bad.reshape(len(bad), -1)
    done = np.where(flat.any(axis=1), flat.argmax(axis=1), flat.shape[1])
    first = np.take_along_axis(losses, bad.argmax(axis=2)[..., None], axis=2)[..., 0]
    totals = weights.sum(axis=2)
    sums = np.where(bad, 0, losses * np.where(bad, 0, weights)).sum(axis=2)
    means = np.divide(sums, totals, out=np.zeros_like(sums), where=totals != 0)
    return np.where(bad.any(axis=2), first, means).T, done
