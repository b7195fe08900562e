"""Initializers: how weights and biases start.

An initializer is called as ``init(shape, rng, dtype)`` and returns a new array. ``shape`` is ``(n_in, n_out)`` for
weights and ``(n,)`` for biases and gains; ``rng`` is a ``numpy.random.Generator``. Numbers are drawn in float64 and
then cast, so float32 and float64 networks of one seed start from the same place.

``n_in`` and ``n_out`` of the formulas are the two sides of the shape (both ``n`` for a vector).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _checks

_REGISTRY: dict[str, type[Initializer]] = {}


@dataclass(frozen=True)
class Initializer:
    """Base of all initializers. A subclass defines ``draw(shape, rng)``, which returns a float64 array."""

    name: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name:
            _REGISTRY[cls.name] = cls

    def __post_init__(self) -> None:
        for f in fields(self):
            low = 0.0 if f.name in ("std", "gain") else None
            object.__setattr__(self, f.name, _checks.number(f.name, getattr(self, f.name), low=low))

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Values in float64."""
        raise NotImplementedError(f"{type(self).__name__} must define draw(shape, rng)")

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator, dtype: DTypeLike = "float32") -> np.ndarray:
        """A new C-contiguous array of ``shape`` and ``dtype``."""
        return np.ascontiguousarray(self.draw(tuple(shape), rng), dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        """A plain dictionary that `from_config` takes back."""
        return {"name": self.name} | {f.name: getattr(self, f.name) for f in fields(self)}


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    return shape[0], shape[-1]


def _need_matrix(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) != 2:
        raise ValueError(f"{name} makes matrices: it cannot start an array of shape {shape}")


@dataclass(frozen=True)
class Zeros(Initializer):
    """All zero."""

    name = "zeros"

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.zeros(shape)


@dataclass(frozen=True)
class Ones(Initializer):
    """All one."""

    name = "ones"

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.ones(shape)


@dataclass(frozen=True)
class Constant(Initializer):
    """All ``value``.

    >>> Constant(0.5)((2,), np.random.default_rng(0))
    array([0.5, 0.5], dtype=float32)
    """

    name = "constant"
    value: float = 0.0

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return np.full(shape, self.value)


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal with ``mean`` and ``std``."""

    name = "normal"
    mean: float = 0.0
    std: float = 0.05

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.normal(self.mean, self.std, shape)


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """Normal with ``mean`` and ``std`` before what lies beyond two ``std`` of ``mean`` is left out."""

    name = "truncated_normal"
    mean: float = 0.0
    std: float = 0.05

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        from scipy.special import ndtr, ndtri

        # By the inverse distribution: one number drawn per value, however many fall outside.
        return self.mean + self.std * ndtri(rng.uniform(ndtr(-2.0), ndtr(2.0), shape))


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform in [``low``, ``high``)."""

    name = "uniform"
    low: float = -0.05
    high: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low > self.high:
            raise ValueError(f"low must be <= high, got low={self.low}, high={self.high}")

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.low, self.high, shape)


@dataclass(frozen=True)
class _Scaled(Initializer):
    """Random numbers of a variance that follows from the shape."""

    gain: float = 1.0

    def _variance(self, shape: tuple[int, ...]) -> float:
        raise NotImplementedError


class _UniformDraw(_Scaled):
    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        limit = self.gain * np.sqrt(3.0 * self._variance(shape))
        return rng.uniform(-limit, limit, shape)


class _NormalDraw(_Scaled):
    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.normal(0.0, self.gain * np.sqrt(self._variance(shape)), shape)


class _Glorot(_Scaled):
    def _variance(self, shape: tuple[int, ...]) -> float:
        return 2.0 / sum(_fans(shape))


class _He(_Scaled):
    def _variance(self, shape: tuple[int, ...]) -> float:
        return 2.0 / _fans(shape)[0]


class _Lecun(_Scaled):
    def _variance(self, shape: tuple[int, ...]) -> float:
        return 1.0 / _fans(shape)[0]


@dataclass(frozen=True)
class GlorotUniform(_Glorot, _UniformDraw):
    """Uniform of variance ``gain^2 * 2 / (n_in + n_out)`` (Glorot and Bengio 2010)."""

    name = "glorot_uniform"


@dataclass(frozen=True)
class GlorotNormal(_Glorot, _NormalDraw):
    """Normal of variance ``gain^2 * 2 / (n_in + n_out)`` (Glorot and Bengio 2010)."""

    name = "glorot_normal"


@dataclass(frozen=True)
class HeUniform(_He, _UniformDraw):
    """Uniform of variance ``gain^2 * 2 / n_in`` (He et al. 2015, arXiv:1502.01852)."""

    name = "he_uniform"


@dataclass(frozen=True)
class HeNormal(_He, _NormalDraw):
    """Normal of variance ``gain^2 * 2 / n_in`` (He et al. 2015, arXiv:1502.01852)."""

    name = "he_normal"


@dataclass(frozen=True)
class LecunUniform(_Lecun, _UniformDraw):
    """Uniform of variance ``gain^2 / n_in`` (LeCun et al. 1998)."""

    name = "lecun_uniform"


@dataclass(frozen=True)
class LecunNormal(_Lecun, _NormalDraw):
    """Normal of variance ``gain^2 / n_in`` (LeCun et al. 1998), as self-normalising networks ask for."""

    name = "lecun_normal"


@dataclass(frozen=True)
class Orthogonal(Initializer):
    """``gain`` times a random matrix with orthonormal rows or columns, whichever are fewer (Saxe et al. 2014)."""

    name = "orthogonal"
    gain: float = 1.0

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        _need_matrix(self.name, shape)
        q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
        q = q * np.where(np.diag(r) < 0.0, -1.0, 1.0)  # without this the matrices are not uniformly distributed
        return self.gain * (q if shape[0] >= shape[1] else q.T)


@dataclass(frozen=True)
class Identity(Initializer):
    """``gain`` on the diagonal, zero elsewhere; the matrix need not be square."""

    name = "identity"
    gain: float = 1.0

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        _need_matrix(self.name, shape)
        return self.gain * np.eye(shape[0], shape[1])


@dataclass(frozen=True, eq=False)
class FromArray(Initializer):
    """The values of an array given by the user, whose shape must be the one asked for."""

    name = "array"
    values: Any

    def __post_init__(self) -> None:
        values = np.array(_checks.real_array("initial values", self.values), dtype=np.float64)
        _checks.check_finite("initial values", values)
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        if self.values.shape != shape:
            raise ValueError(f"initial values must have the shape {shape}, got {self.values.shape}")
        return self.values.copy()

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "values": self.values.tolist()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FromArray) and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.values.shape, self.values.tobytes()))


@dataclass(frozen=True)
class FromFunction(Initializer):
    """Whatever the user's ``function(shape, rng, dtype)`` returns.

    A file keeps the function's name only. What is loaded from it starts nothing: its parameters are in the file.
    """

    name = "function"
    function: Callable[..., Any] | None
    label: str = ""

    def __post_init__(self) -> None:
        if not (self.function is None or callable(self.function)):
            raise TypeError(f"function must be callable, got {_checks.describe(self.function)}")
        if not isinstance(self.label, str):
            raise TypeError(f"label must be a text, got {_checks.describe(self.label)}")
        if not self.label:
            object.__setattr__(self, "label", getattr(self.function, "__qualname__", repr(self.function)))

    def __call__(self, shape: tuple[int, ...], rng: np.random.Generator, dtype: DTypeLike = "float32") -> np.ndarray:
        if self.function is None:
            raise ValueError(f"the initializer {self.label} was a function, which files do not keep: give it again")
        values = _checks.real_array(f"result of the initializer {self.label}", self.function(shape, rng, dtype))
        if values.shape != tuple(shape):
            raise ValueError(f"the initializer {self.label} must return shape {shape}, got {values.shape}")
        _checks.check_finite(f"result of the initializer {self.label}", values)
        return np.array(values, dtype=dtype, order="C")

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "label": self.label}


def from_config(config: dict[str, Any]) -> Initializer:
    """Make an initializer from what `Initializer.get_config` gave.

    >>> from_config(Normal(std=0.1).get_config())
    Normal(mean=0.0, std=0.1)
    """
    values = _checks.config("initializer", config)
    name = values.pop("name")
    if name == FromFunction.name:
        return FromFunction(None, **values)
    return _REGISTRY[_checks.choice("initializer", name, _REGISTRY)](**values)


def get(initializer: Any) -> Initializer:
    """An initializer from its name, an object, an array of the initial values, or a ``function(shape, rng, dtype)``.

    >>> get("he_normal")
    HeNormal(gain=1.0)
    """
    if isinstance(initializer, Initializer):
        return initializer
    if isinstance(initializer, str):
        names = _REGISTRY.keys() - {FromArray.name, FromFunction.name}
        return _REGISTRY[_checks.choice("initializer", initializer, names)]()
    if isinstance(initializer, type) and issubclass(initializer, Initializer):
        raise TypeError(f"initializer must be a name or an object, got the class {initializer.__name__}: call it")
    if callable(initializer):
        return FromFunction(initializer)
    if isinstance(initializer, (list, tuple)) or np.ndim(initializer) > 0:
        return FromArray(initializer)
    raise TypeError(
        f"initializer must be a name, an initializer, an array or a function, got {_checks.describe(initializer)}"
    )


_RELU_FAMILY = frozenset(
    ("relu", "relu6", "leaky_relu", "elu", "celu", "gelu", "gelu_tanh", "silu", "mish", "hard_swish")
)


def auto(activation: str) -> Initializer:
    """The initializer of ``weight_init="auto"``: He for the ReLU family, LeCun for SELU, Glorot otherwise.

    He and Glorot draw uniformly: the same variance as a normal without its rare large weights, which in a narrow layer
    can decide how a run goes. SELU's theory asks for a normal (Klambauer et al. 2017).

    >>> auto("relu")
    HeUniform(gain=1.0)
    """
    if activation in _RELU_FAMILY:
        return HeUniform()
    return LecunNormal() if activation == "selu" else GlorotUniform()
