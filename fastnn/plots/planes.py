"""The plane of two inputs: gates, and the regions of classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastnn import _checks, _data
from fastnn.gates import AND, NAND, NOR, OR, Circuit
from fastnn.network import Sequential
from fastnn.neurons import LogisticNeuron, McCullochPitts, Perceptron, check_fitted
from fastnn.plots._axes import COLOURS, MARKERS, check_axes, check_kind, legend_above, legend_points, new, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TINT = 0.3  # of a region, where the outputs are no probabilities
_TINTS = (0.04, 0.55)  # of the least and the largest probability
_SURE = 0.9


def gate(gate: McCullochPitts | Circuit | Perceptron, ax: Axes | None = None) -> Axes:
    """A gate with two inputs: its truth table as points of the plane, and the line that parts zeros from ones.

    Parameters
    ----------
    gate : McCullochPitts, Circuit or trained Perceptron
        The region in the colour of the ones is where its output is 1. A circuit has the line of each hidden neuron. The
        title says where the neurons fire.
    ax : matplotlib.axes.Axes, optional
        None: a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from fastnn import gates, plots
    >>> plots.gate(gates.AND).get_title()
    '$x_1 + x_2 \\\\geq 1.5$'
    """
    check_axes("ax", ax)
    check_kind("gate", gate, McCullochPitts, Circuit, Perceptron)
    network = _as_network("gate", gate)
    ax = new(ax, 3.6, 3.9)
    ax.set(xlim=(-0.5, 1.5), ylim=(-0.5, 1.5), xticks=(0, 1), yticks=(0, 1), aspect="equal")
    _paint(ax, network, 400)
    neurons = gate.hidden if isinstance(gate, Circuit) else [gate]
    for neuron in neurons:
        _line(ax, *_hyperplane(neuron))
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        output = int(network.predict_classes([corner])[0])
        ax.scatter(*corner, s=260, c=COLOURS[output], marker=MARKERS[output], edgecolors="white", zorder=3)
        ax.annotate(str(output), corner, color="white", weight="bold", ha="center", va="center_baseline", zorder=4)
    ax.set(xlabel="$x_1$", ylabel="$x_2$", title="\n".join(_formula(*_hyperplane(neuron)) for neuron in neurons))
    return ax


def gates(axes: Sequence[Axes] | None = None) -> NDArray[Any]:
    """AND, OR, NAND and NOR side by side, each as `gate` draws it.

    Parameters
    ----------
    axes : four of matplotlib.axes.Axes, optional
        None: a new figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, (4,)

    Examples
    --------
    >>> from fastnn import plots
    >>> [ax.get_title().splitlines()[0] for ax in plots.gates()]
    ['AND', 'OR', 'NAND', 'NOR']
    """
    if axes is None:
        check_axes("axes", None)
        import matplotlib.pyplot as plt

        axes = plt.subplots(1, 4, figsize=(9.6, 3.1), sharey=True, layout="constrained")[1]
    elif not isinstance(axes, (list, tuple, np.ndarray)) or len(axes) != 4:
        raise TypeError(f"axes must be four matplotlib axes, got {_checks.describe(axes)}")
    for i, ax in enumerate(axes):
        if ax is None:
            raise TypeError(f"axes[{i}] must be matplotlib axes, got None")
        check_axes(f"axes[{i}]", ax)
    for ax, (name, each) in zip(axes, {"AND": AND, "OR": OR, "NAND": NAND, "NOR": NOR}.items(), strict=True):
        gate(each, ax)
        ax.set_title(f"{name}\n{ax.get_title()}")
        ax.label_outer()
    return np.asarray(axes)


def decision_regions(
    model: Sequential | Perceptron | LogisticNeuron | McCullochPitts | Circuit,
    X: ArrayLike,
    y: ArrayLike,
    ax: Axes | None = None,
    resolution: int = 300,
) -> Axes:
    """The class that a model with two inputs predicts at every point of the plane, with samples.

    Where the outputs are probabilities (softmax, or a single sigmoid), a region is the darker the larger the
    probability of its class, and a dashed line is where that is 0.9. Where the model gives NaN the plane stays white.

    Parameters
    ----------
    model : Sequential, Perceptron, LogisticNeuron, McCullochPitts or Circuit
        With two inputs, and trained. A single output decides between two classes as in `Sequential.predict_classes`.
    X : array-like, (n, 2)
    y : array-like, (n,)
        True classes, from 0.
    ax : matplotlib.axes.Axes, optional
        None: a new figure.
    resolution : int
        Points in each direction at which the model is asked.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from fastnn import gates, plots
    >>> ax = plots.decision_regions(gates.learn(gates.XOR), *gates.XOR.truth_table())
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['class 0', 'class 1', 'decision boundary']
    """
    check_axes("ax", ax)
    check_kind("model", model, Sequential, Perceptron, LogisticNeuron, McCullochPitts, Circuit)
    network = _as_network("model", model)
    x = _checks.matrix("X", X, network.dtype, n_columns=2).astype(np.float64)
    labels = _checks.vector("y", y, np.float64, length=len(x))
    n_classes = max(network.n_outputs or 0, 2)
    wrong = labels[~np.isin(labels, np.arange(n_classes))]
    if wrong.size:
        raise ValueError(f"y must hold classes from 0 to {n_classes - 1}, got {wrong[0]:g}")
    resolution = _checks.integer("resolution", resolution, low=2)
    ax = new(ax, 5.5, 4.6)
    present = np.unique(labels).astype(int)
    _frame(ax, x, n_entries=len(present) + 2)  # the same for all models of these samples, to compare them
    across, up, scores = _paint(ax, network, resolution)
    entries = {}
    for c in present:
        colour, marker = COLOURS[c % len(COLOURS)], MARKERS[c % len(MARKERS)]
        style: Any = {"s": 36, "c": colour, "marker": marker, "edgecolors": "white", "linewidths": 0.7, "zorder": 3}
        entries[f"class {c}"] = ax.scatter(*x[labels == c].T, **style)
    if isinstance(model, (Perceptron, LogisticNeuron, McCullochPitts)):
        boundary = _line(ax, *_hyperplane(model))
    else:
        leads = [scores[..., c] - np.delete(scores, c, axis=-1).max(axis=-1) for c in range(1, scores.shape[-1])]
        boundary = _contours(ax, across, up, leads, 0.0, "-")
    if boundary is not None:
        entries["decision boundary"] = boundary
    if _gives_probabilities(network):
        sure = _contours(ax, across, up, [scores.max(axis=-1)], _SURE, "--")
        if sure is not None:
            entries[f"probability {_SURE:g}"] = sure
    ax.set(xlabel="$x_1$", ylabel="$x_2$")
    legend_above(ax, entries)
    return ax


def _as_network(name: str, model: Any) -> Sequential:
    """A model with two inputs as a network."""
    if isinstance(model, LogisticNeuron):
        check_fitted(model)
        model = model.network
    found: Sequential = model if isinstance(model, Sequential) else model.to_sequential()
    if found._built().n_inputs != 2:
        raise ValueError(f"{name} must have 2 inputs, got {found.n_inputs}")
    return found


def _gives_probabilities(network: Sequential) -> bool:
    kind = network._built().output_activation
    return kind == "softmax" or (kind == "sigmoid" and network.n_outputs == 1)


def _hyperplane(neuron: McCullochPitts | Perceptron | LogisticNeuron) -> tuple[NDArray[np.float64], float]:
    """Weights and bias."""
    return neuron.weights, -neuron.threshold if isinstance(neuron, McCullochPitts) else neuron.bias


def _formula(weights: NDArray[np.float64], bias: float) -> str:
    """Where a step neuron fires, as in ``x_1 - 2x_2 >= 0.5``."""
    terms = []
    for i, w in enumerate(weights, 1):
        if w:
            size = "" if abs(w) == 1 else f"{abs(w):.3g}\\,"
            terms.append(f"{'-' if w < 0 else '+'} {size}x_{i}")
    text = " ".join(terms).removeprefix("+ ") or "0"
    bound = f"{-bias + 0.0:.3g}".replace("-", "{-}")  # a sign, not a difference
    return rf"${text} \geq {bound}$"


def _frame(ax: Axes, x: NDArray[np.float64], n_entries: int) -> None:
    """Limits around the samples, with a strip for the legend above them."""
    low, high = x.min(axis=0), x.max(axis=0)
    margin = np.where(high > low, 0.08 * (high - low), 1.0)
    (left, bottom), (right, top) = low - margin, high + margin
    share = min(legend_points(ax, n_entries) / points(ax)[1], 0.5)
    ax.set(xlim=(left, right), ylim=(bottom, bottom + (top - bottom) / (1 - share)))


def _paint(ax: Axes, network: Sequential, resolution: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Colour the axes by predicted class.

    Returns the coordinates across and up, and the scores of the classes there, (resolution, resolution, classes).
    """
    from matplotlib.colors import to_rgb

    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    across, up = np.linspace(left, right, resolution), np.linspace(bottom, top, resolution)
    grid = np.stack(np.meshgrid(across, up), axis=-1)
    scores = network.predict(grid.reshape(-1, 2)).astype(np.float64).reshape(resolution, resolution, -1)
    if scores.shape[-1] == 1:
        scores = np.concatenate([2 * _data.threshold(network._built()) - scores, scores], axis=-1)
    tint = np.full(scores.shape[:2], _TINT)
    if _gives_probabilities(network):
        least = 1 / scores.shape[-1]
        tint = _TINTS[0] + (_TINTS[1] - _TINTS[0]) * (scores.max(axis=-1) - least) / (1 - least)
    tint[np.isnan(scores).any(axis=-1)] = 0
    colours = np.array([to_rgb(colour) for colour in COLOURS])
    image = 1 - tint[..., None] * (1 - colours[scores.argmax(axis=-1) % len(COLOURS)])
    half_x, half_y = (right - left) / (resolution - 1) / 2, (top - bottom) / (resolution - 1) / 2
    extent = (left - half_x, right + half_x, bottom - half_y, top + half_y)
    ax.imshow(image, origin="lower", extent=extent, aspect=ax.get_aspect(), zorder=0)
    ax.set(xlim=(left, right), ylim=(bottom, top))
    return across, up, scores


def _contours(ax: Axes, across: Any, up: Any, fields: list[NDArray[Any]], level: float, dashes: str) -> Any:
    """Draw where the fields have this level; a line for the legend, or None where they nowhere have it."""
    drawn = None
    for field in fields:
        if (field < level).any() and (field > level).any():
            drawn = ax.contour(across, up, field, [level], colors="black", linestyles=dashes, linewidths=1.4)
    return drawn and drawn.legend_elements()[0][0]


def _line(ax: Axes, weights: NDArray[np.float64], bias: float) -> Any:
    """The line ``weights . x + bias = 0``, or None where there is none."""
    square = weights @ weights
    if square == 0:
        return None
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    middle = np.array([left + right, bottom + top]) / 2
    nearest = middle - (weights @ middle + bias) / square * weights
    along = np.array([-weights[1], weights[0]]) / np.sqrt(square) * np.hypot(right - left, top - bottom)
    ends = np.stack([nearest - along, nearest + along], axis=1)
    return ax.plot(*ends, color="black", linewidth=1.4, scalex=False, scaley=False)[0]
