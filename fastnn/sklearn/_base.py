"""What the two multi-layer perceptrons share: parameters, the way of a fit, weights, outputs."""

from __future__ import annotations

import threading
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.metrics import get_scorer_names
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastnn import _checks, _data, activations, losses
from fastnn.activations import ActivationFunction
from fastnn.cpu.engine import FEW_ROWS
from fastnn.losses import Loss
from fastnn.network import Sequential, check_trainable
from fastnn.optimizers import Optimizer
from fastnn.schedules import Schedule
from fastnn.sklearn import _training
from fastnn.sklearn._network import NAMES, Link, Task, most_threads, spec_of

SPARSE = ["csr", "csc"]
LOSSES = set(losses.names())
_LINKING = threading.Lock()
# Rows of a sparse matrix that are dense at a time in a prediction.
_SPARSE_ROWS = 4096
_FROM_1 = Interval(Integral, 1, None, closed="left")
_FROM_0 = Interval(Real, 0, None, closed="left")
_ABOVE_0 = Interval(Real, 0, None, closed="neither")
_SHARE = Interval(Real, 0, 1, closed="left")


def dense(X: Any) -> NDArray[Any]:
    return X.toarray() if sparse.issparse(X) else X


class BaseMLP(BaseEstimator):
    """Base of `MLPClassifier` and `MLPRegressor`."""

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": ["array-like", _FROM_1],
        "activation": [StrOptions({*NAMES, *activations.names()} - {"exp"}), ActivationFunction, list, tuple],
        "solver": [StrOptions({"lbfgs", "sgd", "adam"}), Optimizer],
        "alpha": [_FROM_0],
        "batch_size": [StrOptions({"auto"}), _FROM_1],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"}), Schedule],
        "learning_rate_init": [_ABOVE_0],
        "power_t": [_FROM_0],
        "max_iter": [_FROM_1],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [_FROM_0],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [_SHARE],
        "beta_1": [_SHARE],
        "beta_2": [_SHARE],
        "epsilon": [_ABOVE_0],
        "n_iter_no_change": [_FROM_1, Options(Real, {np.inf})],
        "max_fun": [_FROM_1],
        "dropout": [_SHARE, list, tuple],
        "scoring": [StrOptions(set(get_scorer_names())), callable, None],
        "callbacks": "no_validation",  # by the library itself
        "progress": ["boolean"],
        "n_threads": [_FROM_1, None],
    }
    loss: str | Loss
    coefs_: list[NDArray[Any]]
    intercepts_: list[NDArray[Any]]
    out_activation_: str

    def _store(self, parameters: dict[str, Any]) -> None:
        """What a constructor does: keep its arguments as they are."""
        for name, value in parameters.items():
            if name != "self":
                setattr(self, name, value)

    # What the two kinds of estimators define.

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        raise NotImplementedError

    def _known(self, y: Any) -> Any:
        """Checked targets of rows to validate on."""
        raise NotImplementedError

    def _encode(self, y: Any) -> NDArray[Any]:
        """Targets (n, n_outputs): numbers, or the indicators of classes."""
        raise NotImplementedError

    def _decode(self, Y: Any) -> Any:
        """Predictions, or what was encoded, from outputs (n, n_outputs)."""
        raise NotImplementedError

    def _metric(self, y: Any, predicted: Any, weights: Any) -> float:
        """The score of early stopping where no ``scoring`` is given."""
        raise NotImplementedError

    def _task(self, n_outputs: int) -> Task:
        raise NotImplementedError

    def _weights(self, y: Any, sample_weight: NDArray[Any] | None, incremental: bool) -> NDArray[Any] | None:
        """Weights of samples, with those of classes."""
        return sample_weight

    # Weights and network

    @property
    def network_(self) -> Sequential:
        """The fitted network; training it trains the estimator, whose ``coefs_`` are views of its parameters."""
        check_is_fitted(self)
        return self._linked().network

    def _linked(self) -> Link:
        """The network, holding the numbers of ``coefs_`` and ``intercepts_`` even if somebody has replaced these."""
        link: Link | None = self.__dict__.get("_link")
        same = link is not None and link.given is self.activation and link.holds(self.coefs_, self.intercepts_)
        if link is None or not same:
            with _LINKING:  # several threads may predict with an estimator that has just been read from a file
                link = self._relink()
        return link

    def _relink(self) -> Link:
        dtype = np.result_type(*self.coefs_, *self.intercepts_, np.float32)
        dtype = dtype if dtype == np.float32 else np.dtype(np.float64)
        widths = [np.shape(self.coefs_[0])[0], *(np.shape(coef)[1] for coef in self.coefs_)]
        spec = spec_of(widths, self.activation, self.dropout, self.out_activation_, dtype)
        link: Link | None = self.__dict__.get("_link")
        if link is None or link.spec != spec:
            link = Link(spec, self.__dict__.get("_seed", 0))
            link.network._steps = self._optimizer.steps if hasattr(self, "_optimizer") else 0
        if not link.holds(self.coefs_, self.intercepts_):
            link.take(self.coefs_, self.intercepts_)
        self.coefs_, self.intercepts_ = list(link.coefs), list(link.intercepts)
        link.given = self.activation
        self._link = link
        return link

    def __getstate__(self) -> dict[str, Any]:
        # The network is made again from coefs_ and intercepts_, so that files hold arrays, and each of them once.
        return {name: value for name, value in super().__getstate__().items() if name != "_link"}

    def _initialize(self, widths: list[int], dtype: Any) -> None:
        """First weights, in scikit-learn's order of draws, and empty records."""
        task = self._task(widths[-1])
        spec = spec_of(widths, self.activation, self.dropout, task.output, dtype)
        # Before anything is set or drawn: what does not fit together is refused here.
        link = Link(spec, 0)
        task.loss.resolve(NAMES.get(task.output, task.output), widths[-1])
        check_trainable(link.network._built())
        for k, (coef, intercept) in enumerate(zip(link.coefs, link.intercepts, strict=True)):
            # Glorot and Bengio (2010); scikit-learn goes by the hidden activation in its last layer, too.
            logistic = bool(spec.hidden) and spec.hidden[min(k, len(spec.hidden) - 1)].name == "sigmoid"
            logistic = logistic or (not spec.hidden and self.activation == "logistic")
            bound = np.sqrt((2.0 if logistic else 6.0) / sum(coef.shape))
            coef[...] = self._random_state.uniform(-bound, bound, coef.shape)
            intercept[...] = self._random_state.uniform(-bound, bound, intercept.shape)
        self._seed = 0
        if any(spec.rates):
            self._seed = int(self._random_state.randint(np.iinfo(np.int32).max))
            start = link.theta.copy()
            link = Link(spec, self._seed)
            link.theta[:] = start
        self._link, self.coefs_, self.intercepts_ = link, list(link.coefs), list(link.intercepts)
        self.out_activation_, self.n_layers_ = task.output, len(widths)
        self.n_iter_, self.t_, self.stopped_ = 0, 0, False
        if not _training.is_full_batch(self.solver):
            self.loss_curve_: list[float] = []
            self._no_improvement_count = 0
            self.best_loss_ = None if self.early_stopping else np.inf
            _training.start_scores(self, self.early_stopping)

    # Fitting

    def _fit(
        self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False, validation_data: Any = None
    ) -> Any:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = self._validate_input(X, y, incremental, reset=first)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        weights = self._weights(y, sample_weight, incremental)
        X, Y = dense(X), self._encode(y)
        self.n_outputs_ = Y.shape[1]
        widths = [X.shape[1], *sizes, self.n_outputs_]
        self._random_state = check_random_state(self.random_state)
        if first:
            self._initialize(widths, X.dtype)
        link = self._relink()
        if list(link.spec.widths) != widths:
            raise ValueError(
                f"coefs_ are those of a network with layers of {list(link.spec.widths)} units, but X, "
                f"hidden_layer_sizes and y ask for {widths}: call fit with warm_start=False"
            )
        held = None if validation_data is None else self._held(validation_data)
        data = _training.Rows(X, Y, weights)
        if _training.is_full_batch(self.solver):
            _training.fit_full_batch(self, link, data)
        else:
            _training.fit_stochastic(self, link, data, held, incremental)
        if not np.isfinite(link.theta).all():
            raise ValueError(_training.NOT_FINITE)
        return self

    def _held(self, validation_data: Any) -> _training.Rows:
        """Data of the user's own to validate on."""
        if not isinstance(validation_data, tuple | list) or len(validation_data) not in (2, 3):
            raise TypeError(
                f"validation_data must be (X, y) or (X, y, sample_weight), got {_checks.describe(validation_data)}"
            )
        X = validate_data(self, validation_data[0], accept_sparse=SPARSE, dtype=(np.float64, np.float32), reset=False)
        y, given = validation_data[1], validation_data[2] if len(validation_data) == 3 else None
        Y = self._encode(self._known(y))
        if len(Y) != X.shape[0]:
            raise ValueError(f"validation_data must have as many rows in y as in X, got {len(Y)} and {X.shape[0]}")
        return _training.Rows(dense(X), Y, None if given is None else _check_sample_weight(given, X))

    def _check_solver(self) -> bool:
        if _training.is_full_batch(self.solver):
            raise AttributeError(
                f"partial_fit is only available for stochastic optimizers. {self.solver} is not stochastic."
            )
        return True

    # Predicting

    def _outputs(self, X: Any) -> NDArray[Any]:
        """Values of the output layer, (n, n_outputs)."""
        if "coefs_" not in self.__dict__:
            check_is_fitted(self)
        link = self._linked()
        engine, width = link.engine, link.spec.widths[0]
        names_matter = "feature_names_in_" in self.__dict__ and "_own_data" not in self.__dict__
        plain = type(X) is np.ndarray and X.ndim == 2 and X.dtype == engine.dtype and not names_matter
        if plain and X.flags.carray and X.shape[1] == width and X.shape[0] > 0:
            # What needs no conversion is checked for NaN and infinity alone.
            if X.shape[0] <= FEW_ROWS:
                if (few := engine.predict_few(X)) is not None:
                    return few
            elif np.isfinite(X.sum()):
                return engine.predict(X, most_threads(self.n_threads))
        X = validate_data(self, X, accept_sparse=SPARSE, reset=False)
        if not sparse.issparse(X):
            return self._predict_dense(engine, X)
        X = X.tocsr()
        parts = [
            self._predict_dense(engine, X[first : first + _SPARSE_ROWS].toarray())
            for first in range(0, X.shape[0], _SPARSE_ROWS)
        ]
        return np.concatenate(parts)

    def _predict_dense(self, engine: Any, X: NDArray[Any]) -> NDArray[Any]:
        x = _data.unlocked(_checks.cast("X", X, engine.dtype, finite=True))
        outputs: NDArray[Any] = engine.predict(x, most_threads(self.n_threads))
        return outputs

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict with the network.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Classes, or numbers.
        """
        return self._decode(self._outputs(X))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
