"""The command line: ``python -m fastnn demo``, ``info`` and ``warmup``. Each command is a module with one ``run``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import fastnn


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

    text = "print versions, CPU, cache folder and GPU"
    commands.add_parser("info", help=text, description=text[0].upper() + text[1:] + ".")

    text = "compile and cache every kernel, so that no later program waits for the compiler"
    commands.add_parser("warmup", help=text, description=text[0].upper() + text[1:] + ".")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: wrong usage)."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "demo":
            from fastnn._cli import demo

            status = demo.run(seed=given.seed, epochs=given.epochs, plot=given.plot)
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
