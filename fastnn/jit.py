"""A network inside the user's own compiled code.

``Sequential.jit_state`` packs a network into a `JitState`, a plain argument of Numba functions; the functions here run
it. They are compiled once for all architectures, cached on disk, release the GIL, allocate nothing (but for `clone`),
and may also be called from Python. A state belongs to one thread at a time: give each thread a `clone`.

>>> import numpy as np, fastnn as fn
>>> from numba import njit
>>> from fastnn import jit
>>> @njit
... def walk(state, position, steps):
...     velocity = np.empty(2, np.float32)
...     for _ in range(steps):
...         jit.predict(state, position, velocity)
...         position += 0.1 * velocity
...     return position
>>> net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(2)], n_inputs=2, seed=0)
>>> walk(net.jit_state(), np.ones(2), 10).shape
(2,)

Wrong shapes raise ValueError, from compiled code too. Arrays may have any number type and memory order; they are copied
into the state.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import extending, types

from fastnn import _rows as row
from fastnn._jit import kernel, scalar
from fastnn._random import step_key
from fastnn.cpu import state as _state
from fastnn.cpu.simd import pointer, shift
from fastnn.cpu.state import JitState, clone_of, feed_of, frame_of, update_of
from fastnn.cpu.steps import backward, forward, is_finite, training_step
from fastnn.cpu.subnormals import flush_subnormals, restore_subnormals

__all__ = [
    "JitState",
    "clone",
    "input_gradient",
    "jacobian",
    "predict",
    "predict_batch",
    "set_learning_rate",
    "train_epoch",
    "train_step",
]

_overload: Any = extending.overload


@scalar
def _output(f):
    """Slot of the network's output: its pointer and row length."""
    last = shift(f.plan, (f.n_rows - 1) * row.WIDTH)
    return shift(f.space, last[row.OUT] * f.piece), last[row.LD_OUT]


@scalar
def _copy_row(x, target, n):
    T = type(target[0])
    for j in range(n):
        target[j] = T(x[j])


@scalar
def _copy_rows(x, first, rows, target, cols):
    T = type(target[0])
    for i in range(rows):
        to = shift(target, i * cols)
        for j in range(cols):
            to[j] = T(x[first + i, j])


@kernel
def predict(state, x, out):
    """The network's values for one sample, in inference mode.

    Parameters
    ----------
    state : JitState
    x : ndarray, (n_inputs,)
    out : ndarray, (n_outputs,)
        Written.
    """
    if x.ndim != 1 or x.size != state.plan[_state.N_IN]:
        raise ValueError("jit.predict: x must have shape (n_inputs,)")
    if out.ndim != 1 or out.size != state.plan[_state.N_OUT]:
        raise ValueError("jit.predict: out must have shape (n_outputs,)")
    before = flush_subnormals()
    f, n_in = frame_of(state), state.plan[_state.N_IN]
    _copy_row(x, f.x, n_in)
    forward(f, f.x, n_in, 0, 1, 0, np.uint64(0), 0)
    values, _ = _output(f)
    for j in range(out.size):
        out[j] = values[j]
    restore_subnormals(before)


@kernel
def predict_batch(state, X, out):
    """The network's values for many samples, in inference mode.

    Parameters
    ----------
    state : JitState
    X : ndarray, (n, n_inputs)
    out : ndarray, (n, n_outputs)
        Written.
    """
    if X.ndim != 2 or X.shape[1] != state.plan[_state.N_IN]:
        raise ValueError("jit.predict_batch: X must have shape (n, n_inputs)")
    if out.ndim != 2 or out.shape[0] != X.shape[0] or out.shape[1] != state.plan[_state.N_OUT]:
        raise ValueError("jit.predict_batch: out must have shape (n, n_outputs), with a row for each row of X")
    before = flush_subnormals()
    f, n_in, n = frame_of(state), X.shape[1], X.shape[0]
    values, ld = _output(f)
    for first in range(0, n, f.piece):
        rows = min(f.piece, n - first)
        _copy_rows(X, first, rows, f.x, n_in)
        forward(f, f.x, n_in, 0, rows, 0, np.uint64(0), 0)
        for i in range(rows):
            for j in range(out.shape[1]):
                out[first + i, j] = values[i * ld + j]
    restore_subnormals(before)


@kernel
def input_gradient(state, x, seed, out):
    """Gradient of ``seed . output`` with respect to one sample's inputs, exact.

    Parameters
    ----------
    state : JitState
    x : ndarray, (n_inputs,)
    seed : ndarray, (n_outputs,)
    out : ndarray, (n_inputs,)
        Written.
    """
    n_in, n_out = state.plan[_state.N_IN], state.plan[_state.N_OUT]
    if state.plan[_state.ABILITY] < _state.DIFFERENTIATES:
        raise ValueError("jit.input_gradient: an activation of this network has no useful derivative")
    if x.ndim != 1 or x.size != n_in:
        raise ValueError("jit.input_gradient: x must have shape (n_inputs,)")
    if seed.ndim != 1 or seed.size != n_out:
        raise ValueError("jit.input_gradient: seed must have shape (n_outputs,)")
    if out.ndim != 1 or out.size != n_in:
        raise ValueError("jit.input_gradient: out must have shape (n_inputs,)")
    before = flush_subnormals()
    f = frame_of(state)
    _copy_row(x, f.x, n_in)
    forward(f, f.x, n_in, 0, 1, 0, np.uint64(0), row.KEEP)
    last = shift(f.plan, (f.n_rows - 1) * row.WIDTH)
    _copy_row(seed, shift(f.space, last[row.D_OUT] * f.piece), n_out)
    backward(f, f.x, n_in, 0, 1, row.KEEP, 1)
    for j in range(n_in):
        out[j] = f.x[j]
    restore_subnormals(before)


@kernel
def jacobian(state, x, out):
    """d output / d input of one sample, exact: a backward pass an output.

    Parameters
    ----------
    state : JitState
    x : ndarray, (n_inputs,)
    out : ndarray, (n_outputs, n_inputs)
        Written.
    """
    n_in, n_out = state.plan[_state.N_IN], state.plan[_state.N_OUT]
    if state.plan[_state.ABILITY] < _state.DIFFERENTIATES:
        raise ValueError("jit.jacobian: an activation of this network has no useful derivative")
    if x.ndim != 1 or x.size != n_in:
        raise ValueError("jit.jacobian: x must have shape (n_inputs,)")
    if out.ndim != 2 or out.shape[0] != n_out or out.shape[1] != n_in:
        raise ValueError("jit.jacobian: out must have shape (n_outputs, n_inputs)")
    before = flush_subnormals()
    f = frame_of(state)
    T = type(f.x[0])
    _copy_row(x, f.x, n_in)
    forward(f, f.x, n_in, 0, 1, 0, np.uint64(0), row.KEEP)
    last = shift(f.plan, (f.n_rows - 1) * row.WIDTH)
    seed = shift(f.space, last[row.D_OUT] * f.piece)
    for k in range(n_out):
        for j in range(n_out):
            seed[j] = T(1) if j == k else T(0)
        backward(f, f.x, n_in, 0, 1, row.KEEP, 1)
        for j in range(n_in):
            out[k, j] = f.x[j]
    restore_subnormals(before)


@scalar
def _map_signs(plan, target, n):
    """The targets 0 and 1 of a hinge loss as -1 and +1."""
    T = type(target[0])
    if plan[_state.CLASSES] == _state.SIGNED:
        for i in range(n):
            if target[i] == T(0):
                target[i] = T(-1)


def _copy_targets(y, first, rows, state):
    """Copy targets into the state; compiled code only."""
    raise NotImplementedError


@_overload(_copy_targets, jit_options={"nogil": True, "error_model": "numpy"})
def _targets_body(y, first, rows, state):
    def of_labels_or_numbers(y, first, rows, state):
        p, target = state.plan, pointer(state.numbers, state.plan[_state.Y])
        T = type(target[0])
        labelled = p[_state.CLASSES] == _state.LABELLED
        if not labelled and p[_state.N_OUT] != 1:
            raise ValueError("jit: y must have shape (n, n_outputs) for this loss")
        p[_state.Y_COLS], p[_state.LABELS] = 1, labelled
        for i in range(rows):
            value = y[first + i]
            if labelled and not (value >= 0 and value < p[_state.N_OUT] and value == np.floor(value)):
                raise ValueError("jit: y must hold class labels, whole numbers from 0 to n_outputs - 1")
            target[i] = T(value)
        _map_signs(p, target, rows)

    def of_rows(y, first, rows, state):
        p = state.plan
        if y.shape[1] != p[_state.N_OUT]:
            raise ValueError("jit: y must have shape (n, n_outputs) or, for class labels or a single output, (n,)")
        p[_state.Y_COLS], p[_state.LABELS] = p[_state.N_OUT], 0
        target = pointer(state.numbers, p[_state.Y])
        _copy_rows(y, first, rows, target, p[_state.N_OUT])
        _map_signs(p, target, rows * p[_state.N_OUT])

    if isinstance(y, types.Array) and y.ndim == 1:
        return of_labels_or_numbers
    return of_rows if isinstance(y, types.Array) and y.ndim == 2 else None


@scalar
def _train(state, X, y, first, rows):
    """A training step on some rows; its loss."""
    p, n_in = state.plan, state.plan[_state.N_IN]
    _copy_rows(X, first, rows, pointer(state.numbers, p[_state.X]), n_in)
    _copy_targets(y, first, rows, state)
    f, o = frame_of(state), update_of(state)
    key = step_key(np.uint64(p[_state.KEY]), p[_state.STEP])
    mode = p[_state.MODE] | row.TRAINING | row.KEEP
    before = flush_subnormals()  # not before targets have been checked: an error would leave the mode on
    loss, _ = training_step(f, feed_of(state), o, 0, rows, mode, key, state.doubles[_state.RATE])
    restore_subnormals(before)
    if np.isfinite(loss):
        p[_state.STEP] += 1
    return loss


@scalar
def _check_training(state, X, y):
    if state.plan[_state.ABILITY] != _state.TRAINS:
        raise ValueError("jit: training needs a state made with net.jit_state(optimizer=..., loss=...)")
    if X.ndim != 2 or X.shape[1] != state.plan[_state.N_IN] or X.shape[0] == 0:
        raise ValueError("jit: X must have shape (n, n_inputs), with at least one row")
    if y.shape[0] != X.shape[0]:
        raise ValueError("jit: y must have as many rows as X")


@kernel
def train_step(state, X, y):
    """One step of the state's optimizer on one batch.

    Parameters
    ----------
    state : JitState
        Made with an optimizer and a loss; its parameters change.
    X : ndarray, (n, n_inputs)
        At most as many rows as the state's ``batch_size``.
    y : ndarray, (n,) or (n, n_outputs)
        Class labels, or numbers for a single output, or rows of numbers; for hinge losses -1 and +1, or 0 and 1.

    Returns
    -------
    float
        The mean loss before the step, penalties included. If it is not finite, nothing has changed.
    """
    _check_training(state, X, y)
    if X.shape[0] > state.plan[_state.BATCH]:
        raise ValueError("jit.train_step: X has more rows than the state's batch_size")
    return _train(state, X, y, 0, X.shape[0])


@kernel
def train_epoch(state, X, y):
    """One pass over the rows in their order, in batches of the state's ``batch_size``; the last one may be short.

    Parameters and errors as for `train_step`, for any number of rows.

    Returns
    -------
    float
        The mean loss; the first that is not finite ends the pass.
    """
    _check_training(state, X, y)
    n, batch, total = X.shape[0], state.plan[_state.BATCH], 0.0
    for first in range(0, n, batch):
        rows = min(batch, n - first)
        loss = _train(state, X, y, first, rows)
        total += loss * rows
        if not is_finite(loss):
            break
    return total / n


@kernel
def set_learning_rate(state, learning_rate):
    """The learning rate of the steps to come."""
    state.doubles[_state.RATE] = learning_rate


@kernel
def clone(state):
    """An independent copy: parameters, optimizer and workspace; one for each thread."""
    return clone_of(state)
