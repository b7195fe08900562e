"""Adam and its kin."""

from __future__ import annotations

from math import sqrt
from typing import ClassVar

from fastnn import _checks
from fastnn._jit import scalar
from fastnn.optimizers._base import Optimizer, checked_betas
from fastnn.optimizers._rules import Rule, make_rule
from fastnn.schedules import Schedule


class _Moments(Optimizer):
    """Adam and its kin: running means m of g and v of g^2 with ``betas``."""

    decoupled: ClassVar[bool] = False
    betas: tuple[float, float]
    eps: float

    def _hyper(self) -> tuple[float, ...]:
        decay = (0.0, self.weight_decay) if self.decoupled else (self.weight_decay, 0.0)
        return (*decay, *self.betas, self.eps)


@scalar
def _adam_products(scalars, hyper):
    """beta1^t and beta2^t, kept as running products in ``scalars[1:3]``."""
    first = scalars[0] == 1.0
    scalars[1] = hyper[2] if first else scalars[1] * hyper[2]
    scalars[2] = hyper[3] if first else scalars[2] * hyper[3]
    return scalars[1], scalars[2]


def _adam(p, g, m, v, s2, c):
    decay, keep, rest1, beta2, rest2, scale, eps, rate = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    g = g + decay * p
    m = m + rest1 * (g - m)
    v = beta2 * v + rest2 * g * g
    return keep * p - rate * m / (sqrt(v) * scale + eps), m, v, s2


def _adam_amsgrad(p, g, m, v, largest, c):
    decay, keep, rest1, beta2, rest2, scale, eps, rate = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    g = g + decay * p
    m = m + rest1 * (g - m)
    v = beta2 * v + rest2 * g * g
    largest = max(v, largest)
    return keep * p - rate * m / (sqrt(largest) * scale + eps), m, v, largest


def _begin_adam(scalars, hyper, lr):
    decay, decoupled, beta1, beta2, eps = hyper[0], hyper[1], hyper[2], hyper[3], hyper[4]
    power1, power2 = _adam_products(scalars, hyper)
    scale, rate = 1.0 / sqrt(1.0 - power2), lr / (1.0 - power1)
    if hyper[5] != 0.0:  # epsilon hat
        scale, rate = 1.0, rate / scale
    return decay, 1.0 - lr * decoupled, 1.0 - beta1, beta2, 1.0 - beta2, scale, eps, rate


_ADAM = make_rule("adam", _adam, _begin_adam, 2)
_ADAM_AMSGRAD = make_rule("adam_amsgrad", _adam_amsgrad, _begin_adam, 3)


class Adam(_Moments):
    """``theta -= lr * m' / (sqrt(v') + eps)`` with bias-corrected m' and v' (Kingma and Ba 2015, arXiv:1412.6980).

    ``amsgrad`` divides by the largest v so far (Reddi et al. 2018). With ``epsilon_hat``, ``eps`` is added before the
    bias of v is corrected: ``theta -= lr * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + eps)``, the form at the
    end of section 2 of the paper.

    >>> Adam(0.01, betas=(0.9, 0.99)).betas
    (0.9, 0.99)
    """

    name = "adam"
    amsgrad: bool
    epsilon_hat: bool

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        amsgrad: bool = False,
        epsilon_hat: bool = False,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        self._set(
            betas=checked_betas(betas),
            eps=_checks.number("eps", eps, low=0.0),
            amsgrad=_checks.flag("amsgrad", amsgrad),
            epsilon_hat=_checks.flag("epsilon_hat", epsilon_hat),
        )
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    @property
    def rule(self) -> Rule:
        return _ADAM_AMSGRAD if self.amsgrad else _ADAM

    def _hyper(self) -> tuple[float, ...]:
        return (*super()._hyper(), float(self.epsilon_hat))


class AdamW(Adam):
    """Adam with decoupled weight decay, ``theta *= 1 - lr * weight_decay`` (Loshchilov and Hutter 2019)."""

    name = "adamw"
    decoupled = True

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        amsgrad: bool = False,
        weight_decay: float = 1e-2,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        super().__init__(
            learning_rate,
            betas=betas,
            eps=eps,
            amsgrad=amsgrad,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            clip_value=clip_value,
        )


def _nadam(p, g, m, v, s2, c):
    decay, keep, rest1, beta2, rest2, scale, eps, rate_g, rate_m = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]
    g = g + decay * p
    m = m + rest1 * (g - m)
    v = beta2 * v + rest2 * g * g
    return keep * p - (rate_g * g + rate_m * m) / (sqrt(v) * scale + eps), m, v, s2


def _begin_nadam(scalars, hyper, lr):
    decay, decoupled, beta1, beta2, eps, momentum_decay = hyper[0], hyper[1], hyper[2], hyper[3], hyper[4], hyper[5]
    _, power2 = _adam_products(scalars, hyper)
    t = scalars[0]
    mu = beta1 * (1.0 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((t + 1.0) * momentum_decay))
    scalars[3] = mu if t == 1.0 else scalars[3] * mu
    rate_g = lr * (1.0 - mu) / (1.0 - scalars[3])
    rate_m = lr * mu_next / (1.0 - scalars[3] * mu_next)
    scale = 1.0 / sqrt(1.0 - power2)
    return decay, 1.0 - lr * decoupled, 1.0 - beta1, beta2, 1.0 - beta2, scale, eps, rate_g, rate_m


class Nadam(_Moments):
    """Adam with Nesterov momentum (Dozat 2016); PyTorch's NAdam with its ``momentum_decay``."""

    name = "nadam"
    rule = make_rule("nadam", _nadam, _begin_nadam, 2)
    momentum_decay: float

    def __init__(
        self,
        learning_rate: float | Schedule = 2e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        momentum_decay: float = 4e-3,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        momentum_decay = _checks.number("momentum_decay", momentum_decay, low=0.0)
        self._set(betas=checked_betas(betas), eps=_checks.number("eps", eps, low=0.0), momentum_decay=momentum_decay)
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    def _hyper(self) -> tuple[float, ...]:
        return (*super()._hyper(), self.momentum_decay)


def _radam(p, g, m, v, s2, c):
    decay, keep, rest1, beta2, rest2, eps, rate, plain = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    g = g + decay * p
    m = m + rest1 * (g - m)
    v = beta2 * v + rest2 * g * g
    # The first steps are plain momentum: rate = 0 there, else plain = 0. A quotient 0 * m / 0 would be NaN.
    root = sqrt(v) + eps
    adaptive = rate * m / root if rate > 0 else m - m
    return keep * p - (adaptive + plain * m), m, v, s2


def _begin_radam(scalars, hyper, lr):
    decay, decoupled, beta1, beta2, eps = hyper[0], hyper[1], hyper[2], hyper[3], hyper[4]
    power1, power2 = _adam_products(scalars, hyper)
    step = lr / (1.0 - power1)
    rho_inf = 2.0 / (1.0 - beta2) - 1.0
    rho = rho_inf - 2.0 * scalars[0] * power2 / (1.0 - power2)
    rate, plain = 0.0, step
    if rho > 5.0:
        rectify = sqrt((rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho))
        rate, plain = step * rectify * sqrt(1.0 - power2), 0.0
    return decay, 1.0 - lr * decoupled, 1.0 - beta1, beta2, 1.0 - beta2, eps, rate, plain


class RAdam(_Moments):
    """Adam with a rectified variance: plain momentum until v is trustworthy (Liu et al. 2020, arXiv:1908.03265)."""

    name = "radam"
    rule = make_rule("radam", _radam, _begin_radam, 2)

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        self._set(betas=checked_betas(betas), eps=_checks.number("eps", eps, low=0.0))
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)


def _adamax(p, g, m, u, s2, c):
    decay, rest1, beta2, eps, rate = c[0], c[1], c[2], c[3], c[4]
    g = g + decay * p
    m = m + rest1 * (g - m)
    u, size = beta2 * u, abs(g) + eps
    u = max(size, u)
    return p - rate * m / u, m, u, s2


def _begin_adamax(scalars, hyper, lr):
    decay, beta1, beta2, eps = hyper[0], hyper[2], hyper[3], hyper[4]
    power1, _ = _adam_products(scalars, hyper)
    return decay, 1.0 - beta1, beta2, eps, lr / (1.0 - power1)


class Adamax(_Moments):
    """``u = max(beta2 * u, |g| + eps)``, ``theta -= lr * m' / u`` (Kingma and Ba 2015, section 7)."""

    name = "adamax"
    rule = make_rule("adamax", _adamax, _begin_adamax, 2)

    def __init__(
        self,
        learning_rate: float | Schedule = 2e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        self._set(betas=checked_betas(betas), eps=_checks.number("eps", eps, low=0.0))
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)
