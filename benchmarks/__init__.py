"""asv benchmarks of fastnn on one thread.

Every benchmarked call is made once in ``setup``, so that no time holds a compilation; compilation has benchmarks of its
own in ``startup``. ``asv run --python=same`` ignores the environment of ``asv.conf.json``, so threads are pinned here
too, before NumPy starts its pool.
"""

import os

for _name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
