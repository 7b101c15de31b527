"""The HTML report of an experiment, from its `experiment.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from llm4sbr import store
from llm4sbr.errors import StoreError
from llm4sbr.evaluation.verdict import CONTROLS, LEVEL
from llm4sbr.report.cells import Entry, describe
from llm4sbr.report.experiment import cells_tables, row_named, setting, with_rows
from llm4sbr.report.formats import MISSING, duration, size
from llm4sbr.report.page.experiment_charts import CHARTS
from llm4sbr.report.results import peak
from llm4sbr.report.table import Row, Table, TableCell, cells

RECORD = "experiment.json"
FORMAT = 1
"""Version of `experiment.json` that this module reads."""
TITLES = {
    "table2": "Every backbone, plain and with intents (the paper's Table 2)",
    "ablation": "What each part of the method gives (the paper's Figure 4)",
    "localization": "Metrics by f, the number of items per answer (the paper's Figure 5)",
    "memory": "Peak memory of training, plain and with intents (the paper's Table 3)",
    "related": "The systems that the paper stands among (its section 2)",
}


def experiment_page(folder: Path) -> dict[str, Any]:
    """The data for `experiment.html.j2`.

    Raises:
        StoreError: there is no `experiment.json`, or it is not whole.
    """
    content = store.read_record(folder / RECORD)
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
    done = [with_rows(one) for one in content["cells"] if one["status"] == "done" and one["metrics"]]
    kind = content["experiment"]
    k = max((max(one["metrics"]["k"]) for one in done), default=20)
    groups: dict[str, list[Entry]] = {}
    for one in done:
        axes = one["axes"]
        groups.setdefault(f"{axes['dataset']}, protocol {axes.get('protocol', 'default')}", []).append(one)
    return {
        "name": folder.resolve().name,
        "kicker": f"Report of an experiment. {TITLES.get(kind, kind)}",
        "verdict": f"{len(done)} of {len(content['cells'])} cells are done. {_finding(kind, done, k)}",
        "warnings": _warnings(done),
        "gaps": [],
        "groups": [
            {
                "title": title,
                "setting": setting(members),
                "tables": cells_tables(kind, members),
                "charts": CHARTS[kind](members, k),
            }
            for title, members in groups.items()
        ],
        "source": next((one["paper"]["source"] for one in done if (one["paper"] or {}).get("source")), ""),
        "overview": _overview(folder, content["cells"]),
        "verdicts": [(one["name"], one["metrics"]["verdict"]) for one in done],
        "hardware": {name: _plain(name, about) for name, about in content.get("hardware", {}).items()},
        "versions": content.get("versions", {}),
    }


def _finding(kind: str, done: Sequence[Entry], k: int) -> str:
    """The overall finding from all cells; "" if nothing can be compared."""
    compared = [one for one in done if row_named(one, "llm") and row_named(one, "plain")]
    if not compared:
        return ""
    if kind == "memory":
        pairs = [[peak(row_named(one, name)) for name in ("plain", "llm")] for one in compared]
        more = [fused / plain - 1 for plain, fused in pairs if plain and fused]
        return f"Intents cost {min(more):+.1%} to {max(more):+.1%} of peak memory." if more else ""
    return str(compared[0]["metrics"]["verdict"]) if len(compared) == 1 else _gains(compared, k)


def _gains(compared: Sequence[Entry], k: int) -> str:
    """Number of cells where intents help, where a control does as well, and where intents harm."""
    metric = f"MRR@{k}"
    raised = [one for one in compared if _differs(row_named(one, "llm"), metric, 1)]
    text = f"By {metric}, intents raise the plain backbone significantly in {len(raised)} of {len(compared)}"
    if raised:
        shared = sum(_shared(one, metric) for one in raised)
        text += f"; in {shared} of these {len(raised)} they do not beat a control ({' or '.join(CONTROLS)})"
    unasked = {one["metrics"].get("llm") for one in compared} <= set(CONTROLS)
    end = (
        "; no LLM was asked in any" if unasked else ", and there the gain is not the LLM's" if raised else ""
    )
    harm = {
        name: sum(_differs(row_named(one, "llm"), name, -1) for one in compared)
        for name in (metric, f"HR@{k}")
    }
    worse = " and ".join(f"{name} in {number}" for name, number in harm.items() if number)
    return f"{text}{end}." + (f" They lower {worse}." if worse else "")


def _differs(row: Row, metric: str, sign: int) -> bool:
    """Whether the difference is significant, in this direction."""
    p, found = (row.get("p") or {}).get(metric), (row.get("gain") or {}).get(metric)
    return p is not None and p < LEVEL and sign * (found or 0) > 0


def _shared(one: Entry, metric: str) -> bool:
    """Whether a control does as well, as far as the tests show."""
    tested = one["metrics"].get("against")
    if tested is not None:
        return not all(_differs(tested[name], metric, 1) for name in CONTROLS if name in tested)
    best = max((_mean(row, metric) for row in one["rows"] if row["name"] in CONTROLS), default=0.0)
    return best >= _mean(row_named(one, "llm"), metric)  # an older version did not keep the tests


def _mean(row: Row, metric: str) -> float:
    return float(row["metrics"][metric]["mean"])


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


def _overview(folder: Path, every: Sequence[Entry]) -> Table:
    lines = []
    for one in every:
        seconds = sum(_seconds(row) for row in (one["metrics"] or {}).get("rows", []))
        about = describe(one, list(one["axes"]))
        took = duration(seconds) if seconds else MISSING
        said = one["error"] or ""
        lines.append(
            [
                TableCell(one["name"], note=about, link=_link(folder, one)),
                TableCell(one["status"], note=said),
                TableCell(took),
            ]
        )
    return Table(
        "All cells; a name links to the report of its run", cells("cell", "status", "training"), lines
    )


def _seconds(row: Row) -> float:
    """Mean over all seeds."""
    return (row.get("seconds") or 0.0) * max(len(found["values"]) for found in row["metrics"].values())


def _link(folder: Path, one: Entry) -> str:
    """Relative link to the run's own report, "" if it does not exist inside the folder."""
    report = folder / one["run"] / "report.html"
    inside = report.resolve().is_relative_to(folder.resolve())
    return quote(report.relative_to(folder).as_posix()) if inside and report.is_file() else ""


def _plain(name: str, found: Any) -> str:
    if name == "memory" and isinstance(found, int):
        return size(found)
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)
