"""Elementary functions: errors in units in the last place against wider arithmetic, limits, NaN, vector code."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest
import scipy.special
from numba import njit

from fastnn import _math
from fastnn._jit import LOOP_FASTMATH


class Case(NamedTuple):
    wide: Callable[[Any], Any] | None  # in whatever precision its argument has
    exact: Callable[[Any], Any]  # on an mpmath number
    low: float
    high: float
    ulps: float = 2.0


def _wide_sigmoid(x: Any) -> Any:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def _wide_softplus(x: Any) -> Any:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _exact_mills(x: Any) -> Any:
    return mpmath.sqrt(mpmath.pi / 2) * mpmath.exp(x * x / 2) * mpmath.erfc(x / mpmath.sqrt(2))


# What NumPy lacks, in float64.
DOUBLE = {"erf": scipy.special.erf, "mills": _math.mills}
# Ranges are those of float64; float32 takes what of them it can represent.
CASES = {
    "exp": Case(np.exp, mpmath.exp, -708, 709.7),
    "expm1": Case(np.expm1, mpmath.expm1, -708, 709.7),
    "log": Case(np.log, mpmath.log, 0, 4),
    "log1p": Case(np.log1p, mpmath.log1p, -1, 4),
    "tanh": Case(np.tanh, mpmath.tanh, -25, 25),
    "sigmoid": Case(_wide_sigmoid, lambda x: 1 / (1 + mpmath.exp(-x)), -708, 50),
    "softplus": Case(_wide_softplus, lambda x: mpmath.log1p(mpmath.exp(x)), -708, 50),
    "erf": Case(None, mpmath.erf, -6.5, 6.5, 4.0),
    "mills": Case(None, _exact_mills, 0, 41, 6.0),
    "sin": Case(np.sin, mpmath.sin, -1e4, 1e4),
    "cos": Case(np.cos, mpmath.cos, -1e4, 1e4),
}
TYPES = [np.float32, np.float64]


@functools.cache
def _loop(name: str) -> Any:
    function = getattr(_math, name)

    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    return njit(loop, error_model="numpy", fastmath=LOOP_FASTMATH)


def _run(name: str, x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    _loop(name)(x, out)
    return out


def _samples(case: Case, T: Any, n: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    low, high = case.low, case.high
    if T is np.float32:
        low, high = max(low, -87.0) if low > -1e3 else low, min(high, 88.7) if high < 1e3 else high
    parts = [
        rng.uniform(low, high, n),
        rng.uniform(max(low, -4), min(high, 4), n),
        np.exp(rng.uniform(-60, 2, n)) * np.sign(rng.uniform(-1, 1, n)),
        np.arange(-6000, 6000) * (np.pi / 4),  # where sine and cosine change signs and polynomials
    ]
    if low in (0, -1):  # logarithms: the whole range of exponents
        parts.append(np.exp(rng.uniform(-103, 88, n) if T is np.float32 else rng.uniform(-740, 709, n)))
    x = np.concatenate(parts).astype(T)
    return x[(x >= low) & (x <= high)]


def _ulps(got: np.ndarray, exact: np.ndarray, T: Any) -> np.ndarray:
    tiny = np.finfo(T).tiny
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        unit = np.spacing(np.maximum(np.abs(exact.astype(T)), tiny)).astype(exact.dtype)
        error = np.abs(got.astype(exact.dtype) - exact) / unit
    same = (got == exact) | ((got == 0) & (np.abs(exact) < 2 * tiny))  # flushed
    return np.where(same, 0, error)


@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("name", CASES)
def test_error_in_ulps_dense(name: str, T: Any) -> None:
    case = CASES[name]
    wide = case.wide
    if T is np.float32:
        W: Any = np.float64
        wide = wide or DOUBLE[name]
    else:
        W = np.longdouble
        if wide is None or np.finfo(W).nmant <= 52:
            pytest.skip("no wider arithmetic in NumPy: the test with mpmath covers it")
    x = _samples(case, T, 300_000 if T is np.float32 else 100_000)
    with np.errstate(all="ignore"):
        exact = wide(x.astype(W))
    error = _ulps(_run(name, x), exact, T)
    worst = np.argmax(error)
    assert error[worst] <= case.ulps, f"{error[worst]} ulp at {x[worst]!r}"


@pytest.mark.parametrize("name", CASES)
def test_error_in_ulps_exact(name: str) -> None:
    case = CASES[name]
    x = np.random.default_rng(1).permutation(_samples(case, np.float64, 1000))[:2000]
    got = _run(name, x)
    with mpmath.workdps(40):
        for argument, value in zip(x, got, strict=True):
            exact = case.exact(mpmath.mpf(float(argument)))
            if mpmath.isinf(exact):
                assert value == float(exact)
            elif abs(exact) < 4.5e-308:
                assert abs(value) < 4.5e-308
            else:
                unit = float(np.spacing(abs(float(exact))))
                assert abs(mpmath.mpf(float(value)) - exact) <= case.ulps * unit, (argument, value)


def test_every_float32_exponential_and_logarithm_near_one() -> None:
    """All the float32 numbers in [1/2, 2], where log cancels."""
    bits = np.arange(np.float32(0.5).view(np.int32), np.float32(2).view(np.int32) + 1, 3, dtype=np.int32)
    x = bits.view(np.float32)
    for name in ("log", "exp", "tanh", "expm1", "erf"):
        wide = CASES[name].wide or DOUBLE[name]
        assert _ulps(_run(name, x), wide(x.astype(np.float64)), np.float32).max() <= CASES[name].ulps


LIMITS = {
    "exp": {np.inf: np.inf, -np.inf: 0, 0: 1, 1e30: np.inf, -1e30: 0},
    "expm1": {np.inf: np.inf, -np.inf: -1, 0: 0, 1e30: np.inf, -1e30: -1},
    "log": {np.inf: np.inf, -np.inf: np.nan, 0: -np.inf, -1: np.nan, 1: 0},
    "log1p": {np.inf: np.inf, -np.inf: np.nan, 0: 0, -1: -np.inf, -2: np.nan},
    "tanh": {np.inf: 1, -np.inf: -1, 0: 0, 1e30: 1, -1e30: -1},
    "sigmoid": {np.inf: 1, -np.inf: 0, 0: 0.5, 1e30: 1, -1e30: 0},
    "softplus": {np.inf: np.inf, -np.inf: 0, -1e30: 0},
    "erf": {np.inf: 1, -np.inf: -1, 0: 0, 1e30: 1, -1e30: -1},
    "mills": {np.inf: 0},
    "sin": {np.inf: np.nan, -np.inf: np.nan, 0: 0},
    "cos": {np.inf: np.nan, -np.inf: np.nan, 0: 1},
}


@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("name", CASES)
def test_limits_and_nan(name: str, T: Any) -> None:
    table = {**LIMITS[name], np.nan: np.nan}
    x = np.array(list(table), T)
    # Twice over 64 numbers, so that both the vector loop and its scalar rest are looked at.
    np.testing.assert_array_equal(_run(name, np.tile(x, 67)), np.tile(np.array(list(table.values()), T), 67))
    payload = np.array([0x7FC12345], np.int32).view(np.float32) if T is np.float32 else np.array([np.nan])
    assert np.isnan(_run(name, payload)).all()


@pytest.mark.parametrize("T", TYPES)
def test_smallest_numbers(T: Any) -> None:
    tiny, least = np.finfo(T).tiny, np.finfo(T).smallest_subnormal
    x = np.array([tiny, -tiny, 0], T)
    for name in ("expm1", "log1p", "tanh", "sin"):
        np.testing.assert_array_equal(_run(name, x), x)
        assert abs(_run(name, np.array([least]))[0]) <= least
    x = np.array([tiny, least], T)
    np.testing.assert_allclose(_run("log", x), np.log(x.astype(np.float64)), rtol=2 * np.finfo(T).eps)


@pytest.mark.parametrize("T", TYPES)
def test_sine_of_huge_numbers_stays_bounded(T: Any) -> None:
    x = (10.0 ** np.linspace(4, 38 if T is np.float32 else 308, 500)).astype(T)
    assert np.abs(_run("sin", x)).max() <= 1
    assert np.abs(_run("cos", x)).max() <= 1


@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("name", CASES)
def test_loops_are_vector_code_of_one_dtype(name: str, T: Any) -> None:
    _run(name, np.zeros(4, T))
    loop = _loop(name)
    index = next(k for k, signature in enumerate(loop.signatures) if str(signature[0].dtype) == np.dtype(T).name)
    llvm = loop.inspect_llvm(loop.signatures[index])
    assert re.search(rf"<\d+ x {'float' if T is np.float32 else 'double'}>", llvm)
    if T is np.float32:
        assert "double" not in llvm


@pytest.mark.parametrize("name", CASES)
def test_python_fallback_agrees(name: str) -> None:
    x = np.linspace(0.1, 3, 9)
    np.testing.assert_allclose(getattr(_math, name)(x), _run(name, x), rtol=1e-14)
    np.testing.assert_allclose(getattr(_math, name)(x[3]), _run(name, x)[3], rtol=1e-14)
