"""Training in `fastnn.cuda.fused_float32_training`; `test_cuda_simulator` runs this in the simulator."""

import fused_reference as reference
import numpy as np
import pytest

import fastnn as fn
from fastnn import losses
from fastnn.cuda import fused_float32_layout as fused
from fastnn.cuda import kernels
from fastnn.cuda.fused_training import describe_training

# NumPy warns where a GPU goes on with an infinity or a NaN.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

MOST = 227 * 1024 // 4  # numbers in shared memory
NONE = np.zeros(1, np.float32)
ODD = [fn.Dense(13, "tanh"), fn.Dense(18, "relu"), fn.Dense(3)]


def network(layers, n_inputs):
    net = fn.Sequential(layers, n_inputs=n_inputs, seed=1)
    net.parameters[:] += 0.2 * np.random.default_rng(2).standard_normal(net.n_parameters)
    return net


def data(n, n_inputs, n_outputs):
    rng = np.random.default_rng(3)
    return (rng.standard_normal((n, k)).astype(np.float32) for k in (n_inputs, n_outputs))


def step(
    net, x, y, loss="mse", weights=None, order=None, first=0, count=None, scale=1.0, blocks=1, warps=1, labels=False,
    vectors=None, rows=4,
):  # fmt: skip
    """Loss and gradient by the kernel."""
    last = net._built().activations[-1]
    resolved = losses.get(loss).resolve("identity" if last is None else last.name, net.n_outputs)
    description = describe_training(net._built(), resolved.from_pre_activation)
    found = fused.layout_for(description, rows, MOST, alone_with=32 if rows == 4 else 0)
    shape = found.shape._replace(warps=warps, parts=-(-found.shape.parts // warps))
    layout = fused.lay_out(description, shape, found.shares)
    partials = np.full((blocks * layout.shares, net.n_parameters), np.nan, np.float32)
    sums = np.full(blocks, np.nan, np.float32)
    flags = labels * kernels.LABELS | (weights is not None) * kernels.WEIGHTED | (order is not None) * kernels.ORDERED
    kernel = kernels.narrow_kernel(layout.shape, description.activations, resolved.source)
    kernel[blocks, layout.shape.threads, 0, 4 * (layout.shape.shared + layout.size)](
        layout.table, layout.n_layers, layout.weights, layout.shares, net.parameters, x.reshape(-1),
        y.reshape(-1), NONE if weights is None else weights, np.zeros(1, np.int64) if order is None else order,
        y.shape[1], flags, x.shape[1] % 4 == 0 if vectors is None else vectors, first,
        len(x) if count is None else count, np.float32(scale), np.array(resolved.parameter_values, np.float32),
        net.n_parameters, partials.reshape(-1), sums,
    )  # fmt: skip
    return sums.astype(float).sum(), partials.astype(float).sum(0)


def check(net, x, y, found, weights=None, scale=1.0, loss="mse", smoothing=0.0):
    weights = np.ones(len(x)) if weights is None else weights
    wanted = reference.step(net, x, y, weights, scale, "float64", loss, smoothing)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4, atol=1e-5 * np.abs(wanted[1]).max())


@pytest.mark.parametrize("n", [1, 8, 37])
@pytest.mark.parametrize("rows", [4, 8])
def test_rows_that_fill_no_piece(n, rows):
    net = network(ODD, 7)
    x, y = data(n, 7, 3)
    check(net, x, y, step(net, x, y, scale=1 / 32, rows=rows), scale=1 / 32)


@pytest.mark.parametrize(
    "widths", [(1, 1), (16, 20, 17), (12, 32, 5, 16), (33, 64, 40), (64, 17, 61), (60, 3, 64, 4), (32,) * 9]
)
@pytest.mark.parametrize(("bias", "rows"), [(False, 8), (True, 8), (True, 4)])
def test_widths(widths, bias, rows):
    """Both classes of widths; few outputs and many, whole vectors and not; a part for each layer, or two."""
    n_in, *hidden, n_out = widths
    net = network([*(fn.Dense(n, "sigmoid", bias=bias) for n in hidden), fn.Dense(n_out, bias=bias)], n_in)
    x, y = data(11, n_in, n_out)
    found = step(net, x, y, rows=rows)
    check(net, x, y, found)
    for a, b in zip(found, step(net, x, y, vectors=False, rows=rows), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("blocks, warps", [(3, 1), (1, 2), (2, 4)])
def test_cut_as_for_a_gpu(blocks, warps):
    """More blocks than one, and pieces of several warps: some of the last have no rows."""
    net = network(ODD, 7)
    x, y = data(4 * warps * (blocks + 1) + 3, 7, 3)
    check(net, x, y, step(net, x, y, blocks=blocks, warps=warps))


def test_labels():
    net = network([fn.Dense(9, "relu", bias=False), fn.Dense(5, "softmax")], 6)
    x, logits = data(19, 6, 5)
    y = np.argmax(logits, 1).astype(np.float32)[:, None]
    found = step(net, x, y, losses.CrossEntropy(label_smoothing=0.1), labels=True)
    check(net, x, y, found, loss="cross_entropy", smoothing=0.1)


def test_probabilities_and_weights():
    net = network([fn.Dense(20, "sigmoid"), fn.Dense(18, "softmax")], 17)
    x, logits = data(16, 17, 18)
    y = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    weights = np.linspace(0, 2, 16).astype(np.float32)
    check(net, x, y, step(net, x, y, "cross_entropy", weights), weights, loss="cross_entropy")


def test_parts_of_rows_in_any_order():
    net = network(ODD, 7)
    x, y = data(60, 7, 3)
    weights = np.linspace(1, 2, 60).astype(np.float32)
    order = np.random.default_rng(0).permutation(60)
    taken = order[5:55]
    found = step(net, x, y, losses.Huber(0.5), weights, order, 5, 50, blocks=2)
    check(net, x[taken], y[taken], found, weights[taken], loss="huber")
    found = step(net, x, y, losses.Huber(0.5), weights, None, 3, 7)
    check(net, x[3:10], y[3:10], found, weights[3:10], loss="huber")


def test_infinities_meet_no_padding():
    """Layers have 3 units, and one more of padding; activations of -inf and inf are numbers."""
    net = fn.Sequential([fn.Dense(3, "sigmoid"), fn.Dense(3, "tanh"), fn.Dense(2)], n_inputs=1, seed=0)
    x, y = np.array([[np.inf], [-np.inf]], np.float32), np.zeros((2, 2), np.float32)
    loss, gradient = step(net, x, y)
    wanted = reference.step(net, np.array([[1e9], [-1e9]]), y, np.ones(2), 1.0, "float64", "mse")
    np.testing.assert_allclose(loss, wanted[0], rtol=1e-5)
    np.testing.assert_allclose(gradient[3:], wanted[1][3:], rtol=1e-4, atol=1e-6)
    assert np.isnan(gradient[:3]).all()  # slopes of 0 times infinite inputs


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_rows_of_weight_zero(loss):
    net = network([fn.Dense(6, "relu"), fn.Dense(3, "softmax" if loss == "cross_entropy" else None)], 7)
    x, y = data(5, 7, 3)
    y = y if loss == "mse" else np.array([[0], [1], [2], [1], [0]], np.float32)
    weights = np.array([1, 0, 1, 0, 1], np.float32)
    kept = [0, 2, 4]
    x[1] *= 1e4
    check(net, x[kept], y[kept], step(net, x, y, loss, weights, labels=loss != "mse"), loss=loss)
    x[1, 2] = np.nan
    loss_found, gradient = step(net, x, y, loss, weights, labels=loss != "mse")
    assert np.isnan(loss_found)
    assert np.isnan(gradient).any()


def test_which_networks():
    def fits(layers, n_inputs=8, rows=8):
        description = describe_training(fn.Sequential(layers, n_inputs=n_inputs)._built(), False)
        return fused.layout_for(description, rows, MOST) is not None

    assert fits(ODD)
    assert fits([fn.Dense(64)] * 4, 64)
    assert not fits([fn.Dense(64)] * 5, 64)
    assert fits([fn.Dense(32)] * 8, 32)
    assert not fits([fn.Dense(32)] * 9, 32)
    assert not fits([fn.Dense(65)])
    assert not fits([fn.Dense(4)], 65)
    description = describe_training(fn.Sequential(ODD, n_inputs=8)._built(), False)
    least = fused.lay_out(description, fused.NarrowShape(32, 4, 1, 32, 8), 1)
    most = least.shape.shared + least.size + 1000
    assert fused.layout_for(description, 8, most, 0, 1000).shape.parts == 4  # here a warp stands for all
    assert fused.layout_for(description, 8, most - 1, 0, 1000) is None


@pytest.mark.parametrize(("batch", "shares"), [(0, 2), (4, 1), (17, 2), (64, 2)])
def test_shares_of_a_batch(batch, shares):
    """Three layers of 13, 18 and 3 units: 3 parts of 32 rows, or 4 of 16, for 8 warps."""
    description = describe_training(fn.Sequential(ODD, n_inputs=8)._built(), False)
    layout = fused.layout_for(description, 4, MOST, alone_with=batch)
    assert layout.shares == shares
    n_parts = 4 if batch else 3
    owned = layout.table[-fused.PART * layout.shape.parts :].reshape(-1, fused.PART).tolist()
    assert sum(layer >= 0 for layer, _, _ in owned) == shares * n_parts
    assert len({tuple(each) for each in owned if each[0] >= 0}) == shares * n_parts
