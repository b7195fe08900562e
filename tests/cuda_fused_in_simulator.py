"""`fastnn.cuda.fused` and `fused_float32` in the simulator; `test_cuda_simulator` runs this file in its own process."""

import fused_reference as reference
import numpy as np
import pytest

import fastnn as fn
from fastnn.cuda import fused, fused_float32
from fastnn.cuda._jit import SIMULATED

# NumPy warns where a GPU goes on with an infinity or a NaN.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

PRECISIONS = [*reference.PRECISIONS, "float32"]
ODD = [fn.Dense(13, "tanh"), fn.Dense(24, "relu"), fn.Dense(3)]


def small(shape):
    """One warp, which takes 16 rows."""
    return shape._replace(warps=1, row_tiles=1, column_tiles=1)


def network(layers, n_inputs):
    net = fn.Sequential(layers, n_inputs=n_inputs, seed=1)
    net.parameters[:] += 0.2 * np.random.default_rng(2).standard_normal(net.n_parameters)
    return net


def rows(n, n_inputs):
    return np.random.default_rng(3).standard_normal((n, n_inputs)).astype(np.float32)


def predicted(net, x, precision, shape=None, blocks=1, pairs=None):
    """The network's outputs by the kernel, between numbers that nobody may overwrite.

    ``pairs``: bits that say whether rows of x and of out begin on a whole pair; in float32, on a whole vector.
    """
    description = fused.describe(net._built())
    guarded = np.full(len(x) * net.n_outputs + 16, -7, np.float32)
    out, n = guarded[8:-8], 4 if precision == "float32" else 2
    if pairs is None:
        pairs = fused.X_IN_PAIRS * (x.shape[1] % n == 0) + fused.OUT_IN_PAIRS * (net.n_outputs % n == 0)
    if precision == "float32":
        table, weights = fused_float32.table_of(description)
        kernel = fused_float32.forward_kernel(description.activations)
        kernel[blocks, 32, 0, fused_float32.shared_bytes(weights, 1)](
            table, description.n_layers, weights, net.parameters, x.reshape(-1), len(x), out, pairs
        )
    else:
        shape = shape or small(fused.shape_for(description.width, precision))
        kernel = fused.forward_kernel(shape, description.activations)
        kernel[blocks, shape.threads, 0, fused.shared_bytes(shape, description.n_layers)](
            description.table, description.n_layers, net.parameters, x.reshape(-1), len(x), out, pairs
        )
    assert (guarded[:8] == -7).all()
    assert (guarded[-8:] == -7).all()
    return out.reshape(len(x), -1)


def check(net, x, precision, found):
    np.testing.assert_allclose(found, reference.forward(net, x, precision), **reference.CLOSE[precision])
    np.testing.assert_allclose(found, reference.forward(net, x, "float64"), **reference.LOOSE[precision])


def test_this_is_the_simulator():
    assert SIMULATED
    assert (fused.X_IN_PAIRS, fused.OUT_IN_PAIRS) == (fused_float32.X_IN_VECTORS, fused_float32.OUT_IN_VECTORS)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("n", [1, 16, 37])
def test_rows_that_fill_no_tile(n, precision):
    net, x = network(ODD, 7), rows(n, 7)
    check(net, x, precision, predicted(net, x, precision))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("widths", [(16, 16, 16), (12, 7, 5), (20, 32, 17), (1, 1, 1)])
def test_widths(widths, precision):
    n_in, hidden, n_out = widths
    net = network([fn.Dense(hidden, "gelu", bias=False), fn.Dense(n_out, bias=n_out > 5)], n_in)
    x = rows(18, n_in)
    check(net, x, precision, predicted(net, x, precision))


@pytest.mark.parametrize("width, precision", [(64, "bf16"), (64, "tf32"), (128, "bf16"), (69, "float32")])
def test_wide_layers(width, precision):
    net, x = network([fn.Dense(width - 5, "relu")], width - 6), rows(9, width - 6)
    check(net, x, precision, predicted(net, x, precision))


@pytest.mark.parametrize("warps, blocks", [(2, 1), (1, 2)])
def test_cut_as_for_a_gpu(warps, blocks):
    """Several row tiles and column tiles, warps or blocks, and rounds."""
    net = network([fn.Dense(20, "tanh"), fn.Dense(18)], 7)
    shape = fused.shape_for(20, "bf16")._replace(warps=warps, row_tiles=2, column_tiles=2)
    x = rows(3 * 32 - 3, 7)
    check(net, x, "bf16", predicted(net, x, "bf16", shape, blocks))


@pytest.mark.parametrize("widths", [(8, 35, 4), (12, 4, 64), (64, 32, 5), (3, 33, 1), (61, 64, 63)])
def test_every_cut_in_float32(widths):
    """A row for each lane, half of a tile, a whole one, one after the other; and a second round of one warp's rows."""
    net = network([fn.Dense(width, "sigmoid", bias=width > 4) for width in widths], widths[-1])
    x = rows(70, widths[-1])
    check(net, x, "float32", predicted(net, x, "float32"))
    np.testing.assert_array_equal(predicted(net, x, "float32"), predicted(net, x, "float32", blocks=2))


@pytest.mark.parametrize("pairs", [0, fused.X_IN_PAIRS, fused.OUT_IN_PAIRS])
@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_arrays_that_begin_anywhere(precision, pairs):
    net, x = network([fn.Dense(6, "silu"), fn.Dense(4)], 12), rows(5, 12)
    np.testing.assert_array_equal(predicted(net, x, precision, pairs=pairs), predicted(net, x, precision))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, precision):
    net, x = network([fn.Dense(9, "sigmoid"), fn.Dense(11, name)], 5), rows(17, 5)
    found = predicted(net, x, precision)
    check(net, x, precision, found)
    np.testing.assert_allclose((found if name == "softmax" else np.exp(found)).sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("last", [None, "softmax"])
def test_nan_stays_in_its_row(last, precision):
    net, x = network([fn.Dense(13, "relu"), fn.Dense(24, "tanh"), fn.Dense(3, last)], 7), rows(18, 7)
    clean = predicted(net, x, precision)
    x[2, 5], x[11, 0], x[17, 6] = np.nan, np.nan, np.nan
    found = predicted(net, x, precision)
    marked = np.isin(np.arange(18), [2, 11, 17])
    assert np.isnan(found[marked]).all()
    np.testing.assert_array_equal(found[~marked], clean[~marked])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_infinities_meet_no_padding(precision):
    net = fn.Sequential([fn.Dense(3, "sigmoid"), fn.Dense(2)], n_inputs=1, seed=0)
    net.parameters[:] = 1, -1, 0.5, *np.zeros(3), 1, 2, 4, 8, 16, 32, 0, 0
    x = np.array([[np.inf], [-np.inf]], np.float32)
    np.testing.assert_allclose(predicted(net, x, precision), [[17, 34], [4, 8]])
    overflow = fn.Sequential([fn.Dense(3), fn.Dense(2)], n_inputs=1, seed=0)
    overflow.parameters[:] = 3e38, 1, 1, *np.zeros(3), 1, 2, 1, 1, 1, 1, 0, 0
    x = np.full((1, 1), 1000, np.float32)
    np.testing.assert_allclose(predicted(overflow, x, precision), [[np.inf, np.inf]])


def test_which_plans():
    def plan(layers, n_inputs=8):
        return fn.Sequential(layers, n_inputs=n_inputs)._built()

    assert fused.eligible(plan(ODD))
    late = plan([fn.Dense(4), fn.Dropout(0.5), fn.Activation("tanh"), fn.Activation("identity"), fn.Dense(2)])
    assert fused.eligible(late)
    assert fused.describe(late).table.reshape(-1, fused.COLUMNS)[:, fused.ACTIVATION].tolist() == [fused.FIRST, 0]
    assert fused.eligible(plan([fn.Dense(128)] * 3, 128))
    assert fused.eligible(plan([fn.Dense(128)] * 6, 128))
    for layers in (
        [fn.Dense(129)],
        [fn.Dense(128)] * 7,
        [fn.Dense(4), fn.LayerNorm()],
        [fn.Activation("tanh"), fn.Dense(4)],
        [fn.Dense(4, "tanh"), fn.Activation("tanh")],
        [fn.Dense(4, "softmax"), fn.Dense(4)],
        [fn.Residual([fn.Dense(8)])],
        [fn.Dropout(0.1)],
    ):
        assert not fused.eligible(plan(layers)), layers
    assert not fused.eligible(plan([fn.Dense(128)] * 4, 128), "tf32")


def test_warps_in_float32():
    """As many as there is shared memory for; none where that would be too few."""
    most, fewest, row = fused_float32.MOST_WARPS, fused_float32.FEWEST_WARPS, 4 * 32 * 72
    weights = 4 * 65 * 64
    assert fused_float32.table_of(fused.describe(network([fn.Dense(64)] * 4, 64)._built()))[1] == weights
    for warps in (most, fewest):
        assert fused_float32.shared_bytes(weights, warps) == 4 * weights + warps * row
        assert fused_float32.warps_for(weights, 4 * weights + warps * row) == warps
    assert fused_float32.warps_for(weights, 4 * weights + fewest * row - 4) == 0
    assert fused_float32.warps_for(weights, 0) == 0


def test_dropout_and_late_activations():
    net = network([fn.Dense(4), fn.Dropout(0.5), fn.Activation("tanh"), fn.Dense(2, "relu"), fn.Dropout(0.1)], 3)
    same = network([fn.Dense(4, "tanh"), fn.Dense(2, "relu")], 3)
    x = rows(5, 3)
    check(same, x, "tf32", predicted(net, x, "tf32"))
