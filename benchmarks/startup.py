"""From the start of a process to its result: import, and a trained XOR network with an empty and a filled cache."""

import os
import subprocess
import sys
import time

XOR = """
import numpy as np, fastnn as fn
X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32"), np.array([0, 1, 1, 0])
net = fn.Sequential([fn.Dense(8, "tanh"), fn.Dense(1, "sigmoid")], n_inputs=2, seed=1)
net.fit(X, y, loss="binary_cross_entropy", optimizer=fn.Adam(0.05), epochs=200, batch_size=4, progress=False)
assert net.predict_classes(X).tolist() == [0, 1, 1, 0]
"""


def seconds(code, cache):
    """Wall time of a fresh interpreter that runs ``code``."""
    environment = os.environ | {"FASTNN_CACHE_DIR": cache}
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - begin


class Process:
    """Medians over fresh processes (a single one for the cold start)."""

    timeout = 300
    unit = "seconds"

    def setup_cache(self):
        """A cache that holds what XOR needs, and how long it took to fill."""
        cache = os.path.abspath("kernels")  # in asv's own temporary folder
        return cache, seconds(XOR, cache)

    def track_xor_cold(self, prepared):
        return prepared[1]

    def track_xor_cached(self, prepared):
        return sorted(seconds(XOR, prepared[0]) for _ in range(3))[1]

    def track_import(self, prepared):
        empty = sorted(seconds("pass", prepared[0]) for _ in range(3))[1]
        return sorted(seconds("import fastnn", prepared[0]) for _ in range(3))[1] - empty
