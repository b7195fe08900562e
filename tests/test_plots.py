"""What is drawn is what was computed: lines, regions and widths read back from the axes; and the gallery."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

import fastnn as fn
from fastnn import gates, plots
from fastnn.neurons import LogisticNeuron, McCullochPitts, Perceptron

DOCS = Path(__file__).parents[1] / "docs"
ELEMENTWISE = [
    name
    for name in fn.activations.names()
    if fn.activations.get(name).definition.builtin and not fn.activations.get(name).rowwise
]
RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 2))
SIDES = (X @ [1.0, -2.0] + 0.3 > 0).astype(int)
FOUR = 2 * (X[:, 0] > 0) + (X[:, 1] > 0)
CORNERS = [(0, 0), (0, 1), (1, 0), (1, 1)]


def axes():
    return Figure().subplots()


def trained(model, y=SIDES):
    model.fit(X, y)
    return model


def network(units, output, y, loss, hidden="tanh"):
    net = fn.Sequential([fn.Dense(8, hidden), fn.Dense(units, output)], seed=1)
    net.fit(X, y, loss, fn.Adam(0.05), epochs=60)
    return net


# -- curves ------------------------------------------------------------------------------------------------------------


def curves(ax):
    """The two long lines, and the dots as (x, y, hollow)."""
    lines = [line for line in ax.lines if len(line.get_xdata()) > 100]
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    found = [(*line.get_xdata(), *line.get_ydata(), line.get_markerfacecolor() == "white") for line in dots]
    return lines, [tuple(map(float, dot[:2])) + dot[2:] for dot in found]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_curves_are_the_activation_and_its_derivative(name):
    function = fn.activations.get(name)
    lines, _ = curves(plots.activation(name, axes(), low=-7.3, high=6.6))
    for line, expected in zip(lines, (function, function.derivative), strict=True):
        x, y = line.get_data()
        drawn = ~np.isnan(x)
        assert (x[drawn].min(), x[drawn].max()) == (-7.3, 6.6)
        assert (np.diff(x[drawn]) > 0).all()
        np.testing.assert_array_equal(y[drawn], expected(x[drawn]))
        assert np.isnan(y[~drawn]).all()


@pytest.mark.parametrize(
    "name, value_dots, derivative_dots",
    [
        ("step", [(0, 1, False), (0, 0, True)], []),
        ("relu", [], [(0, 0, False), (0, 1, True)]),
        ("hard_tanh", [], [(-1, 0, False), (-1, 1, True), (1, 0, False), (1, 1, True)]),
        ("relu6", [], [(0, 0, False), (0, 1, True), (6, 0, False), (6, 1, True)]),
        ("hard_swish", [], [(-3, 0, False), (-3, -0.5, True), (3, 1, False), (3, 1.5, True)]),
        ("leaky_relu", [], [(0, 0.01, False), (0, 1, True)]),
        ("sigmoid", [], []),
        ("softsign", [], []),
        ("exponential", [], []),
    ],
)
@pytest.mark.parametrize("low, high", [(-5, 20), (-4.7, 6.3)])
def test_jumps_are_interruptions_with_a_full_and_a_hollow_dot(name, value_dots, derivative_dots, low, high):
    lines, dots = curves(plots.activation(name, axes(), low, high))
    assert len(dots) == len(value_dots + derivative_dots)
    np.testing.assert_allclose(sorted(dots), sorted(value_dots + derivative_dots), atol=1e-12)
    for line, expected in zip(lines, (value_dots, derivative_dots), strict=True):
        assert np.isnan(line.get_ydata()).sum() == len(expected) / 2
        if name != "exponential":
            drawn = np.abs(np.diff(line.get_ydata()))
            assert np.nanmax(drawn, initial=0) < 0.1  # nothing slanted from one side of a jump to the other


def test_losses_are_drawn_by_history_too():
    net = fn.Sequential([fn.Dense(1)])
    history = net.fit(X, X[:, 0], "mse", epochs=4, validation_split=0.25)
    for ax in (plots.losses(history, axes()), history.plot(axes())):
        assert [line.get_ydata().tolist() for line in ax.lines] == [history.loss, history.val_loss]
        assert [line.get_xdata().tolist() for line in ax.lines] == [history.epochs] * 2
        assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation"]
    one = net.fit(X, X[:, 0], "mse", epochs=1).plot(axes())
    assert one.lines[0].get_marker() == "o"  # a line of one point would be invisible
    assert one.lines[0].get_xdata().tolist() == [5]


def deep(name, dtype="float32"):
    hidden = [fn.Dense(16, name) for _ in range(9)]
    return fn.Sequential([*hidden, fn.BatchNorm(), fn.Dense(1, "sigmoid")], n_inputs=2, seed=0, dtype=dtype)


def test_gradient_norms_are_those_of_back_propagation():
    ax, ratios = axes(), []
    for name in ("sigmoid", "relu"):
        net = deep(name)
        plots.gradient_norms(net, X, SIDES, "binary_cross_entropy", ax, label=name)
        _, gradients = net.loss_and_gradients(X, SIDES, "binary_cross_entropy")
        weights = [gradients[f"{i}.weight"] for i in (*range(9), 10)]
        drawn = ax.lines[-1].get_ydata()
        np.testing.assert_allclose(drawn, [np.sqrt(np.sum(w.astype(float) ** 2)) for w in weights], rtol=1e-12)
        assert ax.lines[-1].get_xdata().tolist() == list(range(1, 11))
        ratios.append(drawn[0] / drawn[-1])
    assert ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["sigmoid", "relu"]
    assert ax.lines[0].get_color() != ax.lines[1].get_color()
    assert ratios[0] < 1e-4 < 1e-2 < ratios[1]  # gradients vanish through sigmoids


def test_gradient_norms_below_the_squares_of_float32():
    net = fn.Sequential([fn.Dense(1)], n_inputs=2)
    net.parameters[:] = 0
    norms = plots.gradient_norms(net, X, np.full(40, 1e-25), "mse", axes()).lines[0].get_ydata()
    expected = np.linalg.norm(2e-25 * X.mean(axis=0))
    np.testing.assert_allclose(norms, [expected], rtol=1e-5)


def test_gradients_that_are_zero_are_no_error():
    net = fn.Sequential([fn.Dense(2, "relu"), fn.Dense(1)], n_inputs=2)
    net.parameters[:] = 0
    ax = plots.gradient_norms(net, X, np.zeros(40), "mse", axes())
    assert ax.lines[0].get_ydata().tolist() == [0, 0]
    ax.figure.canvas.draw()


# -- planes ------------------------------------------------------------------------------------------------------------


def image(ax):
    """The coloured pixels (rows upwards), and the coordinates of their centres."""
    pixels = np.asarray(ax.images[0].get_array())[:: 1 if ax.images[0].origin == "lower" else -1]
    left, right, bottom, top = ax.images[0].get_extent()
    height, width, _ = pixels.shape
    across = left + (np.arange(width) + 0.5) * (right - left) / width
    up = bottom + (np.arange(height) + 0.5) * (top - bottom) / height
    return pixels, across, up


def classes_of_colours(ax, n_classes):
    """The class whose points have the hue of a pixel, and the colours' strengths."""
    pixels, across, up = image(ax)
    hues = 1 - np.array([to_rgb(c) for c in ("#0072B2", "#D55E00", "#009E73", "#CC79A7")[:n_classes]])
    colours = 1 - pixels[:, :, None]
    shares = (colours * hues).sum(axis=-1) / (hues * hues).sum(axis=-1)
    misses = np.linalg.norm(colours - shares[..., None] * hues, axis=-1)
    classes = misses.argmin(axis=-1)
    assert misses.min(axis=-1).max() < 1e-6  # each pixel is white and a share of one hue
    strength = np.take_along_axis(shares, classes[..., None], axis=-1)[..., 0]
    return classes, strength, np.stack(np.meshgrid(across, up), axis=-1)


def through(ax, weights, bias):
    """Whether a line of the axes lies where weights . x + bias = 0 and crosses them."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for line in ax.lines:
        x, y = line.get_data()
        if np.allclose(weights[0] * x + weights[1] * y + bias, 0, atol=1e-9):
            assert np.hypot(np.diff(x), np.diff(y)) > np.hypot(right - left, top - bottom)
            return True
    return False


GATES = {
    "and": (gates.AND, [([1, 1], -1.5)]),
    "or": (gates.OR, [([1, 1], -0.5)]),
    "nand": (gates.NAND, [([-1, -1], 1.5)]),
    "nor": (gates.NOR, [([-1, -1], 0.5)]),
    "xor": (gates.XOR, [([1, 1], -0.5), ([-1, -1], 1.5)]),
    "first input": (McCullochPitts([1, 0], 1), [([1, 0], -1)]),
    "learned": (gates.learn(gates.NAND), [(gates.learn(gates.NAND).weights, gates.learn(gates.NAND).bias)]),
}


@pytest.mark.parametrize("name", GATES)
def test_a_gate_is_its_truth_table_and_its_line(name):
    gate, lines = GATES[name]
    ax = plots.gate(gate, axes())
    assert all(through(ax, *line) for line in lines)
    assert len(ax.lines) == len(lines)
    wanted = {corner: str(int(gate.predict([corner])[0])) for corner in CORNERS}
    assert {text.xy: text.get_text() for text in ax.texts} == wanted
    classes, _, places = classes_of_colours(ax, 2)
    signs = np.stack([places @ weights + bias >= 0 for weights, bias in lines])
    decided = np.min([abs(places @ weights + bias) for weights, bias in lines], axis=0) > 1e-6
    np.testing.assert_array_equal(classes[decided], signs.all(axis=0)[decided])
    for (x, y), output in wanted.items():
        side = classes[np.abs(places[:, 0, 1] - y).argmin(), np.abs(places[0, :, 0] - x).argmin()]
        assert str(side) == output or any(abs(np.dot(w, (x, y)) + b) < 1e-9 for w, b in lines)


def test_titles_of_gates():
    assert plots.gate(McCullochPitts([-2, 0.5], -1), axes()).get_title() == r"$- 2\,x_1 + 0.5\,x_2 \geq {-}1$"
    assert plots.gate(McCullochPitts([0, 1], 0), axes()).get_title() == r"$x_2 \geq 0$"
    never = plots.gate(McCullochPitts([0, 0], 1), axes())
    assert never.get_title() == r"$0 \geq 1$"
    assert not never.lines
    assert {text.get_text() for text in never.texts} == {"0"}


def test_four_gates_side_by_side():
    given = Figure().subplots(2, 2).ravel()
    drawn = plots.gates(given)
    assert [ax is other for ax, other in zip(drawn, given, strict=True)] == [True] * 4
    outputs = [[text.get_text() for text in ax.texts] for ax in drawn]
    assert outputs == [list("0001"), list("0111"), list("1110"), list("1000")]


MODELS = {
    "perceptron": (trained(Perceptron(variant="averaged")), SIDES),
    "logistic neuron": (trained(LogisticNeuron(l2=0.01)), SIDES),
    "circuit": (gates.XOR, SIDES),
    "gate": (gates.AND, SIDES),
    "sigmoid": (network(1, "sigmoid", SIDES, "binary_cross_entropy"), SIDES),
    "logit": (network(1, None, SIDES, "binary_cross_entropy"), SIDES),
    "tanh": (network(1, "tanh", 2 * SIDES - 1, "mse"), SIDES),
    "two": (network(2, "softmax", SIDES, "cross_entropy"), SIDES),
    "four": (network(4, "softmax", FOUR, "cross_entropy"), FOUR),
    "four logits": (network(4, None, FOUR, "cross_entropy", hidden="relu"), FOUR),
}


def classes_of(model, points):
    if isinstance(model, fn.Sequential):
        return model.predict_classes(points)
    if isinstance(model, (McCullochPitts, gates.Circuit)):  # they take only zeros and ones
        return model.to_sequential().predict_classes(points)
    return model.predict(points)


@pytest.mark.parametrize("name", MODELS)
def test_regions_are_coloured_by_the_predicted_class(name):
    model, y = MODELS[name]
    ax = plots.decision_regions(model, X, y, axes(), resolution=60)
    assert ax.images[0].get_array().shape == (60, 60, 3)
    drawn, _, places = classes_of_colours(ax, int(y.max()) + 1)
    np.testing.assert_array_equal(drawn, classes_of(model, places.reshape(-1, 2)).reshape(60, 60))
    assert len(np.unique(drawn)) == y.max() + 1
    points = ax.collections[: int(y.max()) + 1]
    for c, collection in enumerate(points):
        np.testing.assert_allclose(collection.get_offsets(), X[y == c], rtol=1e-6)
    markers = {path.vertices.tobytes() for collection in points for path in collection.get_paths()}
    assert len(markers) == y.max() + 1  # for those who see no colours


@pytest.mark.parametrize("name", ["sigmoid", "logistic neuron", "two", "four"])
def test_regions_are_the_darker_the_larger_the_probability(name):
    model, y = MODELS[name]
    _, strength, places = classes_of_colours(plots.decision_regions(model, X, y, axes(), 50), int(y.max()) + 1)
    net = model.network if isinstance(model, LogisticNeuron) else model
    p = net.predict(places.reshape(-1, 2)).astype(float)
    p = np.maximum(p, 1 - p)[:, 0] if p.shape[1] == 1 else p.max(axis=1)
    least = 1 / max(net.n_outputs, 2)
    shares = (strength.ravel() - 0.04) / (0.55 - 0.04)
    np.testing.assert_allclose(shares, (p - least) / (1 - least), atol=1e-5)


@pytest.mark.parametrize("name", ["perceptron", "tanh", "four logits"])
def test_regions_without_probabilities_are_even(name):
    model, y = MODELS[name]
    ax = plots.decision_regions(model, X, y, axes(), 50)
    _, strength, _ = classes_of_colours(ax, int(y.max()) + 1)
    np.testing.assert_allclose(strength, strength[0, 0], atol=1e-9)
    assert "probability 0.9" not in [text.get_text() for text in ax.get_legend().get_texts()]


def contours(ax, dashed):
    """Points of the contour lines."""
    sets = [c for c in ax.collections if hasattr(c, "levels") and (c.get_linestyle()[0][1] is not None) == dashed]
    assert sets
    return [np.concatenate([path.vertices for path in each.get_paths()]) for each in sets]


@pytest.mark.parametrize("name", ["sigmoid", "logit", "tanh", "two", "four", "four logits"])
def test_boundaries_are_where_two_classes_are_equal(name):
    model, y = MODELS[name]
    ax = plots.decision_regions(model, X, y, axes(), resolution=200)
    for points in contours(ax, dashed=False):
        values = np.sort(model.predict(points), axis=1)
        middle = 0.5 if name == "sigmoid" else 0.0
        gap = values[:, 0] - middle if values.shape[1] == 1 else values[:, -1] - values[:, -2]
        assert np.abs(gap).max() < 0.05 * np.ptp(model.predict(X))
    if name in ("sigmoid", "two", "four"):
        for points in contours(ax, dashed=True):
            p = model.predict(points)
            p = np.maximum(p, 1 - p) if name == "sigmoid" else p
            np.testing.assert_allclose(p.max(axis=1), 0.9, atol=0.02)


@pytest.mark.parametrize("name", ["perceptron", "logistic neuron", "gate"])
def test_boundaries_of_single_neurons_are_lines(name):
    model, y = MODELS[name]
    ax = plots.decision_regions(model, X, y, axes(), resolution=20)
    bias = -model.threshold if name == "gate" else model.bias
    assert through(ax, model.weights, bias)
    assert len(ax.lines) == 1


@pytest.mark.parametrize("size", [(5.5, 4.6), (3, 3), (3, 2.4), (10, 3)])
@pytest.mark.parametrize("name", ["sigmoid", "four"])
def test_legends_of_regions_cover_no_samples(name, size):
    model, y = MODELS[name]
    figure = Figure(figsize=size, layout="constrained")
    ax = plots.decision_regions(model, X, y, figure.subplots(), 20)
    figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    assert box.y0 > ax.transData.transform(X)[:, 1].max()


def test_a_model_that_predicts_one_class_has_no_boundary():
    net = fn.Sequential([fn.Dense(3, "softmax")], n_inputs=2)
    net.parameters[:] = [0, 0, 0, 0, 0, 0, 0, 1, 0]
    ax = plots.decision_regions(net, [[2.0, 2.0]], [1], axes())
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["class 1"]
    assert (classes_of_colours(ax, 3)[0] == 1).all()


def test_where_there_is_no_number_there_is_no_class():
    net = fn.Sequential([fn.Dense(2), fn.Dense(2)], n_inputs=2)
    net.set_parameters({"0.weight": [[3e38, 0], [0, 1]], "1.weight": [[0, 0], [0, 1]]})  # 0 * inf for large x_1
    ax = plots.decision_regions(net, [[-2.0, -2.0], [2.0, 2.0]], [0, 1], axes(), 50)
    pixels, across, up = image(ax)
    white = (pixels == 1).all(axis=-1)
    places = np.stack(np.meshgrid(across, up), axis=-1).reshape(-1, 2)
    np.testing.assert_array_equal(white.ravel(), np.isnan(net.predict(places)).any(axis=1))
    assert 0 < white.mean() < 1


def test_many_classes():
    net = fn.Sequential([fn.Dense(12, "softmax")], n_inputs=2)
    ax = plots.decision_regions(net, X, np.arange(40) % 12, axes())
    looks = {(c.get_facecolor().tobytes(), c.get_paths()[0].vertices.tobytes()) for c in ax.collections[:12]}
    assert len(looks) == 12


# -- diagrams ----------------------------------------------------------------------------------------------------------


def edges(ax):
    """(layer, start, end) -> (width, dashed, colour) of every line."""
    found = {}
    for i, lines in enumerate(each for each in ax.collections if hasattr(each, "get_segments")):
        parts = (lines.get_segments(), lines.get_linewidths(), lines.get_linestyles(), lines.get_colors())
        for segment, width, (_, dashes), colour in zip(*parts, strict=True):
            (x0, y0), (x1, y1) = segment
            assert (x0, x1) == (i, i + 1)
            found[i, y0, y1] = width, dashes is not None, tuple(colour)
    return found


def units(ax):
    """Heights of the circles of each column, and whether dots stand for more."""
    columns, dots = {}, set()
    for each in ax.collections:
        if not hasattr(each, "get_segments"):
            x, heights = each.get_offsets().T
            if each.get_facecolor()[0].tolist() == [1, 1, 1, 1]:
                columns[int(x[0])] = heights.tolist()
            else:
                dots.add(int(x[0]))
    return [columns[i] for i in range(len(columns))], dots


def check_edges(net, ax, shown):
    """Every line has the width and the look of its weight."""
    heights, _ = units(ax)
    drawn, weights = edges(ax), [w for w in net.named_parameters().values() if w.ndim == 2]
    largest = max(np.abs(w).max() for w in weights)
    for i, w in enumerate(weights):
        for a, start in zip(shown[i], heights[i], strict=True):
            for b, end in zip(shown[i + 1], heights[i + 1], strict=True):
                width, dashed, colour = drawn.pop((i, start, end))
                np.testing.assert_allclose(width, 4 * abs(w[a, b]) / largest, rtol=1e-6, atol=1e-9)
                assert dashed == (w[a, b] < 0)
                assert colour[:3] == to_rgb("#0072B2" if dashed else "#D55E00")
    assert not drawn


def test_a_diagram_has_a_line_for_each_weight():
    net = fn.Sequential([fn.Dense(5, "tanh"), fn.Dropout(0.1), fn.Dense(3), fn.Activation("softmax")], n_inputs=4)
    ax = plots.network(net, axes())
    heights, dots = units(ax)
    assert ([len(column) for column in heights], dots) == ([4, 5, 3], set())
    assert all(np.allclose(np.diff(column), -1) and abs(np.mean(column)) < 1e-9 for column in heights)
    check_edges(net, ax, [range(4), range(5), range(3)])
    captions = [text.get_text().splitlines() for text in ax.texts if "\n" in text.get_text()]
    assert captions == [
        ["input", "4 units"],
        ["hidden", "5 units", "tanh", "dropout"],
        ["output", "3 units", "identity", "softmax"],
    ]
    names = [text.get_text() for text in ax.texts if text.get_text().startswith("$")]
    assert names == [f"$x_{{{i}}}$" for i in range(1, 5)] + [f"$y_{{{i}}}$" for i in range(1, 4)]
    largest = max(np.abs(w).max() for w in net.named_parameters().values())
    assert [text.get_text() for text in ax.get_legend().get_texts()][-1] == f"$|w|$ = {largest:.3g}"


def test_a_diagram_leaves_out_the_middle_of_wide_layers():
    net = fn.Sequential([fn.Dense(11), fn.Dense(10), fn.Dense(1)], n_inputs=64)
    ax = plots.network(net, axes())
    heights, dots = units(ax)
    assert ([len(column) for column in heights], dots) == ([10, 10, 10, 1], {0, 1})
    assert heights[0] == [5, 4, 3, 2, 1, -1, -2, -3, -4, -5]  # the dots stand at 0
    check_edges(net, ax, [[*range(5), *range(59, 64)], [*range(5), *range(6, 11)], range(10), [0]])
    names = [text.get_text() for text in ax.texts if text.get_text().startswith("$x")]
    assert names == [f"$x_{{{i}}}$" for i in (1, 2, 3, 4, 5, 60, 61, 62, 63, 64)]


def test_a_diagram_of_shortcuts_and_of_zeros():
    block = fn.Residual(
        [fn.Dense(4, "relu"), fn.Residual([fn.LayerNorm(), fn.Dense(4)]), fn.Residual([fn.BatchNorm()])]
    )
    net = fn.Sequential([fn.Dense(4), block, fn.Dense(2)], n_inputs=3)
    net.parameters[:] = 0
    ax = plots.network(net, axes())
    assert {width for width, _, _ in edges(ax).values()} == {0}
    arches = [tuple(int(place[0]) for place in (text.xyann, text.xy)) for text in ax.texts if text.arrow_patch]
    assert sorted(arches) == [(1, 3), (2, 3)]
    captions = [text.get_text().splitlines()[2:] for text in ax.texts if "\n" in text.get_text()]
    assert captions == [[], ["identity"], ["relu", "layer norm"], ["identity", "batch norm"], ["identity"]]


@pytest.mark.parametrize("n_hidden", [2, 40])
def test_what_stands_around_a_diagram_covers_no_unit(n_hidden):
    net = fn.Sequential([fn.Dense(n_hidden, "relu"), fn.BatchNorm(), fn.Dense(1, "sigmoid")], n_inputs=2)
    ax = plots.network(net)
    ax.figure.canvas.draw()
    columns, _ = units(ax)
    bottom, top = (ax.transData.transform((0, sign * max(map(max, columns))))[1] for sign in (-1, 1))
    assert ax.get_legend().get_window_extent().y0 > top
    captions = [text for text in ax.texts if "\n" in text.get_text()]
    assert all(text.get_window_extent().y1 < bottom for text in captions)
    assert all(text.get_window_extent().y0 >= 0 for text in captions)


# -- all of them -------------------------------------------------------------------------------------------------------

HISTORY = fn.History([1, 2], [0.5, 0.25])
NET = fn.Sequential([fn.Dense(3, "softmax")], n_inputs=2)
CALLS = {
    "activation": lambda ax: plots.activation("tanh", ax),
    "gate": lambda ax: plots.gate(gates.OR, ax),
    "decision_regions": lambda ax: plots.decision_regions(NET, X, SIDES, ax, 10),
    "losses": lambda ax: plots.losses(HISTORY, ax),
    "History.plot": lambda ax: HISTORY.plot(ax),
    "network": lambda ax: plots.network(NET, ax),
    "gradient_norms": lambda ax: plots.gradient_norms(NET, X, SIDES, "cross_entropy", ax),
}


def test_every_function_is_tested():
    assert set(plots.__all__) - {"gates"} == set(CALLS) - {"History.plot"}


@pytest.mark.parametrize("name", CALLS)
def test_axes_that_are_given_are_used_and_returned(name):
    _, (ax, other) = plt.subplots(1, 2)
    assert plt.gca() is other
    assert CALLS[name](ax) is ax
    assert plt.gca() is other  # pyplot's own state is the user's
    assert not other.has_data()
    assert len(plt.get_fignums()) == 1
    figure = Figure()
    inside = figure.subfigures(1, 2)[1].subplots()
    assert CALLS[name](inside) is inside
    figure.canvas.draw()
    assert len(plt.get_fignums()) == 1


@pytest.mark.parametrize("name", CALLS)
def test_without_axes_there_is_one_new_figure(name):
    ax = CALLS[name](None)
    assert plt.get_fignums() == [ax.figure.number]
    assert ax.figure.axes == [ax]
    ax.figure.canvas.draw()


def test_what_is_refused_leaves_no_figure():
    untrained = (Perceptron(), LogisticNeuron())
    for call, message in (
        *((lambda model=model: plots.decision_regions(model, X, SIDES), "not been trained") for model in untrained),
        (lambda: plots.gate(untrained[0]), "not been trained"),
        (lambda: plots.gate(gates.NOT), "gate must have 2 inputs, got 1"),
        (lambda: plots.activation("softmax"), "activation must be element-wise, got 'softmax'"),
        (lambda: plots.activation("relu", low=1, high=1), "low must be below high, got 1 and 1"),
        (lambda: plots.decision_regions(NET, X, SIDES + 2), "y must hold classes from 0 to 2, got 3"),
        (lambda: plots.decision_regions(NET, X, SIDES, resolution=1), "resolution must be an integer >= 2"),
        (lambda: plots.network(fn.Sequential([fn.Dense(2)])), "number of inputs"),
        (lambda: plots.network(fn.Sequential([fn.Activation("relu")], n_inputs=2)), "net must have a Dense layer"),
        (
            lambda: plots.gradient_norms(fn.Sequential([fn.BatchNorm()], n_inputs=2), X, X, "mse"),
            "net must have a Dense layer",
        ),
        (lambda: plots.gradient_norms(gates.XOR.to_sequential(), X, SIDES, "mse"), "no useful derivative"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(TypeError, match=r"axes\[2\] must be matplotlib axes"):
        plots.gates([axes(), axes(), None, axes()])
    assert not plt.get_fignums()


@pytest.mark.parametrize("name", [*CALLS, "gates"])
def test_without_matplotlib_the_error_names_the_extra(name, monkeypatch):
    for module in [module for module in sys.modules if module.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=re.escape("pip install 'fastnn-numba[plot]'")):
        CALLS[name](None) if name in CALLS else plots.gates()


def test_importing_plots_imports_no_matplotlib():
    code = "import sys, fastnn.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# -- the gallery -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def gallery(tmp_path_factory):
    """The script that draws the gallery, and a folder with what it drew."""
    spec = importlib.util.spec_from_file_location("make_gallery", DOCS / "make_gallery.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    folder = tmp_path_factory.mktemp("gallery")
    module.main([str(folder)])
    return module, folder


def test_the_gallery_is_what_its_script_draws(gallery):
    module, folder = gallery
    names = list(module.functions(module.load_pictures()))
    committed = DOCS / "gallery"
    for place in (folder, committed):
        assert {path.stem for path in place.glob("*.png")} == set(names)
    assert (committed / "README.md").read_text("utf-8") == (folder / "README.md").read_text("utf-8")
    for name in names:
        with Image.open(folder / f"{name}.png") as drawn, Image.open(committed / f"{name}.png") as kept:
            np.testing.assert_allclose(drawn.size, kept.size, atol=2)  # versions of matplotlib round differently
            grey = np.asarray(drawn.convert("L"))
        assert 0.02 < np.mean(grey < 250) < 0.98  # neither blank nor full
    assert sum(path.stat().st_size for path in committed.glob("*.png")) < 600_000


def test_the_gallery_s_page_runs_as_it_stands(gallery, monkeypatch):
    module, folder = gallery
    page = (folder / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names = re.findall(r"\((\w+)\.png\)", page)
    assert len(blocks) == len(names) + 1
    shared = {}
    exec(blocks[0], shared)
    for name, block in zip(names, blocks[1:], strict=True):
        path = folder / f"again_{name}.png"
        module.draw(lambda block=block: exec(block, dict(shared)), path)
        assert path.read_bytes() == (folder / f"{name}.png").read_bytes()  # drawn twice: deterministic
