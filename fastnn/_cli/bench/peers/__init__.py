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
# The same for float32 numbers whose products are computed in another precision: some roundings of 2**-11 or 2**-9 in
# one after the other layer, and 20 steps with them.
PRODUCT_TOLERANCE = {"tf32": 1e-2, "bf16": 5e-2}


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
    precision: ClassVar[str] = "float32"  # of the products, on a GPU

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
        """Losses of the first n batches, each before its step, (n,) or, of several networks, (n, networks)."""

    @abstractmethod
    def train(self, passes: int) -> float:
        """Seconds of so many passes over all batches; starts from the initial weights, which is not timed."""

    @abstractmethod
    def outputs(self) -> NDArray[Any]:
        """Outputs for all rows, (n, n_out)."""

    @abstractmethod
    def predict(self, calls: int) -> float:
        """Seconds of so many calls that predict all rows."""


def in_precision(kind: type[Peer], precision: str) -> type[Peer]:
    """A peer's variant for a GPU whose products are computed in tf32 or bf16."""
    tolerance = {"float32": PRODUCT_TOLERANCE[precision]}
    return type(f"{kind.__name__}_{precision}", (kind,), {"precision": precision, "tolerance": tolerance})


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

_GPU_PLACES = {
    OWN: ("gpu_own", "FastnnCuda"),
    "fastnn-tf32": ("gpu_own", "FastnnTF32"),
    "fastnn-bf16": ("gpu_own", "FastnnBF16"),
    "torch": ("gpu_torch", "TorchCuda"),
    "torch-tf32": ("gpu_torch", "TorchTF32"),
    "torch-bf16": ("gpu_torch", "TorchBF16"),
    "torch-compile": ("gpu_torch", "TorchCudaCompile"),
    "torch-compile-tf32": ("gpu_torch", "CompileTF32"),
    "torch-compile-bf16": ("gpu_torch", "CompileBF16"),
    "torch-graphs": ("gpu_torch", "TorchCudaGraphs"),
    "torch-graphs-tf32": ("gpu_torch", "GraphsTF32"),
    "torch-graphs-bf16": ("gpu_torch", "GraphsBF16"),
    "torch-vmap": ("gpu_torch", "TorchCudaVmap"),
    "torch-vmap-graphs": ("gpu_torch", "TorchCudaVmapGraphs"),
}
GPU_NAMES = tuple(_GPU_PLACES)


def load(name: str) -> type[Peer]:
    """The class of a peer; raises ``UnavailableError`` where its library cannot be imported."""
    return _imported(name, *_PLACES[name])


def load_gpu(name: str) -> type[Peer]:
    """The class of a peer on a GPU; raises ``UnavailableError`` where its library cannot be imported."""
    return _imported(name, *_GPU_PLACES[name])


def _imported(name: str, module: str, kind: str) -> type[Peer]:
    try:
        found: type[Peer] = getattr(importlib.import_module(f"{__name__}.{module}"), kind)
    except ModuleNotFoundError as error:
        raise UnavailableError(f"{(error.name or name).partition('.')[0]} is not installed") from error
    except ImportError as error:
        raise UnavailableError(f"cannot be imported: {error}") from error
    return found
