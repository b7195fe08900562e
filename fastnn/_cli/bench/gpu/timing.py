"""Seconds on a GPU, between two events on the stream that the work goes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def seconds_of_numba(work: Callable[[], Any]) -> float:
    """Of work that Numba launches on its default stream, until the GPU has done it."""
    from fastnn.cuda._jit import cuda

    begin, end = cuda.event(), cuda.event()
    cuda.synchronize()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(cuda.event_elapsed_time(begin, end)) / 1e3


def seconds_of_torch(work: Callable[[], Any]) -> float:
    """Of work that PyTorch launches on its current stream, until the GPU has done it."""
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3
