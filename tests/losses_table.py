"""One table of losses with targets and PyTorch's own, and a driver of their natives."""

import ctypes

import numpy as np

from fastnn.losses import (
    MAE,
    MSE,
    BinaryCrossEntropy,
    CrossEntropy,
    Focal,
    Hinge,
    Huber,
    KLDivergence,
    LogCosh,
    Poisson,
    Quantile,
    SquaredHinge,
)

N = 23


def evaluate(loss, o, y, w=None, labels=False, tangent=None, activation="identity", in_place=True, padding=0):
    """Row losses, gradient and (with a tangent of o) the gradient's tangent, from the natives; o and y as prepared."""
    dtype = o.dtype
    rows, cols = o.shape
    w = np.ones(rows, dtype) if w is None else w.astype(dtype)
    resolved = loss.resolve(activation, cols)
    real = ctypes.c_float if dtype == np.float32 else ctypes.c_double
    n, p = ctypes.c_int64, ctypes.c_void_p
    signature = [p, n, p, n, n, p, p, n, n, n, real, p]

    def padded(x):
        out = np.full((rows, cols + padding), 77.0, dtype)
        out[:, :cols] = x
        return out

    outputs, params = padded(o), np.array(resolved.parameter_values, dtype)
    d, row_losses = (outputs if in_place else padded(np.nan)), np.empty(rows, dtype)
    y = np.ascontiguousarray(y, dtype)
    kept = (y, w, params, row_losses)
    y_at, w_at, params_at, rows_at = (array.ctypes.data for array in kept)
    inputs = (y_at, y.shape[1], int(labels), w_at)
    scale = 1.0 / w.sum(dtype=np.float64)
    second = None
    if tangent is not None:
        second = padded(tangent)
        native = ctypes.CFUNCTYPE(None, *signature)(resolved.tangent_native.address(dtype))
        native(
            outputs.ctypes.data,
            cols + padding,
            *inputs,
            second.ctypes.data,
            cols + padding,
            rows,
            cols,
            scale,
            params_at,
        )
    native = ctypes.CFUNCTYPE(None, *signature, p)(resolved.native.address(dtype))
    native(
        outputs.ctypes.data,
        cols + padding,
        *inputs,
        d.ctypes.data,
        cols + padding,
        rows,
        cols,
        scale,
        rows_at,
        params_at,
    )
    for array in (d, second):
        if array is not None:
            assert (array[:, cols:] == 77).all()
            assert not np.isnan(array[0, :cols]).all() or np.isnan(o).any()
    return row_losses, d[:, :cols], None if second is None else second[:, :cols]


def softmax(x):
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def dense(rng, cols):
    return rng.normal(size=(N, cols))


def kinks(rng, cols):
    """Targets such that o - y takes every value of a grid, zero and +-1 among them."""
    return np.zeros((N, cols))


def counts(rng, cols):
    return rng.integers(0, 6, (N, cols)).astype(float)


def probabilities(rng, cols):
    return np.round(rng.random((N, cols)), 1)


def signs(rng, cols):
    return rng.choice([-1.0, 1.0], (N, cols))


def classes(rng, cols):
    return rng.integers(0, cols, (N, 1)).astype(float)


def one_hot(rng, cols):
    return np.eye(cols)[rng.integers(0, cols, N)]


def rows(rng, cols):
    return softmax(rng.normal(size=(N, cols)))


def smooth_rows(rng, cols):
    out = rows(rng, cols)
    out[::3] = np.eye(cols)[rng.integers(0, cols, len(out[::3]))]  # some targets are exactly 0
    return out


# (loss, output activation, targets, PyTorch's loss from (torch, o, y) per element or row, or None)
def bce(smoothing=0.0, pos_weight=1.0):
    def oracle(torch, o, y):
        y = y * (1 - smoothing) + 0.5 * smoothing
        weight = torch.tensor(pos_weight, dtype=o.dtype)
        return torch.nn.functional.binary_cross_entropy_with_logits(o, y, pos_weight=weight, reduction="none")

    return oracle


def cross_entropy(smoothing=0.0):
    def oracle(torch, o, y):
        y = y[:, 0].long() if y.shape[1] == 1 else y
        return torch.nn.functional.cross_entropy(o, y, label_smoothing=smoothing, reduction="none")

    return oracle


def kl_divergence(torch, o, y):
    if y.shape[1] == 1:
        y = torch.nn.functional.one_hot(y[:, 0].long(), o.shape[1]).to(o.dtype)
    return torch.nn.KLDivLoss(reduction="none")(torch.log_softmax(o, 1), y)


def sigmoid_focal(gamma, alpha):
    """torchvision.ops.sigmoid_focal_loss."""

    def oracle(torch, o, y):
        p = torch.sigmoid(o)
        ce = torch.nn.functional.binary_cross_entropy_with_logits(o, y, reduction="none")
        loss = ce * (1 - (p * y + (1 - p) * (1 - y))) ** gamma
        return loss if alpha is None else (alpha * y + (1 - alpha) * (1 - y)) * loss

    return oracle


def softmax_focal(gamma, alpha):
    def oracle(torch, o, y):
        if y.shape[1] == 1:
            y = torch.nn.functional.one_hot(y[:, 0].long(), o.shape[1]).to(o.dtype)
        log_p = torch.log_softmax(o, 1)
        return -(1.0 if alpha is None else alpha) * (y * (1 - log_p.exp()) ** gamma * log_p).sum(1)

    return oracle


def torch_loss(name, **options):
    return lambda torch, o, y: getattr(torch.nn, name)(reduction="none", **options)(o, y)


def hinge(power):
    return lambda torch, o, y: torch.relu(1 - y * o) ** power


TABLE = [
    (MSE(), "identity", dense, torch_loss("MSELoss")),
    (MAE(), "identity", dense, torch_loss("L1Loss")),
    (MAE(), "identity", kinks, torch_loss("L1Loss")),
    (Huber(), "identity", dense, torch_loss("HuberLoss")),
    (Huber(delta=0.5), "identity", kinks, torch_loss("HuberLoss", delta=0.5)),
    (LogCosh(), "identity", dense, lambda torch, o, y: torch.log(torch.cosh(o - y))),
    (Quantile(0.2), "identity", dense, lambda torch, o, y: torch.maximum(0.2 * (y - o), -0.8 * (y - o))),
    (Poisson(), "identity", counts, torch_loss("PoissonNLLLoss")),
    (Poisson(full=True), "exponential", counts, torch_loss("PoissonNLLLoss", full=True)),
    (Poisson(log_input=False), "softplus", counts, torch_loss("PoissonNLLLoss", log_input=False)),
    (Poisson(False, True, 1e-3), "relu", counts, torch_loss("PoissonNLLLoss", log_input=False, full=True, eps=1e-3)),
    (Hinge(), "identity", signs, hinge(1)),
    (SquaredHinge(), "tanh", signs, hinge(2)),
    (BinaryCrossEntropy(), "sigmoid", probabilities, bce()),
    (BinaryCrossEntropy(0.1, 3.0), "identity", probabilities, bce(0.1, 3.0)),
    (Focal(), "sigmoid", probabilities, sigmoid_focal(2.0, None)),
    (Focal(1.5, 0.25), "sigmoid", probabilities, sigmoid_focal(1.5, 0.25)),
    (Focal(0.0), "sigmoid", probabilities, sigmoid_focal(0.0, None)),
    (CrossEntropy(), "softmax", classes, cross_entropy()),
    (CrossEntropy(), "log_softmax", rows, cross_entropy()),
    (CrossEntropy(0.1), "identity", classes, cross_entropy(0.1)),
    (CrossEntropy(0.1), "identity", one_hot, cross_entropy(0.1)),
    (KLDivergence(), "softmax", rows, kl_divergence),
    (KLDivergence(), "softmax", smooth_rows, kl_divergence),
    (KLDivergence(), "softmax", classes, kl_divergence),
    (Focal(), "softmax", classes, softmax_focal(2.0, None)),
    (Focal(2.5, 0.3), "softmax", rows, softmax_focal(2.5, 0.3)),
    (Focal(0.5), "softmax", one_hot, softmax_focal(0.5, None)),
    (Focal(0.0), "softmax", classes, softmax_focal(0.0, None)),
]
ONE_PER_NATIVE = {loss.resolve(activation, 3).kind: (loss, activation, make) for loss, activation, make, _ in TABLE}


def name_of_row(row):
    return f"{row[0]!r}-{row[1]}-{row[2].__name__}" if isinstance(row, tuple) else None


def is_per_class(loss, activation):
    return loss.rowwise and activation != "sigmoid"


def draw(row, cols, seed=0):
    """Outputs, targets (float64) and whether those are labels."""
    loss, activation, make, *_ = row
    rng = np.random.default_rng(seed)
    y = make(rng, cols)
    o = 2 * rng.normal(size=(N, cols))
    if make is kinks:
        o = rng.choice([-1.0, -0.5, 0.0, 0.5, 1.0], (N, cols))
    if isinstance(loss, Poisson) and not loss.log_input and activation != "exponential":
        o = np.abs(o) + 0.1
    return o, y, make is classes
