"""The arithmetic of the losses: one table, held against PyTorch, central differences and the contract."""

import re

import numba
import numpy as np
import pytest
from losses_table import ONE_PER_NATIVE, TABLE, N, draw, evaluate, is_per_class, kinks, name_of_row

from fastnn._jit import Native
from fastnn.losses import BinaryCrossEntropy, CrossEntropy, Focal, KLDivergence, LogCosh


def widths(rows, *choices):
    """Rows of the table with each number of columns; one column has no classes to compare."""
    pairs = [(row, cols) for row in rows for cols in choices if cols > 1 or not is_per_class(*row[:2])]
    return [pytest.param(row, cols, id=f"{name_of_row(row)}-{cols}") for row, cols in pairs]


@pytest.mark.oracle
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-10), (np.float32, 1e-5)], ids=["f8", "f4"])
@pytest.mark.parametrize("row, cols", widths(TABLE, 1, 3, 10, 37))
def test_against_torch(oracle, row, dtype, tolerance, cols):
    torch = oracle("torch")
    loss, activation, _, peer = row
    o, y, labels = draw(row, cols)
    rng = np.random.default_rng(1)
    w = np.round(rng.random(N), 2)
    w[::4] = 0
    r = rng.normal(size=o.shape)
    o, r = o.astype(dtype), r.astype(dtype)

    x = torch.tensor(o.astype(np.float64), requires_grad=True)
    per_row = peer(torch, x, torch.tensor(y))
    per_row = per_row.mean(dim=1) if per_row.ndim == 2 else per_row
    weights = torch.tensor(w.astype(dtype).astype(np.float64))
    total = (weights * per_row).sum() / weights.sum()
    (g,) = torch.autograd.grad(total, x, create_graph=True)
    hv = np.zeros_like(o)
    if g.requires_grad:
        hv = torch.autograd.grad(g, x, torch.tensor(r.astype(np.float64)))[0].numpy(force=True)

    row_losses, d, second = evaluate(loss, o, y, w, labels, r, activation, padding=3)
    scale = max(1.0, float(np.abs(row_losses).max()))
    np.testing.assert_allclose(row_losses, (weights * per_row).detach().numpy(), rtol=tolerance, atol=tolerance * scale)
    np.testing.assert_allclose(d, g.detach().numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(second, hv, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("row, cols", widths([row for row in TABLE if row[2] is not kinks], 1, 5))
def test_against_differences(row, cols):
    loss, activation, *_ = row
    o, y, labels = draw(row, cols, seed=2)
    w = np.random.default_rng(3).random(N)
    v = np.random.default_rng(4).normal(size=o.shape)
    _, d, second = evaluate(loss, o, y, w, labels, v, activation)
    h = 1e-6
    (up, d_up, _), (down, d_down, _) = (
        evaluate(loss, o + s * h * v, y, w, labels, activation=activation) for s in (1, -1)
    )
    np.testing.assert_allclose((d * v).sum(1) * w.sum(), (up - down) / (2 * h), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(second, (d_up - d_down) / (2 * h), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f4", "f8"])
@pytest.mark.parametrize("row, cols", widths(ONE_PER_NATIVE.values(), 1, 3, 10, 33))
def test_in_place_is_the_same(row, cols, dtype):
    loss, activation, _ = row
    o, y, labels = draw(row, cols)
    for padding in (0, 6):
        a = evaluate(loss, o.astype(dtype), y, None, labels, None, activation, True, padding)
        b = evaluate(loss, o.astype(dtype), y, None, labels, None, activation, False, padding)
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


@pytest.mark.parametrize("cols", [3, 33])
@pytest.mark.parametrize("row", ONE_PER_NATIVE.values(), ids=list(ONE_PER_NATIVE))
def test_a_row_does_not_depend_on_its_neighbours(row, cols):
    loss, activation, _ = row
    o, y, labels = draw(row, cols)
    o = o.astype(np.float32)
    whole = evaluate(loss, o, y, None, labels, np.ones_like(o), activation)
    for i in (0, 9, N - 1):
        alone = evaluate(loss, o[i : i + 1], y[i : i + 1], None, labels, np.ones_like(o[:1]), activation)
        np.testing.assert_array_equal(alone[0], whole[0][i : i + 1])  # bit for bit
        for a, b in zip(alone[1:], whole[1:], strict=True):
            np.testing.assert_allclose(a / N, b[i : i + 1], rtol=1e-5, atol=1e-8)  # another scale


@pytest.mark.parametrize("row, cols", widths(ONE_PER_NATIVE.values(), 1, 4))
def test_weight_zero_and_nan(row, cols):
    loss, activation, _ = row
    o, y, labels = draw(row, cols)
    o = o.astype(np.float32)
    w = np.ones(N)
    w[:4] = 0
    o[0], o[1], o[2] = np.inf, -np.inf, 3e38
    o[3, 0] = np.nan
    o[5, -1] = np.nan
    row_losses, d, second = evaluate(loss, o, y, w, labels, np.ones_like(o), activation)
    assert (row_losses[:3] == 0).all()
    assert (d[:3] == 0).all()
    assert (second[:3] == 0).all()
    assert np.isnan(row_losses[[3, 5]]).all()
    assert np.isnan(d[3, 0])
    assert np.isnan(d[5, -1])
    fine = [i for i in range(N) if i not in (0, 1, 2, 3, 5)]
    assert np.isfinite(row_losses[fine]).all()
    assert np.isfinite(d[fine]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["f4", "f8"])
def test_extreme_logits(dtype):
    logits = np.array([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], dtype)
    labels = np.array([[0], [1], [2]], dtype)
    r = np.ones_like(logits) * [1, 2, 3]
    row_losses, d, second = evaluate(CrossEntropy(), logits, labels, None, True, r, "softmax")
    np.testing.assert_allclose(row_losses, [0, 2e4, np.log(3)], rtol=1e-6)
    np.testing.assert_allclose(d * 3, [[0, 0, 0], [1, -1, 0], [1 / 3, 1 / 3, -2 / 3]], atol=1e-6)
    np.testing.assert_allclose(second[:2], 0, atol=1e-6)
    for loss in (KLDivergence(), Focal(), Focal(0.5)):
        for out in evaluate(loss, logits, labels, None, True, r, "softmax"):
            assert np.isfinite(out).all()
    z = np.array([[1e4], [1e4], [-1e4], [-1e4], [0.0]], dtype)
    t = np.array([[1], [0], [1], [0], [1]], dtype)
    row_losses, d, second = evaluate(BinaryCrossEntropy(), z, t, None, False, np.ones_like(z), "sigmoid")
    np.testing.assert_allclose(row_losses, [0, 1e4, 1e4, 0, np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(d[:, 0] * 5, [0, 1, -1, 0, -0.5], rtol=1e-6)
    for gamma in (0.0, 0.5, 2.0):
        row_losses, d, second = evaluate(Focal(gamma), z, t, None, False, np.ones_like(z), "sigmoid")
        np.testing.assert_allclose(row_losses, [0, 1e4, 1e4, 0, 0.5**gamma * np.log(2)], rtol=1e-5)
        assert np.isfinite(d).all()
        assert np.isfinite(second).all()
    row_losses, d, _ = evaluate(LogCosh(), z, 0 * z)
    np.testing.assert_allclose(row_losses, [1e4 - np.log(2)] * 4 + [0], rtol=1e-6)


@pytest.mark.parametrize("dtype, rtol", [(np.float32, 2e-6), (np.float64, 2e-15)], ids=["f4", "f8"])
def test_small_losses_keep_their_digits(dtype, rtol):
    e = np.array([[1e-3], [1e-4]], dtype)
    x = e.astype(np.longdouble)[:, 0]
    np.testing.assert_allclose(evaluate(LogCosh(), e, 0 * e)[0], np.log1p(2 * np.sinh(x / 2) ** 2), rtol=rtol)
    z = np.array([[20.0], [-30.0]], dtype)
    t = np.array([[1.0], [0.0]], dtype)
    row_losses, d, _ = evaluate(BinaryCrossEntropy(), z, t, activation="sigmoid")
    np.testing.assert_allclose(row_losses, np.exp([-20.0, -30.0]), rtol=1e-5)
    np.testing.assert_allclose(d[:, 0] * 2, np.exp([-20.0, -30.0]) * [-1, 1], rtol=1e-5)


@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(0.2), KLDivergence(), Focal()], ids=repr)
def test_labels_equal_one_hot(loss):
    rng = np.random.default_rng(0)
    o, r = rng.normal(size=(2, N, 10))
    y = rng.integers(0, 10, N)
    results = [
        evaluate(loss, o, targets, None, labels, r, "softmax")
        for targets, labels in (
            (y[:, None], True),
            loss.prepare_targets(y, 10, np.float64),
            loss.prepare_targets(np.eye(10, dtype=int)[y], 10, np.float64),
        )
    ]
    for result in results[1:]:
        for a, b in zip(results[0], result, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", list(ONE_PER_NATIVE))
def test_float32_code_holds_no_float64_and_is_vectorised(kind):
    loss, activation, _ = ONE_PER_NATIVE[kind]
    resolved = loss.resolve(activation, 3)
    for native in (resolved.native, resolved.tangent_native):
        native.address(np.dtype(np.float32))
        compiled = native._compiled[numba.float32]
        if compiled.cache_hits:  # loaded code has no text
            fresh = Native(None, native._func, native._arguments)
            fresh.address(np.dtype(np.float32))
            compiled = fresh._compiled[numba.float32]
        code = compiled.inspect_llvm()
        assert "double" not in code
        assert re.search(r"<\d+ x float>", code)
        called = set(re.findall(r"call [^\n]*@(_ZN\w+)", code))
        assert not [name for name in called if "4loss" not in name], "a formula is not inlined"
