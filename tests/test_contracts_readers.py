from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from llm4sbr import registry
from llm4sbr.testing.readers import ReaderContract
from llm4sbr.testing.toy import toy_log


def rows(folder: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    source = toy_log(folder.parent / f"{folder.name}-csv")
    tables = (pl.read_csv(source / f"{name}.csv", infer_schema=False) for name in ("interactions", "items"))
    clicks, items = (table.to_dicts() for table in tables)
    folder.mkdir(parents=True, exist_ok=True)
    return clicks, items


def write_csv(folder: Path) -> Path:
    toy_log(folder)
    for name in ("interactions", "items"):
        plain = folder / f"{name}.csv"
        (folder / f"{name}.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return folder


def write_parquet(folder: Path) -> Path:
    for name, table in zip(("interactions", "items"), rows(folder), strict=True):
        pl.DataFrame(table).write_parquet(folder / f"{name}.parquet")
    return folder


def write_ml_100k(folder: Path) -> Path:
    clicks, items = rows(folder)
    lines = ["\t".join((c["user_id"], c["item_id"], "3", c["timestamp"])) for c in clicks]
    (folder / "u.data").write_text("\n".join(lines) + "\n")
    flags = "|".join("1" if n in (1, 5) else "0" for n in range(19))
    texts = [f"{i['item_id']}|{i['title']}|01-Jan-1990||http://x|{flags}" for i in items]
    (folder / "u.item").write_text("\n".join(texts), encoding="latin-1")
    return folder


def write_ml_1m(folder: Path) -> Path:
    clicks, items = rows(folder)
    lines = ["::".join((c["user_id"], c["item_id"], "3", c["timestamp"])) for c in clicks]
    (folder / "ratings.dat").write_text("\n".join(lines) + "\n")
    texts = [f"{i['item_id']}::{i['title']}::Comedy|Drama" for i in items]
    (folder / "movies.dat").write_text("\n".join(texts), encoding="latin-1")
    return folder


def write_amazon(folder: Path) -> Path:
    clicks, items = rows(folder)
    reviews = [
        {
            "reviewerID": c["user_id"],
            "asin": c["item_id"],
            "unixReviewTime": int(c["timestamp"]),
            "overall": 5.0,
        }
        for c in clicks
    ]
    text = "\n".join(map(json.dumps, reviews)).encode()
    (folder / "reviews_Toys_5.json.gz").write_bytes(gzip.compress(text))
    meta = [
        {"asin": i["item_id"], "title": i["title"], "categories": [["Home", i["category"]]]} for i in items
    ]
    (folder / "meta_Toys.json").write_text("\n".join(map(repr, meta)))
    return folder


def write_jsonl(folder: Path) -> Path:
    clicks, items = rows(folder)
    sessions: dict[str, list[dict[str, str]]] = {}
    for click in clicks:
        sessions.setdefault(click["user_id"], []).append(click)
    lines = [
        {"session": name, "items": [c["item_id"] for c in own], "time": int(own[0]["timestamp"])}
        for name, own in sessions.items()
    ]
    (folder / "sessions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "ml-100k": write_ml_100k,
    "ml-1m": write_ml_1m,
    "amazon": write_amazon,
    "jsonl": write_jsonl,
}


@pytest.mark.parametrize(
    "reader", sorted({c.name for c in registry.components("readers") if c.package == "llm4sbr"})
)
class TestReaders(ReaderContract):
    @pytest.fixture(autouse=True)
    def _reader(self, reader: str) -> None:
        self.name = reader

    def write(self, folder: Path) -> Path:
        return WRITERS[self.name](folder)
