"""Run Python with an interpreter of PTX in place of CUDA's driver: ``python interpreter.py [-m MODULE | FILE] ...``.

Numba compiles kernels as for a device of compute capability 9.0, down to PTX; the C++ sources beside this file do what
the PTX says, a warp of 32 lanes at a time, and check it: accesses out of bounds or misaligned, barriers and shuffles
that not all lanes reach, more shared memory than allowed, and with FASTNN_PTX_RACES=1 races in shared memory between
barriers and in global memory between blocks. A launch with a fault fails, and the fault is printed.
FASTNN_PTX_STATISTICS names a file for counts of each launch (``statistics.hpp``).
"""

import ctypes
import hashlib
import importlib.util
import os
import platform
import runpy
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = sorted(HERE.glob("*.cpp"))
# Rounding modes change while the operations run, and no product may be joined with a sum.
OPTIONS = ["-std=c++17", "-O2", "-march=native", "-frounding-math", "-ffp-contract=off", "-fno-math-errno", "-fPIC"]
# The name by which CUDA's driver is loaded: once a library has it, it is found before any file.
NAME = "libcuda.so.1"


def compiler():
    """The C++ compiler, or None."""
    return os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)


def header_folder():
    """Where NVIDIA's wheels have ``cuda.h``, or None."""
    nvidia = importlib.util.find_spec("nvidia")
    folders = [Path(each) for each in nvidia.submodule_search_locations] if nvidia else []
    found = (path.parent for folder in folders for path in sorted(folder.glob("*/include/cuda.h")))
    return next(found, None)


def missing():
    """What the interpreter needs and does not find, in words, or None."""
    if sys.platform != "linux":
        return "needs Linux"
    if importlib.util.find_spec("numba_cuda") is None:
        return "needs numba-cuda"
    if compiler() is None:
        return "needs a C++ compiler"
    if header_folder() is None:
        return "needs cuda.h of numba-cuda[cu13]"
    return None


def library():
    """The path of the interpreter as a shared library, built if these sources have not been built on this machine."""
    command = [compiler(), *OPTIONS, f"-I{header_folder()}", "-shared", f"-Wl,-soname,{NAME}"]
    key = hashlib.sha256(" ".join([*command, platform.machine(), platform.node()]).encode())
    for path in sorted([*SOURCES, *HERE.glob("*.hpp")]):
        key.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"fastnn-ptx-{os.getuid()}-{key.hexdigest()[:16]}"
    built = folder / NAME
    if not built.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        part = folder / f"{os.getpid()}.so"  # a name of its own: several processes may build at once
        subprocess.run([*command, "-o", part, *SOURCES, "-ldl"], check=True)
        part.rename(built)
    return built


def install():
    """Let this process, which must not have asked for the driver yet, find the interpreter instead."""
    path = library()
    os.environ["NUMBA_CUDA_DRIVER"] = str(path)
    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)

    from cuda.core import ObjectCode
    from numba.cuda import codegen

    def get_cubin(self, cc=None):
        """In place of machine code, the PTX after linking."""
        cc = self._ensure_cc(cc)
        if cc not in self._cubin_cache:
            text = self.get_lto_ptx(cc) if self._lto else self.get_asm_str(cc)
            self._cubin_cache[cc] = ObjectCode.from_ptx(text.encode() + b"\0")
        return self._cubin_cache[cc]

    codegen.CUDACodeLibrary.get_cubin = get_cubin


def main(arguments):
    install()
    if arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
