"""A diagram of a network: units as circles, weights as lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastnn import _rows as row
from fastnn.layers import lower_all
from fastnn.network import Sequential
from fastnn.plots._axes import BLUE, VERMILLION, check_axes, check_kind, legend_above, legend_points, new, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_UNITS = 10  # of a layer in a diagram
_WIDEST = 4.0  # line, in points
_INK = "0.4"  # of circles, on light and on dark pages
_STYLES: Any = ((VERMILLION, "solid"), (BLUE, "dashed"))  # of positive and negative weights


def network(net: Sequential, ax: Axes | None = None) -> Axes:
    """A diagram of a network: units as circles, weights as lines.

    A line is the wider the larger its weight's absolute value, in proportion to the largest of the network; negative
    weights are dashed. Of more than ten units in a layer the first and last five are shown. An arch is the shortcut of
    a `Residual`; layers without weights between units stand in the captions.

    Parameters
    ----------
    net : Sequential
        With at least one `Dense` layer.
    ax : matplotlib.axes.Axes, optional
        None: a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from fastnn import gates, plots
    >>> ax = plots.network(gates.XOR.to_sequential())
    >>> [line.get_linewidths().tolist() for line in ax.collections[:1]]
    [[4.0, 4.0, 4.0, 4.0]]
    """
    check_axes("ax", ax)
    columns, arches = _columns("net", net)
    places = [_places(column.units) for column in columns]
    most = 2 * max(y[0] for y in places) + 1
    caption = 12.0 * max(len(column.caption) for column in columns) + 4
    arch = 20.0 if arches else 0.0
    ax = new(ax, 1.6 + 1.3 * len(columns), max(45 + caption + arch + 22 * most, 220) / 72)
    ax.axis("off")
    strip = legend_points(ax, 3)
    pitch = max((points(ax)[1] - strip - caption - arch) / (most + 0.5), 1.0)  # from unit to unit, in points
    bottom, top = -most / 2 - 0.25, most / 2 + 0.25
    ax.set(xlim=(-0.5, len(columns) - 0.5), ylim=(bottom - caption / pitch, top + (strip + arch) / pitch))
    entries = _edges(ax, columns, places)
    size = min(0.75 * pitch, 22.0)
    for i, (column, y) in enumerate(zip(columns, places, strict=True)):
        ax.scatter(np.full(len(y), i), y, size**2, "white", edgecolors=_INK, linewidths=1.2, zorder=3)
        if len(y) < column.units:
            ax.scatter([i] * 3, [-0.22, 0.0, 0.22], size**2 / 50, _INK, zorder=3)
        ax.annotate(
            "\n".join(column.caption), (i, bottom), (0, -4), textcoords="offset points", va="top", ha="center",
            linespacing=1.15,
        )  # fmt: skip
    for i, symbol, side in ((0, "x", "right"), (len(columns) - 1, "y", "left")):
        offset = (-size / 2 - 4 if side == "right" else size / 2 + 4, 0)
        for k, height in zip(_shown(columns[i].units) + 1, places[i], strict=True):
            ax.annotate(f"${symbol}_{{{k}}}$", (i, height), offset, textcoords="offset points", ha=side, va="center")
    for start, end in arches:
        style = {"arrowstyle": "->", "connectionstyle": f"arc3,rad={-0.18 / (end - start)}", "color": _INK}
        ax.annotate("", (end, places[end][0] + 0.4), (start, places[start][0] + 0.4), arrowprops=style)
    legend_above(ax, entries)
    return ax


class _Column(NamedTuple):
    """The units that one layer makes."""

    units: int
    caption: list[str]
    weights: NDArray[Any]  # of the lines that end here


def _columns(name: str, net: Any) -> tuple[list[_Column], list[tuple[int, int]]]:
    """Inputs and dense layers, and the columns that shortcuts connect."""
    check_kind(name, net, Sequential)
    parameters = net._named_arrays()
    columns = [_Column(net.n_inputs, ["input"], np.empty(0))]
    arches, starts = [], []
    others = {row.DROPOUT: "dropout", row.BATCH_NORM: "batch norm", row.LAYER_NORM: "layer norm"}
    each: Any  # a row of a dense layer has weights and an activation
    for each in lower_all(net.layers, net.n_inputs, ""):
        if each.kind == row.DENSE:
            columns.append(_Column(each.n_out, ["hidden", each.activation.name], parameters[each.weight.name]))
        elif each.kind == row.SPLIT:
            starts.append(len(columns) - 1)
        elif each.kind == row.ADD:
            arches.append((starts.pop(), len(columns) - 1))
        else:
            columns[-1].caption.append(others.get(each.kind) or each.activation.name)
    if len(columns) == 1:
        raise ValueError(f"{name} must have a Dense layer, got {net!r}")
    columns[-1].caption[0] = "output"
    for column in columns:
        column.caption.insert(1, f"{column.units:,} unit{'s' * (column.units > 1)}")
    return columns, [(start, end) for start, end in arches if end > start]


def _shown(units: int) -> NDArray[np.int64]:
    """Which units of a layer are drawn."""
    all_units = np.arange(units)
    half = _MOST_UNITS // 2
    return all_units if units <= _MOST_UNITS else np.concatenate([all_units[:half], all_units[-half:]])


def _places(units: int) -> NDArray[np.float64]:
    """Heights of the units drawn, the first above; 0 is free for dots where some are left out."""
    shown = len(_shown(units))
    heights = (shown - 1) / 2 - np.arange(shown, dtype=np.float64)
    return heights + 0.5 * np.sign(heights) if shown < units else heights


def _edges(ax: Axes, columns: list[_Column], places: list[NDArray[np.float64]]) -> dict[str, Any]:
    """The lines between the columns; returns what stands in the legend."""
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    largest = max(float(np.abs(column.weights).max()) for column in columns[1:])
    for i in range(1, len(columns)):
        shown = columns[i].weights[np.ix_(_shown(columns[i - 1].units), _shown(columns[i].units))].astype(np.float64)
        order = np.argsort(np.abs(shown), axis=None)  # the widest lines on top
        values = shown.ravel()[order]
        starts, ends = (heights.ravel()[order] for heights in np.meshgrid(places[i - 1], places[i], indexing="ij"))
        segments = [((i - 1, start), (i, end)) for start, end in zip(starts, ends, strict=True)]
        colours, dashes = zip(*[_STYLES[bool(value < 0)] for value in values], strict=True)
        widths = _WIDEST * np.abs(values) / (largest or 1.0)
        lines = LineCollection(segments, linewidths=widths, colors=colours, linestyles=list(dashes), zorder=1)
        ax.add_collection(lines, autolim=False)
    signs: list[Any] = [Line2D([], [], color=colour, linestyle=dashes, linewidth=2) for colour, dashes in _STYLES]
    scale = Line2D([], [], color=_INK, linewidth=_WIDEST)
    return dict(zip(["positive weight", "negative weight", f"$|w|$ = {largest:.3g}"], [*signs, scale], strict=True))
