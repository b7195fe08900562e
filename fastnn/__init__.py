"""fastnn: feed-forward neural networks whose hot loops are Numba kernels.

>>> import fastnn as fn
>>> net = fn.Sequential([fn.Dense(64, "relu"), fn.Dense(10, "softmax")], n_inputs=64)
>>> net.n_parameters
4810
"""

from importlib import import_module
from types import ModuleType

from fastnn import activations, callbacks, initializers, losses, metrics, optimizers, schedules
from fastnn.io import load
from fastnn.layers import Activation, BatchNorm, Dense, Dropout, LayerNorm, Residual
from fastnn.network import Sequential
from fastnn.optimizers import (
    LBFGS,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    Nadam,
    RAdam,
    RMSprop,
    Rprop,
)
from fastnn.population import Population
from fastnn.training import DivergenceError, History

__version__ = "0.1.0"

# Rooms that need more than the core, or more time to import: `fastnn.jit` is there without an import of its own.
_ON_DEMAND = {"cuda", "data", "gates", "jit", "neurons", "plots", "sklearn"}

__all__ = [
    "LBFGS",
    "SGD",
    "Activation",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "BatchNorm",
    "Dense",
    "DivergenceError",
    "Dropout",
    "History",
    "LayerNorm",
    "Lion",
    "Nadam",
    "Population",
    "RAdam",
    "RMSprop",
    "Residual",
    "Rprop",
    "Sequential",
    "activations",
    "callbacks",
    "initializers",
    "load",
    "losses",
    "metrics",
    "optimizers",
    "schedules",
]


def __getattr__(name: str) -> ModuleType:
    if name in _ON_DEMAND:
        return import_module(f"fastnn.{name}")
    raise AttributeError(f"module 'fastnn' has no attribute {name!r}")
