"""THE place for an activation that is linear or quadratic in pieces: step, the ReLU family and the hard functions.

The rules for these functions stand at the head of ``smooth``.
"""

from __future__ import annotations

from fastnn._math import where
from fastnn.activations._base import Parameter, define

_LIMITS = (Parameter("min_val", -1.0), Parameter("max_val", 1.0))


def one(z, a, p0, p1):
    return type(z)(1)


def zero(z, a, p0, p1):
    return type(z)(0)


def identity_value(z, p0, p1):
    return z


define("identity", identity_value, one, zero)


def step_value(z, p0, p1):
    # A neuron fires when its sum reaches the threshold: step(0) = 1.
    T = type(z)
    return where(z >= T(0), T(1), where(z < T(0), T(0), z))


define("step", step_value, zero, zero, trainable=False)


def hard_sigmoid_value(z, p0, p1):
    T = type(z)
    return where(z <= T(-3), T(0), where(z >= T(3), T(1), (z + T(3)) * T(1 / 6)))


def hard_sigmoid_slope(z, a, p0, p1):
    T = type(z)
    return where(abs(z) < T(3), T(1 / 6), T(0))


define("hard_sigmoid", hard_sigmoid_value, hard_sigmoid_slope, zero)


def hard_tanh_value(z, p0, p1):
    return where(z < p0, p0, where(z > p1, p1, z))


def hard_tanh_slope(z, a, p0, p1):
    T = type(z)
    return where(z > p0, where(z < p1, T(1), T(0)), T(0))


define("hard_tanh", hard_tanh_value, hard_tanh_slope, zero, parameters=_LIMITS)


def relu_value(z, p0, p1):
    T = type(z)
    return where(z < T(0), T(0), z)


def relu_slope(z, a, p0, p1):
    T = type(z)
    return where(a > T(0), T(1), T(0))


define("relu", relu_value, relu_slope, zero, gate=True)


def relu6_value(z, p0, p1):
    T = type(z)
    return where(z < T(0), T(0), where(z > T(6), T(6), z))


def relu6_slope(z, a, p0, p1):
    T = type(z)
    return where(z > T(0), where(z < T(6), T(1), T(0)), T(0))


define("relu6", relu6_value, relu6_slope, zero)


def leaky_relu_value(z, p0, p1):
    return where(z > type(z)(0), z, z * p0)


def leaky_relu_slope(z, a, p0, p1):
    T = type(z)
    return where(z > T(0), T(1), p0)


define("leaky_relu", leaky_relu_value, leaky_relu_slope, zero, parameters=(Parameter("negative_slope", 0.01),))


def hard_swish_value(z, p0, p1):
    T = type(z)
    return where(z <= T(-3), T(0), where(z >= T(3), z, z * (z + T(3)) * T(1 / 6)))


def hard_swish_slope(z, a, p0, p1):
    T = type(z)
    return where(z <= T(-3), T(0), where(z >= T(3), T(1), z * T(1 / 3) + T(0.5)))


def hard_swish_curvature(z, a, p0, p1):
    T = type(z)
    return where(abs(z) < T(3), T(1 / 3), T(0))


# Barron, "Squareplus" (2021): (z + r) / 2, r = sqrt(z**2 + b). For z < 0 this is b / (2 (r - z)): nothing cancels.


define("hard_swish", hard_swish_value, hard_swish_slope, hard_swish_curvature)
