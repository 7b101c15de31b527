"""The content of a search's report, from `tune.json`: best trials, history, importance of settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from llm4sbr import store
from llm4sbr.errors import StoreError
from llm4sbr.report.page import charts
from llm4sbr.report.page.looks import BASELINE, LOOKS
from llm4sbr.report.tuning import FORMAT, RECORD, finding, tuning_table


def tuning_page(run: Path, folder: Path) -> dict[str, Any]:
    """The data for `tuning.html.j2`.

    Raises:
        StoreError: there is no `tune.json` or it is damaged.
    """
    path = folder / RECORD
    content = store.read_record(path, "tune again")
    try:
        if content["format"] != FORMAT:
            raise StoreError(f"{path}: format {content['format']}, this version reads {FORMAT}; tune again")
        return {
            "name": run.resolve().name,
            "kicker": "Report of a search for better settings",
            "verdict": finding(content),
            "table": tuning_table(content),
            "history": _history(content["trials"], content["metric"]),
            "importance": _importance(content["importance"]),
            "space": list(content["space"].items()),
            "failed": [(row["number"], row["error"]) for row in content["trials"] if row["error"]],
        }
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise StoreError(f"{path}: not a search's record ({reason}); tune again") from None


def _history(rows: Sequence[Mapping[str, Any]], metric: str) -> charts.Chart:
    """Every trial's metric, and the best so far."""
    done = [(float(row["number"]), 100 * row["value"]) for row in rows if row["state"] == "complete"]
    pruned = [
        (float(row["number"]), 100 * row["value"])
        for row in rows
        if row["state"] == "pruned" and row["value"] is not None
    ]
    best = list(accumulate((value for _, value in done), max))
    so_far = list(zip((number for number, _ in done), best, strict=True))
    series = [
        charts.Series("best so far", so_far, LOOKS[1]._replace(marker="")),
        charts.Series("complete trials", done, LOOKS[0]._replace(dash="none")),
        *([charts.Series("pruned trials", pruned, BASELINE._replace(dash="none"))] if pruned else []),
    ]
    return charts.line_chart("History", series, unit=f"{metric} on validation, percent", x_label="trial")


def _importance(shares: Mapping[str, float]) -> charts.Chart | None:
    dots = [charts.Dot(key, 100 * share, LOOKS[1]) for key, share in shares.items()]
    return (
        charts.dot_chart("Importance", dots, unit="share of PED-ANOVA, percent", digits=0) if dots else None
    )
