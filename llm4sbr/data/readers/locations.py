"""Finds the files of a log: the table of clicks and the table of items beside it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from llm4sbr.data.readers import files, published
from llm4sbr.errors import DataError

_CLICKS = "user_id or session_id, item_id, timestamp or order"


class Locations(NamedTuple):
    """Locations of the two tables, resolved only when they are read.

    A table may be several files, see `files.parts`.
    """

    path: Path | None
    interactions: Path | None
    own_items: Path | None
    titles: bool
    endings: tuple[str, ...]
    reader: str

    def clicks(self) -> Path:
        """The interactions; raises `DataError` if there are none."""
        if self.interactions is None and self.path is None:
            raise DataError(
                f"the reader {self.reader!r} needs --data FOLDER with interactions and items{self.endings[0]}"
            )
        file = _file(self.interactions if self.interactions is not None else self.path)
        if self.interactions is None and (file.is_dir() or not (file.exists() or file.suffix)):
            return self._in_folder(file)
        if not file.exists() and "*" not in file.name:
            raise DataError(f"{file}: no such file")
        return file

    def _in_folder(self, folder: Path) -> Path:
        if self.reader == "csv" and not any((folder / f"interactions{end}").exists() for end in self.endings):
            atomic = sorted(folder.glob("*.inter"))
            if len(atomic) == 1:
                return atomic[0]
            if (known := published.find(folder)) is not None:
                return known
        try:
            return files.find(folder, "interactions", self.endings, holds=_CLICKS)
        except DataError as error:
            raise DataError(f"{error}{published.advice(folder, self.reader)}") from None

    def items(self) -> Path | None:
        """The items table, None if there is none."""
        if not self.titles:
            return None
        if self.own_items is not None:
            return _file(self.own_items)
        clicks = self.clicks()
        named = [clicks.with_name(f"items{ending}") for ending in self.endings]
        if clicks.suffix == ".inter":
            named.append(clicks.with_suffix(".item"))
        if (known := published.layout(clicks)) and known.items and self.reader == "csv":
            named += [clicks.with_name(known.items), clicks.with_name(f"{known.items}.gz")]
        return next((file for file in named if file.is_file() or file.is_dir()), None)

    def without_titles(self) -> bool:
        """Whether the user does without titles, or the log has none."""
        known = published.layout(self.clicks()) if self.reader == "csv" else None
        return not self.titles or (known is not None and not known.items and self.own_items is None)

    def files(self) -> list[Path]:
        """The files that exist: the interactions and, if there is one, the items table; or their parts."""
        items = self.items()
        return [part for file in (self.clicks(), items) if file for part in files.parts(file, self.endings)]


def _file(value: object) -> Path:
    if not isinstance(value, str | Path):
        raise DataError(f'{value!r}: not the name of a file; for instance data.options.items="FILE"')
    return Path(value).expanduser()
