"""`fastnn.cuda` in numba-cuda's simulator. `test_cuda_simulator` runs this file, in a process of its own."""

import doctest
import math
import re
from pathlib import Path

import numpy as np
import pytest
import reference
from cuda_networks import LAYERS, TOLERANCES, make_kernel, network, predicted, rows
from numba import cuda, njit
from test_activations import CHANGED

import fastnn as fn
from fastnn.cuda import device_predict, device_state, sample, scalars
from fastnn.cuda._jit import SIMULATED

# NumPy warns where a GPU goes on with an infinity or a NaN.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

DTYPES = ["float32", "float64"]
ACTIVATIONS = [name for name in fn.activations.names() if fn.activations.get(name).definition.builtin]
ELEMENTWISE = [name for name in ACTIVATIONS if not fn.activations.get(name).rowwise]
ROWWISE = [name for name in ACTIVATIONS if fn.activations.get(name).rowwise]
FINITE = np.array([*np.linspace(-9, 9, 46), -1e-20, 0.0, 1e-20, -41.0, 41.0, -300.0, 300.0, -1e4, 1e4])
POINTS = np.array([*FINITE, np.nan, np.inf, -np.inf])


def test_this_is_the_simulator():
    assert SIMULATED


def values(activation, z):
    """``activation`` of the rows of ``z``, by a kernel."""
    net = fn.Sequential([fn.Activation(activation)], n_inputs=z.shape[1], dtype=z.dtype)
    return predicted(net, z)


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_activations(name, dtype, changed):
    activation = fn.activations.get(name).with_parameters(**CHANGED.get(name, {}) if changed else {})
    z = POINTS.astype(dtype)
    found = values(activation, z[None])[0]
    np.testing.assert_allclose(found, activation(z), **TOLERANCES[dtype])
    with np.errstate(over="ignore"):
        wanted = reference.activate(activation, FINITE.astype(dtype).astype(float)[None])[0].astype(dtype)
    rtol, atol = TOLERANCES[dtype].values()
    cancelled = 1e4 * np.finfo(float).eps  # in the reference's obvious formulas
    np.testing.assert_allclose(found[: len(FINITE)], wanted, rtol=rtol, atol=max(atol, cancelled))
    assert np.isnan(found[len(FINITE)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWWISE)
def test_rowwise_activations(name, dtype):
    z = np.random.default_rng(0).normal(0, 3, (9, 5)).astype(dtype)
    z[1], z[2], z[3, 2] = 1e4, -1e4, 1e4
    activation = fn.activations.get(name)
    wanted = reference.activate(activation, z.astype(float))
    np.testing.assert_allclose(values(activation, z), wanted, **TOLERANCES[dtype])
    z[4, 0], z[5, 4], z[6, 1], z[7] = np.nan, np.nan, np.inf, -np.inf
    found = values(activation, z)
    assert np.isnan(found[4:8]).all()
    np.testing.assert_allclose(found, activation(z), **TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_from_the_same_sources(name, dtype):
    """What training on a GPU will be made of."""
    activation = fn.activations.get(name)
    value, slope, curvature = (
        scalars.compiled(getattr(activation.definition, part)) for part in ("value", "slope", "curvature")
    )
    p0, p1 = map(np.dtype(dtype).type, activation.parameter_values)

    @cuda.jit
    def kernel(z, out):
        for i in range(z.size):
            a = value(z[i], p0, p1)
            out[0, i] = slope(z[i], a, p0, p1)
            out[1, i] = curvature(z[i], a, p0, p1)

    z = POINTS[np.abs(POINTS) < 1e3].astype(dtype)
    out = np.empty((2, z.size), dtype)
    kernel[1, 1](z, out)
    np.testing.assert_allclose(out[0], activation.derivative(z), **TOLERANCES[dtype])
    np.testing.assert_allclose(out[1], activation.second_derivative(z), **TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, dtype):
    net, X = network(name, dtype), rows(6, dtype)
    found = predicted(net, X)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, net.predict(X), **TOLERANCES[dtype])
    np.testing.assert_allclose(found, reference.Network(net).forward(X), **TOLERANCES[dtype])


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 15, 16, 17, 33])
def test_widths(width):
    net = fn.Sequential([fn.Dense(width, "relu"), fn.Dense(width), fn.Dense(1)], n_inputs=width, seed=0)
    X = np.random.default_rng(0).standard_normal((2, width), np.float32)
    np.testing.assert_allclose(predicted(net, X), net.predict(X), **TOLERANCES["float32"])


def test_nan_and_extremes_in_a_network():
    net, X = network("dense", "float32"), rows(4, "float32")
    X[1, 3], X[2] = np.nan, 1e4
    found = predicted(net, X)
    assert np.isnan(found[1]).all()
    whole = [0, 2, 3]
    np.testing.assert_allclose(found[whole], net.predict(X[whole]), rtol=1e-5)


@pytest.mark.parametrize("of_x", DTYPES)
@pytest.mark.parametrize("of_out", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_other_kinds(dtype, of_out, of_x):
    net, X = network("residual", dtype), rows(3, of_x)
    kernel, state = make_kernel(net), device_state(net)
    strided = cuda.to_device(np.repeat(X, 2, axis=1))[:, ::2]
    for x in (cuda.to_device(X), cuda.to_device(np.asfortranarray(X)), strided):
        for step in (1, 3):
            out = cuda.to_device(np.zeros((3, 4 * step), of_out))
            kernel[1, 3](state, x, out[:, ::step])
            found = out.copy_to_host()
            np.testing.assert_allclose(found[:, ::step], net.predict(X), rtol=1e-5, atol=1e-6)
            assert np.count_nonzero(found) == 12


def test_input_and_output_may_be_the_same_memory():
    net = fn.Sequential([fn.Dense(12, "tanh"), fn.Dense(5)], n_inputs=5, seed=0)
    X = np.random.default_rng(0).standard_normal((3, 5), np.float32)
    wanted = net.predict(X)
    make_kernel(net)[1, 3](device_state(net), X, X)
    np.testing.assert_allclose(X, wanted, **TOLERANCES["float32"])


def test_a_network_that_learns_on_needs_a_new_state_only():
    net, X = network("batch norm", "float32"), rows(30, "float32")
    kernel, before = make_kernel(net), device_state(net)
    assert before.shape == (net.n_parameters + 2 * 5,)
    earlier = net.predict(X)
    net.fit(X, np.arange(30) % 2, epochs=3, optimizer=fn.Adam(0.1))
    for state, wanted in ((before, earlier), (device_state(net), net.predict(X))):
        out = np.empty((30, 2), "float32")
        kernel[30, 1](state, X, out)
        np.testing.assert_allclose(out, wanted, **TOLERANCES["float32"])
    assert np.abs(earlier - net.predict(X)).max() > 0.01


def test_activations_of_the_user_s_own():
    scale = 2.0

    @njit
    def bend(z):
        return scale * z if z > 0 else math.tanh(z)

    own = fn.activations.from_functions(
        "bent",
        lambda z: bend(z) + math.exp(-z * z),
        lambda z: (scale if z > 0 else 1 - math.tanh(z) ** 2) - 2 * z * math.exp(-z * z),
    )
    z = np.linspace(-3, 3, 20, dtype="float32")
    found = values(own, z[None])[0]
    np.testing.assert_allclose(found, own(z), **TOLERANCES["float32"])


def test_helpers_closures_and_inner_functions_are_translated():
    from fastnn._math import exp, where

    def helper(z):
        return where(z > z, z, exp(z))

    def recursive(n):
        return 1 if n == 0 else n * recursive(n - 1)

    def outer(z):
        def inner(x):
            return helper(x) + recursive(3)

        return inner(z)

    copy = scalars.compiled(outer)
    inside = dict(zip(copy.__code__.co_freevars, [c.cell_contents for c in copy.__closure__], strict=True))
    translated = inside["helper"]
    cells = dict(zip(translated.__code__.co_freevars, [c.cell_contents for c in translated.__closure__], strict=True))
    assert cells == {"exp": scalars.exp, "where": scalars.where}
    assert scalars.compiled(outer) is scalars.compiled(outer)
    assert scalars.compiled(helper) is inside["helper"]
    assert copy(np.float32(0)) == 7


def readme_block(word):
    """The example in README that has this word in it."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```py\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (example,) = (block for block in blocks if word in block)
    return compile(example, "README.md", "exec")


def test_readme_s_kernel():
    net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(2)], n_inputs=2, seed=0)
    names = {"motion": net}
    exec(readme_block("device_predict"), names)
    points, change = np.ones((3, 2), np.float32), np.zeros((3, 2), np.float32)
    names["move"][1, 4](device_state(net), points, change)
    np.testing.assert_allclose(change, net.predict(points), **TOLERANCES["float32"])


def test_readme_s_network_on_a_gpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).random((6, 3))
    names = {"fn": fn, "X": X, "y": np.arange(6)}
    exec(readme_block('device="cuda"'), names)
    assert hasattr(names["values"], "copy_to_host")
    same = fn.load("digits.safetensors")
    rounded = {"rtol": 2**-6, "atol": 2**-6}  # bfloat16 has 8 bits
    np.testing.assert_allclose(names["values"].copy_to_host(), same.predict(X), **rounded)


@pytest.mark.parametrize("module", [sample, scalars])
def test_examples(module):
    failed, _ = doctest.testmod(module)
    assert not failed


def test_only_built_networks():
    for function in (device_predict, device_state):
        with pytest.raises(TypeError, match="net must be a Sequential, got None"):
            function(None)
        with pytest.raises(ValueError, match="does not know its number of inputs"):
            function(fn.Sequential([fn.Dense(1)]))


# The simulator's blocks, `quick_simulator`


@cuda.jit
def passes_on(first, step, barrier, out):
    shared = cuda.shared.array(5, np.int64)
    t = cuda.threadIdx.x
    shared[t] = first + t
    if barrier:
        cuda.syncthreads()
    out[cuda.blockIdx.x, t] = shared[(t + step) % 5]


@pytest.mark.parametrize("step", [1, 4])
@pytest.mark.parametrize("barrier", [True, False])
def test_a_barrier_that_is_missing_shows(step, barrier):
    """Whichever way the values go: threads take turns in both directions."""
    right = []
    for launch in range(10):
        out = np.zeros((2, 5), np.int64)
        passes_on[2, 5](100 * launch, step, barrier, out)
        right += (out == 100 * launch + (np.arange(5) + step) % 5).all(axis=1).tolist()
    assert all(right) == barrier


@cuda.jit
def leaves_early(out):
    shared = cuda.shared.array(4, np.int64)
    t = cuda.threadIdx.x
    if t == 2:
        return
    shared[t] = t
    cuda.syncthreads()
    out[t] = shared[0] + shared[1] + shared[3]


def test_threads_that_have_returned_are_not_waited_for():
    out = np.zeros(4, np.int64)
    leaves_early[1, 4](out)
    np.testing.assert_array_equal(out, [4, 4, 0, 4])


@cuda.jit
def fails_at(t, out):
    if cuda.threadIdx.x == t:
        raise ValueError("as it should")
    cuda.syncthreads()
    out[cuda.threadIdx.x] = 1


def test_an_error_of_a_thread_ends_the_launch():
    for t in range(3):
        out = np.zeros(3)
        with pytest.raises(ValueError, match=rf"tid=\[{t}, 0, 0\].*: as it should"):
            fails_at[1, 3](t, out)
        assert not out.any()
