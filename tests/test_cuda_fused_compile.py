"""What becomes of the kernels for narrow networks when they are compiled: no GPU is needed for that."""

import re
from types import SimpleNamespace
from unittest import mock

import pytest
from test_cuda_compile import compiler  # noqa: F401

import fastnn as fn
from fastnn.losses._base import KINDS

pytestmark = [pytest.mark.cuda, pytest.mark.compiles]

HOPPER, AMPERE = (9, 0), (8, 0)


def compiled(cuda, kernel, signature, threads, capability):
    """PTX, and what the assembler says of its machine code: registers, and bytes of local memory."""
    from cuda.bindings import nvjitlink
    from numba.cuda import dispatcher

    device = SimpleNamespace(compute_capability=capability, id=0)
    with mock.patch.object(dispatcher, "get_current_device", return_value=device):
        ptx, _ = cuda.compile(
            kernel.py_func, signature, device=False, abi="numba", cc=capability, output="ptx", launch_bounds=threads
        )
    options = ["-arch=sm_{}{}".format(*capability), "-verbose"]
    linker = nvjitlink.create(len(options), options)
    nvjitlink.add_data(linker, nvjitlink.InputType.PTX, ptx.encode(), len(ptx.encode()), "kernel")
    nvjitlink.complete(linker)
    log = bytearray(nvjitlink.get_info_log_size(linker))
    nvjitlink.get_info_log(linker, log)
    registers, local = (
        int(re.search(pattern, log.decode())[1]) for pattern in (r"Used (\d+) registers", r"(\d+) bytes stack")
    )
    return ptx, registers, local


def check(cuda, kernel, signature, shape, capability, name):
    """Products are tensor cores', nothing is float64, and all that a thread has is in registers."""
    ptx, registers, local = compiled(cuda, kernel, signature, shape.threads, capability)
    print(f"{name}, {shape}: {registers} registers")
    kind = {"bf16": r"m16n8k16.*bf16", "fp16": r"m16n8k16.*f32\.f16\.f16", "tf32": r"m16n8k8.*tf32"}[shape.precision]
    assert re.search(rf"mma\.sync\.aligned\.{kind}", ptx)
    assert ".f64" not in ptx
    assert "tanh.approx" not in ptx  # what fast-math makes of tanh
    assert local == 0
    # All warps of a block are resident at once.
    assert registers <= 65536 // shape.threads


CASES = [
    *((width, precision, HOPPER) for width in (16, 32, 64, 128) for precision in ("bf16", "tf32")),
    (64, "fp16", HOPPER),
    (64, "bf16", AMPERE),
    (64, "tf32", AMPERE),
]


@pytest.mark.parametrize("width, precision, capability", CASES)
def test_forward(compiler, width, precision, capability):  # noqa: F811
    from numba.cuda import types

    from fastnn.cuda import fused

    reals, n = types.float32[::1], types.int64
    signature = types.void(types.int64[::1], n, reals, reals, n, reals, n)
    shape = fused.shape_for(width, precision)
    activations = (fn.activations.get("gelu"), fn.activations.get("tanh")) if width == 64 else ()
    check(compiler, fused.forward_kernel(shape, activations), signature, shape, capability, "forward")


# Width, precision, warps and parts, loss, activations beside ReLU.
TRAINING = [
    (16, "bf16", 8, 1, "mse", ()),
    (32, "bf16", 8, 1, "cross_entropy", ("gelu",)),
    (64, "bf16", 8, 1, "mse", ()),
    (64, "bf16", 8, 1, "cross_entropy", ("gelu", "tanh")),
    (64, "fp16", 8, 1, "cross_entropy", ()),
    (32, "bf16", 8, 2, "cross_entropy", ("tanh",)),
    (128, "bf16", 8, 1, "mse", ("tanh",)),
    (16, "tf32", 8, 1, "mse", ()),
    (32, "tf32", 8, 1, "cross_entropy", ("tanh",)),
]


@pytest.mark.parametrize("width, precision, warps, parts, loss, activations", TRAINING)
def test_training(compiler, width, precision, warps, parts, loss, activations):  # noqa: F811
    from numba.cuda import types

    from fastnn.cuda import fused_training

    reals, indices, n, real = types.float32[::1], types.int64[::1], types.int64, types.float32
    head = (indices, n, indices, *(reals,) * 4, indices, n, n, n, n)
    signature = types.void(*head, real, real, reals, *(real,) * 4, n, reals, reals)
    shape = fused_training.TrainingShape(width, precision, warps, parts)
    formula = None if loss == "cross_entropy" else KINDS[loss]
    kernel = fused_training.training_kernel(shape, tuple(fn.activations.get(name) for name in activations), formula)
    check(compiler, kernel, signature, shape, HOPPER, f"training, {loss}, {activations}")
