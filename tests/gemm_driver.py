"""Calls a native of the matrix product on NumPy arrays."""

import numpy as np
from numba import njit

from fastnn._rows import CLAMP
from fastnn.cpu.gemm import call_gemm, gemm
from fastnn.cpu.simd import pointer


@njit
def call(address, sizes, a, a_strides, b, b_strides, c, ldc, init, ldi, chained, one_chain, epilogue, e, lde, low):
    m, n, k = sizes
    call_gemm(
        address,
        (
            m, n, k, pointer(a, 0), a_strides[0], a_strides[1], pointer(b, 0), b_strides[0], b_strides[1],
            pointer(c, 0), ldc, pointer(init, 0), ldi, chained, one_chain, epilogue, pointer(e, 0), lde, low,
        ),
    )  # fmt: skip


def product(a, b, init=None, one_chain=False, epilogue=CLAMP, e=None, low=-np.inf, padding=0, native=gemm):
    """epilogue(init + a @ b), in place if ``init`` has its shape; A and B may be transposed views."""
    dtype = a.dtype
    strides = [tuple(s // dtype.itemsize for s in each.strides) for each in (a, b)]
    m, k = a.shape
    n = b.shape[1]
    c = np.full((m, n + padding), 7, dtype)
    start, ldi = c, 0
    if init is not None and init.ndim == 2:
        c[:, :n] = init
        ldi = n + padding
    elif init is not None:
        start = init
    flat = [each.reshape(-1) for each in (c, np.ascontiguousarray(start), c if e is None else e)]
    call(
        native.entry(dtype), (m, n, k), a.ravel("K"), strides[0], b.ravel("K"), strides[1], flat[0], n + padding,
        flat[0] if ldi else flat[1], ldi, int(init is not None), int(one_chain), epilogue, flat[2], n, dtype.type(low),
    )  # fmt: skip
    assert (c[:, n:] == 7).all()
    return c[:, :n]


def matrices(m, n, k, dtype, a_by_columns=False, b_by_columns=False, seed=0):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((k, m) if a_by_columns else (m, k)).astype(dtype)
    b = rng.standard_normal((n, k) if b_by_columns else (k, n)).astype(dtype)
    return a.T if a_by_columns else a, b.T if b_by_columns else b
