"""Optimizers made from a user's own update rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from numba import types
from numba.core.errors import NumbaError

from fastnn import _checks, schedules
from fastnn._jit import python_function, scalar
from fastnn.optimizers._base import REGISTRY, Optimizer
from fastnn.optimizers._rules import N_COEFFICIENTS, N_HYPER, make_rule
from fastnn.schedules import Schedule


def _begin(scalars, hyper, lr):
    """Coefficients of a user's rule: learning rate, step count, hyper-parameters."""
    t = scalars[0]
    return lr, t, hyper[0], hyper[1], hyper[2], hyper[3], hyper[4], hyper[5], hyper[6], hyper[7]


class _Custom(Optimizer):
    """Base of what `from_rule` makes."""

    _default_rate: ClassVar[float | Schedule]
    _defaults: ClassVar[dict[str, float]]

    def __init__(
        self,
        learning_rate: float | Schedule | None = None,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        **hyper: float,
    ):
        for key in hyper:
            _checks.choice(f"hyper-parameter of {self.name}", key, self._defaults)
        self._set(**{k: _checks.number(k, hyper.get(k, default)) for k, default in self._defaults.items()})
        rate = self._default_rate if learning_rate is None else learning_rate
        self._set_common(rate, 0.0, clip_norm, clip_value)

    def _hyper(self) -> tuple[float, ...]:
        return tuple(getattr(self, key) for key in self._defaults)

    def _parameter_names(self) -> list[str]:
        return ["learning_rate", *self._defaults, "clip_norm", "clip_value"]


def from_rule(
    name: str,
    rule: Callable[..., Any],
    n_slots: int = 0,
    *,
    learning_rate: float | Schedule = 1e-3,
    **hyper: float,
) -> type[Optimizer]:
    """Make an optimizer from a scalar update rule of your own; it runs at the speed of the built-in ones.

    Parameters
    ----------
    name : str
        The optimizer is also reached by this name. A name of your own may be used again; built-in ones may not.
    rule : callable
        ``rule(p, g, s0, s1, s2, c) -> (p, s0, s1, s2)``: one parameter, its gradient and three slots, which start at
        zero. ``c`` is ``(learning_rate, t, *hyper values)`` with t counted from 1. Numba compiles it, for float32 and
        float64; in float32 a literal such as ``0.5`` computes in float64, slower: write ``type(p)(0.5)``. It must be
        finite where gradient and slots are zero, as they are for a parameter without influence.
    n_slots : int
        How many slots are kept between steps, 0 to 3; others are zero at every step.
    learning_rate : float or Schedule
        Default learning rate.
    **hyper : float
        Names and default values of up to 8 hyper-parameters.

    Returns
    -------
    type
        ``Made(learning_rate=..., *, clip_norm=None, clip_value=None, **hyper)``.

    Examples
    --------
    >>> def heavy_ball(p, g, velocity, s1, s2, c):
    ...     velocity = c[2] * velocity - c[0] * g
    ...     return p + velocity, velocity, s1, s2
    >>> HeavyBall = from_rule("heavy_ball", heavy_ball, n_slots=1, friction=0.9)
    >>> HeavyBall(0.1, friction=0.5)
    heavy_ball(learning_rate=0.1, friction=0.5, clip_norm=None, clip_value=None)
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"name must be a text, got {_checks.describe(name)}")
    if name in REGISTRY and not issubclass(REGISTRY[name], _Custom):
        raise ValueError(f"name must not be that of a built-in optimizer, got {name!r}")
    n_slots = _checks.integer("n_slots", n_slots, low=0, high=3)
    if len(hyper) > N_HYPER:
        raise ValueError(f"a rule has at most {N_HYPER} hyper-parameters, got {len(hyper)}: {', '.join(hyper)}")
    taken = [key for key in hyper if hasattr(Optimizer, key) or key in Optimizer.__annotations__]
    if taken:
        raise ValueError(f"hyper-parameters must not be called {', '.join(taken)}: optimizers have these already")
    rule = python_function(rule)
    _check_rule(name, rule)
    made = {
        "__doc__": rule.__doc__,
        "name": name,
        "rule": make_rule(None, rule, _begin, n_slots),
        "_defaults": {key: _checks.number(key, value) for key, value in hyper.items()},
        "_default_rate": schedules.get(learning_rate),
    }
    return type(name, (_Custom,), made)


def _check_rule(name: str, rule: Callable[..., Any]) -> None:
    wanted = "rule(p, g, s0, s1, s2, c) -> (p, s0, s1, s2)"
    if not callable(rule):
        raise TypeError(f"rule must be a function {wanted}, got {_checks.describe(rule)}")
    if len(inspect.signature(rule).parameters) != 6:
        raise ValueError(f"rule of {name!r} must be a function {wanted}, got {name}{inspect.signature(rule)}")
    for real in (types.float32, types.float64):
        compiled = scalar(rule)
        arguments = (real,) * 5 + (types.UniTuple(real, N_COEFFICIENTS),)
        try:
            compiled.compile(arguments)
        except NumbaError as error:
            raise ValueError(f"rule of {name!r} does not compile: {error}") from error
        result = compiled.overloads[arguments].signature.return_type
        parts = getattr(result, "types", ()) if isinstance(result, types.BaseTuple) else ()
        if len(parts) != 4:
            raise ValueError(f"rule of {name!r} must return (p, s0, s1, s2), got the type {result}")
        if not all(isinstance(part, (types.Float, types.Integer)) for part in parts):
            raise ValueError(f"rule of {name!r} must return four real numbers, got the types {parts}")
