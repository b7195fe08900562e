"""`fastnn.cuda` on a real GPU: what `cuda_in_simulator` cannot see, and how long it takes."""

import statistics
import time

import numpy as np
import pytest

import fastnn as fn

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Grid size"),  # small grids are what is tested
    pytest.mark.filterwarnings("ignore:Host array"),
]


@pytest.fixture(scope="module")
def networks(gpu):
    """The module `cuda_networks`, where there is a GPU."""
    import cuda_networks

    return cuda_networks


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layers(networks, dtype):
    for name in networks.LAYERS:
        net, X = networks.network(name, dtype), networks.rows(1000, dtype)
        found = networks.predicted(net, X, threads=128)
        np.testing.assert_allclose(found, net.predict(X), **networks.TOLERANCES[dtype], err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", fn.activations.names())
def test_activations(networks, name, dtype):
    activation = fn.activations.get(name)
    points = [*np.linspace(-9, 9, 46), -1e-20, 0, 1e-20, -41, 41, -1e4, 1e4]
    z = np.array([points, [np.nan, np.inf, -np.inf, *points[3:]]], dtype)
    net = fn.Sequential([fn.Activation(activation)], n_inputs=z.shape[1], dtype=dtype)
    np.testing.assert_allclose(networks.predicted(net, z), activation(z), **networks.TOLERANCES[dtype])


@pytest.mark.parametrize("shape", ["20-64-64-1", "4-32-16-4"])
def test_time(gpu, networks, shape):
    """Nanoseconds a sample, printed (pytest -s); the values are right at that size too."""
    from fastnn.cuda import device_state

    n_inputs, *hidden, n_outputs = map(int, shape.split("-"))
    layers = [*(fn.Dense(units, "tanh") for units in hidden), fn.Dense(n_outputs)]
    net = fn.Sequential(layers, n_inputs=n_inputs, seed=0)
    X = np.random.default_rng(0).standard_normal((1 << 20, n_inputs), np.float32)
    state, x, out = device_state(net), gpu.to_device(X), gpu.device_array((len(X), n_outputs), np.float32)
    kernel = networks.make_kernel(net)[len(X) // 128, 128]
    seconds = []
    for _ in range(8):
        gpu.synchronize()
        begin = time.perf_counter()
        kernel(state, x, out)
        gpu.synchronize()
        seconds.append(time.perf_counter() - begin)
    taken = statistics.median(seconds[1:])  # the first call compiles
    flops = 2 * sum(w.size for w in net.named_parameters().values() if w.ndim == 2) * len(X)
    device = gpu.get_current_device().name
    print(f"{shape} on {device}: {taken / len(X) * 1e9:.3f} ns a sample, {flops / taken * 1e-9:.0f} GFLOP/s")
    np.testing.assert_allclose(out.copy_to_host(), net.predict(X), **networks.TOLERANCES["float32"])
