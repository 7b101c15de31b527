"""Exports on a model hub: a stand-in on loopback, asked by huggingface_hub itself."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from hub_stand_in import COMMIT, Hub, hub

from llm4sbr.errors import DamagedError, InputError, Llm4sbrError, ModelUnavailableError, StoreError
from llm4sbr.packing.hub import pull, push
from llm4sbr.report.card import NAME as CARD
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.testing.toy_export import toy_export

KEY = "hf_" + "a1" * 17


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", KEY)
    with hub() as found:
        yield found


def export(folder: Path) -> Path:
    toy_export(folder)
    (folder / CARD).write_text("# Toy\n")
    return folder


def test_what_is_pushed_is_pulled(there, tmp_path):
    folder = export(tmp_path / "export")
    found = push(folder, "hub:ann/shop", private=True, message="first", endpoint=there.url)
    assert found["url"].endswith("/ann/shop")
    names = {one.name for one in folder.iterdir()}
    assert set(found["files"]) == names - {CARD} | {"README.md"}
    assert "private" in (there.created[0].get("visibility"), *there.created[0])
    assert there.keys == {f"Bearer {KEY}"}
    assert there.files["ann/shop"]["README.md"] == b"# Toy\n"
    assert push(folder, "hub:ann/shop", endpoint=there.url)["commit"] == COMMIT  # again
    there.files["ann/shop"]["evil.py"] = b"raise SystemExit"  # is not asked for
    assert pull("hub:ann/shop", tmp_path / "new", endpoint=there.url) == {
        "commit": COMMIT,
        "files": sorted(names),
    }
    assert {one.name: one.read_bytes() for one in (tmp_path / "new").iterdir()} == {
        one.name: one.read_bytes() for one in folder.iterdir()
    }
    assert ExportedRecommender.load(tmp_path / "new").recommend([3], k=1).items[0].id == 4
    with pytest.raises(StoreError, match="is there already"):
        pull("hub:ann/shop", tmp_path / "new", endpoint=there.url)


def change(there: dict[str, bytes], **values: object) -> None:
    record = json.loads(there["artefact.json"]) | values
    there["artefact.json"] = json.dumps(record).encode()


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (lambda files: files.pop("artefact.json"), StoreError, "no export of llm4sbr"),
        (lambda files: files.update({"model.onnx": b"x"}), DamagedError, "not the file that was exported"),
        (lambda files: files.pop("items.json"), StoreError, "lists files that are not there"),
        (lambda files: change(files, files={"../x": "0"}), StoreError, "lists files that are not there"),
        (lambda files: change(files, format=9), StoreError, "format 9"),
        (lambda files: files.update({"artefact.json": b"{"}), StoreError, "artefact.json"),
    ],
)
def test_what_is_no_export_leaves_nothing(there, tmp_path, fault, error, message):
    push(export(tmp_path / "export"), "hub:ann/shop", endpoint=there.url)
    fault(there.files["ann/shop"])
    with pytest.raises(error, match=message):
        pull("hub:ann/shop", tmp_path / "new", endpoint=there.url)
    assert [one.name for one in tmp_path.iterdir()] == ["export"]


def test_a_model_that_is_too_large_or_not_there(there, tmp_path):
    push(export(tmp_path / "export"), "hub:ann/shop", endpoint=there.url)
    with pytest.raises(InputError, match="has more than 1e-06 GiB"):
        pull("hub:ann/shop", tmp_path / "new", most=1e-6, endpoint=there.url)
    with pytest.raises(ModelUnavailableError, match="hub:ann/other: ") as caught:
        pull("hub:ann/other", tmp_path / "new", endpoint=there.url)
    assert KEY not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["ann/shop", "hub:", "hub:a/b/c", "hub:../x", "hub:a b\n", "s3:x"])
def test_names_that_are_none(tmp_path, name):
    with pytest.raises(InputError, match="expected hub:USER/MODEL"):
        push(export(tmp_path / "export"), name)


def test_a_key_in_a_file_is_never_pushed(there, tmp_path):
    folder = export(tmp_path / "export")
    (folder / CARD).write_text(f"# Toy, by {KEY}\n")
    with pytest.raises(InputError, match="has a key or a password in it") as caught:
        push(folder, "hub:ann/shop", endpoint=there.url)
    assert KEY not in str(caught.value)
    assert not there.files


def test_a_hub_that_cannot_be_reached(tmp_path):
    started = time.monotonic()
    with pytest.raises(Llm4sbrError, match="hub:ann/shop: "):
        pull("hub:ann/shop", tmp_path / "new", endpoint="http://127.0.0.1:9")
    assert time.monotonic() - started < 20
