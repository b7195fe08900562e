"""Metrics: functions ``metric(y_true, y_pred, sample_weight=None) -> float`` on arrays, computed in float64.

``y_pred`` is what ``net.predict`` gives: values, probabilities or scores of shape (n, outputs) or (n,).
Classification metrics take its largest column as the class; a single column is class 1 where it is above 0.5, which
suits one sigmoid unit (for a logit or a score around 0, pass a metric that shifts it by 0.5). ``y_true`` holds class
labels (n,) or one-hot rows. Definitions are scikit-learn's.

Examples
--------
>>> accuracy([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
0.6666666666666666
>>> get("r2")([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
0.5
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn import _checks

__all__ = [
    "accuracy",
    "auc",
    "confusion_matrix",
    "f1",
    "get",
    "mae",
    "mse",
    "precision",
    "r2",
    "recall",
    "rmse",
    "top_k_accuracy",
]

Metric = Callable[..., float]


def _table(name: str, values: Any) -> np.ndarray:
    """Values as float64 with one row per sample."""
    array = _checks.real_array(name, values)
    if array.ndim == 1:
        array = array[:, np.newaxis]
    return _checks.matrix(name, array, np.float64, finite=False)


def _weights(sample_weight: Any, n: int) -> np.ndarray:
    if sample_weight is None:
        return np.ones(n)
    return _checks.weights("sample_weight", sample_weight, np.float64, n)


def _pair(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, predictions and weights, with equal numbers of rows."""
    true, pred = _table("y_true", y_true), _table("y_pred", y_pred)
    _checks.check_finite("y_true", true)
    if len(true) != len(pred):
        raise ValueError(f"y_true and y_pred must have as many rows, got {len(true)} and {len(pred)}")
    return true, pred, _weights(sample_weight, len(true))


def _numbers(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    true, pred, weights = _pair(y_true, y_pred, sample_weight)
    if true.shape != pred.shape:
        raise ValueError(f"y_true and y_pred must have the same columns, got shapes {true.shape} and {pred.shape}")
    return true, pred, weights


def _check_rows_of_classes(true: np.ndarray) -> None:
    """Refuse rows that name no one class; rows of probabilities do, and so do one-hot rows of -1 and +1."""
    signed = (true == -1).any()
    shares = (true + 1) / 2 if signed else true
    bad = (shares < 0).any(axis=1) | (np.abs(shares.sum(axis=1) - 1) > 1e-4)
    if bad.any():
        raise ValueError(
            "y_true must hold class labels or one-hot rows (or rows of probabilities), got row "
            f"{int(bad.argmax())}, which names no class or several"
        )


def _classes(y_true: Any, y_pred: Any, sample_weight: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Class numbers of targets (n,) and predictions (n,), weights, and the number of classes.

    Targets -1 and +1 of one output count as classes 0 and 1. A prediction with NaN has a weight of NaN.
    """
    true, pred, weights = _pair(y_true, y_pred, sample_weight)
    n_outputs = pred.shape[1]
    if true.shape[1] not in (1, n_outputs):
        raise ValueError(f"y_true must have 1 column or {n_outputs}, got shape {true.shape}")
    if true.shape[1] > 1:
        _check_rows_of_classes(true)
        classes = true.argmax(axis=1)
    else:
        labels = true[:, 0]
        if n_outputs == 1 and np.isin(labels, (-1, 1)).all():
            labels = np.maximum(labels, 0)
        if (labels != np.floor(labels)).any() or (labels < 0).any() or (labels >= max(n_outputs, 2)).any():
            raise ValueError(f"y_true must hold class labels from 0 to {max(n_outputs, 2) - 1}")
        classes = labels.astype(np.int64)
    predicted = (pred[:, 0] > 0.5).astype(np.int64) if n_outputs == 1 else pred.argmax(axis=1)
    return classes, predicted, np.where(np.isnan(pred).any(axis=1), np.nan, weights), max(n_outputs, 2)


def accuracy(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Fraction of samples whose predicted class is right; one column counts as class 1 above 0.5."""
    true, pred, weights, _ = _classes(y_true, y_pred, sample_weight)
    return float(np.average(true == pred, weights=weights))


def top_k_accuracy(k: int = 5) -> Metric:
    """Make the metric: fraction of samples whose class is among the ``k`` highest outputs.

    Among equal outputs the later class ranks higher, as in scikit-learn.

    >>> top_k_accuracy(2)([2, 0], [[0.1, 0.5, 0.4], [0.1, 0.5, 0.4]])
    0.5
    """
    k = _checks.integer("k", k, low=1)

    def metric(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        true, _, weights, n_classes = _classes(y_true, y_pred, sample_weight)
        pred = _table("y_pred", y_pred)
        if pred.shape[1] == 1:
            raise ValueError("y_pred must have one column per class for the top-k accuracy, got 1 column")
        best = np.argsort(pred, axis=1, kind="stable")[:, ::-1][:, : min(k, n_classes)]
        return float(np.average((best == true[:, np.newaxis]).any(axis=1), weights=weights))

    metric.__name__ = f"top_{k}_accuracy"
    return metric


def confusion_matrix(y_true: Any, y_pred: Any, sample_weight: Any = None) -> np.ndarray:
    """Weighted counts of shape (classes, classes): true classes in rows, predicted ones in columns.

    What NaN was predicted for counts NaN.
    """
    true, pred, weights, n_classes = _classes(y_true, y_pred, sample_weight)
    counts = np.bincount(true * n_classes + pred, weights=weights, minlength=n_classes * n_classes)
    return counts.reshape(n_classes, n_classes)


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)


def _class_score(y_true: Any, y_pred: Any, sample_weight: Any, over_predicted: float, over_true: float) -> float:
    """``hits / (a * predicted + b * true)``: of class 1 for two classes in one column, else the mean over classes."""
    counts = confusion_matrix(y_true, y_pred, sample_weight)
    if np.isnan(counts).any():
        return float("nan")
    predicted, true = counts.sum(axis=0), counts.sum(axis=1)
    scores = _ratio(np.diag(counts).copy(), over_predicted * predicted + over_true * true)
    if len(counts) == 2:
        return float(scores[1])
    present = (predicted + true) > 0
    return float(scores[present].mean())


def precision(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Right among the predicted: of class 1 for two classes, else the mean over classes that occur; 0 / 0 is 0."""
    return _class_score(y_true, y_pred, sample_weight, 1.0, 0.0)


def recall(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Found among the true: of class 1 for two classes, else the mean over classes that occur; 0 / 0 is 0."""
    return _class_score(y_true, y_pred, sample_weight, 0.0, 1.0)


def f1(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Harmonic mean of precision and recall: of class 1 for two classes, else the mean over classes that occur."""
    return _class_score(y_true, y_pred, sample_weight, 0.5, 0.5)


def auc(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Area under the ROC curve of a binary classifier: the probability that a positive scores above a negative.

    Exact, ties count one half. ``y_pred`` has one column of scores, or two, of which the second counts. NaN where
    only one class occurs.
    """
    true, pred, weights = _pair(y_true, y_pred, sample_weight)
    if pred.shape[1] > 2 or true.shape[1] > 2:
        raise ValueError(f"auc is for two classes, got y_true {true.shape} and y_pred {pred.shape}")
    labels = true[:, -1]
    if not np.isin(labels, (-1, 0, 1)).all():
        raise ValueError("auc is for two classes: y_true must hold 0 and 1, or -1 and +1")
    scores = pred[:, -1]
    if np.isnan(scores).any():
        return float("nan")
    _, rank = np.unique(scores, return_inverse=True)
    positive = np.bincount(rank, weights=weights * (labels == 1))
    negative = np.bincount(rank, weights=weights * (labels != 1))
    pairs = positive.sum() * negative.sum()
    if pairs == 0:
        return float("nan")
    below = np.cumsum(negative) - negative
    return float(positive @ (below + 0.5 * negative) / pairs)


def mse(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Mean squared error, over samples and outputs."""
    true, pred, weights = _numbers(y_true, y_pred, sample_weight)
    return float(np.average(((true - pred) ** 2).mean(axis=1), weights=weights))


def mae(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Mean absolute error, over samples and outputs."""
    true, pred, weights = _numbers(y_true, y_pred, sample_weight)
    return float(np.average(np.abs(true - pred).mean(axis=1), weights=weights))


def rmse(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Root mean squared error; the mean of it over outputs."""
    true, pred, weights = _numbers(y_true, y_pred, sample_weight)
    return float(np.sqrt(np.average((true - pred) ** 2, axis=0, weights=weights)).mean())


def r2(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
    """Coefficient of determination, the mean over outputs; a constant output counts 1 if it is met and 0 otherwise."""
    true, pred, weights = _numbers(y_true, y_pred, sample_weight)
    residual = weights @ (true - pred) ** 2
    total = weights @ (true - np.average(true, axis=0, weights=weights)) ** 2
    explained = np.divide(residual, total, out=np.ones_like(total), where=total != 0)
    scores = np.where(total != 0, 1 - explained, np.where(residual == 0, 1.0, 0.0))
    return float(np.where(np.isnan(residual), np.nan, scores).mean())


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "top_5_accuracy": top_k_accuracy(5),
    "precision": precision,
    "recall": recall,
    "f1": f1,
    "auc": auc,
    "r2": r2,
    "mse": mse,
    "mae": mae,
    "rmse": rmse,
}


# Those that compare a single output with one half.
COUNTING = (accuracy, precision, recall, f1)


def get(metric: str | Metric) -> Metric:
    """Return a metric from its name, or the function that was given."""
    if callable(metric):
        return metric
    return METRICS[_checks.choice("metric", metric, METRICS)]
