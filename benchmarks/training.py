"""Training: one epoch of ``fit`` over a fixed number of steps."""

import fastnn as fn

from ._networks import data, make

STEPS = 100


class Epoch:
    """Seconds of an epoch of 100 steps, with everything that ``fit`` does around it."""

    params = (
        ("2-8-1 b4 sgd", "20-64-64-1 b32 adam", "784-128-10 b32 adam", "784-128-10 b128 sgd", "4-32-16-4 b1000 adam"),
        ("float32", "float64"),
    )
    param_names = ("workload", "dtype")

    def setup(self, workload, dtype):
        shape, batch, self.optimizer = workload.split()
        self.batch = int(batch[1:])
        x, y, self.loss = data(shape, STEPS * self.batch)
        self.x = x.astype(dtype)
        self.y = y if self.loss == "cross_entropy" else y.astype(dtype)
        base = make(shape, "tanh" if shape.startswith("4-") else "relu")
        self.net = fn.Sequential(base.layers, n_inputs=self.x.shape[1], seed=0, dtype=dtype)
        self.time_epoch(workload, dtype)

    def time_epoch(self, workload, dtype):
        self.net.fit(
            self.x, self.y, loss=self.loss, optimizer=self.optimizer, epochs=1, batch_size=self.batch, progress=False
        )


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
