"""Reader `recbole`: RecBole's atomic files (Zhao et al. 2021), single clicks or one sequence per row.

`NAME.inter`, or its parts `NAME.train.inter`, `NAME.valid.inter`, `NAME.test.inter`, has columns separated by
tabs, with types behind their names. With `item_id_list:token_seq` a row is a sample: the items before,
separated by spaces, and the next one in `item_id:token`. Samples of one user or session that continue each
other are put together again. `NAME.item` has titles and attributes. https://recbole.io
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import polars as pl

from llm4sbr.data.readers import columns, files
from llm4sbr.data.readers.columns import ROW, Names
from llm4sbr.data.readers.delimited import Dialect, header, read_csv
from llm4sbr.data.readers.tables import Csv
from llm4sbr.errors import DataError
from llm4sbr.protocols import RawData

_ATOMIC = Dialect("\t", "", option="")
_TIMES = "timestamplist"
_PARTS = ("train", "valid", "test")

Click = tuple[str, float | None]
"""Item and time."""


class _Sample(NamedTuple):
    owner: str
    clicks: list[Click]
    row: int


class RecBole:
    """Atomic files as they are.

    Args:
        path: a folder with one `NAME.inter` or its parts, or one of these files, which stands for all parts.
        items: the file of items, if it is not `NAME.item` beside them.
        titles: false to work without titles.
        user, session, item, time, title, items_item: column names without their types; common names are
            recognised without. `items_item` is the item column of the file of items.
        attributes: columns of the items to keep as attributes; by default all.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        items: Path | None = None,
        titles: bool = True,
        user: str | None = None,
        session: str | None = None,
        item: str | None = None,
        time: str | None = None,
        title: str | None = None,
        items_item: str | None = None,
        attributes: Sequence[str] | None = None,
    ) -> None:
        self.path = path
        self.items = items
        self.titles = titles
        self.names = Names(user, session, item, time, None, title, attributes, None, items_item)

    def files(self) -> list[Path]:
        """The files that `read` reads."""
        return [*files.parts(self._log(), (".inter",)), *([self._items()] if self.titles else [])]

    def read(self) -> RawData:
        """Every click; raises `DataError` with file and row if something cannot be used."""
        log = self._log()
        parts = files.parts(log, (".inter",))
        heads = {part: header(part, _ATOMIC) for part in parts}
        found = heads[parts[0]]
        other = next((part for part in parts if set(heads[part]) != set(found)), None)
        if other is not None:
            raise DataError(f"{other}:1: other columns than {parts[0].name}: {', '.join(heads[other])}")
        item = columns.plain(self.names.item or "item_id")
        lists = next((name for name in found if columns.plain(name) == f"{item}list"), None)
        if lists is None:
            return self._single_clicks(log)
        rejected: list[str] = []
        rows = list(chain.from_iterable(self._rows(part, lists, rejected) for part in parts))
        raw = _raw(rows, self._role(found, parts[0]), log)
        items, bad = self._read_items()
        return raw._replace(items=items, rejected=rejected + raw.rejected + bad)

    def _single_clicks(self, log: Path) -> RawData:
        items = self._items() if self.titles else None
        return Csv(
            interactions=log,
            items=items,
            titles=self.titles,
            user=self.names.user,
            session=self.names.session,
            item=self.names.item,
            time=self.names.time,
            title=self.names.title,
            items_item=self.names.items_item,
            attributes=self.names.attributes,
            separator="\t",
            quote="",
        ).read()

    def _read_items(self) -> tuple[pl.DataFrame, list[str]]:
        if not self.titles:
            return pl.DataFrame(schema={"item": pl.String, "title": pl.String}), []
        table, rejected = read_csv(self._items(), dialect=_ATOMIC)
        return columns.items(table, self.names, where=self._items()), rejected

    def _rows(self, part: Path, lists: str, rejected: list[str]) -> list[_Sample]:
        """The samples of a file; messages about rows without items are added to `rejected`."""
        table, bad = read_csv(part, dialect=_ATOMIC)
        rejected += bad
        found = [name for name in table.columns if name != ROW]
        names, role = self.names, self._role(found, part)
        owner = columns.require([role], found, names, where=part)[role]
        item = columns.require(["item"], [name for name in found if name != lists], names, where=part)["item"]
        time = columns.find("time", found, names, where=part)
        times = next((name for name in found if columns.plain(name) == _TIMES), None)
        number = (pl.col(time) if time else pl.lit(None)).cast(pl.Float64, strict=False).alias("at")
        split = (
            pl.col(times).str.split(" ").cast(pl.List(pl.Float64), strict=False) if times else pl.lit(None)
        )
        listed = split.alias("earlier")
        samples = table.select(
            pl.col(owner), pl.col(lists).str.split(" "), pl.col(item), number, listed, pl.col(ROW)
        )
        out = []
        for who, before, target, at, earlier, row in samples.iter_rows():
            items = [one for one in (before or []) if one]
            if who is None or target is None:
                rejected.append(f"{part}:{row}: {owner if who is None else item}: missing")
                continue
            known = earlier if earlier is not None and len(earlier) == len(items) else [None] * len(items)
            out.append(_Sample(who, [*zip(items, known, strict=True), (target, at)], row))
        return out

    def _role(self, found: Sequence[str], part: Path) -> str:
        """Whether samples belong to sessions or users."""
        return next(iter(columns.require(["session", "user"], found, self.names, where=part)))

    def _log(self) -> Path:
        """`NAME.inter`, or `NAME.*.inter` for its parts."""
        if self.path is None:
            raise DataError("the reader 'recbole' needs --data FOLDER with NAME.inter and NAME.item")
        if self.path.suffix and not self.path.is_dir():
            if not self.path.exists():
                raise DataError(f"{self.path}: no such file")
            return _whole(self.path)
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder; it should hold NAME.inter and NAME.item")
        found = sorted({_whole(file) for file in self.path.glob("*.inter")})
        if len(found) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise DataError(f"{self.path}: expected one log NAME.inter, found {names}; give --data FILE")
        return found[0]

    def _items(self) -> Path:
        if self.items is not None:
            return Path(self.items)
        log = self._log()
        file = log.with_name(f"{log.name.split('.*')[0].removesuffix('.inter')}.item")
        if not file.is_file():
            raise DataError(
                f"{file}: no such file; name another with --set data.options.items=FILE, or do without "
                "titles with --set data.options.titles=false"
            )
        return file


def _whole(file: Path) -> Path:
    """The log that a part belongs to, `NAME.*.inter`; any other file is its own log."""
    name, _, part = file.name.removesuffix(".inter").rpartition(".")
    return file.with_name(f"{name}.*.inter") if name and part in _PARTS else file


def joined(samples: Sequence[list[Click]], longest: int) -> list[list[Click]]:
    """The sequences that samples of one owner were made of.

    Args:
        samples: each at least one click, oldest first.
        longest: number of clicks of the longest sample of the log, to which longer ones may have been cut.

    A sample that begins with all of a shorter one continues it. Of two of the greatest length, one continues
    the other if it lacks its first click and has one more. What continues nothing is a sequence of its own.
    """
    both = (samples, samples[::-1])  # files have a user's samples in either direction
    return min((_chained(sorted(order, key=len), longest) for order in both), key=len)


def _chained(samples: Sequence[list[Click]], longest: int) -> list[list[Click]]:
    sequences: list[list[Click]] = []
    for sample in samples:
        keys, cut = [item for item, _ in sample], len(sample) == longest > 2
        for sequence in sequences:
            own = [item for item, _ in sequence]
            if keys[: len(own)] == own:
                sequence[:] = _timed(sequence, sample) + sample[len(own) :]
            elif cut and keys[:-1] == own[1 - longest :]:
                sequence.append(sample[-1])
            else:
                continue
            break
        else:
            sequences.append(list(sample))
    return sequences


def _timed(sequence: list[Click], sample: list[Click]) -> list[Click]:
    """The sequence with the times that only the sample has."""
    pairs = zip(sequence, sample, strict=False)
    return [(item, other if time is None else time) for (item, time), (_, other) in pairs]


def _raw(samples: list[_Sample], role: str, log: Path) -> RawData:
    """The joined sequences as sessions; a click without a time has that of the next click with one."""
    if not samples:
        raise DataError(f"{log}: no sample in it")
    by_owner: dict[str, list[_Sample]] = {}
    for sample in samples:
        by_owner.setdefault(sample.owner, []).append(sample)
    longest = max(len(sample.clicks) for sample in samples)
    rows: list[tuple[str, str, str, float | None, int]] = []
    sequences = 0
    for owner, own in by_owner.items():
        found = joined([sample.clicks for sample in own], longest)
        sequences += len(found)
        for number, sequence in enumerate(found, start=1):
            name = owner if len(found) == 1 else f"{owner}/{number}"
            rows += [(name, owner, item, time, own[0].row) for item, time in sequence]
    schema = {"session": pl.String, "user": pl.String, "item": pl.String, "time": pl.Float64, ROW: pl.Int64}
    table = pl.DataFrame(rows, schema=schema, orient="row").with_columns(
        pl.int_range(pl.len()).alias("order")
    )
    roles = {"session": "session", "item": "item", "order": "order"}
    if role == "user":
        roles["user"] = "user"
    said = f"{log.name}: {len(samples):,} samples put together to {sequences:,} sequences"
    if table["time"].null_count() < table.height:
        roles["time"] = "time"
        filled = pl.col("time").fill_null(strategy="backward").fill_null(strategy="forward")
        table = table.with_columns(filled.over("session")).with_columns(
            pl.col("time").cum_max().over("session")
        )
    raw = columns.interactions(table, roles, where=log, names=Names(order="order", fixed=True))
    return raw._replace(notes=[said, *raw.notes])
