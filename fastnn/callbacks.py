"""Callbacks: what happens between epochs (or between steps) of ``fit``.

A callback is any callable that takes the `fastnn.training.State` after each epoch, or an object with some of the
methods ``on_train_begin(state)``, ``on_epoch_end(state)``, ``on_steps_end(state)`` and ``on_train_end(state)``.
``state.stop(reason)`` ends training. ``on_steps_end`` is called every ``callback.every_steps`` optimizer steps.
``on_check(results)`` gets the names of the results to come before anything changes, to refuse what cannot work.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import _checks

if TYPE_CHECKING:
    from fastnn.training import State


def _is_better(value: float, best: float, larger: bool, min_delta: float) -> bool:
    return value > best + min_delta if larger else value < best - min_delta


def _need_folder(path: str) -> None:
    folder = Path(path).parent
    if not folder.is_dir():
        raise ValueError(f"path must lie in a folder that exists, got {path!r}: there is no folder {str(folder)!r}")
    if Path(path).is_dir():
        raise ValueError(f"path must be that of a file, got the folder {path!r}")


class _Monitor:
    """Watches one number of the epoch's results for its best value."""

    def __init__(self, monitor: str, min_delta: float, mode: str):
        if not isinstance(monitor, str):
            raise TypeError(f"monitor must be a name such as 'val_loss', got {_checks.describe(monitor)}")
        self.name = monitor
        self.min_delta = _checks.number("min_delta", min_delta, low=0)
        mode = _checks.choice("mode", mode, ("auto", "min", "max"))
        shrinking = any(word in monitor.lower() for word in ("loss", "error", "mse", "mae", "rmse"))
        self.larger = mode == "max" or (mode == "auto" and not shrinking)
        self.restart()

    def restart(self) -> None:
        self.best = -np.inf if self.larger else np.inf

    def check(self, results: list[str]) -> None:
        try:
            _checks.choice("monitor", self.name, results)
        except ValueError as error:
            if not self.name.startswith("val_") or "val_loss" in results:
                raise
            raise ValueError(f"{error}; val_ results need fit's validation_data or validation_split") from error

    def improved(self, state: State) -> bool:
        value = state.results[self.name]
        if not _is_better(value, self.best, self.larger, self.min_delta):
            return False
        self.best = value
        return True


class EarlyStopping:
    """Stop when a result has not improved for a while.

    Parameters
    ----------
    monitor : str
        ``"val_loss"``, ``"loss"`` or a metric's name.
    patience : int
        Epochs without improvement that are allowed.
    min_delta : float
        Smaller changes do not count as improvement.
    restore_best : bool
        Afterwards put back the parameters of the best epoch.
    mode : {"auto", "min", "max"}
        Whether smaller or larger is better; "auto" goes by the name: what has "loss", "error", "mse", "mae" or "rmse"
        in it shrinks, all else grows.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
        mode: str = "auto",
    ):
        self._monitor = _Monitor(monitor, min_delta, mode)
        self.patience = _checks.integer("patience", patience, low=0)
        self.restore_best = _checks.flag("restore_best", restore_best)
        self.best_epoch: int | None = None

    @property
    def best(self) -> float:
        """Best value seen."""
        return float(self._monitor.best)

    def on_check(self, results: list[str]) -> None:
        self._monitor.check(results)

    def on_train_begin(self, state: State) -> None:
        self._monitor.restart()
        self.best_epoch = None
        self._waited = 0
        self._kept: Any = None

    def on_epoch_end(self, state: State) -> None:
        if self._monitor.improved(state):
            self.best_epoch, self._waited = state.epoch, 0
            if self.restore_best:
                self._kept = state.snapshot()
            return
        self._waited += 1
        if self._waited > self.patience:
            state.stop(f"{self._monitor.name} has not improved for {self._waited} epochs")

    def on_train_end(self, state: State) -> None:
        if self._kept is not None:
            state.restore(self._kept)


class ReduceOnPlateau:
    """Multiply the learning rate by ``factor`` when a result has stopped improving.

    Parameters
    ----------
    factor : float
        In (0, 1).
    patience : int
        Epochs without improvement before a reduction.
    monitor, min_delta, mode
        As for `EarlyStopping`.
    min_factor : float
        The product of all reductions does not fall below this.
    """

    def __init__(
        self,
        factor: float = 0.5,
        patience: int = 5,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        min_factor: float = 1e-4,
        mode: str = "auto",
    ):
        self.factor = _checks.number("factor", factor, low=0, low_open=True, high=1, high_open=True)
        self.patience = _checks.integer("patience", patience, low=0)
        self.min_factor = _checks.number("min_factor", min_factor, low=0)
        self._monitor = _Monitor(monitor, min_delta, mode)

    def on_check(self, results: list[str]) -> None:
        self._monitor.check(results)

    def on_train_begin(self, state: State) -> None:
        self._monitor.restart()
        self._waited = 0

    def on_epoch_end(self, state: State) -> None:
        if self._monitor.improved(state):
            self._waited = 0
            return
        self._waited += 1
        if self._waited > self.patience:
            optimizer = state.optimizer
            optimizer.learning_rate_factor = max(optimizer.learning_rate_factor * self.factor, self.min_factor)
            self._waited = 0


class Checkpoint:
    """Save the network every few epochs, replacing the file in one step.

    Parameters
    ----------
    path : path
        ``{epoch}`` in it is replaced by the epoch's number, ``{epoch:03d}`` by three digits of it.
    every : int
        Epochs between two saves.
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1):
        self.path = _checks.path("path", path)
        self._of_epoch(0)
        self.every = _checks.integer("every", every, low=1)

    def _of_epoch(self, epoch: int) -> str:
        try:
            return self.path.format(epoch=epoch)
        except (IndexError, KeyError, ValueError) as error:
            raise ValueError(
                f"path may hold {{epoch}} or {{epoch:03d}}, and any other brace doubled, got {self.path!r}"
            ) from error

    def on_check(self, results: list[str]) -> None:
        _need_folder(self._of_epoch(0))

    def on_epoch_end(self, state: State) -> None:
        if state.epoch % self.every == 0:
            target = Path(self._of_epoch(state.epoch))
            partial = target.with_name(target.name + ".partial")
            state.network.save(partial)
            os.replace(partial, target)


class EMA:
    """Exponential moving average of the parameters, put into the network at the end of training.

    Not where training diverged, since the average may hold what was not finite. Beside an `EarlyStopping` that restores
    the best epoch, the later one in the list of callbacks decides which parameters stay.

    Parameters
    ----------
    decay : float
        In [0, 1): ``average = decay * average + (1 - decay) * parameters``, with Adam's correction for the start.
    every_steps : int
        Optimizer steps between two updates.

    References
    ----------
    Polyak and Juditsky (1992), SIAM J. Control Optim. 30, 838-855.
    """

    def __init__(self, decay: float = 0.99, every_steps: int = 10):
        self.decay = _checks.number("decay", decay, low=0, high=1, high_open=True)
        self.every_steps = _checks.integer("every_steps", every_steps, low=1)
        self._updates = 0

    def on_train_begin(self, state: State) -> None:
        self._sum = np.zeros_like(state.snapshot()[0])
        self._updates = 0

    def on_steps_end(self, state: State) -> None:
        decay = self._sum.dtype.type(self.decay)
        self._sum *= decay
        self._sum += (1 - decay) * state.snapshot()[0]
        self._updates += 1

    @property
    def parameters(self) -> np.ndarray:
        """The average so far, (n_parameters,)."""
        if not self._updates:
            raise ValueError("no average yet: training was shorter than every_steps")
        return self._sum / self._sum.dtype.type(1 - self.decay**self._updates)

    def on_train_end(self, state: State) -> None:
        if self._updates and not state.diverged:
            state.restore((self.parameters, state.snapshot()[1]))


class CSVLog:
    """Write one line of results an epoch to a CSV file, at once, so that it can be watched.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = _checks.path("path", path)

    def on_check(self, results: list[str]) -> None:
        _need_folder(self.path)

    def on_train_begin(self, state: State) -> None:
        self._started = False

    def on_epoch_end(self, state: State) -> None:
        with open(self.path, "a" if self._started else "w", newline="") as file:
            writer = csv.writer(file)
            if not self._started:
                writer.writerow(["epoch", *state.results, "seconds"])
            writer.writerow([state.epoch, *state.results.values(), state.history.seconds[-1]])
        self._started = True
