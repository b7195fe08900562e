"""The benchmark on a GPU: its tables, what it counts and prints, its peers. No GPU is needed."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import fastnn as fn
from fastnn import _cli
from fastnn._cli import bench
from fastnn._cli.bench import gpu, measure, peers
from fastnn._cli.bench.gpu import report
from fastnn._cli.bench.gpu.workloads import WORKLOADS, least_bytes
from fastnn._cli.bench.peers.own import Fastnn
from fastnn._cli.bench.workloads import Workload, make_case

TINY = Workload("tiny", (3, 4, 2), "tanh", 5, "mse", "adam", batches=7)
PREDICTS = Workload("predicts", (3, 4, 2), "tanh", 5)
SEVERAL = Workload("several", (3, 4, 2), "tanh", 5, "mse", "adam", batches=20, networks=3)


def test_workloads():
    assert WORKLOADS["64x4-predict"].flops == 4 * 2 * 2**18 * 64 * 64
    assert WORKLOADS["64x4"].flops == 11 * 2 * 2**18 * 64 * 64  # 4 forward, 4 for weights, 3 for inputs
    assert WORKLOADS["population"].flops == 132 * WORKLOADS["20-64-64-1"].flops
    assert WORKLOADS["population"].describe() == "132 networks 20-64-64-1 relu, batch 32, adam, mse"
    assert all(name == work.name for name, work in WORKLOADS.items())
    assert all(len(work.widths) > 2 and work.rows >= 4 for work in WORKLOADS.values())


def test_bytes_by_hand():
    parameters = (3 * 4 + 4) + (4 * 2 + 2)
    assert least_bytes(PREDICTS) == 4 * (5 * 3 + 5 * 2 + parameters)
    assert least_bytes(TINY) == 4 * (5 * 3 + 5 * 2 + 2 * parameters + 2 * 2 * parameters)  # theta, and two moments
    assert least_bytes(SEVERAL) == 4 * (5 * 3 + 5 * 2 + 3 * 6 * parameters)  # all networks read the same batch
    descent = Workload("", (3, 4, 2), "tanh", 5, "cross_entropy", "sgd")
    assert least_bytes(descent) == 4 * (5 * 3 + 5 * 1 + 2 * parameters)  # one label a row
    assert least_bytes(WORKLOADS["64x4-predict"]) == 2 * 2**18 * 64 * 4 + 4 * (64 * 64 + 64) * 4


def test_networks_differ_and_share_their_data():
    case = make_case(SEVERAL)
    assert len(case.starts) == 3
    assert case.weights is case.starts[0]
    shapes = [[part.shape for part in layer] for layer in case.weights]
    assert shapes == [[(3, 4), (4,)], [(4, 2), (2,)]]
    assert len({start[1][0].tobytes() for start in case.starts}) == 3
    assert case.x.shape == (100, 3)


def test_names_tell_the_precision():
    assert peers.GPU_NAMES[0] == peers.OWN
    for name in peers.GPU_NAMES:
        library, _, rest = name.partition("-")
        wanted = rest.rpartition("-")[2] if rest.endswith(("tf32", "bf16")) else "float32"
        assert library in ("fastnn", "torch")
        if importlib.util.find_spec(library) is None:
            with pytest.raises(peers.UnavailableError, match=r"^torch is not installed$"):
                peers.load_gpu(name)
            continue
        kind = peers.load_gpu(name)
        assert kind.precision == wanted
        limit = {"float32": 1e-3, "tf32": 1e-2, "bf16": 5e-2}[wanted]
        assert kind.tolerance["float32"] == limit
        assert not kind.on_one_core


# What is missing


def test_without_a_gpu_there_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "missing", lambda: "needs something")
    assert _cli.main(["bench", "--device", "cuda"]) == 2
    said = capsys.readouterr()
    assert said.err == "python -m fastnn bench: error: --device cuda: needs something\n"
    assert not said.out


def stub(monkeypatch, **parts):
    """A module in the place of `fastnn.cuda._jit`."""
    module = ModuleType("fastnn.cuda._jit")
    vars(module).update(parts)
    monkeypatch.setitem(sys.modules, "fastnn.cuda", ModuleType("fastnn.cuda"))
    monkeypatch.setitem(sys.modules, "fastnn.cuda._jit", module)


def test_what_is_missing_is_named(monkeypatch):
    nothing = SimpleNamespace(is_available=lambda: False, cuda_error=lambda: "no\n driver ")
    stub(monkeypatch, SIMULATED=False, cuda=nothing)
    assert gpu.missing() == "needs an NVIDIA GPU and its driver, and finds none (no driver)"
    stub(monkeypatch, SIMULATED=True, cuda=nothing)
    assert "this is numba-cuda's simulator" in gpu.missing()
    stub(monkeypatch, SIMULATED=False, cuda=SimpleNamespace(is_available=lambda: True))
    assert gpu.missing() is None
    for name in ("fastnn.cuda", "fastnn.cuda._jit"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastnn.cuda._jit", None)
    assert "fastnn.cuda" in gpu.missing()


def test_driver(tmp_path):
    path = tmp_path / "version"
    path.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC 12.3.0\n")
    assert gpu.driver(path) == "580.65.06"
    assert gpu.driver(tmp_path / "none") is None


# Shares and ceilings

CEILINGS = {"gigabytes_per_second": 4000.0, "gflops": {"float32": 50_000.0, "bf16": 700_000.0}}


def entry(median, ratio, **more):
    return {"status": "ok", "median_us": median, "ratio": ratio, "share_of_peak": None, "compile_seconds": 0.25} | more


def shared_work():
    names = ("fastnn", "torch-tf32", "torch-bf16", "torch")
    kinds = {name: SimpleNamespace(precision=name.partition("-")[2] or "float32") for name in names}
    work = {
        "name": "64x4-predict", "description": "64-64 relu", "trains": False, "flops": 8_589_934_592, "peak": CEILINGS,
        "peers": {
            "fastnn": entry(400.0, 1.0),
            "torch-tf32": entry(600.0, 1.5),
            "torch-bf16": entry(100.0, 0.25),
            "torch": {"status": "failed", "reason": "RuntimeError: out of memory"},
        },
    }  # fmt: skip
    return gpu.with_shares(work, kinds, 134_300_000)


def test_shares():
    work = shared_work()
    assert "peak" not in work
    assert work["ceilings"] == CEILINGS
    own, other, low, failed = work["peers"].values()
    assert own["precision"] == "float32"
    assert own["share_of_peak"] == pytest.approx(8_589_934_592 / 400e-6 / 50_000e9)
    assert own["share_of_bandwidth"] == pytest.approx(134.3e6 / 400e-6 / 4000e9)
    assert other["share_of_peak"] is None  # no product in tf32 was measured
    assert low["share_of_peak"] == pytest.approx(8_589_934_592 / 100e-6 / 700_000e9)
    assert failed == {"status": "failed", "reason": "RuntimeError: out of memory", "precision": "float32"}


def test_ceilings(monkeypatch):
    from fastnn._cli.bench.gpu import ceilings

    class Memory:
        nbytes = 4 * ceilings._NUMBERS

        def copy_to_device(self, source):
            done.append("copy")

    done = []
    stub(monkeypatch, cuda=SimpleNamespace(device_array=lambda *arguments: Memory()))
    monkeypatch.setattr(ceilings, "_products", lambda: {"tf32": lambda: done.append("product")})
    monkeypatch.setattr(ceilings, "seconds_of_numba", lambda work: 2 * a_millisecond(work))
    monkeypatch.setattr(ceilings, "seconds_of_torch", lambda work: 10 * a_millisecond(work))
    found = ceilings.Ceilings()
    done.clear()
    found.measure()
    assert done == ["copy"] * 5 + ["product"] * 5
    assert found.result() == {
        "gigabytes_per_second": pytest.approx(5 * 2 * 2**30 / 2e-3 / 1e9),
        "gflops": {"tf32": pytest.approx(5 * 2 * 8192**3 / 1e-2 / 1e9)},
    }


def test_without_torch_there_are_no_products(monkeypatch):
    from fastnn._cli.bench.gpu import ceilings

    monkeypatch.setitem(sys.modules, "torch", None)
    assert ceilings._products() == {}


KNOWN = {
    "fastnn": "1.2.3",
    "options": {"rounds": 7, "seconds": 0.2},
    "machine": {"python": "CPython 3.11.7"},
    "gpu": {"name": "Some GPU", "driver": "580.65.06"},
    "versions": {"numba-cuda": "0.30.4", "torch": "2.13"},
    "skipped": {"torch-compile": "left out by --quick"},
}


def test_report_of_known_numbers():
    expected = """\
fastnn 1.2.3 on Some GPU, driver 580.65.06
Microseconds a step: medians of 7 interleaved rounds of about 0.2 s, between
  CUDA events.
Ratio: time / that of fastnn, which is float32; above 1, fastnn is faster.
Of peak: of a large matrix product in the same precision, by PyTorch. Of
  bandwidth: of a copy in the GPU's memory, for the bytes that cannot but be
  moved; above 100 % they stay in its caches.

64x4-predict: 64-64 relu; 8.59 GFLOP, 134 MB
             us  ratio  of peak  of bandwidth
fastnn      400   1.00     43 %         8.4 %
torch-tf32  600   1.50        -         5.6 %
torch-bf16  100  0.250     12 %          34 %
Beside it: copy 4000 GB/s; products, TFLOP/s: float32 50, bf16 700.

Seconds of set-up and compilation, not in the times, all workloads together:
  fastnn 0.2, torch-tf32 0.2, torch-bf16 0.2

Left out, and why:
- torch-compile: left out by --quick
- torch: failed: RuntimeError: out of memory [64x4-predict]

CPython 3.11.7, numba-cuda 0.30.4, torch 2.13"""
    assert report.text(KNOWN | {"workloads": [shared_work()]}, 80) == expected


# The command


def test_options(monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "run", lambda options, path: seen.append(options) or 0)
    assert _cli.main(["bench", "--device", "cuda"]) == 0
    assert seen[-1] == bench.Options(tuple(WORKLOADS), peers.GPU_NAMES, device="cuda")
    assert _cli.main(["bench", "--device", "cuda", "--quick", "--workloads", "xor", "--rounds", "5"]) == 0
    quick = tuple(name for name in peers.GPU_NAMES if "compile" not in name)
    assert seen[-1] == bench.Options(("xor",), quick, rounds=5, seconds=0.05, device="cuda")
    assert bench.command(bench.Options.on("cuda")) == "python -m fastnn bench --device cuda"
    few = bench.Options(("xor",), ("torch-bf16",), device="cuda")
    assert bench.command(few) == "python -m fastnn bench --workloads xor --peers torch-bf16 --device cuda"
    assert bench.command(bench.Options()) == "python -m fastnn bench"


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--device", "gpu"], "invalid choice"),
        (["--device", "cuda", "--workloads", "predict-1"], "--workloads: a workload must be one of"),
        (["--device", "cuda", "--peers", "torch-graph"], "did you mean 'torch-graphs'?"),
        (["--device", "cuda", "--dtype", "float64"], "--dtype: must be float32 with --device cuda"),
        (["--peers", "torch-graphs"], "--peers: a peer must be one of"),
    ],
)
def test_usage(arguments, text, capsys):
    with pytest.raises(SystemExit) as stopped:
        _cli.main(["bench", *arguments])
    assert stopped.value.code == 2
    assert text in capsys.readouterr().err


# Peers, where the CPU stands in for the GPU


class Outputs(np.ndarray):
    def copy_to_host(self):
        return np.array(self)


class Pretended(fn.Sequential):
    """A network on the CPU that says it is on a GPU."""

    def __init__(self, layers, *, device, precision, **named):
        assert device == "cuda"
        self.asked = precision
        super().__init__(layers, **named)

    def predict(self, X):
        return super().predict(X).view(Outputs)


def a_millisecond(work):
    work()
    return 1e-3


class PretendedPopulation(fn.Population):
    """Networks on the CPU that say they are on a GPU."""

    def to(self, device):
        assert device in ("cpu", "cuda")
        return self


def each_alone(case, n):
    """Losses of the networks, (n, networks), trained one after the other by the CPU's peer."""
    single = replace(case.workload, networks=1)
    return np.stack([Fastnn(replace(case, workload=single, starts=[start])).losses(n) for start in case.starts], axis=1)


@pytest.fixture
def cpu_for_gpu(monkeypatch):
    from fastnn._cli.bench.peers import gpu_own

    stub(monkeypatch, cuda=SimpleNamespace(to_device=lambda array: array))
    own = SimpleNamespace(**vars(fn) | {"Sequential": Pretended, "Population": PretendedPopulation})
    monkeypatch.setattr(gpu_own, "fn", own)
    monkeypatch.setattr(gpu_own, "seconds_of_numba", a_millisecond)
    return gpu_own


@pytest.mark.parametrize("work", [TINY, PREDICTS], ids=lambda work: work.name)
def test_own_peer(cpu_for_gpu, work):
    case = make_case(work, "float32")
    for kind, precision in ((cpu_for_gpu.FastnnCuda, None), (cpu_for_gpu.FastnnBF16, "bf16")):
        peer = kind(case)
        assert peer._net.asked == precision
        wanted = Fastnn(case).losses(7) if work.trains else Fastnn(case).outputs()
        found = peer.answers()
        if work.trains:
            assert found.shape == (20,)  # more than there are batches, which come again
        np.testing.assert_allclose(found[: len(wanted)], wanted, rtol=1e-6, atol=1e-6)
        assert peer.run(2) == 1e-3
        np.testing.assert_array_equal(peer.answers(), found)  # each run starts from the initial weights


def test_own_peer_of_several_networks(cpu_for_gpu):
    case = make_case(SEVERAL)
    peer = cpu_for_gpu.FastnnCuda(case)
    found = peer.answers()
    assert found.shape == (20, 3)
    np.testing.assert_allclose(found, each_alone(case, 20), rtol=1e-6, atol=1e-6)
    assert peer.run(2) == 1e-3
    np.testing.assert_array_equal(peer.answers(), found)


def test_losses_of_several_networks_are_compared_one_by_one():
    case = make_case(SEVERAL)
    losses = each_alone(case, 20)
    assert measure._evidence(losses, case) == {"losses": pytest.approx(losses.mean(axis=1))}
    assert "difference" in measure._judge(losses, losses, case, 1e-3)
    other = losses.copy()
    other[4, 2] *= 1.01
    judged = measure._judge(other, losses, case, 1e-3)
    assert judged["status"] == "differs"
    assert "at step 5" in judged["reason"]
    assert measure._judge(losses[:, :2], losses, case, 1e-3)["status"] == "differs"


@pytest.fixture
def gpu_torch(oracle, monkeypatch):
    """The module of PyTorch's peers, over tensors that stay on the CPU."""
    torch = oracle("torch")
    from fastnn._cli.bench.peers import gpu_torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    monkeypatch.setattr(gpu_torch, "seconds_of_torch", a_millisecond)
    return gpu_torch


@pytest.mark.oracle
def test_torch_has_the_same_losses_of_several_networks(gpu_torch):
    case = make_case(SEVERAL)
    wanted = each_alone(case, 20)
    for kind, networks in ((gpu_torch.TorchCuda, 3), (gpu_torch.TorchCudaVmap, 1)):
        peer = kind(case)
        found = peer.answers()
        assert found.shape == (20, 3)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
        assert peer.run(2) == pytest.approx(networks * 1e-3)  # one after the other, or at once
        np.testing.assert_array_equal(peer.answers(), found)
    for kind in (gpu_torch.TorchCudaVmap, gpu_torch.TorchCudaVmapGraphs):
        with pytest.raises(peers.UnavailableError, match="several networks"):
            kind(make_case(TINY))


@pytest.mark.oracle
@pytest.mark.parametrize("loss", [None, "mse", "cross_entropy", "binary_cross_entropy"])
def test_torch_has_the_same_losses(gpu_torch, loss):
    import torch

    widths = (2, 5, 1) if loss == "binary_cross_entropy" else (6, 5, 4)
    optimizer = None if loss is None else "adam" if loss == "mse" else "sgd"
    case = make_case(Workload("some", widths, "gelu", 8, loss, optimizer, batches=20 if loss else 1))
    before = torch.get_float32_matmul_precision()
    try:
        for kind in (gpu_torch.TorchCuda, gpu_torch.TorchTF32):
            peer = kind(case)
            assert torch.get_float32_matmul_precision() == {"float32": "highest", "tf32": "high"}[kind.precision]
            np.testing.assert_allclose(peer.answers(), Fastnn(case).answers(), rtol=1e-4, atol=1e-6)
            assert peer.run(2) == 1e-3
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_whole_run(cpu_for_gpu, monkeypatch, capsys, tmp_path):
    """From the command to the table, the JSON and the exit status."""

    class Wrong(cpu_for_gpu.FastnnCuda):
        precision = "bf16"

        def losses(self, n):
            return 1.1 * super().losses(n)

    class Known:
        def measure(self):
            pass

        def result(self):
            return CEILINGS

    facts = {"name": "Some GPU", "driver": None}
    monkeypatch.setattr(gpu, "missing", lambda: None)
    monkeypatch.setattr(gpu, "facts", lambda: facts)
    monkeypatch.setattr("fastnn._cli.bench.gpu.ceilings.Ceilings", Known)
    kinds = {"fastnn": cpu_for_gpu.FastnnCuda, "fastnn-bf16": Wrong}
    monkeypatch.setattr(peers, "load_gpu", kinds.__getitem__)
    monkeypatch.setattr(peers.Peer, "versions", classmethod(lambda cls: {"some": "1"}))
    path = tmp_path / "gpu.json"
    arguments = ["bench", "--device", "cuda", "--workloads", "xor", "--peers", "fastnn-bf16", "--rounds", "1"]
    assert _cli.main([*arguments, "--seconds", "0.001", "--json", str(path)]) == 1
    said = capsys.readouterr().out
    assert "fastnn-bf16: does not compute the same: loss" in said
    result = json.loads(path.read_text())
    assert result["gpu"] == facts
    assert result["command"] == (
        "python -m fastnn bench --workloads xor --peers fastnn-bf16 --rounds 1 --seconds 0.001 --device cuda"
    )
    (work,) = result["workloads"]
    assert (work["least_bytes"], work["ceilings"]) == (least_bytes(WORKLOADS["xor"]), CEILINGS)
    assert work["peers"]["fastnn-bf16"]["precision"] == "bf16"
    own = work["peers"]["fastnn"]
    assert own["share_of_peak"] == pytest.approx(
        measure.share_of_peak(work["flops"], own["median_us"], {"gflops": 50_000.0})
    )


def test_pytorch_is_imported_only_when_it_is_asked_for():
    code = "import sys, fastnn._cli.bench.gpu.report, fastnn._cli.bench.gpu.ceilings; from fastnn import _cli; "
    code += "_cli.main(['bench', '--device', 'cuda']); assert not {'torch', 'jax'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    if gpu.missing() is None:
        pytest.skip("there is a GPU: the command runs")
    assert done.returncode == 0, done.stderr
    assert "error: --device cuda: " in done.stderr
