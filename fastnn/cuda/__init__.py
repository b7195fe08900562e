"""Networks on NVIDIA GPUs, so far inside the user's own CUDA kernels; needs the extra ``cuda`` or ``cuda12``.

Imported only when asked for: ``from fastnn import cuda``.
"""

from __future__ import annotations

from fastnn.cuda.sample import device_predict, device_state
from fastnn.cuda.streams import use_stream

__all__ = ["device_predict", "device_state", "use_stream"]
