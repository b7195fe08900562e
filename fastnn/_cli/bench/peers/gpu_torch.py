"""PyTorch on a GPU: eager, compiled, and as a CUDA graph, each in float32, tf32 and bf16."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastnn._cli.bench.gpu.timing import seconds_of_torch
from fastnn._cli.bench.peers import Peer, UnavailableError, in_precision
from fastnn._cli.bench.peers.with_torch import LOSSES, make_model, make_optimizer, make_step
from fastnn._cli.bench.workloads import Case

_WARM_UP = 3  # steps before a graph is captured


class TorchCuda(Peer):
    """Eager, with fused optimizers, over tensors that lie on the GPU.

    bf16 is PyTorch's own way of it: autocast around parameters in float32.
    """

    packages = ("torch",)
    on_one_core = False

    def __init__(self, case: Case):
        super().__init__(case)
        if not torch.cuda.is_available():
            raise UnavailableError("this PyTorch has no CUDA")
        work = case.workload
        self._model = make_model(case).cuda()
        self._start = [torch.tensor(part.T).cuda() for layer in case.weights for part in layer]
        self._x = torch.from_numpy(case.x).cuda()
        self._xs = self._x.split(work.rows)
        self._ys = torch.from_numpy(case.y).cuda().split(work.rows)
        self._set_precision()
        self._reset()
        if work.loss is None:
            self._call = self._wrap(self._outputs)
        else:
            self._loss = LOSSES[work.loss]()
            self._call = self._wrap(self._loss_of)

    def _set_precision(self) -> None:
        torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()

    def _outputs(self, x: Any) -> Any:
        with self._autocast():
            return self._model(x)

    def _loss_of(self, x: Any, y: Any) -> Any:
        with self._autocast():
            return self._loss(self._model(x), y)

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return function

    def _reset(self) -> None:
        with torch.no_grad():
            for parameter, value in zip(self._model.parameters(), self._start, strict=True):
                parameter.copy_(value)

    def _begin(self) -> Callable[[Any, Any], Any]:
        """A step from the initial weights: takes a batch, returns its loss."""
        self._set_precision()
        self._reset()
        return make_step(make_optimizer(self.case, self._model), self._call)

    def losses(self, n: int) -> NDArray[Any]:
        step, batches = self._begin(), self.case.workload.batches
        return np.array([step(self._xs[k % batches], self._ys[k % batches]).item() for k in range(n)])

    def train(self, passes: int) -> float:
        step = self._begin()

        def work() -> None:
            for _ in range(passes):
                for x, y in zip(self._xs, self._ys, strict=True):
                    step(x, y)

        return seconds_of_torch(work)

    def outputs(self) -> NDArray[Any]:
        self._set_precision()
        with torch.inference_mode():
            found: NDArray[Any] = self._call(self._x).float().cpu().numpy()
        return found

    def predict(self, calls: int) -> float:
        self._set_precision()

        def work() -> None:
            with torch.inference_mode():
                for _ in range(calls):
                    self._call(self._x)

        return seconds_of_torch(work)


class TorchCudaCompile(TorchCuda):
    """Model and loss through ``torch.compile``; the optimizer is the fused one of the eager peer."""

    def _wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        torch.compiler.reset()  # each workload gets code for its own shapes
        compiled: Callable[..., Any] = torch.compile(function, dynamic=False)
        return compiled


class TorchCudaGraphs(TorchCuda):
    """A whole step, forwards, backwards and update, captured once and replayed; each batch is copied to its place."""

    def __init__(self, case: Case):
        super().__init__(case)
        self._graph = torch.cuda.CUDAGraph()
        if not case.workload.trains:
            self._capture_outputs()
        else:
            self._batch = self._xs[0].clone(), self._ys[0].clone()
            self._capture_step()

    def _capture_outputs(self) -> None:
        with torch.inference_mode():
            self._beside(lambda: self._outputs(self._x))
            with torch.cuda.graph(self._graph):
                self._found = self._outputs(self._x)
        self._call = self._replayed

    def _replayed(self, x: Any) -> Any:
        self._graph.replay()
        return self._found

    def _capture_step(self) -> None:
        # Steps are counted on the GPU: the host takes no part in a replay.
        more = {"capturable": True} if self.case.workload.optimizer == "adam" else {}
        self._learner = make_optimizer(self.case, self._model, **more)

        def step() -> Any:
            self._learner.zero_grad(set_to_none=True)
            loss = self._loss_of(*self._batch)
            loss.backward()
            self._learner.step()
            return loss

        self._beside(step)
        self._learner.zero_grad(set_to_none=True)
        with torch.cuda.graph(self._graph):
            self._found = step()

    @staticmethod
    def _beside(work: Callable[[], Any]) -> None:
        """Warm up on another stream, as capturing asks for."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(stream)

    def _begin(self) -> Callable[[Any, Any], Any]:
        self._reset()
        for state in self._learner.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):
                    value.zero_()
        x_place, y_place = self._batch

        def step(x: Any, y: Any) -> Any:
            x_place.copy_(x)
            y_place.copy_(y)
            self._graph.replay()
            return self._found

        return step


TorchTF32, TorchBF16 = in_precision(TorchCuda, "tf32"), in_precision(TorchCuda, "bf16")
CompileTF32, CompileBF16 = in_precision(TorchCudaCompile, "tf32"), in_precision(TorchCudaCompile, "bf16")
GraphsTF32, GraphsBF16 = in_precision(TorchCudaGraphs, "tf32"), in_precision(TorchCudaGraphs, "bf16")
