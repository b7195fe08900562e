"""`fastnn.cuda` where there is no GPU: what Numba compiles for one, done by an interpreter of PTX (the folder `ptx`).

Unlike numba-cuda's simulator it runs the code that a GPU would be given: 32 lanes at a time, tensor cores and shuffles,
real sizes of blocks. The tests marked ``gpu`` run unchanged, in processes of their own, with a check for races. As
compiling takes most of the time, few of them are chosen: all ways through the engine, both dtypes, all precisions.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ptx import interpreter

pytestmark = [pytest.mark.cuda, pytest.mark.interpreted]

HERE = Path(__file__).parent


@pytest.fixture(scope="module", autouse=True)
def _built():
    """The interpreter, which a C++ compiler takes half a minute for unless it has seen these sources before."""
    if reason := interpreter.missing():
        pytest.skip(reason)
    interpreter.library()


def run(*arguments, **environment):
    """What a program prints whose GPU is the interpreter."""
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "ptx/interpreter.py", *arguments],
        cwd=HERE, env=os.environ | {"PYTHONPATH": path, "FASTNN_PTX_RACES": "1"} | environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-10_000:]
    return done.stdout


def run_tests(*arguments):
    found = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    print(found)
    assert "skipped" not in found


def test_the_interpreter():
    run_tests("cuda_in_interpreter.py")


def test_statistics_of_launches(tmp_path):
    """Two warps read every second number, store it where no two share a bank, and read one word together."""
    program, path = tmp_path / "program.py", tmp_path / "launches.jsonl"
    program.write_text("""
import numpy as np
from numba import cuda, float32

@cuda.jit
def kernel(x):
    inside, t = cuda.shared.array(64, float32), cuda.threadIdx.x
    inside[t] = x[2 * t]
    cuda.syncthreads()
    x[2 * t + 1] = inside[t // 32 * 32]

kernel[1, 64](cuda.to_device(np.zeros(128, np.float32)))
""")
    run(str(program), FASTNN_PTX_STATISTICS=str(path), PYTHONWARNINGS="ignore")
    (launch,) = map(json.loads, path.read_text().splitlines())
    assert (launch["blocks"], launch["threads"], launch["shared_bytes"]) == (1, 64, 256)
    assert (launch["global_loads"], launch["sectors_loaded"]) == (2, 2 * 8)
    assert (launch["global_stores"], launch["sectors_stored"]) == (2, 2 * 8)
    assert (launch["shared_requests"], launch["shared_wavefronts"]) == (4, 4)
    assert launch["instructions"]["bar.sync"] == 2
    assert launch["lanes"] == 32 * sum(launch["instructions"].values())


def each(name, *parameters):
    return [f"{name}[{parameter}]" for parameter in parameters]


ENGINE = "test_cuda_gpu_engine.py::"
WAYS = ["one block takes the batch", "blocks take samples", "blocks share layers"]
SELECTED = {
    "arrays": [
        *each("test_cuda_gpu_arrays.py::test_dtypes_and_strides", "numba-bool-float32", "numba-float16-float64"),
        *each("test_cuda_gpu_arrays.py::test_what_is_not_finite_is_found", "float32"),
        "test_cuda_gpu_arrays.py::test_a_part_that_is_not_aligned",
        "test_cuda_gpu_arrays.py::test_weights",
        "test_cuda_gpu_arrays.py::test_targets",
    ],
    "networks in users' kernels": ["test_cuda_gpu.py::test_layers"],
    "populations": ["test_cuda_gpu_population.py"],
    "layers": [
        *each(ENGINE + "test_layers", *(f"residual-float32-{way}" for way in WAYS)),
        *each(ENGINE + "test_layers", *(f"batch norm-float64-{way}" for way in WAYS)),
    ],
    "precisions": [
        *each(ENGINE + "test_a_product_of_rounded_operands", *(f"64-{name}" for name in ("tf32", "bf16", "fp16"))),
        *each(ENGINE + "test_networks_of_rounded_operands", "20-64-64-1-fp16"),
    ],
    "streams": each(ENGINE + "test_streams", "one block takes the batch"),
}


@pytest.mark.parametrize("name", SELECTED)
def test_what_is_tested_on_a_gpu(name):
    run_tests("-m", "gpu", *SELECTED[name])


def test_every_kernel_of_small_networks():
    """Those that `test_cuda_gpu_engine` gives to compute-sanitizer, in one precision."""
    assert "all ways were taken" in run("sanitize_cuda.py", "bf16")
