"""fastnn's own format: a safetensors file whose metadata hold the specification as JSON.

The tensors are those of ``named_parameters`` and ``named_buffers`` under the same names and in their true shapes, so any
safetensors reader understands them.
"""

from __future__ import annotations

import dataclasses
import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from fastnn import activations, initializers, layers
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
    kind = _LAYERS[values.pop("type")]
    for name, value in values.items():
        if name == "activation":
            activation = activations.get(value["name"])
            values[name] = activation.with_parameters(**value["parameters"]) if value["parameters"] else activation
        elif name in ("weight_init", "bias_init"):
            values[name] = initializers.from_config(value)
        elif name == "layers":
            values[name] = [_restore(each) for each in value]
    return kind(**values)


def save(network: Sequential, path: str | os.PathLike[str]) -> None:
    """Write ``network`` to ``path``.

    Layers, parameters, running statistics and the random state are kept; an optimizer's state is not.
    """
    from safetensors.numpy import save_file

    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a path, got {path!r}")
    # safetensors writes wrong values for arrays that are not C-contiguous.
    arrays = network.named_parameters() | network.named_buffers()
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
    save_file(tensors, os.fspath(path), metadata=metadata)


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

    from fastnn.network import Sequential

    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must be a path, got {path!r}")
    if not os.path.exists(path):
        raise FileNotFoundError(f"path: there is no file {os.fspath(path)!r}")
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"path: {os.fspath(path)!r} is not a safetensors file ({error})") from error
    if metadata.get("format") != _FORMAT or metadata.get("version") != _VERSION:
        raise ValueError(
            f"path: {os.fspath(path)!r} is a safetensors file without a fastnn network of version {_VERSION} in its metadata"
        )
    spec = json.loads(metadata["network"])
    network = Sequential(
        [_restore(config) for config in spec["layers"]],
        n_inputs=spec["n_inputs"],
        seed=spec["seed"],
        dtype=spec["dtype"],
    )
    network.set_parameters(tensors)
    network._steps, network._epochs = spec["steps"], spec["epochs"]
    network._shuffle_rng.bit_generator.state = spec["shuffle"]
    return network
