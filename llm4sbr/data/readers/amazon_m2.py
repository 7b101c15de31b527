"""Reader `amazon-m2`: real shopping sessions with titles (Jin et al. 2023, KDD Cup 2023).

`sessions_train.csv` has one session per row: `prev_items`, the text of a numpy array such as `['B01' 'B02']`,
`next_item` and `locale`. `products_train.csv` has a row for each product and locale: `id`, `locale`, `title`
and attributes. https://www.aicrowd.com/challenges/amazon-kdd-cup-23-multilingual-recommendation-challenge
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from llm4sbr.data.readers import columns, files
from llm4sbr.data.readers.columns import ROW, Names
from llm4sbr.data.readers.delimited import read_csv
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

_ID = r"""[^\s\[\]'",]+"""
"""An item id in the text of an array or list."""
_ATTRIBUTES = ("price", "brand", "color", "size", "model", "material", "author")
"""Columns that become attributes; `desc` is as long as a page."""
_ENDINGS = (".csv", ".csv.gz")


class AmazonM2:
    """Sessions of several shops; they have an order, but no times and no users.

    Args:
        path: a folder with `sessions_train.csv[.gz]` and `products_train.csv[.gz]`, or the file of sessions.
        sessions, products: the two files, if they have other names.
        locale: one or several of UK, DE, JP, ES, FR, IT; by default all. A product that several have keeps
            the title of the first.
        titles: false to work without titles.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        sessions: Path | None = None,
        products: Path | None = None,
        locale: str | Sequence[str] | None = None,
        titles: bool = True,
    ) -> None:
        self.path = path
        self.sessions = sessions
        self.products = products
        self.locales = [locale] if isinstance(locale, str) else list(locale or ())
        self.titles = titles

    def files(self) -> list[Path]:
        """The files that `read` reads."""
        return [self._sessions(), *([self._products()] if self.titles else [])]

    def read(self) -> RawData:
        """Every session; raises `DataError` with file and row if something cannot be used."""
        file = self._sessions()
        table, rejected = read_csv(file)
        table, locales = self._of_locale(table, file)
        if "prev_items" not in table.columns:
            found = ", ".join(name for name in table.columns if name != ROW)
            raise DataError(
                f"{file}:1: no column prev_items; found: {found}; is it Amazon-M2's file of sessions?"
            )
        cut = pl.col("prev_items").str.contains("...", literal=True).fill_null(False)
        rejected += [
            f"{file}:{row}: prev_items: cut short by numpy, which writes ... for the middle of a long array"
            for row in table.filter(cut)[ROW]
        ]
        clicks = _clicks(table.filter(~cut))
        if clicks.is_empty():
            raise DataError(f"{file}: no session in its {table.height:,} rows")
        raw = columns.interactions(
            clicks, {"session": "session", "item": "item", "order": "order"}, where=file
        )
        raw = raw._replace(notes=[locales, *raw.notes], rejected=rejected + raw.rejected)
        if not self.titles:
            return raw
        items, bad = self._items()
        return raw._replace(items=items, rejected=raw.rejected + bad)

    def _items(self) -> tuple[pl.DataFrame, list[str]]:
        path = self._products()
        table, rejected = read_csv(path)
        if self.locales and "locale" in table.columns:
            table = table.filter(pl.col("locale").is_in(self.locales))
        kept = [name for name in _ATTRIBUTES if name in table.columns]
        item = "id" if "id" in table.columns else None
        return columns.items(table, Names(items_item=item, attributes=kept, fixed=True), where=path), rejected

    def _of_locale(self, table: pl.DataFrame, file: Path) -> tuple[pl.DataFrame, str]:
        """The sessions of the locales that were chosen, and how many sessions each locale has."""
        if "locale" not in table.columns:
            if self.locales:
                raise DataError(f"{file}:1: no column locale (data.options.locale)")
            return table, f"{file.name}: sessions of one locale"
        counts = dict(table.group_by("locale").len().drop_nulls().sort("locale").rows())
        shown = ", ".join(f"{locale} {count:,}" for locale, count in counts.items())
        unknown = [one for one in self.locales if one not in counts]
        if unknown:
            raise DataError(f"{file}: no locale {unknown[0]!r} (data.options.locale); its sessions: {shown}")
        if not self.locales:
            return table, f"{file.name}: sessions by locale: {shown}; one alone: --set data.options.locale=UK"
        return table.filter(pl.col("locale").is_in(self.locales)), (
            f"{file.name}: locale {', '.join(self.locales)} of {shown}"
        )

    def _sessions(self) -> Path:
        if self.sessions is not None:
            return Path(self.sessions)
        if self.path is None:
            raise DataError(
                "the reader 'amazon-m2' needs --data FOLDER with sessions_train.csv and products_train.csv"
            )
        if self.path.suffix and not self.path.is_dir():
            return self.path
        return files.find(self.path, "sessions_train", _ENDINGS, holds="prev_items, next_item, locale")

    def _products(self) -> Path:
        if self.products is not None:
            return Path(self.products)
        folder = self._sessions().parent
        try:
            return files.find(folder, "products_train", _ENDINGS, holds="id, locale, title")
        except DataError as error:
            raise DataError(
                f"{error}; name it with --set data.options.products=FILE, or do without titles with "
                "--set data.options.titles=false"
            ) from None


def _clicks(table: pl.DataFrame) -> pl.DataFrame:
    """One row per click: session (its row's number), item, order, `ROW`."""
    item = pl.col("prev_items").str.extract_all(_ID)
    if "next_item" in table.columns:
        last = pl.concat_list(pl.col("next_item").str.strip_chars())
        item = pl.when(pl.col("next_item").is_null()).then(item).otherwise(pl.concat_list(item, last))
    clicks = table.select(ROW, item.alias("item")).explode("item").drop_nulls("item")
    session = pl.col(ROW).cast(pl.String).alias("session")
    return clicks.with_columns(session, pl.int_range(pl.len()).alias("order"))
