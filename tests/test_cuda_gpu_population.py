"""`fastnn.Population` with ``device="cuda"`` on a real GPU, beside the same populations on the CPU."""

import numpy as np
import pytest

import fastnn as fn

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu"), pytest.mark.filterwarnings("ignore:Grid size")]

RATES = [0.01, 0.02, 0.05]
N, BATCH = 301, 128  # the last batch is short
# After some steps: rounding differs, and optimizers divide by small numbers.
TRAINED = {"float32": {"rtol": 2e-4, "atol": 2e-5}, "float64": {"rtol": 1e-9, "atol": 1e-11}}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_networks_are_trained_side_by_side(dtype):
    """As on the CPU, with everything that a layer keeps and an epoch draws."""
    rng = np.random.default_rng(0)
    x, y, weights = rng.standard_normal((N, 6)), rng.integers(0, 3, N), rng.uniform(0.2, 2, N)
    layers = [fn.Dense(24, "tanh", l2=1e-3), fn.BatchNorm(), fn.Dropout(0.3), fn.Dense(3, "softmax")]
    one = fn.Population(fn.Sequential(layers, n_inputs=6, seed=3, dtype=dtype), 3)
    other = fn.Population(fn.Sequential(layers, n_inputs=6, seed=3, dtype=dtype), 3).to("cuda")
    for _ in range(2):
        wanted, found = (
            each.fit(x, y, "cross_entropy", fn.Adam(clip_norm=0.5), 2, BATCH, RATES, sample_weight=weights).loss
            for each in (one, other)
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-4)
    np.testing.assert_allclose(other.parameters.copy_to_host(), one.parameters, **TRAINED[dtype])
    np.testing.assert_allclose(other.predict(x), one.predict(x), **TRAINED[dtype])
    found = other.evaluate(x, y, "cross_entropy", weights)
    np.testing.assert_allclose(found, one.evaluate(x, y, "cross_entropy", weights), rtol=1e-4)
