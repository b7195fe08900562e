"""What the losses share: the object, the registry, the two natives of a loss and how a formula becomes them.

P is a pointer to the parameters' dtype; sizes, leading dimensions and ``labels`` are int64.

LOSS     ``(o, ld_o, y, ld_y, labels, w, d, ld_d, rows, cols, scale, row_losses, params)``:
         ``row_losses[i] = w[i] * l_i`` and ``d[i, j] = scale * w[i] * dl_i / do_ij``; ``d`` may be the memory of ``o``.
TANGENT  ``(o, ld_o, y, ld_y, labels, w, ro, ld_r, rows, cols, scale, params)``:
         ``ro``, a tangent of ``o``, becomes the tangent of ``d``: ``scale * w[i] * H_i @ ro_i``.

``o`` (rows, cols) are outputs or pre-activations; ``y`` targets, (rows, cols) or, where ``labels`` is 1, one column
of class numbers; ``w`` (rows,) sample weights; ``params`` four numbers. A row of weight 0 gives exactly 0, whatever
finite or infinite numbers it holds, but a NaN in it stays a NaN. Padding beyond ``cols`` is neither read nor written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
from numba import types
from numpy.typing import DTypeLike

from fastnn._jit import Native, scalar
from fastnn._loops import load, masked_tail, store, store_row
from fastnn.losses._targets import regression_targets

SOFTMAX = ("softmax", "log_softmax")  # activations


def LOSS_ARGUMENTS(real: Any) -> tuple[Any, ...]:
    p, n = types.CPointer(real), types.int64
    return p, n, p, n, n, p, p, n, n, n, real, p, p


def TANGENT_ARGUMENTS(real: Any) -> tuple[Any, ...]:
    p, n = types.CPointer(real), types.int64
    return p, n, p, n, n, p, p, n, n, n, real, p


@scalar
def blank(x):
    """What an element of a row of weight 0 contributes: 0, or its NaN."""
    return type(x)(0) if x == x else x


def elementwise_loss(value: Callable[..., Any], gradient: Callable[..., Any]) -> Callable[..., None]:
    """LOSS of a formula per output; a row's loss is the mean over its outputs."""
    value, gradient = scalar(value), scalar(gradient)

    def body(o, ld_o, y, ld_y, labels, w, d, ld_d, rows, cols, scale, row_losses, params):
        T = type(scale)
        p0, p1, p2, p3 = params[0], params[1], params[2], params[3]
        if cols == 1 and ld_o == 1 and ld_y == 1 and ld_d == 1:
            for i in range(rows):
                oi, yi, wi = load(o, i), load(y, i), load(w, i)
                empty = blank(oi)
                li = wi * T(value(oi, yi, p0, p1, p2, p3))
                di = scale * wi * T(gradient(oi, yi, p0, p1, p2, p3))
                store_row(row_losses, i, li if wi != T(0) else empty)
                store(d, i, di if wi != T(0) else empty)
        else:
            for i in range(rows):
                wi = load(w, i)
                share = wi / T(cols)
                factor = scale * share
                total = T(0)
                if wi != T(0):
                    for j in range(cols):
                        oj, yj = load(o, i * ld_o + j), load(y, i * ld_y + j)
                        total += T(value(oj, yj, p0, p1, p2, p3))
                        store(d, i * ld_d + j, factor * T(gradient(oj, yj, p0, p1, p2, p3)))
                        masked_tail()
                    total *= share
                else:
                    for j in range(cols):
                        empty = blank(load(o, i * ld_o + j))
                        total += empty
                        store(d, i * ld_d + j, empty)
                store_row(row_losses, i, total)

    return body


def elementwise_tangent(curvature: Callable[..., Any]) -> Callable[..., None]:
    """TANGENT of a formula per output."""
    curvature = scalar(curvature)

    def body(o, ld_o, y, ld_y, labels, w, ro, ld_r, rows, cols, scale, params):
        T = type(scale)
        p0, p1, p2, p3 = params[0], params[1], params[2], params[3]
        for i in range(rows):
            wi = load(w, i)
            factor = scale * wi / T(cols)
            for j in range(cols):
                oj, yj = load(o, i * ld_o + j), load(y, i * ld_y + j)
                rj = factor * T(curvature(oj, yj, p0, p1, p2, p3)) * load(ro, i * ld_r + j)
                store(ro, i * ld_r + j, rj if wi != T(0) else blank(oj))
                masked_tail()

    return body


class Formula(NamedTuple):
    """A loss per output: scalar functions of (output, target, p0, p1, p2, p3), which CPU and GPU compile.

    They call the elementary functions of `fastnn._math` only. The order of comparisons keeps a NaN in the output alive
    (``max`` would not); numbers are made in the dtype of the output, since a literal would promote float32 to float64.
    """

    value: Callable[..., Any]
    gradient: Callable[..., Any]
    curvature: Callable[..., Any]

    def bodies(self) -> tuple[Callable[..., None], Callable[..., None]]:
        """LOSS and TANGENT."""
        return elementwise_loss(self.value, self.gradient), elementwise_tangent(self.curvature)


def straight(o, y, p0, p1, p2, p3):
    """Curvature of a loss that is made of straight lines."""
    return type(o)(0)


class RowLoops(NamedTuple):
    """A loss whose outputs of a row enter together, through their softmax: the makers of LOSS and TANGENT.

    ``term(z, t, n, p0, p1)`` is the same loss for a device that computes the elements of a row side by side: with
    ``z = log(softmax(o))``, a target ``t`` and ``n`` outputs it returns the element's share of the loss and a number h;
    the gradient is ``h - softmax(o) * sum(h)``.
    """

    loss: Callable[[], Callable[..., None]]
    tangent: Callable[[], Callable[..., None]]
    term: Callable[..., Any]

    def bodies(self) -> tuple[Callable[..., None], Callable[..., None]]:
        """LOSS and TANGENT."""
        return self.loss(), self.tangent()


KINDS: dict[str, Formula | RowLoops] = {}
BUILT_IN: dict[str, type[Loss]] = {}
REGISTERED: dict[str, Loss] = {}  # a user's own
_L = TypeVar("_L", bound="type[Loss]")


def built_in(**kinds: Formula | RowLoops) -> Callable[[_L], _L]:
    """Decorate a class as a loss of this package that runs these kinds of natives; their names are cache keys too."""

    def register(loss: _L) -> _L:
        KINDS.update(kinds)
        BUILT_IN[loss.name] = loss
        return loss

    return register


@cache
def natives(kind: str) -> tuple[Native, Native]:
    """The two natives of a built-in kind; made once, compiled when an address is asked for."""
    first, second = KINDS[kind].bodies()
    return Native(f"loss.{kind}", first, LOSS_ARGUMENTS), Native(f"loss.{kind}.tangent", second, TANGENT_ARGUMENTS)


class Resolved(NamedTuple):
    """What the engine needs of a loss behind a given output activation."""

    native: Native
    tangent_native: Native | None  # None: a user's loss without a second derivative
    from_pre_activation: bool  # takes the last layer's pre-activations instead of its outputs
    parameter_values: tuple[float, float, float, float]
    kind: str  # key of `KINDS`, or a user's name
    source: Formula | RowLoops  # what the natives are made of, for other devices


def four(*values: float) -> tuple[float, float, float, float]:
    a, b, c, d = (*values, 0.0, 0.0, 0.0, 0.0)[:4]
    return a, b, c, d


@dataclass(frozen=True)
class Loss:
    """A loss function: a frozen, hashable specification that holds no arrays.

    Attributes
    ----------
    name : str
        What `get` knows it by.
    parameters : dict
        Its hyper-parameters.
    rowwise : bool
        The outputs of a row enter together (softmax).
    of_classes : bool
        The targets tell classes.
    """

    name: ClassVar[str]
    rowwise: ClassVar[bool] = False
    of_classes: ClassVar[bool] = False
    _targets: ClassVar[Any] = staticmethod(regression_targets)

    @property
    def parameters(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @property
    def parameter_values(self) -> tuple[float, float, float, float]:
        """The parameters as the natives take them."""
        return four(*(float(value) for value in self.parameters.values()))

    def resolve(self, activation_name: str, n_outputs: int) -> Resolved:
        """Choose the natives for a network whose last activation has this name; refuse pairs that make no sense."""
        return self._resolved(self.name)

    def prepare_targets(self, y: Any, n_outputs: int, dtype: DTypeLike, name: str = "y") -> tuple[np.ndarray, bool]:
        """Check targets and bring them into the natives' form.

        Returns
        -------
        targets : ndarray of shape (n, n_outputs), or (n, 1) of class numbers
            C-contiguous, of ``dtype``.
        labels : bool
            The targets are class numbers.
        """
        return self._targets(name, y, n_outputs, dtype)

    def _resolved(self, kind: str, from_pre_activation: bool = False, *values: float) -> Resolved:
        first, second = natives(kind)
        numbers = four(*values) if values else self.parameter_values
        return Resolved(first, second, from_pre_activation, numbers, kind, KINDS[kind])

    def _set(self, parameter: str, value: Any) -> None:
        object.__setattr__(self, parameter, value)
