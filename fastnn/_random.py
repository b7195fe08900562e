"""Random numbers that compiled code makes by hashing, the same on every device: dropout factors.

A counter-based generator: a factor depends on the network's key, the step, the row of the plan, the sample and the
column, and on nothing that was drawn before.
"""

# Kernels call these, where annotations would be compiled with them; and so does Python, for a GPU's steps.

import numpy as np

from fastnn._jit import standalone


@standalone
def mix(key):
    """Finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of 64-bit integers with good avalanche."""
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


@standalone
def ahead(key, steps):
    """The key of which step s has the factors of step ``steps + s`` of this one."""
    return key + np.uint64(steps) * np.uint64(0xD1342543DE82EF95)


@standalone
def step_key(key, step):
    """Key of a step's dropout factors."""
    return mix(ahead(key, step))


@standalone
def sample_key(key, sample, r):
    """Key of one sample of a batch in row ``r`` of the plan."""
    return mix(key + np.uint64(sample) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(r))


@standalone
def dropout_limit(rate):
    """Hashes below it drop their column."""
    return np.uint32(rate * type(rate)(4294967040.0))  # the largest float32 below 2**32


@standalone
def dropout_factor(key, j, limit, kept):
    """0 with probability ``rate``, else ``kept`` = 1 / (1 - rate): one hash of the column under the sample's key.

    By the constants of Wellons' lowbias32.
    """
    low, high = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    # Numba multiplies two uint32 as uint64: every product is cut back.
    h = np.uint32(np.uint32(np.uint32(j) * np.uint32(0x9E3779B9)) ^ low)
    h = np.uint32((h ^ (h >> np.uint32(16))) * np.uint32(0x7FEB352D))
    h = np.uint32((h ^ (h >> np.uint32(15)) ^ high) * np.uint32(0x846CA68B))
    h = np.uint32(h ^ (h >> np.uint32(16)))
    return kept if h >= limit else type(kept)(0)
