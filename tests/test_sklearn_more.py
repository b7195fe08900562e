"""`fastnn.sklearn` beyond scikit-learn's own estimators, and among scikit-learn's tools."""

import io
import pickle
import threading
import time
import warnings

import numpy as np
import pytest

import fastnn as fn
from fastnn import jit
from fastnn.data import load_digits

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:Stochastic Optimizer:UserWarning"),
    pytest.mark.filterwarnings("ignore:lbfgs failed to converge:UserWarning"),
]

X, Y = load_digits()
X, Y = X[:600] / 16, Y[:600]
NUMBERS = X[:, :20] @ np.linspace(-1, 1, 20) + np.abs(X[:, 20] - 0.5)
QUICK = {"hidden_layer_sizes": (16,), "max_iter": 15, "random_state": 0, "learning_rate_init": 0.01, "batch_size": 32}


@pytest.fixture
def ours(oracle):
    oracle("sklearn")
    import fastnn.sklearn

    return fastnn.sklearn


def numbers(est):
    return np.concatenate([each.ravel() for each in est.coefs_ + est.intercepts_])


# -- parameters that scikit-learn does not have ------------------------------------------------------------------------


def test_class_weights_are_sample_weights(ours):
    table = {label: 1.0 + label for label in range(10)}
    weighted = ours.MLPClassifier(**QUICK, class_weight=table).fit(X, Y)
    np.testing.assert_array_equal(numbers(weighted), numbers(ours.MLPClassifier(**QUICK).fit(X, Y, 1.0 + Y)))
    both = ours.MLPClassifier(**QUICK, class_weight=table).fit(X, Y, 1.0 + X[:, 20])
    expected = ours.MLPClassifier(**QUICK).fit(X, Y, (1.0 + Y) * (1.0 + X[:, 20]))
    np.testing.assert_array_equal(numbers(both), numbers(expected))


def test_balanced_weights_find_a_rare_class(ours):
    rng = np.random.default_rng(0)
    y = rng.random(600) < 0.1
    x = rng.standard_normal((600, 2)) + 0.8 * y[:, None]
    recalls = []
    for class_weight in (None, "balanced"):
        clf = ours.MLPClassifier(**QUICK, class_weight=class_weight).fit(x, np.where(y, "rare", "usual"))
        recalls.append((clf.predict(x[y]) == "rare").mean())
    assert recalls[0] < 0.4 < 0.6 < recalls[1]
    with pytest.raises(ValueError, match="class_weight 'balanced' is not supported for partial_fit"):
        ours.MLPClassifier(class_weight="balanced").partial_fit(x, y, classes=[False, True])
    ours.MLPClassifier(class_weight={True: 5.0}).partial_fit(x, y, classes=[False, True])


def test_dropout_is_that_of_the_network(ours):
    clf = ours.MLPClassifier((16, 8), dropout=[0.5, 0.0], random_state=0, max_iter=5).fit(X, Y)
    kinds = [type(layer).__name__ for layer in clf.network_.layers]
    assert kinds == ["Dense", "Dropout", "Dense", "Dense"]
    assert clf.network_.layers[1].rate == 0.5
    plain = ours.MLPClassifier((16, 8), random_state=0, max_iter=5).fit(X, Y)
    assert clf.loss_curve_[-1] > plain.loss_curve_[-1]
    again = ours.MLPClassifier((16, 8), dropout=[0.5, 0.0], random_state=0, max_iter=5).fit(X, Y)
    np.testing.assert_array_equal(numbers(clf), numbers(again))
    np.testing.assert_array_equal(clf.predict_proba(X), clf.predict_proba(X))  # none in predictions
    other = ours.MLPClassifier((16, 8), dropout=[0.5, 0.0], random_state=1, max_iter=5).fit(X, Y)
    assert (numbers(clf) != numbers(other)).all()


def test_dropout_goes_on_with_fresh_factors_in_an_estimator_from_a_file(ours):
    clf = ours.MLPClassifier((16,), dropout=0.5, random_state=0, shuffle=False, batch_size=600)
    clf.partial_fit(X, Y, classes=np.arange(10))
    same = pickle.loads(pickle.dumps(clf))
    for each in (clf, same):
        each.partial_fit(X, Y)
    np.testing.assert_array_equal(numbers(clf), numbers(same))


def test_one_activation_for_each_layer(ours):
    leaky = fn.activations.leaky_relu.with_parameters(negative_slope=0.2)
    clf = ours.MLPClassifier((16, 8, 4), ["gelu", leaky, "logistic"], random_state=0, max_iter=3).fit(X, Y)
    assert [layer.activation.name for layer in clf.network_.layers] == ["gelu", "leaky_relu", "sigmoid", "softmax"]
    assert clf.network_.layers[1].activation == leaky
    sure = ours.MLPClassifier((16, 8), "selu", random_state=0, max_iter=30, batch_size=32).fit(X, Y)
    assert sure.score(X, Y) > 0.9
    mine = fn.Activation.from_functions("cube", lambda z: z * z * z, lambda z: 3.0 * z * z)
    assert ours.MLPRegressor(activation=mine, **QUICK).fit(X, NUMBERS).network_.layers[0].activation.name == "cube"


@pytest.mark.parametrize("loss", ["mae", "huber", "log_cosh", fn.losses.Huber(0.1), fn.losses.MSE()])
def test_any_loss_for_numbers(ours, loss):
    reg = ours.MLPRegressor(loss, (16,), alpha=0.0, random_state=0, max_iter=60, learning_rate_init=0.01)
    reg.fit(X, NUMBERS)
    assert reg.score(X, NUMBERS) > 0.9
    value = reg.network_.evaluate(X, NUMBERS, loss=loss, metrics=())["loss"]
    np.testing.assert_allclose(reg.loss_curve_[-1], value, rtol=0.2)


def test_quantiles_lie_where_they_should(ours):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2000, 1))
    y = x[:, 0] + rng.standard_normal(2000) * 0.3
    for q in (0.1, 0.9):
        reg = ours.MLPRegressor(fn.losses.Quantile(q), solver="adam", **QUICK | {"max_iter": 40}).fit(x, y)
        assert abs((y < reg.predict(x)).mean() - q) < 0.05


def test_a_loss_of_ones_own(ours):
    quartic = fn.losses.from_functions("quartic_of_a_test", lambda o, y: (o - y) ** 4, lambda o, y: 4.0 * (o - y) ** 3)
    assert ours.MLPRegressor(quartic, **QUICK | {"max_iter": 60}).fit(X, NUMBERS).score(X, NUMBERS) > 0.8


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("y", ["two", "many", "labels"])
def test_hinge_losses_classify_without_probabilities(ours, loss, y):
    target = {"two": np.where(Y > 4, "high", "low"), "many": Y, "labels": np.stack([Y > 4, Y % 2 == 1], axis=1) * 1}[y]
    clf = ours.MLPClassifier(loss=loss, **QUICK | {"max_iter": 60}).fit(X, target)
    assert clf.score(X, target) > 0.9
    assert clf.out_activation_ == "identity"
    assert not hasattr(clf, "predict_proba")
    assert not hasattr(clf, "predict_log_proba")


@pytest.mark.parametrize(
    "loss", ["focal", "cross_entropy", "mse", fn.losses.CrossEntropy(label_smoothing=0.1), "kl_divergence"]
)
def test_other_losses_of_classes(ours, loss):
    clf = ours.MLPClassifier(loss=loss, **QUICK | {"max_iter": 60}).fit(X, Y)
    assert clf.score(X, Y) > 0.9
    np.testing.assert_allclose(clf.predict_proba(X).sum(axis=1), 1, rtol=1e-5)


def test_a_loss_that_does_not_fit_is_refused_before_anything_is_set(ours):
    clf = ours.MLPClassifier(loss="cross_entropy")
    with pytest.raises(ValueError, match="needs at least 2 outputs, got 1: use binary_cross_entropy"):
        clf.fit(X, Y > 4)
    assert not hasattr(clf, "coefs_")
    with pytest.raises(ValueError, match="'step' has no useful derivative"):
        ours.MLPClassifier(activation="step").fit(X, Y)
    with pytest.raises(ValueError, match="y must hold counts >= 0"):
        ours.MLPRegressor("poisson").fit(X, NUMBERS)


BAD = {
    "activation": [3, "reul", ["relu", "relu"], ["reul"], [3]],
    "dropout": [1.0, -0.1, "much", [0.1, 0.2], [1.0]],
    "loss": ["hubert", 3, fn.losses.MSE],
    "solver": ["adamw", fn.Adam, 3],
    "learning_rate": ["cosine", 0.1],
    "scoring": ["accurate", 3],
    "callbacks": [3, [3]],
    "progress": ["yes", None],
    "n_threads": [0, 1.5],
    "validation_data": [3, (X,), (X, Y[:-1])],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_refused_with_their_name(ours, name):
    for value in BAD[name]:
        options = {} if name == "validation_data" else {name: value}
        more = {"validation_data": value} if name == "validation_data" else {}
        with pytest.raises((ValueError, TypeError), match=name):
            ours.MLPClassifier((4,), max_iter=1, early_stopping=True, **options).fit(X, Y, **more)


def test_unknown_classes_in_validation_data_are_refused(ours):
    with pytest.raises(ValueError, match="`y` has classes not in"):
        ours.MLPClassifier(early_stopping=True).fit(X, Y, validation_data=(X, Y + 1))
    with pytest.raises(ValueError, match="y contains NaN"):
        ours.MLPRegressor(early_stopping=True).fit(X, NUMBERS, validation_data=(X, NUMBERS * np.nan))


@pytest.mark.parametrize(
    "solver", [fn.AdamW(0.01), fn.SGD(fn.schedules.Cosine(0.2, steps=500), momentum=0.9), fn.Lion(1e-3), fn.LBFGS(60)]
)
def test_any_optimizer_is_copied_and_reset(ours, solver):
    clf = ours.MLPClassifier((16,), solver=solver, random_state=0, max_iter=40, batch_size=32).fit(X, Y)
    assert clf.score(X, Y) > 0.9
    assert solver.state is None
    assert hasattr(clf, "partial_fit") != solver.full_batch
    np.testing.assert_array_equal(numbers(clf), numbers(clf.fit(X, Y)))


def test_scikit_learns_adam_is_adam_with_epsilon_hat(ours):
    named = ours.MLPRegressor(**QUICK).fit(X, NUMBERS)
    made = ours.MLPRegressor(**QUICK, solver=fn.Adam(0.01, epsilon_hat=True)).fit(X, NUMBERS)
    np.testing.assert_array_equal(numbers(named), numbers(made))


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_schedules(ours, solver):
    rate = fn.schedules.Step(0.05, every=10, factor=0.0)  # stands still after ten steps
    reg = ours.MLPRegressor(solver=solver, learning_rate=rate, momentum=0.0, random_state=0, batch_size=100, max_iter=2)
    kept = numbers(reg.fit(X, NUMBERS)).copy()
    moved = numbers(reg.set_params(max_iter=1).fit(X, NUMBERS))
    assert (kept != moved).any()
    np.testing.assert_array_equal(kept, numbers(reg.set_params(max_iter=9).fit(X, NUMBERS)))


# -- validation --------------------------------------------------------------------------------------------------------


def test_the_loss_on_held_out_rows_is_kept(ours):
    held = (X[500:], Y[500:])
    clf = ours.MLPClassifier(early_stopping=True, **QUICK).fit(X[:500], Y[:500], validation_data=held)
    assert len(clf.validation_loss_curve_) == len(clf.validation_scores_) == clf.n_iter_
    best = int(np.argmax(clf.validation_scores_))
    found = clf.network_.evaluate(*held, loss="cross_entropy", metrics=())["loss"]
    np.testing.assert_allclose(clf.validation_loss_curve_[best], found)
    assert clf.score(*held) == clf.best_validation_score_
    assert ours.MLPClassifier(**QUICK).fit(X, Y).validation_loss_curve_ is None
    poisson = ours.MLPRegressor("poisson", early_stopping=True, **QUICK)
    poisson.fit(X[:500], Y[:500], validation_data=(X[500:], Y[500:], np.ones(100)))
    from sklearn.metrics import mean_poisson_deviance

    best = int(np.argmax(poisson.validation_scores_))
    deviance = mean_poisson_deviance(Y[500:], poisson.predict(X[500:]))
    np.testing.assert_allclose(2 * poisson.validation_loss_curve_[best], deviance, rtol=1e-6)


@pytest.mark.parametrize("scoring", ["f1_macro", "neg_log_loss", "scorer", "function"])
def test_early_stopping_on_ones_own_score(ours, scoring):
    from sklearn.metrics import log_loss, make_scorer

    chosen = {
        "scorer": make_scorer(log_loss, greater_is_better=False, response_method="predict_proba"),
        "function": lambda est, x, y: -log_loss(y, est.predict_proba(x)),
    }.get(scoring, scoring)
    clf = ours.MLPClassifier(early_stopping=True, scoring=chosen, **QUICK | {"max_iter": 60}).fit(X, Y)
    if scoring != "f1_macro":
        np.testing.assert_allclose(clf.validation_scores_, -np.array(clf.validation_loss_curve_), rtol=1e-6)
    assert clf.best_validation_score_ == max(clf.validation_scores_)


def test_scorers_get_the_weights_of_held_out_rows(ours):
    seen = []

    def score(est, x, y, sample_weight):
        seen.append(sample_weight)
        return -len(seen)

    ours.MLPClassifier(early_stopping=True, scoring=score, **QUICK).fit(X, Y, np.linspace(1, 2, 600))
    assert seen[0].shape == (60,)


def test_early_stopping_in_parts(ours):
    clf = ours.MLPClassifier(early_stopping=True, **QUICK)
    held = (X[500:], Y[500:])
    with pytest.raises(ValueError, match=r"early_stopping=True without validation_data=\(X, y\)"):
        clf.partial_fit(X[:500], Y[:500], classes=np.arange(10))
    for _ in range(300):
        clf.partial_fit(X[:500], Y[:500], classes=np.arange(10), validation_data=held)
        if clf.stopped_:
            break
    assert clf.stopped_
    assert 11 < len(clf.validation_scores_) < 300
    assert clf.score(*held) == clf.best_validation_score_ == max(clf.validation_scores_)
    assert clf.best_validation_score_ > clf.validation_scores_[0] + 0.3
    clf.partial_fit(X[:500], Y[:500], validation_data=held)  # goes on from the best weights
    assert not clf.stopped_


def test_warm_starts_keep_the_best_weights_of_all_fits(ours):
    held = (X[500:], Y[500:])
    clf = ours.MLPClassifier(early_stopping=True, warm_start=True, **QUICK).fit(X[:500], Y[:500], validation_data=held)
    best = clf.best_validation_score_
    clf.set_params(solver="sgd", learning_rate_init=5.0, max_iter=2).fit(X[:500], Y[:500], validation_data=held)
    assert clf.score(*held) == clf.best_validation_score_ == best


def test_divergence_is_an_error_or_a_warning_with_the_best_weights(ours):
    options = {"solver": "sgd", "learning_rate_init": 100.0, "activation": "identity", "random_state": 0}
    with np.errstate(all="ignore"):
        with pytest.raises(ValueError, match="non-finite parameter weights"):
            ours.MLPRegressor(**options).fit(X, NUMBERS)
        with pytest.warns(UserWarning, match="Training diverged in epoch"):
            reg = ours.MLPRegressor(early_stopping=True, **options).fit(X, NUMBERS)
    assert np.isnan(reg.loss_curve_[-1]) or np.isinf(reg.loss_curve_[-1])
    assert np.isfinite(reg.predict(X)).all()


# -- around a fit ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks(ours, solver):
    seen = []

    def watch(state):
        seen.append((state.epoch, state.results["loss"], state.network))
        if len(seen) == 7:
            state.stop()

    reg = ours.MLPRegressor(solver=solver, callbacks=watch, **QUICK).fit(X, NUMBERS)
    assert [epoch for epoch, _, _ in seen] == list(range(1, 8))
    assert reg.n_iter_ == 7
    assert seen[0][2] is reg.network_
    np.testing.assert_allclose(reg.loss_, seen[-1][1])


def test_callbacks_of_the_library(ours, tmp_path):
    log, best = fn.callbacks.CSVLog(tmp_path / "log.csv"), fn.callbacks.EarlyStopping("val_loss", patience=2)
    ema = fn.callbacks.EMA(decay=0.9, every_steps=1)
    clf = ours.MLPClassifier(early_stopping=True, callbacks=[log, best, ema], **QUICK).fit(X, Y)
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,val_loss,val_score,seconds"
    assert len(lines) == 1 + clf.n_iter_
    np.testing.assert_allclose(best.best, min(clf.validation_loss_curve_))
    with pytest.raises(ValueError, match="monitor must be one of loss"):
        ours.MLPClassifier(callbacks=[fn.callbacks.EarlyStopping("val_loss")], **QUICK).fit(X, Y)


def test_progress(ours, capsys):
    ours.MLPRegressor(progress=True, **QUICK).fit(X, NUMBERS)
    assert "15/15" in capsys.readouterr().err
    ours.MLPRegressor(**QUICK).fit(X, NUMBERS)
    assert capsys.readouterr().err == ""


def test_threads_leave_no_trace(ours):
    fits = [ours.MLPClassifier((80, 80), random_state=0, max_iter=3, n_threads=n).fit(X, Y) for n in (1, 2)]
    np.testing.assert_array_equal(*map(numbers, fits))


def test_one_thread_where_joblib_runs_several(ours, monkeypatch):
    import joblib

    from fastnn.sklearn._network import most_threads

    monkeypatch.setenv("FASTNN_NUM_THREADS", "5")
    assert most_threads(None) == 5
    for backend in ("threading", "loky"):
        assert joblib.Parallel(2, backend=backend)(joblib.delayed(most_threads)(n) for n in (None, 3)) == [1, 3]


# -- the network behind it ---------------------------------------------------------------------------------------------


def test_the_network_is_the_estimators_own(ours, tmp_path):
    clf = ours.MLPClassifier((16, 8), random_state=0, max_iter=5).fit(X, Y)
    net = clf.network_
    assert all(np.shares_memory(each, net.parameters) for each in clf.coefs_ + clf.intercepts_)
    np.testing.assert_array_equal(net.predict(X), clf.predict_proba(X))
    net.save(tmp_path / "digits.safetensors")
    np.testing.assert_array_equal(fn.load(tmp_path / "digits.safetensors").predict(X), clf.predict_proba(X))
    out = np.empty(10)
    jit.predict(net.jit_state(), X[0], out)
    np.testing.assert_allclose(out, clf.predict_proba(X[:1])[0])
    net.fit(X, Y, epochs=40)
    assert clf.score(X, Y) > 0.95
    with pytest.raises(AttributeError, match="not fitted"):
        ours.MLPClassifier().network_  # noqa: B018


def test_predictions_give_back_the_gil(ours):
    """Another Python thread counts on while one long prediction runs."""
    reg = ours.MLPRegressor(hidden_layer_sizes=(256, 256), random_state=0, max_iter=1, n_threads=1).fit(X, NUMBERS)
    many = np.tile(X, (200, 1))
    reg.predict(many)
    inside, counted, end = threading.Event(), [], threading.Event()

    def count():
        while not end.is_set():
            if inside.is_set():
                counted.append(time.perf_counter())
            time.sleep(0.002)

    other = threading.Thread(target=count)
    other.start()
    inside.set()
    begin = time.perf_counter()
    reg.predict(many)
    seconds = time.perf_counter() - begin
    inside.clear()
    end.set()
    other.join()
    middle = [t for t in counted if begin + 0.2 * seconds < t < begin + 0.8 * seconds]
    assert len(middle) > 0.6 * seconds / 0.02


def test_two_threads_fit_at_once(ours):
    options = {"hidden_layer_sizes": (30,), "random_state": 0, "max_iter": 20}
    alone = [numbers(ours.MLPClassifier(**options, alpha=a).fit(X, Y)) for a in (0.0, 1.0)]
    made = [ours.MLPClassifier(**options, alpha=a) for a in (0.0, 1.0)]
    threads = [threading.Thread(target=each.fit, args=(X, Y)) for each in made]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    for each, expected in zip(made, alone, strict=True):
        np.testing.assert_array_equal(numbers(each), expected)


# -- among scikit-learn's tools ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["pickle", "joblib", "clone", "deepcopy"])
def test_copies_predict_and_train_on_as_the_original(ours, how):
    import copy

    import joblib
    from sklearn.base import clone

    clf = ours.MLPClassifier(activation=["gelu"], solver=fn.AdamW(0.01), hidden_layer_sizes=(16,), random_state=0)
    clf.set_params(max_iter=5).fit(X, Y)
    if how == "clone":
        np.testing.assert_array_equal(numbers(clone(clf).fit(X, Y)), numbers(clf))
        return
    if how == "joblib":
        file = io.BytesIO()
        joblib.dump(clf, file)
        file.seek(0)
        same = joblib.load(file)
    else:
        text = pickle.dumps(clf)
        assert len(text) < 2.2 * 8 * clf.network_.n_parameters * 2  # each array once: weights and two moments
        same = pickle.loads(text) if how == "pickle" else copy.deepcopy(clf)
    np.testing.assert_array_equal(same.predict_proba(X), clf.predict_proba(X))
    for each in (clf, same):
        each.partial_fit(X, Y)
    np.testing.assert_array_equal(numbers(same), numbers(clf))


def test_skops(ours):
    skops = pytest.importorskip("skops.io")
    clf = ours.MLPClassifier(**QUICK, early_stopping=True).fit(X, Y)
    written = skops.dumps(clf)
    unknown = skops.get_untrusted_types(data=written)
    assert all(name.startswith("fastnn.") for name in unknown)
    same = skops.loads(written, trusted=unknown)
    np.testing.assert_array_equal(same.predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_grid_search_in_a_pipeline(ours, backend):
    import joblib
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), ours.MLPClassifier(**QUICK))
    grid = {"mlpclassifier__alpha": [1e-3, 1.0], "mlpclassifier__activation": ["relu", "gelu"]}
    search = GridSearchCV(pipeline, grid, cv=2, n_jobs=2)
    with warnings.catch_warnings(), joblib.parallel_config(backend=backend):
        warnings.simplefilter("ignore")
        search.fit(X[:300], Y[:300])
        alone = GridSearchCV(pipeline, grid, cv=2).fit(X[:300], Y[:300])
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert search.best_score_ > 0.7


def test_meta_estimators(ours):
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.model_selection import cross_val_score
    from sklearn.multiclass import OneVsRestClassifier
    from sklearn.multioutput import MultiOutputRegressor

    clf = ours.MLPClassifier(**QUICK | {"max_iter": 40})
    assert cross_val_score(clf, X, Y, cv=3).mean() > 0.8
    assert CalibratedClassifierCV(clf, cv=2).fit(X, Y).predict_proba(X).shape == (600, 10)
    assert OneVsRestClassifier(clf).fit(X, Y).score(X, Y) > 0.9
    several = np.stack([NUMBERS, -NUMBERS], axis=1)
    assert MultiOutputRegressor(ours.MLPRegressor(**QUICK)).fit(X, several).predict(X).shape == (600, 2)


def test_metadata_routing(ours):
    import sklearn
    from sklearn.model_selection import cross_validate

    seen = []

    class Watching(ours.MLPClassifier):
        def fit(self, X, y, sample_weight=None, *, validation_data=None):
            seen.append(None if sample_weight is None else len(sample_weight))
            return super().fit(X, y, sample_weight, validation_data=validation_data)

    with sklearn.config_context(enable_metadata_routing=True):
        clf = Watching(**QUICK).set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        clf.set_partial_fit_request(classes=True, validation_data=False)
        cross_validate(clf, X, Y, cv=3, params={"sample_weight": np.ones(600)})
    assert seen == [400, 400, 400]


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(ours, library):
    frames = pytest.importorskip(library)
    columns = {f"pixel {k}": X[:, k] for k in range(20)}
    frame = frames.DataFrame(columns)
    labels = frames.Series("label", Y) if library == "polars" else frames.Series(Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "Stochastic Optimizer")
        clf = ours.MLPClassifier(**QUICK, early_stopping=True, scoring="accuracy").fit(frame, labels)
        found = clf.predict(frame)
    assert clf.feature_names_in_.tolist() == list(columns)
    plain = ours.MLPClassifier(**QUICK, early_stopping=True).fit(X[:, :20].copy(), Y)
    np.testing.assert_array_equal(found, plain.predict(X[:, :20]))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        clf.predict(X[:, :20].copy())
    with pytest.raises(ValueError, match="feature names should match"):
        clf.predict(frames.DataFrame({f"p{k}": X[:, k] for k in range(20)}))


def test_estimators_show_what_they_are(ours):
    assert repr(ours.MLPClassifier(alpha=0.5, dropout=0.1)) == "MLPClassifier(alpha=0.5, dropout=0.1)"
    assert "MLPClassifier" in ours.MLPClassifier()._repr_html_()
