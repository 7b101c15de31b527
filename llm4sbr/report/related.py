"""Tables of the experiment `related`: what each system finds and takes, and what the paper says about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llm4sbr.evaluation.systems import SYSTEMS, WHOLE, WITHOUT, System
from llm4sbr.evaluation.verdict import LEVEL
from llm4sbr.report.asked import asked_table
from llm4sbr.report.cells import Entry, rows_of
from llm4sbr.report.formats import MISSING, count, duration, metric, p_value, size
from llm4sbr.report.results import best_of, gain, label, legend, metric_header, value
from llm4sbr.report.table import Row, Table, TableCell, cells

COST = (
    "time: of training or fitting, and of all answers, whenever they were given; memory: peak of the whole "
    "process while training, or fitting, asking and ranking."
)


def related_tables(members: Sequence[Entry]) -> list[Table]:
    """All rows with their cost, the samples that an LLM was asked about, and the paper's sentences.

    Args:
        members: the cells of one data set and protocol (at least one), with `rows`.
    """
    k = max(members[0]["metrics"]["k"])
    asking = asked_table([row for one in members for row in one["rows"]], k)
    same = [table for one in members if (table := same_samples_table(one, k))]
    return [main_table(members, k), *same, *([asking] if asking else []), sentences_table(members, k)]


def main_table(members: Sequence[Entry], k: int) -> Table:
    """Every row over all test samples, with the time, prompts, tokens and memory that it takes."""
    names = [f"HR@{k}", f"MRR@{k}"]
    header = [TableCell("model"), *map(metric_header, names)]
    header += cells("gain", "time", "prompts", "tokens", "memory")
    rows = [row for one in members for row in one["rows"]]
    best, lines = best_of(rows, names), []
    for row, one, note in rows_of(members, omit=["backbone"]):
        took = _took(row, one)
        prompts, tokens = (count(took[key]) if key in took else MISSING for key in ("prompts", "tokens"))
        line = [label(row)._replace(note=note), *(value(row, name, best) for name in names)]
        line += [gain(row, names[1]), *cells(duration(took["seconds"]), prompts, tokens)]
        lines.append([*line, TableCell(size(row.get("peak_memory")))])
    said = legend(rows).replace("the plain backbone", "the cell's plain backbone")
    return Table(f"All systems, in percent, lists of {k}", header, lines, f"{said} {COST}".strip())


def same_samples_table(one: Entry, k: int) -> Table | None:
    """Every row over the samples that all baselines that ask got answers to; None if nobody was asked."""
    found = one["metrics"].get("asked_samples")
    if not found:
        return None
    names = [f"HR@{k}", f"MRR@{k}"]
    lines = [
        [label(row), *cells(*(metric(found["metrics"][row["name"]][name]) for name in names))]
        for row in one["rows"]
    ]
    header = [TableCell("model"), *map(metric_header, names)]
    return Table(f"The same {count(found['samples'])} samples, which an LLM was asked about", header, lines)


def sentences_table(members: Sequence[Entry], k: int) -> Table:
    """What the paper says about each system, beside the comparison that tests it."""
    lines, said = [], ["One comparison on one data set can contradict a sentence, not prove it. The paper:"]
    for system, difference, p in _tested(members, f"MRR@{k}"):
        change = MISSING if difference is None else f"{difference:+.1%}"
        told = MISSING if p is None else p_value(p)
        lines.append(cells(system.name, system.against, change, told, _finding(difference, p)))
        said += [f'{system.name}: "{system.sentence}"'] if system.sentence else []
    header = cells("system", "beside", f"MRR@{k}", "chance", "here")
    return Table("What the paper's section 2 says, and what came out", header, lines, "\n".join(said))


def _finding(difference: float | None, p: float | None) -> str:
    if p is None or p >= LEVEL:
        return "untested" if p is None else "no difference shown"
    return "from zero" if difference is None else "better" if difference > 0 else "worse"


def _took(row: Row, one: Entry) -> dict[str, Any]:
    """`seconds` in all, and `prompts` and `tokens` of a row for which an LLM was asked."""
    own, asked = row.get("seconds") or 0.0, row.get("asked")
    if asked is None and row["name"] == "llm" and one.get("asked"):
        infer = one["asked"]
        asked = {**infer, "prompts": infer.get("asked", 0) + infer.get("from_cache", 0)}
    if asked is None:
        return {"seconds": row.get("seconds")}
    return {
        "seconds": own + asked["seconds"],
        "prompts": asked["prompts"],
        "tokens": asked["tokens"],
    }


def _tested(
    members: Sequence[Entry], metric_name: str
) -> Iterator[tuple[System, float | None, float | None]]:
    """The systems whose rows are there, with the relative difference and its p-value."""
    for system in SYSTEMS:
        one = next((one for one in members if one["axes"].get("part", WHOLE) == system.cell), None)
        rows: Mapping[str, Row] = {row["name"]: row for row in one["rows"]} if one else {}
        row = rows.get(system.row)
        if one is None or row is None:
            continue
        if system.against == WITHOUT:
            found = row["asked"]
            old = found["alone"][metric_name]
            yield system, found["with"][metric_name] / old - 1 if old else None, found["p"][metric_name]
        elif system.against == "plain":
            yield system, row["gain"].get(metric_name), row["p"].get(metric_name)
        else:
            compared = one["metrics"].get("against", {}).get(system.against, {})
            yield system, *(compared.get(key, {}).get(metric_name) for key in ("gain", "p"))
