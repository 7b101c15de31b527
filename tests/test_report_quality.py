"""What `localize` prints of the answers: every figure of the quality report, where a reader looks for it."""

from __future__ import annotations

from typing import Any

import pytest

from llm4sbr.report.terminal.layout import WIDTH, show
from llm4sbr.report.terminal.stages import quality_tables, show_stage

Output = pytest.CaptureFixture[str]


def alone(hits: float, reciprocal: float, rank: int) -> dict[str, float]:
    return {"samples": 1234, "HR@20": hits, "MRR@20": reciprocal, "median_rank": rank}


@pytest.fixture
def found() -> dict[str, Any]:
    """`localize.json` of an LLM with one control."""
    long = {"empty": 0, "distinct": 900, "exact_title": 0.65, "near_title": 0.1, "no_title": 0.25}
    short = {"empty": 20, "distinct": 480, "exact_title": 0.0, "near_title": 0.0, "no_title": 1.0}
    long |= {"grounding": 0.883, "repeats_session": 0.826}
    short |= {"grounding": None, "repeats_session": None}
    popularity = alone(0.106, 0.031, 190)
    llm = {"samples": 1000, "same_from_all_perspectives": 0.5, "perspectives": {"long": long, "short": short}}
    llm["by_intent_alone"] = {"long": alone(0.041, 0.012, 300), "short": alone(0.04, 0.01, 310)}
    text = {
        "samples": 1000,
        "perspectives": {"long": long | {"empty": 0}},
        "same_from_all_perspectives": None,
    }
    text["by_intent_alone"] = {"long": alone(0.09, 0.02, 200), "popularity": popularity}
    llm["by_intent_alone"]["popularity"] = popularity
    about = {"llm": "small", "encoder": "sha256:1, mean pooling", "localizer": {"name": "nearest", "f": 5}}
    return {**about, "sources": {"llm": llm, "item-text": text}, "facts": {"recall": 0.98}}


def printed(found: dict[str, Any], capsys: Output) -> list[list[str]]:
    show_stage("localize", found, {})
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    return [[cell for cell in line.split("  ") if cell] for line in lines]


def cells(lines: list[list[str]], start: str) -> list[str]:
    (line,) = [line for line in lines if line and line[0].startswith(start)]
    return " ".join(line).split()


def test_every_figure_is_printed(found: dict[str, Any], capsys: Output) -> None:
    lines = printed(found, capsys)
    header = " ".join(cells(lines, "answers of"))
    assert header == "answers of answers distinct empty or refused exactly nearly made up likeness repeats"
    rows = [" ".join(" ".join(line).split()) for line in lines]
    assert "small, long 1,000 900 0 65% 10% 25% 0.88 83%" in rows
    assert "small, short 1,000 480 20 (2%) 0% 0% 100% - -" in rows
    assert "small, long 1,234 4.10 1.20 300" in rows
    assert "item-text, long 1,234 9.00 2.00 200" in rows
    assert rows.count("popularity 1,234 >10.60 >3.10 190") == 1
    text = " ".join(rows)
    assert "small: 50% of the samples have the same answer from all perspectives" in text
    assert "Answers tied to items by nearest, f 5; texts encoded by sha256:1, mean pooling." in text
    assert "recall 0.98" in text


def test_without_validation_samples_only_the_names_are_told(found: dict[str, Any], capsys: Output) -> None:
    for one in found["sources"].values():
        one["by_intent_alone"] = {}
    found.pop("facts")
    assert len(quality_tables(found)) == 3
    show(*quality_tables(found))
    assert "by the intent alone" not in capsys.readouterr().out


def test_without_answers_there_is_nothing_to_report(capsys: Output) -> None:
    show_stage("localize", {"sources": {}}, {})
    assert capsys.readouterr().out.strip() == "nothing to report"
