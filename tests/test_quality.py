from __future__ import annotations

import polars as pl
import pytest
import torch

from llm4sbr.data.prepared import catalogue_hash, load
from llm4sbr.evaluation.answer_quality import (
    EMPTY,
    EXACTLY,
    MADE_UP,
    NEARLY,
    by_intent_alone,
    identical,
    kinds,
    statistics,
)
from llm4sbr.intents import IntentStore, IntentWriter
from llm4sbr.intents.texts import Meanings
from llm4sbr.protocols import Catalogue, Samples
from llm4sbr.testing.localizers import LetterEncoder
from llm4sbr.testing.toy_run import toy_run

CATALOGUE = Catalogue(["a", "b"], ["Red Lamp (1990)", "Oak Chair"])


def test_exact_near_and_made_up():
    answers = {
        "red lamp (1990)": EXACTLY,  # but for capitals
        "The Red Lamp": NEARLY,  # without its year
        "Oak Chairs": NEARLY,  # 18 of 19 characters
        "Moon Rocket": MADE_UP,
        "Oak Chair\nRed Lamp (1990)": EXACTLY,
        "Oak Chair\nThe Red Lamp": NEARLY,
        "Oak Chair\nMoon Rocket": MADE_UP,  # as its worst line
        "Oak Chair": EXACTLY,
        "": EMPTY,
    }
    assert kinds(list(answers), CATALOGUE, LetterEncoder()).tolist() == list(answers.values())
    assert kinds([], CATALOGUE, LetterEncoder()).tolist() == []


def test_a_title_with_its_attributes_names_the_item_too():
    catalogue = CATALOGUE._replace(attributes={"kind": ["light", ""]})
    answers = ["Red Lamp (1990), light", "Oak Chair\nred lamp (1990), Light", "Oak Chair, light"]
    assert kinds(answers, catalogue, LetterEncoder()).tolist() == [EXACTLY, EXACTLY, MADE_UP]


def test_figures_by_hand():
    # of texts a, b, "" and c: 3, 1, 2 and 0 samples from one perspective, 0, 0, 6 and 0 from the other
    table = pl.DataFrame({"long": ["a", "a", "a", "b", "", ""], "short": [""] * 6})
    found = Meanings(
        torch.tensor([7, 0, 0, 2]),
        torch.tensor([0.5, 0, 0, 1]),
        torch.tensor([NEARLY, MADE_UP, EMPTY, EXACTLY]),
    )
    counts, again = torch.tensor([[3, 1, 2, 0], [0, 0, 6, 0]]), torch.tensor([2, 0])
    told = statistics(table, ["long", "short"], counts, found, again)
    assert told["same_from_all_perspectives"] == pytest.approx(2 / 6, abs=1e-4)
    assert told["perspectives"]["long"] == {
        "empty": 2,
        "distinct": 2,
        "exact_title": 0.0,
        "near_title": 0.75,
        "no_title": 0.25,
        "grounding": 0.5,
        "repeats_session": pytest.approx(2 / 3, abs=1e-4),
    }
    names = ("exact_title", "near_title", "no_title", "grounding", "repeats_session")
    assert told["perspectives"]["short"] == {"empty": 6, "distinct": 0, **dict.fromkeys(names)}


def test_same_from_all_perspectives():
    one, other = pl.Series(["a", "b", "", "d"]), pl.Series(["a", "x", "", "y"])
    assert identical([one, other]) == 0.5
    assert identical([one]) is None


@pytest.fixture
def prepared(tmp_path):
    return load(toy_run(tmp_path / "run", items=30, sessions=60, sources=()) / "prepare")


def _store(folder, prepared, of):
    samples = prepared.samples["valid"]
    keys, first = samples.key.unique(return_inverse=True)[0], {}
    for row, key in enumerate(samples.key.tolist()):
        first.setdefault(key, row)
    targets = torch.tensor([int(prepared.sessions.items[samples.end[first[int(k)]]]) for k in keys])
    writer = IntentWriter(folder, ("long",), about={"catalogue": catalogue_hash(prepared.catalogue)})
    intents = torch.eye(30)[of(targets) - 1].unsqueeze(1)
    writer.add(keys, intents, torch.zeros(len(keys), 1, 0), torch.zeros(len(keys), 1, 0))
    writer.close()
    return IntentStore.open(folder)


def test_an_oracle_ranks_first_and_a_repeater_last(tmp_path, prepared):
    oracle = by_intent_alone(_store(tmp_path / "a", prepared, lambda t: t), prepared, torch.eye(30))
    count = len(prepared.samples["valid"].key)
    assert oracle["long"] == {"samples": count, "HR@20": 1.0, "MRR@20": 1.0, "median_rank": 1}
    # item t - 1 was clicked last and is left out, so that all items not clicked tie, and ties count against
    repeater = _store(tmp_path / "b", prepared, lambda t: (t - 2) % 30 + 1)
    samples = prepared.samples["valid"]
    unseen = sorted(30 - len(set(prepared.prefix(samples, row))) for row in range(count))
    assert by_intent_alone(repeater, prepared, torch.eye(30))["long"] == {
        "samples": count, "HR@20": 0.0, "MRR@20": 0.0, "median_rank": unseen[(count - 1) // 2]
    }  # fmt: skip


def test_popularity_by_hand(tmp_path, prepared):
    found = by_intent_alone(_store(tmp_path / "a", prepared, lambda t: t), prepared, torch.eye(30))
    counts = torch.bincount(prepared.train.items, minlength=31)[1:].tolist()
    hits = []
    samples = prepared.samples["valid"]
    for row in range(len(samples.key)):
        prefix, target = prepared.prefix(samples, row), int(prepared.sessions.items[samples.end[row]])
        others = [c for i, c in enumerate(counts, 1) if i not in prefix]
        hits.append(sum(c >= counts[target - 1] for c in others) <= 20)
    assert found["popularity"]["HR@20"] == pytest.approx(sum(hits) / len(hits), abs=1e-4)


def test_without_validation_samples_nothing_is_said(tmp_path, prepared):
    nothing = Samples(*(field[:0] for field in prepared.samples["valid"]))
    empty = prepared._replace(samples=prepared.samples | {"valid": nothing})
    assert by_intent_alone(_store(tmp_path / "a", prepared, lambda t: t), empty, torch.eye(30)) == {}
