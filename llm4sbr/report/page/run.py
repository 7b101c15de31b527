"""Collects the content of a run's HTML report from the run's files.

Parts that are missing are not an error, the page names them; a file that is not what was written is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from markupsafe import Markup, escape

from llm4sbr import stamps, store
from llm4sbr.config import read_toml, to_toml
from llm4sbr.config.in_force import RESOLVED
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.errors import ConfigError, DamagedError, Llm4sbrError, StoreError
from llm4sbr.evaluation.verdict import CONTROLS
from llm4sbr.report.changes import RECORD, changes_table, examples, rule
from llm4sbr.report.page.curves import training
from llm4sbr.report.page.facts import answers, cost, data
from llm4sbr.report.page.results import breakdown, results
from llm4sbr.report.page.sessions import sessions_page
from llm4sbr.report.results import mark_controls

UNFINISHED = "Not evaluated yet: there is no table, and nothing to conclude."

Found = TypeVar("Found")


class Gatherer:
    """Reads files of a run; if one cannot be read, keeps the reason for the page."""

    def __init__(self) -> None:
        self.gaps: list[str] = []

    def get(self, part: str, read: Callable[[], Found]) -> Found | None:
        """The result of `read`, or None and a line with the reason."""
        try:
            return read()
        except DamagedError:  # what the rest says may rest on it
            raise
        except Llm4sbrError as error:
            self.gaps.append(f"{part}: {error}")
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            self.gaps.append(f"{part}: files of another version? {type(error).__name__}: {error}")
        return None


def run_page(run: Path) -> dict[str, Any]:
    """The data for `run.html.j2`.

    Raises:
        StoreError: the folder is not a run.
        DamagedError: a file is not what was written.
    """
    stamps.check_there(run)
    if not (run / "config.toml").is_file():
        raise StoreError(f"{run}: not a run directory (no config.toml); name one, such as runs/demo")
    gather = Gatherer()
    settings = gather.get("settings", lambda: _settings(run / RESOLVED)) or {}
    metrics = gather.get("results", lambda: _metrics(run)) or {}
    prepared = gather.get("data", lambda: load(run / "prepare"))
    llm = metrics.get("llm") or settings.get("infer", {}).get("llm")
    rows = mark_controls(metrics.get("rows", []), llm)
    labels = {row["name"]: row["label"] for row in rows}
    page = {
        "name": run.resolve().name,
        "kicker": gather.get("settings", lambda: _kicker(settings)) or "Report of a run",
        "verdict": metrics.get("verdict", UNFINISHED),
        "results": gather.get("results", lambda: results(metrics, rows)) if rows else None,
        "breakdown": gather.get("breakdown", lambda: breakdown(metrics, rows)) if rows else None,
        "changes": gather.get("gains and losses", lambda: _changes(run, llm)) if rows else None,
        "training": gather.get("training curves", lambda: training(run, labels)),
        "cost": gather.get("cost", lambda: cost(run, rows)),
        "answers": gather.get("answers", lambda: answers(run, metrics.get("coverage"))),
        "sessions": gather.get("sessions", lambda: sessions_page(run, prepared, labels))
        if rows and prepared
        else None,
        "data": gather.get("data", lambda: data(prepared)) if prepared else None,
        "settings": Markup(escape(to_toml(settings))) if settings else "",  # the whole of it
        "versions": gather.get("versions", lambda: store.read_record(run / "versions.json")),
    }
    return page | {"warnings": _warnings(metrics, prepared), "gaps": list(dict.fromkeys(gather.gaps))}


def _kicker(settings: Mapping[str, Any]) -> str:
    if not settings:
        return ""
    data, train, llm = settings["data"], settings["train"], settings["infer"]["llm"]
    asked = f"no LLM asked ({llm})" if llm in (*CONTROLS, "none") else f"LLM {llm}"
    return (
        f"Report of a run: {train['backbone']} on {data['reader']}, {asked}, protocol {settings['protocol']}"
    )


def _metrics(run: Path) -> dict[str, Any]:
    path = run / "evaluate" / "metrics.json"
    found: dict[str, Any] = store.read_json(path)
    try:
        [(row["name"], row["label"], row["kind"]) for row in found["rows"]]
    except (KeyError, TypeError) as error:
        raise StoreError(f"{path}: not a table of results ({type(error).__name__}: {error})") from None
    return found


def _changes(run: Path, llm: str | None) -> dict[str, Any] | None:
    """Who gains and loses by the LLM's intents; None of a run without an LLM."""
    path = run / "evaluate" / RECORD
    if not path.exists():
        return None
    found = store.read_json(path)
    return {"table": changes_table(found, llm), "rule": rule(found), "examples": examples(found)}


def _settings(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except ConfigError as error:
        raise (DamagedError if path.exists() else StoreError)(str(error)) from None


def _warnings(metrics: Mapping[str, Any], prepared: Prepared | None) -> list[str]:
    found = []
    if "test" in metrics.get("selected_on", ()):
        found.append(
            "The best epoch was chosen on the test set, as in the paper. All metrics are therefore too high; "
            "only comparisons between rows are meaningful."
        )
    leaked = leak(prepared) if prepared else 0.0
    if prepared and leaked > 0:
        split = prepared.stats.get("rules", {}).get("split", "")
        found.append(
            f"The split ({split}) leaks: {leaked:.0%} of the test samples are from a session of which other "
            "clicks, earlier or later ones, were trained on. Metrics on such a split do not show how good a "
            "model is for sessions that it has not seen."
        )
    return found


def leak(prepared: Prepared) -> float:
    """Share of the test samples whose session also has training samples."""
    offsets, samples = prepared.sessions.offsets, prepared.samples
    owner = {
        split: torch.searchsorted(offsets, samples[split].end, right=True) for split in ("train", "test")
    }
    if not len(owner["test"]):
        return 0.0
    return float(torch.isin(owner["test"], owner["train"]).double().mean())
