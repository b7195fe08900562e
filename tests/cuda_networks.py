"""The values of networks by a CUDA kernel, for tests that have a GPU or simulate one."""

import numpy as np
from layers_table import LAYERS, N_INPUTS, TOLERANCES, network, rows
from numba import cuda  # as a global: in a closure the simulator does not find it

__all__ = ["LAYERS", "N_INPUTS", "TOLERANCES", "make_kernel", "network", "predicted", "rows"]


def make_kernel(net):
    """``kernel[blocks, threads](state, X, out)``: a row for each thread."""
    from fastnn.cuda import device_predict

    predict = device_predict(net)

    @cuda.jit
    def kernel(state, X, out):
        i = cuda.grid(1)
        if i < X.shape[0]:
            predict(state, X[i], out[i])

    return kernel


def predicted(net, X, threads=4):
    """The network's values, (n, n_outputs), by a kernel."""
    from fastnn.cuda import device_state

    out = cuda.to_device(np.full((len(X), net.n_outputs), -7, net.dtype))
    make_kernel(net)[-(-len(X) // threads), threads](device_state(net), cuda.to_device(X), out)
    return out.copy_to_host()
