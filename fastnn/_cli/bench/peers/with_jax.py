"""JAX: a whole pass over the batches is one compiled ``lax.scan``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastnn._cli.bench.peers import Peer
from fastnn._cli.bench.workloads import Case

# XLA reads this once, when it starts.
_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}".strip()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.flatten_util import ravel_pytree  # noqa: E402

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
_UNROLL = 4  # steps in the body of the loop: some percent faster for the smallest networks


def _gelu(z: Any) -> Any:
    return jax.nn.gelu(z, approximate=False)


_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"relu": jax.nn.relu, "tanh": jnp.tanh, "gelu": _gelu}


def _loss(kind: str, z: Any, y: Any) -> Any:
    if kind == "mse":
        return jnp.mean((z - y) ** 2)
    if kind == "binary_cross_entropy":
        return jnp.mean(jnp.logaddexp(z, 0) - y * z)
    # A one-hot product: the gradient of a gather is a scatter, which is slow on CPUs.
    return -jnp.mean(jnp.sum(jax.nn.log_softmax(z) * jax.nn.one_hot(y, z.shape[1], dtype=z.dtype), axis=1))


def _sgd(rate: float, p: Any, g: Any) -> tuple[Any, ...]:
    return (p - rate * g,)


def _adam(rate: float, p: Any, g: Any, m: Any, v: Any, t: Any) -> tuple[Any, ...]:
    """Kingma and Ba (2015), algorithm 1."""
    t = t + 1
    m = _BETA1 * m + (1 - _BETA1) * g
    v = _BETA2 * v + (1 - _BETA2) * g * g
    p = p - rate * (m / (1 - _BETA1**t)) / (jnp.sqrt(v / (1 - _BETA2**t)) + _EPSILON)
    return p, m, v, t


_UPDATES: dict[str, Callable[..., tuple[Any, ...]]] = {"sgd": _sgd, "adam": _adam}


class Jax(Peer):
    """``jit`` of a scan over the batches with donated buffers; the optimizer works on one flat vector."""

    packages = ("jax", "jaxlib")

    def __init__(self, case: Case):
        super().__init__(case)
        jax.config.update("jax_enable_x64", case.dtype == "float64")
        work = case.workload
        activation = _ACTIVATIONS[work.hidden]
        weights = [(jnp.asarray(weight), jnp.asarray(bias)) for weight, bias in case.weights]
        flat: tuple[Any, Any] = ravel_pytree(weights)
        self._start, unravel = flat

        def outputs(parameters: Any, x: Any) -> Any:
            *hidden, (weight, bias) = unravel(parameters)
            for w, b in hidden:
                x = activation(x @ w + b)
            return x @ weight + bias

        def step(state: Any, batch: Any) -> Any:
            parameters, *moments = state
            x, y = batch
            differentiate = jax.value_and_grad(lambda p: _loss(work.loss or "", outputs(p, x), y))
            loss, gradient = differentiate(parameters)
            update = _UPDATES[work.optimizer or ""]
            return update(work.rate, parameters, gradient, *moments), loss

        def scan(state: Any, xs: Any, ys: Any) -> Any:
            return jax.lax.scan(step, state, (xs, ys), unroll=_UNROLL)

        if work.loss is None:
            self._outputs = jax.jit(outputs)
            self._x = jnp.asarray(case.x)
        else:
            self._scan = jax.jit(scan, donate_argnums=0)
            self._xs = jnp.asarray(case.x.reshape(work.batches, work.rows, -1))
            self._ys = jnp.asarray(case.y.reshape(work.batches, work.rows, *case.y.shape[1:]))

    @staticmethod
    def product(a: NDArray[Any], b: NDArray[Any]) -> Callable[[], Any]:
        jax.config.update("jax_enable_x64", a.dtype == np.float64)
        left, right, multiply = jnp.asarray(a), jnp.asarray(b), jax.jit(jnp.dot)
        return lambda: multiply(left, right).block_until_ready()

    def _begin(self) -> tuple[Any, ...]:
        start = jnp.array(self._start)  # a copy: the scan takes its buffer
        if self.case.workload.optimizer == "sgd":
            return (start,)
        return start, jnp.zeros_like(start), jnp.zeros_like(start), jnp.zeros((), start.dtype)

    def losses(self, n: int) -> NDArray[Any]:
        _, losses = self._scan(self._begin(), self._xs, self._ys)
        return np.asarray(losses)[:n]

    def train(self, passes: int) -> float:
        state = jax.block_until_ready(self._begin())
        begin = time.perf_counter()
        for _ in range(passes):
            state, _ = self._scan(state, self._xs, self._ys)
        jax.block_until_ready(state)
        return time.perf_counter() - begin

    def outputs(self) -> NDArray[Any]:
        return np.asarray(self._outputs(self._start, self._x))

    def predict(self, calls: int) -> float:
        predict, parameters, x = self._outputs, self._start, self._x
        begin = time.perf_counter()
        for _ in range(calls):
            predict(parameters, x).block_until_ready()
        return time.perf_counter() - begin
