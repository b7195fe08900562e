"""What an `Objective` adds to a loss: a factor, and a penalty that is divided by the weight of the batch."""

from dataclasses import replace

import numpy as np
import pytest

import fastnn as fn
from fastnn import _data

LAYERS = {  # the weights of "large" are updated block by block
    "dense": lambda l2: [fn.Dense(17, "tanh", l2=l2), fn.Dense(3, l2=l2)],
    "norms": lambda l2: [fn.Dense(9, "relu", l2=l2), fn.BatchNorm(), fn.LayerNorm(), fn.Dense(3, l2=l2)],
    "large": lambda l2: [fn.Dense(140, "relu", l2=l2), fn.Dense(130, l2=l2), fn.Dense(3, l2=l2)],
}
N = 700  # some pieces
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((N, 6)), RNG.standard_normal((N, 3))
WEIGHTS = RNG.uniform(0, 2, N)


def make(name, dtype, l2=0.0):
    return fn.Sequential(LAYERS[name](l2), n_inputs=6, seed=1, dtype=dtype)


def objective(net, weights=None, rows=slice(None), **more):
    dtype = net.dtype
    w = np.empty(0, dtype) if weights is None else weights[rows].astype(dtype)
    x, y = X[rows].astype(dtype), Y[rows]
    return replace(_data.make_objective(net._built(), fn.losses.get("mse"), x, y, w), **more)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("name", LAYERS)
def test_a_penalty_that_is_divided_by_the_weight_of_the_rows(name, weights, dtype):
    total = N if weights is None else weights.sum()
    net, same = make(name, dtype), make(name, dtype, l2=0.5 * 7.0 / total)
    value, gradient = net._ready().loss_and_gradients(objective(net, weights, decay=7.0), True, 0)
    expected, slope = same._ready().loss_and_gradients(objective(same, weights), True, 0)
    plain, _ = net._ready().loss_and_gradients(objective(net, weights), True, 0)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(value, expected, rtol=tolerance)
    np.testing.assert_allclose(gradient, slope, rtol=tolerance, atol=tolerance * np.abs(slope).max())
    assert value > plain * 1.001
    evaluated = net._ready().evaluate(objective(net, weights, decay=7.0))  # without penalties, as with the layers' own
    assert evaluated == net._ready().evaluate(objective(net, weights))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_factor_multiplies_loss_and_gradient_but_not_the_penalty(dtype):
    net = make("dense", dtype)
    engine = net._ready()
    plain, slope = engine.loss_and_gradients(objective(net), False, 0)
    value, gradient = engine.loss_and_gradients(objective(net, factor=4.0), False, 0)
    assert value == 4 * plain  # by a power of two: no rounding
    np.testing.assert_array_equal(gradient, 4 * slope)
    penalty = engine.loss_and_gradients(objective(net, decay=3.0), False, 0)[0] - plain
    both = engine.loss_and_gradients(objective(net, factor=4.0, decay=3.0), False, 0)[0]
    np.testing.assert_allclose(both, 4 * plain + penalty, rtol=1e-6)
    assert engine.evaluate(objective(net, factor=4.0)) == 4 * engine.evaluate(objective(net))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("name", ["dense", "large"])
@pytest.mark.parametrize("threads", [1, 2])
def test_every_batch_divides_by_its_own_weight(name, weights, threads):
    """Three steps, the last of 100 rows, beside a step of gradient descent for each batch by itself."""
    net, reference = make(name, "float64"), make(name, "float64")
    run = net._ready().training(objective(net, weights, decay=5.0), fn.SGD(0.1), 300, 0)
    done, losses, _ = run.run(np.empty(0, np.int64), 0, 3, 0, threads)
    run.close()
    assert done == 3
    for k in range(3):
        part = objective(reference, weights, slice(300 * k, 300 * k + 300), decay=5.0)
        loss, gradient = reference._ready().loss_and_gradients(part, True, 0)
        reference.parameters[:] -= 0.1 * gradient
        np.testing.assert_allclose(losses[k], loss, rtol=1e-12)
    np.testing.assert_allclose(net.parameters, reference.parameters, rtol=1e-10, atol=1e-14)


def test_a_batch_without_weight_changes_nothing():
    net = make("dense", "float64")
    before = net.parameters.copy()
    run = net._ready().training(objective(net, np.zeros(N), decay=5.0), fn.SGD(0.1), 300, 0)
    _, losses, _ = run.run(np.empty(0, np.int64), 0, 3, 0)
    np.testing.assert_array_equal(losses, 0)
    np.testing.assert_array_equal(net.parameters, before)
