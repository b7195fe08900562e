"""Networks with ``device="cuda"`` in numba-cuda's simulator, against the same networks on the CPU.

`test_cuda_simulator` runs this file, in a process of its own. Shapes are tiny, and so are the simulator's blocks and
tiles (`fastnn.cuda.product`), so that there are several of everything.
"""

import contextlib
import gc
import math
import pickle
import threading
import weakref

import numpy as np
import pytest
from cuda_networks import LAYERS, N_INPUTS, TOLERANCES, network, rows
from losses_table import TABLE, draw, name_of_row
from optimizer_driver import VARIANTS, Driver, variant
from test_activations import CHANGED

import fastnn as fn
from fastnn import jit
from fastnn._data import on_host
from fastnn.cuda import engine as engine_module
from fastnn.cuda import kernels, passes, predictor, streams
from fastnn.cuda import narrow as narrow_module
from fastnn.cuda._jit import SIMULATED
from fastnn.cuda.lone import LoneShape

# NumPy warns where a GPU goes on with an infinity or a NaN.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
DTYPES = ["float32", "float64"]
# How the work is laid out: what decides it is set so that each way is taken.
WAYS = {
    "one block takes the batch": {},
    "blocks take samples": {"ALONE": 0, "NARROW": 1000},
    "blocks share layers": {"ALONE": 0, "NARROW": 1},
}
# After some steps: rounding differs, and optimizers divide by small numbers.
TRAINED = {"float32": {"rtol": 2e-4, "atol": 2e-5}, "float64": {"rtol": 1e-9, "atol": 1e-11}}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    for name, value in WAYS[request.param].items():
        monkeypatch.setattr(passes, name, value)
    return request.param


def pair(layers, dtype="float32", n_inputs=N_INPUTS, **options):
    """The same network on the CPU and in the simulator."""
    made = fn.Sequential(layers, n_inputs=n_inputs, seed=3, dtype=dtype, **options)
    return made, made.copy().to("cuda")


def numbers(n, n_outputs, seed=5):
    return np.random.default_rng(seed).standard_normal((n, n_outputs))


def assert_same_parameters(one, other, dtype):
    for name, array in one.named_parameters().items():
        found = other.named_parameters()[name].copy_to_host()
        np.testing.assert_allclose(found, array, **TRAINED[dtype], err_msg=name)


def assert_same_gradients(one, other, arguments, dtype, **options):
    value, gradients = one.loss_and_gradients(*arguments, **options)
    found_value, found = other.loss_and_gradients(*arguments, **options)
    np.testing.assert_allclose(found_value, value, **TOLERANCES[dtype])
    assert list(found) == list(gradients)
    for name, array in gradients.items():
        np.testing.assert_allclose(found[name], array, **TOLERANCES[dtype], err_msg=name)
    wanted = one.input_gradients(*arguments, **options)
    np.testing.assert_allclose(other.input_gradients(*arguments, **options), wanted, **TOLERANCES[dtype])


def test_this_is_the_simulator():
    assert SIMULATED


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(way, name, dtype):
    one, x = network(name, dtype), rows(19, dtype)
    other, y, w = one.copy().to("cuda"), numbers(19, one.n_outputs), np.random.default_rng(1).uniform(0.2, 2, 19)
    np.testing.assert_allclose(other.predict(x), one.predict(x), **TOLERANCES[dtype])
    loss = one.evaluate(x, y, "mse", (), w)["loss"]
    np.testing.assert_allclose(other.evaluate(x, y, "mse", (), w)["loss"], loss, **TOLERANCES[dtype])
    for training in (False, True):
        assert_same_gradients(one, other, (x, y, "mse", w), dtype, training=training, seed=1)
    before = {name: view.copy_to_host() for name, view in other.named_buffers().items()}
    for name, array in one.named_buffers().items():
        np.testing.assert_array_equal(before[name], array)  # questions move nothing
    for net in (one, other):
        net.fit(x, y, "mse", fn.SGD(0.05, momentum=0.9), epochs=2, batch_size=16, sample_weight=w)
    assert_same_parameters(one, other, dtype)
    for name, array in one.named_buffers().items():
        np.testing.assert_allclose(other.named_buffers()[name].copy_to_host(), array, **TRAINED[dtype])


def noting(maker, shapes):
    """A maker of kernels that also notes the shapes it is asked for."""

    def make(T, shape, *rest):
        shapes.append(shape)
        return maker(T, shape, *rest)

    return make


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["dense", "without bias", "residual"])
def test_networks_that_do_not_fit_into_shared_memory(name, dtype, monkeypatch):
    """Products stage slices of them instead."""
    shapes = []
    for module in (narrow_module, passes, predictor):
        monkeypatch.setattr(module, "most_shared", lambda: 0)
    for kernel in ("train_kernel", "predict_kernel"):
        monkeypatch.setattr(kernels, kernel, noting(getattr(kernels, kernel), shapes))
    monkeypatch.setattr(passes, "ALONE", 1 << 20)
    monkeypatch.setattr(passes, "NARROW", 1000)
    one, x = network(name, dtype), rows(19, dtype)
    other, y = one.copy().to("cuda"), numbers(19, one.n_outputs)
    np.testing.assert_allclose(other.predict(x), one.predict(x), **TOLERANCES[dtype])
    for net in (one, other):
        net.fit(x, y, "mse", fn.SGD(0.05, momentum=0.9), epochs=2, batch_size=16)
    assert_same_parameters(one, other, dtype)
    assert len(shapes) >= 2
    assert not any(isinstance(shape, LoneShape) for shape in shapes)


@pytest.mark.parametrize("name", fn.activations.names())
def test_activations(name):
    """Forwards and backwards, with parameters that are not the defaults; as a layer's, and standing alone."""
    activation = fn.activations.get(name).with_parameters(**CHANGED.get(name, {}))
    one, other = pair([fn.Dense(5, activation), fn.LayerNorm(), fn.Activation(activation), fn.Dense(2)], "float64")
    x, y = rows(9, "float64"), numbers(9, 2)
    np.testing.assert_allclose(other.predict(x), one.predict(x), **TOLERANCES["float64"])
    if activation.trainable:
        assert_same_gradients(one, other, (x, y, "mse"), "float64")


@pytest.mark.parametrize("entry", TABLE, ids=name_of_row)
def test_losses(entry):
    """All of the table, with a row of weight 0, through the output activation that the loss is computed with."""
    loss, activation, *_ = entry
    _, y, _ = draw(entry, 3)
    n = len(y)
    one, other = pair([fn.Dense(3, activation)], "float64")
    x, w = rows(n, "float64"), np.random.default_rng(2).uniform(0.2, 2, n)
    w[3] = 0
    assert_same_gradients(one, other, (x, y, loss, w), "float64")
    value = other.evaluate(x, y, loss, (), w)["loss"]
    np.testing.assert_allclose(value, one.evaluate(x, y, loss, (), w)["loss"], **TOLERANCES["float64"])


@pytest.mark.parametrize("loss", ["cross_entropy", fn.losses.CrossEntropy(0.1), "kl_divergence", "focal"])
@pytest.mark.parametrize("labels", [True, False])
def test_losses_of_classes(way, loss, labels):
    one, other = pair([fn.Dense(11, "tanh"), fn.Dense(5, "softmax")], "float64")
    x, y = rows(21, "float64"), np.random.default_rng(4).integers(0, 5, 21)
    if loss == "focal" or not labels:
        y = np.eye(5)[y]
    if not labels and loss != "focal":
        y = 0.7 * y + 0.3 * np.full((21, 5), 0.2)
    assert_same_gradients(one, other, (x, y, loss), "float64")


def test_an_own_activation_and_an_own_loss():
    cube = fn.activations.from_functions("cube_on_gpu", lambda z: z + z * z * z, lambda z: 1 + 3 * z * z)
    wave = fn.losses.from_functions("wave_on_gpu", lambda o, y: math.exp(o - y) - o, lambda o, y: math.exp(o - y) - 1)
    one, other = pair([fn.Dense(4, cube), fn.Dense(2)], "float64")
    assert_same_gradients(one, other, (0.1 * rows(9, "float64"), numbers(9, 2), wave), "float64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", VARIANTS)
def test_twenty_steps_of_each_optimizer(name, dtype):
    x, y = rows(16, dtype), numbers(16, 2)
    one, other = pair([fn.Dense(5, "tanh"), fn.Dense(2)], dtype)
    optimizers = variant(name), variant(name)
    for net, optimizer in zip((one, other), optimizers, strict=True):
        net.fit(x, y, "mse", optimizer, epochs=10, batch_size=8)
    assert_same_parameters(one, other, dtype)
    first, second = (optimizer.state for optimizer in optimizers)
    np.testing.assert_allclose(second.slots, first.slots, **TRAINED[dtype])
    np.testing.assert_array_equal(second.scalars, first.scalars)


@pytest.mark.parametrize("done", [0, 3, 5])
@pytest.mark.parametrize("name, dtype", [("nadam", "float32"), ("adam", "float64"), ("radam", "float32")])
def test_coefficients_of_a_run_are_those_of_single_steps(name, dtype, done, monkeypatch):
    """To the last bit; and the optimizer has begun the steps that were done, no further ones."""
    x = rows(10, dtype)
    one, other = pair([fn.Dense(2)], dtype)
    optimizers = [variant(name, learning_rate=fn.schedules.Cosine(0.01, 8)) for _ in range(3)]
    drivers = [Driver(optimizer, np.zeros(one.n_parameters, dtype)) for optimizer in optimizers[1:]]
    wanted = []
    for step in range(7):
        for driver in drivers[: 1 if step >= 2 + done else 2]:
            driver.step(0)
        wanted.append(drivers[0].arrays[2].copy())
    found, make = [], passes.Passes.schedule
    monkeypatch.setattr(passes.Passes, "schedule", lambda self, c, w: found.append(c) or make(self, c, w))
    objective = other._question(x, numbers(10, 2), "mse", None)
    training = other._ready().training(objective, optimizers[0], 2, 0)
    training.run(np.empty(0, np.int64), 0, 2, 0)
    x[2 * done : 2 * done + 1] = np.nan
    objective.x.copy_to_device(x)
    assert training.run(np.empty(0, np.int64), 0, 5, 2)[0] == done
    np.testing.assert_array_equal(np.concatenate(found), wanted)
    np.testing.assert_array_equal(optimizers[0].state.scalars, optimizers[2].state.scalars)


def test_an_own_optimizer():
    def heavy_ball(p, g, velocity, s1, s2, c):
        velocity = c[2] * velocity - c[0] * g
        return p + velocity, velocity, s1, s2

    made = fn.optimizers.from_rule("heavy_ball_on_gpu", heavy_ball, n_slots=1, friction=0.9)
    one, other = pair([fn.Dense(5, "tanh"), fn.Dense(2)], "float64")
    for net in (one, other):
        net.fit(rows(16, "float64"), numbers(16, 2), "mse", made(0.1), epochs=3, batch_size=8)
    assert_same_parameters(one, other, "float64")


@pytest.mark.parametrize(
    "options", [{"clip_value": 0.01}, {"clip_norm": 0.05}, {"clip_norm": 0.05, "clip_value": 0.02}], ids=str
)
def test_penalties_and_clipping(way, options):
    layers = [fn.Dense(9, "tanh", l1=0.01, l2=0.02), fn.Dense(4, "relu"), fn.Dense(2, l2=0.1)]
    one, other = pair(layers, "float64")
    x, y = rows(19, "float64"), numbers(19, 2)
    assert_same_gradients(one, other, (x, y, "mse"), "float64")
    histories = [net.fit(x, y, "mse", fn.Adam(0.01, **options), epochs=3, batch_size=8) for net in (one, other)]
    assert_same_parameters(one, other, "float64")
    np.testing.assert_allclose(histories[1].loss, histories[0].loss, rtol=1e-10)


def test_schedules_weights_validation_metrics_and_callbacks(way):
    x, rng = rows(29, "float64"), np.random.default_rng(0)
    y, w = rng.integers(0, 3, 29), rng.uniform(0.1, 2, 29)
    histories, averages = [], []
    one, other = pair([fn.Dense(6, "relu"), fn.Dropout(0.2), fn.Dense(3, "softmax")], "float64")
    for net in (one, other):
        average = fn.callbacks.EMA(0.9, every_steps=2)
        histories.append(
            net.fit(
                x, y, optimizer=fn.Adam(fn.schedules.Cosine(0.01, 20)), epochs=4, batch_size=7, sample_weight=w,
                class_weight="balanced", validation_split=0.3, metrics="accuracy",
                callbacks=[average, fn.callbacks.EarlyStopping(patience=1)],
            )
        )  # fmt: skip
        averages.append(average.parameters)
    np.testing.assert_allclose(averages[1], averages[0], **TRAINED["float64"])
    assert_same_parameters(one, other, "float64")
    first, second = (history.to_dict() for history in histories)
    assert first.pop("seconds")
    assert second.pop("seconds")
    assert list(first) == list(second)
    for name, column in first.items():
        np.testing.assert_allclose(second[name], column, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("shuffle", [False, True])
def test_several_epochs_at_once_are_epochs(way, shuffle):
    """Without anybody who looks between them, several epochs are one launch; the last batch of each is short."""
    x, y = rows(11, "float64"), numbers(11, 2)
    one, other = pair([fn.Dense(5, "tanh"), fn.Dropout(0.3), fn.Dense(2)], "float64")
    histories = [net.fit(x, y, "mse", "adam", epochs=9, batch_size=4, shuffle=shuffle) for net in (one, other)]
    np.testing.assert_allclose(histories[1].loss, histories[0].loss, rtol=1e-10)
    assert histories[1].epochs == list(range(1, 10))
    for net in (one, other):  # goes on
        net.fit(x, y, "mse", "adam", epochs=2, batch_size=4, shuffle=shuffle)
    assert_same_parameters(one, other, "float64")


# Relative errors of one rounding: 11, 8 and 11 bits.
ROUNDED = {"tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}
PRECISE_WAYS = {**WAYS, "blocks take samples, narrow": {"ALONE": 0}}


@pytest.mark.parametrize("name", PRECISE_WAYS)
@pytest.mark.parametrize("precision", ROUNDED)
def test_precisions(precision, name, monkeypatch):
    """Operands are rounded, and only they: errors are those of the precision, neither larger nor much smaller."""
    for setting, value in PRECISE_WAYS[name].items():
        monkeypatch.setattr(passes, setting, value)
    narrow = name.endswith("narrow")
    if not narrow:
        monkeypatch.setattr(narrow_module, "forward", lambda *arguments: None)
        monkeypatch.setattr(narrow_module, "backward", lambda *arguments: None)
    layers = [fn.Dense(13, "tanh"), fn.Dense(9, "gelu"), fn.Dense(3)]
    one, other = pair(layers)
    other.precision = precision
    x, y = rows(21, "float32"), numbers(21, 3)
    exact = one.predict(x)
    error = np.linalg.norm(other.predict(x) - exact) / np.linalg.norm(exact)
    assert ROUNDED[precision] / 20 < error < 2 * ROUNDED[precision]
    assert isinstance(other._ready()._predictor.way, narrow_module.Forward) == narrow
    steps = []
    for net in (one, other):
        start = on_host(net.parameters).copy()
        net.fit(x, y, "mse", fn.SGD(1.0), epochs=1, batch_size=21)
        steps.append(on_host(net.parameters) - start)
    error = np.linalg.norm(steps[1] - steps[0]) / np.linalg.norm(steps[0])
    assert ROUNDED[precision] / 20 < error < 4 * ROUNDED[precision]
    _, gradients = other.loss_and_gradients(x, y, "mse")
    assert all(np.isfinite(array).all() for array in gradients.values())
    wanted = one.input_gradients(x, y, "mse")
    error = np.linalg.norm(other.input_gradients(x, y, "mse") - wanted) / np.linalg.norm(wanted)
    assert error < 20 * ROUNDED[precision]  # parameters differ by the step above


@pytest.mark.parametrize("name", PRECISE_WAYS)
def test_fp16_leaves_steps_out_whose_gradients_overflow(name, monkeypatch):
    for setting, value in PRECISE_WAYS[name].items():
        monkeypatch.setattr(passes, setting, value)
    one, other = pair([fn.Dense(5, "tanh"), fn.Dense(2)])
    other.precision = "fp16"
    x, y = rows(8, "float32"), np.full((8, 2), 3e3, np.float32)  # times the first scale, beyond 65,504
    before = other.parameters.copy_to_host()
    history = other.fit(x, y, "mse", fn.SGD(1e-7), epochs=1, batch_size=8)
    np.testing.assert_array_equal(other.parameters.copy_to_host(), before)
    other.fit(x, y, "mse", fn.SGD(1e-7), epochs=12, batch_size=8, shuffle=False)
    assert (other.parameters.copy_to_host() != before).any()
    assert np.isfinite(other.parameters.copy_to_host()).all()
    one.fit(x, y, "mse", fn.SGD(1e-7), epochs=1, batch_size=8)
    np.testing.assert_allclose(history.loss, one.evaluate(x, y, "mse", ())["loss"], rtol=1e-2)


def test_where_a_precision_is_not_to_be_had():
    _, other = pair([fn.Dense(2)], "float64")
    with pytest.raises(ValueError, match="precision 'bf16' needs dtype 'float32'"):
        other.precision = "bf16"
    _, other = pair([fn.Dense(2)])
    other.precision = "tf32"
    with pytest.raises(ValueError, match="device 'cpu' needs another precision, None for example"):
        other.to("cpu")
    assert other.device == "cuda"


def test_lbfgs():
    one, other = pair([fn.Dense(5, "tanh"), fn.Dense(2)], "float64")
    for net in (one, other):
        net.fit(rows(11, "float64"), numbers(11, 2), "mse", fn.LBFGS(), epochs=5)
    np.testing.assert_allclose(other.parameters.copy_to_host(), one.parameters, rtol=1e-6)


@pytest.mark.parametrize("on_divergence", ["raise", "restore"])
def test_divergence_keeps_the_last_finite_epoch(way, on_divergence):
    """Found in the middle of several epochs of one launch, and left as the CPU leaves it."""
    x, y = rows(12, "float32"), numbers(12, 1)
    one, other = pair([fn.Dense(1)])
    optimizers, epochs = (fn.SGD(3.0, momentum=0.1), fn.SGD(3.0, momentum=0.1)), []
    for net, optimizer in zip((one, other), optimizers, strict=True):
        arguments = {"epochs": 60, "batch_size": 5, "on_divergence": on_divergence}
        if on_divergence == "raise":
            with pytest.raises(fn.DivergenceError, match="training diverged in epoch"):
                net.fit(x, y, "mse", optimizer, **arguments)
        else:
            with pytest.warns(RuntimeWarning, match="training diverged in epoch"):
                assert net.fit(x, y, "mse", optimizer, **arguments).stopped == "diverged"
        epochs.append(net._epochs)
        assert optimizer.steps == 3 * net._epochs
    assert epochs[0] == epochs[1] > 2
    found = other.parameters.copy_to_host()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, one.parameters, rtol=1e-2)
    other.fit(x, 0 * y, "mse", fn.SGD(1e-9), epochs=1, batch_size=5)  # and it can go on


def test_a_nan_stays_in_its_row():
    _, other = pair([fn.Dense(9, "tanh"), fn.Dense(5, "relu"), fn.LayerNorm(), fn.Dense(3, "softmax")])
    weights = other.named_parameters()["0.weight"].copy_to_host()
    weights[2, 4] = np.nan
    other._pull()
    other._theta[: weights.size] = weights.ravel()
    other._push()
    x = rows(9, "float32")
    assert np.isnan(other.predict(x)).all()
    x[:, 2] = 0
    assert np.isnan(other.predict(x)).all()  # 0 * NaN is NaN


def test_parameters_live_on_the_device(tmp_path):
    one, other = pair([fn.Dense(5, "tanh"), fn.BatchNorm(), fn.Dense(2)])
    x, y = rows(12, "float32"), numbers(12, 2)
    other.predict(x)
    other.parameters.copy_to_device(np.arange(other.n_parameters, dtype=np.float32) / 100)
    one.parameters[:] = np.arange(one.n_parameters, dtype=np.float32) / 100
    np.testing.assert_allclose(other.predict(x), one.predict(x), **TOLERANCES["float32"])
    for net in (one, other):
        net.fit(x, y, "mse", "sgd", epochs=1)
        net.set_parameters({"0.bias": np.ones(5), "1.running_mean": np.full(5, 0.5)})
    other.save(tmp_path / "net.safetensors")
    copies = [other.copy(), pickle.loads(pickle.dumps(other)), fn.load(tmp_path / "net.safetensors"), other.to("cpu")]
    assert [net.device for net in copies] == ["cuda", "cuda", "cpu", "cpu"]
    for net in copies:
        np.testing.assert_allclose(net.predict(x), one.predict(x), **TRAINED["float32"])
    for net in (one, copies[0], copies[1]):
        net.fit(x, y, "mse", "sgd", epochs=1)
    np.testing.assert_allclose(copies[1].predict(x), copies[0].predict(x), rtol=0)
    np.testing.assert_allclose(copies[1].predict(x), one.predict(x), **TRAINED["float32"])


def test_what_is_computed_on_the_cpu_alone():
    one, other = pair([fn.Dense(5, "tanh"), fn.Dense(2)], "float64")
    x, y = rows(6, "float64"), numbers(6, 2)
    for net in (one, other):
        net.fit(x, y, "mse", "sgd", epochs=2)
    np.testing.assert_allclose(other.jacobian(x), one.jacobian(x), **TRAINED["float64"])
    v = np.ones(one.n_parameters)
    wanted = one.hessian_vector_product(x, y, "mse", v)
    np.testing.assert_allclose(other.hessian_vector_product(x, y, "mse", v), wanted, **TRAINED["float64"])
    np.testing.assert_allclose(other.specialize()(x[0]), one.predict(x)[0], **TRAINED["float64"])
    state, out = other.jit_state(), np.empty(2)
    jit.predict(state, x[0], out)
    np.testing.assert_allclose(out, one.predict(x)[0], **TRAINED["float64"])
    other.parameters.copy_to_device(np.zeros(one.n_parameters))
    other.load_jit_state(state)
    np.testing.assert_allclose(other.predict(x), one.predict(x), **TRAINED["float64"])


def test_arrays_of_the_device_stay_there():
    from fastnn.cuda._jit import cuda

    one, other = pair([fn.Dense(5, "tanh"), fn.Dense(3, "softmax")])
    x, y = rows(12, "float32"), np.random.default_rng(0).integers(0, 3, 12)
    on_device = cuda.to_device(x), cuda.to_device(y)
    found = other.predict(on_device[0])
    assert hasattr(found, "copy_to_host")
    np.testing.assert_allclose(found.copy_to_host(), one.predict(x), **TOLERANCES["float32"])
    assert isinstance(other.predict(x), np.ndarray)
    assert isinstance(other.predict_classes(on_device[0]), np.ndarray)
    histories = [
        net.fit(*data, epochs=2, batch_size=5, metrics="accuracy", validation_data=data)
        for net, data in ((one, (x, y)), (other, on_device))
    ]
    np.testing.assert_allclose(histories[1].val_loss, histories[0].val_loss, rtol=1e-5)
    assert histories[1].metrics == histories[0].metrics
    assert_same_parameters(one, other, "float32")


@pytest.fixture
def prepared(monkeypatch):
    """What engines prepare for questions about the loss: weak references, in this order."""
    found = []

    def made(*arguments):
        found.append(weakref.ref(one := passes.Passes(*arguments)))
        return one

    monkeypatch.setattr(engine_module, "Passes", made)
    return found


def test_validation_is_prepared_once(prepared):
    one, other = pair([fn.Dense(5, "tanh"), fn.BatchNorm(), fn.Dense(2)], "float64")
    x, y, w = rows(9, "float64"), numbers(9, 2), np.random.default_rng(1).uniform(0.2, 2, 9)
    held = rows(6, "float64"), numbers(6, 2, 1), w[:6]
    histories = [
        net.fit(x, y, "mse", "adam", epochs=4, batch_size=5, sample_weight=w, validation_data=held)
        for net in (one, other)
    ]
    np.testing.assert_allclose(histories[1].val_loss, histories[0].val_loss, rtol=1e-9)
    gc.collect()
    assert len(prepared) == 1
    assert prepared[0]() is None  # nor is the data's memory kept any longer


def test_what_is_prepared_serves_one_question_alone(prepared):
    """Another loss, other data, another kind of question, stream or thread; the network itself may change."""
    one, other = pair([fn.Dense(5, "tanh"), fn.Dense(2)], "float64")
    x, y = rows(6, "float64"), numbers(6, 2)
    engines, n = (one._ready(), other._ready()), 0
    objectives = [
        [net._question(x[:k], y[:k], loss, None) for net in (one, other)]
        for loss, k in (("mse", 6), ("mae", 6), ("mse", 5))
    ]
    for first, second in objectives + objectives[::-1]:
        for _ in range(2):
            wanted, found = engines[0].evaluate(first), engines[1].evaluate(second)
            np.testing.assert_allclose(found, wanted, rtol=1e-12)
            wanted = engines[0].loss_and_gradients(first, True, 0)[1]
            np.testing.assert_allclose(engines[1].loss_and_gradients(second, True, 0)[1], wanted, rtol=1e-10)
            for net in (one, other):
                net.set_parameters({"0.bias": np.full(5, n / 10)})
            n += 1
    assert len(prepared) == 2 * 5  # the one in the middle comes twice, one after the other
    gc.collect()
    assert sum(each() is not None for each in prepared) == 2
    for count, where in ((1, lambda: streams.use_stream(5)), (2, contextlib.nullcontext)):
        with where():
            assert engines[1].evaluate(objectives[0][1]) == engines[1].evaluate(objectives[0][1])
        assert len(prepared) == 10 + count
    thread = threading.Thread(target=engines[1].evaluate, args=(objectives[0][1],))
    thread.start()
    thread.join()
    assert len(prepared) == 13


def test_another_gpu_is_refused(monkeypatch):
    _, other = pair([fn.Dense(3, "tanh"), fn.Dense(2)])
    x, y = rows(5, "float32"), numbers(5, 2)
    before = other.predict(x)
    monkeypatch.setattr(passes, "current_gpu", lambda: 1)
    for call in (
        lambda: other.predict(x),
        lambda: other.evaluate(x, y, "mse"),
        lambda: other.fit(x, y, "mse", epochs=1),
        lambda: other.loss_and_gradients(x, y, "mse"),
        lambda: other.input_gradients(x, y, "mse"),
        lambda: other.set_parameters({"0.bias": np.ones(3)}),
        lambda: other.to("cpu"),
        other.copy,
    ):
        with pytest.raises(RuntimeError, match="lies on GPU 0, but the current GPU is 1: make GPU 0 current"):
            call()
    assert other.device == "cuda"
    np.testing.assert_array_equal(pair([fn.Dense(3, "tanh"), fn.Dense(2)])[1].predict(x), before)  # made on that one
    monkeypatch.undo()
    np.testing.assert_array_equal(other.predict(x), before)


def test_moving_to_where_it_is_changes_nothing():
    _, other = pair([fn.Dense(2)])
    engine = other._ready()
    assert other.to("cuda") is other
    assert other._ready() is engine
    with pytest.raises(ValueError, match="device must be one of cpu, cuda, got 'gpu'"):
        other.to("gpu")
