"""From a network to what compiled code works with: states for `fastnn.jit`, specialised functions, C functions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from fastnn import _checks, losses, optimizers
from fastnn._model import Model, check_dtype, check_trainable
from fastnn.cpu import frozen, specialized, state
from fastnn.cpu.state import JitState
from fastnn.losses import Loss
from fastnn.optimizers import Optimizer
from fastnn.optimizers._base import bound


def jit_state(network: Model, optimizer: str | Optimizer | None, loss: str | Loss | None, batch_size: int) -> JitState:
    if (optimizer is None) != (loss is None):
        raise ValueError("optimizer and loss must be given together, got only one of them")
    batch_size, laid_out = _checks.integer("batch_size", batch_size, low=1), network._built()
    if optimizer is None or loss is None:
        return network._on_cpu().jit_state(batch_size, laid_out.untrainable is None, None, None)
    chosen = optimizers.get(optimizer)
    if chosen.full_batch:
        raise ValueError(f"optimizer must be one that takes single steps, got {type(chosen).__name__}")
    if not isinstance(chosen.learning_rate, (int, float)):
        raise ValueError("optimizer must have a fixed learning rate here: call fastnn.jit.set_learning_rate instead")
    check_trainable(laid_out)
    chosen_loss = losses.get(loss)
    resolved = chosen_loss.resolve(laid_out.output_activation, laid_out.n_outputs)
    copied = chosen.copy()
    bound(copied, laid_out.n_parameters, network.dtype)
    made = network._on_cpu().jit_state(batch_size, True, resolved, copied)
    if isinstance(chosen_loss, (losses.CrossEntropy, losses.KLDivergence)):
        made.plan[state.CLASSES] = state.LABELLED
    elif isinstance(chosen_loss, losses.Hinge):
        made.plan[state.CLASSES] = state.SIGNED
    made.plan[state.STEP] = network._steps
    made.plan[state.KEY] = np.uint64(network._dropout_key).view(np.int64)
    return made


def load_jit_state(network: Model, jit_state: JitState, optimizer: Optimizer | None) -> None:
    laid_out = network._built()
    if not isinstance(jit_state, JitState):
        raise TypeError(f"jit_state must be a JitState, got {_checks.describe(jit_state)}")
    plan_of = jit_state.plan
    same = jit_state.numbers.dtype == network.dtype and plan_of[state.N_ROWS] == len(laid_out.table)
    if not same or plan_of[state.N_THETA] != laid_out.n_parameters or plan_of[state.N_IN] != laid_out.n_inputs:
        raise ValueError("jit_state must come from a network with the same layers, inputs and dtype")
    if optimizer is not None:
        _load_optimizer(network, jit_state, optimizer)
    network._theta[:] = state.part(jit_state, state.THETA, network._theta.size)
    network._running[:] = state.part(jit_state, state.RUNNING, network._running.size)
    network._push()
    network._steps = int(plan_of[state.STEP]) if plan_of[state.ABILITY] == state.TRAINS else network._steps


def _load_optimizer(network: Model, jit_state: JitState, optimizer: Optimizer) -> None:
    if not isinstance(optimizer, optimizers.Optimizer):
        raise TypeError(f"optimizer must be an Optimizer, got {_checks.describe(optimizer)}")
    plan_of = jit_state.plan
    same = plan_of[state.ABILITY] == state.TRAINS and plan_of[state.N_SLOTS] == optimizer.n_slots
    if not same or not np.array_equal(jit_state.doubles[state.HYPER : state.RATE], optimizer.hyper):
        raise ValueError("optimizer must be of the kind, and with the numbers, that jit_state was made with")
    kept = bound(optimizer, network._theta.size, network.dtype)
    kept.slots[:] = state.part(jit_state, state.SLOTS, kept.slots.size).reshape(kept.slots.shape)
    kept.scalars[:] = jit_state.doubles[state.SCALARS : state.HYPER]


def _steps_and_sizes(network: Model, dtype: DTypeLike | None) -> tuple[list[frozen.Step], int, int, np.dtype[Any]]:
    laid_out = network._built()
    checked = network.dtype if dtype is None else check_dtype(dtype)
    network._pull()
    steps = frozen.steps_of(laid_out, network._theta, network._running)
    return steps, laid_out.n_inputs, laid_out.n_outputs, checked


def specialize(network: Model, dtype: DTypeLike | None, batch: int | None) -> Any:
    batch = None if batch is None else _checks.integer("batch", batch, low=1)
    return specialized.function(*_steps_and_sizes(network, dtype), batch)


def c_pointer(network: Model, dtype: DTypeLike | None, signature: str) -> Any:
    signature = _checks.choice("signature", signature, specialized.SIGNATURES)
    made = _steps_and_sizes(network, dtype)
    if signature != specialized.POINTERS and network.n_outputs != 1:
        raise ValueError(f"signature {signature!r} needs a network with one output, this one has {network.n_outputs}")
    return specialized.c_pointer(*made, signature)
