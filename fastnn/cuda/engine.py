"""The CUDA engine: parameters in the memory of a GPU, and what is asked of them.

Its methods are those of `fastnn.cpu.engine.Engine`; the arrays that they take and return lie on the device.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from fastnn._objective import Objective
from fastnn.cuda import kernels, streams, table
from fastnn.cuda._jit import SIMULATED, capability, cuda
from fastnn.cuda.passes import Batch, Device, Passes
from fastnn.cuda.predictor import Predictor
from fastnn.cuda.training import Training
from fastnn.optimizers import Optimizer
from fastnn.plan import Plan


def missing() -> str | None:
    """What is missing for computing on a GPU, or None."""
    if SIMULATED:
        return None
    try:
        cuda.current_context()
    except Exception as error:  # drivers fail in many ways, which all mean this
        said = " ".join(str(error).split()) or type(error).__name__
        return f"it needs an NVIDIA GPU and its driver (nvidia-smi shows what is there); {said}"
    return None


def lacking() -> str | None:
    """What the current device lacks for products of rounded operands, or None."""
    major, minor = capability()
    if major < 8:
        return f"a GPU of compute capability 8.0 or later, this one has {major}.{minor}"
    return None


class _Prepared(threading.local):
    """What a thread has prepared for questions about an objective, for the next one like it.

    Training asks for the loss of its validation data, or for gradients, again and again. A question of another kind has
    passes of its own, and each kind those of the last objective alone, while that lives: they hold its data.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[bool, int], tuple[Any, int, list[tuple[Passes, Any]]]] = {}

    def of(self, device: Device, objective: Objective, training: bool, asks: int) -> tuple[Passes, Any]:
        """Passes over all rows as one batch, and a schedule of one row."""
        kind, stream = (training, asks), streams.address(streams.current())
        last, its_stream, made = self._kept.get(kind, (None, 0, []))
        if last is None or last() is not objective or its_stream != stream:
            n = objective.x.shape[0]
            passes = Passes(device, objective, n, training, asks)
            made = [(passes, passes.schedule(np.zeros((1, 1)), np.array([n])))]
            self._kept[kind] = weakref.ref(objective, _clearing(made)), stream, made
        return made[0]


def _clearing(made: list[Any]) -> Callable[[Any], None]:
    return lambda gone: made.clear()


class Engine:
    """Runs one network on the current CUDA device.

    Parameters
    ----------
    plan : Plan
    theta : ndarray, (n_parameters,)
        The parameters, copied to the device.
    running : ndarray, (n_buffers,)
        Running statistics, copied to the device.
    precision : {None, "tf32", "bf16", "fp16"}
        Operands of matrix products are rounded to it, for tensor cores; sums and all else stay in float32.

    Attributes
    ----------
    state : device array, (n_parameters + n_buffers + 1,)
        Parameters, then running means and variances; one number more, because no array may be empty.
    """

    def __init__(self, plan: Plan, theta: np.ndarray, running: np.ndarray, precision: str | None = None):
        self.plan, self.dtype = plan, theta.dtype
        self._device = Device(plan, theta.dtype, precision)
        self._predictor: Predictor | None = None
        self._prepared = _Prepared()
        self.state = streams.to_device(self._joined(theta, running))

    @classmethod
    def of_state(cls, device: Device, state: Any) -> Engine:
        """An engine over a network's parameters and running statistics that lie on the device already."""
        made = cls.__new__(cls)
        made.plan, made.dtype, made._device = device.plan, device.dtype, device
        made._predictor, made._prepared, made.state = None, _Prepared(), state
        return made

    @staticmethod
    def _joined(theta: np.ndarray, running: np.ndarray) -> np.ndarray:
        return np.concatenate([theta, running, np.zeros(1, theta.dtype)])

    @property
    def parameters(self) -> Any:
        """The parameters, a view of ``state``."""
        return self.state[: self.plan.n_parameters]

    @property
    def running(self) -> Any:
        """The running statistics, a view of ``state``."""
        begin = self.plan.n_parameters
        return self.state[begin : begin + self.plan.n_buffers]

    def pull(self, theta: np.ndarray, running: np.ndarray) -> None:
        """Copy parameters and running statistics to the host."""
        self._device.check_current()
        held = streams.to_host(self.state)
        theta[:] = held[: theta.size]
        running[:] = held[theta.size : theta.size + running.size]

    def push(self, theta: np.ndarray, running: np.ndarray) -> None:
        """Copy parameters and running statistics to the device."""
        self._device.check_current()
        self.state.copy_to_device(self._joined(theta, running), stream=streams.current())

    def predict(self, x: Any, threads: int = 1) -> Any:
        """Values of the output layer, (n, n_outputs); the GPU's threads are not counted."""
        self._device.check_current()
        if self._predictor is None:
            self._predictor = Predictor(self._device)
        return self._predictor.run(self.state, x)

    def evaluate(self, objective: Objective) -> float:
        """Mean loss over all rows in inference mode, without penalties."""
        return self._differentiate(objective, False, 0, 0)[0]

    def loss_and_gradients(self, objective: Objective, training: bool, key: int) -> tuple[float, np.ndarray]:
        """Mean loss with penalties, and its gradient in the layout of the parameters, on the host."""
        loss, gradient, _ = self._differentiate(objective, training, key, kernels.LEARNS)
        return loss, streams.to_host(gradient)

    def input_gradients(self, objective: Objective, training: bool, key: int) -> Any:
        """dLoss/dX, (n, n_inputs)."""
        return self._differentiate(objective, training, key, kernels.WANTS_DX)[2]

    def update_statistics(self, objective: Objective, key: int) -> None:
        """Let batch normalisation see all rows once, as a training step would."""
        if self.plan.n_buffers:
            self._differentiate(objective, True, key, 0, moves=True)

    def _differentiate(
        self, objective: Objective, training: bool, key: int, asks: int, moves: bool = False
    ) -> tuple[float, Any, Any]:
        self._device.check_current()
        n, plan, state, nothing = objective.x.shape[0], self.plan, self.state, self._device.nothing
        if training and plan.n_buffers and not moves:
            # A question about the loss must not move the running statistics.
            state = self._device.memory(state.size)
            state.copy_to_device(self.state, stream=streams.current())
        passes, schedule = self._prepared.of(self._device, objective, training, asks)
        if passes.weighted:
            passes.weigh(schedule, nothing, False, 0, n, 1)
        dx = streams.empty((n, plan.n_inputs), self.dtype) if asks & kernels.WANTS_DX else self._device.no_real
        batch = Batch(state, nothing, dx.reshape(dx.size), schedule, 0, passes.flags, 0, n, n, np.uint64(key))
        parts, n_losses = passes.derive(batch)
        if asks & kernels.LEARNS:
            passes.collect(batch, parts)
        losses = streams.to_host(passes.part(table.PARTIAL_LOSSES)[:n_losses])
        gradient = passes.part(table.GRADIENT)[: plan.n_parameters] if asks & kernels.LEARNS else None
        return float(losses.sum(dtype=self.dtype)), gradient, dx

    def training(self, objective: Objective, optimizer: Optimizer, batch_size: int, key: int) -> Training:
        """Prepare training steps over ``objective`` in batches of up to ``batch_size`` rows."""
        self._device.check_current()
        return Training(self._device, self.state, objective, optimizer, batch_size, key)
