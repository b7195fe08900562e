"""fastnn's own format: a safetensors file whose metadata hold the specification as JSON.

The tensors are those of ``named_parameters`` and ``named_buffers`` under the same names and in their true shapes, so
any safetensors reader understands them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import _checks, activations, initializers, layers
from fastnn.activations import ActivationFunction
from fastnn.initializers import Initializer

if TYPE_CHECKING:
    from fastnn.network import Sequential

_FORMAT = "fastnn"
_VERSION = "1"
_LAYERS = {
    kind.__name__: kind
    for kind in (
        layers.Dense,
        layers.Activation,
        layers.Dropout,
        layers.BatchNorm,
        layers.LayerNorm,
        layers.Residual,
    )
}


def _describe(layer: layers.Layer) -> dict[str, Any]:
    if type(layer) not in _LAYERS.values():
        raise TypeError(f"layers of type {type(layer).__name__} cannot be saved: only {', '.join(_LAYERS)}")
    config: dict[str, Any] = {"type": type(layer).__name__}
    for field in dataclasses.fields(layer):  # type: ignore[arg-type]
        value = getattr(layer, field.name)
        if isinstance(value, ActivationFunction):
            value = {"name": value.name, "parameters": dict(value.parameters)}
        elif isinstance(value, Initializer):
            try:
                value = value.get_config()
                json.dumps(value)
            except TypeError:
                continue  # a user's array or function: the parameters themselves are in the file
        elif field.name == "layers":
            value = [_describe(each) for each in value]
        config[field.name] = value
    return config


def _restore(config: dict[str, Any]) -> layers.Layer:
    values = dict(config)
    kind = _LAYERS[_checks.choice("layer", values.pop("type"), _LAYERS)]
    for name, value in values.items():
        if name == "activation":
            activation = _restore_activation(value["name"])
            values[name] = activation.with_parameters(**value["parameters"]) if value["parameters"] else activation
        elif name in ("weight_init", "bias_init"):
            values[name] = _restore_initializer(value)
        elif name == "layers":
            values[name] = [_restore(each) for each in value]
    return kind(**values)


def _restore_activation(name: str) -> ActivationFunction:
    try:
        return activations.get(name)
    except ValueError as error:
        raise ValueError(f"{error}; make your own with fastnn.activations.from_functions before loading") from error


def _restore_initializer(config: dict[str, Any]) -> Initializer:
    try:
        return initializers.from_config(config)
    except ValueError:  # a user's class that is not known here: the parameters themselves are in the file
        return initializers.FromFunction(None, str(config["name"]))


def save(network: Sequential, path: str | os.PathLike[str]) -> None:
    """Write ``network`` to ``path``.

    Layers, parameters, running statistics and the random state are kept; an optimizer's state is not.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    from fastnn.network import Sequential

    if not isinstance(network, Sequential):
        raise TypeError(f"network must be a Sequential, got {_checks.describe(network)}")
    target = _checks.path("path", path)
    # safetensors writes wrong values for arrays that are not C-contiguous.
    arrays = network._named_arrays()
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    specification = {
        "layers": [_describe(layer) for layer in network.layers],
        "n_inputs": network.n_inputs,
        "seed": network.seed,
        "dtype": network.dtype.name,
        "steps": network._steps,
        "epochs": network._epochs,
        "shuffle": network._shuffle_rng.bit_generator.state,
    }
    metadata = {"format": _FORMAT, "version": _VERSION, "network": json.dumps(specification)}
    try:
        save_file(tensors, target, metadata=metadata)
    except SafetensorError as error:
        raise OSError(f"path: cannot write {target!r} ({error})") from error


def load(path: str | os.PathLike[str]) -> Sequential:
    """Read a network that ``Sequential.save`` wrote.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not in this format, or it names an activation that is not known here: make a user's own
        activation with ``from_functions`` first.

    Examples
    --------
    >>> import fastnn as fn, os, tempfile
    >>> net = fn.Sequential([fn.Dense(3, "tanh")], n_inputs=2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "net.safetensors")
    ...     net.save(path)
    ...     same = fn.load(path)
    >>> bool((same.parameters == net.parameters).all())
    True
    """
    from safetensors import SafetensorError, safe_open

    source = _checks.path("path", path)
    if not os.path.isfile(source):
        raise FileNotFoundError(f"path: there is no file {source!r}")
    try:
        with safe_open(source, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:  # TypeError: a dtype that NumPy does not have
        raise ValueError(f"path: {source!r} is not a safetensors file of a network ({error})") from error
    if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION:
        raise ValueError(
            f"path: {source!r} is a safetensors file without a fastnn network of version {_VERSION} in its metadata"
        )
    try:
        return _rebuild(json.loads(metadata["network"]), tensors)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"path: the network in {source!r} cannot be restored ({type(error).__name__}: {error})"
        ) from error


def _rebuild(spec: dict[str, Any], tensors: dict[str, np.ndarray]) -> Sequential:
    from fastnn.network import Sequential

    network = Sequential([_restore(config) for config in spec["layers"]], seed=spec["seed"], dtype=spec["dtype"])
    n_inputs = _checks.integer("n_inputs", spec["n_inputs"], low=1)
    # Not Sequential(n_inputs=...): initializers need not run, and a user's function is not in the file.
    laid_out = network._lay_out(n_inputs)
    network._take(laid_out, np.zeros(laid_out.n_parameters, network.dtype))
    expected = set(network._named_arrays())
    if expected != tensors.keys():
        lacking, unknown = sorted(expected - tensors.keys()), sorted(tensors.keys() - expected)
        raise ValueError(f"tensors that are missing: {lacking}, that are unknown: {unknown}")
    for name, tensor in tensors.items():
        if tensor.dtype != network.dtype:
            raise ValueError(f"tensor {name!r} must be of {network.dtype}, got {tensor.dtype}")
    network.set_parameters(tensors)
    network._steps = _checks.integer("steps", spec["steps"], low=0)
    network._epochs = _checks.integer("epochs", spec["epochs"], low=0)
    network._shuffle_rng.bit_generator.state = spec["shuffle"]
    return network
