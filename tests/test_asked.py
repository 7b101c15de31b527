"""The tables about baselines that ask an LLM, and the command that plans what they ask."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm4sbr.asking.baselines import chosen
from llm4sbr.report.asked import asked_table, asking_cost_table

ROOT = Path(__file__).parents[1]

ASKED = {
    "llm": "embedded",
    "samples": 200,
    "answered": 150,
    "reach": 0.4,
    "with": {"HR@5": 0.1, "MRR@5": 0.05},
    "alone": {"HR@5": 0.2, "MRR@5": 0.1},
    "p": {"HR@5": 0.004, "MRR@5": 0.3},
    "prompts": 140,
    "from_cache": 40,
    "failed": 3,
    "tokens": 61_000,
    "seconds": 75.0,
    "cost": None,
}


def row(**asked):
    return {"label": "list-wise over slist", "asked": ASKED | asked}


def texts(table):
    return [[cell.text + cell.mark for cell in line] for line in table.rows]


def test_the_answers_stand_beside_the_retriever_alone():
    found = asked_table([{"label": "slist"}, row()], 5)
    assert found.caption == "What embedded changes where it was asked, in percent"
    header = [cell.text for cell in found.header]
    assert header == ["model", "samples", "reach", "HR@5", "without", "MRR@5", "without"]
    line = ["list-wise over slist", "150 of 200", "40%", "10.00**", "20.00", "5.00", "10.00"]
    assert texts(found) == [line]
    assert texts(asked_table([row(reach=None)], 5))[0][2] == "-"  # all items can be found


def test_what_asking_took():
    label = "list-wise over slist"
    (first, second, third) = texts(asking_cost_table([row(), row(cost=1.25), row(answered=0)]))
    assert first == [label, "140", "40", "3", "61,000", "1 min 15 s", "-", "0.5 s"]
    assert second[6] == "1.25"
    assert third[7] == "-"


def test_without_such_rows_there_is_no_table():
    assert asked_table([{"label": "slist"}], 5) is None
    assert asking_cost_table([{"label": "slist"}]) is None


@pytest.mark.parametrize("samples", [1, 3, 50])
def test_the_choice_is_always_the_same_and_grows(samples):
    assert chosen(samples, 10**6) == list(range(samples))
    few, more = set(chosen(50, 5)), set(chosen(50, 20))
    assert len(few) == 5
    assert few < more  # asking about more samples later repeats no question


def test_the_documented_tables_are_what_was_measured():
    found = json.loads((ROOT / "benchmarks/results/related-ml-100k.json").read_text(encoding="utf-8"))
    text = (ROOT / "docs/related.md").read_text(encoding="utf-8")
    assert found["command"] in text
    rows = found["cells"][0]["metrics"]["rows"]
    for table in (asked_table(rows, 5), asked_table(rows, 20)):
        for line in texts(table):
            assert f"| {' | '.join(line).replace('*', chr(92) + '*')} |" in text
