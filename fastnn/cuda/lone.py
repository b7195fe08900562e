"""Matrix products for a block that trains a small network alone, out of its own shared memory.

Parameters and values lie in shared memory already, so nothing is staged and no thread waits for another: every thread
reads both operands where they are, four neighbours at once where they begin on whole vectors. Where a product has
fewer elements than the block has threads, neighbours share the sum of one.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn.cuda._jit import SIMULATED, cuda, device
from fastnn.cuda.fused_float32_layout import NarrowShape
from fastnn.cuda.intrinsics import distance, load_place, load_place4, place, quotient, rolled
from fastnn.cuda.lanes import WARP, beside

# Sums of a thread up to which they are shared: of more, there are enough for all threads.
_SHARED_SUMS = 8
# Vectors along k that eight neighbours read each in its own order.
_TURNS = 8


class LoneShape(NamedTuple):
    """A block with a network in its shared memory.

    Attributes
    ----------
    threads : int
        Of the block; a power of 2.
    ri, rj : int
        Rows and columns that a thread computes at once where there are elements enough; ``rj`` is a multiple of 4.
    rows : int
        Samples that a prediction takes at once.
    """

    threads: int
    ri: int
    rj: int
    rows: int

    @property
    def shared(self) -> int:
        """Elements of shared memory beside the network's: a number for each thread."""
        return self.threads


def _whole_vectors(n):
    """``n`` elements, and those that fill the last vector of four."""
    return (n + 3) // 4 * 4


whole_vectors = device(_whole_vectors)


def lone_bytes(shape: LoneShape | NarrowShape, dtype: np.dtype[Any], n_state: int, n_work: int) -> int:
    """Shared memory of a block that holds so many elements of a state and a workspace."""
    return (shape.shared + _whole_vectors(n_state) + n_work) * dtype.itemsize


def lone_shape() -> LoneShape:
    """For training, where batches are small."""
    return LoneShape(4, 2, 4, 4) if SIMULATED else LoneShape(256, 2, 4, 32)


def wide_lone_shape() -> LoneShape:
    """For predictions of many samples: a vector that a thread reads serves more products."""
    return LoneShape(4, 4, 8, 8) if SIMULATED else LoneShape(256, 4, 8, 128)


@cache
def make_lone_product(T: Any, shape: LoneShape, start: Any, finish: Any, follows: Any, after: Any) -> Any:
    """``run(f, c, a, b, n_i, n_j, k0, k1)``; all arguments mean what they mean in `fastnn.cuda.walk`."""
    threads, ri, rj, _ = shape
    large, single = (_make_tiles(T, threads, *size, start, finish, follows, after) for size in ((ri, rj), (1, 1)))
    enough = threads * ri * rj // (4 if ri * rj <= _SHARED_SUMS else 1)

    @device
    def run(f, c, a, b, n_i, n_j, k0, k1):
        if n_i * n_j >= enough:
            large(f, c, a, b, n_i, n_j, k0, k1)
        else:
            single(f, c, a, b, n_i, n_j, k0, k1)

    return run


def _make_tiles(T, threads, ri, rj, start, finish, follows, after):
    """Threads compute ``ri`` rows and ``rj`` columns each.

    These are as far apart as neighbouring threads are many: single ones, or vectors where they are read so.
    """
    size = ri * rj
    counted = np.uint64(size)
    vectors, most_shares = rj % 4 == 0, WARP if size <= _SHARED_SUMS else 1
    add_up, add = _make_add_up(size), _make_add(T, ri, rj)
    add_forward, add_backward, add_learn = _make_vector_adds(T, ri, rj) if vectors else (_no_vectors,) * 3

    @device
    def column(j0, s, across, near):
        return j0 + (s >> 2) * 4 * across + (s & 3) * near

    @device
    def run(f, c, a, b, n_i, n_j, k0, k1):
        array_a, at_a, across_a, along_a, _ = a
        array_b, at_b, across_b, along_b, _ = b
        down, across = (n_i + ri - 1) // ri, (n_j + rj - 1) // rj
        tiles, length = down * across, k1 - k0
        bits = np.int64(0)
        while (tiles << (bits + 1)) <= threads and (2 << bits) <= min(length, most_shares):
            bits += 1
        shares = np.int64(1) << bits
        share, at_once = f.t & (shares - 1), threads >> bits
        step_a, step_b = distance(f.shared, along_a << bits), distance(f.shared, along_b << bits)
        whole = vectors and bits == 0 and (at_a | at_b | k0) & 3 == 0
        # Which operands are read as vectors: A along k and B across it, both along k, both across it.
        forward = whole and along_a == 1 and across_b == 1 and (across_a | along_b | n_j) & 3 == 0
        backward = whole and along_a == 1 and along_b == 1 and (across_a | across_b) & 3 == 0
        learn = whole and across_a == 1 and across_b == 1 and (along_a | along_b) & 3 == 0
        step_i, width_i, near, width_j, last_j = down, np.int64(1), across, np.int64(1), n_j - 1
        if forward or learn:
            near, width_j, last_j = np.int64(1), np.int64(4), last_j & ~3
        if learn:
            step_i, width_i = np.int64(1), np.int64(ri)
        sums = cuda.local.array(size, T)
        left, right = cuda.local.array(ri, np.int32), cuda.local.array(rj, np.int32)
        for first in range(0, tiles, at_once):
            tile = first + (f.t >> bits)
            inside = tile < tiles
            tile = tile if inside else np.int64(0)
            i0 = quotient(tile, across)
            j0 = tile - i0 * across
            turn = j0 & (_TURNS - 1)
            i0, j0, k = i0 * width_i, j0 * width_j, k0 + share
            # Beyond the last row and column the products of others are computed again.
            for r in range(ri):
                left[r] = place(array_a, at_a + min(i0 + r * step_i, n_i - 1) * across_a + k * along_a)
            for s in range(rj):
                j = min(column(j0, s, across, near), last_j)
                right[s] = place(array_b, at_b + j * across_b + k * along_b)
            for e in range(size):
                sums[e] = T(0)
            if forward:
                add_forward(sums, array_a, left, array_b, right, step_b, length)
            elif backward:
                add_backward(sums, array_a, left, array_b, right, turn, length)
            elif learn:
                add_learn(sums, array_a, left, step_a, array_b, right, step_b, length)
            else:
                add(sums, array_a, left, step_a, array_b, right, step_b, (length - share + shares - 1) >> bits)
                if bits > 0:
                    add_up(sums, shares)
            # Neighbours that share sums share the elements too.
            rows = n_i if inside else np.int64(0)
            for r in range(ri):
                i = i0 + r * step_i
                if i < rows:
                    for s in range(rj):
                        j, e = column(j0, s, across, near), r * rj + s
                        if j < n_j and (most_shares == 1 or (e & (shares - 1)) == share):
                            finish(f, c, i, j, sums[e] + start(f, c, i, j))
            if follows(f, c):
                for e in range(np.int64(rolled(counted))):
                    s = e % rj
                    i, j = i0 + e // rj * step_i, column(j0, s, across, near)
                    if i < rows and j < n_j and (most_shares == 1 or (e & (shares - 1)) == share):
                        after(f, c, i, j)

    return run


def _make_add(T, ri, rj):
    @device
    def add(sums, a, left, step_left, b, right, step_right, count):
        """``count`` products for each sum; the places of the operands move on by a step after each."""
        factors = cuda.local.array(rj, T)
        while count > 0:  # a range costs as much as some of the products
            count -= 1
            for j in range(rj):
                factors[j] = load_place(b, right[j])
                right[j] = np.int32(right[j] + step_right)
            for i in range(ri):
                x = load_place(a, left[i])
                left[i] = np.int32(left[i] + step_left)
                for j in range(rj):
                    sums[i * rj + j] += x * factors[j]

    return add


@device
def _no_vectors(*arguments):
    return


def _make_vector_adds(T, ri, rj):
    """`_make_add` with vectors of four numbers; ``length`` products for each sum."""
    rest, groups, quads = _make_add(T, ri, rj), rj // 4, 4 * ri

    @device
    def add_column(sums, x, q, b, right, step):
        """One k, number q of each row's vector: of all rows, and of all vectors of columns."""
        for g in range(groups):
            four = load_place4(b, right[4 * g])
            right[4 * g] = np.int32(right[4 * g] + step)
            for i in range(ri):
                for j in range(4):
                    sums[i * rj + 4 * g + j] += x[4 * i + q] * four[j]

    @device
    def add_forward(sums, a, left, b, right, step, length):
        """A along k, B across it."""
        one, four = distance(a, 1), distance(a, 4)
        x = cuda.local.array(quads, T)
        vectors, singles = length >> 2, length & 3
        while vectors > 0:
            vectors -= 1
            for i in range(ri):
                x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3] = load_place4(a, left[i])
                left[i] = np.int32(left[i] + four)
            for q in range(4):
                add_column(sums, x, q, b, right, step)
        while singles > 0:
            singles -= 1
            for i in range(ri):
                x[4 * i] = load_place(a, left[i])
                left[i] = np.int32(left[i] + one)
            add_column(sums, x, 0, b, right, step)

    @device
    def add_backward(sums, a, left, b, right, turn, length):
        """Both along k. Neighbours' columns are rows of memory: they take vectors in different orders, because all
        first ones may lie in one bank.
        """
        vectors, four, one = length >> 2, distance(a, 4), distance(a, 1)
        turned = vectors & ~(_TURNS - 1)
        x = cuda.local.array(quads, T)
        q = np.int64(0)
        while q < vectors:
            on = np.int32(four * (q ^ turn if q < turned else q))
            for i in range(ri):
                x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3] = load_place4(a, np.int32(left[i] + on))
            for j in range(rj):
                y = load_place4(b, np.int32(right[j] + on))
                for k in range(4):
                    for i in range(ri):
                        sums[i * rj + j] += x[4 * i + k] * y[k]
            q += 1
        on = np.int32(four * vectors)
        for i in range(ri):
            left[i] = np.int32(left[i] + on)
        for j in range(rj):
            right[j] = np.int32(right[j] + on)
        rest(sums, a, left, one, b, right, one, length & 3)

    @device
    def add_learn(sums, a, left, step_left, b, right, step_right, length):
        """Both across k."""
        one, low = distance(a, 1), left[0]
        x = cuda.local.array(quads, T)
        while length > 0:
            length -= 1
            for i in range(ri):
                x[4 * i] = load_place(a, np.int32(low + i * one))
            low = np.int32(low + step_left)
            add_column(sums, x, 0, b, right, step_right)

    return add_forward, add_backward, add_learn


def _make_add_up(size):
    @device
    def add_up(sums, shares):
        """Over so many neighbouring threads, for all of them and in a fixed order."""
        while shares > 1:
            shares >>= 1
            for e in range(size):
                sums[e] += beside(sums[e], shares)

    return add_up
