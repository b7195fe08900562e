"""Networks on a GPU, with data that lie there; and inside the user's own kernel. Skipped where there is no GPU."""

import statistics

import numpy as np

import fastnn as fn
from fastnn._cli.bench import gpu
from fastnn._cli.bench.gpu.timing import seconds_of_numba
from fastnn._cli.bench.gpu.workloads import WORKLOADS
from fastnn._cli.bench.peers.own import output_activation
from fastnn._cli.bench.workloads import make_case

from ._networks import make

PRECISIONS = ("float32", "tf32", "bf16", "fp16")
_ROUNDS = 5
_EPOCHS = 20  # of the population


def needs_gpu():
    """Numba's ``cuda``; asv skips a benchmark whose set-up raises this error."""
    missing = gpu.missing()
    if missing is not None:
        raise NotImplementedError(missing)
    from numba import cuda

    return cuda


class _OnDevice:
    """A workload's network and data on the GPU."""

    def setup(self, workload, precision):
        cuda = needs_gpu()
        case = make_case(WORKLOADS[workload])
        self.work, self.synchronize = case.workload, cuda.synchronize
        n_inputs, *hidden, n_out = self.work.widths
        layers = [*(fn.Dense(units, self.work.hidden) for units in hidden)]
        layers.append(fn.Dense(n_out, output_activation(self.work.loss)))
        precision = None if precision == "float32" else precision
        try:
            self.net = fn.Sequential(layers, n_inputs=n_inputs, seed=0, device="cuda", precision=precision)
        except (TypeError, ValueError) as error:  # this version, or this GPU, has not got it
            raise NotImplementedError(str(error)) from error
        self.x, self.y = cuda.to_device(case.x), cuda.to_device(case.y)

    def fit(self):
        optimizer = {"sgd": fn.SGD, "adam": fn.Adam}[self.work.optimizer](self.work.rate)
        self.net.fit(
            self.x, self.y, loss=self.work.loss, optimizer=optimizer, epochs=1, batch_size=self.work.rows,
            shuffle=False, progress=False,
        )  # fmt: skip


class Predict(_OnDevice):
    """Four layers of 64 units for 2**18 rows; inputs and outputs stay on the GPU."""

    params = (("64x4-predict",), PRECISIONS)
    param_names = ("workload", "precision")

    def setup(self, workload, precision):
        super().setup(workload, precision)
        self.time_predict(workload, precision)

    def time_predict(self, workload, precision):
        self.net.predict(self.x)
        self.synchronize()


class LargeBatch(_OnDevice):
    """Four training steps of 2**18 rows, as ``fit`` runs them."""

    params = (("64x4",), PRECISIONS)
    param_names = ("workload", "precision")

    def setup(self, workload, precision):
        super().setup(workload, precision)
        self.time_four_steps(workload, precision)

    def time_four_steps(self, workload, precision):
        self.fit()
        self.synchronize()


class SmallBatch(_OnDevice):
    """Training steps a second with few rows each, where launches cost more than arithmetic."""

    params = (("xor", "20-64-64-1"), ("float32",))
    param_names = ("workload", "precision")
    unit = "steps/s"

    def setup(self, workload, precision):
        super().setup(workload, precision)
        self.fit()

    def track_steps_per_second(self, workload, precision):
        return self.work.batches / statistics.median(seconds_of_numba(self.fit) for _ in range(_ROUNDS))


class Population:
    """132 networks trained at once on the same batches: training steps a second, all networks together."""

    unit = "steps/s"

    def setup(self):
        cuda = needs_gpu()
        case = make_case(WORKLOADS["population"])
        self.work = case.workload
        n_inputs, *hidden, n_out = self.work.widths
        layers = [*(fn.Dense(units, self.work.hidden) for units in hidden), fn.Dense(n_out)]
        net = fn.Sequential(layers, n_inputs=n_inputs, seed=0, device="cuda")
        self.population = fn.Population(net, self.work.networks)
        self.x, self.y = cuda.to_device(case.x), cuda.to_device(case.y)
        self.fit()

    def fit(self):
        self.population.fit(
            self.x, self.y, loss=self.work.loss, optimizer=fn.Adam(self.work.rate), epochs=_EPOCHS,
            batch_size=self.work.rows, shuffle=False,
        )  # fmt: skip

    def track_steps_per_second(self):
        steps = _EPOCHS * self.work.batches * self.work.networks
        return steps / statistics.median(seconds_of_numba(self.fit) for _ in range(_ROUNDS))


class DevicePredict:
    """A network inside the user's own kernel, one thread a sample: 2**18 rows that lie on the GPU, launch included."""

    params = (("20-64-64-1", "4-32-16-4"),)
    param_names = ("shape",)

    def setup(self, shape):
        cuda = needs_gpu()
        from fastnn.cuda import device_predict, device_state

        net = make(shape, "tanh")
        predict, self.synchronize = device_predict(net), cuda.synchronize

        @cuda.jit
        def kernel(state, X, out):
            i = cuda.grid(1)
            if i < X.shape[0]:
                predict(state, X[i], out[i])

        x = np.random.default_rng(0).standard_normal((1 << 18, net.n_inputs), np.float32)
        self.kernel = kernel[len(x) // 128, 128]
        self.arrays = device_state(net), cuda.to_device(x), cuda.device_array((len(x), net.n_outputs), np.float32)
        self.time_predict(shape)

    def time_predict(self, shape):
        self.kernel(*self.arrays)
        self.synchronize()
