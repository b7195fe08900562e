"""User data on its way to the engine: targets, weights and metrics of one network, checked against it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastnn import _checks, metrics
from fastnn.cpu.engine import Objective
from fastnn.losses import Loss
from fastnn.plan import Plan

Metric = Callable[..., float]


def check_lengths(x: NDArray[Any], y: Any, x_name: str = "X", y_name: str = "y") -> None:
    """X and y must hold the same number of samples."""
    try:
        length = len(y)
    except TypeError as error:
        raise TypeError(f"{y_name} must be an array of targets, got {_checks.describe(y)}") from error
    if length != x.shape[0]:
        raise ValueError(f"{x_name} and {y_name} must have as many rows: {x_name} has {x.shape[0]}, {y_name} has {length}")


def check_weights(
    weights: ArrayLike | None, n: int, dtype: np.dtype[Any], name: str = "sample_weight"
) -> NDArray[Any]:
    """Non-negative finite weights, not all zero; an empty array stands for none."""
    if weights is None:
        return np.empty(0, dtype)
    checked = _checks.vector(name, weights, dtype, length=n)
    if checked.min() < 0:
        where = int(checked.argmin())
        raise ValueError(f"{name} must not be negative, got {checked[where]:g} at position {where}")
    if not checked.any():
        raise ValueError(f"{name} must not be zero everywhere")
    return checked


def make_objective(
    laid_out: Plan, loss: Loss, x: NDArray[Any], y: Any, weights: NDArray[Any], name: str = "y"
) -> Objective:
    """A loss over checked data, for this network's outputs."""
    resolved = loss.resolve(laid_out.output_activation, laid_out.n_outputs)
    targets, labels = loss.prepare_targets(y, laid_out.n_outputs, x.dtype, name=name)
    return Objective(resolved, x, targets, labels, weights)


def compute_metrics(
    named: Mapping[str, Callable[..., float]], y: Any, predicted: NDArray[Any], weights: NDArray[Any]
) -> dict[str, float]:
    """Every metric of (y, predictions), with weights where there are any."""
    sample_weight = weights if weights.size else None
    return {name: float(metric(y, predicted, sample_weight)) for name, metric in named.items()}


def resolve_metrics(name: str, value: str | Metric | Iterable[str | Metric]) -> dict[str, Metric]:
    """Metrics by the name they are reported under."""
    items = [value] if isinstance(value, str) or callable(value) else value
    if not isinstance(items, Iterable):
        raise TypeError(f"{name} must be names or functions of (y_true, y_pred), got {_checks.describe(value)}")
    named: dict[str, Metric] = {}
    for item in items:
        metric = metrics.get(item)
        named[item if isinstance(item, str) else getattr(item, "__name__", repr(item))] = metric
    return named


def class_weights(value: Any, objective: Objective, n_outputs: int) -> NDArray[Any]:
    """One weight a sample from a weight a class: a dict of labels to weights (1 where absent), or "balanced".

    "balanced" is ``n / (n_classes * count)`` over the classes present, as in scikit-learn.
    """
    dtype = objective.x.dtype
    if objective.labels or n_outputs == 1:
        labels = objective.y[:, 0]
        n_classes = 2 if n_outputs == 1 else n_outputs
    else:
        labels, n_classes = objective.y.argmax(axis=1), n_outputs
    if not np.array_equal(labels, np.rint(labels)) or labels.min() < 0:
        raise ValueError("class_weight needs class labels as targets, got other numbers in y")
    labels = labels.astype(np.int64)
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
        raise TypeError(f"class_weight must be a dict of labels to weights or 'balanced', got {_checks.describe(value)}")
    return table[labels].astype(dtype)
