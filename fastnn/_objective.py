"""What is to be made small: a loss over data, ready for an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastnn.losses import Resolved


@dataclass(frozen=True)
class Objective:
    """Targets laid out, and what the loss is for the network's output activation; arrays lie where the engine computes.

    Attributes
    ----------
    resolved : Resolved
    x : array, (n, n_inputs)
    y : array, (n, target columns)
    labels : bool
        ``y`` holds class numbers.
    weights : array, (n,) or (0,)
    factor : float
        Of the loss.
    decay : float
        decay / 2 * sum(W^2) / (total weight of a batch) is added, over dense layers without a penalty.
    """

    resolved: Resolved
    x: Any
    y: Any
    labels: bool
    weights: Any
    factor: float = 1.0
    decay: float = 0.0
