"""Gradient descent, and rules that take only the signs of the gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _checks
from fastnn.optimizers._base import Optimizer, checked_betas, checked_pair
from fastnn.optimizers._rules import Rule, make_rule
from fastnn.schedules import Schedule


def _sgd(p, g, s0, s1, s2, c):
    decay, rate = c[0], c[1]
    return p - rate * (g + decay * p), s0, s1, s2


def _begin_sgd(scalars, hyper, lr):
    return hyper[0], lr


def _sgd_momentum(p, g, buffer, s1, s2, c):
    decay, momentum, share, rate_g, rate_b = c[0], c[1], c[2], c[3], c[4]
    g = g + decay * p
    buffer = momentum * buffer + share * g
    return p - (rate_g * g + rate_b * buffer), buffer, s1, s2


def _begin_sgd_momentum(scalars, hyper, lr):
    weight_decay, momentum, dampening, nesterov = hyper[0], hyper[1], hyper[2], hyper[3]
    share = 1.0 if scalars[0] == 1.0 else 1.0 - dampening  # the buffer starts as the first gradient
    rate_g = lr if nesterov != 0.0 else 0.0
    rate_b = lr * momentum if nesterov != 0.0 else lr
    return weight_decay, momentum, share, rate_g, rate_b


_SGD = make_rule("sgd", _sgd, _begin_sgd, 0)
_SGD_MOMENTUM = make_rule("sgd_momentum", _sgd_momentum, _begin_sgd_momentum, 1)


class SGD(Optimizer):
    """Gradient descent: ``b = momentum * b + (1 - dampening) * g``, ``theta -= lr * b``.

    With ``nesterov``, ``theta -= lr * (g + momentum * b)`` (Sutskever et al. 2013). Without momentum ``b`` is ``g``.

    >>> SGD(0.1, momentum=0.9).n_slots
    1
    """

    name = "sgd"
    momentum: float
    dampening: float
    nesterov: bool

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        self._set(
            momentum=_checks.number("momentum", momentum, low=0.0),
            dampening=_checks.number("dampening", dampening, high=1.0),
            nesterov=_checks.flag("nesterov", nesterov),
        )
        if self.nesterov and (self.momentum == 0.0 or self.dampening != 0.0):
            raise ValueError(
                f"nesterov=True needs momentum > 0 and dampening = 0, got momentum={momentum}, dampening={dampening}"
            )
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    @property
    def rule(self) -> Rule:
        return _SGD_MOMENTUM if self.momentum else _SGD

    def _hyper(self) -> tuple[float, ...]:
        return (self.weight_decay, self.momentum, self.dampening, float(self.nesterov))


def _lion(p, g, m, s1, s2, c):
    keep, rate, rest1, rest2 = c[0], c[1], c[2], c[3]
    direction = m + rest1 * (g - m)
    step = rate if direction > 0 else (-rate if direction < 0 else direction)  # zero and NaN stay what they are
    return keep * p - step, m + rest2 * (g - m), s1, s2


def _begin_lion(scalars, hyper, lr):
    decoupled, beta1, beta2 = hyper[0], hyper[1], hyper[2]
    return 1.0 - lr * decoupled, lr, 1.0 - beta1, 1.0 - beta2


class Lion(Optimizer):
    """``theta -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * theta)``.

    Then ``m = beta2 * m + (1 - beta2) * g`` (Chen et al. 2023, arXiv:2302.06675). Every step has the length of the
    learning rate, so take a third to a tenth of Adam's.
    """

    name = "lion"
    rule = make_rule("lion", _lion, _begin_lion, 1)
    betas: tuple[float, float]

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-4,
        *,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        self._set(betas=checked_betas(betas))
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    def _hyper(self) -> tuple[float, ...]:
        return (self.weight_decay, *self.betas)


def _rprop(p, g, previous, size, s2, c):
    minus, plus, smallest, largest = c[0], c[1], c[2], c[3]
    zero = g - g  # NaN where g is, so that NaN reaches p
    same = ((g > 0) & (previous > 0)) | ((g < 0) & (previous < 0))
    turned = ((g > 0) & (previous < 0)) | ((g < 0) & (previous > 0))
    size = size * plus if same else (size * minus if turned else size)
    size = min(max(size, smallest), largest)
    g = zero if turned else g
    step = size if g > 0 else (-size if g < 0 else zero)
    return p - step, g, size, s2


def _begin_rprop(scalars, hyper, lr):
    return hyper[0], hyper[1], hyper[2], hyper[3]


class Rprop(Optimizer):
    """Steps of each parameter's own size, grown while its gradient keeps its sign (Riedmiller and Braun 1993).

    For full batches: only the signs of the gradient are used. ``learning_rate`` is the size of the first step, a plain
    number; ``etas`` shrink and grow it, within ``step_sizes``.
    """

    name = "rprop"
    rule = make_rule("rprop", _rprop, _begin_rprop, 2)
    etas: tuple[float, float]
    step_sizes: tuple[float, float]

    def __init__(
        self,
        learning_rate: float = 1e-2,
        *,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
    ):
        self._set(
            etas=checked_pair("etas", etas, low=0.0, low_open=True),
            step_sizes=checked_pair("step_sizes", step_sizes, low=0.0),
        )
        if not self.etas[0] < 1.0 < self.etas[1]:
            raise ValueError(f"etas must be (below 1, above 1), got {self.etas}")
        if self.step_sizes[0] > self.step_sizes[1]:
            raise ValueError(f"step_sizes must be (smallest, largest), got {self.step_sizes}")
        self._set_common(self._checked_learning_rate(learning_rate), 0.0, None, None)

    def _checked_learning_rate(self, value: Any) -> float:
        if isinstance(value, Schedule):
            raise TypeError(f"Rprop's learning_rate is the size of its first step and must be a number, got {value!r}")
        return _checks.number("learning_rate", value, low=0.0)

    def _hyper(self) -> tuple[float, ...]:
        return (*self.etas, *self.step_sizes)

    def initial_slots(self, n: int, dtype: DTypeLike) -> np.ndarray:
        slots = np.zeros((2, n), dtype)
        slots[1] = self.learning_rate
        return slots
