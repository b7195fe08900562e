"""Schedules against PyTorch's, and as objects."""

from __future__ import annotations

import json
import pickle
import warnings

import numpy as np
import pytest

from fastnn import schedules as s

ALL = [
    s.Constant(0.1),
    s.Step(0.1, every=7, factor=0.5),
    s.Exponential(0.1, factor=0.9),
    s.Polynomial(0.1, steps=20, power=2.0),
    s.Cosine(0.1, steps=20, final=0.01),
    s.CosineRestarts(0.1, steps=5, multiplier=2, final=0.01),
    s.OneCycle(0.1, steps=50),
    s.Warmup(10, then=0.1),
    s.Warmup(10, then=s.Cosine(0.1, 20), start=0.02),
]

# Ours, the steps that are compared, PyTorch's scheduler and its keywords; the optimizer's rate is 0.1.
TORCH = [
    (s.Constant(0.1), 50, "ConstantLR", {"factor": 1.0}),
    (s.Step(0.1, every=7, factor=0.5), 50, "StepLR", {"step_size": 7, "gamma": 0.5}),
    (s.Step(0.1, every=3), 20, "StepLR", {"step_size": 3}),
    (s.Exponential(0.1, factor=0.9), 50, "ExponentialLR", {"gamma": 0.9}),
    (s.Polynomial(0.1, steps=20), 40, "PolynomialLR", {"total_iters": 20}),
    (s.Polynomial(0.1, steps=20, power=2.0), 40, "PolynomialLR", {"total_iters": 20, "power": 2.0}),
    (s.Cosine(0.1, steps=40), 41, "CosineAnnealingLR", {"T_max": 40}),
    (s.Cosine(0.1, steps=40, final=0.01), 41, "CosineAnnealingLR", {"T_max": 40, "eta_min": 0.01}),
    (s.CosineRestarts(0.1, steps=7), 50, "CosineAnnealingWarmRestarts", {"T_0": 7}),
    (
        s.CosineRestarts(0.1, steps=3, multiplier=2, final=0.01),
        200,
        "CosineAnnealingWarmRestarts",
        {"T_0": 3, "T_mult": 2, "eta_min": 0.01},
    ),
    (
        s.CosineRestarts(0.1, steps=1, multiplier=3),
        300,
        "CosineAnnealingWarmRestarts",
        {"T_0": 1, "T_mult": 3},
    ),
    (s.OneCycle(0.1, steps=50), 50, "OneCycleLR", {"max_lr": 0.1, "total_steps": 50}),
    (
        s.OneCycle(0.1, steps=47, pct_start=0.25, anneal="linear", div_factor=10.0, final_div_factor=100.0),
        47,
        "OneCycleLR",
        {
            "max_lr": 0.1,
            "total_steps": 47,
            "pct_start": 0.25,
            "anneal_strategy": "linear",
            "div_factor": 10.0,
            "final_div_factor": 100.0,
        },
    ),
    *((s.OneCycle(0.1, steps=n), n, "OneCycleLR", {"max_lr": 0.1, "total_steps": n}) for n in (1, 2, 3, 4, 7)),
    (s.OneCycle(0.1, steps=4, pct_start=0.0), 4, "OneCycleLR", {"max_lr": 0.1, "total_steps": 4, "pct_start": 0.0}),
    (s.Warmup(10, then=0.1, start=0.02), 30, "LinearLR", {"start_factor": 0.2, "total_iters": 10}),
]


@pytest.mark.oracle
@pytest.mark.parametrize(("schedule", "n", "name", "options"), TORCH, ids=[f"{c[2]}-{k}" for k, c in enumerate(TORCH)])
def test_pytorch(oracle, schedule, n, name, options):
    torch = oracle("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    reference = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
    expected = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer was not stepped
        for _ in range(n):
            expected.append(optimizer.param_groups[0]["lr"])
            if len(expected) < n:
                reference.step()
    np.testing.assert_allclose(schedule(np.arange(n)), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("schedule", ALL, ids=repr)
def test_object(schedule):
    steps = np.arange(100)
    rates = schedule(steps)
    assert rates.dtype == np.float64
    assert rates.flags.writeable
    assert [schedule(int(t)) for t in steps] == rates.tolist()
    assert isinstance(schedule(3), float)
    assert isinstance(schedule(np.int32(3)), float)
    assert schedule(steps.reshape(4, 25)).shape == (4, 25)
    assert schedule(np.arange(0)).shape == (0,)
    assert (rates >= 0).all()
    again = s.from_config(json.loads(json.dumps(schedule.get_config())))
    assert again == schedule == pickle.loads(pickle.dumps(schedule)) == eval(repr(schedule), vars(s))
    assert hash(again) == hash(schedule)
    with pytest.raises(AttributeError):
        schedule.initial = 1.0


def test_last_value_is_held():
    for schedule, last in (
        (s.Polynomial(0.1, steps=20, final=0.02), 0.02),
        (s.Cosine(0.1, steps=20, final=0.01), 0.01),
        (s.OneCycle(0.1, steps=20), 0.1 / 25e4),
    ):
        np.testing.assert_allclose(schedule([20, 21, 10**9]), last, rtol=1e-12)


def test_ends():
    assert s.OneCycle(0.1, steps=10, pct_start=0.1)(0) == 0.1
    assert s.OneCycle(0.1, steps=10, pct_start=1.0)(9) == pytest.approx(0.1)
    assert s.Exponential(0.1, 0.9)(10**6) == 0.0
    far = s.CosineRestarts(0.1, steps=10, multiplier=2)([10 * (2**40 - 1) - 1, 10 * (2**40 - 1)])
    assert far[0] < 1e-9
    assert far[1] == 0.1


def test_warmup_hands_over():
    then = s.Step(0.1, every=5)
    schedule = s.Warmup(4, then=then)
    assert schedule([0, 1, 2, 3]).tolist() == pytest.approx([0.0, 0.025, 0.05, 0.075])
    np.testing.assert_array_equal(schedule(np.arange(4, 30)), then(np.arange(26)))


def test_own_schedule():
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class InverseRoot(s.Schedule):
        initial: float

        def values(self, steps):
            return self.initial / np.sqrt(1.0 + steps)

    schedule = InverseRoot(1.0)
    assert schedule(3) == 0.5
    assert s.from_config(schedule.get_config()) == schedule
    assert s.Warmup(2, schedule)(5) == 0.5


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: s.Constant(-1.0), ValueError, "value"),
        (lambda: s.Step(0.1, every=0), ValueError, "every"),
        (lambda: s.Step(0.1, every=2.0), TypeError, "every"),
        (lambda: s.Exponential("a", 0.5), TypeError, "initial"),
        (lambda: s.Exponential(0.1, float("nan")), ValueError, "factor"),
        (lambda: s.Polynomial(0.1, 10, power=0.0), ValueError, "power"),
        (lambda: s.Cosine(0.1, 0), ValueError, "steps"),
        (lambda: s.CosineRestarts(0.1, 5, multiplier=0), ValueError, "multiplier"),
        (lambda: s.OneCycle(0.1, 10, pct_start=2.0), ValueError, "pct_start"),
        (lambda: s.OneCycle(0.1, 10, anneal="cosine"), ValueError, "did you mean 'cos'"),
        (lambda: s.OneCycle(0.1, 10, div_factor=0.0), ValueError, "div_factor"),
        (lambda: s.Warmup(3, then="cosine"), TypeError, "then"),
        (lambda: s.Warmup(3, then=s.Cosine), TypeError, "class Cosine"),
        (lambda: s.Constant(0.1)(-1), ValueError, "step must be >= 0"),
        (lambda: s.Constant(0.1)(1.0), TypeError, "integer"),
        (lambda: s.Constant(0.1)(True), TypeError, "integer"),
        (lambda: s.from_config({"name": "cosin"}), ValueError, "did you mean 'cosine'"),
        (lambda: s.Schedule()(0), NotImplementedError, "values"),
    ],
)
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()
