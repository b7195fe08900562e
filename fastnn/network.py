"""``Sequential``: layer specifications, their plan, and the one vector of parameters with its named views."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastnn import _checks, _data, losses, plan
from fastnn._data import Metric
from fastnn.cpu.engine import Engine, Objective
from fastnn.layers import Layer, check_layers
from fastnn.losses import Loss

if TYPE_CHECKING:
    from fastnn.optimizers import Optimizer
    from fastnn.training import History

_DTYPES = ("float32", "float64")
_DEVICES = ("cpu",)


class Sequential:
    """A feed-forward network: layers one after the other.

    Parameters
    ----------
    layers : sequence of Layer
        Specifications such as ``fn.Dense(64, "relu")``; the network owns the arrays.
    n_inputs : int, optional
        Number of input features. None: taken from the first X given to ``fit``.
    seed : int or None
        Decides initial parameters, shuffling and dropout: the same seed gives the same network bit for bit. None takes
        fresh entropy; the number drawn is kept in ``seed``.
    dtype : {"float32", "float64"}
        Of the parameters and of all computation.
    device : {"cpu"}
        Where the network computes.

    Attributes
    ----------
    layers : tuple of Layer
    n_inputs : int or None
    n_outputs : int or None
    seed : int
    dtype : numpy.dtype
    device : str

    Examples
    --------
    >>> import numpy as np, fastnn as fn
    >>> X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")
    >>> y = np.array([0, 1, 1, 0])
    >>> net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(1, "sigmoid")], n_inputs=2, seed=1)
    >>> history = net.fit(X, y, loss="binary_cross_entropy", optimizer=fn.Adam(0.05), epochs=200, batch_size=4)
    >>> net.predict_classes(X).tolist()
    [0, 1, 1, 0]
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        n_inputs: int | None = None,
        seed: int | None = 0,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
    ):
        self.layers = check_layers("layers", layers)
        n_inputs = _checks.integer("n_inputs", n_inputs, low=1, none=True)
        seed = _checks.integer("seed", seed, low=0, none=True)
        self.seed: int = int(np.random.SeedSequence().entropy) if seed is None else seed  # type: ignore[arg-type]
        self.dtype = _check_dtype(dtype)
        self.device = _checks.choice("device", device, _DEVICES)
        # Streams of random numbers that do not meet: initial parameters, shuffling, dropout.
        start, shuffle, dropout = np.random.SeedSequence(self.seed).spawn(3)
        self._init_seed = start
        self._shuffle_rng = np.random.default_rng(shuffle)
        self._dropout_key = int(dropout.generate_state(1, np.uint64)[0])
        self._steps = 0
        self._epochs = 0
        self._kept_optimizer: Optimizer | None = None
        self._plan: plan.Plan | None = None
        self._theta = np.empty(0, self.dtype)
        self._running = np.empty(0, self.dtype)
        self._engine: Engine | None = None
        if n_inputs is not None:
            self._build(self._lay_out(n_inputs))

    # -- building -----------------------------------------------------------------------------------------------------

    def _lay_out(self, n_inputs: int) -> plan.Plan:
        """The plan for this many inputs; changes nothing."""
        return self._plan if self._plan is not None else plan.build(self.layers, n_inputs, self.dtype)

    def _build(self, laid_out: plan.Plan) -> None:
        """Take the plan and make the arrays, unless they exist."""
        if self._plan is not None:
            return
        rng = np.random.default_rng(self._init_seed)
        theta = np.empty(laid_out.n_parameters, self.dtype)
        for entry in laid_out.parameters:
            theta[entry.offset : entry.offset + entry.size] = _start(entry, rng, self.dtype)
        self._take(laid_out, theta)

    def _take(self, laid_out: plan.Plan, theta: NDArray[Any]) -> None:
        """Hold these parameters, and running statistics as they start."""
        running = np.zeros(laid_out.n_buffers, self.dtype)
        for entry in laid_out.buffers:
            if entry.name.endswith("running_var"):
                running[entry.offset : entry.offset + entry.size] = 1
        self._plan, self._theta, self._running = laid_out, theta, running

    def _built(self) -> plan.Plan:
        if self._plan is None:
            raise ValueError(
                "this network does not know its number of inputs yet: "
                "give Sequential(..., n_inputs=...) or call fit first"
            )
        return self._plan

    def _ready(self) -> Engine:
        if self._engine is None:
            self._engine = Engine(self._built(), self._theta, self._running)
        return self._engine

    @property
    def n_inputs(self) -> int | None:
        """Number of input features, None while unknown."""
        return None if self._plan is None else self._plan.n_inputs

    @property
    def n_outputs(self) -> int | None:
        """Number of outputs, None while ``n_inputs`` is unknown."""
        return None if self._plan is None else self._plan.n_outputs

    # -- parameters ---------------------------------------------------------------------------------------------------

    @property
    def parameters(self) -> NDArray[Any]:
        """All parameters as one vector, (n_parameters,): a view, so writing to it changes the network."""
        self._built()
        return self._theta

    @property
    def n_parameters(self) -> int:
        """Number of learned numbers."""
        return self._built().n_parameters

    def named_parameters(self) -> dict[str, NDArray[Any]]:
        """Views of the parameters under names such as ``"0.weight"`` (n_in, n_out) and ``"0.bias"`` (n_out,)."""
        return _views(self._built().parameters, self._theta)

    def named_buffers(self) -> dict[str, NDArray[Any]]:
        """Views of what is estimated, not learned: batch normalisation's running means and variances."""
        return _views(self._built().buffers, self._running)

    def set_parameters(self, values: Mapping[str, ArrayLike]) -> None:
        """Write parameters or buffers by name; those not named keep their values.

        Parameters
        ----------
        values : mapping of str to array
            Shapes as in ``named_parameters`` and ``named_buffers``; finite.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"values must be a dict of names to arrays, got {_checks.describe(values)}")
        known = self.named_parameters() | self.named_buffers()
        checked = {}
        for name, value in values.items():
            view = known[_checks.choice("values", name, known)]
            array = _checks.real_array(f"values[{name!r}]", value)
            if array.shape != view.shape:
                raise ValueError(f"values[{name!r}] must have shape {view.shape}, got {array.shape}")
            # A copy: it may be a view of these very parameters, as when two layers are swapped.
            checked[name] = _checks.cast(f"values[{name!r}]", array, self.dtype, finite=True).copy()
        for name, array in checked.items():
            known[name][...] = array

    def copy(self) -> Self:
        """An independent network with the same layers, parameters and random state."""
        return copy.deepcopy(self)

    def to(self, device: str) -> Self:
        """This network, computing on ``device``."""
        self.device = _checks.choice("device", device, _DEVICES)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # The engine holds addresses and workspaces of this process.
        return self.__dict__ | {"_engine": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # joblib hands large arrays to its workers as read-only memory maps.
        self._theta, self._running = (np.require(a, requirements="W") for a in (self._theta, self._running))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # Layers and plans never change: copies share them, and with them the machine code of a user's activations.
        memo |= {id(shared): shared for shared in (self.layers, self._plan)}
        made = object.__new__(type(self))
        memo[id(self)] = made
        made.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return made

    def summary(self) -> str:
        """A table of layers, output widths and numbers of parameters."""
        laid_out = self._built()
        lines = [("layer", "outputs", "parameters")]
        widths = {}
        from fastnn.layers import lower_all

        for each in lower_all(self.layers, laid_out.n_inputs, ""):
            widths[each.path.split(".")[0]] = each.n_out
        for i, layer in enumerate(self.layers):
            count = sum(e.size for e in laid_out.parameters if e.name.split(".")[0] == str(i))
            lines.append((f"{i} {type(layer).__name__}{_details(layer)}", str(widths[str(i)]), f"{count:,}"))
        lines.append(("total", str(laid_out.n_outputs), f"{laid_out.n_parameters:,}"))
        first, second, third = (max(len(line[k]) for line in lines) for k in range(3))
        rendered = [f"{a:<{first}}  {b:>{second}}  {c:>{third}}" for a, b, c in lines]
        rule = "-" * len(rendered[0])
        heading = f"Sequential: {laid_out.n_inputs} inputs, {self.dtype}"
        return "\n".join([heading, rendered[0], rule, *rendered[1:-1], rule, rendered[-1]])

    def __repr__(self) -> str:
        inside = ", ".join(f"{type(layer).__name__}{_details(layer)}" for layer in self.layers)
        return f"Sequential([{inside}], n_inputs={self.n_inputs}, seed={self.seed}, dtype={self.dtype.name!r})"

    # -- using --------------------------------------------------------------------------------------------------------

    def _input(self, X: Any, name: str = "X") -> NDArray[Any]:
        return _data.unlocked(_checks.matrix(name, X, self.dtype, n_columns=self._built().n_inputs))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The output layer's values.

        Parameters
        ----------
        X : array-like, (n, n_inputs)

        Returns
        -------
        ndarray, (n, n_outputs), of the network's dtype
        """
        x = self._input(X)
        return self._ready().predict(x)

    def predict_classes(self, X: ArrayLike) -> NDArray[np.int64]:
        """The index of the largest output, or for a single output whether it is above one half.

        A single linear output is a logit and compared with 0.

        Returns
        -------
        ndarray of int64, (n,)
        """
        values = self.predict(X)
        if values.shape[1] > 1:
            return values.argmax(axis=1).astype(np.int64)
        threshold = 0.0 if self._built().output_activation == "identity" else 0.5
        return (values[:, 0] > threshold).astype(np.int64)

    def evaluate(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss | None = None,
        metrics: str | Metric | Iterable[str | Metric] = ("accuracy",),
        sample_weight: ArrayLike | None = None,
    ) -> dict[str, float]:
        """Loss and metrics in inference mode.

        Parameters
        ----------
        X : array-like, (n, n_inputs)
        y : array-like
            Targets as for ``fit``.
        loss : str or Loss, optional
            Reported as ``"loss"``, without the layers' penalties; left out if None.
        metrics : names or functions of (y_true, y_pred, sample_weight)
        sample_weight : array-like, (n,), optional

        Returns
        -------
        dict of str to float
        """
        named = _data.resolve_metrics("metrics", metrics)
        chosen = None if loss is None else losses.get(loss)
        x = self._input(X)
        weights = _data.check_weights(sample_weight, x.shape[0], self.dtype)
        y = _data.check_targets(x, y)
        result: dict[str, float] = {}
        if chosen is not None:
            result["loss"] = self._ready().evaluate(self._objective(chosen, x, y, weights))
        if named:
            result |= _data.compute_metrics(named, y, self._ready().predict(x), weights)
        return result

    def _objective(self, loss: Loss, x: NDArray[Any], y: Any, weights: NDArray[Any], name: str = "y") -> Objective:
        return _data.make_objective(self._built(), loss, x, y, weights, name)

    def _question(self, X: Any, y: Any, loss: str | Loss, sample_weight: Any) -> Objective:
        """Checked input of the methods that differentiate."""
        chosen = losses.get(loss)
        check_trainable(self._built())
        x = self._input(X)
        y = _data.check_targets(x, y)
        return self._objective(chosen, x, y, _data.check_weights(sample_weight, x.shape[0], self.dtype))

    def loss_and_gradients(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss,
        sample_weight: ArrayLike | None = None,
        *,
        training: bool = False,
        seed: int = 0,
    ) -> tuple[float, dict[str, NDArray[Any]]]:
        """The mean loss over all rows and its gradient; changes nothing.

        Parameters
        ----------
        X : array-like, (n, n_inputs)
        y : array-like
        loss : str or Loss
        sample_weight : array-like, (n,), optional
        training : bool
            Use dropout and batch statistics, as a training step does; else inference mode.
        seed : int
            Of the dropout factors, if ``training``.

        Returns
        -------
        loss : float
            With the layers' l1 and l2 penalties: the gradient is the gradient of exactly this number.
        gradients : dict of str to ndarray
            Named and shaped like ``named_parameters()``.
        """
        objective = self._question(X, y, loss, sample_weight)
        value, gradient = self._ready().loss_and_gradients(objective, _checks.flag("training", training), _key(seed))
        return value, _views(self._built().parameters, gradient)

    def input_gradients(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss,
        sample_weight: ArrayLike | None = None,
        *,
        training: bool = False,
        seed: int = 0,
    ) -> NDArray[Any]:
        """dLoss/dX, (n, n_inputs), of the mean loss over all rows; arguments as for ``loss_and_gradients``."""
        objective = self._question(X, y, loss, sample_weight)
        return self._ready().input_gradients(objective, _checks.flag("training", training), _key(seed))

    def jacobian(self, X: ArrayLike) -> NDArray[Any]:
        """dOutput/dInput for every row, (n, n_outputs, n_inputs), exact, in inference mode."""
        check_trainable(self._built())
        return self._ready().jacobian(self._input(X))

    def hessian_vector_product(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss,
        v: ArrayLike,
        sample_weight: ArrayLike | None = None,
        *,
        training: bool = False,
        seed: int = 0,
    ) -> NDArray[Any]:
        """The second derivative of the mean loss times ``v``, exact, by forward-over-reverse differentiation.

        Parameters
        ----------
        X, y, loss, sample_weight, training, seed
            As for ``loss_and_gradients``.
        v : array-like, (n_parameters,)
            A direction in the layout of ``parameters``.

        Returns
        -------
        ndarray, (n_parameters,)

        References
        ----------
        Pearlmutter (1994), Neural Computation 6, 147-160.
        """
        objective = self._question(X, y, loss, sample_weight)
        _check_twice_differentiable(self._built(), objective)
        direction = _data.unlocked(_checks.vector("v", v, self.dtype, length=self.n_parameters))
        return self._ready().hessian_vector_product(
            objective, direction, _checks.flag("training", training), _key(seed)
        )

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss = "cross_entropy",
        optimizer: str | Optimizer = "adam",
        epochs: int = 10,
        batch_size: int | None = 32,
        validation_data: tuple[ArrayLike, ...] | None = None,
        validation_split: float = 0.0,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[int, float] | str | None = None,
        shuffle: bool = True,
        metrics: str | Metric | Iterable[str | Metric] = (),
        callbacks: Iterable[Any] | Callable[[Any], Any] = (),
        progress: bool | None = None,
        on_divergence: str = "raise",
    ) -> History:
        """Train by gradient descent on batches.

        Repeated calls go on where the last one stopped, the optimizer's state included if it is the same object or
        the same name.

        Parameters
        ----------
        X : array-like, (n, n_inputs)
            Lists, frames and arrays of any number type and memory order; finite.
        y : array-like
            Class labels (n,) or one-hot rows for the classification losses, (n,) or (n, n_outputs) numbers for the
            others.
        loss : str or Loss
            Softmax with cross-entropy, and sigmoid with binary cross-entropy, are computed together from the
            pre-activations; after a linear output these losses take logits.
        optimizer : str or Optimizer
        epochs : int
            Passes over the data, 0 or more.
        batch_size : int or None
            Rows a step; larger than n, or None: all rows. The last batch of an epoch may be short.
        validation_data : (X, y) or (X, y, sample_weight), optional
            Evaluated after each epoch in inference mode.
        validation_split : float
            In [0, 1): this share of the rows, the last ones, is held out as validation data.
        sample_weight : array-like, (n,), optional
            The loss of a batch is its weighted mean.
        class_weight : dict of int to float or "balanced", optional
            Multiplies the sample weights.
        shuffle : bool
            Take the rows in a fresh random order each epoch.
        metrics : names or functions of (y_true, y_pred, sample_weight)
            Computed after each epoch on the training data, and under ``val_...`` on the validation data.
        callbacks : callables or objects of ``fastnn.callbacks``
            Called after each epoch.
        progress : bool, optional
            A progress bar on standard error. None: where that is a terminal and training takes over a second.
        on_divergence : {"raise", "restore"}
            When the loss turns NaN or infinite, the parameters of the last finite epoch are restored; then
            `DivergenceError` is raised, or a warning given and training ended.

        Returns
        -------
        History
        """
        from fastnn.training import fit

        return fit(
            self, X, y, loss=loss, optimizer=optimizer, epochs=epochs, batch_size=batch_size,
            validation_data=validation_data, validation_split=validation_split, sample_weight=sample_weight,
            class_weight=class_weight, shuffle=shuffle, metrics=metrics, callbacks=callbacks, progress=progress,
            on_divergence=on_divergence,
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to one file in the safetensors format: parameters, buffers and specification.

        ``fastnn.load(path)`` reads it back.
        """
        from fastnn.io import native

        native.save(self, path)


def _check_twice_differentiable(laid_out: plan.Plan, objective: Objective) -> None:
    """A user's own functions may come without a second derivative."""
    for activation in laid_out.activations:
        if activation is not None and not activation.rowwise:
            activation.curvature_native  # noqa: B018 - raises where there is none
    if objective.resolved.tangent_native is None:
        raise ValueError("this loss was made without a second derivative, which a Hessian-vector product needs")


def _check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        checked = np.dtype(dtype)
    except (TypeError, ValueError):
        _checks.choice("dtype", dtype, _DTYPES)
        raise
    if dtype is None or checked.name not in _DTYPES or not checked.isnative:  # None would be NumPy's float64
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    return checked


def _start(entry: plan.Entry, rng: np.random.Generator, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Initial values of one array, flat."""
    assert entry.init is not None
    try:
        with np.errstate(over="ignore"):
            values = np.asarray(entry.init.init(entry.shape, rng, dtype))
        if values.shape != entry.shape:
            raise ValueError(f"must have shape {entry.shape}, got {values.shape}")
        _checks.check_finite("initial values", values)
    except ValueError as error:
        raise ValueError(f"initial values of {entry.name!r}: {error}") from error
    return values.ravel()


def _key(seed: int) -> int:
    checked = _checks.integer("seed", seed, low=0)
    return int(np.random.SeedSequence(checked).generate_state(1, np.uint64)[0])


def _views(entries: Iterable[plan.Entry], flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {e.name: flat[e.offset : e.offset + e.size].reshape(e.shape) for e in entries}


def _details(layer: Layer) -> str:
    """What tells two layers of one kind apart, in brackets."""
    parts = []
    for name in ("units", "activation", "rate"):
        value = getattr(layer, name, None)
        if value is not None:
            parts.append(str(getattr(value, "name", value)))
    inner = getattr(layer, "layers", None)
    if inner is not None:
        parts += [f"{type(each).__name__}{_details(each)}" for each in inner]
    return f"({', '.join(parts)})"


def check_trainable(laid_out: plan.Plan) -> None:
    """Refuse to differentiate through an activation without a useful derivative."""
    name = laid_out.untrainable
    if name is not None:
        raise ValueError(
            f"activation {name!r} has no useful derivative (it is zero wherever it exists), so gradients cannot pass "
            "it; set the weights by hand, use the perceptron rule, or choose an activation such as 'sigmoid'"
        )
