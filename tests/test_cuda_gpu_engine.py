"""Networks with ``device="cuda"`` on a real GPU: what `cuda_engine_in_simulator` cannot see, and how long it takes.

Beside each network on the GPU the same one computes on the CPU, in float64 and in float32. How far these two are apart
says how much a result owes to rounding, and so how near the GPU's must be, in either dtype.
"""

import gc
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from layers_table import LAYERS, N_INPUTS, network, rows
from losses_table import TABLE, draw, name_of_row
from optimizer_driver import VARIANTS, variant

import fastnn as fn

# Numba's warning of small grids: `test_nothing_is_warned_of` alone looks for it.
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu"), pytest.mark.filterwarnings("ignore:Grid size")]

DTYPES = ["float32", "float64"]
N = 1000
SHAPES = {
    "20-64-64-1": ((20, 64, 64, 1), "tanh"),
    "784-512-512-10": ((784, 512, 512, 10), "gelu"),
    "100 layers": ((20, *(32,) * 99, 1), "tanh"),
}  # smooth activations: at a kink, rounding would decide about a derivative
# Widths and the rows of a batch, by what `fastnn.cuda.passes` does with them.
WAYS = {
    "one block takes the batch": ((20, 64, 64, 1), 32),
    "blocks take samples": ((20, 64, 64, 1), 1 << 15),
    "blocks share layers": ((784, 512, 512, 10), 512),
}
# What makes `fastnn.cuda.passes` treat small networks so, too.
LIMITS = {
    "one block takes the batch": {},
    "blocks take samples": {"ALONE": 0},
    "blocks share layers": {"ALONE": 0, "NARROW": 1},
}
MANY = 1 << 18
DEEP = (64, 64, 64, 64, 64)
PRECISIONS = {"tf32": 11, "bf16": 8, "fp16": 11}  # bits, with the one that is not stored


@pytest.fixture
def limits(request, monkeypatch):
    """The name of a way, given as a parameter, that networks of this test go."""
    from fastnn.cuda import passes

    for name, value in LIMITS[request.param].items():
        monkeypatch.setattr(passes, name, value)
    return request.param


every_way = pytest.mark.parametrize("limits", LIMITS, indirect=True)


class Three(NamedTuple):
    """One network in three places: on the CPU in float64 and in float32, and on the GPU."""

    double: fn.Sequential
    single: fn.Sequential
    found: fn.Sequential

    @classmethod
    def of(cls, single, double, dtype):
        double.set_parameters(single.named_parameters() | single.named_buffers())
        return cls(double, single, (single if dtype == "float32" else double).copy().to("cuda"))

    @classmethod
    def made(cls, layers, n_inputs, dtype):
        return cls.of(*(fn.Sequential(layers, n_inputs, seed=3, dtype=each) for each in DTYPES), dtype)

    def ask(self, question):
        """Compare the three answers, numbers or arrays or dictionaries of them."""
        assert_near(*map(question, self), self.found.dtype)

    def assert_same_parameters(self):
        self.ask(lambda net: {name: on_host(v) for name, v in (net.named_parameters() | net.named_buffers()).items()})


def on_host(array):
    return array.copy_to_host() if hasattr(array, "copy_to_host") else array


def assert_near(double, single, found, dtype):
    """``found`` is about as near to ``double`` as rounding in its dtype allows.

    Some eight times the error of the CPU's float32, because a GPU sums in another order, with other elementary
    functions. Errors are relative to an array's largest number; of several arrays, the largest error counts, because
    those of a few numbers may be small by chance.
    """
    double, single, found = (each if isinstance(each, dict) else {"": each} for each in (double, single, found))
    assert list(found) == list(double)
    scales = {name: np.abs(value).max(initial=0) for name, value in double.items()}
    least = 1e-3 * max(scales.values(), default=0)  # a bias before batch normalisation has a gradient of rounding alone
    scales = {name: max(scale, least) for name, scale in scales.items()}
    errors = [np.abs(single[name] - double[name]).max(initial=0) / scale for name, scale in scales.items() if scale]
    eps = np.finfo("float32").eps
    allowed = (8 * max(errors, default=0) + 64 * eps) * np.finfo(dtype).eps / eps
    for name, wanted in double.items():
        assert np.shape(found[name]) == np.shape(wanted)
        error = np.abs(found[name] - wanted).max(initial=0)
        assert error <= allowed * scales[name], f"{name}: {error:.3g}, {allowed * scales[name]:.3g} are allowed"


def dense(widths, activation="tanh"):
    """Layers behind ``widths[0]`` inputs; the last is linear."""
    return [*(fn.Dense(units, activation) for units in widths[1:-1]), fn.Dense(widths[-1])]


def numbers(n, columns, seed=5):
    return np.random.default_rng(seed).standard_normal((n, columns), np.float32)


def ask_everything(three, x, y, loss, weights=None):
    """Predictions, losses and gradients, in inference and in training mode."""
    three.ask(lambda net: net.predict(x))
    three.ask(lambda net: net.evaluate(x, y, loss, (), weights))
    for training in (False, True):
        options = {"sample_weight": weights, "training": training, "seed": 1}
        three.ask(lambda net, o=options: net.loss_and_gradients(x, y, loss, **o)[0])
        three.ask(lambda net, o=options: net.loss_and_gradients(x, y, loss, **o)[1])
        three.ask(lambda net, o=options: net.input_gradients(x, y, loss, **o))


@pytest.mark.parametrize(
    ("way", "alone", "narrow"), [*zip(WAYS, (True, False, False), (True, True, False), strict=True)]
)
def test_each_way_is_taken(way, alone, narrow):
    from fastnn.cuda import passes

    widths, batch = WAYS[way]
    net = fn.Sequential(dense(widths), widths[0])
    assert (batch * net.n_parameters <= passes.ALONE) is alone
    assert (max(widths) <= passes.NARROW) is narrow


@every_way
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(limits, name, dtype):
    three, x = Three.of(*(network(name, each) for each in DTYPES), dtype), rows(N, "float32")
    y, w = numbers(N, three.double.n_outputs), np.random.default_rng(1).uniform(0.2, 2, N).astype("float32")
    ask_everything(three, x, y, "mse", w)
    for net in three:
        net.fit(x, y, "mse", fn.SGD(0.05, momentum=0.9), epochs=2, batch_size=N * 2 // 5, sample_weight=w)
    three.assert_same_parameters()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_real_sizes(name, dtype):
    widths, activation = SHAPES[name]
    three = Three.made(dense(widths, activation), widths[0], dtype)
    ask_everything(three, numbers(N, widths[0], 1), numbers(N, widths[-1]), "mse")


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("way", WAYS)
def test_fit(way, dtype, shuffle):
    widths, batch = WAYS[way]
    n = batch * 5 // 2  # the last batch is short
    three = Three.made(dense(widths), widths[0], dtype)
    x, y = numbers(n, widths[0], 1), numbers(n, widths[-1])
    options = {"epochs": 2, "batch_size": batch, "shuffle": shuffle}
    losses = [net.fit(x, y, "mse", fn.SGD(0.01, momentum=0.9), **options).loss for net in three]
    assert_near(*map(np.asarray, losses), dtype)
    three.assert_same_parameters()


TRAINABLE = [name for name in fn.activations.names() if fn.activations.get(name).trainable]
GROUPS = [TRAINABLE[k : k + 5] for k in range(0, len(TRAINABLE), 5)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("names", GROUPS, ids=" ".join)
def test_activations(names, dtype):
    """Some in one network, each as a layer's and standing alone, of values that a norm keeps near 1."""
    groups = ([fn.Dense(16, name), fn.LayerNorm(), fn.Activation(name), fn.LayerNorm()] for name in names)
    three = Three.made([*itertools.chain(*groups), fn.Dense(2)], N_INPUTS, dtype)
    ask_everything(three, rows(N, "float32"), numbers(N, 2), "mse")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", fn.activations.names())
def test_activations_far_out(name, dtype):
    """A value depends on its own z alone, so these come back to the last bits, or as the infinities that they are."""
    points = [*np.linspace(-9, 9, 37), -1e-20, 0, 1e-20, -41, 41, -300, 300, -1e4, 1e4]
    net = fn.Sequential([fn.Activation(name)], n_inputs=len(points), dtype=dtype)
    x = np.array([points], dtype)
    close = {"float32": {"rtol": 1e-5, "atol": 2e-6}, "float64": {"rtol": 1e-12, "atol": 1e-13}}[dtype]
    with np.errstate(over="ignore"):
        wanted = net.predict(x)
    np.testing.assert_allclose(net.to("cuda").predict(x), wanted, **close)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("entry", TABLE, ids=name_of_row)
def test_losses(entry, dtype):
    """All of the table, with rows of weight 0, through the output activation that the loss is computed with."""
    loss, activation, *_ = entry
    _, y, _ = draw(entry, 3)
    y = np.tile(y, (44, 1)).astype("float32")
    w = np.random.default_rng(2).uniform(0.2, 2, len(y)).astype("float32")
    w[3::100] = 0
    three = Three.made([fn.Dense(16, "tanh"), fn.Dense(3, activation)], N_INPUTS, dtype)
    ask_everything(three, rows(len(y), "float32"), y, loss, w)


@every_way
@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "kl_divergence"])
def test_losses_of_many_classes(limits, loss):
    """More classes than threads share a row."""
    three = Three.made([fn.Dense(24, "tanh"), fn.Dense(101, "softmax")], N_INPUTS, "float32")
    ask_everything(three, rows(N, "float32"), np.random.default_rng(0).integers(0, 101, N), loss)


@pytest.mark.parametrize(("dtype", "batch"), [("float32", 32), ("float64", 8192)])
@pytest.mark.parametrize("name", VARIANTS)
def test_twenty_steps_of_each_optimizer(name, dtype, batch):
    """Of small batches that one block takes, and of large ones whose gradients many blocks update."""
    three, optimizers = Three.made(dense((N_INPUTS, 24, 2)), N_INPUTS, dtype), [variant(name) for _ in range(3)]
    x, y = rows(batch, "float32"), numbers(batch, 2)
    for net, optimizer in zip(three, optimizers, strict=True):
        net.fit(x, y, "mse", optimizer, epochs=20, batch_size=batch)
    three.assert_same_parameters()
    assert_near(*(optimizer.state.slots for optimizer in optimizers), dtype)


@every_way
def test_penalties_and_clipping(limits):
    layers = [fn.Dense(24, "tanh", l1=0.01, l2=0.02), fn.Dropout(0.2), fn.Dense(24, "gelu"), fn.Dense(2, l2=0.1)]
    three, x, y = Three.made(layers, N_INPUTS, "float32"), rows(N, "float32"), numbers(N, 2)
    ask_everything(three, x, y, "mse")
    for net in three:
        net.fit(x, y, "mse", fn.SGD(0.1, clip_norm=0.5, clip_value=0.2), epochs=3, batch_size=400)
    three.assert_same_parameters()


def rounded(widths, precision):
    """A network with such products, the same in float64 on the CPU, and data whose gradients fp16 can hold."""
    found = fn.Sequential(dense(widths, "gelu"), widths[0], seed=3, device="cuda", precision=precision)
    double = fn.Sequential(dense(widths, "gelu"), widths[0], seed=3, dtype="float64")
    double.set_parameters({name: on_host(v) for name, v in found.named_parameters().items()})
    return found, double, numbers(N, widths[0], 1), 30 * numbers(N, widths[-1])


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("n_in", [7, 64, 784])
def test_a_product_of_rounded_operands(precision, n_in):
    """Two operands, each off by 2**-bits of itself, and their sum in float32."""
    found, double, x, _ = rounded((n_in, 65), precision)
    magnitude = np.abs(x).astype(float) @ np.abs(double.named_parameters()["0.weight"])
    unit, eps = 2.0 ** -PRECISIONS[precision], np.finfo("float32").eps
    error = np.abs(found.predict(x) - double.predict(x))
    assert (error <= ((1 + unit) ** 2 - 1 + n_in * eps) * magnitude + 1e-6).all()
    assert error.max() > unit / 50 * magnitude.max() / n_in**0.5  # and rounded they are


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ["20-64-64-1", "784-512-512-10"])
def test_networks_of_rounded_operands(name, precision):
    """Roundings are independent: in the mean a product is off by about one of them, and each layer adds its own."""
    widths, _ = SHAPES[name]
    found, double, x, y = rounded(widths, precision)
    unit = 2.0 ** -PRECISIONS[precision]

    def assert_in_the_mean(one, other, products):
        one, other = np.asarray(one, float), np.asarray(other, float)
        assert np.linalg.norm(one - other) <= 2 * products * unit * np.linalg.norm(other)

    assert_in_the_mean(found.predict(x), double.predict(x), 3)
    value, gradients = found.loss_and_gradients(x, y, "mse")
    wanted_value, wanted = double.loss_and_gradients(x, y, "mse")
    assert_in_the_mean(value, wanted_value, 3)
    for layer, gradient in wanted.items():
        assert_in_the_mean(gradients[layer], gradient, 6)
    histories = [net.fit(x, y, "mse", fn.SGD(1e-4), epochs=3, batch_size=200) for net in (found, double)]
    assert_in_the_mean(histories[0].loss, histories[1].loss, 6)


def trained(way, precision=None):
    """Parameters and predictions after some steps with everything that is random, over data on the GPU."""
    from numba import cuda

    (n_inputs, *hidden, n_outputs), batch = WAYS[way]
    layers = [each for units in hidden for each in (fn.Dense(units, "gelu"), fn.Dropout(0.2), fn.LayerNorm())]
    net = fn.Sequential([*layers, fn.Dense(n_outputs)], n_inputs, seed=1, device="cuda", precision=precision)
    x, y = cuda.to_device(numbers(2 * batch + 5, n_inputs, 1)), cuda.to_device(numbers(2 * batch + 5, n_outputs))
    net.fit(x, y, "mse", fn.Adam(0.01, clip_norm=1.0), epochs=3, batch_size=batch)
    return on_host(net.parameters), on_host(net.predict(x))


@pytest.mark.parametrize("precision", [None, *PRECISIONS])
@pytest.mark.parametrize("way", WAYS)
def test_the_same_run_gives_the_same_bits(way, precision):
    for one, other in zip(trained(way, precision), trained(way, precision), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("way", WAYS)
def test_streams(gpu, way):
    """Several streams in turn, of which none is the default one, give what the default one gives."""
    from fastnn.cuda import use_stream

    wanted = trained(way)
    for stream in (gpu.stream(), gpu.stream()):
        with use_stream(stream):
            found = trained(way)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_predictions_stay_on_their_stream(gpu):
    """Nothing is waited for: what comes after on the same stream sees them complete, and so does a copy to the host."""
    from fastnn.cuda import use_stream

    net = fn.Sequential(dense(DEEP, "relu"), DEEP[0], seed=0)
    x = numbers(MANY // 4, DEEP[0])
    wanted, stream = net.predict(x), gpu.stream()
    net.to("cuda")
    with use_stream(stream):
        on_gpu = gpu.to_device(x, stream=stream)
        found = [net.predict(on_gpu) for _ in range(5)]
    for each in found:
        np.testing.assert_allclose(each.copy_to_host(), wanted, rtol=1e-4, atol=1e-5)


def free_memory(gpu):
    gc.collect()
    gpu.synchronize()
    context = gpu.current_context()
    context.deallocations.clear()
    return context.get_memory_info().free


@pytest.mark.parametrize("anew", [False, True], ids=["one network", "a network each time"])
@pytest.mark.parametrize("way", WAYS)
def test_memory_does_not_grow(gpu, way, anew):
    widths, batch = WAYS[way]
    x, y = numbers(2 * batch, widths[0], 1), numbers(2 * batch, widths[-1])
    made = fn.Sequential(dense(widths), widths[0], device="cuda")

    def use():
        net = made.copy() if anew else made
        net.fit(x, y, "mse", "adam", epochs=1, batch_size=batch)
        net.predict(x)
        net.loss_and_gradients(x, y, "mse")

    for _ in range(3):
        use()
    before = free_memory(gpu)
    for _ in range(50):
        use()
    assert before - free_memory(gpu) < 4 << 20


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_warned_of(way):
    """Numba warns of launches with few blocks, which for small batches are right."""
    widths, batch = WAYS[way]
    net = fn.Sequential(dense(widths), widths[0], device="cuda")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        net.fit(numbers(batch, widths[0]), numbers(batch, widths[-1]), "mse", epochs=2, batch_size=batch)
        net.predict(numbers(3, widths[0]))
    assert [str(each.message) for each in seen] == []


def seconds_each(gpu, work, few=2, many=12):
    """Of one more turn of ``work(turns)``: what a call costs besides falls out of the difference."""
    from fastnn._cli.bench.gpu.timing import seconds_of_numba

    work(many)  # compiles
    found = {
        turns: statistics.median(seconds_of_numba(lambda n=turns: work(n)) for _ in range(5)) for turns in (few, many)
    }
    return (found[many] - found[few]) / (many - few)


@pytest.mark.parametrize("name", ["xor", "20-64-64-1"])
def test_time_of_small_steps(gpu, name):
    """Steps a second, printed (pytest -s); the losses are the CPU's."""
    widths, activation, n, batch = {
        "xor": ((2, 8, 1), "tanh", 4, 4),
        "20-64-64-1": ((20, 64, 64, 1), "relu", 6400, 32),
    }[name]
    single = fn.Sequential(dense(widths, activation), widths[0], seed=0)
    net = single.copy().to("cuda")
    x, y = numbers(n, widths[0], 1), numbers(n, widths[-1])
    options = {"loss": "mse", "batch_size": batch, "shuffle": False, "progress": False}
    wanted, found = (each.fit(x, y, optimizer=fn.Adam(1e-3), epochs=3, **options).loss for each in (single, net))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    x, y, optimizer = gpu.to_device(x), gpu.to_device(y), fn.Adam(1e-3)
    epochs = 4096 // (n // batch) + 1
    taken = seconds_each(gpu, lambda turns: net.fit(x, y, optimizer=optimizer, epochs=turns * epochs, **options))
    print(f"{name} on {gpu.get_current_device().name}: {epochs * (n // batch) / taken:,.0f} steps a second")


@pytest.mark.parametrize("precision", [None, *PRECISIONS])
def test_time_of_large_batches(gpu, precision):
    """Microseconds of a forward pass and of a step, printed (pytest -s), and what part of them checks the data."""
    from fastnn.cuda import arrays

    net = fn.Sequential(dense(DEEP, "relu"), DEEP[0], seed=0)
    x, y, unit = numbers(MANY, DEEP[0], 1), numbers(MANY, DEEP[-1]), 2.0 ** -PRECISIONS.get(precision, 20)
    wanted = net.predict(x[-N:])  # in float32: 24 bits, less 4 for sums of 64
    net.to("cuda").precision = precision
    x, y, optimizer = gpu.to_device(x), gpu.to_device(y), fn.Adam(1e-3)
    found = on_host(net.predict(x))[-N:]
    assert np.linalg.norm(found - wanted) <= 2 * len(DEEP) * unit * np.linalg.norm(wanted)
    options = {"loss": "mse", "optimizer": optimizer, "batch_size": None, "shuffle": False, "progress": False}
    losses = net.fit(x, y, epochs=20, **options).loss
    assert losses[-1] < losses[0]
    forward = seconds_each(gpu, lambda turns: [net.predict(x) for _ in range(turns)])
    checks = seconds_each(gpu, lambda turns: [arrays.matrix("X", x, "float32") for _ in range(turns)])
    step = seconds_each(gpu, lambda turns: net.fit(x, y, epochs=turns, **options))
    print(
        f"{'-'.join(map(str, DEEP))}, {MANY:,} rows, {precision or 'float32'} on {gpu.get_current_device().name}: "
        f"predict {forward * 1e6:.0f} µs, of which checks {checks * 1e6:.0f}; step {step * 1e6:.0f} µs"
    )


@pytest.mark.parametrize(("tool", "clean"), [("memcheck", "0 errors"), ("racecheck", "0 hazards")])
def test_sanitizer(tool, clean):
    """No access out of bounds, and no race in shared memory, in any kernel of small networks."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        pytest.skip("compute-sanitizer is not on the PATH")
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [program, "--tool", tool, sys.executable, "sanitize_cuda.py"],
        cwd=here, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    assert "all ways were taken" in done.stdout
    assert f"SUMMARY: {clean}" in done.stdout, done.stdout[-10_000:]


FIT = """
import hashlib, numpy as np, fastnn as fn
x = np.random.default_rng(0).standard_normal((200, 3))
net = fn.Sequential([fn.Dense(16, "tanh"), fn.Dense(1)], n_inputs=3, seed=0, device="cuda")
net.fit(x, x[:, :1], "mse", "adam", epochs=3)
print(hashlib.sha256(net.predict(x).tobytes()).hexdigest())
"""


def test_a_second_process_loads_its_kernels(gpu, tmp_path):
    environment = os.environ | {"FASTNN_CACHE_DIR": str(tmp_path)}
    found = []
    for _ in range(2):
        begin = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", FIT], env=environment, capture_output=True, text=True, check=True)
        found.append((done.stdout, "compiling" in done.stderr))
        print(f"{time.perf_counter() - begin:.1f} s")
    assert found == [(found[0][0], True), (found[0][0], False)]
    assert len(list(tmp_path.glob("fastnn/*/cuda/*"))) > 1
