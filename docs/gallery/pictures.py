"""The pictures of this folder: a function's name is the file's, its docstring and body are text and code in README."""

import matplotlib.pyplot as plt
import numpy as np

import fastnn as fn
from fastnn import gates, plots
from fastnn.data import load_digits, two_spirals
from fastnn.neurons import LogisticNeuron, Perceptron


def step():
    """The step function

    It jumps from 0 to 1 at 0, where a neuron fires: the full dot is the value there, the hollow one the limit from the
    left. Its derivative is 0 wherever it exists, so gradient descent learns nothing through it.
    """
    plots.activation("step")


def activations():
    """Activations and their derivatives

    All element-wise ones. Dots mark jumps, as in the derivative of relu.
    """
    known = [fn.activations.get(name) for name in fn.activations.names()]
    elementwise = [each for each in known if each.definition.builtin and not each.rowwise]
    figure, axes = plt.subplots(6, 4, figsize=(9, 12), layout="constrained")
    for ax, each in zip(axes.flat, elementwise, strict=False):
        plots.activation(each, ax, low=-7, high=7).get_legend().remove()
        ax.set_xlabel("")
    figure.supxlabel("pre-activation $z$")
    axes.flat[-1].axis("off")
    axes.flat[-1].legend(*axes.flat[0].get_legend_handles_labels(), loc="center")


def logic_gates():
    """AND, OR, NAND and NOR

    One neuron each, with its decision boundary: it fires on the side where its output is 1.
    """
    plots.gates()


def xor():
    """XOR

    No line parts the zeros of XOR from its ones, so a perceptron never learns it. A hidden layer of two neurons, OR and
    NAND, draws two lines, and the AND behind them takes what lies between; a network finds such lines by itself.
    """
    X, y = gates.XOR.truth_table()
    perceptron = gates.learn(gates.XOR)
    network = fn.Sequential([fn.Dense(4, "tanh"), fn.Dense(1, "sigmoid")], seed=1)
    network.fit(X, y, "binary_cross_entropy", fn.Adam(0.05), epochs=400, batch_size=4)
    _, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 4), layout="constrained")
    plots.decision_regions(perceptron, X, y, left).set_title("Perceptron, 100 epochs")
    plots.gate(gates.XOR, middle).set_title("AND of OR and NAND")
    plots.decision_regions(network, X, y, right).set_title("Four hidden units, trained")


def neurons():
    """Perceptron and logistic neuron

    Two classes that overlap. The perceptron keeps the best line it met; the logistic neuron gives each point a
    probability.
    """
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    X = rng.standard_normal((120, 2)) + np.where(y[:, None], [1.2, 0.8], [-1.2, -0.8])
    perceptron = Perceptron(variant="pocket", shuffle=True)
    perceptron.fit(X, y)
    _, (left, right) = plt.subplots(1, 2, figsize=(9.5, 4.3), layout="constrained")
    plots.decision_regions(perceptron, X, y, left).set_title("Perceptron")
    plots.decision_regions(LogisticNeuron().fit(X, y), X, y, right).set_title("Logistic neuron")


def classes():
    """Four classes

    A network with one hidden layer and softmax: each region is the darker the larger the probability of its class.
    """
    rng = np.random.default_rng(0)
    y = np.arange(240) % 4
    X = np.array([[0, 0], [3, 1], [1, 3.5], [-2.5, 2.5]])[y] + 0.8 * rng.standard_normal((240, 2))
    network = fn.Sequential([fn.Dense(16, "tanh"), fn.Dense(4, "softmax")], seed=0)
    network.fit(X, y, epochs=100)
    plots.decision_regions(network, X, y)


def spirals():
    """Two spirals

    Two hidden layers bend the plane often enough to tell them apart.
    """
    X, y = two_spirals(97, turns=2.0)
    network = fn.Sequential([fn.Dense(32, "relu"), fn.Dense(32, "relu"), fn.Dense(1, "sigmoid")], seed=0)
    network.fit(X, y, "binary_cross_entropy", fn.Adam(0.01), epochs=600, batch_size=32)
    plots.decision_regions(network, X, y)


def loss_curves():
    """Loss curves

    Handwritten digits. The training loss goes on falling, the validation loss does not: the network begins to overfit.
    """
    X, y = load_digits()
    network = fn.Sequential([fn.Dense(64, "relu"), fn.Dense(10, "softmax")], seed=0)
    history = network.fit(X / 16, y, epochs=60, validation_split=0.3)
    history.plot().set_yscale("log")


def small_network():
    """A network and its weights

    It has learned XOR. The wider a line, the larger the weight.
    """
    X, y = gates.XOR.truth_table()
    network = fn.Sequential([fn.Dense(4, "tanh"), fn.Dense(1, "sigmoid")], seed=1)
    network.fit(X, y, "binary_cross_entropy", fn.Adam(0.05), epochs=400, batch_size=4)
    plots.network(network)


def wide_network():
    """A wide network

    Of a layer with more than ten units the first and the last five are drawn, and the weights between those.
    """
    layers = [fn.Dense(32, "relu"), fn.Dropout(0.2), fn.Dense(16, "relu"), fn.Dense(10, "softmax")]
    plots.network(fn.Sequential(layers, n_inputs=64, seed=0))


def vanishing_gradients():
    """Vanishing gradients

    The gradients of two networks with ten layers before training. Through sigmoids they become smaller from layer to
    layer on their way back to the input, through relu they do not.
    """
    X, y = two_spirals(97)
    ax = None
    for name in ("sigmoid", "relu"):
        hidden = [fn.Dense(32, name) for _ in range(9)]
        network = fn.Sequential([*hidden, fn.Dense(1, "sigmoid")], n_inputs=2, seed=0)
        ax = plots.gradient_norms(network, X, y, "binary_cross_entropy", ax, label=name)
