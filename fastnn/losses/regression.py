"""Losses per output for numbers and counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fastnn import _checks
from fastnn._math import exp, expm1, log, log1p, tanh
from fastnn.losses._base import Formula, Loss, Resolved, built_in, four, straight
from fastnn.losses._targets import count_targets


def _mse_value(o, y, p0, p1, p2, p3):
    return (o - y) * (o - y)


def _mse_gradient(o, y, p0, p1, p2, p3):
    return (o - y) + (o - y)


def _mse_curvature(o, y, p0, p1, p2, p3):
    return type(o)(2)


@built_in(mse=Formula(_mse_value, _mse_gradient, _mse_curvature))
@dataclass(frozen=True)
class MSE(Loss):
    """Mean squared error, ``(o - y)**2``."""

    name: ClassVar[str] = "mse"


def _mae_value(o, y, p0, p1, p2, p3):
    return abs(o - y)


def _mae_gradient(o, y, p0, p1, p2, p3):
    T = type(o)
    e = o - y
    return T(1) if e > T(0) else (T(-1) if e < T(0) else e)  # 0 or NaN


@built_in(mae=Formula(_mae_value, _mae_gradient, straight))
@dataclass(frozen=True)
class MAE(Loss):
    """Mean absolute error, ``|o - y|``; its slope at 0 is 0."""

    name: ClassVar[str] = "mae"


def _huber_value(o, y, delta, p1, p2, p3):
    T = type(o)
    e = abs(o - y)
    return delta * (e - T(0.5) * delta) if e > delta else T(0.5) * e * e


def _huber_gradient(o, y, delta, p1, p2, p3):
    e = o - y
    return delta if e > delta else (-delta if e < -delta else e)


def _huber_curvature(o, y, delta, p1, p2, p3):
    T = type(o)
    return T(0) if abs(o - y) >= delta else T(1)


@built_in(huber=Formula(_huber_value, _huber_gradient, _huber_curvature))
@dataclass(frozen=True)
class Huber(Loss):
    """``e**2 / 2`` for ``|e| <= delta``, else ``delta * (|e| - delta / 2)``, with ``e = o - y``."""

    name: ClassVar[str] = "huber"
    delta: float = 1.0

    def __post_init__(self) -> None:
        self._set("delta", _checks.number("delta", self.delta, low=0.0, low_open=True))


def _log_cosh_value(o, y, p0, p1, p2, p3):
    """Small ``a``: log1p(2 sinh(a / 2)**2), which does not cancel; large: a + log1p(exp(-2 a)) - log 2."""
    T = type(o)
    a = abs(o - y)
    m = expm1(-a)
    near = a < T(1)
    u = T(0.5) * m * m / (T(1) + m) if near else (T(1) + m) * (T(1) + m)
    return (T(0) if near else a - T(0.6931471805599453)) + log1p(u)


def _log_cosh_gradient(o, y, p0, p1, p2, p3):
    return tanh(o - y)


def _log_cosh_curvature(o, y, p0, p1, p2, p3):
    T = type(o)
    t = tanh(o - y)
    return (T(1) - t) * (T(1) + t)


@built_in(log_cosh=Formula(_log_cosh_value, _log_cosh_gradient, _log_cosh_curvature))
@dataclass(frozen=True)
class LogCosh(Loss):
    """``log(cosh(o - y))``."""

    name: ClassVar[str] = "log_cosh"


def _quantile_value(o, y, q, p1, p2, p3):
    T = type(o)
    e = y - o
    return q * e if e > T(0) else (q - T(1)) * e


def _quantile_gradient(o, y, q, p1, p2, p3):
    T = type(o)
    e = y - o
    return -q if e > T(0) else (T(1) - q if e < T(0) else e)  # 0 or NaN


@built_in(quantile=Formula(_quantile_value, _quantile_gradient, straight))
@dataclass(frozen=True)
class Quantile(Loss):
    """Pinball loss ``max(q * (y - o), (q - 1) * (y - o))`` of the ``q`` quantile; its slope at 0 is 0."""

    name: ClassVar[str] = "quantile"
    q: float = 0.5

    def __post_init__(self) -> None:
        self._set("q", _checks.number("q", self.q, low=0.0, high=1.0, low_open=True, high_open=True))


def _poisson_log_value(o, y, full, eps, p2, p3):
    T = type(o)
    large = y if y > T(1) else T(1)
    stirling = large * log(large) - large + T(0.5) * log(T(6.283185307179586) * large)
    stirling = stirling if full > T(0) and y > T(1) else T(0)
    return exp(o) - y * o + stirling


def _poisson_log_gradient(o, y, full, eps, p2, p3):
    return exp(o) - y


def _poisson_log_curvature(o, y, full, eps, p2, p3):
    return exp(o)


def _poisson_value(o, y, full, eps, p2, p3):
    T = type(o)
    large = y if y > T(1) else T(1)
    stirling = large * log(large) - large + T(0.5) * log(T(6.283185307179586) * large)
    stirling = stirling if full > T(0) and y > T(1) else T(0)
    return o - y * log(o + eps) + stirling


def _poisson_gradient(o, y, full, eps, p2, p3):
    return type(o)(1) - y / (o + eps)


def _poisson_curvature(o, y, full, eps, p2, p3):
    return y / ((o + eps) * (o + eps))


@built_in(
    poisson_log=Formula(_poisson_log_value, _poisson_log_gradient, _poisson_log_curvature),
    poisson=Formula(_poisson_value, _poisson_gradient, _poisson_curvature),
)
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
        return four(float(self.full), self.eps)

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        fused = activation_name == "exponential"
        return self._resolved("poisson_log" if fused or self.log_input else "poisson", fused)
