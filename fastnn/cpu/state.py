"""A network, and its training step, as three arrays that compiled code may hold, copy and hand around.

``numbers`` (of the parameters' dtype) holds parameters, gradients, moments and workspace one after the other; ``plan``
(int64) says where each begins, and holds the plan's rows with their addresses, which are valid in this process only;
``doubles`` (float64) holds the optimizer's scalars. Copying the three copies the network.
"""

# Annotations are objects here: NamedTuple would compile those that are texts, one by one, at every import.

from typing import Any, NamedTuple

import numpy as np

from fastnn import _rows as row
from fastnn._jit import scalar
from fastnn.cpu import steps
from fastnn.cpu.simd import address_of, pointer, shift
from fastnn.cpu.steps import Feed, Frame, Update


class JitState(NamedTuple):
    """What `fastnn.jit` works on: made by ``Sequential.jit_state``.

    Attributes
    ----------
    numbers : ndarray of the network's dtype
    plan : ndarray of int64
    doubles : ndarray of float64
    """

    numbers: Any
    plan: Any
    doubles: Any


# Positions in ``plan``: numbers, then where the parts of ``numbers`` begin, then natives and the plan's rows.
(
    N_ROWS, N_THETA, N_RUNNING, N_IN, N_OUT, PIECE, BATCH, Y_COLS, LABELS, CLASSES, MODE, STEP, KEY, ABILITY, N_SLOTS,
    REALS, THETA, GRADIENT, RUNNING, SPACE, SHARED, X, Y, WEIGHTS, ROW_LOSSES, LOSS_REALS, SLOTS, COEFFICIENTS, CLIPS,
    NATIVES,
) = range(30)  # fmt: skip
ROWS = NATIVES + steps.N_NATIVES
# Positions in ``doubles``.
SCALARS, HYPER, RATE, N_DOUBLES = 0, 8, 16, 17
# What the loss's targets are (CLASSES): 0 numbers, class labels for cross-entropies, signs for hinge losses.
LABELLED, SIGNED = 1, 2
# What a state was made for (ABILITY).
PREDICTS, DIFFERENTIATES, TRAINS = range(3)
_ALIGNMENT = 64


def aligned(size: int, dtype: np.dtype) -> np.ndarray:
    """Zeros that begin on a cache line; never empty, so that a pointer to the first element exists."""
    size = max(size, 1)
    block = np.zeros(size + _ALIGNMENT // dtype.itemsize, dtype)
    skip = (-block.ctypes.data % _ALIGNMENT) // dtype.itemsize
    return block[skip : skip + size]


def pack(work: steps.Work, batch: int, n_inputs: int, n_outputs: int, parts: dict[int, np.ndarray]) -> JitState:
    """Lay a workspace, and what else ``parts`` holds by position, out in one array of numbers.

    Parameters
    ----------
    work : Work
        Of a network whose pieces hold up to ``batch`` rows, or fewer.
    batch : int
        Most rows of a training step.
    n_inputs, n_outputs : int
    parts : dict of int to ndarray
        ``SLOTS``, ``COEFFICIENTS`` and ``CLIPS``, ``X`` and ``Y`` by those positions.
    """
    arrays = {
        REALS: work.reals, THETA: work.theta, GRADIENT: work.gradient, RUNNING: work.running, SPACE: work.space,
        SHARED: work.shared, WEIGHTS: work.weights, ROW_LOSSES: work.row_losses, LOSS_REALS: work.loss_reals,
    } | parts  # fmt: skip
    n_rows = work.plan.shape[0]
    plan = np.zeros(ROWS + n_rows * row.WIDTH, np.int64)
    plan[[N_ROWS, N_THETA, N_RUNNING]] = n_rows, work.theta.size, work.running.size
    plan[[N_IN, N_OUT, PIECE, BATCH]] = n_inputs, n_outputs, work.row_losses.size, batch
    plan[NATIVES:ROWS] = work.natives
    plan[ROWS:] = work.plan.ravel()
    lanes = _ALIGNMENT // work.theta.itemsize
    size = 0
    for position, array in arrays.items():
        plan[position] = size
        size += -(-array.size // lanes) * lanes
    numbers = aligned(size, work.theta.dtype)
    for position, array in arrays.items():
        numbers[plan[position] : plan[position] + array.size] = array.ravel()
    return JitState(numbers, plan, np.zeros(N_DOUBLES))


def part(state: JitState, position: int, size: int) -> np.ndarray:
    """A view of one of the parts of ``numbers``."""
    begin = int(state.plan[position])
    view: np.ndarray = state.numbers[begin : begin + size]
    return view


@scalar
def frame_of(state):
    """The state as pointers, for one thread."""
    p, numbers = pointer(state.plan, 0), pointer(state.numbers, 0)
    return Frame(
        shift(p, ROWS), p[N_ROWS], shift(p, NATIVES), shift(numbers, p[REALS]), shift(numbers, p[THETA]), p[N_THETA],
        shift(numbers, p[GRADIENT]), shift(numbers, p[RUNNING]), shift(numbers, p[SPACE]), shift(numbers, p[SHARED]),
        p[PIECE], shift(numbers, p[X]), shift(numbers, p[Y]), shift(numbers, p[WEIGHTS]),
        shift(numbers, p[ROW_LOSSES]), shift(numbers, p[LOSS_REALS]), p, 0, 1,
    )  # fmt: skip


@scalar
def feed_of(state):
    """The batch that lies in the state, in its order and without weights."""
    p, numbers = pointer(state.plan, 0), pointer(state.numbers, 0)
    x, y = shift(numbers, p[X]), shift(numbers, p[Y])
    T = type(x[0])
    return Feed(x, p[N_IN], y, p[Y_COLS], p[LABELS], x, False, p, False, T(1), T(0))


@scalar
def update_of(state):
    p, numbers, doubles = pointer(state.plan, 0), pointer(state.numbers, 0), pointer(state.doubles, 0)
    clips = shift(numbers, p[CLIPS])
    return Update(
        shift(numbers, p[SLOTS]), shift(doubles, SCALARS), shift(doubles, HYPER), shift(numbers, p[COEFFICIENTS]),
        clips[0], clips[1],
    )  # fmt: skip


@scalar
def clone_of(state):
    numbers = state.numbers
    spare = _ALIGNMENT // numbers.itemsize
    block = np.empty(numbers.size + spare, numbers.dtype)
    skip = (-address_of(pointer(block, 0)) % _ALIGNMENT) // numbers.itemsize
    copied = block[skip : skip + numbers.size]
    copied[:] = numbers
    return JitState(copied, state.plan.copy(), state.doubles.copy())
