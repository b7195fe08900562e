"""Layers: frozen specifications. They hold no arrays and lower themselves to the rows of a plan.

A layer's ``lower`` says what its rows compute and which parameters they own; ``plan`` decides where everything lies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastnn import _checks, activations, initializers
from fastnn import _rows as row
from fastnn.activations import ActivationFunction


@dataclass(frozen=True)
class Parameter:
    """An array a row owns: its name, its true shape and how it starts."""

    name: str
    shape: tuple[int, ...]
    init: Any  # called with (shape, rng, dtype)


@dataclass
class Row:
    """One row of a plan before it has offsets."""

    kind: int
    n_in: int
    n_out: int
    path: str
    activation: ActivationFunction | None = None
    weight: Parameter | None = None
    bias: Parameter | None = None
    reals: tuple[float, ...] = ()
    penalty: tuple[float, float] | None = None
    partner: Row | None = None  # ADD: its SPLIT


class Layer:
    """Base of all layers: what ``Sequential`` takes."""

    def lower(self, n_in: int, path: str) -> list[Row]:
        """Rows of this layer for ``n_in`` inputs; ``path`` is its place in the network, as ``"2"`` or ``"2.0"``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer, ``activation(X @ W + b)``.

    Parameters
    ----------
    units : int
        Number of outputs, at least 1.
    activation : str, ActivationFunction or None
        Applied to every output; None is the identity.
    bias : bool
        Whether to add a bias vector of shape (units,).
    weight_init, bias_init : str, initializer, callable or array
        How the weights (n_inputs, units) and the bias start. ``"auto"`` picks He for the ReLU family, LeCun for SELU
        and Glorot otherwise.
    l1, l2 : float
        The training loss gets ``l1 * sum(|W|) + l2 * sum(W**2)``; biases are not penalised.

    Examples
    --------
    >>> import fastnn as fn
    >>> fn.Dense(64, "relu", l2=1e-4).units
    64
    """

    units: int
    activation: Any = None
    bias: bool = field(default=True, kw_only=True)
    weight_init: Any = field(default="auto", kw_only=True)
    bias_init: Any = field(default="zeros", kw_only=True)
    l1: float = field(default=0.0, kw_only=True)
    l2: float = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        set_checked = _setter(self)
        set_checked("units", _checks.integer("units", self.units, low=1))
        set_checked("activation", activations.get(self.activation))
        set_checked("bias", _checks.flag("bias", self.bias))
        if isinstance(self.weight_init, str) and self.weight_init == "auto":
            set_checked("weight_init", initializers.auto(self.activation.name))
        else:
            set_checked("weight_init", _initializer("weight_init", self.weight_init))
        set_checked("bias_init", _initializer("bias_init", self.bias_init))
        set_checked("l1", _checks.number("l1", self.l1, low=0))
        set_checked("l2", _checks.number("l2", self.l2, low=0))

    def lower(self, n_in: int, path: str) -> list[Row]:
        weight = Parameter(f"{path}.weight", (n_in, self.units), self.weight_init)
        bias = Parameter(f"{path}.bias", (self.units,), self.bias_init) if self.bias else None
        penalty = (self.l1, self.l2) if self.l1 or self.l2 else None
        return [Row(row.DENSE, n_in, self.units, path, self.activation, weight, bias, penalty=penalty)]


@dataclass(frozen=True)
class Activation(Layer):
    """An activation as a layer of its own.

    Parameters
    ----------
    activation : str or ActivationFunction
        Applied element by element, or row by row for softmax and log_softmax.

    Examples
    --------
    >>> import fastnn as fn
    >>> net = fn.Sequential([fn.Dense(8), fn.Activation("tanh"), fn.Dense(1)], n_inputs=2)
    """

    activation: Any

    #: Make an activation from a user's own scalar functions: see ``fastnn.activations.from_functions``.
    from_functions = staticmethod(activations.from_functions)

    def __post_init__(self) -> None:
        _setter(self)("activation", activations.get(self.activation))

    def lower(self, n_in: int, path: str) -> list[Row]:
        return [Row(row.ACTIVATION, n_in, n_in, path, self.activation)]


@dataclass(frozen=True)
class Dropout(Layer):
    """Inverted dropout: in training each value is zero with probability ``rate``, and else divided by ``1 - rate``.

    Parameters
    ----------
    rate : float
        In [0, 1). The factors depend on the network's seed, the step and the sample's place in its batch alone.

    References
    ----------
    Srivastava et al. (2014), JMLR 15, 1929-1958.
    """

    rate: float

    def __post_init__(self) -> None:
        _setter(self)("rate", _checks.number("rate", self.rate, low=0, high=1, high_open=True))

    def lower(self, n_in: int, path: str) -> list[Row]:
        return [Row(row.DROPOUT, n_in, n_in, path, reals=(self.rate,))]


def _normalisation_parameters(n_in: int, path: str) -> tuple[Parameter, Parameter]:
    gain = Parameter(f"{path}.weight", (n_in,), initializers.get("ones"))
    return gain, Parameter(f"{path}.bias", (n_in,), initializers.get("zeros"))


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalisation over the samples of a batch, with learned gain and bias.

    Parameters
    ----------
    momentum : float
        In [0, 1]. ``running = momentum * running + (1 - momentum) * batch``: 0.9 is PyTorch's 0.1.
    eps : float
        Added to the variance, > 0.

    Notes
    -----
    In training the whole batch is in memory at once. Inference uses the running statistics.

    References
    ----------
    Ioffe and Szegedy (2015), arXiv:1502.03167.
    """

    momentum: float = 0.9
    eps: float = 1e-5

    def __post_init__(self) -> None:
        _setter(self)("momentum", _checks.number("momentum", self.momentum, low=0, high=1))
        _setter(self)("eps", _checks.number("eps", self.eps, low=0, low_open=True))

    def lower(self, n_in: int, path: str) -> list[Row]:
        gain, bias = _normalisation_parameters(n_in, path)
        reals = (self.momentum, self.eps)
        return [Row(row.BATCH_NORM, n_in, n_in, path, weight=gain, bias=bias, reals=reals)]


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Layer normalisation over the features of each sample, with learned gain and bias.

    Parameters
    ----------
    eps : float
        Added to the variance, > 0.

    References
    ----------
    Ba, Kiros and Hinton (2016), arXiv:1607.06450.
    """

    eps: float = 1e-5

    def __post_init__(self) -> None:
        _setter(self)("eps", _checks.number("eps", self.eps, low=0, low_open=True))

    def lower(self, n_in: int, path: str) -> list[Row]:
        gain, bias = _normalisation_parameters(n_in, path)
        return [Row(row.LAYER_NORM, n_in, n_in, path, weight=gain, bias=bias, reals=(0.0, self.eps))]


@dataclass(frozen=True)
class Residual(Layer):
    """``X + layers(X)``: a shortcut around a stack of layers whose last width is its first.

    Parameters
    ----------
    layers : sequence of Layer
        At least one.

    References
    ----------
    He et al. (2016), arXiv:1512.03385.
    """

    layers: Sequence[Layer]

    def __post_init__(self) -> None:
        _setter(self)("layers", check_layers("layers", self.layers))

    def lower(self, n_in: int, path: str) -> list[Row]:
        split = Row(row.SPLIT, n_in, n_in, path)
        inner = lower_all(self.layers, n_in, f"{path}.")
        n_out = inner[-1].n_out
        if n_out != n_in:
            raise ValueError(
                f"layers[{path}]: a Residual adds its input to its output, so both need one width; "
                f"got {n_in} inputs and {n_out} outputs"
            )
        return [split, *inner, Row(row.ADD, n_in, n_in, path, partner=split)]


def _setter(layer: Any) -> Callable[[str, Any], None]:
    """Set a field of a frozen dataclass while it is being made."""

    def set_field(name: str, value: Any) -> None:
        object.__setattr__(layer, name, value)

    return set_field


def _initializer(name: str, value: Any) -> initializers.Initializer:
    try:
        return initializers.get(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def check_layers(name: str, layers: Any) -> tuple[Layer, ...]:
    """A non-empty tuple of layers, or an error that says which element is none."""
    if isinstance(layers, Layer) or not isinstance(layers, Sequence) or isinstance(layers, str | bytes):
        raise TypeError(f"{name} must be a list of layers such as [fn.Dense(8, 'relu'), fn.Dense(1)], got {layers!r}")
    if not layers:
        raise ValueError(f"{name} must hold at least one layer, got an empty list")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            hint = (
                f"; did you mean {layer.__name__}(...)?" if isinstance(layer, type) and issubclass(layer, Layer) else ""
            )
            raise TypeError(f"{name}[{i}] must be a layer such as fn.Dense(8), got {layer!r}{hint}")
    return tuple(layers)


def lower_all(layers: Sequence[Layer], n_in: int, prefix: str) -> list[Row]:
    """The rows of a stack of layers, each layer fed by the one before."""
    rows: list[Row] = []
    for i, layer in enumerate(layers):
        lowered = layer.lower(n_in, f"{prefix}{i}")
        rows += lowered
        n_in = lowered[-1].n_out
    return rows
