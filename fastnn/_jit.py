"""The only place where functions become machine code: options, cache folder and native addresses.

Five makers:

``kernel``   a module-level function that Python (or a user's compiled code) calls; cached on disk.
``scalar``   a small function that kernels inline; strict enough for NaN, infinities and error-free transformations.
``routine``  a part of a native that is called, so that its registers and loops are its own.
``standalone``  a scalar that Python can call too, or that is large.
``Native``   a function compiled for explicit types and reached by its *address*, from kernels and as a C function.

A plan row carries the addresses of the natives it needs, so the generic kernels that walk a plan never see which
activation, loss or optimizer runs: nothing is compiled per architecture, a cold start compiles only what a network
uses, and a user's own function enters the engine at full speed without touching the cache of the built-in ones.

Every function states its fast-math set, its error model and whether it is inlined: Numba lets a callee inherit them
from whichever caller compiles it first, and a set with ``nnan`` would make a NaN test false for ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any

import numba
import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator
from numba.core.ccallback import CFunc
from numba.core.runtime import rtsys
from numba.extending import intrinsic as _numba_intrinsic
from numba.misc.appdirs import AppDirs

from fastnn._parts import Part

# Sets without nnan and ninf: NaN and infinity keep their meaning everywhere.
LOOP_FASTMATH = {"nsz", "arcp", "contract", "afn", "reassoc"}
# Scalars contract to fused multiply-adds only: reassociation would undo compensated argument reductions.
SCALAR_FASTMATH = {"nsz", "contract"}

# Typed as Any: an intrinsic is called by compiled code, without the typing context its Python signature begins with.
intrinsic: Any = _numba_intrinsic

_PACKAGE = Path(__file__).parent
_NO_KERNELS = {"_cli", "cuda", "io", "data", "plots", "sklearn", "gates.py", "__main__.py"}
_compiling_lock = threading.Lock()
_said: set[str] = set()


def _source_hash() -> str:
    """Hash of every source that can end up inside a kernel, and of what compiles it.

    Numba's own index looks at the file of the outermost function alone, so an edit of a callee would leave stale
    machine code behind.
    """
    digest = hashlib.sha256()
    for part in (numba.__version__, platform.python_version(), platform.machine()):
        digest.update(part.encode())
    for path in sorted(_PACKAGE.rglob("*.py")):
        if path.relative_to(_PACKAGE).parts[0] in _NO_KERNELS:
            continue
        digest.update(str(path.relative_to(_PACKAGE)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _find_cache_folder() -> Path | None:
    """``FASTNN_CACHE_DIR``, else ``NUMBA_CACHE_DIR``, else the user's cache folder; None if it cannot be written."""
    for variable in ("FASTNN_CACHE_DIR", "NUMBA_CACHE_DIR"):
        if os.environ.get(variable):
            base = Path(os.environ[variable]) / "fastnn"
            break
    else:
        base = Path(AppDirs(appname="fastnn", appauthor=False).user_cache_dir)
    folder = base / _source_hash()
    return folder if _writable(folder) else None


CACHE_FOLDER = _find_cache_folder()


def _say_once(text: str) -> None:
    if text not in _said:
        _said.add(text)
        print(f"fastnn: {text}", file=sys.stderr, flush=True)


def _announce() -> None:
    """Say once a process that kernels are being compiled: the first call of a fresh install takes seconds."""
    if CACHE_FOLDER is None:
        where = "no cache folder is writable, so every process compiles them again: set FASTNN_CACHE_DIR"
    else:
        where = f"once; later processes load them from {CACHE_FOLDER}"
    _say_once(f"compiling kernels ({where})")


class _Locator(_CacheLocator):
    """Numba's hook for where cache files go; freshness is the folder's own hash."""

    _py_file = __file__

    def __init__(self, name: str):
        self._name = name

    def get_cache_path(self) -> str:
        return str(CACHE_FOLDER)

    def get_source_stamp(self) -> str:
        return "in the folder's name"

    def get_disambiguator(self) -> str:
        return self._name


class _Impl(CompileResultCacheImpl):
    def __init__(self, name: str):
        self._lineno = 0
        self._locator = _Locator(name)
        self._filename_base = name


class _Cache(FunctionCache):
    """A cache keyed by a given name instead of by closure contents.

    Numba pickles closure cells into its key, and a jitted function in a cell pickles differently in each process, so a
    kernel made by a factory would never hit. The folder's hash already covers all sources; the name says which kernel.
    """

    def __init__(self, py_func: Callable[..., Any], name: str):
        self._impl_class: Any = lambda _: _Impl(name)
        self._key_name = name
        super().__init__(py_func)

    def _index_key(self, sig: Any, codegen: Any) -> tuple[Any, ...]:
        return (sig, codegen.magic_tuple(), self._key_name)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        # Numba would refresh the context first, which imports SciPy's linear algebra and takes longer than all loading.
        # Machine code that is already complete needs the run-time library's symbols alone.
        rtsys.initialize(target_context)
        try:
            with self._guard_against_spurious_io_errors():
                found = self._load_overload(sig, target_context)
        except Exception:  # damaged files, as power cuts leave them, fail in many ways
            found = None
            with contextlib.suppress(OSError):
                self.flush()
        # Two processes that save a kernel for two dtypes at once may leave the index of one and the code of the other.
        if found is not None and tuple(found.signature.args) != tuple(getattr(sig, "args", sig)):
            found = None
        if found is None:
            _announce()
        return found

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:  # a full disk: the kernel works, but later processes compile it again
            _say_once(f"compiled kernels cannot be kept in {CACHE_FOLDER} ({error.strerror}): set FASTNN_CACHE_DIR")


def kernel(func: Callable[..., Any]) -> Any:
    """Compile a module-level function for CPU: cached, without the GIL, NumPy's error model, fast loops."""
    dispatcher: Any = njit(func, nogil=True, error_model="numpy", fastmath=LOOP_FASTMATH)
    if CACHE_FOLDER is not None:
        dispatcher._cache = _Cache(func, f"{func.__module__}.{func.__qualname__}")
    return dispatcher


def scalar(func: Callable[..., Any]) -> Any:
    """Compile a small function to be inlined into kernels; it keeps NaN, infinities and the order of its operations."""
    return _part(func, inlined=True)


def standalone(func: Callable[..., Any], fastmath: set[str] = SCALAR_FASTMATH) -> Any:
    """Compile a `scalar` by itself: Python can call it too, and it is optimised before it is inlined.

    Code that holds a network's weights runs up to twice as fast for that.
    """
    return njit(func, nogil=True, error_model="numpy", fastmath=fastmath, forceinline=True)


def routine(func: Callable[..., Any]) -> Any:
    """Compile a part of a native that is better called than inlined; it keeps the order of its operations.

    So do the intrinsics it calls: Numba gives a function's flags to all arithmetic in it, theirs included.
    """
    return _part(func, inlined=False)


def _part(func: Callable[..., Any], inlined: bool) -> Any:
    options = {"nopython": True, "nogil": True, "error_model": "numpy", "fastmath": SCALAR_FASTMATH}
    return Part(func, targetoptions=options | {"forceinline": inlined})


def python_function(func: Any) -> Any:
    """What is to be compiled of a user's function: the source of a jitted one; a call of one that is not Python's.

    Numba compiles calls of ``math.atan`` or a ufunc, but not these themselves.
    """
    func = getattr(func, "py_func", func)
    if isinstance(func, (BuiltinFunctionType, np.ufunc)):
        return lambda *arguments: func(*arguments)
    return func


class Native:
    """A family of C functions, one per parameter dtype, compiled (or loaded from the cache) when first asked for.

    Parameters
    ----------
    name : str
        Key in the cache; unique in the package. None: never cached (functions given by a user).
    func : function
        The body, taking pointers and numbers. It may close over ``scalar`` functions.
    arguments : function
        Maps a Numba float type to the tuple of argument types.
    fastmath : set of str
        Flags of the body's own operations.
    """

    def __init__(
        self,
        name: str | None,
        func: Callable[..., Any],
        arguments: Callable[[Any], Sequence[Any]],
        fastmath: set[str] = LOOP_FASTMATH,
    ):
        self._name = name
        self._func = func
        self._arguments = arguments
        self._fastmath = fastmath
        self._compiled: dict[Any, Any] = {}
        self._entries: dict[Any, int] = {}
        if name is not None:
            # Symbols are made of it: bodies made by one factory in different processes would share theirs in the cache.
            func.__qualname__ = name

    def address(self, dtype: Any) -> int:
        """The address of the C function for parameters of ``dtype``, valid while the process lives."""
        return int(self._function(dtype).address)

    def entry(self, dtype: Any) -> int:
        """The address that `native_call` takes: the same function without the C wrapper around it.

        The wrapper passes on up to twenty arguments, which takes as long as a small layer's arithmetic.
        """
        self._function(dtype)
        return self._entries[numba.from_dtype(dtype)]

    @cached_property
    def body(self) -> Any:
        """The function to be inlined into code that is compiled with it, with its own flags."""
        return standalone(self._func, fastmath=self._fastmath)

    def _function(self, dtype: Any) -> Any:
        real = numba.from_dtype(dtype)
        found = self._compiled.get(real)
        if found is None:
            with _compiling_lock:
                found = self._compiled.get(real)
                if found is None:
                    found = self._compile(real)
                    # At once, as Numba does with the wrapper: a symbol loaded later could have the same name.
                    symbol = found.native_name.removeprefix("cfunc.")
                    self._entries[real] = int(found._library.get_pointer_to_function(symbol))
                    self._compiled[real] = found
        return found

    def _compile(self, real: Any) -> Any:
        function = _c_function(self._func, self._arguments(real), types.void, self._fastmath)
        if self._name is not None and CACHE_FOLDER is not None:
            function._cache = _Cache(self._func, f"{self._name}.{real}")
        elif self._name is not None:
            _announce()
        function.compile()
        return function


def c_function(func: Callable[..., Any], arguments: Sequence[Any], returns: Any) -> Any:
    """Compile a C function of its own, not cached; an object with ``address`` and ``ctypes``."""
    function = _c_function(func, arguments, returns, SCALAR_FASTMATH)
    function.compile()
    return function


def _c_function(func: Callable[..., Any], arguments: Sequence[Any], returns: Any, fastmath: set[str]) -> Any:
    options = {"nopython": True, "error_model": "numpy", "fastmath": fastmath}
    return CFunc(func, (tuple(arguments), returns), locals={}, options=options)


def native_call(arguments: Callable[[Any], Sequence[Any]], pointer_at: int) -> Any:
    """Make the function that calls a native: ``call(entry, (arguments))``, for use inside kernels.

    ``pointer_at`` is the position of an argument whose type is a pointer to the parameters' dtype; it tells which
    member of the family is called. Other arguments are cast as C would. Natives raise no exceptions.
    """

    @intrinsic
    def call(typingctx, entry, args):
        real = args[pointer_at].dtype
        wanted = tuple(arguments(real))

        def codegen(context, builder, signature, values):
            target, packed = values
            unpacked = cgutils.unpack_tuple(builder, packed)
            cast = [context.cast(builder, v, have, want) for v, have, want in zip(unpacked, args, wanted, strict=True)]
            kind = context.call_conv.get_function_type(types.none, wanted)
            with builder.goto_entry_block():  # for a result and an exception, of which there are none
                unused = [builder.alloca(pointer.pointee) for pointer in kind.args[:2]]
            builder.call(builder.inttoptr(target, kind.as_pointer()), unused + cast)
            return context.get_dummy_value()

        return types.void(types.int64, args), codegen

    return call
