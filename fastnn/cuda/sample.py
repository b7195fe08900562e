"""A network as a device function: one thread takes one sample through all layers.

Values live in a small array of the thread's own (local memory, where the threads of a warp lie side by side), at the
places that `fastnn.plan.sample_places` gives. All threads of a warp read the same weight at once. Each row of the plan
becomes a device function with its numbers frozen in; the compiler inlines them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import _checks, plan
from fastnn import _rows as row
from fastnn.cuda._jit import cuda, device, sequence
from fastnn.cuda.intrinsics import rolled
from fastnn.cuda.scalars import activation_value, exp, log, sqrt

if TYPE_CHECKING:
    from fastnn.network import Sequential

# Outputs of a dense layer that a thread adds up at once, in registers: each value read serves as many products.
_TILE = 8
# Of all offsets and loops: a signed index would be tested for being negative at every read.
_Index = np.uint64


def _checked(net: Any) -> Sequential:
    from fastnn.network import Sequential

    if not isinstance(net, Sequential):
        raise TypeError(f"net must be a Sequential, got {_checks.describe(net)}")
    net._built()
    return net


def device_state(net: Sequential) -> Any:
    """The numbers of a network for the function that `device_predict` makes, in the GPU's memory.

    Parameters
    ----------
    net : Sequential
        One that knows its number of inputs.

    Returns
    -------
    device array, (n_parameters + n_buffers,)
        A copy: the parameters, then running means and variances. Make a new one after further training; the function
        and the kernels around it stay.

    Raises
    ------
    TypeError, ValueError
        ``net`` is no network, or does not know its number of inputs.
    """
    net = _checked(net)
    net._pull()
    return cuda.to_device(np.concatenate([net._theta, net._running]))


def device_predict(net: Sequential) -> Any:
    """The network as a function ``predict(state, x, out)`` for the user's own ``@cuda.jit`` kernels.

    One thread computes one sample in inference mode. Layers and sizes are frozen in; the parameters are the argument
    ``state``, made by `device_state`, so a network that has learned more needs a new state and nothing else.

    Parameters
    ----------
    net : Sequential
        One that knows its number of inputs. Activations of the user's own must be written with ``math``: the functions
        of NumPy do not compile here.

    Returns
    -------
    device function
        ``predict(state, x, out)``: ``x`` (n_inputs,) is read and ``out`` (n_outputs,) is written, both 1-D arrays of
        any float type and stride, such as ``X[i]``; they may be the same memory. Computation is in the network's dtype.
        As in any kernel nothing checks sizes: with another network's state it reads memory that is not its own.

    Raises
    ------
    TypeError, ValueError
        ``net`` is no network, or does not know its number of inputs.

    Notes
    -----
    A thread keeps as many numbers in local memory as the two largest neighbouring layers have together, and a GPU sets
    that aside for every thread that may be resident: meant for layers of up to some hundred units. Compile kernels
    around it without ``cache=True``: Numba's cache does not see which network a kernel calls, and may load another's.

    Examples
    --------
    >>> import numpy as np, fastnn as fn
    >>> from numba import cuda
    >>> from fastnn.cuda import device_predict, device_state
    >>> net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(2)], n_inputs=3, seed=0)
    >>> predict = device_predict(net)
    >>> @cuda.jit
    ... def predict_rows(state, X, out):
    ...     i = cuda.grid(1)
    ...     if i < X.shape[0]:
    ...         predict(state, X[i], out[i])
    >>> X = np.random.default_rng(0).standard_normal((4, 3), np.float32)
    >>> out = np.zeros((4, 2), np.float32)
    >>> predict_rows[1, 32](device_state(net), X, out)
    >>> np.allclose(out, net.predict(X), atol=1e-6)
    True
    """
    laid_out, T = _checked(net)._built(), net.dtype.type
    places = plan.sample_places(laid_out)
    size = places.size
    n_in, n_out, source, target = map(
        _Index, (laid_out.n_inputs, laid_out.n_outputs, places.rows[0].input, places.rows[-1].output)
    )
    run = sequence(list(_steps(laid_out, places, T)))

    @device
    def predict(state, x, out):
        values = cuda.local.array(size, T)
        for i in range(rolled(n_in)):
            values[source + i] = T(x[i])
        run(state, values)
        for j in range(rolled(n_out)):
            out[j] = values[target + j]

    return predict


def _steps(laid_out: plan.Plan, places: plan.SamplePlaces, T: Any) -> Iterator[Any]:
    """What each row does, as device functions of (state, values)."""
    for q, at, activation in zip(laid_out.table.tolist(), places.rows, laid_out.activations, strict=True):
        kind = q[row.KIND]
        n, w, b, source, skip, target = map(
            _Index, (q[row.N_OUT], q[row.W], max(q[row.B], 0), at.input, at.skip, at.output)
        )
        if kind == row.DENSE:
            yield from _dense(T, q[row.N_IN], q[row.N_OUT], w, b if q[row.B] >= 0 else None, source, target)
            source = target
        elif kind == row.BATCH_NORM:
            mean = _Index(laid_out.n_parameters + q[row.RUNNING])
            yield _batch_norm(T(laid_out.reals[q[row.REALS] + 1]), n, w, b, mean, source, target)
        elif kind == row.LAYER_NORM:
            yield _layer_norm(T(laid_out.reals[q[row.REALS] + 1]), n, w, b, source, target)
        elif kind == row.ADD:
            yield _add(n, source, skip, target)
        if activation is not None and q[row.ACT] == row.ROWWISE:
            yield _softmax(T, n, source, target, activation.name == "log_softmax")
        elif activation is not None and q[row.ACT] != row.IDENTITY:
            yield _elementwise(activation_value(activation, T), n, source, target)


def _dense(T, n_in, n_out, w, b, source, target):
    """Whole tiles, and what is left."""
    whole = n_out - n_out % _TILE
    for count, first, end in ((_TILE, 0, whole), (n_out - whole, whole, n_out)):
        if first < end:
            yield _columns(T, count, _Index(first), _Index(end), _Index(n_in), _Index(n_out), w, b, source, target)


def _columns(T, size, first, end, n_in, n_out, w, b, source, target):
    """Columns of a dense layer, ``size`` at a time: sums along k, started from the bias as on the CPU."""
    biased, count, one = b is not None, _Index(size), _Index(1)
    b = b if biased else w  # not read

    @device
    def columns(state, values):
        sums = cuda.local.array(size, T)  # becomes registers: the loops over it are unrolled
        for j in range(first, rolled(end), count):
            for c in range(count):
                sums[c] = state[b + j + c] if biased else T(0)
            k, stop, at = source, rolled(source + n_in), w + j
            while k < stop:  # range would count its rounds beside k
                x = values[k]
                for c in range(count):
                    sums[c] += x * state[at + c]
                k += one
                at += n_out
            for c in range(count):
                values[target + j + c] = sums[c]

    return columns


def _elementwise(function, n, source, target):
    @device
    def elementwise(state, values):
        for j in range(rolled(n)):
            values[target + j] = function(values[source + j])

    return elementwise


def _softmax(T, n, source, target, logarithm):
    @device
    def softmax(state, values):
        largest = values[source]  # a NaN need not be it: the sum meets every number
        for j in range(rolled(n)):
            largest = values[source + j] if values[source + j] > largest else largest
        total = T(0)
        for j in range(rolled(n)):
            z = values[source + j] - largest
            e = exp(z)
            total += e
            values[target + j] = z if logarithm else e
        rest = log(total) if logarithm else T(1) / total
        for j in range(rolled(n)):
            value = values[target + j]
            values[target + j] = value - rest if logarithm else value * rest

    return softmax


def _batch_norm(eps, n, gain, bias, mean, source, target):
    variance, one = mean + n, type(eps)(1)

    @device
    def batch_norm(state, values):
        for j in range(rolled(n)):
            normal = (values[source + j] - state[mean + j]) * (one / sqrt(state[variance + j] + eps))
            values[target + j] = state[gain + j] * normal + state[bias + j]

    return batch_norm


def _layer_norm(eps, n, gain, bias, source, target):
    T = type(eps)

    @device
    def layer_norm(state, values):
        total, square = T(0), T(0)
        for j in range(rolled(n)):
            total += values[source + j]
        mean = total / T(n)
        for j in range(rolled(n)):
            square += (values[source + j] - mean) * (values[source + j] - mean)
        inverse = T(1) / sqrt(square / T(n) + eps)
        for j in range(rolled(n)):
            values[target + j] = state[gain + j] * ((values[source + j] - mean) * inverse) + state[bias + j]

    return layer_norm


def _add(n, source, skip, target):
    @device
    def add(state, values):
        for j in range(rolled(n)):
            values[target + j] = values[source + j] + values[skip + j]

    return add
