"""Reader `amazon`: product reviews as clicks, from a review file and its metadata.

The files are at https://jmcauley.ucsd.edu/data/amazon/ (2014, the paper's Beauty) and its successors of 2018
and 2023: for Beauty `reviews_Beauty_5.json.gz` and `meta_Beauty.json.gz`. Put both into one folder, or give
    no
path: then the two files of 2014 are downloaded into the cache. The publisher gives no checksums, so downloads
are checked by a size limit, by gzip's own checksum, and for Beauty by the known number of reviews.
"""

from __future__ import annotations

import ast
import html
import json
import re
from pathlib import Path
from typing import Any

import polars as pl

from llm4sbr import store
from llm4sbr.data.readers import columns, download, files, lines
from llm4sbr.data.readers.delimited import read_csv
from llm4sbr.errors import DataError
from llm4sbr.progress import Progress
from llm4sbr.protocols import RawData

_URL = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_LIMIT = 2 << 30
"""Maximum size of a download in bytes; the largest category's reviews have about 1.5 GB."""
_REVIEWS = {"Beauty": 198_502}
"""Number of reviews in a category's file, if known (the paper's Table 1)."""
_WHERE = "reviews_*_5.json.gz and meta_*.json.gz, from https://jmcauley.ucsd.edu/data/amazon/"
_ASIN = re.compile(r"""["'](?:parent_)?asin["']\s*:\s*["']([^"']+)["']""")
_FIELDS = {
    "user": ("reviewerID", "user_id"),
    "item": ("parent_asin", "asin"),
    "time": ("unixReviewTime", "timestamp"),
}
"""Field names of 2014 and 2018, then of 2023, whose metadata is per parent: a product in all its colours."""
_ATTRIBUTES = ("category", "price", "brand")
_OBJECTS, _TABLES = (".json", ".json.gz", ".jsonl", ".jsonl.gz"), (".csv", ".csv.gz")
_ENDINGS = (*_OBJECTS, *_TABLES)


class Amazon:
    """Reviews and metadata, one JSON object (in the older metadata: one Python literal) per line.

    Args:
        path: a folder with one review file and one `meta_*` file, or the review file itself. The reviews of
            2023 may be the table `user_id,parent_asin,rating,timestamp`, also in parts (`.train.csv` ...).
        reviews, meta: the two files, if they have other names.
        category: what to download if no file is given, in the publisher's spelling: `Beauty`, `Video_Games`.

    Reviews have only a date: clicks of the same day keep the order of the file.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        reviews: Path | None = None,
        meta: Path | None = None,
        category: str = "Beauty",
    ) -> None:
        self.path = path
        self.reviews = reviews
        self.meta = meta
        self.category = category
        self.progress = Progress(quiet=True)

    def read(self) -> RawData:
        """Every review as a click; raises `DataError` with file and row if something cannot be used."""
        reviews, meta = self._files()
        rejected: list[str] = []
        table = _table(reviews, rejected) if _is_table(reviews) else _objects(reviews, rejected)
        raw = columns.interactions(table, {role: role for role in _FIELDS}, where=reviews)
        known = _REVIEWS.get(self.category) if self.path is None and self.reviews is None else None
        if known and table.height != known:
            raise DataError(
                f"{reviews}: {table.height:,} reviews, expected {known:,}; delete it to fetch it again"
            )
        items, bad = read_metadata(meta, set(raw.interactions["item"].unique()))
        return raw._replace(items=items, rejected=rejected + raw.rejected + bad)

    def files(self) -> list[Path]:
        """The files that `read` reads; empty if it would download them."""
        if not (self.reviews or self.path):
            return []
        reviews, meta = self._files()
        return [*files.parts(reviews, _ENDINGS), meta]

    def _files(self) -> tuple[Path, Path]:
        start = self.reviews or self.path
        if start is None:
            return self._fetched()
        if not Path(start).exists() and "*" not in Path(start).name:
            raise DataError(f"{start}: no such file or folder; it should hold {_WHERE}")
        folder = Path(start) if Path(start).is_dir() else Path(start).parent
        reviews = _whole(Path(start)) if Path(start) != folder else _only(folder, meta=False)
        return reviews, Path(self.meta) if self.meta else _only(folder, meta=True)

    def _fetched(self) -> tuple[Path, Path]:
        """The category's files in the cache, downloaded if missing."""
        if not re.fullmatch(r"[A-Za-z_]+", self.category):
            raise DataError(f"data.options.category = {self.category!r}: expected a name such as Video_Games")
        folder = store.cache_dir() / "datasets" / f"amazon-{self.category}"
        reviews, meta = (
            folder / f"reviews_{self.category}_5.json.gz",
            folder / f"meta_{self.category}.json.gz",
        )
        for path in (reviews, meta):
            if not path.exists():
                self._fetch(f"{_URL}/{path.name}", path)
        return reviews, meta

    def _fetch(self, url: str, path: Path) -> None:
        try:
            download.from_url(url, path, progress=self.progress, limit=_LIMIT)
        except DataError as error:
            raise DataError(f"{error}; or give --data FOLDER with {_WHERE}") from None


def read_metadata(path: Path, wanted: set[str]) -> tuple[pl.DataFrame, list[str]]:
    """Title, category, price and brand of the items `wanted`; and one line per unreadable row."""
    rejected: list[str] = []

    def parse(text: str) -> Any:
        found = _ASIN.search(text)
        # Most products of a category are in no 5-core review; skip them, since literals are slow to parse.
        return {} if found and found[1] not in wanted else _literal(text)

    rows = [
        _product(value)
        for _, value in lines.read(path, rejected, parse=parse)
        if _text(_first(value, _FIELDS["item"])) in wanted
    ]
    schema = dict.fromkeys(("item", "title", *_ATTRIBUTES), pl.String)
    return pl.DataFrame(rows, schema=schema, orient="row"), rejected


def _only(folder: Path, *, meta: bool) -> Path:
    """The only review or metadata file of a folder."""
    endings = _OBJECTS if meta else _ENDINGS
    named = [path for path in folder.iterdir() if path.name.endswith(endings)]
    found = sorted({_whole(path) for path in named if path.name.startswith("meta") == meta})
    if len(found) == 1:
        return found[0]
    option, kind = ("meta", "metadata file meta_*.json.gz") if meta else ("reviews", "review file *.json.gz")
    names = ", ".join(path.name for path in found) or "none"
    raise DataError(
        f"{folder}: expected one {kind}, found {names}; name it with --set data.options.{option}=FILE "
        f"(the files are {_WHERE})"
    )


def _whole(path: Path) -> Path:
    """The name that stands for all parts of a table, `All_Beauty.*.csv`; any other file is whole."""
    part = re.fullmatch(r"(.+)\.(?:train|valid|test)(\.csv(?:\.gz)?)", path.name)
    return path.with_name(f"{part[1]}.*{part[2]}") if part else path


def _is_table(path: Path) -> bool:
    return path.name.endswith(_TABLES)


def _table(path: Path, rejected: list[str]) -> pl.DataFrame:
    """User, item, time and row of a table of reviews."""
    tables = []
    for part in files.parts(path, _TABLES):
        table, bad = read_csv(part)
        rejected += bad
        found = [name for name in table.columns if name != columns.ROW]
        named = {
            role: columns.require([role], found, columns.Names(fixed=True), where=part)[role]
            for role in _FIELDS
        }
        tables.append(table.select(columns.ROW, *(pl.col(name).alias(role) for role, name in named.items())))
    return pl.concat(tables)


def _objects(path: Path, rejected: list[str]) -> pl.DataFrame:
    """User, item, time and row of reviews, one object per line."""
    rows = [
        (row, *(_text(_first(review, names)) for names in _FIELDS.values()))
        for row, review in lines.read(path, rejected)
    ]
    schema = {columns.ROW: pl.Int64, **dict.fromkeys(_FIELDS, pl.String)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _literal(text: str) -> Any:
    """Parse JSON, or the Python literal that the metadata of 2014 has instead."""
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text)


def _product(value: dict[str, Any]) -> tuple[str, ...]:
    path = value.get("categories") or value.get("category") or value.get("main_category") or []
    if path and isinstance(path, list) and isinstance(path[0], list):
        path = path[0]
    category = " > ".join(map(str, path)) if isinstance(path, list) else str(path)
    price, brand = value.get("price"), value.get("brand") or value.get("store")
    texts = (_first(value, _FIELDS["item"]), value.get("title"), category, price, brand)
    return tuple(html.unescape(str(text)) if text is not None else "" for text in texts)


def _first(value: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first of some fields that has a value."""
    return next((value[name] for name in names if value.get(name) is not None), None)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
