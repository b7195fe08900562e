"""Every activation in the table: values and derivatives against PyTorch and differences, limits, natives, errors."""

from __future__ import annotations

import copy
import ctypes
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest

from fastnn import activations
from fastnn._jit import Native
from fastnn.activations import _base
from fastnn.activations._kernels import BLOCK

BUILT_IN = [name for name in activations.names() if activations.get(name).definition.builtin]
ELEMENTWISE = [name for name in BUILT_IN if not activations.get(name).rowwise]
ROWWISE = [name for name in BUILT_IN if activations.get(name).rowwise]
TYPES = [np.float32, np.float64]
KINKS = np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 6.0])

# The same function in PyTorch; autograd differentiates it. F is torch.nn.functional, t torch itself.
TORCH: dict[str, Callable[[Any, Any, Any], Any]] = {
    "identity": lambda t, F, x: x * 1,
    "sigmoid": lambda t, F, x: t.sigmoid(x),
    "hard_sigmoid": lambda t, F, x: F.relu6(x + 3) / 6,  # F.hardsigmoid: its gradient holds a float32 1/6
    "tanh": lambda t, F, x: t.tanh(x),
    "hard_tanh": lambda t, F, x: F.hardtanh(x),
    "relu": lambda t, F, x: t.relu(x),
    "relu6": lambda t, F, x: F.relu6(x),
    "leaky_relu": lambda t, F, x: F.leaky_relu(x),
    "elu": lambda t, F, x: F.elu(x),
    "selu": lambda t, F, x: F.selu(x),
    "celu": lambda t, F, x: F.celu(x),
    "gelu": lambda t, F, x: F.gelu(x),
    "gelu_tanh": lambda t, F, x: F.gelu(x, approximate="tanh"),
    "silu": lambda t, F, x: F.silu(x),
    "mish": lambda t, F, x: F.mish(x),
    "softplus": lambda t, F, x: F.softplus(x, threshold=1e9),
    "softsign": lambda t, F, x: F.softsign(x),
    "hard_swish": lambda t, F, x: F.hardswish(x),
    "squareplus": lambda t, F, x: (x + t.sqrt(x * x + 4)) / 2,
    "exponential": lambda t, F, x: t.exp(x),
    "sine": lambda t, F, x: t.sin(x),
    "gaussian": lambda t, F, x: t.exp(-x * x),
    "softmax": lambda t, F, x: t.softmax(x, -1),
    "log_softmax": lambda t, F, x: t.log_softmax(x, -1),
}

# (at -inf, at +inf) of the value, where it is not what the value at -1e4 and 1e4 says.
INFINITE = {"sine": (math.nan, math.nan)}

CHANGED = {
    "hard_tanh": {"min_val": -0.5, "max_val": 2.0},
    "leaky_relu": {"negative_slope": 0.2},
    "elu": {"alpha": 0.7},
    "celu": {"alpha": 1.7},
    "softplus": {"beta": 2.5},
    "squareplus": {"b": 0.5},
}


def _torch() -> tuple[Any, Any]:
    torch = pytest.importorskip("torch")
    return torch, torch.nn.functional


def _autograd(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    torch, F = _torch()
    t = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    value = TORCH[name](torch, F, t)
    (first,) = torch.autograd.grad(value.sum(), t, create_graph=True)
    second = torch.zeros_like(t)
    if first.requires_grad:
        (found,) = torch.autograd.grad(first.sum(), t, allow_unused=True)
        second = second if found is None else found
    return value.detach().numpy(), first.detach().numpy(), second.numpy()


def _call(native: Any, arrays: list[np.ndarray], shape: tuple[int, int, int], values: tuple[float, ...]) -> None:
    dtype = arrays[0].dtype
    params = np.array(values, dtype)
    kinds = [ctypes.c_void_p] * len(arrays) + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    function = ctypes.CFUNCTYPE(None, *kinds)(native.address(dtype))
    function(*[a.ctypes.data for a in arrays], *shape, params.ctypes.data)


def _points(T: Any) -> np.ndarray:
    rng = np.random.default_rng(3)
    x = np.concatenate([rng.normal(0, 3, 3000), rng.uniform(-30, 30, 500), rng.normal(0, 1e-3, 200)])
    return x.astype(T)


@pytest.mark.oracle
@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("name", sorted(set(ELEMENTWISE) & set(TORCH)))
def test_value_and_derivatives_are_pytorchs(name: str, T: Any) -> None:
    f, x = activations.get(name), _points(T)
    eps = np.finfo(T).eps
    found = f(x), f.derivative(x), f.second_derivative(x)
    scale = np.abs(x.astype(np.float64)) + 1  # z * (something near 0 or 1) rounds as z does
    for got, expected in zip(found, _autograd(name, x), strict=True):
        assert got.dtype == T
        tolerance = 6 * eps * (np.abs(expected) + np.minimum(scale, 4))
        worst = np.argmax(np.abs(got - expected) / tolerance)
        assert abs(got[worst] - expected[worst]) <= tolerance[worst], (x[worst], got[worst], expected[worst])


@pytest.mark.oracle
@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("name", sorted(set(ELEMENTWISE) & set(TORCH)))
def test_kinks_are_pytorchs(name: str, T: Any) -> None:
    f, x = activations.get(name), KINKS.astype(T)
    found = f(x), f.derivative(x), f.second_derivative(x)
    for got, expected in zip(found, _autograd(name, x), strict=True):
        np.testing.assert_allclose(got, expected, rtol=8 * np.finfo(T).eps, atol=8 * np.finfo(T).eps)


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_are_differences(name: str, changed: bool) -> None:
    f = activations.get(name)
    assert set(f.parameters) == set(CHANGED.get(name, {}))
    if changed:
        f = f.with_parameters(**CHANGED.get(name, {}))
    x = np.linspace(-8, 8, 641) + 0.00123  # no kink within h of a point
    h = 1e-5
    for value, derivative in ((f, f.derivative), (f.derivative, f.second_derivative)):
        expected = (value(x + h) - value(x - h)) / (2 * h)
        np.testing.assert_allclose(derivative(x), expected, rtol=1e-7, atol=1e-8 * max(1, np.abs(value(x)).max()))


@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_small_derivatives_keep_their_digits(name: str, T: Any) -> None:
    """Far out the derivative is tiny, not rounded to 0: compared with a float64 difference-free reference."""
    f = activations.get(name)
    x = np.array([-12.0, -9.0, 9.0, 12.0], T)
    single, double = f(x).astype(np.float64), f(x.astype(np.float64))
    # The tail of the normal distribution is 1 minus a number near 1 in gelu, as it is in PyTorch.
    np.testing.assert_allclose(single, double, rtol=3e-6, atol=1e-6 if name == "gelu" else 1e-38)


@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_and_infinity(name: str, T: Any) -> None:
    f = activations.get(name)
    x = np.tile(np.array([np.nan, -np.inf, np.inf], T), 67)
    assert np.isnan(f(x)[0::3]).all()
    with np.errstate(over="ignore"):
        limits = f(np.array([-1e4, 1e4], T)).astype(float)
    limits = np.where(np.abs(limits) >= 50, np.copysign(np.inf, limits), limits)
    limits = INFINITE.get(name, tuple(limits))
    for got, limit in zip((f(x)[1::3], f(x)[2::3]), limits, strict=True):
        np.testing.assert_allclose(got, limit, atol=1e-3)
    if name not in INFINITE:
        ends = np.array([-1e4, 1e4], T)
        np.testing.assert_allclose(f.derivative(x)[1:3], f.derivative(ends), atol=1e-3)
        np.testing.assert_allclose(f.second_derivative(x)[1:3], f.second_derivative(ends), atol=1e-3)


@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_natives_agree_in_place_and_not(name: str, T: Any) -> None:
    f = activations.get(name)
    rows, ld = 3, (BLOCK + 37) // 2  # two blocks and a rest
    z = np.random.default_rng(0).normal(0, 2, (rows, ld)).astype(T)
    shape = (rows, ld - 3, ld)
    value, slope, curvature = f(z), f.derivative(z), f.second_derivative(z)
    for native, expected in ((f.value_native, value), (f.curvature_native, curvature)):
        x = z.copy()
        _call(native, [x, x], shape, f.parameter_values)
        np.testing.assert_array_equal(x, expected)
    guard = T(12345)
    for where in ("neither", "s", "a"):
        memory = {k: np.full(z.size + 1, guard) for k in "zas"}
        memory["z"][:-1] = z.ravel()
        if where != "neither":
            memory[where] = memory["z"]
        _call(f.forward_native, [memory[k] for k in "zas"], shape, f.parameter_values)
        np.testing.assert_allclose(memory["a"][:-1].reshape(z.shape), value, rtol=4 * np.finfo(T).eps)
        np.testing.assert_array_equal(memory["s"][:-1].reshape(z.shape), slope)
        assert all(m[-1] == guard for m in memory.values())
        if where == "neither":
            np.testing.assert_array_equal(memory["z"][:-1].reshape(z.shape), z)


def _llvm(native: Any, T: Any) -> str:
    dtype = np.dtype(T)
    fresh = Native(None, native._func, native._arguments)  # code from the cache cannot be looked at
    fresh.address(dtype)
    return fresh._compiled[numba.from_dtype(dtype)].inspect_llvm()


@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("name", BUILT_IN)
def test_natives_are_vector_code_of_one_dtype(name: str, T: Any) -> None:
    f = activations.get(name)
    for part, native in f.definition.natives.items():
        llvm = _llvm(native, T)
        if T is np.float32:
            assert "double" not in llvm, part
        elif part != "value":
            continue  # float32 has shown it
        # A copy or a constant may be one call to the C library's memmove or memset instead.
        found = re.search(rf"<\d+ x {'float' if T is np.float32 else 'double'}>", llvm)
        assert found or f.second_derivative(1.0) == 0 or name == "identity", part
        if not f.rowwise:
            calls = re.findall(r"call [^@\n]*@(_ZN\w+)", llvm)
            assert all("10activation" in symbol for symbol in calls), f"{part}: a scalar was not inlined"


# Row-wise -------------------------------------------------------------------------------------------------------------


def _rows(T: Any) -> np.ndarray:
    z = np.random.default_rng(5).normal(0, 3, (9, 10)).astype(T)
    z[1] = 1e4
    z[2] = np.linspace(-1e4, 1e4, 10)
    z[3] = -1e4
    return z


@pytest.mark.oracle
@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("name", ROWWISE)
def test_rowwise_value_is_pytorchs_and_stable(name: str, T: Any) -> None:
    z = _rows(T)
    np.testing.assert_allclose(
        activations.get(name)(z), _autograd(name, z)[0], rtol=8 * np.finfo(T).eps, atol=8 * np.finfo(T).eps
    )


@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("name", ROWWISE)
def test_rowwise_nan_stays_in_its_row(name: str, T: Any) -> None:
    z = _rows(T)
    z[4, 7] = np.nan
    a = activations.get(name)(z)
    assert np.isnan(a[4]).all()
    assert np.isfinite(np.delete(a, 4, axis=0)).all()


@pytest.mark.parametrize("T", TYPES)
@pytest.mark.parametrize("name", ROWWISE)
@pytest.mark.parametrize("cols", [1, 2, 10, 16, 37])
def test_rowwise_padding_and_in_place(name: str, T: Any, cols: int) -> None:
    f, rng = activations.get(name), np.random.default_rng(cols)
    ld = -(-cols // 16) * 16
    z = rng.normal(0, 2, (5, ld)).astype(T)
    z[:, cols:] = np.inf
    for a in (np.full_like(z, 7), z.copy()):
        source = z if a[0, 0] == 7 else a
        _call(f.value_native, [source, a], (5, cols, ld), (0.0, 0.0))
        np.testing.assert_array_equal(a[:, :cols], f(z[:, :cols]))
        np.testing.assert_array_equal(a[:, cols:], 0)


@pytest.mark.parametrize("cols", [2, 10, 37])
@pytest.mark.parametrize("name", ROWWISE)
def test_rowwise_derivatives(name: str, cols: int) -> None:
    """All three against the Jacobian and differences of it, in float64."""
    f, rng = activations.get(name), np.random.default_rng(cols)
    shape = (4, cols, cols + 3)
    z, rz, d, rd = (rng.normal(0, 1, (4, cols)) for _ in range(4))

    def padded(x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(np.pad(x, ((0, 0), (0, 3)), constant_values=np.nan))

    def jacobian(z: np.ndarray) -> np.ndarray:  # (4, cols, cols)
        p = activations.get("softmax")(z)
        if name == "softmax":
            return p[:, :, None] * (np.eye(cols) - p[:, None, :])
        return np.eye(cols) - p[:, None, :]

    J, h = jacobian(z), 1e-6
    np.testing.assert_allclose(
        (f(z + h * rz) - f(z - h * rz)) / (2 * h), np.einsum("nij,nj->ni", J, rz), rtol=1e-6, atol=1e-9
    )
    a, ra, gradient, got = padded(f(z)), padded(rz), padded(d), padded(rd)
    _call(f.tangent_native, [a, ra], shape, (0.0, 0.0))
    np.testing.assert_allclose(ra[:, :cols], np.einsum("nij,nj->ni", J, rz), atol=1e-14)
    _call(f.tangent_backward_native, [a, ra, gradient, got], shape, (0.0, 0.0))
    np.testing.assert_array_equal(gradient[:, :cols], d)

    def pulled(s: float) -> np.ndarray:
        return np.einsum("nij,ni->nj", jacobian(z + s * rz), d + s * rd)

    np.testing.assert_allclose(got[:, :cols], (pulled(h) - pulled(-h)) / (2 * h), rtol=1e-6, atol=1e-8)
    _call(f.backward_native, [a, gradient], shape, (0.0, 0.0))
    np.testing.assert_allclose(gradient[:, :cols], pulled(0.0), atol=1e-14)


# Objects --------------------------------------------------------------------------------------------------------------


def test_every_name_is_an_attribute() -> None:
    for name in BUILT_IN:
        assert getattr(activations, name) is activations.get(name)
        assert activations.get(name).name == name
    assert activations.get(None) is activations.identity
    assert activations.get(activations.relu) is activations.relu
    assert [name for name in BUILT_IN if not activations.get(name).trainable] == ["step"]
    assert [name for name in BUILT_IN if activations.get(name).gate] == ["relu"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_objects_are_values(name: str) -> None:
    f = activations.get(name).with_parameters(**CHANGED.get(name, {}))
    assert len(f.parameter_values) == 2
    f.value_native.address(np.dtype(np.float32))  # what is compiled must not travel
    for other in (
        pickle.loads(pickle.dumps(f)),
        copy.deepcopy(f),
        activations.get(name).with_parameters(**f.parameters),
    ):
        assert other == f
        assert hash(other) == hash(f)
        assert other.parameters == f.parameters == CHANGED.get(name, {})
    assert (f == activations.get(name)) == (name not in CHANGED)
    assert name in repr(f)


def test_arrays_of_any_kind() -> None:
    f = activations.relu
    assert f([[-1, 2]]).dtype == np.float64
    assert f(np.float32(3)).shape == ()
    assert f(np.zeros((0, 3))).shape == (0, 3)
    x = np.asfortranarray(np.random.default_rng(0).normal(size=(3, 4)).astype(">f4"))[:, ::2]
    x.flags.writeable = False
    np.testing.assert_array_equal(f(x), np.maximum(x, 0))
    np.testing.assert_allclose(activations.softmax(np.zeros((2, 3, 4))), 0.25)
    with pytest.raises(ValueError, match="row-wise"):
        activations.softmax.derivative([1.0, 2.0])


@pytest.mark.parametrize("bad", ["relux", "RELU"])
def test_unknown_names_list_the_nearest(bad: str) -> None:
    with pytest.raises(ValueError, match="did you mean 'relu"):
        activations.get(bad)


def test_bad_arguments() -> None:
    with pytest.raises(TypeError, match="activation must be"):
        activations.get(3)  # type: ignore[arg-type]
    for bad in (True, "1", math.nan, math.inf, 1j, None):
        with pytest.raises((TypeError, ValueError), match="alpha"):
            activations.elu.with_parameters(alpha=bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha"):
        activations.celu.with_parameters(alpha=0)
    with pytest.raises(ValueError, match="negative_slope"):
        activations.leaky_relu.with_parameters(slope=0.1)
    with pytest.raises(ValueError, match="no parameters"):
        activations.relu.with_parameters(slope=0.1)
    with pytest.raises(ValueError, match="min_val"):
        activations.hard_tanh.with_parameters(min_val=1.0)
    for array in (["a"], [1j], None):
        with pytest.raises(TypeError, match="x must"):
            activations.relu(array)


# A user's own ---------------------------------------------------------------------------------------------------------


def _bent(z):  # type: ignore[no-untyped-def]
    return (math.sqrt(z * z + 1) - 1) / 2 + z


def _bent_slope(z):  # type: ignore[no-untyped-def]
    return z / (2 * math.sqrt(z * z + 1)) + 1


def _bent_curvature(z):  # type: ignore[no-untyped-def]
    return 0.5 * (z * z + 1) ** -1.5


@pytest.fixture
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_base, "_table", dict(_base._table))


@pytest.mark.usefixtures("_table")
@pytest.mark.parametrize("T", TYPES)
def test_from_functions(T: Any) -> None:
    f = activations.from_functions("bent", _bent, _bent_slope, _bent_curvature)
    assert activations.get("bent") is f
    x = _points(T)
    wide = x.astype(np.float64)
    for got, expected in (
        (f(x), (np.sqrt(wide**2 + 1) - 1) / 2 + wide),
        (f.derivative(x), wide / (2 * np.sqrt(wide**2 + 1)) + 1),
        (f.second_derivative(x), 0.5 * (wide**2 + 1) ** -1.5),
    ):
        assert got.dtype == T
        np.testing.assert_allclose(got, expected, rtol=16 * np.finfo(T).eps, atol=16 * np.finfo(T).eps)
    again = pickle.loads(pickle.dumps(f))
    assert again == f
    np.testing.assert_array_equal(again(x), f(x))
    assert f.trainable
    assert not f.gate
    assert not f.rowwise


@pytest.mark.usefixtures("_table")
def test_from_functions_without_second_derivative_and_with_a_kink() -> None:
    f = activations.from_functions("leaky", lambda z: z if z > 0.5 else 0.1 * z + 0.45, lambda z: 1 if z > 0.5 else 0.1)
    np.testing.assert_allclose(f.derivative([0.0, 1.0]), [0.1, 1])
    with pytest.raises(ValueError, match="without a second derivative"):
        f.second_derivative([1.0])
    # Defined again, as one does in a notebook.
    assert activations.from_functions("leaky", lambda z: z * z, lambda z: 2 * z) is activations.get("leaky")


@pytest.mark.usefixtures("_table")
@pytest.mark.parametrize("atan", [np.arctan, math.atan])
def test_functions_that_are_not_python_s_serve_too(atan: Any) -> None:
    f = activations.from_functions("angle", atan, lambda z: 1 / (1 + z * z))
    np.testing.assert_allclose(f(np.linspace(-3, 3, 17)), np.arctan(np.linspace(-3, 3, 17)), rtol=1e-15)


@pytest.mark.usefixtures("_table")
def test_from_functions_refuses() -> None:
    before = activations.names()

    def square(z):  # type: ignore[no-untyped-def]
        return z * z

    with pytest.raises(ValueError, match=r"derivative is not the derivative of value: at z = .* gives .* differences"):
        activations.from_functions("mine", square, square)
    with pytest.raises(ValueError, match="second_derivative is not"):
        activations.from_functions("mine", square, lambda z: 2 * z, lambda z: 3.0)
    with pytest.raises(ValueError, match="is not the derivative"):
        activations.from_functions("mine", square, lambda z: 2 * z if z < 2 else math.nan)
    with pytest.raises(ValueError, match="built-in"):
        activations.from_functions("relu", square, lambda z: 2 * z)
    with pytest.raises(ValueError, match="value cannot be compiled"):
        activations.from_functions("mine", lambda z: np.linalg.nothing(z), square)
    with pytest.raises(ValueError, match="derivative cannot be compiled"):
        activations.from_functions("mine", square, lambda z, w: z)
    with pytest.raises(ValueError, match="value must return a real number"):
        activations.from_functions("mine", lambda z: None, square)
    with pytest.raises(TypeError, match="derivative must be a function"):
        activations.from_functions("mine", square, 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name must be"):
        activations.from_functions("", square, square)
    assert activations.names() == before
