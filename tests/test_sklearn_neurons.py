"""`fastnn.sklearn`'s perceptron and logistic neuron: the classics, with scikit-learn's manners."""

import pickle
import warnings

import numpy as np
import pytest

from fastnn import neurons

pytestmark = pytest.mark.oracle

RNG = np.random.default_rng(0)
X = RNG.standard_normal((240, 3))
NOISY = X @ [1.0, -2.0, 0.5] + RNG.logistic(size=240)
TWO = np.where(NOISY > 0, "up", "down")
THREE = np.digitize(NOISY, [-1.0, 1.0]) * 10


@pytest.fixture
def ours(oracle):
    oracle("sklearn")
    import fastnn.sklearn

    return fastnn.sklearn


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("Perceptron", {}),
        ("Perceptron", {"variant": "averaged", "shuffle": True, "random_state": 3}),
        ("Perceptron", {"variant": "pocket"}),
        ("LogisticNeuron", {}),
    ],
)
def test_check_estimator_passes_in_full(ours, name, parameters):
    from sklearn.utils.estimator_checks import check_estimator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(getattr(ours, name)(**parameters), on_skip=None)
    assert {each["check_name"] for each in results if each["status"] != "passed"} <= {"check_array_api_input"}
    assert len(results) > 50


def test_two_classes_are_one_classic_neuron(ours):
    est, classic = ours.Perceptron(max_iter=7), neurons.Perceptron()
    report = classic.fit(X, TWO == "up", epochs=7)
    est.fit(X, TWO)
    np.testing.assert_array_equal(est.coef_, [classic.weights])
    assert est.neurons_[0].report == report
    assert est.n_iter_ == 7
    assert est.classes_.tolist() == ["down", "up"]
    assert (est.predict(X) == np.where(classic.predict(X), "up", "down")).all()
    np.testing.assert_array_equal(est.decision_function(X), classic.decision_function(X))


@pytest.mark.parametrize("name", ["Perceptron", "LogisticNeuron"])
def test_more_classes_have_a_neuron_each(ours, name):
    est = getattr(ours, name)().fit(X, THREE)
    assert est.coef_.shape == (3, 3)
    alone = getattr(ours, name)().fit(X, THREE == 10)
    np.testing.assert_array_equal(est.coef_[1], alone.coef_[0])
    sums = est.decision_function(X)
    assert (est.predict(X) == est.classes_[sums.argmax(axis=1)]).all()
    assert est.score(X, THREE) > 0.5


def test_probabilities(ours):
    est = ours.LogisticNeuron().fit(X, TWO)
    np.testing.assert_allclose(est.predict_proba(X)[:, 1], est.neurons_[0].probability(X), rtol=1e-12)
    np.testing.assert_allclose(est.predict_proba(X).sum(axis=1), 1, rtol=1e-12)
    many = ours.LogisticNeuron().fit(X, THREE).predict_proba(X)
    assert many.shape == (240, 3)
    np.testing.assert_allclose(many.sum(axis=1), 1, rtol=1e-12)


def test_the_optimum_is_logistic_regression_s(ours, oracle):
    theirs = oracle("sklearn.linear_model").LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
    weights = RNG.uniform(0.5, 2, 240)
    for given in (None, weights):
        theirs.fit(X, TWO, sample_weight=given)
        mine = ours.LogisticNeuron().fit(X, TWO, sample_weight=given)
        np.testing.assert_allclose(mine.coef_, theirs.coef_, rtol=1e-5)
        np.testing.assert_allclose(mine.intercept_, theirs.intercept_, rtol=1e-5)
        np.testing.assert_allclose(mine.predict_proba(X), theirs.predict_proba(X), rtol=1e-5)


def test_among_scikit_learn_s_tools(ours, oracle):
    selection = oracle("sklearn.model_selection")
    pipeline, preprocessing = oracle("sklearn.pipeline"), oracle("sklearn.preprocessing")
    frame = pytest.importorskip("pandas").DataFrame(X, columns=["a", "b", "c"])
    made = pipeline.make_pipeline(preprocessing.StandardScaler(), ours.Perceptron())
    grid = {"perceptron__variant": ["plain", "averaged", "pocket"]}
    found = selection.GridSearchCV(made, grid, cv=3).fit(frame, TWO)
    assert found.best_score_ > 0.7
    assert selection.cross_val_score(ours.LogisticNeuron(), X, TWO, cv=4).min() > 0.7
    est = ours.LogisticNeuron(l2=0.1).fit(frame, TWO)
    assert est.feature_names_in_.tolist() == ["a", "b", "c"]
    again = pickle.loads(pickle.dumps(est))
    np.testing.assert_array_equal(again.predict_proba(frame), est.predict_proba(frame))


def test_wrong_parameters_are_named(ours):
    for est, message in (
        (ours.Perceptron(0.0), "learning_rate"),
        (ours.Perceptron(variant="pockets"), "variant"),
        (ours.Perceptron(max_iter=0), "max_iter"),
        (ours.LogisticNeuron(-1.0), "l2"),
        (ours.LogisticNeuron(max_iter=1.5), "max_iter"),
    ):
        with pytest.raises(ValueError, match=message):
            est.fit(X, TWO)
    with pytest.raises(ValueError, match="at least two classes"):
        ours.Perceptron().fit(X, np.ones(240))
