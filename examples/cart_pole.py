"""Cart-pole: simulation, policy and training in one compiled loop.

A pole is hinged on a cart that is pushed left or right fifty times a second. A network learns from scratch to keep it
up, by REINFORCE: R. J. Williams, "Simple statistical gradient-following algorithms for connectionist reinforcement
learning", Machine Learning 8 (1992). The loss is the mean of -advantage * log p(push): pushes after which the pole
stood longer than on average become more likely.

The dynamics are those of A. G. Barto, R. S. Sutton and C. W. Anderson, "Neuronlike adaptive elements that can solve
difficult learning control problems", IEEE Transactions on Systems, Man, and Cybernetics 13 (1983), without friction;
the episodes are those of OpenAI Gym's CartPole-v0, which counts as solved when 100 of them last 195 steps on average.

    python examples/cart_pole.py
"""

import math
import time
from typing import NamedTuple

import numpy as np
from numba import njit

import fastnn as fn
from fastnn import jit

GRAVITY, CART_MASS, POLE_MASS, HALF_LENGTH = 9.8, 1.0, 0.1, 0.5  # m/s^2, kg, kg, m
FORCE, INTERVAL = 10.0, 0.02  # N, s
TRACK, TILT = 2.4, math.radians(12)  # an episode ends beyond
LONGEST = 200  # steps of an episode
EPISODES = 10  # for each training step
DISCOUNT = 0.99

# The network's outputs are log-probabilities. With -advantage as target of the push taken, and 0 of the other one, the
# mean of output * target is REINFORCE's loss, but for a constant factor that Adam does not see.
PRODUCT = fn.losses.from_functions("product", lambda output, target: output * target, lambda output, target: target)


@njit
def begin_episode(s, rng):
    """Position, velocity, angle from the upright and angular velocity: all of them small."""
    for j in range(4):
        s[j] = rng.uniform(-0.05, 0.05)


@njit
def push(s, right):
    """Move on by one interval (Euler's method); True if the episode goes on."""
    x, velocity, angle, spin = s
    mass, sine, cosine = CART_MASS + POLE_MASS, math.sin(angle), math.cos(angle)
    force = FORCE if right else -FORCE
    pushed = (force + POLE_MASS * HALF_LENGTH * spin**2 * sine) / mass
    turning = (GRAVITY * sine - cosine * pushed) / (HALF_LENGTH * (4.0 / 3.0 - POLE_MASS * cosine**2 / mass))
    s[0] = x + INTERVAL * velocity
    s[1] = velocity + INTERVAL * (pushed - POLE_MASS * HALF_LENGTH * turning * cosine / mass)
    s[2] = angle + INTERVAL * spin
    s[3] = spin + INTERVAL * turning
    return abs(s[0]) <= TRACK and abs(s[2]) <= TILT


@njit
def play(state, inputs, rights, rng, explore):
    """One episode; its number of steps.

    The push is drawn from the policy, or is the likelier one if not ``explore``. ``inputs`` (200, 4) and ``rights``
    (200,) keep what was seen and done.
    """
    s, log_p = np.empty(4), np.empty(2)
    begin_episode(s, rng)
    for t in range(LONGEST):
        jit.predict(state, s, log_p)
        for j in range(4):
            inputs[t, j] = s[j]
        rights[t] = math.exp(log_p[1]) > (rng.random() if explore else 0.5)
        if not push(s, rights[t]):
            return t + 1
    return LONGEST


@njit
def learn(state, most_updates, rng):
    """Play and train until all episodes of a batch last to their end; the numbers of training steps and pushes."""
    room = EPISODES * LONGEST
    inputs, rights = np.empty((room, 4)), np.empty(room, np.bool_)
    returns, targets = np.empty(room), np.empty((room, 2))
    pushes = 0
    for update in range(most_updates):
        n = 0
        for _ in range(EPISODES):
            end = n + play(state, inputs[n:], rights[n:], rng, True)
            to_come = 0.0
            for t in range(end - 1, n - 1, -1):
                to_come = 1.0 + DISCOUNT * to_come
                returns[t] = to_come
            n = end
        pushes += n
        if n == room:
            return update, pushes
        mean, spread = returns[:n].mean(), returns[:n].std()
        for i in range(n):
            targets[i] = 0.0
            targets[i, int(rights[i])] = -(returns[i] - mean) / spread
        jit.train_step(state, inputs[:n], targets[:n])
    return most_updates, pushes


@njit
def evaluate(state, episodes, rng):
    """Mean number of steps of fresh episodes, with the likelier push always taken."""
    inputs, rights = np.empty((LONGEST, 4)), np.empty(LONGEST, np.bool_)
    total = 0
    for _ in range(episodes):
        total += play(state, inputs, rights, rng, False)
    return total / episodes


class Result(NamedTuple):
    """What came of it."""

    steps_before: float  # mean of 100 episodes, before training
    steps_after: float
    updates: int  # training steps
    pushes: int  # simulated while learning
    seconds_to_compile: float
    seconds_to_learn: float


def run(seed=1):  # seed 0 begins with a network that balances by luck, as one in forty does
    """Balance 100 times with an untrained network, learn, and balance 100 times again."""
    begin = time.perf_counter()
    net = fn.Sequential([fn.Dense(32, "tanh"), fn.Dense(2, "log_softmax")], n_inputs=4, seed=seed)
    state = net.jit_state(fn.Adam(0.01), PRODUCT, batch_size=EPISODES * LONGEST)
    rng = np.random.default_rng(seed)
    steps_before, _ = evaluate(state, 100, rng), learn(state, 0, rng)  # compiled before they are timed
    compiled = time.perf_counter()
    updates, pushes = learn(state, 1000, rng)
    end = time.perf_counter()
    return Result(steps_before, evaluate(state, 100, rng), updates, pushes, compiled - begin, end - compiled)


if __name__ == "__main__":
    result = run()
    print(f"mean steps of 100 episodes, untrained     {result.steps_before:.1f}")
    print(f"and trained, of at most 200               {result.steps_after:.1f}")
    print(f"training steps                            {result.updates}")
    print(f"pushes while learning                     {result.pushes:,}")
    print(f"seconds to compile                        {result.seconds_to_compile:.1f}")
    print(f"seconds to learn                          {result.seconds_to_learn:.3f}")
