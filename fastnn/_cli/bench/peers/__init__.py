"""The libraries that fastnn is measured against: each in a module of its own, which is imported when it is asked for.

All peers get the same initial weights, the same preloaded batches in the same order, one thread, and the fastest way
that their documentation offers.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, ClassVar

from numpy.typing import NDArray

from fastnn._cli.bench.workloads import Case

OWN = "fastnn"
N_LOSSES = 20
# Largest relative difference to fastnn's losses, or of outputs to the largest output.
TOLERANCE = {"float32": 1e-3, "float64": 1e-6}


class UnavailableError(Exception):
    """This peer is not here, or cannot do this workload; the message says why."""


class Peer(ABC):
    """One library with one workload.

    Parameters
    ----------
    case : Case

    Raises
    ------
    UnavailableError
        If the library does not have what the case asks for.
    """

    packages: ClassVar[tuple[str, ...]]
    tolerance: ClassVar[Mapping[str, float]] = TOLERANCE
    on_one_core: ClassVar[bool] = True

    def __init__(self, case: Case):
        self.case = case

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Versions of the installed packages that do the work."""
        return {name: metadata.version(name) for name in cls.packages}

    @staticmethod
    def product(a: NDArray[Any], b: NDArray[Any]) -> Callable[[], Any] | None:
        """A function that computes ``a @ b`` on one thread, None where the library has no product of its own."""
        return None

    def answers(self) -> NDArray[Any]:
        """What must equal fastnn's: losses of the first 20 steps, or the outputs."""
        return self.losses(N_LOSSES) if self.case.workload.trains else self.outputs()

    def run(self, passes: int) -> float:
        """Seconds of so many passes over the batches, from the initial weights; or of so many calls that predict."""
        return self.train(passes) if self.case.workload.trains else self.predict(passes)

    @abstractmethod
    def losses(self, n: int) -> NDArray[Any]:
        """Losses of the first n batches, each before its step, (n,)."""

    @abstractmethod
    def train(self, passes: int) -> float:
        """Seconds of so many passes over all batches; starts from the initial weights, which is not timed."""

    @abstractmethod
    def outputs(self) -> NDArray[Any]:
        """Outputs for all rows, (n, n_out)."""

    @abstractmethod
    def predict(self, calls: int) -> float:
        """Seconds of so many calls that predict all rows."""


# Name, and module and class beside this file; the order is that of the report.
_PLACES = {
    OWN: ("own", "Fastnn"),
    "fastnn-threads": ("own", "FastnnThreads"),
    "torch": ("with_torch", "Torch"),
    "torch-compile": ("with_torch", "TorchCompile"),
    "torch-threads": ("with_torch", "TorchThreads"),
    "jax": ("with_jax", "Jax"),
    "scikit-learn": ("with_sklearn", "ScikitLearn"),
    "onnxruntime": ("with_onnx", "OnnxRuntime"),
}
NAMES = tuple(_PLACES)


def load(name: str) -> type[Peer]:
    """The class of a peer; raises ``UnavailableError`` where its library cannot be imported."""
    module, kind = _PLACES[name]
    try:
        found: type[Peer] = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    except ModuleNotFoundError as error:
        raise UnavailableError(f"{(error.name or name).partition('.')[0]} is not installed") from error
    except ImportError as error:
        raise UnavailableError(f"cannot be imported: {error}") from error
    return found
