"""Activation functions: the table of the built-in ones, and how a user adds one.

Each is an object that layers take by itself or by name, and that can be called on an array. A new built-in one is a
value, a derivative, a second derivative and one line in ``smooth`` or ``piecewise``.

>>> import fastnn as fn
>>> fn.activations.relu([-1.0, 2.0])
array([0., 2.])
>>> fn.activations.get("elu").with_parameters(alpha=0.5)
<activation elu, alpha=0.5>
"""

from __future__ import annotations

from fastnn.activations import piecewise, rowwise, smooth  # noqa: F401 - they fill the table
from fastnn.activations._base import ActivationFunction, Definition, Parameter, get, names
from fastnn.activations._kernels import (
    BACKWARD_ARGUMENTS,
    CURVATURE_ARGUMENTS,
    FORWARD_ARGUMENTS,
    TANGENT_ARGUMENTS,
    TANGENT_BACKWARD_ARGUMENTS,
    VALUE_ARGUMENTS,
)
from fastnn.activations._user import from_functions

__all__ = [
    "BACKWARD_ARGUMENTS",
    "CURVATURE_ARGUMENTS",
    "FORWARD_ARGUMENTS",
    "TANGENT_ARGUMENTS",
    "TANGENT_BACKWARD_ARGUMENTS",
    "VALUE_ARGUMENTS",
    "ActivationFunction",
    "Definition",
    "Parameter",
    "from_functions",
    "get",
    "names",
]


def __getattr__(name: str) -> ActivationFunction:
    """Every activation of the table is an attribute: ``fastnn.activations.relu``."""
    if name in names():
        return get(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *names()]
