"""What the HTML report of an experiment shows, from its `experiment.json`: many runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llm4sbr import store
from llm4sbr.errors import StoreError
from llm4sbr.evaluation.verdict import CONTROLS, LEVEL
from llm4sbr.report.cells import Entry, describe, labels, rows_of
from llm4sbr.report.page.experiment_figures import FIGURES
from llm4sbr.report.page.results import marked
from llm4sbr.report.page.tables import Table, TableCell, best_of, cells, gain, label, peak, value
from llm4sbr.report.terminal.layout import MISSING, duration, size
from llm4sbr.report.terminal.results import Row

RECORD = "experiment.json"
FORMAT = 1
"""Version of `experiment.json` that is read."""
SAID = {
    "table2": "Every backbone, plain and with intents (the paper's Table 2)",
    "ablation": "What each part of the method gives (the paper's Figure 4)",
    "localization": "Against f, the items an answer is tied to (the paper's Figure 5)",
    "memory": "Peak memory of training, plain and with intents (the paper's Table 3)",
}


def experiment_page(folder: Path) -> dict[str, Any]:
    """Everything that `experiment.html.j2` draws.

    Raises:
        StoreError: there is no `experiment.json`, or it is not whole.
    """
    content = store.read_json(folder / RECORD)
    try:
        if content["format"] != FORMAT:
            raise StoreError(
                f"{folder / RECORD}: format {content['format']}, this version reads {FORMAT}; run it again"
            )
        return _page(folder, content)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise StoreError(f"{folder / RECORD}: not an experiment's record ({reason}); run it again") from None


def _page(folder: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    done = [_with_rows(one) for one in content["cells"] if one["status"] == "done" and one["metrics"]]
    kind = content["experiment"]
    k = max((max(one["metrics"]["k"]) for one in done), default=20)
    groups: dict[str, list[Entry]] = {}
    for one in done:
        axes = one["axes"]
        groups.setdefault(f"{axes['dataset']}, protocol {axes.get('protocol', 'default')}", []).append(one)
    return {
        "name": folder.resolve().name,
        "kicker": f"Report of an experiment. {SAID.get(kind, kind)}",
        "memory": kind == "memory",
        "verdict": f"{len(done)} of {len(content['cells'])} cells are done. {_finding(kind, done, k)}",
        "warnings": _warnings(done),
        "gaps": [],
        "groups": [
            {"title": title, "table": _table(kind, members, k), "figures": FIGURES[kind](members, k)}
            for title, members in groups.items()
        ],
        "source": next((one["paper"]["source"] for one in done if (one["paper"] or {}).get("source")), ""),
        "overview": _overview(folder, content["cells"]),
        "verdicts": [(one["name"], one["metrics"]["verdict"]) for one in done],
        "hardware": {name: _plain(name, about) for name, about in content.get("hardware", {}).items()},
        "versions": content.get("versions", {}),
    }


def _with_rows(one: Entry) -> Entry:
    return {**one, "rows": marked(one["metrics"]["rows"], one["metrics"].get("llm"))}


def _finding(kind: str, done: Sequence[Entry], k: int) -> str:
    """What the cells show together, "" if nothing can be compared."""
    compared = [one for one in done if _row(one, "llm") and _row(one, "plain")]
    if not compared:
        return ""
    if kind == "memory":
        pairs = [[peak(_row(one, name)) for name in ("plain", "llm")] for one in compared]
        more = [fused / plain - 1 for plain, fused in pairs if plain and fused]
        return f"Intents cost {min(more):+.1%} to {max(more):+.1%} of peak memory." if more else ""
    return str(compared[0]["metrics"]["verdict"]) if len(compared) == 1 else _gains(compared, k)


def _gains(compared: Sequence[Entry], k: int) -> str:
    """In how many cells intents help, in how many of these a control does as well, and where they harm."""
    metric = f"MRR@{k}"
    raised = [one for one in compared if _differs(_row(one, "llm"), metric, 1)]
    text = f"By {metric}, intents raise the plain backbone significantly in {len(raised)} of {len(compared)}"
    if raised:
        shared = sum(_shared(one, metric) for one in raised)
        text += f"; in {shared} of these {len(raised)} they do not beat a control ({' or '.join(CONTROLS)})"
    unasked = {one["metrics"].get("llm") for one in compared} <= set(CONTROLS)
    end = (
        "; no LLM was asked in any" if unasked else ", and there the gain is not the LLM's" if raised else ""
    )
    harm = {
        name: sum(_differs(_row(one, "llm"), name, -1) for one in compared) for name in (metric, f"HR@{k}")
    }
    worse = " and ".join(f"{name} in {number}" for name, number in harm.items() if number)
    return f"{text}{end}." + (f" They lower {worse}." if worse else "")


def _differs(row: Row, metric: str, sign: int) -> bool:
    """Significantly, in this direction."""
    p, found = (row.get("p") or {}).get(metric), (row.get("gain") or {}).get(metric)
    return p is not None and p < LEVEL and sign * (found or 0) > 0


def _shared(one: Entry, metric: str) -> bool:
    """Whether a control does as well, as far as can be told."""
    tested = one["metrics"].get("against")
    if tested is not None:
        return not all(_differs(tested[name], metric, 1) for name in CONTROLS if name in tested)
    best = max((_mean(row, metric) for row in one["rows"] if row["name"] in CONTROLS), default=0.0)
    return best >= _mean(_row(one, "llm"), metric)  # an older version did not keep the tests


def _mean(row: Row, metric: str) -> float:
    return float(row["metrics"][metric]["mean"])


def _row(one: Entry, name: str) -> Row:
    """The row of that name, or an empty one."""
    return next((row for row in one["rows"] if row["name"] == name), {})


def _warnings(done: Sequence[Entry]) -> list[str]:
    said: dict[str, list[str]] = {}
    for one in done:
        notes = list(one.get("notes") or [])
        if "test" in one["metrics"].get("selected_on", ()):
            notes.append(
                "The best epoch was chosen on the test set, as in the paper, which flatters every row."
            )
        for note in notes:
            said.setdefault(note, []).append(one["name"])
    every = len(done)
    return [note if len(names) == every else f"{', '.join(names)}: {note}" for note, names in said.items()]


def _table(kind: str, members: Sequence[Entry], k: int) -> Table:
    return _memory_table(members) if kind == "memory" else _metric_table(members, k)


def _metric_table(members: Sequence[Entry], k: int) -> Table:
    """The rows of every cell, the paper's own figures beside."""
    names = [f"HR@{k}", f"MRR@{k}"]
    with_paper = any(name in row for one in members for row in _printed(one) for name in names)
    header = cells("model")
    for name in names:
        header += [TableCell(name, f"P@{k}" if name.startswith("HR") else ""), TableCell("gain")]
        header += [TableCell("paper", name)] if with_paper else []
    best = best_of([row for one in members for row in one["rows"]], names)
    lines = []
    for row, one, note in rows_of(members, told=["backbone"]):
        line = [label(row)._replace(note=note)]
        printed = (one["paper"] or {}).get(row["name"], {})
        for name in names:
            line += [value(row, name, best), gain(row, name)]
            there = f"{100 * printed[name]:.2f}" if name in printed else MISSING
            line += [TableCell(there)] if with_paper else []
        lines.append(line)
    return Table(f"Percent, lists of {k}", header, lines)


def _printed(one: Entry) -> list[Mapping[str, Any]]:
    """The paper's rows for a cell: metric -> figure."""
    return [row for name, row in (one["paper"] or {}).items() if name in ("plain", "llm")]


def _memory_table(members: Sequence[Entry]) -> Table:
    header = cells("backbone", "plain", "with intents", "more")
    header += [TableCell("paper", "plain"), TableCell("paper", "with intents"), TableCell("paper", "more")]
    lines = []
    for one, note in zip(members, labels(members, told=["backbone"]), strict=True):
        ours = [peak(_row(one, name)) for name in ("plain", "llm")]
        printed = [((one["paper"] or {}).get("memory") or {}).get(name) for name in ("plain", "llm")]
        lines.append([TableCell(one["axes"]["backbone"], note), *_pair(ours), *_pair(printed)])
    return Table("Peak memory of training", header, lines)


def _pair(found: Sequence[float | None]) -> list[TableCell]:
    plain, fused = found
    more = f"{fused / plain - 1:+.1%}" if plain and fused else MISSING
    return cells(size(plain), size(fused), more)


def _overview(folder: Path, every: Sequence[Entry]) -> Table:
    lines = []
    for one in every:
        seconds = sum(_seconds(row) for row in (one["metrics"] or {}).get("rows", []))
        about = describe(one, list(one["axes"]))
        took = duration(seconds) if seconds else MISSING
        said = one["error"] or ""
        lines.append(
            [
                TableCell(one["name"], about, link=_link(folder, one)),
                TableCell(one["status"], said),
                TableCell(took),
            ]
        )
    return Table(
        "Every cell; a name leads to its run's own report", cells("cell", "status", "training"), lines
    )


def _seconds(row: Row) -> float:
    """Of all seeds."""
    return (row.get("seconds") or 0.0) * max(len(found["values"]) for found in row["metrics"].values())


def _link(folder: Path, one: Entry) -> str:
    """Relative address of the run's own report, "" if there is none inside the folder."""
    report = folder / one["run"] / "report.html"
    inside = report.resolve().is_relative_to(folder.resolve())
    return quote(report.relative_to(folder).as_posix()) if inside and report.is_file() else ""


def _plain(name: str, found: Any) -> str:
    if name == "memory" and isinstance(found, int):
        return size(found)
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)
