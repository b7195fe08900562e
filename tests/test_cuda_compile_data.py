"""The kernels that take users' data in, compiled for compute capability 9.0: no GPU is needed for that."""

import numpy as np
import pytest
from test_cuda_compile import compiler, ptx_of, resources

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


def compiled(cuda, kernel, *signature):
    """The kernel's PTX, and its registers, bytes of local memory, and spills."""
    from numba.cuda import types

    wanted = types.void(*signature)
    used = resources(cuda, kernel.py_func, wanted)
    assert used[1:] == (0, 0, 0), "something does not stay in registers"
    return ptx_of(cuda, kernel.py_func, wanted, device=False), used[0]


def both_engines(source, layout):
    """float64 too where it might make a difference; to compile everything would take minutes."""
    return (np.float32, np.float64) if source.startswith("float") and layout == "C" else (np.float32,)


@pytest.mark.parametrize("engine", ENGINE)
@pytest.mark.parametrize("name", ["finite", "finite_in_parts", "weights"])
def test_looks_at_checked_data(compiler, name, engine):
    from numba.cuda import types

    from fastnn.cuda import scan

    sizes = (types.int64,) * {"finite": 1, "finite_in_parts": 2, "weights": 0}[name]
    ptx, _ = compiled(compiler, getattr(scan, name), array(engine, "C", 1), *sizes, array("int64", "C"))
    assert engine == "float64" or ".f64" not in ptx
    wide = {"float32": "v4.", "float64": "v2."}[engine]
    assert (f"ld.{wide}" in ptx or f"ld.global.{wide}" in ptx) == (name == "finite")  # else it reads by single numbers


@pytest.mark.parametrize("source, layout", SOURCES)
def test_looks_at_targets(compiler, source, layout):
    from fastnn.cuda import scan

    S = np.float64 if source == "float64" else np.float32
    number = array(S, "C").dtype
    for T in both_engines(source, layout):
        ptx, registers = compiled(
            compiler, scan.targets(S, T), array(source, layout), number, number, array("int64", "C")
        )
        assert registers <= 64
        assert (".f64" in ptx) == (np.float64 in (S, T))


@pytest.mark.parametrize("source, layout", SOURCES)
def test_layouts(compiler, source, layout):
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
            ptx, _ = compiled(compiler, kernel, *signature)
            assert (".f64" in ptx) == (source == "float64" or T is np.float64)
    compiled(compiler, arrays._pick, x, types.int64, types.int64, array(source, "C", 1))
