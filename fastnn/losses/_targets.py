"""Targets in the forms that losses take: checked, two-dimensional, of the parameters' dtype.

Each function returns the targets and whether they are one column of class numbers. What they say of bad targets is
also said of those that lie on a GPU, `fastnn.cuda.targets`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _checks

SUM_TOLERANCE = 1e-4  # of a row of class probabilities

# What a kind of targets holds, for the errors.
COUNTS = "counts >= 0"
BINARY = "0, 1 or probabilities in [0, 1]"
SIGNS = "-1 and +1, or 0 and 1"
PROBABILITIES = "class labels, or rows of probabilities in [0, 1]"


def class_labels(n_classes: int) -> str:
    return f"class labels, whole numbers from 0 to {n_classes - 1} ({n_classes} outputs)"


def wrong_element(name: str, taken: str, value: Any, position: tuple[int, ...], n_columns: int) -> str:
    """What to say of an element of (n, n_columns) targets that does not belong there."""
    place = position[0] if n_columns == 1 else ", ".join(map(str, position))
    return f"{name} must hold {taken}, got {value} at position [{place}]"


def wrong_sum(name: str, row: int, total: float) -> str:
    return f"{name} must hold class labels, or rows of probabilities that sum to 1, got row {row} with sum {total:g}"


def check_shape(name: str, shape: tuple[int, ...]) -> None:
    """Refuse targets of no rows, or of more than two dimensions."""
    if len(shape) not in (1, 2):
        raise ValueError(f"{name} must have shape (n,) or (n, outputs), got {shape}")
    if 0 in shape:
        raise ValueError(f"{name} must not be empty, got shape {(*shape, 1)[:2]}")


def check_width(name: str, shape: tuple[int, int], n_outputs: int, *, or_labels: bool) -> None:
    """Refuse (n, columns) targets that have not one column per output."""
    if shape[1] != n_outputs:
        taken = f"({shape[0]}, {n_outputs})" + (f" or ({shape[0]},)" if or_labels or n_outputs == 1 else "")
        raise ValueError(f"{name} must have shape {taken} for {n_outputs} output{'s' * (n_outputs != 1)}, got {shape}")


def _columns(name: str, y: Any) -> np.ndarray:
    """Targets as they came, with at least one row, in two dimensions."""
    array = _checks.real_array(name, y)
    check_shape(name, array.shape)
    array = array[:, np.newaxis] if array.ndim == 1 else array
    _checks.check_finite(name, array)
    return array


def _refuse(name: str, array: np.ndarray, bad: np.ndarray, taken: str) -> None:
    """Raise for the first element that is marked bad."""
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(wrong_element(name, taken, array[where], where, array.shape[1]))


def _check_labels(name: str, array: np.ndarray, n_classes: int) -> None:
    taken = class_labels(n_classes)
    if array.dtype.kind == "f":
        _refuse(name, array, array != np.floor(array), taken)
    _refuse(name, array, (array < 0) | (array >= n_classes), taken)


def _one_hot(labels: np.ndarray, n_classes: int, dtype: DTypeLike, off: float = 0.0) -> np.ndarray:
    out = np.full((len(labels), n_classes), off, dtype=dtype)
    out[np.arange(len(labels)), labels[:, 0].astype(np.int64)] = 1
    return out


def regression_targets(name: str, y: Any, n_outputs: int, dtype: DTypeLike) -> tuple[np.ndarray, bool]:
    """Numbers, one column per output."""
    array = _columns(name, y)
    check_width(name, array.shape, n_outputs, or_labels=False)
    return _checks.cast(name, array, dtype, finite=True), False


def count_targets(name: str, y: Any, n_outputs: int, dtype: DTypeLike) -> tuple[np.ndarray, bool]:
    """Numbers that are not negative, one column per output."""
    array = _columns(name, y)
    check_width(name, array.shape, n_outputs, or_labels=False)
    _refuse(name, array, array < 0, COUNTS)
    return _checks.cast(name, array, dtype, finite=True), False


def binary_targets(name: str, y: Any, n_outputs: int, dtype: DTypeLike) -> tuple[np.ndarray, bool]:
    """Probabilities, one column per output; labels of several classes become one-hot rows."""
    array = _columns(name, y)
    if n_outputs > 1 and array.shape[1] == 1:
        _check_labels(name, array, n_outputs)
        return _one_hot(array, n_outputs, dtype), False
    check_width(name, array.shape, n_outputs, or_labels=True)
    _refuse(name, array, (array < 0) | (array > 1), BINARY)
    return _checks.cast(name, array, dtype, finite=True), False


def hinge_targets(name: str, y: Any, n_outputs: int, dtype: DTypeLike) -> tuple[np.ndarray, bool]:
    """-1 and +1, one column per output, from those, from 0 and 1, or from labels of several classes."""
    array = _columns(name, y)
    if n_outputs > 1 and array.shape[1] == 1:
        _check_labels(name, array, n_outputs)
        return _one_hot(array, n_outputs, dtype, off=-1.0), False
    check_width(name, array.shape, n_outputs, or_labels=True)
    low = 0 if not (array < 0).any() else -1
    _refuse(name, array, (array != 1) & (array != low), SIGNS)
    out = np.ascontiguousarray(array, dtype=dtype)
    return (out if low else 2 * out - 1), False


def class_targets(name: str, y: Any, n_outputs: int, dtype: DTypeLike) -> tuple[np.ndarray, bool]:
    """One column of class labels (and True), or rows of class probabilities (and False)."""
    array = _columns(name, y)
    if array.shape[1] == 1:
        _check_labels(name, array, n_outputs)
        return np.ascontiguousarray(array, dtype=dtype), True
    check_width(name, array.shape, n_outputs, or_labels=True)
    _refuse(name, array, (array < 0) | (array > 1), PROBABILITIES)
    sums = array.sum(axis=1, dtype=np.float64)
    bad = np.flatnonzero(np.abs(sums - 1) > SUM_TOLERANCE)
    if len(bad):
        raise ValueError(wrong_sum(name, bad[0], sums[bad[0]]))
    return _checks.cast(name, array, dtype, finite=True), False
