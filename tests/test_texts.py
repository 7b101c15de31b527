"""Distinct texts among answers, and meanings that a second source takes over from the first."""

from __future__ import annotations

import polars as pl
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm4sbr.intents import IntentStore, IntentWriter
from llm4sbr.intents.texts import Located, Meanings, Texts

WORDS = st.sampled_from(["", "a", "b", "a\nb", "A", "\u00e9", "e\u0301", " a"])


@given(st.lists(st.tuples(WORDS, WORDS), max_size=30))
def test_texts_are_numbered_as_they_first_appear(rows):
    table = pl.DataFrame({"long": [one for one, _ in rows], "short": [other for _, other in rows]}).cast(
        pl.String
    )
    found = Texts.distinct(table, ["long", "short"])
    flat = [text for row in rows for text in row]
    assert found.texts.to_list() == list(dict.fromkeys(flat))
    assert [found.texts[number] for number in found.of.flatten().tolist()] == flat
    assert found.of.shape == (len(rows), 2)
    counts = found.counts()
    assert counts.sum(1).tolist() == [len(rows)] * 2
    assert (
        counts.tolist()
        == [[column.count(text) for text in found.texts] for column in zip(*rows, strict=True)]
        or not rows
    )
    assert found.among(found.texts).tolist() == list(range(len(found.texts)))
    alone = Texts.one_each(table, ["long", "short"])
    assert alone.texts.to_list() == flat
    assert alone.of.flatten().tolist() == list(range(len(flat)))


def test_what_another_source_has_is_found():
    texts = Texts.distinct(pl.DataFrame({"long": ["x", "y", "z"]}), ["long"])
    assert texts.among(pl.Series(["z", "q", "x"])).tolist() == [2, -1, 0]


def test_known_meanings_stand_where_their_texts_do(tmp_path):
    writer = IntentWriter(tmp_path, ["long"], about={"catalogue": "c"})
    vectors = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    rows = writer.store(vectors, torch.tensor([[5], [6]]), torch.ones(2, 1))
    writer.assign(torch.tensor([10, 11]), rows.unsqueeze(1))
    writer.close()
    known = Meanings(torch.tensor([5, 6]), torch.tensor([0.5, 0.25]), torch.tensor([0, 2]))
    before = Located(pl.Series(["x", "y"]), tmp_path, rows, known)
    new = [torch.tensor([[9.0, 9.0]]).half(), torch.tensor([[1]]), torch.ones(1, 1).half()]
    new += [torch.tensor([1]), torch.tensor([0.75]), torch.tensor([1])]
    found = before.completed(new, torch.tensor([1]), torch.tensor([1, -1, 0]))
    assert found[0].tolist() == [[3.0, 4.0], [9.0, 9.0], [1.0, 2.0]]
    assert found[1].tolist() == [[6], [1], [5]]
    assert [part.tolist() for part in found[3:]] == [[6, 1, 5], [0.25, 0.75, 0.5], [2, 1, 0]]
    assert IntentStore.open(tmp_path).gather(torch.tensor([0, 1])).squeeze(1).tolist() == vectors.tolist()
