"""Specialised functions and C functions: the network's values for every width and layer, in place, and nothing else."""

import ctypes
import gc
import os
import subprocess
import sys
import warnings

import cffi
import numpy as np
import pytest
import scipy
import scipy.integrate
import scipy.ndimage
from numba import njit, prange
from numba.core.errors import NumbaWarning, TypingError
from numba.core.runtime import _nrt_python, rtsys

import fastnn as fn
from fastnn import jit

RNG = np.random.default_rng(0)
X = RNG.standard_normal((150, 6))
LABELS = RNG.integers(0, 3, 150)
NETWORKS = {
    "plain": [fn.Dense(20, "tanh"), fn.Dense(33, "relu"), fn.Dense(3)],
    "softmax": [fn.Dense(16, "gelu"), fn.Dense(3, "softmax")],
    "norms": [fn.Dense(12), fn.BatchNorm(), fn.Activation("silu"), fn.LayerNorm(), fn.Dropout(0.3), fn.Dense(3)],
    "norms first": [fn.BatchNorm(), fn.LayerNorm(), fn.Dense(7, "relu"), fn.BatchNorm(), fn.Dense(3)],
    "residual": [fn.Dense(9, "elu"), fn.Residual([fn.Dense(9, "relu"), fn.Dense(9)]), fn.Dense(3, "tanh")],
    "residual around all": [
        fn.Residual([fn.BatchNorm(), fn.Residual([fn.Activation("tanh")]), fn.Dense(6, "relu")]),
    ],
    "activations alone": [fn.Activation("relu"), fn.Activation("step"), fn.Activation("log_softmax")],
    "ends with a norm": [fn.Dense(5), fn.LayerNorm()],
    "single": [fn.Dense(3, bias=False)],
    "hidden softmax": [fn.Dense(10, "softmax"), fn.Dense(4, "sigmoid")],
}
WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 20, 31, 33, 64, 65, 130]


def trained(layers, dtype="float32"):
    """A network whose running statistics are not what they start as."""
    net = fn.Sequential(layers, n_inputs=6, seed=1, dtype="float64")
    if any(isinstance(layer, fn.BatchNorm) for layer in layers):
        net.fit(X, np.zeros((150, net.n_outputs)), "mse", "sgd", epochs=1)
    for name, buffer in net.named_buffers().items():
        net.set_parameters({name: buffer + 0.3})
    copied = fn.Sequential(layers, n_inputs=6, seed=1, dtype=dtype)
    copied.set_parameters(net.named_parameters() | net.named_buffers())
    return copied, net


def tolerance(dtype):
    return {"rtol": 2e-5, "atol": 3e-6} if dtype == "float32" else {"rtol": 1e-12, "atol": 1e-13}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", NETWORKS.values(), ids=NETWORKS)
def test_every_kind_of_layer(layers, dtype):
    net, exact = trained(layers, dtype)
    expected = exact.predict(X[:9])
    f, rows = net.specialize(), net.specialize(batch=9)
    np.testing.assert_allclose([f(x) for x in X[:9].astype(dtype)], expected, **tolerance(dtype))
    np.testing.assert_allclose(rows(X[:9].astype(dtype)), expected, **tolerance(dtype))
    other = "float32" if dtype == "float64" else "float64"
    assert net.specialize(other)(X[0]).dtype == other


@pytest.mark.parametrize(
    ("width", "dtype"), [(n, "float32") for n in WIDTHS] + [(n, "float64") for n in WIDTHS if n < 20]
)
def test_every_width_reads_and_writes_what_is_its_own(width, dtype):
    """As inputs, hidden units and outputs; beside x lies NaN, which any product with it would show."""
    for layers, n_inputs in (
        ([fn.Dense(1)], width),
        ([fn.Dense(width), fn.Dense(11), fn.Dense(width, "relu")], width),
    ):
        net = fn.Sequential(layers, n_inputs=n_inputs, seed=2, dtype=dtype)
        exact = fn.Sequential(layers, n_inputs=n_inputs, seed=2, dtype="float64")
        exact.set_parameters(net.named_parameters())
        x, out = np.full(n_inputs + 40, np.nan, dtype), np.full(net.n_outputs + 40, 7, dtype)
        x[20:-20] = RNG.standard_normal(n_inputs)
        returned = net.specialize()(x[20:-20], out[20:-20])
        assert returned.ctypes.data == out[20:].ctypes.data
        np.testing.assert_allclose(returned, exact.predict(x[None, 20:-20])[0], **tolerance(dtype))
        assert (out[:20] == 7).all()
        assert (out[-20:] == 7).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", fn.activations.names())
def test_every_activation(name, dtype):
    layers = [fn.Dense(21, name), fn.Dense(3, "identity" if name == "step" else name)]
    net = fn.Sequential(layers, n_inputs=6, seed=3, dtype=dtype)
    exact = fn.Sequential(layers, n_inputs=6, seed=3, dtype="float64")
    exact.set_parameters(net.named_parameters())
    f = net.specialize()
    large = 1.0 if name == "sine" else 1e4  # beyond, the rounding of an argument is worth a turn
    for x in (X[0], -30 * X[1], large * X[2]):
        x = x.astype(dtype)
        np.testing.assert_allclose(f(x), exact.predict(x[None])[0], **tolerance(dtype))
    bad, out = X[0].astype(dtype), np.zeros(3, dtype)
    bad[2] = np.nan
    jit.predict(net.jit_state(), bad, out)
    np.testing.assert_array_equal(np.isnan(f(bad)), np.isnan(out))


def test_parameters_of_activations_and_a_user_s_own():
    cube = fn.activations.from_functions("specialize_cube", lambda z: z * z * z, lambda z: 3 * z * z)
    net = fn.Sequential(
        [fn.Dense(5, fn.activations.leaky_relu.with_parameters(negative_slope=0.3)), fn.Dense(2, cube)], n_inputs=6
    )
    np.testing.assert_allclose(net.specialize()(X[0]), net.predict(X[:1])[0], rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 8, 11, 64])
def test_batches(batch):
    net = fn.Sequential([fn.Dense(70, "relu"), fn.Dense(17, "tanh"), fn.Dense(3)], n_inputs=6, seed=0)
    x = X[:batch].astype("float32")
    out = np.full((batch + 2, 3), 7, "float32")
    net.specialize(batch=batch)(x, out[1:-1])
    np.testing.assert_allclose(out[1:-1], net.predict(x), rtol=1e-5, atol=1e-6)
    assert (out[[0, -1]] == 7).all()


@pytest.mark.parametrize("batch", [None, 6])
def test_wide_layers_are_loops(batch):
    net = fn.Sequential([fn.Dense(300, "tanh"), fn.Dense(203), fn.Dense(10)], n_inputs=259, seed=0)
    x = RNG.standard_normal((6, 259)).astype("float32")
    given = x[0] if batch is None else x
    np.testing.assert_allclose(net.specialize(batch=batch)(given), net.predict(x)[0 if batch is None else slice(6)],
                               rtol=1e-4, atol=1e-5)  # fmt: skip


def test_deep_networks_are_straight_code_first_and_loops_then():
    net = fn.Sequential([fn.Dense(48, "relu")] * 20, n_inputs=6, seed=0)
    x = X[:1].astype("float32")
    np.testing.assert_allclose(net.specialize()(x[0]), net.predict(x)[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n", [16, 40, 150])
@pytest.mark.parametrize("depth", [1, 2])
def test_the_result_may_take_the_place_of_the_input(n, depth):
    net = fn.Sequential([fn.Dense(n)] * depth, n_inputs=n, seed=0)
    for batch in (None, 6):
        x = RNG.standard_normal(n if batch is None else (6, n)).astype("float32")
        expected = net.predict(x.reshape(-1, n)).reshape(x.shape)
        net.specialize(batch=batch)(x, x)
        np.testing.assert_allclose(x, expected, rtol=1e-4, atol=1e-5)


def test_arrays_of_any_kind_are_taken():
    net = fn.Sequential(NETWORKS["plain"], n_inputs=6, seed=1)
    f, many = net.specialize(), net.specialize(batch=4)
    x = X[:4].astype("float32")
    expected = net.predict(x)
    locked = x.copy()
    locked.flags.writeable = False
    out = np.zeros((4, 3), "float32")
    for given in (x, locked, x.astype("float64"), np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        np.testing.assert_allclose(many(given, out), expected, rtol=1e-5, atol=1e-6)
    for other in (np.zeros((4, 3)), np.zeros((3, 4), "float32").T, np.zeros((4, 6), "float32")[:, ::2]):
        assert many(x, other).ctypes.data == other.ctypes.data
        np.testing.assert_allclose(other, expected, rtol=1e-5, atol=1e-6)
    one = np.zeros(6)[::2]
    f(x.astype("float64").T.copy()[:, 0], one)
    np.testing.assert_allclose(one, expected[0], rtol=1e-5, atol=1e-6)
    whole = np.arange(-3, 3)
    np.testing.assert_allclose(f(whole), net.predict([whole])[0], rtol=1e-5, atol=1e-6)


def test_training_goes_on_without_it():
    net = fn.Sequential(NETWORKS["plain"], n_inputs=6, seed=1)
    f, pointer = net.specialize(), net.cfunc()
    before = f(X[0].astype("float32"))
    net.fit(X, LABELS, epochs=1)
    np.testing.assert_array_equal(f(X[0].astype("float32")), before)
    x, out = X[0].astype("float32"), np.zeros(3, "float32")
    pointer(np.ctypeslib.as_ctypes(x), np.ctypeslib.as_ctypes(out))
    np.testing.assert_array_equal(out, before)


def _loop_over(f):
    @njit(nogil=True)
    def loop(x, out, rounds):
        for _ in range(rounds):
            f(x, out)
            for j in range(3):
                x[j] += np.float32(0.01) * out[j]

    return loop


def test_a_million_calls_allocate_nothing():
    loop, x, out = _loop_over(fn.Sequential(NETWORKS["plain"], n_inputs=6).specialize()), X[0].astype("float32"), None
    out = np.zeros(3, "float32")
    loop(x, out, 1)
    _nrt_python.memsys_enable_stats()

    def allocations(rounds):
        before = rtsys.get_allocation_stats()
        loop(x * 0, out, rounds)
        after = rtsys.get_allocation_stats()
        return after.alloc - before.alloc, after.free - before.free

    assert allocations(1_000_000) == allocations(10)


def test_in_parallel_loops():
    net = fn.Sequential(NETWORKS["plain"], n_inputs=6, seed=0)
    f = net.specialize()

    @njit(parallel=True)
    def rows(x, out):
        for i in prange(len(x)):
            f(x[i], out[i])

    x, out = X.astype("float32"), np.zeros((150, 3), "float32")
    rows(x, out)
    np.testing.assert_allclose(out, net.predict(x), rtol=1e-5, atol=1e-6)


@njit
def _first(f, x, out):
    return f(x, out)[0]


def test_as_an_argument_of_compiled_functions():
    x, out = X[0].astype("float32"), np.zeros(3, "float32")
    for seed in (1, 2):
        net = fn.Sequential(NETWORKS["plain"], n_inputs=6, seed=seed)
        assert abs(_first(net.specialize(), x, out) - net.predict(x[None])[0, 0]) < 1e-5


def test_wrong_shapes():
    net = fn.Sequential([fn.Dense(3)], n_inputs=6)
    f, many = net.specialize(), net.specialize(batch=4)
    good, out = np.zeros(6, "float32"), np.zeros(3, "float32")
    for x in (good[:5], np.zeros(7), np.zeros((1, 6)), np.zeros(0)):
        with pytest.raises(ValueError, match=r"x must have shape \(6,\)"):
            f(x)
    for x in (np.zeros((3, 6)), np.zeros((6, 4)), np.zeros((4, 7)), np.zeros(24)):
        with pytest.raises(ValueError, match=r"x must have shape \(4, 6\)"):
            many(x)
    for wrong in (out[:2], np.zeros(4), np.zeros((1, 3))):
        with pytest.raises(ValueError, match=r"out must have shape \(3,\)"):
            f(good, wrong)
    with pytest.raises(ValueError, match=r"out must have shape \(4, 3\)"):
        many(np.zeros((4, 6)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match=r"x must have shape \(6,\)"):
        _loop_over(f)(good[:4], out, 1)
    assert (out == 0).all()


def test_what_is_no_array_or_cannot_be_written_to():
    f = fn.Sequential([fn.Dense(3)], n_inputs=2).specialize()
    x, locked = np.zeros(2, "float32"), np.zeros(3, "float32")
    locked.flags.writeable = False
    for arguments, message in (((3.0,), "got float64"), ((None,), "must be"), ((x, locked), "can be written to")):
        with pytest.raises(TypingError, match=message):
            f(*arguments)
    assert (locked == 0).all()


def test_wrong_arguments():
    net = fn.Sequential([fn.Dense(3)], n_inputs=6)
    with pytest.raises(ValueError, match="n_inputs"):
        fn.Sequential([fn.Dense(3)]).specialize()
    with pytest.raises(ValueError, match=r"one output, this one has 3"):
        net.cfunc(signature="double (int, double *)")


USER = """
import numpy as np, fastnn as fn
from numba import njit

f = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(1)], n_inputs=2, seed=1).specialize()

@njit(cache=True)
def user(x):
    return f(x)[0]

user(np.zeros(2, "float32"))
"""


def test_caches_are_left_alone(tmp_path):
    script, numbas, ours = tmp_path / "user.py", tmp_path / "numba", tmp_path / "fastnn"
    script.write_text(USER)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(numbas), "FASTNN_CACHE_DIR": str(ours)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
    assert "Cannot cache compiled function" in done.stderr
    files = [path.name for folder in (numbas, ours) for path in folder.rglob("*") if path.is_file()]
    assert not any("user" in name or "specialized" in name or "frozen" in name for name in files), files


def test_the_warning_is_numba_s():
    f = fn.Sequential([fn.Dense(1)], n_inputs=2).specialize()

    @njit(cache=True)
    def user(x):
        return f(x)[0]

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NumbaWarning, match="Cannot cache"):
            user(np.zeros(2, "float32"))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_c_function_from_ctypes_and_cffi(dtype):
    net = fn.Sequential(NETWORKS["plain"], n_inputs=6, seed=1, dtype=dtype)
    function = net.cfunc()
    x, out = X[0].astype(dtype), np.zeros(3, dtype)
    function(np.ctypeslib.as_ctypes(x), np.ctypeslib.as_ctypes(out))
    np.testing.assert_allclose(out, net.predict(x[None])[0], **tolerance(dtype))
    ffi = cffi.FFI()
    real = "float" if dtype == "float32" else "double"
    pointer = ffi.cast(f"void (*)(const {real} *, {real} *)", function.address)
    other = np.zeros(3, dtype)
    pointer(ffi.from_buffer(f"{real}[]", x), ffi.from_buffer(f"{real}[]", other))
    np.testing.assert_array_equal(other, out)


def test_the_address_lives_as_long_as_the_object():
    functions = [fn.Sequential([fn.Dense(2)], n_inputs=3, seed=seed).cfunc() for seed in range(3)]
    gc.collect()
    x, out = np.ones(3, "float32"), np.zeros(2, "float32")
    for seed, function in enumerate(functions):
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
        kind(function.address)(x.ctypes.data, out.ctypes.data)
        expected = fn.Sequential([fn.Dense(2)], n_inputs=3, seed=seed).predict(x[None])[0]
        np.testing.assert_allclose(out, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_integrals_by_scipy(dtype):
    net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(1)], n_inputs=1, seed=0, dtype=dtype)
    fast = scipy.LowLevelCallable(net.cfunc(signature="double (int, double *)"))
    slow, _ = scipy.integrate.quad(lambda t: net.predict([[t]])[0, 0], 0, 2, epsabs=1e-6)
    value, _ = scipy.integrate.quad(fast, 0, 2, epsabs=1e-6)
    assert abs(value - slow) < 1e-6
    net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(1)], n_inputs=2, seed=0, dtype="float64")
    fast = scipy.LowLevelCallable(net.cfunc(signature="double (int, double *)"))
    value, _ = scipy.integrate.nquad(fast, [(0, 1), (0, 2)])
    points, weights = np.polynomial.legendre.leggauss(20)
    grid = np.array([((p + 1) / 2, q + 1) for p in points for q in points])
    assert abs(value - (net.predict(grid)[:, 0] * np.outer(weights, weights).ravel()).sum() / 2) < 1e-9
    wrong = scipy.LowLevelCallable(net.cfunc(signature="double (int, double *)"))
    with pytest.warns(scipy.integrate.IntegrationWarning):
        assert np.isnan(scipy.integrate.quad(wrong, 0, 1)[0])


def test_a_filter_of_images_by_scipy():
    net = fn.Sequential([fn.Dense(8, "relu"), fn.Dense(1)], n_inputs=9, seed=0)
    image = RNG.standard_normal((12, 15))
    function = net.cfunc(signature="int (double *, npy_intp, double *, void *)")
    filtered = scipy.ndimage.generic_filter(image, scipy.LowLevelCallable(function), size=3, mode="wrap")
    slow = scipy.ndimage.generic_filter(image, lambda window: net.predict(window[None])[0, 0], size=3, mode="wrap")
    np.testing.assert_allclose(filtered, slow, atol=1e-6)
    with pytest.raises(RuntimeError):
        scipy.ndimage.generic_filter(image, scipy.LowLevelCallable(function), size=4)
