"""Networks with every kind of layer, for tests of `fastnn.cuda`; it imports nothing of CUDA."""

import numpy as np

import fastnn as fn

# One thread sums in another order, and with other elementary functions, than the CPU's kernels and the reference do.
TOLERANCES = {"float32": {"rtol": 1e-5, "atol": 2e-6}, "float64": {"rtol": 1e-12, "atol": 1e-13}}
N_INPUTS = 7
LAYERS = {
    "dense": [fn.Dense(13, "tanh"), fn.Dense(24, "relu"), fn.Dense(3)],
    "without bias": [fn.Dense(9, "gelu", bias=False), fn.Dense(1, bias=False)],
    "batch norm": [fn.Dense(5), fn.BatchNorm(eps=1e-3), fn.Activation("silu"), fn.Dropout(0.5), fn.Dense(2, "softmax")],
    "layer norm": [fn.LayerNorm(eps=1e-4), fn.Dense(11, "elu"), fn.LayerNorm(), fn.Dense(8, "log_softmax")],
    "residual": [fn.Residual([fn.Dense(17, "tanh"), fn.Dense(7)]), fn.Dense(4), fn.Activation("softsign")],
    "nested": [
        fn.Residual([fn.Activation("sine"), fn.Residual([fn.Dropout(0.1), fn.LayerNorm(), fn.Dense(7, "mish")])]),
        fn.Residual([fn.BatchNorm(), fn.Activation("softmax"), fn.Dense(3), fn.Dense(7, bias=False)]),
    ],
    "nothing": [fn.Dropout(0.5), fn.Activation("identity")],
}


def network(name, dtype):
    """One whose parameters and running statistics are not what they start as."""
    net = fn.Sequential(LAYERS[name], n_inputs=N_INPUTS, seed=1, dtype=dtype)
    rng = np.random.default_rng(2)
    net.parameters[:] += 0.2 * rng.standard_normal(net.n_parameters)
    net.set_parameters({name: rng.uniform(0.5, 2, v.shape) for name, v in net.named_buffers().items()})
    return net


def rows(n, dtype):
    return np.random.default_rng(3).standard_normal((n, N_INPUTS)).astype(dtype)
