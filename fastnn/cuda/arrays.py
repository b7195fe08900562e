"""Arrays of users on their way to the GPU's engine and back: `fastnn._checks` for data that lie on the GPU.

Device data never pass through the host, and are not copied where they already are as the engine needs them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _checks
from fastnn.cuda import scan, streams
from fastnn.cuda._jit import SIMULATED, cuda, current_gpu, dlpack_view, gpu_of, kernel
from fastnn.cuda.intrinsics import store
from fastnn.cuda.scan import THREADS, blocks_for, first_item, step

_ON_GPU = (2, 13)  # DLPack's numbers for memory of CUDA, and for its managed memory


def on_device(obj: Any) -> bool:
    """Whether an object is an array on a CUDA device: of Numba, PyTorch, CuPy, JAX or another library."""
    if getattr(obj, "__cuda_ndarray__", False):
        return True
    if isinstance(obj, np.ndarray):
        return False
    try:
        if hasattr(obj, "__cuda_array_interface__"):
            return True
    except RuntimeError:  # PyTorch's tensors that need a gradient; those on the CPU have no such attribute
        return True
    where = getattr(obj, "__dlpack_device__", None)
    return callable(where) and int(where()[0]) in _ON_GPU


def as_device(name: str, obj: Any) -> Any:
    """A device array of Numba's over the memory of an array on a CUDA device.

    Work that its owner says it is waiting for is waited for.

    Parameters
    ----------
    name : str
        The argument's name, for the errors.
    obj : array
        One of which `on_device` is true.

    Returns
    -------
    device array
        Of the same shape, strides and dtype: boolean, an integer or a floating-point number, in native byte order.

    Raises
    ------
    TypeError, ValueError
        It needs a gradient, lies on another GPU than the current one, is masked, or holds no real numbers.
    """
    array = obj if getattr(obj, "__cuda_ndarray__", False) else _imported(name, obj)
    if array.dtype.kind not in "biuf" or not array.dtype.isnative:
        raise TypeError(f"{name} must hold real numbers, got a device array of dtype {array.dtype}")
    if len(cuda.gpus) > 1:
        own, here = gpu_of(array), current_gpu()
        if own != here:
            raise ValueError(f"{name} must lie on the current GPU, {here}, got an array on GPU {own}")
    producer = array.stream
    if not SIMULATED and producer and streams.address(producer) != streams.address(streams.current()):
        producer.synchronize()
    return array


def _imported(name: str, obj: Any) -> Any:
    """Another library's array as one of Numba's."""
    if getattr(obj, "requires_grad", False):
        raise TypeError(f"{name} must not need a gradient, got a tensor with requires_grad: use {name}.detach()")
    try:
        if not hasattr(obj, "__cuda_array_interface__"):
            obj = _Memory.of_view(dlpack_view(obj, streams.address(streams.current())))
        return cuda.as_cuda_array(obj, sync=False)
    except NotImplementedError as error:  # what Numba says of masks
        raise ValueError(f"{name} must hold no masked values: fill or drop them first ({error})") from error
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise TypeError(f"{name} cannot be read as a device array: {error}") from error


class _Memory:
    """An interface to memory that something else owns; the strides are in bytes."""

    def __init__(self, owner: Any, address: int, shape: Any, strides: Any, dtype: Any):
        self._owner = owner
        self.__cuda_array_interface__ = {
            "version": 3, "data": (address, False), "shape": tuple(shape), "strides": strides, "typestr": dtype.str,
        }  # fmt: skip

    @classmethod
    def of_view(cls, view: Any) -> _Memory:
        strides = None if view.strides is None else tuple(s * view.dtype.itemsize for s in view.strides)
        return cls(view, view.ptr, view.shape, strides, view.dtype)


def _shaped(array: Any, shape: tuple[int, ...], strides: tuple[int, ...] | None) -> Any:
    """A view of a device array's memory; without strides a C-contiguous one."""
    address = array.device_ctypes_pointer.value
    return cuda.as_cuda_array(_Memory(array, address, shape, strides, array.dtype)).bind(array.stream)


def as_columns(array: Any) -> Any:
    """A device array (n,) as one of shape (n, 1) over the same memory; others as they are."""
    if len(array.shape) != 1:
        return array
    if SIMULATED:
        return array[:, None]
    return _shaped(array, (array.shape[0], 1), (array.strides[0], array.dtype.itemsize))


def _is_packed(array: Any) -> bool:
    """Whether the elements lie one after the other, whatever is said of dimensions with one element."""
    expected = array.dtype.itemsize
    for size, stride in zip(reversed(tuple(array.shape)), reversed(array.strides), strict=True):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


@cache
def _converter(T: Any) -> Any:
    """Kernel ``(x, out)``: ``out`` (rows * columns,) of dtype T becomes the elements of ``x`` (rows, columns)."""

    @kernel(THREADS)
    def convert(x, out):
        columns = np.int64(x.shape[1])
        i = first_item()
        row, column = i // columns, i % columns
        rows_further, columns_further = step() // columns, step() % columns
        while i < out.shape[0]:
            store(out, i, T(x[row, column]))
            i += step()
            row += rows_further
            column += columns_further
            if column >= columns:
                row += 1
                column -= columns

    return convert


def packed(array: Any, dtype: DTypeLike) -> Any:
    """A device array (n, columns) C-contiguous and of ``dtype``; in the same memory if that is how it lies there."""
    shape = tuple(array.shape)
    if array.dtype == dtype and _is_packed(array):
        return array if SIMULATED or array.is_c_contiguous() else _shaped(array, shape, None)
    out = streams.empty((shape[0] * shape[1],), dtype)
    T: Any = np.dtype(dtype).type
    _converter(T)[blocks_for(out.shape[0]), THREADS, streams.current()](array, out)
    return out.reshape(shape)


@kernel(THREADS)
def _pick(x, row, column, out):
    if first_item() == 0:
        out[0] = x[row, column]


def element(array: Any, row: int, column: int) -> Any:
    """An element of a device array (n, columns) of any strides, as a NumPy scalar."""
    out = streams.empty((1,), array.dtype)
    _pick[blocks_for(1), THREADS, streams.current()](array, np.int64(row), np.int64(column), out)
    return streams.to_host(out)[0]


def not_finite(name: str, array: Any, position: tuple[int, ...], dtype: DTypeLike) -> ValueError:
    """The error about an element of a device array (n,) or (n, columns) that is not finite in ``dtype``."""
    value = element(as_columns(array), *(*position, 0)[:2])
    if np.isfinite(value):
        return ValueError(_checks.too_large(name, value, position, np.dtype(dtype)))
    return ValueError(_checks.not_finite(name, value, position))


def matrix(name: str, X: Any, dtype: DTypeLike, n_columns: int | None = None) -> Any:
    """Data as the engine reads them, under the rules of `fastnn._checks.matrix`.

    Parameters
    ----------
    name : str
        The argument's name, for the errors.
    X : array-like or device array of shape (n, n_columns)
        Real numbers, all finite, also in ``dtype``.
    dtype : dtype
        float32 or float64.
    n_columns : int, optional
        The number of columns that is asked for.

    Returns
    -------
    device array of shape (n, n_columns)
        C-contiguous, of ``dtype``; the memory of X if X is on the device and already so. Its address is then a
        multiple of the element's size, and no more than that.

    Raises
    ------
    TypeError, ValueError
        As from `fastnn._checks.matrix`, and as from `as_device`.
    """
    if not on_device(X):
        return streams.to_device(_checks.matrix(name, X, dtype, n_columns=n_columns))
    array = as_device(name, X)
    shape = tuple(array.shape)
    _checks.matrix_shape(name, shape, n_columns)
    out = packed(array, dtype)
    wrong = scan.first_infinite(out.reshape(shape[0] * shape[1]))
    if wrong is not None:
        raise not_finite(name, array, divmod(wrong, shape[1]), dtype)
    return out


def vector(name: str, value: Any, dtype: DTypeLike, length: int) -> Any:
    """Sample weights as the engine reads them, under the rules of `fastnn._checks.weights`.

    Parameters
    ----------
    name : str
        The argument's name, for the errors.
    value : array-like or device array of shape (length,)
        Real numbers, finite, none negative, not all zero.
    dtype : dtype
        float32 or float64.
    length : int

    Returns
    -------
    device array of shape (length,)
        Contiguous, of ``dtype``; the memory of ``value`` if that is on the device and already so.

    Raises
    ------
    TypeError, ValueError
        As from `fastnn._checks.weights`, and as from `as_device`.
    """
    if not on_device(value):
        return streams.to_device(_checks.weights(name, value, dtype, length))
    array = as_device(name, value)
    _checks.vector_shape(name, tuple(array.shape), length)
    out = packed(as_columns(array), dtype).reshape(length)
    infinite, negative, positive = scan.look_at_weights(out)
    if infinite < length:
        raise not_finite(name, array, (infinite,), dtype)
    if negative < length:
        raise ValueError(_checks.negative_weight(name, element(as_columns(array), negative, 0), negative))
    if positive == length:
        raise ValueError(_checks.zero_weights(name, length))
    return out


def same_kind(out: Any, like: Any) -> Any:
    """Results where the input was: ``out``, a device array, for device data, else a NumPy array of it.

    PyTorch takes a device array by ``torch.as_tensor(out, device="cuda")``, CuPy by ``cupy.asarray(out)``.
    """
    return out if on_device(like) else streams.to_host(out)
