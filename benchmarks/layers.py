"""Networks with other layers between the dense ones: a step of training and a prediction.

``python -m benchmarks.layers`` prints both beside PyTorch's, from medians of interleaved rounds on one core.
"""

import itertools
import statistics
import time

import numpy as np

import fastnn as fn

DTYPES = ("float32", "float64")
N_INPUTS, N_OUTPUTS, BATCH, N_BATCHES = 64, 10, 256, 8
HIDDEN = {
    "batch norm": [fn.Dense(128), fn.BatchNorm(), fn.Activation("relu")],
    "layer norm": [fn.Dense(128, "gelu"), fn.LayerNorm()],
    "dropout": [fn.Dense(128, "relu"), fn.Dropout(0.3)],
    "residual": [fn.Dense(128, "relu"), fn.Residual([fn.Dense(128, "relu"), fn.Dense(128)])],
    "elu": [fn.Dense(128, "elu")],
}
_ROUNDS = 9


class _Fastnn:
    def __init__(self, layers, x, y):
        self.net = fn.Sequential(layers, n_inputs=N_INPUTS, seed=0, dtype=x.dtype)
        self.optimizer, self.x, self.y = fn.Adam(), x, y

    def train(self):
        self.net.fit(
            self.x, self.y, "mse", self.optimizer, epochs=1, batch_size=BATCH, shuffle=False, progress=False,
            n_threads=1,
        )  # fmt: skip

    def predict(self):
        self.net.predict(self.x, n_threads=1)


class _PyTorch:
    """Eager, with the fused optimizer: the layers are too small for compiling them to matter."""

    def __init__(self, layers, x, y):
        import torch

        torch.set_num_threads(1)
        self.torch, self.x, self.y = torch, torch.from_numpy(x), torch.from_numpy(y)
        self.net, _ = self.sequential(layers, N_INPUTS)
        self.net.to(self.x.dtype)
        self.optimizer = torch.optim.Adam(self.net.parameters(), fused=True)

    def sequential(self, layers, width):
        made = []
        for layer in layers:
            if isinstance(layer, fn.Residual):
                made.append(self.residual(self.sequential(layer.layers, width)[0]))
                continue
            if isinstance(layer, fn.Dense):
                made.append(self.torch.nn.Linear(width, layer.units))
                width = layer.units
            elif isinstance(layer, (fn.BatchNorm, fn.LayerNorm)):
                kind = self.torch.nn.BatchNorm1d if isinstance(layer, fn.BatchNorm) else self.torch.nn.LayerNorm
                made.append(kind(width))
            elif isinstance(layer, fn.Dropout):
                made.append(self.torch.nn.Dropout(layer.rate))
            if (name := getattr(getattr(layer, "activation", None), "name", "identity")) != "identity":
                made.append({"relu": self.torch.nn.ReLU, "gelu": self.torch.nn.GELU, "elu": self.torch.nn.ELU}[name]())
        return self.torch.nn.Sequential(*made), width

    def residual(self, inner):
        class Residual(self.torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = inner

            def forward(self, x):
                return x + self.inner(x)

        return Residual()

    def train(self):
        self.net.train()
        for first in range(0, len(self.x), BATCH):
            self.optimizer.zero_grad(set_to_none=True)
            rows = slice(first, first + BATCH)
            self.torch.nn.functional.mse_loss(self.net(self.x[rows]), self.y[rows]).backward()
            self.optimizer.step()

    def predict(self):
        self.net.eval()
        with self.torch.inference_mode():
            self.net(self.x)


def _case(library, name, dtype):
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((N_BATCHES * BATCH, n)).astype(dtype) for n in (N_INPUTS, N_OUTPUTS))
    return library([*HIDDEN[name], *HIDDEN[name], fn.Dense(N_OUTPUTS)], x, y)


class Layers:
    """64-128-128-10: eight steps of 256 rows, and a prediction of 2,048."""

    params = (tuple(HIDDEN), DTYPES)
    param_names = ("layers", "dtype")

    def setup(self, name, dtype):
        self.case = _case(_Fastnn, name, dtype)
        self.time_steps(name, dtype)
        self.time_prediction(name, dtype)

    def time_steps(self, name, dtype):
        self.case.train()

    def time_prediction(self, name, dtype):
        self.case.predict()


def _seconds(call):
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main():
    print("microseconds: a step of 256 rows, fastnn, PyTorch, ratio; a prediction of 2,048 rows, the same")
    for name, dtype in itertools.product(HIDDEN, DTYPES):
        both = [_case(library, name, dtype) for library in (_Fastnn, _PyTorch)]
        cells = []
        for what, steps in (("train", N_BATCHES), ("predict", 1)):
            taken = [[_seconds(getattr(each, what)) for each in both] for _ in range(_ROUNDS + 2)][2:]
            ours, theirs = (statistics.median(column) / steps * 1e6 for column in zip(*taken, strict=True))
            cells.append(f"{ours:7.0f} {theirs:7.0f} {theirs / ours:5.1f}")
        print(f"{name:10} {dtype}: {'   '.join(cells)}")


if __name__ == "__main__":
    main()
