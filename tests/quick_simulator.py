"""numba-cuda's simulator with blocks that run several times as fast; whoever imports this has it.

Its own blocks look all the time for threads that have come to a barrier, and these wait for the interpreter meanwhile.
Here the threads of a block hand one baton around: each runs up to the next barrier, and then the next one does. They
take turns from the first to the last or the other way round, as a hash of the round says. So what one thread writes and
another reads, with no barrier between, comes too early in some rounds and too late in others.

The shared memory of a launch and the threads' own arrays are NaN, or -1, before anything is written: on a GPU they hold
whatever was there.
"""

import threading

import numpy as np
from numba.cuda.simulator import kernel as simulator
from numba.cuda.simulator import kernelapi

__all__ = ["Block", "Local", "Shared"]


class _Thread(simulator.BlockThread):
    """A thread that waits for its turn."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.turn = threading.Lock()
        self.turn.acquire()

    def run(self):
        self.turn.acquire()
        if not self.abort:
            super().run()
        self._manager.ended(self)

    def syncthreads(self):
        self._manager.waits(self)
        if self.abort:
            raise RuntimeError("another thread of the block has failed")


class Block(simulator.BlockManager):
    """The threads of a block, of which one runs at a time."""

    rounds = 0  # of all blocks, so that equal blocks do not take turns in equal ways

    def run(self, grid_point, *args):
        points = np.ndindex(*self._block_dim)
        threads = [_Thread(lambda: self._f(*args), self, grid_point, point, self._debug) for point in points]
        self._alive, self._round, self._done = list(threads), iter(()), threading.Lock()
        self._done.acquire()
        self._failed = None
        for thread in threads:
            thread.start()
        self._next()
        self._done.acquire()
        for thread in threads:
            thread.join()
        if self._failed:
            error, trace = self._failed.exception
            raise error.with_traceback(trace)

    def waits(self, thread):
        """A thread has come to a barrier; returns when it may go on."""
        self._next()
        thread.turn.acquire()

    def ended(self, thread):
        """A thread has returned, or failed: then the others do at their barriers."""
        self._alive.remove(thread)
        if thread.exception and not self._failed:
            self._failed = thread
            for other in self._alive:
                other.abort = True
        self._next()

    def _next(self):
        """Give the turn to whoever comes next in this round, or to the first of another one."""
        following = next(self._round, None)
        if following is None:
            if not self._alive:
                self._done.release()
                return
            Block.rounds += 1
            # Knuth's multiplicative hash; parity alone would be the same for each barrier of a loop with two.
            forwards = Block.rounds * 2654435761 >> 16 & 1
            self._round = iter(self._alive[:: 1 if forwards else -1])
            following = next(self._round)
        following.turn.release()


def _poisoned(array):
    array.view(np.uint8)[...] = 0xFF
    return array


class Shared(kernelapi.FakeCUDAShared):
    def __init__(self, dynshared_size):
        super().__init__(dynshared_size)
        _poisoned(self._dynshared)


class Local(kernelapi.FakeCUDALocal):
    def array(self, *arguments, **options):
        return _poisoned(super().array(*arguments, **options))


simulator.BlockManager = Block
kernelapi.FakeCUDAShared, kernelapi.FakeCUDALocal = Shared, Local
