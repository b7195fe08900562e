"""``python -m fastnn bench``: fastnn beside the libraries one would use in its place, on this machine."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import fastnn
from fastnn._cli import drawing
from fastnn._cli.bench import gpu, machine, measure, peers, report
from fastnn._cli.bench.gpu import report as gpu_report
from fastnn._cli.bench.gpu.workloads import WORKLOADS as GPU_WORKLOADS
from fastnn._cli.bench.peak import Peak
from fastnn._cli.bench.peers import OWN, Peer, UnavailableError
from fastnn._cli.bench.workloads import WORKLOADS, make_case

_SLOW_TO_COMPILE = "torch-compile"  # and its variants
DEVICES = ("cpu", "cuda")
WORKLOADS_ON = {"cpu": tuple(WORKLOADS), "cuda": tuple(GPU_WORKLOADS)}
PEERS_ON = {"cpu": peers.NAMES, "cuda": peers.GPU_NAMES}


@dataclass(frozen=True)
class Options:
    """What is measured, and how long.

    Attributes
    ----------
    workloads : tuple of str
    peers : tuple of str
        fastnn is measured whether or not it is named.
    rounds : int
    seconds : float
        Rough length of a peer's block in a round.
    dtype : str
    activation : str or None
        Of the hidden layers; None leaves each workload its own.
    device : {"cpu", "cuda"}
    """

    workloads: tuple[str, ...] = WORKLOADS_ON["cpu"]
    peers: tuple[str, ...] = PEERS_ON["cpu"]
    rounds: int = 7
    seconds: float = 0.2
    dtype: str = "float32"
    activation: str | None = None
    device: str = "cpu"

    @classmethod
    def on(cls, device: str) -> Options:
        """All workloads and peers of a device."""
        return cls(WORKLOADS_ON[device], PEERS_ON[device], device=device)

    @classmethod
    def quick(cls, device: str = "cpu") -> Options:
        """A first look: short rounds, and no peer that takes long to compile."""
        fast = tuple(name for name in PEERS_ON[device] if not name.startswith(_SLOW_TO_COMPILE))
        return replace(cls.on(device), peers=fast, rounds=3, seconds=0.05)


def run(options: Options, path: Path | None) -> int:
    """Measure, print the table, write it to ``path`` as JSON; returns the exit status, 1 where a peer differs."""
    if path is not None and (path.is_dir() or not os.access(path.absolute().parent, os.W_OK)):
        why = "it is a folder" if path.is_dir() else "no such writable folder"
        print(f"python -m fastnn bench: error: --json cannot write {str(path)!r}: {why}", file=sys.stderr)
        return 2
    say = _say if sys.stderr.isatty() else lambda text: None
    if options.device == "cpu":
        result = collect(options, say)
        print(report.text(result, drawing.width()))
    else:
        lacking = gpu.missing()
        if lacking is not None:
            print(f"python -m fastnn bench: error: --device cuda: {lacking}", file=sys.stderr)
            return 2
        kinds, skipped = _load(options)
        result = gpu.collect(options, kinds, command(options), say) | {"skipped": skipped}
        print(gpu_report.text(result, drawing.width()))
    if path is not None:
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten to {path}")
    return int(any(entry["status"] == "differs" for work in result["workloads"] for entry in work["peers"].values()))


def collect(options: Options, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything; what comes back is what ``--json`` writes.

    Parameters
    ----------
    options : Options
    say : function of str
        Called with a line of progress before each workload.

    Returns
    -------
    dict
        "fastnn", "date", "command", "options", "machine", "versions", "skipped" (peers that are not here, and why) and
        "workloads": a list of what ``measure.compare`` returns.
    """
    kinds, skipped = _load(options)
    # Imports first: the limit holds only the libraries that are there.
    with contextlib.ExitStack() as stack:
        stack.enter_context(machine.one_core())
        limit = machine.one_blas_thread()
        if limit is not None:
            stack.enter_context(limit)
        peak = Peak(options.dtype, numpy_is_single=limit is not None)
        works = []
        for k, name in enumerate(options.workloads):
            case = make_case(WORKLOADS[name], options.dtype, options.activation)
            say(f"{k + 1} of {len(options.workloads)}: {name} ({case.workload.describe()})")
            works.append(measure.compare(case, kinds, options.rounds, options.seconds, peak))
    return {
        "fastnn": fastnn.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command(options),
        "options": asdict(options),
        "machine": machine.facts(),
        "versions": {package: version for kind in kinds.values() for package, version in kind.versions().items()},
        "skipped": skipped,
        "workloads": works,
    }


def command(options: Options) -> str:
    """The command line that measures with these options."""
    words = ["python -m fastnn bench"]
    default = replace(Options.on(options.device), device="cpu")
    for name, value in asdict(options).items():
        if value != getattr(default, name):
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return " ".join(words)


def _load(options: Options) -> tuple[dict[str, type[Peer]], dict[str, str]]:
    """Classes of the peers that are here, fastnn's first, and why the others are not."""
    load = peers.load if options.device == "cpu" else peers.load_gpu
    kinds, skipped = {OWN: load(OWN)}, {}
    for name in PEERS_ON[options.device]:
        if name not in options.peers:
            continue
        try:
            kinds[name] = load(name)
        except UnavailableError as error:
            skipped[name] = str(error)
    if options.peers == Options.quick(options.device).peers:
        slow = (name for name in PEERS_ON[options.device] if name.startswith(_SLOW_TO_COMPILE))
        skipped |= dict.fromkeys(slow, "left out by --quick")
    return kinds, skipped


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
