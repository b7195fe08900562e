"""Threads inside a step and a prediction: the same bits, chosen by what they cost."""

import itertools
import multiprocessing
import threading

import numpy as np
import pytest

import fastnn as fn
from fastnn.cpu import team

RNG = np.random.default_rng(0)
X = RNG.standard_normal((700, 9)).astype("float32")
LABELS = RNG.integers(0, 5, 700)
WEIGHTS = RNG.random(700)
NETWORKS = {
    "plain": [fn.Dense(33, "relu"), fn.Dense(40, "tanh"), fn.Dense(5, "softmax")],
    "narrow": [fn.Dense(3, "gelu"), fn.Dense(1, "tanh"), fn.Dense(5)],
    "regularised": [fn.Dense(64, "silu", l1=1e-4, l2=1e-3), fn.Dropout(0.3), fn.LayerNorm(), fn.Dense(5)],
    "residual": [fn.Dense(24, "elu"), fn.Residual([fn.Dense(24, "relu", bias=False), fn.Dense(24)]), fn.Dense(5)],
    "wide": [fn.Dense(700, "relu"), fn.Dense(300, "softmax"), fn.Dense(5)],
    "batch_norm": [fn.Dense(20), fn.BatchNorm(), fn.Activation("relu"), fn.Dense(5)],
}


def train(monkeypatch, layers, threads, batch_size, optimizer, **options):
    """Parameters and losses after two epochs in which every step is walked by exactly so many threads."""
    used = []

    def exactly(pace):
        used.append(min(threads, pace._ladder[-1]))
        return used[-1]

    monkeypatch.setattr(team.Pace, "threads", property(exactly))
    monkeypatch.setattr(team.Pace, "limit", lambda pace, n_steps: min(n_steps, 7))
    net = fn.Sequential(layers, n_inputs=9, seed=1)
    history = net.fit(
        X, LABELS, "cross_entropy", optimizer, epochs=2, batch_size=batch_size, n_threads=threads, **options
    )
    return net.parameters.tobytes(), history.loss, max(used)


@pytest.mark.parametrize("batch_size", [48, 333, 700])
@pytest.mark.parametrize("name", NETWORKS)
def test_threads_leave_no_trace(monkeypatch, name, batch_size):
    makers = [lambda: fn.Adam(0.01), lambda: fn.SGD(0.1, momentum=0.9, clip_norm=0.5, clip_value=0.01)]
    for make, weights in itertools.product(makers, (None, WEIGHTS)):
        options = {"batch_size": batch_size, "sample_weight": weights}
        alone = train(monkeypatch, NETWORKS[name], 1, optimizer=make(), **options)
        for threads in (2, 3):
            shared = train(monkeypatch, NETWORKS[name], threads, optimizer=make(), **options)
            assert shared[:2] == alone[:2]
            assert shared[2] == (1 if name == "batch_norm" else threads)


def test_divergence_with_threads(monkeypatch):
    with pytest.raises(fn.DivergenceError):
        train(monkeypatch, [fn.Dense(32, "relu"), fn.Dense(5)], 2, 100, fn.SGD(1e30))


@pytest.mark.parametrize("n", [1, 5000, 40_001])
def test_predict(n):
    net = fn.Sequential(NETWORKS["plain"], n_inputs=9, seed=1)
    x = np.random.default_rng(1).standard_normal((n, 9))
    alone = net.predict(x, n_threads=1)
    for threads in (2, 3, None):
        assert net.predict(x, n_threads=threads).tobytes() == alone.tobytes()
    assert net.predict_classes(x, n_threads=2).tolist() == alone.argmax(axis=1).tolist()


def test_predict_shares_long_calls_and_keeps_short_ones(monkeypatch):
    net = fn.Sequential(NETWORKS["plain"], n_inputs=9, seed=1)
    x = np.zeros((20_000, 9), "float32")
    net.predict(x)
    seen = []
    run = team.Pool.run
    monkeypatch.setattr(team.Pool, "run", lambda pool, call, parts: (seen.append(parts), run(pool, call, parts)))
    monkeypatch.setattr(team.pool(2), "cost", 1.0)
    net.predict(x, n_threads=2)
    monkeypatch.setattr(team.pool(2), "cost", 1e-9)
    net.predict(x, n_threads=2)
    assert seen == [1, 2]


class Machine:
    """Seconds that a step takes with so many threads."""

    def __init__(self, costs, start=0.0):
        self.costs = costs
        self.total = start

    def run(self, pace, seconds):
        """Walk chunks of up to 50 ms until the time is over; returns (seconds, steps)."""
        begin, steps = self.total, 0
        while self.total - begin < seconds:
            cost = self.costs[pace.threads]
            n = pace.limit(max(1, int(0.05 / cost)))
            self.total += n * cost
            steps += n
            pace.saw(n * cost, n)
        return self.total - begin, steps


def test_the_fastest_number_of_threads_is_found():
    pace = team.Pace(8)
    Machine({1: 8e-4, 2: 5e-4, 4: 3e-4, 8: 2.5e-4}).run(pace, 2.0)
    assert pace.threads == 8
    pace = team.Pace(6)
    Machine({1: 8e-4, 2: 5e-4, 4: 3e-4, 6: 4e-4}).run(pace, 1.9)
    assert pace.threads == 4


@pytest.mark.parametrize(("step", "slower"), [(3e-6, 4.0), (1e-4, 4.0), (1e-4, 1.5), (2e-3, 1.1)])
def test_threads_that_do_not_pay_cost_little(step, slower):
    machine = Machine({1: step, 2: slower * step, 4: slower * step})
    seconds, steps = machine.run(team.Pace(4), 1.0)
    assert seconds / steps <= 1.05 * step


def test_a_machine_that_gets_busy_is_noticed():
    pace, machine = team.Pace(2), Machine({1: 1e-3, 2: 6e-4})
    machine.run(pace, 1.0)
    assert pace.threads == 2
    machine.costs = {1: 1e-3, 2: 3e-3}
    machine.run(pace, 10.0)
    assert pace.threads == 1


def test_most_threads(monkeypatch):
    monkeypatch.delenv("FASTNN_NUM_THREADS", raising=False)
    assert team.most_threads(None) == team.available_cores() >= 1
    assert team.most_threads(3) == 3
    monkeypatch.setenv("FASTNN_NUM_THREADS", "2")
    assert team.most_threads(None) == 2
    assert team.most_threads(3) == 3
    for text in ("0", "-1", "two", "1.5"):
        monkeypatch.setenv("FASTNN_NUM_THREADS", text)
        with pytest.raises(ValueError, match="FASTNN_NUM_THREADS must be an integer >= 1"):
            team.most_threads(None)


def test_a_team_ends_with_its_run():
    before = threading.active_count()
    net = fn.Sequential([fn.Dense(128, "relu"), fn.Dense(5)], n_inputs=9, seed=1)
    net.fit(X, LABELS, epochs=60, batch_size=350, n_threads=2)
    for thread in threading.enumerate():
        if thread.name == "fastnn":
            thread.join(1.0)
    assert threading.active_count() <= before


def test_an_error_in_a_thread_reaches_the_caller():
    crew = team.Team(2)

    def fail(part):
        if part:
            raise KeyError("in a thread")

    with pytest.raises(KeyError, match="in a thread"):
        crew.run(fail, 2)
    crew.close()


def _predict_in_child(net, results):
    results.put(net.predict(np.ones((30_000, 9)), n_threads=2).tobytes())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_predicts_with_threads_of_its_own():
    net = fn.Sequential(NETWORKS["plain"], n_inputs=9, seed=1)
    here = net.predict(np.ones((30_000, 9)), n_threads=2).tobytes()
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_predict_in_child, args=(net, results))
    child.start()
    assert results.get() == here
    child.join(10)
    assert child.exitcode == 0
