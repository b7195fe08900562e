"""The compiled engine against the NumPy reference, central differences, and itself."""

import numpy as np
import pytest
import reference
from reference_optimizers import STEPS

import fastnn as fn
from fastnn import _rows as row

TRAINABLE = [name for name in fn.activations.names() if fn.activations.get(name).trainable]
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}

ARCHITECTURES = {
    "single": lambda a: [fn.Dense(3, a)],
    "hidden": lambda a: [fn.Dense(17, a), fn.Dense(3)],
    "wide": lambda a: [fn.Dense(70, a), fn.Dense(33, a), fn.Dense(3)],
    "no bias": lambda a: [fn.Dense(5, a, bias=False), fn.Dense(3, bias=False)],
    "layer of its own": lambda a: [fn.Dense(6), fn.LayerNorm(), fn.Activation(a), fn.Dense(3)],
    "first": lambda a: [fn.Activation(a), fn.Dense(3)],
    "last": lambda a: [fn.Dense(3, "tanh"), fn.LayerNorm(), fn.Activation(a)],
    "batch norm": lambda a: [fn.BatchNorm(), fn.Dense(9, a), fn.BatchNorm(), fn.Dense(3)],
    "residual": lambda a: [fn.Residual([fn.Dense(8, a), fn.Dense(4)]), fn.Residual([fn.Dense(4, a)]), fn.Dense(3)],
    "nested": lambda a: [fn.Dense(4), fn.Residual([fn.Residual([fn.Dense(4, a)]), fn.Dense(4, a)]), fn.Dense(3)],
    "penalised": lambda a: [fn.Dense(8, a, l1=0.01, l2=0.02), fn.Dense(3, l2=0.1)],
}  # fmt: skip


def build(layers, dtype="float64", n_inputs=4, seed=3):
    """A network whose biases, gains and running statistics are not the neutral ones they start from."""
    net = fn.Sequential(layers, n_inputs=n_inputs, seed=seed, dtype=dtype)
    rng = np.random.default_rng(seed)
    net.parameters[:] = 0.4 * net.parameters + 0.1 * rng.standard_normal(net.n_parameters)
    for buffer in net.named_buffers().values():
        buffer += 0.3 * rng.random(buffer.shape)
    return net


def targets(loss, n, n_outputs, rng):
    """Targets that a loss takes, as dense float64 rows."""
    if loss in ("cross_entropy", "focal") and n_outputs > 1:
        return np.eye(n_outputs)[rng.integers(0, n_outputs, n)]
    if loss == "kl_divergence":
        y = rng.random((n, n_outputs)) + 0.1
        return y / y.sum(axis=1, keepdims=True)
    if loss in ("binary_cross_entropy", "hinge", "squared_hinge", "focal"):
        return rng.integers(0, 2, (n, n_outputs)).astype(float)
    if loss == "poisson":
        return rng.poisson(2.0, (n, n_outputs)).astype(float)
    return rng.standard_normal((n, n_outputs))


def flat(gradients):
    return np.concatenate([g.ravel() for g in gradients.values()])


def relative(a, b):
    return np.linalg.norm(np.asarray(a) - b) / max(np.linalg.norm(b), 1e-30)


def numeric_d_outputs(loss, outputs, y, weights, output):
    """dLoss/d outputs of the reference loss, by central differences."""
    d = np.zeros_like(outputs)
    for index in np.ndindex(*outputs.shape):
        h = 1e-6 * max(1.0, abs(outputs[index]))
        up, down = outputs.copy(), outputs.copy()
        up[index] += h
        down[index] -= h
        up_value, down_value = (reference.mean_loss(loss, o, y, weights, output) for o in (up, down))
        d[index] = (up_value - down_value) / (2 * h)
    return d


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("activation", TRAINABLE)
def test_forward_and_gradients_equal_the_reference(activation, architecture, dtype):
    net = build(ARCHITECTURES[architecture](activation), dtype)
    rng = np.random.default_rng(5)
    x = rng.standard_normal((13, 4)).astype(dtype)
    y = rng.standard_normal((13, 3)).astype(dtype)
    weights = rng.random(13).astype(dtype) + 0.5
    for training in (False, True):
        ref = reference.Network(net)
        outputs = ref.forward(x, training)
        if not training:
            assert relative(net.predict(x), outputs) < TOLERANCE[dtype]
        loss, gradients = net.loss_and_gradients(x, y, "mse", weights, training=training)
        share = weights.astype(float)[:, None] / weights.sum(dtype=float)
        expected, d_x = ref.backward(2 * (outputs - y) * share / 3)
        penalty, penalty_gradients = ref.penalty()
        for name, value in penalty_gradients.items():
            expected[name] = expected[name] + value
        assert loss == pytest.approx((share * (outputs - y) ** 2).sum() / 3 + penalty, rel=10 * TOLERANCE[dtype])
        assert list(gradients) == list(net.named_parameters())
        scale = max(np.abs(g).max() for g in expected.values())
        for name, gradient in gradients.items():
            assert gradient.dtype == dtype
            np.testing.assert_allclose(gradient, expected[name], rtol=0, atol=10 * TOLERANCE[dtype] * max(scale, 1))
        got = net.input_gradients(x, y, "mse", weights, training=training)
        np.testing.assert_allclose(got, d_x, rtol=0, atol=10 * TOLERANCE[dtype] * max(np.abs(d_x).max(), 1))


@pytest.mark.parametrize("loss", list(fn.losses.names()))
@pytest.mark.parametrize("output", ["identity", "sigmoid", "softmax", "log_softmax", "exponential", "tanh"])
def test_losses_behind_output_activations(loss, output):
    """The reported loss is the reference's, whether or not it is computed together with the output activation."""
    loss = fn.losses.get(loss)
    net = build([fn.Dense(6, "tanh"), fn.Dense(3, output)])
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((11, 4)), targets(loss.name, 11, 3, rng)
    weights = rng.random(11) + 0.1
    try:
        resolved = loss.resolve(output, 3)
    except ValueError:
        with pytest.raises(ValueError, match=output):
            net.loss_and_gradients(x, y, loss)
        return
    ref = reference.Network(net)
    outputs = ref.forward(x)
    if resolved.from_pre_activation:
        outputs = ref.tape[-1][4]
    value, gradients = net.loss_and_gradients(x, y, loss, weights)
    assert value == pytest.approx(reference.mean_loss(loss, outputs, y, weights, output), rel=1e-10)
    d = numeric_d_outputs(loss, outputs, y, weights, output)
    if resolved.from_pre_activation:
        ref.tape[-1] = (*ref.tape[-1][:1], fn.Dense(3), *ref.tape[-1][2:])
    expected, _ = ref.backward(d)
    assert relative(flat(gradients), flat({k: expected[k] for k in gradients})) < 1e-6


@pytest.mark.parametrize("loss", list(fn.losses.names()))
@pytest.mark.parametrize("activation", TRAINABLE)
def test_derivatives_equal_central_differences(activation, loss):
    """Gradient, dLoss/dX and Hessian-vector product of every activation with every loss, dropout and norms in play."""
    rng = np.random.default_rng(7)
    rowwise = fn.activations.get(activation).rowwise
    layers = [
        fn.Dense(6, activation, l1=1e-3, l2=1e-2),
        fn.BatchNorm(),
        fn.Dropout(0.3),
        fn.Residual([fn.Dense(6, "tanh" if rowwise else activation), fn.LayerNorm()]),
        fn.Dense(3),
    ]
    net = build(layers)
    x, y = rng.standard_normal((20, 4)), targets(loss, 20, 3, rng)
    weights = rng.random(20)
    start = net.parameters.copy()
    v, u, h = rng.standard_normal(net.n_parameters), rng.standard_normal(x.shape), 1e-6
    for training in (False, True):

        def at(step, x=x, training=training):
            net.parameters[:] = start + step * v
            value, gradients = net.loss_and_gradients(x, y, loss, weights, training=training, seed=2)
            net.parameters[:] = start
            return value, flat(gradients)

        # A kink between the two points spoils a difference; it moves away with the step.
        best_gradient, best_product, best_input = np.inf, np.inf, np.inf
        product = net.hessian_vector_product(x, y, loss, v, weights, training=training, seed=2)
        d_x = net.input_gradients(x, y, loss, weights, training=training, seed=2)
        for h in (1e-5, 1e-6, 1e-7):
            (up, up_gradient), (down, down_gradient) = at(h), at(-h)
            slope = (up - down) / (2 * h)
            best_gradient = min(best_gradient, abs(at(0)[1] @ v - slope) / max(abs(slope), 1e-3))
            best_product = min(best_product, relative(product, (up_gradient - down_gradient) / (2 * h)))
            slope = (at(0, x + h * u)[0] - at(0, x - h * u)[0]) / (2 * h)
            best_input = min(best_input, abs((d_x * u).sum() - slope) / max(abs(slope), 1e-3))
        assert best_gradient < 1e-6
        assert best_input < 1e-6
        assert best_product < 1e-6


@pytest.mark.parametrize("activation", TRAINABLE)
def test_jacobian_equals_central_differences(activation):
    net = build(
        [fn.Dense(6, activation), fn.BatchNorm(), fn.Dropout(0.5), fn.Dense(5, "tanh"), fn.Dense(3, activation)]
    )
    rng = np.random.default_rng(7)
    x = rng.standard_normal((9, 4))
    jacobian = net.jacobian(x)
    assert jacobian.shape == (9, 3, 4)
    for k in range(4):
        step = np.zeros(4)
        step[k] = 1e-6
        numeric = (net.predict(x + step) - net.predict(x - step)) / 2e-6
        np.testing.assert_allclose(jacobian[:, :, k], numeric, atol=1e-6 * max(1, np.abs(numeric).max()))


def test_step_evaluates_but_does_not_train():
    net = fn.Sequential([fn.Dense(2, "step"), fn.Dense(1)], n_inputs=2)
    assert np.isfinite(net.predict([[1.0, 2.0]])).all()
    for call in (
        lambda: net.fit([[1.0, 2.0]], [[1.0]], loss="mse"),
        lambda: net.loss_and_gradients([[1.0, 2.0]], [[1.0]], "mse"),
        lambda: net.jacobian([[1.0, 2.0]]),
    ):
        with pytest.raises(ValueError, match=r"step.*no useful derivative"):
            call()


def test_batch_statistics_of_many_rows_are_not_worn_away_by_rounding():
    """Adding a million numbers one by one in float32 is wrong in the fourth digit."""
    x = np.random.default_rng(0).normal(100.0, 1.0, (1_000_003, 2)).astype(np.float32)
    net = fn.Sequential([fn.BatchNorm(momentum=0.0)], n_inputs=2)
    net.fit(x, np.zeros_like(x), "mse", fn.SGD(0.1), epochs=1, batch_size=None)
    found, wide = net.named_buffers(), x.astype(np.float64)
    np.testing.assert_allclose(found["0.running_mean"], wide.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["0.running_var"], wide.var(axis=0), rtol=1e-5)
    np.testing.assert_allclose(net.named_parameters()["0.weight"], 0.9, atol=1e-5)  # its gradient is 2 / 2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("last", [fn.Dense(7, "softmax"), fn.Dense(1, "relu"), fn.Dense(1, bias=False)], ids=repr)
def test_results_do_not_depend_on_the_batch_around_a_row(last, dtype):
    """A row's prediction is the same bits alone, in any batch, and across pieces."""
    net = build([fn.Dense(50, "gelu"), fn.Dense(33, "tanh"), fn.LayerNorm(), last], dtype)
    x = np.random.default_rng(0).standard_normal((1500, 4)).astype(dtype)
    together = net.predict(x)
    for n in (1, 2, 3, 5, 8, 13, 127, 700):
        np.testing.assert_array_equal(net.predict(x[:n]), together[:n])
    np.testing.assert_array_equal(np.vstack([net.predict(x[i : i + 1]) for i in range(40)]), together[:40])


@pytest.mark.parametrize("width, loss", [(7, "cross_entropy"), (1, "binary_cross_entropy")])
def test_loss_and_gradient_do_not_depend_on_the_pieces(width, loss, monkeypatch):
    from fastnn.cpu import engine

    layers = [fn.Dense(50, "gelu"), fn.Dropout(0.2), fn.Residual([fn.Dense(50, "relu")]), fn.Dense(width)]
    rng = np.random.default_rng(0)
    x, y, w = rng.standard_normal((1000, 4)), rng.integers(0, max(width, 2), 1000), rng.random(1000)
    results = []
    for most_rows in (64, 128, 512, 4096):
        monkeypatch.setattr(engine, "_PIECE_BYTES", 1 << 30)
        monkeypatch.setattr(engine, "_LEAST_ROWS", 64)
        monkeypatch.setattr(engine, "_MOST_ROWS", most_rows)
        net = build(layers, "float32")
        value, gradients = net.loss_and_gradients(x, y, loss, w, training=True)
        results.append((value, flat(gradients)))
    for value, gradient in results[1:]:
        assert value == results[0][0]
        np.testing.assert_array_equal(gradient, results[0][1])


@pytest.mark.parametrize("seed", range(8))
def test_a_last_piece_of_one_row_leaves_no_trace_in_a_layer_of_one_weight(seed, monkeypatch):
    from fastnn.cpu import engine

    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((129, 1)), rng.standard_normal(129)
    x[:128] *= 0.1  # so that the last product is as large as the sum before it, and its rounding would show
    results = []
    for rows in (64, 128, 4096):
        monkeypatch.setattr(engine, "_LEAST_ROWS", rows)
        monkeypatch.setattr(engine, "_MOST_ROWS", rows)
        results.append(flat(build([fn.Dense(1)], "float32", 1).loss_and_gradients(x, y, "mse")[1]))
    np.testing.assert_array_equal(results[0], results[2])
    np.testing.assert_array_equal(results[1], results[2])


@pytest.mark.parametrize("n_inputs", [1, 2, 15, 16, 17, 31, 64])
@pytest.mark.parametrize("width", [1, 7, 8, 9, 16, 17, 31, 32, 33, 100])
def test_all_widths(width, n_inputs):
    for dtype in ("float32", "float64"):
        net = build([fn.Dense(width, "softplus"), fn.Dense(width, "relu"), fn.Dense(2)], dtype, n_inputs)
        x = np.random.default_rng(0).standard_normal((11, n_inputs)).astype(dtype)
        assert relative(net.predict(x), reference.Network(net).forward(x)) < TOLERANCE[dtype]


@pytest.mark.parametrize("depth", [1, 2, 10, 100])
def test_all_depths(depth):
    net = build([fn.Dense(8, "tanh")] * depth + [fn.Dense(1)], n_inputs=3)
    x = np.random.default_rng(0).standard_normal((5, 3))
    ref = reference.Network(net)
    outputs = ref.forward(x)
    np.testing.assert_allclose(net.predict(x), outputs, atol=1e-12)
    _, gradients = net.loss_and_gradients(x, np.zeros(5), "mse")
    expected, _ = ref.backward(2 * outputs / 5)
    np.testing.assert_allclose(flat(gradients), flat({k: expected[k] for k in gradients}), atol=1e-12)


def test_dropout_keeps_the_mean_and_drops_the_rate():
    net = fn.Sequential([fn.Dropout(0.3)], n_inputs=50)
    x = np.ones((2000, 50), "float32")
    # d mean(out^2) / dx = 2 factor^2 / size: the factors themselves, as training uses them.
    d = net.input_gradients(x, np.zeros_like(x), "mse", training=True, seed=4)
    factor = np.sqrt(d * x.size / 2)
    assert set(np.unique(factor.round(3))) == {np.float32(0), np.float32(round(1 / 0.7, 3))}
    assert abs((factor == 0).mean() - 0.3) < 0.005
    assert np.abs((factor == 0).mean(axis=0) - 0.3).max() < 0.06
    assert np.abs((factor == 0).mean(axis=1) - 0.3).max() < 0.4
    other = net.input_gradients(x, np.zeros_like(x), "mse", training=True, seed=5)
    assert ((other == 0) & (d == 0)).mean() == pytest.approx(0.09, abs=0.005)
    assert net.input_gradients(x, np.zeros_like(x), "mse").min() > 0  # inference drops nothing


def test_an_activation_layer_after_a_linear_layer_is_fused():
    together = fn.Sequential([fn.Dense(4, "tanh")], n_inputs=2)
    apart = fn.Sequential([fn.Dense(4), fn.Activation("tanh")], n_inputs=2)
    assert len(apart._plan.table) == 1
    np.testing.assert_array_equal(apart._plan.table[:, : row.GEMM], together._plan.table[:, : row.GEMM])


@pytest.mark.parametrize("activation", TRAINABLE)
def test_nan_is_never_swallowed(activation):
    net = fn.Sequential([fn.Dense(4, activation), fn.LayerNorm(), fn.Dense(3, activation)], n_inputs=2)
    net.parameters[0] = np.nan
    assert np.isnan(net.predict([[1.0, 1.0]])).all()
    loss, _ = net.loss_and_gradients([[1.0, 1.0]], [[1.0, 1.0, 1.0]], "mse")
    assert np.isnan(loss)


@pytest.mark.parametrize("output, loss", [("softmax", "cross_entropy"), ("sigmoid", "binary_cross_entropy")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cross_entropies_are_stable_at_huge_pre_activations(output, loss, dtype):
    net = fn.Sequential([fn.Dense(3, output)], n_inputs=3, dtype=dtype)
    net.set_parameters({"0.weight": np.eye(3), "0.bias": np.zeros(3)})
    x = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [1e4, 1e4, 1e4]])
    y = np.eye(3)
    value, gradients = net.loss_and_gradients(x, y, loss)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients.values())
    ref = reference.mean_loss(fn.losses.get(loss), x, y)
    assert value == pytest.approx(ref, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in fn.optimizers.names() if name != "lbfgs"])
def test_training_equals_the_reference(name):
    """Thirty steps of ``fit`` in mini-batches against the reference network and the reference optimizer."""
    net = build([fn.Dense(7, "tanh", l2=0.01), fn.LayerNorm(), fn.Dense(3)])
    ref = reference.Network(net)
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((25, 4)), rng.standard_normal((25, 3))
    optimizer = fn.optimizers.from_config({"name": name, "learning_rate": 0.01})
    step, state = STEPS[name], {}
    for t in range(1, 31):
        rows = slice(10 * ((t - 1) % 3), 10 * ((t - 1) % 3) + 10)  # 10, 10 and 5 rows
        outputs = ref.forward(x[rows], training=True)
        gradients, _ = ref.backward(2 * (outputs - y[rows]) / outputs.size)
        for key, value in ref.penalty()[1].items():
            gradients[key] = gradients[key] + value
        theta = step(flat(ref.p), flat({k: gradients[k] for k in ref.p}), 0.01, t, state)
        for entry, (key, value) in zip(net._plan.parameters, ref.p.items(), strict=True):
            ref.p[key] = theta[entry.offset : entry.offset + entry.size].reshape(value.shape)
    net.fit(x, y, "mse", optimizer, epochs=10, batch_size=10, shuffle=False)
    assert relative(net.parameters, flat(ref.p)) < 1e-10


def test_memory_does_not_grow_with_the_batch():
    net = fn.Sequential([fn.Dense(64, "gelu"), fn.Dense(64, "relu"), fn.Dense(3)], n_inputs=20)
    rng = np.random.default_rng(0)
    sizes = []
    for n in (1_000, 20_000):
        net.loss_and_gradients(rng.standard_normal((n, 20)), rng.standard_normal((n, 3)), "mse")
        work = net._engine._local.work
        sizes.append(sum(array.nbytes for array in work))
    assert sizes[1] == sizes[0]
