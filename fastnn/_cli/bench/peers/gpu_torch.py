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
        self._parameters = list(self._model.parameters())
        # Several networks are trained one after the other, each from its own start.
        self._starts = [[torch.tensor(part.T).cuda() for w in start for part in w] for start in case.starts]
        self._stack()
        self._x = torch.from_numpy(case.x).cuda()
        self._xs = self._x.split(work.rows)
        self._ys = torch.from_numpy(case.y).cuda().split(work.rows)
        self._set_precision()
        self._reset(self._starts[0])
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

    def _stack(self) -> None:
        """Where networks are trained at once: make one set of parameters, and one start, of all."""

    def _reset(self, start: list[Any]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self._parameters, start, strict=True):
                parameter.copy_(value)

    def _backward(self, loss: Any) -> None:
        loss.backward()

    def _begin(self, start: list[Any]) -> Callable[[Any, Any], Any]:
        """A step from the initial weights: takes a batch, returns its loss."""
        self._set_precision()
        self._reset(start)
        return make_step(make_optimizer(self.case, self._parameters), self._call, self._backward)

    def losses(self, n: int) -> NDArray[Any]:
        batches, found = self.case.workload.batches, []
        for start in self._starts:
            step = self._begin(start)
            found.append([step(self._xs[k % batches], self._ys[k % batches]).tolist() for k in range(n)])
        return np.array(found).T if len(found) > 1 else np.array(found[0])

    def train(self, passes: int) -> float:
        def work() -> None:
            for _ in range(passes):
                for x, y in zip(self._xs, self._ys, strict=True):
                    step(x, y)

        seconds = 0.0
        for start in self._starts:
            step = self._begin(start)
            seconds += seconds_of_torch(work)
        return seconds

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
        self._learner = make_optimizer(self.case, self._parameters, **more)

        def step() -> Any:
            self._learner.zero_grad(set_to_none=True)
            loss = self._loss_of(*self._batch)
            self._backward(loss)
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

    def _begin(self, start: list[Any]) -> Callable[[Any, Any], Any]:
        self._reset(start)
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


class _Vmap(TorchCuda):
    """Networks trained at once: their parameters stacked, ``torch.func.vmap`` over these, and one optimizer.

    It computes element by element what those of the networks would.
    """

    def __init__(self, case: Case):
        if case.workload.networks == 1:
            raise UnavailableError("trains several networks at once")
        super().__init__(case)

    def _stack(self) -> None:
        self._names = [name for name, _ in self._model.named_parameters()]
        self._starts = [[torch.stack(parts) for parts in zip(*self._starts, strict=True)]]
        self._parameters = [torch.empty_like(part).requires_grad_() for part in self._starts[0]]

    def _loss_of(self, x: Any, y: Any) -> Any:
        def one(parameters: dict[str, Any]) -> Any:
            return self._loss(torch.func.functional_call(self._model, parameters, (x,)), y)

        return torch.func.vmap(one)(dict(zip(self._names, self._parameters, strict=True)))

    def _backward(self, loss: Any) -> None:
        loss.sum().backward()


class TorchCudaVmap(_Vmap):
    """Eager."""


class TorchCudaVmapGraphs(_Vmap, TorchCudaGraphs):
    """A whole step of all networks, captured once and replayed."""


TorchTF32, TorchBF16 = in_precision(TorchCuda, "tf32"), in_precision(TorchCuda, "bf16")
CompileTF32, CompileBF16 = in_precision(TorchCudaCompile, "tf32"), in_precision(TorchCudaCompile, "bf16")
GraphsTF32, GraphsBF16 = in_precision(TorchCudaGraphs, "tf32"), in_precision(TorchCudaGraphs, "bf16")
