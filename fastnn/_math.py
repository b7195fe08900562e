"""Elementary functions for the CPU kernels: branch-free, so that a loop over them becomes vector code.

Numba calls the C library for ``math.exp`` and its family, which keeps a loop scalar and costs 2 to 12 ns an element.
Here each function is an argument reduction and a polynomial, with selects where a library would branch. Inside compiled
code the names take float32 or float64 and compute in that dtype alone; from Python they fall back on NumPy and SciPy,
so that a formula written with them also runs, slowly, on plain numbers and arrays.

Errors, in units in the last place, stay below 2 (``erf``: 4, ``mills``: 6) over the whole range (``sin``, ``cos``: for
``abs(x) <= 1e4``; beyond, they lose digits as the argument does, and stay within [-1, 1]). NaN gives NaN; infinities
give the limit; ``exp`` and what is made of it become 0 below twice the smallest normal number, because subnormals slow
every later operation down.

How it is kept that way:

* Constants are made for one dtype: a Python literal in a float32 formula would promote it to float64.
* ``where`` is a select, never a branch. ``where(x > high, high, x)`` keeps NaN, ``where(x < high, x, high)`` would not.
* Adding 1.5 * 2**(mantissa bits) rounds to an integer and leaves that integer in the low bits, with no conversion that
  is undefined for NaN and infinity.
* The coefficients (``_coefficients``) are near-minimax fits; their own error is small against one rounding.
"""

# Annotations are objects here: NamedTuple would compile those that are texts, one by one, at every import.

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import extending, types

from fastnn._coefficients import FLOAT32, FLOAT64, Constants
from fastnn._jit import SCALAR_FASTMATH, intrinsic

__all__ = ["cos", "erf", "exp", "expm1", "log", "log1p", "mills", "sigmoid", "sin", "softplus", "sqrt", "tanh", "where"]

overload: Any = extending.overload

_OPTIONS = {"nogil": True, "forceinline": True, "error_model": "numpy", "fastmath": SCALAR_FASTMATH}


def _in_dtype(constants: Constants, T: Any) -> Constants:
    parts: Any = (tuple(T(v) for v in part) if isinstance(part, tuple) else T(part) for part in constants)
    return Constants(*parts)


_CONSTANTS = {types.float32: _in_dtype(FLOAT32, np.float32), types.float64: _in_dtype(FLOAT64, np.float64)}


class _Layout(NamedTuple):
    """The bits of an IEEE number: LLVM types, mantissa bits and the patterns of some numbers."""

    real: ir.Type
    integer: ir.IntType
    mantissa: int
    one: int
    sqrt_half: int
    round: int


_LAYOUTS = {
    types.float32: _Layout(ir.FloatType(), ir.IntType(32), 23, 0x3F800000, 0x3F3504F3, 0x4B400000),
    types.float64: _Layout(
        ir.DoubleType(), ir.IntType(64), 52, 0x3FF0000000000000, 0x3FE6A09E667F3BCD, 0x4338000000000000
    ),
}


def where(condition: Any, a: Any, b: Any) -> Any:
    """``a if condition else b``, both sides evaluated: a branch in the source may stay one and keep a loop scalar."""
    return np.where(condition, a, b)


@intrinsic
def _select(typingctx, condition, a, b):
    def codegen(context, builder, signature, args):
        return builder.select(*args)

    return (a(types.boolean, a, a), codegen) if a == b else None


@overload(where, jit_options=_OPTIONS)
def _where(condition, a, b):
    if condition == types.boolean and a == b:
        return lambda condition, a, b: _select(condition, a, b)
    return None


@intrinsic
def _polynomial(typingctx, x, coefficients):
    """Horner's scheme, written out: the lowest coefficient comes first."""

    def codegen(context, builder, signature, args):
        flags = tuple(SCALAR_FASTMATH)
        value, packed = args
        total = builder.extract_value(packed, signature.args[1].count - 1)
        for k in reversed(range(signature.args[1].count - 1)):
            total = builder.fmul(total, value, flags=flags)
            total = builder.fadd(total, builder.extract_value(packed, k), flags=flags)
        return total

    return x(x, coefficients), codegen


@intrinsic
def _power_of_two(typingctx, rounded):
    """2**n from ``rounded = n + round``; 0 for n one below the smallest exponent, inf for n one above the largest."""
    layout = _LAYOUTS[rounded]

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], layout.integer)
        bits = builder.shl(bits, layout.integer(layout.mantissa))
        return builder.bitcast(builder.add(bits, layout.integer(layout.one)), layout.real)

    return rounded(rounded), codegen


@intrinsic
def _bit(typingctx, rounded, number):
    """Whether bit ``number`` of n is set, from ``rounded = n + round``."""
    layout = _LAYOUTS[rounded]

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], layout.integer)
        place = args[1] if args[1].type == layout.integer else builder.trunc(args[1], layout.integer)
        return builder.trunc(builder.lshr(bits, place), ir.IntType(1))

    return types.boolean(rounded, types.int64), codegen


@intrinsic
def _split(typingctx, x):
    """``(m, e + round)`` with ``x = m * 2**e`` and m in [sqrt(1/2), sqrt(2)), for a positive normal x."""
    layout = _LAYOUTS[x]

    def codegen(context, builder, signature, args):
        bits = builder.bitcast(args[0], layout.integer)
        exponent = builder.sub(bits, layout.integer(layout.sqrt_half))
        exponent = builder.ashr(exponent, layout.integer(layout.mantissa))
        m = builder.sub(bits, builder.shl(exponent, layout.integer(layout.mantissa)))
        e = builder.add(exponent, layout.integer(layout.round))
        parts = [builder.bitcast(part, layout.real) for part in (m, e)]
        return context.make_tuple(builder, signature.return_type, parts)

    return types.UniTuple(x, 2)(x), codegen


def _compiled(function: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give ``function`` its body in compiled code: what ``body(constants, T)`` returns for the argument's dtype."""

    def register(body: Callable[..., Any]) -> Callable[..., Any]:
        def choose(x: Any) -> Any:
            if x in _CONSTANTS:
                return body(_CONSTANTS[x], np.float32 if x is types.float32 else np.float64)
            return None

        overload(function, jit_options=_OPTIONS, strict=False)(choose)
        return body

    return register


sqrt = np.sqrt  # already one instruction in compiled code


def exp(x: Any) -> Any:
    """e**x."""
    return np.exp(x)


@_compiled(exp)
def _exp(c: Constants, T: Any) -> Any:
    low, high, shift, log2e, one = c.exp_low, c.exp_high, c.round, T(1 / np.log(2.0)), T(1)
    ln2_a, ln2_b = c.ln2
    coefficients = c.exp

    def implementation(x):
        x = where(x < low, low, x)
        x = where(x > high, high, x)
        rounded = x * log2e + shift
        n = rounded - shift
        r = x - n * ln2_a
        r = r - n * ln2_b
        # 2**128 is not a float32, though 2**128 * 0.9 is: scale by 2**(n - 1) and double.
        q = r + r * r * _polynomial(r, coefficients)
        y = one + q
        return (y + y) * _power_of_two(rounded - one)

    return implementation


def expm1(x: Any) -> Any:
    """e**x - 1, exact near 0."""
    return np.expm1(x)


@_compiled(expm1)
def _expm1(c: Constants, T: Any) -> Any:
    low, high, shift, log2e, one, half = c.exp_low, c.exp_high, c.round, T(1 / np.log(2.0)), T(1), T(0.5)
    ln2_a, ln2_b = c.ln2
    coefficients = c.exp

    # Step for step the reduction of exp, so that a formula with both pays for it once.
    def implementation(x):
        x = where(x < low, low, x)
        x = where(x > high, high, x)
        rounded = x * log2e + shift
        n = rounded - shift
        r = x - n * ln2_a
        r = r - n * ln2_b
        q = r + r * r * _polynomial(r, coefficients)  # expm1(r)
        scale = _power_of_two(rounded - one)
        y = scale * q + (scale - half)
        return y + y

    return implementation


def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return np.tanh(x)


@_compiled(tanh)
def _tanh(c: Constants, T: Any) -> Any:
    # With e = expm1(2 |x|), tanh |x| = e / (e + 2). A remainder in [0, ln 2) instead of around 0 makes every term of e
    # positive; what is left of the error near 0 is the rounding of e + 2, which is known exactly and taken back.
    high, shift, log2e, zero, one, two = c.tanh_high, c.round, T(1 / np.log(2.0)), T(0), T(1), T(2)
    weight = T(0.42)  # about 1 / (e + 2) for e in [0, 1]
    ln2_a, ln2_b = c.ln2
    coefficients = c.exp_positive

    def implementation(x):
        y = abs(x) * two
        y = where(y > high, high, y)
        n = np.floor(y * log2e)
        r = y - n * ln2_a
        r = r - n * ln2_b
        q = r + r * r * _polynomial(r, coefficients)
        scale = _power_of_two(n + shift)
        e = scale * q + (scale - one)
        total = e + two
        lost = where(e < one, e - (total - two), zero)
        t = e / total
        t = t - t * (lost * weight)
        return where(x < zero, -t, t)

    return implementation


def sigmoid(x: Any) -> Any:
    """1 / (1 + e**-x)."""
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


@_compiled(sigmoid)
def _sigmoid(c: Constants, T: Any) -> Any:
    zero, one, half = T(0), T(1), T(0.5)

    def implementation(x):
        e = exp(-abs(x))
        total = one + e
        s = e / total
        s = s - s * ((e - (total - one)) * (one - half * e))  # 1 - e / 2 for 1 / (1 + e): what the sum rounded away
        return where(x < zero, s, one - s)

    return implementation


def log(x: Any) -> Any:
    """Natural logarithm: -inf at 0, NaN below."""
    return np.log(x)


def _log_of_product(m_minus_1: Any, e: Any) -> Any:
    """``log((1 + m_minus_1) * 2**e)``; compiled code only."""
    raise NotImplementedError


@overload(_log_of_product, jit_options=_OPTIONS)
def _log_of_product_body(m_minus_1, e):
    c = _CONSTANTS[m_minus_1]
    half = np.float32(0.5) if m_minus_1 is types.float32 else np.float64(0.5)
    ln2_a, ln2_b = c.ln2
    coefficients = c.log

    def implementation(m_minus_1, e):
        f = m_minus_1
        square = f * f
        rest = f * square * _polynomial(f, coefficients) + e * ln2_b
        return e * ln2_a + (f - (half * square - rest))

    return implementation


@_compiled(log)
def _log(c: Constants, T: Any) -> Any:
    tiny, lift, lift_log2, shift = c.tiny, c.lift, c.lift_log2, c.round
    zero, one, inf, nan = T(0), T(1), T(np.inf), T(np.nan)

    def implementation(x):
        m, e = _split(where(x < tiny, x * lift, x))
        e = e - shift
        y = _log_of_product(m - one, where(x < tiny, e - lift_log2, e))
        y = where(x == inf, x, y)
        return where(x > zero, y, where(x == zero, -inf, nan))

    return implementation


def log1p(x: Any) -> Any:
    """log(1 + x), exact near 0: -inf at -1, NaN below."""
    return np.log1p(x)


@_compiled(log1p)
def _log1p(c: Constants, T: Any) -> Any:
    shift, largest = c.round, c.largest_exponent - T(1)
    zero, one, inf, nan = T(0), T(1), T(np.inf), T(np.nan)

    def implementation(x):
        u = one + x
        lost = x - (u - one)  # what the sum rounded away
        m, e = _split(u)
        e = e - shift
        f = (m - one) + lost * _power_of_two(shift - where(e > largest, largest, e))
        y = _log_of_product(f, e)
        y = where(x == inf, x, y)
        return where(u > zero, y, where(u == zero, -inf, nan))

    return implementation


def softplus(x: Any) -> Any:
    """log(1 + e**x)."""
    return np.logaddexp(0, x)


@_compiled(softplus)
def _softplus(c: Constants, T: Any) -> Any:
    zero, one, half, limit = T(0), T(1), T(0.5), T(np.sqrt(2.0) - 1)

    def implementation(x):
        e = exp(-abs(x))  # in [0, 1], so that 1 + e needs at most one halving
        large = e > limit
        y = _log_of_product(where(large, (e - one) * half, e), where(large, one, zero))
        return where(x < zero, zero, x) + y

    return implementation


def erf(x: Any) -> Any:
    """Error function."""
    from scipy.special import erf as scipy_erf

    return scipy_erf(x)


@_compiled(erf)
def _erf(c: Constants, T: Any) -> Any:
    high, zero, one = c.erf_high, T(0), T(1)
    near, far = c.erf, c.erfc

    def implementation(x):
        a = abs(x)
        small = x * _polynomial(x * x, near)
        large = one - exp(-_polynomial(where(a > high, high, a), far))
        return where(a < one, small, where(x < zero, -large, large))

    return implementation


def mills(x: Any) -> Any:
    """Mills' ratio for x >= 0: the upper tail of the normal distribution divided by its density, sqrt(pi/2) at 0."""
    from scipy.special import erfcx

    return np.sqrt(np.pi / 2) * erfcx(x / np.sqrt(2))


@_compiled(mills)
def _mills(c: Constants, T: Any) -> Any:
    one, scale, coefficients = T(1), c.mills_scale, c.mills

    def implementation(x):
        t = one / (one + scale * x)
        return t * _polynomial(t, coefficients)

    return implementation


def sin(x: Any) -> Any:
    """Sine."""
    return np.sin(x)


def _quarter_turn(x: Any, quarters: Any) -> Any:
    """``sin(x + quarters * pi / 2)`` for quarters 0 or 1; compiled code only."""
    raise NotImplementedError


@overload(_quarter_turn, jit_options=_OPTIONS)
def _quarter_turn_body(x, quarters):
    c = _CONSTANTS[x]
    T = np.float32 if x is types.float32 else np.float64
    shift, one, half, inverse, bound = c.round, T(1), T(0.5), T(2 / np.pi), T(0.79)
    sin_coefficients, cos_coefficients = c.sin, c.cos
    part_a, part_b, part_c, part_d = c.half_pi

    def implementation(x, quarters):
        rounded = x * inverse + shift
        n = rounded - shift
        high = x - n * part_a
        high = high - n * part_b
        r = high - n * part_c
        r = r + (((high - r) - n * part_c) - n * part_d)  # what the line above rounded away, and the rest
        r = where(r > bound, bound, r)  # an argument too large to be reduced must not explode
        r = where(r < -bound, -bound, r)
        square = r * r
        s = r + r * square * _polynomial(square, sin_coefficients)
        c = one - (half * square - square * square * _polynomial(square, cos_coefficients))
        turned = rounded + quarters
        y = where(_bit(turned, 0), c, s)
        return where(_bit(turned, 1), -y, y)

    return implementation


@_compiled(sin)
def _sin(c: Constants, T: Any) -> Any:
    none = T(0)
    return lambda x: _quarter_turn(x, none)


def cos(x: Any) -> Any:
    """Cosine."""
    return np.cos(x)


@_compiled(cos)
def _cos(c: Constants, T: Any) -> Any:
    one = T(1)
    return lambda x: _quarter_turn(x, one)
