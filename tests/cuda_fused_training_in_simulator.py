"""`fastnn.cuda.fused_training` in numba-cuda's simulator. `test_cuda_simulator` runs this file, in its own process."""

import fused_reference as reference
import numpy as np
import pytest

import fastnn as fn
from fastnn.cuda import fused_training as fused
from fastnn.losses._base import KINDS

# NumPy warns where a GPU goes on with an infinity or a NaN.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

PRECISIONS = reference.PRECISIONS
NONE = np.zeros(0, np.float32)
ODD = [fn.Dense(13, "tanh"), fn.Dense(15, "relu"), fn.Dense(3, "sigmoid")]


def network(layers, n_inputs):
    net = fn.Sequential(layers, n_inputs=n_inputs, seed=1)
    net.parameters[:] += 0.2 * np.random.default_rng(2).standard_normal(net.n_parameters)
    return net


def data(n, n_inputs, n_outputs):
    rng = np.random.default_rng(3)
    return (rng.standard_normal((n, k)).astype(np.float32) for k in (n_inputs, n_outputs))


def step(
    net, x, y, precision, loss="mse", weights=NONE, order=None, first=0, count=None, scale=1.0, loss_scale=1.0,
    p0=0.0, blocks=1, warps=1, labels=False,
):  # fmt: skip
    """Loss and gradient by the kernel."""
    plan, T = net._built(), np.float32
    description = fused.describe_training(plan, loss == "cross_entropy")
    shape = fused.shape_for(description, precision)
    shape = shape._replace(warps=warps, parts=-(-len(fused._parts(description, shape)) // warps))
    order = np.zeros(0, np.int64) if order is None else order
    count = len(x) if count is None else count
    partials = np.full((blocks, net.n_parameters), np.nan, T)
    losses = np.full(blocks, np.nan, T)
    kernel = fused.training_kernel(shape, description.activations, None if loss == "cross_entropy" else KINDS[loss])
    kernel[blocks, shape.threads, 0, fused.shared_bytes(shape, description.n_layers)](
        description.table, description.n_layers, fused.parts_for(description, shape), net.parameters,
        x.reshape(-1), y.reshape(-1), weights, order, first, count, x.shape[1] % 2 == 0, int(labels),
        T(scale), T(loss_scale / 2), np.full(1, 2, T), T(p0), T(0), T(0), T(0), net.n_parameters,
        partials.reshape(-1), losses,
    )  # fmt: skip
    return losses.astype(float).sum(), partials.astype(float).sum(0)


def check(net, x, y, precision, found, weights=None, scale=1.0, loss="mse", smoothing=0.0, loss_scale=1.0):
    weights = np.ones(len(x)) if weights is None else weights
    loss_found, gradient = found
    wanted = reference.step(net, x, y, weights, scale, precision, loss, smoothing, loss_scale)
    rtol, atol = reference.CLOSE[precision].values()
    np.testing.assert_allclose(loss_found, wanted[0], rtol=10 * rtol)
    np.testing.assert_allclose(gradient, wanted[1], rtol=rtol, atol=atol * np.abs(wanted[1]).max())
    exact = reference.step(net, x, y, weights, scale, "float64", loss, smoothing)
    np.testing.assert_allclose(loss_found, exact[0], rtol=reference.LENGTH[precision])
    error = np.linalg.norm(gradient - exact[1]) / np.linalg.norm(exact[1])
    print(precision, loss, "error of the gradient:", error)
    assert error < reference.LENGTH[precision]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_element_wise_losses(precision):
    net = network(ODD, 7)
    x, y = data(37, 7, 3)
    clear = reference.clear_of_kinks(net, x, precision)
    x, y = x[clear], y[clear]
    assert len(x) > 32  # three tiles
    check(net, x, y, precision, step(net, x, y, precision, scale=1 / 32), scale=1 / 32)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_labels(precision):
    net = network([fn.Dense(9, "relu", bias=False), fn.Dense(5, "softmax")], 6)
    x, logits = data(19, 6, 5)
    clear = reference.clear_of_kinks(net, x, precision)
    x, y = x[clear], np.argmax(logits, 1).astype(np.float32)[clear, None]
    found = step(net, x, y, precision, "cross_entropy", p0=0.1, labels=True)
    check(net, x, y, precision, found, loss="cross_entropy", smoothing=0.1)


def test_probabilities_and_weights():
    net = network([fn.Dense(20, "sigmoid"), fn.Dense(18)], 17)
    x, logits = data(16, 17, 18)
    y = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y[3], y[4, :5] = 0, 0
    weights = np.linspace(0, 2, 16).astype(np.float32)
    found = step(net, x, y, "tf32", "cross_entropy", weights)
    check(net, x, y, "tf32", found, weights, loss="cross_entropy")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_wide_layers(precision):
    """A part of the gradient for each of two warps, which take 16 rows each."""
    net = network([fn.Dense(40, "relu")], 33)
    x, y = data(20, 33, 40)
    check(net, x, y, precision, step(net, x, y, precision, warps=2))


def test_parts_of_rows_in_any_order():
    net = network(ODD, 7)
    x, y = data(60, 7, 3)
    weights = np.linspace(1, 2, 60).astype(np.float32)
    order = np.random.default_rng(0).permutation(60)
    taken = order[5:55]
    found = step(net, x, y, "fp16", "huber", weights, order, 5, 50, p0=0.5, blocks=2)
    check(net, x[taken], y[taken], "fp16", found, weights[taken], loss="huber")
    found = step(net, x, y, "fp16", "huber", weights, None, 3, 7, p0=0.5)
    check(net, x[3:10], y[3:10], "fp16", found, weights[3:10], loss="huber")


def test_loss_scale_saves_small_gradients():
    net = network(ODD, 7)
    x, y = data(8, 7, 3)
    found = step(net, x, y, "fp16", scale=1e-6, loss_scale=2.0**16)
    check(net, x, y, "fp16", found, scale=1e-6, loss_scale=2.0**16)
    assert np.abs(step(net, x, y, "fp16", scale=1e-9)[1]).max() == 0


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_rows_of_weight_zero(loss):
    net = network([fn.Dense(6, "relu"), fn.Dense(3)], 7)
    x, y = data(5, 7, 3)
    y = np.abs(y) if loss == "mse" else np.array([[0], [1], [2], [1], [0]], np.float32)
    weights = np.array([1, 0, 1, 0, 1], np.float32)
    kept = [0, 2, 4]
    x[1] *= 1e4
    found = step(net, x, y, "bf16", loss, weights, labels=loss != "mse")
    check(net, x[kept], y[kept], "bf16", found, loss=loss)
    x[1, 2] = np.nan
    loss_found, gradient = step(net, x, y, "bf16", loss, weights, labels=loss != "mse")
    assert np.isnan(loss_found)
    assert np.isnan(gradient).any()


def test_which_plans():
    def plan(layers, n_inputs=8):
        return fn.Sequential(layers, n_inputs=n_inputs)._built()

    def eligible(plan, from_pre_activation=False, rowwise=False, precision="bf16"):
        found = fused.describe_training(plan, from_pre_activation)
        return found is not None and fused.shape_for(found, precision, rowwise) is not None

    def wide(width, depth, **options):
        return eligible(plan([fn.Dense(width, "relu")] * depth, width), **options)

    assert eligible(plan(ODD))
    assert wide(64, 4)
    assert wide(64, 4, rowwise=True)
    assert not wide(64, 5)
    assert wide(32, 8)
    assert wide(16, 12)
    assert wide(128, 1)
    assert not wide(128, 1, rowwise=True)
    assert not wide(128, 2)
    assert eligible(plan([fn.Dense(128, "relu"), fn.Dense(10)], 64))
    assert wide(32, 4, precision="tf32")
    assert not wide(33, 1, precision="tf32")
    softmax = plan([fn.Dense(64, "relu"), fn.Dense(10, "softmax")], 64)
    assert eligible(softmax, True, True)
    assert not eligible(softmax)
    assert not eligible(plan([fn.Dense(129)]))
    assert not eligible(plan([fn.Dense(4), fn.Dropout(0.5), fn.Dense(2)]))
    assert not eligible(plan([fn.Dense(4, "step"), fn.Dense(2)]))


def test_less_shared_memory_takes_fewer_warps():
    found = fused.describe_training(fn.Sequential([fn.Dense(64, "relu")] * 3, n_inputs=64)._built(), False)
    most = fused.shape_for(found, "bf16")
    fewer = fused.shape_for(found, "bf16", most_bytes=fused.shared_bytes(most, 3) - 1)
    assert fewer.warps < most.warps == 8
    assert fused.shape_for(found, "bf16", most_bytes=0) is None
