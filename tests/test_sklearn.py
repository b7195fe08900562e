"""`fastnn.sklearn` beside scikit-learn: the same first weights, shuffles, losses and coefficients; the same manners."""

import inspect
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer:UserWarning"),
    pytest.mark.filterwarnings("ignore:lbfgs failed to converge:UserWarning"),
]

N, SIZES = 210, (9, 6)  # the last batch of 200 has 10 rows
RNG = np.random.default_rng(0)
X = RNG.standard_normal((N, 5))
X[:, 3] = 0  # Adam's epsilon decides about weights of inputs that are always zero
SCORE = np.sin(X[:, 0]) + X[:, 1] ** 2 - X[:, 2] * X[:, 4]
TASKS = {
    "binary": ("MLPClassifier", np.where(SCORE > 1, "yes", "no")),
    "multiclass": ("MLPClassifier", np.digitize(SCORE, [0.0, 1.0, 2.0])),
    "multilabel": ("MLPClassifier", np.stack([SCORE > 0, SCORE > 2, X[:, 0] > 0], axis=1).astype(int)),
    "regression": ("MLPRegressor", SCORE),
}
WEIGHTS = RNG.uniform(0, 3, N) * (RNG.random(N) > 0.2)
SOLVERS = {"adam": {"solver": "adam"}, "adam-eps": {"solver": "adam", "epsilon": 1e-2, "beta_1": 0.5, "beta_2": 0.9}}
for policy in ("constant", "invscaling", "adaptive"):
    for momentum, nesterov in ((0.0, True), (0.9, False), (0.9, True)):
        name = f"sgd-{policy}-{'nesterov' if nesterov and momentum else momentum}"
        SOLVERS[name] = {
            "solver": "sgd", "learning_rate": policy, "momentum": momentum, "nesterovs_momentum": nesterov,
            "learning_rate_init": 0.1, "power_t": 0.3,
        }  # fmt: skip


class Pair:
    """The two libraries' classes."""

    def __init__(self):
        import sklearn.neural_network

        import fastnn.sklearn

        self.ours, self.theirs = fastnn.sklearn, sklearn.neural_network

    def fit(self, kind, X, y, weights=None, **options):
        """Both estimators, fitted."""
        made = [getattr(library, kind)(**options) for library in (self.ours, self.theirs)]
        with np.errstate(all="ignore"):
            return [each.fit(X, y, weights) for each in made]


@pytest.fixture
def pair(oracle):
    oracle("sklearn")
    return Pair()


def same(ours, theirs, tolerance=1e-10, losses=True):
    """What a user can look at is the same after training."""
    for mine, other in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)
    names = ["n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "n_features_in_", "_no_improvement_count"]
    for name in names:
        assert getattr(ours, name, None) == getattr(theirs, name, None), name
    if losses:
        for name in ("loss_", "loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"):
            mine, other = getattr(ours, name, None), getattr(theirs, name, None)
            if mine is None or other is None:
                assert mine is other, name
            else:
                np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance, err_msg=name)


# -- trajectories ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_losses_and_coefficients_follow_those_of_scikit_learn(pair, solver, task, shuffle):
    kind, y = TASKS[task]
    options = {"hidden_layer_sizes": SIZES, "alpha": 0.3, "max_iter": 12, "random_state": 3, "shuffle": shuffle}
    options |= {"tol": 0.01, "n_iter_no_change": 2} if "adaptive" in solver else {"tol": 0.0}
    ours, theirs = pair.fit(kind, X, y, **options, **SOLVERS[solver])
    same(ours, theirs)
    if "sgd" in solver:
        np.testing.assert_allclose(ours._optimizer.learning_rate, theirs._optimizer.learning_rate)


def test_adaptive_rates_have_been_lowered(pair):
    options = SOLVERS["sgd-adaptive-nesterov"] | {"tol": 0.5, "n_iter_no_change": 1, "max_iter": 200}
    ours, theirs = pair.fit("MLPRegressor", X, SCORE, hidden_layer_sizes=SIZES, random_state=0, **options)
    assert ours._optimizer.learning_rate < 1e-6
    assert ours.stopped_
    same(ours, theirs)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_lbfgs_follows_scikit_learn(pair, task, activation):
    kind, y = TASKS[task]
    ours, theirs = pair.fit(
        kind, X, y, WEIGHTS, solver="lbfgs", hidden_layer_sizes=SIZES, activation=activation, alpha=0.3, max_iter=6,
        random_state=3,
    )  # fmt: skip
    same(ours, theirs, 1e-6)
    assert not hasattr(ours, "loss_curve_")


@pytest.mark.parametrize("solver", ["adam", "sgd-invscaling-nesterov"])
@pytest.mark.parametrize("task", TASKS)
def test_sample_weights_follow_scikit_learn(pair, solver, task):
    kind, y = TASKS[task]
    options = {"hidden_layer_sizes": SIZES, "alpha": 0.3, "max_iter": 12, "random_state": 3, "batch_size": 32}
    same(*pair.fit(kind, X, y, WEIGHTS, **options, **SOLVERS[solver]))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_poisson_follows_scikit_learn(pair, solver, weights):
    y = np.stack([np.round(SCORE**2), X[:, 0] ** 2], axis=1)
    options = {"hidden_layer_sizes": SIZES, "max_iter": 6, "random_state": 3, "loss": "poisson", "batch_size": 50}
    same(*pair.fit("MLPRegressor", X, y, weights, solver=solver, **options), tolerance=1e-8)


def test_several_numbers_take_scikit_learns_steps_and_report_their_own_loss(pair):
    """scikit-learn's gradient is that of the sum over the outputs, the loss it reports is a mean; ours is the sum."""
    y = np.stack([SCORE, X[:, 0] * X[:, 1], X[:, 2]], axis=1)
    options = {"hidden_layer_sizes": SIZES, "max_iter": 7, "random_state": 3, "tol": 0.0, "alpha": 0.0}
    ours, theirs = pair.fit("MLPRegressor", X, y, WEIGHTS, **options)
    same(ours, theirs, losses=False)
    np.testing.assert_allclose(ours.loss_curve_, 3 * np.array(theirs.loss_curve_))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("task", TASKS)
def test_early_stopping_follows_scikit_learn(pair, task, weights):
    kind, y = TASKS[task]
    options = {"hidden_layer_sizes": SIZES, "random_state": 5, "learning_rate_init": 0.02, "max_iter": 300}
    ours, theirs = pair.fit(
        kind, X, y, weights, early_stopping=True, validation_fraction=0.2, n_iter_no_change=4, tol=1e-3, **options
    )
    assert ours.stopped_
    same(ours, theirs)


@pytest.mark.parametrize("solver", ["adam", "sgd-constant-nesterov"])
def test_warm_starts_follow_scikit_learn(pair, solver):
    kind, y = TASKS["multiclass"]
    options = {"hidden_layer_sizes": SIZES, "random_state": 3, "max_iter": 4, "warm_start": True}
    both = pair.fit(kind, X, y, **options, **SOLVERS[solver])
    for _ in range(2):
        for each in both:
            each.set_params(alpha=0.5).fit(X, y)
    same(*both)
    assert len(both[0].loss_curve_) == 12


@pytest.mark.parametrize("solver", ["adam", "sgd-invscaling-nesterov", "sgd-adaptive-nesterov"])
@pytest.mark.parametrize("task", TASKS)
def test_partial_fits_follow_scikit_learn(pair, solver, task):
    kind, y = TASKS[task]
    both = [getattr(lib, kind)(SIZES if kind == "MLPClassifier" else "squared_error", random_state=2, **SOLVERS[solver])
            for lib in (pair.ours, pair.theirs)]  # fmt: skip
    classes = {} if kind == "MLPRegressor" else {"classes": np.arange(3) if y.ndim == 2 else np.unique(y)}
    for k in range(6):
        part = slice(30 * k, 30 * k + 40)
        for each in both:
            each.partial_fit(X[part], y[part], sample_weight=WEIGHTS[part], **(classes if k == 0 else {}))
    same(*both)


def test_float32_in_is_float32_throughout(pair):
    kind, y = TASKS["multiclass"]
    ours, theirs = pair.fit(
        kind, X.astype("float32"), y, WEIGHTS, random_state=0, max_iter=20, hidden_layer_sizes=SIZES
    )
    same(ours, theirs, 2e-4)
    assert {each.dtype for each in ours.coefs_ + ours.intercepts_} == {np.dtype("float32")}
    assert ours.network_.dtype == ours.predict_proba(X.astype("float32")).dtype == "float32"


def test_there_may_be_no_hidden_layer_and_one_class(pair):
    same(*pair.fit("MLPClassifier", X, TASKS["multiclass"][1], hidden_layer_sizes=(), max_iter=5, random_state=0))
    ours, theirs = pair.fit("MLPClassifier", X, np.full(N, "only"), max_iter=5, random_state=0)
    assert ours.predict(X[:3]).tolist() == theirs.predict(X[:3]).tolist() == ["only"] * 3


# -- what they are asked -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("form", ["plain", "float32", "lists", "fortran", "read-only", "csr", "csc", "one row"])
def test_predictions_are_those_of_scikit_learn(pair, task, form):
    sparse = pytest.importorskip("scipy.sparse")
    kind, y = TASKS[task]
    ours, theirs = pair.fit(kind, X, y, random_state=0, max_iter=5, hidden_layer_sizes=SIZES)
    given = {
        "plain": X, "float32": X.astype("float32"), "lists": X.tolist(), "fortran": np.asfortranarray(X), "one row":
        X[:1], "csr": sparse.csr_array(X), "csc": sparse.csc_array(X), "read-only": X.copy(),
    }[form]  # fmt: skip
    if form == "read-only":
        given.setflags(write=False)
    mine, other = ours.predict(given), theirs.predict(given)
    assert mine.shape == other.shape
    assert mine.dtype == other.dtype
    if kind == "MLPRegressor":
        np.testing.assert_allclose(mine, other, rtol=1e-5 if form == "float32" else 1e-10)
        return
    np.testing.assert_array_equal(mine, other)
    np.testing.assert_allclose(ours.predict_proba(given), theirs.predict_proba(given), rtol=1e-5)
    np.testing.assert_allclose(ours.predict_log_proba(given), theirs.predict_log_proba(given), rtol=1e-5, atol=1e-7)
    assert ours.score(given, y[: mine.shape[0]]) == theirs.score(given, y[: mine.shape[0]])


def test_sparse_rows_are_learned_and_predicted_in_parts(pair, monkeypatch):
    from scipy import sparse

    from fastnn.sklearn import _base

    monkeypatch.setattr(_base, "_SPARSE_ROWS", 64)
    kind, y = TASKS["multiclass"]
    for form in (sparse.csr_matrix, sparse.csc_array):
        ours, theirs = pair.fit(kind, form(X), y, random_state=0, max_iter=5, hidden_layer_sizes=SIZES)
        same(ours, theirs)
        np.testing.assert_allclose(ours.predict_proba(form(X)), theirs.predict_proba(X))


def test_coefficients_may_be_set(pair):
    ours, theirs = pair.fit("MLPRegressor", X, SCORE, random_state=0, max_iter=5, hidden_layer_sizes=SIZES)
    for each in (ours, theirs):
        each.coefs_[0][:, 1] = 0.25
        each.coefs_[1] = np.full((9, 6), 0.5)
        each.intercepts_ = [0.1 * b for b in each.intercepts_]
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X))
    assert np.shares_memory(ours.coefs_[1], ours.network_.parameters)
    np.testing.assert_allclose(ours.network_.predict(X)[:, 0], theirs.predict(X))
    for each in (ours, theirs):
        each.partial_fit(X, SCORE)
    same(ours, theirs)


def test_coefficients_of_wrong_shapes_are_refused(pair):
    reg, _ = pair.fit("MLPRegressor", X, SCORE, random_state=0, max_iter=5, hidden_layer_sizes=SIZES)
    kept = reg.coefs_[1]
    reg.coefs_[1] = np.ones((1, 6))
    with pytest.raises(ValueError, match=r"coefs_ must have the shapes \[\(5, 9\), \(9, 6\), \(6, 1\)\], got"):
        reg.predict(X)
    reg.coefs_[1], reg.intercepts_ = kept, reg.intercepts_[:2]
    with pytest.raises(ValueError, match="intercepts_ must have the shapes"):
        reg.predict(X)


def test_an_activation_that_is_set_after_a_fit_counts(pair):
    ours, theirs = pair.fit("MLPRegressor", X, SCORE, random_state=0, max_iter=5, hidden_layer_sizes=SIZES)
    for each in (ours, theirs):
        each.set_params(activation="tanh")
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X))


def test_sparse_indicators_of_labels(pair):
    from scipy import sparse

    y = sparse.csr_array(TASKS["multilabel"][1])
    ours, theirs = pair.fit("MLPClassifier", X, y, random_state=0, max_iter=5, hidden_layer_sizes=SIZES)
    same(ours, theirs)
    np.testing.assert_array_equal(ours.predict(X).toarray(), theirs.predict(X).toarray())


def run(call):
    """What a call says: the type of its error and its text, or its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call()
        except Exception as error:
            bases = [base for base in (ValueError, TypeError, AttributeError) if isinstance(error, base)]
            return bases, str(error)
    return [(each.category, str(each.message)) for each in caught]


Y = TASKS["multiclass"][1]
CALLS = {
    "activation": lambda m: m.MLPClassifier(alpha=-1.0).fit(X, Y),
    "momentum": lambda m: m.MLPClassifier(momentum=2).fit(X, Y),
    "batch_size": lambda m: m.MLPClassifier(batch_size=-1).fit(X, Y),
    "max_iter": lambda m: m.MLPClassifier(max_iter=0).fit(X, Y),
    "hidden": lambda m: m.MLPClassifier(hidden_layer_sizes=(3, 0)).fit(X, Y),
    "large batch": lambda m: m.MLPClassifier(batch_size=1000, max_iter=500, tol=10.0).fit(X, Y),
    "max_iter reached": lambda m: m.MLPClassifier(max_iter=2).fit(X, Y),
    "lbfgs max_iter": lambda m: m.MLPClassifier(solver="lbfgs", max_iter=2).fit(X, Y),
    "not fitted": lambda m: m.MLPClassifier().predict(X),
    "columns": lambda m: m.MLPClassifier(max_iter=1).fit(X, Y).predict(X[:, :2]),
    "one dimension": lambda m: m.MLPClassifier(max_iter=1).fit(X, Y).predict(X[0]),
    "no rows": lambda m: m.MLPClassifier(max_iter=1).fit(X, Y).predict(X[:0]),
    "NaN": lambda m: m.MLPRegressor(max_iter=1).fit(X, SCORE).predict(X * np.nan),
    "NaN in many": lambda m: m.MLPRegressor(max_iter=1).fit(X, SCORE).predict(np.full((100, 5), np.inf)),
    "NaN in fit": lambda m: m.MLPRegressor().fit(np.full((4, 2), np.nan), np.ones(4)),
    "column y": lambda m: m.MLPClassifier(max_iter=500, tol=10.0).fit(X, Y[:, None]),
    "continuous y": lambda m: m.MLPClassifier().fit(X, SCORE),
    "weights": lambda m: m.MLPClassifier().fit(X, Y, np.ones(3)),
    "no classes": lambda m: m.MLPClassifier().partial_fit(X, Y),
    "new class": lambda m: m.MLPClassifier().partial_fit(X, Y, classes=[0, 1, 2, 3]).partial_fit(X, Y + 1),
    "other classes": lambda m: m.MLPClassifier().partial_fit(X, Y, classes=[0, 1, 2, 3]).partial_fit(X, Y, classes=[1]),
    "warm classes": lambda m: m.MLPClassifier(warm_start=True, tol=10.0).fit(X, Y).fit(X, Y % 2),
    "lbfgs in parts": lambda m: m.MLPClassifier(solver="lbfgs").partial_fit,
    "tiny validation": lambda m: m.MLPRegressor(early_stopping=True).fit(X[:3], SCORE[:3]),
    "rare class": lambda m: m.MLPClassifier(early_stopping=True).fit(X[:4], [0, 0, 0, 1]),
    "overflow": lambda m: m.MLPRegressor().fit(X[:5] * 1e308, SCORE[:5]),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_errors_and_warnings_are_those_of_scikit_learn(pair, name):
    with np.errstate(all="ignore"):
        ours, theirs = run(lambda: CALLS[name](pair.ours)), run(lambda: CALLS[name](pair.theirs))
    theirs = [each for each in theirs if not (isinstance(each, tuple) and each[0] is RuntimeWarning)]
    assert list(ours) == list(theirs)


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_signatures_hold_those_of_scikit_learn(pair, kind):
    ours, theirs = (getattr(library, kind) for library in (pair.ours, pair.theirs))
    mine = list(inspect.signature(ours).parameters.values())
    other = list(inspect.signature(theirs).parameters.values())
    assert [(p.name, p.default, p.kind) for p in mine[: len(other)]] == [(p.name, p.default, p.kind) for p in other]
    assert all(p.kind is p.KEYWORD_ONLY for p in mine[len(other) :])
    for name, method in inspect.getmembers(theirs, lambda value: callable(value) and not inspect.isclass(value)):
        if not name.startswith("_"):
            wanted = list(inspect.signature(method).parameters)
            assert list(inspect.signature(getattr(ours, name)).parameters)[: len(wanted)] == wanted
    fitted = [getattr(library, kind)(max_iter=500, tol=10.0).fit(X, Y) for library in (pair.ours, pair.theirs)]
    mine, other = ({name for name in vars(each) if name.endswith("_")} for each in fitted)
    assert mine >= other
    assert mine - other == {"stopped_", "validation_loss_curve_"}


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_what_is_printed_is_what_scikit_learn_prints(pair, task, capsys):
    kind, y = TASKS[task]
    texts = []
    for library in (pair.ours, pair.theirs):
        options = {"random_state": 1, "verbose": True, "hidden_layer_sizes": (4,), "n_iter_no_change": 3}
        getattr(library, kind)(early_stopping=True, max_iter=100, tol=0.1, **options).fit(X, y)
        getattr(library, kind)(
            solver="sgd", learning_rate="adaptive", tol=0.5, max_iter=300, learning_rate_init=1e-4, **options
        ).fit(X, y)
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert "Validation score" in texts[0]
    assert "Setting learning rate" in texts[0]


def test_ctrl_c_keeps_what_was_learned(pair):
    def interrupt(state):
        if state.epoch == 3:
            raise KeyboardInterrupt

    ours = pair.ours.MLPClassifier(random_state=0, callbacks=[interrupt])
    with pytest.warns(UserWarning, match="interrupted by user"):
        ours.fit(X, Y)
    assert ours.n_iter_ == 3
    assert ours.predict(X).shape == (N,)


# -- the whole of it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_check_estimator_passes_in_full(pair, kind):
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(getattr(pair.ours, kind)(), on_skip=None)
        others = check_estimator(getattr(pair.theirs, kind)(), on_skip=None, on_fail=None)
    skipped, also = ({r["check_name"] for r in rs if r["status"] == "skipped"} for rs in (results, others))
    assert {r["status"] for r in results} <= {"passed", "skipped"}
    assert skipped == also  # the same as for scikit-learn's own
    assert len(results) >= len(others)


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_parameters_are_checked_as_scikit_learn_checks_its_own(pair, kind):
    from sklearn.utils.estimator_checks import check_param_validation

    check_param_validation(kind, getattr(pair.ours, kind)())


def test_scikit_learns_own_tests_pass(pair):
    script = Path(__file__).parent / "run_sklearn_tests.py"
    found = subprocess.run([sys.executable, str(script), "-q"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-3000:] + found.stderr[-3000:]
    assert "scikit-learn's tests passed" in found.stdout


@pytest.mark.parametrize("module", ["", "._base", "._classifier", "._docs", "._network", "._regressor", "._training"])
def test_examples_in_docstrings(pair, module):
    import doctest
    import importlib

    failed, _ = doctest.testmod(importlib.import_module(f"fastnn.sklearn{module}"))
    assert not failed


def test_readmes_example_runs(pair, tmp_path, monkeypatch):
    import fastnn as fn

    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (example,) = (block for block in blocks if "fastnn.sklearn" in block)
    exec(example, {"X": X, "y": Y, "fn": fn})
    assert (tmp_path / "digits.safetensors").exists()


def test_without_scikit_learn_the_error_names_the_extra():
    code = "import sys; sys.modules['sklearn'] = None; import fastnn; import fastnn.sklearn"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'fastnn-numba[sklearn]'" in found.stderr.splitlines()[-1]


def test_scikit_learn_is_not_imported_with_the_package():
    code = "import sys, fastnn; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
