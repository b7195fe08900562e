"""What was measured, as a plain table for terminals and as a table in Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from fastnn._cli.bench.peers import NAMES, OWN

_GAP = "  "
_MARKS = {"differs": "differs", "failed": "failed", "unavailable": "-"}


def number(value: float) -> str:
    """Three digits, or all that stand before the point.

    >>> [number(each) for each in (0.4567, 12.34, 1234.5)]
    ['0.457', '12.3', '1,234']
    """
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{2 if value >= 1 else 3}f}" if value < 10 else f"{value:.1f}"


def percent(share: float | None) -> str:
    """A share in whole percent, or in tenths where it is small; a dash where it is not known."""
    if share is None:
        return "-"
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"


def peers_of(result: Mapping[str, Any]) -> list[str]:
    """Peers that have a ratio, or should have one, in at least one workload; they get a column."""
    seen = {
        name
        for work in result["workloads"]
        for name, entry in work["peers"].items()
        if name != OWN and entry["status"] != "unavailable"
    }
    return [name for name in NAMES if name in seen] + sorted(seen - set(NAMES))


def table(result: Mapping[str, Any]) -> list[str]:
    """The lines of the table: workloads, fastnn's microseconds and share of the peak, the peers' ratios."""
    peers = peers_of(result)
    titles = [("", "workload"), ("", "us"), ("of", "peak"), *(_title(name) for name in peers)]
    rows = []
    for work in result["workloads"]:
        own = work["peers"][OWN]
        cells = [work["name"], number(own["median_us"]), percent(own["share_of_peak"])]
        rows.append(cells + [_cell(work["peers"].get(name)) for name in peers])
    lines = [*zip(*titles, strict=True), *rows]
    widths = [max(len(line[k]) for line in lines) for k in range(len(titles))]
    return [
        _GAP.join(f"{c:{'>' if k else '<'}{w}}" for k, (c, w) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in lines
    ]


def notes(result: Mapping[str, Any]) -> list[str]:
    """One line for each peer that is missing somewhere, with the reason and the workloads."""
    lines = [f"{name}: {reason}" for name, reason in result["skipped"].items()]
    training = [work["name"] for work in result["workloads"] if work["trains"]]
    groups = {"all workloads": [work["name"] for work in result["workloads"]], "all that train": training}
    found: dict[tuple[str, str, str], list[str]] = {}
    for work in result["workloads"]:
        for name, entry in work["peers"].items():
            if entry["status"] != "ok":
                found.setdefault((name, entry["status"], entry["reason"]), []).append(work["name"])
    for (name, status, reason), works in found.items():
        where = next((title for title, group in groups.items() if len(group) > 1 and works == group), ", ".join(works))
        said = {"differs": "does not compute the same: ", "failed": "failed: ", "unavailable": ""}[status]
        lines.append(f"{name}: {said}{reason} [{where}]")
    return lines


def text(result: Mapping[str, Any], width: int) -> str:
    """The whole report for a terminal of so many columns. The table is not cut where they are too few."""
    machine, options = result["machine"], result["options"]
    core = machine["pinned_to_core"]
    where = "one thread" if core is None else f"one thread on core {core}"
    head = [
        f"fastnn {result['fastnn']}, {options['dtype']}, {where} of {machine['cpu']}",
        f"Microseconds a step: medians of {options['rounds']} interleaved rounds of about {options['seconds']:g} s.",
        "Columns of peers: their time / fastnn's; above 1, fastnn is faster.",
        f"Of peak: {peak_line(result)}",
    ]
    parts = [wrap(head, width), table(result), wrap(compile_lines(result), width)]
    said = notes(result)
    if said:
        parts.append(wrap(["Left out, and why:", *(f"- {line}" for line in said)], width))
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts.append(wrap([f"Python {machine['python'].split()[-1]}, {versions}"], width))
    return "\n\n".join("\n".join(part) for part in parts)


def peak_line(result: Mapping[str, Any]) -> str:
    """What the share of the peak refers to."""
    peaks = [work["peak"] for work in result["workloads"] if work["peak"] is not None]
    if not peaks:
        return "not measured (needs threadpoolctl or torch)."
    low, high = (pick(peaks, key=lambda each: each["gflops"]) for pick in (min, max))
    size = " x ".join(map(str, high["size"]))
    rates = f"{high['gflops']:.0f}"
    if round(low["gflops"]) != round(high["gflops"]):
        rates = f"{low['gflops']:.0f} to {rates}"
    return f"the best matrix product beside each workload, {rates} GFLOP/s ({high['library']}, m n k {size})."


def compile_lines(result: Mapping[str, Any]) -> list[str]:
    """How long each peer took before its first ordinary step, over all workloads."""
    sums: dict[str, float] = {}
    for work in result["workloads"]:
        for name, entry in work["peers"].items():
            if entry["status"] == "ok":
                sums[name] = sums.get(name, 0.0) + entry["compile_seconds"]
    said = ", ".join(f"{name} {seconds:.1f}" for name, seconds in sums.items())
    return [f"Seconds of set-up and compilation, not in the times, all workloads together: {said}"]


def markdown(result: Mapping[str, Any]) -> str:
    """The table in Markdown, with the machine, date, versions and command that belong to it."""
    peers, machine, options = peers_of(result), result["machine"], result["options"]
    lines = [
        "| workload | fastnn, µs | of peak | " + " | ".join(peers) + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(peers),
    ]
    for work in result["workloads"]:
        own = work["peers"][OWN]
        cells = [str(work["description"]), number(own["median_us"]), percent(own["share_of_peak"])]
        cells += [_cell(work["peers"].get(name)) for name in peers]
        lines.append(f"| {' | '.join(cells)} |")
    core = "one thread" if machine["pinned_to_core"] is None else "one thread, pinned"
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    said = (
        f"Microseconds a training step or call in fastnn; for the others, their time as a multiple of fastnn's. "
        f"{options['dtype']}, {core}; medians of {options['rounds']} interleaved rounds. Of peak: {peak_line(result)} "
        f"Measured {result['date'][:10]} on {machine['cpu']} ({machine['architecture']}), {machine['system']}, "
        f"Python {machine['python'].split()[-1]}, fastnn {result['fastnn']}, {versions}."
    )
    lines += ["", *textwrap.wrap(said, 120, break_long_words=False, break_on_hyphens=False)]
    left = [f"- {line}" for line in notes(result)]
    if left:
        lines += ["", "Left out:", "", *left]
    return "\n".join([*lines, "", f"Measured again with `{result['command']}`."])


def _title(name: str) -> tuple[str, str]:
    """A peer's name on two lines."""
    first, _, second = name.replace("onnxr", "onnx-r").partition("-")
    return (first, second) if second else ("", first)


def _cell(entry: Mapping[str, Any] | None) -> str:
    """A ratio, or what is there in its place."""
    if entry is None:
        return "-"
    return number(entry["ratio"]) if entry["status"] == "ok" else _MARKS[entry["status"]]


def wrap(lines: Sequence[str], width: int) -> list[str]:
    """Lines of text broken at the width of the terminal."""
    found = []
    for line in lines:
        found += textwrap.wrap(line, max(width, 40), subsequent_indent="  ", break_on_hyphens=False)
    return found
