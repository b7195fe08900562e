"""``python -m fastnn bench --device cuda``: networks on an NVIDIA GPU, beside PyTorch there."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fastnn
from fastnn._cli.bench import machine, measure
from fastnn._cli.bench.gpu.workloads import WORKLOADS, least_bytes
from fastnn._cli.bench.peers import Peer
from fastnn._cli.bench.workloads import make_case


def missing() -> str | None:
    """Why nothing can be measured here; None where it can."""
    try:
        from fastnn.cuda._jit import SIMULATED, cuda
    except ImportError as error:
        return str(error)
    if SIMULATED:
        return "needs an NVIDIA GPU, and this is numba-cuda's simulator (NUMBA_ENABLE_CUDASIM)"
    if not cuda.is_available():
        why = " ".join(str(cuda.cuda_error() or "").split())
        return "needs an NVIDIA GPU and its driver, and finds none" + (f" ({why})" if why else "")
    return None


def collect(options: Any, kinds: Mapping[str, type[Peer]], command: str, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything; what comes back is what ``--json`` writes, less "skipped".

    Parameters
    ----------
    options : Options
    kinds : mapping of str to Peer class
        fastnn's own, in float32, among them.
    command : str
        The command line that measures so again.
    say : function of str
        Called with a line of progress before each workload.

    Returns
    -------
    dict
        As from `fastnn._cli.bench.collect`, and: "gpu", and for each workload "least_bytes" and the "ceilings" measured
        beside it in place of "peak", and for each peer "precision" and "share_of_bandwidth".
    """
    from fastnn._cli.bench.gpu.ceilings import Ceilings

    ceilings = Ceilings()
    works = []
    for k, name in enumerate(options.workloads):
        case = make_case(WORKLOADS[name], options.dtype, options.activation)
        say(f"{k + 1} of {len(options.workloads)}: {name} ({case.workload.describe()})")
        measured = measure.compare(case, kinds, options.rounds, options.seconds, ceilings)
        works.append(with_shares(measured, kinds, least_bytes(case.workload)))
    return {
        "fastnn": fastnn.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command,
        "options": asdict(options),
        "machine": machine.facts(),
        "gpu": facts(),
        "versions": {package: version for kind in kinds.values() for package, version in kind.versions().items()},
        "workloads": works,
    }


def with_shares(work: Mapping[str, Any], kinds: Mapping[str, type[Peer]], moved: int) -> dict[str, Any]:
    """What ``measure.compare`` returned, with each time as a share of what the GPU could do.

    Of the arithmetic peak in the peer's own precision; of the bandwidth for the bytes that any implementation has to
    move. Work that stays in the caches may do better than the bandwidth.
    """
    found = {name: value for name, value in work.items() if name != "peak"}
    ceilings = work["peak"]
    found |= {"ceilings": ceilings, "least_bytes": moved, "peers": {}}
    for name, entry in work["peers"].items():
        precision = kinds[name].precision
        entry = entry | {"precision": precision}
        if entry["status"] == "ok":
            peak = ceilings["gflops"].get(precision)
            entry["share_of_peak"] = (
                None if peak is None else measure.share_of_peak(work["flops"], entry["median_us"], {"gflops": peak})
            )
            entry["share_of_bandwidth"] = moved / (entry["median_us"] * 1e3) / ceilings["gigabytes_per_second"]
        found["peers"][name] = entry
    return found


def facts() -> dict[str, Any]:
    """What a report says about the GPU."""
    from fastnn.cuda._jit import cuda

    device = cuda.get_current_device()
    name = device.name
    return {
        "name": name.decode() if isinstance(name, bytes) else str(name),
        "compute_capability": list(device.compute_capability),
        "multiprocessors": int(device.MULTIPROCESSOR_COUNT),
        "memory_bytes": int(cuda.current_context().get_memory_info().total),
        "driver": driver(),
    }


def driver(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The version of the kernel's driver, where the system tells it."""
    try:
        words = path.read_text(encoding="utf-8").split()
    except OSError:
        return None
    return next((word for word in words if word[0].isdigit() and word.count(".") >= 1), None)
