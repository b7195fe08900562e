"""Activations from a user's own functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn import _checks
from fastnn._jit import python_function, standalone
from fastnn.activations._base import ActivationFunction, Definition, get, names, register


def from_functions(
    name: str,
    value: Callable[[float], float],
    derivative: Callable[[float], float],
    second_derivative: Callable[[float], float] | None = None,
) -> ActivationFunction:
    """Define an activation by plain scalar functions, and make ``name`` known to ``get`` and to layers.

    Parameters
    ----------
    name : str
        A new name, or one defined by this function before.
    value, derivative, second_derivative : function
        Each maps a number ``z`` to a number, in Python that Numba compiles: arithmetic, ``math`` and conditions. They
        are called with the dtype of the computation, and the result is converted to it. Without ``second_derivative``,
        training works and Hessian-vector products are refused.

    Raises
    ------
    ValueError
        The name is a built-in one, a function does not compile, or a derivative differs from the differences of the
        function before it at one of 41 points in [-4, 4] (kinks are tolerated).

    Examples
    --------
    >>> import fastnn as fn
    >>> cube = fn.activations.from_functions("cube", lambda z: z**3, lambda z: 3 * z**2)
    >>> cube([1.0, 2.0])
    array([1., 8.])
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"name must be a text that is not empty, got {_checks.describe(name)}")
    if name in names() and get(name).definition.builtin:
        raise ValueError(f"name {name!r} is a built-in activation: choose another one")
    value, derivative, second_derivative = map(python_function, (value, derivative, second_derivative))
    given = {"value": value, "derivative": derivative, "second_derivative": second_derivative}
    for part, function in given.items():
        if not callable(function) and not (part == "second_derivative" and function is None):
            raise TypeError(f"{part} must be a function of one number, got {_checks.describe(function)}")
    compiled = {part: _compile_scalar(part, function) for part, function in given.items() if function is not None}
    _check_derivative("derivative", "value", compiled)
    if second_derivative is not None:
        _check_derivative("second_derivative", "derivative", compiled)
    return register(Definition(name, value, derivative, second_derivative, builtin=False))


def _compile_scalar(part: str, function: Callable[[float], float]) -> Any:
    try:
        compiled = standalone(function)
        results = [compiled(T(0.7310585)) for T in (np.float32, np.float64)]
    except Exception as error:  # Numba lets some errors of the user's code through as they are
        raise ValueError(f"{part} cannot be compiled by Numba: {error}") from error
    for result in results:
        if isinstance(result, (bool, complex)) or not isinstance(result, (int, float, np.number)):
            raise ValueError(f"{part} must return a real number, got {_checks.describe(result)}")
    return compiled


def _check_derivative(part: str, of: str, compiled: dict[str, Any]) -> None:
    """Compare with central differences at points that are unlikely to be kinks; skip those that turn out to be."""
    function, derivative = compiled[of], compiled[part]
    h = 1e-5
    checked = 0
    for z in np.linspace(-4, 4, 41) + 0.0137:
        left, middle, right = (float(function(z + k * h)) for k in (-1, 0, 1))
        if not np.isfinite([left, middle, right]).all():
            continue
        expected, got = (right - left) / (2 * h), float(derivative(z))
        tolerance = 1e-4 * max(1.0, abs(expected), abs(left), abs(right))
        if abs((right - middle) - (middle - left)) / h > 10 * tolerance:
            continue  # the two sides differ: a kink
        checked += 1
        if not abs(got - expected) <= tolerance:
            raise ValueError(
                f"{part} is not the derivative of {of}: at z = {z:.6g} it gives {got:.9g}, but differences of {of} give"
                f" {expected:.9g}"
            )
    if not checked:
        raise ValueError(f"{of} is finite and smooth at none of the points checked in [-4, 4]")
