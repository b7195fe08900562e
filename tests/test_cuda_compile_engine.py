"""What becomes of the CUDA engine's kernels when they are compiled: no GPU is needed for that."""

import numpy as np
import pytest
from machine_code import AMPERE, HOPPER, compiler, float64_instructions, machine_code, tensor_core_products

import fastnn as fn
from fastnn import activations, losses

pytestmark = [pytest.mark.cuda, pytest.mark.compiles]

__all__ = ["compiler"]
# A multiprocessor has 65,536 registers, and is to hold 256 threads or more.
MOST_REGISTERS = 255


def kernels(dtype, precision=None):
    """Every kernel by name: the function, its arguments in terms of types, and the threads of its blocks."""
    from fastnn.cuda import kernels, layered, population, update
    from fastnn.cuda.lone import lone_shape, wide_lone_shape
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
        "predict, lone": (kernels.predict_kernel(T, wide_lone_shape(), used, True), "iaaaaan", wide_lone_shape()),
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
    "predict, shared", "predict", "predict, lone", "derive, formula", "derive, rows", "derive alone", "train",
    "train, lone", "weigh", "layer, predict", "layer, formula", "layer, rows", "update", "move", "collect",
]  # fmt: skip


@pytest.mark.parametrize("capability", [HOPPER, AMPERE], ids=lambda pair: "sm_{}{}".format(*pair))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_kernels_stay_in_their_dtype_and_do_not_spill(compiler, name, dtype, capability, tmp_path):
    from numba.cuda import types

    made = kernels(dtype)
    assert list(made) == NAMES
    kernel, arguments, shape = made[name]
    real = getattr(types, dtype)[::1]
    kinds = {"i": types.int64[::1], "a": real, "u": types.uint64[::1]}
    kinds |= {"n": types.int64, "k": types.uint64, "b": types.boolean}
    signature = types.void(*(kinds[letter] for letter in arguments))
    assert kernel.targetoptions["launch_bounds"][0] == shape.threads
    code = machine_code(kernel, signature, capability)
    assert dtype == "float64" or ".f64" not in code.ptx
    assert "tanh.approx" not in code.ptx  # what fast-math makes of tanh
    vectors = "v4.f32" if dtype == "float32" else "v2.f64"
    assert f"ld.shared.{vectors}" in code.ptx or name in ("weigh", "update", "move", "collect")
    print(f"{name}, {dtype}, {capability}: {code.registers} registers")
    assert (code.local, code.stores, code.loads) == (0, 0, 0)
    assert code.registers <= MOST_REGISTERS
    sass = code.sass(tmp_path)
    assert bool(float64_instructions(sass)) == (dtype == "float64" and name != "move")  # which only copies
    assert tensor_core_products(sass) == 0


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("name", ["predict, shared", "layer, predict", "layer, formula"])
def test_rounded_products_are_tensor_cores(compiler, name, precision, tmp_path):
    check_rounded(name, precision, HOPPER, tmp_path)


@pytest.mark.parametrize("capability", [HOPPER, AMPERE], ids=lambda pair: "sm_{}{}".format(*pair))
@pytest.mark.parametrize("name", ["derive, rows", "train"])
def test_rounded_training_is_tensor_cores(compiler, name, capability, tmp_path):
    check_rounded(name, "bf16", capability, tmp_path)


def check_rounded(name, precision, capability, folder):
    from numba.cuda import types

    kernel, arguments, _ = kernels("float32", precision)[name]
    kinds = {"i": types.int64[::1], "a": types.float32[::1], "u": types.uint64[::1], "n": types.int64}
    signature = types.void(*((kinds | {"k": types.uint64})[letter] for letter in arguments))
    code = machine_code(kernel, signature, capability)
    assert "mma.sync.aligned.m16n8k" in code.ptx
    assert {"tf32": "tf32", "bf16": "bf16", "fp16": "f32.f16.f16.f32"}[precision] in code.ptx
    assert ".f64" not in code.ptx
    assert (code.local, code.stores, code.loads) == (0, 0, 0)
    sass = code.sass(folder)
    products = tensor_core_products(sass)
    print(f"{name}, {precision}: {code.registers} registers, {products} HMMA")
    assert products > 0
    assert not float64_instructions(sass)


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
