"""The arithmetic of the optimizers: one scalar rule each, and the once-a-step numbers it needs.

A rule is a plain function of one parameter, its gradient and its slots::

    rule(p, g, s0, s1, s2, c) -> (p, s0, s1, s2)

``c`` holds up to 12 coefficients of the current step. It is written in the parameters' dtype with the module's
``sqrt``, ``flush`` and ``abs`` only, so that CPU and GPU compile the same source. ``begin_*`` runs once a step, in
float64 as PyTorch does, and returns the coefficients: whatever depends on the step count or the learning rate is
folded there and not in the loop over the parameters.

Slots that decay pass through ``flush``: arithmetic on subnormal numbers is many times slower on most CPUs, and
moments of parameters without gradient decay into them within a thousand steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from numba.np.numpy_support import as_dtype

from fastnn._jit import SCALAR_FASTMATH, Native, scalar

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


# Memory accesses ------------------------------------------------------------------------------------------------------
# theta, grad and the slots never overlap. LLVM cannot know that and gives up vectorising where its run-time checks
# would be more than eight (three slots need ten), so each access says which of the five regions it belongs to.


def _accessors(region: int) -> tuple[Any, Any]:
    def mark(builder: Any, instruction: Any) -> None:
        module = builder.module
        domain = module.add_metadata([ir.MetaDataString(module, "fastnn.update")])
        scopes = [module.add_metadata([ir.MetaDataString(module, f"fastnn.update.{k}"), domain]) for k in range(5)]
        instruction.set_metadata("alias.scope", module.add_metadata([scopes[region]]))
        instruction.set_metadata("noalias", module.add_metadata([s for k, s in enumerate(scopes) if k != region]))

    @intrinsic
    def load(typingctx, pointer, index):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            value = builder.load(builder.gep(args[0], [args[1]]))
            mark(builder, value)
            return value

        return pointer.dtype(pointer, types.int64), codegen

    @intrinsic
    def store(typingctx, pointer, index, value):  # type: ignore[no-untyped-def]
        def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
            mark(builder, builder.store(args[2], builder.gep(args[0], [args[1]])))
            return context.get_dummy_value()

        return types.void(pointer, types.int64, pointer.dtype), codegen

    return load, store


_load_p, _store_p = _accessors(0)
_load_g, _ = _accessors(1)
_load_0, _store_0 = _accessors(2)
_load_1, _store_1 = _accessors(3)
_load_2, _store_2 = _accessors(4)


def _update_body(rule: Callable[..., Any], n_slots: int) -> Callable[..., None]:
    rule = scalar(rule)

    def body(theta, grad, slots, n, stride, coef):  # type: ignore[no-untyped-def]
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

    def body(scalars, hyper, learning_rate, coef):  # type: ignore[no-untyped-def]
        scalars[0] += 1.0
        values = begin(scalars, hyper, learning_rate)
        for k in range(len(values)):
            coef[k] = values[k]
        for k in range(len(values), N_COEFFICIENTS):
            coef[k] = 0.0

    return body


# Elementary functions of the rules ------------------------------------------------------------------------------------


def flush(x: Any) -> Any:
    """``x``, or zero where it is smaller than the smallest normal number; NaN stays."""
    return np.where(np.abs(x) < np.finfo(np.asarray(x).dtype).tiny, 0, x)[()]


@overload(flush, jit_options={"fastmath": SCALAR_FASTMATH, "error_model": "numpy"})
def _flush(x):  # type: ignore[no-untyped-def]
    tiny = np.finfo(as_dtype(x)).tiny
    zero = tiny * 0

    def flush(x):  # type: ignore[no-untyped-def]
        return zero if abs(x) < tiny else x

    return flush


# Rules ----------------------------------------------------------------------------------------------------------------
# ``decay`` is weight decay as part of the gradient, ``keep`` = 1 - lr * weight_decay where it is decoupled; the one not
# in use is 0 or 1.


def sgd(p, g, s0, s1, s2, c):  # type: ignore[no-untyped-def]
    decay, rate = c[0], c[1]
    return p - rate * (g + decay * p), s0, s1, s2


def begin_sgd(scalars, hyper, lr):  # type: ignore[no-untyped-def]
    return hyper[0], lr


def sgd_momentum(p, g, buffer, s1, s2, c):  # type: ignore[no-untyped-def]
    decay, momentum, share, rate_g, rate_b = c[0], c[1], c[2], c[3], c[4]
    g = g + decay * p
    buffer = flush(momentum * buffer + share * g)
    return p - (rate_g * g + rate_b * buffer), buffer, s1, s2


def begin_sgd_momentum(scalars, hyper, lr):  # type: ignore[no-untyped-def]
    weight_decay, momentum, dampening, nesterov = hyper[0], hyper[1], hyper[2], hyper[3]
    share = 1.0 if scalars[0] == 1.0 else 1.0 - dampening  # the buffer starts as the first gradient
    rate_g = lr if nesterov != 0.0 else 0.0
    rate_b = lr * momentum if nesterov != 0.0 else lr
    return weight_decay, momentum, share, rate_g, rate_b


def rmsprop(p, g, v, s1, s2, c):  # type: ignore[no-untyped-def]
    decay, rate, alpha, rest, eps = c[0], c[1], c[2], c[3], c[4]
    g = g + decay * p
    v = flush(alpha * v + rest * g * g)
    return p - rate * g / (sqrt(v) + eps), v, s1, s2


def rmsprop_momentum(p, g, v, buffer, s2, c):  # type: ignore[no-untyped-def]
    decay, rate, alpha, rest, eps, momentum = c[0], c[1], c[2], c[3], c[4], c[5]
    g = g + decay * p
    v = flush(alpha * v + rest * g * g)
    buffer = flush(momentum * buffer + g / (sqrt(v) + eps))
    return p - rate * buffer, v, buffer, s2


def rmsprop_centered(p, g, v, mean, s2, c):  # type: ignore[no-untyped-def]
    decay, rate, alpha, rest, eps = c[0], c[1], c[2], c[3], c[4]
    g = g + decay * p
    v = flush(alpha * v + rest * g * g)
    mean = flush(mean + rest * (g - mean))
    variance = v - mean * mean
    variance = variance - variance if variance < 0 else variance  # rounding can push it below zero
    return p - rate * g / (sqrt(variance) + eps), v, mean, s2


def rmsprop_centered_momentum(p, g, v, mean, buffer, c):  # type: ignore[no-untyped-def]
    decay, rate, alpha, rest, eps, momentum = c[0], c[1], c[2], c[3], c[4], c[5]
    g = g + decay * p
    v = flush(alpha * v + rest * g * g)
    mean = flush(mean + rest * (g - mean))
    variance = v - mean * mean
    variance = variance - variance if variance < 0 else variance
    buffer = flush(momentum * buffer + g / (sqrt(variance) + eps))
    return p - rate * buffer, v, mean, buffer


def begin_rmsprop(scalars, hyper, lr):  # type: ignore[no-untyped-def]
    weight_decay, alpha, eps, momentum = hyper[0], hyper[1], hyper[2], hyper[3]
    return weight_decay, lr, alpha, 1.0 - alpha, eps, momentum


def adagrad(p, g, total, s1, s2, c):  # type: ignore[no-untyped-def]
    decay, rate, eps = c[0], c[1], c[2]
    g = g + decay * p
    total = flush(total + g * g)
    return p - rate * g / (sqrt(total) + eps), total, s1, s2


def begin_adagrad(scalars, hyper, lr):  # type: ignore[no-untyped-def]
    weight_decay, eps, lr_decay = hyper[0], hyper[1], hyper[2]
    return weight_decay, lr / (1.0 + (scalars[0] - 1.0) * lr_decay), eps


def adadelta(p, g, v, u, s2, c):  # type: ignore[no-untyped-def]
    decay, rate, rho, rest, eps = c[0], c[1], c[2], c[3], c[4]
    g = g + decay * p
    v = flush(rho * v + rest * g * g)
    delta = sqrt(u + eps) / sqrt(v + eps) * g
    u = flush(rho * u + rest * delta * delta)
    return p - rate * delta, v, u, s2


def begin_adadelta(scalars, hyper, lr):  # type: ignore[no-untyped-def]
    weight_decay, rho, eps = hyper[0], hyper[1], hyper[2]
    return weight_decay, lr, rho, 1.0 - rho, eps


def adam(p, g, m, v, s2, c):  # type: ignore[no-untyped-def]
    decay, keep, rest1, beta2, rest2, scale, eps, rate = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    g = g + decay * p
    m = flush(m + rest1 * (g - m))
    v = flush(beta2 * v + rest2 * g * g)
    return keep * p - rate * m / (sqrt(v) * scale + eps), m, v, s2


def adam_amsgrad(p, g, m, v, largest, c):  # type: ignore[no-untyped-def]
    decay, keep, rest1, beta2, rest2, scale, eps, rate = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    g = g + decay * p
    m = flush(m + rest1 * (g - m))
    v = flush(beta2 * v + rest2 * g * g)
    largest = max(v, largest)
    return keep * p - rate * m / (sqrt(largest) * scale + eps), m, v, largest


def _adam_products(scalars, hyper):  # type: ignore[no-untyped-def]
    """beta1^t and beta2^t, kept as running products in ``scalars[1:3]``."""
    first = scalars[0] == 1.0
    scalars[1] = hyper[2] if first else scalars[1] * hyper[2]
    scalars[2] = hyper[3] if first else scalars[2] * hyper[3]
    return scalars[1], scalars[2]


_adam_products = scalar(_adam_products)


def begin_adam(scalars, hyper, lr):  # type: ignore[no-untyped-def]
    decay, decoupled, beta1, beta2, eps = hyper[0], hyper[1], hyper[2], hyper[3], hyper[4]
    power1, power2 = _adam_products(scalars, hyper)
    scale, rate = 1.0 / sqrt(1.0 - power2), lr / (1.0 - power1)
    return decay, 1.0 - lr * decoupled, 1.0 - beta1, beta2, 1.0 - beta2, scale, eps, rate


def nadam(p, g, m, v, s2, c):  # type: ignore[no-untyped-def]
    decay, keep, rest1, beta2, rest2, scale, eps, rate_g, rate_m = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7], c[8]
    g = g + decay * p
    m = flush(m + rest1 * (g - m))
    v = flush(beta2 * v + rest2 * g * g)
    return keep * p - (rate_g * g + rate_m * m) / (sqrt(v) * scale + eps), m, v, s2


def begin_nadam(scalars, hyper, lr):  # type: ignore[no-untyped-def]
    decay, decoupled, beta1, beta2, eps, momentum_decay = hyper[0], hyper[1], hyper[2], hyper[3], hyper[4], hyper[5]
    _, power2 = _adam_products(scalars, hyper)
    t = scalars[0]
    mu = beta1 * (1.0 - 0.5 * 0.96 ** (t * momentum_decay))
    mu_next = beta1 * (1.0 - 0.5 * 0.96 ** ((t + 1.0) * momentum_decay))
    scalars[3] = mu if t == 1.0 else scalars[3] * mu
    rate_g = lr * (1.0 - mu) / (1.0 - scalars[3])
    rate_m = lr * mu_next / (1.0 - scalars[3] * mu_next)
    scale = 1.0 / sqrt(1.0 - power2)
    return decay, 1.0 - lr * decoupled, 1.0 - beta1, beta2, 1.0 - beta2, scale, eps, rate_g, rate_m


def radam(p, g, m, v, s2, c):  # type: ignore[no-untyped-def]
    decay, keep, rest1, beta2, rest2, eps, rate, plain = c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]
    g = g + decay * p
    m = flush(m + rest1 * (g - m))
    v = flush(beta2 * v + rest2 * g * g)
    # The first steps are plain momentum: rate = 0 there, else plain = 0. A quotient 0 * m / 0 would be NaN.
    root = sqrt(v) + eps
    adaptive = rate * m / root if rate > 0 else m - m
    return keep * p - (adaptive + plain * m), m, v, s2


def begin_radam(scalars, hyper, lr):  # type: ignore[no-untyped-def]
    decay, decoupled, beta1, beta2, eps = hyper[0], hyper[1], hyper[2], hyper[3], hyper[4]
    power1, power2 = _adam_products(scalars, hyper)
    step = lr / (1.0 - power1)
    rho_inf = 2.0 / (1.0 - beta2) - 1.0
    rho = rho_inf - 2.0 * scalars[0] * power2 / (1.0 - power2)
    rate, plain = 0.0, step
    if rho > 5.0:
        rectify = sqrt((rho - 4.0) * (rho - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * rho))
        rate, plain = step * rectify * sqrt(1.0 - power2), 0.0
    return decay, 1.0 - lr * decoupled, 1.0 - beta1, beta2, 1.0 - beta2, eps, rate, plain


def adamax(p, g, m, u, s2, c):  # type: ignore[no-untyped-def]
    decay, rest1, beta2, eps, rate = c[0], c[1], c[2], c[3], c[4]
    g = g + decay * p
    m = flush(m + rest1 * (g - m))
    u, size = flush(beta2 * u), abs(g) + eps
    u = max(size, u)
    return p - rate * m / u, m, u, s2


def begin_adamax(scalars, hyper, lr):  # type: ignore[no-untyped-def]
    decay, beta1, beta2, eps = hyper[0], hyper[2], hyper[3], hyper[4]
    power1, _ = _adam_products(scalars, hyper)
    return decay, 1.0 - beta1, beta2, eps, lr / (1.0 - power1)


def lion(p, g, m, s1, s2, c):  # type: ignore[no-untyped-def]
    keep, rate, rest1, rest2 = c[0], c[1], c[2], c[3]
    direction = m + rest1 * (g - m)
    step = rate if direction > 0 else (-rate if direction < 0 else direction)  # zero and NaN stay what they are
    return keep * p - step, flush(m + rest2 * (g - m)), s1, s2


def begin_lion(scalars, hyper, lr):  # type: ignore[no-untyped-def]
    decoupled, beta1, beta2 = hyper[0], hyper[1], hyper[2]
    return 1.0 - lr * decoupled, lr, 1.0 - beta1, 1.0 - beta2


def rprop(p, g, previous, size, s2, c):  # type: ignore[no-untyped-def]
    minus, plus, smallest, largest = c[0], c[1], c[2], c[3]
    zero = g - g  # NaN where g is, so that NaN reaches p
    same = ((g > 0) & (previous > 0)) | ((g < 0) & (previous < 0))
    turned = ((g > 0) & (previous < 0)) | ((g < 0) & (previous > 0))
    size = size * plus if same else (size * minus if turned else size)
    size = min(max(size, smallest), largest)
    g = zero if turned else g
    step = size if g > 0 else (-size if g < 0 else zero)
    return p - step, g, size, s2


def begin_rprop(scalars, hyper, lr):  # type: ignore[no-untyped-def]
    return hyper[0], hyper[1], hyper[2], hyper[3]


def begin_custom(scalars, hyper, lr):  # type: ignore[no-untyped-def]
    """Coefficients of a user's rule: learning rate, step count, hyper-parameters."""
    t = scalars[0]
    return lr, t, hyper[0], hyper[1], hyper[2], hyper[3], hyper[4], hyper[5], hyper[6], hyper[7]


# Table ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """A rule with its natives. ``rule`` and ``begin_function`` are the plain sources, which the GPU compiles too."""

    rule: Callable[..., Any]
    begin_function: Callable[..., Any]
    n_slots: int
    begin: Native
    update: Native


def make_rule(name: str | None, rule: Callable[..., Any], begin: Callable[..., Any], n_slots: int) -> Rule:
    """Make the natives of a rule; ``name`` is their cache key, None for a user's rule (not cached)."""
    begin_name, update_name = (None, None) if name is None else (f"optimizer.{name}.begin", f"optimizer.{name}.update")
    return Rule(
        rule,
        begin,
        n_slots,
        Native(begin_name, _begin_body(begin), BEGIN_ARGUMENTS),
        Native(update_name, _update_body(rule, n_slots), UPDATE_ARGUMENTS),
    )


RULES = {
    rule.__name__: make_rule(rule.__name__, rule, begin, n_slots)
    for rule, begin, n_slots in (
        (sgd, begin_sgd, 0),
        (sgd_momentum, begin_sgd_momentum, 1),
        (rmsprop, begin_rmsprop, 1),
        (rmsprop_momentum, begin_rmsprop, 2),
        (rmsprop_centered, begin_rmsprop, 2),
        (rmsprop_centered_momentum, begin_rmsprop, 3),
        (adagrad, begin_adagrad, 1),
        (adadelta, begin_adadelta, 2),
        (adam, begin_adam, 2),
        (adam_amsgrad, begin_adam, 3),
        (nadam, begin_nadam, 2),
        (radam, begin_radam, 2),
        (adamax, begin_adamax, 2),
        (lion, begin_lion, 1),
        (rprop, begin_rprop, 2),
    )
}
