"""A neural ordinary differential equation: a network learns a vector field from trajectories, through the integrator.

A damped Duffing oscillator, ``x'' = -x - x^3 - 0.2 x'``, is watched from 200 random starts, eleven times each. The
network never sees a derivative: it is the right-hand side of a Runge-Kutta integration in compiled code, and learns
what brings the integrated states close to the observed ones. Then it is sent along trajectories from starts that it
has never seen, twenty times as long as a piece of training, by another, adaptive method.

Training needs the gradient of the loss by the network's parameters, through all steps. Backpropagation through the
steps finds d_k = dLoss/dk for every slope k = net(x) of every stage. What is left is the gradient of sum(d_k * net(x))
with d_k held fixed: ``jit.train_step`` follows it, with all stages as one batch, for the loss mean(output * target)
and targets d_k times the number of terms of the mean.

After R. T. Q. Chen, Y. Rubanova, J. Bettencourt and D. Duvenaud, "Neural ordinary differential equations" (2018), but
with the exact gradient of the integration as it is computed instead of an adjoint equation.

    python examples/neural_ode.py
"""

import math
import time
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.integrate import solve_ivp

import fastnn as fn
from fastnn import jit

# Explicit Runge-Kutta methods. Row i: how slopes 0 to i make the input of stage i + 1; the last row: the new state
RK4 = np.array([[1 / 2, 0, 0, 0], [0, 1 / 2, 0, 0], [0, 0, 1, 0], [1 / 6, 1 / 3, 1 / 3, 1 / 6]])
# J. R. Dormand and P. J. Prince, "A family of embedded Runge-Kutta formulae" (1980): RK5(4)7M
DORMAND_PRINCE = np.array(
    [
        [1 / 5, 0, 0, 0, 0, 0],
        [3 / 40, 9 / 40, 0, 0, 0, 0],
        [44 / 45, -56 / 15, 32 / 9, 0, 0, 0],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729, 0, 0],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656, 0],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
    ]
)
ERROR = np.array([71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40])  # of order 4 less order 5

INTERVAL = 0.1  # between observations, and the step of training
WIDEST, UNSEEN = np.array([1.75, 2.5]), np.array([1.5, 2.0])  # starts lie between minus this and this, in (x, x')
PRODUCT = fn.losses.from_functions("product", lambda output, target: output * target, lambda output, target: target)


def field(z):
    """What is to be learned: from (x, x') to (x', x'')."""
    x, v = z[..., 0], z[..., 1]
    return np.stack([v, -x - x**3 - 0.2 * v], axis=-1)


def observe(starts, times):
    """The true states (n, len(times), 2), by a method that has nothing to do with training."""
    return np.stack(
        [
            solve_ivp(lambda _, z: field(z), (0, times[-1]), start, "DOP853", times, rtol=1e-10, atol=1e-10).y.T
            for start in starts
        ]
    )


@njit
def step(state, method, h, z, x, k):
    """One step from z: x (stages + 1, 2) takes the inputs of the stages and the new state, k the slopes."""
    for m in range(2):
        x[0, m] = z[m]
    for i in range(len(k)):
        jit.predict(state, x[i], k[i])
        for m in range(2):
            x[i + 1, m] = z[m]
            for j in range(i + 1):
                x[i + 1, m] += h * method[i, j] * k[j, m]


@njit
def step_back(state, method, h, x, d_x, d_k):
    """Backpropagation through ``step``: from d_x[-1] of the new state to d_k, and to d_x[0] of the old state."""
    for i in range(len(d_k) - 1, -1, -1):
        for m in range(2):
            d_k[i, m] = 0.0
            for j in range(i, len(d_k)):
                d_k[i, m] += h * method[j, i] * d_x[j + 1, m]
        jit.input_gradient(state, x[i], d_k[i], d_x[i])
    for i in range(1, len(d_x)):
        for m in range(2):
            d_x[0, m] += d_x[i, m]  # every x is the old state and something more


@njit
def trajectory_loss(state, observed, x):
    """Mean squared error of n trajectories (n, steps + 1, 2); x (n, steps, 5, 2) takes what each step went through."""
    n, steps = x.shape[:2]
    k, total = np.empty((4, 2)), 0.0
    for i in range(n):
        z = observed[i, 0]
        for t in range(steps):
            step(state, RK4, INTERVAL, z, x[i, t], k)
            z = x[i, t, -1]
            for m in range(2):
                total += (z[m] - observed[i, t + 1, m]) ** 2
    return total / (n * steps * 2)


@njit
def training_step(state, observed):
    """One step of the optimizer; the loss before it."""
    n, steps = observed.shape[0], observed.shape[1] - 1
    x, d_k, d_x = np.empty((n, steps, 5, 2)), np.empty((n, steps, 4, 2)), np.empty((5, 2))
    loss = trajectory_loss(state, observed, x)
    for i in range(n):
        d_x[0] = 0.0
        for t in range(steps - 1, -1, -1):
            for m in range(2):
                d_x[-1, m] = d_x[0, m] + (x[i, t, -1, m] - observed[i, t + 1, m]) / (n * steps)
            step_back(state, RK4, INTERVAL, x[i, t], d_x, d_k[i, t])
    jit.train_step(state, x[:, :, :-1].copy().reshape(-1, 2), d_k.size * d_k.reshape(-1, 2))
    return loss


@njit
def train(state, pieces, batches, learning_rate):
    """A training step for each row of ``batches``, which names pieces; their losses. The learning rate falls to 0."""
    losses = np.empty(len(batches))
    for update in range(len(batches)):
        jit.set_learning_rate(state, learning_rate * 0.5 * (1.0 + math.cos(math.pi * update / len(batches))))
        losses[update] = training_step(state, pieces[batches[update]])
    return losses


@njit
def solve(state, start, times, tolerance):
    """The network's trajectory at ``times``, with steps whose estimated error stays below ``tolerance``."""
    x, k, path = np.empty((7, 2)), np.empty((7, 2)), np.empty((len(times), 2))
    z, now, longest = start, times[0], times[1] - times[0]
    for n in range(len(times)):
        left, now = times[n] - now, times[n]
        while left > 0.0:
            h = min(longest, left)
            step(state, DORMAND_PRINCE, h, z, x, k[:6])
            jit.predict(state, x[6], k[6])
            error = h * max(abs(np.sum(ERROR * k[:, 0])), abs(np.sum(ERROR * k[:, 1])))
            if not error > tolerance:  # with NaN, too: it is where all steps lead to
                z = x[6].copy()
                left -= h
            longest = h * min(5.0, 0.9 * (error / tolerance + 1e-9) ** -0.2)
        for m in range(2):
            path[n, m] = z[m]
    return path


class Result(NamedTuple):
    """What came of it."""

    first_loss: float  # mean of the first hundred training steps
    last_loss: float  # and of the last
    field_error: float  # root mean square of network - field, over that of the field, where unseen trajectories start
    path_error: float  # root mean square error of unseen trajectories up to time 10
    seconds: float  # of training, without compilation


def run(updates=30_000, seed=0):
    """Learn the field, and compare it and its trajectories with the true ones."""
    rng = np.random.default_rng(seed)
    observed = observe(rng.uniform(-WIDEST, WIDEST, (200, 2)), INTERVAL * np.arange(11))
    pieces = np.concatenate([observed[:, first : first + 6] for first in range(6)])
    batches = rng.integers(len(pieces), size=(updates, 8))
    net = fn.Sequential([fn.Dense(24, "tanh"), fn.Dense(2)], n_inputs=2, seed=seed, dtype="float64")
    state = net.jit_state(fn.Adam(), PRODUCT, batch_size=8 * 5 * 4)
    train(state, pieces, batches[:0], 0.02)  # compiled before it is timed
    begin = time.perf_counter()
    losses = train(state, pieces, batches, 0.02)
    seconds = time.perf_counter() - begin
    net.load_jit_state(state)

    axes = [np.linspace(-limit, limit, 41) for limit in UNSEEN]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    difference = net.predict(grid) - field(grid)
    starts, times = rng.uniform(-UNSEEN, UNSEEN, (20, 2)), np.linspace(0, 10, 101)
    paths = np.stack([solve(state, start, times, 1e-6) for start in starts])
    return Result(
        float(losses[:100].mean()),
        float(losses[-100:].mean()),
        float(np.sqrt(np.mean(difference**2) / np.mean(field(grid) ** 2))),
        float(np.sqrt(np.mean((paths - observe(starts, times)) ** 2))),
        seconds,
    )


if __name__ == "__main__":
    result = run()
    print(f"loss, at first and at last              {result.first_loss:.1e}  {result.last_loss:.1e}")
    print(f"error of the vector field, relative     {100 * result.field_error:.2f} %")
    print(f"error of unseen trajectories            {result.path_error:.1e}")
    print(f"seconds of training                     {result.seconds:.1f}")
