"""Tables of `benchmarks/README.md`: up to date, and made from the raw numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def tables(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import experiment_tables

    monkeypatch.setattr(experiment_tables, "RESULTS", tmp_path)
    return experiment_tables


def row(name, hits, reciprocal, kind="control"):
    values = {"HR@20": hits, "MRR@20": reciprocal, "HR@5": hits, "NDCG@20": hits}
    metrics = {key: {"mean": value, "std": 0.0, "values": [value]} for key, value in values.items()}
    gain = {key: 0.25 for key in values} if name != "plain" else {}
    return {"name": name, "label": name, "kind": kind, "metrics": metrics, "gain": gain, "p": {"HR@20": 0.02}}


def record(plain_hits):
    rows = [row("plain", plain_hits, 0.05, "plain"), row("llm", 0.2, 0.0666666666, "intents")]
    metrics = {"samples": 5313, "selected_on": ["test"], "rows": rows, "verdict": "By MRR@20 nothing."}
    cell = {
        "name": "a",
        "status": "done",
        "axes": {"dataset": "ml-1m", "protocol": "paper", "backbone": "sr-gnn"},
        "metrics": metrics | {"breakdown": {"target": []}},
        "training": {
            "llm": [{"seed": 0, "epochs": 5, "best_epoch": 2}, {"seed": 1, "epochs": 6, "best_epoch": 3}]
        },
        "paper": {"plain": {"HR@20": 0.1301, "MRR@20": 0.0319}},
        "notes": ["It leaks."],
    }
    hardware = {"cpu": "CPU", "cores": 2, "gpus": []}
    found = {
        "command": "llm4sbr experiment",
        "hardware": hardware,
        "versions": {"python": "3", "llm4sbr": "0"},
    }
    return found | {"cells": [cell, cell | {"name": "b", "status": "failed", "error": "no data"}]}


def kept(tables, tmp_path, content):
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "experiment.json").write_text(json.dumps(content))
    return tables.keep(tmp_path / "run", "toy")


def test_the_readme_is_what_the_results_say(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import report

    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert text == report.rendered(text), "run python benchmarks/report.py"


def test_a_table_has_the_papers_figures_gains_epochs_and_notes(tables, tmp_path):
    kept(tables, tmp_path, record(0.15))
    text = tables.experiment_section()
    assert "| sr-gnn | plain |  |  | 15.00 |  | 13.01 | 5.00 |  | 3.19 |" in text
    assert r"| sr-gnn | llm | 2 | 5-6 (2-3) | 20.00 | +25.0%\* |" in text
    assert "best epoch on the test set" in text
    assert "It leaks." in text
    assert "- b: no data" in text
    assert "plain against the paper's plain: HR@20 +15%, MRR@20 +57%." in text


def test_a_backbone_far_below_the_papers_is_marked(tables, tmp_path):
    kept(tables, tmp_path, record(0.11))
    assert "HR@20 -15%, MRR@20 +57%. MORE THAN 10% BELOW." in tables.experiment_section()


def test_kept_numbers_are_rounded_and_paths_are_refused(tables, tmp_path):
    path = kept(tables, tmp_path, record(0.15))
    assert json.loads(path.read_text())["cells"][0]["metrics"]["rows"][1]["metrics"]["MRR@20"]["values"] == [
        0.0666667
    ]
    with pytest.raises(ValueError, match="names a path of this machine"):
        kept(tables, tmp_path, record(0.15) | {"command": "llm4sbr experiment table2 /home/me/x"})
