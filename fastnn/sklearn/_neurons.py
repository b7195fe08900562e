"""Single neurons as classifiers: the perceptron and the logistic neuron, for more than two classes one neuron each."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, _fit_context
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastnn import neurons


class _OneNeuronAClass(ClassifierMixin, BaseEstimator):
    """A neuron for the second of two classes, or one for each of more against all others."""

    neurons_: list[Any]
    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]

    def _fit_neurons(self, X: Any, y: Any, fitted: Callable[[Any, Any], Any]) -> Any:
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"y must hold at least two classes, got only one class: {self.classes_[0]!r}")
        positive = self.classes_[1:] if len(self.classes_) == 2 else self.classes_
        self.neurons_ = [fitted(X, (y == each).astype(np.float64)) for each in positive]
        self.coef_ = np.array([neuron.weights for neuron in self.neurons_])
        self.intercept_ = np.array([neuron.bias for neuron in self.neurons_])
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """``X @ coef_.T + intercept_``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or, for more than two classes, (n_samples, n_classes)
        """
        check_is_fitted(self)
        sums: NDArray[np.float64] = validate_data(self, X, dtype=np.float64, reset=False) @ self.coef_.T
        sums += self.intercept_
        return sums[:, 0] if len(self.classes_) == 2 else sums

    def predict(self, X: Any) -> NDArray[Any]:
        """The class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        sums = self.decision_function(X)
        found: NDArray[Any] = self.classes_[(sums >= 0).astype(int) if sums.ndim == 1 else sums.argmax(axis=1)]
        return found


class Perceptron(_OneNeuronAClass):
    """Rosenblatt's perceptron, `fastnn.neurons.Perceptron`, as a classifier.

    Parameters
    ----------
    learning_rate : float
    variant : {"plain", "averaged", "pocket"}
    max_iter : int
        Most epochs; training ends with the first one without an error.
    shuffle : bool
        Take the samples in a fresh random order each epoch.
    random_state : int, RandomState or None
        Of that order.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    neurons_ : list of fastnn.neurons.Perceptron
        With a ``report`` each: whether its class is linearly separable from the others.
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
    intercept_ : ndarray of shape (1,) or (n_classes,)
    n_iter_ : int
        Epochs of the neuron that took most.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    Examples
    --------
    >>> neuron = Perceptron().fit([[0, 0], [0, 1], [1, 0], [1, 1]], ["no", "no", "no", "yes"])
    >>> neuron.predict([[1, 1], [0, 1]]).tolist(), str(neuron.neurons_[0].report)
    (['yes', 'no'], 'converged at epoch 6')
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "variant": [StrOptions({"plain", "averaged", "pocket"})],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        learning_rate: float = 1.0,
        *,
        variant: str = "plain",
        max_iter: int = 1000,
        shuffle: bool = False,
        random_state: Any = None,
    ):
        self.learning_rate = learning_rate
        self.variant = variant
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any) -> Perceptron:
        """Learn from zero weights.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)

        Returns
        -------
        Perceptron
        """
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

        def fitted(x: Any, target: Any) -> neurons.Perceptron:
            neuron = neurons.Perceptron(float(self.learning_rate), self.variant, bool(self.shuffle), seed)
            neuron.fit(x, target, epochs=int(self.max_iter))
            return neuron

        self._fit_neurons(X, y, fitted)
        self.n_iter_ = max(neuron.report.epochs for neuron in self.neurons_)
        return self


class LogisticNeuron(_OneNeuronAClass):
    """The logistic neuron, `fastnn.neurons.LogisticNeuron`, as a classifier.

    Parameters
    ----------
    l2 : float
        Penalty ``l2 * sum(coef_**2)`` on the mean loss.
    max_iter : int
        Most iterations of L-BFGS.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    neurons_ : list of fastnn.neurons.LogisticNeuron
        With a ``network`` each.
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
    intercept_ : ndarray of shape (1,) or (n_classes,)
    n_iter_ : int
        Iterations of the neuron that took most.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)

    Examples
    --------
    >>> neuron = LogisticNeuron().fit([[0.0], [1.0], [2.0], [3.0]], ["a", "b", "a", "b"])
    >>> neuron.predict_proba([[1.5]]).round(3)
    array([[0.5, 0.5]])
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "l2": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    def __init__(self, l2: float = 0.0, *, max_iter: int = 1000):
        self.l2 = l2
        self.max_iter = max_iter

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LogisticNeuron:
        """Find the minimum of the mean binary cross-entropy.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        sample_weight : array-like of shape (n_samples,), optional

        Returns
        -------
        LogisticNeuron
        """

        def fitted(x: Any, target: Any) -> neurons.LogisticNeuron:
            weights = None if sample_weight is None else _check_sample_weight(sample_weight, x)
            return neurons.LogisticNeuron(float(self.l2), int(self.max_iter)).fit(x, target, weights)

        self._fit_neurons(X, y, fitted)
        self.n_iter_ = max(len(neuron.losses) for neuron in self.neurons_)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """The probability of each class; with more than two, those of the neurons, scaled to a sum of 1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
        """
        check_is_fitted(self)
        x = validate_data(self, X, dtype=np.float64, reset=False)
        found = np.stack([neuron.probability(x) for neuron in self.neurons_], axis=1)
        if len(self.classes_) == 2:
            return np.hstack([1 - found, found])
        total = found.sum(axis=1, keepdims=True)
        scaled: NDArray[np.float64] = np.where(total > 0, found / np.where(total > 0, total, 1), 1 / found.shape[1])
        return scaled
