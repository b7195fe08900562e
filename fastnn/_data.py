"""User data on its way to the engine: targets, weights and metrics of one network, checked against it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn import _checks, metrics
from fastnn._objective import Objective
from fastnn.losses import Loss
from fastnn.plan import Plan

Metric = Callable[..., float]


def _on_device(array: Any) -> bool:
    """Whether an array lies on a GPU."""
    return hasattr(array, "copy_to_host")


def on_host(array: Any) -> NDArray[Any]:
    """A NumPy array, copied from the GPU where the array lies there."""
    if not _on_device(array):
        found: NDArray[Any] = array
        return found
    from fastnn.cuda import streams

    return streams.to_host(array)


def returned(found: Any, X: Any) -> Any:
    """What was computed for X, where X came from."""
    if not _on_device(found):
        return found
    from fastnn.cuda import arrays

    return arrays.same_kind(found, X)


def check_inputs(name: str, X: Any, dtype: np.dtype[Any], n_columns: int | None, device: str) -> Any:
    """X, (n, n_inputs), finite and of this dtype, where the network computes."""
    if device == "cpu":
        return unlocked(_checks.matrix(name, X, dtype, n_columns=n_columns))
    from fastnn.cuda import arrays

    return arrays.matrix(name, X, dtype, n_columns)


def check_rows(
    X: Any,
    y: Any,
    sample_weight: Any,
    dtype: np.dtype[Any],
    n_columns: int | None,
    device: str,
    names: tuple[str, str, str] = ("X", "y", "sample_weight"),
) -> tuple[Any, Any, Any]:
    """Inputs, targets and weights of some rows, checked against each other.

    X and weights come back in this dtype where the network computes, weights empty where there are none. Targets come
    back as an array of their own dtype, finite and of one or two dimensions; those that lie on the GPU of a network
    there stay there, and are looked at when the loss lays them out.
    """
    x = check_inputs(names[0], X, dtype, n_columns, device)
    weights = _check_weights(names[2], sample_weight, dtype, x.shape[0], device)
    if device == "cpu":
        return x, _same_rows(names, x, _checks.real_array(names[1], y)), weights
    from fastnn.cuda import arrays

    targets = arrays.as_device(names[1], y) if arrays.on_device(y) else _checks.real_array(names[1], y)
    return x, _same_rows(names, x, targets), weights


def _same_rows(names: tuple[str, ...], x: Any, y: Any) -> Any:
    if y.ndim not in (1, 2):
        raise ValueError(f"{names[1]} must have shape (n,) or (n, outputs), got {y.shape}")
    if y.shape[0] != x.shape[0]:
        raise ValueError(f"{names[1]} must have as many rows as {names[0]}, which has {x.shape[0]}; got {y.shape[0]}")
    if not _on_device(y):
        _checks.check_finite(names[1], y)
    return y


def _check_weights(name: str, weights: Any, dtype: np.dtype[Any], n: int, device: str) -> Any:
    """Non-negative finite weights, not all zero; an empty array stands for none."""
    if weights is None:
        return np.empty(0, dtype)
    if device == "cpu":
        return unlocked(_checks.weights(name, weights, dtype, n))
    from fastnn.cuda import arrays

    return arrays.vector(name, weights, dtype, n)


class _Alias:
    """What NumPy needs to make an array of another's memory."""

    def __init__(self, array: NDArray[Any]):
        self._array = array  # keeps the memory alive
        self.__array_interface__ = array.__array_interface__ | {"data": (array.ctypes.data, False)}


def unlocked(array: NDArray[Any]) -> NDArray[Any]:
    """The same memory, not marked read-only: kernels only read it, and Numba would compile them anew for the mark."""
    return array if array.flags.writeable else np.asarray(_Alias(array))


def make_objective(laid_out: Plan, loss: Loss, x: Any, y: Any, weights: Any, name: str = "y") -> Objective:
    """A loss over checked data, for this network's outputs."""
    resolved = loss.resolve(laid_out.output_activation, laid_out.n_outputs)
    if not _on_device(x):
        targets, labels = loss.prepare_targets(y, laid_out.n_outputs, x.dtype, name=name)
        return Objective(resolved, unlocked(x), unlocked(targets), labels, unlocked(weights))
    from fastnn.cuda import targets as on_device

    targets, labels = on_device.prepare(loss, y, laid_out.n_outputs, x.dtype, name)
    return Objective(resolved, x, targets, labels, weights)


# A single output through one of these lies on both sides of 0.
_SIGNED = ("identity", "tanh", "hard_tanh", "softsign", "sine")


def threshold(laid_out: Plan) -> float:
    """Above it, a single output means class 1."""
    return 0.0 if laid_out.output_activation in _SIGNED else 0.5


def compute_metrics(
    laid_out: Plan,
    named: Mapping[str, Metric],
    y: Any,
    predicted: NDArray[Any],
    weights: NDArray[Any],
    y_name: str = "y",
) -> dict[str, float]:
    """Every metric of (y, predictions), with weights where there are any."""
    y, predicted = on_host(y), on_host(predicted)
    sample_weight = on_host(weights) if weights.size else None
    # The built-in metrics that count classes know only outputs between 0 and 1.
    classes = predicted
    if laid_out.n_outputs == 1:
        classes = np.where(np.isnan(predicted), predicted, predicted > threshold(laid_out))
    found = {}
    for name, metric in named.items():
        try:
            found[name] = float(metric(y, classes if metric in metrics.COUNTING else predicted, sample_weight))
        except ValueError as error:
            if metric.__module__ != metrics.__name__:
                raise
            raise ValueError(f"metrics: {name!r} does not fit {y_name}: {error}") from error
    return found


def default_metrics(loss: Loss | None, y: Any, n_outputs: int) -> tuple[str, ...]:
    """The accuracy, unless the loss says that the rows of y do not belong to one class each."""
    if loss is None:
        return ("accuracy",)
    one_each = loss.rowwise or n_outputs == 1 or y.ndim == 1 or y.shape[1] == 1
    return ("accuracy",) if loss.of_classes and one_each else ()


def resolve_metrics(name: str, value: str | Metric | Iterable[str | Metric]) -> dict[str, Metric]:
    """Metrics by the name they are reported under."""
    items = [value] if isinstance(value, str) or callable(value) else value
    if not isinstance(items, Iterable):
        raise TypeError(
            f"{name} must be names or functions of (y_true, y_pred, sample_weight), got {_checks.describe(value)}"
        )
    named: dict[str, Metric] = {}
    for item in items:
        metric = item if callable(item) else metrics.get(_checks.choice(name, item, metrics.METRICS))
        label = item if isinstance(item, str) else getattr(item, "__name__", repr(item))
        _check_arguments(name, label, metric)
        if label in named or label in ("loss", "val_loss"):
            raise ValueError(
                f"{name} must have names of their own, got a second {label!r}: set the function's __name__"
            )
        named[label] = metric
    return named


def _check_arguments(name: str, label: str, metric: Metric) -> None:
    """Refuse a function that cannot be called as metrics are, now and not after the first epoch."""
    try:
        inspect.signature(metric).bind(None, None, None)
    except ValueError:  # one that does not tell what it takes
        return
    except TypeError as error:
        raise TypeError(f"{name}: {label!r} must take (y_true, y_pred, sample_weight): {error}") from error


def check_metrics(
    laid_out: Plan, named: Mapping[str, Metric], y: NDArray[Any], weights: NDArray[Any], y_name: str = "y"
) -> None:
    """Refuse targets that a built-in metric does not take, now and not after the first epoch."""
    built_in = {label: metric for label, metric in named.items() if metric.__module__ == metrics.__name__}
    compute_metrics(laid_out, built_in, y, np.zeros((y.shape[0], laid_out.n_outputs)), weights, y_name)


def class_weights(value: Any, objective: Objective, n_outputs: int) -> Any:
    """The sample weights times a weight a class: a dict of labels to weights (1 where absent), or "balanced".

    "balanced" is ``n / (n_classes * count)`` over the classes present, as in scikit-learn.
    """
    n_classes = max(n_outputs, 2)
    labels = _class_labels(objective, n_classes)
    table = np.ones(n_classes)
    if isinstance(value, str):
        _checks.choice("class_weight", value, ("balanced",))
        counts = np.bincount(labels, minlength=n_classes)
        present = counts > 0
        table[present] = labels.size / (present.sum() * counts[present])
    elif isinstance(value, Mapping):
        for label, weight in value.items():
            index = _checks.integer("class_weight's label", label, low=0, high=n_classes - 1)
            table[index] = _checks.number(f"class_weight[{label}]", weight, low=0)
    else:
        raise TypeError(
            f"class_weight must be a dict of labels to weights or 'balanced', got {_checks.describe(value)}"
        )
    factors = _checks.cast("class_weight", table[labels], objective.x.dtype, finite=True)
    combined = factors * on_host(objective.weights) if objective.weights.size else factors
    if not combined.any():
        raise ValueError(f"class_weight must leave some sample a weight, got {value!r}, which makes all of them zero")
    device = "cuda" if _on_device(objective.x) else "cpu"
    return _check_weights("class_weight", combined, objective.x.dtype, len(combined), device)


def _class_labels(objective: Objective, n_classes: int) -> NDArray[np.int64]:
    """The class of every sample: from labels, from one column of two values, or from rows with a single 1."""
    y = on_host(objective.y)
    if objective.labels or y.shape[1] == 1:
        labels = y[:, 0]
        if np.isin(labels, (-1, 1)).all():
            labels = np.maximum(labels, 0)
        valid = np.isin(labels, np.arange(n_classes)).all()
    else:
        labels = y.argmax(axis=1)
        valid = ((y == 1).sum(axis=1) == 1).all() and ((y == 1) | (y == 0) | (y == -1)).all()
    if not valid:
        raise ValueError("class_weight needs class labels or one-hot rows as targets, got other numbers in y")
    return labels.astype(np.int64)
