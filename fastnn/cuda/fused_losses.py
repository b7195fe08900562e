"""Slopes of activations, and losses with their gradients, in the sum tiles of a warp: see `fastnn.cuda.fragments`."""

from __future__ import annotations

import numpy as np

from fastnn.cuda import mma
from fastnn.cuda._jit import cuda, device, sequence, types
from fastnn.cuda.fragments import column_of
from fastnn.cuda.fused import FIRST, RELU, chooser
from fastnn.cuda.intrinsics import load
from fastnn.cuda.scalars import activation_slope, activation_value, compiled, exp, log

_ZERO, _ONE, _LOWEST = np.float32(0), np.float32(1), np.float32(-np.inf)


@device
def _blank(x):
    """What a row of weight 0 contributes: 0, or its NaN."""
    return _ZERO if x == x else x


def with_slopes(activations, size):
    """``activate(code, c, s)``: c becomes the values, and s the slopes of what is neither identity nor ReLU."""

    def relu_at(e):
        @device
        def step(c, s):
            c[e] = mma.relu(c[e])

        return step

    def both_at(value, slope, e):
        @device
        def step(c, s):
            z = c[e]
            a = value(z)
            c[e] = a
            s[e] = slope(z, a)

        return step

    def own(activation):
        value, slope = activation_value(activation, np.float32), activation_slope(activation, np.float32)
        return sequence([both_at(value, slope, e) for e in range(size)])

    return chooser([sequence([relu_at(e) for e in range(size)]), *map(own, activations)])


def formula(loss, size):
    """``gradients(c, s, code, y, begins, shares, factors, column, n_out, p0, p1, p2, p3, total)``.

    The sum tiles ``c`` of outputs become the gradients of pre-activations, and ``total[0]`` gains the losses;
    ``begins``, ``shares`` and ``factors`` hold the two rows' places in y (-1: none), ``w / n_out``, and that times
    the scale.
    """
    value, gradient = compiled(loss.value), compiled(loss.gradient)

    def at(e, plain):
        right, below = column_of(e), e // 2 % 2

        @device
        def step(c, s, code, y, begins, shares, factors, column, n_out, p0, p1, p2, p3, total):
            o, j = c[e], column + right
            inside = plain or (begins[below] >= 0 and j < n_out)
            target = load(y, begins[below] + j if inside else 0)
            loss_here = shares[below] * value(o, target, p0, p1, p2, p3)
            d = factors[below] * gradient(o, target, p0, p1, p2, p3)
            if not plain and shares[below] == _ZERO:
                loss_here = _blank(o)
                d = loss_here
            if code == RELU:
                d = _ZERO if o <= _ZERO else d
            elif code >= FIRST:
                d *= s[e]
            c[e] = d if inside else _ZERO
            total[0] += loss_here if inside else _ZERO

        return step

    any_rows, plain_rows = (sequence([at(e, plain) for e in range(size)]) for plain in (False, True))
    last = column_of(size - 1)

    @device
    def gradients(c, s, code, y, begins, shares, factors, column, n_out, p0, p1, p2, p3, total):
        counts = shares[0] != _ZERO and shares[1] != _ZERO
        if counts and begins[0] >= 0 and begins[1] >= 0 and column + last < n_out:
            plain_rows(c, s, code, y, begins, shares, factors, column, n_out, p0, p1, p2, p3, total)
        else:
            any_rows(c, s, code, y, begins, shares, factors, column, n_out, p0, p1, p2, p3, total)

    return gradients


def cross_entropy(size):
    """``gradients(z, y, begins, weights, factors, column, n_out, labels, smoothing, total)``, as in `formula`.

    ``z`` are the sum tiles of all columns. `fastnn.losses.softmax` has the formulas.
    """

    def largest_at(e):
        right, below = column_of(e), e // 2 % 2

        @device
        def step(z, column, n_out, largest):
            if column + right < n_out:
                largest[below] = z[e] if z[e] > largest[below] else largest[below]

        return step

    def target_at(e):
        right, below = column_of(e), e // 2 % 2

        @device
        def target(y, begins, column, n_out, labels, keep, floor):
            j, begin = column + right, begins[below]
            inside = begin >= 0 and j < n_out
            if labels != 0:
                t = keep + floor if inside and np.int64(load(y, max(begin, 0))) == j else floor
            else:
                t = keep * load(y, begin + j if inside else 0) + floor
            return t if inside else _ZERO

        return target

    def sums_at(e):
        right, below, target = column_of(e), e // 2 % 2, target_at(e)

        @device
        def step(z, y, begins, column, n_out, labels, keep, floor, largest, sums, targets, losses):
            if column + right < n_out:
                t = target(y, begins, column, n_out, labels, keep, floor)
                sums[below] += exp(z[e] - largest[below])
                targets[below] += t
                losses[below] += _ZERO if t == _ZERO else t * (largest[below] - z[e])

        return step

    def gradient_at(e):
        right, below, target = column_of(e), e // 2 % 2, target_at(e)

        @device
        def step(z, y, begins, weights, factors, column, n_out, labels, keep, floor, largest, shares, total):
            t = target(y, begins, column, n_out, labels, keep, floor)
            d = factors[below] * (exp(z[e] - largest[below]) * shares[below] - t)
            if weights[below] == _ZERO:
                d = _blank(z[e])
                total[0] += d if begins[below] >= 0 and column + right < n_out else _ZERO
            z[e] = d if begins[below] >= 0 and column + right < n_out else _ZERO

        return step

    find_largest = sequence([largest_at(e) for e in range(8)])
    add_up = sequence([sums_at(e) for e in range(8)])
    differentiate = sequence([gradient_at(e) for e in range(8)])
    tiles, others = size // 8, size - 8

    @device
    def rotate(z, first):
        """The next tile to the front: after all, each is where it was, and no index has depended on the tile."""
        for e in range(8):
            first[e] = z[e]
        for e in range(others):
            z[e] = z[e + 8]
        for e in range(8):
            z[others + e] = first[e]

    @device
    def gradients(z, y, begins, weights, factors, column, n_out, labels, smoothing, total):
        largest = cuda.local.array(2, types.float32)
        sums = cuda.local.array(2, types.float32)
        targets = cuda.local.array(2, types.float32)
        losses = cuda.local.array(2, types.float32)
        floor, keep = smoothing / np.float32(n_out), _ONE - smoothing
        for r in range(2):
            largest[r], sums[r], targets[r], losses[r] = _LOWEST, _ZERO, _ZERO, _ZERO
        first = cuda.local.array(8, types.float32)
        end = column + 16 * (tiles + min(n_out, 0))  # unknown to the compiler: unrolled, loads of y take all registers
        for j in range(column, end, 16):
            find_largest(z, j, n_out, largest)
            rotate(z, first)
        for r in range(2):
            largest[r] = mma.quad_max(largest[r])
        for j in range(column, end, 16):
            add_up(z, y, begins, j, n_out, labels, keep, floor, largest, sums, targets, losses)
            rotate(z, first)
        for r in range(2):
            sums[r] = mma.quad_sum(sums[r])
            targets[r] = mma.quad_sum(targets[r]) if labels == 0 else _ONE
            if begins[r] >= 0 and weights[r] != _ZERO:
                # The row's logarithm counts once among its four lanes.
                total[0] += weights[r] * (losses[r] + (targets[r] * log(sums[r]) if column < 2 else _ZERO))
            sums[r] = targets[r] / sums[r]
        for j in range(column, end, 16):
            differentiate(z, y, begins, weights, factors, j, n_out, labels, keep, floor, largest, sums, total)
            rotate(z, first)

    return gradients
