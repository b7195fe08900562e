"""One workload in all peers: do they learn the same, and how long does a step take in each?"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastnn._cli.bench.peers import OWN, Peer, UnavailableError
from fastnn._cli.bench.workloads import Case


class Ceiling(Protocol):
    """What the machine can do at the most, measured beside the workloads."""

    def measure(self) -> None:
        """Measure once more."""

    def result(self) -> dict[str, Any] | None:
        """What came of it since the last call."""


def compare(case: Case, kinds: Mapping[str, type[Peer]], rounds: int, seconds: float, peak: Ceiling) -> dict[str, Any]:
    """Check and time all peers on one workload; fastnn comes first.

    Parameters
    ----------
    case : Case
    kinds : mapping of str to Peer class
        With fastnn's own.
    rounds : int
        Each peer, and the GEMM peak, is timed once a round, so that what disturbs the machine disturbs them alike.
    seconds : float
        Rough length of a peer's block in a round.
    peak : Ceiling

    Returns
    -------
    dict
        The workload's "name", "description", "trains" and "flops", the "peak" measured beside it, and "peers": for each
        its "status" ("ok"; "differs", "failed" or "unavailable" with a "reason") and what was measured. Only a peer
        whose status is "ok" is timed.
    """
    entries: dict[str, dict[str, Any]] = {}
    ready: dict[str, tuple[Peer, int]] = {}
    for name in (OWN, *(name for name in kinds if name != OWN)):
        try:
            peer, compile_seconds = _start(kinds[name], case)
            answers = peer.answers()
            entries[name] = {"status": "ok", "compile_seconds": compile_seconds} | _evidence(answers, case)
            if name == OWN:
                expected = answers
            else:
                entries[name] |= _judge(answers, expected, case, peer.tolerance[case.dtype])
            if entries[name]["status"] == "ok":
                ready[name] = peer, _passes(peer, seconds)
        except UnavailableError as error:
            entries[name] = {"status": "unavailable", "reason": str(error)}
        except Exception as error:
            # A peer may break in its own way, such as torch.compile without a C++ compiler; fastnn may not.
            if name == OWN:
                raise
            entries[name] = {"status": "failed", "reason": _first_line(error)}
    times: dict[str, list[float]] = {name: [] for name in ready}
    for k in range(rounds):
        names = list(ready)
        for name in names[k % len(names) :] + names[: k % len(names)]:  # none comes always after the same one
            peer, passes = ready[name]
            times[name].append(peer.run(passes) / (passes * case.workload.batches) * 1e6)
        peak.measure()
    own = statistics.median(times[OWN])
    best = peak.result()
    for name, (peer, passes) in ready.items():
        median = statistics.median(times[name])
        entries[name] |= {
            "steps_per_round": passes * case.workload.batches,
            "rounds_us": times[name],
            "median_us": median,
            "ratio": median / own,
            "share_of_peak": share_of_peak(case.workload.flops, median, best) if peer.on_one_core else None,
        }
    work = case.workload
    return {
        "name": work.name,
        "description": work.describe(),
        "trains": work.trains,
        "flops": work.flops,
        "peak": best,
        "peers": entries,
    }


def share_of_peak(flops: int, microseconds: float, peak: Mapping[str, Any] | None) -> float | None:
    """The share of one core's GEMM peak that a step of so many operations and microseconds reaches."""
    return None if peak is None else flops / (microseconds * 1e3) / float(peak["gflops"])


def _start(kind: type[Peer], case: Case) -> tuple[Peer, float]:
    """A peer that is warm, and how much longer its construction and first pass took than a later pass."""
    begin = time.perf_counter()
    peer = kind(case)
    peer.run(1)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    peer.run(1)
    return peer, max(0.0, first - (time.perf_counter() - begin))


def _passes(peer: Peer, seconds: float) -> int:
    """How many passes last about so many seconds, found once they no longer get faster.

    First passes are slow where the system hands out fresh memory: several times so in libraries that allocate large
    arrays in each call.
    """
    passes, best = 1, math.inf
    while True:
        taken = peer.run(passes)
        settled = taken / passes > 0.8 * best
        best = min(best, max(taken, 1e-9) / passes)
        if settled and taken >= seconds / 2:
            return max(1, round(seconds / best))
        passes = max(1, min(10 * passes, round(seconds / best)))


def _evidence(answers: NDArray[Any], case: Case) -> dict[str, Any]:
    """Losses of the first steps; of several networks the means."""
    return {"losses": answers.reshape(len(answers), -1).mean(axis=1).tolist()} if case.workload.trains else {}


def _judge(answers: NDArray[Any], expected: NDArray[Any], case: Case, limit: float) -> dict[str, Any]:
    """Whether a peer's losses or outputs are fastnn's."""
    what = "loss" if case.workload.trains else "output"
    if answers.shape != expected.shape:
        return {"status": "differs", "reason": f"{what} has shape {answers.shape}, fastnn's {expected.shape}"}
    scale = np.abs(expected) if case.workload.trains else np.abs(expected).max()
    difference = np.abs(answers - expected) / scale
    wrong = np.argwhere(~(difference <= limit))  # a NaN is wrong
    if not len(wrong):
        return {"difference": float(difference.max()), "limit": limit}
    first = tuple(wrong[0])
    where = f"step {first[0] + 1}" if case.workload.trains else f"row {first[0]}"
    reason = f"{what} {answers[first]:.6g} at {where}, fastnn's {expected[first]:.6g} (relative limit {limit:g})"
    return {"status": "differs", "reason": reason}


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
