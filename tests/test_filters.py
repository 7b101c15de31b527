"""Which items pass: attributes in a file, conditions, lists of items, and named filters."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from llm4sbr.errors import InputError, StoreError
from llm4sbr.protocols import Catalogue
from llm4sbr.serving import filters as module
from llm4sbr.serving.attributes import ATTRIBUTES, Attributes, Numbers, Texts
from llm4sbr.serving.filters import Choice, Filters
from llm4sbr.serving.titles import TitleIndex

COLUMNS = {
    "category": ["Lamp", "Rug", "", "Lamp", "Bed, Bath"],
    "price": ["10", "2.5", "30", "", "-1"],
    "code": ["007", "7", "8", "9", ""],
    "nothing": ["", "", "", "", ""],
}
TITLES = ["Red Lamp", "Rug", "Chair", "Red Lamp", "Tub"]


def made(columns: dict[str, list[str]] = COLUMNS) -> Filters:
    size = len(next(iter(columns.values())))
    catalogue = Catalogue([f"k{i}" for i in range(1, size + 1)], (TITLES * size)[:size], columns)
    known = Attributes.of(columns, np.arange(size))
    return Filters(
        TitleIndex(catalogue), Attributes(known.columns, known.clicks, {"in_stock": np.eye(size)[0] > 0})
    )


def ids(filters: Filters, **asked: object) -> list[int]:
    choice = Choice.of(**asked)  # type: ignore[arg-type]
    assert choice is not None
    found = filters.allowed(choice)
    assert found.added.shape == (1, filters.size)
    assert found.added.dtype == np.float32
    assert set(np.unique(found.added).tolist()) <= {0.0, -np.inf}
    passing = (np.flatnonzero(found.added[0] == 0) + 1).tolist()
    assert found.passing == len(passing)
    return passing


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("category = Lamp", [1, 4]),
        ("category != Lamp", [2, 3, 5]),  # what is unknown is not a lamp
        ("not category = Lamp", [2, 3, 5]),
        ('category = ""', [3]),
        ('category in (Rug, "Bed, Bath", Car)', [2, 5]),
        ("category not in Rug, Lamp", [3, 5]),
        ("category contains LA", [1, 4]),
        ("category = Car", []),
        ("price <= 10", [1, 2, 5]),
        ("not price <= 10", [3, 4]),  # a price that is unknown is not below anything
        ("price < 2.5", [5]),
        ("price > 2.5", [1, 3]),
        ("price >= 2.5", [1, 2, 3]),
        ("price = 10.0", [1]),
        ("price != 10", [2, 3, 4, 5]),
        ("price in 30, 2.50", [2, 3]),
        ('price = ""', [4]),
        ('price in "", 10', [1, 4]),
        ("code = 007", [1]),  # a code is no number
        ("code = 7", [2]),
        ('nothing = ""', [1, 2, 3, 4, 5]),
        ("in_stock", [1]),
        ("not in_stock", [2, 3, 4, 5]),
        ("price < 20; category = Lamp; in_stock", [1]),
    ],
)
def test_conditions(where, expected):
    filters = made()
    assert ids(filters, where=where) == expected
    assert ids(filters, where=where) == expected  # from what is kept


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"where": "colour = red"},
            "no attribute is called 'colour'; there are category, price",
        ),
        ({"where": "sold"}, "no filter is called 'sold'; there are in_stock"),
        ({"where": "price"}, "an attribute is compared, as in 'price <= 30'"),
        ({"where": "in_stock = 1"}, "no attribute is called 'in_stock'"),
        ({"where": "price <= cheap"}, "price has numbers, 'cheap' is none"),
        ({"where": "price <= nan"}, "'nan' is no number"),
        ({"where": 'price <= ""'}, "expected a number"),
        ({"where": "price contains 3"}, "price has numbers; compare them with"),
        ({"where": "category < Lamp"}, "category has texts; compare them with"),
        ({"only": [6]}, "no item has the catalogue id 6; ids are 1 to 5"),
        ({"only": [1.5]}, "only: expected a list of keys"),
        ({"without": [True]}, "without: expected a list of keys"),
        ({"without": {"k1": 1}}, "without: expected a list of keys"),
    ],
)
def test_what_cannot_be_asked(asked, message):
    with pytest.raises(InputError) as caught:
        ids(made(), **asked)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_lists_of_items():
    filters = made()
    assert ids(filters, only=["k2", "Chair", 5]) == [2, 3, 5]
    assert ids(filters, only="k2, k4", where="price < 5") == [2]
    assert ids(filters, without=["k1", 5, "k1"]) == [2, 3, 4]
    assert ids(filters, only=["k1", "k2"], without=["k2"]) == [1]
    assert ids(filters, only=[]) == []
    assert Choice.of() is None
    assert ids(filters, where="price > 0") == [1, 2, 3]  # what was kept for conditions is as it was


def test_unknown_items_are_named_or_refused():
    filters = made()
    choice = Choice.of(only=["k1", *(f"new{i}" for i in range(7))])
    found = filters.allowed(choice)
    assert found.passing == 1
    assert found.notes == ("only: no item is called 'new0', 'new1', 'new2', 'new3', 'new4' and 2 more",)
    with pytest.raises(InputError, match="no item is called 'new0'"):
        filters.allowed(choice, unknown="fail")


def test_why_none_passes():
    filters = made()
    lamps = filters.allowed(Choice.of(where="category = Lampe; price > 1"))
    assert lamps.notes == ("no item passes category = Lampe; price > 1; did you mean 'Lamp'?",)
    left = filters.allowed(Choice.of(only=["k1"], without=["k1"]))
    assert left.passing == 0
    assert "no item is left" in left.notes[0]


def test_a_named_filter_is_replaced(tmp_path):
    filters = made()
    before = filters.fingerprint
    assert ids(filters, where="in_stock") == [1]
    (tmp_path / "stock.txt").write_text("k2\r\n\n k5 \nnew\n", encoding="utf-8-sig")
    assert filters.define("in_stock", tmp_path / "stock.txt") == 1
    assert ids(filters, where="in_stock") == [2, 5]
    assert filters.fingerprint != before
    with pytest.raises(InputError, match="a name has letters"):
        filters.define("in stock", tmp_path / "stock.txt")
    (tmp_path / "stock.txt").write_bytes(b"k1\n\xff")
    with pytest.raises(InputError, match="not UTF-8 from byte 3 on"):
        filters.define("in_stock", tmp_path / "stock.txt")
    with pytest.raises(StoreError, match="No such file"):
        filters.define("in_stock", tmp_path / "none.txt")
    assert ids(filters, where="in_stock") == [2, 5]


def test_little_is_kept(monkeypatch):
    filters = made()
    monkeypatch.setattr(module, "KEPT", 3 * 4 * filters.size)
    for price in range(9):
        ids(filters, where=f"price > {price}")
    assert len(filters._kept) == 3
    last = Choice.of(where="price > 8")
    assert last is not None
    assert last.where in filters._kept


texts = st.sampled_from(["", "a", "b", "A b", "7", "07"])
rows = st.lists(st.tuples(texts, st.sampled_from(["", "0", "-3", "2.5", "40"])), min_size=1, max_size=12)


@settings(suppress_health_check=[HealthCheck.too_slow])  # drawing is slow on a busy machine
@given(rows, texts, st.sampled_from(["<", "<=", ">", ">=", "=", "!="]), st.sampled_from(["-3", "2.5", "1"]))
def test_conditions_are_what_a_loop_over_items_finds(rows, value, sign, number):
    filters = made({"name": [one for one, _ in rows], "size": [one for _, one in rows]})
    if isinstance(filters.attributes.columns["name"], Texts):
        expected = [id for id, (name, _) in enumerate(rows, 1) if name == value]
        assert ids(filters, where=f'name = "{value}"') == expected
        inside = [id for id, (name, _) in enumerate(rows, 1) if "a" in name.casefold()]
        assert ids(filters, where="name contains a") == inside
    if isinstance(filters.attributes.columns["size"], Numbers):
        compare = {"<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__}
        compare |= {"=": float.__eq__, "!=": lambda one, other: one != other}
        holds = [bool(size) and compare[sign](float(size), float(number)) for _, size in rows]
        if sign == "!=":
            holds = [not size or one for (_, size), one in zip(rows, holds, strict=True)]
        assert ids(filters, where=f"size {sign} {number}") == [id for id, one in enumerate(holds, 1) if one]


def test_the_file_has_what_was_written(tmp_path):
    many = {"many": [f"x{i}" for i in range(300)], "one": ["1"] * 300}
    known = Attributes.of(many, np.arange(300))
    written = Attributes(known.columns, known.clicks, {"odd": np.arange(300) % 2 == 0})
    written.write(tmp_path / ATTRIBUTES)
    found = Attributes.open(tmp_path / ATTRIBUTES, 300)
    assert found.item(299) == {"many": "x298", "one": 1}
    assert found.columns["many"].codes.dtype == np.uint16
    assert found.filters["odd"].tolist() == written.filters["odd"].tolist()
    assert found.most_clicked[:3].tolist() == [300, 299, 298]
    plain = Attributes.of(COLUMNS)
    plain.write(tmp_path / ATTRIBUTES)
    found = Attributes.open(tmp_path / ATTRIBUTES, 5)
    assert [found.item(id) for id in (1, 2, 3)] == [
        {"category": "Lamp", "price": 10, "code": "007"},
        {"category": "Rug", "price": 2.5, "code": "7"},
        {"price": 30, "code": "8"},
    ]
    assert found.most_clicked is None
    assert found.chosen(["price"]).item(1) == {"price": 10}
    with pytest.raises(InputError, match="no attribute is called 'colour'"):
        found.chosen(["colour"])


@pytest.mark.parametrize(
    "change",
    [
        {"0.codes": np.full(5, 9, np.uint8)},
        {"0.codes": np.zeros(5, np.float32)},
        {"0.codes": np.zeros(4, np.uint8)},
        {"0.values": np.frombuffer(b"[1]", np.uint8)},
        {"0.values": np.frombuffer(b"[" * 9999, np.uint8)},
        {"1.values": np.array([3.0, 1.0, 2.0, 4.0, np.nan])},
        {"1.values": np.array([1.0, np.inf, np.nan])},
        {"1.values": np.full(5, np.nan)},
        {"clicks": np.zeros(5)},
        {"filter.0": np.zeros(9, np.uint8)},
        {"filter.0": None},
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change):
    path = tmp_path / ATTRIBUTES
    known = made().attributes
    known.write(path)
    tensors = {**load_file(path), **change}
    facts = {"names": json.dumps({"columns": list(COLUMNS), "filters": ["in_stock"]})}
    save_file({name: one for name, one in tensors.items() if one is not None}, path, facts)
    with pytest.raises(StoreError, match="not the attributes of 5 items"):
        Attributes.open(path, 5)


def test_the_same_attributes_are_the_same_file(tmp_path):
    """An export's version is a hash of its files."""
    for number in range(8):
        made().attributes.write(tmp_path / str(number))
    assert len({(tmp_path / str(number)).read_bytes() for number in range(8)}) == 1


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    made().attributes.write(tmp_path / ATTRIBUTES)
    whole = (tmp_path / ATTRIBUTES).read_bytes()
    (tmp_path / ATTRIBUTES).write_bytes(whole[:-1])
    with pytest.raises(StoreError, match="export again"):
        Attributes.open(tmp_path / ATTRIBUTES, 5)
