"""THE place for a loss: its formula with two derivatives, its parameters, the targets it takes.

A loss of one output is three plain scalar functions of (output, target, p0, p1, p2, p3) that follow one another
below; the CPU natives of `_loss_kernels` and the CUDA kernels compile the same source. Losses of a whole row
(softmax) are loops in `_loss_kernels`. Definitions, defaults and conventions at kinks are PyTorch's wherever it has
the loss. The number that is reported is the weighted mean over samples of a row's loss, which for a loss per output
is the mean over the outputs.

Examples
--------
>>> import fastnn as fn
>>> fn.losses.get("cross_entropy")
CrossEntropy(label_smoothing=0.0)
>>> fn.losses.Huber(delta=2.0).parameters
{'delta': 2.0}
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from . import _checks
from ._jit import Native
from ._loss_kernels import (
    LOSS_ARGUMENTS,
    TANGENT_ARGUMENTS,
    elementwise_loss,
    elementwise_tangent,
    focal_softmax_loss,
    focal_softmax_tangent,
    softmax_loss,
    softmax_tangent,
)
from ._math import exp, expm1, log, log1p, tanh
from ._targets import binary_targets, class_targets, count_targets, hinge_targets, regression_targets
from ._user_loss import check_user_loss, user_natives

__all__ = [
    "MAE",
    "MSE",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Focal",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "Poisson",
    "Quantile",
    "Resolved",
    "SquaredHinge",
    "from_functions",
    "get",
    "names",
]


# Formulas. The order of comparisons keeps a NaN in the output alive (``max`` would not); numbers are made in the dtype
# of ``o``, since a literal would promote float32 to float64.


def _mse_value(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    return (o - y) * (o - y)


def _mse_gradient(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    return (o - y) + (o - y)


def _mse_curvature(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    return type(o)(2)


def _mae_value(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    return abs(o - y)


def _mae_gradient(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    e = o - y
    return T(1) if e > T(0) else (T(-1) if e < T(0) else e)  # 0 or NaN


def _mae_curvature(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    return type(o)(0)


def _huber_value(o, y, delta, p1, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    e = abs(o - y)
    return delta * (e - T(0.5) * delta) if e > delta else T(0.5) * e * e


def _huber_gradient(o, y, delta, p1, p2, p3):  # type: ignore[no-untyped-def]
    e = o - y
    return delta if e > delta else (-delta if e < -delta else e)


def _huber_curvature(o, y, delta, p1, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    return T(0) if abs(o - y) >= delta else T(1)


def _log_cosh_value(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    """Small ``a``: log1p(2 sinh(a / 2)**2), which does not cancel; large: a + log1p(exp(-2 a)) - log 2."""
    T = type(o)
    a = abs(o - y)
    m = expm1(-a)
    near = a < T(1)
    u = T(0.5) * m * m / (T(1) + m) if near else (T(1) + m) * (T(1) + m)
    return (T(0) if near else a - T(0.6931471805599453)) + log1p(u)


def _log_cosh_gradient(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    return tanh(o - y)


def _log_cosh_curvature(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    t = tanh(o - y)
    return (T(1) - t) * (T(1) + t)


def _quantile_value(o, y, q, p1, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    e = y - o
    return q * e if e > T(0) else (q - T(1)) * e


def _quantile_gradient(o, y, q, p1, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    e = y - o
    return -q if e > T(0) else (T(1) - q if e < T(0) else e)  # 0 or NaN


def _poisson_log_value(o, y, full, eps, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    large = y if y > T(1) else T(1)
    stirling = large * log(large) - large + T(0.5) * log(T(6.283185307179586) * large)
    stirling = stirling if full > T(0) and y > T(1) else T(0)
    return exp(o) - y * o + stirling


def _poisson_log_gradient(o, y, full, eps, p2, p3):  # type: ignore[no-untyped-def]
    return exp(o) - y


def _poisson_log_curvature(o, y, full, eps, p2, p3):  # type: ignore[no-untyped-def]
    return exp(o)


def _poisson_value(o, y, full, eps, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    large = y if y > T(1) else T(1)
    stirling = large * log(large) - large + T(0.5) * log(T(6.283185307179586) * large)
    stirling = stirling if full > T(0) and y > T(1) else T(0)
    return o - y * log(o + eps) + stirling


def _poisson_gradient(o, y, full, eps, p2, p3):  # type: ignore[no-untyped-def]
    return type(o)(1) - y / (o + eps)


def _poisson_curvature(o, y, full, eps, p2, p3):  # type: ignore[no-untyped-def]
    return y / ((o + eps) * (o + eps))


def _hinge_value(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    m = T(1) - y * o
    return T(0) if m < T(0) else m


def _hinge_gradient(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    m = T(1) - y * o
    return -y if m > T(0) else (T(0) if m <= T(0) else m)


def _squared_hinge_value(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    m = T(1) - y * o
    return T(0) if m < T(0) else m * m


def _squared_hinge_gradient(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    m = T(1) - y * o
    return T(0) if m < T(0) else T(-2) * y * m


def _squared_hinge_curvature(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    return T(0) if T(1) - y * o <= T(0) else T(2) * y * y


def _zero(o, y, p0, p1, p2, p3):  # type: ignore[no-untyped-def]
    return type(o)(0)


# Binary cross-entropy of a logit: positive * softplus(-o) + negative * softplus(o), where the smoothed target is
# split into positive = pos_weight * t and negative = 1 - t. With e = exp(-abs(o)) both softplus and both sigmoids are
# stable.


def _bce_value(o, y, smoothing, pos_weight, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    t = y * (T(1) - smoothing) + T(0.5) * smoothing
    positive, negative = pos_weight * t, T(1) - t
    linear = -positive * o if o < T(0) else negative * o
    return linear + (positive + negative) * log1p(exp(-abs(o)))


def _bce_gradient(o, y, smoothing, pos_weight, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    t = y * (T(1) - smoothing) + T(0.5) * smoothing
    positive, negative = pos_weight * t, T(1) - t
    e = exp(-abs(o))
    r = T(1) / (T(1) + e)
    return (negative * e - positive) * r if o < T(0) else (negative - positive * e) * r


def _bce_curvature(o, y, smoothing, pos_weight, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    t = y * (T(1) - smoothing) + T(0.5) * smoothing
    e = exp(-abs(o))
    r = T(1) / (T(1) + e)
    return (pos_weight * t + (T(1) - t)) * (e * r * r)


# Focal loss of a logit (Lin et al., 2017): a * u**gamma * c with c the binary cross-entropy, u = 1 - p_t, and a the
# paper's alpha_t (1 where alpha < 0). u is held away from 0, where du = u'/u is finite and u**gamma tiny. The three
# repeat their first lines: a formula calls elementary functions only.


def _focal_value(o, y, gamma, alpha, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    e = exp(-abs(o))
    r = T(1) / (T(1) + e)
    u = y * (r if o < T(0) else e * r) + (T(1) - y) * (e * r if o < T(0) else r)
    u = T(1e-37) if u < T(1e-37) else u
    a = T(1) if alpha < T(0) else alpha * y + (T(1) - alpha) * (T(1) - y)
    c = (-y * o if o < T(0) else (T(1) - y) * o) + log1p(e)
    return a * exp(gamma * log(u)) * c


def _focal_gradient(o, y, gamma, alpha, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    e = exp(-abs(o))
    r = T(1) / (T(1) + e)
    p, q = (e * r if o < T(0) else r), (r if o < T(0) else e * r)
    u = y * q + (T(1) - y) * p
    u = T(1e-37) if u < T(1e-37) else u
    du = p * q * (T(1) - y - y) / u
    a = T(1) if alpha < T(0) else alpha * y + (T(1) - alpha) * (T(1) - y)
    c = (-y * o if o < T(0) else (T(1) - y) * o) + log1p(e)
    return a * exp(gamma * log(u)) * ((T(1) - y) * p - y * q + gamma * c * du)


def _focal_curvature(o, y, gamma, alpha, p2, p3):  # type: ignore[no-untyped-def]
    T = type(o)
    e = exp(-abs(o))
    r = T(1) / (T(1) + e)
    p, q = (e * r if o < T(0) else r), (r if o < T(0) else e * r)
    u = y * q + (T(1) - y) * p
    u = T(1e-37) if u < T(1e-37) else u
    du = p * q * (T(1) - y - y) / u
    a = T(1) if alpha < T(0) else alpha * y + (T(1) - alpha) * (T(1) - y)
    c = (-y * o if o < T(0) else (T(1) - y) * o) + log1p(e)
    slope = (T(1) - y) * p - y * q
    bend = (gamma - T(1)) * du * du + du * (q - p)
    return a * exp(gamma * log(u)) * (p * q + gamma * ((slope + slope) * du + c * bend))


class Formula(NamedTuple):
    """The scalar sources of a loss per output: functions of (output, target, p0, p1, p2, p3)."""

    value: Callable[..., Any]
    gradient: Callable[..., Any]
    curvature: Callable[..., Any] | None


FORMULAS: dict[str, Formula] = {
    "mse": Formula(_mse_value, _mse_gradient, _mse_curvature),
    "mae": Formula(_mae_value, _mae_gradient, _zero),
    "huber": Formula(_huber_value, _huber_gradient, _huber_curvature),
    "log_cosh": Formula(_log_cosh_value, _log_cosh_gradient, _log_cosh_curvature),
    "quantile": Formula(_quantile_value, _quantile_gradient, _zero),
    "poisson_log": Formula(_poisson_log_value, _poisson_log_gradient, _poisson_log_curvature),
    "poisson": Formula(_poisson_value, _poisson_gradient, _poisson_curvature),
    "hinge": Formula(_hinge_value, _hinge_gradient, _zero),
    "squared_hinge": Formula(_squared_hinge_value, _squared_hinge_gradient, _squared_hinge_curvature),
    "binary_cross_entropy": Formula(_bce_value, _bce_gradient, _bce_curvature),
    "binary_focal": Formula(_focal_value, _focal_gradient, _focal_curvature),
}


@cache
def _natives(kind: str) -> tuple[Native, Native]:
    """The two natives of a built-in formula or softmax loss; made once, compiled when an address is asked for."""
    if kind in FORMULAS:
        formula = FORMULAS[kind]
        assert formula.curvature is not None
        first, second = elementwise_loss(formula.value, formula.gradient), elementwise_tangent(formula.curvature)
    elif kind == "focal":
        first, second = focal_softmax_loss(), focal_softmax_tangent()
    else:
        first, second = softmax_loss(kind == "kl_divergence"), softmax_tangent(kind == "kl_divergence")
    return Native(f"loss.{kind}", first, LOSS_ARGUMENTS), Native(f"loss.{kind}.tangent", second, TANGENT_ARGUMENTS)


class Resolved(NamedTuple):
    """What the engine needs of a loss behind a given output activation."""

    native: Native
    tangent_native: Native | None  # None: a user's loss without a second derivative
    from_pre_activation: bool  # takes the last layer's pre-activations instead of its outputs
    parameter_values: tuple[float, float, float, float]
    kind: str  # key of `FORMULAS`, or cross_entropy, kl_divergence, focal (from logits), or a user's name


def _four(*values: float) -> tuple[float, float, float, float]:
    a, b, c, d = (*values, 0.0, 0.0, 0.0, 0.0)[:4]
    return a, b, c, d


@dataclass(frozen=True)
class Loss:
    """A loss function: a frozen, hashable specification that holds no arrays.

    Attributes
    ----------
    name : str
        What `get` knows it by.
    parameters : dict
        Its hyper-parameters.
    rowwise : bool
        The outputs of a row enter together (softmax).
    """

    name: ClassVar[str]
    rowwise: ClassVar[bool] = False
    _targets: ClassVar[Any] = staticmethod(regression_targets)

    @property
    def parameters(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def parameter_values(self) -> tuple[float, float, float, float]:
        """The parameters as the natives take them."""
        return _four(*(float(value) for value in self.parameters.values()))

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        """Choose the natives for a network whose last activation has this name; refuse pairs that make no sense."""
        return self._resolved(self.name)

    def prepare_targets(self, y: Any, n_outputs: int, dtype: DTypeLike, name: str = "y") -> tuple[np.ndarray, bool]:
        """Check targets and bring them into the natives' form.

        Returns
        -------
        targets : ndarray of shape (n, n_outputs), or (n, 1) of class numbers
            C-contiguous, of ``dtype``.
        labels : bool
            The targets are class numbers.
        """
        return self._targets(name, y, n_outputs, dtype)

    def _resolved(self, kind: str, from_pre_activation: bool = False, *values: float) -> Resolved:
        first, second = _natives(kind)
        return Resolved(first, second, from_pre_activation, _four(*values) if values else self.parameter_values, kind)

    def _set(self, parameter: str, value: Any) -> None:
        object.__setattr__(self, parameter, value)


@dataclass(frozen=True)
class MSE(Loss):
    """Mean squared error, ``(o - y)**2``."""

    name: ClassVar[str] = "mse"


@dataclass(frozen=True)
class MAE(Loss):
    """Mean absolute error, ``|o - y|``; its slope at 0 is 0."""

    name: ClassVar[str] = "mae"


@dataclass(frozen=True)
class Huber(Loss):
    """``e**2 / 2`` for ``|e| <= delta``, else ``delta * (|e| - delta / 2)``, with ``e = o - y``."""

    name: ClassVar[str] = "huber"
    delta: float = 1.0

    def __post_init__(self) -> None:
        self._set("delta", _checks.number("delta", self.delta, low=0.0, low_open=True))


@dataclass(frozen=True)
class LogCosh(Loss):
    """``log(cosh(o - y))``."""

    name: ClassVar[str] = "log_cosh"


@dataclass(frozen=True)
class Quantile(Loss):
    """Pinball loss ``max(q * (y - o), (q - 1) * (y - o))`` of the ``q`` quantile; its slope at 0 is 0."""

    name: ClassVar[str] = "quantile"
    q: float = 0.5

    def __post_init__(self) -> None:
        self._set("q", _checks.number("q", self.q, low=0.0, high=1.0, low_open=True, high_open=True))


@dataclass(frozen=True)
class Poisson(Loss):
    """Negative log likelihood of counts, PyTorch's ``PoissonNLLLoss``.

    Parameters
    ----------
    log_input : bool
        The output is the logarithm of the rate: ``exp(o) - y * o``. Otherwise it is the rate: ``o - y * log(o + eps)``.
        Behind the activation "exponential" the loss is always computed from the logarithm, the pre-activation.
    full : bool
        Add Stirling's approximation of ``log(y!)`` where ``y > 1``.
    eps : float
        Keeps the logarithm finite at a rate of 0.
    """

    name: ClassVar[str] = "poisson"
    _targets: ClassVar[Any] = staticmethod(count_targets)
    log_input: bool = True
    full: bool = False
    eps: float = 1e-8

    def __post_init__(self) -> None:
        self._set("log_input", _checks.flag("log_input", self.log_input))
        self._set("full", _checks.flag("full", self.full))
        self._set("eps", _checks.number("eps", self.eps, low=0.0))

    @property
    def parameter_values(self) -> tuple[float, float, float, float]:
        return _four(float(self.full), self.eps)

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        fused = activation_name == "exponential"
        return self._resolved("poisson_log" if fused or self.log_input else "poisson", fused)


@dataclass(frozen=True)
class Hinge(Loss):
    """``max(0, 1 - y * o)`` with targets -1 and +1 (0 and 1, or class labels one against the rest, are mapped)."""

    name: ClassVar[str] = "hinge"
    _targets: ClassVar[Any] = staticmethod(hinge_targets)


@dataclass(frozen=True)
class SquaredHinge(Hinge):
    """``max(0, 1 - y * o)**2``; targets as for `Hinge`."""

    name: ClassVar[str] = "squared_hinge"


_SOFTMAX = ("softmax", "log_softmax")


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
    label_smoothing: float = 0.0
    pos_weight: float = 1.0

    def __post_init__(self) -> None:
        self._set("label_smoothing", _checks.number("label_smoothing", self.label_smoothing, low=0.0, high=1.0))
        self._set("pos_weight", _checks.number("pos_weight", self.pos_weight, low=0.0, low_open=True))

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        if activation_name in _SOFTMAX:
            raise ValueError(
                f"loss binary_cross_entropy does not fit the output activation {activation_name}: use cross_entropy "
                "after softmax, or sigmoid before binary_cross_entropy"
            )
        return self._resolved(self.name, activation_name == "sigmoid")


def _softmax_fused(loss: Loss, activation_name: str, n_outputs: int) -> bool:
    """Whether a softmax loss takes the pre-activations; refuse what has no classes to compare."""
    if n_outputs == 1:
        raise ValueError(
            f"loss {loss.name} needs at least 2 outputs, got 1: use binary_cross_entropy for one output, "
            "or as many outputs as there are classes"
        )
    if activation_name in ("sigmoid", "hard_sigmoid"):
        raise ValueError(
            f"loss {loss.name} does not fit the output activation {activation_name}: use softmax or no activation, "
            "or binary_cross_entropy after sigmoid"
        )
    return activation_name in _SOFTMAX


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """``-sum(t * log(softmax(o)))`` over classes, PyTorch's ``CrossEntropyLoss``.

    After "softmax" and "log_softmax" it is computed from the pre-activations, after other activations the outputs are
    the logits. Targets are class labels, or rows of probabilities.

    Parameters
    ----------
    label_smoothing : float
        Targets become ``t * (1 - label_smoothing) + label_smoothing / n_classes``.
    """

    name: ClassVar[str] = "cross_entropy"
    _targets: ClassVar[Any] = staticmethod(class_targets)
    rowwise: ClassVar[bool] = True
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        self._set("label_smoothing", _checks.number("label_smoothing", self.label_smoothing, low=0.0, high=1.0))

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        return self._resolved(self.name, _softmax_fused(self, activation_name, n_outputs))


@dataclass(frozen=True)
class KLDivergence(Loss):
    """``t * (log(t) - log_softmax(o))``, PyTorch's ``KLDivLoss`` behind a log-softmax.

    As by default there, the mean goes over the outputs too. A target of 0 contributes 0. Activations and targets as
    for `CrossEntropy`.
    """

    name: ClassVar[str] = "kl_divergence"
    _targets: ClassVar[Any] = staticmethod(class_targets)
    rowwise: ClassVar[bool] = True

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        return self._resolved(self.name, _softmax_fused(self, activation_name, n_outputs))


@dataclass(frozen=True)
class Focal(Loss):
    """``-alpha_t * (1 - p_t)**gamma * log(p_t)``, cross-entropy that looks away from what is already right.

    With one output or after "sigmoid" it is the binary loss per output (torchvision's ``sigmoid_focal_loss``), where
    ``alpha`` weighs the positives and ``1 - alpha`` the negatives; otherwise p is the softmax of the outputs and
    ``alpha`` a factor.

    Parameters
    ----------
    gamma : float
        0 gives cross-entropy.
    alpha : float, optional
        None: no weighting.

    References
    ----------
    Lin, Goyal, Girshick, He, Dollar: Focal loss for dense object detection. ICCV 2017.
    """

    name: ClassVar[str] = "focal"
    _targets: ClassVar[Any] = staticmethod(binary_targets)
    rowwise: ClassVar[bool] = True
    gamma: float = 2.0
    alpha: float | None = None

    def __post_init__(self) -> None:
        self._set("gamma", _checks.number("gamma", self.gamma, low=0.0))
        self._set("alpha", _checks.number("alpha", self.alpha, low=0.0, high=1.0, none=True))

    @property
    def parameter_values(self) -> tuple[float, float, float, float]:
        return _four(self.gamma, 1.0 if self.alpha is None else self.alpha)

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        if activation_name == "sigmoid" or (n_outputs == 1 and activation_name not in _SOFTMAX):
            alpha = -1.0 if self.alpha is None else self.alpha
            return self._resolved("binary_focal", activation_name == "sigmoid", self.gamma, alpha)
        return self._resolved(self.name, _softmax_fused(self, activation_name, n_outputs))


_BUILT_IN: dict[str, type[Loss]] = {
    loss.name: loss
    for loss in (
        MSE,
        MAE,
        Huber,
        LogCosh,
        Quantile,
        Poisson,
        Hinge,
        SquaredHinge,
        BinaryCrossEntropy,
        CrossEntropy,
        KLDivergence,
        Focal,
    )
}
_registered: dict[str, Loss] = {}


@dataclass(frozen=True)
class UserLoss(Loss):
    """A loss per output from a user's scalar functions; see `from_functions`."""

    name: str  # type: ignore[misc]
    value: Callable[[float, float], float] = field(repr=False)
    gradient: Callable[[float, float], float] = field(repr=False)
    second_derivative: Callable[[float, float], float] | None = field(default=None, repr=False)

    @property
    def parameters(self) -> dict[str, Any]:
        return {}

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        first, second = user_natives(self.value, self.gradient, self.second_derivative)
        return Resolved(first, second, False, self.parameter_values, self.name)


def from_functions(
    name: str,
    value: Callable[[float, float], float],
    gradient: Callable[[float, float], float],
    second_derivative: Callable[[float, float], float] | None = None,
) -> Loss:
    """Make a loss from plain scalar functions of (output, target), and register its name.

    The functions are compiled: they may use arithmetic, ``math`` and conditions. The gradient is compared with
    differences of the value now, and the second derivative with differences of the gradient. A row's loss is the mean
    over its outputs.

    Parameters
    ----------
    name : str
        Afterwards ``loss=name`` works too. Names of built-in losses are taken; a name of one's own may be redefined.
    value, gradient : function
        The loss and its derivative by the output.
    second_derivative : function, optional
        Needed for exact Hessian-vector products only.

    Raises
    ------
    ValueError
        A function does not compile, or a derivative is wrong: the message says where and what the differences give.

    Examples
    --------
    >>> quartic = from_functions("quartic", lambda o, y: (o - y) ** 4, lambda o, y: 4 * (o - y) ** 3)
    >>> get("quartic") is quartic
    True
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"name must be an identifier, got {name!r}")
    if name in _BUILT_IN:
        raise ValueError(f"name {name!r} is a built-in loss: choose another name")
    check_user_loss(value, gradient, second_derivative)
    _registered[name] = loss = UserLoss(name, value, gradient, second_derivative)
    return loss


def names() -> tuple[str, ...]:
    """All names that `get` knows, those of a user's own losses included."""
    return (*_BUILT_IN, *_registered)


def get(loss: str | Loss) -> Loss:
    """Return a loss from its name or itself.

    >>> get("huber")
    Huber(delta=1.0)
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type) and issubclass(loss, Loss):
        raise TypeError(f"loss must be a name or an object, got the class {loss.__name__}: write {loss.__name__}()")
    name = _checks.choice("loss", loss, names())
    return _registered[name] if name in _registered else _BUILT_IN[name]()
