"""Markdown tables of experiments, from copies of their `experiment.json` in `benchmarks/results/`."""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import Any

from llm4sbr.report.cells import Entry, labels, rows_of
from llm4sbr.report.table import Row

RESULTS = Path(__file__).parent / "results"
PREFIX = "experiment-"
MARKS = ((0.01, "**"), (0.05, "*"))
"""A gain with a smaller p-value than this gets this mark."""
SHOWN = ("HR@20", "MRR@20")
"""Metrics shown with their gain and the paper's result."""
NUMBERS = r"\[\s+([-\d.,e\s]+?)\s+\]"
"""A list of numbers in indented JSON."""
BELOW = 0.10
"""A plain backbone that is (relatively) further below the paper's than this needs an explanation."""


def keep(folder: Path, name: str) -> Path:
    """Copy the record of an experiment to the results, numbers rounded, and return the file.

    Raises:
        ValueError: the record names a path of this machine.
    """
    found = json.loads((folder / "experiment.json").read_text(encoding="utf-8"), parse_float=_rounded)
    text = json.dumps(found, indent=1, ensure_ascii=False)
    if re.search(r'[ "=:]/', text):
        raise ValueError(f"{folder}: its record names a path of this machine; run it with names only")
    path = RESULTS / f"{PREFIX}{name}.json"
    path.write_text(re.sub(NUMBERS, _on_one_line, text) + "\n", encoding="utf-8")
    return path


def _rounded(text: str) -> float:
    return float(f"{float(text):.6g}")


def _on_one_line(found: re.Match[str]) -> str:
    return f"[{', '.join(found[1].split())}]".replace(",,", ",")


def experiment_section() -> str:
    """One part per results file."""
    return "\n\n".join(_part(path) for path in sorted(RESULTS.glob(f"{PREFIX}*.json")))


def _part(path: Path) -> str:
    found = json.loads(path.read_text(encoding="utf-8"))
    about = found["hardware"]
    machine = f"{about['cpu']}, {about['cores']} cores" + "".join(f", {gpu}" for gpu in about["gpus"])
    versions = ", ".join(f"{name} {found['versions'][name]}" for name in ("python", "llm4sbr"))
    done = [cell for cell in found["cells"] if cell["status"] == "done"]
    parts = [f"### {path.stem.removeprefix(PREFIX)}", f"`{found['command']}`", f"{machine}; {versions}."]
    for (dataset, protocol), cells in groupby(done, key=_place):
        parts += _group(f"{dataset}, protocol {protocol}", list(cells))
    rest = [cell for cell in found["cells"] if cell["status"] != "done"]
    left = [f"- {cell['name']}: {cell['error'] or cell['status']}" for cell in rest]
    return "\n\n".join(parts + (["\n".join(left)] if left else []))


def _group(title: str, cells: list[dict[str, Any]]) -> list[str]:
    ground = cells[0]["metrics"]
    chosen = "the test set" if "test" in ground["selected_on"] else "validation samples"
    head = (
        f"**{title}**: percent over {ground['samples']:,} test samples, full ranking, best epoch on {chosen}."
    )
    notes = list(dict.fromkeys(note for cell in cells for note in cell["notes"]))
    called = list(zip(cells, _labels(cells), strict=True))
    compared = [line for cell, label in called for line in _against_paper(cell, label)]
    verdicts = [f"- {label}: {cell['metrics']['verdict']}" for cell, label in called]
    return [head, *notes, _table(cells), "\n".join([*compared, *verdicts])]


def _table(cells: list[dict[str, Any]]) -> str:
    printed = any(cell["paper"] for cell in cells)
    groups = _groups(cells[0])
    columns = ["cell", "model", "seeds", "epochs (best)"]
    for metric in SHOWN:
        columns += [metric, "gain", *(["paper"] if printed else [])]
    columns += ["HR@5", "NDCG@20", *(f"HR@20, {one['name']} ({one['samples']:,})" for one in groups)]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row, cell, label in rows_of(cells):
        named = "" if row["kind"] == "baseline" else label or cell["axes"]["backbone"]
        lines.append(f"| {' | '.join(_line(cell, row, printed, named))} |")
    return "\n".join(lines)


def _groups(cell: Entry) -> list[dict[str, Any]]:
    """Test samples by how often their target occurs in training."""
    found: list[dict[str, Any]] = cell["metrics"]["breakdown"]["target"]
    return found if len(found) > 1 else []


def _line(cell: Entry, row: Row, printed: bool, label: str) -> list[str]:
    trained = cell["training"].get(row["name"], [])
    line = [label, row["label"], str(len(trained) or ""), _epochs(trained)]
    for metric in SHOWN:
        line += [_value(row, metric), _gain(row, metric)]
        line += [_printed(cell, row["name"], metric)] if printed else []
    line += [_value(row, metric) for metric in ("HR@5", "NDCG@20")]
    return line + [f"{100 * one['rows'][row['name']]['HR@20']:.2f}" for one in _groups(cell)]


def _epochs(trained: list[dict[str, int]]) -> str:
    """`6 (3)`, or `5-6 (3-4)` where seeds differ."""
    epochs, best = ([one[key] for one in trained] for key in ("epochs", "best_epoch"))
    return f"{_range(epochs)} ({_range(best)})" if trained else ""


def _range(numbers: list[int]) -> str:
    least, most = min(numbers), max(numbers)
    return str(least) if least == most else f"{least}-{most}"


def _value(row: Row, metric: str) -> str:
    value = row["metrics"][metric]
    spread = f" ± {100 * value['std']:.2f}" if len(value["values"]) > 1 else ""
    return f"{100 * value['mean']:.2f}{spread}"


def _gain(row: Row, metric: str) -> str:
    gain, p = row["gain"].get(metric), row["p"].get(metric)
    mark = next((mark for level, mark in MARKS if p is not None and p < level), "")
    return "" if gain is None else f"{gain:+.1%}{mark.replace('*', chr(92) + '*')}"


def _printed(cell: Entry, row: str, metric: str) -> str:
    value = ((cell["paper"] or {}).get(row) or {}).get(metric)
    return "" if value is None else f"{100 * value:.2f}"


def _against_paper(cell: Entry, label: str) -> list[str]:
    """The plain backbone's results relative to the paper's."""
    printed = (cell["paper"] or {}).get("plain")
    plain = next((row for row in cell["metrics"]["rows"] if row["name"] == "plain"), None)
    if not printed or not plain:
        return []
    ratios = {m: plain["metrics"][m]["mean"] / printed[m] - 1 for m in SHOWN}
    text = ", ".join(f"{metric} {ratio:+.0%}" for metric, ratio in ratios.items())
    far = " MORE THAN 10% BELOW." if min(ratios.values()) < -BELOW else ""
    return [f"- {label}, plain against the paper's plain: {text}.{far}"]


def _labels(cells: list[dict[str, Any]]) -> list[str]:
    return [label or cell["axes"]["backbone"] for cell, label in zip(cells, labels(cells), strict=True)]


def _place(cell: dict[str, Any]) -> tuple[str, str]:
    return cell["axes"]["dataset"], cell["axes"]["protocol"]
