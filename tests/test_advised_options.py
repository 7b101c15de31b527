"""No reader advises an option that it does not have, whatever is wrong with its files."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from llm4sbr import registry
from llm4sbr.errors import DataError
from tests.test_contracts_readers import WRITERS

ADVISED = re.compile(r"data\.options\.(\w+)")


def damaged(folder: Path, how: str) -> None:
    """Damage every file of a log in the same way."""
    for file in folder.iterdir():
        data = file.read_bytes()
        if how == "other names":
            data = re.sub(rb"[A-Za-z]{3}", b"abc", data)
        elif how == "no header":
            data = data.partition(b"\n")[2]
        elif how == "latin-1":
            data = data.replace(b"Lamp", "Lämp".encode("latin-1"))
        elif how == "quotes":
            data = data.replace(b"Red Lamp", b'"Red" Lamp')
        elif how == "small times":
            data = re.sub(rb"1\d{9}", b"12345", data)
        elif how == "words for times":
            data = re.sub(rb"1\d{9}|\d\d/\d\d/\d{4}", b"soon", data)
        elif how == "empty":
            data = b""
        if not file.name.endswith((".gz", ".parquet")):
            file.write_bytes(data)


HOW = ("other names", "no header", "latin-1", "quotes", "small times", "words for times", "empty", "gone")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("reader", sorted(WRITERS))
def test_what_is_advised_is_an_option(tmp_path: Path, reader: str, how: str) -> None:
    folder = WRITERS[reader](tmp_path / "log")
    if reader == "csv":  # its writer packs them
        folder = WRITERS["movielens"](tmp_path / "plain")
        for old, new in (("ratings", "interactions"), ("movies", "items")):
            (folder / f"{old}.csv").rename(folder / f"{new}.csv")
    if how == "gone":
        max(folder.iterdir()).unlink()
    damaged(folder, how)
    takes = inspect.signature(registry.load("readers", reader)).parameters
    try:
        raw = registry.create("readers", reader, path=folder).read()
        said = "\n".join([*raw.notes, *raw.rejected])
    except DataError as error:
        said = str(error)
        assert "\n" not in said
    unknown = set(ADVISED.findall(said)) - set(takes)
    assert unknown == set(), said
