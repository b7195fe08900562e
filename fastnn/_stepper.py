"""Epochs in steps, steps in chunks: how training calls an engine, often enough for those who watch and no oftener."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastnn.cpu import team

if TYPE_CHECKING:
    from fastnn.training import State

# One compiled call lasts about this long, so that Ctrl-C, the progress bar and callbacks are served in time.
_CHUNK_SECONDS = 0.05
_FIRST_CHUNK = 64
_MOST_STEPS = 1 << 16
_MOST_ROWS = 1 << 22  # of an order that holds several epochs
IN_ORDER = np.empty(0, np.int64)  # the rows as they come


def tell_steps(callbacks: list[Any], state: State) -> None:
    """Call ``on_steps_end`` of the callbacks that have it and whose turn it is after this step."""
    for callback in callbacks:
        if hasattr(callback, "on_steps_end") and state.network._steps % callback.every_steps == 0:
            callback.on_steps_end(state)


class Stepper:
    """Walks the steps of epochs in chunks of compiled calls, adapting their length to the time they take.

    ``losses`` and ``weights`` are those of all batches of the last call.
    """

    def __init__(
        self, training: Any, state: State, pace: team.Pace, n_rows: int, batch_size: int, callbacks: list[Any]
    ):
        self._training = training
        self._pace = pace
        self._rows = n_rows
        self._batch_size = batch_size
        self._state = state
        self._chunk = _FIRST_CHUNK
        self._listeners = [c for c in callbacks if hasattr(c, "on_steps_end")]
        self.steps_per_epoch = -(-n_rows // batch_size)
        self.losses, self.weights = np.empty((2, self.steps_per_epoch))

    def epoch(self, order: NDArray[np.int64]) -> float:
        """Run one epoch; returns its mean loss, not finite if training diverged."""
        return self.epochs(order, 1)[0]

    def fitting(self, most: int) -> int:
        """How many epochs make a chunk, 1 or more."""
        return max(1, min(self._chunk // self.steps_per_epoch, _MOST_ROWS // self._rows, most))

    def epochs(self, order: NDArray[np.int64], count: int) -> list[float]:
        """Run ``count`` epochs, whose orders follow one another in ``order``, or in which rows keep their order.

        Returns their mean losses. If training diverged, the last of them is not finite, and ends the list.
        """
        network, each = self._state.network, self.steps_per_epoch
        if self.losses.size != count * each:
            self.losses, self.weights = np.empty((2, count * each))
        done = 0
        while done < count * each:
            n_steps = min(self._chunk, count * each - done)
            for listener in self._listeners:
                n_steps = min(n_steps, listener.every_steps - network._steps % listener.every_steps)
            n_steps = self._pace.limit(n_steps)
            begin = time.perf_counter()
            first_row = done // each * self._rows + done % each * self._batch_size
            n_done, step_losses, step_weights = self._training.run(
                order, first_row, n_steps, network._steps, self._pace.threads
            )
            seconds = time.perf_counter() - begin
            self._pace.saw(seconds, n_steps)
            network._steps += n_done
            if n_done < n_steps:
                return [float(step_losses[n_done])]
            self.weights[done : done + n_steps] = step_weights
            self.losses[done : done + n_steps] = step_losses
            done += n_steps
            if 2 * n_steps > self._chunk:  # a shorter one says little of the time of a step
                fitting = max(n_steps * _CHUNK_SECONDS / max(seconds, 1e-6), 1)
                self._chunk = int(min(fitting, 2 * self._chunk, _MOST_STEPS))
            tell_steps(self._listeners, self._state)
        # One sum over an epoch: the length of the chunks, which follows the clock, leaves no trace in it.
        means = []
        for epoch in range(count):
            own = slice(epoch * each, (epoch + 1) * each)
            total = self.weights[own].sum()
            means.append(float((self.losses[own] * self.weights[own]).sum() / total) if total else 0.0)
        return means
