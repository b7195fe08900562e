"""Losses per output for two classes: hinge losses and binary cross-entropy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fastnn import _checks
from fastnn._math import exp, log1p
from fastnn.losses._base import SOFTMAX, Formula, Loss, Resolved, built_in, straight
from fastnn.losses._targets import binary_targets, hinge_targets


def _hinge_value(o, y, p0, p1, p2, p3):
    T = type(o)
    m = T(1) - y * o
    return T(0) if m < T(0) else m


def _hinge_gradient(o, y, p0, p1, p2, p3):
    T = type(o)
    m = T(1) - y * o
    return -y if m > T(0) else (T(0) if m <= T(0) else m)


@built_in(hinge=Formula(_hinge_value, _hinge_gradient, straight))
@dataclass(frozen=True)
class Hinge(Loss):
    """``max(0, 1 - y * o)`` with targets -1 and +1 (0 and 1, or class labels one against the rest, are mapped)."""

    name: ClassVar[str] = "hinge"
    _targets: ClassVar[Any] = staticmethod(hinge_targets)
    of_classes: ClassVar[bool] = True


def _squared_hinge_value(o, y, p0, p1, p2, p3):
    T = type(o)
    m = T(1) - y * o
    return T(0) if m < T(0) else m * m


def _squared_hinge_gradient(o, y, p0, p1, p2, p3):
    T = type(o)
    m = T(1) - y * o
    return T(0) if m < T(0) else T(-2) * y * m


def _squared_hinge_curvature(o, y, p0, p1, p2, p3):
    T = type(o)
    return T(0) if T(1) - y * o <= T(0) else T(2) * y * y


@built_in(squared_hinge=Formula(_squared_hinge_value, _squared_hinge_gradient, _squared_hinge_curvature))
@dataclass(frozen=True)
class SquaredHinge(Hinge):
    """``max(0, 1 - y * o)**2``; targets as for `Hinge`."""

    name: ClassVar[str] = "squared_hinge"


# Binary cross-entropy of a logit: positive * softplus(-o) + negative * softplus(o), where the smoothed target is
# split into positive = pos_weight * t and negative = 1 - t. With e = exp(-abs(o)) both softplus and both sigmoids are
# stable.


def _bce_value(o, y, smoothing, pos_weight, p2, p3):
    T = type(o)
    t = y * (T(1) - smoothing) + T(0.5) * smoothing
    positive, negative = pos_weight * t, T(1) - t
    linear = -positive * o if o < T(0) else negative * o
    return linear + (positive + negative) * log1p(exp(-abs(o)))


def _bce_gradient(o, y, smoothing, pos_weight, p2, p3):
    T = type(o)
    t = y * (T(1) - smoothing) + T(0.5) * smoothing
    positive, negative = pos_weight * t, T(1) - t
    e = exp(-abs(o))
    r = T(1) / (T(1) + e)
    return (negative * e - positive) * r if o < T(0) else (negative - positive * e) * r


def _bce_curvature(o, y, smoothing, pos_weight, p2, p3):
    T = type(o)
    t = y * (T(1) - smoothing) + T(0.5) * smoothing
    e = exp(-abs(o))
    r = T(1) / (T(1) + e)
    return (pos_weight * t + (T(1) - t)) * (e * r * r)


@built_in(binary_cross_entropy=Formula(_bce_value, _bce_gradient, _bce_curvature))
@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """``-pos_weight * t * log(p) - (1 - t) * log(1 - p)`` for each output, PyTorch's ``BCEWithLogitsLoss``.

    After "sigmoid" it is computed from the pre-activation, after other activations the output is the logit. Several
    outputs are independent labels; class labels stand for their one-hot rows.

    Parameters
    ----------
    label_smoothing : float
        Targets become ``t * (1 - label_smoothing) + label_smoothing / 2``.
    pos_weight : float
        Weight of positive targets.
    """

    name: ClassVar[str] = "binary_cross_entropy"
    _targets: ClassVar[Any] = staticmethod(binary_targets)
    of_classes: ClassVar[bool] = True
    label_smoothing: float = 0.0
    pos_weight: float = 1.0

    def __post_init__(self) -> None:
        self._set("label_smoothing", _checks.number("label_smoothing", self.label_smoothing, low=0.0, high=1.0))
        self._set("pos_weight", _checks.number("pos_weight", self.pos_weight, low=0.0, low_open=True))

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        if activation_name in SOFTMAX:
            raise ValueError(
                f"loss binary_cross_entropy does not fit the output activation {activation_name}: use cross_entropy "
                "after softmax, or sigmoid before binary_cross_entropy"
            )
        return self._resolved(self.name, activation_name == "sigmoid")
