from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from llm4sbr import registry
from llm4sbr.testing.readers import ReaderContract
from llm4sbr.testing.toy import toy_clicks, toy_log


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


def write_movielens(folder: Path) -> Path:
    clicks, items = rows(folder)
    ratings = [f"{c['user_id']},{c['item_id']},3.5,{c['timestamp']}\n" for c in clicks]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "".join(ratings))
    movies = [f'{i["item_id"]},"{i["title"]}",Comedy|Drama\n' for i in items]
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "".join(movies))
    return folder


def write_amazon_m2(folder: Path) -> Path:
    _, items = rows(folder)
    lines = [f'"[{" ".join(map(repr, own[:-1]))}]",{own[-1]},UK\n' for own in toy_clicks().values()]
    (folder / "sessions_train.csv").write_text("prev_items,next_item,locale\n" + "".join(lines))
    products = [f"{i['item_id']},UK,{i['title']},9.5\n" for i in items]
    (folder / "products_train.csv").write_text("id,locale,title,price\n" + "".join(products))
    return folder


def write_mind(folder: Path) -> Path:
    clicks, items = rows(folder)
    lines = []
    for number, click in enumerate(clicks):
        when = datetime.fromtimestamp(int(click["timestamp"]), UTC).strftime("%m/%d/%Y %I:%M:%S %p")
        lines.append(f"{number}\t{click['user_id']}\t{when}\t\t{click['item_id']}-1 other-0\n")
    (folder / "behaviors.tsv").write_text("".join(lines))
    news = [f"{i['item_id']}\tnews\tlocal\t{i['title']}\t\thttp://x\t[]\t[]\n" for i in items]
    (folder / "news.tsv").write_text("".join(news))
    return folder


def write_recbole(folder: Path) -> Path:
    clicks, items = rows(folder)
    lines: list[str] = []
    before: dict[str, list[str]] = {}
    for click in clicks:
        own = before.setdefault(click["user_id"], [])
        if own:
            lines.append(f"{click['user_id']}\t{' '.join(own)}\t{click['item_id']}\t{click['timestamp']}\n")
        own.append(click["item_id"])
    head = "user_id:token\titem_id_list:token_seq\titem_id:token\ttimestamp:float\n"
    for part, start in (("train", 0), ("test", 300)):
        text = head + "".join(lines[start : start + 300])
        (folder / f"toy.{part}.inter").write_text(text)
    texts = [f"{i['item_id']}\t{i['title']}\t{i['category']}\n" for i in items]
    (folder / "toy.item").write_text("item_id:token\ttitle:token_seq\tcategory:token\n" + "".join(texts))
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "csv": write_csv,
    "parquet": write_parquet,
    "ml-100k": write_ml_100k,
    "ml-1m": write_ml_1m,
    "amazon": write_amazon,
    "jsonl": write_jsonl,
    "movielens": write_movielens,
    "amazon-m2": write_amazon_m2,
    "mind": write_mind,
    "recbole": write_recbole,
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

    def clicks(self) -> dict[str, list[str]]:
        if self.name != "amazon-m2":
            return toy_clicks()
        return {str(row): own for row, own in enumerate(toy_clicks().values(), start=2)}  # rows name sessions
