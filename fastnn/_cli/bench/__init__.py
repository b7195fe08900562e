"""``python -m fastnn bench``: fastnn beside the libraries one would use in its place, on this machine."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fastnn
from fastnn._cli import drawing
from fastnn._cli.bench import machine, measure, peers, report
from fastnn._cli.bench.peak import Peak
from fastnn._cli.bench.peers import OWN, Peer, UnavailableError
from fastnn._cli.bench.workloads import WORKLOADS, make_case

_SLOW_TO_COMPILE = "torch-compile"


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
    """

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    peers: tuple[str, ...] = peers.NAMES
    rounds: int = 7
    seconds: float = 0.2
    dtype: str = "float32"
    activation: str | None = None

    @classmethod
    def quick(cls) -> Options:
        """A first look: short rounds, and no peer that takes long to compile."""
        return cls(peers=tuple(name for name in peers.NAMES if name != _SLOW_TO_COMPILE), rounds=3, seconds=0.05)


def run(options: Options, path: Path | None) -> int:
    """Measure, print the table, write it to ``path`` as JSON; returns the exit status, 1 where a peer differs."""
    if path is not None and (path.is_dir() or not os.access(path.absolute().parent, os.W_OK)):
        why = "it is a folder" if path.is_dir() else "no such writable folder"
        print(f"python -m fastnn bench: error: --json cannot write {str(path)!r}: {why}", file=sys.stderr)
        return 2
    result = collect(options, _say if sys.stderr.isatty() else lambda text: None)
    print(report.text(result, drawing.width()))
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
    default = Options()
    for name, value in asdict(options).items():
        if value != getattr(default, name):
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
    return " ".join(words)


def _load(options: Options) -> tuple[dict[str, type[Peer]], dict[str, str]]:
    """Classes of the peers that are here, fastnn's first, and why the others are not."""
    kinds, skipped = {OWN: peers.load(OWN)}, {}
    for name in peers.NAMES:
        if name not in options.peers:
            continue
        try:
            kinds[name] = peers.load(name)
        except UnavailableError as error:
            skipped[name] = str(error)
    if options.peers == Options.quick().peers:
        skipped[_SLOW_TO_COMPILE] = "left out by --quick"
    return kinds, skipped


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
