"""Values that arguments do not take, by function and argument; `test_bad_input` walks the package with them."""

import math

import numpy as np

import fastnn as fn
from fastnn import gates, neurons

# A value, or a value and a part of the message it must get.


class Bad:
    """A bad value, with a part of the message about it that is not the argument's name."""

    def __init__(self, value, text="got"):
        self.value = value
        self.text = text


ANY_REASON = "got|must|compile|smooth"  # what came, or what is wrong with a function


class Thing:
    """Nothing that anybody takes."""

    def __repr__(self):
        return "<thing>"


THING = Thing()
NOT_REAL = ["1", True, np.True_, 1j, [1.0], np.array([1.0, 2.0]), {}, THING, math.nan, math.inf, -math.inf, 10**400]
NUMBER = [None, *NOT_REAL]
AT_LEAST_0 = [*NUMBER, -1, -1e-9]
ABOVE_0 = [*AT_LEAST_0, 0, 0.0]
ABOVE_0_OR_NONE = [value for value in ABOVE_0 if value is not None]
SHARE = [*AT_LEAST_0, 1.5]
SHARE_BELOW_1 = [*SHARE, 1, 1.0]
NOT_WHOLE = ["3", True, 3.0, 1.5, 1j, [3], THING, math.nan, math.inf]
COUNT = [None, *NOT_WHOLE, 0, -1]
COUNT_OR_NONE = [*NOT_WHOLE, 0, -1]
FROM_0 = [None, *NOT_WHOLE, -1]
FLAG = [None, 0, 1, "yes", "True", 1.0, [], THING]
PAIR = [None, "ab", 0.9, (0.9,), (0.9, 0.9, 0.9), {}, ("a", 0.9), (0.9, None), (0.9, math.nan), (True, 1), (-0.1, 1)]
BETAS = [*PAIR, (0.9, 1.0), (1.5, 0.9)]
TEXT = [None, 3, True, b"mse", THING]
PATH = [None, 3, True, b"bytes", THING, "", ["a"]]


def near(typo, meant):
    return Bad(typo, f"did you mean '{meant}'")


N = 6
X = np.random.default_rng(0).standard_normal((N, 2))
LABELS = np.array([0, 1, 2, 0, 1, 2])


def changed(array, where, value, dtype=None):
    array = np.array(array, dtype or np.result_type(array, value))
    array[where] = value
    return array


NO_ARRAYS = [
    None, "abc", b"abc", 3.0, 1j, THING, {"a": 1}, {1, 2},
    np.array([["a", "b"]] * N), [["1", "2"]] * N, X.astype(complex), np.full((N, 2), "2020", "M8[Y]"),
    changed(X, (1, 1), "b", object), changed(X, (1, 1), 1j, object), changed(X, (1, 1), THING, object),
    Bad([[1, 2]] * (N - 1) + [[1]], "different lengths"),
    np.zeros((N, 2), [("a", float)]),
    Bad(np.ma.array(X, mask=X > 0), "masked"),
]  # fmt: skip
NOT_FINITE = [
    Bad(changed(X, (4, 1), math.nan), "got nan at position [4, 1]"),
    Bad(changed(X, (0, 0), math.inf), "got inf at position [0, 0]"),
    Bad(changed(X, (5, 0), -math.inf, "float16"), "got -inf"),
    Bad(changed(X, (2, 1), None, object), "got nan at position [2, 1]"),
    Bad(changed(X, (2, 1), 10**400, object), "got inf"),
    Bad(changed(X, (2, 1), 1e300), "too large for float32"),
]
SHAPES = [Bad(X[:, 0], "reshape(-1, 1)"), X[None], np.float64(1), np.zeros((0, 2)), np.zeros((N, 0)), [], [[]]]
WIDTHS = [Bad(np.ones((N, 3)), "2 columns"), Bad(np.ones((N, 1)), "2 columns")]
MATRIX = [*NO_ARRAYS, *NOT_FINITE, *SHAPES, *WIDTHS]

NO_VECTORS = [
    "abc", 3.0, 1.0j, THING, {0: 1}, ["a"] * N, ["1"] * N, LABELS.astype(complex), LABELS.astype("M8[Y]"),
    changed(LABELS, 1, "b", object), changed(LABELS, 1, 1j, object), Bad([1] * (N - 1) + [[1, 2]], "different lengths"),
    LABELS.reshape(N, 1, 1), [],
]  # fmt: skip
TARGETS = [
    None, *NO_VECTORS, LABELS[:-1], [*LABELS, 0], np.eye(3)[LABELS[:-1]], np.ones((N, 2)), np.ones((N, 4)),
    Bad(changed(LABELS, 2, -1), "got -1 at position [2]"), Bad(changed(LABELS, 2, 3), "got 3 at position [2]"),
    Bad(changed(LABELS, 2, 0.5), "got 0.5 at position [2]"),
    Bad(changed(LABELS, 2, math.nan), "got nan at position [2]"),
    Bad(changed(LABELS, 2, math.inf), "got inf at position [2]"), Bad(changed(LABELS, 2, None, object), "got nan"),
    Bad(np.full((N, 3), 0.5), "sum to 1"), Bad(changed(np.eye(3)[LABELS], (0, 0), 2.0), "got 2.0"),
    Bad(changed(np.eye(3)[LABELS], (0, 0), -1.0), "got -1.0"),
    Bad(changed(np.eye(3)[LABELS], (3, 2), math.nan), "got nan"),
]  # fmt: skip
WEIGHTS = [
    *NO_VECTORS, np.ones(N - 1), np.ones(N + 1), np.ones((N, 1)), Bad(changed(np.ones(N), 3, -1), "got -1"),
    Bad(changed(np.ones(N), 3, math.nan), "got nan at position [3]"),
    Bad(changed(np.ones(N), 3, math.inf), "got inf at position [3]"), Bad(np.zeros(N), "zero"),
]  # fmt: skip
LOSS = [
    None, 3, True, THING, near("cross_entropi", "cross_entropy"), near("MSE", "mse"), Bad(fn.losses.MSE, "write MSE()"),
    lambda o, y: o - y,
]  # fmt: skip
OPTIMIZER = [None, 3, True, THING, near("adm", "adam"), near("SGD", "sgd"), Bad(fn.Adam, "call it")]
METRIC = [None, 3, True, THING, near("acuracy", "accuracy")]
ACTIVATION = [3, True, THING, ["relu"], near("reul", "relu"), near("LeakyReLU", "leaky_relu"), math.tanh]
INITIALIZER = [
    None, 3, True, THING, near("he_norml", "he_normal"), Bad(fn.initializers.HeNormal, "call it"), math.nan,
    [["a", "b"]], np.ones((2, 2), complex), [[1.0, math.nan]], [[1.0], [1.0, 2.0]],
]  # fmt: skip
LAYERS = [
    None, 3, "relu", THING, [], (), fn.Dense(2), [3], ["relu"], [fn.Dense(2), None], {"a": fn.Dense(2)},
    Bad([fn.Dense], "did you mean Dense(...)"),
]  # fmt: skip
RATE = [*AT_LEAST_0, Bad(fn.schedules.Constant, "call it"), lambda step: 0.1]
CONFIG = [None, 3, "adam", [], {}, {"name": 3}, {"name": "nothing of this kind"}]


FLOAT64_MATRIX = [bad for bad in MATRIX if not (isinstance(bad, Bad) and "float32" in bad.text)]


def short(z):
    return z * z


def two_metrics():
    return [lambda t, p, w: 0.0, lambda t, p, w: 1.0]


def loss(y_true, y_pred, sample_weight):
    return 0.0


class StepsWithoutNumber:
    def on_steps_end(self, state):
        raise AssertionError


def spent():
    """An optimizer that belongs to another network."""
    optimizer = fn.Adam()
    fn.Sequential([fn.Dense(1)], n_inputs=1).fit([[1.0]], [1.0], "mse", optimizer, epochs=1)
    return optimizer


# By module, or method's class, and argument.
TABLE = {
    "layers": {
        "units": COUNT,
        "activation": ACTIVATION,
        "bias": FLAG,
        "weight_init": INITIALIZER,
        "bias_init": INITIALIZER,
        "l1": AT_LEAST_0,
        "l2": AT_LEAST_0,
        "rate": SHARE_BELOW_1,
        "momentum": SHARE,
        "eps": ABOVE_0,
        "layers": LAYERS,
    },
    "neurons": {
        "weights": [None, "abc", 3.0, np.ones((2, 2)), [], ["a"], 1j, THING, [math.nan]],
        "threshold": NUMBER,
        "learning_rate": ABOVE_0,
        "variant": [*TEXT, near("pockets", "pocket")],
        "shuffle": FLAG,
        "seed": FROM_0,
        "X": FLOAT64_MATRIX,
        "y": [
            None, 3, "abc", THING, LABELS[:-1], LABELS, np.full(N, 0.5), changed(LABELS % 2, 0, math.nan), -1 - LABELS,
            np.ones((N, 2)), ["a"] * N,
        ],
        "epochs": COUNT,
        "l2": AT_LEAST_0,
        "max_iterations": COUNT,
        "sample_weight": WEIGHTS,
    },
    "gates": {
        "hidden": [None, 3, [], [3], [None], "and", THING, Bad([gates.AND, gates.NOT], "one number of inputs")],
        "output": [None, 3, THING, "and", Bad(gates.NOT, "one for each hidden neuron")],
        "X": FLOAT64_MATRIX,
        "gate": [None, 3, "and", THING, [gates.AND], (1, 2)],
        "learning_rate": ABOVE_0,
        "epochs": COUNT,
        "n": [*COUNT, 21],
    },
    "plots": {
        "activation": [*ACTIVATION, Bad("softmax", "element-wise")],
        "ax": [3, "ax", THING, [1.0], True],
        "axes": [3, "axes", THING, [], [None] * 4, [1, 2, 3, 4], {}],
        "low": [*NUMBER, Bad(5.0, "below high"), 6],
        "high": [*NUMBER, Bad(-5.0, "below high"), -6],
        "gate": [
            None, 3, "and", THING, [gates.AND], fn.Dense(2), Bad(gates.NOT, "2 inputs"),
            Bad(gates.Circuit([gates.NOT], gates.NOT), "2 inputs"),
        ],
        "model": [
            None, 3, "net", THING, fn.Dense(2), Bad(fn.Sequential([fn.Dense(3)], n_inputs=3), "2 inputs"),
            Bad(gates.NOT, "2 inputs"),
        ],
        "history": [None, 3, "history", THING, {"loss": [1.0]}, [1.0]],
        "net": [None, 3, "net", THING, fn.Dense(2), [fn.Dense(2)]],
        "X": MATRIX,
        "y": [
            None, 3, *NO_VECTORS, LABELS[:-1], np.eye(3)[LABELS], Bad(changed(LABELS, 2, 3), "from 0 to 2, got 3"),
            Bad(changed(LABELS, 2, -1), "got -1"), Bad(changed(LABELS, 2, 0.5), "got 0.5"),
            Bad(changed(LABELS, 2, math.nan), "got nan"),
        ],
        "resolution": [*COUNT, 1],
        "loss": [*LOSS, Bad("binary_cross_entropy", "does not fit the output activation softmax")],
        "label": [3, True, THING, b"relu", ["relu"]],
    },
    "data": {"n": COUNT, "turns": ABOVE_0, "noise": AT_LEAST_0, "seed": FROM_0},
    "optimizers": {
        "learning_rate": RATE,
        "momentum": AT_LEAST_0,
        "dampening": [*NUMBER, 1.5],
        "nesterov": [*FLAG, Bad(True, "momentum > 0")],
        "alpha": SHARE,
        "eps": AT_LEAST_0,
        "centered": FLAG,
        "lr_decay": AT_LEAST_0,
        "initial_accumulator_value": AT_LEAST_0,
        "rho": SHARE,
        "betas": BETAS,
        "amsgrad": FLAG,
        "epsilon_hat": FLAG,
        "momentum_decay": AT_LEAST_0,
        "weight_decay": AT_LEAST_0,
        "clip_norm": ABOVE_0_OR_NONE,
        "clip_value": ABOVE_0_OR_NONE,
        "etas": [*PAIR, (1.1, 1.2), (0.5, 0.9), (0.0, 1.2)],
        "step_sizes": [*PAIR, (1.0, 0.1)],
        "max_iterations": COUNT_OR_NONE,
        "history_size": COUNT,
        "gtol": AT_LEAST_0,
        "ftol": AT_LEAST_0,
        "max_line_search": COUNT,
        "optimizer": OPTIMIZER,
        "config": CONFIG,
        "name": [*TEXT, "", Bad("adam", "built-in")],
        "rule": [None, 3, "p", THING, short, lambda p, g, s0, s1, s2, c: p, lambda p, g, s0, s1, s2, c: p.unknown],
        "n_slots": [*FROM_0, 4],
        "**hyper": [{"friction": value} for value in NUMBER] + [{"momentum_": 1.0, "weight_decay": 0.1}],
    },
    "schedules": {
        "value": AT_LEAST_0,
        "initial": AT_LEAST_0,
        "every": COUNT,
        "factor": AT_LEAST_0,
        "steps": COUNT,
        "power": ABOVE_0,
        "final": AT_LEAST_0,
        "multiplier": COUNT,
        "peak": AT_LEAST_0,
        "pct_start": SHARE,
        "anneal": [*TEXT, near("coss", "cos")],
        "div_factor": ABOVE_0,
        "final_div_factor": ABOVE_0,
        "then": RATE,
        "start": AT_LEAST_0,
        "config": CONFIG,
        "name": [],  # the name of the argument in messages
        "step": [None, 1.5, "3", True, 1j, -1, [1, -1], [0.5], THING],
    },
    "initializers": {
        "value": NUMBER,
        "mean": NUMBER,
        "std": AT_LEAST_0,
        "low": [*NUMBER, 1.0],
        "high": [*NUMBER, -1.0],
        "gain": AT_LEAST_0,
        "values": [None, "abc", ["a"], [1j], [math.nan], [math.inf], [[1.0], [1.0, 2.0]], THING],
        "function": [3, "abc", THING],
        "label": [3, None, THING],
        "initializer": INITIALIZER,
        "config": CONFIG,
        "activation": [],  # any text: a user's own names among them
    },
    "losses": {
        "delta": ABOVE_0,
        "q": [*ABOVE_0, 1.0, 1.5],
        "log_input": FLAG,
        "full": FLAG,
        "eps": AT_LEAST_0,
        "label_smoothing": SHARE,
        "pos_weight": ABOVE_0,
        "gamma": AT_LEAST_0,
        "alpha": [v for v in SHARE if v is not None],
        "loss": LOSS,
        "name": [*TEXT, "", "two words", Bad("mse", "built-in")],
        "value": [None, 3, "o", THING, lambda o: o, lambda o, y: "text", lambda o, y: o.unknown, lambda o, y: math.nan],
        "gradient": [None, 3, "o", THING, lambda o: o, lambda o, y: "text", Bad(lambda o, y: o - y, "differences")],
        "second_derivative": [3, "o", THING, lambda o: o, Bad(lambda o, y: 1.0, "differences")],
    },
    "callbacks": {
        "monitor": [None, 3, True, THING, ["loss"]],
        "patience": FROM_0,
        "min_delta": AT_LEAST_0,
        "restore_best": FLAG,
        "mode": [*TEXT, near("maximum", "max")],
        "factor": [*ABOVE_0, 1.0, 2.0],
        "min_factor": AT_LEAST_0,
        "path": PATH,
        "every": COUNT,
        "decay": SHARE_BELOW_1,
        "every_steps": COUNT,
    },
    "metrics": {
        "y_true": [
            None, *NO_VECTORS, LABELS[:-1], np.ones((N, 2)), Bad(changed(LABELS, 2, math.nan), "nan"),
            Bad(changed(LABELS, 2, math.inf), "inf"),
        ],
        "y_pred": [None, *NO_VECTORS, np.ones((N - 1, 3)), np.ones((N, 3, 1))],
        "sample_weight": WEIGHTS,
        "k": COUNT,
        "metric": METRIC,
    },
    "activations": {
        "activation": ACTIVATION,
        "name": [*TEXT, "", Bad("relu", "built-in")],
        "value": [None, 3, "z", THING, lambda: 1.0, lambda z: "text", lambda z: z.unknown, lambda z: math.nan],
        "derivative": [None, 3, "z", THING, lambda: 1.0, lambda z: "text", Bad(lambda z: z, "differences")],
        "second_derivative": [3, "z", THING, lambda: 1.0, lambda z: "text", Bad(lambda z: z, "differences")],
        "x": [None, "abc", 1j, ["a"], [1j], [[1.0], [1.0, 2.0]], THING],
        "**parameters": [
            *({"negative_slope": value} for value in NUMBER),
            Bad({"slope": 0.1}, "did you mean 'negative_slope'"),
            {"negative_slope": 0.1, "alpha": 1.0},
        ],
    },
    "io": {
        "network": [None, 3, "net", THING, fn.Dense(2)],
        "path": PATH,
    },
    "cuda": {
        "stream": [None, "7", 7.0, True, 1j, [7], THING, math.nan, -1],
        "net": [None, 3, "net", THING, fn.Dense(2), Bad(fn.Sequential([fn.Dense(2)]), "number of inputs")],
    },
    "population": {
        "net": [None, 3, "net", THING, fn.Dense(2), Bad(fn.Sequential([fn.Dense(2)]), "number of inputs")],
        "n": COUNT,
        "seeds": [
            3, "123", b"123", THING, {0: 1}, [1], [1, 2, 3, 4], [1, 2, -1], [1, 2, 3.0], [1, 2, True], [1, 2, None],
            np.ones(3), np.ones((3, 3), int),
        ],
        "X": MATRIX,
        "y": TARGETS,
        "sample_weight": WEIGHTS,
        "loss": [*LOSS, Bad("binary_cross_entropy", "does not fit the output activation softmax")],
        "optimizer": [*OPTIMIZER, Bad(fn.LBFGS(), "single steps")],
        "epochs": FROM_0,
        "batch_size": COUNT_OR_NONE,
        "learning_rate": [
            *(bad for bad in RATE if bad is not None), [0.1], [0.1] * 4, np.ones((3, 1)), np.float64(-1),
            *([0.1, 0.1, bad] for bad in RATE),
        ],
        "shuffle": FLAG,
        "n_threads": COUNT_OR_NONE,
        "device": [*TEXT, "gpu", "CPU"],
    },
    "network": {
        "layers": LAYERS,
        "n_inputs": COUNT_OR_NONE,
        "seed": [*NOT_WHOLE, -1],
        "dtype": [None, 3, THING, "float16", ">f4", "int32", int, "f4,f4", near("flaot32", "float32"), "object"],
        "device": [*TEXT, "gpu", "CPU"],
        "precision": [3, True, THING, "", "BF16", near("bf6", "bf16"), "float16"],
        "X": MATRIX,
        "y": TARGETS,
        "sample_weight": WEIGHTS,
        "loss": [*LOSS, Bad("binary_cross_entropy", "does not fit the output activation softmax")],
        "training": FLAG,
        "v": [None, "abc", 3.0, np.ones(3), np.ones((2, 2)), [], ["a"], 1j, THING, [math.nan]],
        "metrics": [
            3, THING, [3], [None], near("acuracy", "accuracy"), near(["accuracy", "r3"], "r2"),
            Bad(two_metrics(), "<lambda>"), Bad([loss], "'loss'"), Bad(["f1", "f1"], "'f1'"),
        ],
        "values": [
            None, 3, "abc", [], THING, {"0.weights": 1.0}, near({"0.weigth": np.ones((2, 4))}, "0.weight"), {3: 1.0},
            {"0.weight": np.ones(8)}, {"0.weight": np.ones((4, 2))}, {"0.bias": 1.0}, {"0.bias": None}, {"0.bias": "a"},
            {"0.bias": [1.0, math.nan, 1.0, 1.0]}, {"0.bias": [1e300, 0, 0, 0]}, {"0.bias": [1j] * 4},
            {"0.bias": [1.0, [1.0, 2.0]]}, {"0.weight": np.ones((2, 4)), "0.bias": np.ones(3)},
            {"1.running_var": [1.0, math.inf, 1.0, 1.0]},
        ],
        "path": PATH,
    },
}  # fmt: skip

# Where a name means something else than in the rest of its module.
SPECIFIC = {
    ("Sequential.fit", "optimizer"): [*OPTIMIZER, Bad(spent, "reset()")],
    ("Sequential.fit", "epochs"): FROM_0,
    ("Sequential.fit", "batch_size"): COUNT_OR_NONE,
    ("Sequential.fit", "validation_data"): [
        3, "ab", THING, X, (X,), (X, LABELS, np.ones(N), 1), {"X": X},
        (X[:, :1], LABELS), (np.ones((N, 3)), LABELS), (X[:-1], LABELS), (X, LABELS[:-1]), (X, None), (None, LABELS),
        (X, changed(LABELS, 0, 3)), (X, changed(LABELS, 0, -1)), (X, changed(LABELS, 0, 0.5)),
        (X, changed(LABELS, 0, math.nan)), (changed(X, (0, 0), math.nan), LABELS), (X, LABELS, np.ones(N - 1)),
        (X, LABELS, -np.ones(N)), (X, LABELS, np.zeros(N)), (X[:0], LABELS[:0]), (X[:, 0], LABELS),
        (X, np.ones((N, 2))),
    ],
    ("Sequential.fit", "validation_split"): [
        *SHARE_BELOW_1, Bad(0.01, "no rows"), Bad(0.99, "no rows"),
    ],
    ("Sequential.fit", "class_weight"): [
        3, True, THING, [1.0, 2.0, 3.0], np.ones(3), near("balance", "balanced"), {3: 1.0}, {-1: 1.0}, {"a": 1.0},
        {0.5: 1.0}, {True: 1.0}, {0: -1.0}, {0: math.nan}, {0: math.inf}, {0: "1"}, {0: None}, {0: True}, {0: 1e300},
        Bad({0: 0.0, 1: 0.0, 2: 0.0}, "zero"),
    ],
    ("Sequential.fit", "shuffle"): FLAG,
    ("Sequential.fit", "metrics"): [
        *TABLE["network"]["metrics"], Bad("mse", "does not fit y"), Bad("auc", "two classes"),
    ],
    ("Sequential.fit", "callbacks"): [
        None, 3, "ab", [3], [None], [fn.callbacks.EMA], [print, THING], Bad([StepsWithoutNumber()], "every_steps"),
    ],
    ("Sequential.fit", "progress"): [0, 1, "yes", THING, []],
    ("Sequential.fit", "on_divergence"): [*TEXT, near("rise", "raise")],
    ("Sequential.jit_state", "optimizer"): [
        *(value for value in OPTIMIZER if value is not None), Bad(fn.LBFGS(), "single steps"),
        Bad(fn.Adam(fn.schedules.Cosine(0.1, steps=10)), "fixed learning rate"), Bad(spent, "reset()"), None,
    ],
    ("Sequential.jit_state", "batch_size"): COUNT,
    ("Sequential.load_jit_state", "jit_state"): [
        None, 3, THING, (1, 2, 3), Bad(fn.Sequential([fn.Dense(3)], n_inputs=2).jit_state(), "same layers"),
    ],
    **{(f"{name}.fit", "X"): [bad for bad in FLOAT64_MATRIX if not any(bad is width for width in WIDTHS)]
       for name in ("Perceptron", "LogisticNeuron")},
    ("Sequential.specialize", "batch"): COUNT_OR_NONE,
    **{(f"Sequential.{name}", "dtype"): [value for value in TABLE["network"]["dtype"] if value is not None]
       for name in ("specialize", "cfunc")},
    ("Sequential.cfunc", "signature"): [*TEXT, near("void (const T*, T *)", "void (const T *, T *)")],
    ("Sequential.load_jit_state", "optimizer"): [
        3, "adam", THING, fn.Adam, Bad(fn.SGD(), "kind"), Bad(fn.Adam(0.1, eps=1e-3), "kind"),
    ],
    **{(f"Sequential.{name}", "n_threads"): COUNT_OR_NONE for name in ("fit", "predict", "predict_classes")},
    ("Sequential.evaluate", "loss"): [value for value in TABLE["network"]["loss"] if value is not None],
    **{(f"Sequential.{name}", "seed"): [None, *NOT_WHOLE, -1]
       for name in ("loss_and_gradients", "input_gradients", "hessian_vector_product")},
    ("plots.gradient_norms", "y"): TARGETS,
    ("schedules.get", "value"): RATE,
    ("Rprop", "learning_rate"): [*AT_LEAST_0, Bad(fn.schedules.Constant(0.1), "number")],
    ("metrics.auc", "y_true"): [*TABLE["metrics"]["y_true"][:-3], np.ones((N, 3)), LABELS, -2 * np.ones(N)],
}  # fmt: skip

# What an argument is called in its messages, where that is not its name.
CALLED = {
    ("initializers", "values"): "initial values",
    ("Sequential.fit", "validation_split"): "validation_",
    ("optimizers", "config"): "optimizer",
    ("schedules", "config"): "schedule",
    ("initializers", "config"): "initializer",
    ("schedules.get", "value"): "learning_rate",
    ("initializers", "initializer"): "initial",
}
NAMED_INSIDE = {"**hyper": "", "**parameters": "", "validation_data": "validation_data", "name": "name"}

# Arguments with which the calls work: all that have no default.
GOOD = {
    "units": 3, "activation": "relu", "rate": 0.5, "layers": [fn.Dense(2)], "initial": 0.1, "every": 5, "factor": 0.5,
    "steps": 10, "peak": 0.1, "then": 0.1, "step": 3, "function": lambda shape, rng, dtype: np.zeros(shape),
    "values": [1.0], "X": X, "y": LABELS, "loss": "cross_entropy", "y_true": LABELS, "y_pred": np.eye(3)[LABELS],
    "metric": "f1", "initializer": "zeros", "optimizer": "adam", "x": [1.0], "k": 2, "device": "cpu",
    "gradient": lambda o, y: 2 * (o - y), "derivative": lambda z: 2 * z, "name": "tests_bad_input",
    "rule": lambda p, g, s0, s1, s2, c: (p - c[0] * g, s0, s1, s2),
}  # fmt: skip
STATE = fn.Sequential(
    [fn.Dense(4, "tanh"), fn.BatchNorm(), fn.Dropout(0.2), fn.Dense(3, "softmax")], n_inputs=2
).jit_state("adam", "cross_entropy")
BINARY = np.array([[0, 1], [1, 1], [0, 0], [1, 0], [1, 1], [0, 1]])
PERCEPTRON, LOGISTIC = neurons.Perceptron(), neurons.LogisticNeuron()
PERCEPTRON.fit(X, LABELS % 2), LOGISTIC.fit(X, LABELS % 2)
SOFTMAX = fn.Sequential([fn.Dense(3, "softmax")], n_inputs=2)
POPULATION = fn.Population(SOFTMAX, 3)
GOOD_OF = {
    **{f"{name}.predict": {"X": BINARY} for name in ("McCullochPitts", "Circuit")},
    **{f"{name}.fit": {"X": X, "y": LABELS % 2} for name in ("Perceptron", "LogisticNeuron")},
    "neurons.McCullochPitts": {"weights": [1.0, 2.0], "threshold": 1.0},
    "gates.Circuit": {"hidden": [gates.OR, gates.NAND], "output": gates.AND},
    "cuda.use_stream": {"stream": 0},
    "gates.learn": {"gate": gates.AND},
    "gates.parity": {"n": 3},
    "plots.gate": {"gate": gates.AND},
    "plots.decision_regions": {"model": SOFTMAX},
    "plots.losses": {"history": fn.History([1, 2], [0.5, 0.25])},
    **{f"plots.{name}": {"net": SOFTMAX} for name in ("network", "gradient_norms")},
    "Population": {"n": 3},
    "losses.from_functions": {"value": lambda o, y: (o - y) ** 2},
    "activations.from_functions": {"value": short},
    "schedules.Constant": {"value": 0.1},
    "schedules.get": {"value": 0.1, "name": "learning_rate"},
    "schedules.from_config": {"config": fn.schedules.Constant(0.1).get_config()},
    "initializers.from_config": {"config": fn.initializers.Zeros().get_config()},
    "optimizers.from_config": {"config": fn.Adam().get_config()},
    "Sequential.set_parameters": {"values": {"0.bias": np.ones(4)}},
    "Sequential.evaluate": {"loss": "cross_entropy"},
    "Sequential.jit_state": {"optimizer": "adam", "loss": "cross_entropy"},
    "Sequential.load_jit_state": {"jit_state": STATE},
    "metrics.auc": {"y_true": LABELS % 2, "y_pred": LABELS / 2},
    **{f"metrics.{name}": {"y_true": LABELS, "y_pred": LABELS + 0.1} for name in ("mse", "mae", "rmse", "r2")},
}
