"""Networks on NVIDIA GPUs: the engine behind ``device="cuda"``, and functions for users' own CUDA kernels.

Imported only when asked for: ``from fastnn import cuda``. Needs the extra ``cuda`` or ``cuda12``.
"""

from __future__ import annotations

from fastnn.cuda.sample import device_predict, device_state
from fastnn.cuda.streams import use_stream

__all__ = ["device_predict", "device_state", "use_stream"]
