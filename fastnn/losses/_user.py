"""A user's own loss: compilation, a check of its derivatives, natives, its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from fastnn._jit import Native, python_function, scalar, standalone
from fastnn.losses._base import (
    BUILT_IN,
    LOSS_ARGUMENTS,
    REGISTERED,
    TANGENT_ARGUMENTS,
    Formula,
    Loss,
    Resolved,
    elementwise_loss,
    elementwise_tangent,
)

# Off the places where losses like to have kinks (0, 1, output = target), and within the reach of most formulas.
_OUTPUTS = np.linspace(-3.0137, 3.0211, 27)
_TARGETS = (-1.0, 0.0, 1.0, 0.3719, 2.0)


def _compiled(role: str, function: Any) -> Callable[[float, float], float]:
    """The function as machine code that keeps NaN; a clear error where Numba cannot read it."""
    if not callable(function):
        raise TypeError(f"{role} must be a function of (output, target), got {function!r}")
    try:
        compiled = standalone(function)
        result = compiled(0.25, 1.0)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ValueError(
            f"{role} must be a scalar function of (output, target) that Numba can compile (arithmetic, math, "
            f"conditions): {' '.join(lines[:3])}"
        ) from error
    if not isinstance(result, (int, float)) or isinstance(result, bool):
        raise TypeError(f"{role} must return a number, got {result!r}")
    return compiled


def _check_derivative(role: str, derivative: Any, of: str, function: Any) -> None:
    """Compare with central differences wherever the function is smooth and finite."""
    checked = 0
    for y in _TARGETS:
        for o in _OUTPUTS:
            h = 1e-5 * max(1.0, abs(o))
            low, mid, high = function(o - h, y), function(o, y), function(o + h, y)
            given = derivative(o, y)
            if not np.isfinite([low, mid, high]).all():
                continue
            central, left, right = (high - low) / (2 * h), (mid - low) / h, (high - mid) / h
            size = max(1.0, abs(central), abs(mid))
            if abs(right - left) > 1e-2 * size:
                continue  # a kink or a jump
            checked += 1
            if not abs(given - central) <= 1e-4 * size:
                raise ValueError(
                    f"{role} is not the derivative of {of}: at output {o:.4g} and target {y:.4g} it gives {given:.6g}, "
                    f"differences give {central:.6g}"
                )
    if not checked:
        raise ValueError(f"{role} cannot be checked: {of} is finite and smooth nowhere for outputs in [-3, 3]")


def _check(value: Any, gradient: Any, second_derivative: Any) -> None:
    """Refuse functions that do not compile and derivatives that are wrong."""
    compiled = _compiled("value", value)
    slope = _compiled("gradient", gradient)
    _check_derivative("gradient", slope, "value", compiled)
    if second_derivative is not None:
        curvature = _compiled("second_derivative", second_derivative)
        _check_derivative("second_derivative", curvature, "gradient", slope)


def _of_six(function: Any) -> Callable[..., Any]:
    """A function of (output, target) with the signature of the built-in formulas."""
    compiled = scalar(function)

    def formula(o, y, p0, p1, p2, p3):
        return compiled(o, y)

    return formula


@lru_cache(maxsize=64)
def _natives(value: Any, gradient: Any, second_derivative: Any) -> tuple[Native, Native | None, Formula]:
    """The natives of a user's loss, made once for the same functions while the process lives; never on disk."""
    source = Formula(_of_six(value), _of_six(gradient), second_derivative and _of_six(second_derivative))
    first = Native(None, elementwise_loss(source.value, source.gradient), LOSS_ARGUMENTS)
    if second_derivative is None:
        return first, None, source
    return first, Native(None, elementwise_tangent(source.curvature), TANGENT_ARGUMENTS), source


@dataclass(frozen=True)
class UserLoss(Loss):
    """A loss per output from a user's scalar functions; see `from_functions`."""

    name: str  # type: ignore[misc]
    value: Callable[[float, float], float] = field(repr=False)
    gradient: Callable[[float, float], float] = field(repr=False)
    second_derivative: Callable[[float, float], float] | None = field(default=None, repr=False)

    @property
    def parameters(self) -> dict[str, Any]:
        return {}

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        first, second, source = _natives(self.value, self.gradient, self.second_derivative)
        return Resolved(first, second, False, self.parameter_values, self.name, source)


def from_functions(
    name: str,
    value: Callable[[float, float], float],
    gradient: Callable[[float, float], float],
    second_derivative: Callable[[float, float], float] | None = None,
) -> Loss:
    """Make a loss from plain scalar functions of (output, target), and register its name.

    The functions are compiled: they may use arithmetic, ``math`` and conditions. The gradient is compared with
    differences of the value now, and the second derivative with differences of the gradient. A row's loss is the mean
    over its outputs.

    Parameters
    ----------
    name : str
        Afterwards ``loss=name`` works too. Names of built-in losses are taken; a name of one's own may be redefined.
    value, gradient : function
        The loss and its derivative by the output.
    second_derivative : function, optional
        Needed for exact Hessian-vector products only.

    Raises
    ------
    ValueError
        A function does not compile, or a derivative is wrong: the message says where and what the differences give.

    Examples
    --------
    >>> import fastnn as fn
    >>> quartic = fn.losses.from_functions("quartic", lambda o, y: (o - y) ** 4, lambda o, y: 4 * (o - y) ** 3)
    >>> fn.losses.get("quartic") is quartic
    True
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(f"name must be an identifier, got {name!r}")
    if name in BUILT_IN:
        raise ValueError(f"name {name!r} is a built-in loss: choose another name")
    value, gradient, second_derivative = map(python_function, (value, gradient, second_derivative))
    _check(value, gradient, second_derivative)
    REGISTERED[name] = loss = UserLoss(name, value, gradient, second_derivative)
    return loss
