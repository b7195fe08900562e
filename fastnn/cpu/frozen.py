"""One network as straight-line code: its sizes and weights are constants of the instructions.

`steps_of` reads a plan and its parameters into a few kinds of steps; `Writer` emits them as vector IR. A dense layer
takes its weights as operands out of the code's own constants, in the order in which they are used; partial sums wait in
registers, one block of columns after the other. A layer with few outputs is dot products along its inputs instead. What
is not a product calls the bodies of the engine's natives, inlined, with every size known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastnn import _rows as row
from fastnn.cpu import norm
from fastnn.cpu.simd import I64, VECTOR_BYTES, Vectors, lanes
from fastnn.plan import Plan

# Sums that wait in registers at a time, a power of two: enough to hide the latency of a multiply-add.
_SUMS = 8
# Rows of a batch that share a load of the weights.
BATCH_ROWS = 4
# Multiply-adds of a block of columns, and of a network, beyond which loops take their place: code should fit into the
# instruction cache, and compilation takes longer than in proportion.
_STRAIGHT = 1024
_STRAIGHT_IN_ALL = 2048
_UNROLLED = 8
# The first vectors of weights may stay in registers from one call to the next, in the loop that a network is inlined
# into. LLVM would load all of them before that loop, and spill them at once.
_RESIDENT = 24


class Product(NamedTuple):
    """A dense layer: weights (n_in, n_out), bias (n_out,), and whether a ReLU follows."""

    weights: np.ndarray
    bias: np.ndarray
    relu: bool


class Affine(NamedTuple):
    """``scale * x + shift``: batch normalisation in inference mode."""

    scale: np.ndarray
    shift: np.ndarray


class Normalise(NamedTuple):
    """Layer normalisation."""

    gain: np.ndarray
    bias: np.ndarray
    eps: float


class Function(NamedTuple):
    """An activation: a native's body and its parameters."""

    body: Callable[..., Any]
    parameters: tuple[float, ...]


class Keep(NamedTuple):
    """The input of a residual block, needed again by its `Add`."""


class Add(NamedTuple):
    """The end of the innermost residual block that is still open."""


Step = Product | Affine | Normalise | Function | Keep | Add


def steps_of(plan: Plan, theta: np.ndarray, running: np.ndarray) -> list[Step]:
    """A network's inference, in float64. A batch normalisation after a linear layer becomes part of its weights."""
    theta, running = theta.astype(np.float64), running.astype(np.float64)
    steps: list[Step] = []
    for q, activation in zip(plan.table, plan.activations, strict=True):
        kind, n_in, n_out = q[row.KIND], int(q[row.N_IN]), int(q[row.N_OUT])
        numbers = plan.reals[q[row.REALS] :]
        if kind == row.DENSE:
            weights = theta[q[row.W] : q[row.W] + n_in * n_out].reshape(n_in, n_out)
            bias = theta[q[row.B] : q[row.B] + n_out] if q[row.B] >= 0 else np.zeros(n_out)
            steps.append(Product(weights, bias, bool(q[row.ACT] == row.RELU)))
        elif kind == row.BATCH_NORM:
            mean, variance = running[q[row.RUNNING] :][: 2 * n_out].reshape(2, n_out)
            scale = theta[q[row.W] :][:n_out] / np.sqrt(variance + numbers[1])
            shift = theta[q[row.B] :][:n_out] - scale * mean
            before = steps[-1] if steps else None
            if isinstance(before, Product) and not before.relu:
                steps[-1] = Product(before.weights * scale, before.bias * scale + shift, False)
            else:
                steps.append(Affine(scale, shift))
        elif kind == row.LAYER_NORM:
            steps.append(Normalise(theta[q[row.W] :][:n_out], theta[q[row.B] :][:n_out], float(numbers[1])))
        elif kind == row.SPLIT:
            steps.append(Keep())
        elif kind == row.ADD:
            steps.append(Add())
        if q[row.ACT] == row.RELU and kind != row.DENSE:
            steps.append(Function(activation.value_native.body, (0.0, 0.0)))  # type: ignore[union-attr]
        elif q[row.ACT] >= row.ELEMENTWISE:
            assert activation is not None
            steps.append(Function(activation.value_native.body, activation.parameter_values))
    return steps


def width_of(step: Step, before: int) -> int:
    """Outputs of a step."""
    return step.bias.size if isinstance(step, Product) else before


def _pieces(n: int, itemsize: int) -> list[int]:
    """Lanes of the vectors that cover n columns: whole ones, then the power of two that holds the rest."""
    whole, least = lanes(itemsize), 16 // itemsize
    rest = n % whole
    return [whole] * (n // whole) + ([max(least, 1 << (rest - 1).bit_length())] if rest else [])


class _Place(NamedTuple):
    """Rows of numbers in memory; an exact place has no room beyond its columns."""

    at: Any
    ld: int
    exact: bool
    buffer: Any = None


class Writer:
    """IR of one network inside one function.

    Parameters
    ----------
    context, builder
        Of the function.
    pointer
        Numba's type of a pointer to the network's numbers.
    rows : int
        Rows of x, which lie one after the other.
    """

    def __init__(self, context: Any, builder: Any, pointer: Any, rows: int):
        self.context, self.builder, self.pointer, self.rows = context, builder, pointer, rows
        self.real = pointer.dtype
        self.itemsize = self.real.bitwidth // 8
        self.dtype = np.float32 if self.itemsize == 4 else np.float64
        self.v = Vectors(builder, self.real)
        self.resident, self.straight = _RESIDENT, _STRAIGHT_IN_ALL
        self.block = _SUMS if rows == 1 else BATCH_ROWS  # most vectors of columns at a time

    def constants(self, array: np.ndarray) -> Any:
        """A pointer to numbers that live in the code."""
        data = bytearray(np.ascontiguousarray(array, self.dtype).tobytes())
        value = ir.Constant(ir.ArrayType(ir.IntType(8), len(data)), data)
        module = self.builder.module
        variable = cgutils.add_global_variable(module, value.type, module.get_unique_name("fastnn.frozen"))
        variable.linkage, variable.global_constant, variable.initializer = "internal", True, value
        variable.align = VECTOR_BYTES
        return self.builder.bitcast(variable, self.v.real.as_pointer())

    def only_here(self, at: Any) -> Any:
        """The same pointer, but LLVM cannot tell, and loads what is there when it is needed."""
        return self.builder.asm(ir.FunctionType(at.type, [at.type]), "", "=r,0", [at], side_effect=True)

    def buffer(self, size: int) -> Any:
        """Uninitialised numbers on the stack."""
        with self.builder.goto_entry_block():
            room = self.builder.alloca(ir.ArrayType(self.v.real, size))
        room.align = 64
        return self.builder.bitcast(room, self.v.real.as_pointer())

    def at(self, base: Any, offset: int) -> Any:
        return self.builder.gep(base, [ir.Constant(I64, offset)])

    def mask(self, v: Vectors, count: int) -> Any:
        """Mask of the first ``count`` lanes, None for all."""
        return None if count >= v.lanes else ir.Constant(v.mask_type, [int(i < count) for i in range(v.lanes)])

    def store(self, v: Vectors, value: Any, place: _Place, i: int, column: int, n: int) -> None:
        mask = self.mask(v, n - column) if place.exact else None
        v.store(value, self.at(place.at, i * place.ld + column), mask)

    def call(self, body: Any, kinds: Sequence[Any], args: Sequence[Any]) -> None:
        """Inline a function of pointers (given as they are) and numbers."""
        values = [
            a if isinstance(a, ir.Value) else self.context.get_constant(k, a) for k, a in zip(kinds, args, strict=True)
        ]
        function = types.Dispatcher(body)
        signature = function.get_call_type(self.context.typing_context, tuple(kinds), {})
        implementation = self.context.get_function(function, signature)
        implementation(self.builder, values)
        self.context.add_linking_libs(getattr(implementation, "libs", ()))

    def relu(self, v: Vectors, value: Any, wanted: bool) -> Any:
        if not wanted:
            return value
        below = self.builder.fcmp_ordered("<", value, v.zero)  # NaN stays
        return self.builder.select(below, v.zero, value)

    def product(self, step: Product, x: _Place, out: _Place) -> None:
        n_in, n_out = step.weights.shape
        along, pairs = -(-n_in // self.v.lanes), 1 << (n_out - 1).bit_length()
        # Loads of the two ways, and of the second the additions across lanes.
        columns = n_in * (1 + len(_pieces(n_out, self.itemsize)))
        dots = along * (1 + n_out) + 3 * (pairs + 4)
        if dots < columns and n_out <= self.v.lanes and along * n_out * self.rows <= _STRAIGHT:
            self.dot_products(step, x, out)
            return
        first = 0
        while first < n_out:
            pieces = _pieces(n_out - first, self.itemsize)[: self.block]
            self.columns(step, x, out, first, pieces)
            first += sum(pieces)

    def columns(self, step: Product, x: _Place, out: _Place, first: int, pieces: list[int]) -> None:
        """A block of columns: each input times its row of weights, onto the sums."""
        builder, (n_in, n_out) = self.builder, step.weights.shape
        vectors = [Vectors(builder, self.real, count) for count in pieces]
        starts = np.cumsum([0, *pieces]).tolist()
        width = starts.pop()
        packed = np.zeros((1 + n_in, width))
        count = min(width, n_out - first)
        packed[0, :count], packed[1:, :count] = step.bias[first : first + count], step.weights[:, first : first + count]
        known = self.constants(packed)
        weights = self.only_here(known)
        chains = max(1, _SUMS // (len(pieces) * self.rows))
        sums = [[[v.zero for v in vectors] for _ in range(self.rows)] for _ in range(chains)]
        sums[0] = [[v.load(self.at(known, j)) for v, j in zip(vectors, starts, strict=True)] for _ in range(self.rows)]

        def further(x_at: Any, w_at: Any, count: int, sums: Any) -> Any:
            """The sums after ``count`` more inputs."""
            sums = [[list(of_row) for of_row in chain] for chain in sums]
            for k in range(count):
                chain = sums[k % chains]
                factors = [v.load(self.at(w_at, k * width + j)) for v, j in zip(vectors, starts, strict=True)]
                for i, of_row in enumerate(chain):
                    value = builder.load(self.at(x_at, i * x.ld + k))
                    for j, (v, factor) in enumerate(zip(vectors, factors, strict=True)):
                        of_row[j] = v.fma(v.splat(value), factor, of_row[j])
            return sums

        looped, cost = 0, n_in * len(pieces) * self.rows
        if cost <= min(_STRAIGHT, self.straight):
            self.straight -= cost
        else:
            looped = n_in // _UNROLLED * _UNROLLED
            sums = loop(builder, looped // _UNROLLED, sums, lambda turn, sums: further(
                builder.gep(x.at, [builder.mul(turn, ir.Constant(I64, _UNROLLED))]),
                builder.gep(self.at(weights, width), [builder.mul(turn, ir.Constant(I64, _UNROLLED * width))]),
                _UNROLLED, sums,
            ))  # fmt: skip
        resident = 0 if looped else min(n_in, self.resident // len(pieces))
        self.resident -= resident * len(pieces)
        sums = further(x.at, self.at(known, width), resident, sums)
        begin = max(looped, resident)
        sums = further(self.at(x.at, begin), self.at(weights, (1 + begin) * width), n_in - begin, sums)
        for i in range(self.rows):
            for j, (v, start) in enumerate(zip(vectors, starts, strict=True)):
                parts = [chain[i][j] for chain in sums]
                while len(parts) > 1:
                    half = len(parts) // 2
                    parts = [builder.fadd(a, b) for a, b in zip(parts[:half], parts[half:], strict=True)]
                self.store(v, self.relu(v, parts[0], step.relu), out, i, first + start, n_out)

    def dot_products(self, step: Product, x: _Place, out: _Place) -> None:
        """Few outputs: vectors of partial sums along the inputs, added across lanes at the end."""
        builder, v, (n_in, n_out) = self.builder, self.v, step.weights.shape
        along = -(-n_in // v.lanes)
        packed = np.zeros((n_out, along * v.lanes))
        packed[:, :n_in] = step.weights.T
        weights = self.only_here(self.constants(packed))
        sized = Vectors(builder, self.real, 1 << (n_out - 1).bit_length())
        bias = sized.load(self.constants(np.pad(step.bias, (0, sized.lanes - n_out))))
        stored = Vectors(builder, self.real, _pieces(n_out, self.itemsize)[0])
        lanes_stored = [min(j, sized.lanes) for j in range(stored.lanes)]
        for i in range(self.rows):
            sums = [v.zero] * n_out
            for k in range(0, along * v.lanes, v.lanes):
                value = v.load(self.at(x.at, i * x.ld + k), self.mask(v, n_in - k))
                for j in range(n_out):
                    sums[j] = v.fma(value, v.load(self.at(weights, j * along * v.lanes + k)), sums[j])
            totals = builder.fadd(v.totals(sums + [v.zero] * (sized.lanes - n_out)), bias)
            totals = sized.pick(self.relu(sized, totals, step.relu), sized.zero, lanes_stored)
            self.store(stored, totals, out, i, 0, n_out)

    def each(self, n: int, out: _Place, value: Callable[[Vectors, int, int, Any], Any]) -> None:
        """``out[i, column] = value(v, i, column, mask)``, vector by vector; the mask is of columns that exist."""
        for i in range(self.rows):
            column = 0
            for count in _pieces(n, self.itemsize):
                v = Vectors(self.builder, self.real, count)
                self.store(v, value(v, i, column, self.mask(v, n - column)), out, i, column, n)
                column += count

    def network(self, steps: Sequence[Step], n_in: int, x: Any, out: Any) -> None:
        """All steps, for rows of x, which lie one after the other, to rows of ``out``."""
        widths = [n_in]
        for step in steps:
            widths.append(width_of(step, widths[-1]))
        room = max(sum(_pieces(n, self.itemsize)) for n in widths)
        spare: list[Any] = []
        kept: list[_Place] = []
        here, target = _Place(x, n_in, True), _Place(out, widths[-1], True)
        for position, (step, n, n_out) in enumerate(zip(steps, widths, widths[1:], strict=False)):
            if isinstance(step, Keep):
                kept.append(here)
                continue
            last = position == len(steps) - 1
            if last and self.stores_late(step, here):
                there = target
            elif isinstance(step, Function) and here.buffer is not None and here not in kept:
                there = here
            else:
                buffer = spare.pop() if spare else self.buffer(self.rows * room)
                there = _Place(buffer, sum(_pieces(n_out, self.itemsize)), False, buffer)
            self.step(step, n, here, there, kept)
            if here.buffer is not None and here.buffer is not there.buffer and here not in kept:
                spare.append(here.buffer)
            here = there
        if here is not target:
            n = widths[-1]
            self.each(
                n, target, lambda v, i, j, mask: v.load(self.at(here.at, i * here.ld + j), mask if here.exact else None)
            )

    def stores_late(self, step: Step, x: _Place) -> bool:
        """Whether a step may write to the network's outputs, which may be the memory of its inputs."""
        if isinstance(step, Product):
            return x.buffer is not None or len(_pieces(step.bias.size, self.itemsize)) <= self.block
        return isinstance(step, (Affine, Add))

    def step(self, step: Step, n: int, x: _Place, out: _Place, kept: list[_Place]) -> None:
        builder, rows = self.builder, self.rows

        def at(place: _Place, i: int, j: int, v: Vectors, mask: Any) -> Any:
            return v.load(self.at(place.at, i * place.ld + j), mask if place.exact else None)

        if isinstance(step, Product):
            self.product(step, x, out)
        elif isinstance(step, Affine):
            padding = (0, sum(_pieces(n, self.itemsize)) - n)
            scale, shift = (self.constants(np.pad(part, padding)) for part in step)
            self.each(n, out, lambda v, i, j, mask: v.fma(
                at(x, i, j, v, mask), v.load(self.at(scale, j)), v.load(self.at(shift, j))
            ))  # fmt: skip
        elif isinstance(step, Add):
            skip = kept.pop()
            self.each(n, out, lambda v, i, j, mask: builder.fadd(at(x, i, j, v, mask), at(skip, i, j, v, mask)))
        elif isinstance(step, Normalise):
            unused = self.buffer(rows * out.ld)
            self.call(
                norm.layer_forward.body,
                norm.norm_forward_arguments(self.real),
                (
                    x.at, x.ld, out.at, out.ld, unused, unused, self.constants(step.gain), self.constants(step.bias),
                    unused, rows, n, 0.0, step.eps, 0, 0,
                ),
            )  # fmt: skip
        elif isinstance(step, Function):
            if x is not out:
                self.each(n, out, lambda v, i, j, mask: at(x, i, j, v, mask))
            integer = types.int64
            # Hidden, and with it where the loop begins: merged with the product before, it takes a third longer (tanh).
            parameters = self.only_here(self.constants(np.array(step.parameters)))
            self.call(
                step.body,
                (self.pointer, self.pointer, integer, integer, integer, self.pointer),
                (out.at, out.at, rows, n, out.ld, parameters),
            )


def loop(builder: Any, turns: int, sums: Any, body: Callable[[Any, Any], Any]) -> Any:
    """``turns`` times ``sums = body(turn, sums)``, where sums are lists of lists of lists of values."""
    head = builder.block
    inside, after = (builder.function.append_basic_block(name) for name in ("turn", "after"))
    builder.branch(inside)
    builder.position_at_end(inside)
    turn = builder.phi(I64)
    phis = [[[builder.phi(value.type) for value in of_row] for of_row in chain] for chain in sums]
    results = body(turn, phis)
    following, last = builder.add(turn, ir.Constant(I64, 1)), builder.block
    turn.add_incoming(ir.Constant(I64, 0), head)
    turn.add_incoming(following, last)
    for begin, phi, result in zip(_flat(sums), _flat(phis), _flat(results), strict=True):
        phi.add_incoming(begin, head)
        phi.add_incoming(result, last)
    builder.cbranch(builder.icmp_signed("<", following, ir.Constant(I64, turns)), inside, after)
    builder.position_at_end(after)
    return results


def _flat(sums: Any) -> list[Any]:
    return [value for chain in sums for of_row in chain for value in of_row]
