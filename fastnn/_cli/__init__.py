"""The command line: ``python -m fastnn demo``, ``bench``, ``info``, ``warmup``. Each command has one ``run``."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fastnn
from fastnn import _checks


def _integer(low: int) -> Callable[[str], int]:
    """A whole number of at least ``low``, for argparse."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if value < low:
            raise argparse.ArgumentTypeError(f"must be a whole number of at least {low}, got {text!r}")
        return value

    return read


def _seconds(text: str) -> float:
    """A length of time, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, got {text!r}")
    return value


def _listed(names_on: Mapping[str, Iterable[str]]) -> str:
    """The names that each device knows."""
    return "; ".join(f"{device}: {', '.join(names)}" for device, names in names_on.items())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastnn",
        description="Feed-forward neural networks whose hot loops are Numba kernels.",
    )
    parser.add_argument("--version", action="version", version=f"fastnn {fastnn.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    text = "train on 1,797 real handwritten digits and print what came of it"
    demo = commands.add_parser("demo", help=text, description=text[0].upper() + text[1:] + ".")
    demo.add_argument(
        "--plot", metavar="FILE", type=Path, help="also draw the result into FILE (.png, .pdf, .svg); needs matplotlib"
    )
    demo.add_argument(
        "--seed", metavar="N", type=_integer(0), default=0, help="of the network; the held-out images stay (default 0)"
    )
    demo.add_argument(
        "--epochs", metavar="N", type=_integer(1), default=60, help="passes over the images (default %(default)s)"
    )

    _add_bench(commands)

    text = "print versions, CPU, cache folder and GPU"
    commands.add_parser("info", help=text, description=text[0].upper() + text[1:] + ".")

    text = "compile and cache every kernel, so that no later program waits for the compiler"
    commands.add_parser("warmup", help=text, description=text[0].upper() + text[1:] + ".")
    return parser


def _add_bench(commands: Any) -> None:
    from fastnn._cli.bench import DEVICES, PEERS_ON, WORKLOADS_ON
    from fastnn._cli.bench.workloads import ACTIVATIONS, DTYPES

    text = "time fastnn beside PyTorch, JAX, scikit-learn and ONNX Runtime, those that are installed"
    bench = commands.add_parser("bench", help=text, description=text[0].upper() + text[1:] + ".")
    bench.set_defaults(refuse=bench.error)
    bench.add_argument("--device", choices=DEVICES, default="cpu", help="cuda: an NVIDIA GPU (default %(default)s)")
    bench.add_argument(
        "--workloads", metavar="NAME", nargs="+", default=None, help=f"(default: all) {_listed(WORKLOADS_ON)}"
    )  # fmt: skip
    bench.add_argument(
        "--peers", metavar="NAME", nargs="+", default=None, help=f"(default: all) {_listed(PEERS_ON)}"
    )  # fmt: skip
    bench.add_argument(
        "--rounds", metavar="N", type=_integer(1), default=None, help="measurements of each peer (default 7)"
    )
    bench.add_argument(
        "--seconds", metavar="S", type=_seconds, default=None, help="rough length of a measurement (default 0.2)"
    )
    bench.add_argument("--dtype", choices=DTYPES, default=None, help="(default float32)")
    bench.add_argument(
        "--activation", choices=ACTIVATIONS, default=None, help="of all hidden layers (default: the workload's own)"
    )
    bench.add_argument("--quick", action="store_true", help="3 rounds of 0.05 s, no torch-compile, unless asked for")
    bench.add_argument("--json", metavar="FILE", type=Path, default=None, help="also write everything measured there")


def _run_bench(given: argparse.Namespace) -> int:
    from fastnn._cli import bench

    for argument, what, known in (("workloads", "a workload", bench.WORKLOADS_ON), ("peers", "a peer", bench.PEERS_ON)):
        for name in getattr(given, argument) or ():
            try:
                _checks.choice(what, name, known[given.device])
            except ValueError as error:
                given.refuse(f"argument --{argument}: {error}")
    if given.device == "cuda" and given.dtype not in (None, "float32"):
        given.refuse(f"argument --dtype: must be float32 with --device cuda, got {given.dtype!r}")
    asked: dict[str, Any] = {
        field.name: tuple(dict.fromkeys(value)) if isinstance(value, list) else value
        for field in dataclasses.fields(bench.Options)
        if (value := getattr(given, field.name)) is not None
    }
    base = bench.Options.quick(given.device) if given.quick else bench.Options.on(given.device)
    return bench.run(dataclasses.replace(base, **asked), given.json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: wrong usage)."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "demo":
            from fastnn._cli import demo

            status = demo.run(seed=given.seed, epochs=given.epochs, plot=given.plot)
        elif given.command == "bench":
            status = _run_bench(given)
        elif given.command == "info":
            from fastnn._cli import info

            status = info.run()
        else:
            from fastnn._cli import warmup

            status = warmup.run()
        print(end="", flush=True)
        return status
    except BrokenPipeError:
        # The reader (head, less) has left; without this Python complains once more when it closes standard output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
