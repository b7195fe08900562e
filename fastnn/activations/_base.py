"""What an activation is: its definition, the object that users hold, and the table of names."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fastnn import _checks
from fastnn._jit import Native
from fastnn.activations._kernels import (
    BACKWARD_ARGUMENTS,
    TANGENT_ARGUMENTS,
    TANGENT_BACKWARD_ARGUMENTS,
    VALUE_ARGUMENTS,
    Scalar,
    curvature_native,
    forward_native,
    value_native,
    with_parameters,
    with_value_and_parameters,
)


@dataclass(frozen=True)
class Parameter:
    """A parameter of an activation and the numbers it takes."""

    name: str
    default: float
    low: float | None = None
    low_open: bool = False


@dataclass(frozen=True)
class Definition:
    """One row of the table: scalar sources and what the engine must know.

    ``value(z, p0, p1)``, ``slope(z, a, p0, p1)`` and ``curvature(z, a, p0, p1)`` are plain functions of numbers of one
    dtype; their elementary functions are globals of their module, so that another device can compile the same source
    with its own. Row-wise activations have the bodies of their natives and no sources.
    """

    name: str
    value: Scalar | None = None
    slope: Scalar | None = None
    curvature: Scalar | None = None
    rowwise: tuple[Scalar, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    trainable: bool = True
    gate: bool = False
    builtin: bool = True

    def __getstate__(self) -> dict[str, Any]:
        return {key: part for key, part in self.__dict__.items() if key != "natives"}  # addresses die with the process

    @cached_property
    def natives(self) -> dict[str, Native | None]:
        name = f"activation.{self.name}" if self.builtin else None
        if self.rowwise:
            bodies = zip(
                ("value", "backward", "tangent", "tangent_backward"),
                self.rowwise,
                (VALUE_ARGUMENTS, BACKWARD_ARGUMENTS, TANGENT_ARGUMENTS, TANGENT_BACKWARD_ARGUMENTS),
                strict=True,
            )
            return {part: Native(f"{name}.{part}", body, arguments) for part, body, arguments in bodies}
        value: Any = self.value
        slope, curvature = self.slope, self.curvature
        if not self.builtin:
            value = with_parameters(value)
            slope, curvature = (f and with_value_and_parameters(f) for f in (slope, curvature))
        return {
            "value": value_native(name, value),
            "forward": forward_native(name, value, slope) if slope else None,
            "curvature": curvature_native(name, value, curvature) if curvature else None,
        }


@dataclass(frozen=True)
class ActivationFunction:
    """An activation with its parameters: immutable, hashable, picklable, and callable on arrays.

    Attributes
    ----------
    name : str
    parameters : dict of str to float
        For example ``{"negative_slope": 0.01}``.
    rowwise : bool
        True where an output depends on the whole row (softmax, log_softmax).
    trainable : bool
        False where the derivative is 0 almost everywhere (step).
    gate : bool
        True where the derivative is 1 for a positive output and 0 otherwise (relu).

    Examples
    --------
    >>> import fastnn as fn
    >>> fn.activations.leaky_relu.with_parameters(negative_slope=0.5)([-2.0, 3.0])
    array([-1.,  3.])
    >>> fn.activations.leaky_relu.derivative([-2.0, 3.0])
    array([0.01, 1.  ])
    """

    definition: Definition
    values: tuple[float, ...]

    @property
    def name(self) -> str:
        return self.definition.name

    @property
    def parameters(self) -> dict[str, float]:
        return {p.name: v for p, v in zip(self.definition.parameters, self.values, strict=True)}

    @property
    def parameter_values(self) -> tuple[float, float]:
        """What natives get as ``params``."""
        first, second, *_ = (*self.values, 0.0, 0.0)
        return first, second

    @property
    def rowwise(self) -> bool:
        return bool(self.definition.rowwise)

    @property
    def trainable(self) -> bool:
        return self.definition.trainable

    @property
    def gate(self) -> bool:
        return self.definition.gate

    @property
    def value_native(self) -> Native:
        return self._native("value")

    @property
    def forward_native(self) -> Native:
        return self._native("forward")

    @property
    def curvature_native(self) -> Native:
        return self._native("curvature")

    @property
    def backward_native(self) -> Native:
        return self._native("backward")

    @property
    def tangent_native(self) -> Native:
        return self._native("tangent")

    @property
    def tangent_backward_native(self) -> Native:
        return self._native("tangent_backward")

    def _native(self, part: str) -> Native:
        native = self.definition.natives.get(part)
        if native is None:
            if part == "curvature" and not self.rowwise:
                raise ValueError(f"activation {self.name!r} was defined without a second derivative")
            raise ValueError(f"activation {self.name!r} is {'row' if self.rowwise else 'element'}-wise: no {part}")
        return native

    def with_parameters(self, **parameters: float) -> ActivationFunction:
        """The same activation with some parameters changed.

        Raises
        ------
        TypeError, ValueError
            An unknown name, or a number the parameter does not take.
        """
        values = self.parameters
        for name, given in parameters.items():
            known = {p.name: p for p in self.definition.parameters}
            if not known:
                raise ValueError(f"activation {self.name!r} has no parameters, got {name!r}")
            p = known[_checks.choice(f"parameter of {self.name}", name, known)]
            values[name] = _checks.number(name, given, low=p.low, low_open=p.low_open)
        if self.name == "hard_tanh" and not values["min_val"] < values["max_val"]:
            raise ValueError(f"min_val must be below max_val, got {values['min_val']} and {values['max_val']}")
        return ActivationFunction(self.definition, tuple(values.values()))

    def __call__(self, x: Any) -> np.ndarray:
        """Values at ``x`` (any shape; rows are the last axis), in float32 for float32 and in float64 otherwise."""
        return self._apply("value", x)

    def derivative(self, x: Any) -> np.ndarray:
        """Element-wise derivative at ``x``; at a kink PyTorch's choice."""
        return self._apply("forward", x)

    def second_derivative(self, x: Any) -> np.ndarray:
        """Element-wise second derivative at ``x``; at a kink the value beside it."""
        return self._apply("curvature", x)

    def _apply(self, part: str, x: Any) -> np.ndarray:
        native = self._native(part)
        array = _checks.real_array("x", x)
        dtype = np.dtype(np.float32 if array.dtype == np.float32 else np.float64)
        z = np.array(array, dtype, order="C", ndmin=1)
        cols = z.shape[-1] if self.rowwise else z.size
        if z.size:
            out = np.empty_like(z)
            params = np.array(self.parameter_values, dtype)
            pointers = [z, np.empty_like(z), out] if part == "forward" else [z, out]
            function = ctypes.CFUNCTYPE(
                None, *[ctypes.c_void_p] * len(pointers), *[ctypes.c_int64] * 3, ctypes.c_void_p
            )(native.address(dtype))
            function(*[p.ctypes.data for p in pointers], z.size // cols, cols, cols, params.ctypes.data)
            z = out
        return z.reshape(array.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.definition.builtin:
            return _restore, (self.name, self.values)
        return type(self), (self.definition, self.values)

    def __repr__(self) -> str:
        return ", ".join([f"<activation {self.name}", *(f"{k}={v:g}" for k, v in self.parameters.items())]) + ">"


_table: dict[str, ActivationFunction] = {}


def get(activation: str | ActivationFunction | None) -> ActivationFunction:
    """The activation of that name; an object is passed through and None is the identity.

    Raises
    ------
    ValueError
        For an unknown name; the message lists the known ones and the nearest match.
    """
    if activation is None:
        return _table["identity"]
    if isinstance(activation, ActivationFunction):
        return activation
    if not isinstance(activation, str):
        raise TypeError(f"activation must be a name, an activation or None, got {_checks.describe(activation)}")
    return _table[_checks.choice("activation", activation, _table)]


def names() -> tuple[str, ...]:
    """All names that ``get`` takes, the user's own included."""
    return tuple(_table)


def define(name: str, *sources: Any, **options: Any) -> None:
    """Add a built-in activation to the table: see `Definition`."""
    register(Definition(name, *sources, **options))


def register(definition: Definition) -> ActivationFunction:
    """Put an activation with its default parameters into the table."""
    _table[definition.name] = ActivationFunction(definition, tuple(p.default for p in definition.parameters))
    return _table[definition.name]


def _restore(name: str, values: tuple[float, ...]) -> ActivationFunction:
    return ActivationFunction(_table[name].definition, values)


def positive(name: str, default: float) -> tuple[Parameter, ...]:
    """A single parameter above 0."""
    return (Parameter(name, default, low=0.0, low_open=True),)
