"""scikit-learn's multi-layer perceptrons, through ``partial_fit`` and ``predict``."""

from __future__ import annotations

import time
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import MLPClassifier, MLPRegressor

from fastnn._cli.bench.peers import N_LOSSES, Peer, UnavailableError
from fastnn._cli.bench.workloads import Case

# It adds Adam's epsilon before the bias correction, where the others add 1e-8 behind it. This one is the same in the
# middle of the steps that are compared; the limit is for what remains.
_EPSILON = 1e-8 * (1 - 0.999 ** (N_LOSSES / 2)) ** 0.5


class ScikitLearn(Peer):
    """One ``partial_fit`` is one pass over all batches.

    Its squared error is half the mean square, and in the gradient it is summed over the outputs, where the mean square
    is averaged. Losses are therefore doubled before they are compared, and Adam's epsilon is scaled like the gradient,
    which makes the steps the same.
    """

    packages = ("scikit-learn",)
    tolerance: ClassVar = {"float32": 1e-3, "float64": 1e-3}

    def __init__(self, case: Case):
        super().__init__(case)
        work = case.workload
        if work.hidden not in ("relu", "tanh"):
            raise UnavailableError(f"has no {work.hidden}")
        self._classifies = work.loss in ("cross_entropy", "binary_cross_entropy")
        if work.optimizer == "sgd" and not self._classifies:
            raise UnavailableError("plain descent on its squared error takes other steps")
        n_out = work.widths[-1]
        self._y = case.y.ravel() if n_out == 1 else case.y
        if work.loss == "binary_cross_entropy":
            self._y = self._y.astype(np.int64)
        options = {
            "hidden_layer_sizes": work.widths[1:-1],
            "activation": work.hidden,
            "solver": work.optimizer or "adam",
            "alpha": 0.0,
            "batch_size": min(work.rows, len(case.x)),
            "learning_rate_init": work.rate,
            "shuffle": False,
            "momentum": 0.0,
            "nesterovs_momentum": False,
            "epsilon": _EPSILON if self._classifies else _EPSILON * n_out / 2,
        }
        self._model: Any = MLPClassifier(**options) if self._classifies else MLPRegressor(**options)
        self._step(slice(0, work.rows))  # lays out the arrays
        self._reset()

    def _step(self, rows: slice) -> None:
        classes = {"classes": np.unique(self._y)} if self._classifies else {}
        self._model.partial_fit(self.case.x[rows], self._y[rows], **classes)

    def _reset(self) -> None:
        for k, (weight, bias) in enumerate(self.case.weights):
            self._model.coefs_[k][...] = weight
            self._model.intercepts_[k][...] = bias
        # There is no public way to start the optimizer anew.
        self._model.__dict__.pop("_optimizer", None)

    def losses(self, n: int) -> NDArray[Any]:
        self._reset()
        rows, found = self.case.workload.rows, []
        for k in range(n):
            self._step(slice(k * rows, (k + 1) * rows))
            found.append(self._model.loss_)
        return np.array(found) * (1 if self._classifies else 2)

    def train(self, passes: int) -> float:
        self._reset()
        begin = time.perf_counter()
        for _ in range(passes):
            self._step(slice(None))
        return time.perf_counter() - begin

    def outputs(self) -> NDArray[Any]:
        found: NDArray[Any] = self._model.predict(self.case.x)
        return found.reshape(len(self.case.x), -1)

    def predict(self, calls: int) -> float:
        predict, x = self._model.predict, self.case.x
        begin = time.perf_counter()
        for _ in range(calls):
            predict(x)
        return time.perf_counter() - begin
