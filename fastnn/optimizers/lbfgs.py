"""L-BFGS: an optimizer that is a specification for SciPy and takes no single steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastnn import _checks
from fastnn.optimizers._base import Optimizer
from fastnn.optimizers._rules import Rule


@dataclass
class Minimum:
    """What `LBFGS.minimize` found.

    Attributes
    ----------
    theta : float64 ndarray of shape (n_parameters,)
    value : float
    iterations, evaluations : int
    converged : bool
        False where it stopped at ``max_iterations``, by the callback, or because the line search failed.
    message : str
        SciPy's reason for stopping.
    """

    theta: np.ndarray
    value: float
    iterations: int
    evaluations: int
    converged: bool
    message: str


class LBFGS(Optimizer):
    """Limited-memory BFGS on all the data at once, by SciPy's L-BFGS-B (Byrd et al. 1995); for small data sets.

    It has no learning rate: a line search finds the length of each step. Its path is SciPy's, not that of PyTorch's
    optimizer of this name. Each call of ``fit`` learns the curvature anew, so two calls end elsewhere than one of as
    many epochs.

    Parameters
    ----------
    max_iterations : int or None
        None: as many as `fit` is asked for epochs.
    history_size : int
        Pairs of steps and gradient changes that are kept.
    gtol : float
        Converged when the largest component of the gradient is at most this.
    ftol : float
        Converged when an iteration lowers the loss by less than this share.
    max_line_search : int
        Evaluations in one line search.
    """

    name = "lbfgs"
    full_batch = True
    max_iterations: int | None
    history_size: int
    gtol: float
    ftol: float
    max_line_search: int

    def __init__(
        self,
        max_iterations: int | None = None,
        *,
        history_size: int = 10,
        gtol: float = 1e-5,
        ftol: float = 1e-9,
        max_line_search: int = 20,
    ):
        self._set(
            max_iterations=_checks.integer("max_iterations", max_iterations, low=1, none=True),
            history_size=_checks.integer("history_size", history_size, low=1),
            gtol=_checks.number("gtol", gtol, low=0.0),
            ftol=_checks.number("ftol", ftol, low=0.0),
            max_line_search=_checks.integer("max_line_search", max_line_search, low=1),
        )
        self._set_common(1.0, 0.0, None, None)

    def _checked_learning_rate(self, value: Any) -> float:
        raise TypeError("LBFGS has no learning rate: its line search finds the length of each step")

    @property
    def rule(self) -> Rule:
        raise TypeError("LBFGS works on the whole data set through fit and cannot take single steps")

    @property
    def n_slots(self) -> int:
        return 0

    def _hyper(self) -> tuple[float, ...]:
        return ()

    def minimize(
        self,
        value_and_gradient: Callable[[np.ndarray], tuple[float, np.ndarray]],
        theta: np.ndarray,
        max_iterations: int | None = None,
        callback: Callable[[np.ndarray, float], Any] | None = None,
    ) -> Minimum:
        """Minimise a function from ``theta`` on.

        Parameters
        ----------
        value_and_gradient : callable
            Takes a float64 array of shape (n_parameters,), returns the value and the gradient.
        theta : ndarray of shape (n_parameters,)
            Where to start; not changed.
        max_iterations : int or None
            Where this object has none of its own.
        callback : callable or None
            ``callback(theta, value)`` after each iteration; a true result stops.

        Examples
        --------
        >>> round(LBFGS().minimize(lambda x: (float(x @ x), 2 * x), np.ones(3)).value, 9)
        0.0
        """
        from scipy.optimize import minimize

        def function(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = value_and_gradient(x)
            return float(value), np.asarray(gradient, dtype=np.float64)

        escaped: list[StopIteration] = []

        def after_iteration(intermediate_result: Any) -> None:
            try:
                stop = callback is not None and callback(intermediate_result.x, float(intermediate_result.fun))
            except StopIteration as error:  # the callback's own, which SciPy would take for a wish to stop
                escaped.append(error)
                raise
            if stop:
                raise StopIteration

        iterations = self.max_iterations or max_iterations or 15_000
        options = {
            "maxiter": iterations,
            "maxfun": iterations * (self.max_line_search + 1) + 1,
            "maxcor": self.history_size,
            "gtol": self.gtol,
            "ftol": self.ftol,
            "maxls": self.max_line_search,
        }
        start = np.array(theta, dtype=np.float64)
        result = minimize(function, start, jac=True, method="L-BFGS-B", callback=after_iteration, options=options)
        if escaped:
            raise escaped[0]
        self.bind(theta.size, theta.dtype).scalars[0] += result.nit
        return Minimum(
            result.x, float(result.fun), int(result.nit), int(result.nfev), bool(result.success), str(result.message)
        )
