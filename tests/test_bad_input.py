"""Every argument of every public function: what is wrong is refused with its name, before anything changes.

The arguments are found by walking the package, their bad values are looked up in the tables of `bad_values` by
function and argument, or by module and argument. An argument without bad values fails
`test_every_argument_has_bad_values`.
"""

import importlib.util
import inspect
import re

import numpy as np
import pytest
from bad_values import (
    ANY_REASON,
    AT_LEAST_0,
    CALLED,
    GOOD,
    GOOD_OF,
    LABELS,
    LOGISTIC,
    NAMED_INSIDE,
    PERCEPTRON,
    POPULATION,
    SPECIFIC,
    TABLE,
    WIDTHS,
    Bad,
    N,
    X,
    spent,
)

import fastnn as fn
from fastnn import _checks, gates, neurons
from fastnn.activations import ActivationFunction
from fastnn.schedules import Schedule

# -- the public functions ----------------------------------------------------------------------------------------------

MODULES = (
    "activations", "callbacks", "data", "gates", "initializers", "io", "losses", "metrics", "neurons", "optimizers",
    "plots", "schedules",
)  # fmt: skip
EXTRAS = ("cuda",) if importlib.util.find_spec("numba_cuda") else ()  # `test_cuda_is_walked` says where it is missing
MADE_HERE = {  # types whose objects the library makes, and constants of the engine
    "activations.ActivationFunction",
    "activations.Definition",
    "activations.Parameter",
    "losses.Resolved",
    "optimizers.Minimum",
    "optimizers.OptimizerState",
    "neurons.Convergence",
    "DivergenceError",
    "History",
}
OVERRIDDEN = {
    "Schedule.values",  # what a user's subclass defines, and the library calls
    *("McCullochPitts.__call__", "Circuit.__call__"),  # take any number of inputs: see test_neurons
}
METHODS = {  # with the object that they are called on
    "Sequential": fn.Sequential,  # filled in by `called`
    "Population": POPULATION,
    "ActivationFunction": fn.activations.leaky_relu,
    "Schedule": fn.schedules.Constant(0.1),
    "McCullochPitts": gates.AND,
    "Circuit": gates.XOR,
    "Perceptron": PERCEPTRON,
    "LogisticNeuron": LOGISTIC,
}


def exported(module):
    names = getattr(module, "__all__", None)
    if names is None:
        names = [k for k, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__]
    return [name for name in names if not name.startswith("_")]


def public():
    """Everything a user calls: name -> callable."""
    found = {}
    for name in fn.__all__:
        if name not in (*MODULES, "load") and not inspect.ismodule(getattr(fn, name)):
            found[name] = getattr(fn, name)
    for module in (*MODULES, *EXTRAS):
        imported = importlib.import_module(f"fastnn.{module}")
        for name in exported(imported):
            value = getattr(imported, name)
            if isinstance(value, (neurons.McCullochPitts, gates.Circuit)):
                continue  # their class's methods are below
            if not isinstance(value, type) or value.__name__ not in found:
                found[f"{module}.{name}"] = value
    classics = (neurons.McCullochPitts, gates.Circuit, neurons.Perceptron, neurons.LogisticNeuron)
    for kind in (fn.Sequential, fn.Population, ActivationFunction, Schedule, *classics):
        name = kind.__name__
        for method, value in inspect.getmembers(kind, inspect.isfunction):
            wanted = method == "__call__" and name != "Sequential"
            if wanted or not method.startswith("_"):
                found[f"{name}.{method}"] = value
    return {k: v for k, v in found.items() if k not in MADE_HERE | OVERRIDDEN and not k.endswith("_ARGUMENTS")}


def arguments(function):
    """Names of a callable's parameters, those of ``**keywords`` with two stars."""
    stars = {inspect.Parameter.VAR_KEYWORD: "**", inspect.Parameter.VAR_POSITIONAL: "*"}
    if isinstance(function, type) and function.__init__ is object.__init__:
        return []
    parameters = inspect.signature(function).parameters.values()
    return [stars.get(p.kind, "") + p.name for p in parameters if p.name != "self"]


PUBLIC = public()
ALL = [(name, argument) for name, function in PUBLIC.items() for argument in arguments(function)]


def home(name):
    """The module whose table applies to a name."""
    function = PUBLIC[name]
    module = function.__module__.split(".")[1]
    return "network" if module == "_model" else module


def bad_values(name, argument):
    if (name, argument) in SPECIFIC:
        return SPECIFIC[name, argument]
    owner = home(name)
    return TABLE.get(owner, {}).get(argument)


def good_arguments(name, network):
    known = GOOD | GOOD_OF.get(name, {})
    known |= {"v": np.ones(network.n_parameters), "network": network, "net": network, "path": "no-folder/no-file"}
    required = [p for p in arguments(PUBLIC[name]) if not p.startswith("*")]
    defaults = inspect.signature(PUBLIC[name]).parameters if required else {}
    given = [p for p in required if defaults[p].default is inspect.Parameter.empty or p in GOOD_OF.get(name, ())]
    return {p: known[p] for p in given if p in known}


# -- nothing changes ---------------------------------------------------------------------------------------------------


def snapshot(network):
    """All that a failed call must leave alone, in comparable form."""
    optimizer = network._kept_optimizer
    state = None if optimizer is None or optimizer.state is None else optimizer.state
    return {
        "layers": network.layers,
        "plan": id(network._plan),
        "parameters": network._theta.tobytes(),
        "memory": network._theta.ctypes.data,
        "buffers": network._running.tobytes(),
        "steps": network._steps,
        "epochs": network._epochs,
        "shuffling": repr(network._shuffle_rng.bit_generator.state),
        "device": network.device,
        "optimizer": None if optimizer is None else repr(optimizer),
        "optimizer's state": None if state is None else (state.slots.tobytes(), state.scalars.tobytes()),
        "activations": fn.activations.names(),
        "losses": fn.losses.names(),
    }


def trained():
    layers = [fn.Dense(4, "tanh"), fn.BatchNorm(), fn.Dropout(0.2), fn.Dense(3, "softmax")]
    network = fn.Sequential(layers, n_inputs=2)
    network.fit(X, LABELS, epochs=2, batch_size=2)
    return network


@pytest.fixture(scope="module")
def network():
    return trained()


def called(name, network):
    """The callable behind a name, bound to an object where it is a method."""
    owner, _, method = name.partition(".")
    if owner in METHODS and method:
        return getattr(network if owner == "Sequential" else METHODS[owner], method)
    return PUBLIC[name]


def refusal(function, values):
    """The error that a call gives; fails where there is none or it is of another kind."""
    try:
        result = function(**values)
    except (TypeError, ValueError) as error:
        return str(error)
    raise AssertionError(f"was taken, and gave {result!r}")


# -- tests -------------------------------------------------------------------------------------------------------------


def test_every_argument_has_bad_values():
    lacking = [f"{name}({argument})" for name, argument in ALL if bad_values(name, argument) is None]
    assert not lacking, f"no bad values in tests/bad_values.py for {', '.join(lacking)}"


def test_the_tables_hold_no_arguments_that_are_gone():
    known = {(home(name), argument) for name, argument in ALL}
    tables = {module: table for module, table in TABLE.items() if module != "cuda" or EXTRAS}
    gone = [f"{module}: {a}" for module, table in tables.items() for a in table if (module, a) not in known]
    gone += [f"{name}({a})" for name, a in SPECIFIC if (name, a) not in ALL]
    assert not gone


def cases():
    for name, argument in ALL:
        yield pytest.param(name, argument, id=f"{name}-{argument}")


def check(function, argument, bad_values, good, label, network):
    """Every bad value is refused with the label and a reason, and the network stays as it was, bit for bit."""
    before = snapshot(network)
    problems = []
    for bad in bad_values:
        value, text = (bad.value, re.escape(bad.text)) if isinstance(bad, Bad) else (bad, ANY_REASON)
        if value is spent:
            value = spent()
        values = value if argument.startswith("**") else {argument: value}
        try:
            message = refusal(function, good | values)
            assert label in message, f"the message does not name {label}: {message}"
            assert re.search(text, message), f"the message lacks {text!r}: {message}"
            assert snapshot(network) == before, "the network changed"
        except Exception as error:
            problems.append(f"{argument}={_checks.describe(value)}: {type(error).__name__}: {error}")
    assert not problems, "\n" + "\n".join(problems)


@pytest.mark.parametrize("name, argument", list(cases()))
def test_bad_values_are_refused_by_name_and_change_nothing(name, argument, network):
    label = CALLED.get((name, argument), CALLED.get((home(name), argument), NAMED_INSIDE.get(argument, argument)))
    good = good_arguments(name, network)
    check(called(name, network), argument, bad_values(name, argument), good, label, network)


@pytest.mark.parametrize("argument", arguments(fn.Sequential.fit))
def test_fit_builds_nothing_from_bad_values(argument):
    """A network that has not met its data yet stays without arrays."""
    network = fn.Sequential([fn.Dense(4, "tanh"), fn.Dense(3, "softmax")])
    values = [bad for bad in bad_values("Sequential.fit", argument) if not any(bad is width for width in WIDTHS)]
    label = CALLED.get(("Sequential.fit", argument), argument)
    check(network.fit, argument, values, {"X": X, "y": LABELS}, label, network)
    assert network.n_inputs is None


@pytest.mark.parametrize("name", [name for name in PUBLIC if "path" not in arguments(PUBLIC[name])])
def test_good_arguments_are_taken(name):
    """Else the tests above might pass for another reason than the bad value."""
    if name == "cuda.device_state":
        from numba import cuda

        if not cuda.is_available():
            pytest.skip("needs a GPU or its simulator")
    network = trained()
    if name not in ("losses.from_functions", "activations.from_functions", "optimizers.from_rule"):  # they register
        called(name, network)(**good_arguments(name, network))


@pytest.mark.cuda
def test_cuda_is_walked():
    pytest.importorskip("numba_cuda")
    assert {"cuda.device_predict", "cuda.device_state", "cuda.use_stream"} <= set(PUBLIC)


# -- what no table of arguments holds ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "use",
    [
        lambda net: net.predict(X),
        lambda net: net.predict_classes(X),
        lambda net: net.evaluate(X, LABELS),
        lambda net: net.loss_and_gradients(X, LABELS, "cross_entropy"),
        lambda net: net.input_gradients(X, LABELS, "cross_entropy"),
        lambda net: net.hessian_vector_product(X, LABELS, "cross_entropy", [1.0]),
        lambda net: net.jacobian(X),
        lambda net: net.parameters,
        lambda net: net.n_parameters,
        lambda net: net.named_parameters(),
        lambda net: net.named_buffers(),
        lambda net: net.set_parameters({}),
        lambda net: net.summary(),
        lambda net: net.save("no-file"),
    ],
)
def test_a_network_that_knows_no_inputs_says_so(use):
    network = fn.Sequential([fn.Dense(3, "softmax")])
    with pytest.raises(ValueError, match=r"n_inputs=\.\.\..*fit"):
        use(network)
    assert network.n_inputs is None


@pytest.mark.parametrize(
    "callback, message",
    [
        (fn.callbacks.EarlyStopping(), "monitor must be one of accuracy, loss, got 'val_loss'.*validation_data"),
        (fn.callbacks.EarlyStopping("acc"), "did you mean 'accuracy'"),
        (fn.callbacks.ReduceOnPlateau(monitor="val_accuracy"), "validation_split"),
        (fn.callbacks.Checkpoint("no-folder/net-{epoch}.safetensors"), "path must lie in a folder that exists"),
        (fn.callbacks.CSVLog("no-folder/log.csv"), "no-folder"),
        (fn.callbacks.Checkpoint("."), "path must be that of a file, got the folder"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_callbacks_that_cannot_work_are_refused_before_training(callback, message, network):
    before = snapshot(network)
    with pytest.raises(ValueError, match=message):
        network.fit(X, LABELS, metrics="accuracy", callbacks=[print, callback])
    assert snapshot(network) == before


def test_a_metric_that_takes_other_arguments_is_refused_before_training(network):
    def two(y_true, y_pred):
        return 0.0

    before = snapshot(network)
    with pytest.raises(TypeError, match=r"metrics: 'two' must take \(y_true, y_pred, sample_weight\)"):
        network.fit(X, LABELS, metrics=two)
    assert snapshot(network) == before


@pytest.mark.parametrize("metric", ["accuracy", "f1", "auc"])
def test_metrics_that_do_not_fit_the_targets_are_refused_before_training(metric):
    network = fn.Sequential([fn.Dense(1)], n_inputs=2)
    before = snapshot(network)
    label = getattr(metric, "__name__", metric)
    with pytest.raises(ValueError, match=f"metrics: '{label}' does not fit y"):
        network.fit(X, X[:, 0], "mse", metrics=metric)
    with pytest.raises(ValueError, match=f"metrics: '{label}' does not fit the validation data"):
        network.fit(X, LABELS % 2, "mse", metrics=metric, validation_data=(X, X[:, 0]))
    assert snapshot(network) == before


def test_two_ways_to_give_validation_data(network):
    before = snapshot(network)
    with pytest.raises(ValueError, match="validation_data or validation_split, not both"):
        network.fit(X, LABELS, validation_data=(X, LABELS), validation_split=0.5)
    with pytest.raises(ValueError, match=r"validation_split leaves .* sample_weight of zero"):
        network.fit(X, LABELS, validation_split=0.5, sample_weight=[1, 1, 1, 0, 0, 0])
    assert snapshot(network) == before


@pytest.mark.parametrize("y", [X, X > 0, [[1.0, 1.0]] * N, X[:, 0], np.arange(6)])
@pytest.mark.parametrize("class_weight", ["balanced", {0: 2.0}])
def test_class_weight_needs_classes(y, class_weight):
    network = fn.Sequential([fn.Dense(np.atleast_2d(np.transpose(y)).shape[0])], n_inputs=2)
    before = snapshot(network)
    with pytest.raises(ValueError, match="class_weight needs class labels"):
        network.fit(X, y, "mse", class_weight=class_weight)
    assert snapshot(network) == before


@pytest.mark.parametrize(
    "init, message",
    [
        (np.ones((4, 2)), r"'0.weight'.*\(2, 4\).*got \(4, 2\)"),
        (lambda shape, rng, dtype: np.full(shape, np.nan), "'0.weight'.*finite"),
        (lambda shape, rng, dtype: np.zeros(3), r"'0.weight'.*\(2, 4\).*\(3,\)"),
        (fn.initializers.Constant(1e300), "'0.weight'.*finite"),
        (fn.initializers.Normal(std=1e300), "'0.weight'.*finite"),
    ],
)
def test_bad_initial_values(init, message):
    layers = [fn.Dense(4, weight_init=init), fn.Dense(3)]
    with pytest.raises(ValueError, match=message):
        fn.Sequential(layers, n_inputs=2)
    network = fn.Sequential(layers)
    before = snapshot(network)
    optimizer = fn.Adam()
    with pytest.raises(ValueError, match=message):
        network.fit(X, LABELS, optimizer=optimizer)
    assert snapshot(network) == before
    assert optimizer.state is None


def test_a_residual_must_keep_its_width():
    layers = [fn.Dense(4), fn.Residual([fn.Dense(3)])]
    with pytest.raises(ValueError, match=r"layers\[1\].*one width; got 4 inputs and 3 outputs"):
        fn.Sequential(layers, n_inputs=2)
    network = fn.Sequential(layers)
    with pytest.raises(ValueError, match="one width"):
        network.fit(X, LABELS)
    assert network.n_inputs is None


def test_gradients_through_step_are_refused():
    network = fn.Sequential([fn.Dense(4, "step"), fn.Dense(3)], n_inputs=2)
    before = snapshot(network)
    for use in (
        lambda: network.fit(X, LABELS),
        lambda: network.jacobian(X),
        lambda: network.loss_and_gradients(X, LABELS, "cross_entropy"),
        lambda: network.input_gradients(X, LABELS, "cross_entropy"),
    ):
        with pytest.raises(ValueError, match="'step' has no useful derivative"):
            use()
    assert snapshot(network) == before
    assert network.predict(X).shape == (N, 3)


@pytest.mark.parametrize("name", ["learning_rate", "learning_rate_factor"])
def test_an_optimizer_checks_what_is_set(name):
    optimizer = fn.Adam()
    for value in AT_LEAST_0:
        with pytest.raises((TypeError, ValueError), match=name):
            setattr(optimizer, name, value)
    assert getattr(optimizer, name) == getattr(fn.Adam(), name)
    with pytest.raises(AttributeError, match="betas"):
        optimizer.betas = (0.5, 0.5)
