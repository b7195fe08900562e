"""Tiles of 16 x 16 numbers in the registers of a warp, and the products of whole layers made of them.

A *sum tile* is 8 float32 in each lane: number e is row ``g + 8 * (e // 2 % 2)``, column ``2t + e % 2 + 8 * (e //
4)``. Packed, it is an *operand tile*, 4 words (bf16, fp16) or 8 (tf32), ready to be the left operand of the next
product: what a layer puts out never leaves the registers. For tf32 that takes a trick: columns 2t and 2t + 1 of a sum
stand at t and t + 4 of the operand, and rows of the right operand are read in the same order. A sum does not care.

Matrices in shared memory are row-major, with lines that are a little longer than the rows, so that the 8 rows which
``ldmatrix`` reads at once (tf32: which 32 lanes read) lie in different banks. The rows of ``X`` and ``dY`` serve
products along the rows (``dW = X^T dY``), weights serve both directions, from one copy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastnn.cuda import mma
from fastnn.cuda._jit import device
from fastnn.cuda.intrinsics import load, load2, store

PRECISIONS = ("bf16", "fp16", "tf32")
WIDTHS = (16, 32, 64, 128)


class Steps(NamedTuple):
    """Distances in words between neighbouring tiles of a matrix in shared memory, along k and along n."""

    k: int
    n: int


class Fragments(NamedTuple):
    """Device functions for one width and precision, and the layout that they expect.

    ``right(words, at)`` reads a 16 x 16 right operand; ``multiply(a, p, b, c, q)`` adds the product of the operand tile
    ``a[p:]`` with it to the sum tile ``c[q:]``. The place ``at`` of a tile is a lane's ``*_place(lane)`` plus the
    matrix's offset plus ``*_steps``.
    """

    words: int  # of an operand tile
    weight_line: int  # words from row to row of a matrix of weights
    row_line: int  # the same for X and dY
    pack: Callable[..., Any]  # (c, q, a, p): sum tile c[q:] to operand tile a[p:]
    keep: Callable[..., Any]  # (a, p, words, at): operand tile to shared memory, at `keep_place`
    keep_step: int  # words from tile to tile along a row
    keep_place: Callable[..., Any]
    kept: Callable[..., Any]  # (words, at, c, q): what was kept, as a sum tile
    stage: Callable[..., Any]  # (words, at, i, o, first, second): two neighbours of row i, to a matrix of weights
    multiply: Callable[..., Any]
    forward: Callable[..., Any]  # right operand W
    forward_place: Callable[..., Any]
    forward_steps: Steps
    backward: Callable[..., Any]  # right operand W^T
    backward_place: Callable[..., Any]
    backward_steps: Steps
    rows_left: Callable[..., Any]  # left operand X^T: (words, at, a, p)
    rows_right: Callable[..., Any]  # right operand dY
    rows_left_place: Callable[..., Any]
    rows_right_place: Callable[..., Any]
    rows_steps: Steps  # k: along the rows
    one: np.int32  # a word of numbers that are all 1


def column_of(e):
    """Of number e of sum tiles side by side, from a lane's first column on."""
    return (e >> 3) * 16 + (e >> 2 & 1) * 8 + (e & 1)


def fragments(precision: str, width: int) -> Fragments:
    """The functions for matrices of ``width`` columns."""
    if precision == "tf32":
        return _one_in_a_word(width)
    if precision == "bf16":
        return _two_in_a_word(mma.pack_bf16, mma.unpack_bf16, mma.mma_bf16, 0x3F803F80, width)
    return _two_in_a_word(mma.pack_fp16, mma.unpack_fp16, mma.mma_fp16, 0x3C003C00, width)


def _two_in_a_word(pack_two, unpack_two, product, one, width):
    line = width // 2 + 4

    @device
    def pack(c, q, a, p):
        for k in range(4):
            a[p + k] = pack_two(c[q + 2 * k], c[q + 2 * k + 1])

    @device
    def keep_place(lane):
        return (lane >> 2) * line + (lane & 3)

    @device
    def keep(a, p, words, at):
        for k in range(4):
            store(words, at + (k & 1) * 8 * line + (k >> 1) * 4, a[p + k])

    @device
    def kept(words, at, c, q):
        for k in range(4):
            low, high = unpack_two(load(words, at + (k & 1) * 8 * line + (k >> 1) * 4))
            c[q + 2 * k] = low
            c[q + 2 * k + 1] = high

    @device
    def stage(words, at, i, o, first, second):
        store(words, at + i * line + (o >> 1), pack_two(first, second))

    @device
    def low_then_right(lane):
        """Matrices of 8 x 8: above, below, above right, below right."""
        return (lane & 15) * line + (lane >> 4) * 4

    @device
    def low_then_down(lane):
        """Above, above right, below, below right."""
        return ((lane & 7) + ((lane >> 4) << 3)) * line + (lane >> 3 & 1) * 4

    @device
    def straight(words, at):
        return mma.matrices(words, at)

    @device
    def transposed(words, at):
        return mma.matrices_transposed(words, at)

    @device
    def rows_left(words, at, a, p):
        a[p], a[p + 1], a[p + 2], a[p + 3] = mma.matrices_transposed(words, at)

    @device
    def multiply(a, p, b, c, q):
        a0, a1, a2, a3 = a[p], a[p + 1], a[p + 2], a[p + 3]
        c[q], c[q + 1], c[q + 2], c[q + 3] = product(
            a0, a1, a2, a3, b[0], b[1], c[q], c[q + 1], c[q + 2], c[q + 3]
        )  # fmt: skip
        c[q + 4], c[q + 5], c[q + 6], c[q + 7] = product(
            a0, a1, a2, a3, b[2], b[3], c[q + 4], c[q + 5], c[q + 6], c[q + 7]
        )  # fmt: skip

    return Fragments(
        words=4, weight_line=line, row_line=line, pack=pack, keep=keep, keep_step=8, keep_place=keep_place, kept=kept,
        stage=stage, multiply=multiply,
        forward=transposed, forward_place=low_then_right, forward_steps=Steps(16 * line, 8),
        backward=straight, backward_place=low_then_down, backward_steps=Steps(8, 16 * line),
        rows_left=rows_left, rows_right=transposed,
        rows_left_place=low_then_down, rows_right_place=low_then_right, rows_steps=Steps(16 * line, 8),
        one=np.int32(one),
    )  # fmt: skip


def _one_in_a_word(width):
    # Rows 2t, columns g: no conflicts if a line is 4 more than a multiple of 16. Reading weights backwards, the same
    # matrix has conflicts of two. Rows t, columns g: none if it is 8 more.
    line, row_line = width + 4, width + 8

    @device
    def pack(c, q, a, p):
        for half in range(2):
            for k in range(4):
                a[p + 4 * half + k] = mma.round_tf32(c[q + 4 * half + (k & 1) * 2 + (k >> 1)])

    @device
    def keep_place(lane):
        return (lane >> 2) * row_line + 2 * (lane & 3)

    @device
    def keep(a, p, words, at):
        for half in range(2):
            for k in range(4):
                store(words, at + (k & 1) * 8 * row_line + 8 * half + (k >> 1), a[p + 4 * half + k])

    @device
    def kept(words, at, c, q):
        for e in range(8):
            c[q + e] = mma.word_as_float(load(words, at + (e >> 1 & 1) * 8 * row_line + 8 * (e >> 2) + (e & 1)))

    @device
    def stage(words, at, i, o, first, second):
        store(words, at + i * line + o, mma.round_tf32(first))
        store(words, at + i * line + o + 1, mma.round_tf32(second))

    @device
    def forward_place(lane):
        return 2 * (lane & 3) * line + (lane >> 2)

    @device
    def forward(words, at):
        """Of the two halves of n, the two halves of k."""
        below, beside = at + 8 * line, at + 8
        corner = below + 8
        return (
            load(words, at), load(words, at + line), load(words, below), load(words, below + line),
            load(words, beside), load(words, beside + line), load(words, corner), load(words, corner + line),
        )  # fmt: skip

    @device
    def backward_place(lane):
        return (lane >> 2) * line + 2 * (lane & 3)

    @device
    def backward(words, at):
        below = at + 8 * line
        a, b = load2(words, at)
        c, d = load2(words, at + 8)
        e, f = load2(words, below)
        g, h = load2(words, below + 8)
        return a, b, c, d, e, f, g, h

    @device
    def rows_place(lane):
        return (lane & 3) * row_line + (lane >> 2)

    @device
    def rows_left(words, at, a, p):
        for k in range(8):
            a[p + k] = load(words, at + (k >> 1) * 4 * row_line + (k & 1) * 8)

    @device
    def rows_right(words, at):
        below, beside = at + 8 * row_line, at + 8
        corner = below + 8
        return (
            load(words, at), load(words, at + 4 * row_line), load(words, below), load(words, below + 4 * row_line),
            load(words, beside), load(words, beside + 4 * row_line),
            load(words, corner), load(words, corner + 4 * row_line),
        )  # fmt: skip

    @device
    def multiply(a, p, b, c, q):
        a0, a1, a2, a3, a4, a5, a6, a7 = a[p], a[p + 1], a[p + 2], a[p + 3], a[p + 4], a[p + 5], a[p + 6], a[p + 7]
        low = mma.mma_tf32(a0, a1, a2, a3, b[0], b[1], c[q], c[q + 1], c[q + 2], c[q + 3])
        high = mma.mma_tf32(a0, a1, a2, a3, b[4], b[5], c[q + 4], c[q + 5], c[q + 6], c[q + 7])
        c[q], c[q + 1], c[q + 2], c[q + 3] = mma.mma_tf32(
            a4, a5, a6, a7, b[2], b[3], low[0], low[1], low[2], low[3]
        )  # fmt: skip
        c[q + 4], c[q + 5], c[q + 6], c[q + 7] = mma.mma_tf32(
            a4, a5, a6, a7, b[6], b[7], high[0], high[1], high[2], high[3]
        )  # fmt: skip

    return Fragments(
        words=8, weight_line=line, row_line=row_line, pack=pack, keep=keep, keep_step=16, keep_place=keep_place,
        kept=kept, stage=stage, multiply=multiply,
        forward=forward, forward_place=forward_place, forward_steps=Steps(16 * line, 16),
        backward=backward, backward_place=backward_place, backward_steps=Steps(16, 16 * line),
        rows_left=rows_left, rows_right=rows_right,
        rows_left_place=rows_place, rows_right_place=rows_place, rows_steps=Steps(16 * row_line, 16),
        one=np.int32(0x3F800000),
    )  # fmt: skip
