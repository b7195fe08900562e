"""A slow, readable network in NumPy float64: the oracle that every kernel is compared with, for ever.

It shares no code with the engine. Formulas stand here a second time, in the most obvious form; a new activation, loss
or optimizer needs one row in the tables below, and the tests that walk the registries fail until it has one.
"""

from __future__ import annotations

import numpy as np
from scipy import special

import fastnn as fn

# -- activations -------------------------------------------------------------------------------------------------------


def _softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _log_softmax(z):
    return (
        z - z.max(axis=1, keepdims=True) - np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True))
    )


SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717

# name -> (value, derivative), with the parameters in the order of their table
ACTIVATIONS = {
    "identity": (lambda z: z, lambda z: np.ones_like(z)),
    "step": (lambda z: (z >= 0).astype(float), None),
    "sigmoid": (special.expit, lambda z: special.expit(z) * special.expit(-z)),
    "hard_sigmoid": (lambda z: np.clip(z / 6 + 0.5, 0, 1), lambda z: (np.abs(z) < 3) / 6.0),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "hard_tanh": (lambda z, a, b: np.clip(z, a, b), lambda z, a, b: ((z > a) & (z < b)) * 1.0),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0) * 1.0),
    "relu6": (lambda z: np.clip(z, 0, 6), lambda z: ((z > 0) & (z < 6)) * 1.0),
    "leaky_relu": (lambda z, s: np.where(z > 0, z, s * z), lambda z, s: np.where(z > 0, 1.0, s)),
    "elu": (lambda z, a: np.where(z > 0, z, a * np.expm1(z)), lambda z, a: np.where(z > 0, 1.0, a * np.exp(z))),
    "selu": (
        lambda z: SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(z)),
        lambda z: SELU_SCALE * np.where(z > 0, 1.0, SELU_ALPHA * np.exp(z)),
    ),
    "celu": (lambda z, a: np.where(z > 0, z, a * np.expm1(z / a)), lambda z, a: np.where(z > 0, 1.0, np.exp(z / a))),
    "gelu": (
        lambda z: z * special.ndtr(z),
        lambda z: special.ndtr(z) + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi),
    ),
    "gelu_tanh": (
        lambda z: 0.5 * z * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))),
        lambda z: (
            0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)))
            + 0.5 * z / np.cosh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)) ** 2
            * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)
        ),
    ),
    "silu": (lambda z: z * special.expit(z), lambda z: special.expit(z) * (1 + z * special.expit(-z))),
    "mish": (
        lambda z: z * np.tanh(np.logaddexp(0, z)),
        lambda z: np.tanh(np.logaddexp(0, z)) + z * special.expit(z) / np.cosh(np.logaddexp(0, z)) ** 2,
    ),
    "softplus": (lambda z, b: np.logaddexp(0, b * z) / b, lambda z, b: special.expit(b * z)),
    "softsign": (lambda z: z / (1 + abs(z)), lambda z: 1 / (1 + abs(z)) ** 2),
    "hard_swish": (
        lambda z: z * np.clip(z + 3, 0, 6) / 6,
        lambda z: np.where(z <= -3, 0, np.where(z >= 3, 1, z / 3 + 0.5)),
    ),
    "squareplus": (lambda z, b: (z + np.sqrt(z * z + b)) / 2, lambda z, b: (1 + z / np.sqrt(z * z + b)) / 2),
    "exponential": (np.exp, np.exp),
    "sine": (np.sin, np.cos),
    "gaussian": (lambda z: np.exp(-z * z), lambda z: -2 * z * np.exp(-z * z)),
    "softmax": (_softmax, None),
    "log_softmax": (_log_softmax, None),
}  # fmt: skip


def activate(activation, z):
    """f(z) for (N, O)."""
    return ACTIVATIONS[activation.name][0](z, *activation.parameters.values())


def activation_backward(activation, z, d):
    """dLoss/dz from dLoss/da."""
    if activation.name == "softmax":
        a = _softmax(z)
        return a * (d - (d * a).sum(axis=1, keepdims=True))
    if activation.name == "log_softmax":
        return d - _softmax(z) * d.sum(axis=1, keepdims=True)
    return d * ACTIVATIONS[activation.name][1](z, *activation.parameters.values())


# -- losses: name -> f(outputs (N, O), targets (N, O), loss object) -> loss of each row (N,) ---------------------------


def _binary_cross_entropy(z, y, loss):
    eps, positive = loss.parameters["label_smoothing"], loss.parameters["pos_weight"]
    y = y * (1 - eps) + eps / 2
    return (positive * y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)).mean(axis=1)


def _cross_entropy(z, y, loss):
    eps = loss.parameters["label_smoothing"]
    return -((y * (1 - eps) + eps / y.shape[1]) * _log_softmax(z)).sum(axis=1)


def _focal(z, y, loss, binary=False):
    gamma, alpha = loss.parameters["gamma"], loss.parameters["alpha"]
    if binary:
        p_t = np.where(y == 1, special.expit(z), special.expit(-z))
        log_p = np.where(y == 1, -np.logaddexp(0, -z), -np.logaddexp(0, z))
        factor = 1.0 if alpha is None else np.where(y == 1, alpha, 1 - alpha)
        return (-factor * (1 - p_t) ** gamma * log_p).mean(axis=1)
    log_p = (y * _log_softmax(z)).sum(axis=1)
    return -(1.0 if alpha is None else alpha) * (1 - np.exp(log_p)) ** gamma * log_p


def _poisson(o, y, loss):
    log_input, full, eps = (loss.parameters[k] for k in ("log_input", "full", "eps"))
    value = np.exp(o) - y * o if log_input else o - y * np.log(o + eps)
    if full:
        positive = np.where(y > 1, y, 2.0)
        stirling = positive * np.log(positive) - positive + 0.5 * np.log(2 * np.pi * positive)
        value = value + np.where(y > 1, stirling, 0.0)
    return value.mean(axis=1)


def _huber(o, y, loss):
    delta, e = loss.parameters["delta"], np.abs(o - y)
    return np.where(e <= delta, e * e / 2, delta * (e - delta / 2)).mean(axis=1)


def _quantile(o, y, loss):
    q, e = loss.parameters["q"], y - o
    return np.maximum(q * e, (q - 1) * e).mean(axis=1)


LOSSES = {
    "mse": lambda o, y, loss: ((o - y) ** 2).mean(axis=1),
    "mae": lambda o, y, loss: np.abs(o - y).mean(axis=1),
    "huber": _huber,
    "log_cosh": lambda o, y, loss: (np.logaddexp(o - y, y - o) - np.log(2)).mean(axis=1),
    "quantile": _quantile,
    "poisson": _poisson,
    "hinge": lambda o, y, loss: np.maximum(0, 1 - (2 * y - 1) * o).mean(axis=1),
    "squared_hinge": lambda o, y, loss: (np.maximum(0, 1 - (2 * y - 1) * o) ** 2).mean(axis=1),
    "binary_cross_entropy": _binary_cross_entropy,
    "cross_entropy": _cross_entropy,
    "kl_divergence": lambda z, y, loss: (special.xlogy(y, y) - y * _log_softmax(z)).mean(axis=1),
    "focal": _focal,
    "focal, sigmoid": lambda z, y, loss: _focal(z, y, loss, binary=True),
}


# -- the network -------------------------------------------------------------------------------------------------------


class Network:
    """The layers of a ``Sequential`` on its parameters as float64 copies."""

    def __init__(self, net: fn.Sequential):
        self.layers = list(net.layers)
        self.p = {k: v.astype(np.float64) for k, v in net.named_parameters().items()}
        self.buffers = {k: v.astype(np.float64) for k, v in net.named_buffers().items()}

    def forward(self, x, training=False):
        """Outputs (N, O); remembers what backward needs. Dropout is the tests' own business: rate 0 or inference."""
        self.tape = []
        return self._stack(self.layers, "", np.asarray(x, np.float64), training)

    def _stack(self, layers, prefix, x, training):
        for i, layer in enumerate(layers):
            x = self._layer(layer, f"{prefix}{i}", x, training)
        return x

    def _layer(self, layer, path, x, training):
        if isinstance(layer, fn.Dense):
            z = x @ self.p[f"{path}.weight"]
            if layer.bias:
                z = z + self.p[f"{path}.bias"]
            self.tape.append(("dense", layer, path, x, z))
            return activate(layer.activation, z)
        if isinstance(layer, fn.Activation):
            self.tape.append(("activation", layer, path, x, x))
            return activate(layer.activation, x)
        if isinstance(layer, fn.Dropout):
            return x
        if isinstance(layer, fn.Residual):
            self.tape.append(("split", layer, path, x, None))
            y = self._stack(layer.layers, f"{path}.", x, training)
            self.tape.append(("add", layer, path, x, None))
            return x + y
        axis = 0 if isinstance(layer, fn.BatchNorm) else 1
        mean, var = x.mean(axis=axis, keepdims=True), x.var(axis=axis, keepdims=True)
        fixed = axis == 0 and not training
        if fixed:
            mean, var = self.buffers[f"{path}.running_mean"], self.buffers[f"{path}.running_var"]
        inverse = 1 / np.sqrt(var + layer.eps)
        xhat = (x - mean) * inverse
        self.tape.append(("norm", (axis, fixed), path, xhat, inverse))
        return xhat * self.p[f"{path}.weight"] + self.p[f"{path}.bias"]

    def backward(self, d):
        """Gradients by name, and dLoss/dX, from dLoss/d output."""
        grads, shortcuts = {}, []
        for kind, layer, path, x, z in reversed(self.tape):
            if kind == "dense":
                d = activation_backward(layer.activation, z, d)
                grads[f"{path}.weight"] = x.T @ d
                if layer.bias:
                    grads[f"{path}.bias"] = d.sum(axis=0)
                d = d @ self.p[f"{path}.weight"].T
            elif kind == "activation":
                d = activation_backward(layer.activation, z, d)
            elif kind == "add":
                shortcuts.append(d)
            elif kind == "split":
                d = d + shortcuts.pop()
            else:
                (axis, fixed), xhat, inverse = layer, x, z
                grads[f"{path}.weight"], grads[f"{path}.bias"] = (d * xhat).sum(axis=0), d.sum(axis=0)
                g = d * self.p[f"{path}.weight"]
                if fixed:
                    d = g * inverse
                else:
                    centred = g - g.mean(axis=axis, keepdims=True)
                    d = inverse * (centred - xhat * (g * xhat).mean(axis=axis, keepdims=True))
        return grads, d

    def penalty(self):
        """l1 and l2 terms, and their gradients."""
        total, grads = 0.0, {}
        for path, layer in _dense_layers(self.layers, ""):
            w = self.p[f"{path}.weight"]
            total += layer.l1 * np.abs(w).sum() + layer.l2 * (w * w).sum()
            grads[f"{path}.weight"] = layer.l1 * np.sign(w) + 2 * layer.l2 * w
        return total, grads


def _dense_layers(layers, prefix):
    for i, layer in enumerate(layers):
        if isinstance(layer, fn.Residual):
            yield from _dense_layers(layer.layers, f"{prefix}{i}.")
        elif isinstance(layer, fn.Dense):
            yield f"{prefix}{i}", layer


def mean_loss(loss, outputs, targets, weights=None, output_activation="identity"):
    """Weighted mean over the samples, from outputs or, for the losses that take logits, from pre-activations."""
    name = f"{loss.name}, {output_activation}"
    rows = LOSSES[name if name in LOSSES else loss.name](outputs, targets, loss)
    weights = np.ones(len(rows)) if weights is None else weights
    return (weights * rows).sum() / weights.sum()
