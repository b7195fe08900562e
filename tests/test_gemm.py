"""The matrix product against NumPy in float64: all paths, all edges, and the bits that must not move."""

import numpy as np
import pytest
from gemm_driver import matrices, product

from fastnn._rows import GATE, SCALE

WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 31, 32, 33, 47, 64, 65, 130, 140]
TOLERANCE = {"float32": 3e-6, "float64": 1e-14}


def assert_product(found, a, b, init=0.0):
    exact = a.astype("float64") @ b.astype("float64")
    scale = np.abs(a).astype("float64") @ np.abs(b).astype("float64")
    np.testing.assert_array_less(
        np.abs(found - exact - init), TOLERANCE[str(a.dtype)] * (scale + np.abs(init)) + 1e-300
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("use", ["forward", "weights", "inputs"])
def test_all_edges(use, dtype):
    rng = np.random.default_rng(0)
    for _ in range(400):
        m, n, k = (int(width) for width in rng.choice(WIDTHS, 3))
        a, b = matrices(m, n, k, dtype, a_by_columns=use == "weights", b_by_columns=use == "inputs")
        padding = int(rng.integers(0, 3))
        assert_product(product(a, b, one_chain=use == "weights", padding=padding), a, b)
        init = rng.standard_normal((m, n) if use == "weights" else n).astype(dtype)
        found = product(a, b, init, one_chain=use == "weights", padding=padding)
        assert_product(found, a, b, init)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("m", "n", "k"), [(300, 1030, 520), (64, 700, 800), (530, 40, 2100), (70, 12, 1100)])
def test_large_ones(m, n, k, dtype):
    """Beyond the cache, B is copied in blocks and C is gone over several times."""
    for a_by_columns, b_by_columns in ((False, False), (True, False), (False, True)):
        a, b = matrices(m, n, k, dtype, a_by_columns, b_by_columns)
        bias = np.arange(n, dtype=dtype)
        assert_product(product(a, b, bias, one_chain=a_by_columns), a, b, bias)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("n", "k"), [(1, 40), (6, 100), (10, 1100), (15, 33), (20, 30), (33, 9), (64, 64), (1100, 600)]
)
def test_a_row_does_not_depend_on_the_rows_around_it(n, k, dtype):
    a, b = matrices(131, n, k, dtype)
    bias = np.linspace(-1, 1, n).astype(dtype)
    whole = product(a, b, bias)
    for begin, end in ((0, 1), (0, 5), (3, 7), (8, 24), (24, 131), (130, 131)):
        part = product(np.ascontiguousarray(a[begin:end]), b, bias)
        assert (part.view(np.uint8) == whole[begin:end].view(np.uint8)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("m", "n"), [(1, 1), (9, 1), (1, 9), (40, 6), (17, 16), (33, 70)])
def test_a_chain_goes_on_where_it_stopped(m, n, dtype):
    """dW of a batch has the same bits however the batch is cut."""
    a, b = matrices(m, n, 77, dtype, a_by_columns=True)
    whole = product(a, b, one_chain=True)
    for cut in (1, 16, 76):
        first = product(a.T[:cut].copy().T, b[:cut], one_chain=True)
        both = product(a.T[cut:].copy().T, b[cut:], first, one_chain=True)
        assert (both.view(np.uint8) == whole.view(np.uint8)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("b_by_columns", [False, True])
@pytest.mark.parametrize(("m", "n", "k"), [(5, 3, 7), (21, 40, 300), (16, 10, 64)])
def test_epilogues(m, n, k, b_by_columns, dtype):
    a, b = matrices(m, n, k, dtype, b_by_columns=b_by_columns)
    a[0, 0] = np.nan
    plain = product(a, b)
    assert np.isnan(plain[0]).all()
    e = np.random.default_rng(1).standard_normal((m, n)).astype(dtype)
    e[-1, -1] = np.nan
    scale = TOLERANCE[dtype] * 100 * np.sqrt(k)
    np.testing.assert_allclose(product(a, b, low=0.0), np.where(plain < 0, 0, plain), atol=scale)
    np.testing.assert_allclose(product(a, b, epilogue=SCALE, e=e), plain * e, atol=scale)
    gated = np.where((e > 0) | np.isnan(e), plain, 0)
    np.testing.assert_allclose(product(a, b, epilogue=GATE, e=e), gated, atol=scale)
