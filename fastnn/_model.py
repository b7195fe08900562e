"""What a network is, apart from what it does: layers, plan, one vector of parameters with named views, random state."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastnn import _checks, plan
from fastnn.cpu import bf16
from fastnn.cpu.engine import Engine
from fastnn.layers import Layer, check_layers, lower_all

if TYPE_CHECKING:
    from fastnn.optimizers import Optimizer

_DTYPES = ("float32", "float64")
_DEVICES = ("cpu", "cuda")
_PRECISIONS = {"cpu": ("bf16",), "cuda": ("tf32", "bf16", "fp16")}


# Of a network, once it is made.
_FIXED = {name: f"make a new network with another {name}" for name in ("layers", "dtype", "seed")}
_FIXED["device"] = "use to()"


class Model:
    """The state of a network, and its views and copies."""

    def __init__(
        self,
        layers: Sequence[Layer],
        n_inputs: int | None,
        seed: int | None,
        dtype: DTypeLike,
        device: str,
        precision: str | None,
    ):
        self.layers = check_layers("layers", layers)
        n_inputs = _checks.integer("n_inputs", n_inputs, low=1, none=True)
        seed = _checks.integer("seed", seed, low=0, none=True)
        self.seed: int = int(np.random.SeedSequence().entropy) if seed is None else seed  # type: ignore[arg-type]
        self.dtype = check_dtype(dtype)
        self.device = check_device(device)
        self._precision = _check_precision(precision, self.dtype, self.device)
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
        self._engine: Any = None
        if n_inputs is not None:
            self._build(self._lay_out(n_inputs))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _FIXED and name in self.__dict__:
            raise AttributeError(f"{type(self).__name__}.{name} cannot be set: {_FIXED[name]}")
        object.__setattr__(self, name, value)

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

    def _ready(self) -> Any:
        """The engine of the network's device. On the CPU it works on ``_theta`` and ``_running`` themselves.

        On a GPU it holds what is true, from when it is made on, and these two are copies that `_pull` makes new.
        """
        if self._engine is None and self.device == "cuda":
            from fastnn.cuda import engine

            self._engine = engine.Engine(self._built(), self._theta, self._running, self._precision)
        elif self._engine is None:
            self._engine = self._cpu_engine()
        return self._engine

    def _cpu_engine(self) -> Engine:
        return Engine(self._built(), self._theta, self._running, self._precision)

    def _on_cpu(self) -> Engine:
        """An engine on the CPU, for what is computed there alone; of a network on a GPU it holds a copy."""
        if self.device == "cpu":
            ready: Engine = self._ready()
            return ready
        self._pull()
        return Engine(self._built(), self._theta.copy(), self._running.copy())

    def _pull(self) -> None:
        """Make ``_theta`` and ``_running`` what the network's parameters and statistics are."""
        if self.device != "cpu" and self._engine is not None:
            self._engine.pull(self._theta, self._running)

    def _push(self) -> None:
        """Make the network's parameters and statistics what ``_theta`` and ``_running`` are."""
        if self.device != "cpu" and self._engine is not None:
            self._engine.push(self._theta, self._running)

    @property
    def n_inputs(self) -> int | None:
        """Number of input features, None while unknown."""
        return None if self._plan is None else self._plan.n_inputs

    @property
    def n_outputs(self) -> int | None:
        """Number of outputs, None while ``n_inputs`` is unknown."""
        return None if self._plan is None else self._plan.n_outputs

    @property
    def parameters(self) -> NDArray[Any]:
        """All parameters as one vector, (n_parameters,): a view, so writing to it changes the network.

        Of a network on a GPU it is an array of that device (with ``__cuda_array_interface__``), and so are the views of
        ``named_parameters`` and ``named_buffers``; ``copy_to_host`` copies them to NumPy.
        """
        self._built()
        return self._theta if self.device == "cpu" else self._ready().parameters

    @property
    def n_parameters(self) -> int:
        """Number of learned numbers."""
        return self._built().n_parameters

    def named_parameters(self) -> dict[str, NDArray[Any]]:
        """Views of the parameters under names such as ``"0.weight"`` (n_in, n_out) and ``"0.bias"`` (n_out,)."""
        return views(self._built().parameters, self.parameters)

    def named_buffers(self) -> dict[str, NDArray[Any]]:
        """Views of what is estimated, not learned: batch normalisation's running means and variances."""
        return views(self._built().buffers, self._running if self.device == "cpu" else self._ready().running)

    def _named_arrays(self) -> dict[str, NDArray[Any]]:
        """Views of parameters and buffers on the host, as they are now."""
        laid_out = self._built()
        self._pull()
        return views(laid_out.parameters, self._theta) | views(laid_out.buffers, self._running)

    def set_parameters(self, values: Mapping[str, ArrayLike]) -> None:
        """Write parameters or buffers by name; those not named keep their values.

        Parameters
        ----------
        values : mapping of str to array
            Shapes as in ``named_parameters`` and ``named_buffers``; finite.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"values must be a dict of names to arrays, got {_checks.describe(values)}")
        known = self._named_arrays()
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
        self._push()

    def copy(self) -> Self:
        """An independent network with the same layers, parameters and random state."""
        return copy.deepcopy(self)

    @property
    def precision(self) -> str | None:
        """Precision of the operands of matrix products, or None: that of ``dtype``. May be set."""
        return self._precision

    @precision.setter
    def precision(self, value: str | None) -> None:
        self._precision = _check_precision(value, self.dtype, self.device)
        self._pull()
        self._engine = None

    def to(self, device: str) -> Self:
        """This network, computing on ``device`` from now on.

        Parameters
        ----------
        device : {"cpu", "cuda"}
            "cuda": the NVIDIA GPU that is current when the network first computes there, and has to be current
            whenever it does (else RuntimeError); needs the extra ``cuda`` or ``cuda12``.

        Raises
        ------
        ValueError
            Another name, or what "cuda" needs is missing: the message says what, and how to get it. Or ``precision`` is
            one that this device does not know.
        """
        checked = check_device(device)
        if checked != self.device:
            try:
                _check_precision(self._precision, self.dtype, checked)
            except ValueError as error:
                raise ValueError(f"device {checked!r} needs another precision, None for example: {error}") from error
            self._pull()
            self.__dict__["device"], self._engine = checked, None
        return self

    def __getstate__(self) -> dict[str, Any]:
        # The engine holds addresses and workspaces of this process.
        self._pull()
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


def check_trainable(laid_out: plan.Plan) -> None:
    """Refuse to differentiate through an activation without a useful derivative."""
    name = laid_out.untrainable
    if name is not None:
        raise ValueError(
            f"activation {name!r} has no useful derivative (it is zero wherever it exists), so gradients cannot pass "
            "it; set the weights by hand, use the perceptron rule, or choose an activation such as 'sigmoid'"
        )


def check_device(device: str) -> str:
    """A device that is there."""
    checked: str = _checks.choice("device", device, _DEVICES)
    if checked == "cuda":
        try:
            from fastnn.cuda.engine import missing
        except ImportError as error:
            raise ValueError(f"device 'cuda' cannot be used: {error}") from error
        lack = missing()
        if lack is not None:
            raise ValueError(f"device 'cuda' cannot be used: {lack}")
    return checked


def check_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        checked = np.dtype(dtype)
    except (TypeError, ValueError):
        _checks.choice("dtype", dtype, _DTYPES)
        raise
    if dtype is None or checked.name not in _DTYPES or not checked.isnative:  # None would be NumPy's float64
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    return checked


def _check_precision(precision: str | None, dtype: np.dtype[Any], device: str) -> str | None:
    if precision is None:
        return None
    checked: str = _checks.choice("precision", precision, _PRECISIONS[device])
    if dtype != np.float32:
        raise ValueError(f"precision {checked!r} needs dtype 'float32', got {dtype.name!r}")
    lack = bf16.missing() if device == "cpu" else _lacking()
    if lack is not None:
        raise ValueError(f"precision {checked!r} needs {lack}")
    return checked


def _lacking() -> str | None:
    from fastnn.cuda import engine

    return engine.lacking()


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


def views(entries: Iterable[plan.Entry], flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Named views of a flat vector, in their true shapes."""
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
