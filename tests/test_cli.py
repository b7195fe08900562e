"""The command line, in-process where that is enough and as a user starts it where it is not."""

import ctypes
import importlib.util
import os
import subprocess
import sys
import time
from importlib import metadata

import numpy as np
import pytest

import fastnn as fn
from fastnn import _cli, _jit, losses
from fastnn._cli import demo, drawing, info, warmup


def run(*arguments, **environment):
    """``python -m fastnn ...`` in its own process, with its output as bytes."""
    command = [sys.executable, "-m", "fastnn", *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, check=False)


def test_demo_as_a_user_starts_it():
    done = run("demo", "--seed", "1", PYTHONIOENCODING="utf-8", TERM="xterm", COLUMNS="80")
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode("utf-8")
    accuracy = float(text.partition("accuracy")[2].split()[0])
    assert accuracy >= 97
    assert "█" in text
    assert "true \\ read" in text
    assert max(map(len, text.splitlines())) <= 80
    assert b"epoch/s" not in done.stderr  # no progress bar where there is no terminal


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8", "TERM": "dumb"}])
def test_demo_in_ascii(environment):
    done = run("demo", "--epochs", "1", **environment)
    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode("ascii")
    assert "read as" in text
    assert "@@" in text


@pytest.mark.parametrize("seed", range(3))
def test_demo_reads_97_percent_within_two_seconds(seed):
    learn, held = demo.split()
    net = demo.make_network(seed)
    demo.train(net, learn, held, epochs=1, progress=False)  # kernels are ready
    net = demo.make_network(seed)
    begin = time.process_time()  # not the wall clock: other programs may be busy
    demo.train(net, learn, held, epochs=60, progress=False)
    assert time.process_time() - begin < 2
    assert net.evaluate(*held)["accuracy"] >= 0.97


def test_demo_split_is_disjoint_and_complete():
    learn, held = demo.split()
    x, y = fn.data.load_digits()
    assert len(held.y) == 360
    both = np.vstack([learn.x, held.x]) * 16
    assert sorted(map(bytes, both)) == sorted(map(bytes, x))
    assert np.bincount(held.y).min() > 20
    assert len(y) == len(learn.y) + len(held.y)


def test_demo_plot(tmp_path, capsys):
    for name in ("plot.png", "plot.svg"):
        assert _cli.main(["demo", "--epochs", "2", "--plot", str(tmp_path / name)]) == 0
        assert str(tmp_path / name) in capsys.readouterr().out
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "plot.svg").read_text()


def test_demo_plot_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert _cli.main(["demo", "--plot", str(tmp_path / "plot.png")]) == 2
    said = capsys.readouterr()
    assert "pip install 'fastnn-numba[plot]'" in said.err
    assert not said.out  # nothing was trained


@pytest.mark.parametrize("name", ["plot", "plot.xyz", "no_such_folder/plot.png"])
def test_demo_plot_where_it_cannot_be_written(name, tmp_path, capsys):
    assert _cli.main(["demo", "--plot", str(tmp_path / name)]) == 2
    said = capsys.readouterr()
    assert name in said.err
    assert not said.out


def test_demo_without_a_misread_image():
    pixels = demo.Digits(np.zeros((1, 64), np.float32), np.array([3]))
    perfect = demo.Result(pixels, np.eye(10, dtype=np.float32)[[3]], fn.History())
    assert demo._draw_misread(perfect) == ["No held-out image is misread."]


def test_drawing():
    assert drawing.image(np.array([[0.0, 0.5, 1.0]]), " .@") == ["  ..@@"]
    assert drawing.beside([["a", "bb"], ["c", "d"]]) == ["a   c", "bb  d"]
    table = drawing.confusion_table(np.array([[12, 0], [1, 3]]))
    assert [line.split()[-2:] for line in table[1:]] == [["12", "."], ["1", "3"]]


def test_info(capsys, monkeypatch):
    assert _cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("fastnn", "Python", "numba", "llvmlite", "numpy", "scipy", "CPU", "vectors", "threading layer", "GPU"):
        assert word in text
    assert str(_jit.CACHE_FOLDER) in text
    monkeypatch.setattr(_jit, "CACHE_FOLDER", None)
    assert "FASTNN_CACHE_DIR" in info.cache()


class Driver:
    """A stand-in for the NVIDIA driver's library: two GPUs, or an error."""

    def __init__(self, error=0):
        def answer(name, action=lambda *arguments: None):
            def call(*arguments):
                action(*arguments)
                return error

            call.__name__ = name
            return call

        self.cuInit = answer("cuInit")
        self.cuDeviceGetCount = answer("cuDeviceGetCount", lambda count: setattr(count._obj, "value", 2))
        self.cuDeviceGet = answer("cuDeviceGet")
        self.cuDeviceGetName = answer("cuDeviceGetName", lambda name, *_: setattr(name, "value", b"NVIDIA X"))


def test_info_about_the_gpu(monkeypatch):
    def no_driver(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    assert info.gpu().startswith("none: there is no NVIDIA driver")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert info.gpu().startswith("NVIDIA X and 1 more; device='cuda' needs numba-cuda: install fastnn-numba[cuda]")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "numba_cuda" or None)
    monkeypatch.setattr(metadata, "version", lambda name: {"numba-cuda": "1.2.3"}[name])
    assert info.gpu() == "NVIDIA X and 1 more; device='cuda' computes on it with numba-cuda 1.2.3"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(error=100))
    assert info.gpu() == "none: the NVIDIA driver answers cuInit with error 100"


def test_warmup_knows_every_native():
    names = {native._name for native in warmup.natives()}
    for name in fn.activations.names():
        if fn.activations.get(name).definition.builtin:
            assert f"activation.{name}.value" in names
    assert {f"loss.{kind}" for kind in (*losses.FORMULAS, "cross_entropy", "kl_divergence", "focal")} <= names
    assert {"optimizer.adam.update", "cpu.layer_norm.backward", "cpu.forward"} <= names
    assert None not in names


@pytest.mark.skipif(_jit.CACHE_FOLDER is None, reason="no cache folder is writable here")
def test_warmup_compiles_everything(capsys):
    assert _cli.main(["warmup"]) == 0
    said = capsys.readouterr().out
    assert str(_jit.CACHE_FOLDER) in said
    assert all(len(native._compiled) == 2 for native in warmup.natives())


def test_warmup_without_a_cache(capsys, monkeypatch):
    monkeypatch.setattr(_jit, "CACHE_FOLDER", None)
    assert _cli.main(["warmup"]) == 1
    assert "FASTNN_CACHE_DIR" in capsys.readouterr().err


def test_usage(capsys):
    for arguments in (
        ["benchmark"],
        [],
        ["demo", "--epochs", "0"],
        ["demo", "--seed", "-1"],
        ["demo", "--epochs", "x"],
    ):
        with pytest.raises(SystemExit) as stopped:
            _cli.main(arguments)
        assert stopped.value.code == 2
        assert "usage: python -m fastnn" in capsys.readouterr().err
    for arguments, text in ((["--version"], f"fastnn {fn.__version__}"), (["demo", "--help"], "--plot FILE")):
        with pytest.raises(SystemExit) as stopped:
            _cli.main(arguments)
        assert stopped.value.code == 0
        assert text in capsys.readouterr().out


def test_reader_that_leaves(monkeypatch):
    process = subprocess.Popen(
        [sys.executable, "-m", "fastnn", "demo", "--epochs", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.wait() == 1
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()


def test_interrupted(capsys, monkeypatch):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupt)
    assert _cli.main(["demo"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
