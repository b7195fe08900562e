"""Small networks through every kernel of the CUDA engine, for ``compute-sanitizer --tool memcheck python FILE``.

`test_cuda_gpu_engine` runs it so, and `test_cuda_interpreted` with some of the kinds below as arguments. Sizes are
small, because a sanitizer makes kernels some hundred times slower, and odd, so that tiles hang over the edges.
"""

import sys
import warnings

import numpy as np

import fastnn as fn
from fastnn.cuda import passes


def every_kind(width):
    """Layers of all kinds, about as wide."""
    return [
        fn.Dense(width, "tanh", l1=1e-4, l2=1e-3),
        fn.LayerNorm(),
        fn.Residual([fn.Dense(width + 1, "gelu"), fn.Dropout(0.2), fn.Dense(width, "relu")]),
        fn.Activation("softmax"),
        fn.Dense(11, "softmax"),
    ]


# Layers, and the rows of a batch, by what `fastnn.cuda.passes` does with them: (one block alone, narrow).
NETWORKS = {
    (True, True): (every_kind(21), 37),
    (False, True): (every_kind(113), 131),
    (False, False): (every_kind(189), 67),
}

KINDS = {  # dtype and precision of a network
    "float32": ("float32", None),
    "float64": ("float64", None),
    "tf32": ("float32", "tf32"),
    "bf16": ("float32", "bf16"),
}
BATCH_NORM = "batch norm"  # takes a batch as a whole, by one block or by all


def use(net, batch, optimizer):
    """Predict, learn and ask for gradients, with samples and places left over."""
    rng = np.random.default_rng(0)
    n = 2 * batch + 3
    x, y = rng.standard_normal((n, 19), np.float32), rng.integers(0, 11, n)
    weights = rng.uniform(0.5, 2, n)
    net.fit(x, y, "cross_entropy", optimizer, epochs=2, batch_size=batch, sample_weight=weights, progress=False)
    losses = net.evaluate(x, y, "cross_entropy", ())["loss"], net.evaluate(x, np.eye(11)[y], "mse", ())["loss"]
    assert np.isfinite(losses).all()
    assert np.isfinite(net.predict(x)).all()
    assert np.isfinite(net.input_gradients(x, y, "focal", weights, training=True)).all()


def main(kinds):
    for (alone, narrow), (layers, batch) in NETWORKS.items():
        for dtype, precision in (KINDS[kind] for kind in kinds if kind in KINDS):
            net = fn.Sequential(layers, 19, seed=0, dtype=dtype, device="cuda", precision=precision)
            assert (batch * net.n_parameters <= passes.ALONE) is alone
            assert net._ready()._device.wide is not narrow
            use(net, batch, fn.Adam(1e-3, clip_norm=1.0))
        if BATCH_NORM in kinds:
            net = fn.Sequential([fn.BatchNorm(), *layers], 19, seed=0, device="cuda")
            use(net, batch, fn.SGD(1e-2, clip_value=0.1))
    print("all ways were taken")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "Grid size")  # small grids are what is looked at
    main(sys.argv[1:] or [*KINDS, BATCH_NORM])
