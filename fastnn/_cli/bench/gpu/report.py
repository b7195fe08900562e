"""What was measured on a GPU, as a table for each workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastnn._cli.bench.peers import OWN
from fastnn._cli.bench.report import compile_lines, notes, number, percent, wrap

_TITLES = ("", "us", "ratio", "of peak", "of bandwidth")


def text(result: Mapping[str, Any], width: int) -> str:
    """The whole report for a terminal of so many columns. Tables are not cut where they are too few."""
    gpu, options = result["gpu"], result["options"]
    driver = f", driver {gpu['driver']}" if gpu["driver"] else ""
    head = [
        f"fastnn {result['fastnn']} on {gpu['name']}{driver}",
        f"Microseconds a step: medians of {options['rounds']} interleaved rounds of about {options['seconds']:g} s, "
        "between CUDA events.",
        f"Ratio: time / that of {OWN}, which is float32; above 1, {OWN} is faster.",
        "Of peak: of a large matrix product in the same precision, by PyTorch. Of bandwidth: of a copy in the GPU's "
        "memory, for the bytes that cannot but be moved; above 100 % they stay in its caches.",
    ]
    parts = [wrap(head, width)]
    for work in result["workloads"]:
        parts.append([*wrap([_title(work)], width), *table(work), *wrap([_ceilings(work)], width)])
    parts.append(wrap(compile_lines(result), width))
    said = notes(result)
    if said:
        parts.append(wrap(["Left out, and why:", *(f"- {line}" for line in said)], width))
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts.append(wrap([f"{result['machine']['python']}, {versions}"], width))
    return "\n\n".join("\n".join(part) for part in parts)


def table(work: Mapping[str, Any]) -> list[str]:
    """The lines of a workload's table: each peer that was timed."""
    rows = [_TITLES]
    for name, entry in work["peers"].items():
        if entry["status"] == "ok":
            shares = (percent(entry[f"share_of_{of}"]) for of in ("peak", "bandwidth"))
            rows.append((name, number(entry["median_us"]), number(entry["ratio"]), *shares))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{c:{'>' if k else '<'}{w}}" for k, (c, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]


def _title(work: Mapping[str, Any]) -> str:
    operations, moved = amount(work["flops"], "FLOP"), amount(work["least_bytes"], "B")
    return f"{work['name']}: {work['description']}; {operations}, {moved}"


def _ceilings(work: Mapping[str, Any]) -> str:
    """What the shares refer to."""
    found = work["ceilings"]
    rates = [f"{precision} {gflops / 1e3:.0f}" for precision, gflops in found["gflops"].items()]
    peaks = f"products, TFLOP/s: {', '.join(rates)}" if rates else "no products (needs PyTorch with CUDA)"
    return f"Beside it: copy {found['gigabytes_per_second']:.0f} GB/s; {peaks}."


def amount(value: float, unit: str) -> str:
    """A number with a decimal prefix.

    >>> amount(8_589_934_592, "FLOP"), amount(640, "B")
    ('8.59 GFLOP', '640 B')
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{number(value / factor)} {prefix}{unit}"
    return f"{value:g} {unit}"
