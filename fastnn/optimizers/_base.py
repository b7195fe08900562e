"""What all optimizers share: state, checks, configuration, names."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _checks, schedules
from fastnn._jit import Native
from fastnn.optimizers._rules import N_HYPER, N_SCALARS, Rule
from fastnn.schedules import Schedule

REGISTRY: dict[str, type[Optimizer]] = {}
_MUTABLE = ("learning_rate", "learning_rate_factor", "state")


@dataclass
class OptimizerState:
    """What an optimizer remembers between steps.

    Attributes
    ----------
    slots : ndarray of shape (n_slots, n_parameters)
        Moments, in the parameters' dtype.
    scalars : float64 ndarray of shape (8,)
        The step count, then running products.
    """

    slots: np.ndarray
    scalars: np.ndarray = field(default_factory=lambda: np.zeros(N_SCALARS))


class Optimizer:
    """Base of all optimizers; `fastnn.optimizers` describes the common parameters.

    Attributes
    ----------
    learning_rate : float or Schedule
    learning_rate_factor : float
        Multiplies the learning rate; `ReduceOnPlateau` lowers it.
    state : OptimizerState or None
        None until the optimizer has met its parameters.
    """

    name: ClassVar[str] = ""
    full_batch: ClassVar[bool] = False
    learning_rate: float | Schedule
    learning_rate_factor: float
    state: OptimizerState | None
    weight_decay: float = 0.0
    clip_norm: float | None = None
    clip_value: float | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name:
            REGISTRY[cls.name] = cls

    def _set(self, **values: Any) -> None:
        """Store checked hyper-parameters, in the constructor only."""
        self.__dict__.update(values)

    def _set_common(self, learning_rate: Any, weight_decay: Any, clip_norm: Any, clip_value: Any) -> None:
        self._set(
            learning_rate=schedules.get(learning_rate),
            learning_rate_factor=1.0,
            state=None,
            weight_decay=_checks.number("weight_decay", weight_decay, low=0.0),
            clip_norm=_checks.number("clip_norm", clip_norm, low=0.0, low_open=True, none=True),
            clip_value=_checks.number("clip_value", clip_value, low=0.0, low_open=True, none=True),
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _MUTABLE:
            raise AttributeError(
                f"{type(self).__name__}.{name} cannot be set: make a new optimizer with another {name}"
            )
        if name == "learning_rate":
            value = self._checked_learning_rate(value)
        elif name == "learning_rate_factor":
            value = _checks.number(name, value, low=0.0)
        elif value is not None and not isinstance(value, OptimizerState):
            raise TypeError(f"state must be an OptimizerState or None, got {_checks.describe(value)}")
        self.__dict__[name] = value

    def _checked_learning_rate(self, value: Any) -> float | Schedule:
        return schedules.get(value)

    # What the engine asks for

    def _hyper(self) -> tuple[float, ...]:
        """The numbers that the rule's ``begin`` reads."""
        raise NotImplementedError

    @property
    def rule(self) -> Rule:
        """The update rule with its natives."""
        raise NotImplementedError

    @property
    def n_slots(self) -> int:
        """Numbers kept for each parameter."""
        return self.rule.n_slots

    @property
    def begin_native(self) -> Native:
        """Called once a step; see `fastnn.optimizers.BEGIN_ARGUMENTS`."""
        return self.rule.begin

    @property
    def update_native(self) -> Native:
        """Called on runs of parameters; see `fastnn.optimizers.UPDATE_ARGUMENTS`."""
        return self.rule.update

    @property
    def hyper(self) -> np.ndarray:
        """Hyper-parameters for ``begin_native``, float64, shape (8,)."""
        values = self._hyper()
        return np.array(values + (0.0,) * (N_HYPER - len(values)))

    @property
    def _clips(self) -> tuple[float, float]:
        """clip_value and clip_norm, infinity where nothing is clipped."""
        value, norm = (math.inf if clip is None else clip for clip in (self.clip_value, self.clip_norm))
        return value, norm

    @property
    def steps(self) -> int:
        """Steps taken so far."""
        return 0 if self.state is None else int(self.state.scalars[0])

    def learning_rates(self, first_step: int, n: int) -> np.ndarray:
        """Learning rates of the ``n`` steps from ``first_step`` on, float64, shape (n,)."""
        if isinstance(self.learning_rate, Schedule):
            return self.learning_rate(np.arange(first_step, first_step + n)) * self.learning_rate_factor
        return np.full(n, self.learning_rate * self.learning_rate_factor)

    def initial_slots(self, n: int, dtype: DTypeLike) -> np.ndarray:
        """Slots before the first step, shape (n_slots, n)."""
        return np.zeros((self.n_slots, n), dtype)

    def bind(self, n: int, dtype: DTypeLike) -> OptimizerState:
        """The state for ``n`` parameters of ``dtype``: made at the first call, the same object afterwards."""
        if self.state is None:
            self.state = OptimizerState(self.initial_slots(n, dtype))
        slots = self.state.slots
        if slots.shape != (self.n_slots, n) or slots.dtype != np.dtype(dtype):
            raise ValueError(
                f"this {type(self).__name__} holds the state of {slots.shape[1]} {slots.dtype} parameters and cannot "
                f"go on with {n} {np.dtype(dtype)} parameters: call reset() or make a new one"
            )
        # Kernels write by address, and joblib hands large arrays to its workers as read-only memory maps.
        self.state.slots = np.require(slots, requirements=["C", "A", "W"])
        self.state.scalars = np.require(self.state.scalars, requirements=["C", "A", "W"])
        return self.state

    def reset(self) -> None:
        """Forget moments, step count and learning_rate_factor."""
        self.state = None
        self.learning_rate_factor = 1.0

    # Copies, files, text

    def copy(self) -> Optimizer:
        """An independent copy with the same state."""
        return copy.deepcopy(self)

    def get_config(self) -> dict[str, Any]:
        """Name and hyper-parameters as a dictionary fit for JSON; the state is not in it."""
        config: dict[str, Any] = {"name": self.name}
        for key in self._parameter_names():
            value = getattr(self, key)
            if isinstance(value, Schedule):
                value = value.get_config()
            config[key] = list(value) if isinstance(value, tuple) else value
        return config

    def _parameter_names(self) -> list[str]:
        return [key for key in inspect.signature(type(self).__init__).parameters if key != "self"]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={getattr(self, k)!r}' for k in self._parameter_names())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.get_config(), self.learning_rate_factor, self.state)


def _restore(config: dict[str, Any], factor: float, state: OptimizerState | None) -> Optimizer:
    made = from_config(config)
    made.learning_rate_factor = factor
    made.state = state
    return made


def from_config(config: dict[str, Any]) -> Optimizer:
    """Make an optimizer from what `Optimizer.get_config` gave.

    >>> import fastnn.optimizers
    >>> from_config({"name": "adam", "learning_rate": 0.01}).learning_rate
    0.01
    """
    values = _checks.config("optimizer", config)
    made = class_of(values.pop("name"))
    if isinstance(values.get("learning_rate"), dict):
        values["learning_rate"] = schedules.from_config(values["learning_rate"])
    return made(**values)


def names() -> tuple[str, ...]:
    """All names that `get` takes, those of a user's own rules included."""
    return tuple(REGISTRY)


def get(optimizer: str | Optimizer) -> Optimizer:
    """The optimizer itself, or a new one with default hyper-parameters by its name.

    >>> import fastnn.optimizers
    >>> get("adam").learning_rate
    0.001
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        raise TypeError(f"optimizer must be a name or an object, got the class {optimizer.__name__}: call it")
    return class_of(optimizer)()


def class_of(name: Any) -> type[Any]:
    return REGISTRY[_checks.choice("optimizer", name, REGISTRY)]


def checked_pair(name: str, value: Any, **bounds: Any) -> tuple[float, float]:
    """A checked pair of numbers."""
    if isinstance(value, str) or not isinstance(value, (Sequence, np.ndarray)) or len(value) != 2:
        raise TypeError(f"{name} must be a pair of numbers, got {_checks.describe(value)}")
    return (_checks.number(f"{name}[0]", value[0], **bounds), _checks.number(f"{name}[1]", value[1], **bounds))


def checked_betas(value: Any) -> tuple[float, float]:
    return checked_pair("betas", value, low=0.0, high=1.0, high_open=True)


def bound(optimizer: Optimizer, n: int, dtype: np.dtype[Any]) -> OptimizerState:
    """The optimizer's state for these parameters; refuse one that belongs to another network."""
    try:
        return optimizer.bind(n, dtype)
    except ValueError as error:
        raise ValueError(f"optimizer: {error}") from error
