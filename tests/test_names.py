"""The names of a large catalogue, mapped, are found as those in lists are."""

from __future__ import annotations

import json
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from llm4sbr.errors import InputError, StoreError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving.artefact import RECORD, Artefact
from llm4sbr.serving.attributes import Attributes
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.serving.names import NAMES, Column, open_names, write_names
from llm4sbr.serving.search import Search
from llm4sbr.serving.server.lookup import Lookup
from llm4sbr.serving.titles import TitleIndex, parse_session
from llm4sbr.store import file_sha256
from llm4sbr.testing.toy_export import toy_export

TITLES = [
    "Red Lamp (1990)",
    "red lamp (1990)",
    "The Blue Lamp (1991)",
    "Blue Lamp (1992)",
    "Straße",
    "Red Lamp (1990)",
]
TITLES += ["Chair, Large", "Door | Gate", "", "椅子 (2001)"]
CATALOGUE = Catalogue([f"k{number}" for number in range(len(TITLES))], TITLES)


def column(texts: list[str]) -> Column:
    parts = Column.parts(texts)
    return Column(*(parts[name] for name in ("text", "ends", "hashes", "rows")))  # type: ignore[arg-type]


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), min_size=1, max_size=30),
    st.text(max_size=2),
)
def test_a_column_is_its_list(texts: list[str], other: str) -> None:
    found = column(texts)
    assert list(found) == texts == found[:]
    assert [found[row] for row in range(-len(texts), 0)] == texts
    for text in {*texts, other}:
        assert found.ids(text) == [row for row, one in enumerate(texts, 1) if one == text]
        if text:
            assert found.containing(text, 3) == [row for row, one in enumerate(texts, 1) if text in one][:3]
    assert found.most(",") == max(text.count(",") for text in texts)
    with pytest.raises(IndexError):
        found[len(texts)]


def test_other_texts_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm4sbr.serving.names._hash", lambda text: 7)
    found = column(["a", "b", "a"])
    assert (found.ids("a"), found.ids("b"), found.ids("c")) == ([1, 3], [2], [])


@pytest.fixture
def mapped(tmp_path: Path) -> Catalogue:
    write_names(tmp_path / NAMES, CATALOGUE)
    return open_names(tmp_path / NAMES, CATALOGUE.size)


ASKED = ["k3", "Red Lamp (1990)", "red LAMP (1990)", "RED LAMP", "Blue Lamp (1991)", "blue lamp", "strasse"]
ASKED += ["Chair, Large", "Door | Gate", "Chiar, Large", "椅子", "nowhere", "Blu Lamp (1992)", ""]


@pytest.mark.parametrize("text", ASKED)
def test_whatever_is_asked_gets_the_same_answer(mapped: Catalogue, text: str) -> None:
    answers = []
    for catalogue in (CATALOGUE, mapped):
        try:
            answers.append(TitleIndex(catalogue).resolve(text))
        except InputError as error:
            answers.append(str(error))
    assert answers[0] == answers[1]


def test_the_rest_is_the_same(mapped: Catalogue) -> None:
    lists, large = TitleIndex(CATALOGUE), TitleIndex(mapped)
    assert [title in large.repeated for title in TITLES] == [title in lists.repeated for title in TITLES]
    assert (large.commas, large.bars) == (lists.commas, lists.bars) == (1, 1)
    text = "Chair, Large, k1 | Door | Gate\nk2"
    assert parse_session(text, large) == parse_session(text, lists)
    for part in ("lamp", "RED  lamp", "e", "zz", ""):
        assert Lookup(mapped).search(part) == Lookup(CATALOGUE).search(" ".join(part.split()))


def test_an_artefact_of_a_large_catalogue_answers_from_it(tmp_path: Path) -> None:
    folder = toy_export(tmp_path / "export")
    small = Artefact.open(folder)
    write_names(folder / NAMES, Catalogue(small.keys, small.titles))
    record = json.loads((folder / RECORD).read_text())
    record["files"][NAMES] = file_sha256(folder / NAMES)
    (folder / RECORD).write_text(json.dumps(record))
    assert isinstance(Artefact.open(folder).keys, Column)
    found = ExportedRecommender.load(folder).recommend("i03, i07", k=3)
    expected = ExportedRecommender.load(toy_export(tmp_path / "other")).recommend("i03, i07", k=3)
    assert found.items == expected.items
    assert found.session == expected.session


def test_others_may_read_what_an_artefact_has(tmp_path: Path) -> None:
    """A server often runs as another user than the one who exported."""
    (tmp_path / "usual").touch()
    write_names(tmp_path / NAMES, CATALOGUE)
    Attributes.of({"colour": TITLES}).write(tmp_path / "attributes.safetensors")
    index = faiss.index_factory(4, "IVF2,SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(np.random.default_rng(0).standard_normal((99, 4), np.float32))
    search = Search(index, np.zeros((9, 4), np.float32), [], own=None, count=1)
    search.write(tmp_path / "index.safetensors", {"fingerprint": "", "catalogue": ""})
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1
    assert len(list(tmp_path.iterdir())) == 4


def damaged(tensors: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    ends, rows = tensors["titles.ends"].copy(), tensors["keys.rows"].copy()
    ends[2], rows[0] = ends[1] - 1, 10
    return [
        {"titles.ends": ends},
        {"keys.rows": rows},
        {"bare.ends": tensors["bare.ends"][:-1]},
        {"folded.text": tensors["folded.text"][1:]},
        {"keys.hashes": tensors["keys.hashes"].astype(np.int64)},
    ]


@pytest.mark.parametrize("number", range(5))
def test_what_does_not_fit_is_refused(tmp_path: Path, mapped: Catalogue, number: int) -> None:
    tensors = load_file(tmp_path / NAMES)
    save_file(tensors | damaged(tensors)[number], tmp_path / "other")
    with pytest.raises(StoreError, match="not of 10 items"):
        open_names(tmp_path / "other", 10)
    del tensors["titles.rows"]
    save_file(tensors, tmp_path / "other")
    with pytest.raises(StoreError, match="not of 10 items"):
        open_names(tmp_path / "other", 10)
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="not a whole safetensors file"):
        open_names(tmp_path / "other", 10)
