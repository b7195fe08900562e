"""A surrogate: a network takes the place of an expensive function inside a compiled Monte Carlo loop.

The function is an integral, ``f(a, b) = int_0^1 exp(-a t) cos(b t) sqrt(t) dt``, by Simpson's rule on 1,000 intervals.
Its mean over random a and b is estimated twice, with the integral itself and with a network in its place, and the error
of the network is measured on points it has never seen.

    python examples/surrogate.py
"""

import math
import time
from typing import NamedTuple

import numpy as np
from numba import njit

import fastnn as fn
from fastnn import jit

_INTERVALS = 1000
_LOW, _HIGH = np.array([0.5, 0.0]), np.array([3.0, 6.0])  # of a and b


@njit
def expensive(a, b):
    """The integral."""
    step = 1.0 / _INTERVALS
    total = 0.0
    for k in range(_INTERVALS + 1):
        t = k * step
        weight = 1.0 if k in (0, _INTERVALS) else (4.0 if k % 2 else 2.0)
        total += weight * math.exp(-a * t) * math.cos(b * t) * math.sqrt(t)
    return total * step / 3.0


@njit
def mean_of_integral(points):
    """Monte Carlo with the function itself."""
    total = 0.0
    for i in range(len(points)):
        total += expensive(points[i, 0], points[i, 1])
    return total / len(points)


@njit
def mean_of_surrogate(state, points, low, high):
    """The same loop, with the network inside."""
    total = 0.0
    x, out = np.empty(2, np.float32), np.empty(1, np.float32)
    for i in range(len(points)):
        for j in range(2):
            x[j] = 2.0 * (points[i, j] - low[j]) / (high[j] - low[j]) - 1.0
        jit.predict(state, x, out)
        total += out[0]
    return total / len(points)


class Result(NamedTuple):
    """What came of it."""

    rms_error: float  # of the network, on points it has never seen
    mean_of_integral: float
    mean_of_surrogate: float
    speedup: float


def scaled(points):
    """Inputs between -1 and 1."""
    return 2 * (points - _LOW) / (_HIGH - _LOW) - 1


def run(n_samples=200_000, epochs=300):
    """Learn the function from 4,000 points, then estimate its mean over ``n_samples`` random ones."""
    rng = np.random.default_rng(0)
    points = rng.uniform(_LOW, _HIGH, (5000, 2))
    values = np.array([expensive(a, b) for a, b in points])
    net = fn.Sequential([fn.Dense(32, "tanh"), fn.Dense(32, "tanh"), fn.Dense(1)], n_inputs=2, seed=0)
    steps = epochs * -(-4000 // 64)
    optimizer = fn.Adam(fn.schedules.Cosine(0.005, steps=steps))
    net.fit(scaled(points[:4000]), values[:4000], "mse", optimizer, epochs=epochs, batch_size=64, progress=False)
    error = net.predict(scaled(points[4000:]))[:, 0] - values[4000:]

    samples = rng.uniform(_LOW, _HIGH, (n_samples, 2))
    state = net.jit_state()
    mean_of_integral(samples[:1]), mean_of_surrogate(state, samples[:1], _LOW, _HIGH)  # compiled before they are timed
    begin = time.perf_counter()
    exact = mean_of_integral(samples)
    middle = time.perf_counter()
    estimate = mean_of_surrogate(state, samples, _LOW, _HIGH)
    end = time.perf_counter()
    return Result(float(np.sqrt(np.mean(error**2))), exact, estimate, (middle - begin) / (end - middle))


if __name__ == "__main__":
    result = run()
    print(f"root mean square error of the network   {result.rms_error:.1e}")
    print(f"mean, by the integral                   {result.mean_of_integral:.6f}")
    print(f"mean, by the network                    {result.mean_of_surrogate:.6f}")
    print(f"times faster                            {result.speedup:.0f}")
