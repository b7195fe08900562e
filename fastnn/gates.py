"""Logic gates as neurons: five that one neuron computes, and XOR, which takes three.

>>> AND(1, 1), NAND(1, 1), NOT(1), XOR(1, 0)
(1, 0, 0, 1)
>>> print(learn(OR).report)
converged at epoch 4
>>> print(learn(XOR).report)
not linearly separable within 100 epochs
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastnn import _checks
from fastnn.layers import Dense
from fastnn.network import Sequential
from fastnn.neurons import McCullochPitts, Perceptron, combinations

__all__ = ["AND", "NAND", "NOR", "NOT", "OR", "XOR", "Circuit", "learn", "parity"]

AND = McCullochPitts([1, 1], threshold=1.5)
OR = McCullochPitts([1, 1], threshold=0.5)
NAND = McCullochPitts([-1, -1], threshold=-1.5)
NOR = McCullochPitts([-1, -1], threshold=-0.5)
NOT = McCullochPitts([-1], threshold=-0.5)


def _check_neuron(name: str, value: object) -> None:
    if not isinstance(value, McCullochPitts):
        raise TypeError(f"{name} must be a McCullochPitts neuron, got {_checks.describe(value)}")


class Circuit:
    """Two layers of neurons: all hidden ones see the inputs, one output neuron sees the hidden ones.

    Parameters
    ----------
    hidden : sequence of McCullochPitts
        With the same number of inputs.
    output : McCullochPitts
        With as many inputs as there are hidden neurons.

    Examples
    --------
    >>> equal = Circuit([AND, NOR], OR)
    >>> equal(0, 0), equal(0, 1)
    (1, 0)
    """

    def __init__(self, hidden: Sequence[McCullochPitts], output: McCullochPitts):
        if not isinstance(hidden, (list, tuple)) or not hidden:
            raise TypeError(f"hidden must be a list of McCullochPitts neurons, got {_checks.describe(hidden)}")
        for neuron in hidden:
            _check_neuron("hidden", neuron)
        if len({neuron.n_inputs for neuron in hidden}) > 1:
            raise ValueError(f"hidden must have one number of inputs, got {[neuron.n_inputs for neuron in hidden]}")
        _check_neuron("output", output)
        if output.n_inputs != len(hidden):
            raise ValueError(
                f"output must have {len(hidden)} inputs, one for each hidden neuron, got {output.n_inputs}"
            )
        self.hidden, self.output = tuple(hidden), output

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return self.hidden[0].n_inputs

    def __call__(self, *inputs: int) -> int:
        """The output for one sample, given as ``n_inputs`` numbers 0 or 1."""
        return self.output(*(neuron(*inputs) for neuron in self.hidden))

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """The outputs for rows of binary inputs, (n, n_inputs): 0 or 1, (n,)."""
        return self.output.predict(np.stack([neuron.predict(X) for neuron in self.hidden], axis=1))

    def truth_table(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All combinations of inputs, (2**n_inputs, n_inputs), and the outputs, (2**n_inputs,)."""
        x = combinations(self.n_inputs)
        return x, self.predict(x)

    def to_sequential(self) -> Sequential:
        """This circuit as a network with one hidden layer, both layers with the step activation."""
        network = Sequential([Dense(len(self.hidden), "step"), Dense(1, "step")], self.n_inputs, dtype="float64")
        network.set_parameters(
            {
                "0.weight": np.stack([neuron.weights for neuron in self.hidden], axis=1),
                "0.bias": [-neuron.threshold for neuron in self.hidden],
                "1.weight": self.output.weights[:, None],
                "1.bias": [-self.output.threshold],
            }
        )
        return network


XOR = Circuit([OR, NAND], AND)


def learn(gate: McCullochPitts | Circuit, learning_rate: float = 1.0, epochs: int = 100) -> Perceptron:
    """A perceptron, trained on a gate's truth table; its ``report`` says whether it learned it.

    Parameters
    ----------
    gate : McCullochPitts or Circuit
    learning_rate : float
    epochs : int
    """
    if not isinstance(gate, (McCullochPitts, Circuit)):
        raise TypeError(f"gate must be a McCullochPitts neuron or a Circuit, got {_checks.describe(gate)}")
    neuron = Perceptron(learning_rate)
    neuron.fit(*gate.truth_table(), epochs=epochs)
    return neuron


def parity(n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All rows of n zeros and ones, (2**n, n), and whether the number of ones is odd, (2**n,); XOR for n = 2."""
    x = combinations(_checks.integer("n", n, low=1, high=20))
    return x, x.sum(axis=1) % 2
