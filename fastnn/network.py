"""``Sequential``: what a network does."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastnn import _checks, _compiled, _data, losses, plan
from fastnn._data import Metric
from fastnn._model import Model, check_trainable, views
from fastnn._objective import Objective
from fastnn.cpu import team
from fastnn.cpu.engine import FEW_ROWS
from fastnn.cpu.state import JitState
from fastnn.layers import Layer
from fastnn.losses import Loss

if TYPE_CHECKING:
    from fastnn.optimizers import Optimizer
    from fastnn.training import History


class Sequential(Model):
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
    device : {"cpu", "cuda"}
        Where the network computes: "cuda" is the current NVIDIA GPU; needs the extra ``cuda`` or ``cuda12``. ``to``
        moves it.
    precision : {None, "tf32", "bf16", "fp16"}
        Matrix products round their operands to it (11, 8 or 11 bits of precision) and add up in float32; parameters,
        gradients and the optimizer stay in float32. On the CPU "bf16" only, which takes one with AVX512_BF16 and is
        about 1.5 times as fast for wide layers; on a GPU all three, by its tensor cores. Not written to files.

    Attributes
    ----------
    layers : tuple of Layer
    n_inputs : int or None
    n_outputs : int or None
    seed : int
    dtype : numpy.dtype
    device : str
    precision : str or None

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
        precision: str | None = None,
    ):
        super().__init__(layers, n_inputs, seed, dtype, device, precision)

    def predict(self, X: ArrayLike, n_threads: int | None = None) -> NDArray[Any]:
        """The output layer's values.

        Parameters
        ----------
        X : array-like, (n, n_inputs)
        n_threads : int, optional
            At most so many threads share the rows, where that is faster; they leave no trace in the values. None:
            ``FASTNN_NUM_THREADS`` if it is set, else all cores that the process may use.

        Returns
        -------
        ndarray, (n, n_outputs), of the network's dtype
        """
        alone = self.device == "cpu" and (n_threads is None or (type(n_threads) is int and n_threads > 0))
        if alone and type(X) is np.ndarray and X.ndim == 2 and 0 < X.shape[0] <= FEW_ROWS:
            right = X.dtype == self.dtype and X.flags.carray and X.shape[1] == self.n_inputs
            if right and (few := self._ready().predict_few(X)) is not None:
                return few
        threads = team.most_threads(n_threads)
        x = _data.check_inputs("X", X, self.dtype, self._built().n_inputs, self.device)
        return _data.returned(self._ready().predict(x, threads), X)

    def predict_classes(self, X: ArrayLike, n_threads: int | None = None) -> NDArray[np.int64]:
        """The index of the largest output, or for a single output whether it is above a threshold.

        The threshold is 0 for outputs that stand for two signs (no activation, tanh, hard_tanh, softsign, sine): a
        single linear output is a logit, a single tanh output stands for -1 or 1. For all others, such as sigmoid, it is
        one half. ``evaluate`` and ``fit`` count with the same threshold.

        Returns
        -------
        ndarray of int64, (n,)
        """
        values = _data.on_host(self.predict(X, n_threads))
        if values.shape[1] > 1:
            return values.argmax(axis=1).astype(np.int64)
        return (values[:, 0] > _data.threshold(self._built())).astype(np.int64)

    def evaluate(
        self,
        X: ArrayLike,
        y: ArrayLike,
        loss: str | Loss | None = None,
        metrics: str | Metric | Iterable[str | Metric] | None = None,
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
        metrics : names or functions of (y_true, y_pred, sample_weight), optional
            None: the accuracy, or nothing where ``loss`` is one of regression or compares several labels of a row.
        sample_weight : array-like, (n,), optional

        Returns
        -------
        dict of str to float
        """
        chosen = None if loss is None else losses.get(loss)
        x, y, weights = self._rows(X, y, sample_weight)
        if metrics is None:
            metrics = _data.default_metrics(chosen, y, self._built().n_outputs)
        named = _data.resolve_metrics("metrics", metrics)
        result: dict[str, float] = {}
        if chosen is not None:
            result["loss"] = self._ready().evaluate(_data.make_objective(self._built(), chosen, x, y, weights))
        if named:
            result |= _data.compute_metrics(
                self._built(), named, y, self._ready().predict(x, team.most_threads(None)), weights
            )
        return result

    def _rows(self, X: Any, y: Any, sample_weight: Any, device: str | None = None) -> tuple[Any, Any, Any]:
        return _data.check_rows(X, y, sample_weight, self.dtype, self._built().n_inputs, device or self.device)

    def _question(self, X: Any, y: Any, loss: str | Loss, sample_weight: Any, device: str | None = None) -> Objective:
        """Checked input of the methods that differentiate."""
        chosen = losses.get(loss)
        check_trainable(self._built())
        return _data.make_objective(self._built(), chosen, *self._rows(X, y, sample_weight, device))

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
        return value, views(self._built().parameters, gradient)

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
        found = self._ready().input_gradients(objective, _checks.flag("training", training), _key(seed))
        return _data.returned(found, X)

    def jacobian(self, X: ArrayLike) -> NDArray[Any]:
        """dOutput/dInput for every row, (n, n_outputs, n_inputs), exact, in inference mode."""
        check_trainable(self._built())
        return self._on_cpu().jacobian(_data.check_inputs("X", X, self.dtype, self._built().n_inputs, "cpu"))

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
        objective = self._question(X, y, loss, sample_weight, "cpu")
        _check_twice_differentiable(self._built(), objective)
        direction = _data.unlocked(_checks.vector("v", v, self.dtype, length=self.n_parameters))
        return self._on_cpu().hessian_vector_product(
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
        n_threads: int | None = None,
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
        n_threads : int, optional
            At most so many threads share a step, where steps measured beside each other are faster so. The result does
            not depend on it, to the last bit. None: ``FASTNN_NUM_THREADS`` if it is set, else all cores that the
            process may use. Networks with batch normalisation, and L-BFGS, use one.

        Returns
        -------
        History
        """
        from fastnn.training import fit

        return fit(
            self, X, y, loss=loss, optimizer=optimizer, epochs=epochs, batch_size=batch_size,
            validation_data=validation_data, validation_split=validation_split, sample_weight=sample_weight,
            class_weight=class_weight, shuffle=shuffle, metrics=metrics, callbacks=callbacks, progress=progress,
            on_divergence=on_divergence, n_threads=n_threads,
        )  # fmt: skip

    def jit_state(
        self, optimizer: str | Optimizer | None = None, loss: str | Loss | None = None, batch_size: int = 32
    ) -> JitState:
        """A copy of this network for the user's own compiled code; see `fastnn.jit`.

        Parameters
        ----------
        optimizer : str or Optimizer, optional
            For `fastnn.jit.train_step`; its state is copied. With a fixed learning rate, which
            `fastnn.jit.set_learning_rate` changes.
        loss : str or Loss, optional
            Given if and only if there is an optimizer.
        batch_size : int
            Most rows of a training step.

        Returns
        -------
        JitState
            Three arrays, good for this process. ``load_jit_state`` takes what it has learned back.
        """
        return _compiled.jit_state(self, optimizer, loss, batch_size)

    def load_jit_state(self, jit_state: JitState, optimizer: Optimizer | None = None) -> None:
        """Take parameters, running statistics and the number of steps from a state made of a network like this.

        Parameters
        ----------
        jit_state : JitState
        optimizer : Optimizer, optional
            Takes the moments and step count of the state's optimizer, of the same kind.
        """
        _compiled.load_jit_state(self, jit_state, optimizer)

    def specialize(self, dtype: DTypeLike | None = None, batch: int | None = None) -> Any:
        """This network as a function for the user's compiled code, its sizes and weights frozen into the instructions.

        Some three times as fast as `fastnn.jit.predict`. It is compiled at its first call, in 0.2 s for a few thousand
        weights, and later changes of the network do not reach it.

        Parameters
        ----------
        dtype : {"float32", "float64"}, optional
            Of weights and computation; None: the network's.
        batch : int, optional
            Rows of each x. None: x is one sample.

        Returns
        -------
        function
            ``f(x)`` returns an array, ``f(x, out)`` writes to ``out`` and returns it; x is (n_inputs,) and ``out``
            (n_outputs,), or (batch, n_inputs) and (batch, n_outputs). They may be the same memory. Callable from
            ``@njit`` functions and from Python. Arrays that are C-contiguous and of this dtype are not copied, and with
            ``out`` nothing is allocated. Values are those of ``predict`` but for the order in which sums are taken.
            Numba does not cache functions that call f, because they hold these weights.

        Examples
        --------
        >>> import numpy as np, fastnn as fn
        >>> net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(1)], n_inputs=2, seed=0)
        >>> f = net.specialize()
        >>> x = np.array([0.5, -1.0], "float32")
        >>> bool(abs(f(x) - net.predict([x])[0]) < 1e-6)
        True
        """
        return _compiled.specialize(self, dtype, batch)

    def cfunc(self, dtype: DTypeLike | None = None, signature: str = "void (const T *, T *)") -> Any:
        """This network as a C function, its sizes and weights frozen in, for ctypes, cffi, SciPy and any C code.

        Parameters
        ----------
        dtype : {"float32", "float64"}, optional
            Of the frozen weights and of the computation; None: the network's.
        signature : str
            ``"void (const T *, T *)"``: reads n_inputs numbers and writes n_outputs, both of ``dtype``. For one output
            also ``"double (int, double *)"``, what ``scipy.integrate.quad`` and ``nquad`` take, and
            ``"int (double *, npy_intp, double *, void *)"``, what ``scipy.ndimage.generic_filter`` takes.

        Returns
        -------
        ctypes function
            ``scipy.LowLevelCallable`` takes it as it is; ``address`` is an int, valid as long as this object lives.

        Examples
        --------
        >>> import ctypes, numpy as np, fastnn as fn
        >>> net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(1)], n_inputs=2, seed=0)
        >>> f = net.cfunc()
        >>> x, out = np.array([0.5, -1.0], "float32"), np.zeros(1, "float32")
        >>> f(*(np.ctypeslib.as_ctypes(a) for a in (x, out)))
        >>> bool(abs(out - net.predict([x])[0]) < 1e-6)
        True
        """
        return _compiled.c_pointer(self, dtype, signature)

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


def _key(seed: int) -> int:
    checked = _checks.integer("seed", seed, low=0)
    return int(np.random.SeedSequence(checked).generate_state(1, np.uint64)[0])
