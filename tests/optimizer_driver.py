"""One of each optimizer's rules, and a driver of their natives."""

import ctypes

import numpy as np

from fastnn import optimizers
from fastnn.optimizers._rules import N_COEFFICIENTS

_P = ctypes.c_void_p
_BEGIN = ctypes.CFUNCTYPE(None, _P, _P, ctypes.c_double, _P)
_UPDATE = ctypes.CFUNCTYPE(None, _P, _P, _P, ctypes.c_int64, ctypes.c_int64, _P)


class Driver:
    """Runs an optimizer's natives on NumPy arrays, as the engine does inside its kernels."""

    def __init__(self, optimizer, theta):
        self.optimizer, self.theta = optimizer, theta
        self.begin = _BEGIN(optimizer.begin_native.address(theta.dtype))
        self.update = _UPDATE(optimizer.update_native.address(theta.dtype))
        state = optimizer.bind(theta.size, theta.dtype)
        self.grad = np.empty_like(theta)
        self.arrays = state.scalars, optimizer.hyper, np.empty(N_COEFFICIENTS, theta.dtype), state.slots
        scalars, hyper, coef, slots = (array.ctypes.data for array in self.arrays)
        n = theta.size
        self.begin_pointers = scalars, hyper
        self.coef = coef
        self.update_arguments = theta.ctypes.data, self.grad.ctypes.data, slots, n, n, coef

    def step(self, grad):
        self.grad[:] = grad
        rate = self.optimizer.learning_rates(self.optimizer.steps, 1)[0]
        self.begin(*self.begin_pointers, rate, self.coef)
        self.update(*self.update_arguments)


# One of each rule.
VARIANTS = {
    "sgd": {},
    "sgd_momentum": {"momentum": 0.9},
    "rmsprop": {},
    "rmsprop_momentum": {"momentum": 0.9},
    "rmsprop_centered": {"centered": True},
    "rmsprop_centered_momentum": {"centered": True, "momentum": 0.9},
    "adagrad": {},
    "adadelta": {},
    "adam": {},
    "adam_amsgrad": {"amsgrad": True},
    "adamw": {},
    "nadam": {},
    "radam": {},
    "adamax": {},
    "lion": {},
    "rprop": {},
}


def variant(name, **more):
    return optimizers.from_config({"name": name.split("_")[0]} | VARIANTS[name] | more)
