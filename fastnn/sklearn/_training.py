"""The epochs of a fit: scikit-learn's bookkeeping around the library's training steps."""

from __future__ import annotations

import time
import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import xlogy
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import get_scorer
from sklearn.model_selection import train_test_split
from sklearn.utils.optimize import _check_optimize_result
from tqdm import tqdm

from fastnn import optimizers
from fastnn._stepper import IN_ORDER, Stepper
from fastnn.optimizers import LBFGS, SGD, Optimizer
from fastnn.schedules import Schedule
from fastnn.sklearn._network import Link, Task, most_threads
from fastnn.training import History, State, check_callbacks, tell

NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large values and need to be preprocessed."
)
# Below it, the learning rate of "adaptive" is not lowered any more.
_LEAST_RATE = 1e-6


class Rows(NamedTuple):
    """Samples; Y (n, n_outputs)."""

    X: NDArray[Any]
    Y: NDArray[Any]
    weights: NDArray[Any] | None


class _Validation:
    """Held-out rows: their loss and score after an epoch."""

    def __init__(self, est: Any, link: Link, task: Task, rows: Rows):
        self._est, self._link, self._weights = est, link, rows.weights
        self._objective = link.objective(task, *rows)
        self._y = est._decode(rows.Y)
        self._offset = _offset(task, rows.Y)

    def loss(self) -> float:
        constant = 0.0 if self._offset is None else float(np.average(self._offset, weights=self._weights))
        return self._link.engine.evaluate(self._objective) + constant

    def score(self) -> float:
        est, x = self._est, self._objective.x
        if est.scoring is None:
            outputs = self._link.engine.predict(x, most_threads(est.n_threads))
            return est._metric(self._y, est._decode(outputs), self._weights) if np.isfinite(outputs).all() else np.nan
        scorer = get_scorer(est.scoring) if isinstance(est.scoring, str) else est.scoring
        weighted = {} if self._weights is None else {"sample_weight": self._weights}
        est._own_data = True  # these rows lost their feature names on the way, which is no reason for a warning
        try:
            return float(scorer(est, x, self._y, **weighted))
        finally:
            del est._own_data


def is_full_batch(solver: Any) -> bool:
    return solver == "lbfgs" if isinstance(solver, str) else solver.full_batch


def start_scores(est: Any, early_stopping: bool) -> None:
    """Empty records of validation, or None where there is none."""
    est.validation_scores_ = [] if early_stopping else None
    est.validation_loss_curve_ = [] if early_stopping else None
    est.best_validation_score_ = -np.inf if early_stopping else None
    est._best_parameters = None


def _make_optimizer(est: Any) -> Optimizer:
    if isinstance(est.solver, Optimizer):
        made = est.solver.copy()
        made.reset()
        return made
    rate = est.learning_rate if isinstance(est.learning_rate, Schedule) else float(est.learning_rate_init)
    if est.solver == "sgd":
        momentum = float(est.momentum)
        return SGD(rate, momentum=momentum, nesterov=bool(est.nesterovs_momentum) and momentum > 0)
    betas = (float(est.beta_1), float(est.beta_2))
    return optimizers.Adam(rate, betas=betas, eps=float(est.epsilon), epsilon_hat=True)


def _set_rate(optimizer: Any, rate: float) -> None:
    """Change the learning rate of SGD; scikit-learn keeps it inside the velocity, which therefore stays as it is."""
    optimizer.state.slots *= optimizer.learning_rate / rate
    optimizer.learning_rate = rate


def _policy(est: Any) -> str:
    """The learning-rate policy; only scikit-learn's own SGD has one that does something."""
    return est.learning_rate if est.solver == "sgd" and isinstance(est.learning_rate, str) else "constant"


def _on_plateau(est: Any, validated: bool) -> bool:
    """Lower the learning rate, or say that it is time to stop."""
    what = "Validation score" if validated else "Training loss"
    message = f"{what} did not improve more than tol={est.tol:f} for {est.n_iter_no_change} consecutive epochs."
    adaptive = _policy(est) == "adaptive"
    if adaptive and est._optimizer.learning_rate > _LEAST_RATE:
        _set_rate(est._optimizer, est._optimizer.learning_rate / 5.0)
        if est.verbose:
            print(f"{message} Setting learning rate to {est._optimizer.learning_rate:f}")
        est._no_improvement_count = 0
        return False
    if est.verbose:
        print(f"{message} {'Learning rate too small. ' * adaptive}Stopping.")
    return True


def _hold_out(est: Any, rows: Rows) -> tuple[Rows, Rows]:
    """Some rows for validation, the same ones that scikit-learn takes."""
    stratify = rows.Y if is_classifier(est) and est.n_outputs_ == 1 else None
    given = [array for array in rows if array is not None]
    parts = train_test_split(
        *given, random_state=est._random_state, test_size=est.validation_fraction, stratify=stratify
    )
    learn, held = parts[::2], parts[1::2]
    if held[0].shape[0] < 2:
        raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
    return Rows(*learn, *[None] * (3 - len(learn))), Rows(*held, *[None] * (3 - len(held)))


def _batch_size(est: Any, n: int) -> int:
    if est.batch_size == "auto":
        return min(200, n)
    if est.batch_size > n:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
        )
    return min(int(est.batch_size), n)


def _offset(task: Task, Y: NDArray[Any]) -> NDArray[Any] | None:
    """What the reported loss of each row has beyond the engine's, (n,)."""
    return (xlogy(Y, Y) - Y).sum(axis=1) if task.poisson else None


class _Loss:
    """The loss of an epoch as scikit-learn counts it: a batch counts by its rows, whatever their weights."""

    def __init__(self, stepper: Stepper, rows: Rows, batch: int, offset: NDArray[Any] | None):
        n = len(rows.X)
        self._stepper, self._weights, self._offset = stepper, rows.weights, offset
        self._starts = np.arange(0, n, batch)
        self._shares = np.diff(self._starts, append=n) / n

    def __call__(self, order: NDArray[Any], mean: float) -> float:
        offset, weights = self._offset, self._weights
        if weights is None:
            return mean + (0.0 if offset is None else float(offset.mean()))
        batch_losses = self._stepper.losses
        if offset is not None:
            w, c = (weights[order], offset[order]) if order.size else (weights, offset)
            totals = np.add.reduceat(w, self._starts)
            sums = np.add.reduceat(w * c, self._starts)
            batch_losses = batch_losses + np.divide(sums, totals, out=np.zeros_like(sums), where=totals != 0)
        return float(batch_losses @ self._shares)


class _Listeners:
    """Callbacks and the progress bar of a fit."""

    def __init__(self, est: Any, link: Link, optimizer: Optimizer, epochs: int, results: list[str]):
        self.callbacks = check_callbacks(() if est.callbacks is None else est.callbacks)
        for callback in self.callbacks:
            if hasattr(callback, "on_check"):
                callback.on_check(results)
        self.state = State(link.network, optimizer, History(), link.network._epochs)
        self._bar = tqdm(total=epochs, unit="epoch", dynamic_ncols=True) if est.progress else None
        self._begin = time.perf_counter()
        tell(self.callbacks, "on_train_begin", self.state)

    def epoch(self, results: dict[str, float]) -> bool:
        """Tell about an epoch; whether a callback wants to stop."""
        state, history = self.state, self.state.history
        state.network._epochs += 1
        if self._bar is not None:
            self._bar.update()
            self._bar.set_postfix({k: f"{v:.4g}" for k, v in results.items()}, refresh=False)
        if self.callbacks:
            state.epoch, state.results = state.network._epochs, results
            history.epochs.append(state.epoch)
            history.loss.append(results["loss"])
            if "val_loss" in results:
                history.val_loss.append(results["val_loss"])
                history.metrics.setdefault("val_score", []).append(results["val_score"])
            now = time.perf_counter()
            history.seconds.append(now - self._begin)
            self._begin = now
            tell(self.callbacks, "on_epoch_end", state)
        return state.stopping is not None

    def end(self) -> None:
        tell(self.callbacks, "on_train_end", self.state)
        if self._bar is not None:
            self._bar.close()


def fit_stochastic(est: Any, link: Link, rows: Rows, held: Rows | None, incremental: bool) -> None:
    """Epochs of gradient descent: up to ``max_iter``, or one if ``incremental``."""
    if not incremental or not hasattr(est, "_optimizer"):
        est._optimizer = _make_optimizer(est)
    if est.early_stopping and incremental and held is None:
        raise ValueError("partial_fit does not support early_stopping=True without validation_data=(X, y)")
    task = est._task(est.n_outputs_)
    validation = None
    if est.early_stopping:
        if held is None:
            rows, held = _hold_out(est, rows)
        validation = _Validation(est, link, task, held)
        if est.validation_scores_ is None:
            start_scores(est, True)
        if est._best_parameters is None:
            est._best_parameters = link.theta.copy()
    n = len(rows.X)
    batch = _batch_size(est, n)
    engine, network = link.engine, link.network
    objective = link.objective(task, *rows, alpha=float(est.alpha))
    run = engine.training(objective, est._optimizer, batch, network._dropout_key)
    pace = engine.pace(batch, most_threads(est.n_threads))
    epochs = 1 if incremental else est.max_iter
    results = ["loss"] if validation is None else ["loss", "val_loss", "val_score"]
    listeners = _Listeners(est, link, est._optimizer, epochs, results)
    stepper = Stepper(run, listeners.state, pace, n, batch, listeners.callbacks)
    loss_of = _Loss(stepper, rows, batch, _offset(task, rows.Y))
    order, est.n_iter_, est.stopped_ = IN_ORDER, 0, False
    try:
        for epoch in range(epochs):
            if est.shuffle:
                shuffled = np.arange(n)
                est._random_state.shuffle(shuffled)
                order = order[shuffled] if order.size else shuffled
            finite = _end_epoch(est, validation, n, loss_of(order, stepper.epoch(order)))
            asked = listeners.epoch(_results(est, validation))
            if not finite:
                if validation is None:
                    raise ValueError(NOT_FINITE)
                warnings.warn(f"Training diverged in epoch {est.n_iter_}.", ConvergenceWarning, stacklevel=2)
                break
            if _policy(est) == "invscaling":
                _set_rate(est._optimizer, float(est.learning_rate_init) / (est.t_ + 1) ** est.power_t)
            if est._no_improvement_count > est.n_iter_no_change and _on_plateau(est, validation is not None):
                est.stopped_ = True
                break
            if asked or incremental:
                break
            if epoch + 1 == epochs:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({est.max_iter}) reached and the optimization hasn't "
                    "converged yet.",
                    ConvergenceWarning,
                    stacklevel=2,
                )
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=2)
    finally:
        run.close()
        listeners.end()
    if validation is not None and (not incremental or est.stopped_):
        link.theta[:] = est._best_parameters
        if incremental:
            est._no_improvement_count = 0


def _results(est: Any, validation: _Validation | None) -> dict[str, float]:
    results = {"loss": est.loss_}
    if validation is not None:
        results |= {"val_loss": est.validation_loss_curve_[-1], "val_score": est.validation_scores_[-1]}
    return results


def _end_epoch(est: Any, validation: _Validation | None, n: int, loss: float) -> bool:
    """Record an epoch and whether it was an improvement; False if its loss is not finite."""
    finite = bool(np.isfinite(loss))
    est.n_iter_ += 1
    est.loss_ = loss
    est.t_ += n
    est.loss_curve_.append(loss)
    if est.verbose:
        print(f"Iteration {est.n_iter_}, loss = {loss:.8f}")
    if validation is None:
        best = np.inf if est.best_loss_ is None else est.best_loss_
        improved = not loss > best - est.tol
        est.best_loss_ = min(best, loss)
    else:
        score = validation.score() if finite else np.nan
        est.validation_scores_.append(score)
        est.validation_loss_curve_.append(validation.loss() if finite else np.nan)
        if est.verbose:
            print(f"Validation score: {score:f}")
        improved = not score < est.best_validation_score_ + est.tol
        if score > est.best_validation_score_:
            est.best_validation_score_ = score
            est._best_parameters[:] = validation._link.theta
    est._no_improvement_count = 0 if improved else est._no_improvement_count + 1
    return finite


def fit_full_batch(est: Any, link: Link, rows: Rows) -> None:
    """L-BFGS on all rows at once, by SciPy."""
    network, engine, task = link.network, link.engine, est._task(est.n_outputs_)
    objective = link.objective(task, *rows, alpha=float(est.alpha))
    offset = _offset(task, rows.Y)
    constant = 0.0 if offset is None else float(np.average(offset, weights=rows.weights))
    solver = LBFGS() if isinstance(est.solver, str) else est.solver.copy()
    listeners = _Listeners(est, link, solver, est.max_iter, ["loss"])
    iterations = 0

    def value_and_gradient(theta: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        network._theta[:] = theta
        value, gradient = engine.loss_and_gradients(objective, True, network._dropout_key)
        return float(value) + constant, gradient.astype(np.float64)

    def after_iteration(theta: NDArray[Any], value: float) -> bool:
        nonlocal iterations
        iterations += 1
        network._theta[:] = theta
        if est.verbose:
            print(f"Iteration {iterations}, loss = {value:.8f}")
        return listeners.epoch({"loss": value})

    def callback(intermediate_result: Any) -> None:
        if after_iteration(intermediate_result.x, float(intermediate_result.fun)):
            raise StopIteration

    try:
        with np.errstate(over="ignore", invalid="ignore"):  # parameters that float32 does not hold
            if not isinstance(est.solver, str):
                found = solver.minimize(value_and_gradient, link.theta, est.max_iter, after_iteration)
                theta, est.loss_, est.n_iter_ = found.theta, found.value, found.iterations
            else:
                options = {"maxfun": est.max_fun, "maxiter": est.max_iter, "gtol": est.tol}
                result = minimize(
                    value_and_gradient, link.theta.astype(np.float64), jac=True, method="L-BFGS-B",
                    options=options, callback=callback,
                )  # fmt: skip
                theta, est.loss_ = result.x, float(result.fun)
                est.n_iter_ = _check_optimize_result("lbfgs", result, est.max_iter)
        network._theta[:] = theta
    finally:
        listeners.end()
