"""Each activation on an array that fits the first-level cache, its copies included."""

import numpy as np

import fastnn as fn

_DTYPES = ("float32", "float64")
_ELEMENTWISE = tuple(name for name in fn.activations.names() if not fn.activations.get(name).rowwise)


class _OnAnArray:
    """2,048 numbers; a call from Python costs some microseconds of it."""

    params = (fn.activations.names(), _DTYPES)
    param_names = ("activation", "dtype")

    def setup(self, activation, dtype):
        self.x = np.random.default_rng(0).standard_normal((32, 64)).astype(dtype)
        self.function = fn.activations.get(activation)
        self.function(self.x)


class Value(_OnAnArray):
    """Values alone."""

    def time_value(self, activation, dtype):
        self.function(self.x)


class Derivative(_OnAnArray):
    """Value and derivative together, as the forward pass of training computes them."""

    params = (_ELEMENTWISE, _DTYPES)

    def setup(self, activation, dtype):
        super().setup(activation, dtype)
        self.function.derivative(self.x)

    def time_derivative(self, activation, dtype):
        self.function.derivative(self.x)
