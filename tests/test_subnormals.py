"""Subnormal numbers must not slow training down, and the mode that prevents it must not leak."""

import numpy as np
import pytest
from optimizer_driver import VARIANTS, variant

import fastnn as fn
from fastnn import jit

RNG = np.random.default_rng(0)


def subnormals_work():
    tiny = np.finfo(np.float32).tiny
    return (np.full(8, tiny) * np.float32(0.5) > 0).all()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", VARIANTS)
def test_no_subnormal_moments(name, dtype, threads):
    """Moments of parameters whose gradient has died become zero instead of staying subnormal."""
    options = {"betas": (0.5, 0.6)} if "betas" in variant(name).get_config() else {}
    optimizer = variant(name, **options)
    net = fn.Sequential([fn.Dense(4, bias=False)], n_inputs=3, dtype=dtype)
    x, y = RNG.standard_normal((64, 3)), RNG.standard_normal((64, 4))
    net.fit(x, y, "mse", optimizer, epochs=1, batch_size=16, n_threads=threads)
    for _ in range(8):
        net.fit(np.zeros((64 * 90, 3)), np.zeros((64 * 90, 4)), "mse", optimizer, epochs=1, batch_size=16)
        size = np.abs(optimizer.state.slots)
        assert ((size == 0) | (size >= np.finfo(dtype).tiny)).all()
    assert np.isfinite(net.parameters).all()


def test_the_mode_is_put_back():
    net = fn.Sequential([fn.Dense(4, "tanh"), fn.Dense(2)], n_inputs=3)
    x, y = RNG.standard_normal((5000, 3)), RNG.standard_normal((5000, 2))
    calls = [
        lambda: net.fit(x, y, "mse", epochs=2),
        lambda: net.predict(x),
        lambda: net.loss_and_gradients(x, y, "mse"),
        lambda: net.jacobian(x[:9]),
        lambda: net.hessian_vector_product(x, y, "mse", net.parameters),
        lambda: net.fit(1e18 * x, y, "mse", fn.SGD(1e30), epochs=1, on_divergence="restore"),
    ]
    for call in calls[:-1]:
        call()
        assert subnormals_work()
    with pytest.warns(RuntimeWarning, match="diverged"):
        calls[-1]()
    assert subnormals_work()


def test_the_mode_is_put_back_by_compiled_functions_also_on_errors():
    net = fn.Sequential([fn.Dense(4, "tanh"), fn.Dense(2)], n_inputs=3)
    x, labels, out = RNG.standard_normal((40, 3)), RNG.integers(0, 2, 40), np.zeros((40, 2))
    state = net.jit_state("adam", "cross_entropy", batch_size=16)
    jit.predict(state, x[0], out[0])
    jit.predict_batch(state, x, out)
    jit.input_gradient(state, x[0], out[0], x[1])
    jit.jacobian(state, x[0], out[:2, :2].repeat(2, axis=1)[:, :3])
    jit.train_step(state, x[:16], labels[:16])
    jit.train_epoch(state, x, labels)
    assert subnormals_work()
    for call in (
        lambda: jit.predict(state, x[0], out),
        lambda: jit.predict_batch(state, x, x),
        lambda: jit.train_step(state, x[:16], labels[:16] + 5),
        lambda: jit.train_epoch(state, x, labels + 5),
    ):
        with pytest.raises(ValueError, match="jit"):
            call()
        assert subnormals_work()


def test_kernels_treat_subnormals_as_zero():
    net = fn.Sequential([fn.Dense(1, bias=False)], n_inputs=1)
    net.parameters[:] = 1
    assert net.predict([[np.float32(1e-40)]])[0, 0] == 0
    assert net.predict([[np.float32(1e-30)]])[0, 0] == np.float32(1e-30)
