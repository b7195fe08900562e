"""Elementary functions for the CPU kernels: branch-free, so that a loop over them becomes vector code.

Numba calls the C library for ``math.exp`` and its family, which keeps a loop scalar and costs 2 to 12 ns an element.
Here each function is an argument reduction and a polynomial, with selects where a library would branch. Inside compiled
code the names take float32 or float64 and compute in that dtype alone; from Python they fall back on NumPy and SciPy,
so that a formula written with them also runs, slowly, on plain numbers and arrays.

Errors, in units in the last place, stay below 2 (``erf`` below 4) over the whole range (``sin``, ``cos``: for
``abs(x) <= 1e4``; beyond, they lose digits as the argument does, and stay within [-1, 1]). NaN gives NaN; infinities
give the limit; ``exp`` and what is made of it become 0 below twice the smallest normal number, because subnormals slow
every later operation down.

How it is kept that way:

* Constants are made for one dtype: a Python literal in a float32 formula would promote it to float64.
* ``where`` is a select, never a branch. ``where(x > high, high, x)`` keeps NaN, ``where(x < high, x, high)`` would not.
* Adding 1.5 * 2**(mantissa bits) rounds to an integer and leaves that integer in the low bits, with no conversion that
  is undefined for NaN and infinity.
* The coefficients are weighted near-minimax fits (Lawson's iteration on Chebyshev nodes in 50 digits) whose error is at
  least four times smaller than half a unit in the last place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import extending, types

from fastnn._jit import SCALAR_FASTMATH

__all__ = ["cos", "erf", "exp", "expm1", "log", "log1p", "sigmoid", "sin", "softplus", "sqrt", "tanh", "where"]

# Typed as Any: what they make is called by compiled code, with fewer arguments than its Python signature.
intrinsic: Any = extending.intrinsic
overload: Any = extending.overload

_OPTIONS = {"nogil": True, "forceinline": True, "error_model": "numpy", "fastmath": SCALAR_FASTMATH}


class _Constants(NamedTuple):
    """What differs between the two dtypes; ``_in_dtype`` turns every number into the dtype."""

    round: float  # 1.5 * 2**mantissa bits
    tiny: float  # smallest normal number
    lift: float  # power of two that makes a subnormal number normal
    lift_log2: float
    largest_exponent: float
    exp_low: float  # exp is flushed to 0 from here down, and expm1 to -1
    exp_high: float  # exp and expm1 are infinite from here up
    tanh_high: float  # tanh(x / 2) is 1 from here up
    erf_high: float  # erf is 1 from here up
    ln2: tuple[float, ...]  # parts that, but for the last, leave room for an exact product with an exponent
    half_pi: tuple[float, ...]  # the same for a multiple up to 1e4
    exp: tuple[float, ...]  # (exp(r) - 1 - r) / r**2 on [-ln 2 / 2, ln 2 / 2]
    exp_positive: tuple[float, ...]  # the same on [0, ln 2]
    log: tuple[float, ...]  # (log(1 + f) - f + f**2 / 2) / f**3 for 1 + f in [sqrt(1/2), sqrt(2)]
    sin: tuple[float, ...]  # (sin(r) - r) / r**3 in r**2 for r in [-pi/4, pi/4]
    cos: tuple[float, ...]  # (cos(r) - 1 + r**2 / 2) / r**4 in r**2
    erf: tuple[float, ...]  # erf(x) / x in x**2 on [0, 1]
    erfc: tuple[float, ...]  # -log(erfc(x)) on [1, erf_high]


# fmt: off
_FLOAT32 = _Constants(
    round=12582912.0, tiny=2.0**-126, lift=2.0**25, lift_log2=25.0, largest_exponent=127.0,
    exp_low=-87.3, exp_high=89.0, tanh_high=19.0, erf_high=4.0,
    ln2=(0.693145751953125, 1.428606765330187e-06),
    half_pi=(1.5703125, 0.0004837512969970703, 7.549533620476723e-08, 2.5633440682570896e-12),
    exp=(0.500000006, 0.166665432, 0.0416662837, 0.00836655987, 0.00139461643),
    exp_positive=(0.499999969, 0.166667521, 0.0416588028, 0.00836646248, 0.00131904998, 0.0002689314),
    log=(0.333333105, -0.249999864, 0.200022249, -0.166692811, 0.142187403, -0.123836961, 0.11871496, -0.117935636,
         0.0692380946),
    sin=(-0.166666549, 0.00833217779, -0.000195172652),
    cos=(0.0416666469, -0.00138873682, 2.44385313e-05),
    erf=(1.12837917, -0.376126271, 0.112836, -0.0268544421, 0.00518953302, -0.000802082894, 7.88908992e-05),
    erfc=(0.000355661857, 1.12703213, 0.638238841, 0.103025885, -0.0217997861, 0.00293821171, -0.000185429791),
)
_FLOAT64 = _Constants(
    round=6755399441055744.0, tiny=2.0**-1022, lift=2.0**54, lift_log2=54.0, largest_exponent=1023.0,
    exp_low=-708.3, exp_high=710.0, tanh_high=40.0, erf_high=5.95,
    ln2=(0.693147180559663, 2.8235290563031577e-13),
    half_pi=(1.5707963109016418, 1.5893254712295857e-08, 6.123233932053594e-17, 6.36831716351095e-25),
    exp=(0.5000000000000006, 0.16666666666666682, 0.04166666666657405, 0.008333333333317604, 0.0013888888932218936,
         0.0001984126989631728, 2.480150464419229e-05, 2.7557234024857142e-06, 2.762624798363144e-07,
         2.511254483511413e-08),
    exp_positive=(0.5000000000000001, 0.16666666666665927, 0.04166666666688134, 0.008333333330229835,
                  0.0013888889149235373, 0.00019841256129533288, 2.4802059394989172e-05, 2.7546544593582997e-06,
                  2.771851366083603e-07, 2.354160199378296e-08, 2.8779078203765726e-09),
    log=(0.3333333333333347, -0.24999999999999226, 0.1999999999994009, -0.1666666666683051, 0.1428571429448281,
         -0.1249999999052355, 0.11111110485964328, -0.09999999944309096, 0.09090934111073172, -0.08333358684192105,
         0.0769171436334064, -0.07141775654133754, 0.06674928382718781, -0.0627202912684448, 0.058218243258879275,
         -0.05315882867531392, 0.053850565691846375, -0.06285723458857927, 0.05786403247174937, -0.02496546001010329),
    sin=(-0.16666666666666632, 0.008333333333322377, -0.00019841269829776393, 2.755731368123012e-06,
         -2.505075653513029e-08, 1.5896710946323505e-10),
    cos=(0.0416666666666666, -0.0013888888888874103, 2.4801587289470705e-05, -2.7557314349670255e-07,
         2.0875722997016396e-09, -1.1359637541352315e-11),
    erf=(1.1283791670955126, -0.3761263890318375, 0.11283791670954885, -0.02686617064507784, 0.005223977624828276,
         -0.0008548326981421161, 0.00012055331132862608, -1.492559577068313e-05, 1.646100846070699e-06,
         -1.6350396095022175e-07, 1.466032815844771e-08, -1.137495453820101e-09, 5.960684765852409e-11),
    erfc=(3.090381436343151e-08, 1.128378883911236, 0.6366208867194447, 0.10277036121966754, -0.0191271014744613,
          -0.0002037532132382896, 0.0016766716180825578, -0.0005539383118124309, -2.0846619455065906e-05,
          0.0001100966290284436, -6.443315629308074e-05, 2.415391059023961e-05, -6.7450278853444265e-06,
          1.4600560729483403e-06, -2.462705848706517e-07, 3.1917175387887786e-08, -3.0776852074859304e-09,
          2.0819362826226217e-10, -8.818009696317414e-12, 1.7592853460596108e-13),
)
# fmt: on


def _in_dtype(constants: _Constants, T: Any) -> _Constants:
    parts: Any = (tuple(T(v) for v in part) if isinstance(part, tuple) else T(part) for part in constants)
    return _Constants(*parts)


_CONSTANTS = {types.float32: _in_dtype(_FLOAT32, np.float32), types.float64: _in_dtype(_FLOAT64, np.float64)}


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
def _exp(c: _Constants, T: Any) -> Any:
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
def _expm1(c: _Constants, T: Any) -> Any:
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
def _tanh(c: _Constants, T: Any) -> Any:
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
def _sigmoid(c: _Constants, T: Any) -> Any:
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
def _log(c: _Constants, T: Any) -> Any:
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
def _log1p(c: _Constants, T: Any) -> Any:
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
def _softplus(c: _Constants, T: Any) -> Any:
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
def _erf(c: _Constants, T: Any) -> Any:
    high, zero, one = c.erf_high, T(0), T(1)
    near, far = c.erf, c.erfc

    def implementation(x):
        a = abs(x)
        small = x * _polynomial(x * x, near)
        large = one - exp(-_polynomial(where(a > high, high, a), far))
        return where(a < one, small, where(x < zero, -large, large))

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
def _sin(c: _Constants, T: Any) -> Any:
    none = T(0)
    return lambda x: _quarter_turn(x, none)


def cos(x: Any) -> Any:
    """Cosine."""
    return np.cos(x)


@_compiled(cos)
def _cos(c: _Constants, T: Any) -> Any:
    one = T(1)
    return lambda x: _quarter_turn(x, one)
