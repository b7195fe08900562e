"""The worked examples run, and come to what they promise."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.integrate

import fastnn as fn

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_surrogate():
    example = load("surrogate")
    value, _ = scipy.integrate.quad(lambda t: 2.718281828459045 ** (-1.5 * t) * t**0.5, 0, 1)
    assert abs(example.expensive(1.5, 0.0) - value) < 1e-4  # Simpson's rule beside the root at 0
    result = example.run(n_samples=50_000)
    assert result.rms_error < 2e-3
    assert abs(result.mean_of_surrogate - result.mean_of_integral) < 3e-4
    assert result.speedup > 5


@pytest.fixture(scope="module")
def neural_ode():
    return load("neural_ode")


def right_hand_side(seed=3):
    net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(2)], n_inputs=2, seed=seed, dtype="float64")
    net.parameters[:] += 0.3 * np.random.default_rng(seed).standard_normal(net.n_parameters)  # biases too
    return net


def test_the_gradient_through_the_integrator_is_exact(neural_ode):
    net = right_hand_side()
    before = net.parameters.copy()
    starts = np.random.default_rng(0).uniform(-1.5, 1.5, (3, 2))
    observed = neural_ode.observe(starts, neural_ode.INTERVAL * np.arange(8))

    def loss(parameters):
        net.parameters[:] = parameters
        return neural_ode.trajectory_loss(net.jit_state(), observed, np.empty((3, 7, 5, 2)))

    h = 1e-5
    differences = np.array([(loss(before + e) - loss(before - e)) / (2 * h) for e in h * np.eye(before.size)])
    net.parameters[:] = before
    state = net.jit_state(fn.SGD(1.0), neural_ode.PRODUCT, batch_size=3 * 7 * 4)
    assert neural_ode.training_step(state, observed) == loss(before)
    net.load_jit_state(state)
    gradient = before - net.parameters
    assert np.linalg.norm(gradient - differences) < 1e-6 * np.linalg.norm(differences)


def test_the_integrators_have_their_order(neural_ode):
    net, start, times = right_hand_side(), np.array([1.0, -0.5]), np.linspace(0.0, 2.0, 21)

    def slope(_, z):
        return net.predict(z[None])[0]

    exact = scipy.integrate.solve_ivp(slope, (0, 2), start, "DOP853", times, rtol=1e-13, atol=1e-13).y.T

    def error(method, steps):
        state, z = net.jit_state(), start
        for _ in range(steps):
            x = np.empty((len(method) + 1, 2))
            neural_ode.step(state, method, 2 / steps, z, x, np.empty((len(method), 2)))
            z = x[-1]
        return np.linalg.norm(z - exact[-1])

    for method, order in ((neural_ode.RK4, 4), (neural_ode.DORMAND_PRINCE, 5)):
        assert abs(math.log2(error(method, 16) / error(method, 32)) - order) < 0.4
    np.testing.assert_allclose(neural_ode.solve(net.jit_state(), start, times, 1e-10), exact, atol=1e-8)


def test_neural_ode(neural_ode):
    result = neural_ode.run()
    assert result.last_loss < 1e-3 * result.first_loss
    assert result.field_error < 0.03
    assert result.path_error < 0.06


@pytest.fixture(scope="module")
def cart_pole():
    return load("cart_pole")


@pytest.mark.parametrize("right", [False, True])
def test_the_cart_and_the_pole_obey_newton(cart_pole, right):
    """Lagrange's equations of a cart and a uniform rod hold for the accelerations of a step."""
    before = np.array([0.3, -0.7, 0.15, 1.1])
    after = before.copy()
    assert cart_pole.push(after, right)
    tau, (_, velocity, angle, spin) = 0.02, before
    np.testing.assert_allclose(after[[0, 2]] - before[[0, 2]], [tau * velocity, tau * spin], rtol=1e-12)
    acceleration, turning = (after - before)[[1, 3]] / tau
    force = 1.1 * acceleration + 0.1 * 0.5 * (turning * math.cos(angle) - spin**2 * math.sin(angle))
    assert force == pytest.approx(10.0 if right else -10.0, rel=1e-9)
    torque = 4 / 3 * 0.5 * turning + acceleration * math.cos(angle)
    assert torque == pytest.approx(9.8 * math.sin(angle), rel=1e-9)


def test_an_episode_ends_at_the_limits(cart_pole):
    for position, angle, goes_on in ((2.39, 0.0, True), (2.41, 0.0, False), (0.0, 0.209, True), (0.0, -0.21, False)):
        assert cart_pole.push(np.array([position, 0.0, angle, 0.0]), True) is goes_on


def test_the_product_is_the_loss_of_reinforce(cart_pole):
    """With advantage 1 for all, it is the cross-entropy of the pushes."""
    net = fn.Sequential([fn.Dense(5, "tanh"), fn.Dense(2, "log_softmax")], n_inputs=4, seed=0, dtype="float64")
    rng = np.random.default_rng(0)
    X, rights = rng.standard_normal((20, 4)), rng.integers(0, 2, 20)
    loss, gradients = net.loss_and_gradients(X, -2.0 * np.eye(2)[rights], cart_pole.PRODUCT)  # 2: terms of a row's mean
    expected, right_gradients = net.loss_and_gradients(X, rights, "cross_entropy")
    assert loss == pytest.approx(expected, rel=1e-12)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(gradient, right_gradients[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", [1, 2])  # networks that do not balance before they have learned
def test_cart_pole(cart_pole, seed):
    result = cart_pole.run(seed)
    assert result.steps_before < 100
    assert result.steps_after >= 195
    assert result.seconds_to_learn < 20
