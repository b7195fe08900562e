"""Optimizers as objects: state, learning rates, configuration, refusals."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from optimizer_driver import VARIANTS, variant

from fastnn import optimizers, schedules
from fastnn.optimizers import Adam, Rprop


def test_state():
    optimizer = Adam()
    assert optimizer.state is None
    assert optimizer.steps == 0
    state = optimizer.bind(5, "float32")
    assert state is optimizer.bind(5, "float32")
    assert state.slots.shape == (2, 5)
    assert state.slots.dtype == np.float32
    assert state.scalars.shape == (8,)
    with pytest.raises(ValueError, match=r"5 float32 parameters and cannot go on with 6 float32 .*reset\(\)"):
        optimizer.bind(6, "float32")
    with pytest.raises(ValueError, match="cannot go on with 5 float64"):
        optimizer.bind(5, "float64")
    twin = optimizer.copy()
    twin.state.slots[:] = 1.0
    assert (state.slots == 0).all()
    optimizer.learning_rate_factor = 0.5
    optimizer.reset()
    assert optimizer.state is None
    assert optimizer.learning_rate_factor == 1.0
    optimizer.bind(6, "float64")


def test_initial_slots():
    assert (optimizers.Adagrad(initial_accumulator_value=0.25).bind(3, "float32").slots == 0.25).all()
    assert Rprop(0.5).bind(2, "float64").slots.tolist() == [[0.0, 0.0], [0.5, 0.5]]


def test_learning_rates():
    optimizer = Adam(0.5)
    assert optimizer.learning_rates(3, 2).tolist() == [0.5, 0.5]
    optimizer.learning_rate = schedules.Exponential(1.0, 0.5)
    assert optimizer.learning_rates(1, 3).tolist() == [0.5, 0.25, 0.125]
    optimizer.learning_rate_factor = 0.5
    assert optimizer.learning_rates(1, 2).tolist() == [0.25, 0.125]
    assert optimizer.learning_rates(1, 0).shape == (0,)


@pytest.mark.parametrize("name", [*VARIANTS, "lbfgs"])
def test_config_and_text(name):
    optimizer = variant(name) if name in VARIANTS else optimizers.get(name)
    config = json.loads(json.dumps(optimizer.get_config()))
    again = optimizers.from_config(config)
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    assert repr(again) == repr(optimizer) == repr(optimizer.copy())
    assert eval(repr(optimizer), vars(optimizers)).get_config() == config | optimizer.get_config()
    assert optimizers.get(optimizer) is optimizer


def test_config_keeps_the_schedule():
    rate = schedules.Warmup(10, schedules.Cosine(0.1, 100))
    config = json.loads(json.dumps(Adam(rate, clip_norm=1).get_config()))
    assert config["learning_rate"]["name"] == "warmup"
    again = optimizers.from_config(config)
    assert again.learning_rate == rate
    assert again.clip_norm == 1.0


def test_reading_back_keeps_factor_and_state():
    optimizer = Adam()
    optimizer.bind(2, "float32").slots[:] = 3.0
    optimizer.learning_rate_factor = 0.1
    again = pickle.loads(pickle.dumps(optimizer))
    assert again.learning_rate_factor == 0.1
    assert (again.state.slots == 3.0).all()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: optimizers.get("adma"), ValueError, "adam"),
        (lambda: optimizers.get(Adam), TypeError, "class Adam"),
        (lambda: optimizers.get(3), (TypeError, ValueError), "optimizer"),
        (lambda: Adam(-0.1), ValueError, "learning_rate"),
        (lambda: Adam("0.1"), TypeError, "learning_rate"),
        (lambda: Adam(True), TypeError, "learning_rate"),
        (lambda: Adam(float("nan")), ValueError, "learning_rate"),
        (lambda: Adam(lambda t: 0.1), TypeError, "schedule"),
        (lambda: Adam(schedules.Cosine), TypeError, "class Cosine"),
        (lambda: Adam(betas=(0.9, 1.0)), ValueError, r"betas\[1\]"),
        (lambda: Adam(betas=0.9), TypeError, "betas must be a pair"),
        (lambda: Adam(betas=(0.9, 0.99, 0.999)), TypeError, "betas must be a pair"),
        (lambda: Adam(eps=-1e-8), ValueError, "eps"),
        (lambda: Adam(amsgrad=1), TypeError, "amsgrad"),
        (lambda: Adam(weight_decay=-1), ValueError, "weight_decay"),
        (lambda: Adam(clip_norm=0), ValueError, "clip_norm"),
        (lambda: Adam(clip_value="1"), TypeError, "clip_value"),
        (lambda: optimizers.SGD(nesterov=True), ValueError, "momentum > 0"),
        (lambda: optimizers.SGD(momentum=0.9, dampening=0.1, nesterov=True), ValueError, "dampening"),
        (lambda: Rprop(schedules.Cosine(0.1, 10)), TypeError, "first step"),
        (lambda: Rprop(etas=(1.2, 0.5)), ValueError, "etas"),
        (lambda: Rprop(step_sizes=(1.0, 0.1)), ValueError, "step_sizes"),
        (lambda: optimizers.LBFGS(history_size=0), ValueError, "history_size"),
        (lambda: setattr(optimizers.LBFGS(), "learning_rate", 0.1), TypeError, "line search"),
        (lambda: optimizers.LBFGS().begin_native, TypeError, "fit"),
        (lambda: setattr(Adam(), "betas", (0.5, 0.5)), AttributeError, "new optimizer"),
        (lambda: setattr(Adam(), "learning_rat", 0.5), AttributeError, "learning_rat"),
        (lambda: setattr(Adam(), "learning_rate", -1), ValueError, "learning_rate"),
        (lambda: setattr(Adam(), "learning_rate_factor", -1), ValueError, "learning_rate_factor"),
        (lambda: setattr(Adam(), "state", 3), TypeError, "OptimizerState"),
    ],
)
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_own_rule_errors():
    def fine(p, g, s0, s1, s2, c):
        return p - c[0] * g, s0, s1, s2

    def short(p, g, c):
        return p

    def three(p, g, s0, s1, s2, c):
        return p, s0, s1

    def text(p, g, s0, s1, s2, c):
        return p, "a", s1, s2

    def unknown(p, g, s0, s1, s2, c):
        return undefined_name(p), s0, s1, s2  # noqa: F821

    for rule, message in (
        (short, r"must be a function rule\(p, g, s0, s1, s2, c\)"),
        (three, r"must return \(p, s0, s1, s2\)"),
        (text, "four real numbers"),
        (unknown, "does not compile.*undefined_name"),
    ):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            optimizers.from_rule("bad", rule)
    with pytest.raises(ValueError, match="optimizer must be one of"):
        optimizers.get("bad")
    with pytest.raises(ValueError, match="built-in"):
        optimizers.from_rule("adam", fine)
    with pytest.raises(ValueError, match="n_slots"):
        optimizers.from_rule("bad", fine, n_slots=4)
    with pytest.raises(ValueError, match="clip_norm"):
        optimizers.from_rule("bad", fine, clip_norm=1.0)
    with pytest.raises(ValueError, match="at most 8"):
        optimizers.from_rule("bad", fine, **{f"h{k}": 1.0 for k in range(9)})
    with pytest.raises(TypeError, match="function"):
        optimizers.from_rule("bad", 3)
