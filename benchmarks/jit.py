"""Networks inside compiled code: single predictions back to back, and training steps, without Python in between."""

import statistics
import time

import numpy as np
from numba import njit

import fastnn as fn
from fastnn import jit

_BLOCKS = 7


@njit
def _predictions(rounds, state, x, out):
    for k in range(rounds):
        jit.predict(state, x[k % len(x)], out)


@njit
def _steps(rounds, state, x, y):
    for _ in range(rounds):
        jit.train_step(state, x, y)


def _seconds(loop, rounds, *arguments):
    """Seconds of one round: the median of some blocks."""
    loop(1, *arguments)  # compiles it
    taken = []
    for _ in range(_BLOCKS):
        begin = time.perf_counter()
        loop(rounds, *arguments)
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken) / rounds


class Predict:
    """One sample through a network."""

    params = (("20-64-64-1", "4-32-16-4", "64-64"), ("tanh", "relu"))
    param_names = ("shape", "activation")
    unit = "ns a sample"

    def setup(self, shape, activation):
        n_inputs, *hidden, n_outputs = map(int, shape.split("-"))
        layers = [*(fn.Dense(units, activation) for units in hidden), fn.Dense(n_outputs)]
        self.state = fn.Sequential(layers, n_inputs=n_inputs, seed=0).jit_state()
        self.x = np.random.default_rng(0).standard_normal((1000, n_inputs), np.float32)
        self.out = np.zeros(n_outputs, np.float32)
        _predictions(1, self.state, self.x, self.out)

    def track_nanoseconds(self, shape, activation):
        return _seconds(_predictions, 20_000, self.state, self.x, self.out) * 1e9


class TrainStep:
    """A step of the state's optimizer."""

    params = (("2-8-1 b4 sgd", "20-64-64-1 b32 adam"),)
    param_names = ("workload",)
    unit = "microseconds"

    def setup(self, workload):
        shape, batch, optimizer = workload.split()
        n_inputs, *hidden, _ = map(int, shape.split("-"))
        rows = int(batch[1:])
        layers = [*(fn.Dense(units, "tanh" if rows == 4 else "relu") for units in hidden), fn.Dense(1)]
        net = fn.Sequential(layers, n_inputs=n_inputs, seed=0)
        rng = np.random.default_rng(0)
        self.x, self.y = rng.standard_normal((rows, n_inputs), np.float32), rng.standard_normal(rows, np.float32)
        self.state = net.jit_state(optimizer, "mse", batch_size=rows)
        _steps(1, self.state, self.x, self.y)

    def track_microseconds(self, workload):
        return _seconds(_steps, 5000, self.state, self.x, self.y) * 1e6
