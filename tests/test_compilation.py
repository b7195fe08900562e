"""Nothing is compiled per architecture, later processes load from the cache, and steps allocate nothing."""

import ctypes
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from numba import njit, types
from numba.core.runtime import _nrt_python, rtsys

import fastnn as fn
from fastnn import _jit
from fastnn.cpu import gemm, norm, outputs, steps, walk

BYTE_CODE = tempfile.TemporaryDirectory()

XOR = """
import numpy as np, fastnn as fn
net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(1, "sigmoid")], n_inputs=2, seed=1)
X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32"), np.array([0, 1, 1, 0])
net.fit(X, y, loss="binary_cross_entropy", optimizer=fn.Adam(0.05), epochs=300, batch_size=4)
assert net.predict_classes(X).tolist() == [0, 1, 1, 0]
"""

OWN_FUNCTIONS = """
import math, numpy as np, fastnn as fn
own = fn.Activation.from_functions("own", lambda z: z / (1 + math.exp(-z)),
    lambda z: (1 + math.exp(-z) * (1 + z)) / (1 + math.exp(-z)) ** 2)
loss = fn.losses.from_functions("quartic", lambda o, y: (o - y) ** 4, lambda o, y: 4 * (o - y) ** 3)
Sign = fn.optimizers.from_rule("sign", lambda p, g, s0, s1, s2, c: (p - c[0] * np.sign(g), s0, s1, s2))
net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(8, own), fn.Dense(1)], n_inputs=2)
net.fit(np.ones((4, 2)), np.ones(4), loss=loss, optimizer=Sign(learning_rate=0.01), epochs=2)
"""


def run(code, cache):
    """Run Python code with its own cache folder; returns (seconds, standard error).

    The seconds are wall or processor time, whichever is less: a busy machine stretches the one, idle threads of a
    numerical library add to the other. Byte code is kept, as in an installed package.
    """
    environment = os.environ | {"FASTNN_CACHE_DIR": str(cache), "PYTHONPYCACHEPREFIX": BYTE_CODE.name}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    after = os.times()
    assert done.returncode == 0, done.stderr
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return min(used, after.elapsed - before.elapsed), done.stderr


def slowdown():
    """How much slower this machine is just now than where the limits were set: 1 or more.

    There, importing Numba takes 0.35 s; on a shared machine the same import may take several times as long for minutes.
    """
    return max(1.0, min(run("import numba", "")[0] for _ in range(3)) / 0.35)


def files(folder):
    return {p.name: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def compiled():
    """Everything that holds machine code, and how much."""
    kernels = [steps.train, steps.loss_and_gradients, outputs.predict, outputs.predict_few, outputs.jacobian]
    natives = [gemm.gemm, walk.forward, walk.backward, norm.batch_forward, norm.layer_backward]
    activations = [fn.activations.get(name) for name in ("tanh", "relu", "gelu")]
    natives += [native for a in activations for native in (a.value_native, a.forward_native)]
    return [len(k.signatures) for k in kernels] + [len(n._compiled) for n in natives]


def exercise(layers, n_inputs, n, loss, y):
    net = fn.Sequential(layers, n_inputs=n_inputs)
    x = np.random.default_rng(0).standard_normal((n, n_inputs)).astype("float32")
    net.fit(x, y, loss=loss, epochs=2, batch_size=7)
    net.predict(x)
    net.jacobian(x[:2])
    net.loss_and_gradients(x, y, loss)


def test_a_new_architecture_compiles_nothing():
    rng = np.random.default_rng(0)
    exercise([fn.Dense(4, "tanh"), fn.Dense(3, "gelu"), fn.Dense(1)], 3, 20, "mse", rng.random(20))
    before = compiled()
    exercise([fn.Dense(40, "gelu")] * 5 + [fn.Dense(2, "tanh"), fn.Dense(17)], 33, 50, "mse", rng.random((50, 17)))
    exercise(
        [fn.Residual([fn.Dense(5, "tanh"), fn.Dense(9)]), fn.Dropout(0.5), fn.Dense(1)], 9, 30, "mse", rng.random(30)
    )
    assert compiled() == before


def test_a_second_process_loads_everything_from_the_cache(tmp_path):
    cold, message = run(XOR, tmp_path)
    assert message.count("fastnn: compiling kernels") == 1
    assert str(tmp_path) in message
    made = files(tmp_path)
    warm = []
    for _ in range(3):
        seconds, message = run(XOR, tmp_path)
        warm.append(seconds)
        assert "compiling" not in message
    assert files(tmp_path) == made
    slower = slowdown()
    assert cold <= 15.0 * slower
    assert min(warm) <= 1.0 * slower


def test_own_functions_leave_the_cache_alone(tmp_path):
    run(XOR, tmp_path)
    run(OWN_FUNCTIONS, tmp_path)
    made = files(tmp_path)
    run(OWN_FUNCTIONS, tmp_path)
    assert files(tmp_path) == made
    assert not [name for name in made if "own" in name or "quartic" in name or "sign" in name]


def test_parts_of_kernels_are_for_compiled_code_alone():
    def half(x):
        return x / 2

    part = _jit.scalar(half)
    with pytest.raises(TypeError, match="half can be called by compiled code only"):
        part(3.0)
    assert njit(lambda x: part(x) + 1)(3.0) == 2.5
    with pytest.raises(TypeError, match="half can be called by compiled code only"):
        part(3.0)  # now that it is compiled for these types
    assert pickle.loads(pickle.dumps(part)) is part
    # What another process makes of the same bytes.
    again = type(part)._rebuild(**part._reduce_states() | {"uuid": "another"})
    assert again is not part
    assert njit(lambda x: again(x) + 2)(3.0) == 3.5
    with pytest.raises(TypeError, match="half can be called by compiled code only"):
        again(3.0)


def test_without_a_writable_cache_folder_everything_works_and_says_so():
    _, message = run(XOR, "/dev/null")
    assert message.count("fastnn: compiling kernels") == 1
    assert "FASTNN_CACHE_DIR" in message


def doubled(folder, monkeypatch):
    """Twice 3, by a native that is loaded from the cache in ``folder`` or compiled into it."""

    def body(x):
        x[0] = x[0] + x[0]

    monkeypatch.setattr(_jit, "CACHE_FOLDER", folder)
    monkeypatch.setattr(_jit, "_said", set())
    native = _jit.Native("tests.double", body, lambda real: (types.CPointer(real),))
    x = np.array([3.0])
    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(native.address(x.dtype))(x.ctypes.data)
    return x[0]


@pytest.mark.parametrize("damaged", ["*.nbi", "*.nbc"])
@pytest.mark.parametrize("left", [0, 20])
def test_damaged_files_in_the_cache_are_made_anew(tmp_path, monkeypatch, capsys, damaged, left):
    assert doubled(tmp_path, monkeypatch) == 6
    [file] = tmp_path.glob(damaged)
    good = file.stat().st_size
    file.write_bytes(file.read_bytes()[:left])
    assert doubled(tmp_path, monkeypatch) == 6
    assert file.stat().st_size == good
    assert capsys.readouterr().err.count("fastnn: compiling kernels") == 2
    assert doubled(tmp_path, monkeypatch) == 6
    assert not capsys.readouterr().err


def test_an_index_with_the_code_of_another_dtype_is_seen_through(tmp_path, monkeypatch):
    """As two processes leave it that saved one kernel at the same time."""

    def twice(x):
        return x[0] + x[0]

    def of_a_new_process(dtype, folder):
        monkeypatch.setattr(_jit, "CACHE_FOLDER", folder)
        assert _jit.kernel(twice)(np.array([3.0], dtype)) == 6

    folders = {dtype: tmp_path / dtype for dtype in ("float32", "float64")}
    for dtype, folder in folders.items():
        of_a_new_process(dtype, folder)
    [code] = folders["float32"].glob("*.nbc")
    shutil.copy(code, folders["float64"])
    for dtype in ("float64", "float32", "float64"):
        of_a_new_process(dtype, folders["float64"])


def test_a_cache_folder_that_cannot_be_written_any_more_costs_only_time(tmp_path, monkeypatch, capsys):
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    assert doubled(in_the_way, monkeypatch) == 6
    assert f"cannot be kept in {in_the_way}" in capsys.readouterr().err


def test_an_edited_source_uses_another_cache_folder(tmp_path, monkeypatch):
    copy = tmp_path / "fastnn"
    shutil.copytree(_jit._PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(_jit, "_PACKAGE", copy)
    before = _jit._source_hash()
    for name in ("_math.py", "cpu/gemm.py"):
        source = copy / name
        source.write_text(source.read_text() + "\n# edited\n")
        after = _jit._source_hash()
        assert after != before
        before = after


def test_import_is_fast():
    def best(code):
        return min(run(code, "")[0] for _ in range(5))

    assert best("import fastnn") - best("pass") <= 0.5 * slowdown()


def test_import_needs_no_extra_and_no_scipy():
    code = (
        "import sys, fastnn; heavy = {'sklearn', 'torch', 'matplotlib', 'pandas', 'scipy.optimize', 'onnx', 'h5py',"
        " 'numba.cuda', 'fastnn.cuda'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    assert run(code, "")[1].strip() == "[]"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_steps_allocate_nothing(dtype):
    """Allocations of a chunk of compiled steps do not grow with the number of steps."""
    rng = np.random.default_rng(0)
    net = fn.Sequential([fn.Dense(20, "gelu"), fn.LayerNorm(), fn.Dropout(0.1), fn.Dense(3, "softmax")], 5, dtype=dtype)
    x, y = rng.standard_normal((640, 5)), rng.integers(0, 3, 640)
    net.fit(x, y, epochs=1, optimizer=fn.Adam(clip_norm=1.0), sample_weight=rng.random(640))

    _nrt_python.memsys_enable_stats()

    def allocations(n):
        before = rtsys.get_allocation_stats()
        net.fit(x[:n], y[:n], epochs=1, batch_size=4, shuffle=False, sample_weight=np.ones(n))
        after = rtsys.get_allocation_stats()
        return after.alloc - before.alloc, (after.alloc - before.alloc) - (after.free - before.free)

    allocations(8)
    few, many = allocations(8), allocations(256)  # 2 and 64 steps, one chunk each
    assert many == few
    assert many[1] == 0


def test_float32_kernels_hold_no_float64_arithmetic():
    """The engine's own natives; the tables' natives have the same test beside them."""
    natives = [gemm.gemm, walk.forward, walk.backward, walk.learn]
    natives += [norm.batch_forward, norm.batch_backward, norm.layer_forward, norm.layer_backward]
    for native in natives:
        uncached = _jit.Native(None, native._func, native._arguments, native._fastmath)
        uncached.address(np.dtype("float32"))
        (compiled,) = uncached._compiled.values()
        assert "double" not in compiled.inspect_llvm(), native._name


@pytest.mark.parametrize(("dtype", "kind"), [("float32", "float"), ("float64", "double")])
def test_what_a_relu_lets_pass_is_decided_in_vectors(dtype, kind):
    """Branches, mispredicted every other time, once took half of a step of a network with dropout."""
    uncached = _jit.Native(None, walk.backward._func, walk.backward._arguments, walk.backward._fastmath)
    uncached.address(np.dtype(dtype))
    (compiled,) = uncached._compiled.values()
    assert re.search(rf"fcmp [\w ]+ <\d+ x {kind}>", compiled.inspect_llvm())


ENTRIES = """
import sys, numpy as np
from fastnn.optimizers._rules import RULES
natives = [n for name in sys.argv[1:] for n in (RULES[name].begin, RULES[name].update)]
for native in natives:
    native.address(np.dtype("float32"))
entries = [native.entry(np.dtype("float32")) for native in natives]
symbols = [next(iter(native._compiled.values())).native_name for native in natives]
assert len(set(entries)) == len(set(symbols)) == len(natives), symbols
"""


def test_natives_cached_by_different_processes_do_not_meet(tmp_path):
    """Bodies that one factory makes, each the first of its process, must not share a symbol."""
    environment = os.environ | {"FASTNN_CACHE_DIR": str(tmp_path)}
    for names in (["sgd_momentum"], ["rmsprop"], ["sgd_momentum", "rmsprop"], ["rmsprop", "sgd_momentum"]):
        subprocess.run([sys.executable, "-c", ENTRIES, *names], env=environment, check=True, capture_output=True)
