"""Matrix products for a block that trains a small network alone, out of its own shared memory.

Parameters and values lie in shared memory already, so nothing is staged and no thread waits for another: every thread
reads both operands where they are, four neighbours at once where they begin on whole vectors. Where a product has
fewer elements than the block has threads, neighbours share the sum of one.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastnn.cuda._jit import (
    SIMULATED,
    cuda,
    device,
    distance,
    load,
    load_place,
    load_place4,
    place,
    quotient,
    rolled,
    store,
)  # fmt: skip

# Neighbours that share a sum: of one warp, so that they exchange what they have without a barrier.
_MOST_SHARES = 2 if SIMULATED else 32
# Vectors along k that eight neighbours read each in its own order.
_TURNS = 8


class LoneShape(NamedTuple):
    """A block that takes a batch alone in shared memory; a thread computes two rows and four columns at once.

    Attributes
    ----------
    threads : int
        Of the block; a power of 2.
    """

    threads: int

    @property
    def shared(self) -> int:
        """Elements of shared memory beside the network's: a number for each thread."""
        return self.threads


@device
def whole_vectors(n):
    """``n`` elements, and those that fill the last vector of four."""
    return (n + 3) // 4 * 4


def lone_bytes(shape: LoneShape, dtype: np.dtype[Any], n_state: int, n_work: int) -> int:
    """Shared memory of a block that holds so many elements of a state and a workspace."""
    return (shape.shared + -(-n_state // 4) * 4 + n_work) * dtype.itemsize


def lone_shape() -> LoneShape:
    """For every dtype."""
    return LoneShape(4 if SIMULATED else 256)


@cache
def make_lone_product(T: Any, shape: LoneShape, start: Any, finish: Any, follows: Any, after: Any) -> Any:
    """``run(f, c, a, b, n_i, n_j, k0, k1)``; all arguments mean what they mean in `fastnn.cuda.walk`."""
    threads = shape.threads
    large, single = (_make_tiles(T, threads, *size, start, finish, follows, after) for size in ((2, 4), (1, 1)))

    @device
    def run(f, c, a, b, n_i, n_j, k0, k1):
        if n_i * n_j >= 2 * threads:
            large(f, c, a, b, n_i, n_j, k0, k1)
        else:
            single(f, c, a, b, n_i, n_j, k0, k1)

    return run


def _make_tiles(T, threads, ri, rj, start, finish, follows, after):
    """Threads compute ``ri`` rows and ``rj`` columns each.

    They are neighbours in memory where vectors are read across k, else as far apart as neighbouring threads are many.
    """
    size = ri * rj
    counted = np.uint64(size)
    vectors = (ri, rj) == (2, 4)
    add_up, add = _make_add_up(size), _make_add(T, ri, rj)
    add_forward, add_backward, add_learn = _make_vector_adds(T)

    @device
    def run(f, c, a, b, n_i, n_j, k0, k1):
        array_a, at_a, across_a, along_a, _ = a
        array_b, at_b, across_b, along_b, _ = b
        down, across = (n_i + ri - 1) // ri, (n_j + rj - 1) // rj
        tiles, length = down * across, k1 - k0
        bits = np.int64(0)
        while (tiles << (bits + 1)) <= threads and (2 << bits) <= min(length, _MOST_SHARES):
            bits += 1
        shares = np.int64(1) << bits
        share, at_once = f.t & (shares - 1), threads >> bits
        step_a, step_b = distance(f.shared, along_a << bits), distance(f.shared, along_b << bits)
        whole = vectors and bits == 0 and (at_a | at_b | k0) & 3 == 0
        # Which operands are read as vectors: A along k and B across it, both along k, both across it.
        forward = whole and along_a == 1 and across_b == 1 and (across_a | along_b | n_j) & 3 == 0
        backward = whole and along_a == 1 and along_b == 1 and (across_a | across_b) & 3 == 0
        learn = whole and across_a == 1 and across_b == 1 and (along_a | along_b) & 3 == 0
        step_i, step_j, width_i, width_j = down, across, np.int64(1), np.int64(1)
        if forward or learn:
            step_j, width_j = np.int64(1), np.int64(rj)
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
            for r in range(rj):
                right[r] = place(array_b, at_b + min(j0 + r * step_j, n_j - 1) * across_b + k * along_b)
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
                    add_up(f, sums, shares)
            # Neighbours that share sums share the elements too.
            rows = n_i if inside else np.int64(0)
            for r in range(ri):
                i = i0 + r * step_i
                if i < rows:
                    for s in range(rj):
                        j, e = j0 + s * step_j, r * rj + s
                        if j < n_j and (e & (shares - 1)) == share:
                            finish(f, c, i, j, sums[e] + start(f, c, i, j))
            if follows(f, c):
                for e in range(np.int64(rolled(counted))):
                    i, j = i0 + e // rj * step_i, j0 + e % rj * step_j
                    if i < rows and j < n_j and (e & (shares - 1)) == share:
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


def _make_vector_adds(T):
    """`_make_add` for two rows and four columns, four numbers at a time; ``length`` products for each sum."""
    rest = _make_add(T, 2, 4)

    @device
    def add_row(sums, x0, x1, four):
        """One k: of both rows, and a vector of columns."""
        a, b, c, d = four
        sums[0] += x0 * a
        sums[1] += x0 * b
        sums[2] += x0 * c
        sums[3] += x0 * d
        sums[4] += x1 * a
        sums[5] += x1 * b
        sums[6] += x1 * c
        sums[7] += x1 * d

    @device
    def add_forward(sums, a, left, b, right, step, length):
        """A along k, B across it."""
        one, four = distance(a, 1), distance(a, 4)
        low, high, at = left[0], left[1], right[0]
        vectors, singles = length >> 2, length & 3
        while vectors > 0:
            vectors -= 1
            x0, x1 = load_place4(a, low), load_place4(a, high)
            low, high = np.int32(low + four), np.int32(high + four)
            for q in range(4):
                add_row(sums, x0[q], x1[q], load_place4(b, at))
                at = np.int32(at + step)
        while singles > 0:
            singles -= 1
            add_row(sums, load_place(a, low), load_place(a, high), load_place4(b, at))
            low, high, at = np.int32(low + one), np.int32(high + one), np.int32(at + step)

    @device
    def add_backward(sums, a, left, b, right, turn, length):
        """Both along k. Neighbours' columns are rows of memory: they take vectors in different orders, because all
        first ones may lie in one bank.
        """
        vectors, four, one = length >> 2, distance(a, 4), distance(a, 1)
        turned = vectors & ~(_TURNS - 1)
        q = np.int64(0)
        while q < vectors:
            on = np.int32(four * (q ^ turn if q < turned else q))
            x0, x1 = load_place4(a, np.int32(left[0] + on)), load_place4(a, np.int32(left[1] + on))
            for j in range(4):
                y = load_place4(b, np.int32(right[j] + on))
                for k in range(4):
                    sums[j] += x0[k] * y[k]
                    sums[4 + j] += x1[k] * y[k]
            q += 1
        on = np.int32(four * vectors)
        for r in range(2):
            left[r] = np.int32(left[r] + on)
        for r in range(4):
            right[r] = np.int32(right[r] + on)
        rest(sums, a, left, one, b, right, one, length & 3)

    @device
    def add_learn(sums, a, left, step_left, b, right, step_right, length):
        """Both across k."""
        one = distance(a, 1)
        low, at = left[0], right[0]
        while length > 0:
            length -= 1
            x0, x1 = load_place(a, low), load_place(a, np.int32(low + one))
            add_row(sums, x0, x1, load_place4(b, at))
            low, at = np.int32(low + step_left), np.int32(at + step_right)

    return add_forward, add_backward, add_learn


def _make_add_up(size):
    """``add_up(f, sums, shares)``: over so many neighbouring threads, for all of them and in a fixed order."""
    if SIMULATED:
        return _make_simulated_add_up(size)

    @device
    def add_up(f, sums, shares):
        apart = shares >> 1
        while apart > 0:
            for e in range(size):
                sums[e] += cuda.shfl_xor_sync(0xFFFFFFFF, sums[e], np.int32(apart))
            apart >>= 1

    return add_up


def _make_simulated_add_up(size):
    """Through shared memory, because the simulator knows no warps."""

    def add_up(f, sums, shares):
        first = f.t & ~(shares - 1)
        for e in range(size):
            cuda.syncthreads()
            store(f.shared, f.t, sums[e])
            cuda.syncthreads()
            sums[e] = sum(load(f.shared, first + k) for k in range(shares))
        cuda.syncthreads()

    return add_up
