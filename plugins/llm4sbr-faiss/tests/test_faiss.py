from __future__ import annotations

import json

import polars as pl
import pytest
import torch
from llm4sbr_faiss import Faiss

from llm4sbr import registry
from llm4sbr.config import build
from llm4sbr.data.prepared import load
from llm4sbr.errors import ConfigError
from llm4sbr.intents import IntentStore
from llm4sbr.localizers.nearest import top
from llm4sbr.progress import Progress
from llm4sbr.stages.localize import localize
from llm4sbr.testing.localizers import LetterEncoder, LocalizerContract
from llm4sbr.testing.toy_run import toy_run


class TestFaiss(LocalizerContract):
    create = staticmethod(lambda f: Faiss(f))


def _vectors(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def test_it_is_registered():
    assert registry.load("localizers", "faiss") is Faiss


def test_a_small_catalogue_is_searched_exactly():
    queries, vectors = _vectors(50, 0), _vectors(300, 1)
    vectors[7] = 0
    faiss = Faiss(5)
    cosine, rows = faiss.search(queries, vectors)
    exact = top(queries, vectors, 5)
    assert torch.equal(rows, exact[1])
    torch.testing.assert_close(cosine, exact[0], atol=1e-5, rtol=0)
    assert faiss.facts == {"index": "none, the search is exact up to 10,000 items"}


def test_items_that_are_as_similar_are_as_good():
    # Every vector four times: whichever two of the four an index finds, nothing is missed.
    queries, vectors = _vectors(40, 0), _vectors(100, 1).repeat(4, 1)
    faiss = Faiss(2, index="Flat")
    faiss.search(queries, vectors)
    assert faiss.facts["recall@2 against exact search"] == 1.0


def test_a_large_one_nearly_so_and_its_recall_is_told():
    queries, vectors = _vectors(200, 0), _vectors(20_000, 1)
    few, many = Faiss(5, probes=2), Faiss(5, probes=10_000)
    recalls = []
    for faiss in (few, many):
        rows = faiss.search(queries, vectors)[1]
        exact = top(queries, vectors, 5)[1]
        recall = (exact.unsqueeze(2) == rows.unsqueeze(1)).any(2).double().mean()
        assert faiss.facts["recall@5 against exact search"] == pytest.approx(float(recall), abs=1e-4)
        assert faiss.facts["index"] == "IndexIVFFlat"
        recalls.append(float(recall))
    assert recalls[0] < 0.9 < recalls[1] == 1.0


def test_the_index_is_that_of_the_catalogue_at_hand():
    faiss = Faiss(1)
    one, other = _vectors(30, 1), _vectors(30, 2)
    assert faiss.search(one[3:4], one)[1].item() == 3
    assert faiss.search(other[5:6], other)[1].item() == 5


def test_wrong_options():
    with pytest.raises(ConfigError, match="probes = 0"):
        Faiss(5, probes=0)
    with pytest.raises(ConfigError, match="faiss does not know it"):
        Faiss(5, index="Magic42").search(_vectors(2, 0), _vectors(9, 1))


def test_a_run_is_told_how_often_the_exact_item_was_found(tmp_path, monkeypatch, capsys):
    run = toy_run(tmp_path / "run", sources=())
    prepared = load(run / "prepare")
    keys = torch.cat([samples.key for samples in prepared.samples.values()]).unique().tolist()
    answers = [prepared.catalogue.titles[place % 20] for place in range(len(keys))]
    for name in ("long", "short"):
        (run / "infer/llm").mkdir(parents=True, exist_ok=True)
        table = {"key": keys, "answer": answers, "parsed": answers}
        pl.DataFrame(table).write_parquet(run / f"infer/llm/{name}.parquet")
    create = registry.create
    stand_in = lambda kind, name, **o: LetterEncoder() if kind == "encoders" else create(kind, name, **o)  # noqa: E731
    monkeypatch.setattr(registry, "create", stand_in)
    config = build(
        {"localize": {"encoder": "letters", "localizer": "faiss", "f": 2, "options": {"index": "Flat"}}}
    )
    (run / "localize").mkdir()
    localize(run, run / "localize", config, Progress())
    recall = "recall@2 against exact search"
    assert json.loads((run / "localize/localize.json").read_text())["facts"][recall] == 1.0
    assert f"{recall} 1.0" in capsys.readouterr().err
    items, _ = IntentStore.open(run / "localize/llm").located(torch.arange(len(keys)))
    assert items[:, 0, 0].tolist() == [place % 20 + 1 for place in range(len(keys))]
