"""``python -m fastnn info``: what a bug report should say."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

import llvmlite.binding as llvm
import numba

import fastnn
from fastnn import _jit
from fastnn.cpu import simd

_PACKAGES = ("numba", "llvmlite", "numpy", "scipy", "safetensors", "tqdm")


def run() -> int:
    """Print the facts; returns the exit status."""
    facts = {
        "fastnn": f"{fastnn.__version__} in {Path(fastnn.__file__).parent}",
        "Python": f"{platform.python_version()} ({sys.executable})",
        **{name: metadata.version(name) for name in _PACKAGES},
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "CPU": cpu(),
        "vectors": f"{simd.VECTOR_BYTES} bytes: {simd.lanes(4)} float32 or {simd.lanes(8)} float64 at once",
        "threads": threads(),
        "cache": cache(),
        "GPU": gpu(),
    }
    for name, fact in facts.items():
        print(f"{name:<12}{fact}")
    return 0


def cpu() -> str:
    """The processor's name, LLVM's name for it, and the cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu_name()} ({llvm.get_host_cpu_name()}), {cores} cores usable"


def cpu_name() -> str:
    """The processor's name, as the system calls it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def threads() -> str:
    """Numba's threading layer, which it chooses when the first parallel kernel runs."""
    layer: str
    try:
        layer = numba.threading_layer()
    except ValueError:
        layer = f"not chosen yet (setting: {getattr(numba.config, 'THREADING_LAYER', 'default')})"
    return f"{numba.get_num_threads()}, threading layer {layer}"


def cache() -> str:
    """Where compiled kernels are kept, and how much there is."""
    if _jit.CACHE_FOLDER is None:
        return "none: no cache folder is writable; set FASTNN_CACHE_DIR"
    files = [path for path in _jit.CACHE_FOLDER.rglob("*") if path.is_file()]
    megabytes = sum(path.stat().st_size for path in files) / 1e6
    return f"{_jit.CACHE_FOLDER} ({len(files)} files, {megabytes:.1f} MB)"


def gpu() -> str:
    """The first NVIDIA GPU by the driver's own library and what computes on it, or why there is none."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        return f"none: there is no NVIDIA driver ({library})"
    count, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    for call, *arguments in (
        (driver.cuInit, 0),
        (driver.cuDeviceGetCount, ctypes.byref(count)),
        (driver.cuDeviceGet, ctypes.byref(device), 0),
        (driver.cuDeviceGetName, name, len(name), device),
    ):
        status = call(*arguments)
        if status:
            return f"none: the NVIDIA driver answers {call.__name__} with error {status}"
    more = f" and {count.value - 1} more" if count.value > 1 else ""
    return f"{name.value.decode()}{more}; {_numba_cuda()}"


def _numba_cuda() -> str:
    """The version of what ``device="cuda"`` needs, or how to get it."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "device='cuda' needs numba-cuda: install fastnn-numba[cuda], or fastnn-numba[cuda12] for CUDA 12"
    return f"device='cuda' computes on it with numba-cuda {metadata.version('numba-cuda')}"
