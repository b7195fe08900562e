"""Optimizers that divide by the size of past gradients: Adagrad, Adadelta, RMSprop."""

from __future__ import annotations

from math import sqrt

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _checks
from fastnn.optimizers._base import Optimizer
from fastnn.optimizers._rules import Rule, make_rule
from fastnn.schedules import Schedule


def _adagrad(p, g, total, s1, s2, c):
    decay, rate, eps = c[0], c[1], c[2]
    g = g + decay * p
    total = total + g * g
    return p - rate * g / (sqrt(total) + eps), total, s1, s2


def _begin_adagrad(scalars, hyper, lr):
    weight_decay, eps, lr_decay = hyper[0], hyper[1], hyper[2]
    return weight_decay, lr / (1.0 + (scalars[0] - 1.0) * lr_decay), eps


class Adagrad(Optimizer):
    """``s += g^2``, ``theta -= lr / (1 + t * lr_decay) * g / (sqrt(s) + eps)`` (Duchi et al. 2011)."""

    name = "adagrad"
    rule = make_rule("adagrad", _adagrad, _begin_adagrad, 1)
    lr_decay: float
    initial_accumulator_value: float
    eps: float

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-2,
        *,
        lr_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        self._set(
            lr_decay=_checks.number("lr_decay", lr_decay, low=0.0),
            initial_accumulator_value=_checks.number("initial_accumulator_value", initial_accumulator_value, low=0.0),
            eps=_checks.number("eps", eps, low=0.0),
        )
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    def _hyper(self) -> tuple[float, ...]:
        return (self.weight_decay, self.eps, self.lr_decay)

    def initial_slots(self, n: int, dtype: DTypeLike) -> np.ndarray:
        return np.full((1, n), self.initial_accumulator_value, dtype)


def _adadelta(p, g, v, u, s2, c):
    decay, rate, rho, rest, eps = c[0], c[1], c[2], c[3], c[4]
    g = g + decay * p
    v = rho * v + rest * g * g
    delta = sqrt(u + eps) / sqrt(v + eps) * g
    u = rho * u + rest * delta * delta
    return p - rate * delta, v, u, s2


def _begin_adadelta(scalars, hyper, lr):
    weight_decay, rho, eps = hyper[0], hyper[1], hyper[2]
    return weight_decay, lr, rho, 1.0 - rho, eps


class Adadelta(Optimizer):
    """``d = sqrt(u + eps) / sqrt(v + eps) * g``, ``theta -= lr * d`` (Zeiler 2012, arXiv:1212.5701).

    v and u are the running means, with ``rho``, of g^2 and d^2.
    """

    name = "adadelta"
    rule = make_rule("adadelta", _adadelta, _begin_adadelta, 2)
    rho: float
    eps: float

    def __init__(
        self,
        learning_rate: float | Schedule = 1.0,
        *,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        self._set(rho=_checks.number("rho", rho, low=0.0, high=1.0), eps=_checks.number("eps", eps, low=0.0))
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    def _hyper(self) -> tuple[float, ...]:
        return (self.weight_decay, self.rho, self.eps)


def _rmsprop(p, g, v, s1, s2, c):
    decay, rate, alpha, rest, eps = c[0], c[1], c[2], c[3], c[4]
    g = g + decay * p
    v = alpha * v + rest * g * g
    return p - rate * g / (sqrt(v) + eps), v, s1, s2


def _rmsprop_momentum(p, g, v, buffer, s2, c):
    decay, rate, alpha, rest, eps, momentum = c[0], c[1], c[2], c[3], c[4], c[5]
    g = g + decay * p
    v = alpha * v + rest * g * g
    buffer = momentum * buffer + g / (sqrt(v) + eps)
    return p - rate * buffer, v, buffer, s2


def _rmsprop_centered(p, g, v, mean, s2, c):
    decay, rate, alpha, rest, eps = c[0], c[1], c[2], c[3], c[4]
    g = g + decay * p
    v = alpha * v + rest * g * g
    mean = mean + rest * (g - mean)
    variance = v - mean * mean
    variance = variance - variance if variance < 0 else variance  # rounding can push it below zero
    return p - rate * g / (sqrt(variance) + eps), v, mean, s2


def _rmsprop_centered_momentum(p, g, v, mean, buffer, c):
    decay, rate, alpha, rest, eps, momentum = c[0], c[1], c[2], c[3], c[4], c[5]
    g = g + decay * p
    v = alpha * v + rest * g * g
    mean = mean + rest * (g - mean)
    variance = v - mean * mean
    variance = variance - variance if variance < 0 else variance
    buffer = momentum * buffer + g / (sqrt(variance) + eps)
    return p - rate * buffer, v, mean, buffer


def _begin_rmsprop(scalars, hyper, lr):
    weight_decay, alpha, eps, momentum = hyper[0], hyper[1], hyper[2], hyper[3]
    return weight_decay, lr, alpha, 1.0 - alpha, eps, momentum


_RMSPROP = {  # by (centered, with momentum)
    (False, False): make_rule("rmsprop", _rmsprop, _begin_rmsprop, 1),
    (False, True): make_rule("rmsprop_momentum", _rmsprop_momentum, _begin_rmsprop, 2),
    (True, False): make_rule("rmsprop_centered", _rmsprop_centered, _begin_rmsprop, 2),
    (True, True): make_rule("rmsprop_centered_momentum", _rmsprop_centered_momentum, _begin_rmsprop, 3),
}


class RMSprop(Optimizer):
    """``v = alpha * v + (1 - alpha) * g^2``, ``theta -= lr * g / (sqrt(v) + eps)`` (Hinton 2012).

    ``centered`` subtracts the squared mean gradient from v (Graves 2013); ``momentum`` accumulates the quotient.
    """

    name = "rmsprop"
    alpha: float
    eps: float
    momentum: float
    centered: bool

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-2,
        *,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        self._set(
            alpha=_checks.number("alpha", alpha, low=0.0, high=1.0),
            eps=_checks.number("eps", eps, low=0.0),
            momentum=_checks.number("momentum", momentum, low=0.0),
            centered=_checks.flag("centered", centered),
        )
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    @property
    def rule(self) -> Rule:
        return _RMSPROP[self.centered, self.momentum > 0.0]

    def _hyper(self) -> tuple[float, ...]:
        return (self.weight_decay, self.alpha, self.eps, self.momentum)
