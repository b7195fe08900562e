"""What is measured on a GPU, and how many bytes that moves at the least."""

from __future__ import annotations

from fastnn._cli.bench.workloads import Workload

_DEEP = (64, 64, 64, 64, 64)
_ITEM = 4  # bytes of a float32: what data, parameters and the optimizer's state are kept in, in every precision
_STATES = {"sgd": 0, "adam": 2}  # numbers that an optimizer keeps for each parameter

WORKLOADS = {
    each.name: each
    for each in (
        Workload("64x4-predict", _DEEP, "relu", 1 << 18),
        Workload("64x4", _DEEP, "relu", 1 << 18, "mse", "adam", batches=4),
        Workload("xor", (2, 8, 1), "tanh", 4, "binary_cross_entropy", "sgd", 0.1, batches=1000),
        Workload("20-64-64-1", (20, 64, 64, 1), "relu", 32, "mse", "adam", batches=200),
        Workload("population", (20, 64, 64, 1), "relu", 32, "mse", "adam", batches=20, networks=132),
        Workload("784-512-512-10", (784, 512, 512, 10), "relu", 512, "cross_entropy", "adam", batches=40),
    )
}


def least_bytes(work: Workload) -> int:
    """Bytes that one step, or one call that predicts, cannot but read and write.

    The batch is read, once for all networks, and so are its targets or the outputs written; the parameters are read; a
    step also writes them, and reads and writes the optimizer's state. What lies between the layers need not leave the
    chip.
    """
    n_in, n_out = work.widths[0], 1 if work.loss == "cross_entropy" else work.widths[-1]
    parameters = sum((i + 1) * o for i, o in zip(work.widths, work.widths[1:], strict=False))
    passes = 2 + 2 * _STATES[work.optimizer or ""] if work.trains else 1
    return _ITEM * (work.rows * (n_in + n_out) + work.networks * passes * parameters)
