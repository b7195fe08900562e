"""Machine code kept on disk: keys made of everything that decides it, and files that are whole or not there.

Kernels are closures made by factories, and reach device functions that are closures too, down to the sources of
activations, losses and optimizers, users' own among them. Numba's key for a closure is a pickle of what it holds, which
is another in each process. Here a key follows a kernel through everything that it reaches instead. What the walk does
not know has no key: such a kernel is compiled in each process, rather than taken for another one. It follows functions,
but not what a user has registered with Numba in their place (``overload``).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
from llvmlite.ir import InlineAsm

from fastnn import _jit

# Packages whose versions, or sources, are in every key: a name says what is meant.
_KNOWN = {"builtins", "fastnn", "llvmlite", "math", "numba", "numpy", "operator"}
_TYPES = {"Array", "Boolean", "Float", "Integer"}  # of Numba


class UnknownError(Exception):
    """Something that the walk cannot tell from others."""


def names(code: CodeType) -> Iterator[str]:
    """Names that a function's code, and that of the functions inside it, may look up in its globals."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names(constant)


def key_of(*parts: Any) -> str | None:
    """A text that is the same in another process for the same parts alone; None where one of them has no key."""
    walk = _Walk()
    try:
        walk.add(parts)
    except (UnknownError, ValueError, RecursionError):  # ValueError: a variable of a closure that has no value yet
        return None
    return walk.digest.hexdigest()


def _known(name: str | None) -> bool:
    return (name or "").split(".")[0] in _KNOWN


def _is_where_it_says(value: Any) -> bool:
    """Whether a function or class is what its module has under its name."""
    module = sys.modules.get(value.__module__ or "")
    return _known(value.__module__) and getattr(module, value.__qualname__, None) is value


def _is_simple_type(kind: type) -> bool:
    """Whether values of this class are types of arrays and numbers, whose text says all."""
    module = kind.__module__
    return module == "llvmlite.ir.types" or (module.startswith("numba.") and kind.__name__ in _TYPES)


class _Walk:
    """A digest of values and of everything that they refer to, in an order that depends on nothing else."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._seen: dict[int, int] = {}

    def _say(self, *texts: str) -> None:
        for text in texts:
            raw = text.encode()
            self.digest.update(len(raw).to_bytes(8, "little") + raw)

    def add(self, value: Any) -> None:
        kind = type(value)
        self._say(f"{kind.__module__}.{kind.__qualname__}")
        if value is None or value is Ellipsis:
            return
        if kind in (bool, int, str, bytes, complex):
            self._say(repr(value))
        elif kind is float:
            self._say(value.hex())
        elif isinstance(value, np.number | np.bool_):
            self._say(value.tobytes().hex())
        elif kind is tuple or (isinstance(value, tuple) and _is_where_it_says(kind)):
            self._say(str(len(value)))
            for each in value:
                self.add(each)
        elif kind is frozenset:
            self.add(tuple(sorted((repr(each), type(each).__name__) for each in value)))
        elif kind is CodeType:
            self._code(value)
        elif kind is ModuleType and _known(value.__name__):
            self._say(value.__name__)
        elif (kind is BuiltinFunctionType or isinstance(value, type)) and _is_where_it_says(value):
            self._say(value.__module__, value.__qualname__)
        elif (isinstance(value, np.ufunc) and getattr(np, value.__name__, None) is value) or _is_simple_type(kind):
            self._say(str(value))
        else:
            self._function(value)

    def _function(self, value: Any) -> None:
        """Plain functions and compiled ones, which may refer to each other."""
        if id(value) in self._seen:
            self._say(str(self._seen[id(value)]))
            return
        self._seen[id(value)] = len(self._seen)
        kind = type(value)
        if kind is FunctionType:
            if _known(value.__module__) and not value.__module__.startswith("fastnn.") and _is_where_it_says(value):
                self._say(value.__module__, value.__qualname__)
                return
            self.add(value.__code__)
            self.add(value.__defaults__)
            self.add(tuple(sorted((value.__kwdefaults__ or {}).items())))
            for cell in value.__closure__ or ():
                self.add(cell.cell_contents)
            for name in dict.fromkeys(names(value.__code__)):
                if name in value.__globals__:
                    self._say(name)
                    self.add(value.__globals__[name])
        elif _known(kind.__module__) and kind.__name__ == "CUDADispatcher":
            self.add(value.py_func)
            for name, option in sorted(value.targetoptions.items()):
                self._say(name)
                self.add(tuple(option) if isinstance(option, list) else option)
        elif _known(kind.__module__) and kind.__name__ == "_Intrinsic" and value._defn.__module__.startswith("fastnn."):
            self.add(value._defn)
        elif kind is InlineAsm:
            self._say(str(value.type), value.get_reference())
        else:
            raise UnknownError(repr(value))

    def _code(self, code: CodeType) -> None:
        self._say(code.co_code.hex(), code.co_exceptiontable.hex())
        self.add((code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags))
        self.add((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))
        self.add(code.co_consts)


def read(key: str) -> bytes | None:
    """What `write` wrote; None where there is nothing, or something else."""
    try:
        found = _path(key).read_bytes()
        data = zlib.decompress(found[32:])
    except (OSError, zlib.error):
        return None
    return data if hashlib.sha256(data).digest() == found[:32] else None


def write(key: str, data: bytes) -> None:
    """Keep something, whole or not at all; a folder that cannot be written is no error."""
    path = _path(key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        handle, made = tempfile.mkstemp(dir=path.parent)
        try:
            with open(handle, "wb") as file:
                file.write(hashlib.sha256(data).digest() + zlib.compress(data, 1))
            os.replace(made, path)
        except BaseException:
            os.unlink(made)
            raise


def _path(key: str) -> Path:
    assert _jit.CACHE_FOLDER is not None
    return _jit.CACHE_FOLDER / "cuda" / key
