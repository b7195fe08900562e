"""What becomes of the CUDA engine's kernels when they are compiled: no GPU is needed for that."""

import numpy as np
import pytest
from test_cuda_compile import compiler, ptx_of, resources

import fastnn as fn
from fastnn import activations, losses

pytestmark = [pytest.mark.cuda, pytest.mark.compiles]

__all__ = ["compiler"]
CAPABILITIES = [(9, 0), (8, 0)]
# A multiprocessor has 65,536 registers, and is to hold 256 threads or more.
MOST_REGISTERS = 255


def kernels(dtype, precision=None):
    """Every kernel by name: the function, its arguments in terms of types, and the threads of its blocks."""
    from fastnn.cuda import kernels, layered, population, update
    from fastnn.cuda.lone import lone_shape
    from fastnn.cuda.product import small_shape, stream_shape

    T, stream, small = (
        np.dtype(dtype).type,
        stream_shape(np.dtype(dtype), precision),
        small_shape(np.dtype(dtype), precision),
    )
    used = tuple(activations.get(name) for name in ("tanh", "gelu"))
    formula = losses.get("mse").resolve("identity", 3).source
    rows = losses.get("cross_entropy").resolve("identity", 3).source
    rule = fn.Adam(amsgrad=True).rule
    return {
        "predict, shared": (kernels.predict_kernel(T, stream, used, True), "iaaaaan", stream),
        "predict": (kernels.predict_kernel(T, stream, used, False), "iaaaaan", stream),
        "derive, formula": (kernels.derive_kernel(T, stream, used, formula), "iaaaaaaiaannnnnk", stream),
        "derive, rows": (kernels.derive_kernel(T, stream, used, rows), "iaaaaaaiaannnnnk", stream),
        "derive alone": (kernels.derive_kernel(T, small, used, rows), "iaaaaaaiaannnnnk", small),
        "train": (kernels.train_kernel(T, small, used, rows, rule), "iaaaaaaiaunnnnnn", small),
        "train, lone": (kernels.train_kernel(T, lone_shape(), used, rows, rule), "iaaaaaaiaunnnnnn", lone_shape()),
        "weigh": (kernels.weigh_kernel(T, stream), "aibannn", stream),
        "layer, predict": (layered.layer_kernel(T, stream, used, None), "iaaaaaaiaannnnnnknnn", stream),
        "layer, formula": (layered.layer_kernel(T, stream, used, formula), "iaaaaaaiaannnnnnknnn", stream),
        "layer, rows": (layered.layer_kernel(T, stream, used, rows), "iaaaaaaiaannnnnnknnn", stream),
        "update": (update.update_kernel(T, stream, rule), "iaaaannnbb", stream),
        "move": (population._move_kernel(), "iannannn", small),
        "collect": (update.collect_kernel(T, stream), "iaaaannb", stream),
    }


NAMES = [
    "predict, shared", "predict", "derive, formula", "derive, rows", "derive alone", "train", "train, lone", "weigh",
    "layer, predict", "layer, formula", "layer, rows", "update", "move", "collect",
]  # fmt: skip


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda pair: "sm_{}{}".format(*pair))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_kernels_stay_in_their_dtype_and_do_not_spill(compiler, name, dtype, capability):
    from numba.cuda import types

    made = kernels(dtype)
    assert list(made) == NAMES
    kernel, arguments, shape = made[name]
    real = getattr(types, dtype)[::1]
    kinds = {"i": types.int64[::1], "a": real, "u": types.uint64[::1]}
    kinds |= {"n": types.int64, "k": types.uint64, "b": types.boolean}
    signature = types.void(*(kinds[letter] for letter in arguments))
    bounds = kernel.targetoptions["launch_bounds"]
    assert bounds[0] == shape.threads
    if capability == CAPABILITIES[0]:
        ptx = ptx_of(compiler, kernel.py_func, signature, device=False)
        assert dtype == "float64" or ".f64" not in ptx
        assert "tanh.approx" not in ptx  # what fast-math makes of tanh
        vectors = "v4.f32" if dtype == "float32" else "v2.f64"
        assert f"ld.shared.{vectors}" in ptx or name in ("weigh", "update", "move", "collect")
    registers, local, stores, loads = resources(compiler, kernel.py_func, signature, capability, bounds)
    print(f"{name}, {dtype}, sm_{capability[0]}{capability[1]}: {registers} registers, {local} bytes of local memory")
    assert (local, stores, loads) == (0, 0, 0)
    assert registers <= MOST_REGISTERS


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["predict, shared", "layer, predict", "layer, formula"])
def test_rounded_products_are_tensor_cores(compiler, name, precision):
    check_rounded(compiler, name, precision)


@pytest.mark.parametrize("name", ["derive, rows", "train"])
def test_rounded_training_is_tensor_cores(compiler, name):
    check_rounded(compiler, name, "bf16")


def check_rounded(compiler, name, precision):
    from numba.cuda import types

    kernel, arguments, _ = kernels("float32", precision)[name]
    kinds = {"i": types.int64[::1], "a": types.float32[::1], "u": types.uint64[::1], "n": types.int64}
    signature = types.void(*((kinds | {"k": types.uint64})[letter] for letter in arguments))
    ptx = ptx_of(compiler, kernel.py_func, signature, device=False)
    assert "mma.sync.aligned.m16n8k" in ptx
    assert {"tf32": "tf32", "bf16": "bf16", "fp16": "f32.f16.f16.f32"}[precision] in ptx
    assert ".f64" not in ptx
    bounds = kernel.targetoptions["launch_bounds"]
    registers, local, stores, loads = resources(compiler, kernel.py_func, signature, CAPABILITIES[0], bounds)
    print(f"{name}, {precision}: {registers} registers, {local} bytes of local memory")
    assert (local, stores, loads) == (0, 0, 0)


def test_launches_with_few_blocks_are_not_warned_of(compiler, monkeypatch):
    from numba.cuda import dispatcher

    from fastnn.cuda._jit import kernel

    @kernel(128)
    def nothing():
        pass

    warned = []
    flag = "CUDA_LOW_OCCUPANCY_WARNINGS"
    monkeypatch.setattr(dispatcher, "_LaunchConfiguration", lambda *a: warned.append(getattr(dispatcher.config, flag)))
    nothing[1, 128, 0, 0]
    assert warned == [0]
    assert getattr(dispatcher.config, flag) == 1  # the user's kernels are
