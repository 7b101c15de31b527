"""Readers `ml-100k`, `ml-1m`, `movielens`: Harper & Konstan 2015, https://grouplens.org/datasets/movielens.

Reads GroupLens' own files or zip, RecBole's atomic files, or a folder that the reader `csv` can read. Titles
are put in their usual form: `Empire Strikes Back, The (1980)` becomes `The Empire Strikes Back (1980)`. The
data may be used for research and must not be redistributed, so none of it is shipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import polars as pl

from llm4sbr import store
from llm4sbr.data.readers import columns, download, files
from llm4sbr.data.readers.tables import Csv
from llm4sbr.errors import DataError
from llm4sbr.progress import Progress
from llm4sbr.protocols import RawData

_URL = "https://files.grouplens.org/datasets/movielens/{name}.zip"
_MD5 = {"ml-100k": "0e33842e24a9c977be4e0107933c0723", "ml-1m": "c4d9eecfca2ab87c1945afe126590906"}
"""As published by GroupLens next to the zip files."""

_WHEEL = "recbole==1.2.1"
_WHEEL_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
_WHEEL_MEMBERS = {
    f"recbole/dataset_example/ml-100k/ml-100k{end}": f"ml-100k{end}" for end in (".inter", ".item")
}

_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *(
        "Fantasy",
        "Film-Noir",
        "Horror",
        "Musical",
        "Mystery",
        "Romance",
        "Sci-Fi",
        "Thriller",
        "War",
        "Western",
    ),
)
"""The genre flags at the end of a row of u.item, in order."""

_ARTICLE = r"^([^(]+), (The|A|An|La|Le|Les|El|Il|Der|Die|Das)( \(.*)?$"
_SUGGESTS = {"data.sessions": "bins", "data.test_prefixes": "last"}
"""The paper's rules for MovieLens-1M, whose users rate many films in one sitting."""


class FileFormat(NamedTuple):
    """File names and columns of one form in which the data is distributed."""

    clicks: str
    items: str
    separator: str
    click_columns: list[str]
    """Column names for a file without a header; empty if it has one."""
    item_columns: list[str]
    encoding: str


_CLICK = ("user", "item", "time")
_RATING = ["user", "item", "rating", "time"]
_FORMATS = (
    FileFormat(
        "u.data", "u.item", "\t|", _RATING, ["item", "title", "date", "video", "url", *_GENRES], "latin-1"
    ),
    FileFormat("ratings.dat", "movies.dat", "::", _RATING, ["item", "title", "category"], "latin-1"),
    FileFormat("ml-100k.inter", "ml-100k.item", "\t", [], [], "utf-8"),
    FileFormat("ml-1m.inter", "ml-1m.item", "\t", [], [], "utf-8"),
    FileFormat("ratings.csv", "movies.csv", ",", [], [], "utf-8"),
)


class MovieLens100K:
    """100,000 ratings; without a path downloaded from PyPI (inside a package) or from GroupLens."""

    suggests = {
        **_SUGGESTS,
        "train.seeds": 3,  # about 600 test samples are too few for a single seed
        "train.batch_size": 500,  # no worse on validation than 100, and less work
        "train.learning_rate": 0.004,
        "train.epochs": 5,
    }

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.progress = Progress(quiet=True)

    def read(self) -> RawData:
        """Every rating as a click; raises `DataError` if the data is in neither `path` nor the network."""
        return _read(self.path or _fetched_100k(self.progress), "ml-100k")


class MovieLens1M:
    """1,000,209 ratings; without a path downloaded from GroupLens."""

    suggests = _SUGGESTS

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.progress = Progress(quiet=True)

    def read(self) -> RawData:
        """Every rating as a click; raises `DataError` if the data is in neither `path` nor the network."""
        return _read(self.path or _fetched("ml-1m", self.progress), "ml-1m")


class MovieLens:
    """MovieLens of any size as GroupLens gives it: ml-10m, ml-20m, ml-25m, ml-32m, ml-latest and its like.

    Args:
        path: a folder or zip file with `ratings.csv` and `movies.csv` (or `.dat`), at its top or in a folder.
    """

    suggests = _SUGGESTS

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def read(self) -> RawData:
        """Every rating as a click; raises `DataError` if `path` has no MovieLens."""
        if self.path is None:
            raise DataError("the reader 'movielens' needs --data FOLDER with ratings.csv and movies.csv")
        return _read(self.path, "*")


def tidy_titles(items: pl.DataFrame) -> pl.DataFrame:
    """Move articles to the front of titles and the year to their end, and add the year as an attribute."""
    title = pl.col("title").str.strip_chars().str.replace(_ARTICLE, "$2 $1$3")
    table = items.with_columns(title)
    in_title = pl.col("title").str.extract(r"\((\d{4})\)$")
    year = pl.col("year").str.extract(r"^(\d{4})$") if "year" in items.columns else in_title
    table = table.with_columns(pl.coalesce(year, in_title).fill_null("").alias("year"))
    lacks = (pl.col("year") != "") & in_title.is_null()
    dated = pl.when(lacks).then(pl.format("{} ({})", "title", "year")).otherwise("title").alias("title")
    table = table.with_columns(dated)
    if "category" in table.columns:
        genres = pl.col("category").replace("(no genres listed)", "").str.replace_all("|", " ", literal=True)
        table = table.with_columns(genres)
    return table.select(
        "item", "title", "year", *(c for c in table.columns if c not in ("item", "title", "year"))
    )


def _fetched_100k(progress: Progress) -> Path:
    folder = store.cache_dir() / "datasets" / "ml-100k"
    if all((folder / name).exists() for name in _WHEEL_MEMBERS.values()):
        return folder
    if (folder / "ml-100k.zip").exists():
        return _fetched("ml-100k", progress)
    try:
        download.from_wheel(
            _WHEEL, sha256=_WHEEL_SHA256, members=_WHEEL_MEMBERS, folder=folder, progress=progress
        )
    except DataError as error:
        progress.note(f"{error}; trying GroupLens")
        return _fetched("ml-100k", progress)
    return folder


def _fetched(name: str, progress: Progress) -> Path:
    """The zip file in the cache, downloaded if missing."""
    archive = store.cache_dir() / "datasets" / name / f"{name}.zip"
    url = _URL.format(name=name)
    if not archive.exists():
        try:
            download.from_url(url, archive, md5=_MD5[name], progress=progress)
        except DataError as error:
            raise DataError(f"{error}; get {name}.zip elsewhere and give its path with --data") from None
    return archive


def _read(path: Path, name: str) -> RawData:
    if not path.exists():
        fetched = "" if name == "*" else f"; without --data {name} is fetched"
        raise DataError(f"{path}: no such file or folder{fetched}")
    if path.name in (form.clicks for form in _FORMATS):
        path = path.parent
    for form in _FORMATS:
        clicks, items = (_content(path, name, file, form.encoding) for file in (form.clicks, form.items))
        if clicks is not None and items is not None:
            return _parsed(path, form, clicks, items)
    if path.is_dir() and any(path.glob("interactions.*")):
        raw = Csv(path).read()
        return raw._replace(items=tidy_titles(raw.items))
    formats = "; ".join(f"{form.clicks} and {form.items}" for form in _FORMATS)
    what = "MovieLens" if name == "*" else name
    raise DataError(f"{path}: not {what}: looked for {formats}; interactions.csv and items.csv")


def _content(path: Path, name: str, file: str, encoding: str) -> bytes | None:
    """A file of a folder or zip, at its top or in the folder `name` inside (`*`: any); None if missing."""
    if path.is_dir():
        found = next(
            (one for one in (path / file, *sorted(path.glob(f"{name}/{file}"))) if one.is_file()), None
        )
        return None if found is None else files.content(found, encoding=encoding, advise=False)
    try:
        data = download.read_member(path, f"{name}/{file}", limit=files.allowed(path.stat().st_size))
    except DataError as error:
        if "in this archive" in str(error):
            return None
        raise
    return data.decode(encoding).encode()


def _parsed(path: Path, form: FileFormat, clicks: bytes, items: bytes) -> RawData:
    first, last = form.separator[0], form.separator[-1]
    table = _table(path / form.clicks, clicks, form.separator, first, form.click_columns, _CLICK)
    raw = columns.interactions(table, {role: role for role in _CLICK}, where=path / form.clicks)
    texts = _table(path / form.items, items, form.separator, last, form.item_columns, ("item", "title"))
    if "Western" in texts.columns:
        flags = [pl.when(pl.col(genre) == "1").then(pl.lit(genre)) for genre in _GENRES]
        texts = texts.with_columns(pl.concat_str(flags, separator=" ", ignore_nulls=True).alias("category"))
    kept = [name for name in ("item", "title", "year", "category") if name in texts.columns]
    return raw._replace(items=tidy_titles(texts.select(kept)))


def _table(
    where: Path, data: bytes, separator: str, field: str, names: list[str], needed: tuple[str, ...]
) -> pl.DataFrame:
    """Text columns with our names, and `ROW`; raises `DataError` if one of `needed` is missing."""
    if separator == "::":  # Polars supports one-byte separators only; no tab occurs in these files
        data, field = data.replace(b"::", b"\t"), "\t"
    try:
        table = pl.read_csv(
            data,
            has_header=not names,
            separator=field,
            quote_char='"' if separator == "," else None,  # the others have quotes inside titles
            infer_schema=False,
            new_columns=names or None,
            truncate_ragged_lines=True,
            row_index_name=columns.ROW,
            row_index_offset=1 if names else 2,
        )
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{where}: cannot be read as a table: {str(error).splitlines()[0]}") from None
    renamed = {
        name: _NAMES[name.partition(":")[0]] for name in table.columns if name.partition(":")[0] in _NAMES
    }
    table = table.rename(renamed)
    lacks = [role for role in needed if role not in table.columns]
    if lacks:
        raise DataError(
            f"{where}:1: no column for the {lacks[0]}; found: {', '.join(table.columns[1:])}; "
            "--dataset csv takes columns of any name"
        )
    return table


_NAMES = {
    "user_id": "user",
    "userId": "user",
    "movieId": "item",
    "genres": "category",
    "item_id": "item",
    "timestamp": "time",
    "movie_title": "title",
    "release_year": "year",
    "class": "category",
    "genre": "category",
}
"""Column names of RecBole, without their types, and of GroupLens -> ours."""
