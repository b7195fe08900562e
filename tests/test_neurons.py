"""The classics: gates by their truth tables, Rosenblatt's rule step by step, its theorem, and maximum likelihood."""

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize

import fastnn as fn
from fastnn import gates
from fastnn.data import two_spirals
from fastnn.neurons import LogisticNeuron, McCullochPitts, Perceptron

TABLES = {
    "AND": lambda a, b: a & b,
    "OR": lambda a, b: a | b,
    "NAND": lambda a, b: 1 - (a & b),
    "NOR": lambda a, b: 1 - (a | b),
    "XOR": lambda a, b: a ^ b,
    "NOT": lambda a: 1 - a,
}
RNG = np.random.default_rng(0)
SEPARABLE = RNG.standard_normal((200, 3))
SEPARABLE = SEPARABLE[abs(SEPARABLE @ [1.0, -2.0, 0.5] + 0.3) > 0.1]
SIDES = (SEPARABLE @ [1.0, -2.0, 0.5] + 0.3 > 0).astype(int)
OVERLAPPING = RNG.standard_normal((150, 2))
CLASSES = (OVERLAPPING @ [2.0, -1.0] + RNG.logistic(size=150) > 0.5).astype(int)


@pytest.mark.parametrize(
    "neuron",
    [
        McCullochPitts([0.5, -1.0], threshold=1 / 3),
        Perceptron(1 / 3, "pocket", shuffle=True, seed=7),
        LogisticNeuron(1e-20, max_iterations=5),
    ],
    ids=lambda neuron: type(neuron).__name__,
)
def test_what_neurons_print_makes_them_again(neuron):
    again = eval(repr(neuron))
    assert list(vars(again)) == list(vars(neuron))
    for mine, its in zip(vars(neuron).values(), vars(again).values(), strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize("name", TABLES)
def test_gates_have_their_truth_tables(name):
    gate, function = getattr(gates, name), TABLES[name]
    x, y = gate.truth_table()
    assert x.shape == (2**gate.n_inputs, gate.n_inputs)
    assert y.tolist() == [function(*row) for row in x.tolist()]
    assert [gate(*row) for row in x.tolist()] == y.tolist()
    network = gate.to_sequential()
    assert network.predict(x).ravel().tolist() == y.tolist()
    assert {layer.activation.name for layer in network.layers} == {"step"}


@pytest.mark.parametrize("name", TABLES)
def test_one_neuron_learns_all_gates_but_xor(name):
    gate = getattr(gates, name)
    neuron = gates.learn(gate)
    assert neuron.report.converged == (name != "XOR")
    x, y = gate.truth_table()
    if name == "XOR":
        assert str(neuron.report) == "not linearly separable within 100 epochs"
        assert min(neuron.report.errors) > 0
    else:
        assert str(neuron.report) == f"converged at epoch {neuron.report.epochs}"
        assert neuron.report.errors[-1] == 0
        assert neuron.predict(x).tolist() == y.tolist()
        assert neuron.to_sequential().predict(x).ravel().tolist() == y.tolist()


def test_what_binary_neurons_refuse():
    for gate in (gates.AND, gates.XOR):
        for inputs in ((), (1,), (1, 0, 1)):
            with pytest.raises(TypeError, match="inputs must be 2 numbers"):
                gate(*inputs)
        for inputs in ((2, 0), (0.5, 1), (-1, 1)):
            with pytest.raises(ValueError, match="must hold only 0 and 1"):
                gate(*inputs)
    with pytest.raises(ValueError, match="has not been trained yet"):
        Perceptron().predict([[1.0]])
    with pytest.raises(ValueError, match="has not been trained yet"):
        LogisticNeuron().probability([[1.0]])
    with pytest.raises(ValueError, match="has not been trained yet"):
        Perceptron().to_sequential()


def test_weights_of_a_binary_neuron_are_its_own():
    weights = np.array([1.0, 1.0])
    neuron = McCullochPitts(weights, 2)
    weights[:] = 0
    assert neuron(1, 1) == 1


def rosenblatt(x, y, epochs, rate):
    """The rule, written once more: weights after every sample, and errors of each epoch."""
    w, history, errors = np.zeros(x.shape[1] + 1), [], []
    x = np.column_stack([x, np.ones(len(x))])
    for _ in range(epochs):
        errors.append(0)
        for row, target in zip(x, y, strict=True):
            output = 1 if row @ w >= 0 else 0
            errors[-1] += output != target
            w = w + rate * (target - output) * row
            history.append(w)
        if errors[-1] == 0:
            break
    return history, errors


@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_rosenblatt_s_rule_step_by_step(rate):
    for x, y, epochs in ((SEPARABLE, SIDES, 100), (OVERLAPPING, CLASSES, 7)):
        history, errors = rosenblatt(x, y, epochs, rate)
        plain, averaged = Perceptron(rate), Perceptron(rate, variant="averaged")
        for neuron in (plain, averaged):
            assert neuron.fit(x, y, epochs).errors == tuple(errors)
        np.testing.assert_allclose([*plain.weights, plain.bias], history[-1], rtol=1e-12)
        np.testing.assert_allclose([*averaged.weights, averaged.bias], np.mean(history, axis=0), rtol=1e-10)


def test_novikoff_s_bound_on_the_number_of_updates():
    neuron = Perceptron()
    report = neuron.fit(SEPARABLE, SIDES, epochs=1000)
    assert report.converged
    x = np.column_stack([SEPARABLE, np.ones(len(SEPARABLE))])
    direction = np.array([1.0, -2.0, 0.5, 0.3])
    margin = np.min(np.abs(x @ direction)) / np.linalg.norm(direction)
    assert 0 < sum(report.errors) <= (np.linalg.norm(x, axis=1).max() / margin) ** 2


def test_the_pocket_keeps_the_best():
    plain, pocket = Perceptron(), Perceptron(variant="pocket")
    wrong = []
    for epochs in (1, 3, 10, 50):
        for neuron in (plain, pocket):
            neuron.fit(OVERLAPPING, CLASSES, epochs)
        wrong.append([(neuron.predict(OVERLAPPING) != CLASSES).sum() for neuron in (plain, pocket)])
    kept = [pair[1] for pair in wrong]
    assert kept == sorted(kept, reverse=True)  # the ratchet: never worse than before
    assert kept[-1] < wrong[-1][0]
    report = pocket.fit(SEPARABLE, SIDES, 1000)
    assert report.converged
    assert (pocket.predict(SEPARABLE) == SIDES).all()


def test_shuffling_has_its_own_seed():
    fits = [Perceptron(shuffle=True, seed=seed) for seed in (0, 0, 1)]
    for neuron in fits:
        neuron.fit(OVERLAPPING, CLASSES, 5)
    assert fits[0].weights.tolist() == fits[1].weights.tolist() != fits[2].weights.tolist()
    np.testing.assert_allclose(fits[0].decision_function(OVERLAPPING), OVERLAPPING @ fits[0].weights + fits[0].bias)


def test_the_logistic_neuron_reaches_the_maximum_of_the_likelihood():
    def loss(theta):
        z = OVERLAPPING @ theta[:2] + theta[2]
        return np.mean(np.logaddexp(0, z) - CLASSES * z) + l2 * (theta[:2] @ theta[:2])

    for l2 in (0.0, 0.01):
        neuron = LogisticNeuron(l2=l2).fit(OVERLAPPING, CLASSES)
        assert neuron.converged
        found = scipy.optimize.minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-9})
        np.testing.assert_allclose([*neuron.weights, neuron.bias], found.x, rtol=1e-5, atol=1e-7)
        assert neuron.losses[-1] == pytest.approx(loss(found.x), rel=1e-10)
    z = OVERLAPPING @ neuron.weights + neuron.bias
    np.testing.assert_allclose(neuron.probability(OVERLAPPING), 1 / (1 + np.exp(-z)), rtol=1e-12)
    assert (neuron.predict(OVERLAPPING) == (z >= 0)).all()
    assert not LogisticNeuron(max_iterations=2).fit(OVERLAPPING, CLASSES).converged


@pytest.mark.oracle
def test_the_logistic_neuron_equals_scikit_learn_s_regression(oracle):
    linear_model = oracle("sklearn.linear_model")
    weights = RNG.uniform(0.5, 2, 150)
    for sample_weight in (None, weights):
        theirs = linear_model.LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000)
        theirs.fit(OVERLAPPING, CLASSES, sample_weight=sample_weight)
        mine = LogisticNeuron().fit(OVERLAPPING, CLASSES, sample_weight)
        np.testing.assert_allclose(mine.weights, theirs.coef_[0], rtol=1e-5)
        np.testing.assert_allclose(mine.bias, theirs.intercept_[0], rtol=1e-5)
        np.testing.assert_allclose(mine.probability(OVERLAPPING), theirs.predict_proba(OVERLAPPING)[:, 1], rtol=1e-5)


def test_the_linear_model_is_least_squares():
    y = OVERLAPPING @ [[3.0], [-1.0]] + 2 + 0.1 * RNG.standard_normal((150, 1))
    net = fn.Sequential([fn.Dense(1)], n_inputs=2, dtype="float64")
    net.fit(OVERLAPPING, y, "mse", fn.LBFGS(gtol=1e-12, ftol=0.0), epochs=200)
    expected, *_ = np.linalg.lstsq(np.column_stack([OVERLAPPING, np.ones(150)]), y, rcond=None)
    np.testing.assert_allclose(net.parameters, expected.ravel(), rtol=1e-6)


def test_softmax_regression_reaches_its_minimum():
    """At the minimum of the cross-entropy the mean probabilities are the classes' shares, and so with every input."""
    labels = np.digitize(OVERLAPPING @ [1.0, 0.5] + RNG.logistic(size=150), [-0.5, 0.5])
    net = fn.Sequential([fn.Dense(3, "softmax")], n_inputs=2, dtype="float64")
    net.fit(OVERLAPPING, labels, "cross_entropy", fn.LBFGS(gtol=1e-12, ftol=0.0), epochs=500)
    surplus = net.predict(OVERLAPPING) - np.eye(3)[labels]
    np.testing.assert_allclose(surplus.mean(axis=0), 0, atol=1e-7)
    np.testing.assert_allclose(OVERLAPPING.T @ surplus / 150, 0, atol=1e-7)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_one_hidden_layer_learns_parity(n):
    x, y = gates.parity(n)
    assert y.tolist() == [sum(row) % 2 for row in x.tolist()]
    net = fn.Sequential([fn.Dense(4 * n, "tanh"), fn.Dense(1, "sigmoid")], seed=1)
    net.fit(x, y, "binary_cross_entropy", fn.Adam(0.05), epochs=1000, batch_size=2**n)
    assert (net.predict_classes(x) == y).all()


def test_a_deep_network_tells_two_spirals_apart():
    x, y = two_spirals(97, turns=2.0)
    assert x.shape == (194, 2)
    np.testing.assert_allclose(x[0::2], -x[1::2], atol=1e-7)  # one is the other, turned by half
    radius, angle = np.hypot(*x[0::2].T), np.unwrap(np.arctan2(*x[0::2].T[::-1]))
    np.testing.assert_allclose(np.diff(radius), 1 / 97, atol=1e-6)
    assert angle[-1] - angle[0] == pytest.approx(2 * np.pi * 2 * 96 / 97, rel=1e-5)
    net = fn.Sequential([fn.Dense(32, "relu"), fn.Dense(32, "relu"), fn.Dense(1, "sigmoid")], seed=0)
    net.fit(x, y, "binary_cross_entropy", fn.Adam(0.01), epochs=600, batch_size=32)
    assert net.evaluate(x, y)["accuracy"] > 0.98
    assert gates.learn(gates.XOR).report.converged is False
    neuron = Perceptron(variant="pocket")
    assert not neuron.fit(x, y).converged
    assert not np.array_equal(two_spirals(5, noise=0.1)[0], two_spirals(5, noise=0.1, seed=1)[0])


def test_the_guide_runs_in_its_order():
    text = (Path(__file__).parents[1] / "docs" / "classics.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names = {}
    for block in blocks:
        exec(compile(block, "docs/classics.md", "exec"), names)
    assert names["hidden"].predict_classes(gates.parity(4)[0]).tolist() == gates.parity(4)[1].tolist()
    assert names["softmax_regression"].evaluate(names["images"][1400:], names["digits"][1400:])["accuracy"] > 0.95
    assert names["deep"].evaluate(names["X"], names["y"])["accuracy"] > 0.98
    np.testing.assert_allclose(names["linear"].parameters, [3, -1, 2], atol=1e-4)
