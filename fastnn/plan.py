"""From layers to a plan: the only place that computes offsets.

Parameters lie in one vector without gaps, layer after layer, weights (row-major) before biases, so that
``parameters.size`` is the number of parameters. Activations lie in slots of a workspace, whose rows are padded to whole
vectors where they are wide enough for that to pay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn.activations import ActivationFunction
from fastnn.layers import Layer, Parameter, Row, lower_all

# One cache line; slots start on such a boundary.
_ALIGN_BYTES = 64


@dataclass(frozen=True)
class Entry:
    """Where one named array lies in a flat vector."""

    name: str
    offset: int
    shape: tuple[int, ...]
    init: Parameter | None = None

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Plan:
    """Everything that the engines need to know of an architecture.

    Attributes
    ----------
    table : ndarray of int64, (n_rows, WIDTH)
        The rows, their addresses still 0: an engine fills in those it needs.
    reals : ndarray of float64
        Rates, momenta, activation parameters and penalties.
    activations : tuple
        The activation at the end of each row, or None.
    parameters, buffers : tuple of Entry
        Learned arrays, and running statistics.
    space_width : int
        Elements of workspace for each row of a piece.
    shared_size : int
        Elements of workspace that do not depend on the piece.
    whole_batch : bool
        Batch statistics are needed: a training batch is one piece.
    """

    n_inputs: int
    n_outputs: int
    table: np.ndarray
    reals: np.ndarray
    activations: tuple[ActivationFunction | None, ...]
    parameters: tuple[Entry, ...]
    buffers: tuple[Entry, ...]
    space_width: int
    shared_size: int
    whole_batch: bool

    @property
    def n_parameters(self) -> int:
        return sum(entry.size for entry in self.parameters)

    @property
    def n_buffers(self) -> int:
        return sum(entry.size for entry in self.buffers)

    @property
    def output_activation(self) -> str:
        """Name of the activation that the outputs went through, "identity" where there is none."""
        last = self.activations[-1]
        return last.name if last is not None else "identity"

    @property
    def untrainable(self) -> str | None:
        """Name of an activation without a useful derivative, if there is one."""
        for activation in self.activations:
            if activation is not None and not activation.trainable:
                return activation.name
        return None


def _merge(rows: list[Row]) -> list[Row]:
    """Give an activation to the linear Dense row before it, whose product then applies it."""
    merged: list[Row] = []
    for each in rows:
        before = merged[-1] if merged else None
        linear = before is not None and before.activation is not None and before.activation.name == "identity"
        if each.kind == row.ACTIVATION and before is not None and before.kind == row.DENSE and linear:
            before.activation = each.activation
        else:
            merged.append(each)
    return merged


def _activation_code(activation: ActivationFunction | None, standalone: bool) -> int:
    if activation is None or activation.name == "identity":
        return row.IDENTITY
    if activation.rowwise:
        return row.ROWWISE
    return row.RELU if activation.gate and not standalone else row.ELEMENTWISE


class _Layout:
    """Hands out offsets."""

    def __init__(self, itemsize: int):
        self._lanes = _ALIGN_BYTES // itemsize
        self.space = 0
        self.shared = 0
        self.theta = 0
        self.running = 0
        self.reals: list[float] = [0.0, 0.0]  # row.SHARED_PENALTY
        self.parameters: list[Entry] = []
        self.buffers: list[Entry] = []

    def leading(self, width: int) -> int:
        """Row length of a slot: whole cache lines where padding costs little."""
        return width if width <= self._lanes else self._pad(width)

    def _pad(self, size: int) -> int:
        return -(-size // self._lanes) * self._lanes

    def slot(self, leading: int) -> int:
        offset = self.space
        self.space += self._pad(leading)
        return offset

    def shared_block(self, size: int) -> int:
        offset = self.shared
        self.shared += self._pad(size)
        return offset

    def parameter(self, parameter: Parameter) -> int:
        entry = Entry(parameter.name, self.theta, parameter.shape, parameter)
        self.parameters.append(entry)
        self.theta += entry.size
        return entry.offset

    def buffer(self, name: str, size: int) -> int:
        entry = Entry(name, self.running, (size,))
        self.buffers.append(entry)
        self.running += size
        return entry.offset

    def numbers(self, values: Sequence[float]) -> int:
        offset = len(self.reals)
        self.reals += values
        return offset


def _place(each: Row, q: np.ndarray, layout: _Layout, before: np.ndarray | None, places: dict[int, np.ndarray]) -> None:
    """Fill in one row of the table, given the row before it."""
    ld_out = layout.leading(each.n_out)
    q[row.KIND], q[row.N_IN], q[row.N_OUT], q[row.LD_OUT] = each.kind, each.n_in, each.n_out, ld_out
    q[row.LD_IN] = layout.leading(each.n_in)
    q[row.IN] = -1 if before is None else before[row.OUT]
    q[row.D_IN] = -1 if before is None else before[row.D_OUT]
    q[row.D_OUT] = layout.slot(ld_out)
    q[row.ACT] = _activation_code(each.activation, each.kind == row.ACTIVATION)
    q[[row.B, row.PENALTY, row.SLOPE, row.EPILOGUE_SLOT, row.RUNNING]] = -1
    if each.kind == row.SPLIT:
        q[row.OUT] = q[row.IN]
    else:
        q[row.OUT] = layout.slot(ld_out)
    if each.kind in (row.DROPOUT, row.BATCH_NORM, row.LAYER_NORM) or q[row.ACT] == row.ELEMENTWISE:
        q[row.SLOPE] = layout.slot(ld_out)
    q[row.NEEDS_D_IN] = layout.theta > 0
    if each.weight is not None:
        q[row.W] = layout.parameter(each.weight)
    if each.bias is not None:
        q[row.B] = layout.parameter(each.bias)
    numbers = each.reals
    if each.activation is not None and q[row.ACT] >= row.ELEMENTWISE:
        numbers = each.activation.parameter_values
    q[row.REALS] = layout.numbers(numbers)
    if each.penalty is not None:
        q[row.PENALTY] = layout.numbers(each.penalty)
    if each.kind == row.BATCH_NORM:
        q[row.RUNNING] = layout.buffer(f"{each.path}.running_mean", each.n_out)
        layout.buffer(f"{each.path}.running_var", each.n_out)
        q[row.STATISTICS] = layout.shared_block(each.n_out)
    elif each.kind == row.LAYER_NORM:
        q[row.STATISTICS] = layout.slot(1)
    elif each.kind == row.ADD:
        split = places[id(each.partner)]
        q[row.SKIP] = split[row.OUT]
        split[row.SKIP] = q[row.D_OUT]
    if before is not None and each.kind == row.DENSE and before[row.ACT] in (row.RELU, row.ELEMENTWISE):
        # This row's product for dLoss/d input can apply the slope of the row before as it stores.
        relu = before[row.ACT] == row.RELU
        q[row.EPILOGUE] = row.GATE if relu else row.SCALE
        q[row.EPILOGUE_SLOT] = before[row.OUT] if relu else before[row.SLOPE]
        before[row.SLOPE_DONE] = 1
    places[id(each)] = q


def build(layers: Sequence[Layer], n_inputs: int, dtype: np.dtype) -> Plan:
    """Lay out a network.

    Parameters
    ----------
    layers : sequence of Layer
    n_inputs : int
    dtype : numpy.dtype
        float32 or float64; decides the padding of slots.
    """
    rows = _merge(lower_all(layers, n_inputs, ""))
    layout = _Layout(dtype.itemsize)
    table = np.zeros((len(rows), row.WIDTH), np.int64)
    places: dict[int, np.ndarray] = {}
    for i, each in enumerate(rows):
        _place(each, table[i], layout, table[i - 1] if i else None, places)
    return Plan(
        n_inputs=n_inputs,
        n_outputs=rows[-1].n_out,
        table=table,
        reals=np.array(layout.reals),
        activations=tuple(each.activation for each in rows),
        parameters=tuple(layout.parameters),
        buffers=tuple(layout.buffers),
        space_width=layout.space,
        shared_size=layout.shared,
        whole_batch=any(each.kind == row.BATCH_NORM for each in rows),
    )


class RowPlaces(NamedTuple):
    """Where a row finds its input and its shortcut, and where it writes: offsets among the values of one sample."""

    input: int
    skip: int  # of an ADD; else its input
    output: int


class SamplePlaces(NamedTuple):
    """A layout for one sample in inference mode that keeps no value longer than it is needed."""

    rows: tuple[RowPlaces, ...]
    size: int


def _lowest(width: int, taken: Sequence[tuple[int, int]]) -> int:
    """Begin of the lowest free interval of ``width``."""
    begin = 0
    for low, high in sorted(taken):
        if begin + width <= low:
            break
        begin = max(begin, high)
    return begin


def sample_places(plan: Plan, unit: int = 1) -> SamplePlaces:
    """Lay out the values of one sample; the network's input is one of them, and begins at the first row's ``input``.

    All places are multiples of ``unit``.

    Dropout and splits pass their input on, other rows work in place where nobody else needs it, and a product writes to
    the other end of the memory than it reads from: a plain network takes no more than its widest two neighbours.
    """
    table = plan.table.tolist()
    value = {-1: -1}  # slot -> the slot whose value it holds
    last: dict[int, int] = {}  # slot -> the last row that needs it
    reads = []
    for r, q in enumerate(table):
        slots = [q[row.IN], q[row.SKIP]] if q[row.KIND] == row.ADD else [q[row.IN]]
        reads.append([value[slot] for slot in slots])
        identity = q[row.KIND] == row.ACTIVATION and q[row.ACT] == row.IDENTITY
        passes = identity or q[row.KIND] in (row.DROPOUT, row.SPLIT)
        value[q[row.OUT]] = reads[r][0] if passes else q[row.OUT]
        last |= dict.fromkeys([*reads[r], value[q[row.OUT]]], r)

    n_inputs, *widths = (-(-n // unit) * unit for n in (plan.n_inputs, *(q[row.N_OUT] for q in table)))
    spans = {-1: (0, 0, n_inputs)}  # slot -> end of the memory, and begin and end as distances from there
    size = n_inputs
    for r, (q, width) in enumerate(zip(table, widths, strict=True)):
        made = value[q[row.OUT]]
        free = [slot for slot in reads[r] if last[slot] == r]
        live = [span for slot, span in spans.items() if last[slot] >= r]
        if made not in spans and free and q[row.KIND] != row.DENSE:
            spans[made] = spans[free[0]]
        elif made not in spans:
            side = 1 - spans[reads[r][0]][0]
            low = _lowest(width, [(low, high) for end, low, high in live if end == side])
            spans[made] = (side, low, low + width)
            live.append(spans[made])
        heights = [max((high for end, _, high in live if end == side), default=0) for side in (0, 1)]
        size = max(size, sum(heights))
    begin = {slot: size - high if end else low for slot, (end, low, high) in spans.items()}
    rows = zip(reads, (value[q[row.OUT]] for q in table), strict=True)
    return SamplePlaces(tuple(RowPlaces(begin[read[0]], begin[read[-1]], begin[made]) for read, made in rows), size)
