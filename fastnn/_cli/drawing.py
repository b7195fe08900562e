"""Images and tables in plain text, for terminals of any width and encoding."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

# From blank to ink. Two characters a pixel make it square.
SHADES = " ░▒▓█"
ASCII_SHADES = " .+#@"


def is_plain(stream: TextIO | None = None) -> bool:
    """Whether only ASCII can be shown: the encoding has no shades, or the terminal is a dumb one."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        SHADES.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return os.environ.get("TERM") == "dumb"


def width() -> int:
    """Columns of the terminal; 80 where there is none."""
    return shutil.get_terminal_size((80, 24)).columns


def image(pixels: NDArray[Any], shades: str) -> list[str]:
    """Lines of a matrix of values in [0, 1]."""
    levels = np.clip(np.rint(pixels * (len(shades) - 1)), 0, len(shades) - 1).astype(int)
    return ["".join(shades[level] * 2 for level in row) for row in levels]


def beside(blocks: Sequence[Sequence[str]], gap: str = "  ") -> list[str]:
    """Blocks of equally many lines, side by side."""
    widths = [max(len(line) for line in block) for block in blocks]
    rows = zip(*blocks, strict=True)
    return [gap.join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def confusion_table(counts: NDArray[Any]) -> list[str]:
    """Lines of a confusion matrix: a dot is no image; true classes in rows."""
    cell = max(len(str(int(counts.max()))), len(str(len(counts) - 1))) + 2
    lines = ["true \\ read" + "".join(f"{k:>{cell}}" for k in range(len(counts)))]
    for k, row in enumerate(counts.astype(int)):
        lines.append(f"{k:>11}" + "".join(f"{n if n else '.':>{cell}}" for n in row))
    return lines
