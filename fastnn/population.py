"""``Population``: many networks of one architecture, trained side by side."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastnn import _checks, _data, losses, optimizers, schedules
from fastnn._model import check_trainable
from fastnn._objective import Objective
from fastnn._stepper import IN_ORDER, Stepper
from fastnn.cpu import team
from fastnn.losses import Loss
from fastnn.network import Sequential
from fastnn.optimizers import Optimizer
from fastnn.schedules import Schedule
from fastnn.training import History, State


@dataclass
class PopulationHistory:
    """What happened in one call of ``Population.fit``.

    Attributes
    ----------
    loss : ndarray of float64, (epochs, n)
        Weighted mean training loss over the epoch's batches, penalties included, for each network; not finite from the
        epoch on in which a network diverged.
    seconds : float
        Duration of the call.
    """

    loss: NDArray[np.float64]
    seconds: float


class Population:
    """Independent networks of one architecture, trained side by side.

    On the CPU the networks are shared among threads. On a GPU one launch trains all of them, a block of threads each.

    Parameters
    ----------
    net : Sequential
        Gives layers, ``n_inputs`` (which it must know), dtype, device and precision. It is left alone, and what it has
        learned is not taken.
    n : int
        Number of networks.
    seeds : sequence of int, (n,), optional
        Network k is ``Sequential(layers, n_inputs, seed=seeds[k], dtype=dtype)``, bit for bit. None: ``net.seed + k``.

    Attributes
    ----------
    device : str
    dtype : numpy.dtype
    n_inputs, n_outputs, n_parameters : int
        Of each network.

    Raises
    ------
    TypeError, ValueError
        ``net`` is no network or does not know its number of inputs, or ``seeds`` are not n integers >= 0.

    Examples
    --------
    Which learning rate?

    >>> import numpy as np, fastnn as fn
    >>> x = np.linspace(-1, 1, 64)[:, None]
    >>> net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(1)], n_inputs=1)
    >>> population = fn.Population(net, 3)
    >>> history = population.fit(x, x**2, "mse", "adam", epochs=20, learning_rate=[1e-5, 1e-4, 1e-2])
    >>> history.loss.shape, int(history.loss[-1].argmin())
    ((20, 3), 2)
    >>> best = population[2]
    """

    def __init__(self, net: Sequential, n: int, seeds: Sequence[int] | None = None):
        if not isinstance(net, Sequential):
            raise TypeError(f"net must be a Sequential, got {_checks.describe(net)}")
        if net._plan is None:
            raise ValueError("net must know its number of inputs, got one without: give Sequential(..., n_inputs=...)")
        n = _checks.integer("n", n, low=1)
        self._networks = []
        for seed in _checked_seeds(seeds, net.seed, n):
            made = Sequential(net.layers, None, seed, net.dtype, net.device, net.precision)
            made._build(net._plan)
            self._networks.append(made)
        self._given: str | Optimizer | None = None
        self._optimizers: list[Optimizer] = []
        self._join()

    def _join(self) -> None:
        """Let all parameters lie in one array, and all running statistics in another."""
        self._theta = np.stack([network._theta for network in self._networks])
        self._running = np.stack([network._running for network in self._networks])
        for network, theta, running in zip(self._networks, self._theta, self._running, strict=True):
            network._theta, network._running = theta, running
        self._on_gpu: Any = None

    def _gpu(self) -> Any:
        """The networks on the GPU, which hold what is true from when they are made on."""
        if self._on_gpu is None:
            from fastnn.cuda.population import Networks

            self._on_gpu = Networks(self._plan, self._theta, self._running, self._networks[0].precision)
        return self._on_gpu

    def _pull(self) -> None:
        """Make the networks on the host what they are on the GPU."""
        if self._on_gpu is not None:
            self._on_gpu.pull(self._theta, self._running)

    @property
    def _plan(self) -> Any:
        return self._networks[0]._built()

    @property
    def device(self) -> str:
        """Where the networks compute."""
        return self._networks[0].device

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of parameters and computation."""
        return self._networks[0].dtype

    @property
    def n_inputs(self) -> int:
        """Number of input features."""
        return int(self._plan.n_inputs)

    @property
    def n_outputs(self) -> int:
        """Number of outputs of each network."""
        return int(self._plan.n_outputs)

    @property
    def n_parameters(self) -> int:
        """Number of learned numbers of each network."""
        return int(self._plan.n_parameters)

    @property
    def parameters(self) -> Any:
        """All parameters, (n, n_parameters): a view, so writing to it changes the networks.

        On a GPU it is an array of that device, whose rows need not follow one another without gaps.
        """
        return self._theta if self.device == "cpu" else self._gpu().parameters

    def __len__(self) -> int:
        return len(self._networks)

    def __getitem__(self, k: int) -> Sequential:
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)):
            raise TypeError(f"a network's number must be an integer, got {_checks.describe(k)}")
        if not -len(self) <= k < len(self):
            raise IndexError(f"a network's number must be below {len(self)}, got {k}")
        self._pull()
        return self._networks[k].copy()

    def __iter__(self) -> Iterator[Sequential]:
        return iter(self.networks)

    @property
    def networks(self) -> list[Sequential]:
        """Independent copies of all networks; ``population[k]`` is one of them."""
        self._pull()
        return [network.copy() for network in self._networks]

    def to(self, device: str) -> Self:
        """This population, computing on ``device`` from now on.

        Parameters
        ----------
        device : {"cpu", "cuda"}
            As for ``Sequential.to``.
        """
        self._pull()
        for network in self._networks:  # the first one refuses what none takes
            network.to(device)
        self._on_gpu = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        self._pull()
        return {name: getattr(self, name) for name in ("_networks", "_given", "_optimizers")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._join()

    def __repr__(self) -> str:
        return f"Population({self._networks[0]!r}, n={len(self)})"

    def predict(self, X: ArrayLike, n_threads: int | None = None) -> Any:
        """The output layers' values.

        Parameters
        ----------
        X : array-like, (rows, n_inputs)
        n_threads : int, optional
            As for ``fit``.

        Returns
        -------
        ndarray, (n, rows, n_outputs), of the networks' dtype
            For X on a GPU, an array of that device.
        """
        threads = team.most_threads(n_threads)
        x = _data.check_inputs("X", X, self.dtype, self.n_inputs, self.device)
        if self.device == "cuda":
            return _data.returned(self._gpu().predict(x), X)
        out = np.empty((len(self), x.shape[0], self.n_outputs), self.dtype)

        def one(k: int, stop: threading.Event) -> None:
            out[k] = self._networks[k]._cpu_engine().predict(x)

        self._share(one, threads)
        return out

    def evaluate(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss,
        sample_weight: ArrayLike | None = None,
        n_threads: int | None = None,
    ) -> NDArray[np.float64]:
        """The losses in inference mode, without the layers' penalties.

        Parameters
        ----------
        X, y, loss, sample_weight
            As for ``Sequential.evaluate``.
        n_threads : int, optional
            As for ``fit``.

        Returns
        -------
        ndarray of float64, (n,)
        """
        threads = team.most_threads(n_threads)
        objective = self._objective(X, y, loss, sample_weight)
        if self.device == "cuda":
            found: NDArray[np.float64] = self._gpu().evaluate(objective)
            return found
        values = np.empty(len(self))

        def one(k: int, stop: threading.Event) -> None:
            values[k] = self._networks[k]._cpu_engine().evaluate(objective)

        self._share(one, threads)
        return values

    def _objective(self, X: Any, y: Any, loss: str | Loss, sample_weight: Any) -> Objective:
        chosen = losses.get(loss)
        x, y, weights = _data.check_rows(X, y, sample_weight, self.dtype, self.n_inputs, self.device)
        return _data.make_objective(self._plan, chosen, x, y, weights)

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss = "cross_entropy",
        optimizer: str | Optimizer = "adam",
        epochs: int = 10,
        batch_size: int | None = 32,
        learning_rate: float | Schedule | Sequence[float | Schedule] | None = None,
        sample_weight: ArrayLike | None = None,
        shuffle: bool = True,
        n_threads: int | None = None,
    ) -> PopulationHistory:
        """Train all networks on the same data.

        Network k ends where ``Sequential.fit`` takes a network of its seed, with an optimizer of its learning rate: on
        the CPU bit for bit, on a GPU up to rounding. Repeated calls go on where the last one stopped, the optimizers'
        states included if ``optimizer`` is the same object or the same name.

        A network whose loss turns NaN or infinite stops alone, with the parameters, running statistics and optimizer of
        its last finite epoch; the others go on.

        Parameters
        ----------
        X, y, loss, epochs, batch_size, sample_weight, shuffle
            As for ``Sequential.fit``; each network shuffles by its own seed.
        optimizer : str or Optimizer
            One that takes single steps. Each network gets one like it, without its state; the object is left alone.
        learning_rate : float, Schedule or sequence of these, (n,), optional
            For all networks or for each. None: the optimizer's.
        n_threads : int, optional
            At most so many threads share the networks on the CPU; the result does not depend on it. None:
            ``FASTNN_NUM_THREADS`` if it is set, else all cores that the process may use.

        Returns
        -------
        PopulationHistory
            ``loss`` (epochs, n) and ``seconds``.

        Raises
        ------
        TypeError, ValueError
            As from ``Sequential.fit``, and where the learning rates are not n. Nothing has changed then.
        """
        begin = time.perf_counter()
        epochs = _checks.integer("epochs", epochs, low=0)
        batch_size = _checks.integer("batch_size", batch_size, low=1, none=True)
        shuffle = _checks.flag("shuffle", shuffle)
        threads = team.most_threads(n_threads)
        made = self._make_optimizers(optimizer, learning_rate)
        check_trainable(self._plan)
        objective = self._objective(X, y, loss, sample_weight)
        rows = objective.x.shape[0]
        size = rows if batch_size is None else min(batch_size, rows)
        self._take(optimizer, made)
        found = np.full((epochs, len(self)), np.nan)
        if epochs and self.device == "cuda":
            self._train_on_gpu(objective, size, shuffle, found)
        elif epochs:

            def one(k: int, stop: threading.Event) -> None:
                _train(self._networks[k], self._optimizers[k], objective, size, shuffle, found[:, k], stop)

            self._share(one, threads)
        return PopulationHistory(found, time.perf_counter() - begin)

    def _make_optimizers(self, optimizer: str | Optimizer, learning_rate: Any) -> list[Optimizer]:
        """One for each network, without a state."""
        chosen = optimizers.get(optimizer)
        if chosen.full_batch:
            raise ValueError(f"optimizer must be one that takes single steps, got {type(chosen).__name__}")
        made = []
        for rate in _checked_rates(learning_rate, chosen, len(self)):
            own = optimizers.from_config(chosen.get_config() | {"learning_rate": rate})
            own.learning_rate_factor = chosen.learning_rate_factor
            made.append(own)
        return made

    def _take(self, optimizer: str | Optimizer, made: list[Optimizer]) -> None:
        """Train with these; where they are the last ones, with their states."""
        named = isinstance(optimizer, str)
        same = isinstance(self._given, str) if named else self._given is optimizer
        if same and type(self._optimizers[0]) is type(made[0]):
            for own, kept in zip(made, self._optimizers, strict=True):
                own.state = kept.state
        self._given, self._optimizers = optimizer, made
        if named:
            for network, own in zip(self._networks, made, strict=True):
                network._kept_optimizer = own

    def _train_on_gpu(self, objective: Objective, size: int, shuffle: bool, found: NDArray[np.float64]) -> None:
        from fastnn.cuda.population import Training

        training = Training(self._gpu(), self._networks, self._optimizers, objective, size, shuffle)
        try:
            found[:] = training.run(len(found))
        finally:
            training.close()

    def _share(self, task: Callable[[int, threading.Event], None], threads: int) -> None:
        """``task(k, stop)`` for each network; a task is to end early once ``stop`` is set."""
        waiting, stop = deque(range(len(self))), threading.Event()

        def work(part: int) -> None:
            try:
                while waiting and not stop.is_set():
                    try:
                        k = waiting.popleft()
                    except IndexError:  # another thread was faster
                        return
                    task(k, stop)
            except BaseException:
                stop.set()
                raise

        threads = min(threads, len(self))
        if threads == 1:
            work(0)
        else:
            team.pool(threads).run(work, threads)


def _train(
    network: Sequential,
    optimizer: Optimizer,
    objective: Objective,
    batch_size: int,
    shuffle: bool,
    column: NDArray[np.float64],
    stop: threading.Event,
) -> None:
    """Epochs of one network on the CPU; writes their losses to ``column``, (epochs,)."""
    n = objective.x.shape[0]
    training = network._cpu_engine().training(objective, optimizer, batch_size, network._dropout_key)
    state = State(network, optimizer, History(), network._epochs)
    stepper = Stepper(training, state, team.Pace(1), n, batch_size, [])
    kept = training.keep()
    for epoch in range(len(column)):
        if stop.is_set():
            return
        loss = stepper.epoch(network._shuffle_rng.permutation(n) if shuffle else IN_ORDER)
        if not (np.isfinite(loss) and training.finite()):
            column[epoch] = np.nan if np.isfinite(loss) else loss
            training.restore(kept)
            return
        column[epoch] = loss
        network._epochs += 1
        kept = training.keep(kept)


def _checked_seeds(seeds: Any, first: int, n: int) -> list[int]:
    if seeds is None:
        return [first + k for k in range(n)]
    if not isinstance(seeds, (Sequence, np.ndarray)) or isinstance(seeds, (str, bytes)):
        raise TypeError(f"seeds must be a sequence of {n} integers or None, got {_checks.describe(seeds)}")
    if len(seeds) != n:
        raise ValueError(f"seeds must have length {n}, one for each network, got {len(seeds)}")
    return [_checks.integer(f"seeds[{k}]", seed, low=0) for k, seed in enumerate(seeds)]


def _checked_rates(value: Any, chosen: Optimizer, n: int) -> list[float | Schedule]:
    if value is None:
        return [chosen.learning_rate] * n
    if not isinstance(value, (list, tuple, np.ndarray)):
        return [schedules.get(value)] * n
    if (isinstance(value, np.ndarray) and value.ndim != 1) or len(value) != n:
        raise ValueError(f"learning_rate must be one number, or {n} of them in a row, got {_checks.describe(value)}")
    return [schedules.get(rate, f"learning_rate[{k}]") for k, rate in enumerate(value)]
