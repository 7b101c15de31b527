"""The model card of an export: what was measured where, and what the model is for.

The parts are those of Mitchell et al. (FAT* 2019), as far as a run knows them; what it cannot know is left to
whoever publishes the model. The first lines are the YAML that model hubs read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm4sbr import store
from llm4sbr.report import formats

NAME = "MODEL_CARD.md"

HEAD = """---
library_name: llm4sbr
pipeline_tag: other
tags: [recommender-system, session-based-recommendation]
---
"""

SOURCES = {
    "plain": "none",
    "none": "none: the model was trained with them and is served without",
    "predictor": "predicted by the model from the session",
    "items": "stored per item: those of the last click",
    "intents": "an input of the graph",
}
"""Where an artefact's intents come from, by `source` or `variant` of its record."""


def card(run: Path, record: Mapping[str, Any], *, llm: str, backbone: str) -> str:
    """Markdown.

    Args:
        run: has `prepare` and perhaps `evaluate`.
        record: the artefact's.
        llm: name of the LLM that was asked, or `none`.
        backbone: name of the backbone or baseline.
    """
    stats = store.read_json(run / "prepare" / "stats.json")
    path = run / "evaluate" / "metrics.json"
    measured = store.read_json(path) if path.exists() else None
    title = f"# {_cell(run.name)}: {_cell(record['trained'])}\n"
    about = (
        "Ranks a catalogue for anonymous sessions: given the items that somebody clicked, in order, those "
        f"that may come next. Made with llm4sbr {record['versions']['llm4sbr']}.\n"
    )
    parts = [
        "## Model\n",
        _table(_model(record, llm, backbone)),
        "## Data\n",
        _table(_data(stats)),
        "## Measured\n",
        *_measured(measured, record),
        "## Verified\n",
        _verified(record["verified"]),
        "## Use\n",
        _use(record, stats),
    ]
    return "\n".join([HEAD, title, about, *parts])


def _model(record: Mapping[str, Any], llm: str, backbone: str) -> list[tuple[str, Any]]:
    source = record["source"] if record["source"] in SOURCES else record["variant"]
    rows: list[tuple[str, Any]] = [
        ("trained model", record["trained"] + (", refitted on all sessions" if record["refitted"] else "")),
        *([("started from", _started(record["warm"]))] if record.get("warm") else []),
        ("backbone", backbone),
        ("LLM, asked once, offline", llm),
    ]
    if record["perspectives"]:
        rows += [("intents", SOURCES[source]), ("perspectives", ", ".join(record["perspectives"]))]
    return [
        *rows,
        ("format, precision", f"{record['kind']}, {record['precision']}"),
        ("items", formats.count(record["num_items"])),
        ("length of a list", f"at most {record['k']}"),
        ("clicks that are read", f"the last {record['max_length']}"),
        ("the session's own items", "left out of lists" if record["exclude_seen"] else "may be in lists"),
    ]


def _started(warm: Mapping[str, Any]) -> str:
    return (
        f"the model of the run {warm['from']} (sha256 {warm['weights'][:12]}); "
        f"{formats.count(warm['new_items'])} of the items are new since"
    )


def _data(stats: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What `prepare` counted; a run of an older version may lack some of it."""
    rules = stats.get("rules", {})
    rows: list[tuple[str, Any]] = [
        (name, formats.count(stats[name])) for name in ("sessions", "clicks", "items") if name in stats
    ]
    rows += [
        (told, rules[key]) for told, key in (("a session", "sessions"), ("split", "split")) if key in rules
    ]
    for name, part in stats.get("splits", {}).items():
        told = f"{formats.count(part['sessions'])} sessions, {formats.count(part['samples'])} samples"
        rows.append((name, told))
    if stats.get("clock"):
        days = (formats.day(stats[key]) for key in ("first_click", "last_click"))
        rows.append(("clicks from, to", ", ".join(days)))
    return rows


def _measured(measured: Mapping[str, Any] | None, record: Mapping[str, Any]) -> list[str]:
    if measured is None:
        return ["Not measured: `llm4sbr evaluate` did not run.\n"]
    again = "The figures are those of the model before it was refitted.\n" if record["refitted"] else ""
    best = max(measured["k"])
    names = [f"HR@{best}", f"MRR@{best}", f"NDCG@{best}"]
    own = str(record["trained"]).partition("/")[0]
    rows = []
    for row in measured["rows"]:
        label = f"**{row['label']}**" if row["name"] == own else row["label"]
        rows.append((label, *(_value(row["metrics"][name]) for name in names)))
    head = (
        f"Percent, {formats.count(measured['samples'])} test samples, whole catalogue ranked, protocol "
        f"`{measured['protocol']}`; this model in bold.\n"
    )
    return [f"{measured['verdict']}\n", head, _table(rows, ("", *names)), *([again] if again else [])]


def _value(metric: Mapping[str, Any]) -> str:
    spread = f" ± {formats.metric(metric['std'])}" if metric.get("std") else ""
    return formats.metric(metric["mean"]) + spread


def _verified(verified: Mapping[str, Any]) -> str:
    return (
        f"On {verified['provider']}, {formats.count(verified['lists_that_agree'])} of "
        f"{formats.count(verified['lists'])} lists are those of the trained model; scores differ by at most "
        f"{verified['max_difference']:.1e}.\n"
    )


def _use(record: Mapping[str, Any], stats: Mapping[str, Any]) -> str:
    until = f" after {formats.day(stats['last_click'])}" if stats.get("clock") else ""
    return (
        "- For lists of items beside or after what a session looks at. It knows no person and no history "
        "beyond the session.\n"
        f"- Items that nobody had clicked in training, such as new ones{until}, are in no list.\n"
        "- Lists follow what was clicked, so what was popular or often shown stays so.\n"
        "- Not said here, since the run does not know it: licence of the data, contact, what lists must not "
        "be used for.\n"
    )


def _table(rows: Sequence[Sequence[Any]], head: Sequence[str] = ("", "")) -> str:
    lines = ["|" + "|".join(f" {_cell(one)} " for one in row) + "|" for row in (head, *rows)]
    rule = "|" + " --- |" * len(head)
    return "\n".join([lines[0], rule, *lines[1:], ""])


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|").replace("<", "&lt;")
