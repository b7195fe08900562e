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

from fastnn._jit import Native, native_call
from fastnn.cpu.simd import shift


def norm_forward_arguments(real: Any) -> tuple[Any, ...]:
    """(src, ld_in, out, ld_out, xhat, inverse, gain, bias, running, rows, cols, momentum, eps, training)."""
    p, n = types.CPointer(real), types.int64
    return (p, n, p, n, p, p, p, p, p, n, n, real, real, n)


def norm_backward_arguments(real: Any) -> tuple[Any, ...]:
    """(d_out, ld_out, d_in, ld_in, xhat, inverse, gain, d_gain, d_bias, rows, cols, and four flags).

    The flags are training, ``learn``: write d_gain and d_bias, ``accumulate``: or rather add to them, and ``want``:
    write d_in.
    """
    p, n = types.CPointer(real), types.int64
    return (p, n, p, n, p, p, p, p, p, n, n, n, n, n, n)


def _batch_forward(src, ld_in, out, ld_out, xhat, inverse, gain, bias, running, rows, cols, momentum, eps, training):
    T = type(eps)
    variance = shift(running, cols)
    count = T(rows)
    for j in range(cols):
        mean, var = running[j], variance[j]
        if training != 0:
            total = T(0)
            for i in range(rows):
                total += src[i * ld_in + j]
            mean = total / count
            square = T(0)
            for i in range(rows):
                centred = src[i * ld_in + j] - mean
                square += centred * centred
            var = square / count
            # The running variance is the unbiased one, as in PyTorch; a batch of one row has only the biased one.
            unbiased = square / (count - T(1)) if rows > 1 else var
            running[j] = momentum * running[j] + (T(1) - momentum) * mean
            variance[j] = momentum * variance[j] + (T(1) - momentum) * unbiased
        inv = T(1) / np.sqrt(var + eps)
        inverse[j] = inv
        for i in range(rows):
            x = (src[i * ld_in + j] - mean) * inv
            xhat[i * ld_out + j] = x
            out[i * ld_out + j] = gain[j] * x + bias[j]


def _batch_backward(
    d_out, ld_out, d_in, ld_in, xhat, inverse, gain, d_gain, d_bias, rows, cols, training, learn, accumulate, want
):
    T = type(gain[0])
    count = T(rows)
    for j in range(cols):
        sum_d, sum_dx = T(0), T(0)
        for i in range(rows):
            d = d_out[i * ld_out + j]
            sum_d += d
            sum_dx += d * xhat[i * ld_out + j]
        if learn != 0:
            d_gain[j] = d_gain[j] + sum_dx if accumulate != 0 else sum_dx
            d_bias[j] = d_bias[j] + sum_d if accumulate != 0 else sum_d
        if want != 0:
            factor = gain[j] * inverse[j]
            # With running statistics the mean and variance are constants and only the factor is left.
            mean_d = sum_d / count if training != 0 else T(0)
            mean_dx = sum_dx / count if training != 0 else T(0)
            for i in range(rows):
                q = i * ld_out + j
                d_in[i * ld_in + j] = factor * (d_out[q] - mean_d - xhat[q] * mean_dx)


def _layer_forward(src, ld_in, out, ld_out, xhat, inverse, gain, bias, running, rows, cols, momentum, eps, training):
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
