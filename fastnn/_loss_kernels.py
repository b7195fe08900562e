"""Natives of the losses: loops over rows of outputs and targets, made from scalar formulas or for softmax.

Two natives belong to a loss. P is a pointer to the parameters' dtype; sizes, leading dimensions and ``labels`` int64.

LOSS     ``(o, ld_o, y, ld_y, labels, w, d, ld_d, rows, cols, scale, row_losses, params)``:
         ``row_losses[i] = w[i] * l_i`` and ``d[i, j] = scale * w[i] * dl_i / do_ij``; ``d`` may be the memory of ``o``.
TANGENT  ``(o, ld_o, y, ld_y, labels, w, ro, ld_r, rows, cols, scale, params)``:
         ``ro``, a tangent of ``o``, becomes the tangent of ``d``: ``scale * w[i] * H_i @ ro_i``.

``o`` (rows, cols) are outputs or pre-activations; ``y`` targets, (rows, cols) or, where ``labels`` is 1, one column
of class numbers; ``w`` (rows,) sample weights; ``params`` four numbers. A row of weight 0 gives exactly 0, whatever
finite or infinite numbers it holds, but a NaN in it stays a NaN. Padding beyond ``cols`` is neither read nor written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types

from ._jit import kernel, scalar
from ._loops import full_lanes, larger, load, masked_tail, one_by_one, stack, store, store_row
from ._math import exp, log


def LOSS_ARGUMENTS(real: Any) -> tuple[Any, ...]:
    p, n = types.CPointer(real), types.int64
    return p, n, p, n, n, p, p, n, n, n, real, p, p


def TANGENT_ARGUMENTS(real: Any) -> tuple[Any, ...]:
    p, n = types.CPointer(real), types.int64
    return p, n, p, n, n, p, p, n, n, n, real, p


@scalar
def _blank(x):  # type: ignore[no-untyped-def]
    """What an element of a row of weight 0 contributes: 0, or its NaN."""
    return type(x)(0) if x == x else x


def elementwise_loss(value: Callable[..., Any], gradient: Callable[..., Any]) -> Callable[..., None]:
    """LOSS of a formula per output; a row's loss is the mean over its outputs."""
    value, gradient = scalar(value), scalar(gradient)

    def body(o, ld_o, y, ld_y, labels, w, d, ld_d, rows, cols, scale, row_losses, params):  # type: ignore[no-untyped-def]
        T = type(scale)
        p0, p1, p2, p3 = params[0], params[1], params[2], params[3]
        if cols == 1 and ld_o == 1 and ld_y == 1 and ld_d == 1:
            for i in range(rows):
                oi, yi, wi = load(o, i), load(y, i), load(w, i)
                blank = _blank(oi)
                li = wi * T(value(oi, yi, p0, p1, p2, p3))
                di = scale * wi * T(gradient(oi, yi, p0, p1, p2, p3))
                store_row(row_losses, i, li if wi != T(0) else blank)
                store(d, i, di if wi != T(0) else blank)
        else:
            for i in range(rows):
                wi = load(w, i)
                share = wi / T(cols)
                factor = scale * share
                total = T(0)
                if wi != T(0):
                    for j in range(cols):
                        oj, yj = load(o, i * ld_o + j), load(y, i * ld_y + j)
                        total += T(value(oj, yj, p0, p1, p2, p3))
                        store(d, i * ld_d + j, factor * T(gradient(oj, yj, p0, p1, p2, p3)))
                        masked_tail()
                    total *= share
                else:
                    for j in range(cols):
                        blank = _blank(load(o, i * ld_o + j))
                        total += blank
                        store(d, i * ld_d + j, blank)
                store_row(row_losses, i, total)

    return body


def elementwise_tangent(curvature: Callable[..., Any]) -> Callable[..., None]:
    """TANGENT of a formula per output."""
    curvature = scalar(curvature)

    def body(o, ld_o, y, ld_y, labels, w, ro, ld_r, rows, cols, scale, params):  # type: ignore[no-untyped-def]
        T = type(scale)
        p0, p1, p2, p3 = params[0], params[1], params[2], params[3]
        for i in range(rows):
            wi = load(w, i)
            factor = scale * wi / T(cols)
            for j in range(cols):
                oj, yj = load(o, i * ld_o + j), load(y, i * ld_y + j)
                rj = factor * T(curvature(oj, yj, p0, p1, p2, p3)) * load(ro, i * ld_r + j)
                store(ro, i * ld_r + j, rj if wi != T(0) else _blank(oj))
                masked_tail()

    return body


@scalar
def _skip_row(o, at_o, d, at_d, cols, zero):  # type: ignore[no-untyped-def]
    """Write a row of weight 0; return its loss."""
    total = zero
    for j in range(cols):
        blank = _blank(load(o, at_o + j))
        total += blank
        store(d, at_d + j, blank)
    return total


@kernel
def _shift_and_sum(o, at, cols, zero):  # type: ignore[no-untyped-def]
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
def _shift_and_sum_block(o, at, ld, n, cols, m, s, e):  # type: ignore[no-untyped-def]
    """`_shift_and_sum` of ``n`` rows; ``e[j, r]`` becomes the exponential of row r, class j."""
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


def softmax_loss(divergence: bool) -> Callable[..., None]:
    """LOSS of cross-entropy from logits, or (``divergence``) of the Kullback-Leibler divergence, a mean over outputs.

    With targets ``t`` (smoothed by ``params[0]``), ``m = max(o)`` and ``s = sum(exp(o - m))``, the row's loss is
    ``sum(t * (m - o)) + sum(t) * log(s)`` and its gradient ``sum(t) * exp(o - m) / s - t``. Beyond a few classes the
    exponentials are computed twice: reading back what was just stored with a mask costs more.
    """

    def body(o, ld_o, y, ld_y, labels, w, d, ld_d, rows, cols, scale, row_losses, params):  # type: ignore[no-untyped-def]
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
                    shifts[r], sums[r] = _shift_and_sum(o, (first + r) * ld_o, cols, scale)
            for r in range(_LANES):
                logs[r] = log(sums[r])
                sums[r] = T(1) / sums[r]
                full_lanes()
            for r in range(n):
                i = first + r
                wi = load(w, i)
                at, at_y, at_d = i * ld_o, i * ld_y, i * ld_d
                if wi == T(0):
                    store_row(row_losses, i, _skip_row(o, at, d, at_d, cols, wi))
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


def softmax_tangent(divergence: bool) -> Callable[..., None]:
    """TANGENT of `softmax_loss`: ``sum(t) * p * (r - p @ r)`` with ``p = softmax(o)``."""

    def body(o, ld_o, y, ld_y, labels, w, ro, ld_r, rows, cols, scale, params):  # type: ignore[no-untyped-def]
        T = type(scale)
        for i in range(rows):
            factor = scale * load(w, i)
            at, at_y, at_r = i * ld_o, i * ld_y, i * ld_r
            if factor == T(0):
                _skip_row(o, at, ro, at_r, cols, factor)
                continue
            if divergence:
                factor /= T(cols)
            if labels == 0:
                total = T(0)
                for j in range(cols):
                    total += load(y, at_y + j)
                    masked_tail()
                factor *= (T(1) - params[0]) * total + params[0]
            m, s = _shift_and_sum(o, at, cols, factor)
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


@scalar
def _focal_term(x, shift, gamma):  # type: ignore[no-untyped-def]
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
def _target(y, at, j, labels):  # type: ignore[no-untyped-def]
    if labels != 0:
        v = load(y, at)
        T = type(v)
        return T(1) if v == T(j) else T(0)
    return load(y, at + j)


def focal_softmax_loss() -> Callable[..., None]:
    """LOSS ``-alpha * sum(t * (1 - p)**gamma * log(p))`` with ``p = softmax(o)``, of (gamma, alpha) = params[:2].

    With ``h = t * p * d(loss)/dp = alpha * t * (1 - p)**gamma * (gamma * p * log(p) / (1 - p) - 1)`` the gradient is
    ``h - p * sum(h)``.
    """

    def body(o, ld_o, y, ld_y, labels, w, d, ld_d, rows, cols, scale, row_losses, params):  # type: ignore[no-untyped-def]
        T = type(scale)
        gamma = params[0]
        for i in range(rows):
            wi = load(w, i)
            at, at_y, at_d = i * ld_o, i * ld_y, i * ld_d
            if wi == T(0):
                store_row(row_losses, i, _skip_row(o, at, d, at_d, cols, wi))
                continue
            wi *= params[1]
            factor = scale * wi
            m, s = _shift_and_sum(o, at, cols, wi)
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


def focal_softmax_tangent() -> Callable[..., None]:
    """TANGENT of `focal_softmax_loss`: ``rh - rp * sum(h) - p * sum(rh)`` with ``rp = p * (r - p @ r)``.

    ``rh = alpha * t * gamma * (1 - p)**(gamma - 1) * (log(p) + 2 - (gamma - 1) * p * log(p) / (1 - p)) * rp``.
    """

    def body(o, ld_o, y, ld_y, labels, w, ro, ld_r, rows, cols, scale, params):  # type: ignore[no-untyped-def]
        T = type(scale)
        gamma = params[0]
        for i in range(rows):
            factor = scale * load(w, i)
            at, at_y, at_r = i * ld_o, i * ld_y, i * ld_r
            if factor == T(0):
                _skip_row(o, at, ro, at_r, cols, factor)
                continue
            factor *= params[1]
            m, s = _shift_and_sum(o, at, cols, factor)
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
