"""Losses: one table, run through the natives and held against PyTorch, central differences and the contract."""

import ctypes
import pickle
import re

import numba
import numpy as np
import pytest

from fastnn import losses
from fastnn._jit import Native
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


@pytest.mark.oracle
@pytest.mark.parametrize("cols", [1, 3, 10, 37])
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 1e-5)], ids=["f8", "f4"])
@pytest.mark.parametrize("row", TABLE, ids=name_of_row)
def test_against_torch(row, dtype, tolerance, cols):
    torch = pytest.importorskip("torch")
    loss, activation, _, oracle = row
    if cols == 1 and is_per_class(loss, activation):
        pytest.skip("needs two classes")
    o, y, labels = draw(row, cols)
    rng = np.random.default_rng(1)
    w = np.round(rng.random(N), 2)
    w[::4] = 0
    r = rng.normal(size=o.shape)
    o, r = o.astype(dtype), r.astype(dtype)

    x = torch.tensor(o.astype(np.float64), requires_grad=True)
    per_row = oracle(torch, x, torch.tensor(y))
    per_row = per_row.mean(dim=1) if per_row.ndim == 2 else per_row
    weights = torch.tensor(w.astype(dtype).astype(np.float64))
    total = (weights * per_row).sum() / weights.sum()
    (g,) = torch.autograd.grad(total, x, create_graph=True)
    hv = np.zeros_like(o)
    if g.requires_grad:
        hv = torch.autograd.grad(g, x, torch.tensor(r.astype(np.float64)))[0].numpy(force=True)

    row_losses, d, second = evaluate(loss, o, y, w, labels, r, activation, padding=3)
    scale = max(1.0, float(np.abs(row_losses).max()))
    np.testing.assert_allclose(row_losses, (weights * per_row).detach().numpy(), rtol=tolerance, atol=tolerance * scale)
    np.testing.assert_allclose(d, g.detach().numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(second, hv, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cols", [1, 5])
@pytest.mark.parametrize("row", [row for row in TABLE if row[2] is not kinks], ids=name_of_row)
def test_against_differences(row, cols):
    loss, activation, *_ = row
    if cols == 1 and is_per_class(loss, activation):
        pytest.skip("needs two classes")
    o, y, labels = draw(row, cols, seed=2)
    w = np.random.default_rng(3).random(N)
    v = np.random.default_rng(4).normal(size=o.shape)
    _, d, second = evaluate(loss, o, y, w, labels, v, activation)
    h = 1e-6
    (up, d_up, _), (down, d_down, _) = (
        evaluate(loss, o + s * h * v, y, w, labels, activation=activation) for s in (1, -1)
    )
    np.testing.assert_allclose((d * v).sum(1) * w.sum(), (up - down) / (2 * h), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(second, (d_up - d_down) / (2 * h), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f4", "f8"])
@pytest.mark.parametrize("cols", [1, 3, 10, 33])
@pytest.mark.parametrize("row", ONE_PER_NATIVE.values(), ids=list(ONE_PER_NATIVE))
def test_in_place_is_the_same(row, cols, dtype):
    loss, activation, _ = row
    if cols == 1 and is_per_class(loss, activation):
        pytest.skip("needs two classes")
    o, y, labels = draw(row, cols)
    for padding in (0, 6):
        a = evaluate(loss, o.astype(dtype), y, None, labels, None, activation, True, padding)
        b = evaluate(loss, o.astype(dtype), y, None, labels, None, activation, False, padding)
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


@pytest.mark.parametrize("cols", [3, 33])
@pytest.mark.parametrize("row", ONE_PER_NATIVE.values(), ids=list(ONE_PER_NATIVE))
def test_a_row_does_not_depend_on_its_neighbours(row, cols):
    loss, activation, _ = row
    o, y, labels = draw(row, cols)
    o = o.astype(np.float32)
    whole = evaluate(loss, o, y, None, labels, np.ones_like(o), activation)
    for i in (0, 9, N - 1):
        alone = evaluate(loss, o[i : i + 1], y[i : i + 1], None, labels, np.ones_like(o[:1]), activation)
        np.testing.assert_array_equal(alone[0], whole[0][i : i + 1])  # bit for bit
        for a, b in zip(alone[1:], whole[1:], strict=True):
            np.testing.assert_allclose(a / N, b[i : i + 1], rtol=1e-5, atol=1e-8)  # another scale


@pytest.mark.parametrize("cols", [1, 4])
@pytest.mark.parametrize("row", ONE_PER_NATIVE.values(), ids=list(ONE_PER_NATIVE))
def test_weight_zero_and_nan(row, cols):
    loss, activation, _ = row
    if cols == 1 and is_per_class(loss, activation):
        pytest.skip("needs two classes")
    o, y, labels = draw(row, cols)
    o = o.astype(np.float32)
    w = np.ones(N)
    w[:4] = 0
    o[0], o[1], o[2] = np.inf, -np.inf, 3e38
    o[3, 0] = np.nan
    o[5, -1] = np.nan
    row_losses, d, second = evaluate(loss, o, y, w, labels, np.ones_like(o), activation)
    assert (row_losses[:3] == 0).all()
    assert (d[:3] == 0).all()
    assert (second[:3] == 0).all()
    assert np.isnan(row_losses[[3, 5]]).all()
    assert np.isnan(d[3, 0])
    assert np.isnan(d[5, -1])
    fine = [i for i in range(N) if i not in (0, 1, 2, 3, 5)]
    assert np.isfinite(row_losses[fine]).all()
    assert np.isfinite(d[fine]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f4", "f8"])
def test_extreme_logits(dtype):
    logits = np.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], dtype)
    labels = np.array([[0], [1], [2]], dtype)
    r = np.ones_like(logits) * [1, 2, 3]
    row_losses, d, second = evaluate(CrossEntropy(), logits, labels, None, True, r, "softmax")
    np.testing.assert_allclose(row_losses, [0, 2e4, np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(d * 3, [[0, 0, 0], [1, -1, 0], [1 / 3, 1 / 3, -2 / 3]], atol=1e-6)
    np.testing.assert_allclose(second[:2], 0, atol=1e-6)
    for loss in (KLDivergence(), Focal(), Focal(0.5)):
        for out in evaluate(loss, logits, labels, None, True, r, "softmax"):
            assert np.isfinite(out).all()
    z = np.array([[1e4], [1e4], [-1e4], [-1e4], [0.0]], dtype)
    t = np.array([[1], [0], [1], [0], [1]], dtype)
    row_losses, d, second = evaluate(BinaryCrossEntropy(), z, t, None, False, np.ones_like(z), "sigmoid")
    np.testing.assert_allclose(row_losses, [0, 1e4, 1e4, 0, np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(d[:, 0] * 5, [0, 1, -1, 0, -0.5], rtol=1e-6)
    for gamma in (0.0, 0.5, 2.0):
        row_losses, d, second = evaluate(Focal(gamma), z, t, None, False, np.ones_like(z), "sigmoid")
        np.testing.assert_allclose(row_losses, [0, 1e4, 1e4, 0, 0.5**gamma * np.log(2)], rtol=1e-5)
        assert np.isfinite(d).all()
        assert np.isfinite(second).all()
    row_losses, d, _ = evaluate(LogCosh(), z, 0 * z)
    np.testing.assert_allclose(row_losses, [1e4 - np.log(2)] * 4 + [0], rtol=1e-6)


@pytest.mark.parametrize("dtype, rtol", [(np.float32, 2e-6), (np.float64, 2e-15)], ids=["f4", "f8"])
def test_small_losses_keep_their_digits(dtype, rtol):
    e = np.array([[1e-3], [1e-4]], dtype)
    x = e.astype(np.longdouble)[:, 0]
    np.testing.assert_allclose(evaluate(LogCosh(), e, 0 * e)[0], np.log1p(2 * np.sinh(x / 2) ** 2), rtol=rtol)
    z = np.array([[20.0], [-30.0]], dtype)
    t = np.array([[1.0], [0.0]], dtype)
    row_losses, d, _ = evaluate(BinaryCrossEntropy(), z, t, activation="sigmoid")
    np.testing.assert_allclose(row_losses, np.exp([-20.0, -30.0]), rtol=1e-5)
    np.testing.assert_allclose(d[:, 0] * 2, np.exp([-20.0, -30.0]) * [-1, 1], rtol=1e-5)


@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(0.2), KLDivergence(), Focal()], ids=repr)
def test_labels_equal_one_hot(loss):
    rng = np.random.default_rng(0)
    o, r = rng.normal(size=(2, N, 10))
    y = rng.integers(0, 10, N)
    results = [
        evaluate(loss, o, targets, None, labels, r, "softmax")
        for targets, labels in (
            (y[:, None], True),
            loss.prepare_targets(y, 10, np.float64),
            loss.prepare_targets(np.eye(10, dtype=int)[y], 10, np.float64),
        )
    ]
    for result in results[1:]:
        for a, b in zip(results[0], result, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", list(ONE_PER_NATIVE))
def test_float32_code_holds_no_float64_and_is_vectorised(kind):
    loss, activation, _ = ONE_PER_NATIVE[kind]
    resolved = loss.resolve(activation, 3)
    for native in (resolved.native, resolved.tangent_native):
        native.address(np.dtype(np.float32))
        compiled = native._compiled[numba.float32]
        if compiled.cache_hits:  # loaded code has no text
            fresh = Native(None, native._func, native._arguments)
            fresh.address(np.dtype(np.float32))
            compiled = fresh._compiled[numba.float32]
        code = compiled.inspect_llvm()
        assert "double" not in code
        assert re.search(r"<\d+ x float>", code)
        called = set(re.findall(r"call [^\n]*@(_ZN\w+)", code))
        assert not [name for name in called if "body" not in name], "a formula is not inlined"


# Objects


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
    import math

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
