"""Predictions and Jacobians of a whole array: what Python calls."""

from __future__ import annotations

import numpy as np

from fastnn import _rows as row
from fastnn._jit import kernel
from fastnn.cpu.simd import as_pointer, pointer, shift
from fastnn.cpu.steps import backward, forward, frame
from fastnn.cpu.subnormals import flush_subnormals, restore_subnormals
from fastnn.cpu.walk import call_forward, copy_matrix

# Positions in the array of addresses and sizes that `predict_few` takes.
PLAN, N_ROWS, ENTRY, REALS, THETA, RUNNING, SPACE, SHARED, PIECE, N_ADDRESSES = range(10)


@kernel
def predict_few(places, x, out):
    """`predict` for no more rows than a piece; False, and nothing of use in ``out``, if x holds NaN or infinity.

    A call from Python unpacks every array it is given, which takes longer than a small network: so all but x and out
    are addresses.
    """
    like, integers = pointer(x, 0), pointer(places, 0)
    rows, n_in, n_out = x.shape[0], x.shape[1], out.shape[1]
    T = type(x[0, 0])
    rest = T(0)
    for i in range(rows * n_in):
        rest += like[i] * T(0)
    if not rest == T(0):
        return False
    before = flush_subnormals()
    p = as_pointer(places[PLAN], integers)
    space, piece = as_pointer(places[SPACE], like), places[PIECE]
    call_forward(
        places[ENTRY],
        (
            p, places[N_ROWS], as_pointer(places[REALS], like), as_pointer(places[THETA], like),
            as_pointer(places[RUNNING], like), space, as_pointer(places[SHARED], like), piece, like, n_in, 0, rows, 0,
            np.uint64(0), 0,
        ),
    )  # fmt: skip
    last = shift(p, (places[N_ROWS] - 1) * row.WIDTH)
    copy_matrix(shift(space, last[row.OUT] * piece), last[row.LD_OUT], pointer(out, 0), n_out, rows, n_out)
    restore_subnormals(before)
    return True


@kernel
def predict(work, share_, x, out):
    """out (n, O) = the network's values for x (n, I)."""
    before = flush_subnormals()
    f, n, n_in = frame(work, share_), x.shape[0], x.shape[1]
    source, target = pointer(x, 0), pointer(out, 0)
    last = shift(f.plan, (f.n_rows - 1) * row.WIDTH)
    n_out, ld_out = last[row.N_OUT], last[row.LD_OUT]
    values = shift(f.space, last[row.OUT] * f.piece)
    for done in range(0, n, f.piece):
        rows = min(f.piece, n - done)
        forward(f, shift(source, done * n_in), n_in, 0, rows, done, np.uint64(0), 0)
        copy_matrix(values, ld_out, shift(target, done * n_out), n_out, rows, n_out)
    restore_subnormals(before)


@kernel
def jacobian(work, share_, x, out):
    """out (n, O, I) = d output / d input: one backward pass an output, seeded with a unit vector."""
    before = flush_subnormals()
    f, n, n_in = frame(work, share_), x.shape[0], x.shape[1]
    T = type(work.reals[0])
    source, target = pointer(x, 0), pointer(out, 0)
    last = shift(f.plan, (f.n_rows - 1) * row.WIDTH)
    n_out, ld_out = last[row.N_OUT], last[row.LD_OUT]
    seed = shift(f.space, last[row.D_OUT] * f.piece)
    for done in range(0, n, f.piece):
        rows = min(f.piece, n - done)
        at = shift(source, done * n_in)
        forward(f, at, n_in, 0, rows, done, np.uint64(0), row.KEEP)
        for k in range(n_out):
            for i in range(rows * ld_out):
                seed[i] = T(0)
            for i in range(rows):
                seed[i * ld_out + k] = T(1)
            dx = shift(target, (done * n_out + k) * n_in)
            backward(f, dx, n_out * n_in, 0, rows, row.KEEP, 1)
    restore_subnormals(before)
