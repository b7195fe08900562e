"""Kernels compiled as Numba's dispatcher compiles them, with no GPU: what tests look at."""

import contextlib
import re
import subprocess
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import pytest

HOPPER, AMPERE = (9, 0), (8, 0)
_PATTERNS = (r"Used (\d+) registers", r"(\d+) bytes stack", r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
# Arithmetic and comparisons, conversions from and to it, and the beginnings of reciprocals and roots.
_FLOAT64 = r"\b(?:D(?:ADD|MUL|FMA|SETP|MNMX|MMA)\b|[FI]2[FI][\w.]*\.F64|MUFU\.\w+64H)"


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
def pretended_device(capability=HOPPER):
    """What Numba asks the current device for while it compiles: its capability."""
    from numba.cuda import codegen, dispatcher

    device = SimpleNamespace(compute_capability=capability, id=0)
    with (
        mock.patch.object(dispatcher, "get_current_device", return_value=device),
        mock.patch.object(codegen.devices, "get_context", return_value=SimpleNamespace(device=device)),
    ):
        yield


class MachineCode(NamedTuple):
    """A kernel's PTX, its cubin, and what the linker says of that: registers, and bytes of local memory and spills."""

    ptx: str
    cubin: bytes
    registers: int
    local: int
    stores: int
    loads: int

    def sass(self, folder):
        """The instructions; skips the test where there is no nvdisasm."""
        from cuda.pathfinder import find_nvidia_binary_utility

        tool = find_nvidia_binary_utility("nvdisasm")
        if tool is None:
            pytest.skip("needs nvdisasm, nvidia-cuda-nvdisasm")
        path = folder / "kernel.cubin"
        path.write_bytes(self.cubin)
        return subprocess.run([tool, "-c", path], check=True, capture_output=True, text=True).stdout


def machine_code(kernel, signature, capability=HOPPER):
    """Compile a kernel for arguments of these types with the options that it has, and link it once."""
    from cuda.bindings import nvjitlink
    from numba.cuda import dispatcher

    assert kernel.targetoptions["lto"]  # what follows is what becomes of it
    with pretended_device(capability):
        made = dispatcher._Kernel(kernel.py_func, signature.args, **kernel.targetoptions)
        library = made.library
        ptx, code = library.get_asm_str(), bytes(library.get_ltoir())
        arch = "sm_{}{}{}".format(*library._ensure_cc(None))
    assert not library._linking_files
    options = [f"-arch={arch}", "-lto", "-verbose"]
    linker = nvjitlink.create(len(options), options)
    nvjitlink.add_data(linker, nvjitlink.InputType.LTOIR, code, len(code), "kernel")
    nvjitlink.complete(linker)
    log = bytearray(nvjitlink.get_info_log_size(linker))
    nvjitlink.get_info_log(linker, log)
    cubin = bytearray(nvjitlink.get_linked_cubin_size(linker))
    nvjitlink.get_linked_cubin(linker, cubin)
    nvjitlink.destroy(linker)
    return MachineCode(ptx, bytes(cubin), *(int(re.search(pattern, log.decode())[1]) for pattern in _PATTERNS))


def tensor_core_products(sass):
    """How many instructions multiply matrices."""
    return len(re.findall(r"\bHMMA\b", sass))


def float64_instructions(sass):
    """Each kind of instruction that computes in float64, or converts from or to it."""
    return sorted(set(re.findall(_FLOAT64, sass)))
