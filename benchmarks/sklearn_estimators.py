"""``fastnn.sklearn`` beside scikit-learn's own estimators: fits, predictions, a grid search, scores.

``python -m benchmarks.sklearn_estimators`` prints the ratios, from medians of interleaved rounds on one core.
"""

import statistics
import time
import warnings
from dataclasses import dataclass, field

import numpy as np

from fastnn._cli.bench import machine
from fastnn.data import load_digits

LIBRARIES = ("fastnn", "scikit-learn")
DTYPES = ("float64", "float32")
_ROUNDS = 7
_FOREVER = {"tol": 0.0, "n_iter_no_change": 10**6, "random_state": 0}


@dataclass(frozen=True)
class Work:
    """A classifier's fit: data, epochs and parameters."""

    data: str
    epochs: int
    options: dict = field(default_factory=dict)


FITS = {
    "digits (100,) adam": Work("digits", 100),
    "20,000 x 50 (100,) adam": Work("normal", 8),
    "20,000 x 50 (100,) sgd": Work("normal", 8, {"solver": "sgd"}),
    "784-(100, 100)-10 adam": Work("wide", 10, {"hidden_layer_sizes": (100, 100)}),
    "digits (10,) adam, batch 32": Work("digits", 50, {"hidden_layer_sizes": (10,), "batch_size": 32}),
}
CALLS = ("predict 100,000 rows", "predict 1 row", "predict 1 row, network_")


def rows(name, dtype):
    """(X, y) of a data set."""
    rng = np.random.default_rng(0)
    if name == "digits":
        X, y = load_digits()
        return (X / 16).astype(dtype), y
    n, width = {"normal": (20_000, 50), "wide": (4000, 784)}[name]
    X = rng.standard_normal((n, width))
    y = (X[:, 0] * X[:, 1] > 0) * 1 if name == "normal" else rng.integers(0, 10, n)
    return X.astype(dtype), y


def library(name):
    """The module with a library's estimators; asv skips what raises NotImplementedError in ``setup``."""
    try:
        if name == "fastnn":
            import fastnn.sklearn as module
        else:
            import sklearn.neural_network as module
    except ImportError as error:
        raise NotImplementedError("scikit-learn is not installed") from error
    return module


def fit_seconds(name, work, X, y):
    """Processor time of one fit."""
    made = library(name).MLPClassifier(max_iter=work.epochs, **_FOREVER, **work.options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = time.process_time()
        made.fit(X, y)
        return time.process_time() - begin


def n_steps(work, n):
    return work.epochs * -(-n // work.options.get("batch_size", 200))


class Fit:
    """A training step of ``fit``, with its share of what ``fit`` does around it."""

    params = (tuple(FITS), DTYPES, LIBRARIES)
    param_names = ("workload", "dtype", "library")
    unit = "microseconds"

    def setup(self, workload, dtype, name):
        self.work = FITS[workload]
        self.data = rows(self.work.data, dtype)
        fit_seconds(name, Work(self.work.data, 1, self.work.options), *self.data)

    def track_microseconds(self, workload, dtype, name):
        taken = [fit_seconds(name, self.work, *self.data) for _ in range(3)]
        return statistics.median(taken) / n_steps(self.work, len(self.data[0])) * 1e6


def caller(call, name, dtype):
    """What is called, with what, and how often."""
    X, y = rows("digits", dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = library(name).MLPClassifier(max_iter=2, random_state=0).fit(X, y)
    if call == "predict 100,000 rows":
        return made.predict, np.tile(X, (56, 1))[:100_000], 3
    through_network = call.endswith("network_") and name == "fastnn"
    return made.network_.predict if through_network else made.predict, X[:1], 2000


def call_seconds(function, x, times):
    """Processor time of one call."""
    begin = time.process_time()
    for _ in range(times):
        function(x)
    return (time.process_time() - begin) / times


class Predict:
    """Predictions of a 64-100-10 network."""

    params = (CALLS, DTYPES, LIBRARIES)
    param_names = ("call", "dtype", "library")
    unit = "microseconds"

    def setup(self, call, dtype, name):
        self.call = caller(call, name, dtype)
        call_seconds(*self.call)

    def track_microseconds(self, call, dtype, name):
        return statistics.median(call_seconds(*self.call) for _ in range(3)) * 1e6


def search_seconds(name, n_jobs=2):
    """A grid search over 24 fits of small networks, in threads."""
    estimator = library(name).MLPClassifier((10,), batch_size=32, max_iter=20, random_state=0)
    import joblib
    from sklearn.model_selection import GridSearchCV

    X, y = rows("digits", "float64")
    grid = {"alpha": [1e-4, 1e-3, 1e-2, 1e-1], "learning_rate_init": [1e-3, 1e-2]}
    with warnings.catch_warnings(), joblib.parallel_config("threading"):
        warnings.simplefilter("ignore")
        begin = time.perf_counter()
        GridSearchCV(estimator, grid, cv=3, n_jobs=n_jobs, refit=False).fit(X, y)
        return time.perf_counter() - begin


class Search:
    """A grid search in two threads."""

    params = (LIBRARIES,)
    param_names = ("library",)
    unit = "seconds"

    def setup(self, name):
        library(name)
        fit_seconds("fastnn", Work("digits", 1, {"hidden_layer_sizes": (10,)}), *rows("digits", "float64"))

    def track_seconds(self, name):
        return search_seconds(name)


def scores(name, dtype, seeds=5):
    """Held-out accuracies on the digits with the default parameters, a seed each."""
    X, y = rows("digits", dtype)
    order = np.random.default_rng(1).permutation(len(X))
    X, y = X[order], y[order]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = (library(name).MLPClassifier(random_state=seed).fit(X[:1400], y[:1400]) for seed in range(seeds))
        return [each.score(X[1400:], y[1400:]) for each in made]


class Score:
    """Held-out accuracy on the digits."""

    params = (DTYPES, LIBRARIES)
    param_names = ("dtype", "library")
    unit = "of the held-out images"
    timeout = 120

    def setup(self, dtype, name):
        library(name)

    def track_accuracy(self, dtype, name):
        return statistics.mean(scores(name, dtype))


def _interleaved(measure, scale):
    """Medians for both libraries, times a scale, and the ratio."""
    for name in LIBRARIES:
        measure(name)
    taken = {name: [] for name in LIBRARIES}
    for _ in range(_ROUNDS):
        for name in LIBRARIES:
            taken[name].append(measure(name))
    ours, theirs = (statistics.median(taken[name]) * scale for name in LIBRARIES)
    return ours, theirs, theirs / ours


def table():
    """Lines of a Markdown table."""
    yield "| what | dtype | fastnn | scikit-learn | ratio |"
    yield "| --- | --- | ---: | ---: | ---: |"
    line = "| {} | {} | {:,.1f} | {:,.1f} | {:.2f} |".format
    for name, work in FITS.items():
        for dtype in DTYPES:
            data = rows(work.data, dtype)
            scale = 1e6 / n_steps(work, len(data[0]))
            found = _interleaved(lambda peer, work=work, data=data: fit_seconds(peer, work, *data), scale)
            yield line(f"{name}, µs a step", dtype, *found)
    for call in CALLS:
        for dtype in DTYPES:
            made = {peer: caller(call, peer, dtype) for peer in LIBRARIES}
            yield line(f"{call}, µs", dtype, *_interleaved(lambda peer, made=made: call_seconds(*made[peer]), 1e6))
    yield line("grid search, 24 fits in 2 threads, ms", "float64", *_interleaved(search_seconds, 1e3))
    for dtype in DTYPES:
        found = {peer: scores(peer, dtype) for peer in LIBRARIES}
        shown = (f"{statistics.mean(each):.4f} ± {statistics.stdev(each):.4f}" for each in found.values())
        ratio = statistics.mean(found["fastnn"]) / statistics.mean(found["scikit-learn"])
        yield f"| accuracy on digits, 5 seeds: mean, deviation | {dtype} | {' | '.join(shown)} | {ratio:.4f} |"


if __name__ == "__main__":
    with machine.one_core():
        for text in table():
            print(text, flush=True)
