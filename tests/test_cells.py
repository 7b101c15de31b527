"""Names of an experiment's cells: brief, and never the same twice."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.experiments.parts import ablations
from llm4sbr.report.cells import describe, labels


def cell(
    backbone: str = "sr-gnn", f: int = 5, views: tuple[str, ...] = ("long", "short"), **more: Any
) -> Any:
    axes = {
        "dataset": "toy",
        "protocol": "default",
        "backbone": backbone,
        "perspectives": list(views),
        "f": f,
    }
    return {"axes": axes | more}


def ablation(views: tuple[str, ...]) -> list[Any]:
    return [cell(views=part.perspectives, part=part.name) for part in ablations(views, {})]


def test_only_what_differs_is_said() -> None:
    assert labels([cell(f=0), cell(f=3)]) == ["f 0", "f 3"]
    assert labels([cell(), cell("tagnn")]) == ["sr-gnn", "tagnn"]
    assert labels([cell(), cell(views=("long",), f=1)]) == ["long and short, f 5", "long, f 1"]
    assert labels([cell()]) == [""]
    assert labels([]) == []


def test_a_varied_setting_is_called_by_its_name() -> None:
    values = [cell(**{"train.learning_rate": 0.001}), cell(**{"train.learning_rate": 0.002})]
    assert labels(values) == ["learning_rate 0.001", "learning_rate 0.002"]
    both = [cell(**{"train.dim": 8, "train.tau": tau}) for tau in (0.0, 0.1)]
    assert labels(both) == ["tau 0.0", "tau 0.1"]


def test_what_the_reader_is_told_otherwise_is_not_said_again() -> None:
    assert labels([cell(), cell("tagnn")], omit=["backbone"]) == ["", ""]
    assert labels([cell(f=1), cell("tagnn", f=3)], omit=["backbone"]) == ["f 1", "f 3"]


def test_parts_of_one_ablation_need_no_perspectives_those_of_two_do() -> None:
    assert labels(ablation(("long", "short"))) == [
        "whole", "without long", "without short", "normal only", "without alignment"
    ]  # fmt: skip
    both = labels([*ablation(("long", "short")), *ablation(("long", "normal"))])
    assert "long and short, whole" in both
    assert "long and normal, whole" in both


PLACES = st.sets(
    st.tuples(st.sampled_from(["sr-gnn", "tagnn"]), st.sampled_from([0, 5]), st.sampled_from(["a", "b"])),
    min_size=1,
)


@settings(max_examples=50, deadline=None)
@given(PLACES, st.sampled_from([(), ("backbone",), ("backbone", "f")]))
def test_no_two_cells_have_one_name(places: set[tuple[str, int, str]], omit: tuple[str, ...]) -> None:
    cells = [cell(backbone, f, (view,)) for backbone, f, view in sorted(places)]
    names = [(label, describe(one, omit)) for label, one in zip(labels(cells, omit=omit), cells, strict=True)]
    assert len(set(names)) == len(cells)


@pytest.mark.parametrize(("f", "backbone"), list(product((0, 3), ("stamp", "narm"))))
def test_a_place_in_words(f: int, backbone: str) -> None:
    one = cell(backbone, f, part="whole")
    assert (
        describe(one, ["backbone", "perspectives", "f", "part"])
        == f"{backbone}, long and short, f {f}, whole"
    )
    assert describe(cell(), ["part"]) == ""
