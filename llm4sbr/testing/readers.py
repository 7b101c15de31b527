"""The contract of readers; subclass `ReaderContract` in a plugin's tests.

class TestMine(ReaderContract):
    name = "my-reader"

    def write(self, folder):
        ...  # a small log in the reader's own format
        return folder
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import polars as pl
import pytest

from llm4sbr import config, registry
from llm4sbr.data.prepared import load
from llm4sbr.errors import DataError
from llm4sbr.progress import Progress
from llm4sbr.protocols import RawData, Reader
from llm4sbr.stages.prepare import prepare
from llm4sbr.testing.contract import Contract
from llm4sbr.testing.toy import toy_catalogue, toy_clicks, toy_log


class ReaderContract(Contract, kind="readers"):
    """Tests of one reader; `name` is its installed name."""

    def write(self, folder: Path) -> Path:
        """Write a log of at least 10 sessions, and return its path as the user gives it to `--data`."""
        return toy_log(folder)

    def clicks(self) -> dict[str, list[str]]:
        """The clicks of the log: user or session -> item keys, oldest first; by default `toy_log`'s."""
        return toy_clicks()

    def titles(self) -> dict[str, str]:
        """The titles of the log: item key -> title; by default `toy_log`'s."""
        catalogue = toy_catalogue()
        return dict(zip(catalogue.keys, catalogue.titles, strict=True))

    def read(self, path: Path) -> RawData:
        """Read the log at `path`."""
        reader = registry.create("readers", self.name, path=path)
        assert isinstance(reader, Reader), "needs read"
        return reader.read()

    def refusal(self, path: Path) -> str:
        """The error message of reading the log at `path`; "" if there is none."""
        try:
            self.read(path)
        except DataError as error:
            return str(error)
        return ""

    def test_gives_our_columns(self, tmp_path: Path) -> None:
        """Tables have our columns: keys as text, numeric times, row numbers from 1, no missing values."""
        raw = self.read(self.write(tmp_path))
        clicks = raw.interactions
        assert {"session", "user"} & set(clicks.columns)
        assert {"item", "time", "row"} <= set(clicks.columns)
        numbers = ("time", "row", "order")
        assert all(clicks.schema[name] == pl.String for name in clicks.columns if name not in numbers)
        assert clicks.schema.get("order", pl.Int64) == pl.Int64
        assert clicks.schema["time"] == (pl.Int64 if raw.ordered_only else pl.Float64)
        assert clicks.schema["row"] == pl.Int64
        assert clicks.null_count().sum_horizontal().item() == 0
        assert clicks["row"].min() > 0  # type: ignore[operator]
        assert {"item", "title"} <= set(raw.items.columns)
        assert all(dtype == pl.String for dtype in raw.items.schema.values())
        assert raw.rejected == []

    def test_nothing_is_invented_and_nothing_lost(self, tmp_path: Path) -> None:
        """The result has exactly the clicks of the log, in their order, and exactly its titles."""
        raw = self.read(self.write(tmp_path))
        who = "session" if "session" in raw.interactions.columns else "user"
        ordered = raw.interactions.sort("time", maintain_order=True)
        found: dict[str, list[str]] = {}
        for name, item in zip(ordered[who], ordered["item"], strict=True):
            found.setdefault(name, []).append(item)
        expected = self.clicks()
        wrong = [name for name in expected.keys() | found if expected.get(name) != found.get(name)]
        first = min(wrong, default="")
        message = f"{who} {first}: the log has {expected.get(first)}, read were {found.get(first)}"
        assert wrong == [], message
        items = raw.items["item"].to_list()
        assert len(set(items)) == len(items), "an item has two rows"
        titles = dict(zip(items, raw.items["title"], strict=True))
        assert titles == self.titles(), "other titles than the log's"

    def test_reads_the_same_twice(self, tmp_path: Path) -> None:
        """Reading twice gives the same rows in the same order."""
        path = self.write(tmp_path)
        first, second = self.read(path), self.read(path)
        assert first.interactions.equals(second.interactions), "reading again gave other clicks"
        assert first.items.equals(second.items), "reading again gave other items"

    def test_can_be_prepared(self, tmp_path: Path) -> None:
        """`prepare` makes training and test samples from the log, and every item has a title."""
        settings = {"data": {"reader": self.name, "path": str(self.write(tmp_path / "log"))}}
        out = tmp_path / "prepare"
        out.mkdir()
        prepare(tmp_path, out, config.build(settings), Progress(quiet=True))
        prepared = load(out)
        assert len(prepared.samples["train"].end) > 0
        assert len(prepared.samples["test"].end) > 0
        assert all(prepared.catalogue.titles)

    def test_a_missing_path_is_said_when_read(self, tmp_path: Path) -> None:
        """The constructor opens no file; `read` names the missing path in one line."""
        with pytest.raises(DataError, match="nowhere") as caught:
            self.read(tmp_path / "nowhere")
        assert "\n" not in str(caught.value)

    def test_a_cut_file_is_read_or_refused(self, tmp_path: Path) -> None:
        """A truncated file is read as far as it goes, or refused with one line that says what is wrong."""
        names = sorted(path.name for path in self.write(tmp_path / "whole").rglob("*") if path.is_file())
        for share, name in product((0.0, 0.4, 0.95), names):
            path = self.write(tmp_path / f"{name}-{share}")
            victim = next(file for file in path.rglob("*") if file.name == name)
            content = victim.read_bytes()
            victim.write_bytes(content[: int(share * len(content))])
            message = self.refusal(path)
            assert "\n" not in message, f"{name}, cut to {share:.0%}: {message}"
            assert message or share > 0, f"{name} is empty, and there was no error"
