"""Natives called in compiled loops, as the engine calls them, so that no time holds a call from Python.

Every loop begins with the number of rounds, and a round does the same work on the same numbers as the one before.
"""

import statistics
import time

from numba import njit

from fastnn._jit import native_call
from fastnn.activations import FORWARD_ARGUMENTS, VALUE_ARGUMENTS
from fastnn.activations._kernels import copy
from fastnn.cpu.gemm import call_gemm
from fastnn.cpu.simd import pointer
from fastnn.losses import LOSS_ARGUMENTS
from fastnn.optimizers import BEGIN_ARGUMENTS, UPDATE_ARGUMENTS

_BLOCK_SECONDS = 2e-3  # long beside what a clock and the call of a loop take
_BLOCKS = 5

_call_begin = native_call(BEGIN_ARGUMENTS, 3)
_call_update = native_call(UPDATE_ARGUMENTS, 0)
_call_value = native_call(VALUE_ARGUMENTS, 0)
_call_value_and_slope = native_call(FORWARD_ARGUMENTS, 0)
_call_loss = native_call(LOSS_ARGUMENTS, 0)


def seconds(loop, *arguments):
    """Seconds of one round of ``loop(rounds, *arguments)``: the median of several blocks of rounds.

    Processor time: on a busy machine a block may wait as long as it runs.
    """

    def block(rounds):
        begin = time.process_time()
        loop(rounds, *arguments)
        return time.process_time() - begin

    loop(1, *arguments)  # compiles it
    rounds = 1
    while (taken := block(rounds)) < _BLOCK_SECONDS:
        rounds *= max(2, round(_BLOCK_SECONDS / max(taken, 0.01 * _BLOCK_SECONDS)))
    return statistics.median(block(rounds) for _ in range(_BLOCKS)) / rounds


@njit
def products(rounds, gemm, sizes, a, a_strides, b, b_strides, c, start, modes, e, low):
    """``modes``: chained, one_chain and epilogue of `fastnn.cpu.gemm.gemm_arguments`; C and e have n columns."""
    m, n, k = sizes
    chained, one_chain, epilogue = modes
    for _ in range(rounds):
        call_gemm(
            gemm,
            (
                m, n, k, pointer(a, 0), a_strides[0], a_strides[1], pointer(b, 0), b_strides[0], b_strides[1],
                pointer(c, 0), n, pointer(start, 0), 0, chained, one_chain, epilogue, pointer(e, 0), n, low,
            ),
        )  # fmt: skip


@njit
def updates(rounds, begin, update, theta, grad, slots, scalars, hyper, rate, coefficients):
    """Steps of an optimizer; ``begin`` is called once, since it belongs to a step and not to its parameters."""
    _call_begin(begin, (pointer(scalars, 0), pointer(hyper, 0), rate, pointer(coefficients, 0)))
    for _ in range(rounds):
        _call_update(
            update,
            (pointer(theta, 0), pointer(grad, 0), pointer(slots, 0), theta.size, theta.size, pointer(coefficients, 0)),
        )


@njit
def copies(rounds, a, b):
    """Copies to and fro: a compiler could leave out all but the last of equal ones."""
    for k in range(rounds):
        if k % 2 == 0:
            copy(pointer(b, 0), pointer(a, 0), 0, a.size)
        else:
            copy(pointer(a, 0), pointer(b, 0), 0, a.size)


@njit
def values(rounds, native, z, a, rows, cols, params):
    """Values of an activation."""
    for _ in range(rounds):
        _call_value(native, (pointer(z, 0), pointer(a, 0), rows, cols, cols, pointer(params, 0)))


@njit
def values_and_slopes(rounds, native, z, a, s, rows, cols, params):
    """Values and derivatives of an activation, as the forward pass of training computes them."""
    for _ in range(rounds):
        _call_value_and_slope(
            native, (pointer(z, 0), pointer(a, 0), pointer(s, 0), rows, cols, cols, pointer(params, 0))
        )


@njit
def losses(rounds, native, o, y, y_cols, labels, weights, d, rows, cols, scale, row_losses, params):
    """Row losses and gradient of a loss."""
    for _ in range(rounds):
        _call_loss(
            native,
            (
                pointer(o, 0), cols, pointer(y, 0), y_cols, labels, pointer(weights, 0), pointer(d, 0), cols,
                rows, cols, scale, pointer(row_losses, 0), pointer(params, 0),
            ),
        )  # fmt: skip
