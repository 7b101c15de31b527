"""The logger `wandb`: what its offline files have, and what they have not."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb")

from llm4sbr_wandb import Wandb

from llm4sbr.testing.loggers import SETTINGS, Kept, LoggerContract

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # every run starts a process
BLOCK, HEAD = 32768, 7
KEY = "local-0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY[6:])
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def records(path: Path) -> Iterator[Any]:
    """The records of an offline file: a header of seven bytes, then blocks as LevelDB's logs have them."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = path.read_bytes(), HEAD, b""
    while at + HEAD <= len(data):
        if BLOCK - at % BLOCK < HEAD:
            at += BLOCK - at % BLOCK
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + HEAD : at + HEAD + size]
        at += HEAD + size
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            yield record
            parts = b""


def values(items: Any) -> dict[str, Any]:
    return {one.key or "/".join(one.nested_key): json.loads(one.value_json) for one in items}


class TestWandb(LoggerContract):
    def create(self, folder: Path) -> Wandb:
        return Wandb(folder=str(folder))

    def read(self, folder: Path) -> dict[str, Kept]:
        found = [self.kept(path.parent) for path in folder.glob("wandb/offline-run-*/*.wandb")]
        assert len(found) == len(dict(found)), "a run is there twice"
        return dict(found)

    def kept(self, place: Path) -> tuple[str, Kept]:
        name, kept = "", Kept({}, {}, {}, {})
        for record in records(next(place.glob("*.wandb"))):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                name = record.run.display_name
                told = values(record.run.config.update)
                kept.settings.update({key: one for key, one in told.items() if key in SETTINGS})
            elif kind == "history":
                row = values(record.history.item)
                for key in [key for key in row if key.startswith("train/")]:
                    model, _, metric = key.removeprefix("train/").rpartition("/")
                    kept.curves.setdefault(model, {}).setdefault(row["epoch"], {})[metric] = row[key]
            elif kind == "summary":
                for key, value in values(record.summary.update).items():
                    if key.startswith("test/"):
                        _, row_, metric = key.split("/")
                        kept.metrics.setdefault(row_, {})[metric] = value
        files = [path for path in (place / "files").rglob("*") if path.is_file()]
        names = {path.relative_to(place / "files").as_posix(): path.read_bytes() for path in files}
        kept.artefacts.update({key: one for key, one in names.items() if key.startswith("export/")})
        return name, kept

    def test_neither_key_nor_machine_is_recorded(self, tmp_path: Path) -> None:
        self._tell(tmp_path, "shop")
        for path in (tmp_path / "kept").rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert os.environ["WANDB_API_KEY"].encode() not in content, path
                if path.suffix == ".wandb":
                    assert socket.gethostname().encode() not in content
