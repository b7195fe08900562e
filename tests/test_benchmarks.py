"""The asv suite: what asv needs of it, what it counts, and that it compiles nothing while a clock runs."""

import ast
import importlib
import inspect
import json
import os
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

import fastnn as fn
from fastnn.optimizers._custom import _Custom
from fastnn.optimizers._rules import RULES

ROOT = Path(__file__).parents[1]
FILES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))
SCRIPTS = ("readme_table",)
KINDS = ("time_", "track_", "peakmem_")

sys.path.insert(0, str(ROOT))  # asv, too, imports the folder as a package
with mock.patch.dict(os.environ):  # the package pins threads; the other tests shall not see it
    importlib.import_module("benchmarks")


def module(name):
    return importlib.import_module(f"benchmarks.{name}")


def suites():
    """Every class in which asv finds something."""
    for name in FILES:
        if name in SCRIPTS or name.startswith("_"):
            continue
        for each in vars(module(name)).values():
            own = inspect.isclass(each) and each.__module__ == f"benchmarks.{name}"
            if own and not each.__name__.startswith("_") and benchmarks(each):
                yield each


def benchmarks(suite):
    return [name for name in dir(suite) if name.startswith(KINDS)]


def calls(suite, method):
    """Names of the methods that a method, or the one it extends, calls."""
    found = set()
    for base in suite.__mro__:
        if method not in vars(base):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(vars(base)[method])))
        found |= {n.func.attr for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    return found


SUITES = list(suites())


@pytest.mark.parametrize("name", FILES)
def test_every_file_is_imported(name):
    assert module(name).__doc__


def test_every_file_measures_something():
    found = {suite.__module__.partition(".")[2] for suite in SUITES}
    assert found == {name for name in FILES if name not in SCRIPTS and not name.startswith("_")}


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: f"{suite.__module__}.{suite.__name__}")
def test_parameters_and_units(suite):
    params = getattr(suite, "params", ())
    assert len(params) == len(getattr(suite, "param_names", ()))
    for values in params:
        assert values
        assert len(set(values)) == len(values)
        assert all(type(value) in (str, int, float) for value in values)
    for name in benchmarks(suite):
        if name.startswith("track_"):
            assert getattr(getattr(suite, name), "unit", getattr(suite, "unit", "")), f"{name} has no unit"


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: f"{suite.__module__}.{suite.__name__}")
def test_what_is_timed_has_been_called_before(suite):
    warm = calls(suite, "setup") | calls(suite, "setup_cache")
    for name in benchmarks(suite):
        if name.startswith("track_"):
            assert hasattr(suite, "setup") or hasattr(suite, "setup_cache"), name
        else:
            assert name in warm, f"{name} is called neither in setup nor in setup_cache"


def test_tracked_times_are_taken_after_a_first_call(monkeypatch):
    """A first call that compiles for seconds leaves no trace in what one function takes for all of `kernels`."""
    loops, now, rounds_of = module("_loops"), [0.0], []

    def loop(rounds):
        now[0] += 1e-6 * rounds + (0 if rounds_of else 5)
        rounds_of.append(rounds)

    monkeypatch.setattr(loops, "time", SimpleNamespace(process_time=lambda: now[0]))
    assert loops.seconds(loop) == pytest.approx(1e-6)
    assert rounds_of[-1] * 1e-6 >= loops._BLOCK_SECONDS


def test_threads_are_pinned_in_the_configuration_and_in_the_package():
    pinned = json.loads((ROOT / "asv.conf.json").read_text(encoding="utf-8"))["matrix"]["env_nobuild"]
    assert all(values == ["1"] for values in pinned.values())
    with mock.patch.dict(os.environ, clear=True):
        importlib.reload(sys.modules["benchmarks"])
        assert dict(os.environ) == dict.fromkeys(pinned, "1")


def test_products_of_a_step_by_hand():
    kernels = module("kernels")
    found = kernels.products_of((2, 3, 1), 5)
    assert [(each.use, each.m, each.n, each.k) for each in found] == [
        ("forward", 5, 3, 2),  # (5, 2) @ (2, 3)
        ("weights", 2, 3, 5),  # (2, 5) @ (5, 3)
        ("forward", 5, 1, 3),
        ("weights", 3, 1, 5),
        ("inputs", 5, 3, 1),  # (5, 1) @ (1, 3)
    ]
    assert [each.flops for each in found] == [60, 60, 30, 30, 30]
    assert kernels.Product("forward", 1024, 1024, 1024).flops == 2**31


def test_products_are_those_of_the_standard_workloads():
    from fastnn._cli.bench.workloads import WORKLOADS

    kernels = module("kernels")
    networks = {widths for widths, _ in kernels.NETWORKS}
    for name, work in WORKLOADS.items():
        assert not work.trains or name == "xor" or work.widths in networks, name
        flops = sum(each.flops for each in kernels.products_of(work.widths, work.rows))
        assert not work.trains or flops == work.flops


@pytest.mark.parametrize("use", ["forward", "weights", "inputs"])
def test_a_timed_product_is_the_product(use, monkeypatch):
    """The strides describe the matrices that the name says: C is the product of A and B."""
    kernels = module("kernels")
    seen = []
    monkeypatch.setattr(kernels._loops, "seconds", lambda loop, *arguments: seen.append((loop, arguments)) or 1.0)
    m, n, k = 9, 20, 13
    kernels.product_seconds(kernels.Product(use, m, n, k), "float64")
    loop, arguments = seen[0]
    loop(1, *arguments)
    _, _, a, _, b, _, c, start, _, e, _ = arguments
    a = a[: m * k].reshape(k, m).T if use == "weights" else a[: m * k].reshape(m, k)
    b = b[: k * n].reshape(n, k).T if use == "inputs" else b[: k * n].reshape(k, n)
    wanted = a @ b
    if use == "forward":
        wanted = np.maximum(wanted + start[:n], 0)
    if use == "inputs":
        wanted *= e[: m * n].reshape(m, n) > 0
    np.testing.assert_allclose(c[: m * n].reshape(m, n), wanted, atol=1e-12)


def test_bytes_of_an_update_by_hand():
    update_bytes = module("kernels").update_bytes
    assert update_bytes(10, 0, 4) == 4 * (10 + 10 + 10)  # theta read, gradient read, theta written
    assert update_bytes(10, 2, 8) == 8 * (10 + 10 + 10 + 2 * 10 + 2 * 10)  # two moments read and written


def test_updates_of_all_optimizers_in_the_registry():
    optimizers = module("kernels").OPTIMIZERS
    built_in = [fn.optimizers.get(name) for name in fn.optimizers.names()]
    built_in = [each for each in built_in if not isinstance(each, _Custom)]  # which other tests may have registered
    assert set(optimizers) >= {each.name for each in built_in if not each.full_batch}
    rules = {optimizer.rule for optimizer in optimizers.values()}
    variants = {"adam_amsgrad", "rmsprop_momentum", "rmsprop_centered", "rmsprop_centered_momentum"}
    assert {name for name, rule in RULES.items() if rule not in rules} == variants


def test_a_copy_moves_what_is_counted(monkeypatch):
    loops, kernels = module("_loops"), module("kernels")
    a, b = np.arange(8.0), np.zeros(8)
    loops.copies(1, a, b)
    np.testing.assert_array_equal(b, a)
    monkeypatch.setattr(loops, "seconds", lambda loop, a, b: 1e-9 * (a.nbytes + b.nbytes))
    assert kernels.copy_gigabytes.__wrapped__(1 << 12) == pytest.approx(1.0)


@pytest.mark.parametrize("case", module("subnormals").CASES)
def test_long_runs_decay(case):
    """Without flushing, numbers would be below the smallest normal one within the 20,000 steps of the benchmark."""
    subnormals = module("subnormals")
    net, optimizer, taken = subnormals.train(case, "float32", steps=6000)
    assert len(taken) == 60
    values = optimizer.state.slots if case.startswith("moments") else net.parameters
    assert (values == 0).mean() > 0.9


def test_signatures_are_counted_as_the_cache_writes_them(tmp_path):
    startup = module("startup")
    for name in ("a.nbc", "b.nbc", "index.nbi"):
        (tmp_path / name).touch()
    assert startup.signatures(tmp_path) == 2


def test_two_threads_need_two_cores(monkeypatch):
    training = module("training")
    monkeypatch.setattr(training, "usable_cores", lambda: 1)
    with pytest.raises(NotImplementedError):
        training.Threads().setup("4-32-16-4", 2)
