"""The table split by items and sessions: who is in which group, by hand, and that every sample is in one."""

from __future__ import annotations

import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.data.batches import sample_keys
from llm4sbr.data.prepared import Prepared
from llm4sbr.evaluation.breakdown import breakdown, numbers_of
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.report.breakdown import breakdown_table, splits
from llm4sbr.report.terminal.layout import WIDTH, drawn, show
from llm4sbr.testing.toy import toy_catalogue


def prepared(train, test):
    """Data whose test samples are the whole test sessions, the last click being the target."""
    every = [*train, *test]
    offsets = torch.tensor([0, *map(len, every)]).cumsum(0)
    sessions = Sessions(torch.tensor([item for one in every for item in one]), offsets)
    first = len(train)
    fit = Sessions(sessions.items[: int(offsets[first])], offsets[: first + 1])
    start, end = offsets[first:-1], offsets[first + 1 :] - 1
    samples = Samples(start, end, sample_keys(sessions, start, end))
    return Prepared(toy_catalogue(5), sessions, fit, {"test": samples}, {})


def test_numbers_by_hand():
    # Item 1 occurs six times in training, item 2 five times, item 3 once, item 4 never.
    data = prepared([[1, 2, 1, 2, 1, 2], [1, 2, 1, 2, 1, 3]], [[1, 2, 1, 4], [4, 3], [3, 2]])
    found = numbers_of(data)
    assert found["target"].tolist() == [0, 1, 5]
    assert found["last"].tolist() == [6, 0, 1]
    assert found["length"].tolist() == [3, 1, 1]


def test_groups_by_hand():
    numbers = {
        "target": torch.tensor([0, 1, 5, 6, 900]),
        "last": torch.tensor([9, 9, 9, 9, 0]),
        "length": torch.tensor([1, 2, 3, 10, 11]),
    }
    ranks = {
        "popularity": [torch.tensor([9, 9, 1, 1, 2])],
        # Two seeds. Rare targets: ranks 2, 9 and 1, 4: hits 1/2 and 1, reciprocals 1/2, 0, 1, 1/4.
        "plain": [torch.tensor([9, 2, 9, 1, 1]), torch.tensor([1, 1, 4, 1, 1])],
    }
    found = breakdown(ranks, numbers, 5)
    target = {group["name"]: group for group in found["target"]}
    assert [(g["name"], g["range"], g["samples"]) for g in found["target"]] == [
        ("new", "0", 1),
        ("rare", "1-5", 2),
        ("common", "6+", 2),
    ]
    assert target["rare"]["rows"]["plain"] == pytest.approx({"HR@5": 0.75, "MRR@5": 1.75 / 4})
    assert target["new"]["rows"]["plain"] == {"HR@5": 0.5, "MRR@5": 0.5}
    assert target["common"]["rows"]["popularity"] == {"HR@5": 1.0, "MRR@5": 0.75}
    assert [(g["name"], g["samples"]) for g in found["last"]] == [("new", 1), ("common", 4)]  # none is rare
    assert [(g["range"], g["samples"]) for g in found["length"]] == [
        ("1-2", 2),
        ("3-5", 1),
        ("6-10", 1),
        ("11+", 1),
    ]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 50)), min_size=1))
def test_every_sample_is_in_one_group_of_each_split(samples):
    target, last, length = (torch.tensor(column) for column in zip(*samples, strict=True))
    ranks = torch.arange(1, len(samples) + 1)
    found = breakdown({"plain": [ranks]}, {"target": target, "last": last, "length": length}, 20)
    for groups in found.values():
        assert sum(group["samples"] for group in groups) == len(samples)
        # The groups' means, weighted by their sizes, are the whole table's.
        whole = sum(group["samples"] * group["rows"]["plain"]["HR@20"] for group in groups)
        assert whole == pytest.approx(min(20, len(samples)))


def shown(metrics):
    stream = io.StringIO()
    for split, groups in splits(metrics).items():
        table = breakdown_table(split, groups, metrics["rows"], max(metrics["k"]))
        show(*drawn(table, caption=True), file=stream)
    return stream.getvalue()


def metrics(target, last, length):
    rows = [
        {"name": "plain", "label": "sr-gnn, plain", "kind": "plain"},
        {"name": "llm", "label": "sr-gnn, intents of smollm2-135m", "kind": "intents"},
    ]
    ranks = {"plain": [torch.full((len(target),), 4)], "llm": [torch.full((len(target),), 2)]}
    numbers = {"target": target, "last": last, "length": length}
    found = breakdown(ranks, {key: torch.tensor(value) for key, value in numbers.items()}, 10)
    return {"k": [5, 10], "rows": rows, "breakdown": found}


def test_all_groups_fit_the_width_and_say_what_they_are():
    everything = metrics([0, 3, 9, 9] * 2500, [0, 3, 9, 9] * 2500, [1, 4, 8, 30] * 2500)
    text = shown(everything)
    assert max(map(len, text.splitlines())) <= WIDTH
    words = " ".join(text.split())
    assert "how often the next click's item occurs in training; in brackets the test samples" in words
    assert "how often the last item of the session occurs" in words
    lines = [line.split() for line in text.splitlines()]
    heads = [place for place, line in enumerate(lines) if line[:1] == ["HR@10"]]
    assert [lines[place] for place in heads] == [["HR@10"] * n + ["MRR@10"] * n for n in (3, 3, 4)]
    for place in heads[:2]:
        assert lines[place + 1] == ["new", "0", "rare", "1-5", "common", "6+"] * 2
        assert lines[place + 2] == ["model", *["(2,500)", "(2,500)", "(5,000)"] * 2]
    assert lines[heads[2] + 1] == ["1-2", "3-5", "6-10", "11+"] * 2
    assert ">50.00" in words  # the reciprocal of rank 2
    assert " 25.00" in words


def test_groups_without_samples_and_splits_of_one_group_are_left_out():
    text = shown(metrics([3, 9], [9, 9], [1, 2]))
    assert "rare" in text
    assert "new" not in text
    assert "clicks the session" not in text
    assert "last" not in text
    assert shown(metrics([9, 9], [9, 9], [1, 2])) == ""
    assert shown({"k": [5], "rows": []}) == ""
