"""Activation functions: the table of the built-in ones, and how a user adds one.

Each is an object that layers take by itself or by name, and that can be called on an array. A new built-in one is a
value, a derivative and a second derivative in ``_curves`` and one line at the end of this file.

>>> import fastnn as fn
>>> fn.activations.relu([-1.0, 2.0])
array([0., 2.])
>>> fn.activations.get("elu").with_parameters(alpha=0.5)
<activation elu, alpha=0.5>
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn import _checks
from fastnn import _curves as c
from fastnn._activation import Definition, Parameter
from fastnn._jit import Native, scalar


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
        return self.definition.value is None

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
        return identity
    if isinstance(activation, ActivationFunction):
        return activation
    if not isinstance(activation, str):
        raise TypeError(f"activation must be a name, an activation or None, got {_checks.describe(activation)}")
    return _table[_checks.choice("activation", activation, _table)]


def names() -> tuple[str, ...]:
    """All names that ``get`` takes, the user's own included."""
    return tuple(_table)


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
    if name in _table and _table[name].definition.builtin:
        raise ValueError(f"name {name!r} is a built-in activation: choose another one")
    given = {"value": value, "derivative": derivative, "second_derivative": second_derivative}
    for part, function in given.items():
        if not callable(function) and not (part == "second_derivative" and function is None):
            raise TypeError(f"{part} must be a function of one number, got {_checks.describe(function)}")
    compiled = {part: _compile_scalar(part, function) for part, function in given.items() if function is not None}
    _check_derivative("derivative", "value", compiled)
    if second_derivative is not None:
        _check_derivative("second_derivative", "derivative", compiled)
    definition = Definition(name, value, derivative, second_derivative, builtin=False)
    _table[name] = ActivationFunction(definition, ())
    return _table[name]


def _compile_scalar(part: str, function: Callable[[float], float]) -> Any:
    compiled = scalar(getattr(function, "py_func", function))
    for T in (np.float32, np.float64):
        try:
            result = compiled(T(0.7310585))
        except Exception as error:  # Numba lets some errors of the user's code through as they are
            raise ValueError(f"{part} cannot be compiled by Numba: {error}") from error
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


def _define(name: str, *args: Any, **options: Any) -> ActivationFunction:
    definition = Definition(name, *args, **options)
    _table[name] = ActivationFunction(definition, tuple(p.default for p in definition.parameters))
    return _table[name]


def _restore(name: str, values: tuple[float, ...]) -> ActivationFunction:
    return ActivationFunction(_table[name].definition, values)


def _positive(name: str, default: float) -> tuple[Parameter, ...]:
    return (Parameter(name, default, low=0.0, low_open=True),)


_NEGATIVE_SLOPE = (Parameter("negative_slope", 0.01),)
_LIMITS = (Parameter("min_val", -1.0), Parameter("max_val", 1.0))

identity = _define("identity", c.identity_value, c.one, c.zero)
step = _define("step", c.step_value, c.zero, c.zero, trainable=False)
sigmoid = _define("sigmoid", c.sigmoid_value, c.sigmoid_slope, c.sigmoid_curvature)
hard_sigmoid = _define("hard_sigmoid", c.hard_sigmoid_value, c.hard_sigmoid_slope, c.zero)
tanh = _define("tanh", c.tanh_value, c.tanh_slope, c.tanh_curvature)
hard_tanh = _define("hard_tanh", c.hard_tanh_value, c.hard_tanh_slope, c.zero, _LIMITS)
relu = _define("relu", c.relu_value, c.relu_slope, c.zero, gate=True)
relu6 = _define("relu6", c.relu6_value, c.relu6_slope, c.zero)
leaky_relu = _define("leaky_relu", c.leaky_relu_value, c.leaky_relu_slope, c.zero, _NEGATIVE_SLOPE)
elu = _define("elu", c.elu_value, c.elu_slope, c.elu_curvature, _positive("alpha", 1.0))
selu = _define("selu", c.selu_value, c.selu_slope, c.selu_curvature)
celu = _define("celu", c.celu_value, c.celu_slope, c.celu_curvature, _positive("alpha", 1.0))
gelu = _define("gelu", c.gelu_value, c.gelu_slope, c.gelu_curvature)
gelu_tanh = _define("gelu_tanh", c.gelu_tanh_value, c.gelu_tanh_slope, c.gelu_tanh_curvature)
silu = _define("silu", c.silu_value, c.silu_slope, c.silu_curvature)
mish = _define("mish", c.mish_value, c.mish_slope, c.mish_curvature)
softplus = _define("softplus", c.softplus_value, c.softplus_slope, c.softplus_curvature, _positive("beta", 1.0))
softsign = _define("softsign", c.softsign_value, c.softsign_slope, c.softsign_curvature)
hard_swish = _define("hard_swish", c.hard_swish_value, c.hard_swish_slope, c.hard_swish_curvature)
squareplus = _define("squareplus", c.squareplus_value, c.squareplus_slope, c.squareplus_curvature, _positive("b", 4.0))
exponential = _define("exponential", c.exponential_value, c.same, c.same)
sine = _define("sine", c.sine_value, c.sine_slope, c.sine_curvature)
gaussian = _define("gaussian", c.gaussian_value, c.gaussian_slope, c.gaussian_curvature)
softmax = _define("softmax")
log_softmax = _define("log_softmax")
