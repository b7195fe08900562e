"""PyTorch: eager with fused optimizers on one thread, compiled, and eager on all threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastnn._cli.bench import machine
from fastnn._cli.bench.peers import Peer, UnavailableError
from fastnn._cli.bench.workloads import Case

LOSSES = {
    "mse": torch.nn.MSELoss,
    "cross_entropy": torch.nn.CrossEntropyLoss,
    "binary_cross_entropy": torch.nn.BCEWithLogitsLoss,
}
_ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "gelu": torch.nn.GELU}


def make_model(case: Case) -> Any:
    """The network of a case, with weights of PyTorch's own."""
    work, nn = case.workload, torch.nn
    layers: list[Any] = []
    for i, o in zip(work.widths, work.widths[1:], strict=False):
        layers += [nn.Linear(i, o), _ACTIVATIONS[work.hidden]()]
    return nn.Sequential(*layers[:-1]).to(getattr(torch, case.dtype))


def make_optimizer(case: Case, parameters: Iterable[Any], **more: Any) -> Any:
    """The fused optimizer of a case's training."""
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[case.workload.optimizer or ""]
    return kind(parameters, lr=case.workload.rate, fused=True, **more)


def make_step(
    optimizer: Any, loss_of: Callable[[Any, Any], Any], backward: Callable[[Any], None] = torch.Tensor.backward
) -> Callable[[Any, Any], Any]:
    """An eager training step: takes a batch, returns its loss."""

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = loss_of(x, y)
        backward(loss)
        optimizer.step()
        return loss

    return step


class Torch(Peer):
    """Eager: ``zero_grad``, forward, ``backward``, fused ``step``, over tensors that are already there."""

    packages = ("torch",)
    n_threads = 1

    def __init__(self, case: Case):
        super().__init__(case)
        torch.set_num_threads(self.n_threads)
        work = case.workload
        self._model = make_model(case)
        self._start = [torch.tensor(part.T) for layer in case.weights for part in layer]
        self._reset()
        self._x = torch.from_numpy(case.x)
        self._xs = self._x.split(work.rows)
        self._ys = torch.from_numpy(case.y).split(work.rows)
        if work.loss is None:
            self._call = self._wrap(self._model)
        else:
            model, loss = self._model, LOSSES[work.loss]()
            self._call = self._wrap(lambda x, y: loss(model(x), y))

    @staticmethod
    def product(a: NDArray[Any], b: NDArray[Any]) -> Callable[[], Any]:
        left, right = torch.from_numpy(a), torch.from_numpy(b)
        out = left @ right

        def multiply() -> None:
            torch.set_num_threads(1)
            torch.mm(left, right, out=out)

        return multiply

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def _reset(self) -> None:
        with torch.no_grad():
            for parameter, value in zip(self._model.parameters(), self._start, strict=True):
                parameter.copy_(value)

    def _begin(self) -> Callable[[Any, Any], Any]:
        """A step from the initial weights: takes a batch, returns its loss."""
        torch.set_num_threads(self.n_threads)
        self._reset()
        return make_step(make_optimizer(self.case, self._model.parameters()), self._call)

    def losses(self, n: int) -> NDArray[Any]:
        step = self._begin()
        return np.array([step(x, y).item() for x, y in zip(self._xs[:n], self._ys[:n], strict=True)])

    def train(self, passes: int) -> float:
        step = self._begin()
        begin = time.perf_counter()
        for _ in range(passes):
            for x, y in zip(self._xs, self._ys, strict=True):
                step(x, y)
        return time.perf_counter() - begin

    def outputs(self) -> NDArray[Any]:
        torch.set_num_threads(self.n_threads)
        with torch.inference_mode():
            found: NDArray[Any] = self._call(self._x).numpy()
        return found

    def predict(self, calls: int) -> float:
        torch.set_num_threads(self.n_threads)
        call, x = self._call, self._x
        with torch.inference_mode():
            begin = time.perf_counter()
            for _ in range(calls):
                call(x)
            return time.perf_counter() - begin


class TorchCompile(Torch):
    """Model and loss through ``torch.compile``; the optimizer is the fused one of the eager peer."""

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        torch.compiler.reset()  # each workload gets code for its own shapes
        compiled: Callable[..., Any] = torch.compile(function, dynamic=False)
        return compiled


class TorchThreads(Torch):
    """Eager with a thread for each core."""

    on_one_core = False
    n_threads = machine.usable_cores()

    def __init__(self, case: Case):
        if self.n_threads == 1:
            raise UnavailableError("this process may use one core only")
        super().__init__(case)

    def run(self, passes: int) -> float:
        # Its threads start in the first call, and keep the cores that the starting thread has then.
        with machine.all_cores():
            seconds = super().run(passes)
        time.sleep(0.02)  # they spin for some milliseconds after a product: not beside the next peer
        return seconds
