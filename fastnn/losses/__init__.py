"""THE place for a loss: its formula with two derivatives, its parameters, the targets it takes.

A loss is one class in `regression`, `classification`, `softmax` or `focal`, with its arithmetic above it and its row of
the table in its decorator. Most have three plain scalar functions of (output, target, p0, p1, p2, p3), compiled for CPU
and GPU from the same source; losses of a whole row (softmax) are loops. Definitions, defaults and conventions at kinks
are PyTorch's wherever it has the loss. The number that is reported is the weighted mean over samples of a row's loss,
which for a loss per output is the mean over the outputs.

Examples
--------
>>> import fastnn as fn
>>> fn.losses.get("cross_entropy")
CrossEntropy(label_smoothing=0.0)
>>> fn.losses.Huber(delta=2.0).parameters
{'delta': 2.0}
"""

from __future__ import annotations

from fastnn import _checks
from fastnn.losses._base import BUILT_IN, KINDS, LOSS_ARGUMENTS, REGISTERED, TANGENT_ARGUMENTS, Formula, Loss, Resolved
from fastnn.losses._user import UserLoss as UserLoss
from fastnn.losses._user import from_functions
from fastnn.losses.classification import BinaryCrossEntropy, Hinge, SquaredHinge
from fastnn.losses.focal import Focal
from fastnn.losses.regression import MAE, MSE, Huber, LogCosh, Poisson, Quantile
from fastnn.losses.softmax import CrossEntropy, KLDivergence

__all__ = [
    "LOSS_ARGUMENTS",
    "MAE",
    "MSE",
    "TANGENT_ARGUMENTS",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "Focal",
    "Hinge",
    "Huber",
    "KLDivergence",
    "LogCosh",
    "Loss",
    "Poisson",
    "Quantile",
    "Resolved",
    "SquaredHinge",
    "from_functions",
    "get",
    "names",
]

# The arithmetic of all losses per output, by kind.
FORMULAS: dict[str, Formula] = {kind: source for kind, source in KINDS.items() if isinstance(source, Formula)}


def names() -> tuple[str, ...]:
    """All names that `get` knows, those of a user's own losses included."""
    return (*BUILT_IN, *REGISTERED)


def get(loss: str | Loss) -> Loss:
    """Return a loss from its name or itself.

    >>> get("huber")
    Huber(delta=1.0)
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, type) and issubclass(loss, Loss):
        raise TypeError(f"loss must be a name or an object, got the class {loss.__name__}: write {loss.__name__}()")
    name = _checks.choice("loss", loss, names())
    return REGISTERED[name] if name in REGISTERED else BUILT_IN[name]()
