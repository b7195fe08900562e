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
from collections.abc import Callable
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import numba
import numpy as np
from llvmlite import ir

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
    "distance", "dlpack_view", "extending", "gpu_of", "kernel", "libdevice", "load", "load2", "load4", "load_place",
    "load_place4", "most_shared", "place", "quotient", "rolled", "store", "store2", "store4", "types",
]  # fmt: skip

#: Shared memory of a block that needs no permission, and what it may be allowed on compute capability 9.0.
DEFAULT_SHARED, MAXIMUM_SHARED = 48 * 1024, 227 * 1024
#: Python itself runs the kernels (NUMBA_ENABLE_CUDASIM=1).
SIMULATED = bool(cuda.config.ENABLE_CUDASIM)


def device(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call; it keeps NaN and infinities and approximates nothing."""
    if SIMULATED:  # `cuda` is this thread's in any function here
        return function
    return cuda.jit(function, device=True, fastmath=False, **_INLINED)


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


def allow_shared(compiled: Any, arguments: tuple[Any, ...], size: int) -> None:
    """Let a launch with arguments of these types ask for ``size`` bytes of shared memory, more than all may have.

    Numba has no option for it (numba-cuda issue 94), so the driver is told what concerns the compiled function.
    """
    if SIMULATED or size <= DEFAULT_SHARED:
        return
    driver = cuda.cudadrv.driver
    compiled.compile(types.void(*arguments))
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

    _INLINED = {}

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

    def rolled(n):
        return n

    def load(array, i):
        return array[i]

    def store(array, i, value):
        array[i] = value

    def load2(array, i):
        return array[i], array[i + 1]

    def quotient(a, b):
        return a // b

    def place(array, i):
        return np.int32(i)

    def distance(array, n):
        return np.int32(n)

    def load_place(array, at):
        return array[at]

    def load_place4(array, at):
        return load4(array, at)

    def load4(array, i):
        return array[i], array[i + 1], array[i + 2], array[i + 3]

    def store2(array, i, a, b):
        array[i], array[i + 1] = a, b

    def store4(array, i, a, b, c, d):
        array[i], array[i + 1], array[i + 2], array[i + 3] = a, b, c, d

else:
    _INLINED = {"forceinline": True}

    @extending.intrinsic
    def rolled(typingctx, n):
        """``n`` as a number that the compiler does not know.

        It would unroll every loop of a fixed length: that takes minutes for deep networks, and what all rounds together
        keep in registers spills.
        """

        def codegen(context, builder, signature, args):
            hidden = ir.InlineAsm(ir.FunctionType(args[0].type, [args[0].type]), "mov.b64 $0, $1;", "=l,l")
            return builder.call(hidden, args)

        return types.uint64(types.uint64), codegen

    def _address(context, builder, kind, array, i):
        data = context.make_array(kind)(context, builder, array).data
        return builder.gep(data, [i])

    @extending.intrinsic
    def load(typingctx, array, i):
        """``array[i]`` of one dimension; a signed index is not tested for being negative."""

        def codegen(context, builder, signature, args):
            return builder.load(_address(context, builder, signature.args[0], *args))

        return array.dtype(array, types.int64), codegen

    @extending.intrinsic
    def store(typingctx, array, i, value):
        """``array[i] = value``, of the array's dtype."""

        def codegen(context, builder, signature, args):
            builder.store(args[2], _address(context, builder, signature.args[0], *args[:2]))

        return types.void(array, types.int64, array.dtype), codegen

    @extending.intrinsic
    def quotient(typingctx, a, b):
        """``a // b`` of numbers below 2**31 that are not negative: of 64 bits it would take four times as long."""

        def codegen(context, builder, signature, args):
            short = ir.IntType(32)
            found = builder.udiv(*(builder.trunc(each, short) for each in args))
            return builder.zext(found, args[0].type)

        return types.int64(types.int64, types.int64), codegen

    _SHARED = 3  # the address space

    @extending.intrinsic
    def place(typingctx, array, i):
        """Where ``array[i]`` lies in shared memory: an int32, on which one addition does what two do on addresses."""

        def codegen(context, builder, signature, args):
            address = _address(context, builder, signature.args[0], *args)
            inside = builder.addrspacecast(address, ir.PointerType(address.type.pointee, _SHARED))
            return builder.ptrtoint(inside, ir.IntType(32))

        return types.int32(array, types.int64), codegen

    @extending.intrinsic
    def distance(typingctx, array, n):
        """Between the places of elements that lie ``n`` apart."""

        def codegen(context, builder, signature, args):
            size = context.get_abi_sizeof(context.get_data_type(signature.args[0].dtype))
            return builder.trunc(builder.mul(args[1], ir.Constant(args[1].type, size)), ir.IntType(32))

        return types.int32(array, types.int64), codegen

    @extending.intrinsic
    def load_place(typingctx, array, at):
        """What lies at a place; ``array`` says its dtype."""

        def codegen(context, builder, signature, args):
            kind = context.get_data_type(signature.args[0].dtype)
            return builder.load(builder.inttoptr(args[1], ir.PointerType(kind, _SHARED)))

        return array.dtype(array, types.int32), codegen

    @extending.intrinsic
    def load_place4(typingctx, array, at):
        """Four neighbours from a place that is a multiple of 16 bytes."""

        def codegen(context, builder, signature, args):
            kind = ir.VectorType(context.get_data_type(signature.args[0].dtype), 4)
            four = builder.load(builder.inttoptr(args[1], ir.PointerType(kind, _SHARED)), align=16)
            parts = [builder.extract_element(four, ir.Constant(ir.IntType(32), k)) for k in range(4)]
            return context.make_tuple(builder, signature.return_type, parts)

        return types.UniTuple(array.dtype, 4)(array, types.int32), codegen

    def _neighbours(width, context, builder, kind, array, i):
        address = _address(context, builder, kind, array, i)
        return builder.bitcast(address, ir.VectorType(address.type.pointee, width).as_pointer())

    def _loading(width):
        def load(typingctx, array, i):
            """Neighbours as a tuple, by one instruction in float32; all is aligned to 4 * width bytes."""

            def codegen(context, builder, signature, args):
                address = _neighbours(width, context, builder, signature.args[0], *args)
                loaded = builder.load(address, align=4 * width)
                parts = [builder.extract_element(loaded, ir.Constant(ir.IntType(32), k)) for k in range(width)]
                return context.make_tuple(builder, signature.return_type, parts)

            return types.UniTuple(array.dtype, width)(array, types.int64), codegen

        return extending.intrinsic(load)

    load2, load4 = _loading(2), _loading(4)

    def _store_neighbours(context, builder, signature, args):
        array, i, *parts = args
        width = len(parts)
        address = _neighbours(width, context, builder, signature.args[0], array, i)
        together = ir.Constant(address.type.pointee, ir.Undefined)
        for k, part in enumerate(parts):
            together = builder.insert_element(together, part, ir.Constant(ir.IntType(32), k))
        builder.store(together, address, align=4 * width)

    @extending.intrinsic
    def store2(typingctx, array, i, a, b):
        """What `load2` loads."""
        return types.void(array, types.int64, *(array.dtype,) * 2), _store_neighbours

    @extending.intrinsic
    def store4(typingctx, array, i, a, b, c, d):
        """What `load4` loads."""
        return types.void(array, types.int64, *(array.dtype,) * 4), _store_neighbours
