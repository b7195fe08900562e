"""Metrics against scikit-learn."""

import numpy as np
import pytest

from fastnn import metrics

rng = np.random.default_rng(0)
N = 60
LABELS = rng.integers(0, 4, N)
SCORES = rng.dirichlet(np.ones(4), N) + 0.4 * np.eye(4)[LABELS]
BINARY = rng.integers(0, 2, N)
PROBABILITY = np.round(np.clip(0.3 * BINARY + rng.random(N) * 0.7, 0, 1), 1)  # rounded: with ties
TRUE, PRED = rng.normal(size=(N, 3)), rng.normal(size=(N, 3))
WEIGHTS = rng.random(N)


@pytest.fixture
def sk(oracle):
    return oracle("sklearn.metrics")


@pytest.mark.oracle
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_classification(sk, weights):
    predicted, thresholded = SCORES.argmax(axis=1), PROBABILITY > 0.5
    kwargs = {"sample_weight": weights}
    for ours, theirs in (
        (metrics.precision, sk.precision_score),
        (metrics.recall, sk.recall_score),
        (metrics.f1, sk.f1_score),
    ):
        assert ours(LABELS, SCORES, weights) == pytest.approx(theirs(LABELS, predicted, average="macro", **kwargs))
        assert ours(BINARY, PROBABILITY, weights) == pytest.approx(theirs(BINARY, thresholded, **kwargs))
    assert metrics.accuracy(LABELS, SCORES, weights) == pytest.approx(sk.accuracy_score(LABELS, predicted, **kwargs))
    assert metrics.accuracy(BINARY, PROBABILITY[:, None], weights) == pytest.approx(
        sk.accuracy_score(BINARY, thresholded, **kwargs)
    )
    for k in (1, 2, 3):
        expected = sk.top_k_accuracy_score(LABELS, SCORES, k=k, labels=range(4), **kwargs)
        assert metrics.top_k_accuracy(k)(LABELS, SCORES, weights) == pytest.approx(expected)
    np.testing.assert_allclose(
        metrics.confusion_matrix(LABELS, SCORES, weights), sk.confusion_matrix(LABELS, predicted, **kwargs)
    )
    assert metrics.auc(BINARY, PROBABILITY, weights) == pytest.approx(sk.roc_auc_score(BINARY, PROBABILITY, **kwargs))


@pytest.mark.oracle
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize("columns", [1, 3])
def test_regression(sk, weights, columns):
    true, pred = TRUE[:, :columns], PRED[:, :columns]
    for ours, theirs in (
        (metrics.mse, sk.mean_squared_error),
        (metrics.mae, sk.mean_absolute_error),
        (metrics.rmse, sk.root_mean_squared_error),
        (metrics.r2, sk.r2_score),
    ):
        assert ours(true, pred, weights) == pytest.approx(theirs(true, pred, sample_weight=weights))
        if columns == 1:
            assert ours(true[:, 0], pred, weights) == pytest.approx(theirs(true, pred, sample_weight=weights))


def test_forms_of_targets_agree():
    assert metrics.accuracy(np.eye(4)[LABELS], SCORES) == metrics.accuracy(LABELS[:, None], SCORES)
    assert metrics.auc(2 * BINARY - 1, PROBABILITY) == metrics.auc(BINARY, np.c_[1 - PROBABILITY, PROBABILITY])
    assert metrics.accuracy(2 * BINARY - 1, PROBABILITY) == metrics.accuracy(BINARY, PROBABILITY)
    assert metrics.accuracy(2 * np.eye(4)[LABELS] - 1, SCORES) == metrics.accuracy(LABELS, SCORES)
    assert metrics.accuracy(0.6 * np.eye(4)[LABELS] + 0.1, SCORES) == metrics.accuracy(LABELS, SCORES)


@pytest.mark.oracle
def test_edges(sk):
    assert metrics.precision([0, 1], [0.1, 0.2]) == 0.0  # nothing predicted
    assert np.isnan(metrics.auc([1, 1], [0.1, 0.2]))
    assert np.isnan(metrics.auc([0, 1], [np.nan, 0.2]))
    for metric in (metrics.accuracy, metrics.precision, metrics.recall, metrics.f1):
        assert np.isnan(metric([0, 1], [np.nan, 0.7]))
        assert np.isnan(metric([0, 1, 2], [[1, 0, 0], [0, 1, 0], [0, np.nan, 1]]))
    assert np.isnan(metrics.top_k_accuracy(2)([0, 2], [[1, 0, 0], [0, np.nan, 1]]))
    assert np.isnan(metrics.confusion_matrix([0, 1], [np.nan, 0.7])[0, 0])
    assert np.isnan(metrics.mse([0.0, 1.0], [np.nan, 1.0]))
    assert np.isnan(metrics.r2([0.0, 1.0], [np.nan, 1.0]))
    for true, pred in (([1.0, 1.0], [1.0, 1.0]), ([1.0, 1.0], [1.0, 2.0])):
        assert metrics.r2(true, pred) == sk.r2_score(true, pred)
    absent = np.array([0, 2, 2])
    scores = np.eye(4)[[0, 2, 0]]
    assert metrics.f1(absent, scores) == pytest.approx(sk.f1_score(absent, scores.argmax(1), average="macro"))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: metrics.accuracy([0, 5], SCORES[:2]), "class labels from 0 to 3"),
        (lambda: metrics.accuracy([0, 1], SCORES), "as many rows"),
        (lambda: metrics.mse(TRUE, PRED[:, :2]), "same columns"),
        (lambda: metrics.auc(LABELS, SCORES), "two classes"),
        (lambda: metrics.accuracy(LABELS, SCORES, -WEIGHTS), "sample_weight"),
        (lambda: metrics.get("acuracy"), "did you mean 'accuracy'"),
        (lambda: metrics.top_k_accuracy(0), "k must be an integer >= 1"),
        (lambda: metrics.top_k_accuracy(2)(BINARY, PROBABILITY), "one column per class"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_get():
    assert metrics.get("accuracy") is metrics.accuracy
    assert metrics.get(np.mean) is np.mean
    for name, metric in metrics.METRICS.items():
        assert metric.__name__ == name
