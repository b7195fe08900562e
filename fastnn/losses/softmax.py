"""Losses of a whole row from its softmax: cross-entropy and the Kullback-Leibler divergence.

Their natives are loops over rows, since the outputs of a row enter together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from fastnn import _checks
from fastnn._jit import kernel, scalar
from fastnn._loops import full_lanes, larger, load, masked_tail, one_by_one, stack, store, store_row
from fastnn._math import exp, log
from fastnn.losses._base import SOFTMAX, Loss, Resolved, RowLoops, blank, built_in
from fastnn.losses._targets import class_targets


@scalar
def skip_row(o, at_o, d, at_d, cols, zero):
    """Write a row of weight 0; return its loss."""
    total = zero
    for j in range(cols):
        empty = blank(load(o, at_o + j))
        total += empty
        store(d, at_d + j, empty)
    return total


@kernel
def shift_and_sum(o, at, cols, zero):
    """``m = max(o)`` and ``sum(exp(o - m))`` of a row; the sum is NaN where the row holds one."""
    T = type(zero)
    m = T(-np.inf)
    for j in range(cols):
        m = larger(load(o, at + j), m)
        masked_tail()
    s = T(0)
    for j in range(cols):
        s += exp(load(o, at + j) - m)
        masked_tail()
    return m, s


# Rows with few classes are worked on in blocks of this many, one row in each lane of a vector.
_LANES = 16
_FEW = 32
_lane_array = stack(_LANES)
_block_array = stack(_LANES * _FEW)


@scalar
def _shift_and_sum_block(o, at, ld, n, cols, m, s, e):
    """`shift_and_sum` of ``n`` rows; ``e[j, r]`` becomes the exponential of row r, class j."""
    T = type(o[0])
    for r in range(_LANES):
        row = at + min(r, n - 1) * ld  # a lane beyond the last row repeats it
        for j in range(cols):
            e[j * _LANES + r] = o[row + j]
            one_by_one()
    for r in range(_LANES):
        m[r] = e[r]
        s[r] = T(0)
        full_lanes()
    for j in range(1, cols):
        for r in range(_LANES):
            m[r] = larger(e[j * _LANES + r], m[r])
            full_lanes()
    for j in range(cols):
        for r in range(_LANES):
            x = exp(e[j * _LANES + r] - m[r])
            e[j * _LANES + r] = x
            s[r] += x
            full_lanes()


def _softmax_loss(divergence: bool) -> Callable[..., None]:
    """LOSS of cross-entropy from logits, or (``divergence``) of the Kullback-Leibler divergence, a mean over outputs.

    With targets ``t`` (smoothed by ``params[0]``), ``m = max(o)`` and ``s = sum(exp(o - m))``, the row's loss is
    ``sum(t * (m - o)) + sum(t) * log(s)`` and its gradient ``sum(t) * exp(o - m) / s - t``. Beyond a few classes the
    exponentials are computed twice: reading back what was just stored with a mask costs more.
    """

    def body(o, ld_o, y, ld_y, labels, w, d, ld_d, rows, cols, scale, row_losses, params):
        T = type(scale)
        floor = params[0] / T(cols)
        keep = T(1) - params[0]
        few = cols <= _FEW
        shifts, sums, logs, e = _lane_array(scale), _lane_array(scale), _lane_array(scale), _block_array(scale)
        for first in range(0, rows, _LANES):
            n = min(_LANES, rows - first)
            if few:
                _shift_and_sum_block(o, first * ld_o, ld_o, n, cols, shifts, sums, e)
            else:
                for r in range(n):
                    shifts[r], sums[r] = shift_and_sum(o, (first + r) * ld_o, cols, scale)
            for r in range(_LANES):
                logs[r] = log(sums[r])
                sums[r] = T(1) / sums[r]
                full_lanes()
            for r in range(n):
                i = first + r
                wi = load(w, i)
                at, at_y, at_d = i * ld_o, i * ld_y, i * ld_d
                if wi == T(0):
                    store_row(row_losses, i, skip_row(o, at, d, at_d, cols, wi))
                    continue
                if divergence:
                    wi /= T(cols)
                factor = scale * wi
                m, p = shifts[r], factor * sums[r]
                if labels != 0:
                    label = np.int64(load(y, at_y))
                    loss = keep * (m - load(o, at + label)) + logs[r]
                    if floor != T(0):
                        spread = T(0)
                        for j in range(cols):
                            spread += m - load(o, at + j)
                            masked_tail()
                        loss += floor * spread
                    store_row(row_losses, i, wi * loss)
                    low = factor * floor
                    high = factor * (keep + floor)
                    if few:
                        for j in range(cols):
                            store(d, at_d + j, e[j * _LANES + r] * p - low)
                            one_by_one()
                        store(d, at_d + label, e[label * _LANES + r] * p - high)
                    else:
                        for j in range(cols):
                            t = high if j == label else low
                            store(d, at_d + j, exp(load(o, at + j) - m) * p - t)
                            masked_tail()
                else:
                    total, loss = T(0), T(0)
                    for j in range(cols):
                        t = keep * load(y, at_y + j) + floor
                        term = t * (m - load(o, at + j))
                        if divergence:
                            term += t * log(t)
                        total += t
                        loss += T(0) if t == T(0) else term
                        masked_tail()
                    store_row(row_losses, i, wi * (loss + total * logs[r]))
                    p *= total
                    if few:
                        for j in range(cols):
                            t = keep * load(y, at_y + j) + floor
                            store(d, at_d + j, e[j * _LANES + r] * p - factor * t)
                            one_by_one()
                    else:
                        for j in range(cols):
                            t = keep * load(y, at_y + j) + floor
                            store(d, at_d + j, exp(load(o, at + j) - m) * p - factor * t)
                            masked_tail()

    return body


def _softmax_tangent(divergence: bool) -> Callable[..., None]:
    """TANGENT of `_softmax_loss`: ``sum(t) * p * (r - p @ r)`` with ``p = softmax(o)``."""

    def body(o, ld_o, y, ld_y, labels, w, ro, ld_r, rows, cols, scale, params):
        T = type(scale)
        for i in range(rows):
            factor = scale * load(w, i)
            at, at_y, at_r = i * ld_o, i * ld_y, i * ld_r
            if factor == T(0):
                skip_row(o, at, ro, at_r, cols, factor)
                continue
            if divergence:
                factor /= T(cols)
            if labels == 0:
                total = T(0)
                for j in range(cols):
                    total += load(y, at_y + j)
                    masked_tail()
                factor *= (T(1) - params[0]) * total + params[0]
            m, s = shift_and_sum(o, at, cols, factor)
            dot = T(0)
            for j in range(cols):
                dot += exp(load(o, at + j) - m) * load(ro, at_r + j)
                masked_tail()
            dot /= s
            factor /= s
            for j in range(cols):
                rj = load(ro, at_r + j) - dot
                store(ro, at_r + j, factor * exp(load(o, at + j) - m) * rj)
                masked_tail()

    return body


def _cross_entropy_term(z, t, n, smoothing, p1):
    T = type(z)
    t = (T(1) - smoothing) * t + smoothing / n
    return T(0) if t == T(0) else -t * z, -t


def _divergence_term(z, t, n, p0, p1):
    T = type(z)
    return T(0) if t == T(0) else t * (log(t) - z) / n, -t / n


def softmax_fused(loss: Loss, activation_name: str, n_outputs: int) -> bool:
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
    return activation_name in SOFTMAX


@built_in(cross_entropy=RowLoops(partial(_softmax_loss, False), partial(_softmax_tangent, False), _cross_entropy_term))
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
    of_classes: ClassVar[bool] = True
    rowwise: ClassVar[bool] = True
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        self._set("label_smoothing", _checks.number("label_smoothing", self.label_smoothing, low=0.0, high=1.0))

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        return self._resolved(self.name, softmax_fused(self, activation_name, n_outputs))


@built_in(kl_divergence=RowLoops(partial(_softmax_loss, True), partial(_softmax_tangent, True), _divergence_term))
@dataclass(frozen=True)
class KLDivergence(Loss):
    """``t * (log(t) - log_softmax(o))``, PyTorch's ``KLDivLoss`` behind a log-softmax.

    As by default there, the mean goes over the outputs too. A target of 0 contributes 0. Activations and targets as
    for `CrossEntropy`.
    """

    name: ClassVar[str] = "kl_divergence"
    _targets: ClassVar[Any] = staticmethod(class_targets)
    of_classes: ClassVar[bool] = True
    rowwise: ClassVar[bool] = True

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        return self._resolved(self.name, softmax_fused(self, activation_name, n_outputs))
