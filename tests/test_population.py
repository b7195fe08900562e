"""`fn.Population` on the CPU: each of its networks is, bit for bit, a single network trained alone."""

import copy
import pickle

import numpy as np
import pytest

import fastnn as fn
from fastnn.cpu import team

RNG = np.random.default_rng(0)
X = RNG.standard_normal((90, 4)).astype("float32")
LABELS = RNG.integers(0, 3, 90)
WEIGHTS = RNG.uniform(0.2, 2, 90)
LAYERS = [fn.Dense(9, "tanh", l2=0.01), fn.BatchNorm(), fn.Dropout(0.2), fn.Dense(3, "softmax")]
RATES = [0.001, 0.01, 0.1]


def template(seed=5, **options):
    return fn.Sequential(LAYERS, n_inputs=4, seed=seed, **options)


def assert_same(found, wanted):
    """Two networks, and what their training goes on with."""
    assert found.layers == wanted.layers
    assert found.dtype == wanted.dtype
    assert found.seed == wanted.seed
    np.testing.assert_array_equal(found.parameters, wanted.parameters, strict=True)
    np.testing.assert_array_equal(found._running, wanted._running, strict=True)
    assert (found._steps, found._epochs) == (wanted._steps, wanted._epochs)
    assert found._shuffle_rng.bit_generator.state == wanted._shuffle_rng.bit_generator.state
    assert found._dropout_key == wanted._dropout_key


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seeds", [None, [3, 0, 2**100]])
def test_networks_are_what_their_seeds_make(dtype, seeds):
    net = template(dtype=dtype)
    net.fit(X, LABELS, epochs=1)  # leaves no trace
    population = fn.Population(net, 3, seeds)
    assert len(population) == 3
    assert population.parameters.shape == (3, net.n_parameters)
    for k, seed in enumerate(seeds or [5, 6, 7]):
        assert_same(population[k], template(seed, dtype=dtype))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
@pytest.mark.parametrize("name", ["sgd", "adam", "rprop"])
def test_training_is_that_of_single_networks(name, weights, shuffle):
    options = {"epochs": 3, "batch_size": 16, "sample_weight": weights, "shuffle": shuffle}
    population = fn.Population(template(), 3)
    history = population.fit(X, LABELS, optimizer=name, learning_rate=RATES, **options)
    assert history.loss.shape == (3, 3)
    assert history.seconds > 0
    for k, rate in enumerate(RATES):
        alone = template(5 + k)
        optimizer = fn.optimizers.from_config({"name": name, "learning_rate": rate})
        losses = alone.fit(X, LABELS, optimizer=optimizer, **options).loss
        np.testing.assert_array_equal(history.loss[:, k], losses)
        assert_same(population[k], alone)
        np.testing.assert_array_equal(population.predict(X)[k], alone.predict(X), strict=True)
        wanted = alone.evaluate(X, LABELS, "cross_entropy", (), weights)["loss"]
        assert population.evaluate(X, LABELS, "cross_entropy", weights)[k] == wanted


def test_one_learning_rate_and_schedules():
    population, other = fn.Population(template(), 2), fn.Population(template(), 2)
    cosine = fn.schedules.Cosine(0.05, 10)
    population.fit(X, LABELS, optimizer=fn.SGD(7.0, momentum=0.9), epochs=2, learning_rate=[0.1, cosine])
    other.fit(X, LABELS, optimizer=fn.SGD(cosine, momentum=0.9), epochs=2)
    for k, rate in enumerate([0.1, cosine]):
        alone = template(5 + k)
        alone.fit(X, LABELS, optimizer=fn.SGD(rate, momentum=0.9), epochs=2)
        assert_same(population[k], alone)
        assert other[k].parameters.tobytes() != alone.parameters.tobytes() or rate is cosine
    assert_same(other[1], population[1])
    same, numbers = fn.Population(template(), 2), fn.Population(template(), 2)
    same.fit(X, LABELS, epochs=1, learning_rate=0.02)
    numbers.fit(X, LABELS, epochs=1, learning_rate=np.full(2, 0.02))
    np.testing.assert_array_equal(same.parameters, numbers.parameters)


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_leave_no_trace(threads, monkeypatch):
    population, other = fn.Population(template(), 5), fn.Population(template(), 5)
    asked, pool = [], team.pool
    monkeypatch.setattr(team, "pool", lambda size: asked.append(size) or pool(size))
    wanted = population.fit(X, LABELS, epochs=3, n_threads=1)
    found = other.fit(X, LABELS, epochs=3, n_threads=threads)
    np.testing.assert_array_equal(found.loss, wanted.loss)
    np.testing.assert_array_equal(other.parameters, population.parameters)
    np.testing.assert_array_equal(other.predict(X, n_threads=threads), population.predict(X, n_threads=1))
    losses = [each.evaluate(X, LABELS, "cross_entropy", n_threads=threads) for each in (population, other)]
    np.testing.assert_array_equal(*losses)
    assert set(asked) == {min(threads, 5)}


@pytest.mark.parametrize("make", [lambda: "adam", lambda: fn.Adam(0.02)], ids=["by name", "by object"])
def test_training_goes_on(make):
    population, optimizer = fn.Population(template(), 2), make()
    single = [template(5), template(6)], [make(), make()]
    for _ in range(3):
        population.fit(X, LABELS, optimizer=optimizer, epochs=2)
        for k, (alone, own) in enumerate(zip(*single, strict=True)):
            alone.fit(X, LABELS, optimizer=own, epochs=2)
            assert_same(population[k], alone)
    assert optimizer == "adam" or optimizer.state is None  # the object is left alone


def test_another_object_starts_anew_and_a_new_rate_keeps_the_moments():
    population, alone = fn.Population(template(), 1), template()
    own = fn.Adam(0.02)
    given = fn.Adam(0.02)
    for rate in (0.02, 0.01):
        population.fit(X, LABELS, optimizer=given, epochs=1, learning_rate=rate)
        own.learning_rate = rate
        alone.fit(X, LABELS, optimizer=own, epochs=1)
        assert_same(population[0], alone)
    population.fit(X, LABELS, optimizer=fn.Adam(0.02), epochs=1)
    alone.fit(X, LABELS, optimizer=fn.Adam(0.02), epochs=1)
    assert_same(population[0], alone)


def test_a_network_that_diverges_stops_alone():
    layers = [fn.BatchNorm(), fn.Dense(2)]
    y = RNG.standard_normal((90, 2))
    population = fn.Population(fn.Sequential(layers, n_inputs=4), 3)
    rates, options = [0.01, 300.0, 0.02], {"epochs": 6, "batch_size": 45}
    optimizer, single = fn.SGD(momentum=0.1), [fn.SGD(rate, momentum=0.1) for rate in rates]
    alone = [fn.Sequential(layers, n_inputs=4, seed=k) for k in range(3)]
    for call in range(2):
        found = population.fit(X, y, "mse", optimizer, learning_rate=rates, **options).loss
        for k in (0, 2):
            np.testing.assert_array_equal(found[:, k], alone[k].fit(X, y, "mse", single[k], **options).loss)
        with pytest.warns(RuntimeWarning, match="training diverged"):
            losses = alone[1].fit(X, y, "mse", single[1], on_divergence="restore", **options).loss
        assert 0 < len(losses) < 6 if call == 0 else not losses
        np.testing.assert_array_equal(found[: len(losses), 1], losses)
        assert not np.isfinite(found[len(losses) :, 1]).any()
        for k in range(3):
            assert_same(population[k], alone[k])
            np.testing.assert_array_equal(population._optimizers[k].state.slots, single[k].state.slots)
    assert np.isfinite(population.parameters).all()


def test_an_error_in_one_thread_ends_the_others(monkeypatch):
    population = fn.Population(template(), 4)
    monkeypatch.setattr(population._networks[1], "_shuffle_rng", None)
    with pytest.raises(AttributeError, match="permutation"):
        population.fit(X, LABELS, epochs=10**6, n_threads=2)


def test_copies_are_independent():
    population = fn.Population(template(), 2)
    before = population.parameters.copy()
    population[0].parameters[:] = 0
    for net in (*population.networks, *population):
        net.fit(X, LABELS, epochs=1)
    np.testing.assert_array_equal(population.parameters, before)
    assert_same(population[-1], population[1])
    population.parameters[1] = 0.5  # a view
    assert (population[1].parameters == 0.5).all()
    for k in (2, -3):
        with pytest.raises(IndexError, match="below 2"):
            population[k]
    for k in ("0", 0.0, True, slice(1)):
        with pytest.raises(TypeError, match="integer"):
            population[k]


def test_a_copy_goes_on_as_the_network_of_the_population_does():
    population = fn.Population(template(), 2)
    population.fit(X, LABELS, epochs=2, learning_rate=[0.01, 0.02])
    alone = population[1]
    population.fit(X, LABELS, epochs=2, learning_rate=[0.01, 0.02])
    alone.fit(X, LABELS, epochs=2)
    assert_same(alone, population[1])


@pytest.mark.parametrize("copied", [lambda p: pickle.loads(pickle.dumps(p)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_copies_of_populations(copied):
    population = fn.Population(template(), 3)
    population.fit(X, LABELS, epochs=2, learning_rate=RATES)
    other = copied(population)
    for each in (population, other):
        each.fit(X, LABELS, epochs=2, learning_rate=RATES)
    for one, two in zip(population, other, strict=True):
        assert_same(one, two)
    other.parameters[:] = 0
    assert not other[1].parameters.any()
    assert population[1].parameters.all()


def test_no_epochs_and_text():
    population = fn.Population(template(), 2)
    before = population.parameters.copy()
    assert population.fit(X, LABELS, epochs=0).loss.shape == (0, 2)
    np.testing.assert_array_equal(population.parameters, before)
    assert repr(population).startswith("Population(Sequential([Dense(9, tanh)")
    assert (population.n_inputs, population.n_outputs, population.device) == (4, 3, "cpu")
    assert population.to("cpu") is population


@pytest.mark.parametrize(
    "values, message",
    [
        ({"learning_rate": [0.1]}, "learning_rate must be one number, or 2"),
        ({"learning_rate": [0.1, -1.0]}, r"learning_rate\[1\] must be"),
        ({"optimizer": fn.LBFGS()}, "single steps, got LBFGS"),
        ({"optimizer": "rprop", "learning_rate": fn.schedules.Constant(0.1)}, "learning_rate"),
        ({"y": LABELS[:-1]}, "y must have as many rows as X"),
        ({"loss": "binary_cross_entropy"}, "does not fit the output activation softmax"),
    ],
)
def test_bad_arguments_change_nothing(values, message):
    population = fn.Population(template(), 2)
    population.fit(X, LABELS, epochs=1)
    before = pickle.dumps(population)
    with pytest.raises((TypeError, ValueError), match=message):
        population.fit(**{"X": X, "y": LABELS} | values)
    assert pickle.dumps(population) == before


def test_gradients_through_step_are_refused():
    population = fn.Population(fn.Sequential([fn.Dense(3, "step"), fn.Dense(3)], n_inputs=4), 2)
    with pytest.raises(ValueError, match="'step' has no useful derivative"):
        population.fit(X, LABELS)
    assert population.predict(X).shape == (2, 90, 3)
