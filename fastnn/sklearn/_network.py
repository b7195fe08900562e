"""From an estimator's parameters to a network, and the network's weights as scikit-learn shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from operator import is_
from typing import Any, NamedTuple

import numpy as np
from joblib.parallel import get_active_backend
from numpy.typing import NDArray

from fastnn import _checks, _data, activations
from fastnn._objective import Objective
from fastnn.activations import ActivationFunction
from fastnn.cpu import team
from fastnn.cpu.engine import Engine
from fastnn.layers import Dense, Dropout, Layer
from fastnn.losses import CrossEntropy, KLDivergence, Loss
from fastnn.network import Sequential

# scikit-learn's names of activations, and ours.
NAMES = {"logistic": "sigmoid", "exp": "exponential"}


class Spec(NamedTuple):
    """All that decides the architecture."""

    widths: tuple[int, ...]
    hidden: tuple[ActivationFunction, ...]
    rates: tuple[float, ...]  # of dropout, behind each hidden layer
    output: str  # scikit-learn's name of the last activation
    dtype: str


class Task(NamedTuple):
    """A loss, and the output activation that belongs to it."""

    loss: Loss
    output: str
    factor: float = 1.0  # from the library's loss to the one that is reported
    poisson: bool = False  # the reported loss has the terms that do not depend on the prediction


def _each(name: str, value: Any, n: int) -> list[Any]:
    """A value for each of ``n`` hidden layers."""
    if isinstance(value, str | ActivationFunction) or np.ndim(value) == 0:
        return [value] * n
    items = list(value)
    if len(items) != n:
        raise ValueError(f"{name} must have one value for each hidden layer, which are {n}; got {len(items)}")
    return items


def activation_of(name: str, value: Any) -> ActivationFunction:
    """An activation by either library's name, or itself."""
    if isinstance(value, str):
        known = sorted({*NAMES, *activations.names()})
        value = NAMES.get(value, value)
        if value not in activations.names():
            _checks.choice(name, value, known)
    elif not isinstance(value, ActivationFunction):
        raise TypeError(f"{name} must be a name or an activation of fastnn, got {_checks.describe(value)}")
    return activations.get(value)


def spec_of(widths: Sequence[int], activation: Any, dropout: Any, output: str, dtype: Any) -> Spec:
    """Check what an estimator has been given."""
    n = len(widths) - 2
    hidden = [activation_of("activation", value) for value in _each("activation", activation, n)]
    rates = [
        _checks.number("dropout", rate, low=0, high=1, high_open=True) for rate in _each("dropout", dropout, n)
    ]  # fmt: skip
    return Spec(tuple(widths), tuple(hidden), tuple(rates), output, np.dtype(dtype).name)


class Link:
    """A network, and views of its weights (n_in, n_out) and biases (n_out,), layer by layer."""

    def __init__(self, spec: Spec, seed: int):
        layers: list[Layer] = []
        for units, activation, rate in zip(spec.widths[1:-1], spec.hidden, spec.rates, strict=True):
            layers.append(Dense(units, activation))
            if rate:
                layers.append(Dropout(rate))
        layers.append(Dense(spec.widths[-1], NAMES.get(spec.output, spec.output)))
        self.spec = spec
        self.given: Any = None  # the estimator's ``activation``, which may be set after a fit
        self.network = Sequential(layers, n_inputs=spec.widths[0], seed=seed, dtype=spec.dtype)
        views = list(self.network.named_parameters().values())
        self.coefs, self.intercepts = views[::2], views[1::2]

    @property
    def engine(self) -> Engine:
        return self.network._ready()

    @property
    def theta(self) -> NDArray[Any]:
        return self.network.parameters

    def holds(self, coefs: Sequence[Any], intercepts: Sequence[Any]) -> bool:
        """Whether these are the views, and not arrays that somebody has put in their place."""
        n = len(self.coefs)
        same = len(coefs) == n and len(intercepts) == n
        return same and all(map(is_, coefs, self.coefs)) and all(map(is_, intercepts, self.intercepts))

    def take(self, coefs: Sequence[Any], intercepts: Sequence[Any]) -> None:
        """Copy weights and biases into the network."""
        for name, views, given in (("coefs_", self.coefs, coefs), ("intercepts_", self.intercepts, intercepts)):
            if [np.shape(array) for array in given] != [view.shape for view in views]:
                wanted, got = [view.shape for view in views], [np.shape(array) for array in given]
                raise ValueError(f"{name} must have the shapes {wanted}, got {got}")
            for view, array in zip(views, given, strict=True):
                view[...] = array

    def objective(
        self, task: Task, X: NDArray[Any], Y: NDArray[Any], weights: NDArray[Any] | None, alpha: float = 0.0
    ) -> Objective:
        """Data and loss as the engine takes them; Y (n, n_outputs), indicators of classes where there are any."""
        dtype = self.network.dtype
        x = _checks.cast("X", X, dtype, finite=X.dtype != dtype)
        y = Y.argmax(axis=1) if isinstance(task.loss, CrossEntropy | KLDivergence) and Y.dtype == bool else Y
        w = np.empty(0, dtype) if weights is None else _checks.cast("sample_weight", weights, dtype, finite=True)
        made = _data.make_objective(self.network._built(), task.loss, x, y, w)
        return replace(made, factor=task.factor, decay=alpha)


def most_threads(n_threads: int | None) -> int:
    """Threads that one estimator may use: one, where nothing was asked for and joblib already runs several workers."""
    if n_threads is None and (get_active_backend()[0].nesting_level or 0) > 0:
        return 1
    return team.most_threads(n_threads)
