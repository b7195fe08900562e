"""Curves: activations, losses, norms of gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastnn import _checks, activations
from fastnn.activations import ActivationFunction
from fastnn.losses import Loss
from fastnn.network import Sequential
from fastnn.plots._axes import (
    BLUE,
    COLOURS,
    GREY,
    MARKERS,
    VERMILLION,
    check_axes,
    check_kind,
    legend_between_curves,
    new,
)
from fastnn.training import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 1001  # of a curve


def activation(
    activation: str | ActivationFunction, ax: Axes | None = None, low: float = -5.0, high: float = 5.0
) -> Axes:
    """An activation and its derivative.

    Where one of them jumps, the line is interrupted: a full dot is the value there, a hollow one a limit.

    Parameters
    ----------
    activation : str or ActivationFunction
        Element-wise: softmax and log_softmax, whose outputs depend on the whole row, raise ValueError.
    ax : matplotlib.axes.Axes, optional
        None: a new figure.
    low, high : float
        Range of pre-activations.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> from fastnn import plots
    >>> ax = plots.activation("step")
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['activation $a(z)$', "derivative $a'(z)$"]
    """
    check_axes("ax", ax)
    chosen = activations.get(activation)
    if chosen.rowwise:
        raise ValueError(f"activation must be element-wise, got {chosen.name!r}, whose outputs depend on the whole row")
    low, high = _checks.number("low", low), _checks.number("high", high)
    if not low < high:
        raise ValueError(f"low must be below high, got {low:g} and {high:g}")
    ax = new(ax, 5.5, 3.6)
    ax.axhline(0, color=GREY, linewidth=0.8, zorder=1)
    if low < 0 < high:
        ax.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    _curve(ax, chosen, low, high, color=BLUE, linestyle="-", label="activation $a(z)$")
    _curve(ax, chosen.derivative, low, high, color=VERMILLION, linestyle="--", label="derivative $a'(z)$")
    ax.set(xlabel="pre-activation $z$", title=chosen.name)
    legend_between_curves(ax)
    return ax


def losses(history: History, ax: Axes | None = None) -> Axes:
    """The losses of a training run, epoch by epoch; ``history.plot()`` draws the same.

    Parameters
    ----------
    history : History
        Of ``fit``.
    ax : matplotlib.axes.Axes, optional
        None: a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Examples
    --------
    >>> import fastnn as fn
    >>> from fastnn import plots
    >>> net = fn.Sequential([fn.Dense(1)])
    >>> ax = plots.losses(net.fit([[0.0], [1.0], [2.0]], [1.0, 3.0, 5.0], "mse", epochs=5))
    >>> ax.set_yscale("log")
    """
    check_axes("ax", ax)
    check_kind("history", history, History)
    ax = new(ax, 5.5, 3.6)
    marker = "o" if len(history.epochs) == 1 else None  # one point makes no line
    ax.plot(history.epochs, history.loss, color=BLUE, marker=marker, label="training")
    if history.val_loss:
        ax.plot(history.epochs, history.val_loss, color=VERMILLION, linestyle="--", marker=marker, label="validation")
    ax.set(xlabel="epoch", ylabel="loss")
    _whole_numbers(ax)
    legend_between_curves(ax)
    return ax


def gradient_norms(
    net: Sequential, X: ArrayLike, y: ArrayLike, loss: str | Loss, ax: Axes | None = None, label: str | None = None
) -> Axes:
    """The Euclidean norm of the loss's gradient with respect to each layer's weights, on a logarithmic scale.

    Where it falls by a factor with each layer towards the input, gradients vanish (Hochreiter 1991), and the first
    layers hardly learn. Networks can be compared in the same axes.

    Parameters
    ----------
    net : Sequential
        With at least one `Dense` layer.
    X, y, loss
        As for `Sequential.loss_and_gradients`, in inference mode.
    ax : matplotlib.axes.Axes, optional
        None: a new figure.
    label : str, optional
        The network's name in the legend.

    Returns
    -------
    matplotlib.axes.Axes

    References
    ----------
    Hochreiter (1991), Untersuchungen zu dynamischen neuronalen Netzen, diploma thesis, TU München; Glorot and Bengio
    (2010), Understanding the difficulty of training deep feedforward neural networks, AISTATS, PMLR 9, 249-256.

    Examples
    --------
    >>> import fastnn as fn
    >>> from fastnn import plots
    >>> net = fn.Sequential([fn.Dense(4, "sigmoid"), fn.Dense(4, "sigmoid"), fn.Dense(1)], n_inputs=2)
    >>> ax = plots.gradient_norms(net, [[0.0, 1.0], [1.0, 0.0]], [1.0, 2.0], "mse")
    >>> len(ax.lines[0].get_ydata())
    3
    """
    check_axes("ax", ax)
    check_kind("net", net, Sequential)
    if label is not None and not isinstance(label, str):
        raise TypeError(f"label must be a text or None, got {_checks.describe(label)}")
    _, gradients = net.loss_and_gradients(X, y, loss)
    if not any(g.ndim == 2 for g in gradients.values()):
        raise ValueError(f"net must have a Dense layer, got {net!r}")
    # In float64: squares of what has nearly vanished are zero in float32.
    norms = [np.linalg.norm(g.astype(np.float64)) for g in gradients.values() if g.ndim == 2]
    ax = new(ax, 5.5, 3.6)
    layers = np.arange(1, len(norms) + 1)
    style: Any = {"color": COLOURS[len(ax.lines) % len(COLOURS)], "marker": MARKERS[len(ax.lines) % len(MARKERS)]}
    ax.plot(layers, norms, label=label, **style)
    ax.set(xlabel="layer", ylabel=r"gradient norm $\|\partial L / \partial W\|$")
    if any(norms):
        ax.set_yscale("log")
    _whole_numbers(ax)
    if label is not None:
        legend_between_curves(ax)
    return ax


def _whole_numbers(ax: Axes) -> None:
    """Ticks for layers and epochs."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _curve(ax: Axes, function: Callable[[Any], NDArray[Any]], low: float, high: float, **style: Any) -> None:
    """The graph of a function, interrupted where it jumps."""
    x = np.linspace(low, high, _POINTS)
    with np.errstate(all="ignore"):
        y = function(x)
        left, right = _halve(function, x)
        below, above = function(left), function(right)
        jumps = np.flatnonzero(np.abs(above - below) > 1e-6 * (1 + np.nanmax(y) - np.nanmin(y)))
    gap = np.full(len(jumps), np.nan)
    at = np.repeat(jumps + 1, 3)
    x = np.insert(x, at, np.stack([left[jumps], gap, right[jumps]], axis=1).ravel())
    y = np.insert(y, at, np.stack([below[jumps], gap, above[jumps]], axis=1).ravel())
    ax.plot(x, y, linewidth=2, **style)
    for i in jumps:
        # The jump is at one of two neighbouring numbers, or at the 0 between them: at the one with the fewest digits.
        place = min([left[i], right[i], *([0.0] if left[i] < 0 < right[i] else [])], key=lambda z: len(repr(float(z))))
        value = function([place])[0]
        for limit in {below[i], above[i]} - {value}:
            ax.plot(place, limit, "o", color=style["color"], markerfacecolor="white", zorder=3)
        ax.plot(place, value, "o", color=style["color"], zorder=3)


def _halve(function: Callable[[Any], NDArray[Any]], x: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Between each two points, two neighbouring ones between which the function changes most, found by bisection."""
    left, right = x[:-1].copy(), x[1:].copy()
    for _ in range(64):
        middle = (left + right) / 2
        y = function(middle)
        first = np.abs(y - function(left)) > np.abs(function(right) - y)
        left, right = np.where(first, left, middle), np.where(first, middle, right)
    return left, right
