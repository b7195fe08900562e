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
from fastnn._objective import Objective
from fastnn._stepper import IN_ORDER, Stepper, tell_steps
from fastnn.cpu import team
from fastnn.network import Sequential
from fastnn.optimizers import LBFGS, Optimizer
from fastnn.optimizers._base import bound


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
    diverged : bool
        The loss turned NaN or infinite, and the network is back at the last finite epoch.
    """

    network: Sequential
    optimizer: Optimizer
    history: History
    epoch: int
    results: dict[str, float] = field(default_factory=dict)
    stopping: str | None = None
    diverged: bool = False

    def stop(self, reason: str = "a callback asked for it") -> None:
        """End training after this epoch."""
        self.stopping = reason

    def snapshot(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """A copy of parameters and running statistics."""
        self.network._pull()
        return self.network._theta.copy(), self.network._running.copy()

    def restore(self, snapshot: tuple[NDArray[Any], NDArray[Any]]) -> None:
        """Put a snapshot back."""
        self.network._theta[:], self.network._running[:] = snapshot
        self.network._push()


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
    except DivergenceError as error:
        if job.on_divergence == "raise":
            raise
        warnings.warn(str(error), RuntimeWarning, stacklevel=3)
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
    x, y, weights = _data.check_rows(X, y, sample_weight, network.dtype, network.n_inputs, network.device)
    plan = network._lay_out(x.shape[1])
    check_trainable(plan)
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
    names = ("validation_data[0]", "validation_data[1]", "validation_data[2]")
    given = data[2] if len(data) == 3 else None
    x, y, weights = _data.check_rows(data[0], data[1], given, network.dtype, plan.n_inputs, network.device, names)
    return _data.make_objective(plan, loss, x, y, weights, "validation_data[1]"), y


def _split(objective: Objective, held: int) -> tuple[Objective, Objective]:
    """The rows but the last ``held``, and those."""
    parts = []
    for side in (slice(None, -held), slice(-held, None)):
        weights = objective.weights[side] if objective.weights.size else objective.weights
        if weights.size and not _data.on_host(weights).any():
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


def _run_epochs(network: Sequential, job: _Job, optimizer: Optimizer, state: State) -> None:
    engine = network._ready()
    training = engine.training(job.objective, optimizer, job.batch_size, network._dropout_key)
    pace = engine.pace(job.batch_size, job.threads) if network.device == "cpu" else team.Pace(1)
    try:
        stepper = Stepper(training, state, pace, job.objective.x.shape[0], job.batch_size, job.callbacks)
        _walk_epochs(network, job, state, training, stepper)
    finally:
        training.close()


def _walk_epochs(network: Sequential, job: _Job, state: State, training: Any, stepper: Stepper) -> None:
    n, left = job.objective.x.shape[0], job.epochs
    # Launches on a GPU are few and long; between epochs that nobody looks at, there need not be an end of one.
    watched = network.device == "cpu" or job.callbacks or job.validation is not None or job.metrics
    kept = training.keep()
    hidden = None if job.progress is None else not job.progress
    delay = 1.0 if job.progress is None else 0.0
    with tqdm(total=job.epochs, unit="epoch", disable=hidden, delay=delay, dynamic_ncols=True) as bar:
        while left:
            begin = time.perf_counter()
            count = 1 if watched else stepper.fitting(left)
            before = network._shuffle_rng.bit_generator.state, network._steps
            orders = [network._shuffle_rng.permutation(n) if job.shuffle else IN_ORDER for _ in range(count)]
            found = stepper.epochs(orders[0] if count == 1 else np.concatenate(orders), count)
            if not (np.isfinite(found[-1]) and training.finite()):
                training.restore(kept)
                if count == 1:
                    raise _diverged(state, found[-1])
                # One after the other, to find the last epoch that was finite.
                network._shuffle_rng.bit_generator.state, network._steps = before
                watched = True
                continue
            kept = training.keep(kept)
            for loss in found:
                _end_epoch(network, job, state, loss, (time.perf_counter() - begin) / count)
            left -= count
            bar.update(count)
            bar.set_postfix({k: f"{v:.4g}" for k, v in state.results.items()}, refresh=False)
            if state.stopping is not None:
                return


def _end_epoch(network: Sequential, job: _Job, state: State, loss: float, seconds: float) -> None:
    """Validate, record and call the callbacks, after training for so many seconds."""
    begin = time.perf_counter() - seconds
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


def _diverged(state: State, loss: float) -> DivergenceError:
    """End training, and say so; what it had changed since the last epoch has been put back."""
    last = f"epoch {state.epoch}" if state.epoch else "the start"
    message = (
        f"training diverged in epoch {state.epoch + 1} (loss {loss}); the parameters of {last} are restored. "
        "Try a smaller learning rate, clip_norm, or scaled inputs"
    )
    state.diverged = True
    state.stop("diverged")
    return DivergenceError(message)


def _run_lbfgs(network: Sequential, job: _Job, optimizer: LBFGS, state: State) -> None:
    """L-BFGS on all rows at once, by SciPy: an iteration is an epoch. Dropout keeps one set of factors throughout."""
    engine = network._ready()
    key = network._dropout_key
    kept, kept_scalars = state.snapshot(), optimizer.bind(network._theta.size, network.dtype).scalars.copy()
    begin = time.perf_counter()

    def value_and_gradient(theta: NDArray[np.float64]) -> tuple[float, NDArray[Any]]:
        network._theta[:] = theta
        network._push()
        return engine.loss_and_gradients(job.objective, True, key)

    def after_iteration(theta: NDArray[np.float64], value: float) -> bool:
        nonlocal begin
        network._theta[:] = theta
        network._push()
        engine.update_statistics(job.objective, key)
        network._steps += 1
        tell_steps(job.callbacks, state)
        _end_epoch(network, job, state, value, time.perf_counter() - begin)
        begin = time.perf_counter()
        return state.stopping is not None

    with np.errstate(all="ignore"):
        found = optimizer.minimize(value_and_gradient, network._theta, job.epochs, after_iteration)
    if not (np.isfinite(found.value) and np.isfinite(found.theta).all()):
        assert optimizer.state is not None
        optimizer.state.scalars[:] = kept_scalars
        state.restore(kept)
        raise _diverged(state, found.value)
    network._theta[:] = found.theta
    network._push()
    if state.stopping is None and found.converged:
        state.stop("converged")
