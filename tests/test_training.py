"""What training does: known behaviours, seeds, continuation, callbacks, divergence."""

import threading

import numpy as np
import pytest
from matplotlib.figure import Figure

import fastnn as fn
from fastnn import _stepper

XOR_X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")
XOR_Y = np.array([0, 1, 1, 0])


def blobs(n=300, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    centres = 3 * rng.standard_normal((n_classes, 4))
    return (centres[y] + rng.standard_normal((n, 4))).astype("float32"), y


def classifier(seed=0, **options):
    layers = [fn.Dense(16, "relu"), fn.Dropout(0.2), fn.BatchNorm(), fn.Dense(3, "softmax")]
    return fn.Sequential(layers, n_inputs=4, seed=seed, **options)


# -- known behaviours --------------------------------------------------------------------------------------------------


def test_one_dense_layer_cannot_learn_xor():
    net = fn.Sequential([fn.Dense(1, "sigmoid")], n_inputs=2)
    net.fit(XOR_X, XOR_Y, "binary_cross_entropy", fn.Adam(0.05), epochs=1000, batch_size=4)
    # The best a line can do on XOR is one half everywhere: the loss is log 2 and at most three points are right.
    assert net.evaluate(XOR_X, XOR_Y, "binary_cross_entropy")["loss"] == pytest.approx(np.log(2), abs=1e-3)
    assert net.evaluate(XOR_X, XOR_Y)["accuracy"] <= 0.75


@pytest.mark.parametrize("seed", range(5))
def test_two_layers_learn_xor(seed):
    net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(1, "sigmoid")], n_inputs=2, seed=seed)
    net.fit(XOR_X, XOR_Y, "binary_cross_entropy", fn.Adam(0.05), epochs=500, batch_size=4)
    assert net.predict_classes(XOR_X).tolist() == XOR_Y.tolist()


def test_twenty_tanh_layers_train_under_glorot_and_stall_under_small_weights():
    """Vanishing gradients, seen layer by layer in the norm of dLoss/d bias, the sum of what reaches a layer."""
    x, y = blobs()

    def deep(init):
        layers = [fn.Dense(16, "tanh", weight_init=init)] * 20 + [fn.Dense(3, "softmax")]
        return fn.Sequential(layers, n_inputs=4, dtype="float64")

    def norms(net):
        _, gradients = net.loss_and_gradients(x, y, "cross_entropy")
        return np.array([np.linalg.norm(gradients[f"{i}.bias"]) for i in range(20)])

    glorot, small = deep("glorot_uniform"), deep(fn.initializers.Normal(std=0.05))
    assert norms(glorot)[0] > 1e-3 * norms(glorot)[-1]
    assert (norms(small)[:-1] < 0.5 * norms(small)[1:]).all()  # each layer loses more than half of it
    assert norms(small)[0] < 1e-10 * norms(small)[-1]
    for net in (glorot, small):
        net.fit(x, y, optimizer=fn.SGD(0.01, momentum=0.9), epochs=30)
    assert glorot.evaluate(x, y)["accuracy"] > 0.95
    assert small.evaluate(x, y)["accuracy"] < 0.6


def overfitting_problem():
    """A hundred noisy training points in twenty dimensions, of which three matter."""
    rng = np.random.default_rng(3)

    def draw(n):
        x = rng.standard_normal((n, 20))
        return x, (x[:, :3].sum(axis=1) + rng.standard_normal(n) > 0).astype(int)

    return draw(100), draw(2000)


def final_validation_loss(layers, callbacks=()):
    (x, y), validation = overfitting_problem()
    net = fn.Sequential(layers, n_inputs=20, seed=1)
    net.fit(
        x, y, "binary_cross_entropy", fn.Adam(0.005), epochs=100, batch_size=20, validation_data=validation,
        callbacks=callbacks,
    )  # fmt: skip
    return net.evaluate(*validation, loss="binary_cross_entropy")["loss"]


def test_early_stopping_dropout_and_l2_each_lower_the_validation_loss():
    plain = final_validation_loss([fn.Dense(64, "relu"), fn.Dense(1, "sigmoid")])
    stopped = final_validation_loss([fn.Dense(64, "relu"), fn.Dense(1, "sigmoid")], [fn.callbacks.EarlyStopping()])
    dropped = final_validation_loss([fn.Dropout(0.3), fn.Dense(64, "relu"), fn.Dropout(0.5), fn.Dense(1, "sigmoid")])
    decayed = final_validation_loss([fn.Dense(64, "relu", l2=0.02), fn.Dense(1, "sigmoid", l2=0.02)])
    assert stopped < 0.8 * plain
    assert dropped < 0.8 * plain
    assert decayed < 0.8 * plain


# -- the loop ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 7, 32, 300, 1000, None])
def test_batch_sizes(batch_size):
    x, y = blobs()
    net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(3, "softmax")], n_inputs=4)
    history = net.fit(x, y, epochs=5, batch_size=batch_size)
    assert history.loss[-1] < history.loss[0]
    size = 300 if batch_size is None else min(batch_size, 300)
    assert net._steps == 5 * -(-300 // size)


def test_one_sgd_step_is_the_gradient_times_the_rate():
    x, y = blobs()
    w = np.random.default_rng(1).random(300)
    net = fn.Sequential([fn.Dense(8, "tanh", l2=0.1), fn.Dense(3, "softmax")], n_inputs=4, dtype="float64")
    before = net.parameters.copy()
    loss, gradients = net.loss_and_gradients(x, y, "cross_entropy", w)
    history = net.fit(x, y, optimizer=fn.SGD(0.5), epochs=1, batch_size=None, shuffle=False, sample_weight=w)
    assert history.loss == pytest.approx([loss], rel=1e-14)
    gradient = np.concatenate([g.ravel() for g in gradients.values()])
    np.testing.assert_allclose(net.parameters, before - 0.5 * gradient, rtol=1e-13, atol=1e-15)


def test_the_epoch_loss_is_the_weighted_mean_over_all_samples():
    x, y = blobs(100)
    w = np.random.default_rng(1).random(100)
    net = fn.Sequential([fn.Dense(3, "softmax")], n_inputs=4, dtype="float64")
    expected, _ = net.loss_and_gradients(x, y, "cross_entropy", w)
    history = net.fit(x, y, optimizer=fn.SGD(0.0), epochs=1, batch_size=7, sample_weight=w)
    assert history.loss[0] == pytest.approx(expected, rel=1e-12)


def test_zero_weights_are_as_if_the_rows_were_not_there():
    x, y = blobs(60)
    nets = [fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(3, "softmax")], n_inputs=4, dtype="float64") for _ in "ab"]
    weights = (np.arange(60) < 40).astype(float)
    x_spoiled = x.copy()
    x_spoiled[40:] = 1e6
    nets[0].fit(x_spoiled, y, optimizer=fn.SGD(0.1), epochs=20, batch_size=None, shuffle=False, sample_weight=weights)
    nets[1].fit(x[:40], y[:40], optimizer=fn.SGD(0.1), epochs=20, batch_size=None, shuffle=False)
    np.testing.assert_allclose(nets[0].parameters, nets[1].parameters, rtol=1e-12)


def test_class_weight_is_a_sample_weight():
    x, y = blobs(100)
    nets = [fn.Sequential([fn.Dense(3, "softmax")], n_inputs=4) for _ in "abcd"]
    weights = np.array([1.0, 2.0, 0.5])[y]
    nets[0].fit(x, y, epochs=3, class_weight={1: 2.0, 2: 0.5})
    nets[1].fit(x, y, epochs=3, sample_weight=weights)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    balanced = 100 / (3 * np.bincount(y))[y]
    nets[2].fit(x, y, epochs=3, class_weight="balanced")
    nets[3].fit(x, np.eye(3)[y], epochs=3, sample_weight=balanced)
    np.testing.assert_array_equal(nets[2].parameters, nets[3].parameters)


def test_epochs_zero_builds_and_changes_nothing_else():
    x, y = blobs()
    net = fn.Sequential([fn.Dense(3, "softmax")])
    history = net.fit(x, y, epochs=0)
    assert history.loss == []
    assert net.n_inputs == 4
    np.testing.assert_array_equal(net.parameters, fn.Sequential([fn.Dense(3, "softmax")], n_inputs=4).parameters)


def test_history():
    x, y = blobs()
    net = classifier()
    history = net.fit(x, y, epochs=3, validation_split=0.2, metrics=["accuracy"])
    again = net.fit(x, y, epochs=2, validation_data=(x, y), metrics="accuracy")
    assert history.epochs == [1, 2, 3]
    assert again.epochs == [4, 5]
    columns = history.to_dict()
    assert list(columns) == ["epochs", "loss", "val_loss", "accuracy", "val_accuracy", "seconds"]
    assert all(len(column) == 3 for column in columns.values())
    assert again.metrics["accuracy"][-1] == pytest.approx(net.evaluate(x, y)["accuracy"])
    assert again.val_loss[-1] == pytest.approx(net.evaluate(x, y, "cross_entropy")["loss"])


def test_history_plots_its_losses():
    x, y = blobs()
    history = classifier().fit(x, y, epochs=3, validation_split=0.2)
    axes = Figure().subplots()
    assert history.plot(axes) is axes
    drawn = [list(line.get_ydata()) for line in axes.get_lines()]
    assert drawn == [history.loss, history.val_loss]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation"]


def test_validation_split_takes_the_last_rows():
    x, y = blobs(100)
    one, two = classifier(), classifier()
    first = one.fit(x, y, epochs=2, validation_split=0.25)
    second = two.fit(x[:75], y[:75], epochs=2, validation_data=(x[75:], y[75:]))
    assert first.val_loss == second.val_loss
    np.testing.assert_array_equal(one.parameters, two.parameters)


# -- seeds and continuation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_same_seed_gives_the_same_bits(dtype, monkeypatch):
    x, y = blobs()
    results = []
    for chunk in (1, 3, 64, 1 << 16):
        monkeypatch.setattr(_stepper, "_FIRST_CHUNK", chunk)
        monkeypatch.setattr(_stepper, "_MOST_STEPS", chunk)
        net = classifier(seed=5, dtype=dtype)
        history = net.fit(x, y, epochs=4, batch_size=16)
        results.append((net.parameters.copy(), list(net.named_buffers().values()), history.loss))
    for parameters, buffers, loss in results[1:]:
        np.testing.assert_array_equal(parameters, results[0][0])
        np.testing.assert_array_equal(buffers, results[0][1])
        assert loss == results[0][2]
    assert not np.array_equal(classifier(seed=6, dtype=dtype).parameters, classifier(seed=5, dtype=dtype).parameters)


def test_float32_and_float64_of_one_seed_start_from_the_same_numbers():
    one, two = classifier(dtype="float32"), classifier(dtype="float64")
    np.testing.assert_array_equal(one.parameters, two.parameters.astype("float32"))


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "rprop", "lion"])
def test_two_halves_are_a_whole(optimizer):
    """Repeated calls go on where the last one stopped: parameters, moments, shuffling, dropout, running statistics."""
    x, y = blobs()
    whole, halves = classifier(), classifier()
    whole.fit(x, y, optimizer=optimizer, epochs=6)
    for _ in range(2):
        halves.fit(x, y, optimizer=optimizer, epochs=3)
    np.testing.assert_array_equal(whole.parameters, halves.parameters)
    np.testing.assert_array_equal(whole.predict(x), halves.predict(x))


def test_an_optimizer_object_carries_its_state():
    x, y = blobs()
    whole, halves = classifier(), classifier()
    one, two = fn.Adam(0.01), fn.Adam(0.01)
    whole.fit(x, y, optimizer=one, epochs=4)
    halves.fit(x, y, optimizer=two, epochs=2)
    steps = two.steps
    halves.fit(x, y, optimizer=two, epochs=2)
    assert two.steps == 2 * steps == one.steps
    np.testing.assert_array_equal(whole.parameters, halves.parameters)
    other = fn.Sequential([fn.Dense(3, "softmax")], n_inputs=4)
    before = other.parameters.copy()
    with pytest.raises(ValueError, match="reset"):
        other.fit(x, y, optimizer=two)
    np.testing.assert_array_equal(other.parameters, before)


def test_a_copy_goes_its_own_way():
    x, y = blobs()
    net = classifier()
    net.fit(x, y, epochs=2)
    copy = net.copy()
    net.fit(x, y, epochs=2)
    kept = copy.parameters.copy()
    assert not np.array_equal(kept, net.parameters)
    copy.fit(x, y, epochs=2)
    np.testing.assert_array_equal(copy.parameters, net.parameters)


def test_threads_may_use_networks_at_once():
    """Two threads that train, and two that predict with one network, get what one thread gets."""
    x, y = blobs()
    expected = classifier(seed=1)
    expected.fit(x, y, epochs=20)
    shared = expected.copy()
    results = {}

    def train(name):
        net = classifier(seed=1)
        net.fit(x, y, epochs=20)
        results[name] = net.parameters

    def predict(name):
        results[name] = [shared.predict(x[: 50 + i]) for i in range(200)]

    threads = [threading.Thread(target=f, args=(f"{f.__name__}{i}",)) for f in (train, predict) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        np.testing.assert_array_equal(results[f"train{i}"], expected.parameters)
        for k, values in enumerate(results[f"predict{i}"]):
            np.testing.assert_array_equal(values, expected.predict(x[: 50 + k]))


# -- divergence --------------------------------------------------------------------------------------------------------


def test_divergence_raises_and_keeps_the_last_finite_epoch():
    x, y = blobs()
    net = fn.Sequential([fn.Dense(8, "relu"), fn.Dense(3)], n_inputs=4)
    net.fit(x, y, "cross_entropy", fn.SGD(0.01), epochs=2)
    good = net.parameters.copy()
    optimizer = fn.SGD(1e30, momentum=0.9)
    with pytest.raises(fn.DivergenceError, match=r"diverged in epoch 3 .*epoch 2"):
        net.fit(x, y, "cross_entropy", optimizer, epochs=3)
    np.testing.assert_array_equal(net.parameters, good)
    assert np.isfinite(optimizer.state.slots).all()
    with pytest.warns(RuntimeWarning, match="diverged"):
        history = net.fit(x, y, "cross_entropy", fn.SGD(1e30), epochs=3, on_divergence="restore")
    assert history.stopped == "diverged"
    np.testing.assert_array_equal(net.parameters, good)


def test_the_warning_of_divergence_points_at_the_call_of_fit():
    x, y = blobs()
    with pytest.warns(RuntimeWarning, match="diverged") as caught:
        classifier().fit(x, y, optimizer=fn.SGD(1e30), on_divergence="restore")
    assert caught[0].filename == __file__


@pytest.mark.parametrize("on_divergence", ["raise", "restore"])
def test_the_average_leaves_a_network_alone_whose_training_diverged(on_divergence):
    x, y = blobs()
    net = fn.Sequential([fn.Dense(8, "relu"), fn.Dense(3)], n_inputs=4)
    good = net.parameters.copy()
    average = fn.callbacks.EMA(every_steps=1)
    expected = pytest.raises(fn.DivergenceError) if on_divergence == "raise" else pytest.warns(RuntimeWarning)
    with expected:
        net.fit(x, y, "cross_entropy", fn.SGD(1e30), epochs=3, callbacks=[average], on_divergence=on_divergence)
    assert np.abs(average.parameters).max() > 1e20
    np.testing.assert_array_equal(net.parameters, good)


# -- callbacks ---------------------------------------------------------------------------------------------------------


def test_early_stopping_restores_the_best_epoch():
    (x, y), validation = overfitting_problem()
    net = fn.Sequential([fn.Dense(64, "relu"), fn.Dense(1, "sigmoid")], n_inputs=20)
    stopper = fn.callbacks.EarlyStopping(patience=5)
    history = net.fit(
        x, y, "binary_cross_entropy", fn.Adam(0.01), 500, 20, validation_data=validation, callbacks=[stopper]
    )  # fmt: skip
    best = int(np.argmin(history.val_loss))
    assert len(history.loss) == best + 1 + 6 < 500
    assert stopper.best_epoch == best + 1
    assert stopper.best == min(history.val_loss)
    assert "val_loss" in history.stopped
    assert net.evaluate(*validation, loss="binary_cross_entropy")["loss"] == min(history.val_loss)


@pytest.mark.parametrize("name, larger", [("error_rate", False), ("MSE", False), ("hit_rate", True)])
def test_which_way_is_better_goes_by_the_name(name, larger):
    x, y = blobs()

    def metric(y_true, y_pred, sample_weight):
        return float(next(values))

    metric.__name__, values = name, iter([3, 1, 2, 2, 2])
    stopper = fn.callbacks.EarlyStopping(name, patience=9)
    classifier().fit(x, y, epochs=5, metrics=[metric], callbacks=[stopper])
    assert (stopper.best, stopper.best_epoch) == ((3, 1) if larger else (1, 2))


def test_reduce_on_plateau_lowers_the_rate():
    x, y = blobs()
    optimizer = fn.SGD(0.1)
    net = fn.Sequential([fn.Dense(3, "softmax")], n_inputs=4)
    callback = fn.callbacks.ReduceOnPlateau(0.5, patience=1, monitor="loss", min_delta=10.0)
    net.fit(x, y, optimizer=optimizer, epochs=5, callbacks=[callback])
    assert optimizer.learning_rate_factor == 0.25  # best after epoch 1, reduced after epochs 3 and 5
    assert optimizer.learning_rates(0, 1).tolist() == [0.025]


def test_checkpoint_and_csv_log(tmp_path):
    x, y = blobs()
    net = classifier()
    paths = [tmp_path / name for name in ("net-{epoch}.safetensors", "{{net}}-{epoch:03d}.safetensors")]
    checkpoints = [fn.callbacks.Checkpoint(path, every=2) for path in paths]
    log = fn.callbacks.CSVLog(tmp_path / "log.csv")
    net.fit(x, y, epochs=5, validation_split=0.1, callbacks=[*checkpoints, log])
    assert sorted(p.name for p in tmp_path.glob("*net*")) == [
        "net-2.safetensors", "net-4.safetensors", "{net}-002.safetensors", "{net}-004.safetensors"
    ]  # fmt: skip
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,val_loss,seconds"
    assert len(lines) == 6
    assert fn.load(tmp_path / "net-4.safetensors").n_parameters == net.n_parameters


@pytest.mark.parametrize("path", ["net-{loss}.st", "net-{}.st", "net-{epoch", "net-{epoch:q}.st"])
def test_a_checkpoint_s_path_holds_the_epoch_alone(path):
    with pytest.raises(ValueError, match=r"path may hold \{epoch\}"):
        fn.callbacks.Checkpoint(path)


def test_ema_is_the_corrected_average():
    x, y = blobs()
    net = fn.Sequential([fn.Dense(3, "softmax")], n_inputs=4, dtype="float64")
    seen = []

    class Spy:
        every_steps = 3

        def on_steps_end(self, state):
            seen.append(state.network.parameters.copy())

    net.fit(x, y, epochs=2, callbacks=[Spy(), fn.callbacks.EMA(0.9, every_steps=3)])
    assert len(seen) == 2 * 10 // 3
    shares = 0.1 * 0.9 ** np.arange(len(seen))[::-1]
    np.testing.assert_allclose(net.parameters, shares @ np.array(seen) / shares.sum(), rtol=1e-12)


def test_any_callable_is_a_callback_and_may_stop():
    x, y = blobs()
    epochs = []

    def callback(state):
        epochs.append(state.epoch)
        if state.epoch == 3:
            state.stop("enough")

    history = classifier().fit(x, y, epochs=10, callbacks=callback)
    assert epochs == [1, 2, 3]
    assert history.stopped == "enough"


def test_lbfgs_reaches_the_minimum():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3))
    y = x @ [1.0, -2.0, 0.5] + 0.3
    net = fn.Sequential([fn.Dense(1)], n_inputs=3, dtype="float64")
    history = net.fit(x, y, "mse", "lbfgs", epochs=100)
    assert history.stopped == "converged"
    assert history.loss[-1] < 1e-10
    np.testing.assert_allclose(net.parameters, [1.0, -2.0, 0.5, 0.3], atol=1e-5)


def test_lbfgs_moves_running_statistics_and_serves_callbacks():
    x, y = blobs()
    net = classifier()
    epochs, steps = [], []

    class Spy:
        every_steps = 2

        def on_steps_end(self, state):
            steps.append(state.optimizer.steps)

    net.fit(x, y, optimizer="lbfgs", epochs=5, callbacks=[lambda state: epochs.append(state.epoch), Spy()])
    assert epochs == [1, 2, 3, 4, 5]
    assert len(steps) == 2
    assert net.named_buffers()["2.running_mean"].any()


def test_an_error_of_a_callback_leaves_lbfgs_whatever_it_is():
    x, y = blobs()

    def callback(state):
        if state.epoch == 2:
            next(iter(()))

    with pytest.raises(StopIteration):
        classifier().fit(x, y, optimizer="lbfgs", epochs=5, callbacks=callback)


# -- a user's own ------------------------------------------------------------------------------------------------------


def test_own_activation_loss_and_optimizer_train():
    own = fn.Activation.from_functions("tests_cubic", lambda z: z * z * z, lambda z: 3 * z * z)
    loss = fn.losses.from_functions("tests_quartic", lambda o, y: (o - y) ** 4, lambda o, y: 4 * (o - y) ** 3)
    Sign = fn.optimizers.from_rule("tests_sign", lambda p, g, s0, s1, s2, c: (p - c[0] * np.sign(g), s0, s1, s2))
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (200, 2))
    y = (x[:, 0] + x[:, 1]) ** 3
    net = fn.Sequential([fn.Dense(8, own), fn.Dense(4, "tanh"), fn.Dense(1)], n_inputs=2)
    history = net.fit(x, y, loss, Sign(learning_rate=0.002), epochs=60, batch_size=20)
    assert history.loss[-1] < 0.2 * history.loss[0]
    with pytest.raises(ValueError, match="second derivative"):
        net.hessian_vector_product(x, y, "mse", np.ones(net.n_parameters))
    plain = fn.Sequential([fn.Dense(1)], n_inputs=2)
    with pytest.raises(ValueError, match="second derivative"):
        plain.hessian_vector_product(x, y, loss, np.ones(plain.n_parameters))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loss_that_is_not_finite_ends_a_chunk_of_steps(dtype):
    x, y = 10 * np.random.default_rng(0).standard_normal((20, 2)), np.ones((20, 1))
    net = fn.Sequential([fn.Dense(1)], n_inputs=2, dtype=dtype)
    objective = net._question(x, y, "mse", None)
    training = net._ready().training(objective, fn.SGD(1e4 if dtype == "float32" else 1e50), 4, 0)
    done, losses, _ = training.run(np.empty(0, np.int64), 0, 5, 0)
    assert 1 < done < 5
    assert np.isfinite(losses[:done]).all()
    assert np.isinf(losses[done])
    assert (losses[done + 1 :] == 0).all()  # no further step was tried
