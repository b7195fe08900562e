"""Focal loss: per output as a formula, over classes as loops over rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from fastnn import _checks
from fastnn._jit import scalar
from fastnn._loops import load, masked_tail, store, store_row
from fastnn._math import exp, log, log1p
from fastnn.losses._base import SOFTMAX, Formula, Loss, Resolved, RowLoops, built_in, four
from fastnn.losses._targets import binary_targets
from fastnn.losses.softmax import shift_and_sum, skip_row, softmax_fused

# Focal loss of a logit (Lin et al., 2017): a * u**gamma * c with c the binary cross-entropy, u = 1 - p_t, and a the
# paper's alpha_t (1 where alpha < 0). u is held away from 0, where du = u'/u is finite and u**gamma tiny. The three
# repeat their first lines: a formula calls elementary functions only.


def _focal_value(o, y, gamma, alpha, p2, p3):
    T = type(o)
    e = exp(-abs(o))
    r = T(1) / (T(1) + e)
    u = y * (r if o < T(0) else e * r) + (T(1) - y) * (e * r if o < T(0) else r)
    u = T(1e-37) if u < T(1e-37) else u
    a = T(1) if alpha < T(0) else alpha * y + (T(1) - alpha) * (T(1) - y)
    c = (-y * o if o < T(0) else (T(1) - y) * o) + log1p(e)
    return a * exp(gamma * log(u)) * c


def _focal_gradient(o, y, gamma, alpha, p2, p3):
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


def _focal_curvature(o, y, gamma, alpha, p2, p3):
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


@scalar
def _focal_term(x, shift, gamma):
    """``log p``, ``p``, ``q = 1 - p``, ``q**gamma`` and ``p * log(p) / q`` of a class; ``shift = log(sum(exp(o)))``.

    q is held away from 0, where the powers of it would be 0 / 0; the terms they multiply are 0 there.
    """
    T = type(x)
    log_p = x - shift
    p = exp(log_p)
    q = T(1) - p
    least = T(1e-8)
    q = least if q < least else q
    return log_p, p, q, exp(gamma * log(q)), p * log_p / q


@scalar
def _target(y, at, j, labels):
    if labels != 0:
        v = load(y, at)
        T = type(v)
        return T(1) if v == T(j) else T(0)
    return load(y, at + j)


def _focal_softmax_loss() -> Callable[..., None]:
    """LOSS ``-alpha * sum(t * (1 - p)**gamma * log(p))`` with ``p = softmax(o)``, of (gamma, alpha) = params[:2].

    With ``h = t * p * d(loss)/dp = alpha * t * (1 - p)**gamma * (gamma * p * log(p) / (1 - p) - 1)`` the gradient is
    ``h - p * sum(h)``.
    """

    def body(o, ld_o, y, ld_y, labels, w, d, ld_d, rows, cols, scale, row_losses, params):
        T = type(scale)
        gamma = params[0]
        for i in range(rows):
            wi = load(w, i)
            at, at_y, at_d = i * ld_o, i * ld_y, i * ld_d
            if wi == T(0):
                store_row(row_losses, i, skip_row(o, at, d, at_d, cols, wi))
                continue
            wi *= params[1]
            factor = scale * wi
            m, s = shift_and_sum(o, at, cols, wi)
            shift = m + log(s)
            loss, total = s * T(0), T(0)  # NaN stays in the loss of a label
            for j in range(cols):
                t = _target(y, at_y, j, labels)
                log_p, _, _, power, ratio = _focal_term(load(o, at + j), shift, gamma)
                loss -= T(0) if t == T(0) else t * power * log_p
                total += T(0) if t == T(0) else t * power * (gamma * ratio - T(1))
                masked_tail()
            store_row(row_losses, i, wi * loss)
            for j in range(cols):
                t = _target(y, at_y, j, labels)
                _, p, _, power, ratio = _focal_term(load(o, at + j), shift, gamma)
                h = T(0) if t == T(0) else t * power * (gamma * ratio - T(1))
                store(d, at_d + j, factor * (h - p * total))
                masked_tail()

    return body


def _focal_softmax_tangent() -> Callable[..., None]:
    """TANGENT of `_focal_softmax_loss`: ``rh - rp * sum(h) - p * sum(rh)`` with ``rp = p * (r - p @ r)``.

    ``rh = alpha * t * gamma * (1 - p)**(gamma - 1) * (log(p) + 2 - (gamma - 1) * p * log(p) / (1 - p)) * rp``.
    """

    def body(o, ld_o, y, ld_y, labels, w, ro, ld_r, rows, cols, scale, params):
        T = type(scale)
        gamma = params[0]
        for i in range(rows):
            factor = scale * load(w, i)
            at, at_y, at_r = i * ld_o, i * ld_y, i * ld_r
            if factor == T(0):
                skip_row(o, at, ro, at_r, cols, factor)
                continue
            factor *= params[1]
            m, s = shift_and_sum(o, at, cols, factor)
            shift = m + log(s)
            dot = T(0)
            for j in range(cols):
                dot += exp(load(o, at + j) - shift) * load(ro, at_r + j)
                masked_tail()
            sum_h, sum_rh = T(0), T(0)
            for j in range(cols):
                t = _target(y, at_y, j, labels)
                log_p, p, q, power, ratio = _focal_term(load(o, at + j), shift, gamma)
                rp = p * (load(ro, at_r + j) - dot)
                rh = gamma * power / q * (log_p + T(2) - (gamma - T(1)) * ratio) * rp
                sum_h += T(0) if t == T(0) else t * power * (gamma * ratio - T(1))
                sum_rh += T(0) if t == T(0) else t * rh
                masked_tail()
            for j in range(cols):
                t = _target(y, at_y, j, labels)
                log_p, p, q, power, ratio = _focal_term(load(o, at + j), shift, gamma)
                rp = p * (load(ro, at_r + j) - dot)
                rh = gamma * power / q * (log_p + T(2) - (gamma - T(1)) * ratio) * rp
                rh = T(0) if t == T(0) else t * rh
                store(ro, at_r + j, factor * (rh - rp * sum_h - p * sum_rh))
                masked_tail()

    return body


def _focal_softmax_term(z, t, n, gamma, alpha):
    T = type(z)
    log_p, _, _, power, ratio = _focal_term(z, T(0), gamma)
    share = T(0) if t == T(0) else alpha * t * power
    return T(0) if t == T(0) else -share * log_p, share * (gamma * ratio - T(1))


@built_in(
    binary_focal=Formula(_focal_value, _focal_gradient, _focal_curvature),
    focal=RowLoops(_focal_softmax_loss, _focal_softmax_tangent, _focal_softmax_term),
)
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
    of_classes: ClassVar[bool] = True
    rowwise: ClassVar[bool] = True
    gamma: float = 2.0
    alpha: float | None = None

    def __post_init__(self) -> None:
        self._set("gamma", _checks.number("gamma", self.gamma, low=0.0))
        self._set("alpha", _checks.number("alpha", self.alpha, low=0.0, high=1.0, none=True))

    @property
    def parameter_values(self) -> tuple[float, float, float, float]:
        return four(self.gamma, 1.0 if self.alpha is None else self.alpha)

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        if activation_name == "sigmoid" or (n_outputs == 1 and activation_name not in SOFTMAX):
            alpha = -1.0 if self.alpha is None else self.alpha
            return self._resolved("binary_focal", activation_name == "sigmoid", self.gamma, alpha)
        return self._resolved(self.name, softmax_fused(self, activation_name, n_outputs))
