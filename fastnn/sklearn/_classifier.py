"""The classifier."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.metrics import accuracy_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import validate_data

from fastnn import losses
from fastnn.losses import BinaryCrossEntropy, CrossEntropy, Hinge, Loss
from fastnn.sklearn._base import LOSSES, SPARSE, BaseMLP
from fastnn.sklearn._docs import documented
from fastnn.sklearn._network import Task


def _gives_probabilities(est: Any) -> bool:
    if est.loss == "log_loss" or not isinstance(losses.get(est.loss), Hinge):
        return True
    raise AttributeError("outputs that were trained with a hinge loss are not probabilities")


@documented(score="accuracy")
class MLPClassifier(ClassifierMixin, BaseMLP):
    """A multi-layer perceptron that classifies, with the surface and the trajectories of scikit-learn's.

    Two classes are one logistic output, more are a softmax; rows of indicators are independent labels (multilabel).

    Parameters
    ----------
    hidden_layer_sizes : array-like of int or int, default=(100,)
        Units of each hidden layer.
    activation : str, ActivationFunction or list of them, default="relu"
        Of the hidden layers, or one for each: "identity", "logistic", "tanh", "relu" or any activation of fastnn.
    <parameters>
    loss : str or Loss, default="log_loss"
        "log_loss" is cross-entropy; or any loss of fastnn that takes classes, such as ``fn.losses.Focal(gamma=2.0)`` or
        "hinge", whose outputs are no probabilities.
    class_weight : dict, "balanced", list of dict or None, default=None
        Weights of classes, as elsewhere in scikit-learn; they multiply the sample weights.
    <more>

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,) or list of them
    <attributes>

    Notes
    -----
    The cross-entropy is computed from the pre-activations. scikit-learn cuts probabilities off at the machine epsilon,
    so losses, and the line searches of L-BFGS, differ where outputs are that sure of themselves. With ``warm_start``
    and early stopping, the best weights are those of all fits; scikit-learn overwrites them when a later fit finds no
    better ones.

    Computation is in the dtype of the X of the first fit, float32 or else float64. Sparse X is made dense, in a
    prediction some rows at a time. Where the loss turns NaN or infinite, training ends at once: with an error, or with
    early stopping with a warning and the best weights.

    Examples
    --------
    >>> from fastnn.data import load_digits
    >>> from fastnn.sklearn import MLPClassifier
    >>> X, y = load_digits()
    >>> clf = MLPClassifier((50,), max_iter=30, tol=0.05, random_state=0).fit(X[:1500] / 16, y[:1500])
    >>> clf.score(X[1500:] / 16, y[1500:]) > 0.8
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions({"log_loss", *LOSSES}), Loss],
        "class_weight": [dict, list, StrOptions({"balanced"}), None],
    }
    classes_: Any

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        loss: str | Loss = "log_loss",
        class_weight: Any = None,
        dropout: Any = 0.0,
        scoring: Any = None,
        callbacks: Any = None,
        progress: bool = False,
        n_threads: int | None = None,
    ):
        self._store(locals())

    def _task(self, n_outputs: int) -> Task:
        output = "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"
        if self.loss != "log_loss":
            chosen = losses.get(self.loss)
            return Task(chosen, "identity" if isinstance(chosen, Hinge) else output)
        if output == "softmax":
            return Task(CrossEntropy(), output)
        return Task(BinaryCrossEntropy(), output, factor=n_outputs)  # a sum over labels, where the library's is a mean

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        X, y = validate_data(
            self, X, y, accept_sparse=SPARSE, multi_output=True, dtype=(np.float64, np.float32), reset=reset
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
            return X, y
        if self.warm_start:
            classes = unique_labels(y)
            if set(classes) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the previous call to fit. "
                    f"Previously got {self.classes_}, `y` has {classes}"
                )
            return X, y
        return X, self._known(y)

    def _known(self, y: Any) -> Any:
        classes = unique_labels(y)
        if len(np.setdiff1d(classes, self.classes_, assume_unique=True)):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. 'y' has {classes}."
            )
        return y

    def _encode(self, y: Any) -> NDArray[Any]:
        indicators: NDArray[Any] = self._label_binarizer.transform(y).astype(bool)
        return indicators

    def _weights(self, y: Any, sample_weight: NDArray[Any] | None, incremental: bool) -> NDArray[Any] | None:
        if self.class_weight is None:
            return sample_weight
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                f"class_weight {self.class_weight!r} is not supported for partial_fit, which does not see how many "
                "samples each class has: pass a dict of weights"
            )
        weights = compute_sample_weight(self.class_weight, y)
        return weights if sample_weight is None else weights * sample_weight

    def _decode(self, Y: Any) -> Any:
        kind, classes = self._label_binarizer.y_type_, self.classes_
        if kind == "multiclass":
            return classes[Y.argmax(axis=1)]
        threshold = 0.0 if self.out_activation_ == "identity" else 0.5
        if kind == "binary" and len(classes) == 2:
            return classes[(Y[:, 0] > threshold).astype(np.intp)]
        return self._label_binarizer.inverse_transform(Y if Y.shape[1] > 1 else Y.ravel(), threshold=threshold)

    def _metric(self, y: Any, predicted: Any, weights: Any) -> float:
        return float(accuracy_score(y, predicted, sample_weight=weights))

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> MLPClassifier:
        """Train the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Class labels, or indicators of several labels.
        sample_weight : array-like of shape (n_samples,), default=None
        validation_data : (X, y) or (X, y, sample_weight), default=None
            What early stopping validates on; None: rows are held out.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, validation_data=validation_data)

    @available_if(lambda est: est._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None, *, validation_data: Any = None
    ) -> MLPClassifier:
        """Train for one more epoch.

        Parameters
        ----------
        X, y, sample_weight
            As for ``fit``.
        classes : array-like of shape (n_classes,), default=None
            All classes that there will be; needed in the first call.
        validation_data : (X, y) or (X, y, sample_weight), default=None
            With ``early_stopping=True``: what is scored after each call. When ``n_iter_no_change`` calls in a row have
            not improved the score, ``stopped_`` is True and the best weights are put back.

        Returns
        -------
        self
        """
        if _check_partial_fit_first_call(self, classes):
            multilabel = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if multilabel else classes)
        return self._fit(X, y, sample_weight, incremental=True, validation_data=validation_data)

    @available_if(_gives_probabilities)
    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Probabilities of the classes.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            In the order of ``classes_``.
        """
        outputs = self._outputs(X)
        if outputs.shape[1] > 1:
            return outputs
        return np.concatenate([1 - outputs, outputs], axis=1)

    @available_if(_gives_probabilities)
    def predict_log_proba(self, X: Any) -> NDArray[Any]:
        """Logarithms of ``predict_proba``."""
        probabilities = self.predict_proba(X)
        return np.log(probabilities, out=probabilities)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags
