"""What is measured: a table of networks with their batches, and the weights and data that every peer starts from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

ACTIVATIONS = ("relu", "tanh", "gelu")
DTYPES = ("float32", "float64")
_SEED = 0


@dataclass(frozen=True)
class Workload:
    """One line of the benchmark.

    Attributes
    ----------
    name : str
    widths : tuple of int
        Inputs, hidden units, outputs.
    hidden : str
        Activation of the hidden layers; the output's is the one that belongs to the loss.
    rows : int
        Rows of a training batch, or of one call that predicts.
    loss : str or None
        None: the workload predicts.
    optimizer : {"sgd", "adam", None}
    rate : float
        Learning rate.
    batches : int
        Batches in the data set, all of them in memory before a clock starts. As many as keep one pass over them below
        about a quarter of a second, and the data below 40 MB in float32.
    networks : int
        How many networks of these widths are trained, on the same batches; a step is one of each.
    """

    name: str
    widths: tuple[int, ...]
    hidden: str
    rows: int
    loss: str | None = None
    optimizer: str | None = None
    rate: float = 1e-3
    batches: int = 1
    networks: int = 1

    @property
    def trains(self) -> bool:
        """Whether it trains; else it predicts."""
        return self.loss is not None

    @property
    def flops(self) -> int:
        """Floating-point operations of the matrix products of one step, or of one call that predicts.

        A layer from i to o units takes 2 b i o of them for its outputs on b rows; in training as many again for the
        gradient of its weights, and, except in the first layer, as many for the gradient of its inputs.
        """
        products = [2 * self.rows * i * o for i, o in zip(self.widths, self.widths[1:], strict=False)]
        return self.networks * (3 * sum(products) - products[0] if self.trains else sum(products))

    def describe(self) -> str:
        """Network, activation, batch and optimizer, in one line."""
        shape = f"{'-'.join(map(str, self.widths))} {self.hidden}"
        if self.networks > 1:
            shape = f"{self.networks} networks {shape}"
        if not self.trains:
            return f"{shape}, predict {self.rows:,} {'rows' if self.rows > 1 else 'row'}"
        return f"{shape}, batch {self.rows:,}, {self.optimizer}, {self.loss}"


WORKLOADS = {
    each.name: each
    for each in (
        Workload("xor", (2, 8, 1), "tanh", 4, "binary_cross_entropy", "sgd", 0.1, batches=1000),
        Workload("20-64-64-1", (20, 64, 64, 1), "relu", 32, "mse", "adam", batches=200),
        Workload("784-128-10", (784, 128, 10), "relu", 32, "cross_entropy", "adam", batches=200),
        Workload("784-128-10-sgd", (784, 128, 10), "relu", 128, "cross_entropy", "sgd", 0.01, batches=80),
        Workload("784-512-512-10", (784, 512, 512, 10), "relu", 128, "cross_entropy", "adam", batches=40),
        Workload("17-256-256-6", (17, 256, 256, 6), "relu", 256, "mse", "adam", batches=100),
        Workload("4-32-16-4", (4, 32, 16, 4), "tanh", 10_000, "mse", "adam", batches=40),
        Workload("predict-100000", (20, 64, 64, 1), "relu", 100_000),
        Workload("predict-1000", (20, 64, 64, 1), "relu", 1000),
        Workload("predict-1", (20, 64, 64, 1), "relu", 1),
    )
}


@dataclass(frozen=True)
class Case:
    """A workload in one dtype, with its numbers.

    Attributes
    ----------
    workload : Workload
    dtype : str
    weights : list of (ndarray (n_in, n_out), ndarray (n_out,))
        Initial weights and biases of each layer, of the first network.
    starts : list of list of (ndarray, ndarray)
        The same for each network.
    x : ndarray, (batches * rows, n_in)
    y : ndarray
        Labels (n,) of int64 for cross-entropy, else numbers (n, n_out).
    """

    workload: Workload
    dtype: str
    starts: list[list[tuple[NDArray[Any], NDArray[Any]]]]
    x: NDArray[Any]
    y: NDArray[Any]

    @property
    def weights(self) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        return self.starts[0]


def make_case(workload: Workload, dtype: str = "float32", activation: str | None = None) -> Case:
    """Draw weights and data; ``activation`` takes the place of the workload's own hidden one."""
    if activation is not None:
        workload = replace(workload, hidden=activation)
    rng = np.random.default_rng(_SEED)
    layers = list(zip(workload.widths, workload.widths[1:], strict=False))
    starts = [[_draw_layer(i, o, dtype, rng) for i, o in layers] for _ in range(workload.networks)]
    n, n_out = workload.batches * workload.rows, workload.widths[-1]
    if workload.loss == "binary_cross_entropy":
        x = np.tile(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype), (n // 4, 1))
        y = x.sum(axis=1, keepdims=True) % 2
    else:
        x = rng.standard_normal((n, workload.widths[0]), np.float32).astype(dtype)
        y = rng.standard_normal((n, n_out), np.float32).astype(dtype)
    if workload.loss == "cross_entropy":
        y = rng.integers(0, n_out, n)
    return Case(workload, dtype, starts, x, y)


def _draw_layer(i: int, o: int, dtype: str, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    limit = (6 / (i + o)) ** 0.5  # Glorot and Bengio (2010)
    weight, bias = (rng.uniform(-limit, limit, shape).astype(dtype) for shape in ((i, o), (o,)))
    return weight, bias
