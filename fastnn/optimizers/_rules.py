"""How a scalar update rule becomes machine code. The rules stand beside their optimizers.

A rule is a plain function of one parameter, its gradient and its slots::

    rule(p, g, s0, s1, s2, c) -> (p, s0, s1, s2)

``c`` holds up to 12 coefficients of the current step. It is written in the parameters' dtype with ``math.sqrt``
and ``abs`` only, so that CPU and GPU compile the same source. Its ``begin`` runs once a step, in float64 as
PyTorch does, and returns the coefficients: whatever depends on the step count or the learning rate is folded there and
not in the loop over the parameters. By convention ``decay`` is weight decay as part of the gradient, ``keep`` =
1 - lr * weight_decay where it is decoupled; the one not in use is 0 or 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from numba import types

from fastnn._jit import Native, kernel, native_call, scalar
from fastnn._loops import accessors

N_COEFFICIENTS = 12
N_SCALARS = 8
N_HYPER = 8


def BEGIN_ARGUMENTS(real: Any) -> tuple[Any, ...]:
    """``begin(scalars, hyper, learning_rate, coef)``: once a step; ``scalars[0]`` counts the steps."""
    double = types.CPointer(types.float64)
    return (double, double, types.float64, types.CPointer(real))


def UPDATE_ARGUMENTS(real: Any) -> tuple[Any, ...]:
    """``update(theta, grad, slots, n, stride, coef)``: slot k of element i is ``slots[k * stride + i]``."""
    pointer = types.CPointer(real)
    return (pointer, pointer, pointer, types.int64, types.int64, pointer)


_call_begin = native_call(BEGIN_ARGUMENTS, 3)


@kernel
def begin_steps(entry, scalars, hyper, rates, coefficients):
    """The coefficients (networks, steps, 12) of steps of many networks, whose rules are one and the same.

    Learning rates (networks, steps) may differ. The networks' scalars (networks, 8) go on by these steps; ``entry`` is
    that of the rule's ``begin``.
    """
    for k in range(rates.shape[0]):
        for s in range(rates.shape[1]):
            _call_begin(entry, (scalars[k].ctypes, hyper.ctypes, rates[k, s], coefficients[k, s].ctypes))


# theta, grad and the slots never overlap. LLVM cannot know that and gives up vectorising where its run-time checks
# would be more than eight (three slots need ten), so each access says which of the five regions it belongs to.
_REGIONS = ("theta", "grad", "slot0", "slot1", "slot2")
_load_p, _store_p = accessors("theta", _REGIONS)
_load_g, _ = accessors("grad", _REGIONS)
_load_0, _store_0 = accessors("slot0", _REGIONS)
_load_1, _store_1 = accessors("slot1", _REGIONS)
_load_2, _store_2 = accessors("slot2", _REGIONS)


def _update_body(rule: Callable[..., Any], n_slots: int) -> Callable[..., None]:
    rule = scalar(rule)

    def body(theta, grad, slots, n, stride, coef):
        # Loaded before the loop: a store to theta could change coef for all LLVM knows.
        first = (coef[0], coef[1], coef[2], coef[3], coef[4], coef[5])
        c = (*first, coef[6], coef[7], coef[8], coef[9], coef[10], coef[11])
        zero = type(coef[0])(0)
        for i in range(n):
            s0, s1, s2 = zero, zero, zero
            if n_slots > 0:
                s0 = _load_0(slots, i)
            if n_slots > 1:
                s1 = _load_1(slots, stride + i)
            if n_slots > 2:
                s2 = _load_2(slots, 2 * stride + i)
            p, s0, s1, s2 = rule(_load_p(theta, i), _load_g(grad, i), s0, s1, s2, c)
            _store_p(theta, i, p)
            if n_slots > 0:
                _store_0(slots, i, s0)
            if n_slots > 1:
                _store_1(slots, stride + i, s1)
            if n_slots > 2:
                _store_2(slots, 2 * stride + i, s2)

    return body


def _begin_body(begin: Callable[..., Any]) -> Callable[..., None]:
    begin = scalar(begin)

    def body(scalars, hyper, learning_rate, coef):
        scalars[0] += 1.0
        values = begin(scalars, hyper, learning_rate)
        for k in range(len(values)):
            coef[k] = values[k]
        for k in range(len(values), N_COEFFICIENTS):
            coef[k] = 0.0

    return body


@dataclass(frozen=True)
class Rule:
    """A rule with its natives. ``rule`` and ``begin_function`` are the plain sources, which the GPU compiles too."""

    rule: Callable[..., Any]
    begin_function: Callable[..., Any]
    n_slots: int
    begin: Native
    update: Native


RULES: dict[str, Rule] = {}  # the built-in ones


def make_rule(name: str | None, rule: Callable[..., Any], begin: Callable[..., Any], n_slots: int) -> Rule:
    """Make a rule; ``name`` is the key of its natives in the cache, None for a user's rule (not cached)."""
    begin_name, update_name = (None, None) if name is None else (f"optimizer.{name}.begin", f"optimizer.{name}.update")
    made = Rule(
        rule,
        begin,
        n_slots,
        Native(begin_name, _begin_body(begin), BEGIN_ARGUMENTS),
        Native(update_name, _update_body(rule, n_slots), UPDATE_ARGUMENTS),
    )
    if name is not None:
        RULES[name] = made
    return made
