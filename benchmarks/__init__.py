"""asv benchmarks of fastnn, on one thread unless a parameter says otherwise.

Every benchmarked call is made once in ``setup`` or ``setup_cache``, so that no time holds a compilation; compilation
has benchmarks of its own in ``startup``. ``asv run --python=same`` ignores the environment of ``asv.conf.json``, so
threads are pinned here too, before NumPy starts its pool.
"""

import os

for _name in ("FASTNN_NUM_THREADS", "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
