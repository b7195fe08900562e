"""Networks inside compiled code: the same bits as the network's own methods, no allocation, plain errors."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from numba import njit, prange
from numba.core.runtime import _nrt_python, rtsys

import fastnn as fn
from fastnn import jit

RNG = np.random.default_rng(0)
X = RNG.standard_normal((150, 6)).astype("float32")
LABELS = RNG.integers(0, 3, 150)
NETWORKS = {
    "plain": [fn.Dense(20, "tanh"), fn.Dense(33, "relu"), fn.Dense(3)],
    "softmax": [fn.Dense(16, "gelu"), fn.Dense(3, "softmax")],
    "norms": [fn.Dense(12), fn.BatchNorm(), fn.Activation("silu"), fn.LayerNorm(), fn.Dropout(0.3), fn.Dense(3)],
    "residual": [fn.Dense(9, "elu"), fn.Residual([fn.Dense(9, "relu"), fn.Dense(9)]), fn.Dense(3, "tanh")],
    "single": [fn.Dense(3, bias=False)],
}


def network(name="plain", dtype="float32", trained=True):
    net = fn.Sequential(NETWORKS[name], n_inputs=6, seed=1, dtype=dtype)
    if trained:  # so that running statistics are not what they start as
        net.fit(X, LABELS, "cross_entropy", epochs=1)
    return net


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_predictions_and_derivatives_are_the_network_s_own(name, dtype):
    net = network(name, dtype)
    state = net.jit_state()
    expected = net.predict(X)
    values = np.zeros((150, 3), dtype)
    jit.predict_batch(state, X, values)
    assert values.tobytes() == expected.tobytes()
    jacobian = net.jacobian(X[:5])
    for i in range(5):
        one, back, full = np.zeros(3, dtype), np.zeros(6, dtype), np.zeros((3, 6), dtype)
        jit.predict(state, X[i], one)
        assert one.tobytes() == expected[i].tobytes()
        jit.jacobian(state, X[i], full)
        np.testing.assert_array_equal(full, jacobian[i])
        seed = np.array([1.0, -2.0, 0.5])
        jit.input_gradient(state, X[i], seed, back)
        np.testing.assert_allclose(back, seed @ jacobian[i], rtol=1e-4 if dtype == "float32" else 1e-12, atol=1e-6)


def test_arrays_of_any_kind_are_taken():
    net = network()
    state = net.jit_state()
    expected = net.predict(X)
    for array in (X.astype("float64"), np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]):
        out = np.zeros((3, 150)).T
        jit.predict_batch(state, array, out)
        np.testing.assert_array_equal(out, expected)
    locked = X.copy()
    locked.flags.writeable = False
    jit.predict_batch(state, locked, out)
    np.testing.assert_array_equal(out, expected)


OPTIMIZERS = [fn.SGD(0.1), fn.Adam(0.01, clip_norm=0.5), fn.RMSprop(0.01, momentum=0.9), fn.AdamW(0.01, clip_value=0.1)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda optimizer: optimizer.name)
@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_that_of_fit(name, optimizer, dtype):
    net, twin = network(name, dtype), network(name, dtype)
    loss = "mse" if name == "residual" else "cross_entropy"
    y = RNG.standard_normal((150, 3)) if name == "residual" else LABELS
    state = net.jit_state(optimizer, loss, batch_size=32)
    mine, theirs = [optimizer.copy() for _ in range(2)]
    losses = [jit.train_epoch(state, X, y) for _ in range(2)]
    history = twin.fit(X, y, loss, theirs, epochs=2, batch_size=32, shuffle=False)
    net.load_jit_state(state, mine)
    assert net.parameters.tobytes() == twin.parameters.tobytes()
    assert {k: v.tobytes() for k, v in net.named_buffers().items()} == {
        k: v.tobytes() for k, v in twin.named_buffers().items()
    }
    np.testing.assert_allclose(losses, history.loss, rtol=1e-5)
    for each in (net, twin):  # and goes on as if nothing had happened in between
        each.fit(X, y, loss, mine if each is net else theirs, epochs=1, batch_size=32, shuffle=False)
    assert net.parameters.tobytes() == twin.parameters.tobytes()
    assert optimizer.state is None


def test_steps_one_by_one_and_the_learning_rate():
    net, twin = network(), network()
    state = net.jit_state("sgd", "cross_entropy", batch_size=150)
    losses = [jit.train_step(state, X[:n], LABELS[:n]) for n in (150, 1, 70)]
    assert losses[0] == twin.loss_and_gradients(X, LABELS, "cross_entropy")[0]
    jit.set_learning_rate(state, 0.0)
    net.load_jit_state(state)
    before = net.parameters.copy()
    jit.train_step(state, X, LABELS)
    net.load_jit_state(state)
    assert (net.parameters == before).all()


def test_a_single_output_takes_numbers_and_binary_labels():
    for loss, y in (("mse", X[:, 0] * 2), ("binary_cross_entropy", LABELS % 2)):
        net = fn.Sequential([fn.Dense(1)], n_inputs=6, seed=0)
        state = net.jit_state("adam", loss, batch_size=32)
        expected = net.loss_and_gradients(X[:32], y[:32], loss)[0]
        assert jit.train_step(state, X[:32], y[:32]) == expected
        assert jit.train_step(net.jit_state("adam", loss), X[:32], y[:32, None]) == expected


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_hinge_losses_take_zeros_for_minus_ones(loss, n_outputs):
    net = fn.Sequential([fn.Dense(n_outputs)], n_inputs=6, seed=0)
    y = np.eye(3)[LABELS[:32], :n_outputs]
    expected = net.loss_and_gradients(X[:32], 2 * y - 1, loss)[0]
    forms = [y, 2 * y - 1] if n_outputs > 1 else [y, 2 * y - 1, y[:, 0]]
    for each in forms:
        assert jit.train_step(net.jit_state("sgd", loss), X[:32], each) == expected


def test_a_loss_that_is_not_finite_changes_nothing():
    net = network("single")
    state = net.jit_state(fn.SGD(1e30), "mse", batch_size=32)
    x = X[:32].copy()
    x[3, 3] = np.nan
    assert np.isnan(jit.train_step(state, x, np.zeros((32, 3))))
    before = net.parameters.copy()
    net.load_jit_state(state)
    assert (net.parameters == before).all()


@njit
def _rollout(state, x, steps):
    out = np.empty(3, np.float32)
    for _ in range(steps):
        jit.predict(state, x, out)
        for j in range(3):
            x[j] += np.float32(0.01) * out[j]
    return x


@njit(parallel=True)
def _rollouts(state, starts, steps):
    for i in prange(len(starts)):
        _rollout(jit.clone(state), starts[i], steps)


def test_inside_compiled_code():
    net = network()
    x = X[0].copy()
    for _ in range(5):
        x[:3] += np.float32(0.01) * net.predict(x[None])[0]
    np.testing.assert_array_equal(_rollout(net.jit_state(), X[0].copy(), 5), x)


def test_one_clone_a_thread():
    net = network()
    states = [net.jit_state()]
    states += [jit.clone(states[0]) for _ in range(7)]
    starts = X[:8].copy()
    expected = [_rollout(net.jit_state(), x.copy(), 200) for x in starts]

    together = starts.copy()
    _rollouts(states[0], together, 200)
    np.testing.assert_array_equal(together, expected)

    rows = list(starts.copy())
    run = njit(nogil=True)(_rollout.py_func)
    threads = [threading.Thread(target=run, args=(s, x, 200)) for s, x in zip(states, rows, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(rows, expected)


def test_clones_are_independent():
    net = network()
    state = net.jit_state("adam", "cross_entropy")
    other = jit.clone(state)
    jit.train_step(other, X[:32], LABELS[:32])
    net.load_jit_state(state)
    assert net.parameters.tobytes() == network().parameters.tobytes()
    assert other.numbers.ctypes.data % 64 == 0


def test_a_million_predictions_allocate_nothing():
    state, x = network().jit_state(), X[0].copy()
    _rollout(state, x, 1)
    _nrt_python.memsys_enable_stats()

    def allocations(steps):
        before = rtsys.get_allocation_stats()
        _rollout(state, x * 0, steps)
        after = rtsys.get_allocation_stats()
        return after.alloc - before.alloc, after.free - before.free

    assert allocations(1_000_000) == allocations(10)


USER = """
import numpy as np, fastnn as fn
from numba import njit
from fastnn import jit

@njit(cache=True)
def learn(state, x, y, steps):
    loss = 0.0
    for _ in range(steps):
        loss = jit.train_step(state, x, y)
    return loss

x, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32"), np.array([0, 1, 1, 0])
net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(1, "sigmoid")], n_inputs=2, seed=1)
state = net.jit_state(fn.Adam(0.05), "binary_cross_entropy", batch_size=4)
assert learn(state, x, y, 500) < 0.05
print(sum(learn.stats.cache_hits.values()))
"""


def test_the_user_s_function_may_be_cached(tmp_path):
    script = tmp_path / "user.py"
    script.write_text(USER)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "FASTNN_CACHE_DIR": str(tmp_path)}
    for hits in ("0", "1"):
        done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == hits


@njit
def _wrong(which, state, vector, matrix):
    if which == 0:
        jit.predict(state, vector[:5], vector[:3])
    elif which == 1:
        jit.predict(state, vector[:6], vector[:4])
    elif which == 2:
        jit.predict_batch(state, matrix[:, :5], matrix[:, :3])
    elif which == 3:
        jit.predict_batch(state, matrix[:, :6], matrix[:3, :3])
    elif which == 4:
        jit.input_gradient(state, vector[:6], vector[:2], vector[:6])
    elif which == 5:
        jit.jacobian(state, vector[:6], matrix[:6, :3])
    elif which == 6:
        jit.train_step(state, matrix[:, :6], vector)


def test_errors_from_inside_compiled_code():
    state = network().jit_state()
    messages = [
        "x must have shape", "out must have shape", "X must have shape", "a row for each row of X", "seed must have",
        "out must have shape", "needs a state made with",
    ]  # fmt: skip
    for which, message in enumerate(messages):
        with pytest.raises(ValueError, match=message):
            _wrong(which, state, np.zeros(10, "float32"), np.zeros((10, 10), "float32"))


def test_training_refuses_wrong_data():
    state = network().jit_state("adam", "cross_entropy", batch_size=16)
    for x, y, message in (
        (X[:16, :5], LABELS[:16], "X must have shape"),
        (X[:0], LABELS[:0], "at least one row"),
        (X[:16], LABELS[:15], "as many rows"),
        (X[:17], LABELS[:17], "batch_size"),
        (X[:2], np.array([0, 3]), "class labels"),
        (X[:2], np.array([0.0, 0.5]), "class labels"),
        (X[:2], np.zeros((2, 2)), "y must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            jit.train_step(state, x, y)
    step = fn.Sequential([fn.Dense(2, "step"), fn.Dense(1)], n_inputs=6).jit_state()
    with pytest.raises(ValueError, match="no useful derivative"):
        jit.input_gradient(step, X[0], np.ones(1), np.zeros(6))


def test_wrong_states_are_refused():
    net = network()
    with pytest.raises(ValueError, match="optimizer and loss must be given together"):
        net.jit_state("adam")
    with pytest.raises(ValueError, match="fixed learning rate"):
        net.jit_state(fn.Adam(fn.schedules.Cosine(0.1, steps=10)), "mse")
    with pytest.raises(ValueError, match="single steps"):
        net.jit_state(fn.LBFGS(), "mse")
    with pytest.raises(ValueError, match="same layers"):
        net.load_jit_state(network("softmax").jit_state())
    with pytest.raises(ValueError, match="optimizer must be of the kind"):
        net.load_jit_state(net.jit_state("adam", "mse"), fn.SGD(0.1))
    with pytest.raises(TypeError, match="jit_state must be a JitState"):
        net.load_jit_state(net)
