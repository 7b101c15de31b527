"""The result of a search, from `tune.json`: a table of the best trials, and a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm4sbr.report.formats import MISSING, duration, metric
from llm4sbr.report.table import Table, TableCell, cells

FOLDER = "tune"
"""Name of the folder in the run directory."""
RECORD = "tune.json"
FORMAT = 1
"""Version of the format of `tune.json`."""
SHOWN = 10
"""Number of best trials in the table."""


def tuning_table(content: Mapping[str, Any]) -> Table:
    """The best trials, and the trial with the run's own settings."""
    keys = list(content["space"])
    own, best = content["own"], content["best"]
    done = sorted(
        (row for row in content["trials"] if row["state"] == "complete" and row["same_as"] is None),
        key=lambda row: -row["value"],
    )
    shown = done[:SHOWN]
    if own is not None and own not in shown:
        shown.append(own)
    header = cells("trial", content["metric"], *(key.rpartition(".")[2] for key in keys), "epochs")
    lines = [
        [
            TableCell(f"{row['number']} (own)" if row == own else str(row["number"])),
            TableCell(metric(row["value"]), best=row == best),
            *(TableCell(_value(row["settings"].get(key))) for key in keys),
            TableCell(str(row["epochs"])),
        ]
        for row in shown
    ]
    return Table(f"Best of {len(done)} complete trials, on validation", header, lines, _legend(content))


def finding(content: Mapping[str, Any]) -> str:
    """The best trial compared with the run's own settings, in one sentence."""
    best, own, name = content["best"], content["own"], content["metric"]
    said = f"Trial {best['number']} is best: {name} {metric(best['value'])}% on validation"
    if own is None:
        return f"{said}."
    if best["value"] <= own["value"]:
        return (
            f"No trial is better than the run's own settings: {name} {metric(own['value'])}% on validation."
        )
    return f"{said}, the run's own settings have {metric(own['value'])}%."


def importances(content: Mapping[str, Any]) -> str:
    """The importance of each setting, as text; "" if it is not known."""
    shares = [f"{key} {share:.0%}" for key, share in content["importance"].items()]
    return f"Shares of importance (PED-ANOVA): {', '.join(shares)}." if shares else ""


def _legend(content: Mapping[str, Any]) -> str:
    states = [row["state"] for row in content["trials"]]
    ended = ", ".join(
        f"{states.count(state)} {state}" for state in ("complete", "pruned", "failed") if state in states
    )
    return (
        f"own: the run's settings. {len(states)} trials ({ended}) in {duration(content['seconds'])}; "
        f"variant {content['variant']}, one seed ({content['seed']}), so small differences may be chance. "
        "The metric of the best of many trials is too optimistic; evaluate it on the test samples, which no "
        "trial has used."
    )


def _value(value: Any) -> str:
    if value is None:
        return MISSING
    return f"{value:g}" if isinstance(value, float) else str(value)
