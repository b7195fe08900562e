"""Learning-rate schedules: the rate as a function of the optimizer's step, counted from 0.

A schedule stands where a learning rate stands: ``fn.Adam(fn.schedules.Cosine(0.01, steps=1000))``. Schedules are frozen
and hold no progress; the optimizer's own step count says where it is. Steps are optimizer steps (batches), not epochs.
Formulas are those of PyTorch's scheduler named in each class. Past their last step they stay at their last value.

``schedule(step)`` takes an integer or an array of integers and gives a float or a float64 array of the same shape.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from fastnn import _checks

_REGISTRY: dict[str, type[Schedule]] = {}


@dataclass(frozen=True)
class Schedule:
    """Base of all schedules. A subclass is a frozen dataclass with ``values(steps)``, float64 to float64 arrays.

    >>> @dataclass(frozen=True)
    ... class InverseRoot(Schedule):
    ...     initial: float
    ...
    ...     def values(self, steps):
    ...         return self.initial / np.sqrt(1.0 + steps)
    >>> InverseRoot(1.0)(3)
    0.5
    """

    name: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _REGISTRY[cls.__dict__.get("name") or cls.__name__.lower()] = cls
        cls.name = cls.__dict__.get("name") or cls.__name__.lower()

    def __post_init__(self) -> None:
        self._check()

    def _check(self) -> None:
        """Check and normalise the fields."""

    def _set(self, **values: Any) -> None:
        for key, value in values.items():
            object.__setattr__(self, key, value)

    def values(self, steps: np.ndarray) -> np.ndarray:
        """Learning rates at ``steps`` (float64 array of whole numbers >= 0)."""
        raise NotImplementedError(f"{type(self).__name__} must define values(steps)")

    def __call__(self, step: ArrayLike) -> Any:
        """The learning rate at ``step``: a float for an integer, a float64 array for an array of integers."""
        steps = np.asarray(step)
        if steps.dtype.kind not in "iu":
            raise TypeError(f"step must be an integer or an array of integers, got {_checks.describe(step)}")
        if steps.size and steps.min() < 0:
            raise ValueError(f"step must be >= 0, got {steps.min()}")
        rates = np.asarray(self.values(steps.astype(np.float64)), dtype=np.float64)
        return float(rates) if steps.ndim == 0 else np.broadcast_to(rates, steps.shape).copy()

    def get_config(self) -> dict[str, Any]:
        """A plain dictionary that `from_config` takes back."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {"name": self.name} | {k: v.get_config() if isinstance(v, Schedule) else v for k, v in values.items()}


def from_config(config: dict[str, Any]) -> Schedule:
    """Make a schedule from what `Schedule.get_config` gave.

    >>> from_config(Exponential(0.1, 0.5).get_config())
    Exponential(initial=0.1, factor=0.5)
    """
    values = {k: from_config(v) if isinstance(v, dict) else v for k, v in _checks.config("schedule", config).items()}
    return _REGISTRY[_checks.choice("schedule", values.pop("name"), _REGISTRY)](**values)


def get(value: Any, name: str = "learning_rate") -> float | Schedule:
    """A learning rate as it was given: a number >= 0 as a float, a schedule as itself."""
    if isinstance(value, Schedule):
        return value
    if isinstance(value, type) and issubclass(value, Schedule):
        raise TypeError(f"{name} must be a number or a schedule object, got the class {value.__name__}: call it")
    if callable(value):
        raise TypeError(
            f"{name} must be a number or a schedule, got {value!r}: a function becomes a schedule as the method "
            "values(steps) of a subclass of fastnn.schedules.Schedule"
        )
    return _checks.number(name, value, low=0.0)


def _rate(name: str, value: Any) -> float:
    return _checks.number(name, value, low=0.0)


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate at every step.

    >>> Constant(0.1)(7)
    0.1
    """

    value: float

    def _check(self) -> None:
        self._set(value=_rate("value", self.value))

    def values(self, steps: np.ndarray) -> np.ndarray:
        return np.full(steps.shape, self.value)


@dataclass(frozen=True)
class Step(Schedule):
    """``initial * factor ** (step // every)`` (StepLR).

    >>> Step(1.0, every=10, factor=0.5)([0, 9, 10, 20])
    array([1.  , 1.  , 0.5 , 0.25])
    """

    initial: float
    every: int
    factor: float = 0.1

    def _check(self) -> None:
        self._set(
            initial=_rate("initial", self.initial),
            every=_checks.integer("every", self.every, low=1),
            factor=_checks.number("factor", self.factor, low=0.0),
        )

    def values(self, steps: np.ndarray) -> np.ndarray:
        return self.initial * self.factor ** np.floor(steps / self.every)


@dataclass(frozen=True)
class Exponential(Schedule):
    """``initial * factor ** step`` (ExponentialLR).

    >>> Exponential(1.0, factor=0.5)([0, 1, 2])
    array([1.  , 0.5 , 0.25])
    """

    initial: float
    factor: float

    def _check(self) -> None:
        self._set(initial=_rate("initial", self.initial), factor=_checks.number("factor", self.factor, low=0.0))

    def values(self, steps: np.ndarray) -> np.ndarray:
        return self.initial * self.factor**steps


@dataclass(frozen=True)
class Polynomial(Schedule):
    """``final + (initial - final) * (1 - step / steps) ** power`` (PolynomialLR, which has final 0).

    >>> Polynomial(1.0, steps=4)([0, 1, 4, 9])
    array([1.  , 0.75, 0.  , 0.  ])
    """

    initial: float
    steps: int
    power: float = 1.0
    final: float = 0.0

    def _check(self) -> None:
        self._set(
            initial=_rate("initial", self.initial),
            steps=_checks.integer("steps", self.steps, low=1),
            power=_checks.number("power", self.power, low=0.0, low_open=True),
            final=_rate("final", self.final),
        )

    def values(self, steps: np.ndarray) -> np.ndarray:
        left = 1.0 - np.minimum(steps, self.steps) / self.steps
        return self.final + (self.initial - self.final) * left**self.power


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from ``initial`` to ``final`` (CosineAnnealingLR within its ``T_max`` steps).

    PyTorch's rate rises again after ``steps``; this one stays at ``final`` (`CosineRestarts` repeats).

    >>> Cosine(1.0, steps=4)([0, 2, 4, 5])
    array([1. , 0.5, 0. , 0. ])
    """

    initial: float
    steps: int
    final: float = 0.0

    def _check(self) -> None:
        self._set(
            initial=_rate("initial", self.initial),
            steps=_checks.integer("steps", self.steps, low=1),
            final=_rate("final", self.final),
        )

    def values(self, steps: np.ndarray) -> np.ndarray:
        return _cosine(self.initial, self.final, np.minimum(steps, self.steps) / self.steps)


@dataclass(frozen=True)
class CosineRestarts(Schedule):
    """Cosines from ``initial`` to ``final``, the first ``steps`` long, each next one ``multiplier`` times longer.

    CosineAnnealingWarmRestarts (SGDR, Loshchilov and Hutter 2017, arXiv:1608.03983).

    >>> CosineRestarts(1.0, steps=2)([0, 1, 2, 3])
    array([1. , 0.5, 1. , 0.5])
    """

    initial: float
    steps: int
    multiplier: int = 1
    final: float = 0.0

    def _check(self) -> None:
        self._set(
            initial=_rate("initial", self.initial),
            steps=_checks.integer("steps", self.steps, low=1),
            multiplier=_checks.integer("multiplier", self.multiplier, low=1),
            final=_rate("final", self.final),
        )

    def values(self, steps: np.ndarray) -> np.ndarray:
        first, factor = self.steps, self.multiplier
        if factor == 1:
            return _cosine(self.initial, self.final, (steps % first) / first)
        # Cycle k starts at first * (factor^k - 1) / (factor - 1). A list of starts, unlike a logarithm, is exact.
        starts = [0]
        while steps.size and starts[-1] <= steps.max():
            starts.append(starts[-1] + first * factor ** (len(starts) - 1))
        cycle = np.searchsorted(np.array(starts, dtype=np.float64), steps, side="right") - 1
        begins = np.array(starts, dtype=np.float64)[cycle]
        return _cosine(self.initial, self.final, (steps - begins) / (first * float(factor) ** cycle))


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up to ``peak`` and down to almost nothing (OneCycleLR; Smith and Topin 2017, arXiv:1708.07120).

    Starts at ``peak / div_factor``, is at ``peak`` after the share ``pct_start`` of the ``steps``, and ends at
    ``peak / div_factor / final_div_factor``. ``anneal`` is "cos" or "linear".

    >>> OneCycle(1.0, steps=10)([0, 2, 9]).round(6)
    array([4.e-02, 1.e+00, 4.e-06])
    """

    peak: float
    steps: int
    pct_start: float = 0.3
    anneal: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def _check(self) -> None:
        self._set(
            peak=_rate("peak", self.peak),
            steps=_checks.integer("steps", self.steps, low=1),
            pct_start=_checks.number("pct_start", self.pct_start, low=0.0, high=1.0),
            anneal=_checks.choice("anneal", self.anneal, ("cos", "linear")),
            div_factor=_checks.number("div_factor", self.div_factor, low=0.0, low_open=True),
            final_div_factor=_checks.number("final_div_factor", self.final_div_factor, low=0.0, low_open=True),
        )

    def values(self, steps: np.ndarray) -> np.ndarray:
        last = self.steps - 1.0
        turn = self.pct_start * self.steps - 1.0  # below 0: the first step is on the way down already
        steps = np.minimum(steps, last)
        start = self.peak / self.div_factor
        curve = _cosine if self.anneal == "cos" else _linear
        up = curve(start, self.peak, steps / turn if turn > 0.0 else 1.0)
        down_length = last - turn
        down = curve(
            self.peak, start / self.final_div_factor, (steps - turn) / down_length if down_length > 0.0 else 1.0
        )
        return np.where(steps <= turn, up, down)


@dataclass(frozen=True)
class Warmup(Schedule):
    """A straight line from ``start`` over ``steps`` steps, then ``then`` with its own step 0 there.

    ``then`` is a schedule or a rate. With a rate it is LinearLR with ``start`` as a rate instead of a factor.

    >>> Warmup(4, then=1.0)([0, 1, 2, 4, 5])
    array([0.  , 0.25, 0.5 , 1.  , 1.  ])
    >>> Warmup(2, then=Exponential(1.0, 0.5), start=0.5)([0, 1, 2, 3])
    array([0.5 , 0.75, 1.  , 0.5 ])
    """

    steps: int
    then: float | Schedule
    start: float = 0.0

    def _check(self) -> None:
        self._set(
            steps=_checks.integer("steps", self.steps, low=1),
            then=get(self.then, "then"),
            start=_rate("start", self.start),
        )

    def values(self, steps: np.ndarray) -> np.ndarray:
        then = self.then if isinstance(self.then, Schedule) else Constant(self.then)
        line = _linear(self.start, then(0), steps / self.steps)
        return np.where(steps < self.steps, line, then.values(np.maximum(steps - self.steps, 0.0)))


def _cosine(start: float, end: float, share: Any) -> Any:
    return end + (start - end) / 2.0 * (np.cos(np.pi * share) + 1.0)


def _linear(start: float, end: float, share: Any) -> Any:
    return start + (end - start) * share
