"""The places of one sample's values: nothing that is still needed is overwritten, and no more memory is taken."""

import itertools

import numpy as np
import pytest

import fastnn as fn
from fastnn import _rows as row
from fastnn import plan

SAME_WIDTH = [fn.Activation("relu"), fn.Activation("identity"), fn.Dropout(0.1), fn.BatchNorm(), fn.LayerNorm()]


def laid_out(layers, n_inputs):
    return plan.build(layers, n_inputs, np.dtype("float32"))


def random_layers(rng, width, depth):
    """Some layers, and the width after them."""
    layers = []
    for _ in range(rng.integers(1, 5)):
        kind = rng.integers(len(SAME_WIDTH) + (2 if depth else 1))
        if kind < len(SAME_WIDTH):
            layers.append(SAME_WIDTH[kind])
        elif kind == len(SAME_WIDTH):
            width = int(rng.integers(1, 20))
            layers.append(fn.Dense(width, ["tanh", "softmax", None][rng.integers(3)]))
        else:
            inner, last = random_layers(rng, width, depth - 1)
            layers.append(fn.Residual(inner if last == width else [*inner, fn.Dense(width)]))
    return layers, width


def walk(network, unit=1):
    """Run the plan with marks for numbers: every row must find the marks that it is to read."""
    places = plan.sample_places(network, unit)
    memory = [None] * places.size
    value = {-1: -1}

    def put(at, name, n):
        assert 0 <= at <= places.size - n
        assert at % unit == 0
        memory[at : at + n] = [(name, j) for j in range(n)]

    def check(at, name, n):
        assert memory[at : at + n] == [(name, j) for j in range(n)]

    put(places.rows[0].input, -1, network.n_inputs)
    for r, (q, at) in enumerate(zip(network.table, places.rows, strict=True)):
        check(at.input, value[q[row.IN]], q[row.N_IN])
        if q[row.KIND] == row.ADD:
            check(at.skip, value[q[row.SKIP]], q[row.N_OUT])
        nothing = q[row.KIND] == row.ACTIVATION and q[row.ACT] == row.IDENTITY
        if nothing or q[row.KIND] in (row.SPLIT, row.DROPOUT):
            assert at.output == at.input
            value[q[row.OUT]] = value[q[row.IN]]
        else:
            inputs = set(range(at.input, at.input + q[row.N_IN]))
            target = set(range(at.output, at.output + q[row.N_OUT]))
            if q[row.KIND] == row.DENSE:
                assert not inputs & target
            elif inputs & target:
                assert at.output == at.input
            if q[row.KIND] == row.ADD and set(range(at.skip, at.skip + q[row.N_OUT])) & target:
                assert at.skip == at.output
            put(at.output, r, q[row.N_OUT])
            value[q[row.OUT]] = r
    return places.size


@pytest.mark.parametrize("unit", [1, 4])
@pytest.mark.parametrize("seed", range(300))
def test_every_row_finds_its_input(seed, unit):
    rng = np.random.default_rng(seed)
    n_inputs = int(rng.integers(1, 20))
    layers, _ = random_layers(rng, n_inputs, 3)
    walk(laid_out(layers, n_inputs), unit)


@pytest.mark.parametrize("widths", [(20, 64, 64, 1), (784, 128, 10), (3, 5, 9, 2, 2, 30), (1, 1)])
def test_a_plain_network_needs_its_two_widest_neighbours(widths):
    layers = []
    for units in widths[1:]:
        layers += [fn.Dense(units), fn.LayerNorm(), fn.Activation("relu"), fn.Dropout(0.1)]
    assert walk(laid_out(layers, widths[0])) == max(a + b for a, b in itertools.pairwise(widths))


def test_a_shortcut_is_kept_beside_two_layers():
    assert walk(laid_out([fn.Residual([fn.Dense(30), fn.Dense(40), fn.Dense(8)])], 8)) == 8 + 30 + 40


def test_what_only_changes_values_needs_no_second_place():
    assert walk(laid_out([fn.BatchNorm(), fn.Activation("tanh"), fn.Dropout(0.1), fn.LayerNorm()], 50)) == 50
    assert walk(laid_out([fn.Residual([fn.Activation("tanh")])], 50)) == 100
