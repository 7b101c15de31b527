"""Results in notebooks: frames of polars and pandas, tables in which no title is code, vectors."""

from __future__ import annotations

import sys
import types
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llm4sbr
from llm4sbr import frames
from llm4sbr.errors import InputError, ModelUnavailableError
from llm4sbr.report.summary import Summary
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.serving.recommendation import Described, Recommendation, Recommended
from llm4sbr.serving.titles import Resolved
from llm4sbr.serving.vectors import item_embeddings, session_intents, text_vectors
from llm4sbr.testing.toy_export import toy_export
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.testing.training import settings, trained


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)


def recommendation(*items: Recommended) -> Recommendation:
    return Recommendation(list(items), [Resolved("k1", 1, "k1", "<b>One</b>", "key")], "plain", 0, None)


LAMP = Described(7, "i7", "<script>alert(1)</script>", 2.5, {"price": 3.0, "score": "x"})


def test_a_list_as_a_frame():
    found = recommendation(LAMP, Recommended(2, "i2", "Lamp", 1.25)).frame()
    assert found.columns == ["rank", "id", "key", "title", "score", "price"]  # the item's own score stays
    assert found.rows() == [
        (1, 7, "i7", "<script>alert(1)</script>", 2.5, 3.0),
        (2, 2, "i2", "Lamp", 1.25, None),
    ]
    assert recommendation().frame().columns == ["rank", "id", "key", "title", "score"]


def test_no_title_is_code():
    shown = recommendation(LAMP)._repr_html_()
    assert set(Tags(shown).tags) == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert "After &lt;b&gt;One&lt;/b&gt;" in shown
    assert "<p>" in frames.to_html({"a": [1]}, notes=["<i>"])
    assert "<i>" not in frames.to_html({"<i>": ["<i>"]}, "<i>", ["<i>"])


def test_pandas_gets_the_same_columns(monkeypatch):
    stand_in = types.ModuleType("pandas")
    stand_in.DataFrame = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", stand_in)
    found = recommendation(LAMP)
    assert found.to_pandas() == found.frame().to_dict(as_series=False)


def test_real_pandas_has_the_values_of_polars():
    pytest.importorskip("pandas")
    found = recommendation(LAMP, Recommended(2, "i2", "Lamp", 1.25))
    frame = found.to_pandas()
    assert list(frame.columns) == found.frame().columns
    assert frame["key"].tolist() == ["i7", "i2"]
    assert frame["score"].tolist() == [2.5, 1.25]
    assert frame["price"].isna().tolist() == [False, True]
    assert (frame["id"].dtype, frame["price"].dtype) == (np.int64, np.float64)
    assert recommendation().to_pandas().empty
    summary = Summary({"sessions": 3, "split": "temporal"})
    assert summary.to_pandas().set_index("name")["value"].to_dict() == {"sessions": "3", "split": "temporal"}


def test_a_package_that_is_not_there(monkeypatch):
    for name, make in (("pandas", frames.to_pandas), ("polars", frames.to_polars)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ModelUnavailableError, match=f"{name} is not installed; run pip install {name}"):
            make({"a": [1]})


def test_an_export_gives_the_same_kind_of_list(tmp_path):
    found = ExportedRecommender.load(toy_export(tmp_path)).recommend([3], k=2)
    assert found.frame()["id"].to_list() == [4, 5]
    assert found._repr_html_().count("<tr>") == 3


ROW = {"name": "llm", "label": "sr-gnn, intents", "kind": "model"}
MEASURED = {
    "k": [5, 20],
    "verdict": "It is <better>.",
    "rows": [
        ROW
        | {
            "metrics": {"HR@5": {"mean": 0.1, "std": 0.0}, "HR@20": {"mean": 0.25, "std": 0.5}},
            "gain": {"HR@5": 0.0, "HR@20": 0.1},
            "p": {"HR@20": 0.04},
        },
        {"name": "plain", "label": "sr-gnn", "kind": "model", "metrics": {}, "gain": None, "p": None},
    ],
}


def test_the_table_of_a_run():
    found = Summary(MEASURED)
    assert found["verdict"] == "It is <better>."
    table = found.frame()
    assert table.columns[:7] == ["name", "label", "kind", "HR@5", "HR@5 std", "HR@5 gain", "HR@5 p"]
    assert table.row(0, named=True)["HR@20 p"] == 0.04
    assert table.row(1, named=True)["HR@20"] is None
    shown = found._repr_html_()
    assert "<td>0.25</td><td>0.1</td><td>0.04</td>" in shown
    assert "HR@5" not in shown
    assert "<p>It is &lt;better&gt;.</p>" in shown


def test_the_other_stages():
    trained = Summary(models=[{"facts": {"variant": "llm", "seed": 0, "log": []}}, {"facts": {"seed": 1}}])
    assert trained.frame().rows() == [("llm", 0), (None, 1)]
    assert Summary(items=20, split={"test": 3}, name="x").frame().rows() == [("items", "20"), ("name", "x")]


# Vectors


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = toy_run(tmp_path_factory.mktemp("vectors") / "run", sources=("llm",))
    trained(run, settings(controls=(), epochs=1))
    return run


def test_the_vectors_behind_a_list(finished):
    recommender = llm4sbr.load(finished, variant="llm")
    table = item_embeddings(recommender)
    assert (table.dtype, len(table)) == (np.float32, 20)
    assert np.array_equal(table, recommender.model.backbone.item_embeddings().detach().numpy())
    assert text_vectors(recommender).shape[0] in (0, 20)
    found = session_intents(recommender, [3, 4])
    expected, explained = recommender.intents([3, 4], "auto")
    assert found.perspectives == ["long", "short"]
    assert found.vectors is not None
    assert np.array_equal(found.vectors, expected[0].numpy())
    assert found.explanation == explained
    assert session_intents(recommender, [3], source="none").vectors is None
    with pytest.raises(InputError):
        session_intents(recommender, ["nothing of this name"])
    with pytest.raises(InputError, match="expected auto"):
        session_intents(recommender, [3], source="x")


def test_what_has_no_vectors(finished):
    plain = llm4sbr.load(finished, variant="plain")
    assert session_intents(plain, [3]) == (None, [], None)
