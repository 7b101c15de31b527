"""Tables of `benchmarks/README.md` about training, from the results of `training.py`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

RESULTS = Path(__file__).parent / "results"


def training_section() -> str:
    """One part per results file."""
    paths = sorted(RESULTS.glob("training-*.json"))
    parts = [
        training_part(path.stem.removeprefix("training-"), json.loads(path.read_text("utf-8")))
        for path in paths
    ]
    return "\n\n".join(parts)


def training_part(name: str, found: dict[str, Any]) -> str:
    """One data set: description of the measurement, and tables."""
    versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
    return (
        f"### {name}\n\n"
        f"{found['training_samples']:,} training samples of {found['average_prefix']:.1f} clicks, at most "
        f"{found['longest_prefix']}; {found['catalogue']:,} items; {len(found['perspectives'])} perspectives "
        f"of {found['text_dim']} dimensions. Rates from {found['measured_samples']:,} samples "
        f"({found['common_samples']:,} for the common approach). {found['cpu']}, {found['cores']} cores, "
        f"load {found['load']:.1f} at the start; {versions}; seed {found['seed']}.\n\n"
        f"`{found['command']}`\n\n"
        f"{speed_table(found)}\n\n{memory_table(found)}\n\n{growth_table(found)}"
    )


def scale_section() -> str:
    """The committed measurement of catalogues up to a million items."""
    return scale_part(json.loads((RESULTS / "scale.json").read_text("utf-8")))


def scale_part(found: dict[str, Any]) -> str:
    """How training grows with the catalogue; ratios are medians of the rounds' ratios."""
    versions = ", ".join(f"{package} {number}" for package, number in found["versions"].items())
    loads = ", ".join(f"{load:.1f}" for load in found["loads"])
    heads = ["items", "full: samples/s", "peak memory", "sampled: samples/s", "peak memory"]
    heads += ["samples/s, sampled / full", "memory", "ms per sample", "times the first"]
    lines, first = [], None
    for full, sampled in zip(found["rows"][::2], found["rows"][1::2], strict=True):
        rates = [[one["cpu"] for one in row["rounds"]] for row in (full, sampled)]
        cells = [f"{full['items']:,}"]
        for row, rate in zip((full, sampled), rates, strict=True):
            cells += [f"{median(rate):,.0f}", f"{row['resident'] / 2**30:.2f} GB"]
        cells.append(f"{median(two / one for one, two in zip(*rates, strict=True)):.2f}")
        cells.append(f"{sampled['resident'] / full['resident']:.2f}")
        each = 1000 / median(rates[1])
        first = first or each
        lines.append([*cells, f"{each:.3f}", f"{each / first:.2f}"])
    return (
        f"{found['cpu']}, {found['cores']} cores, one thread, CPU time; load {loads} before and after each "
        f"catalogue; {versions}; {found['negatives']:,} negatives.\n\n`{found['command']}`\n\n"
        f"{_table(heads, lines)}"
    )


def speed_table(found: dict[str, Any]) -> str:
    """A line per contestant; ratios are medians of the rounds' ratios."""
    heads = ["backbone", "threads", "what", "samples/s", "s/epoch", "time / plain", "time / SR-GNN"]
    lines = [_speed_line(row, found) for row in found["rows"]]
    return _table([*heads, "times the common approach"], lines)


def _speed_line(row: dict[str, Any], found: dict[str, Any]) -> list[str]:
    rate = median(one[_clock(row)] for one in row["rounds"])
    cells = [row["backbone"], str(row["threads"]), row["kind"], f"{rate:,.0f}"]
    cells.append(f"{found['training_samples'] / rate:.1f}")
    if row["kind"].startswith("common"):
        return [*cells, "", "", ""]
    others = [
        _row(found, row, kind="plain"),
        _row(found, row, backbone="sr-gnn"),
        _row(found, row, kind=f"common {row['kind']}"),
    ]
    slower = [f"{1 / _ratio(row, other):.2f}" if other else "" for other in others[:2]]
    return [*cells, *slower, f"{_ratio(row, others[2]):.1f}" if others[2] else ""]


def memory_table(found: dict[str, Any]) -> str:
    """Peak memory in fresh processes, with and without mapped files."""
    heads = [
        "backbone",
        "what",
        "own memory",
        "own / plain",
        "resident with mapped files",
        "resident / plain",
    ]
    lines = []
    for row in found["memory"]:
        plain = next(
            one for one in found["memory"] if (one["backbone"], one["kind"]) == (row["backbone"], "plain")
        )
        cells = [row["backbone"], row["kind"]]
        for name in ("anonymous", "resident"):
            cells += [f"{row[name] / 2**20:.0f} MB", f"{row[name] / plain[name]:.3f}"]
        lines.append(cells)
    return _table(heads, lines)


def growth_table(found: dict[str, Any]) -> str:
    """Training time by number of samples, SR-GNN; ratios are medians of the rounds' ratios."""
    heads = ["what", "share of the samples", "samples", "s", "ms per sample", "time / plain"]
    plain = {row["share"]: _seconds(row) for row in found["growth"] if row["kind"] == "plain"}
    lines = []
    for row in found["growth"]:
        rounds = _seconds(row)
        seconds = median(rounds)
        ratio = median(one / two for one, two in zip(rounds, plain[row["share"]], strict=True))
        cells = [row["kind"], f"{row['share']:.0%}", f"{row['samples']:,.0f}", f"{seconds:.1f}"]
        lines.append([*cells, f"{1000 * seconds / row['samples']:.3f}", f"{ratio:.2f}"])
    return _table(heads, lines)


def _seconds(row: dict[str, Any]) -> list[float]:
    """CPU time of every round; older results have one."""
    return [one["cpu"] for one in row.get("rounds") or [row["seconds"]]]


def _clock(row: dict[str, Any]) -> str:
    return "cpu" if row["threads"] == 1 else "wall"  # one thread: other work on the machine counts less


def _ratio(row: dict[str, Any], other: dict[str, Any]) -> float:
    clock = _clock(row)
    pairs = zip(row["rounds"], other["rounds"], strict=True)
    return median(float(one[clock] / two[clock]) for one, two in pairs)


def _row(found: dict[str, Any], like: dict[str, Any], **changes: str) -> dict[str, Any] | None:
    wanted = {name: like[name] for name in ("backbone", "kind", "threads")} | changes
    alike = [row for row in found["rows"] if all(row[name] == value for name, value in wanted.items())]
    return alike[0] if alike else None


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
