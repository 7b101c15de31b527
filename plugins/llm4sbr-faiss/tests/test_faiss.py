from __future__ import annotations

import pytest
import torch
from llm4sbr_faiss import Faiss

from llm4sbr import registry
from llm4sbr.errors import ConfigError
from llm4sbr.localizers.nearest import top
from llm4sbr.testing.localizers import LocalizerContract


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
    assert faiss.facts["recall@5 against exact search"] == 1.0


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
