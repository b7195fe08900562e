"""Memory: the most that a process holds while it trains or predicts, and what many calls leave behind."""

import os
from pathlib import Path

import numpy as np
from numba import njit

import fastnn as fn
from fastnn import jit

from ._networks import data, make

_STATM = Path("/proc/self/statm")  # Linux: sizes of this process in pages, the second one resident
_WARM, _CALLS = 1000, 2000  # the heap takes its final size within the first hundreds
_INSIDE = 1000  # predictions in one call


def _resident():
    """Bytes of memory that this process holds now."""
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


class Peak:
    """The peak of the whole process: its libraries, the data, and what fastnn adds to them.

    Compiling takes more memory than most networks, so the cache is filled by another process (``setup_cache``).
    """

    params = (("20-64-64-1", "784-128-10", "784-512-512-10"), (1000, 50_000))
    param_names = ("shape", "rows")

    def setup_cache(self):
        for shape in ("20-64-64-1", "784-128-10"):  # one of each loss
            self.setup(shape, 100)
            self.peakmem_fit(shape, 100)
            self.peakmem_predict(shape, 100)

    setup_cache.timeout = 300

    def setup(self, shape, rows):
        self.net = make(shape)
        self.x, self.y, self.loss = data(shape, rows)

    def peakmem_fit(self, shape, rows):
        self.net.fit(self.x, self.y, loss=self.loss, optimizer="adam", epochs=1, batch_size=128, progress=False)

    def peakmem_predict(self, shape, rows):
        self.net.predict(self.x)


class Growth:
    """Bytes that a call leaves behind, over 2,000 calls: about 0. Linux only."""

    unit = "bytes a call"

    def setup(self):
        if not _STATM.exists():
            raise NotImplementedError
        self.x, self.y, self.loss = data("20-64-64-1", 64)
        self.net = make("20-64-64-1")
        self.optimizer = fn.Adam()

    def growth(self, call):
        for _ in range(_WARM):
            call()
        before = _resident()
        for _ in range(_CALLS):
            call()
        return (_resident() - before) / _CALLS

    def fit(self, net, optimizer):
        net.fit(self.x, self.y, loss=self.loss, optimizer=optimizer, epochs=1, batch_size=32, progress=False)

    def track_fit(self):
        return self.growth(lambda: self.fit(self.net, self.optimizer))

    def track_predict(self):
        return self.growth(lambda: self.net.predict(self.x))

    def track_gradients(self):
        return self.growth(lambda: self.net.loss_and_gradients(self.x, self.y, self.loss))

    def track_new_networks(self):
        return self.growth(lambda: self.fit(make("20-64-64-1"), fn.Adam()))


@njit
def _many(state, f, x, out):
    for i in range(_INSIDE):
        jit.predict(state, x[i % len(x)], out)
        f(x[i % len(x)], out)


class GrowthInside:
    """Bytes that a million predictions inside compiled code leave behind, by either way: 0. Linux only."""

    unit = "bytes"

    def setup(self):
        if not _STATM.exists():
            raise NotImplementedError
        net = make("20-64-64-1")
        self.arguments = net.jit_state(), net.specialize(), data("20-64-64-1", 64)[0], np.empty(1, np.float32)
        _many(*self.arguments)

    def track_predictions(self):
        before = _resident()
        for _ in range(1_000_000 // _INSIDE):
            _many(*self.arguments)
        return _resident() - before
