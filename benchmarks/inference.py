"""Prediction and derivatives, called from Python."""

from ._networks import data, make


class Predict:
    """``predict`` of one row, a thousand and a hundred thousand."""

    params = (("20-64-64-1", "784-128-10"), (1, 1000, 100_000))
    param_names = ("shape", "rows")

    def setup(self, shape, rows):
        self.net = make(shape)
        self.x = data(shape, rows)[0]
        self.time_predict(shape, rows)

    def time_predict(self, shape, rows):
        self.net.predict(self.x)


class Derivatives:
    """Exact derivatives of a small network on 1,000 rows."""

    def setup(self):
        shape = "20-64-64-1"
        self.net = make(shape, "tanh")
        self.x, self.y, _ = data(shape, 1000)
        self.v = self.net.parameters.copy()
        self.time_loss_and_gradients()
        self.time_input_gradients()
        self.time_jacobian()
        self.time_hessian_vector_product()

    def time_loss_and_gradients(self):
        self.net.loss_and_gradients(self.x, self.y, "mse")

    def time_input_gradients(self):
        self.net.input_gradients(self.x, self.y, "mse")

    def time_jacobian(self):
        self.net.jacobian(self.x)

    def time_hessian_vector_product(self):
        self.net.hessian_vector_product(self.x, self.y, "mse", self.v)
