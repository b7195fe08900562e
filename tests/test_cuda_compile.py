"""What becomes of `fastnn.cuda` when it is compiled for compute capability 9.0: no GPU is needed for that."""

import pytest
from machine_code import HOPPER, compiler, float64_instructions, machine_code, pretended_device

import fastnn as fn
from fastnn import plan
from fastnn.losses._base import KINDS, Formula
from fastnn.optimizers._rules import RULES

__all__ = ["compiler"]  # a fixture

pytestmark = [pytest.mark.cuda, pytest.mark.compiles]

NETWORKS = {
    "20-64-64-1": (20, [fn.Dense(64, "tanh"), fn.Dense(64, "tanh"), fn.Dense(1)]),
    "all kinds": (
        17,
        [
            fn.Dense(32, "gelu"),
            fn.BatchNorm(),
            fn.Residual([fn.Dense(32, "gelu"), fn.LayerNorm(), fn.Dropout(0.1), fn.Dense(32)]),
            fn.Dense(10, "softmax"),
        ],
    ),
}


def ptx_of(cuda, function, types):
    """A device function's PTX."""
    with pretended_device():
        text, _ = cuda.compile(function, types, device=True, abi="numba", cc=HOPPER, output="ptx")
    return text


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_stay_in_their_dtype_and_do_not_spill(compiler, name, dtype, tmp_path):
    from cuda_networks import make_kernel
    from numba.cuda import types

    n_inputs, layers = NETWORKS[name]
    net = fn.Sequential(layers, n_inputs=n_inputs, dtype=dtype)
    T = getattr(types, dtype)
    signature = types.void(T[::1], T[:, ::1], T[:, ::1])
    code = machine_code(make_kernel(net), signature)
    assert "tanh.approx" not in code.ptx  # what fast-math makes of tanh
    assert dtype == "float64" or ".f64" not in code.ptx
    print(f"{name}, {dtype}: {code.registers} registers, {code.local} bytes of local memory")
    assert (code.stores, code.loads) == (0, 0)
    assert code.local == net.dtype.itemsize * plan.sample_places(net._built()).size
    assert code.registers <= 64  # else fewer than half of a multiprocessor's threads fit
    assert bool(float64_instructions(code.sass(tmp_path))) == (dtype == "float64")


def sources():
    """Every scalar source of the tables, with its arguments in terms of T."""
    for name in fn.activations.names():
        definition = fn.activations.get(name).definition
        if definition.builtin and not definition.rowwise:
            yield f"{name}.value", definition.value, lambda T, types: (T,) * 3
            yield f"{name}.slope", definition.slope, lambda T, types: (T,) * 4
            yield f"{name}.curvature", definition.curvature, lambda T, types: (T,) * 4
    for name, kind in KINDS.items():
        if isinstance(kind, Formula):
            for part, source in zip(kind._fields, kind, strict=True):
                yield f"{name}.{part}", source, lambda T, types: (T,) * 6
    for name, rule in RULES.items():
        yield f"{name}.rule", rule.rule, lambda T, types: (*(T,) * 5, types.UniTuple(T, 12))


SOURCES = {name: (source, arguments) for name, source, arguments in sources()}
# libdevice reduces arguments above 105,615 by a product in float64.
FLOAT64_INSIDE = {"sine.value", "sine.slope"}


@pytest.mark.parametrize("name", SOURCES)
def test_scalar_sources_stay_in_float32(compiler, name):
    from numba.cuda import types

    from fastnn.cuda.scalars import compiled

    source, arguments = SOURCES[name]
    ptx = ptx_of(compiler, compiled(source).py_func, arguments(types.float32, types))
    assert (".f64" in ptx) == (name in FLOAT64_INSIDE)
