"""The regressor."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, validate_data

from fastnn import losses
from fastnn.losses import MSE, BinaryCrossEntropy, Loss, Poisson
from fastnn.sklearn._base import LOSSES, SPARSE, BaseMLP
from fastnn.sklearn._docs import documented
from fastnn.sklearn._network import Task


@documented(score="R2")
class MLPRegressor(RegressorMixin, BaseMLP):
    """A multi-layer perceptron for numbers, one or several, with the surface and the trajectories of scikit-learn's.

    Parameters
    ----------
    loss : str or Loss, default="squared_error"
        "squared_error" is half the squared error, summed over the outputs; "poisson" is half the Poisson deviance, with
        an exponential as the last activation and ``y >= 0``; or any loss of fastnn, as it is defined there: "mae",
        "huber", ``fn.losses.Quantile(0.9)``, or your own.
    hidden_layer_sizes : array-like of int or int, default=(100,)
        Units of each hidden layer.
    activation : str, ActivationFunction or list of them, default="relu"
        Of the hidden layers, or one for each: "identity", "logistic", "tanh", "relu" or any activation of fastnn.
    <parameters>
    <more>

    Attributes
    ----------
    <attributes>

    Notes
    -----
    With several outputs, scikit-learn reports (and hands to L-BFGS) a mean over the outputs, but descends along the
    gradient of their sum (its issues #8349 and #34830). Here the loss is the sum, in both places: coefficients of "sgd"
    and "adam" are the same, the squared error in ``loss_curve_`` is scikit-learn's times the number of outputs, and
    ``tol`` is compared with that.

    With ``warm_start`` and early stopping, the best weights are those of all fits; scikit-learn overwrites them when a
    later fit finds no better ones.

    Computation is in the dtype of the X of the first fit, float32 or else float64. Sparse X is made dense, in a
    prediction some rows at a time. Where the loss turns NaN or infinite, training ends at once: with an error, or with
    early stopping with a warning and the best weights.

    Examples
    --------
    >>> import numpy as np
    >>> from fastnn.sklearn import MLPRegressor
    >>> X = np.linspace(-3, 3, 200)[:, None]
    >>> y = np.sin(X[:, 0])
    >>> reg = MLPRegressor(hidden_layer_sizes=(30,), activation="tanh", solver="lbfgs", random_state=0).fit(X, y)
    >>> reg.score(X, y) > 0.99
    True
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions({"squared_error", *LOSSES}), Loss],
    }

    def __init__(
        self,
        loss: str | Loss = "squared_error",
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
        dropout: Any = 0.0,
        scoring: Any = None,
        callbacks: Any = None,
        progress: bool = False,
        n_threads: int | None = None,
    ):
        self._store(locals())

    def _task(self, n_outputs: int) -> Task:
        if self.loss == "squared_error":
            return Task(MSE(), "identity", factor=0.5 * n_outputs)
        if self.loss == "poisson":
            return Task(Poisson(), "exp", factor=n_outputs, poisson=True)
        chosen = losses.get(self.loss)
        if isinstance(chosen, Poisson):
            return Task(chosen, "exp")
        if isinstance(chosen, BinaryCrossEntropy):
            return Task(chosen, "logistic")
        return Task(chosen, "softmax" if chosen.rowwise else "identity")

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        X, y = validate_data(
            self, X, y, accept_sparse=SPARSE, multi_output=True, y_numeric=True, dtype=(np.float64, np.float32),
            reset=reset,
        )  # fmt: skip
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _known(self, y: Any) -> Any:
        return check_array(y, ensure_2d=False, dtype="numeric", input_name="y")

    def _encode(self, y: Any) -> NDArray[Any]:
        return y.reshape(-1, 1) if y.ndim == 1 else y

    def _decode(self, Y: Any) -> Any:
        return Y.ravel() if Y.shape[1] == 1 else Y

    def _metric(self, y: Any, predicted: Any, weights: Any) -> float:
        return float(r2_score(y, predicted, sample_weight=weights))

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> MLPRegressor:
        """Train the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
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
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, *, validation_data: Any = None) -> MLPRegressor:
        """Train for one more epoch.

        Parameters
        ----------
        X, y, sample_weight
            As for ``fit``.
        validation_data : (X, y) or (X, y, sample_weight), default=None
            With ``early_stopping=True``: what is scored after each call. When ``n_iter_no_change`` calls in a row have
            not improved the score, ``stopped_`` is True and the best weights are put back.

        Returns
        -------
        self
        """
        return self._fit(X, y, sample_weight, incremental=True, validation_data=validation_data)
