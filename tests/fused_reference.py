"""What the kernels of `fastnn.cuda` for narrow networks should compute: NumPy in float64, with operands rounded."""

import numpy as np

from fastnn import _rows as row

PRECISIONS = ["bf16", "fp16", "tf32"]
# Sums in float32, and roundings of operands that fall on either side where a sum lies between two numbers.
CLOSE = {
    "bf16": {"rtol": 1e-4, "atol": 4e-3},
    "fp16": {"rtol": 1e-4, "atol": 5e-4},
    "tf32": {"rtol": 1e-4, "atol": 5e-4},
    "float32": {"rtol": 1e-4, "atol": 1e-5},
}
# Against exact operands: half a unit in the last of 8 or 11 bits, and what a few layers make of it.
LOOSE = {
    "bf16": {"rtol": 2e-2, "atol": 5e-2},
    "fp16": {"rtol": 3e-3, "atol": 6e-3},
    "tf32": {"rtol": 3e-3, "atol": 6e-3},
    "float32": {"rtol": 1e-4, "atol": 1e-5},
}
# The same for a whole gradient, as a vector.
LENGTH = {"bf16": 1e-2, "fp16": 2e-3, "tf32": 2e-3}


def rounded(x, precision):
    """Numbers as operands of a tensor core, in float64."""
    if precision == "float64":
        return np.asarray(x, float)
    x = np.asarray(x, np.float32)
    if precision == "float32":
        return x.astype(float)
    if precision == "fp16":
        return x.astype(np.float16).astype(float)
    bits = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
    if precision == "bf16":
        bits = (bits + np.uint64(0x7FFF) + (bits >> np.uint64(16) & np.uint64(1))) & np.uint64(0xFFFF0000)
    else:
        bits = (bits + np.uint64(0x1000)) & np.uint64(0xFFFFE000)
    return np.where(np.isfinite(x), bits.astype(np.uint32).view(np.float32), x).astype(float)


def dense_rows(net):
    """(weights, bias or None, activation) of each layer, in float64."""
    plan, theta = net._built(), net.parameters
    for q, activation in zip(plan.table.tolist(), plan.activations, strict=True):
        assert q[row.KIND] == row.DENSE
        n_in, n_out, w, b = q[row.N_IN], q[row.N_OUT], q[row.W], q[row.B]
        bias = theta[b : b + n_out].astype(float) if b >= 0 else None
        yield theta[w : w + n_in * n_out].reshape(n_in, n_out).astype(float), bias, activation


def forward(net, x, precision):
    """The network's outputs, (n, n_out)."""
    a = x
    for w, bias, activation in dense_rows(net):
        z = rounded(a, precision) @ rounded(w, precision) + (0 if bias is None else bias)
        a = z if activation is None else activation(z)
    return a


def clear_of_kinks(net, x, precision):
    """Rows in which rounding takes no unit across the kink of its ReLU: there, a gradient changes at once."""
    exact, a, clear = x, x, np.ones(len(x), bool)
    for w, bias, activation in dense_rows(net):
        bias = 0 if bias is None else bias
        exact, a = exact @ w + bias, rounded(a, precision) @ rounded(w, precision) + bias
        if activation is not None and activation.name == "relu":
            clear &= ((exact > 0) == (a > 0)).all(1)
        exact, a = (z if activation is None else activation(z) for z in (exact, a))
    return clear


def slope(activation, z, a):
    """Derivative of a layer's activation; the tests use these four."""
    name = "identity" if activation is None else activation.name
    return {"identity": np.ones_like(z), "relu": 1.0 * (a > 0), "tanh": 1 - a * a, "sigmoid": a * (1 - a)}[name]


def loss_and_gradient(name, o, y, smoothing=0.0):
    """Losses of rows, (n,), and their gradients, as large as ``o``."""
    if name == "mse":
        return ((o - y) ** 2).mean(1), 2 * (o - y) / o.shape[1]
    if name == "huber":
        e = np.abs(o - y)
        value = np.where(e <= 0.5, 0.5 * e * e, 0.5 * (e - 0.25))
        return value.mean(1), np.clip(o - y, -0.5, 0.5) / o.shape[1]
    t = np.eye(o.shape[1])[y[:, 0].astype(int)] if y.shape[1] == 1 else y
    t = t * (1 - smoothing) + smoothing / o.shape[1]
    m = o.max(1, keepdims=True)
    logs = m + np.log(np.exp(o - m).sum(1, keepdims=True))
    return (t * (logs - o)).sum(1), t.sum(1, keepdims=True) * np.exp(o - logs) - t


def step(net, x, y, weights, scale, precision, loss, smoothing=0.0, loss_scale=1.0):
    """Loss, and the gradient of the parameters, flat."""
    layers = list(dense_rows(net))
    inputs, slopes = [x], []
    for k, (w, bias, activation) in enumerate(layers):
        z = rounded(inputs[-1], precision) @ rounded(w, precision) + (0 if bias is None else bias)
        last = k == len(layers) - 1
        activation = None if last and loss == "cross_entropy" else activation
        a = z if activation is None else activation(z)
        slopes.append(slope(activation, z, a) if last else rounded(slope(activation, z, a), precision))
        inputs.append(a)
    values, d = loss_and_gradient(loss, inputs[-1], y, smoothing)
    d = d * (scale * loss_scale * weights)[:, None] * slopes[-1]
    found = []
    for k in range(len(layers) - 1, -1, -1):
        w, d = rounded(layers[k][0], precision), rounded(d, precision)
        found[:0] = [(rounded(inputs[k], precision).T @ d).ravel(), *([] if layers[k][1] is None else [d.sum(0)])]
        d = d @ w.T * slopes[k - 1] if k else d
    return scale * (weights * values).sum(), np.concatenate(found) / loss_scale
