"""The network object: named views, text, classes, evaluation, building, layer specifications."""

import dataclasses

import numpy as np
import pytest

import fastnn as fn

RNG = np.random.default_rng(0)
X = RNG.standard_normal((30, 4)).astype("float32")
LABELS = RNG.integers(0, 3, 30)


def classifier(**options):
    layers = [fn.Dense(5, "tanh"), fn.BatchNorm(), fn.Residual([fn.Dense(5, "relu")]), fn.Dense(3, "softmax")]
    return fn.Sequential(layers, **({"n_inputs": 4} | options))


# -- parameters --------------------------------------------------------------------------------------------------------


def test_names_and_shapes():
    net = classifier()
    assert {name: view.shape for name, view in net.named_parameters().items()} == {
        "0.weight": (4, 5), "0.bias": (5,), "1.weight": (5,), "1.bias": (5,), "2.0.weight": (5, 5), "2.0.bias": (5,),
        "3.weight": (5, 3), "3.bias": (3,),
    }  # fmt: skip
    assert {name: view.shape for name, view in net.named_buffers().items()} == {
        "1.running_mean": (5,), "1.running_var": (5,),
    }  # fmt: skip
    assert net.n_parameters == net.parameters.size == 20 + 5 + 10 + 25 + 5 + 15 + 3


def test_the_flat_vector_holds_the_named_arrays_in_order():
    net = classifier()
    flat = np.concatenate([view.ravel() for view in net.named_parameters().values()])
    np.testing.assert_array_equal(net.parameters, flat)
    for view in net.named_parameters().values():
        assert np.shares_memory(view, net.parameters)
    assert net.parameters is net.parameters


@pytest.mark.parametrize("used", [False, True])
def test_writing_to_views_changes_the_network(used):
    net = fn.Sequential([fn.Dense(2)], n_inputs=3)
    if used:
        net.fit(X[:, :3], X[:, :2], "mse", epochs=1)
        net.predict(X[:, :3])
    net.named_parameters()["0.weight"][:] = [[1, 2], [3, 4], [5, 6]]
    net.named_parameters()["0.bias"][:] = [10, 20]
    np.testing.assert_array_equal(net.predict([[1, 0, 0], [0, 1, 1]]), [[11, 22], [18, 30]])
    net.parameters[:] = 1
    np.testing.assert_array_equal(net.predict([[1, 2, 3]]), [[7, 7]])


def test_writing_to_buffers_changes_the_network():
    net = fn.Sequential([fn.BatchNorm(eps=1e-30)], n_inputs=2, dtype="float64")
    net.predict([[1.0, 2.0]])
    net.named_buffers()["0.running_mean"][:] = [1, 0]
    net.named_buffers()["0.running_var"][:] = [1, 4]
    np.testing.assert_allclose(net.predict([[1.0, 2.0]]), [[0, 1]])


def test_set_parameters_writes_what_is_named():
    net = classifier()
    before = {name: view.copy() for name, view in (net.named_parameters() | net.named_buffers()).items()}
    net.set_parameters({"3.bias": [1, 2, 3], "1.running_mean": np.arange(5)})
    for name, view in (net.named_parameters() | net.named_buffers()).items():
        wanted = {"3.bias": [1, 2, 3], "1.running_mean": np.arange(5)}.get(name, before[name])
        np.testing.assert_array_equal(view, wanted)
    net.set_parameters({})
    other = classifier(seed=5)
    other.set_parameters(net.named_parameters() | net.named_buffers())
    np.testing.assert_array_equal(other.predict(X), net.predict(X))


def test_set_parameters_from_its_own_views():
    """Two layers swapped: the first write must not be what the second reads."""
    net = fn.Sequential([fn.Dense(3), fn.Dense(3)], n_inputs=3)
    views = net.named_parameters()
    first, second = views["0.weight"].copy(), views["1.weight"].copy()
    net.set_parameters({"0.weight": views["1.weight"], "1.weight": views["0.weight"]})
    np.testing.assert_array_equal(views["0.weight"], second)
    np.testing.assert_array_equal(views["1.weight"], first)


def test_gradients_are_named_like_the_parameters():
    net = classifier()
    _, gradients = net.loss_and_gradients(X, LABELS, "cross_entropy")
    assert {k: v.shape for k, v in gradients.items()} == {k: v.shape for k, v in net.named_parameters().items()}
    assert not any(np.shares_memory(g, net.parameters) for g in gradients.values())


# -- text --------------------------------------------------------------------------------------------------------------


def test_summary():
    lines = fn.Sequential(
        [fn.Dense(1200, "relu"), fn.Dropout(0.5), fn.Residual([fn.Dense(1200, "tanh")]), fn.Dense(3)], n_inputs=4
    ).summary()  # fmt: skip
    assert lines.splitlines()[0] == "Sequential: 4 inputs, float32"
    rows = [line.split("  ") for line in lines.splitlines()[3:7]]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert cells == [
        ["0 Dense(1200, relu)", "1200", "6,000"],
        ["1 Dropout(0.5)", "1200", "0"],
        ["2 Residual(Dense(1200, tanh))", "1200", "1,441,200"],
        ["3 Dense(3, identity)", "3", "3,603"],
    ]
    assert lines.splitlines()[-1].split() == ["total", "3", "1,450,803"]
    assert len({len(line) for line in lines.splitlines()[1:]}) == 1


def test_repr():
    net = fn.Sequential([fn.Dense(2, "relu"), fn.Activation("tanh")], seed=7, dtype="float64")
    inside = "Sequential([Dense(2, relu), Activation(tanh)], n_inputs={}, seed=7, dtype='float64')"
    assert repr(net) == inside.format("None")
    net.fit([[1.0]], [[0.0, 0.0]], "mse", epochs=0)
    assert repr(net) == inside.format("1")


# -- classes and evaluation --------------------------------------------------------------------------------------------


def line(activation):
    """A network of one input that gives activation(x)."""
    net = fn.Sequential([fn.Dense(1, activation)], n_inputs=1)
    net.parameters[:] = [1, 0]
    return net


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_classes_of_one_output(activation):
    classes = line(activation).predict_classes([[-2.0], [-0.1], [0.1], [0.4], [2.0]])
    assert classes.tolist() == [0, 0, 1, 1, 1]
    assert classes.dtype == np.int64


def test_classes_of_one_output_with_the_activation_as_a_layer():
    net = fn.Sequential([fn.Dense(1), fn.Activation("sigmoid")], n_inputs=1)
    net.parameters[:] = [1, 0]
    assert net.predict_classes([[-0.1], [0.1]]).tolist() == [0, 1]


@pytest.mark.parametrize("activation", ["softmax", "log_softmax", "sigmoid", None])
def test_classes_of_several_outputs(activation):
    net = fn.Sequential([fn.Dense(3, activation, bias=False, weight_init=np.eye(3))], n_inputs=3)
    assert net.predict_classes([[1, 2, 3], [3, 1, 2], [-3, -1, -2]]).tolist() == [2, 0, 1]


def test_evaluate():
    net = classifier()
    weights = RNG.random(30)
    found = net.evaluate(X, LABELS, "cross_entropy", ["accuracy", "f1"], weights)
    predicted = net.predict(X)
    assert list(found) == ["loss", "accuracy", "f1"]
    assert found["accuracy"] == pytest.approx(np.average(net.predict_classes(X) == LABELS, weights=weights))
    wanted = -np.average(np.log(predicted[np.arange(30), LABELS]), weights=weights)
    assert found["loss"] == pytest.approx(wanted, rel=1e-5)
    assert list(net.evaluate(X, LABELS)) == ["accuracy"]
    assert net.evaluate(X, LABELS, metrics=()) == {}
    assert list(net.evaluate(X, np.eye(3)[LABELS], "cross_entropy", "accuracy")) == ["loss", "accuracy"]


@pytest.mark.parametrize(
    ("loss", "y", "metrics"),
    [
        ("cross_entropy", LABELS, ["accuracy"]),
        ("focal", np.eye(3)[LABELS], ["accuracy"]),
        ("hinge", LABELS, ["accuracy"]),
        ("binary_cross_entropy", LABELS[:, None], ["accuracy"]),
        ("binary_cross_entropy", RNG.integers(0, 2, (30, 3)), []),
        ("mse", np.eye(3)[LABELS], []),
        ("poisson", np.eye(3)[LABELS], []),
    ],
)
def test_evaluate_gives_the_accuracy_where_rows_belong_to_one_class(loss, y, metrics):
    net = fn.Sequential([fn.Dense(3)], n_inputs=X.shape[1])
    assert list(net.evaluate(X, y, loss)) == ["loss", *metrics]


def test_evaluate_says_which_metric_does_not_fit():
    with pytest.raises(ValueError, match=r"metrics: 'accuracy' does not fit y: .*class labels"):
        line(None).evaluate([[1.0], [2.0]], [1.5, 5.0])
    several = fn.Sequential([fn.Dense(2, "sigmoid")], n_inputs=1)
    with pytest.raises(ValueError, match=r"metrics: 'f1' does not fit y: .*got row 1, which names no class or several"):
        several.evaluate([[1.0], [2.0]], [[0, 1], [1, 1]], "binary_cross_entropy", "f1")


def test_evaluate_own_metric():
    def largest(y_true, y_pred, sample_weight):
        assert sample_weight is None
        return np.abs(y_true - y_pred[:, 0]).max()

    net = line(None)
    assert net.evaluate([[1.0], [2.0]], [1.0, 5.0], "mse", largest) == {"loss": 4.5, "largest": 3.0}
    assert net.evaluate([[1.0], [2.0]], [1.0, 5.0], None, [largest, "mae"]) == {"largest": 3.0, "mae": 1.5}


def test_evaluate_leaves_penalties_out():
    net = fn.Sequential([fn.Dense(1, l1=1.0, l2=1.0)], n_inputs=1)
    net.parameters[:] = [2, 0]
    assert net.evaluate([[1.0]], [2.0], "mse", ()) == {"loss": 0.0}
    assert net.loss_and_gradients([[1.0]], [2.0], "mse")[0] == 6.0


# -- building ----------------------------------------------------------------------------------------------------------


def test_inputs_are_taken_from_the_first_data():
    lazy, eager = classifier(n_inputs=None), classifier()
    assert (lazy.n_inputs, lazy.n_outputs) == (None, None)
    for net in (lazy, eager):
        net.fit(X, LABELS, epochs=2)
    assert (lazy.n_inputs, lazy.n_outputs) == (4, 3)
    np.testing.assert_array_equal(lazy.parameters, eager.parameters)


def test_seeds():
    one, two = classifier(seed=None), classifier(seed=None)
    assert one.seed != two.seed
    assert not np.array_equal(one.parameters, two.parameters)
    again = classifier(seed=one.seed)
    for net in (one, again):
        net.fit(X, LABELS, epochs=2, batch_size=7)
    np.testing.assert_array_equal(one.parameters, again.parameters)
    np.testing.assert_array_equal(classifier(seed=np.int64(3)).parameters, classifier(seed=3).parameters)


@pytest.mark.parametrize("dtype", ["float32", "float64", np.float32, np.dtype("float64"), "f4", float])
def test_dtypes(dtype):
    net = classifier(dtype=dtype)
    assert net.dtype == np.dtype(dtype)
    net.fit(X, LABELS, epochs=1)
    results = [net.parameters, net.predict(X), net.jacobian(X), net.input_gradients(X, LABELS, "cross_entropy")]
    assert {result.dtype for result in results} == {np.dtype(dtype)}


def test_to_cpu():
    net = classifier()
    assert net.to("cpu") is net
    assert net.device == "cpu"


def test_predictions_are_fresh_arrays():
    net = classifier()
    first = net.predict(X)
    kept = first.copy()
    net.predict(2 * X)
    np.testing.assert_array_equal(first, kept)


# -- layers are specifications -----------------------------------------------------------------------------------------

SPECIFICATIONS = [
    lambda: fn.Dense(3, "relu", l2=0.1),
    lambda: fn.Dense(3, weight_init=np.ones((4, 3))),
    lambda: fn.Activation(fn.activations.elu.with_parameters(alpha=0.5)),
    lambda: fn.Dropout(0.5),
    lambda: fn.BatchNorm(0.8),
    lambda: fn.LayerNorm(),
    lambda: fn.Residual([fn.Dense(4, "relu"), fn.Residual([fn.Dense(4)])]),
]


@pytest.mark.parametrize("make", SPECIFICATIONS)
def test_layers_are_frozen_and_compare_by_value(make):
    layer = make()
    assert layer == make()
    assert hash(layer) == hash(make())
    assert {layer: 1}[make()] == 1
    for field in dataclasses.fields(layer):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(layer, field.name, getattr(layer, field.name))
    with pytest.raises(dataclasses.FrozenInstanceError):
        layer.another = 1


def test_layers_that_differ():
    layers = [make() for make in SPECIFICATIONS] + [fn.Dense(3, "relu"), fn.Dense(4, "relu", l2=0.1), fn.Dropout(0.4)]
    assert len(set(layers)) == len(layers)
    assert fn.Dense(3) == fn.Dense(3, "identity") == fn.Dense(3, fn.activations.identity)


def test_a_list_of_layers_may_change_afterwards():
    inner = [fn.Dense(4)]
    layers = [fn.Residual(inner), fn.Dense(3)]
    net = fn.Sequential(layers)
    inner.append(fn.Dense(9))
    layers.clear()
    net.fit(X, LABELS, epochs=0)
    assert net.n_outputs == 3
    assert list(net.named_parameters()) == ["0.0.weight", "0.0.bias", "1.weight", "1.bias"]


def test_one_specification_twice_owns_separate_parameters():
    layer = fn.Dense(4, "tanh")
    residual = fn.Residual([layer, layer])
    net = fn.Sequential([layer, residual, residual, layer], n_inputs=4)
    assert net.n_parameters == 6 * 20
    weights = [view for name, view in net.named_parameters().items() if name.endswith("weight")]
    assert len(weights) == 6
    for i, one in enumerate(weights):
        for other in weights[:i]:
            assert not np.shares_memory(one, other)
            assert not np.array_equal(one, other)
    net.fit(X, X, "mse", epochs=2)
    assert len({view.tobytes() for view in weights}) == 6


def test_one_specification_in_two_networks():
    layers = [fn.Dense(4, "tanh"), fn.BatchNorm(), fn.Dense(3, "softmax")]
    one, two = fn.Sequential(layers, n_inputs=4, seed=1), fn.Sequential(layers, n_inputs=4, seed=1)
    untouched = fn.Sequential(layers, n_inputs=4, seed=1)
    one.fit(X, LABELS, epochs=3)
    np.testing.assert_array_equal(two.parameters, untouched.parameters)
    np.testing.assert_array_equal(two.predict(X), untouched.predict(X))


@pytest.mark.parametrize("name", ["layers", "dtype", "seed", "device"])
def test_what_a_network_is_cannot_be_set(name):
    net = line(None)
    before = getattr(net, name)
    with pytest.raises(AttributeError, match=rf"Sequential\.{name} cannot be set: "):
        setattr(net, name, "cuda")
    assert getattr(net, name) is before
