"""THE place for an optimizer: one class in `gradient`, `adagrad` or `adam`, with its scalar update rule above it.

Names, defaults and trajectories are those of PyTorch's optimizer of the same name (Nadam is its NAdam; Lion is from
its paper). The first parameter of each is ``learning_rate``, a number or a schedule of `fastnn.schedules`. Common to
most of them:

weight_decay : float
    ``weight_decay * theta`` is added to the gradient; AdamW and Lion shrink theta by ``learning_rate * weight_decay``
    instead, away from the moments (decoupled).
clip_norm : float or None
    The gradient of all parameters together is scaled down to this Euclidean norm where it is longer.
clip_value : float or None
    Each component of the gradient is cut to [-clip_value, clip_value] (before the norm is taken).

An optimizer object carries its own state (moments and step count): handing the same object to `fit` again goes on from
there, and `reset` forgets it. Hyper-parameters are fixed once it is made; ``learning_rate`` may be set at any time.
"""

from __future__ import annotations

from fastnn.optimizers._base import Optimizer, OptimizerState, from_config, get, names
from fastnn.optimizers._custom import from_rule
from fastnn.optimizers._rules import BEGIN_ARGUMENTS, UPDATE_ARGUMENTS
from fastnn.optimizers.adagrad import Adadelta, Adagrad, RMSprop
from fastnn.optimizers.adam import Adam, Adamax, AdamW, Nadam, RAdam
from fastnn.optimizers.gradient import SGD, Lion, Rprop
from fastnn.optimizers.lbfgs import LBFGS, Minimum

__all__ = [
    "BEGIN_ARGUMENTS",
    "LBFGS",
    "SGD",
    "UPDATE_ARGUMENTS",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "Minimum",
    "Nadam",
    "Optimizer",
    "OptimizerState",
    "RAdam",
    "RMSprop",
    "Rprop",
    "from_config",
    "from_rule",
    "get",
    "names",
]
