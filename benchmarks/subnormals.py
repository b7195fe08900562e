"""Step 20,000 must be as fast as step 100, also where numbers have decayed into subnormals by then.

Arithmetic on numbers below the smallest normal one (1e-38 in float32) is many times slower on most CPUs, and numbers
that decay do not reach zero: 0.9 times the smallest subnormal is rounded to itself again.
"""

import time

import numpy as np

import fastnn as fn

WINDOW = 100  # steps of one epoch
STEPS = 20_000
_WINDOWS = 5  # at the beginning and at the end; the fastest counts, as slow numbers stay slow


def _vanishing(optimizer, dtype):
    """Inputs of which most become 0 after the first epoch: moments of their weights, without gradient now, decay.

    Many weights and few rows, so that the update takes its share of a step.
    """
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((4 * WINDOW, 512)).astype(dtype), rng.standard_normal((4 * WINDOW, 1)).astype(dtype)
    later = x.copy()
    later[:, 8:] = 0
    return fn.Sequential([fn.Dense(64, "relu"), fn.Dense(1)], 512, dtype=dtype), x, later, y, optimizer


def _fading(activation, dtype):
    """Targets of 0 and a strong L2 penalty: weights decay, and what they are multiplied with.

    Many rows and few weights, so that the activations take their share of a step.
    """
    x = np.random.default_rng(0).standard_normal((32 * WINDOW, 4)).astype(dtype)
    net = fn.Sequential(
        [fn.Dense(512, activation, l2=20.0, bias=False), fn.Dense(1, l2=20.0, bias=False)], 4, dtype=dtype
    )
    return net, x, x, np.zeros((len(x), 1), dtype), fn.SGD(1e-3)


# Network, inputs of the first epoch and of the others, targets and optimizer.
CASES = {
    "moments of momentum": lambda dtype: _vanishing(fn.SGD(1e-3, momentum=0.9), dtype),
    "moments of adam": lambda dtype: _vanishing(fn.Adam(1e-4, betas=(0.9, 0.95)), dtype),
    "moments of rmsprop": lambda dtype: _vanishing(fn.optimizers.RMSprop(1e-4, alpha=0.95), dtype),
    "activations of relu": lambda dtype: _fading("relu", dtype),
    "activations of elu": lambda dtype: _fading("elu", dtype),
    "activations of softsign": lambda dtype: _fading("softsign", dtype),
}


def train(case, dtype, steps=STEPS):
    """Train; returns the network, its optimizer and the seconds of processor time of each window of steps."""
    net, first, later, y, optimizer = CASES[case](dtype)
    taken = []
    for k in range(steps // WINDOW):
        begin = time.process_time()
        net.fit(
            first if k == 0 else later, y, loss="mse", optimizer=optimizer, epochs=1, batch_size=len(y) // WINDOW,
            shuffle=False, progress=False, n_threads=1,
        )  # fmt: skip
        taken.append(time.process_time() - begin)
    return net, optimizer, taken


class LongRun:
    """Time of the last steps of 20,000, as a multiple of the time of steps 100 to 600: 1 where nothing slows down."""

    params = (tuple(CASES), ("float32", "float64"))
    param_names = ("what decays", "dtype")
    unit = "times the first steps"
    timeout = 300

    def setup(self, case, dtype):
        train(case, dtype, steps=2 * WINDOW)

    def track_slowdown(self, case, dtype):
        _, _, taken = train(case, dtype)
        return min(taken[-_WINDOWS:]) / min(taken[1 : 1 + _WINDOWS])
