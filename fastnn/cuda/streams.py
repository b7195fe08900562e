"""The stream that work goes to, and the only copies between the GPU's memory and the host's.

A stream is an object of Numba's, or 0: the default stream. The one of this thread is `current`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastnn import _checks
from fastnn.cuda._jit import SIMULATED, cuda

_TAKEN = (
    "stream must be a CUDA stream: one of Numba's, PyTorch's, CuPy's, an object with __cuda_stream__(), "
    "or its address as an int"
)
_LEGACY = 1  # how interfaces between libraries write the default stream


class _Local(threading.local):
    stream: Any = 0


_local = _Local()


def current() -> Any:
    """The stream that this thread launches and copies on."""
    return _local.stream


def use_stream(stream: Any) -> AbstractContextManager[None]:
    """Let everything that fastnn does on the GPU inside the ``with`` block go to a stream.

    It holds for this thread alone, and blocks may be nested.

    Parameters
    ----------
    stream : stream or int
        One of Numba's (``cuda.stream()``), PyTorch's (``torch.cuda.Stream``) or CuPy's, another object that has
        ``__cuda_stream__()``, or a stream's address. 0 is the default stream.

    Raises
    ------
    TypeError, ValueError
        It is none of these, or a negative number.

    Notes
    -----
    Keep a network to one stream: work on another does not wait for what this one has under way with its parameters.
    Arrays that came about on another stream are waited for if they say so, as those of Numba and CuPy do. PyTorch's
    tensors do not: give their stream here, ``with use_stream(torch.cuda.current_stream()):``.

    Examples
    --------
    >>> from numba import cuda
    >>> from fastnn.cuda import use_stream
    >>> with use_stream(cuda.stream()):
    ...     pass  # what fastnn does here goes to that stream
    """
    return _using(_numba_stream(stream))


@contextmanager
def _using(stream: Any) -> Iterator[None]:
    before, _local.stream = _local.stream, stream
    try:
        yield
    finally:
        _local.stream = before


def _numba_stream(stream: Any) -> Any:
    if hasattr(stream, "auto_synchronize"):
        return stream
    address = _address(stream)
    if isinstance(address, bool) or not isinstance(address, (int, np.integer)):
        raise TypeError(f"{_TAKEN}, got {_checks.describe(stream)}")
    if address < 0:
        raise ValueError(f"{_TAKEN}, got {_checks.describe(stream)}")
    if address == 0 or SIMULATED:
        return int(address)
    found = cuda.external_stream(int(address))
    found.owner = stream  # or it might be destroyed while arrays still name it
    return found


def _address(stream: Any) -> Any:
    protocol = getattr(stream, "__cuda_stream__", None)
    if callable(protocol) and not isinstance(stream, type):
        return protocol()[1]  # (version, address)
    for attribute in ("cuda_stream", "ptr"):  # PyTorch's, CuPy's
        if hasattr(stream, attribute):
            return getattr(stream, attribute)
    return stream


def address(stream: Any) -> int:
    """A stream of Numba's as interfaces between libraries write it: never 0."""
    return int(stream) or _LEGACY


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Any:
    """A C-contiguous device array that holds anything."""
    return cuda.device_array(shape, dtype, stream=current())


def to_device(array: NDArray[Any]) -> Any:
    """A contiguous host array's copy on the GPU."""
    return cuda.to_device(array, stream=current())


def to_host(array: Any) -> NDArray[Any]:
    """A device array's copy, complete when this returns."""
    stream = current() or array.stream
    found: NDArray[Any] = array.copy_to_host(stream=stream)
    if stream and not SIMULATED:
        stream.synchronize()
    return found
