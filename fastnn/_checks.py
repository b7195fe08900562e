"""The one gate for user data: numbers, names and arrays are checked here, before anything changes.

Every function takes the argument's name first and puts it, what came and what is taken into its error. ``TypeError``
is for the wrong kind of thing, ``ValueError`` for the right kind with a wrong value.
"""

from __future__ import annotations

import difflib
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import DTypeLike

# Names that other libraries use, whose nearest match here in spelling is another thing.
_ELSEWHERE = {
    "acc": "accuracy",
    "bce": "binary_cross_entropy",
    "categorical_crossentropy": "cross_entropy",
    "gpu": "cuda",
    "kaiming_normal": "he_normal",
    "kaiming_uniform": "he_uniform",
    "l1": "mae",
    "linear": "identity",
    "logistic": "sigmoid",
    "mean_absolute_error": "mae",
    "mean_squared_error": "mse",
    "nll": "cross_entropy",
    "sparse_categorical_crossentropy": "cross_entropy",
    "squared_error": "mse",
    "swish": "silu",
    "xavier_normal": "glorot_normal",
    "xavier_uniform": "glorot_uniform",
}
_MISSING = ("NAType", "NaTType", "NoneType")  # pandas' marks of a missing value, and None


def describe(value: Any) -> str:
    """A short text that says what came: the type and, where it is short, the value."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    text = repr(value)
    kind = type(value).__name__
    return f"{text} ({kind})" if len(text) <= 60 else f"{text[:57]}... ({kind})"


def _bounds(low: float | None, high: float | None, low_open: bool, high_open: bool) -> str:
    parts = []
    if low is not None:
        parts.append(f"{'>' if low_open else '>='} {low:g}")
    if high is not None:
        parts.append(f"{'<' if high_open else '<='} {high:g}")
    return " and ".join(parts)


def _in_bounds(value: float, low: float | None, high: float | None, low_open: bool, high_open: bool) -> bool:
    if low is not None and (value < low or (low_open and value == low)):
        return False
    return not (high is not None and (value > high or (high_open and value == high)))


@overload
def number(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    high_open: bool = False,
    none: Literal[False] = False,
) -> float: ...
@overload
def number(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    high_open: bool = False,
    none: bool,
) -> float | None: ...
def number(
    name: str,
    value: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    low_open: bool = False,
    high_open: bool = False,
    none: bool = False,
) -> float | None:
    """Return ``value`` as a finite float within the bounds; None passes where ``none`` is true.

    >>> number("rate", 1, low=0.0)
    1.0
    >>> number("rate", -1, low=0.0)
    Traceback (most recent call last):
    ...
    ValueError: rate must be a number >= 0, got -1 (int)
    """
    if value is None and none:
        return None
    bounds = _bounds(low, high, low_open, high_open)
    taken = f"{name} must be a number{' ' + bounds if bounds else ''}{' or None' if none else ''}"
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{taken}, got {describe(value)}")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{taken}, and finite, got {describe(value)}")
    if not _in_bounds(found, low, high, low_open, high_open):
        raise ValueError(f"{taken}, got {describe(value)}")
    return found


@overload
def integer(
    name: str, value: Any, *, low: int | None = None, high: int | None = None, none: Literal[False] = False
) -> int: ...
@overload
def integer(name: str, value: Any, *, low: int | None = None, high: int | None = None, none: bool) -> int | None: ...
def integer(
    name: str, value: Any, *, low: int | None = None, high: int | None = None, none: bool = False
) -> int | None:
    """Return ``value`` as an int within the bounds; a float is refused even where it is whole.

    >>> integer("units", 3, low=1)
    3
    """
    if value is None and none:
        return None
    bounds = _bounds(low, high, False, False)
    taken = f"{name} must be an integer{' ' + bounds if bounds else ''}{' or None' if none else ''}"
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{taken}, got {describe(value)}")
    found = int(value)
    if not _in_bounds(found, low, high, False, False):
        raise ValueError(f"{taken}, got {describe(value)}")
    return found


def flag(name: str, value: Any) -> bool:
    """Return ``value`` if it is True or False; 0 and 1 are refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False, got {describe(value)}")
    return bool(value)


def path(name: str, value: Any) -> str:
    """Return a path, given as a text or an ``os.PathLike``, as a text."""
    found = os.fspath(value) if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(found, str):
        raise TypeError(f"{name} must be a path as a str or os.PathLike, got {describe(value)}")
    if not found:
        raise ValueError(f"{name} must be a path, got an empty text")
    return found


def choice(name: str, value: Any, known: Iterable[str]) -> str:
    """Return ``value`` if it is one of the ``known`` names; the error lists them and the nearest match.

    >>> choice("loss", "hubert", ["mse", "mae", "huber"])
    Traceback (most recent call last):
    ...
    ValueError: loss must be one of huber, mae, mse, got 'hubert': did you mean 'huber'?
    """
    names = sorted(known)
    taken = f"{name} must be one of {', '.join(names)}"
    if not isinstance(value, str):
        raise TypeError(f"{taken}, got {describe(value)}")
    if value in names:
        return value
    key = value.lower().replace("-", "_").replace(" ", "_")
    elsewhere = _ELSEWHERE.get(key)
    near = [elsewhere] if elsewhere in names else difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    raise ValueError(f"{taken}, got {value!r}" + (f": did you mean {near[0]!r}?" if near else ""))


def _numbers_of_objects(name: str, array: np.ndarray) -> np.ndarray:
    """An object array of numbers (a pandas frame of mixed columns) as float64; missing marks become NaN."""
    out = np.empty(array.shape, dtype=np.float64)
    for position in np.ndindex(array.shape):
        item = array[position]
        if type(item).__name__ in _MISSING:
            out[position] = np.nan
        elif isinstance(item, (numbers.Real, np.bool_)):
            try:
                out[position] = float(item)
            except OverflowError:
                out[position] = np.inf
        else:
            raise TypeError(
                f"{name} must hold real numbers, got {describe(item)} at position {_position(position)}"
                + (": encode texts as numbers first" if isinstance(item, (str, bytes)) else "")
            )
    return out


def _position(index: tuple[int, ...]) -> str:
    return f"[{', '.join(str(int(i)) for i in index)}]"


def config(name: str, value: Any) -> dict[str, Any]:
    """Return what a ``get_config`` gave, a copy."""
    if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
        raise TypeError(f"{name} must be a dict with a 'name', as get_config gives, got {describe(value)}")
    return dict(value)


def weights(name: str, value: Any, dtype: DTypeLike, length: int) -> np.ndarray:
    """Return sample weights: finite, none negative, not all zero."""
    checked = vector(name, value, dtype, length=length)
    if checked.min() < 0:
        where = int(checked.argmin())
        raise ValueError(negative_weight(name, checked[where], where))
    if not checked.any():
        raise ValueError(zero_weights(name, length))
    return checked


def negative_weight(name: str, value: float, position: int) -> str:
    return f"{name} must not be negative, got {value:g} at position {position}"


def zero_weights(name: str, length: int) -> str:
    return f"{name} must not be zero everywhere, got {length} zeros"


def real_array(name: str, value: Any) -> np.ndarray:
    """Any array-like of real numbers as an ndarray of its own numeric dtype, of any shape.

    Refuses texts, dates, complex numbers, sparse matrices, masked values and ragged lists.
    """
    if hasattr(value, "tocsr"):
        raise TypeError(f"{name} must be a dense array, got a sparse {type(value).__name__}: use {name}.toarray()")
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ValueError(f"{name} must hold no masked values: fill or drop them first")
    if isinstance(value, (str, bytes)) or value is None:
        raise TypeError(f"{name} must be an array of real numbers, got {describe(value)}")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be a regular array, got rows of different lengths ({error})") from error
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name} cannot be read as an array: {error}") from error
    if array.dtype.kind == "O":
        if array.ndim == 0:
            raise TypeError(f"{name} must be an array of real numbers, got {describe(value)}")
        array = _numbers_of_objects(name, array)
    if array.dtype.kind in "US":
        raise TypeError(f"{name} must hold real numbers, got texts (dtype {array.dtype}): encode them as numbers first")
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


def check_finite(name: str, array: np.ndarray) -> None:
    """Refuse NaN and infinity, saying where the first one is."""
    # One pass without a temporary in the usual case; a sum that overflows is looked at element by element.
    with np.errstate(over="ignore", invalid="ignore"):
        if array.dtype.kind in "biu" or np.isfinite(array.sum()):
            return
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        where = tuple(bad[0])
        raise ValueError(not_finite(name, array[where], where))


def not_finite(name: str, value: Any, position: tuple[int, ...]) -> str:
    """What to say of an element that is NaN or infinite."""
    return f"{name} must hold finite numbers, got {value} at position {_position(position)}"


def cast(name: str, array: np.ndarray, dtype: DTypeLike, *, finite: bool) -> np.ndarray:
    """``array`` as an aligned C-contiguous array of ``dtype``; the same object where it already is one."""
    if finite:
        check_finite(name, array)
    dtype = np.dtype(dtype)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        out = np.require(array, dtype, ["C", "A"])
        total = out.sum(dtype=np.float64) if finite and out is not array else 0.0
    # Finite in the wider dtype, yet infinite in this one.
    if not np.isfinite(total):
        bad = np.argwhere(~np.isfinite(out))
        if len(bad):
            where = tuple(bad[0])
            raise ValueError(too_large(name, array[where], where, dtype))
    return out


def too_large(name: str, value: Any, position: tuple[int, ...], dtype: DTypeLike) -> str:
    """What to say of a finite element that becomes infinite in ``dtype``."""
    return f"{not_finite(name, value, position)}, too large for {dtype}"


def matrix_shape(name: str, shape: tuple[int, ...], n_columns: int | None = None) -> None:
    """Refuse what has not the shape (n_samples, n_columns), or is empty."""
    if len(shape) != 2:
        hint = ""
        if len(shape) == 1:
            hint = f": use {name}.reshape(-1, 1) for one column or {name}.reshape(1, -1) for one sample"
        raise ValueError(f"{name} must have 2 dimensions (samples, columns), got shape {shape}{hint}")
    if 0 in shape:
        raise ValueError(f"{name} must not be empty, got shape {shape}")
    if n_columns is not None and shape[1] != n_columns:
        raise ValueError(f"{name} must have {n_columns} column{'s' * (n_columns != 1)}, got shape {shape}")


def vector_shape(name: str, shape: tuple[int, ...], length: int | None = None) -> None:
    """Refuse what has not the shape (length,), or is empty."""
    if len(shape) != 1:
        raise ValueError(f"{name} must have 1 dimension, got shape {shape}")
    if length is not None and shape[0] != length:
        raise ValueError(f"{name} must have length {length}, got {shape[0]}")
    if shape[0] == 0:
        raise ValueError(f"{name} must not be empty")


def matrix(name: str, value: Any, dtype: DTypeLike, *, n_columns: int | None = None, finite: bool = True) -> np.ndarray:
    """Return ``value`` as a 2-D C-contiguous array of ``dtype``, rows being samples.

    Takes lists, tuples, frames, and arrays of any real dtype, byte order and memory layout. An array that is already
    right is passed through without a copy.

    Parameters
    ----------
    name : str
        The argument's name, for the errors.
    value : array-like of shape (n_samples, n_columns)
    dtype : dtype
        float32 or float64.
    n_columns : int, optional
        The number of columns that is asked for.
    finite : bool
        Refuse NaN and infinity.

    Examples
    --------
    >>> matrix("X", [[1, 2], [3, 4]], "float32")
    array([[1., 2.],
           [3., 4.]], dtype=float32)
    """
    array = real_array(name, value)
    matrix_shape(name, array.shape, n_columns)
    return cast(name, array, dtype, finite=finite)


def vector(name: str, value: Any, dtype: DTypeLike, *, length: int | None = None, finite: bool = True) -> np.ndarray:
    """Return ``value`` as a 1-D contiguous array of ``dtype``; see `matrix`.

    >>> vector("sample_weight", (1, 2), "float64", length=2)
    array([1., 2.])
    """
    array = real_array(name, value)
    vector_shape(name, array.shape, length)
    return cast(name, array, dtype, finite=finite)
