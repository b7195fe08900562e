"""Batch and layer normalisation, forwards and backwards.

Both write ``out = gain * xhat + bias`` with ``xhat = (x - mean) / sqrt(variance + eps)``, the biased variance; they
differ in the axis. Batch normalisation in training needs the whole batch at once, so a plan that holds one is not
walked in pieces.

References: Ioffe and Szegedy (2015), arXiv:1502.03167; Ba, Kiros and Hinton (2016), arXiv:1607.06450.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from fastnn._jit import Native, native_call, scalar
from fastnn._loops import load, masked_tail, stack, store, store_row
from fastnn.cpu.simd import shift
from fastnn.cpu.sums import column_products, column_squares, column_sums

STRIP = 256  # columns whose statistics wait on the stack
_strip = stack(STRIP)


def norm_forward_arguments(real: Any) -> tuple[Any, ...]:
    """(src, ld_in, out, ld_out, xhat, inverse, gain, bias, running, rows, cols, momentum, eps, training, keep).

    ``keep``: write xhat, which a backward pass needs.
    """
    p, n = types.CPointer(real), types.int64
    return (p, n, p, n, p, p, p, p, p, n, n, real, real, n, n)


def norm_backward_arguments(real: Any) -> tuple[Any, ...]:
    """(d_out, ld_out, d_in, ld_in, xhat, inverse, gain, d_gain, d_bias, rows, cols, and four flags).

    The flags are training, ``learn``: write d_gain and d_bias, ``accumulate``: or rather add to them, and ``want``:
    write d_in.
    """
    p, n = types.CPointer(real), types.int64
    return (p, n, p, n, p, p, p, p, p, n, n, n, n, n, n)


def _batch_forward(
    src, ld_in, out, ld_out, xhat, inverse, gain, bias, running, rows, cols, momentum, eps, training, keep
):
    T = type(eps)
    count = T(rows)
    means, variances = _strip(eps), _strip(eps)
    for first in range(0, cols, STRIP):
        n = min(STRIP, cols - first)
        x, normal, y, inv = shift(src, first), shift(xhat, first), shift(out, first), shift(inverse, first)
        g, b = shift(gain, first), shift(bias, first)
        running_mean, running_variance = shift(running, first), shift(running, cols + first)
        if training != 0:
            column_sums(rows, n, x, ld_in, x, 0, means, 0)
            for j in range(n):
                means[j] /= count
            column_squares(rows, n, x, ld_in, means, 0, variances, 0)
            for j in range(n):
                variances[j] /= count
                # The running variance is the unbiased one, as in PyTorch; a batch of one row has only the biased one.
                unbiased = variances[j] * (count / (count - T(1))) if rows > 1 else variances[j]
                running_mean[j] = momentum * running_mean[j] + (T(1) - momentum) * means[j]
                running_variance[j] = momentum * running_variance[j] + (T(1) - momentum) * unbiased
        else:
            for j in range(n):
                means[j], variances[j] = running_mean[j], running_variance[j]
        for j in range(n):
            inv[j] = T(1) / np.sqrt(variances[j] + eps)
        for i in range(rows):
            _normalise(shift(x, i * ld_in), means, inv, g, b, shift(normal, i * ld_out), shift(y, i * ld_out), n, keep)


@scalar
def _normalise(x, means, inv, g, b, normal, y, n, keep):
    """One row."""
    if keep != 0:
        for j in range(n):
            h = (load(x, j) - load(means, j)) * load(inv, j)
            store(normal, j, h)
            store_row(y, j, load(g, j) * h + load(b, j))
            masked_tail()
    else:
        for j in range(n):
            store_row(y, j, load(g, j) * ((load(x, j) - load(means, j)) * load(inv, j)) + load(b, j))
            masked_tail()


def _batch_backward(
    d_out, ld_out, d_in, ld_in, xhat, inverse, gain, d_gain, d_bias, rows, cols, training, learn, accumulate, want
):
    T = type(gain[0])
    if learn != 0:
        column_sums(rows, cols, d_out, ld_out, d_out, 0, d_bias, accumulate)
        column_products(rows, cols, d_out, ld_out, xhat, ld_out, d_gain, accumulate)
    if want == 0:
        return
    factors, means, products = _strip(gain[0]), _strip(gain[0]), _strip(gain[0])
    for first in range(0, cols, STRIP):
        n = min(STRIP, cols - first)
        d, normal, dx = shift(d_out, first), shift(xhat, first), shift(d_in, first)
        if training != 0:
            column_sums(rows, n, d, ld_out, d, 0, means, 0)
            column_products(rows, n, d, ld_out, normal, ld_out, products, 0)
        for j in range(n):
            # With running statistics the mean and variance are constants and only the factor is left.
            factors[j] = gain[first + j] * inverse[first + j]
            means[j] = means[j] / T(rows) if training != 0 else T(0)
            products[j] = products[j] / T(rows) if training != 0 else T(0)
        for i in range(rows):
            di, hi, dxi = shift(d, i * ld_out), shift(normal, i * ld_out), shift(dx, i * ld_in)
            for j in range(n):
                store_row(dxi, j, load(factors, j) * (load(di, j) - load(means, j) - load(hi, j) * load(products, j)))
                masked_tail()


def _layer_forward(
    src, ld_in, out, ld_out, xhat, inverse, gain, bias, running, rows, cols, momentum, eps, training, keep
):
    T = type(eps)
    count = T(cols)
    for i in range(rows):
        x, normal, y = shift(src, i * ld_in), shift(xhat, i * ld_out), shift(out, i * ld_out)
        total = T(0)
        for j in range(cols):
            total += x[j]
        mean = total / count
        square = T(0)
        for j in range(cols):
            square += (x[j] - mean) * (x[j] - mean)
        inv = T(1) / np.sqrt(square / count + eps)
        inverse[i] = inv
        for j in range(cols):
            h = (x[j] - mean) * inv
            normal[j] = h
            y[j] = gain[j] * h + bias[j]


def _layer_backward(
    d_out, ld_out, d_in, ld_in, xhat, inverse, gain, d_gain, d_bias, rows, cols, training, learn, accumulate, want
):
    T = type(gain[0])
    count = T(cols)
    if learn != 0 and accumulate == 0:
        for j in range(cols):
            d_gain[j] = T(0)
            d_bias[j] = T(0)
    for i in range(rows):
        d, normal, dx = shift(d_out, i * ld_out), shift(xhat, i * ld_out), shift(d_in, i * ld_in)
        if learn != 0:
            for j in range(cols):
                d_gain[j] += d[j] * normal[j]
                d_bias[j] += d[j]
        if want != 0:
            sum_d, sum_dx = T(0), T(0)
            for j in range(cols):
                g = d[j] * gain[j]
                sum_d += g
                sum_dx += g * normal[j]
            mean_d, mean_dx = sum_d / count, sum_dx / count
            inv = inverse[i]
            for j in range(cols):
                dx[j] = inv * (d[j] * gain[j] - mean_d - normal[j] * mean_dx)


batch_forward = Native("cpu.batch_norm.forward", _batch_forward, norm_forward_arguments)
batch_backward = Native("cpu.batch_norm.backward", _batch_backward, norm_backward_arguments)
layer_forward = Native("cpu.layer_norm.forward", _layer_forward, norm_forward_arguments)
layer_backward = Native("cpu.layer_norm.backward", _layer_backward, norm_backward_arguments)
call_norm_forward = native_call(norm_forward_arguments, 0)
call_norm_backward = native_call(norm_backward_arguments, 0)
