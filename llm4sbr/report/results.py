"""The results of `metrics.json` as tables: metrics with gains, shorter lists, cost of models and stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm4sbr.evaluation.verdict import CONTROLS
from llm4sbr.report.formats import MISSING, count, duration, metric, p_value, percent, size
from llm4sbr.report.table import Row, Table, TableCell, best_value, cells

PLAIN = "plain"
"""Name of the row with which gains are compared."""

STILL_RISING = "still rising"
"""Note for a row whose training ended while its validation metric was still improving."""

STARS = ((0.01, "**"), (0.05, "*"))
"""Significance levels and the marks of gains whose p-value is smaller."""

METRICS = ("HR", "MRR", "NDCG")

Timings = Mapping[str, Mapping[str, float]]
"""Stage -> `seconds` and `peak_memory` in bytes."""


def mark_controls(rows: Sequence[Row], llm: str | None) -> list[dict[str, Any]]:
    """The rows; the row `llm` is marked as a control if a control made its intents instead of an LLM.

    Args:
        rows: rows of `metrics.json`.
        llm: the setting `infer.llm`.
    """
    return [
        {**row, "kind": "control"} if row["kind"] == "intents" and llm in CONTROLS else {**row}
        for row in rows
    ]


def setting(metrics: Mapping[str, Any]) -> str:
    """The setup of the results in one line: protocol, samples, seeds, split, how epochs were chosen."""
    seeds = metrics.get("seeds", 1)
    asked = " (the last click of each session)" if metrics.get("prefixes") == "last" else ""
    facts = [f"{metrics['samples']:,} test samples{asked}", f"{seeds} seed{'s' if seeds != 1 else ''}"]
    if metrics.get("split"):
        facts.append(f"split {metrics['split']}")
    if metrics.get("coverage") is not None:
        facts.append(_coverage(metrics["coverage"], metrics.get("llm")))
    if "test" in metrics.get("selected_on", ()):
        facts.append("BEST EPOCH CHOSEN ON THE TEST SET")
    if "none" in metrics.get("selected_on", ()):
        facts.append("last epoch kept, since there are no validation samples")
    if metrics.get("sampled"):
        facts.append(f"trained on sampled items ({'; '.join(metrics['sampled'])})")
    if warm := metrics.get("warm"):
        anew = f" ({', '.join(warm['anew'])}: trained anew)" if warm["anew"] else ""
        facts.append(f"models started from those of {warm['from']}{anew}")
    return f"{_protocol(metrics)}Percent over {', '.join(facts)}; {ranking(metrics)}."


def ranking(metrics: Mapping[str, Any]) -> str:
    """The items among which a target is ranked."""
    if "repeats" not in metrics:  # written by an earlier version
        return "full ranking"
    own = "the session's own items included" if metrics["repeats"] else "the session's own items left out"
    return f"full ranking, {own}"


def main_table(rows: Sequence[Row], k: int, *, gains: Sequence[str] = METRICS) -> Table:
    """Metrics at K with their deviation over seeds, the gain over the plain backbone and its p-value.

    Args:
        rows: of `metrics.json`.
        k: length of the lists.
        gains: metrics that have a column of gains beside them.
    """
    names = [f"{name}@{k}" for name in METRICS]
    shown = [name for name in names if name.partition("@")[0] in gains]
    header = cells("model")
    best = best_of(rows, names)
    lines = [[label(row)._replace(note=STILL_RISING if row.get("still_rising") else "")] for row in rows]
    for name in names:
        header += [metric_header(name), *cells(*["gain"] * (name in shown))]
        for row, line in zip(rows, lines, strict=True):
            line += [value(row, name, best), *([gain(row, name)] if name in shown else [])]
    return Table(f"Percent, lists of {k}", header, lines, legend(rows))


def shorter_table(rows: Sequence[Row], ks: Sequence[int]) -> Table:
    """The same metrics at shorter lists."""
    names = [f"{name}@{k}" for k in ks for name in METRICS]
    best = best_of(rows, names)
    lines = [[label(row), *(value(row, name, best) for name in names)] for row in rows]
    return Table("Shorter lists, in percent", [TableCell("model"), *map(metric_header, names)], lines)


def cost_table(rows: Sequence[Row]) -> Table:
    """Time and memory of every model, compared with the plain backbone (the paper's Table 3)."""
    plain = next((row for row in rows if row["name"] == PLAIN), {})
    columns = {"parameters": count, "seconds": duration, "samples_per_second": count, "peak_memory": size}
    names = ["parameters", "training", "samples/s", "peak memory"]
    if any(row.get("device_memory") for row in rows):
        columns["device_memory"] = size
        names.append("of the GPU")
    lines = [
        [label(row)]
        + [TableCell(show(row.get(key)), note=_more(row, plain, key)) for key, show in columns.items()]
        for row in rows
    ]
    legend = "Mean over seeds; peak memory is that of the whole process, with data and libraries."
    return Table(
        "Cost of each model, compared with the plain backbone", cells("model", *names), lines, legend
    )


def stages_table(timings: Timings) -> Table | None:
    """Time and memory of every finished stage, and of all; None if none is finished."""
    if not timings:
        return None
    lines = [cells(name, duration(one["seconds"]), size(one["peak_memory"])) for name, one in timings.items()]
    total = sum(one["seconds"] for one in timings.values())
    highest = max(one["peak_memory"] for one in timings.values())
    lines.append(cells("all", duration(total), size(highest)))
    return Table("Stages of the run", cells("stage", "time", "peak memory"), lines)


def legend(rows: Sequence[Row]) -> str:
    """Explains the numbers and marks that a table of metrics shows."""
    lines = []
    if any(len(found["values"]) > 1 for row in rows for found in row["metrics"].values()):
        lines.append("± standard deviation over seeds.")
    if any(row.get("gain") for row in rows):
        marks = ", ".join(f"{mark} p < {level:g}" for level, mark in reversed(STARS))
        lines.append(f"gain: over the plain backbone; {marks} (paired test), no mark: may be chance.")
    if any(row.get("still_rising") for row in rows):
        lines.append(
            f"{STILL_RISING}: for at least one seed, training ended at train.epochs while the validation "
            "metric was still rising; more epochs may give a better model."
        )
        if any(row.get("still_rising") for row in rows if row["name"] == PLAIN):
            lines.append("The plain backbone is one of these, so gains over it look larger than they are.")
    return " ".join(lines)


def best_of(rows: Sequence[Row], names: Sequence[str]) -> dict[str, float | None]:
    """For each metric the value to mark as best, see `best_value`."""
    return {name: best_value([row["metrics"][name]["mean"] for row in rows]) for name in names}


def label(row: Row) -> TableCell:
    """A row's heading, with controls and baselines marked."""
    return TableCell(row["label"], badge=row["kind"] if row["kind"] in ("control", "baseline") else "")


def metric_header(name: str) -> TableCell:
    """`HR@20`, which the paper calls P@20."""
    kind, _, k = name.partition("@")
    return TableCell(name, note=f"P@{k}" if kind == "HR" else "")


def value(row: Row, name: str, best: Mapping[str, float | None]) -> TableCell:
    """A metric in percent, with the deviation over seeds if there are several."""
    found = row["metrics"][name]
    spread = f"± {metric(found['std'])}" if len(found["values"]) > 1 else ""
    return TableCell(metric(found["mean"]), spread=spread, best=found["mean"] == best[name])


def gain(row: Row, name: str) -> TableCell:
    """The relative difference to the plain backbone, with its mark of significance and its p-value."""
    found, p = (row.get("gain") or {}).get(name), (row.get("p") or {}).get(name)
    if found is None:
        return TableCell(MISSING)
    mark = next((mark for level, mark in STARS if p is not None and p < level), "")
    return TableCell(f"{found:+.1%}", mark, note="" if p is None else p_value(p))


def peak(row: Row) -> float | None:
    """Peak memory in training in bytes: of the GPU if one was used, else of the whole process."""
    found: float | None = row.get("device_memory") or row.get("peak_memory")
    return found


def _coverage(share: float, llm: str | None) -> str:
    return (
        f"no LLM asked, {percent(share)} with {llm}"
        if llm in CONTROLS
        else f"{percent(share)} with an LLM answer"
    )


def _protocol(metrics: Mapping[str, Any]) -> str:
    """`PROTOCOL PAPER, but train.dim=64. `; nothing under the default protocol."""
    name, changes = metrics.get("protocol", "default"), metrics.get("protocol_changes", [])
    if name == "default":
        return ""
    but = f", but {', '.join(changes)}" if changes else ""
    return f"PROTOCOL {name.upper()}{but}. "


def _more(row: Row, plain: Row, key: str) -> str:
    """The difference to the plain backbone, relative."""
    if key == "seconds" or row is plain or not row.get(key) or not plain.get(key):
        return ""
    return f"{row[key] / plain[key] - 1:+.1%}"
