"""Reader `mind`: clicks on news with titles (Wu et al. 2020, MIND).

`behaviors.tsv` has an impression per row, without a header: its id, the user, the time
(`11/13/2019 8:30:00 AM`), the news that the user had clicked before, and the news shown, `N2-1` if clicked,
else `N2-0`. `news.tsv`, also without a header, has titles and categories. https://msnews.github.io
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from llm4sbr.data.readers import columns, files
from llm4sbr.data.readers.columns import ROW, Names
from llm4sbr.data.readers.delimited import Dialect, header, read_csv
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

_TIME = "%m/%d/%Y %I:%M:%S %p"
_BEHAVIORS = Dialect("\t", "", names=("impression", "user", "time", "history", "shown"), option="")
_NEWS = Dialect(
    "\t",
    "",
    names=("item", "category", "subcategory", "title", "abstract", "url", "entities", "abstract_entities"),
    option="",
)
_ENDINGS = (".tsv", ".tsv.gz")


class Mind:
    """A user's earlier clicks and the clicked news of the impressions, as one session.

    Args:
        path: a folder with `behaviors.tsv[.gz]` and `news.tsv[.gz]`, or the file of behaviors.
        behaviors, news: the two files, if they have other names.
        history: false to leave out the clicks before the first impression, which have no times.
        titles: false to work without titles.
    """

    suggests = {"data.sessions": "user"}

    def __init__(
        self,
        path: Path | None = None,
        *,
        behaviors: Path | None = None,
        news: Path | None = None,
        history: bool = True,
        titles: bool = True,
    ) -> None:
        self.path = path
        self.behaviors = behaviors
        self.news = news
        self.history = history
        self.titles = titles

    def files(self) -> list[Path]:
        """The files that `read` reads."""
        return [self._behaviors(), *([self._news()] if self.titles else [])]

    def read(self) -> RawData:
        """Every click; raises `DataError` with file and row if something cannot be used."""
        file = self._behaviors()
        header(file, _BEHAVIORS)  # says if the number of fields is another one
        table, rejected = read_csv(file, dialect=_BEHAVIORS)
        shown = table.with_columns(item=pl.col("shown").str.split(" ")).explode("item")
        clicked = shown.filter(pl.col("item").str.ends_with("-1")).with_columns(
            pl.col("item").str.strip_suffix("-1")
        )
        if clicked.is_empty():
            raise DataError(
                f"{file}: none of its {table.height:,} impressions has a click, such as N123-1; "
                "MIND's test part is published without them: use train or dev"
            )
        several = clicked.group_by(ROW).len().filter(pl.col("len") > 1).height
        notes = [f"{file.name}: {several:,} impressions have several clicks, taken in the order shown"]
        before, said = _history(table, file) if self.history else (clicked.clear(), [])
        clicks = pl.concat([one.select("user", "item", "time", ROW) for one in (before, clicked)])
        clicks = clicks.with_columns(pl.int_range(pl.len()).alias("order"))
        roles = {"user": "user", "item": "item", "time": "time", "order": "order"}
        raw = columns.interactions(
            clicks, roles, where=file, names=Names(time_format=_TIME, order="order", fixed=True)
        )
        raw = raw._replace(notes=[*notes, *said, *raw.notes], rejected=rejected + raw.rejected)
        if not self.titles:
            return raw
        news = self._news()
        header(news, _NEWS)
        items, bad = read_csv(news, dialect=_NEWS)
        kept = Names(attributes=("category", "subcategory"), fixed=True)
        return raw._replace(items=columns.items(items, kept, where=news), rejected=raw.rejected + bad)

    def _behaviors(self) -> Path:
        if self.behaviors is not None:
            return Path(self.behaviors)
        if self.path is None:
            raise DataError("the reader 'mind' needs --data FOLDER with behaviors.tsv and news.tsv")
        if self.path.suffix and not self.path.is_dir():
            return self.path
        return files.find(self.path, "behaviors", _ENDINGS, holds="impression, user, time, history, shown")

    def _news(self) -> Path:
        if self.news is not None:
            return Path(self.news)
        try:
            return files.find(self._behaviors().parent, "news", _ENDINGS, holds="id, categories, title, ...")
        except DataError as error:
            raise DataError(
                f"{error}; name it with --set data.options.news=FILE, or do without titles with "
                "--set data.options.titles=false"
            ) from None


def _history(table: pl.DataFrame, file: Path) -> tuple[pl.DataFrame, list[str]]:
    """The clicks before each user's first impression, with its time, oldest first; and what was decided."""
    when = pl.col("time").str.to_datetime(_TIME, strict=False)
    by_time = table.drop_nulls("user").sort(when, maintain_order=True, nulls_last=True)
    first = by_time.unique("user", keep="first", maintain_order=True)
    clicks = first.with_columns(item=pl.col("history").str.split(" ")).explode("item").drop_nulls("item")
    clicks = clicks.filter(pl.col("item") != "")
    said = (
        f"{file.name}: {clicks.height:,} earlier clicks of {clicks['user'].n_unique():,} users have no times "
        "and come before the user's first impression; without them: --set data.options.history=false"
    )
    other = (
        by_time.group_by("user").agg(pl.col("history").n_unique().alias("n")).filter(pl.col("n") > 1).height
    )
    differ = f"{file.name}: {other:,} users have several histories; that of the first impression counts"
    return clicks, [said, *([differ] if other else [])]
