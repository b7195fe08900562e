"""Each activation on an array that fits the first-level cache, its copies included."""

import numpy as np

import fastnn as fn


class Activation:
    """Value, and value with derivative, of 2,048 numbers; a call from Python costs some microseconds of it."""

    params = (fn.activations.names(), ("float32", "float64"))
    param_names = ("activation", "dtype")

    def setup(self, activation, dtype):
        self.x = np.random.default_rng(0).standard_normal((32, 64)).astype(dtype)
        self.function = fn.activations.get(activation)
        self.function(self.x)
        if not self.function.rowwise:
            self.function.derivative(self.x)

    def time_value(self, activation, dtype):
        self.function(self.x)

    def time_derivative(self, activation, dtype):
        if self.function.rowwise:
            raise NotImplementedError
        self.function.derivative(self.x)
