"""Networks drawn at random: whatever is stacked, and however it is asked, the engine does what the reference does."""

import numpy as np
import pytest
from reference import Network

import fastnn as fn
from fastnn import jit

WIDTHS = (1, 2, 3, 7, 8, 16, 17, 33, 64, 70, 130, 300)
ROWS = (1, 2, 5, 31, 64, 65, 200, 700)
# Kinks are places where two right gradients differ.
ACTIVATIONS = sorted(set(fn.activations.names()) - {"step", "hard_sigmoid", "hard_tanh", "hard_swish", "relu6"})


def draw_layers(rng, width, depth):
    """Some layers that begin at ``width``, and the width that they end at."""
    layers = []
    for _ in range(depth):
        kind = rng.choice(
            ["dense", "activation", "layer norm", "batch norm", "residual"], p=[0.5, 0.15, 0.1, 0.1, 0.15]
        )
        activation = str(rng.choice(ACTIVATIONS))
        if kind == "dense":
            width = int(rng.choice(WIDTHS))
            penalty = {"l1": 0.01, "l2": 0.02} if rng.random() < 0.3 else {}
            layers.append(fn.Dense(width, activation, bias=bool(rng.random() < 0.8), **penalty))
        elif kind == "activation":
            layers.append(fn.Activation(activation))
        elif kind == "residual":
            inner, _ = draw_layers(rng, width, 2)
            layers.append(fn.Residual([*inner, fn.Dense(width, activation)]))
        elif width > 1:
            layers.append(fn.LayerNorm() if kind == "layer norm" else fn.BatchNorm())
    return layers, width


def draw(seed, dtype):
    """A network whose parameters and statistics are not what they start as, rows, targets and weights."""
    rng = np.random.default_rng(seed)
    n_inputs, n_outputs, n = int(rng.choice(WIDTHS)), int(rng.choice((1, 2, 17))), int(rng.choice(ROWS))
    layers, _ = draw_layers(rng, n_inputs, int(rng.integers(1, 6)))
    net = fn.Sequential([*layers, fn.Dense(n_outputs)], n_inputs=n_inputs, seed=seed, dtype=dtype)
    net.parameters[:] += 0.1 * rng.standard_normal(net.n_parameters)
    net.set_parameters({name: rng.uniform(0.5, 2, v.shape) for name, v in net.named_buffers().items()})
    x, y = (rng.standard_normal((n, columns)).astype(dtype) for columns in (n_inputs, n_outputs))
    return net, x, y, rng.random(n).astype(dtype) + 0.1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("seed", range(60))
def test_predictions(seed, dtype):
    net, x, _, _ = draw(seed, dtype)
    wanted = Network(net).forward(x)
    found = net.predict(x)
    within = {"rtol": 0, "atol": np.abs(wanted).max() * (1e-10 if dtype == "float64" else 5e-4)}
    np.testing.assert_allclose(found, wanted, **within)
    np.testing.assert_array_equal(net.predict(x, n_threads=2), found)
    state, out = net.jit_state(), np.empty_like(found)
    jit.predict_batch(state, x, out)
    np.testing.assert_allclose(out, wanted, **within)
    jit.predict(state, x[-1], out[0])
    np.testing.assert_allclose(out[0], wanted[-1], **within)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_gradients(seed, training):
    net, x, y, weights = draw(seed, "float64")
    reference = Network(net)
    outputs = reference.forward(x, training)
    shares = weights / weights.sum()
    gradients, to_inputs = reference.backward(2 * shares[:, None] * (outputs - y) / y.shape[1])
    penalty, slopes = reference.penalty()
    loss, found = net.loss_and_gradients(x, y, "mse", weights, training=training)
    assert loss == pytest.approx(penalty + shares @ ((outputs - y) ** 2).mean(axis=1), rel=1e-9)
    assert list(found) == list(net.named_parameters())
    size = max(np.abs(g).max() for g in gradients.values())
    for name, g in gradients.items():
        np.testing.assert_allclose(found[name], g + slopes.get(name, 0), rtol=1e-7, atol=1e-9 * size, err_msg=name)
    given = net.input_gradients(x, y, "mse", weights, training=training)
    np.testing.assert_allclose(given, to_inputs, rtol=1e-7, atol=1e-9 * np.abs(to_inputs).max())


@pytest.mark.parametrize("seed", range(60))
def test_training_on_threads_and_in_compiled_code(seed):
    net, x, y, _ = draw(seed, "float64")
    alone, shared = net.copy(), net.copy()
    options = {"loss": "mse", "optimizer": "adam", "epochs": 2, "batch_size": 16, "shuffle": False}
    history = alone.fit(x, y, n_threads=1, **options)
    assert shared.fit(x, y, n_threads=2, **options).loss == history.loss
    np.testing.assert_array_equal(shared.parameters, alone.parameters)
    state = net.jit_state(optimizer="adam", loss="mse", batch_size=16)
    for _ in range(2):
        for first in range(0, len(x), 16):
            jit.train_step(state, x[first : first + 16], y[first : first + 16])
    net.load_jit_state(state)
    np.testing.assert_allclose(net.parameters, alone.parameters, rtol=1e-9, atol=1e-12)
