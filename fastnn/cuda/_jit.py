"""The only place that imports ``numba.cuda`` and decides its options.

The target is the package numba-cuda. Numba alone still ships a deprecated module of the same name, so it is not enough
that ``numba.cuda`` can be imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np

from fastnn import _jit
from fastnn.cuda import _kept

_NEEDED = "fastnn.cuda needs numba-cuda: install fastnn-numba[cuda], or fastnn-numba[cuda12] for CUDA 12"

if importlib.util.find_spec("numba_cuda") is None:
    raise ImportError(_NEEDED, name="numba_cuda")
try:
    from numba import cuda
    from numba.cuda import extending, libdevice, types
except ImportError as error:
    raise ImportError(f"{_NEEDED} ({error})", name="numba_cuda") from error
if getattr(cuda, "implementation", None) != "NVIDIA":
    raise ImportError(f"{_NEEDED}; it is installed, but {cuda.__file__} takes its place", name="numba_cuda")

__all__ = [
    "DEFAULT_SHARED", "MAXIMUM_SHARED", "SIMULATED", "allow_shared", "capability", "cuda", "current_gpu", "device",
    "dlpack_view", "extending", "gpu_of", "kernel", "libdevice", "most_shared", "sequence", "types",
]  # fmt: skip

#: Shared memory of a block that needs no permission, and what it may be allowed on compute capability 9.0.
DEFAULT_SHARED, MAXIMUM_SHARED = 48 * 1024, 227 * 1024
#: Python itself runs the kernels (NUMBA_ENABLE_CUDASIM=1).
SIMULATED = bool(cuda.config.ENABLE_CUDASIM)


def device(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call; it keeps NaN and infinities and approximates nothing."""
    if SIMULATED:  # `cuda` is this thread's in any function here
        return function
    return cuda.jit(function, device=True, fastmath=False, forceinline=True)


def sequence(steps: Sequence[Any]) -> Any:
    """One device function after the other, all with the same arguments.

    In the place of a loop where arrays are to stay in registers: the compiler leaves a loop alone if its body is long,
    and then an array that is indexed by a running number lies in memory.
    """
    if not steps:
        return device(lambda *arguments: None)
    if len(steps) == 1:
        return steps[0]
    # Halves of halves, because compilation recurses into every call.
    first, second = sequence(steps[: len(steps) // 2]), sequence(steps[len(steps) // 2 :])

    @device
    def both(*arguments):
        first(*arguments)
        second(*arguments)

    return both


def kernel(threads: int) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that is launched with blocks of ``threads`` threads, of which a multiprocessor holds 256."""
    if SIMULATED:
        return lambda function: cuda.jit(function, fastmath=False)
    bounds = threads, max(1, 256 // threads)
    return lambda function: _kept_on_disk(_quiet(cuda.jit(function, fastmath=False, launch_bounds=bounds)))


@cache
def _compilers() -> tuple[Any, ...] | None:
    """What makes machine code of a kernel, and the settings that it reads; None where that cannot be told.

    NVIDIA's libraries say only their major and minor versions, so their files are looked at.
    """
    import numba_cuda
    from cuda import bindings, core, pathfinder
    from numba.cuda.cudadrv import libs

    try:
        linker = pathfinder.load_nvidia_dynamic_lib("nvJitLink").abs_path
        files = [(str(path), os.stat(path)) for path in (linker, libs.get_cudalib("nvvm"), libs.get_libdevice())]
    except (OSError, RuntimeError, TypeError):  # one is not there, or its place is not known
        return None
    sources = hashlib.sha256()  # of this folder; the cache folder's name has the others
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.name.encode() + path.read_bytes())
    return (
        sys.version,
        tuple(package.__version__ for package in (numba, numba_cuda, llvmlite, np, bindings, core)),
        tuple((path, status.st_size, status.st_mtime_ns) for path, status in files),
        tuple(sorted(item for item in os.environ.items() if item[0].startswith("NUMBA_") and "CACHE" not in item[0])),
        sources.hexdigest(),
    )


class _Kept:
    """What a dispatcher asks for a kernel that it does not have, in the place of Numba's cache.

    It finds those of other processes, among them the LLVM code, of which Numba makes machine code for another GPU.
    """

    def __init__(self, made: Any):
        self._made = made
        self._keys: dict[Any, str | None] = {}

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """The kernel for arguments of these types, from disk; or None."""
        from numba.cuda.dispatcher import _Kernel

        arguments = tuple(getattr(signature, "args", signature))
        compilers = _compilers()
        key = None if compilers is None else _kept.key_of(compilers, capability(), self._made, arguments)
        self._keys[arguments] = key
        if key is None:
            return None
        found = _kept.read(key)
        if found is None:
            _jit._announce()
            return None
        try:
            return _Kernel._rebuild(**pickle.loads(found))
        except Exception:  # whole, but not what `save_overload` wrote
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep what was compiled because `load_overload` had not found it."""
        from numba.cuda.serialize import dumps

        key = self._keys.pop(tuple(getattr(signature, "args", signature)), None)
        if key is None or compiled.launch_config_sensitive or compiled.library._setup_functions:
            return
        try:
            data = dumps(compiled._reduce_states())
        except (pickle.PicklingError, RuntimeError):  # arrays of a device, or code that is linked from elsewhere
            return
        _kept.write(key, data)


def _kept_on_disk(made: Any) -> Any:
    """Without nvJitLink it is the driver that links, whose version would have to be part of keys."""
    if _jit.CACHE_FOLDER is not None and made.targetoptions["lto"]:
        made._cache = _Kept(made)
    return made


def _quiet(made: Any) -> Any:
    """Numba warns of launches with few blocks, which are what small networks take."""
    from numba.cuda.dispatcher import config

    configure = made.configure

    @lru_cache(maxsize=128)
    def configured(*launch: Any) -> Any:
        before, config.CUDA_LOW_OCCUPANCY_WARNINGS = config.CUDA_LOW_OCCUPANCY_WARNINGS, 0
        try:
            return configure(*launch)
        finally:
            config.CUDA_LOW_OCCUPANCY_WARNINGS = before

    made.configure = configured
    return made


def dlpack_view(obj: Any, stream: int) -> Any:
    """What DLPack says of an array: ``ptr``, ``shape``, ``strides`` in elements or None, ``dtype``; and its owner.

    Its producer makes the stream of this address wait for what it has under way.
    """
    from cuda.core.utils import StridedMemoryView

    return StridedMemoryView.from_dlpack(obj, stream_ptr=stream)


def allow_shared(compiled: Any, arguments: str, dtype: np.dtype[Any], size: int) -> None:
    """Let a kernel's launches ask for ``size`` bytes of shared memory, more than all may have.

    There is a letter for each argument: ``i`` for a flat array of int64, ``u`` of uint64, ``a`` of ``dtype``; ``n`` for
    an int64, ``x`` for a number of ``dtype``. Numba has no option for it (numba-cuda issue 94), so the driver is told
    what concerns the function compiled for these.
    """
    if SIMULATED or size <= DEFAULT_SHARED:
        return
    driver, real = cuda.cudadrv.driver, getattr(types, dtype.name)
    kinds = {"i": types.int64[::1], "u": types.uint64[::1], "a": real[::1], "n": types.int64, "x": real}
    compiled.compile(types.void(*(kinds[letter] for letter in arguments)))
    attribute = driver.binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    for each in compiled.overloads.values():
        function = each._codelibrary.get_cufunc()
        driver.driver.cuKernelSetAttribute(attribute, size, function.handle, function.device.id)


def capability() -> tuple[int, int]:
    """Of the current device: what its instructions are."""
    if SIMULATED:
        return 9, 0
    major, minor = cuda.get_current_device().compute_capability[:2]
    return int(major), int(minor)


def most_shared() -> int:
    """Bytes of shared memory that a block may ask for on the current device."""
    if SIMULATED:
        return MAXIMUM_SHARED
    return int(cuda.get_current_device().MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)


def current_gpu() -> int:
    """The number of the current device."""
    return 0 if SIMULATED else int(cuda.get_current_device().id)


def gpu_of(array: Any) -> int:
    """The number of the GPU whose memory a device array lies in."""
    driver = cuda.cudadrv.driver
    attribute = driver.binding.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    address = driver.binding.CUdeviceptr(array.device_ctypes_pointer.value)
    return int(driver.driver.cuPointerGetAttribute(attribute, address))


if SIMULATED:
    from numba.cuda.np.numpy_support import as_dtype
    from numba.cuda.simulator import kernel as _simulator

    class _Shared:
        """Shared memory: an array for each line of a kernel that asks for one, as in the simulator.

        The simulator itself may give each of two threads that come at once an array of its own.
        """

        def __init__(self, inside):
            self._inside = inside.shared

        def array(self, shape, dtype):
            if shape == 0:  # what the launch has set aside
                return self._inside.array(shape, dtype)
            line = sys._getframe(1)
            number = as_dtype(dtype) if isinstance(dtype, types.Type) else dtype
            made = np.empty(shape, number)
            return self._inside._allocations.setdefault((line.f_code, line.f_lineno), made)

    class _Current:
        """What ``cuda`` is to the thread that asks.

        The simulator swaps the global ``cuda`` of a function's module while the function runs; with several threads in
        several modules one would take another's away.
        """

        def __getattr__(self, name):
            inside = _simulator._get_kernel_context()
            if name == "shared":
                return _Shared(inside)
            found = getattr(inside, name, None) if inside is not None else None
            return found if found is not None else getattr(_module, name)

    _module, cuda = cuda, _Current()
