"""`fastnn.Population` with ``device="cuda"`` in numba-cuda's simulator, against the same population on the CPU.

`test_cuda_simulator` runs this file, in a process of its own.
"""

import pickle

import numpy as np
import pytest
from optimizer_driver import variant

import fastnn as fn
from fastnn.cuda import passes
from fastnn.cuda import population as engine
from fastnn.cuda._jit import SIMULATED, cuda

# NumPy warns where a GPU goes on with an infinity or a NaN.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
TRAINED = {"float32": {"rtol": 2e-4, "atol": 2e-5}, "float64": {"rtol": 1e-9, "atol": 1e-11}}
RNG = np.random.default_rng(0)
X, Y, WEIGHTS = RNG.standard_normal((11, 4)), RNG.standard_normal((11, 2)), RNG.uniform(0.2, 2, 11)
RATES = [0.01, 0.02, 0.05]
PLAIN = [fn.Dense(5, "tanh"), fn.Dense(2)]
NORMED = [fn.Dense(4, "relu"), fn.BatchNorm(), fn.Dropout(0.3), fn.Dense(2, l2=0.01)]


def pair(layers, dtype="float64", n=3, **options):
    """The same population on the CPU and in the simulator."""
    net = fn.Sequential(layers, n_inputs=4, seed=3, dtype=dtype)
    return fn.Population(net, n, **options), fn.Population(net, n, **options).to("cuda")


def fit_both(both, *arguments, **options):
    histories = [each.fit(*arguments, **options) for each in both]
    np.testing.assert_allclose(histories[1].loss, histories[0].loss, rtol=1e-4)
    return histories


def assert_same(both, dtype="float64"):
    """Networks, their optimizers and their random streams."""
    one, other = both
    np.testing.assert_allclose(other.parameters.copy_to_host(), one.parameters, **TRAINED[dtype])
    for mine, theirs in zip(one._optimizers, other._optimizers, strict=True):
        np.testing.assert_allclose(theirs.state.slots, mine.state.slots, **TRAINED[dtype])
        np.testing.assert_array_equal(theirs.state.scalars, mine.state.scalars)
    for mine, theirs in zip(one.networks, other.networks, strict=True):
        for name, array in mine.named_buffers().items():
            np.testing.assert_allclose(theirs.named_buffers()[name].copy_to_host(), array, **TRAINED[dtype])
        assert (theirs._steps, theirs._epochs) == (mine._steps, mine._epochs)
        assert theirs._shuffle_rng.bit_generator.state == mine._shuffle_rng.bit_generator.state


def test_this_is_the_simulator():
    assert SIMULATED


@pytest.mark.parametrize(
    "name, dtype", [("sgd", "float64"), ("adam_amsgrad", "float32"), ("rprop", "float64"), ("nadam", "float64")]
)
def test_optimizers(name, dtype):
    both = pair(PLAIN, dtype)
    fit_both(both, X, Y, "mse", variant(name), 3, 8, RATES)
    assert_same(both, dtype)


@pytest.mark.parametrize(
    "layers, shuffle, weights",
    [(PLAIN, True, None), (PLAIN, False, WEIGHTS), (NORMED, False, None), (NORMED, True, WEIGHTS)],
    ids=["plain", "plain, in order, weighted", "normed, in order", "normed, weighted"],
)
def test_epochs_of_one_launch_and_of_several(layers, shuffle, weights, monkeypatch):
    """Batches of 9 rows, more than a block takes at once unless it must; the last one is short."""
    both = pair(layers)
    assert engine._BLOCK_ROWS < 9
    for most in (1 << 20, 1):  # rows of a launch, which holds an epoch at least
        monkeypatch.setattr(engine, "_MOST_ROWS", most)
        options = {"learning_rate": RATES, "sample_weight": weights, "shuffle": shuffle}
        fit_both(both, X, Y, "mse", "adam", 2, 9, **options)
        assert_same(both)


def test_labels_schedules_and_clipping():
    both = pair([fn.Dense(5, "gelu"), fn.Dense(3, "softmax")])
    labels = RNG.integers(0, 3, 11)
    optimizer = fn.Adam(clip_norm=0.05, clip_value=0.02)
    rates = [0.01, fn.schedules.Cosine(0.05, 8), fn.schedules.Exponential(0.1, 0.9)]
    for _ in range(2):
        fit_both(both, X, labels, "cross_entropy", optimizer, 2, 8, rates)
    assert_same(both)
    assert both[1]._optimizers[0].steps == 8


def test_divergence_of_one():
    """Found in the middle of several epochs of one launch, and left as a single network is; the others go on."""
    layers, optimizer, rates = [fn.BatchNorm(), fn.Dense(2)], fn.SGD(momentum=0.1), [0.01, 2.0, 0.02]
    one, other = pair(layers, "float32")
    alone = fn.Sequential(layers, n_inputs=4, seed=4, device="cuda")
    own = fn.SGD(2.0, momentum=0.1)
    for _ in range(2):
        wanted, found = (each.fit(X, Y, "mse", optimizer, 6, 6, rates).loss for each in (one, other))
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(wanted))
        np.testing.assert_allclose(found[:, ::2], wanted[:, ::2], rtol=1e-4)
        with pytest.warns(RuntimeWarning, match="training diverged"):
            history = alone.fit(X, Y, "mse", own, 6, 6, on_divergence="restore")
        np.testing.assert_allclose(found[: len(history.loss), 1], history.loss, rtol=1e-4)
        assert np.isfinite(found[:, 1]).sum() == len(history.loss)
        parameters = other.parameters.copy_to_host()
        assert np.isfinite(parameters).all()
        np.testing.assert_allclose(parameters[::2], one.parameters[::2], **TRAINED["float32"])
        np.testing.assert_allclose(parameters[1], alone.parameters.copy_to_host(), rtol=1e-4)
        kept = other[1]
        np.testing.assert_allclose(
            kept.named_buffers()["0.running_mean"].copy_to_host(),
            alone.named_buffers()["0.running_mean"].copy_to_host(),
            rtol=1e-5,
        )
        assert (kept._steps, kept._epochs) == (alone._steps, alone._epochs)
        assert kept._shuffle_rng.bit_generator.state == alone._shuffle_rng.bit_generator.state
        np.testing.assert_allclose(other._optimizers[1].state.slots, own.state.slots, rtol=1e-4)
        assert other._optimizers[1].steps == own.steps > 2


def test_another_gpu_is_refused(monkeypatch):
    _, other = pair(PLAIN)
    other.predict(X)
    monkeypatch.setattr(passes, "current_gpu", lambda: 3)
    for call in (
        lambda: other.predict(X),
        lambda: other.evaluate(X, Y, "mse"),
        lambda: other.fit(X, Y, "mse", epochs=1),
        lambda: other[0],
    ):
        with pytest.raises(RuntimeError, match="lies on GPU 0, but the current GPU is 3: make GPU 0 current"):
            call()


def test_predictions_and_losses():
    one, other = pair(NORMED)
    fit_both((one, other), X, Y, "mse", "adam", 1, 8)
    np.testing.assert_allclose(other.predict(X), one.predict(X), rtol=1e-9)
    on_device = other.predict(cuda.to_device(X))
    np.testing.assert_allclose(on_device.copy_to_host(), one.predict(X), rtol=1e-9)
    losses = other.evaluate(cuda.to_device(X), cuda.to_device(Y), "mse", WEIGHTS)
    np.testing.assert_allclose(losses, one.evaluate(X, Y, "mse", WEIGHTS), rtol=1e-9)
    assert other.parameters.shape == (3, one.n_parameters)


def test_copies_pickles_and_moves():
    both = pair(NORMED)
    fit_both(both, X, Y, "mse", "adam", 1, 8)
    copies = pickle.loads(pickle.dumps(both))
    for one, other in (both, copies):
        assert other.device == "cuda"
        alone = other[1]
        assert alone.device == "cuda"
        fit_both((one, other), X, Y, "mse", "adam", 1, 8)
        assert_same((one, other))
        alone.fit(X, Y, "mse", "adam", 1, 8)  # goes on as the network of the population does
        np.testing.assert_allclose(alone.parameters.copy_to_host(), one.parameters[1], **TRAINED["float64"])
    one, other = both
    other.to("cpu").fit(X, Y, "mse", "adam", 1, 8)
    one.fit(X, Y, "mse", "adam", 1, 8)
    np.testing.assert_allclose(other.parameters, one.parameters, **TRAINED["float64"])
