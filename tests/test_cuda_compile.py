"""What becomes of `fastnn.cuda` when it is compiled for compute capability 9.0: no GPU is needed for that."""

import contextlib
import re
from types import SimpleNamespace
from unittest import mock

import pytest

import fastnn as fn
from fastnn import plan
from fastnn.losses._base import KINDS, Formula
from fastnn.optimizers._rules import RULES

pytestmark = [pytest.mark.cuda, pytest.mark.compiles]

CAPABILITY = (9, 0)
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


@pytest.fixture(scope="module")
def compiler():
    """numba-cuda with NVIDIA's compiler and linker behind it."""
    pytest.importorskip("numba_cuda")
    from numba import cuda

    if cuda.config.ENABLE_CUDASIM:
        pytest.skip("the simulator compiles nothing")
    try:
        from cuda.bindings import nvjitlink, nvrtc, nvvm

        found = nvjitlink.version(), nvrtc.nvrtcVersion(), nvvm.version()
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"needs NVIDIA's compiler and linker, numba-cuda[cu13]: {error}")
    assert all(found)
    return cuda


@contextlib.contextmanager
def pretended_device(capability=CAPABILITY):
    """Numba asks the current device for its capability where a kernel calls a device function."""
    from numba.cuda import dispatcher

    device = SimpleNamespace(compute_capability=capability, id=0)
    with mock.patch.object(dispatcher, "get_current_device", return_value=device):
        yield


def ptx_of(cuda, function, types, device):
    with pretended_device():
        text, _ = cuda.compile(function, types, device=device, abi="numba", cc=CAPABILITY, output="ptx")
    return text


def resources(cuda, kernel, types, capability=CAPABILITY, launch_bounds=None):
    """What the linker says of the machine code: registers, bytes of local memory, bytes of it that are spills."""
    from cuda.bindings import nvjitlink

    with pretended_device(capability):
        parts, _ = cuda.compile_all(
            kernel, types, device=False, abi="numba", cc=capability, output="ltoir", launch_bounds=launch_bounds
        )
    options = ["-arch=sm_{}{}".format(*capability), "-lto", "-verbose"]
    linker = nvjitlink.create(len(options), options)
    for k, part in enumerate(parts):
        code = bytes(getattr(part, "code", part))
        nvjitlink.add_data(linker, nvjitlink.InputType.LTOIR, code, len(code), f"part{k}")
    nvjitlink.complete(linker)
    log = bytearray(nvjitlink.get_info_log_size(linker))
    nvjitlink.get_info_log(linker, log)
    patterns = (r"Used (\d+) registers", r"(\d+) bytes stack", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
    return tuple(int(re.search(pattern, log.decode())[1]) for pattern in patterns)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_stay_in_their_dtype_and_do_not_spill(compiler, name, dtype):
    from cuda_networks import make_kernel
    from numba.cuda import types

    n_inputs, layers = NETWORKS[name]
    net = fn.Sequential(layers, n_inputs=n_inputs, dtype=dtype)
    T = getattr(types, dtype)
    signature = types.void(T[::1], T[:, ::1], T[:, ::1])
    kernel = make_kernel(net).py_func
    ptx = ptx_of(compiler, kernel, signature, device=False)
    assert "tanh.approx" not in ptx  # what fast-math makes of tanh
    assert dtype == "float64" or ".f64" not in ptx
    registers, local, stores, loads = resources(compiler, kernel, signature)
    print(f"{name}, {dtype}: {registers} registers, {local} bytes of local memory")
    assert (stores, loads) == (0, 0)
    assert local == net.dtype.itemsize * plan.sample_places(net._built()).size
    assert registers <= 64  # else fewer than half of a multiprocessor's threads fit


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
    ptx = ptx_of(compiler, compiled(source).py_func, arguments(types.float32, types), device=True)
    assert (".f64" in ptx) == (name in FLOAT64_INSIDE)
