"""A network inside the user's own CUDA kernel, one thread a sample; skipped where there is no GPU."""

import numpy as np

from ._networks import make


class DevicePredict:
    """2**18 rows that lie on the GPU, launch included."""

    params = (("20-64-64-1", "4-32-16-4"),)
    param_names = ("shape",)

    def setup(self, shape):
        try:
            from numba import cuda

            from fastnn.cuda import device_predict, device_state
        except ImportError as error:
            raise NotImplementedError(str(error)) from error
        if cuda.config.ENABLE_CUDASIM or not cuda.is_available():
            raise NotImplementedError("there is no GPU")
        net = make(shape, "tanh")
        predict, self.synchronize = device_predict(net), cuda.synchronize

        @cuda.jit
        def kernel(state, X, out):
            i = cuda.grid(1)
            if i < X.shape[0]:
                predict(state, X[i], out[i])

        x = np.random.default_rng(0).standard_normal((1 << 18, net.n_inputs), np.float32)
        self.kernel = kernel[len(x) // 128, 128]
        self.arrays = device_state(net), cuda.to_device(x), cuda.device_array((len(x), net.n_outputs), np.float32)
        self.time_predict(shape)

    def time_predict(self, shape):
        self.kernel(*self.arrays)
        self.synchronize()
