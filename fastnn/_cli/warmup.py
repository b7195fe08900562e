"""``python -m fastnn warmup``: compile and cache every kernel, so that no later program waits for the compiler."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import fastnn as fn
from fastnn import _jit
from fastnn._cli.info import cache
from fastnn._jit import Native
from fastnn.cpu import gemm, norm, walk
from fastnn.losses import _base as losses
from fastnn.optimizers._rules import RULES

_DTYPES = (np.float32, np.float64)


def natives() -> Iterator[Native]:
    """Every built-in function that a plan may call by address, from the registries."""
    yield from (gemm.gemm, walk.forward, walk.backward)
    yield from (norm.batch_forward, norm.batch_backward, norm.layer_forward, norm.layer_backward)
    for name in fn.activations.names():
        definition = fn.activations.get(name).definition
        if definition.builtin:
            yield from (native for native in definition.natives.values() if native is not None)
    for kind in losses.KINDS:
        yield from losses.natives(kind)
    for rule in RULES.values():
        yield from (rule.begin, rule.update)


def run_kernels(dtype: type) -> None:
    """Call each kernel that Python calls, through a network of four numbers."""
    net = fn.Sequential([fn.Dense(2, "tanh"), fn.Dense(2)], n_inputs=2, dtype=dtype)
    x: NDArray[Any] = np.eye(2, dtype=dtype)
    net.fit(x, x, loss="mse", optimizer="sgd", epochs=1, progress=False)
    net.predict(x)
    net.evaluate(x, x, loss="mse", metrics=())
    net.jacobian(x)
    net.hessian_vector_product(x, x, "mse", np.ones(net.n_parameters))


def run() -> int:
    """Compile everything, with a progress bar; returns the exit status."""
    if _jit.CACHE_FOLDER is None:
        print("python -m fastnn warmup: error: no cache folder is writable; set FASTNN_CACHE_DIR", file=sys.stderr)
        return 1
    begin = time.perf_counter()
    todo = list(natives())
    with tqdm(total=len(_DTYPES) * (len(todo) + 1), unit="kernel", disable=None, dynamic_ncols=True) as bar:
        for dtype in _DTYPES:
            run_kernels(dtype)
            bar.update()
            for native in todo:
                native.address(np.dtype(dtype))
                bar.update()
    print(f"{bar.total} kernels are ready after {time.perf_counter() - begin:.1f} s")
    print(f"cache: {cache()}")
    return 0
