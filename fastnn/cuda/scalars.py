"""The scalar sources of the tables, compiled for the GPU.

An activation, a loss, an optimizer is written once, as plain Python functions whose elementary functions are those of
`fastnn._math`. Here they get CUDA's: a copy of such a function has the same code and other globals. The functions of
``math`` are libdevice's, in float32 and float64 each in its own dtype, with one exception: its float32 sine and cosine
reduce arguments above 105,615 by a product in float64, on a branch that others do not take.

In the simulator NumPy takes the place of libdevice, because ``math`` computes in float64 and raises errors for what
hardware answers with an infinity.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from types import CellType, FunctionType
from typing import Any

from fastnn import _math
from fastnn.activations import ActivationFunction
from fastnn.cuda._jit import SIMULATED, device, extending, libdevice, types
from fastnn.cuda._kept import names

_library: Any = _math if SIMULATED else math
exp, expm1, log, log1p, tanh = _library.exp, _library.expm1, _library.log, _library.log1p, _library.tanh
sin, cos, sqrt, erf = _library.sin, _library.cos, _library.sqrt, _library.erf

_SQRT_HALF, _SQRT_HALF_PI = math.sqrt(0.5), math.sqrt(math.pi / 2)


@device
def where(condition, a, b):
    """Both sides have been evaluated when it is called, so that this becomes a select."""
    return a if condition else b


@device
def sigmoid(x):
    T = type(x)
    e = exp(-abs(x))
    return where(x < T(0), e, T(1)) / (T(1) + e)


@device
def softplus(x):
    return where(x < type(x)(0), type(x)(0), x) + log1p(exp(-abs(x)))


def erfcx(x):
    """``exp(x**2) * erfc(x)``, which ``math`` lacks."""
    from scipy.special import erfcx as simulated

    return simulated(x)


@extending.overload(erfcx)
def _erfcx(x):
    function = libdevice.erfcxf if x == types.float32 else libdevice.erfcx
    return lambda x: function(x)


@device
def mills(x):
    T = type(x)
    return T(_SQRT_HALF_PI) * erfcx(x * T(_SQRT_HALF))


_OWN = {id(getattr(_math, name)): globals()[name] for name in _math.__all__}
_compiled: dict[Callable[..., Any], Any] = {}


def _translated(value: Any) -> Any:
    """What a global or a closure's variable is on the GPU."""
    if id(value) in _OWN:
        return _OWN[id(value)]
    return compiled(value) if isinstance(getattr(value, "py_func", value), FunctionType) else value


def compiled(function: Any) -> Any:
    """A plain scalar function, or one compiled for the CPU, as a device function; and so the functions it calls.

    Elementary functions are recognised by what they are, not by their names.
    """
    source: Any = getattr(function, "py_func", function)
    if source not in _compiled:
        namespace = {"__name__": source.__module__}
        given = source.__closure__ or ()
        cells = tuple(CellType() for _ in given)
        copy = FunctionType(source.__code__, namespace, source.__name__, source.__defaults__, cells)
        _compiled[source] = device(copy)  # before its callees, which may call it
        outside = source.__globals__
        namespace |= {name: _translated(outside[name]) for name in names(source.__code__) if name in outside}
        for cell, original in zip(cells, given, strict=True):
            cell.cell_contents = _translated(original.cell_contents)
    return _compiled[source]


@cache
def activation_value(activation: ActivationFunction, T: Any) -> Any:
    """The device function z -> a of an element-wise activation, its parameters frozen in, in the dtype ``T``."""
    value: Any = activation.definition.value
    value = compiled(value)
    if not activation.definition.builtin:
        return device(lambda z: T(value(z)))
    p0, p1 = (T(number) for number in activation.parameter_values)
    return device(lambda z: value(z, p0, p1))


@cache
def activation_slope(activation: ActivationFunction, T: Any) -> Any:
    """The device function (z, a) -> da/dz of an element-wise activation, as `activation_value`."""
    slope: Any = compiled(activation.definition.slope)
    if not activation.definition.builtin:
        return device(lambda z, a: T(slope(z)))
    p0, p1 = (T(number) for number in activation.parameter_values)
    return device(lambda z, a: slope(z, a, p0, p1))
