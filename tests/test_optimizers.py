"""The arithmetic of the optimizers: against PyTorch, on functions with a known minimum, and the contract."""

from __future__ import annotations

import pickle
import time

import numba
import numpy as np
import pytest
from optimizer_driver import VARIANTS, Driver, variant

from fastnn import optimizers, schedules
from fastnn.optimizers import Adam, Lion
from fastnn.optimizers._rules import RULES, make_rule

# Name, our keywords, PyTorch's class, its keywords. "lr" below means learning_rate here.
TORCH = [
    ("sgd", {}, "SGD", {}),
    ("sgd", {"lr": 0.1, "weight_decay": 0.1}, "SGD", None),
    ("sgd", {"lr": 0.1, "momentum": 0.9}, "SGD", None),
    ("sgd", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}, "SGD", None),
    ("sgd", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, "SGD", None),
    ("rmsprop", {}, "RMSprop", {}),
    ("rmsprop", {"lr": 0.02, "alpha": 0.9, "eps": 1e-5, "weight_decay": 0.1}, "RMSprop", None),
    ("rmsprop", {"momentum": 0.9, "weight_decay": 0.1}, "RMSprop", None),
    ("rmsprop", {"centered": True, "weight_decay": 0.1}, "RMSprop", None),
    ("rmsprop", {"centered": True, "momentum": 0.8}, "RMSprop", None),
    ("adagrad", {}, "Adagrad", {}),
    ("adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "weight_decay": 0.1}, "Adagrad", None),
    ("adadelta", {}, "Adadelta", {}),
    ("adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.1}, "Adadelta", None),
    ("adam", {}, "Adam", {}),
    ("adam", {"lr": 0.1, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}, "Adam", None),
    ("adam", {"lr": 0.1, "betas": (0.9, 0.9), "amsgrad": True, "weight_decay": 0.1}, "Adam", None),
    ("adam", {"betas": (0.0, 0.0)}, "Adam", None),
    ("adam", {"eps": 0.0}, "Adam", None),
    ("adamw", {}, "AdamW", {}),
    ("adamw", {"lr": 0.1, "weight_decay": 0.2, "amsgrad": True}, "AdamW", None),
    ("nadam", {}, "NAdam", {}),
    ("nadam", {"lr": 0.1, "betas": (0.8, 0.9), "momentum_decay": 0.01, "weight_decay": 0.1}, "NAdam", None),
    ("radam", {}, "RAdam", {}),
    ("radam", {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.1}, "RAdam", None),
    ("adamax", {}, "Adamax", {}),
    ("adamax", {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}, "Adamax", None),
    ("rprop", {}, "Rprop", {}),
    ("rprop", {"lr": 0.1, "etas": (0.4, 1.5), "step_sizes": (1e-2, 0.3)}, "Rprop", None),
]


def label(case):
    return "-".join([case[0], *(f"{k}={v}" for k, v in case[1].items())])


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("name", "ours", "theirs", "their_options"), TORCH, ids=[label(c) for c in TORCH])
def test_trajectory_is_that_of_pytorch(oracle, name, ours, theirs, their_options, dtype):
    torch = oracle("torch")
    options = {("learning_rate" if k == "lr" else k): v for k, v in ours.items()}
    optimizer = optimizers.from_config({"name": name} | options)
    rng = np.random.default_rng(1)
    theta = rng.normal(size=21).astype(dtype)
    target = torch.tensor(theta.copy(), requires_grad=True)
    reference = getattr(torch.optim, theirs)([target], **(ours if their_options is None else their_options))
    driver = Driver(optimizer, theta)
    default = torch.get_default_dtype()
    torch.set_default_dtype(target.dtype)  # NAdam keeps its running product in the default dtype
    try:
        for _ in range(100):
            grad = rng.normal(size=21).astype(dtype)
            driver.step(grad)
            target.grad = torch.tensor(grad)
            reference.step()
            expected = target.detach().numpy()
            tolerance = 1e-10 if dtype == "float64" else 1e-5
            np.testing.assert_allclose(theta, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())
    finally:
        torch.set_default_dtype(default)
    assert optimizer.steps == 100


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_epsilon_hat_is_added_before_the_bias_is_corrected(dtype, amsgrad):
    """``lr * sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)``, the end of section 2 of Kingma and Ba's paper."""
    b1, b2, eps, rate = 0.8, 0.9, 1e-2, 0.05
    rng = np.random.default_rng(1)
    theta = rng.normal(size=21).astype(dtype)
    expected = theta.astype(np.float64)
    m, v, largest = np.zeros((3, 21))
    optimizer = Adam(rate, betas=(b1, b2), eps=eps, amsgrad=amsgrad, epsilon_hat=True)
    driver = Driver(optimizer, theta)
    for t in range(1, 31):
        grad = rng.normal(size=21).astype(dtype) * (rng.random(21) > 0.3) * 1e-2
        driver.step(grad.astype(dtype))
        m = b1 * m + (1 - b1) * grad
        v = b2 * v + (1 - b2) * grad * grad
        largest = np.maximum(v, largest)
        root = np.sqrt(largest if amsgrad else v)
        expected -= rate * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (root + eps)
    np.testing.assert_allclose(theta, expected, rtol=1e-5 if dtype == "float32" else 1e-12)
    assert Adam(epsilon_hat=True).get_config()["epsilon_hat"] is True


def test_lion_is_that_of_its_paper():
    rng = np.random.default_rng(2)
    theta = rng.normal(size=21)
    expected, m = theta.copy(), np.zeros(21)
    driver = Driver(Lion(0.01, betas=(0.8, 0.95), weight_decay=0.1), theta)
    for t in range(100):
        grad = rng.normal(size=21)
        grad[t % 21] = 0.0
        driver.step(grad)
        expected -= 0.01 * (np.sign(0.8 * m + 0.2 * grad) + 0.1 * expected)
        m = 0.95 * m + 0.05 * grad
        np.testing.assert_allclose(theta, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.oracle
def test_schedule_is_followed_from_step_zero(oracle):
    torch = oracle("torch")
    theta = np.linspace(-1.0, 1.0, 7)
    target = torch.tensor(theta.copy(), requires_grad=True)
    reference = torch.optim.Adam([target], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(reference, 10, 0.5)
    driver = Driver(Adam(schedules.Step(0.1, 10, 0.5)), theta)
    rng = np.random.default_rng(3)
    for _ in range(40):
        grad = rng.normal(size=7)
        driver.step(grad)
        target.grad = torch.tensor(grad)
        reference.step()
        scheduler.step()
    np.testing.assert_allclose(theta, target.detach().numpy(), rtol=1e-10)


def parabola(x):
    return 0.5 * float(x @ x), x


def rosenbrock(x):
    a, b = x
    return (1 - a) ** 2 + 100 * (b - a * a) ** 2, np.array([2 * (a - 1) - 400 * a * (b - a * a), 200 * (b - a * a)])


# Learning rates of (parabola, Rosenbrock).
RATES = {
    "sgd": (0.1, 1e-3),
    "sgd_momentum": (0.05, 2e-4),
    "rmsprop": (0.01, 2e-3),
    "rmsprop_momentum": (0.005, 5e-4),
    "rmsprop_centered": (0.01, 2e-3),
    "rmsprop_centered_momentum": (0.005, 5e-4),
    "adagrad": (0.5, 0.3),
    "adadelta": (1.0, 1.0),
    "radam": (0.05, 1e-3),
    "lion": (2e-3, 1e-3),
    "rprop": (0.01, 1e-3),
}


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", VARIANTS)
def test_minimises(name, dtype):
    for k, (function, start, goal) in enumerate(
        ((parabola, (3.0, -2.0), 1e-3), (rosenbrock, (-1.0, 1.0), 1.0)),
    ):
        rate = RATES.get(name, (0.05, 0.02))[k]
        theta = np.array(start, dtype)
        driver = Driver(variant(name, learning_rate=rate), theta)
        for _ in range(2500):
            driver.step(function(theta)[1])
        assert function(theta)[0] < goal


@pytest.mark.parametrize("name", VARIANTS)
def test_two_halves_are_the_whole(name):
    grads = np.random.default_rng(4).normal(size=(20, 33))
    whole, halves = np.ones(33, "float32"), np.ones(33, "float32")
    one = Driver(variant(name), whole)
    for grad in grads:
        one.step(grad)
    optimizer = variant(name)
    first = Driver(optimizer, halves)
    for grad in grads[:10]:
        first.step(grad)
    for grad in grads[10:]:
        optimizer = pickle.loads(pickle.dumps(optimizer))
        Driver(optimizer, halves).step(grad)
    assert (whole == halves).all()
    assert optimizer.steps == 20


@pytest.mark.parametrize("n", [1, 15, 16, 17, 100])
@pytest.mark.parametrize("name", VARIANTS)
def test_elements_do_not_depend_on_their_place(name, n):
    """The vector loop and its scalar rest give the same; nothing is written past the end."""
    rng = np.random.default_rng(5)
    theta, grad = rng.normal(size=200).astype("float32"), rng.normal(size=(5, 200))
    part = theta.copy()
    driver, piece = Driver(variant(name), theta), Driver(variant(name), part[:n])
    rest = part[n:].copy()
    for g in grad:
        driver.step(g)
        piece.step(g[:n])
    assert (part[:n] == theta[:n]).all()
    assert (part[n:] == rest).all()


@pytest.mark.parametrize("name", RULES)
def test_float32_update_is_pure_and_vectorised(name):
    known = RULES[name]
    # Without a name it is compiled anew: what comes from the cache has no listing.
    update = make_rule(None, known.rule, known.begin_function, known.n_slots).update
    update.address(np.dtype("float32"))
    code = update._compiled[numba.float32].inspect_llvm()
    assert "double" not in code
    assert "vector.body" in code
    assert "vector.memcheck" not in code  # the accesses say that they do not overlap


@pytest.mark.parametrize("name", VARIANTS)
def test_nan_and_infinity_reach_the_parameters(name):
    theta = np.zeros(3, "float32")
    driver = Driver(variant(name), theta)
    driver.step([1.0, 1.0, 1.0])
    driver.step([np.nan, 1.0, np.inf])
    assert np.isnan(theta[0])
    assert np.isfinite(theta[1])
    if name not in ("lion", "rprop"):  # these use the sign only
        assert not np.isfinite(theta[2])


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_without_influence_stay(name):
    """As behind a dead unit; the default ``eps`` keeps 0 / 0 away."""
    theta = np.ones(3, "float32")
    driver = Driver(variant(name, **({"weight_decay": 0.0} if name == "adamw" else {})), theta)
    for _ in range(10):
        driver.step(0.0)
    assert (theta == 1).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_own_rule(dtype):
    def heavy_ball(p, g, velocity, age, s2, c):
        velocity = c[2] * velocity - c[0] * g
        return p + velocity, velocity, age + 1.0 / c[1], 7

    make = optimizers.from_rule("heavy_ball", heavy_ball, n_slots=2, learning_rate=0.1, friction=0.9)
    theta, same = np.ones(40, dtype), np.ones(40, dtype)
    optimizer = optimizers.get("heavy_ball")
    assert type(optimizer) is make
    assert optimizer.friction == 0.9
    driver, reference = Driver(optimizer, theta), Driver(optimizers.SGD(0.1, momentum=0.9), same)
    for _ in range(3):
        driver.step(theta)
        reference.step(same)
    np.testing.assert_allclose(theta, same, rtol=1e-6)
    np.testing.assert_allclose(optimizer.state.slots[1], 1 + 1 / 2 + 1 / 3, rtol=1e-6)
    again = pickle.loads(pickle.dumps(make(friction=0.5, clip_norm=1.0)))
    assert (again.friction, again.clip_norm, again.learning_rate) == (0.5, 1.0, 0.1)
    assert optimizers.from_config(again.get_config()).get_config() == again.get_config()
    with pytest.raises(ValueError, match="did you mean 'friction'"):
        make(fricton=0.5)


def test_lbfgs():
    seen = []
    optimizer = optimizers.LBFGS(gtol=1e-8, ftol=0.0)
    start = np.array([-1.0, 1.0], "float32")
    found = optimizer.minimize(rosenbrock, start, callback=lambda theta, value: seen.append(value))
    assert found.value < 1e-12
    assert found.converged
    assert found.iterations == len(seen) == optimizer.steps
    np.testing.assert_allclose(found.theta, 1.0, atol=1e-6)
    assert start.tolist() == [-1.0, 1.0]
    limited = optimizer.minimize(rosenbrock, start, max_iterations=3)
    assert limited.iterations == 3
    assert not limited.converged
    stopped = optimizer.minimize(rosenbrock, start, callback=lambda theta, value: True)
    assert stopped.iterations == 1
    assert optimizer.steps == len(seen) + 4
    assert optimizers.LBFGS(2).minimize(rosenbrock, start, max_iterations=9).iterations == 2


def test_long_runs_do_not_slow_down():
    """Steps without gradient take as long after 20,000 of them as after 100."""
    theta = np.ones(20_000, "float32")
    optimizer = Adam()
    driver = Driver(optimizer, theta)
    driver.step(np.random.default_rng(0).normal(size=theta.size))

    def fastest(n):
        best = np.inf
        for _ in range(n):
            start = time.perf_counter()
            driver.step(0.0)
            best = min(best, time.perf_counter() - start)
        return best

    early = fastest(100)
    optimizer.state.slots[0] *= 1e-36  # as after 900 steps; the second moments as after 20,000
    optimizer.state.slots[1] *= 2e-9
    assert fastest(100) < 3 * early
