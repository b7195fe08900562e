"""The networks and data that the benchmarks share."""

import numpy as np

import fastnn as fn


def make(shape, activation="relu", output=None, dtype="float32"):
    """A network from a name such as ``"784-128-10"``."""
    n_inputs, *hidden, n_outputs = map(int, shape.split("-"))
    layers = [*(fn.Dense(units, activation) for units in hidden), fn.Dense(n_outputs, output)]
    return fn.Sequential(layers, n_inputs=n_inputs, seed=0, dtype=dtype)


def data(shape, n, dtype="float32"):
    """Inputs (n, I) from a normal distribution, and targets: labels for ten outputs, else numbers; and their loss."""
    n_inputs, *_, n_outputs = map(int, shape.split("-"))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, n_inputs), np.float32).astype(dtype)
    if n_outputs == 10:
        return x, rng.integers(0, 10, n), "cross_entropy"
    return x, rng.standard_normal((n, n_outputs), np.float32).astype(dtype), "mse"
