"""What all pictures share: colours, markers, axes and legends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastnn import _checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, YELLOW = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442",
)  # fmt: skip
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, YELLOW)
MARKERS = "os^Dv*PX"
GREY = "0.55"


def check_axes(name: str, ax: Any) -> None:
    try:
        from matplotlib.axes import Axes
    except ImportError as error:
        raise ImportError("fastnn.plots needs matplotlib: pip install 'fastnn-numba[plot]'") from error
    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"{name} must be matplotlib axes or None, got {_checks.describe(ax)}")


def check_kind(name: str, value: Any, *kinds: type) -> None:
    if not isinstance(value, kinds):
        names = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name} must be a {names}, got {_checks.describe(value)}")


def new(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes, or those of a new figure of this size in inches; called when nothing can be refused any more."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def points(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in points, the unit of text."""
    box, scale = ax.get_window_extent(), 72 / ax.figure.dpi
    return box.width * scale, box.height * scale


def _legend_rows(ax: Axes, n_entries: int) -> int:
    at_most = max(1, int(points(ax)[0] // 80))  # side by side
    return -(-n_entries // at_most)


def legend_points(ax: Axes, n_entries: int) -> float:
    """The height of a legend of so many entries."""
    return 16.0 * _legend_rows(ax, n_entries) + 14


def legend_between_curves(ax: Axes) -> None:
    """A legend where it meets the fewest points; without a frame, so that it hides nothing, and well apart."""
    ax.legend(loc="best", frameon=False, borderpad=1.2, borderaxespad=0)


def legend_above(ax: Axes, entries: dict[str, Any]) -> None:
    """A legend at the upper edge, where the axes were made higher for it: it covers no data."""
    n = -(-len(entries) // _legend_rows(ax, len(entries)))
    ax.legend(
        list(entries.values()), list(entries), loc="upper center", ncols=n, handlelength=1.6, handletextpad=0.5,
        columnspacing=1.2, facecolor="white", labelcolor="black",
    )  # fmt: skip
