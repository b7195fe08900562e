"""What happens to single numbers: the activations of a network behind one number each, and dropout factors."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn import _random
from fastnn import _rows as row
from fastnn.activations import ActivationFunction
from fastnn.cuda._jit import SIMULATED, device
from fastnn.cuda.scalars import activation_slope, activation_value, compiled
from fastnn.plan import Plan


class Elements(NamedTuple):
    """Device functions: ``value(code, z)``, ``slope(code, z, a)``, ``dropout(key, sample, r, j, rate)``."""

    value: Any
    slope: Any
    dropout: Any


def activations_of(plan: Plan) -> tuple[ActivationFunction, ...]:
    """The element-wise activations that a plan's rows apply, each once; their positions are the codes."""
    used = (a for a, act in zip(plan.activations, plan.table[:, row.ACT], strict=True) if act == row.ELEMENTWISE)
    return tuple(dict.fromkeys(a for a in used if a is not None))


@cache
def make_elements(T: Any, activations: tuple[ActivationFunction, ...]) -> Elements:
    """Functions for these activations in the dtype ``T``; all threads of a block ask for the same code."""
    slopes = [activation_slope(a, T) if a.trainable else device(lambda z, a: T(0)) for a in activations]
    value = _switch([device(_with_value(activation_value(a, T))) for a in activations])
    slope = _switch(slopes)

    @device
    def value_only(code, z):
        return value(code, z, z)

    return Elements(value_only, slope, _make_dropout(T))


def _with_value(function: Any) -> Any:
    def value(z, a):
        return function(z)

    return value


def _switch(functions: list[Any]) -> Any:
    """``(code, z, a)``: the function of that number; halves of halves, so that a network with many is not slower."""
    if not functions:
        return device(lambda code, z, a: z)
    if len(functions) == 1:
        only = functions[0]
        return device(lambda code, z, a: only(z, a))
    middle = len(functions) // 2
    below, above = _switch(functions[:middle]), _switch(functions[middle:])

    @device
    def switch(code, z, a):
        return below(code, z, a) if code < middle else above(code - middle, z, a)

    return switch


@cache
def _make_dropout(T: Any) -> Any:
    # In the simulator the CPU's functions: NumPy warns of integers that wrap around.
    own = (lambda function: function) if SIMULATED else compiled
    sample_key, limit_of, factor = own(_random.sample_key), own(_random.dropout_limit), own(_random.dropout_factor)

    @device
    def dropout(key, sample, r, j, rate):
        return factor(np.uint64(sample_key(key, sample, r)), j, limit_of(rate), T(1) / (T(1) - rate))

    return dropout
