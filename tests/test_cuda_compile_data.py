"""The kernels that take users' data in, compiled for compute capability 9.0: no GPU is needed for that."""

import numpy as np
import pytest
from machine_code import compiler, float64_instructions, machine_code

__all__ = ["compiler"]  # a fixture

pytestmark = [pytest.mark.cuda, pytest.mark.compiles]

REAL = [
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64",
]  # fmt: skip
ENGINE = ["float32", "float64"]
# Every dtype with any strides, and every layout that Numba tells apart.
SOURCES = [*((source, "A") for source in REAL), ("float32", "C"), ("float32", "F"), ("int64", "C"), ("float64", "C")]


def array(dtype, layout, ndim=2):
    from numba.cuda import types
    from numba.cuda.np.numpy_support import from_dtype

    return types.Array(from_dtype(np.dtype(dtype)), ndim, layout)


def compiled(kernel, *signature, float64, folder):
    """The kernel's machine code: all that a thread has is in registers, and float64 is where it is wanted."""
    from numba.cuda import types

    code = machine_code(kernel, types.void(*signature))
    assert (code.local, code.stores, code.loads) == (0, 0, 0), "something does not stay in registers"
    assert (".f64" in code.ptx) == float64
    assert float64 or not float64_instructions(code.sass(folder))
    return code


def both_engines(source, layout):
    """float64 too where it might make a difference; to compile everything would take minutes."""
    return (np.float32, np.float64) if source.startswith("float") and layout == "C" else (np.float32,)


@pytest.mark.parametrize("engine", ENGINE)
@pytest.mark.parametrize("name", ["finite", "finite_in_parts", "weights"])
def test_looks_at_checked_data(compiler, name, engine, tmp_path):
    from numba.cuda import types

    from fastnn.cuda import scan

    sizes = (types.int64,) * {"finite": 1, "finite_in_parts": 2, "weights": 0}[name]
    signature = array(engine, "C", 1), *sizes, array("int64", "C")
    ptx = compiled(getattr(scan, name), *signature, float64=engine == "float64", folder=tmp_path).ptx
    wide = {"float32": "v4.", "float64": "v2."}[engine]
    assert (f"ld.{wide}" in ptx or f"ld.global.{wide}" in ptx) == (name == "finite")  # else it reads by single numbers


@pytest.mark.parametrize("source, layout", SOURCES)
def test_looks_at_targets(compiler, source, layout, tmp_path):
    from fastnn.cuda import scan

    S = np.float64 if source == "float64" else np.float32
    number = array(S, "C").dtype
    signature = array(source, layout), number, number, array("int64", "C")
    for T in both_engines(source, layout):
        code = compiled(scan.targets(S, T), *signature, float64=np.float64 in (S, T), folder=tmp_path)
        assert code.registers <= 64


@pytest.mark.parametrize("source, layout", SOURCES)
def test_layouts(compiler, source, layout, tmp_path):
    from numba.cuda import types

    from fastnn.cuda import arrays, targets

    x = array(source, layout)
    for T in both_engines(source, layout):
        out = array(T, "C", 1)
        for kernel, signature in (
            (arrays._converter(T), (x, out)),
            (targets._one_hot(T), (x, out.dtype, out)),
            (targets._signs(T), (x, out)),
        ):
            compiled(kernel, *signature, float64=source == "float64" or T is np.float64, folder=tmp_path)
    picked = array(source, "C", 1)
    compiled(arrays._pick, x, types.int64, types.int64, picked, float64=source == "float64", folder=tmp_path)
