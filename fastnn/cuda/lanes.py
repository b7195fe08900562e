"""What neighbouring lanes of a warp hand each other.

All lanes of a warp call these functions at the same points; in the simulator, which knows no warps, all threads of a
block do, and meet through shared memory.
"""

from __future__ import annotations

import numpy as np

from fastnn.cuda._jit import SIMULATED, cuda, device

#: Lanes of a warp. Simulated blocks are small, and shall have several.
WARP = 2 if SIMULATED else 32

if SIMULATED:

    def meet():
        cuda.syncthreads()

    def beside(value, apart):
        values, t = cuda.shared.array(cuda.blockDim.x, object), cuda.threadIdx.x
        values[t] = value
        cuda.syncthreads()
        found = values[t ^ apart]
        cuda.syncthreads()
        return found

else:

    @device
    def meet():
        """A barrier for the lanes of a warp: what they have written before, all of them read after."""
        cuda.syncwarp()

    @device
    def beside(value, apart):
        """What the lane has whose number differs by the bit ``apart``."""
        return cuda.shfl_xor_sync(0xFFFFFFFF, value, np.int32(apart))


def _among(combine):
    @device
    def among(value, lanes):
        while lanes > 1:
            lanes >>= 1
            value = combine(value, beside(value, lanes))
        return value

    return among


#: ``(value, lanes)``: the sum over so many neighbours, a power of 2; for all of them, in a fixed order.
add_up = _among(device(lambda a, b: a + b))
#: The same of their largest; a NaN need not be it.
largest = _among(device(lambda a, b: b if b > a else a))
