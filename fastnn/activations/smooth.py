"""THE place for a smooth activation: value, derivative, second derivative and its line in the table.

``value(z, p0, p1)``, ``slope(z, a, p0, p1)`` (which may use ``a = value(z)``) and ``curvature(z, a, p0, p1)`` get
numbers of one dtype, float32 or float64, and return that dtype; p0 and p1 are the activation's parameters. They are
plain functions whose elementary functions are globals of this module, so that another device compiles the same source
with its own.

* A literal is written ``T(0.5)``: a bare one would turn float32 into float64.
* They do not branch: ``where`` evaluates both sides, which is what lets a loop over them become vector code.
* Conditions are ordered so that NaN stays NaN: ``where(z < 0, 0, z)`` and not ``where(z > 0, z, 0)``.
* Factors are clamped where the limit at an infinity would otherwise be ``inf * 0``.
* At a kink the derivative is PyTorch's.
"""

from __future__ import annotations

import math

from fastnn._math import cos, exp, expm1, mills, sigmoid, sin, softplus, sqrt, tanh, where
from fastnn.activations._base import define, positive


def sigmoid_value(z, p0, p1):
    return sigmoid(z)


def sigmoid_slope(z, a, p0, p1):
    # From the smaller of s and 1 - s: a * (1 - a) loses all digits where a rounds to 1.
    e = exp(-abs(z))
    s = e / (type(z)(1) + e)
    return s * (type(z)(1) - s)


def sigmoid_curvature(z, a, p0, p1):
    e = exp(-abs(z))
    s = e / (type(z)(1) + e)
    return s * (type(z)(1) - s) * (type(z)(1) - (a + a))


define("sigmoid", sigmoid_value, sigmoid_slope, sigmoid_curvature)


def tanh_value(z, p0, p1):
    return tanh(z)


def tanh_slope(z, a, p0, p1):
    return (type(z)(1) - a) * (type(z)(1) + a)


def tanh_curvature(z, a, p0, p1):
    return -(a + a) * ((type(z)(1) - a) * (type(z)(1) + a))


define("tanh", tanh_value, tanh_slope, tanh_curvature)


def elu_value(z, p0, p1):
    return where(z > type(z)(0), z, p0 * expm1(z))


def elu_slope(z, a, p0, p1):
    T = type(z)
    return where(z > T(0), T(1), p0 * exp(z))


def elu_curvature(z, a, p0, p1):
    T = type(z)
    return where(z >= T(0), T(0), p0 * exp(z))


# Klambauer, Unterthiner, Mayr, Hochreiter, "Self-normalizing neural networks" (2017): lambda, and lambda * alpha.
_SELU = 1.0507009873554804934193349852946
_SELU_ALPHA = _SELU * 1.6732632423543772848170429916717


define("elu", elu_value, elu_slope, elu_curvature, parameters=positive("alpha", 1.0))


def selu_value(z, p0, p1):
    T = type(z)
    return where(z > T(0), T(_SELU) * z, T(_SELU_ALPHA) * expm1(z))


def selu_slope(z, a, p0, p1):
    T = type(z)
    return where(z > T(0), T(_SELU), T(_SELU_ALPHA) * exp(z))


def selu_curvature(z, a, p0, p1):
    T = type(z)
    return where(z >= T(0), T(0), T(_SELU_ALPHA) * exp(z))


define("selu", selu_value, selu_slope, selu_curvature)


def celu_value(z, p0, p1):
    return where(z > type(z)(0), z, p0 * expm1(z / p0))


def celu_slope(z, a, p0, p1):
    T = type(z)
    return where(z > T(0), T(1), exp(z / p0))


def celu_curvature(z, a, p0, p1):
    T = type(z)
    return where(z >= T(0), T(0), exp(z / p0) / p0)


_INVERSE_SQRT_2PI = (2 * math.pi) ** -0.5


define("celu", celu_value, celu_slope, celu_curvature, parameters=positive("alpha", 1.0))


def gelu_value(z, p0, p1):
    # Hendrycks, Gimpel, "Gaussian error linear units" (2016): z times the normal distribution function, here by its
    # density and Mills' ratio, which keeps the relative precision of the tail and shares the density with the slope.
    T = type(z)
    x = where(abs(z) > T(40), where(z < T(0), T(-40), T(40)), z)
    density = T(_INVERSE_SQRT_2PI) * exp(T(-0.5) * (x * x))
    tail = density * mills(abs(x))
    return where(z > T(40), z, x * where(x < T(0), tail, T(1) - tail))


def gelu_slope(z, a, p0, p1):
    T = type(z)
    x = where(abs(z) > T(40), where(z < T(0), T(-40), T(40)), z)
    density = T(_INVERSE_SQRT_2PI) * exp(T(-0.5) * (x * x))
    tail = density * mills(abs(x))
    return where(x < T(0), tail, T(1) - tail) + x * density


def gelu_curvature(z, a, p0, p1):
    T = type(z)
    z = where(abs(z) > T(40), T(40), z)
    return T(_INVERSE_SQRT_2PI) * exp(T(-0.5) * (z * z)) * (T(2) - z * z)


# 0.5 z (1 + tanh(v / 2)) is z sigmoid(v), v = 2 sqrt(2 / pi) (z + 0.044715 z**3).
_GELU_LINEAR = 2 * (2 / math.pi) ** 0.5
_GELU_CUBIC = _GELU_LINEAR * 0.044715


define("gelu", gelu_value, gelu_slope, gelu_curvature)


def gelu_tanh_value(z, p0, p1):
    T = type(z)
    x = where(abs(z) > T(40), where(z < T(0), T(-40), T(40)), z)
    return where(z > T(40), z, x * sigmoid(x * (T(_GELU_LINEAR) + T(_GELU_CUBIC) * (x * x))))


def gelu_tanh_slope(z, a, p0, p1):
    T = type(z)
    z = where(abs(z) > T(40), where(z < T(0), T(-40), T(40)), z)
    v = z * (T(_GELU_LINEAR) + T(_GELU_CUBIC) * (z * z))
    dv = T(_GELU_LINEAR) + T(3 * _GELU_CUBIC) * (z * z)
    e = exp(-abs(v))
    s = e / (T(1) + e)
    return sigmoid(v) + z * (s * (T(1) - s)) * dv


def gelu_tanh_curvature(z, a, p0, p1):
    T = type(z)
    z = where(abs(z) > T(40), where(z < T(0), T(-40), T(40)), z)
    v = z * (T(_GELU_LINEAR) + T(_GELU_CUBIC) * (z * z))
    dv = T(_GELU_LINEAR) + T(3 * _GELU_CUBIC) * (z * z)
    ddv = T(6 * _GELU_CUBIC) * z
    e = exp(-abs(v))
    s = e / (T(1) + e)
    bend = T(1) - T(2) * sigmoid(v)
    return s * (T(1) - s) * (T(2) * dv + z * (bend * (dv * dv) + ddv))


define("gelu_tanh", gelu_tanh_value, gelu_tanh_slope, gelu_tanh_curvature)


def silu_value(z, p0, p1):
    T = type(z)
    x = where(abs(z) > T(1000), where(z < T(0), T(-1000), T(1000)), z)
    return where(z > T(1000), z, x * sigmoid(x))


def silu_slope(z, a, p0, p1):
    T = type(z)
    z = where(abs(z) > T(1000), where(z < T(0), T(-1000), T(1000)), z)
    e = exp(-abs(z))
    s = e / (T(1) + e)
    return sigmoid(z) + z * (s * (T(1) - s))


def silu_curvature(z, a, p0, p1):
    T = type(z)
    z = where(abs(z) > T(1000), where(z < T(0), T(-1000), T(1000)), z)
    e = exp(-abs(z))
    s = e / (T(1) + e)
    return s * (T(1) - s) * (T(2) + z * (T(1) - T(2) * sigmoid(z)))


# Misra, "Mish" (2019): z tanh(softplus(z)). With e = exp(z), tanh(softplus(z)) = n / (n + 2), n = e (e + 2); it is 1
# from z = 25 on, where e**2 is still far from overflow.


define("silu", silu_value, silu_slope, silu_curvature)


def mish_value(z, p0, p1):
    T = type(z)
    z = where(z < T(-1000), T(-1000), z)
    e = exp(where(z > T(25), T(25), z))
    n = e * (e + T(2))
    return z * (n / (n + T(2)))


def mish_slope(z, a, p0, p1):
    T = type(z)
    z = where(z < T(-1000), T(-1000), z)
    bounded = where(z > T(25), T(25), z)
    e = exp(bounded)
    n = e * (e + T(2))
    inverse = T(1) / (n + T(2))
    return n * inverse + bounded * (T(4) * (e * inverse) * ((T(1) + e) * inverse))


def mish_curvature(z, a, p0, p1):
    T = type(z)
    z = where(z < T(-1000), T(-1000), where(z > T(1000), T(1000), z))
    e = exp(where(z > T(25), T(25), z))
    inverse = T(1) / (e * (e + T(2)) + T(2))
    slope = T(4) * (e * inverse) * ((T(1) + e) * inverse)  # of tanh(softplus(z))
    bend = (T(1) + (e + e)) / (T(1) + e) - T(4) * e * ((T(1) + e) * inverse)
    return slope * (T(2) + z * bend)


define("mish", mish_value, mish_slope, mish_curvature)


def softplus_value(z, p0, p1):
    return softplus(z * p0) / p0


def softplus_slope(z, a, p0, p1):
    return sigmoid(z * p0)


def softplus_curvature(z, a, p0, p1):
    e = exp(-abs(z * p0))
    s = e / (type(z)(1) + e)
    return p0 * (s * (type(z)(1) - s))


define("softplus", softplus_value, softplus_slope, softplus_curvature, parameters=positive("beta", 1.0))


def softsign_value(z, p0, p1):
    T = type(z)
    z = where(abs(z) > T(1e30), where(z < T(0), T(-1e30), T(1e30)), z)
    return z / (T(1) + abs(z))


def softsign_slope(z, a, p0, p1):
    inverse = type(z)(1) / (type(z)(1) + abs(z))
    return inverse * inverse


def softsign_curvature(z, a, p0, p1):
    T = type(z)
    inverse = T(1) / (T(1) + abs(z))
    return where(z > T(0), T(-2), where(z < T(0), T(2), T(0))) * (inverse * inverse * inverse)


define("softsign", softsign_value, softsign_slope, softsign_curvature)


def squareplus_value(z, p0, p1):
    T = type(z)
    x = where(abs(z) > T(1e12), T(1e12), abs(z))
    q = x + sqrt(x * x + p0)
    return where(z > T(1e12), z, T(0.5) * where(z < T(0), p0 / q, q))


def squareplus_slope(z, a, p0, p1):
    T = type(z)
    x = where(abs(z) > T(1e12), T(1e12), abs(z))
    r = sqrt(x * x + p0)
    q = x + r
    return T(0.5) * (where(z < T(0), p0 / q, q) / r)


def squareplus_curvature(z, a, p0, p1):
    T = type(z)
    square = z * z + p0
    return T(0.5) * p0 / (square * sqrt(square))


define("squareplus", squareplus_value, squareplus_slope, squareplus_curvature, parameters=positive("b", 4.0))


def exponential_value(z, p0, p1):
    return exp(z)


def same(z, a, p0, p1):
    return a


define("exponential", exponential_value, same, same)


def sine_value(z, p0, p1):
    return sin(z)


def sine_slope(z, a, p0, p1):
    return cos(z)


def sine_curvature(z, a, p0, p1):
    return -a


define("sine", sine_value, sine_slope, sine_curvature)


def gaussian_value(z, p0, p1):
    return exp(-(z * z))


def gaussian_slope(z, a, p0, p1):
    T = type(z)
    z = where(abs(z) > T(100), where(z < T(0), T(-100), T(100)), z)
    return -(z + z) * a


def gaussian_curvature(z, a, p0, p1):
    T = type(z)
    z = where(abs(z) > T(100), T(100), z)
    return (T(4) * (z * z) - T(2)) * a


define("gaussian", gaussian_value, gaussian_slope, gaussian_curvature)
