"""The neurons that the field began with: McCulloch and Pitts's, Rosenblatt's perceptron, and the logistic neuron.

A neuron has a weight for each input and a bias (or a threshold, which is the bias with the other sign). It computes
``activation(weights . x + bias)``: the step function in the first two, the logistic function in the third.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastnn import _checks
from fastnn._jit import kernel, scalar
from fastnn.layers import Dense
from fastnn.network import Sequential
from fastnn.optimizers import LBFGS

__all__ = ["Convergence", "LogisticNeuron", "McCullochPitts", "Perceptron"]

_VARIANTS = ("plain", "averaged", "pocket")


class McCullochPitts:
    """A binary neuron with fixed weights: it fires (1) where ``weights . x`` reaches the threshold, else it is 0.

    Parameters
    ----------
    weights : array-like, (n_inputs,)
        Positive: excitatory, negative: inhibitory.
    threshold : float

    References
    ----------
    McCulloch and Pitts (1943), Bulletin of Mathematical Biophysics 5, 115-133.

    Examples
    --------
    >>> majority = McCullochPitts([1, 1, 1], threshold=2)
    >>> majority(1, 0, 1), majority(0, 0, 1)
    (1, 0)
    >>> majority.predict([[1, 1, 1], [0, 0, 0]])
    array([1, 0])
    """

    def __init__(self, weights: ArrayLike, threshold: float):
        self.weights = _checks.vector("weights", weights, np.float64).copy()
        self.threshold = _checks.number("threshold", threshold)

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return self.weights.size

    def __call__(self, *inputs: int) -> int:
        """The output for one sample, given as ``n_inputs`` numbers 0 or 1."""
        if len(inputs) != self.n_inputs:
            raise TypeError(f"inputs must be {self.n_inputs} numbers, got {len(inputs)}")
        return int(self.predict([inputs])[0])

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """The outputs for rows of binary inputs, (n, n_inputs): 0 or 1, (n,)."""
        x = binary("X", _checks.matrix("X", X, np.float64, n_columns=self.n_inputs))
        return (x @ self.weights >= self.threshold).astype(np.int64)

    def truth_table(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All combinations of inputs, (2**n_inputs, n_inputs), and the outputs, (2**n_inputs,)."""
        x = combinations(self.n_inputs)
        return x, self.predict(x)

    def to_sequential(self) -> Sequential:
        """This neuron as a network: one unit with the step activation."""
        return _network(self.weights, -self.threshold, "step")

    def __repr__(self) -> str:
        return f"McCullochPitts({self.weights.tolist()}, threshold={self.threshold})"


@dataclass(frozen=True)
class Convergence:
    """What came of a perceptron's training.

    Attributes
    ----------
    converged : bool
        Whether an epoch went by without an error: then the classes are linearly separable, and are separated.
    epochs : int
        Epochs of training, the one without an error included.
    errors : tuple of int
        Samples on the wrong side, epoch by epoch, each counted before its own update.
    """

    converged: bool
    epochs: int
    errors: tuple[int, ...]

    def __str__(self) -> str:
        if self.converged:
            return f"converged at epoch {self.epochs}"
        return f"not linearly separable within {self.epochs} epochs"


@scalar
def _output(x, i, w):
    """The step neuron's output for sample i; ``w`` ends with the bias."""
    n_inputs = x.shape[1]
    z = w[n_inputs]
    for j in range(n_inputs):
        z += w[j] * x[i, j]
    return 1.0 if z >= 0.0 else 0.0


@kernel
def _epoch(x, y, order, w, rate, variant, total, pocket, counts):
    """One pass of Rosenblatt's rule over the samples; how many were on the wrong side.

    ``counts``: length of the present run of right answers, the pocket's run, its errors.
    """
    n_inputs, errors = x.shape[1], 0
    for i in order:
        error = y[i] - _output(x, i, w)
        if error == 0.0:
            counts[0] += 1
            if variant == 2 and counts[0] > counts[1]:
                # Gallant's ratchet: the weights of the longest run, if they are also better on all samples.
                wrong = _errors(x, y, w)
                if wrong < counts[2]:
                    pocket[:] = w
                    counts[1], counts[2] = counts[0], wrong
        else:
            errors += 1
            counts[0] = 0
            for j in range(n_inputs):
                w[j] += rate * error * x[i, j]
            w[n_inputs] += rate * error
        if variant == 1:
            for j in range(n_inputs + 1):
                total[j] += w[j]
    return errors


@kernel
def _errors(x, y, w):
    """How many samples lie on the wrong side."""
    wrong = 0
    for i in range(x.shape[0]):
        wrong += _output(x, i, w) != y[i]
    return wrong


class Perceptron:
    """Rosenblatt's perceptron: a step neuron that learns from its errors.

    After each sample ``weights += learning_rate * (y - output) * x``, and the bias likewise. If the classes can be
    separated by a hyperplane, an epoch without an error comes after finitely many updates (Novikoff 1962).

    Parameters
    ----------
    learning_rate : float
        From zero weights it only scales them.
    variant : {"plain", "averaged", "pocket"}
        What is kept after training: the last weights; the mean of the weights after every sample (Freund and Schapire
        1999); or, by Gallant's (1990) ratchet, those of the longest run of right answers that were also right on more
        of the samples than the ones kept before, which suits classes that overlap.
    shuffle : bool
        Take the samples in a fresh random order each epoch.
    seed : int
        Of that order.

    Attributes
    ----------
    weights : ndarray of float64, (n_inputs,)
    bias : float
    report : Convergence

    References
    ----------
    Rosenblatt (1958), Psychological Review 65, 386-408; Novikoff (1962), Symposium on the Mathematical Theory of
    Automata, 615-622; Gallant (1990), IEEE Transactions on Neural Networks 1, 179-191; Freund and Schapire (1999),
    Machine Learning 37, 277-296.

    Examples
    --------
    >>> X = [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> neuron = Perceptron()
    >>> print(neuron.fit(X, [0, 0, 0, 1]))
    converged at epoch 6
    >>> neuron.predict(X)
    array([0, 0, 0, 1])
    >>> print(neuron.fit(X, [0, 1, 1, 0], epochs=50))
    not linearly separable within 50 epochs
    """

    weights: NDArray[np.float64]
    bias: float
    report: Convergence

    def __init__(self, learning_rate: float = 1.0, variant: str = "plain", shuffle: bool = False, seed: int = 0):
        self.learning_rate = _checks.number("learning_rate", learning_rate, low=0.0, low_open=True)
        self.variant = _checks.choice("variant", variant, _VARIANTS)
        self.shuffle = _checks.flag("shuffle", shuffle)
        self.seed = _checks.integer("seed", seed, low=0)

    def fit(self, X: ArrayLike, y: ArrayLike, epochs: int = 100) -> Convergence:
        """Learn from zero weights until an epoch passes without an error.

        Parameters
        ----------
        X : array-like, (n, n_inputs)
        y : array-like, (n,)
            Classes 0 and 1.
        epochs : int
            Most passes over the samples.

        Returns
        -------
        Convergence
            Also kept as ``report``.
        """
        x = _checks.matrix("X", X, np.float64)
        labels = _binary_labels(y, x.shape[0])
        epochs = _checks.integer("epochs", epochs, low=1)
        rng, order = np.random.default_rng(self.seed), np.arange(x.shape[0])
        w, total, pocket = (np.zeros(x.shape[1] + 1) for _ in range(3))
        counts = np.array([0, 0, _errors(x, labels, w)])
        variant, errors = _VARIANTS.index(self.variant), []
        for _ in range(epochs):
            if self.shuffle:
                rng.shuffle(order)
            errors.append(int(_epoch(x, labels, order, w, self.learning_rate, variant, total, pocket, counts)))
            if errors[-1] == 0:
                break
        if self.variant == "averaged":
            w = total / (x.shape[0] * len(errors))
        elif self.variant == "pocket":
            w = pocket
        self.weights, self.bias = w[:-1], float(w[-1])
        self.report = Convergence(errors[-1] == 0, len(errors), tuple(errors))
        return self.report

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """``weights . x + bias`` for each row, (n,): the side of the hyperplane."""
        return _sums(self, X)

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """The class of each row, 0 or 1, (n,)."""
        return (_sums(self, X) >= 0).astype(np.int64)

    def __repr__(self) -> str:
        order = f"shuffle={self.shuffle}, seed={self.seed}"
        return f"Perceptron(learning_rate={self.learning_rate}, variant={self.variant!r}, {order})"

    def to_sequential(self) -> Sequential:
        """This neuron as a network: one unit with the step activation."""
        check_fitted(self)
        return _network(self.weights, self.bias, "step")


class LogisticNeuron:
    """A neuron with the logistic activation, ``sigmoid(weights . x + bias)``: the probability of class 1.

    It is trained to the minimum of the mean binary cross-entropy (maximum likelihood). If the classes are
    separable there is none, and weights grow until the loss is flat.

    Parameters
    ----------
    l2 : float
        Penalty ``l2 * sum(weights**2)`` on the mean loss.
    max_iterations : int
        Of L-BFGS.

    Attributes
    ----------
    network : Sequential
        The neuron: ``Dense(1, "sigmoid")`` in float64.
    weights : ndarray of float64, (n_inputs,)
    bias : float
    converged : bool
        False where ``max_iterations`` came first.
    losses : list of float
        The mean loss after each iteration.

    Examples
    --------
    >>> neuron = LogisticNeuron()
    >>> bool(neuron.fit([[0.0], [1.0], [2.0], [3.0]], [0, 1, 0, 1]).converged)
    True
    >>> neuron.probability([[1.5]]).round(3)
    array([0.5])
    """

    network: Sequential
    weights: NDArray[np.float64]
    bias: float
    converged: bool
    losses: list[float]

    def __init__(self, l2: float = 0.0, max_iterations: int = 1000):
        self.l2 = _checks.number("l2", l2, low=0.0)
        self.max_iterations = _checks.integer("max_iterations", max_iterations, low=1)

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> LogisticNeuron:
        """Learn from zero weights.

        Parameters
        ----------
        X : array-like, (n, n_inputs)
        y : array-like, (n,)
            Classes 0 and 1.
        sample_weight : array-like, (n,), optional

        Returns
        -------
        LogisticNeuron
            This neuron.
        """
        x = _checks.matrix("X", X, np.float64)
        labels = _binary_labels(y, x.shape[0])
        unit = Dense(1, "sigmoid", weight_init="zeros", l2=self.l2)
        network = Sequential([unit], n_inputs=x.shape[1], dtype="float64")
        history = network.fit(
            x, labels, "binary_cross_entropy", LBFGS(max_iterations=self.max_iterations, gtol=1e-10, ftol=0.0),
            epochs=self.max_iterations, sample_weight=sample_weight, progress=False,
        )  # fmt: skip
        self.network, self.losses = network, list(history.loss)
        self.converged = history.stopped == "converged"
        self.weights, self.bias = network.parameters[:-1], float(network.parameters[-1])
        return self

    def __repr__(self) -> str:
        return f"LogisticNeuron(l2={self.l2}, max_iterations={self.max_iterations})"

    def probability(self, X: ArrayLike) -> NDArray[np.float64]:
        """The probability of class 1 for each row, (n,)."""
        check_fitted(self)
        return self.network.predict(X)[:, 0]

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """The likelier class of each row, 0 or 1, (n,)."""
        return (self.probability(X) >= 0.5).astype(np.int64)


def binary(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """The array, if it holds only 0 and 1."""
    wrong = array[(array != 0) & (array != 1)]
    if wrong.size:
        raise ValueError(f"{name} must hold only 0 and 1, got {wrong[0]:g}")
    return array


def combinations(n: int) -> NDArray[np.int64]:
    """All rows of n zeros and ones, (2**n, n), in the order of binary numbers."""
    return np.array(list(itertools.product((0, 1), repeat=n)), np.int64)


def _binary_labels(y: ArrayLike, n: int) -> NDArray[np.float64]:
    return binary("y", _checks.vector("y", y, np.float64, length=n))


def check_fitted(neuron: Perceptron | LogisticNeuron) -> None:
    if not hasattr(neuron, "weights"):
        raise ValueError(f"this {type(neuron).__name__} has not been trained yet: call fit first")


def _sums(neuron: Perceptron, X: ArrayLike) -> NDArray[np.float64]:
    check_fitted(neuron)
    sums: NDArray[np.float64] = _checks.matrix("X", X, np.float64, n_columns=neuron.weights.size) @ neuron.weights
    return sums + neuron.bias


def _network(weights: NDArray[np.float64], bias: float, activation: str) -> Sequential:
    network = Sequential([Dense(1, activation)], n_inputs=weights.size, dtype="float64")
    network.set_parameters({"0.weight": weights[:, None], "0.bias": [bias]})
    return network
