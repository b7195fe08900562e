"""Optimizers in NumPy float64, one function a step, straight from the papers (as PyTorch reads them).

``step(theta, g, lr, t, state)`` returns the new theta; ``t`` counts from 1 and ``state`` is a dict that starts empty.
Default hyper-parameters are those of the registry. A new optimizer needs one row in ``STEPS``.
"""

import numpy as np


def moments(g, t, state, b1=0.9, b2=0.999):
    """Adam's two running means and their corrections."""
    state["m"] = b1 * state.get("m", 0.0) + (1 - b1) * g
    state["v"] = b2 * state.get("v", 0.0) + (1 - b2) * g * g
    return state["m"], state["v"], 1 - b1**t, 1 - b2**t


def sgd(theta, g, lr, t, state):
    return theta - lr * g


def rmsprop(theta, g, lr, t, state):
    state["v"] = 0.99 * state.get("v", 0.0) + 0.01 * g * g
    return theta - lr * g / (np.sqrt(state["v"]) + 1e-8)


def adagrad(theta, g, lr, t, state):
    state["v"] = state.get("v", 0.0) + g * g
    return theta - lr * g / (np.sqrt(state["v"]) + 1e-10)


def adadelta(theta, g, lr, t, state):
    state["v"] = 0.9 * state.get("v", 0.0) + 0.1 * g * g
    step = np.sqrt(state.get("u", 0.0) + 1e-6) / np.sqrt(state["v"] + 1e-6) * g
    state["u"] = 0.9 * state.get("u", 0.0) + 0.1 * step * step
    return theta - lr * step


def adam(theta, g, lr, t, state):
    m, v, c1, c2 = moments(g, t, state)
    return theta - lr * (m / c1) / (np.sqrt(v / c2) + 1e-8)


def adamw(theta, g, lr, t, state):
    return adam(theta - lr * 0.01 * theta, g, lr, t, state)


def nadam(theta, g, lr, t, state):
    m, v, _, c2 = moments(g, t, state)
    mu, following = (0.9 * (1 - 0.5 * 0.96 ** (k * 0.004)) for k in (t, t + 1))
    state["product"] = state.get("product", 1.0) * mu
    look_ahead = following * m / (1 - state["product"] * following) + (1 - mu) * g / (1 - state["product"])
    return theta - lr * look_ahead / (np.sqrt(v / c2) + 1e-8)


def radam(theta, g, lr, t, state):
    m, v, c1, c2 = moments(g, t, state)
    most = 2 / (1 - 0.999) - 1
    length = most - 2 * t * 0.999**t / c2
    if length <= 5:
        return theta - lr * m / c1
    variance = (length - 4) * (length - 2) * most / ((most - 4) * (most - 2) * length)
    return theta - lr * (m / c1) * np.sqrt(variance) * np.sqrt(c2) / (np.sqrt(v) + 1e-8)


def adamax(theta, g, lr, t, state):
    state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
    state["u"] = np.maximum(0.999 * state.get("u", 0.0), np.abs(g) + 1e-8)
    return theta - lr / (1 - 0.9**t) * state["m"] / state["u"]


def lion(theta, g, lr, t, state):
    m = state.get("m", 0.0)
    state["m"] = 0.99 * m + 0.01 * g
    return theta - lr * np.sign(0.9 * m + 0.1 * g)


def rprop(theta, g, lr, t, state):
    before = state.get("g", np.zeros_like(g))
    agreement = np.sign(g * before)
    factor = np.where(agreement > 0, 1.2, np.where(agreement < 0, 0.5, 1.0))
    state["step"] = np.clip(state.get("step", np.full_like(g, lr)) * factor, 1e-6, 50)
    state["g"] = np.where(agreement < 0, 0.0, g)
    return theta - np.sign(state["g"]) * state["step"]


STEPS = {
    "sgd": sgd,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "adadelta": adadelta,
    "adam": adam,
    "adamw": adamw,
    "nadam": nadam,
    "radam": radam,
    "adamax": adamax,
    "lion": lion,
    "rprop": rprop,
}
