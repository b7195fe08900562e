"""The only place that imports ``numba.cuda`` and decides its options.

The target is the package numba-cuda. Numba alone still ships a deprecated module of the same name, so it is not enough
that ``numba.cuda`` can be imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from llvmlite import ir

_NEEDED = "fastnn.cuda needs numba-cuda: install fastnn-numba[cuda], or fastnn-numba[cuda12] for CUDA 12"

if importlib.util.find_spec("numba_cuda") is None:
    raise ImportError(_NEEDED, name="numba_cuda")
try:
    from numba import cuda
    from numba.cuda import extending, libdevice, types
except ImportError as error:
    raise ImportError(f"{_NEEDED} ({error})", name="numba_cuda") from error
if getattr(cuda, "implementation", None) != "NVIDIA":
    raise ImportError(f"{_NEEDED}; it is installed, but {cuda.__file__} takes its place", name="numba_cuda")

__all__ = ["SIMULATED", "cuda", "device", "extending", "libdevice", "rolled", "types"]

#: Python itself runs the kernels (NUMBA_ENABLE_CUDASIM=1).
SIMULATED = bool(cuda.config.ENABLE_CUDASIM)


def device(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call; it keeps NaN and infinities and approximates nothing."""
    return cuda.jit(function, device=True, fastmath=False)


if SIMULATED:

    def rolled(n):
        return n

else:

    @extending.intrinsic
    def rolled(typingctx, n):
        """``n`` as a number that the compiler does not know.

        It would unroll every loop of a fixed length: that takes minutes for deep networks, and what all rounds together
        keep in registers spills.
        """

        def codegen(context, builder, signature, args):
            hidden = ir.InlineAsm(ir.FunctionType(args[0].type, [args[0].type]), "mov.b64 $0, $1;", "=l,l")
            return builder.call(hidden, args)

        return types.uint64(types.uint64), codegen
