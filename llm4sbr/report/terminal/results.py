"""The final table: what `evaluate/metrics.json` holds, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from llm4sbr.report.terminal.breakdown import breakdown_tables
from llm4sbr.report.terminal.layout import BEST, MISSING, count, duration, grid, size
from llm4sbr.report.terminal.sources import source_tables

STARS = ((0.01, "**"), (0.05, "*"))
"""Below this p-value a gain carries this mark."""

Row = Mapping[str, Any]


def metrics_tables(metrics: Mapping[str, Any], timings: Mapping[str, Row]) -> list[RenderableType]:
    """The tables of a run and, last, the sentence on what they show.

    Args:
        metrics: the content of `metrics.json`.
        timings: stage -> `seconds` and `peak_memory` (bytes) of its stamp.
    """
    *fewer, longest = sorted(metrics["k"])
    parts: list[RenderableType] = [Text(ground(metrics)), _main_table(metrics["rows"], longest)]
    parts.append(_legend(metrics["rows"]))
    parts += [_short_table(metrics["rows"], fewer[i : i + 2]) for i in range(0, len(fewer), 2)]
    parts += source_tables(metrics)
    parts += breakdown_tables(metrics)
    parts.append(_cost_table(metrics["rows"]))
    if timings:
        parts.append(_stage_table(timings))
    return [*parts, Text(metrics["verdict"], style="bold")]


def ground(metrics: Mapping[str, Any]) -> str:
    """What the numbers rest on, in one line: protocol, samples, seeds, split, where epochs were chosen."""
    seeds = metrics.get("seeds", 1)
    asked = " (the last click of each session)" if metrics.get("prefixes") == "last" else ""
    facts = [f"{metrics['samples']:,} test samples{asked}", f"{seeds} seed{'s' if seeds != 1 else ''}"]
    if metrics.get("split"):
        facts.append(f"split {metrics['split']}")
    if metrics.get("coverage") is not None:
        facts.append(f"{metrics['coverage']:.0%} with an LLM answer")
    if "test" in metrics.get("selected_on", ()):
        facts.append("BEST EPOCH CHOSEN ON THE TEST SET")
    if "none" in metrics.get("selected_on", ()):
        facts.append("last epoch kept for want of validation samples")
    return f"{_protocol(metrics)}Percent over {', '.join(facts)}; {ranking(metrics)}."


def ranking(metrics: Mapping[str, Any]) -> str:
    """Among what a target is ranked."""
    if "repeats" not in metrics:  # of an earlier version
        return "full ranking"
    own = "the session's own items included" if metrics["repeats"] else "the session's own items left out"
    return f"full ranking, {own}"


def _protocol(metrics: Mapping[str, Any]) -> str:
    """`PROTOCOL PAPER, but train.dim=64. `; nothing under the default protocol."""
    name, changes = metrics.get("protocol", "default"), metrics.get("protocol_changes", [])
    if name == "default":
        return ""
    but = f", but {', '.join(changes)}" if changes else ""
    return f"PROTOCOL {name.upper()}{but}. "


def _main_table(rows: Sequence[Row], k: int) -> RenderableType:
    names = [f"HR@{k}", f"MRR@{k}", f"NDCG@{k}"]
    best = _best(rows, names)
    header = ["model", _title(names[0]), "gain", names[1], "gain", names[2]]
    lines = []
    for row in rows:
        hits, reciprocal, discounted = (_value(row, name, best) for name in names)
        lines.append(
            [row["label"], hits, gain_text(row, names[0]), reciprocal, gain_text(row, names[1]), discounted]
        )
    return grid(header, lines)


def _short_table(rows: Sequence[Row], ks: Sequence[int]) -> RenderableType:
    names = [f"{metric}@{k}" for k in ks for metric in ("HR", "MRR", "NDCG")]
    best = _best(rows, names)
    header = ["model", *(_title(name, broken=True) for name in names)]
    return grid(header, [[r["label"], *(_value(r, n, best, spread=False) for n in names)] for r in rows])


def _cost_table(rows: Sequence[Row]) -> RenderableType:
    header = ["model", "parameters", "training", "samples/s", "peak memory"]
    lines = [
        [
            row["label"],
            count(row.get("parameters")),
            duration(row.get("seconds")),
            count(row.get("samples_per_second")),
            size(row.get("peak_memory")),
        ]
        for row in rows
    ]
    return grid(header, lines)


def _stage_table(timings: Mapping[str, Row]) -> RenderableType:
    lines = [[name, duration(t["seconds"]), size(t["peak_memory"])] for name, t in timings.items()]
    total = sum(timing["seconds"] for timing in timings.values())
    highest = max(timing["peak_memory"] for timing in timings.values())
    return grid(["stage", "time", "peak memory"], [*lines, ["all", duration(total), size(highest)]])


def _legend(rows: Sequence[Row]) -> Text:
    lines = [f"{BEST} best of its column."]
    if any(len(value["values"]) > 1 for row in rows for value in row["metrics"].values()):
        lines.append("± standard deviation over seeds.")
    if any(row.get("gain") for row in rows):
        marks = ", ".join(f"{mark} p < {level:g}" for level, mark in reversed(STARS))
        lines.append(f"gain: over the plain backbone; {marks} (paired test), no mark: may be chance.")
    return Text(" ".join(lines))


def _best(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float]:
    return {name: max((row["metrics"][name]["mean"] for row in rows), default=0.0) for name in names}


def _title(name: str, *, broken: bool = False) -> str:
    """`HR@20 (P@20)`: the paper calls the hit rate precision."""
    metric, _, k = name.partition("@")
    between = "\n" if broken else " "
    return f"{name}{between}(P@{k})" if metric == "HR" else name


def _value(row: Row, name: str, best: Mapping[str, float], *, spread: bool = True) -> Text:
    text = value_text(row, name, spread=spread)
    is_best = row["metrics"][name]["mean"] == best[name] > 0
    return Text(BEST + text, style="bold") if is_best else Text(text)


def value_text(row: Row, name: str, *, spread: bool = True) -> str:
    """`16.30 ± 0.12`: a metric in percent, with its deviation over seeds if there are several."""
    value = row["metrics"][name]
    several = spread and len(value["values"]) > 1
    return f"{100 * value['mean']:.2f}" + (f" ± {100 * value['std']:.2f}" if several else "")


def gain_text(row: Row, name: str) -> str:
    """`+12.3%*`: a row's gain over the plain backbone in a metric, with its mark of significance."""
    gain = (row.get("gain") or {}).get(name)
    if gain is None:
        return f"{MISSING}  "
    p = (row.get("p") or {}).get(name)
    mark = next((mark for level, mark in STARS if p is not None and p < level), "")
    return f"{gain:+.1%}{mark:<2}"
