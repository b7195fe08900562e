"""What becomes of the kernels for narrow networks when they are compiled: no GPU is needed for that."""

import re

import numpy as np
import pytest
from machine_code import AMPERE, HOPPER, compiler, float64_instructions, machine_code, tensor_core_products

import fastnn as fn
from fastnn.losses._base import KINDS

pytestmark = [pytest.mark.cuda, pytest.mark.compiles]

__all__ = ["compiler"]  # a fixture


def check(kernel, signature, shape, capability, name, folder):
    """Products are tensor cores', nothing is float64, and all that a thread has is in registers."""
    assert kernel.targetoptions["launch_bounds"][0] == shape.threads
    code = machine_code(kernel, signature, capability)
    kind = {"bf16": r"m16n8k16.*bf16", "fp16": r"m16n8k16.*f32\.f16\.f16", "tf32": r"m16n8k8.*tf32"}[shape.precision]
    assert re.search(rf"mma\.sync\.aligned\.{kind}", code.ptx)
    assert ".f64" not in code.ptx
    assert "tanh.approx" not in code.ptx  # what fast-math makes of tanh
    assert (code.local, code.stores, code.loads) == (0, 0, 0)
    # All warps of a block are resident at once.
    assert code.registers <= 65536 // shape.threads
    sass = code.sass(folder)
    products = tensor_core_products(sass)
    print(f"{name}, {shape}: {code.registers} registers, {products} HMMA")
    assert products > 0
    assert not float64_instructions(sass)


CASES = [
    *((width, precision, HOPPER) for width in (16, 32, 64, 128) for precision in ("bf16", "tf32")),
    (64, "fp16", HOPPER),
    (64, "bf16", AMPERE),
    (64, "tf32", AMPERE),
]


@pytest.mark.parametrize("width, precision, capability", CASES)
def test_forward(compiler, width, precision, capability, tmp_path):
    from numba.cuda import types

    from fastnn.cuda import fused

    reals, n = types.float32[::1], types.int64
    signature = types.void(types.int64[::1], n, reals, reals, n, reals, n)
    shape = fused.shape_for(width, precision)
    activations = (fn.activations.get("gelu"), fn.activations.get("tanh")) if width == 64 else ()
    check(fused.forward_kernel(shape, activations), signature, shape, capability, "forward", tmp_path)


def check_float32(kernel, signature, threads, capability, name, folder):
    """Nothing is float64 or a tensor core's, and all that a thread has is in registers; returns the machine code."""
    assert kernel.targetoptions["launch_bounds"][0] == threads
    code = machine_code(kernel, signature, capability)
    print(f"{name}, float32: {code.registers} registers")
    assert ".f64" not in code.ptx
    assert "tanh.approx" not in code.ptx
    assert (code.local, code.stores, code.loads) == (0, 0, 0)
    assert code.registers <= 65536 // threads
    sass = code.sass(folder)
    assert not float64_instructions(sass)
    assert tensor_core_products(sass) == 0
    return sass


def products_and_loads(sass):
    """Of each stretch of machine code with no label in it: products, and loads of four numbers from shared memory."""
    stretches = re.findall(r"(?:^(?!\.L_).*\n)+", sass, re.MULTILINE)
    return {(each.count("FFMA"), each.count("LDS.128")) for each in stretches}


@pytest.mark.parametrize("capability", [HOPPER, AMPERE], ids=lambda pair: "sm_{}{}".format(*pair))
@pytest.mark.parametrize("names", [(), ("gelu", "tanh")])
def test_forward_in_float32(compiler, names, capability, tmp_path):
    from numba.cuda import types

    from fastnn.cuda import fused_float32

    reals, n = types.float32[::1], types.int64
    signature = types.void(types.int64[::1], n, n, reals, reals, n, reals, n)
    kernel = fused_float32.forward_kernel(tuple(map(fn.activations.get, names)))
    threads = 32 * fused_float32.MOST_WARPS
    assert kernel.targetoptions["launch_bounds"][0] == threads
    sass = check_float32(kernel, signature, threads, capability, "forward", tmp_path)
    # Of 8 rows and 8 columns along 8 k, in the loop of the widest cut.
    assert (512, 32) in products_and_loads(sass)


# Width, precision, warps and parts, loss, activations beside ReLU, capability.
TRAINING = [
    (16, "bf16", 8, 1, "mse", (), HOPPER),
    (32, "bf16", 8, 1, "cross_entropy", ("gelu",), HOPPER),
    (64, "bf16", 8, 1, "mse", (), HOPPER),
    (64, "bf16", 8, 1, "cross_entropy", ("gelu", "tanh"), HOPPER),
    (64, "fp16", 8, 1, "cross_entropy", (), HOPPER),
    (32, "bf16", 8, 2, "cross_entropy", ("tanh",), HOPPER),
    (128, "bf16", 8, 1, "mse", ("tanh",), HOPPER),
    (16, "tf32", 8, 1, "mse", (), HOPPER),
    (32, "tf32", 8, 1, "cross_entropy", ("tanh",), HOPPER),
    (64, "bf16", 8, 1, "cross_entropy", ("gelu",), AMPERE),
]


@pytest.mark.parametrize("width, precision, warps, parts, loss, activations, capability", TRAINING)
def test_training(compiler, width, precision, warps, parts, loss, activations, capability, tmp_path):
    from numba.cuda import types

    from fastnn.cuda import fused_training

    reals, indices, n, real = types.float32[::1], types.int64[::1], types.int64, types.float32
    head = (indices, n, indices, *(reals,) * 4, indices, n, n, n, n)
    signature = types.void(*head, real, real, reals, *(real,) * 4, n, reals, reals)
    shape = fused_training.TrainingShape(width, precision, warps, parts)
    formula = None if loss == "cross_entropy" else KINDS[loss]
    kernel = fused_training.training_kernel(shape, tuple(fn.activations.get(name) for name in activations), formula)
    check(kernel, signature, shape, capability, f"training, {loss}, {activations}", tmp_path)


# Width, one block alone, loss, activations beside ReLU, capability.
TRAINING_IN_FLOAT32 = [
    (64, False, "mse", (), HOPPER),
    (64, False, "cross_entropy", ("gelu", "tanh"), HOPPER),
    (32, False, "cross_entropy", ("tanh",), HOPPER),
    (64, False, "huber", ("elu",), AMPERE),
    (64, True, "mse", ("gelu",), HOPPER),
    (64, True, "cross_entropy", ("gelu",), AMPERE),
    (32, True, "mse", ("tanh",), HOPPER),
]


@pytest.mark.parametrize("width, alone, loss, names, capability", TRAINING_IN_FLOAT32)
def test_training_in_float32(compiler, width, alone, loss, names, capability, tmp_path):
    from numba.cuda import types

    from fastnn.cuda import kernels
    from fastnn.cuda.fused_float32_layout import NarrowShape

    reals, indices, n, real = types.float32[::1], types.int64[::1], types.int64, types.float32
    activations, source = tuple(map(fn.activations.get, names)), fn.losses.get(loss).resolve("identity", 3).source
    if alone:
        shape = NarrowShape(width, 8, 2, 16, 4)
        signature = types.void(indices, *(reals,) * 6, indices, reals, types.uint64[::1], *(n,) * 6)
        kernel = kernels.train_kernel(np.float32, shape, activations, source, fn.Adam(amsgrad=True).rule)
    else:
        shape = NarrowShape(width, 8, 1, 32, 8)
        head = (indices, n, n, n, *(reals,) * 4, indices, *(n,) * 5)
        signature = types.void(*head, real, reals, n, reals, reals)
        kernel = kernels.narrow_kernel(shape, activations, source)
    sass = check_float32(kernel, signature, shape.threads, capability, f"training, {loss}, {names}", tmp_path)
    found = products_and_loads(sass)
    # Of 4 rows of the gradients of weights, in a loop; of 8 k forwards and backwards.
    rows = shape.part_rows // 4
    assert (rows * width // 2, rows + width // 8) in found
    assert (32 * shape.lane_rows, 2 * (4 + shape.lane_rows)) in found
