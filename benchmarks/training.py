"""Training: steps of the standard workloads, epochs as users run them, and two threads beside one."""

import statistics
import time

import fastnn as fn
from fastnn._cli.bench.machine import usable_cores
from fastnn._cli.bench.workloads import DTYPES, WORKLOADS, make_case

from ._networks import data, make

STEPS = tuple(name for name, work in WORKLOADS.items() if work.trains)
SMOOTH = tuple(f"{name} gelu" for name in ("20-64-64-1", "784-128-10", "17-256-256-6", "4-32-16-4"))
LONG = ("784-512-512-10", "17-256-256-6", "4-32-16-4")
OUTPUTS = {"cross_entropy": "softmax", "binary_cross_entropy": "sigmoid"}
_PASSES = 5


class _Passes:
    """One pass over the batches of a workload, and the microseconds of a step in it."""

    threads = 1

    def setup(self, workload, dtype):
        name, _, activation = workload.partition(" ")
        case = make_case(WORKLOADS[name], dtype, activation or None)
        self.work, self.x, self.y = case.workload, case.x, case.y
        shape = "-".join(map(str, self.work.widths))
        self.net = make(shape, self.work.hidden, OUTPUTS.get(self.work.loss), dtype)
        self.optimizer = {"sgd": fn.SGD, "adam": fn.Adam}[self.work.optimizer](self.work.rate)
        self.run()

    def run(self):
        self.net.fit(
            self.x, self.y, loss=self.work.loss, optimizer=self.optimizer, epochs=1, batch_size=self.work.rows,
            shuffle=False, progress=False, n_threads=self.threads,
        )  # fmt: skip

    def microseconds(self):
        taken = []
        for _ in range(_PASSES):
            begin = time.perf_counter()
            self.run()
            taken.append(time.perf_counter() - begin)
        return statistics.median(taken) / self.work.batches * 1e6


class Step(_Passes):
    """A training step, with its share of what ``fit`` does around it."""

    params = (STEPS + SMOOTH, DTYPES)
    param_names = ("workload", "dtype")
    unit = "microseconds"

    def track_microseconds(self, workload, dtype):
        return self.microseconds()


class Threads(_Passes):
    """A training step where up to so many threads may share it; skipped where there are fewer cores."""

    params = (LONG, (1, 2))
    param_names = ("workload", "threads")
    unit = "microseconds"

    def setup(self, workload, threads):
        if usable_cores() < threads:
            raise NotImplementedError
        self.threads = threads
        super().setup(workload, "float32")

    def track_microseconds(self, workload, threads):
        return self.microseconds()


class Epoch:
    """Seconds of an epoch of 100 steps as ``fit`` runs it by itself: rows in a new order, some of them held out."""

    params = (("20-64-64-1 b32 adam", "784-128-10 b128 sgd", "4-32-16-4 b1000 adam"), DTYPES)
    param_names = ("workload", "dtype")

    def setup(self, workload, dtype):
        shape, batch, self.optimizer = workload.split()
        self.batch = int(batch[1:])
        self.x, self.y, self.loss = data(shape, 125 * self.batch, dtype)
        self.net = make(shape, dtype=dtype)
        self.time_epoch(workload, dtype)

    def time_epoch(self, workload, dtype):
        self.net.fit(
            self.x, self.y, loss=self.loss, optimizer=self.optimizer, epochs=1, batch_size=self.batch,
            validation_split=0.2, progress=False,
        )  # fmt: skip


class Digits:
    """The demo's network on the demo's data: seconds of ten epochs, and the held-out accuracy after sixty."""

    timeout = 120

    def setup(self):
        from fastnn._cli import demo

        self.demo = demo
        self.learn, self.held = demo.split()
        self.time_ten_epochs()

    def time_ten_epochs(self):
        self.demo.train(self.demo.make_network(0), self.learn, self.held, epochs=10, progress=False)

    def track_accuracy(self):
        net = self.demo.make_network(0)
        self.demo.train(net, self.learn, self.held, epochs=60, progress=False)
        return net.evaluate(*self.held)["accuracy"]

    track_accuracy.unit = "of the held-out images"
