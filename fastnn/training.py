"""``fit``: batches, epochs, validation, callbacks and history. All arithmetic is the engine's."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from fastnn import _checks, _data, losses, optimizers
from fastnn._data import Metric
from fastnn._model import check_trainable
from fastnn.cpu import team
from fastnn.cpu.engine import Objective, Training
from fastnn.network import Sequential
from fastnn.optimizers import LBFGS, Optimizer
from fastnn.optimizers._base import bound

# One compiled call lasts about this long, so that Ctrl-C, the progress bar and callbacks are served in time.
_CHUNK_SECONDS = 0.05
_FIRST_CHUNK = 64
_MOST_STEPS = 1 << 16
IN_ORDER = np.empty(0, np.int64)  # the rows as they come


class DivergenceError(ArithmeticError):
    """The training loss turned NaN or infinite; the network holds the parameters of the last finite epoch."""


@dataclass
class History:
    """What happened in each epoch of one call of ``fit``.

    Attributes
    ----------
    epochs : list of int
        Numbers of the epochs, counted over all calls of ``fit``.
    loss : list of float
        Weighted mean training loss over the epoch's batches, penalties included.
    val_loss : list of float
        Loss on the validation data after the epoch, without penalties; empty if there are none.
    metrics : dict of str to list of float
    seconds : list of float
        Duration of each epoch.
    stopped : str or None
        Why training ended early.
    """

    epochs: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)
    metrics: dict[str, list[float]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    stopped: str | None = None

    def to_dict(self) -> dict[str, list[float] | list[int]]:
        """All columns by name, metrics among them; what a data frame takes."""
        columns: dict[str, list[float] | list[int]] = {"epochs": self.epochs, "loss": self.loss}
        if self.val_loss:
            columns["val_loss"] = self.val_loss
        return columns | self.metrics | {"seconds": self.seconds}

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses over the epochs, as `fastnn.plots.losses` does; returns the matplotlib axes."""
        from fastnn import plots

        return plots.losses(self, ax)


@dataclass
class State:
    """What a callback sees.

    Attributes
    ----------
    network : Sequential
    optimizer : Optimizer
    history : History
    epoch : int
        Number of the epoch that has just ended (or, within an epoch, of the one before).
    results : dict of str to float
        Results of the last epoch: "loss", "val_loss" and metrics.
    """

    network: Sequential
    optimizer: Optimizer
    history: History
    epoch: int
    results: dict[str, float] = field(default_factory=dict)
    stopping: str | None = None

    def stop(self, reason: str = "a callback asked for it") -> None:
        """End training after this epoch."""
        self.stopping = reason

    def snapshot(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """A copy of parameters and running statistics."""
        return self.network._theta.copy(), self.network._running.copy()

    def restore(self, snapshot: tuple[NDArray[Any], NDArray[Any]]) -> None:
        """Put a snapshot back."""
        self.network._theta[:], self.network._running[:] = snapshot


@dataclass
class _Job:
    """Checked arguments of one call of ``fit``."""

    objective: Objective
    validation: Objective | None
    y: Any  # as given, in an array, for metrics
    y_validation: Any
    metrics: Mapping[str, Metric]
    epochs: int
    batch_size: int
    shuffle: bool
    callbacks: list[Any]
    progress: bool | None
    on_divergence: str
    threads: int


def fit(network: Sequential, X: Any, y: Any, *, optimizer: str | Optimizer, **options: Any) -> History:
    """See ``Sequential.fit``. Everything is checked before anything changes."""
    chosen = _choose_optimizer(network, optimizer)
    job, plan = _check(network, X, y, **options)
    if chosen.state is not None:
        bound(chosen, plan.n_parameters, network.dtype)
    network._build(plan)
    if isinstance(optimizer, str):
        network._kept_optimizer = chosen
    history = History(metrics={name: [] for name in _metric_names(job)})
    if not job.epochs:
        return history
    state = State(network, chosen, history, network._epochs)
    tell(job.callbacks, "on_train_begin", state)
    try:
        if isinstance(chosen, LBFGS):
            _run_lbfgs(network, job, chosen, state)
        else:
            _run_epochs(network, job, chosen, state)
    finally:
        tell(job.callbacks, "on_train_end", state)
    history.stopped = state.stopping
    return history


def _choose_optimizer(network: Sequential, optimizer: str | Optimizer) -> Optimizer:
    chosen = optimizers.get(optimizer)
    kept = network._kept_optimizer
    if isinstance(optimizer, str) and kept is not None and type(kept) is type(chosen):
        return kept
    return chosen


def _check(
    network: Sequential,
    X: Any,
    y: Any,
    *,
    loss: Any,
    epochs: Any,
    batch_size: Any,
    validation_data: Any,
    validation_split: Any,
    sample_weight: Any,
    class_weight: Any,
    shuffle: Any,
    metrics: Any,
    callbacks: Any,
    progress: Any,
    on_divergence: Any,
    n_threads: Any,
) -> tuple[_Job, Any]:
    chosen = losses.get(loss)
    epochs = _checks.integer("epochs", epochs, low=0)
    batch_size = _checks.integer("batch_size", batch_size, low=1, none=True)
    split = _checks.number("validation_split", validation_split, low=0, high=1, high_open=True)
    shuffle = _checks.flag("shuffle", shuffle)
    progress = None if progress is None else _checks.flag("progress", progress)
    on_divergence = _checks.choice("on_divergence", on_divergence, ("raise", "restore"))
    threads = team.most_threads(n_threads)
    named = _data.resolve_metrics("metrics", metrics)
    listeners = check_callbacks(callbacks)
    x = _checks.matrix("X", X, network.dtype, n_columns=network.n_inputs)
    plan = network._lay_out(x.shape[1])
    check_trainable(plan)
    y = _data.check_targets(x, y)
    weights = _data.check_weights(sample_weight, x.shape[0], network.dtype)
    objective = _data.make_objective(plan, chosen, x, y, weights)
    validation: Objective | None = None
    y_validation: Any = None
    if validation_data is not None:
        if split:
            raise ValueError("give validation_data or validation_split, not both")
        validation, y_validation = _check_validation(network, plan, chosen, validation_data)
    elif split:
        held = round(x.shape[0] * split)
        if not 0 < held < x.shape[0]:
            raise ValueError(f"validation_split={split:g} of {x.shape[0]} rows leaves no rows on one of the two sides")
        objective, validation = _split(objective, held)
        y, y_validation = y[:-held], y[-held:]
    _data.check_metrics(plan, named, y, objective.weights)
    if validation is not None:
        _data.check_metrics(plan, named, y_validation, validation.weights, "the validation data")
    if class_weight is not None:
        objective = replace(objective, weights=_data.class_weights(class_weight, objective, plan.n_outputs))
    n = objective.x.shape[0]
    size = n if batch_size is None else min(batch_size, n)
    job = _Job(
        objective, validation, y, y_validation, named, epochs, size, shuffle, listeners, progress, on_divergence,
        threads,
    )  # fmt: skip
    results = ["loss", *(["val_loss"] if validation is not None else []), *_metric_names(job)]
    for listener in listeners:
        if hasattr(listener, "on_check"):
            listener.on_check(results)
    return job, plan


def check_callbacks(callbacks: Any) -> list[Any]:
    methods = ("on_check", "on_train_begin", "on_epoch_end", "on_steps_end", "on_train_end")
    items = list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
    for i, item in enumerate(items):
        if isinstance(item, type) or not (callable(item) or any(hasattr(item, m) for m in methods)):
            raise TypeError(f"callbacks[{i}] must be callable or an object of fastnn.callbacks, got {item!r}")
        if hasattr(item, "on_steps_end"):
            _checks.integer(f"callbacks[{i}].every_steps", getattr(item, "every_steps", None), low=1)
    return items


def _check_validation(network: Sequential, plan: Any, loss: Any, data: Any) -> tuple[Objective, Any]:
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise TypeError(f"validation_data must be (X, y) or (X, y, sample_weight), got {_checks.describe(data)}")
    x = _checks.matrix("validation_data[0]", data[0], network.dtype, n_columns=plan.n_inputs)
    y = _data.check_targets(x, data[1], "validation_data[0]", "validation_data[1]")
    given = data[2] if len(data) == 3 else None
    weights = _data.check_weights(given, x.shape[0], network.dtype, "validation_data[2]")
    return _data.make_objective(plan, loss, x, y, weights, "validation_data[1]"), y


def _split(objective: Objective, held: int) -> tuple[Objective, Objective]:
    """The rows but the last ``held``, and those."""
    parts = []
    for side in (slice(None, -held), slice(-held, None)):
        weights = objective.weights[side] if objective.weights.size else objective.weights
        if weights.size and not weights.any():
            raise ValueError(f"validation_split leaves one of its sides ({weights.size} rows) a sample_weight of zero")
        parts.append(replace(objective, x=objective.x[side], y=objective.y[side], weights=weights))
    return parts[0], parts[1]


def _metric_names(job: _Job) -> list[str]:
    names = list(job.metrics)
    return names + [f"val_{name}" for name in names if job.validation is not None]


def tell(callbacks: list[Any], event: str, state: State) -> None:
    for callback in callbacks:
        method = getattr(callback, event, None)
        if method is not None:
            method(state)
        elif event == "on_epoch_end" and callable(callback):
            callback(state)


class Stepper:
    """Walks the steps of an epoch in chunks of compiled calls, adapting their length to the time they take.

    ``losses`` and ``weights``, (steps of an epoch,), are those of the last epoch's batches.
    """

    def __init__(
        self, training: Training, state: State, pace: team.Pace, n_rows: int, batch_size: int, callbacks: list[Any]
    ):
        self._training = training
        self._pace = pace
        self._batch_size = batch_size
        self._state = state
        self._chunk = _FIRST_CHUNK
        self._listeners = [c for c in callbacks if hasattr(c, "on_steps_end")]
        self.steps_per_epoch = -(-n_rows // batch_size)
        self.losses, self.weights = np.empty((2, self.steps_per_epoch))

    def epoch(self, order: NDArray[np.int64]) -> float:
        """Run one epoch; returns its mean loss, not finite if training diverged."""
        network = self._state.network
        done = 0
        while done < self.steps_per_epoch:
            n_steps = min(self._chunk, self.steps_per_epoch - done)
            for listener in self._listeners:
                n_steps = min(n_steps, listener.every_steps - network._steps % listener.every_steps)
            n_steps = self._pace.limit(n_steps)
            begin = time.perf_counter()
            n_done, step_losses, step_weights = self._training.run(
                order, done * self._batch_size, n_steps, network._steps, self._pace.threads
            )
            seconds = time.perf_counter() - begin
            self._pace.saw(seconds, n_steps)
            network._steps += n_done
            if n_done < n_steps:
                return float(step_losses[n_done])
            self.weights[done : done + n_steps] = step_weights
            self.losses[done : done + n_steps] = step_losses
            done += n_steps
            if n_steps == self._chunk:
                self._chunk = int(
                    min(max(self._chunk * _CHUNK_SECONDS / max(seconds, 1e-6), 1), 2 * self._chunk, _MOST_STEPS)
                )
            for listener in self._listeners:
                if network._steps % listener.every_steps == 0:
                    listener.on_steps_end(self._state)
        # One sum over the epoch: the length of the chunks, which follows the clock, leaves no trace in it.
        total = self.weights.sum()
        return float((self.losses * self.weights).sum() / total) if total else 0.0


def _run_epochs(network: Sequential, job: _Job, optimizer: Optimizer, state: State) -> None:
    engine = network._ready()
    training = engine.training(job.objective, optimizer, job.batch_size, network._dropout_key)
    pace = engine.pace(job.batch_size, job.threads)
    try:
        stepper = Stepper(training, state, pace, job.objective.x.shape[0], job.batch_size, job.callbacks)
        _walk_epochs(network, job, optimizer, state, stepper)
    finally:
        training.close()


def _walk_epochs(network: Sequential, job: _Job, optimizer: Optimizer, state: State, stepper: Stepper) -> None:
    n = job.objective.x.shape[0]
    kept = _keep(state, optimizer)
    hidden = None if job.progress is None else not job.progress
    delay = 1.0 if job.progress is None else 0.0
    with tqdm(total=job.epochs, unit="epoch", disable=hidden, delay=delay, dynamic_ncols=True) as bar:
        for _ in range(job.epochs):
            begin = time.perf_counter()
            order = network._shuffle_rng.permutation(n) if job.shuffle else IN_ORDER
            loss = stepper.epoch(order)
            if not (np.isfinite(loss) and np.isfinite(network._theta).all()):
                _diverged(state, optimizer, kept, loss, job.on_divergence)
                return
            kept = _keep(state, optimizer, kept)
            _end_epoch(network, job, state, loss, begin)
            bar.update()
            bar.set_postfix({k: f"{v:.4g}" for k, v in state.results.items()}, refresh=False)
            if state.stopping is not None:
                return


def _end_epoch(network: Sequential, job: _Job, state: State, loss: float, begin: float) -> None:
    """Validate, record and call the callbacks."""
    engine, history = network._ready(), state.history
    network._epochs += 1
    state.epoch = network._epochs
    state.results = {"loss": loss}
    if job.validation is not None:
        state.results["val_loss"] = engine.evaluate(job.validation)
    for prefix, objective, y in (("", job.objective, job.y), ("val_", job.validation, job.y_validation)):
        if objective is not None and job.metrics:
            values = _data.compute_metrics(
                network._built(), job.metrics, y, engine.predict(objective.x, job.threads), objective.weights
            )
            state.results |= {f"{prefix}{name}": value for name, value in values.items()}
    history.epochs.append(state.epoch)
    history.loss.append(loss)
    if job.validation is not None:
        history.val_loss.append(state.results["val_loss"])
    for name, values_so_far in history.metrics.items():
        values_so_far.append(state.results[name])
    history.seconds.append(time.perf_counter() - begin)
    tell(job.callbacks, "on_epoch_end", state)


_Kept = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


def _keep(state: State, optimizer: Optimizer, into: _Kept | None = None) -> _Kept:
    """A copy of parameters, running statistics and the optimizer's state, into an older copy if there is one."""
    assert optimizer.state is not None
    live = (state.network._theta, state.network._running, optimizer.state.slots, optimizer.state.scalars)
    if into is None:
        return tuple(array.copy() for array in live)  # type: ignore[return-value]
    for array, copy in zip(live, into, strict=True):
        copy[...] = array
    return into


def _diverged(state: State, optimizer: Optimizer, kept: _Kept, loss: float, on_divergence: str) -> None:
    assert optimizer.state is not None
    live = (state.network._theta, state.network._running, optimizer.state.slots, optimizer.state.scalars)
    for array, copy in zip(live, kept, strict=True):
        array[...] = copy
    last = f"epoch {state.epoch}" if state.epoch else "the start"
    message = (
        f"training diverged in epoch {state.epoch + 1} (loss {loss}); the parameters of {last} are restored. "
        "Try a smaller learning rate, clip_norm, or scaled inputs"
    )
    if on_divergence == "raise":
        raise DivergenceError(message)
    warnings.warn(message, RuntimeWarning, stacklevel=4)
    state.stop("diverged")


def _run_lbfgs(network: Sequential, job: _Job, optimizer: LBFGS, state: State) -> None:
    """L-BFGS on all rows at once, by SciPy: an iteration is an epoch. Dropout keeps one set of factors throughout."""
    engine = network._ready()
    key = network._dropout_key
    optimizer.bind(network._theta.size, network.dtype)
    kept = _keep(state, optimizer)
    begin = time.perf_counter()

    def value_and_gradient(theta: NDArray[np.float64]) -> tuple[float, NDArray[Any]]:
        network._theta[:] = theta
        return engine.loss_and_gradients(job.objective, True, key)

    def after_iteration(theta: NDArray[np.float64], value: float) -> bool:
        nonlocal begin
        network._theta[:] = theta
        engine.update_statistics(job.objective, key)
        network._steps += 1
        _end_epoch(network, job, state, value, begin)
        begin = time.perf_counter()
        return state.stopping is not None

    with np.errstate(all="ignore"):
        found = optimizer.minimize(value_and_gradient, network._theta, job.epochs, after_iteration)
    if not (np.isfinite(found.value) and np.isfinite(found.theta).all()):
        _diverged(state, optimizer, kept, found.value, job.on_divergence)
        return
    network._theta[:] = found.theta
    if state.stopping is None and found.converged:
        state.stop("converged")
