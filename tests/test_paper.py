"""The paper's own figures, and the cells that they stand beside."""

from __future__ import annotations

from typing import Any

import pytest

from llm4sbr.experiments import paper

PAPER = {"protocol": "paper"}
ML1M = {"items": 3416, "clicks": 986_910, "rules": {"split": "paper", "train_prefixes": "last"}}
BEAUTY = {"items": 12_101, "clicks": 198_502, "rules": {"split": "paper", "train_prefixes": "all"}}


def axes(
    backbone: str = "sr-gnn", f: int = 5, perspectives: tuple[str, ...] = ("long", "short")
) -> dict[str, Any]:
    return {"backbone": backbone, "f": f, "perspectives": list(perspectives)}


def test_the_papers_figures_stand_beside_its_own_protocol_only() -> None:
    found = paper.figures(axes("tagnn"), PAPER, ML1M)
    assert found is not None
    assert found["plain"]["HR@20"] == pytest.approx(0.1028)
    assert found["llm"]["MRR@20"] == pytest.approx(0.0487)
    assert paper.figures(axes(), {"protocol": "default"}, ML1M) is None
    assert paper.figures(axes(), PAPER, ML1M | {"items": 3000}) is None
    assert paper.figures(axes("narm"), PAPER, ML1M) is None


def test_the_papers_intents_are_those_of_both_perspectives_and_f_of_5() -> None:
    only_long = paper.figures(axes(perspectives=("long",)), PAPER, ML1M)
    assert only_long is not None
    assert "llm" not in only_long
    third = paper.figures(axes(f=3), PAPER, ML1M)
    assert third is not None
    assert third["llm"] == {"HR@20": pytest.approx(0.1856)}


def test_the_printed_improvements_follow_from_the_printed_figures() -> None:
    """Table 2 prints relative improvements too: MRR@20 of ML-1M, and P@20 of Beauty."""
    table = {name: one["table2"] for name, one in paper.printed()["datasets"].items()}
    improvements = {
        ("ml-1m", "MRR@20"): {"sr-gnn": 64.89, "tagnn": 118.38, "gce-gnn": 16.94, "s2-dhcn": 25.73},
        ("beauty", "HR@20"): {"sr-gnn": 9.69, "tagnn": 10.04, "gce-gnn": 46.04, "s2-dhcn": -0.34},
    }
    for (dataset, metric), expected in improvements.items():
        for backbone, percent in expected.items():
            row = table[dataset][backbone]
            assert 100 * (row["llm"][metric] / row["plain"][metric] - 1) == pytest.approx(percent, abs=0.011)


def test_a_leaking_split_is_said() -> None:
    assert "leaks" in paper.notes(PAPER, BEAUTY)[0]
    assert paper.notes(PAPER, ML1M) == []
