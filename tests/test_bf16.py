"""Matrix products with bfloat16 operands: against products of rounded operands, and in training."""

import llvmlite.binding as llvm
import numpy as np
import pytest
from gemm_driver import matrices, product

import fastnn as fn
from fastnn.cpu import bf16, team
from fastnn.data import load_digits

WIDTHS = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 40, 65, 130, 300]
needs_bf16 = pytest.mark.skipif(bf16.missing() is not None, reason=f"needs {bf16.missing()}")


def rounded(x):
    """To 8 bits of precision, to nearest, ties to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def bf16_product(a, b, *rest, **options):
    return product(a, b, *rest, native=bf16.gemm_bf16, **options)


@needs_bf16
@pytest.mark.parametrize("use", ["forward", "weights", "inputs"])
def test_all_edges(use):
    rng = np.random.default_rng(0)
    for _ in range(300):
        m, n, k = (int(width) for width in rng.choice(WIDTHS, 3))
        a, b = matrices(m, n, k, "float32", a_by_columns=use == "weights", b_by_columns=use == "inputs")
        init = rng.standard_normal((m, n) if use == "weights" else n).astype("float32")
        found = bf16_product(a, b, init, one_chain=use == "weights", padding=int(rng.integers(0, 3)))
        x, y = rounded(a).astype("float64"), rounded(b).astype("float64")
        bound = 3e-6 * (np.abs(x) @ np.abs(y) + np.abs(init))
        np.testing.assert_array_less(np.abs(found - x @ y - init), bound)


@needs_bf16
def test_bits_do_not_depend_on_the_rows_around_nor_on_the_cut():
    a, b = matrices(131, 70, 300, "float32")
    whole = bf16_product(a, b)
    for begin, end in ((0, 1), (3, 12), (130, 131)):
        assert bf16_product(a[begin:end].copy(), b).tobytes() == whole[begin:end].tobytes()
    a, b = matrices(40, 33, 200, "float32", a_by_columns=True)
    first = bf16_product(a.T[:64].copy().T, b[:64])
    assert bf16_product(a.T[64:].copy().T, b[64:], first).tobytes() == bf16_product(a, b).tobytes()


@needs_bf16
def test_nan_and_infinity_are_kept():
    a, b = matrices(9, 20, 33, "float32")
    a[2, 5], a[4, 32] = np.nan, np.inf
    found = bf16_product(a, b)
    assert np.isnan(found[2]).all()
    assert np.isinf(found[4]).all()
    assert np.isfinite(found[[0, 1, 3, 5, 6, 7, 8]]).all()


def digits():
    x, y = load_digits()
    order = np.random.default_rng(0).permutation(len(y))
    return (x[order] / 16).astype("float32"), y[order]


def network(**options):
    return fn.Sequential([fn.Dense(96, "relu"), fn.Dense(40, "gelu"), fn.Dense(10, "softmax")], 64, **options)


@needs_bf16
def test_training_learns_what_float32_learns():
    x, y = digits()
    accuracies = []
    for precision in (None, "bf16"):
        net = network(precision=precision)
        net.fit(x[:1400], y[:1400], epochs=30, optimizer=fn.Adam(0.003))
        accuracies.append(net.evaluate(x[1400:], y[1400:])["accuracy"])
    assert min(accuracies) >= 0.97


@needs_bf16
def test_gradients_are_those_of_float32_to_the_rounding():
    x, y = digits()
    exact, net = network(), network(precision="bf16")
    loss, gradients = net.loss_and_gradients(x, y, "cross_entropy")
    true_loss, true_gradients = exact.loss_and_gradients(x, y, "cross_entropy")
    assert loss == pytest.approx(true_loss, rel=2e-2)
    assert loss != true_loss
    for name, gradient in gradients.items():
        assert np.linalg.norm(gradient - true_gradients[name]) <= 3e-2 * np.linalg.norm(true_gradients[name])


@needs_bf16
def test_threads_leave_no_trace(monkeypatch):
    x, y = digits()
    found = []
    for threads in (1, 2):
        monkeypatch.setattr(team.Pace, "threads", property(lambda pace, threads=threads: threads))
        net = network(precision="bf16")
        net.fit(x, y, epochs=2, batch_size=333, n_threads=2)
        found.append(net.parameters.tobytes())
    assert found[0] == found[1]


@needs_bf16
def test_precision_may_be_set_and_is_copied():
    x, _ = digits()
    net = network()
    exact = net.predict(x)
    net.precision = "bf16"
    fast = net.predict(x)
    assert (fast != exact).any()
    copied = net.copy()
    assert copied.precision == "bf16"
    assert (copied.predict(x) == fast).all()
    net.precision = None
    assert (net.predict(x) == exact).all()


@needs_bf16
def test_float64_is_refused():
    with pytest.raises(ValueError, match="precision 'bf16' needs dtype 'float32', got 'float64'"):
        network(dtype="float64", precision="bf16")


def test_other_cpus_are_refused(monkeypatch):
    monkeypatch.setattr(llvm, "get_host_cpu_features", lambda: {"avx512f": True})
    net = network()
    for attempt in (lambda: network(precision="bf16"), lambda: setattr(net, "precision", "bf16")):
        with pytest.raises(ValueError, match=r"precision 'bf16' needs a CPU with AVX512_BF16, which this one \(.+\)"):
            attempt()
    assert net.precision is None
