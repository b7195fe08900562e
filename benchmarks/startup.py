"""From the start of a process to its result: import, and a trained network with an empty and a filled cache."""

import os
import subprocess
import sys
import time
from pathlib import Path

XOR = """
import numpy as np, fastnn as fn
X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32"), np.array([0, 1, 1, 0])
net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(1, "sigmoid")], n_inputs=2, seed=1)
net.fit(X, y, loss="binary_cross_entropy", optimizer=fn.Adam(0.05), epochs=200, batch_size=4, progress=False)
assert net.predict_classes(X).tolist() == [0, 1, 1, 0]
"""

# The same activations, loss and optimizer in other widths, depths and batches.
ANOTHER = """
import numpy as np, fastnn as fn
X, y = np.ones((70, 5), "float32"), np.ones((70, 1))
net = fn.Sequential([fn.Dense(33, "tanh"), fn.Dense(17, "tanh"), fn.Dense(1, "sigmoid")], n_inputs=5)
net.fit(X, y, loss="binary_cross_entropy", optimizer=fn.Adam(), epochs=2, batch_size=9, progress=False)
net.predict_classes(X)
"""


def seconds(code, cache):
    """Wall time of a fresh interpreter that runs ``code``."""
    environment = os.environ | {"FASTNN_CACHE_DIR": cache}
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


def signatures(cache):
    """Compiled signatures in a cache: Numba writes a file of machine code for each."""
    return sum(1 for _ in Path(cache).rglob("*.nbc"))


class Process:
    """Medians over fresh processes (a single one for the cold start)."""

    timeout = 300
    unit = "seconds"

    def setup_cache(self):
        """A cache that holds what XOR needs, how long it took to fill, and its signatures."""
        cache = os.path.abspath("kernels")  # in asv's own temporary folder
        cold = seconds(XOR, cache)
        return cache, cold, signatures(cache)

    def track_xor_cold(self, prepared):
        return prepared[1]

    def track_xor_cached(self, prepared):
        return sorted(seconds(XOR, prepared[0]) for _ in range(3))[1]

    def track_compilation(self, prepared):
        return prepared[1] - self.track_xor_cached(prepared)

    def track_import(self, prepared):
        empty = sorted(seconds("pass", prepared[0]) for _ in range(3))[1]
        return sorted(seconds("import fastnn", prepared[0]) for _ in range(3))[1] - empty

    def track_signatures(self, prepared):
        return prepared[2]

    track_signatures.unit = "compiled signatures"

    def track_signatures_of_another(self, prepared):
        """What another architecture adds to the cache: 0."""
        seconds(ANOTHER, prepared[0])
        return signatures(prepared[0]) - prepared[2]

    track_signatures_of_another.unit = "compiled signatures"
