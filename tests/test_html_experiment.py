"""The HTML report of an experiment: cells side by side, the paper's figures, what they show together."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm4sbr import store
from llm4sbr.errors import StoreError
from llm4sbr.report import REPORT
from llm4sbr.report.page.write import write, write_experiment

sys.path.insert(0, str(Path(__file__).parent))
from html_pages import Page, parsed, safe


@pytest.fixture
def metrics() -> dict[str, Any]:
    """`metrics.json` of a run with `item-text` in the LLM's place and two seeds."""
    kinds = {
        "popularity": "baseline",
        "plain": "plain",
        "llm": "intents",
        "shuffled": "control",
        "none": "control",
    }
    labels = {"llm": "sr-gnn, intents of item-text", "shuffled": "sr-gnn, shuffled intents"}
    rows = []
    for place, (name, kind) in enumerate(kinds.items(), 1):
        values = {"mean": place / 100, "std": 0.001, "values": [place / 100 - 0.001, place / 100 + 0.001]}
        row = {
            "name": name,
            "label": labels.get(name, name if kind == "baseline" else f"sr-gnn, {name}"),
            "kind": kind,
            "gain": {},
            "p": {},
        }
        row["metrics"] = {f"{one}@{k}": values for one in ("HR", "MRR", "NDCG") for k in (5, 20)}
        row |= {} if kind == "baseline" else {"peak_memory": 10**9 + place * 10**7, "seconds": 2.0}
        rows.append(row)
    told = "By MRR@20 on 120 test samples, nothing is known."
    return {"rows": rows, "k": [5, 20], "llm": "item-text", "selected_on": ["valid"], "verdict": told}


def axes(**changed: Any) -> dict[str, Any]:
    usual = {"dataset": "toy", "protocol": "default", "backbone": "sr-gnn", "perspectives": ["long", "short"]}
    return usual | {"f": 5} | changed


def cell(name: str, metrics: dict[str, Any] | None, **known: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "name": name,
        "run": f"runs/{name}",
        "axes": axes(),
        "error": None,
        "paper": None,
        "notes": [],
    }
    return usual | {"status": "done" if metrics else "pending", "metrics": metrics} | known


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[..., Page]:
    def write_cells(kind: str, *cells: dict[str, Any]) -> Page:
        content = {"format": 1, "experiment": kind, "cells": cells, "hardware": {"cores": 2}, "versions": {}}
        store.write_json(tmp_path / "experiment.json", content)
        path = write(tmp_path)
        assert path == tmp_path / REPORT
        found = parsed(path)
        safe(found)
        return found

    return write_cells


def test_an_experiment_shows_cells_beside_the_papers_figures(
    experiment: Callable[..., Page], metrics: dict[str, Any], tmp_path: Path
) -> None:
    printed = {
        "plain": {"HR@20": 0.1301, "MRR@20": 0.0319},
        "llm": {"HR@20": 0.1754},
        "memory": {},
        "source": "S",
    }
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / REPORT).write_text("x")
    page = experiment(
        "table2",
        cell("a", metrics, paper=printed, notes=["Mind the gap."]),
        cell("b", json.loads(json.dumps(metrics).replace("sr-gnn", "tagnn")), axes=axes(backbone="tagnn")),
        cell("c", None, status="failed", error="<script>boom</script>"),
        cell("d", None, run="../../etc"),
    )
    header, *lines = page.tables[0]
    assert header == ["model", "HR@20P@20", "gain", "paperHR@20", "MRR@20", "gain", "paperMRR@20"]
    models = [row for row in metrics["rows"] if row["kind"] != "baseline"]
    assert len(lines) == len(metrics["rows"]) + len(models)  # baselines once
    plain = next(line for line in lines if "plain" in line[0])
    assert (plain[3], plain[6]) == ("13.01", "3.19")
    fused = lines[lines.index(plain) + 1]
    assert (fused[3], fused[6]) == ("17.54", "-")
    assert "2 of 4 cells are done" in page.texts("p")[1]
    assert "no LLM was asked in any" in page.texts("p")[1]
    assert "Mind: a: Mind the gap." in page.texts("p")
    cells = page.tables[1]
    assert [line[1] for line in cells[1:]] == ["done", "done", "failed<script>boom</script>", "pending"]
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert [link for link in links if not link.startswith("#")] == ["runs/a/report.html"]
    bars = [text for text in page.texts("desc") if "paper, plain 13.01" in text]
    assert len(bars) == 1


def test_the_finding_counts_gains_that_controls_share(
    experiment: Callable[..., Page], metrics: dict[str, Any]
) -> None:
    def told(llm: float, shuffled: float, p: float) -> dict[str, Any]:
        changed: dict[str, Any] = json.loads(json.dumps(metrics)) | {"llm": "some-llm"}
        for row in changed["rows"]:
            means = {"plain": 0.1, "llm": llm, "shuffled": shuffled}
            if row["name"] in means:
                row["metrics"]["MRR@20"]["mean"] = means[row["name"]]
                row["gain"] = {"MRR@20": means[row["name"]] / 0.1 - 1}
                row["p"] = {"MRR@20": p}
        return changed

    page = experiment(
        "table2",
        cell("own", told(0.2, 0.15, 0.01)),
        cell("shared", told(0.2, 0.2, 0.01)),
        cell("chance", told(0.2, 0.1, 0.5)),
        cell("worse", told(0.05, 0.2, 0.01)),
    )
    said = page.texts("p")[1]
    assert (
        "significantly in 2 of 4; in 1 of these 2 they do not beat a control (item-text or shuffled)" in said
    )
    assert said.endswith("and there the gain is not the LLM's. They lower MRR@20 in 1.")
    beaten, chance = ({"gain": {"MRR@20": 0.3}, "p": {"MRR@20": p}} for p in (0.01, 0.4))
    tested = {"own": {"item-text": beaten, "shuffled": beaten, "none": chance}}
    tested |= {
        "chance": {"item-text": beaten, "shuffled": chance},
        "worse": {"item-text": beaten, "shuffled": {}},
    }
    cells = [cell(name, told(0.2, 0.1, 0.01) | {"against": found}) for name, found in tested.items()]
    assert (
        "in 3 of 3; in 2 of these 3 they do not beat a control" in experiment("table2", *cells).texts("p")[1]
    )
    page = experiment("table2", cell("own", told(0.2, 0.15, 0.01)))
    assert page.texts("p")[1] == f"1 of 1 cells are done. {metrics['verdict']}"


def test_figures_of_the_other_experiments(experiment: Callable[..., Page], metrics: dict[str, Any]) -> None:
    whole = [cell(part, metrics, axes=axes(part=part)) for part in ("whole", "without long")]
    page = experiment("ablation", *whole)
    assert "intents, without long" in page.texts("desc")[0]
    names = [line[0] for line in page.tables[0]]
    assert sum(name.endswith("without long") for name in names) == 2  # intents, and those of another session
    assert names.count("sr-gnn, plain") == names.count("sr-gnn, none control") == 1  # the cells share them
    printed = {"llm": {"HR@20": 0.3}, "memory": {"plain": 1224e6, "llm": 1304e6}}
    page = experiment(
        "localization", *(cell(f"f{f}", metrics, axes=axes(f=f), paper=printed) for f in (5, 0, 1))
    )
    fused = next(row for row in metrics["rows"] if row["name"] == "llm")
    share = f"{100 * fused['metrics']['HR@20']['mean']:.2f}"
    assert f"intents of item-text, by f: 0: {share}, 1: {share}, 5: {share}" in page.texts("desc")[0]
    assert "paper, with intents, by f: 0: 30.00" in page.texts("desc")[0]
    page = experiment("memory", cell("m", metrics, paper=printed))
    plain = next(row for row in metrics["rows"] if row["name"] == "plain")
    more = f"{fused['peak_memory'] / plain['peak_memory'] - 1:+.1%}"
    assert page.tables[0][1][3] == more
    assert page.tables[0][1][4:] == ["1.22 GB", "1.30 GB", "+6.5%"]
    assert f"Intents cost {more} to {more} of peak memory." in page.text


def test_other_list_lengths_have_no_figures_of_the_paper_beside(
    experiment: Callable[..., Page], metrics: dict[str, Any]
) -> None:
    short = json.loads(json.dumps(metrics).replace("@20", "@7")) | {"k": [5, 7]}
    printed = {"plain": {"HR@20": 0.13, "MRR@20": 0.03}, "memory": {}, "source": "S"}
    for kind in ("table2", "ablation", "localization", "memory"):
        page = experiment(kind, cell("a", short, paper=printed))
        assert "1 of 1 cells are done." in page.text
        if kind != "memory":
            assert page.tables[0][0] == ["model", "HR@7P@7", "gain", "MRR@7", "gain"]


def test_an_experiment_that_has_only_begun_or_is_damaged(
    experiment: Callable[..., Page], tmp_path: Path
) -> None:
    assert "0 of 1 cells are done." in experiment("table2", cell("a", None)).text
    for content in ('{"format": 1', '{"format": 1, "experiment": "table2"}', '{"format": 2}'):
        (tmp_path / "experiment.json").write_text(content, encoding="utf-8")
        with pytest.raises(StoreError, match=r"experiment\.json"):
            write_experiment(tmp_path)
