"""Networks inside compiled code: single predictions back to back, and training steps, without Python in between.

``python -m benchmarks.jit`` prints all of it.
"""

import itertools
import statistics
import time
import timeit

import numpy as np
from numba import njit

import fastnn as fn
from fastnn import jit

_BLOCKS = 7
_LAST = 63  # of 64 samples: a division would take longer than the smallest networks


@njit
def _predictions(rounds, state, x, out):
    for k in range(rounds):
        jit.predict(state, x[k & _LAST], out)


@njit
def _calls(rounds, f, x, out):
    for k in range(rounds):
        f(x[k & _LAST], out)


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


def _network(shape, activation):
    n_inputs, *hidden, n_outputs = map(int, shape.split("-"))
    layers = [*(fn.Dense(units, activation) for units in hidden), fn.Dense(n_outputs)]
    return fn.Sequential(layers, n_inputs=n_inputs, seed=0)


def _samples(net):
    return np.random.default_rng(0).standard_normal((_LAST + 1, net.n_inputs), np.float32)


class Predict:
    """One sample through a network."""

    params = (("20-64-64-1", "4-32-16-4", "64-64"), ("tanh", "relu"))
    param_names = ("shape", "activation")
    unit = "ns a sample"

    def setup(self, shape, activation):
        net = _network(shape, activation)
        self.state, self.x, self.out = net.jit_state(), _samples(net), np.zeros(net.n_outputs, np.float32)
        _predictions(1, self.state, self.x, self.out)

    def track_nanoseconds(self, shape, activation):
        return _seconds(_predictions, 20_000, self.state, self.x, self.out) * 1e9


class Specialized:
    """One sample through a specialised function."""

    params = (
        (
            "8-8 linear", "16-16 linear", "32-32 linear", "64-64 linear", "20-64-64-1 tanh", "20-64-64-1 relu",
            "4-32-16-4 tanh", "20-64-64-64-64-64-64-64-64-1 relu",
        ),
    )  # fmt: skip
    param_names = ("network",)
    unit = "ns a sample"

    def setup(self, network):
        shape, activation = network.split()
        self.net = _network(shape, None if activation == "linear" else activation)
        self.x, self.out = _samples(self.net), np.zeros(self.net.n_outputs, np.float32)

    def track_nanoseconds(self, network):
        return _seconds(_calls, 100_000, self.net.specialize(), self.x, self.out) * 1e9

    def track_compilation(self, network):
        f, begin = self.net.specialize(), time.perf_counter()
        f(self.x[0], self.out)
        return time.perf_counter() - begin

    track_compilation.unit = "seconds"


class FromPython:
    """One sample through 20-64-64-1 with tanh, called from Python."""

    def setup(self):
        net = _network("20-64-64-1", "tanh")
        self.net, self.f, self.x = net, net.specialize(), _samples(net)[0]
        self.rows, self.out = self.x[None].copy(), np.zeros(1, np.float32)
        self.time_specialized(), self.time_specialized_into_an_array(), self.time_predict()

    def time_specialized(self):
        self.f(self.x)

    def time_specialized_into_an_array(self):
        self.f(self.x, self.out)

    def time_predict(self):
        self.net.predict(self.rows)


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


def main():
    for suite in (Predict, Specialized, TrainStep):
        for chosen in itertools.product(*suite.params):
            made = suite()
            made.setup(*chosen)
            name = next(method for method in ("track_nanoseconds", "track_microseconds") if hasattr(made, method))
            print(f"{suite.__name__:12} {' '.join(chosen):22} {getattr(made, name)(*chosen):9.2f} {suite.unit}")
    made = FromPython()
    made.setup()
    for name in ("time_specialized", "time_specialized_into_an_array", "time_predict"):
        taken = timeit.repeat(getattr(made, name), number=20_000, repeat=7)
        print(f"{'FromPython':12} {name[5:]:32} {statistics.median(taken) / 20_000 * 1e6:.2f} microseconds a call")


if __name__ == "__main__":
    main()
