"""Targets that lie on the GPU: the twins of `fastnn.losses._targets`, under the same rules and with the same words.

One kernel looks for every fault that any of the tests asks for; what it finds comes back in one small copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastnn.cuda import scan, streams
from fastnn.cuda._jit import kernel
from fastnn.cuda.arrays import as_columns, as_device, element, not_finite, on_device, packed
from fastnn.cuda.intrinsics import store
from fastnn.cuda.scan import THREADS, blocks_for, first_item, step
from fastnn.losses import Loss, _targets


class _Columns:
    """Device targets in two dimensions, what the kernel has found in them, and how to refuse them."""

    def __init__(self, name: str, y: Any, n_outputs: int, dtype: DTypeLike):
        array = as_device(name, y)
        _targets.check_shape(name, tuple(array.shape))
        self.name, self.array, self.n_outputs, self.dtype = name, as_columns(array), n_outputs, np.dtype(dtype)
        self.T: Any = self.dtype.type
        self.shape = (int(self.array.shape[0]), int(self.array.shape[1]))
        self._found = scan.look_at_targets(self.array, dtype, n_outputs, _targets.SUM_TOLERANCE)
        self._check_finite(in_dtype=False)

    def _check_finite(self, in_dtype: bool) -> None:
        """Refuse NaN and infinity, or else what becomes infinite in the engine's dtype."""
        wrong, size = self._found[scan.NOT_FINITE], self.shape[0] * self.shape[1]
        if wrong is not None and (wrong >= size) == in_dtype:
            raise not_finite(self.name, self.array, divmod(wrong % size, self.shape[1]), self.dtype)

    def check_width(self, or_labels: bool) -> None:
        _targets.check_width(self.name, self.shape, self.n_outputs, or_labels=or_labels)

    def has(self, test: int) -> bool:
        return self._found[test] is not None

    def refuse(self, test: int, taken: str) -> None:
        """Raise for the first element that has failed a test."""
        wrong = self._found[test]
        if wrong is not None:
            position = divmod(wrong, self.shape[1])
            value = element(self.array, *position)
            raise ValueError(_targets.wrong_element(self.name, taken, value, position, self.shape[1]))

    def check_labels(self) -> None:
        taken = _targets.class_labels(self.n_outputs)
        self.refuse(scan.NOT_WHOLE, taken)
        self.refuse(scan.NO_LABEL, taken)

    def check_sums(self) -> None:
        row = self._found[scan.SUM_IS_NOT_1]
        if row is not None:
            total = sum(float(element(self.array, row, j)) for j in range(self.shape[1]))
            raise ValueError(_targets.wrong_sum(self.name, row, total))

    def as_they_are(self) -> Any:
        """(n, columns), C-contiguous, of the engine's dtype."""
        self._check_finite(in_dtype=True)
        return packed(self.array, self.dtype)

    def made_by(self, maker: Any, *arguments: Any) -> Any:
        """What a kernel ``(y, *arguments, out)`` makes of them, (n, n_outputs)."""
        size = self.shape[0] * self.n_outputs
        out = streams.empty((size,), self.dtype)
        maker[blocks_for(size), THREADS, streams.current()](self.array, *arguments, out)
        return out.reshape((self.shape[0], self.n_outputs))


@cache
def _one_hot(T: Any) -> Any:
    """Kernel ``(y, off, out)``: rows of ``out`` (n * n_classes,) are 1 at the label of ``y`` (n, 1), else ``off``."""

    @kernel(THREADS)
    def expand(y, off, out):
        n_classes = np.int64(out.shape[0]) // np.int64(y.shape[0])
        i = first_item()
        while i < out.shape[0]:
            row = i // n_classes
            store(out, i, T(1) if T(y[row, 0]) == T(i - row * n_classes) else off)
            i += step()

    return expand


@cache
def _signs(T: Any) -> Any:
    """Kernel ``(y, out)``: ``out`` (n * columns,) is -1 where ``y`` (n, columns) is 0, and 1 where it is 1."""

    @kernel(THREADS)
    def to_signs(y, out):
        columns = np.int64(y.shape[1])
        i = first_item()
        while i < out.shape[0]:
            row = i // columns
            store(out, i, T(2) * T(y[row, i - row * columns]) - T(1))
            i += step()

    return to_signs


def _regression(y: _Columns) -> tuple[Any, bool]:
    y.check_width(or_labels=False)
    return y.as_they_are(), False


def _counts(y: _Columns) -> tuple[Any, bool]:
    y.check_width(or_labels=False)
    y.refuse(scan.NEGATIVE, _targets.COUNTS)
    return y.as_they_are(), False


def _expanded(y: _Columns, off: float) -> tuple[Any, bool]:
    """One column of labels of several classes, as rows with a single 1."""
    y.check_labels()
    return y.made_by(_one_hot(y.T), y.T(off)), False


def _binary(y: _Columns) -> tuple[Any, bool]:
    if y.n_outputs > 1 and y.shape[1] == 1:
        return _expanded(y, 0)
    y.check_width(or_labels=True)
    y.refuse(scan.NO_PROBABILITY, _targets.BINARY)
    return y.as_they_are(), False


def _hinge(y: _Columns) -> tuple[Any, bool]:
    if y.n_outputs > 1 and y.shape[1] == 1:
        return _expanded(y, -1)
    y.check_width(or_labels=True)
    signed = y.has(scan.NEGATIVE)
    y.refuse(scan.NO_SIGN if signed else scan.NO_BIT, _targets.SIGNS)
    return (y.as_they_are() if signed else y.made_by(_signs(y.T))), False


def _classes(y: _Columns) -> tuple[Any, bool]:
    if y.shape[1] == 1:
        y.check_labels()
        return y.as_they_are(), True
    y.check_width(or_labels=True)
    y.refuse(scan.NO_PROBABILITY, _targets.PROBABILITIES)
    y.check_sums()
    return y.as_they_are(), False


_TWINS: dict[Any, Callable[[_Columns], tuple[Any, bool]]] = {
    _targets.regression_targets: _regression,
    _targets.count_targets: _counts,
    _targets.binary_targets: _binary,
    _targets.hinge_targets: _hinge,
    _targets.class_targets: _classes,
}


def prepare(loss: Loss, y: Any, n_outputs: int, dtype: DTypeLike, name: str = "y") -> tuple[Any, bool]:
    """Check targets and bring them into the engine's form, as `fastnn.losses.Loss.prepare_targets` does on the host.

    Parameters
    ----------
    loss : Loss
    y : array-like or device array of shape (n,) or (n, columns)
        Of any real dtype and strides. Whether n is the number of samples is for the caller to check.
    n_outputs : int
    dtype : dtype
        The network's.
    name : str
        The argument's name, for the errors.

    Returns
    -------
    targets : device array of shape (n, n_outputs), or (n, 1) of class numbers
        C-contiguous, of ``dtype``; the memory of ``y`` if that is on the device and already so.
    labels : bool
        The targets are class numbers.

    Raises
    ------
    TypeError, ValueError
        As from ``prepare_targets``, and as from `fastnn.cuda.arrays.as_device`.
    NotImplementedError
        The loss has a kind of targets that is not written here.
    """
    if type(loss).prepare_targets is not Loss.prepare_targets or loss._targets not in _TWINS:
        raise NotImplementedError(f"loss {loss.name} has targets that fastnn.cuda does not know yet")
    if on_device(y):
        return _TWINS[loss._targets](_Columns(name, y, n_outputs, dtype))
    targets, labels = loss.prepare_targets(y, n_outputs, dtype, name=name)
    return streams.to_device(targets), labels
