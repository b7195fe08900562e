"""The CPU engine's Python side: addresses, workspaces and calls of the compiled steps.

An engine knows one plan and the arrays it works on. Workspaces belong to threads, so several threads may predict, or
differentiate, with one network at once.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from fastnn import _rows as row
from fastnn._objective import Objective
from fastnn.cpu import bf16, gemm, norm, outputs, state, steps, team, walk
from fastnn.cpu.state import JitState
from fastnn.cpu.sums import SUM_ROWS
from fastnn.losses import Resolved
from fastnn.optimizers import Optimizer
from fastnn.plan import Plan

# A piece of a batch and its gradients should stay in the second-level cache beside the weights.
_PIECE_BYTES = 256 * 1024
_LEAST_ROWS, _MOST_ROWS = 128, 512
# Weights whose gradient is computed before they are updated: what stays in the first-level cache.
_UPDATE_SIZE = 4096
# Up to so many rows, a prediction takes less time than the calls around it.
FEW_ROWS = 64
# Rows whose prediction is timed before the others are shared among threads.
_SAMPLE_ROWS = 1024
_ALONE = steps.Share(team.shared_memory(), 0, 1)


def _batches(objective: Objective, order: np.ndarray) -> steps.Batches:
    mode = row.SKIP_LAST if objective.resolved.from_pre_activation else 0
    real = objective.x.dtype.type
    return steps.Batches(
        objective.x, objective.y, objective.weights, order, int(objective.labels), mode, real(objective.factor),
        real(objective.decay),
    )  # fmt: skip


class Engine:
    """Runs one network on this machine's CPU.

    Parameters
    ----------
    plan : Plan
    theta : ndarray, (n_parameters,)
        The parameters; used in place.
    running : ndarray, (n_buffers,)
        Running statistics; used in place.
    precision : {None, "bf16"}
        Of the operands of matrix products; None: the parameters' own.
    """

    def __init__(self, plan: Plan, theta: np.ndarray, running: np.ndarray, precision: str | None = None):
        self.plan = plan
        self._precision = precision
        self.dtype = theta.dtype
        self._theta = theta
        # Kernels take pointers to a first element, which an empty array does not have.
        self._running = running if running.size else np.zeros(1, self.dtype)
        self._reals = plan.reals.astype(self.dtype)
        self._table = plan.table.copy()
        self._natives = np.zeros(steps.N_NATIVES, np.int64)
        self._stages: set[str] = set()
        self._local = threading.local()
        self._address_lock = threading.Lock()
        self._paces: dict[tuple[int, int], team.Pace] = {}

    def _fill(self, stage: str) -> None:
        """Compile (or load) what ``stage`` calls and write the addresses into the table."""
        if stage in self._stages:
            return
        with self._address_lock:
            if stage == "forward":
                self._natives[steps.FORWARD] = walk.forward.entry(self.dtype)
            elif stage == "backward":
                self._natives[steps.BACKWARD] = walk.backward.entry(self.dtype)
                self._natives[steps.LEARN] = walk.learn.entry(self.dtype)
            for q, activation in zip(self._table, self.plan.activations, strict=True):
                self._fill_row(stage, q, activation)
            self._stages.add(stage)

    def _fill_product(self, q: np.ndarray) -> None:
        block = _UPDATE_SIZE // q[row.N_OUT] // walk.UNIT * walk.UNIT
        if self._precision == "bf16":
            q[row.GEMM] = bf16.gemm_bf16.entry(self.dtype)
            q[row.BLOCK] = max(block, bf16.LEAST_ROWS)
        else:
            q[row.GEMM] = gemm.gemm.entry(self.dtype)
            q[row.BLOCK] = max(block, walk.UNIT)

    def _fill_row(self, stage: str, q: np.ndarray, activation: Any) -> None:
        kind, act = q[row.KIND], q[row.ACT]
        if stage == "forward":
            if kind == row.DENSE:
                self._fill_product(q)
            elif kind in (row.BATCH_NORM, row.LAYER_NORM):
                native = norm.batch_forward if kind == row.BATCH_NORM else norm.layer_forward
                q[row.FORWARD] = native.entry(self.dtype)
            if act >= row.ELEMENTWISE:
                q[row.VALUE] = activation.value_native.entry(self.dtype)
            return
        if stage == "second":
            if act == row.ELEMENTWISE:
                q[row.CURVATURE] = activation.curvature_native.entry(self.dtype)
            elif act == row.ROWWISE:
                q[row.TANGENT] = activation.tangent_native.entry(self.dtype)
                q[row.TANGENT_BACKWARD] = activation.tangent_backward_native.entry(self.dtype)
            return
        if kind in (row.BATCH_NORM, row.LAYER_NORM):
            native = norm.batch_backward if kind == row.BATCH_NORM else norm.layer_backward
            q[row.BACKWARD] = native.entry(self.dtype)
        if act == row.ELEMENTWISE:
            q[row.FORWARD] = activation.forward_native.entry(self.dtype)
        elif act == row.ROWWISE:
            q[row.BACKWARD] = activation.backward_native.entry(self.dtype)

    def _piece_rows(self, batch: int, whole: bool, parts: int) -> int:
        if whole:
            return batch
        width = max(self.plan.space_width + self.plan.n_inputs, 1)
        fitting = _PIECE_BYTES // (width * self.dtype.itemsize) // SUM_ROWS * SUM_ROWS
        return min(batch, parts * max(_LEAST_ROWS, min(fitting, _MOST_ROWS)))

    def _work(self, batch: int, y_columns: int = 1, whole: bool = False, parts: int = 1) -> steps.Work:
        """This thread's workspace for batches of up to ``batch`` rows, whose pieces ``parts`` threads share."""
        piece = self._piece_rows(batch, whole, parts)
        kept = getattr(self._local, "work", None)
        if kept is not None and kept.row_losses.size == piece and kept.y.size == piece * y_columns:
            return kept
        plan, dtype = self.plan, self.dtype
        work = steps.Work(
            plan=self._table,
            natives=self._natives.copy(),
            reals=self._reals,
            theta=self._theta,
            gradient=state.aligned(plan.n_parameters, dtype),
            running=self._running,
            space=state.aligned(plan.space_width * piece, dtype),
            shared=state.aligned(plan.shared_size, dtype),
            x=state.aligned(plan.n_inputs * piece, dtype),
            y=state.aligned(y_columns * piece, dtype),
            weights=np.ones(piece, dtype),
            row_losses=np.zeros(piece, dtype),
            loss_reals=np.zeros(4, dtype),
        )
        self._local.work = work
        return work

    def _with_loss(self, work: steps.Work, objective: Objective) -> steps.Work:
        work.natives[steps.LOSS] = objective.resolved.native.entry(self.dtype)
        work.loss_reals[:] = objective.resolved.parameter_values
        if not objective.decay:
            return work
        table = self._table.copy()
        table[(table[:, row.KIND] == row.DENSE) & (table[:, row.PENALTY] < 0), row.PENALTY] = row.SHARED_PENALTY
        return work._replace(plan=table, reals=self._reals.copy())

    def predict(self, x: np.ndarray, threads: int = 1) -> np.ndarray:
        """Values of the output layer, (n, n_outputs), by up to ``threads`` threads where that is faster."""
        self._fill("forward")
        out = np.empty((x.shape[0], self.plan.n_outputs), self.dtype)
        n = x.shape[0]
        if threads == 1 or n <= _SAMPLE_ROWS:
            self._predict(x, out)
            return out
        begin = time.perf_counter()
        self._predict(x[:_SAMPLE_ROWS], out[:_SAMPLE_ROWS])
        rest = (time.perf_counter() - begin) / _SAMPLE_ROWS * (n - _SAMPLE_ROWS)
        pool = team.pool(threads)
        if rest - rest / threads < pool.cost:
            threads = 1
        cuts = [_SAMPLE_ROWS + (n - _SAMPLE_ROWS) * part // threads for part in range(threads + 1)]
        pool.run(lambda part: self._predict(x[cuts[part] : cuts[part + 1]], out[cuts[part] : cuts[part + 1]]), threads)
        return out

    def predict_few(self, x: np.ndarray) -> np.ndarray | None:
        """`predict` for up to ``FEW_ROWS`` rows, without the ceremony; None if x holds NaN or infinity.

        x must be a C-contiguous, aligned and writeable array of the network's dtype and width.
        """
        places = getattr(self._local, "places", None)
        if places is None:
            self._fill("forward")
            work = self._work(FEW_ROWS)
            places = np.zeros(outputs.N_ADDRESSES, np.int64)
            arrays = (work.plan, work.reals, work.theta, work.running, work.space, work.shared)
            positions = [outputs.PLAN, outputs.REALS, outputs.THETA, outputs.RUNNING, outputs.SPACE, outputs.SHARED]
            places[positions] = [array.ctypes.data for array in arrays]
            places[outputs.N_ROWS], places[outputs.PIECE] = len(work.plan), work.row_losses.size
            places[outputs.ENTRY] = self._natives[steps.FORWARD]
            self._local.places, self._local.behind_places = places, work
        out = np.empty((len(x), self.plan.n_outputs), self.dtype)
        return out if outputs.predict_few(places, x, out) else None

    def _predict(self, x: np.ndarray, out: np.ndarray) -> None:
        work = self._work(x.shape[0])
        work.natives[:] = self._natives
        outputs.predict(work, _ALONE, x, out)

    def evaluate(self, objective: Objective) -> float:
        """Mean loss over all rows in inference mode, without penalties."""
        loss, _, _ = self._differentiate(objective, training=False, key=0, learn=False, want_dx=False)
        return loss

    def loss_and_gradients(self, objective: Objective, training: bool, key: int) -> tuple[float, np.ndarray]:
        """Mean loss with penalties, and its gradient in the layout of the parameters (a fresh array)."""
        loss, gradient, _ = self._differentiate(objective, training, key, learn=True, want_dx=False)
        return loss, gradient.copy()

    def input_gradients(self, objective: Objective, training: bool, key: int) -> np.ndarray:
        """dLoss/dX, (n, n_inputs)."""
        return self._differentiate(objective, training, key, learn=False, want_dx=True)[2]

    def update_statistics(self, objective: Objective, key: int) -> None:
        """Let batch normalisation see all rows once, as a training step would."""
        if self.plan.n_buffers:
            self._differentiate(objective, True, key, learn=False, want_dx=False, move_statistics=True)

    def _differentiate(
        self,
        objective: Objective,
        training: bool,
        key: int,
        learn: bool,
        want_dx: bool,
        move_statistics: bool = False,
    ) -> tuple[float, np.ndarray, np.ndarray]:
        self._fill("forward")
        if learn or want_dx:
            self._fill("backward")
        n = objective.x.shape[0]
        work = self._work(n, objective.y.shape[1], whole=training and self.plan.whole_batch)
        if training and self.plan.n_buffers and not move_statistics:
            # A question about the loss must not move the running statistics.
            work = work._replace(running=self._running.copy())
        work.natives[:] = self._natives
        work = self._with_loss(work, objective)
        work.weights[:] = 1
        dx = np.empty((n, self.plan.n_inputs) if want_dx else (1, 1), self.dtype)
        data = _batches(objective, np.empty(0, np.int64))
        loss = steps.loss_and_gradients(work, _ALONE, data, int(training), np.uint64(key), int(learn), int(want_dx), dx)
        return float(loss), work.gradient, dx

    def jacobian(self, x: np.ndarray) -> np.ndarray:
        """d output / d input, (n, n_outputs, n_inputs), in inference mode."""
        self._fill("forward")
        self._fill("backward")
        work = self._work(x.shape[0])
        work.natives[:] = self._natives
        out = np.empty((x.shape[0], self.plan.n_outputs, self.plan.n_inputs), self.dtype)
        outputs.jacobian(work, _ALONE, x, out)
        return out

    def hessian_vector_product(
        self, objective: Objective, direction: np.ndarray, training: bool, key: int
    ) -> np.ndarray:
        """Hessian of the mean loss, penalties included, times ``direction`` (n_parameters,)."""
        from fastnn.cpu import second  # compiled only where it is asked for

        for stage in ("forward", "backward", "second"):
            self._fill(stage)
        work = self._work(objective.x.shape[0], objective.y.shape[1], whole=training and self.plan.whole_batch)
        natives = np.append(self._natives, 0)
        natives[steps.LOSS] = objective.resolved.native.entry(self.dtype)
        tangent = objective.resolved.tangent_native
        assert tangent is not None, "the network has checked that the loss has a second derivative"
        natives[second.LOSS_TANGENT] = tangent.entry(self.dtype)
        work = work._replace(natives=natives, running=self._running.copy())
        work.loss_reals[:] = objective.resolved.parameter_values
        work.weights[:] = 1
        tangents = second.Tangents(
            direction=direction,
            product=np.zeros_like(direction),
            space=np.zeros_like(work.space),
            shared=np.zeros_like(work.shared),
        )
        data = _batches(objective, np.empty(0, np.int64))
        second.hessian_vector_product(work, tangents, data, int(training), np.uint64(key))
        return tangents.product

    def training(self, objective: Objective, optimizer: Optimizer, batch_size: int, key: int) -> Training:
        """Prepare training steps over ``objective`` in batches of up to ``batch_size`` rows."""
        self._fill("forward")
        self._fill("backward")
        return Training(self, objective, optimizer, batch_size, key)

    def _training_work(self, objective: Objective, optimizer: Optimizer, batch_size: int, parts: int) -> steps.Work:
        work = self._work(batch_size, objective.y.shape[1], self.plan.whole_batch, parts)
        # Addresses of its own: predictions between the epochs may use the same workspace.
        work = work._replace(natives=self._natives.copy(), loss_reals=work.loss_reals.copy())
        work = self._with_loss(work, objective)
        work.weights[:] = 1
        work.natives[steps.BEGIN] = optimizer.begin_native.entry(self.dtype)
        work.natives[steps.UPDATE] = optimizer.update_native.entry(self.dtype)
        return work

    def jit_state(
        self, batch_size: int, trains: bool, resolved: Resolved | None, optimizer: Optimizer | None
    ) -> JitState:
        """Parameters, plan and workspace packed for compiled code; with an optimizer, for training.

        ``trains``: whether the network can be differentiated at all.
        """
        self._fill("forward")
        if trains:
            self._fill("backward")
        plan, dtype = self.plan, self.dtype
        work = self._work(batch_size, plan.n_outputs, plan.whole_batch)
        natives = self._natives.copy()
        loss_reals = np.zeros(4, dtype)
        slots = np.zeros((1, 1), dtype)
        clips = np.full(2, np.inf, dtype)
        if resolved is not None and optimizer is not None:
            natives[steps.LOSS] = resolved.native.entry(dtype)
            natives[steps.BEGIN] = optimizer.begin_native.entry(dtype)
            natives[steps.UPDATE] = optimizer.update_native.entry(dtype)
            loss_reals[:] = resolved.parameter_values
            slots = optimizer.bind(plan.n_parameters, dtype).slots
            clips[:] = optimizer._clips
        work.weights[:] = 1
        work = work._replace(natives=natives, loss_reals=loss_reals)
        made = state.pack(
            work, batch_size, plan.n_inputs, plan.n_outputs,
            {
                state.X: np.zeros(batch_size * plan.n_inputs, dtype), state.Y: np.zeros(batch_size * plan.n_outputs,
                dtype), state.SLOTS: slots, state.COEFFICIENTS: np.zeros(12, dtype), state.CLIPS: clips,
            },
        )  # fmt: skip
        made.plan[state.ABILITY] = state.DIFFERENTIATES if trains else state.PREDICTS
        if resolved is not None and optimizer is not None:
            assert optimizer.state is not None
            made.plan[state.ABILITY] = state.TRAINS
            made.plan[state.N_SLOTS] = optimizer.n_slots
            made.plan[state.MODE] = row.SKIP_LAST if resolved.from_pre_activation else 0
            made.doubles[state.SCALARS : state.HYPER] = optimizer.state.scalars
            made.doubles[state.HYPER : state.RATE] = optimizer.hyper
            made.doubles[state.RATE] = optimizer.learning_rates(optimizer.steps, 1)[0]
        return made

    def pace(self, batch_size: int, threads: int) -> team.Pace:
        """What chooses the number of threads for steps of this size, with what it knows from earlier runs."""
        most = 1  # statistics of a whole batch are one chain of sums
        if not self.plan.whole_batch:
            most = max(1, min(threads, batch_size // steps.ROW_UNIT))
        return self._paces.setdefault((batch_size, most), team.Pace(most))


class Training:
    """A run of training steps: the compiled loop's arguments, and its threads, kept between chunks."""

    def __init__(self, engine: Engine, objective: Objective, optimizer: Optimizer, batch_size: int, key: int):
        self._engine = engine
        self._objective = objective
        self._batch_size = batch_size
        self._key = np.uint64(key)
        self._optimizer = optimizer
        self._works: dict[int, steps.Work] = {}
        self._team: team.Team | None = None
        work = self._work(1)
        dtype = engine.dtype
        state = optimizer.bind(work.theta.size, dtype)
        slots = state.slots if state.slots.size else np.zeros((1, 1), dtype)
        clips = [dtype.type(clip) for clip in optimizer._clips]
        self._opt = steps.Optimization(slots, state.scalars, optimizer.hyper, np.zeros(12, dtype), *clips)

    def _work(self, parts: int) -> steps.Work:
        if parts not in self._works:
            self._works[parts] = self._engine._training_work(
                self._objective, self._optimizer, self._batch_size, parts
            )  # fmt: skip
        return self._works[parts]

    def run(
        self, order: np.ndarray, first_row: int, n_steps: int, step: int, threads: int = 1
    ) -> tuple[int, np.ndarray, np.ndarray]:
        """``n_steps`` steps from row ``first_row`` of ``order`` (empty: rows in their order).

        Returns how many were done (fewer if a loss was not finite), and each step's loss and total weight. The number
        of threads leaves no trace in them, nor in the parameters.
        """
        work, data = self._work(threads), _batches(self._objective, order)
        losses = np.zeros(n_steps, work.theta.dtype)
        weights = np.zeros(n_steps, work.theta.dtype)
        rates = self._optimizer.learning_rates(self._optimizer.steps, n_steps)
        if threads > 1 and (self._team is None or self._team.size < threads):
            self.close()
            self._team = team.Team(threads)

        def part_of_steps(part: int) -> int:
            share = _ALONE if self._team is None else steps.Share(self._team.memory, part, threads)
            done: int = steps.train(
                work, share, data, self._opt, rates, self._batch_size, first_row, self._key, step, losses, weights
            )
            return done

        done = part_of_steps(0) if threads == 1 else self._team.run(part_of_steps, threads)  # type: ignore[union-attr]
        return done, losses, weights

    def _live(self) -> tuple[np.ndarray, ...]:
        assert self._optimizer.state is not None
        return self._engine._theta, self._engine._running, self._optimizer.state.slots, self._optimizer.state.scalars

    def keep(self, into: tuple[np.ndarray, ...] | None = None) -> tuple[np.ndarray, ...]:
        """A copy of parameters, running statistics and the optimizer's state, into an older copy if there is one."""
        if into is None:
            return tuple(array.copy() for array in self._live())
        for array, copy in zip(self._live(), into, strict=True):
            copy[...] = array
        return into

    def restore(self, kept: tuple[np.ndarray, ...]) -> None:
        """Put back what `keep` copied."""
        for array, copy in zip(self._live(), kept, strict=True):
            array[...] = copy

    def finite(self) -> bool:
        """Whether all parameters are finite."""
        return bool(np.isfinite(self._engine._theta).all())

    def close(self) -> None:
        """End the threads."""
        if self._team is not None:
            self._team.close()
            self._team = None
