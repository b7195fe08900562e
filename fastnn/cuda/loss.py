"""The loss of some samples and its gradient, from the scalar sources of the table.

References: as in `fastnn.losses`, whose formulas these are.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from fastnn import _rows as row
from fastnn.cuda._jit import device
from fastnn.cuda.intrinsics import load, store
from fastnn.cuda.product import AnyShape
from fastnn.cuda.rowwise import LANES, row_largest, row_sum
from fastnn.cuda.scalars import compiled, exp, log
from fastnn.losses._base import Formula, RowLoops


class Targets(NamedTuple):
    """Training data beside X; T is the network's dtype."""

    y: Any  # T, (samples, columns)
    columns: Any
    labels: Any  # whether y holds class numbers
    weights: Any  # T, of the samples; one number where there are none
    weighted: Any
    order: Any  # int64, the samples in the order in which they are taken; one number where that is their own
    ordered: Any


@device
def sample_of(targets, at):
    """The index of the sample that comes at this place of the order."""
    return load(targets.order, at) if targets.ordered else at


@cache
def make_loss(T: Any, shape: AnyShape, source: Formula | RowLoops) -> Any:
    """``loss(f, q, targets, first, numbers, scale)`` for blocks of this shape.

    ``q`` is the last row of the plan, whose outputs (or pre-activations) are compared with the targets from place
    ``first`` of the order on; ``numbers`` is where in ``reals`` the loss's four parameters begin. Writes dLoss/d output
    times ``scale``, and returns this thread's share of the sum of the samples' losses.
    """
    return _elementwise(T, shape, source) if isinstance(source, Formula) else _softmax(T, shape, source)


def _elementwise(T, shape, source):
    value, gradient = compiled(source.value), compiled(source.gradient)
    at_once = shape.threads // LANES

    @device
    def loss(f, q, targets, first, numbers, scale):
        n, lane = load(f.table, q + row.N_OUT), f.t % LANES
        p0, p1 = load(f.reals, numbers), load(f.reals, numbers + 1)
        p2, p3 = load(f.reals, numbers + 2), load(f.reals, numbers + 3)
        mine = T(0)
        for i in range(f.part * at_once + f.t // LANES, f.rows, f.parts * at_once):
            out = f.at + load(f.table, q + row.OUT) + i * f.ld
            d = f.at + load(f.table, q + row.D_OUT) + i * f.ld
            sample = sample_of(targets, first + i)
            w = load(targets.weights, sample) if targets.weighted else T(1)
            share = w / T(n)
            for j in range(lane, n, LANES):
                o, y = load(f.space, out + j), load(targets.y, sample * targets.columns + j)
                if w != T(0):
                    mine += share * T(value(o, y, p0, p1, p2, p3))
                    store(f.space, d + j, scale * share * T(gradient(o, y, p0, p1, p2, p3)))
                else:
                    empty = T(0) if o == o else o
                    mine += empty
                    store(f.space, d + j, empty)
        return mine

    return loss


def _softmax(T, shape, source):
    term = compiled(source.term)
    at_once = shape.threads // LANES

    @device
    def target(targets, sample, j):
        y = load(targets.y, sample if targets.labels else sample * targets.columns + j)
        if targets.labels:
            return T(1) if y == T(j) else T(0)
        return y

    @device
    def loss(f, q, targets, first, numbers, scale):
        n, lane = load(f.table, q + row.N_OUT), f.t % LANES
        p0, p1 = load(f.reals, numbers), load(f.reals, numbers + 1)
        mine = T(0)
        for begin in range(f.part * at_once, f.rows, f.parts * at_once):
            i = begin + f.t // LANES
            inside = i < f.rows
            end, sample = n if inside else 0, sample_of(targets, first + i) if inside else 0
            out = f.at + load(f.table, q + row.OUT) + i * f.ld
            d = f.at + load(f.table, q + row.D_OUT) + i * f.ld
            w = load(targets.weights, sample) if targets.weighted and inside else T(1)
            largest = load(f.space, out) if inside else T(0)
            for j in range(lane, end, LANES):
                o = load(f.space, out + j)
                largest = o if o > largest else largest
            largest = row_largest(largest)
            total = T(0) if inside else T(1)
            for j in range(lane, end, LANES):
                total += exp(load(f.space, out + j) - largest)
            total = row_sum(total)
            shift = largest + log(total)
            inner = T(0)
            for j in range(lane, end, LANES):
                o = load(f.space, out + j)
                part, h = term(o - shift, target(targets, sample, j), T(n), p0, p1)
                inner += h
                mine += w * part if w != T(0) else (T(0) if o == o else o)
            inner = row_sum(inner)
            for j in range(lane, end, LANES):
                o = load(f.space, out + j)
                z = o - shift
                _, h = term(z, target(targets, sample, j), T(n), p0, p1)
                dj = scale * w * (h - exp(z) * inner)
                store(f.space, d + j, dj if w != T(0) else (T(0) if o == o else o))
        return mine

    return loss
