"""``python -m fastnn demo``: a small network learns to read handwritten digits."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastnn as fn
from fastnn._cli import drawing
from fastnn.data import load_digits

HELD_OUT = 360
SPLIT_SEED = 0
BATCH = 32
CLASSES = 10
_MISREAD_COLUMNS = 6


class Digits(NamedTuple):
    """Images (n, 64) with ink from 0 to 1, and their digits (n,)."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]


class Result(NamedTuple):
    """The held-out images as the trained network reads them."""

    digits: Digits
    scores: NDArray[np.float32]  # (n, 10)
    history: fn.History

    @property
    def read(self) -> NDArray[np.int64]:
        return self.scores.argmax(axis=1)

    @property
    def misread(self) -> NDArray[np.int64]:
        """Numbers of the wrong ones, those the network was surest of first."""
        wrong = np.flatnonzero(self.read != self.digits.y)
        return wrong[np.argsort(-self.scores[wrong].max(axis=1), kind="stable")]


def split() -> tuple[Digits, Digits]:
    """Images to learn from, and 360 others drawn by a fixed seed: the same ones whatever ``--seed`` says."""
    x, y = load_digits()
    x /= 16
    order = np.random.default_rng(SPLIT_SEED).permutation(len(y))
    held, learn = order[:HELD_OUT], order[HELD_OUT:]
    return Digits(x[learn], y[learn]), Digits(x[held], y[held])


def make_network(seed: int) -> fn.Sequential:
    """The demo's network."""
    hidden = [fn.Dense(256, "relu"), fn.Dropout(0.3), fn.Dense(128, "relu"), fn.Dropout(0.3)]
    return fn.Sequential([*hidden, fn.Dense(CLASSES, "softmax")], n_inputs=64, seed=seed)


def train(network: fn.Sequential, learn: Digits, held: Digits, epochs: int, progress: bool) -> fn.History:
    """Fit with Adam and a learning rate that falls along a cosine. The held-out images are only looked at."""
    steps = epochs * -(-len(learn.y) // BATCH)
    optimizer = fn.Adam(fn.schedules.Cosine(3e-3, steps=steps))
    return network.fit(
        learn.x, learn.y, loss="cross_entropy", optimizer=optimizer, epochs=epochs, batch_size=BATCH,
        validation_data=held, progress=progress,
    )  # fmt: skip


def run(seed: int, epochs: int, plot: Path | None) -> int:
    """Train, and print what came of it; returns the exit status."""
    if plot is not None:
        problem = _plot_problem(plot)
        if problem:
            print(f"python -m fastnn demo: error: {problem}", file=sys.stderr)
            return 2
    learn, held = split()
    network = make_network(seed)
    print(f"fastnn {fn.__version__} reads handwritten digits (UCI, {len(learn.y) + len(held.y):,} images of 8 x 8)\n")
    _say("data", f"{len(learn.y):,} images to learn from, {len(held.y)} held out (drawn by a fixed seed)")
    _say("network", f"64 inputs, {_describe(network)}; {network.n_parameters:,} parameters, {network.dtype}")
    begin = time.perf_counter()
    rehearsal = network.copy()
    train(rehearsal, learn, held, epochs=1, progress=False)
    rehearsal.predict(held.x)
    _say("kernels", f"ready after {time.perf_counter() - begin:.2f} s (compiled, or loaded from the cache)")
    begin = time.perf_counter()
    history = train(network, learn, held, epochs, progress=sys.stderr.isatty() and os.environ.get("TERM") != "dumb")
    seconds = time.perf_counter() - begin
    result = Result(held, network.predict(held.x), history)
    right = len(held.y) - len(result.misread)
    _say("training", f"{seconds:.2f} s for {epochs} {'epochs' if epochs > 1 else 'epoch'}, Adam, batches of {BATCH}")
    _say("accuracy", f"{100 * right / len(held.y):.1f} % on the held-out images: {right} of {len(held.y)} read right\n")
    print("\n".join(drawing.confusion_table(fn.metrics.confusion_matrix(held.y, result.scores))))
    print("\n" + "\n".join(_draw_misread(result)))
    if plot is not None:
        _plot(result, plot)
        print(f"\nplot written to {plot}")
    return 0


def _say(what: str, text: str) -> None:
    print(f"{what:<10}{text}", flush=True)


def _describe(network: fn.Sequential) -> str:
    parts = []
    for layer in network.layers:
        if isinstance(layer, fn.Dense):
            parts.append(f"{layer.units} {layer.activation.name}")
    return ", ".join(parts)


def _captions(result: Result, which: NDArray[np.int64]) -> list[tuple[str, str]]:
    return [(f"{result.digits.y[i]} read as {result.read[i]}", f"{result.scores[i].max():.0%} sure") for i in which]


def _draw_misread(result: Result) -> list[str]:
    """The first misread digits in a row, with the network's confidence."""
    shades = drawing.ASCII_SHADES if drawing.is_plain() else drawing.SHADES
    if not len(result.misread):
        return ["No held-out image is misread."]
    cell = 16  # characters a digit
    fitting = max(1, min((drawing.width() + 2) // (cell + 2), _MISREAD_COLUMNS))
    which = result.misread[:fitting]
    pixels = result.digits.x[which].reshape(-1, 8, 8)
    blocks = [
        [*drawing.image(p, shades), *(line.center(cell) for line in caption)]
        for p, caption in zip(pixels, _captions(result, which), strict=True)
    ]
    heading = f"Misread images ({len(which)} of {len(result.misread)}), those it was surest of first:"
    return [heading, "", *drawing.beside(blocks)]


def _plot_problem(path: Path) -> str | None:
    """Why no plot can be written there, known before training begins."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "--plot needs matplotlib: pip install 'fastnn-numba[plot]' (in a checkout: pip install '.[plot]')"
    formats = Figure().canvas.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in formats:
        return (
            f"--plot takes a file that ends in one of {', '.join(f'.{k}' for k in sorted(formats))}, got {str(path)!r}"
        )
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        return f"--plot cannot write {str(path)!r}: {'it is a folder' if path.is_dir() else 'no such writable folder'}"
    return None


def _plot(result: Result, path: Path) -> None:
    """Loss curves, confusion matrix and misread digits in one picture."""
    from matplotlib.figure import Figure

    which = result.misread[:_MISREAD_COLUMNS]
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.4, 1))
    top, bottom = parts
    curves, matrix = top.subplots(1, 2)
    result.history.plot(curves)
    curves.legend(["training images", "held-out images"])
    curves.set(yscale="log", ylabel="cross-entropy", title="loss")
    _plot_confusion(matrix, fn.metrics.confusion_matrix(result.digits.y, result.scores))
    heading = f"misread images ({len(which)} of {len(result.misread)})" if len(which) else "no image is misread"
    bottom.suptitle(heading, x=0.01, ha="left")
    if len(which):
        cells: Any = bottom.subplots(1, _MISREAD_COLUMNS)
        for axes in cells:
            axes.axis("off")
        for axes, i, caption in zip(cells, which, _captions(result, which), strict=False):
            axes.imshow(result.digits.x[i].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            axes.set_title(", ".join(caption), fontsize="medium")
    figure.savefig(path, dpi=120)


def _plot_confusion(axes: Any, counts: NDArray[Any]) -> None:
    axes.imshow(counts, cmap="Blues")
    for (row, column), n in np.ndenumerate(counts.astype(int)):
        if n:
            colour = "white" if n > counts.max() / 2 else "black"
            axes.text(column, row, str(n), ha="center", va="center", color=colour, fontsize="small")
    ticks = range(len(counts))
    axes.set(xticks=ticks, yticks=ticks, xlabel="read as", ylabel="true digit", title="confusion matrix")
