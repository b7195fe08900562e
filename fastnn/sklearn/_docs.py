"""What the docstrings of both estimators have in common."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T", bound=type)

_PARAMETERS = """
solver : {"adam", "sgd", "lbfgs"} or Optimizer, default="adam"
    "lbfgs" works on all rows at once and suits small data sets. An optimizer of fastnn, such as ``fn.AdamW(1e-3)``,
    brings its own numbers; a fit works on a copy.
alpha : float, default=0.0001
    Strength of the L2 penalty: ``alpha / 2 * sum(W**2)``, divided by the (weighted) number of rows in the batch, is
    added to the loss.
batch_size : int or "auto", default="auto"
    Rows a step; "auto" is ``min(200, n_samples)``. Not used by "lbfgs".
learning_rate : {"constant", "invscaling", "adaptive"} or Schedule, default="constant"
    With ``solver="sgd"``: "invscaling" is ``learning_rate_init / (t_ + 1) ** power_t`` after each epoch; "adaptive"
    divides the rate by 5 whenever training would stop, until it is below 1e-6. A schedule of `fastnn.schedules` gives
    the rate at each step, for "adam" too, and replaces ``learning_rate_init``.
learning_rate_init : float, default=0.001
    The first learning rate of "sgd" and "adam".
power_t : float, default=0.5
    Exponent of "invscaling".
max_iter : int, default=200
    Most epochs; most iterations of "lbfgs".
shuffle : bool, default=True
    Take the rows in a new random order in each epoch.
random_state : int, RandomState instance or None, default=None
    Decides first weights, the validation split and shuffling, with the same draws as scikit-learn.
tol : float, default=0.0001
    Loss (or, with early stopping, score) has to improve by this much to count as better. "lbfgs" stops at a gradient
    whose largest component is at most this.
verbose : bool, default=False
    Print each epoch's loss and score.
warm_start : bool, default=False
    Go on from the weights of the last fit.
momentum : float, default=0.9
    Of "sgd", in [0, 1].
nesterovs_momentum : bool, default=True
    Use Nesterov's momentum in "sgd".
early_stopping : bool, default=False
    Hold out some rows, score them after each epoch, stop when the score no longer improves, and keep the best weights.
    Not used by "lbfgs".
validation_fraction : float, default=0.1
    Share of the rows that is held out for early stopping.
beta_1, beta_2 : float, default=0.9 and 0.999
    Decay rates of Adam's two moments, in [0, 1).
epsilon : float, default=1e-8
    Added to the root of Adam's second moment, before its bias is corrected ("epsilon hat").
n_iter_no_change : int, default=10
    Epochs without improvement that are allowed.
max_fun : int, default=15000
    Most evaluations of the loss by "lbfgs".
"""

_MORE_PARAMETERS = """
dropout : float or list of float, default=0.0
    Rate of dropout behind every hidden layer, or one rate for each.
scoring : str, callable or None, default=None
    What early stopping looks at: a name or a scorer ``(estimator, X, y)`` of scikit-learn; larger is better. None:
    {score}.
callbacks : callable, list of callbacks or None, default=None
    As for ``Sequential.fit``: called after each epoch with a `fastnn.training.State`, whose results are "loss" and,
    with early stopping, "val_loss" and "val_score".
progress : bool, default=False
    Show a progress bar on standard error.
n_threads : int or None, default=None
    At most so many threads share a step or a prediction, where that is faster; they leave no trace in the result. None:
    ``FASTNN_NUM_THREADS`` if it is set, else all cores, but one within a parallel job of joblib.
"""

_ATTRIBUTES = """
coefs_ : list of ndarray of shape (n_in, n_out)
    Weights, layer by layer: views of the parameters of ``network_``. Arrays put in their place are taken over by the
    next call.
intercepts_ : list of ndarray of shape (n_out,)
    Biases, in the same way.
network_ : Sequential
    The fitted network: ``est.network_.save(path)``, ``est.network_.jit_state()``, ``est.network_.predict(X)``.
loss_ : float
    The last loss.
loss_curve_ : list of float
    Mean loss of each epoch, penalty included; "sgd" and "adam" only, as what follows.
best_loss_ : float or None
    The least of them; None with early stopping.
validation_scores_, validation_loss_curve_ : list of float or None
    Score and loss on the held-out rows after each epoch; None without early stopping.
best_validation_score_ : float or None
    The best of the scores.
stopped_ : bool
    Whether training ended because there was no more improvement.
t_ : int
    Training samples seen.
n_iter_ : int
    Epochs, or iterations of "lbfgs", of the last fit.
n_layers_, n_outputs_ : int
    Layers, inputs and outputs counted as such; outputs.
out_activation_ : str
    Name of the last activation.
n_features_in_ : int
feature_names_in_ : ndarray of shape (n_features_in_,)
    Only where X has names that are texts.
"""


def documented(score: str) -> Callable[[_T], _T]:
    """Put what both estimators have in common into a docstring's marked places."""

    def fill(estimator: _T) -> _T:
        text = estimator.__doc__ or ""
        parts = {"parameters": _PARAMETERS, "more": _MORE_PARAMETERS.format(score=score), "attributes": _ATTRIBUTES}
        for mark, part in parts.items():
            text = text.replace(f"    <{mark}>\n", textwrap.indent(part.strip("\n"), "    ") + "\n")
        estimator.__doc__ = text
        return estimator

    return fill
