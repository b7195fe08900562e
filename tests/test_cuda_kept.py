"""Kernels kept on disk: another process loads what one has compiled, and nothing else is ever taken for it."""

import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from machine_code import compiler

__all__ = ["compiler"]  # a fixture

pytestmark = [pytest.mark.cuda, pytest.mark.compiles]

HERE = Path(__file__).parent

# Compiles, or loads, an optimizer's kernel and one with a user's activation, as their dispatchers do for a launch.
PROCESS = """
import hashlib, json, math, sys
from unittest import mock
import numpy as np
import fastnn as fn
from machine_code import HOPPER, pretended_device
from numba.cuda import dispatcher, types
from fastnn.cuda import _jit, intrinsics, scalars, update
from fastnn.cuda.product import small_shape

steepness = float(sys.argv[1])
if sys.argv[2:] == ["array"]:  # which Numba makes a constant
    held = np.array([steepness])
    value, slope = lambda z: z * held[0], lambda z: held[0]
else:
    value, slope = lambda z: z * steepness, lambda z: steepness
own = fn.activations.from_functions("own", value, slope)

def make(value):
    @_jit.kernel(32)
    def apply(x):
        intrinsics.store(x, 0, value(intrinsics.load(x, 0)))
    return apply

reals, indices, n = types.float32[::1], types.int64[::1], types.int64
step = indices, reals, reals, reals, reals, n, n, n, types.boolean, types.boolean
kernels = {
    "own": (make(scalars.activation_value(own, np.float32)), (reals,)),
    "update": (update.update_kernel(np.float32, small_shape(np.dtype("float32")), fn.Adam().rule), step),
}
found = {}
compile_cuda = dispatcher.compile_cuda
for name, (kernel, arguments) in kernels.items():
    counted = mock.Mock(side_effect=compile_cuda)
    with (
        pretended_device(HOPPER),
        mock.patch.object(_jit, "capability", lambda: HOPPER),
        mock.patch.object(dispatcher, "compile_cuda", counted),
        mock.patch.object(dispatcher._Kernel, "bind", lambda self: self.library.get_cubin()),
    ):
        compiled = kernel.compile(arguments)
        cubin = compiled.library.get_cubin()
        assert kernel.overloads[arguments] is compiled and compiled.argument_types == arguments
    assert compiled.entry_name in kernel.overloads[arguments].library.get_asm_str(cc=(9, 0, "a"))
    found[name] = hashlib.sha256(cubin.code).hexdigest(), counted.call_count
print(json.dumps(found))
"""


def process(folder, *arguments):
    """For each kernel: its machine code's hash and whether this process compiled it; and what was said."""
    environment = os.environ | {"FASTNN_CACHE_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PROCESS, *arguments],
        cwd=HERE, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {k: v[0] for k, v in found.items()}, {k: v[1] > 0 for k, v in found.items()}, done.stderr


def files(folder):
    return sorted(folder.glob("fastnn/*/cuda/*"))


def test_another_process_loads_them(compiler, tmp_path):
    code, compiled, said = process(tmp_path, "1.5")
    assert compiled == {"own": True, "update": True}
    assert "compiling" in said
    assert len(files(tmp_path)) == 2

    again, compiled, said = process(tmp_path, "1.5")
    assert compiled == {"own": False, "update": False}
    assert again == code

    other, compiled, _ = process(tmp_path, "2.5")  # what the user's function closes over
    assert compiled == {"own": True, "update": False}
    assert other["own"] != code["own"]
    assert len(files(tmp_path)) == 3


def test_files_that_are_broken_are_made_anew(compiler, tmp_path):
    process(tmp_path, "1.5")
    made = files(tmp_path)
    for path in made:
        path.write_bytes(path.read_bytes()[:-9] + b"not those")
    _, compiled, _ = process(tmp_path, "1.5")
    assert compiled == {"own": True, "update": True}
    _, compiled, _ = process(tmp_path, "1.5")
    assert compiled == {"own": False, "update": False}
    assert files(tmp_path) == made  # and nothing half written beside them


@pytest.fixture
def kept(compiler, monkeypatch, tmp_path):
    """The module, with files in a folder of its own."""
    from fastnn.cuda import _kept

    monkeypatch.setattr(_kept._jit, "CACHE_FOLDER", tmp_path)
    return _kept


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"", lambda raw: raw[:31], lambda raw: raw[:32], lambda raw: raw[: len(raw) // 2],
        lambda raw: raw[:-1], lambda raw: b"x" + raw, lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
        lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:],
    ],
)  # fmt: skip
def test_damage_is_seen(kept, tmp_path, damage):
    kept.write("key", bytes(range(200)))
    (path,) = (tmp_path / "cuda").iterdir()
    assert kept.read("key") == bytes(range(200))
    path.write_bytes(damage(path.read_bytes()))
    assert kept.read("key") is None


def test_a_folder_that_is_full_is_no_error(kept, monkeypatch, tmp_path):
    kept.write("key", b"code")

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(kept, "os", SimpleNamespace(replace=full, unlink=os.unlink))
    kept.write("another", b"code")
    assert [path.name for path in (tmp_path / "cuda").iterdir()] == ["key"]
    assert kept.read("another") is None


def test_what_cannot_be_told_apart_is_not_kept(compiler, tmp_path):
    for _ in range(2):
        _, compiled, _ = process(tmp_path, "1.5", "array")
        assert compiled["own"]
        assert len(files(tmp_path)) == 1


@pytest.fixture(scope="module")
def key_of(compiler):
    from fastnn.cuda import _kept

    return _kept.key_of


def function(factor=2.0, callee=math.exp, default=1.0):
    def inner(z, scale=default):
        return callee(factor * z) * scale

    return inner


def twice(z):
    return function(3.0)(z)


GLOBAL = 1.0


def with_global(z):
    return GLOBAL * z


def with_nested(z):
    return [GLOBAL * k for k in (z, z)]


def ping(n):
    return pong(n - 1) if n else GLOBAL


def pong(n):
    return ping(n - 1) if n else 2.0


def test_what_a_function_reaches_is_in_its_key(key_of, monkeypatch):
    same = {key_of(function()), key_of(function(2.0)), key_of(function(2.0, math.exp, 1.0))}
    assert len(same) == 1
    assert None not in same
    others = [
        key_of(made)
        for made in (
            function(2), function(np.float32(2)), function(np.float64(2)), function(-2.0), function(math.nan),
            function(0.0), function(-0.0), function((2.0,)), function(((2.0,),)), function("2.0"), function(True),
            function(None), function(callee=math.expm1), function(callee=abs), function(callee=np.exp),
            function(callee=ping), function(callee=pong), function(callee=function()), function(callee=function(2)),
            function(default=2.0), function(np.float32), function(np.float64), function(math), function(np),
            with_global, with_nested,
        )
    ]  # fmt: skip
    assert None not in others
    assert len({*others, *same}) == len(others) + 1
    for made in (with_global, with_nested, ping, pong):
        before = key_of(made)
        with monkeypatch.context() as patched:
            patched.setitem(globals(), "GLOBAL", 2.0)
            assert key_of(made) != before
        assert key_of(made) == before


class Own:
    pass


class OwnTuple(NamedTuple):
    a: float


def test_what_is_not_known_has_no_key(key_of):
    unknown = [[2.0], {}, {1.0}, np.ones(2), Own(), Own, OwnTuple(1.0), ModuleType("mine"), Own().__init__, [].append]
    assert [key_of(function(each)) for each in unknown] == [None] * len(unknown)

    def early():
        return later

    assert key_of(early) is None  # a variable without a value
    later = 1.0
    assert key_of(early) is not None


def test_a_kernel_s_options_and_circumstances_are_in_its_key(key_of, monkeypatch):
    from numba import cuda
    from numba.cuda import types

    from fastnn.cuda import _jit

    def nothing(x):
        pass

    options = ({}, {"fastmath": True}, {"launch_bounds": 32}, {"launch_bounds": 64}, {"max_registers": 32})
    arrays = (
        types.float32[::1], types.float32[:], types.float64[::1], types.float32[:, ::1],
        types.Array(types.float32, 1, "C", readonly=True), types.Array(types.float32, 1, "C", aligned=False),
    )  # fmt: skip
    signatures = [(each,) for each in (*arrays, types.int64, types.uint64, types.boolean, types.float32)]
    asked = []
    monkeypatch.setattr(_jit._kept, "key_of", lambda *parts: asked.append(key_of(*parts)))
    for told in options:
        made = cuda.jit(nothing, **told)
        for capability in ((9, 0), (8, 0)):
            monkeypatch.setattr(_jit, "capability", lambda capability=capability: capability)
            for arguments in signatures:
                assert _jit._Kept(made).load_overload(arguments, None) is None
                assert _jit._Kept(made).load_overload(types.void(*arguments), None) is None
                assert asked[-1] == asked[-2]
    assert len(asked) == 2 * len(set(asked)) == 2 * len(options) * 2 * len(signatures)


def test_compilers_and_sources_are_in_keys(compiler, monkeypatch, tmp_path):
    from fastnn.cuda import _jit

    asked = _jit._compilers.__wrapped__
    found = [asked()]
    assert asked() == found[0]
    monkeypatch.setenv("NUMBA_OPT", "1")
    found.append(asked())
    monkeypatch.setattr("numba_cuda.__version__", "0.30.99")
    found.append(asked())
    installed = SimpleNamespace(st_size=1, st_mtime_ns=2)
    monkeypatch.setattr(_jit, "os", SimpleNamespace(environ=os.environ, stat=lambda path: installed))
    found.append(asked())
    monkeypatch.setattr(_jit, "__file__", str(tmp_path / "_jit.py"))
    (tmp_path / "_jit.py").touch()
    found.append(asked())
    assert len(set(found)) == len(found)


KEYS = """
import json
import numpy as np
import fastnn as fn
from fastnn.cuda import _kept, fused, fused_float32, fused_float32_layout, fused_training, population, scan, targets
from fastnn.cuda import arrays
from fastnn.cuda import kernels as kernels_module
from test_cuda_compile_engine import kernels

made = {}
for precision in (None, "tf32", "bf16", "fp16"):
    made |= {f"{name}, {precision}": found[0] for name, found in kernels("float32", precision).items()}
    if precision:
        gelu = (fn.activations.get("gelu"),)
        made[f"narrow forward, {precision}"] = fused.forward_kernel(fused.shape_for(32, precision), gelu)
        shape = fused_training.TrainingShape(32, precision, 8, 1)
        made[f"narrow training, {precision}"] = fused_training.training_kernel(shape, gelu, None)
made["narrow forward"] = fused_float32.forward_kernel(gelu)
shape = fused_float32_layout.NarrowShape(32, 8, 1, 32, 8)
for loss in ("mse", "cross_entropy"):
    source = fn.losses.get(loss).resolve("identity", 3).source
    made[f"narrow training, {loss}"] = kernels_module.narrow_kernel(shape, gelu, source)
    alone = kernels_module.train_kernel(np.float32, shape, gelu, source, fn.Adam().rule)
    made[f"narrow training alone, {loss}"] = alone
made |= {"float64, " + name: found[0] for name, found in kernels("float64").items()}
made |= {"finite": scan.finite, "weights": scan.weights, "targets": scan.targets(np.float32, np.float32)}
made |= {"signs": targets._signs(np.float32), "pick": arrays._pick, "convert": arrays._converter(np.float32)}
print(json.dumps({name: _kept.key_of(kernel) for name, kernel in made.items()}))
"""


def test_every_kernel_has_a_key_that_lasts(compiler):
    def keys(seed):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", KEYS], cwd=HERE, env=environment, capture_output=True, text=True, check=True
        )
        return json.loads(done.stdout)

    found = keys("1")
    assert None not in found.values()
    assert keys("2") == found
    # Kernels without products and numbers of their own do not depend on the precision of products.
    shared = [
        name
        for name in found
        if name.startswith(("predict, lone", "train, lone", "weigh", "update", "collect", "move", "float64, move"))
    ]
    others = [key for name, key in found.items() if name not in shared]
    assert len(set(others)) == len(others)


def test_what_is_no_kernel_is_compiled_anew(kept, monkeypatch):
    from numba.cuda import types

    from fastnn.cuda import _jit

    @_jit.kernel(32)
    def nothing(x):
        pass

    monkeypatch.setattr(_jit, "capability", lambda: (9, 0))
    key = kept.key_of(_jit._compilers(), (9, 0), nothing, (types.float32,))
    for data in (b"", b"no pickle", pickle.dumps({}), pickle.dumps({"name": "nothing"}), pickle.dumps(None)):
        kept.write(key, data)
        assert kept.read(key) == data
        assert nothing._cache.load_overload((types.float32,), None) is None


def test_without_a_folder_nothing_is_kept(compiler, monkeypatch):
    from fastnn.cuda import _jit

    def nothing():
        pass

    assert isinstance(_jit.kernel(32)(nothing)._cache, _jit._Kept)
    monkeypatch.setattr(_jit._jit, "CACHE_FOLDER", None)
    assert not isinstance(_jit.kernel(32)(nothing)._cache, _jit._Kept)
