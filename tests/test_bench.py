"""The benchmark: what it counts, whom it refuses a ratio, and what it prints. Times themselves are not tested."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastnn import _cli
from fastnn._cli import bench
from fastnn._cli.bench import machine, measure, peers, report
from fastnn._cli.bench.peers.own import Fastnn
from fastnn._cli.bench.workloads import ACTIVATIONS, DTYPES, WORKLOADS, Workload, make_case

ROOT = Path(__file__).parents[1]
TRAINING = [name for name, work in WORKLOADS.items() if work.trains]
TINY = Workload("tiny", (3, 4, 2), "tanh", 5, "mse", "adam", batches=20)


class NoPeak:
    """In place of the GEMM peak: 100 GFLOP/s, at once."""

    def measure(self):
        pass

    def result(self):
        return {"gflops": 100.0, "library": "none", "size": [1, 1, 1]}


def compare(work, kinds, dtype="float64", rounds=3):
    case = make_case(work, dtype)
    return measure.compare(case, {"fastnn": Fastnn, **kinds}, rounds, 1e-4, NoPeak())["peers"]


@pytest.fixture
def no_peak(monkeypatch):
    monkeypatch.setattr(bench, "Peak", lambda dtype, numpy_is_single: NoPeak())


@pytest.fixture
def nothing_installed(monkeypatch):
    """As if no other library were there."""
    for name in ("torch", "jax", "sklearn", "onnxruntime", "onnx"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in ("torch", "jax", "sklearn", "onnx"):
        monkeypatch.delitem(sys.modules, f"{peers.__name__}.with_{name}", raising=False)


def counted_flops(work):
    """Multiplications and additions of one step, counted one by one."""
    count = 0

    def product(m, n, k):
        nonlocal count
        for _ in range(m * n):
            count += 2 * k

    for layer, (i, o) in enumerate(zip(work.widths, work.widths[1:], strict=False)):
        product(work.rows, o, i)  # Z = X W
        if work.trains:
            product(i, o, work.rows)  # dW = X^T dZ
            if layer:
                product(work.rows, i, o)  # dX = dZ W^T
    return count


@pytest.mark.parametrize("name", ["xor", "20-64-64-1", "predict-1000"])
def test_operations_of_a_step(name):
    assert WORKLOADS[name].flops == counted_flops(WORKLOADS[name])


def test_operations_by_hand():
    assert Workload("", (2, 3, 1), "relu", 5, "mse", "sgd").flops == 2 * 5 * (2 * (2 * 3) + 3 * (3 * 1))
    assert Workload("", (2, 3, 1), "relu", 5).flops == 2 * 5 * (2 * 3 + 3 * 1)


def test_share_of_peak():
    assert measure.share_of_peak(1_000_000, 20.0, {"gflops": 100.0}) == pytest.approx(0.5)
    assert measure.share_of_peak(1_000_000, 20.0, None) is None


@pytest.mark.parametrize("name", WORKLOADS)
def test_cases(name):
    work = WORKLOADS[name]
    case = make_case(work, "float64", "gelu")
    assert case.workload.hidden == "gelu"
    assert case.x.shape == (work.rows * work.batches, work.widths[0])
    assert case.x.dtype == np.float64
    assert len(case.y) == len(case.x)
    assert [weight.shape for weight, _ in case.weights] == list(zip(work.widths, work.widths[1:], strict=False))
    assert case.x.nbytes + case.y.nbytes < 82e6
    assert not work.trains or work.batches >= peers.N_LOSSES
    again = make_case(work, "float64", "gelu")
    assert (again.x == case.x).all()
    assert (again.y == case.y).all()


def test_xor_is_the_whole_truth_table_in_each_batch():
    case = make_case(WORKLOADS["xor"])
    assert case.x[:4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert (case.x.reshape(-1, 4, 2) == case.x[:4]).all()
    assert case.y[:4].ravel().tolist() == [0, 1, 1, 0]


def test_own_losses_are_those_of_the_definition():
    case = make_case(TINY, "float64")
    peer = Fastnn(case)
    (w1, b1), (w2, b2) = case.weights
    first = np.mean((np.tanh(case.x[:5] @ w1 + b1) @ w2 + b2 - case.y[:5]) ** 2)
    losses = peer.losses(20)
    assert losses[0] == pytest.approx(first, rel=1e-12)
    assert losses.shape == (20,)
    assert len(set(losses)) == 20
    peer.train(2)
    assert (peer.losses(20) == losses).all()  # each run starts from the initial weights


class Twin(Fastnn):
    """A peer that is fastnn."""


class Stubborn(Fastnn):
    """Learns something else from its sixth step on."""

    def losses(self, n):
        found = super().losses(n)
        found[5:] *= 1.01
        return found


class Lost(Fastnn):
    def losses(self, n):
        return np.full(n, np.nan)


class Short(Fastnn):
    def losses(self, n):
        return super().losses(n)[:3]


class Broken(Fastnn):
    def train(self, passes):
        raise RuntimeError("no compiler\nand more about it")


class Elsewhere(Fastnn):
    def __init__(self, case):
        raise peers.UnavailableError("has no tanh")


def test_a_peer_that_learns_the_same_gets_a_ratio():
    entries = compare(TINY, {"twin": Twin})
    twin, own = entries["twin"], entries["fastnn"]
    assert (twin["status"], own["status"], own["ratio"]) == ("ok", "ok", 1.0)
    assert twin["difference"] == 0
    assert twin["losses"] == own["losses"]
    assert len(twin["rounds_us"]) == 3
    assert twin["median_us"] == sorted(twin["rounds_us"])[1]
    assert twin["ratio"] == twin["median_us"] / own["median_us"]
    assert twin["share_of_peak"] == pytest.approx(TINY.flops / (twin["median_us"] * 1e-6) / 100e9)
    assert twin["steps_per_round"] % TINY.batches == 0


@pytest.mark.parametrize(
    "kind, status, reason",
    [
        (Stubborn, "differs", "at step 6, fastnn's"),
        (Lost, "differs", "loss nan at step 1"),
        (Short, "differs", "loss has shape (3,), fastnn's (20,)"),
        (Broken, "failed", "RuntimeError: no compiler"),
        (Elsewhere, "unavailable", "has no tanh"),
    ],
)
def test_a_peer_that_does_not_is_refused_a_ratio(kind, status, reason):
    entry = compare(TINY, {"peer": kind})["peer"]
    assert entry["status"] == status
    assert reason in entry["reason"]
    assert "more about it" not in entry["reason"]
    assert not {"ratio", "median_us", "rounds_us"} & set(entry)


def test_outputs_are_compared_too():
    class Wrong(Fastnn):
        def outputs(self):
            found = super().outputs().copy()
            found[3] += 1e-3
            return found

    work = Workload("predicts", (3, 4, 2), "tanh", 5)
    entries = compare(work, {"peer": Wrong, "twin": Twin})
    assert entries["peer"]["reason"].startswith("output ")
    assert "at row 3" in entries["peer"]["reason"]
    assert entries["twin"]["status"] == "ok"


def test_fastnn_itself_may_not_fail():
    case = make_case(TINY, "float64")
    with pytest.raises(RuntimeError, match="no compiler"):
        measure.compare(case, {"fastnn": Broken}, 1, 1e-4, NoPeak())


def test_what_is_not_installed_is_named(nothing_installed, capsys, tmp_path):
    path = tmp_path / "bench.json"
    arguments = ["bench", "--quick", "--workloads", "xor", "predict-1", "--seconds", "0.001", "--json", str(path)]
    assert _cli.main([*arguments, "--rounds", "1"]) == 0
    said = capsys.readouterr()
    assert not said.err  # progress is for terminals
    for line in ("torch: torch is not", "jax: jax is not", "scikit-learn: sklearn is not", "torch-compile: left out"):
        assert f"- {line}" in said.out
    assert max(map(len, said.out.partition("\nwritten to")[0].splitlines())) <= 80
    result = json.loads(path.read_text())
    others = [name for name in peers.NAMES if not name.startswith("fastnn") and name != "torch-compile"]
    assert list(result["skipped"]) == [*others, "torch-compile"]


def test_installed_peers_as_a_user_starts_them(tmp_path):
    path = tmp_path / "bench.json"
    command = [sys.executable, "-m", "fastnn", "bench", "--quick", "--rounds", "1", "--seconds", "0.001"]
    command += ["--workloads", "xor", "predict-1", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    result = json.loads(path.read_text())
    packages = {"torch": "torch", "jax": "jax", "scikit-learn": "sklearn", "onnxruntime": "onnxruntime"}
    for name, package in packages.items():
        if name in result["skipped"]:
            assert "is not installed" in result["skipped"][name]
            continue
        assert importlib.util.find_spec(package)
        statuses = [work["peers"][name]["status"] for work in result["workloads"]]
        assert statuses == (["unavailable", "ok"] if name == "onnxruntime" else ["ok", "ok"])


def test_schema(no_peak):
    options = bench.Options(workloads=("xor", "predict-1"), peers=(), rounds=2, seconds=0.001, dtype="float64")
    said = []
    result = json.loads(json.dumps(bench.collect(options, said.append)))
    assert len(said) == 2
    assert set(result) == {
        "fastnn", "date", "command", "options", "machine", "versions", "skipped", "workloads",
    }  # fmt: skip
    assert set(result["machine"]) == {
        "cpu", "architecture", "cores_usable", "pinned_to_core", "system", "python",
    }  # fmt: skip
    assert set(result["versions"]) == {"numba", "llvmlite", "numpy"}
    expected = "python -m fastnn bench --workloads xor predict-1 --peers --rounds 2 --seconds 0.001 --dtype float64"
    assert result["command"] == expected
    for work, trains in zip(result["workloads"], (True, False), strict=True):
        assert set(work) == {"name", "description", "trains", "flops", "peak", "peers"}
        assert work["trains"] is trains
        entry = work["peers"]["fastnn"]
        more = {"losses"} if trains else set()
        assert set(entry) == more | {
            "status", "compile_seconds", "steps_per_round", "rounds_us", "median_us", "ratio", "share_of_peak",
        }  # fmt: skip
        assert len(entry["rounds_us"]) == 2
        assert len(entry.get("losses", range(20))) == 20


def test_the_real_peak(nothing_installed):
    from fastnn._cli.bench.peak import SIZES, Peak

    limit = machine.one_blas_thread()
    with limit or contextlib.nullcontext():
        peak = Peak("float32", numpy_is_single=limit is not None)
        assert peak.result() is None
        peak.measure()
        found = peak.result()
    assert tuple(found["size"]) in SIZES
    assert found["library"] in ("numpy", "fastnn")
    assert found["gflops"] > 0.1


def test_one_core_and_back():
    if not machine.ALLOWED:
        pytest.skip("this system does not tell which cores a process may use")
    before = os.sched_getaffinity(0)
    with machine.one_core():
        assert os.sched_getaffinity(0) == {machine.CORE}
        with machine.all_cores():
            assert os.sched_getaffinity(0) == machine.ALLOWED
        assert os.sched_getaffinity(0) == {machine.CORE}
    assert os.sched_getaffinity(0) == before


def entry(median=None, ratio=None, share=None, status="ok", reason=None):
    if status != "ok":
        return {"status": status, "reason": reason}
    return {"status": "ok", "median_us": median, "ratio": ratio, "share_of_peak": share, "compile_seconds": 0.25}


KNOWN = {
    "fastnn": "1.2.3",
    "date": "2030-01-02T03:04:05+00:00",
    "command": "python -m fastnn bench",
    "options": {"dtype": "float32", "rounds": 7, "seconds": 0.2},
    "machine": {
        "cpu": "Some CPU", "architecture": "x86_64", "cores_usable": 2, "pinned_to_core": 1, "system": "Linux 1",
        "python": "CPython 3.11.7",
    },
    "versions": {"numba": "0.68", "torch": "2.13"},
    "skipped": {"jax": "jax is not installed"},
    "workloads": [
        {
            "name": "xor", "description": "2-8-1 tanh", "trains": True, "flops": 1,
            "peak": {"gflops": 99.7, "library": "numpy", "size": [512, 512, 512]},
            "peers": {
                "fastnn": entry(0.3456, 1.0, 0.012),
                "torch": entry(100.0, 289.3),
                "torch-compile": entry(status="failed", reason="RuntimeError: no compiler"),
                "onnxruntime": entry(status="unavailable", reason="predicts only"),
            },
        },
        {
            "name": "predict-1000", "description": "20-1 relu", "trains": False, "flops": 1,
            "peak": {"gflops": 104.2, "library": "torch", "size": [256, 256, 256]},
            "peers": {
                "fastnn": entry(12345.6, 1.0, 0.876),
                "torch": entry(1.0, 2.345),
                "torch-compile": entry(status="differs", reason="output 1 at row 3, fastnn's 2 (limit 0.001)"),
                "onnxruntime": entry(1.0, 0.4567),
            },
        },
    ],
}  # fmt: skip


def test_report_of_known_numbers():
    expected = """\
fastnn 1.2.3, float32, one thread on core 1 of Some CPU
Microseconds a step: medians of 7 interleaved rounds of about 0.2 s.
Columns of peers: their time / fastnn's; above 1, fastnn is faster.
Of peak: the best matrix product beside each workload, 100 to 104 GFLOP/s
  (torch, m n k 256 x 256 x 256).

                         of           torch     onnx
workload          us   peak  torch  compile  runtime
xor            0.346  1.2 %    289   failed        -
predict-1000  12,346   88 %   2.35  differs    0.457

Seconds of set-up and compilation, not in the times, all workloads together:
  fastnn 0.5, torch 0.5, onnxruntime 0.2

Left out, and why:
- jax: jax is not installed
- torch-compile: failed: RuntimeError: no compiler [xor]
- onnxruntime: predicts only [xor]
- torch-compile: does not compute the same: output 1 at row 3, fastnn's 2 (limit
  0.001) [predict-1000]

Python 3.11.7, numba 0.68, torch 2.13"""
    assert report.text(KNOWN, 80) == expected


def test_markdown_of_known_numbers():
    lines = report.markdown(KNOWN).splitlines()
    assert lines[0] == "| workload | fastnn, µs | of peak | torch | torch-compile | onnxruntime |"
    assert lines[2] == "| 2-8-1 tanh | 0.346 | 1.2 % | 289 | failed | - |"
    assert lines[3] == "| 20-1 relu | 12,346 | 88 % | 2.35 | differs | 0.457 |"
    text = " ".join(lines)
    for fact in ("Measured 2030-01-02 on Some CPU", "torch 2.13", "`python -m fastnn bench`", "7 interleaved rounds"):
        assert fact in text


def test_usage(capsys):
    for arguments, text in (
        (["--workloads", "xro"], "did you mean 'xor'?"),
        (["--peers", "pytorch"], "did you mean 'torch'?"),
        (["--seconds", "0"], "--seconds: must be a number of seconds above 0"),
        (["--seconds", "nan"], "--seconds: must be a number of seconds above 0"),
        (["--rounds", "0"], "--rounds: must be a whole number of at least 1"),
        (["--dtype", "float16"], "--dtype"),
    ):
        with pytest.raises(SystemExit) as stopped:
            _cli.main(["bench", *arguments])
        assert stopped.value.code == 2
        assert text in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "no_such_folder/bench.json"])
def test_json_where_it_cannot_be_written(name, tmp_path, capsys):
    assert _cli.main(["bench", "--json", str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    assert "--json cannot write" in said.err
    assert not said.out  # nothing was measured


def test_quick_may_be_changed(monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "run", lambda options, path: seen.append(options) or 0)
    assert _cli.main(["bench", "--quick", "--peers", "torch-compile", "jax", "jax", "--rounds", "5"]) == 0
    assert seen[0] == bench.Options(peers=("torch-compile", "jax"), rounds=5, seconds=0.05)
    assert _cli.main(["bench"]) == 0
    assert seen[1] == bench.Options()
    assert "torch-compile" not in bench.Options.quick().peers


def test_a_peer_that_differs_is_told_by_the_exit_status(monkeypatch, capsys, no_peak):
    monkeypatch.setattr(peers, "load", lambda name: Stubborn if name == "torch" else Fastnn)
    options = bench.Options(workloads=("xor",), peers=("torch",), rounds=1, seconds=1e-4)
    assert bench.run(options, None) == 1
    assert "does not compute the same: loss" in capsys.readouterr().out


def readme_table():
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme_table.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_readme_table_writes_and_checks(tmp_path, capsys):
    module = readme_table()
    measured, document, other = tmp_path / "known.json", tmp_path / "README.md", tmp_path / "none.md"
    measured.write_text(json.dumps(KNOWN))
    document.write_text(f"before\n{module.BEGIN}\nold\n{module.END}\nbehind\n", encoding="utf-8")

    def call(*options):
        return module.main([str(measured), *options], (document, other))

    assert call("--check") == 1
    assert call("--write") == 0
    assert call("--check") == 0
    text = document.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("behind\n")
    assert report.markdown(KNOWN) in text
    document.write_text(text.replace("289", "290"), encoding="utf-8")
    assert call("--check") == 1
    document.write_text("no marks", encoding="utf-8")
    assert call("--check") == 2
    capsys.readouterr()
    assert call() == 0
    assert capsys.readouterr().out.strip() == module.table(measured)


def test_documents_say_what_was_measured():
    module = readme_table()
    for document in module.DOCUMENTS:
        parts = module.marked(document)
        if parts is not None:
            names = [path for path in (ROOT / "benchmarks" / "results").glob("*.json") if path.name in parts[1]]
            assert len(names) == 1, f"{document.name} must name the file in benchmarks/results that it was made from"
            assert parts[1] == module.table(names[0])


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("name", TRAINING)
def test_torch_has_the_same_losses(oracle, name, activation, dtype):
    oracle("torch")
    from fastnn._cli.bench.peers.with_torch import Torch

    case = make_case(WORKLOADS[name], dtype, activation)
    np.testing.assert_allclose(Torch(case).answers(), Fastnn(case).answers(), rtol=peers.TOLERANCE[dtype])


@pytest.mark.oracle
@pytest.mark.parametrize("name", WORKLOADS)
def test_scikit_learn_has_the_same_losses(oracle, name):
    oracle("sklearn")
    from fastnn._cli.bench.peers.with_sklearn import ScikitLearn

    case = make_case(WORKLOADS[name], "float64")
    expected = Fastnn(case).answers()
    found = ScikitLearn(case).answers()
    np.testing.assert_allclose(found, expected, rtol=ScikitLearn.tolerance["float64"], atol=1e-12)


def test_neither_fastnn_nor_its_command_line_imports_a_peer():
    code = "import sys, fastnn; assert 'fastnn._cli' not in sys.modules; from fastnn import _cli; _cli._parser(); "
    code += "assert not {'torch', 'jax', 'sklearn', 'onnx', 'onnxruntime', 'threadpoolctl'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
