"""Optimizers: hyper-parameters, state, and which rule of `fastnn._rules` runs.

Names, defaults and trajectories are those of PyTorch's optimizer of the same name (Nadam is its NAdam; Lion is from
its paper). The first parameter of each is ``learning_rate``, a number or a schedule of `fastnn.schedules`. Common to
most of them:

weight_decay : float
    ``weight_decay * theta`` is added to the gradient; AdamW and Lion shrink theta by ``learning_rate * weight_decay``
    instead, away from the moments (decoupled).
clip_norm : float or None
    The gradient of all parameters together is scaled down to this Euclidean norm where it is longer.
clip_value : float or None
    Each component of the gradient is cut to [-clip_value, clip_value] (before the norm is taken).

An optimizer object carries its own state (moments and step count): handing the same object to `fit` again goes on from
there, and `reset` forgets it. Hyper-parameters are fixed once it is made; ``learning_rate`` may be set at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _checks, _rules
from fastnn._custom_optimizer import from_rule
from fastnn._lbfgs import LBFGS, Minimum
from fastnn._optimizer import Optimizer, OptimizerState, from_config, get
from fastnn._rules import BEGIN_ARGUMENTS, UPDATE_ARGUMENTS
from fastnn.schedules import Schedule

__all__ = [
    "BEGIN_ARGUMENTS",
    "LBFGS",
    "SGD",
    "UPDATE_ARGUMENTS",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Minimum",
    "Nadam",
    "Optimizer",
    "OptimizerState",
    "RAdam",
    "RMSprop",
    "Rprop",
    "from_config",
    "from_rule",
    "get",
]


def _pair(name: str, value: Any, **bounds: Any) -> tuple[float, float]:
    if isinstance(value, str) or not isinstance(value, (Sequence, np.ndarray)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair of numbers, got {_checks.describe(value)}")
    return (_checks.number(f"{name}[0]", value[0], **bounds), _checks.number(f"{name}[1]", value[1], **bounds))


def _betas(value: Any) -> tuple[float, float]:
    return _pair("betas", value, low=0.0, high=1.0, high_open=True)


def _eps(value: Any) -> float:
    # PyTorch takes 0, with which a parameter that never had a gradient becomes 0 / 0; float32 must hold it too.
    return _checks.number("eps", value, low=1e-30)


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
    def rule(self) -> _rules.Rule:
        return _rules.RULES["sgd_momentum" if self.momentum else "sgd"]

    def _hyper(self) -> tuple[float, ...]:
        return (self.weight_decay, self.momentum, self.dampening, float(self.nesterov))


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
            eps=_eps(eps),
            momentum=_checks.number("momentum", momentum, low=0.0),
            centered=_checks.flag("centered", centered),
        )
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    @property
    def rule(self) -> _rules.Rule:
        return _rules.RULES["rmsprop" + "_centered" * self.centered + "_momentum" * (self.momentum > 0.0)]

    def _hyper(self) -> tuple[float, ...]:
        return (self.weight_decay, self.alpha, self.eps, self.momentum)


class Adagrad(Optimizer):
    """``s += g^2``, ``theta -= lr / (1 + t * lr_decay) * g / (sqrt(s) + eps)`` (Duchi et al. 2011)."""

    name = "adagrad"
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
            eps=_eps(eps),
        )
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    def _hyper(self) -> tuple[float, ...]:
        return (self.weight_decay, self.eps, self.lr_decay)

    def initial_slots(self, n: int, dtype: DTypeLike) -> np.ndarray:
        return np.full((1, n), self.initial_accumulator_value, dtype)


class Adadelta(Optimizer):
    """``d = sqrt(u + eps) / sqrt(v + eps) * g``, ``theta -= lr * d`` (Zeiler 2012, arXiv:1212.5701).

    v and u are the running means, with ``rho``, of g^2 and d^2.
    """

    name = "adadelta"
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
        self._set(rho=_checks.number("rho", rho, low=0.0, high=1.0), eps=_eps(eps))
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    def _hyper(self) -> tuple[float, ...]:
        return (self.weight_decay, self.rho, self.eps)


class _Moments(Optimizer):
    """Adam and its kin: running means m of g and v of g^2 with ``betas``."""

    decoupled: ClassVar[bool] = False
    betas: tuple[float, float]
    eps: float

    def _hyper(self) -> tuple[float, ...]:
        decay = (0.0, self.weight_decay) if self.decoupled else (self.weight_decay, 0.0)
        return (*decay, *self.betas, self.eps)


class Adam(_Moments):
    """``theta -= lr * m' / (sqrt(v') + eps)`` with bias-corrected m' and v' (Kingma and Ba 2015, arXiv:1412.6980).

    ``amsgrad`` divides by the largest v so far (Reddi et al. 2018).

    >>> Adam(0.01, betas=(0.9, 0.99)).betas
    (0.9, 0.99)
    """

    name = "adam"
    amsgrad: bool

    def __init__(
        self,
        learning_rate: float | Schedule = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        amsgrad: bool = False,
        weight_decay: float = 0.0,
        clip_norm: float | None = None,
        clip_value: float | None = None,
    ):
        self._set(betas=_betas(betas), eps=_eps(eps), amsgrad=_checks.flag("amsgrad", amsgrad))
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    @property
    def rule(self) -> _rules.Rule:
        return _rules.RULES["adam_amsgrad" if self.amsgrad else "adam"]


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


class Nadam(_Moments):
    """Adam with Nesterov momentum (Dozat 2016); PyTorch's NAdam with its ``momentum_decay``."""

    name = "nadam"
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
        self._set(betas=_betas(betas), eps=_eps(eps), momentum_decay=momentum_decay)
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    def _hyper(self) -> tuple[float, ...]:
        return (*super()._hyper(), self.momentum_decay)


class RAdam(_Moments):
    """Adam with a rectified variance: plain momentum until v is trustworthy (Liu et al. 2020, arXiv:1908.03265)."""

    name = "radam"

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
        self._set(betas=_betas(betas), eps=_eps(eps))
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)


class Adamax(_Moments):
    """``u = max(beta2 * u, |g| + eps)``, ``theta -= lr * m' / u`` (Kingma and Ba 2015, section 7)."""

    name = "adamax"

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
        self._set(betas=_betas(betas), eps=_eps(eps))
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)


class Lion(Optimizer):
    """``theta -= lr * (sign(beta1 * m + (1 - beta1) * g) + weight_decay * theta)``.

    Then ``m = beta2 * m + (1 - beta2) * g`` (Chen et al. 2023, arXiv:2302.06675). Every step has the length of the
    learning rate, so take a third to a tenth of Adam's.
    """

    name = "lion"
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
        self._set(betas=_betas(betas))
        self._set_common(learning_rate, weight_decay, clip_norm, clip_value)

    def _hyper(self) -> tuple[float, ...]:
        return (self.weight_decay, *self.betas)


class Rprop(Optimizer):
    """Steps of each parameter's own size, grown while its gradient keeps its sign (Riedmiller and Braun 1993).

    For full batches: only the signs of the gradient are used. ``learning_rate`` is the size of the first step, a plain
    number; ``etas`` shrink and grow it, within ``step_sizes``.
    """

    name = "rprop"
    etas: tuple[float, float]
    step_sizes: tuple[float, float]

    def __init__(
        self,
        learning_rate: float = 1e-2,
        *,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
    ):
        self._set(etas=_pair("etas", etas, low=0.0, low_open=True), step_sizes=_pair("step_sizes", step_sizes, low=0.0))
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
