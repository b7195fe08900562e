"""Losses as objects: names, refusals, targets, and a user's own."""

import math
import pickle

import numpy as np
import pytest
from losses_table import TABLE, N, evaluate, name_of_row

from fastnn import losses
from fastnn.losses import (
    MSE,
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    Hinge,
    Huber,
    KLDivergence,
    Poisson,
    Quantile,
    SquaredHinge,
)


@pytest.mark.parametrize("row", TABLE, ids=name_of_row)
def test_objects(row):
    loss = row[0]
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert hash(pickle.loads(pickle.dumps(loss))) == hash(loss)
    assert losses.get(loss) is loss
    assert type(losses.get(loss.name)) is type(loss)
    assert eval(repr(loss), vars(losses)) == loss
    assert type(loss)(**loss.parameters) == loss
    assert len(loss.parameter_values) == 4
    with pytest.raises(AttributeError):
        loss.delta = 3


def test_all_names():
    names = "mse mae huber log_cosh quantile poisson hinge squared_hinge "
    names += "binary_cross_entropy cross_entropy kl_divergence focal"
    for name in names.split():
        assert losses.get(name).name == name
    assert losses.Huber(2) == losses.Huber(2.0) != losses.Huber()
    assert repr(losses.CrossEntropy(label_smoothing=0.1)) == "CrossEntropy(label_smoothing=0.1)"


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: losses.get("crossentropy"), ValueError, "loss must be one of .*did you mean 'cross_entropy'"),
        (lambda: losses.get(None), TypeError, "loss must be one of"),
        (lambda: losses.get(MSE), TypeError, r"write MSE\(\)"),
        (lambda: Huber(0), ValueError, "delta must be a number > 0"),
        (lambda: Huber("1"), TypeError, "delta"),
        (lambda: Quantile(1.0), ValueError, "q must be a number > 0 and < 1"),
        (lambda: CrossEntropy(1.5), ValueError, "label_smoothing"),
        (lambda: CrossEntropy(np.nan), ValueError, "label_smoothing"),
        (lambda: BinaryCrossEntropy(pos_weight=-1), ValueError, "pos_weight"),
        (lambda: Focal(gamma=-1), ValueError, "gamma"),
        (lambda: Focal(alpha=True), TypeError, "alpha"),
        (lambda: Poisson(log_input=1), TypeError, "log_input must be True or False"),
        (lambda: CrossEntropy().resolve("sigmoid", 3), ValueError, "use softmax"),
        (lambda: CrossEntropy().resolve("identity", 1), ValueError, "use binary_cross_entropy"),
        (lambda: KLDivergence().resolve("softmax", 1), ValueError, "at least 2 outputs"),
        (lambda: Focal().resolve("softmax", 1), ValueError, "at least 2 outputs"),
        (lambda: BinaryCrossEntropy().resolve("softmax", 3), ValueError, "use cross_entropy"),
        (lambda: BinaryCrossEntropy().resolve("log_softmax", 3), ValueError, "use cross_entropy"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "loss, activation, n_outputs, kind, fused",
    [
        (CrossEntropy(), "softmax", 3, "cross_entropy", True),
        (CrossEntropy(), "log_softmax", 3, "cross_entropy", True),
        (CrossEntropy(), "relu", 3, "cross_entropy", False),
        (KLDivergence(), "log_softmax", 3, "kl_divergence", True),
        (Focal(), "softmax", 3, "focal", True),
        (Focal(), "identity", 3, "focal", False),
        (Focal(), "identity", 1, "binary_focal", False),
        (Focal(), "sigmoid", 1, "binary_focal", True),
        (Focal(), "sigmoid", 3, "binary_focal", True),
        (BinaryCrossEntropy(), "sigmoid", 3, "binary_cross_entropy", True),
        (BinaryCrossEntropy(), "tanh", 1, "binary_cross_entropy", False),
        (Poisson(), "exponential", 2, "poisson_log", True),
        (Poisson(log_input=False), "exponential", 2, "poisson_log", True),
        (Poisson(), "identity", 2, "poisson_log", False),
        (Poisson(log_input=False), "softplus", 2, "poisson", False),
        (MSE(), "softmax", 2, "mse", False),
    ],
    ids=str,
)
def test_resolution(loss, activation, n_outputs, kind, fused):
    resolved = loss.resolve(activation, n_outputs)
    assert (resolved.kind, resolved.from_pre_activation) == (kind, fused)


# Targets


@pytest.mark.parametrize(
    "loss, y, n_outputs, expected, labels",
    [
        (MSE(), [1, 2], 1, [[1], [2]], False),
        (MSE(), ((1, 2), (3, 4)), 2, [[1, 2], [3, 4]], False),
        (CrossEntropy(), [2, 0], 3, [[2], [0]], True),
        (CrossEntropy(), np.array([[2.0], [0.0]]), 3, [[2], [0]], True),
        (CrossEntropy(), [True, False], 2, [[1], [0]], True),
        (CrossEntropy(), np.array([2, 0], dtype=np.uint8), 3, [[2], [0]], True),
        (CrossEntropy(), [[0, 1], [1, 0]], 2, [[0, 1], [1, 0]], False),
        (KLDivergence(), [[0.25, 0.75]], 2, [[0.25, 0.75]], False),
        (BinaryCrossEntropy(), [0, 1, True], 1, [[0], [1], [1]], False),
        (BinaryCrossEntropy(), [[0.5, 1]], 2, [[0.5, 1]], False),
        (BinaryCrossEntropy(), [1, 0], 2, [[0, 1], [1, 0]], False),
        (Focal(), [1, 0], 2, [[0, 1], [1, 0]], False),
        (Hinge(), [0, 1], 1, [[-1], [1]], False),
        (Hinge(), [-1, 1], 1, [[-1], [1]], False),
        (Hinge(), [0, 0], 1, [[-1], [-1]], False),
        (SquaredHinge(), [2, 0], 3, [[-1, -1, 1], [1, -1, -1]], False),
        (Hinge(), [[0, 1], [1, 0]], 2, [[-1, 1], [1, -1]], False),
        (Poisson(), [0, 7], 1, [[0], [7]], False),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_targets(loss, y, n_outputs, expected, labels, dtype):
    targets, found = loss.prepare_targets(y, n_outputs, dtype)
    assert found is labels
    assert targets.dtype == dtype
    assert targets.flags.c_contiguous
    np.testing.assert_array_equal(targets, expected)


@pytest.mark.parametrize(
    "loss, y, n_outputs, error, message",
    [
        (CrossEntropy(), [0, 3], 3, ValueError, r"y must hold class labels.*0 to 2.*got 3 at position \[1\]"),
        (CrossEntropy(), [0, -1], 3, ValueError, "0 to 2.*got -1"),
        (CrossEntropy(), [0, 0.5], 3, ValueError, "whole numbers from 0 to 2.*got 0.5"),
        (CrossEntropy(), ["cat", "dog"], 2, TypeError, "y must hold.*encode"),
        (CrossEntropy(), [[0.5, 0.6]], 2, ValueError, "sum to 1, got row 0 with sum 1.1"),
        (CrossEntropy(), [[-0.5, 1.5]], 2, ValueError, r"\[0, 1\].*got -0.5 at position \[0, 0\]"),
        (CrossEntropy(), [[1, 0]], 3, ValueError, r"shape \(1, 3\) or \(1,\) for 3 outputs, got \(1, 2\)"),
        (BinaryCrossEntropy(), [0, 2], 1, ValueError, r"0, 1 or probabilities in \[0, 1\], got 2"),
        (BinaryCrossEntropy(), [0, 2], 2, ValueError, "0 to 1"),
        (Hinge(), [-1, 0, 1], 1, ValueError, r"-1 and \+1, or 0 and 1, got 0"),
        (Hinge(), [0.5], 1, ValueError, "got 0.5"),
        (Poisson(), [1, -1], 1, ValueError, "counts >= 0, got -1"),
        (MSE(), [1, 2], 2, ValueError, r"shape \(2, 2\) for 2 outputs, got \(2, 1\)"),
        (MSE(), [[1, 2]], 1, ValueError, r"shape \(1, 1\) or \(1,\) for 1 output, got \(1, 2\)"),
        (MSE(), [1, np.nan], 1, ValueError, "finite.*nan"),
        (MSE(), [1, np.inf], 1, ValueError, "finite.*inf"),
        (MSE(), [1e300], 1, ValueError, "too large for float32"),
        (MSE(), [], 1, ValueError, "empty"),
        (MSE(), np.zeros((2, 2, 2)), 2, ValueError, r"\(2, 2, 2\)"),
        (MSE(), [1j], 1, TypeError, "complex"),
    ],
    ids=str,
)
def test_bad_targets(loss, y, n_outputs, error, message):
    with pytest.raises(error, match=message):
        loss.prepare_targets(y, n_outputs, np.float32)


# A user's own


def quartic(o, y):
    return (o - y) ** 4


def quartic_gradient(o, y):
    return 4 * (o - y) ** 3


def quartic_second(o, y):
    return 12 * (o - y) ** 2


@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-12)], ids=["f4", "f8"])
def test_user_loss(dtype, rtol):
    loss = losses.from_functions("quartic", quartic, quartic_gradient, quartic_second)
    assert losses.get("quartic") is loss
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert "quartic" in repr(loss)
    rng = np.random.default_rng(0)
    o, y, r = rng.normal(size=(3, N, 3)).astype(dtype)
    row_losses, d, second = evaluate(loss, o, y, None, False, r)
    np.testing.assert_allclose(row_losses, quartic(o, y).mean(1), rtol=rtol)
    np.testing.assert_allclose(d, quartic_gradient(o, y) / (3 * N), rtol=10 * rtol)
    np.testing.assert_allclose(second, quartic_second(o, y) * r / (3 * N), rtol=10 * rtol)
    assert loss.resolve("identity", 3).native is loss.resolve("identity", 3).native
    assert losses.from_functions("quartic", quartic, quartic_gradient).resolve("tanh", 1).tangent_native is None


def test_user_loss_with_kinks_and_undefined_places():
    losses.from_functions("mine", lambda o, y: abs(o - y), lambda o, y: 1.0 if o > y else -1.0)
    losses.from_functions("logarithm", lambda o, y: o - y * math.log(o), lambda o, y: 1 - y / o)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (("mse", quartic, quartic_gradient), ValueError, "built-in"),
        (("a b", quartic, quartic_gradient), ValueError, "identifier"),
        (
            ("bad", quartic, lambda o, y: 3 * (o - y) ** 3),
            ValueError,
            "gradient is not the derivative .* output .* gives",
        ),
        (("bad", quartic, quartic_gradient, quartic_gradient), ValueError, "second_derivative is not"),
        (("bad", lambda o, y: [o][y], quartic_gradient), ValueError, "value must be a scalar function .* Numba"),
        (("bad", lambda o: o, quartic_gradient), ValueError, "value must be a scalar function"),
        (("bad", lambda o, y: (o, y), quartic_gradient), TypeError, "value must return a number"),
        (("bad", 3, quartic_gradient), TypeError, "value must be a function"),
    ],
)
def test_user_loss_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        losses.from_functions(*arguments)
    with pytest.raises(ValueError, match="loss must be one of"):
        losses.get("bad")
