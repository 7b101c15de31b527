"""A run or an export in one file: the same bytes from anywhere, and nothing hostile is opened."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm4sbr import stamps, store
from llm4sbr.config import read_toml, to_toml
from llm4sbr.config.layers import write_settings
from llm4sbr.errors import DamagedError, InputError, StoreError
from llm4sbr.packing.archive import CONTENTS, pack, safe, unpack
from llm4sbr.packing.contents import last
from llm4sbr.report.card import NAME as CARD
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.testing.toy_export import toy_export
from llm4sbr.testing.toy_run import toy_run

KEY = "hf_" + "a1" * 17


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_export(tmp_path_factory.mktemp("packed") / "onnx")


def test_an_export_opens_elsewhere_with_the_same_bytes(export, tmp_path):
    content = pack(export, tmp_path / "a.tar")
    assert (content["kind"], content["name"]) == ("export", "onnx")
    folder, told = unpack(tmp_path / "a.tar", tmp_path / "there" / "onnx")
    assert told == content
    assert {one.name: one.read_bytes() for one in folder.iterdir()} == {
        one.name: one.read_bytes() for one in export.iterdir()
    }
    assert ExportedRecommender.load(folder).recommend([3], k=1).items[0].id == 4
    os.utime(folder / "model.onnx", (1, 1))
    (folder / "model.onnx").chmod(0o600)
    (folder / ".lock").touch()
    pack(folder, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        assert {(one.uid, one.uname, one.mtime, one.mode) for one in archive} == {(0, "", 0, 0o644)}


def localized(folder: Path) -> Path:
    """A toy run with settings, stage records and a report that name its data."""
    run = toy_run(folder / "shop")
    settings = {"data": {"reader": "csv", "path": str(folder / "my data")}}
    write_settings(run / "config.toml", to_toml(settings))
    for stage in ("prepare", "localize"):
        files, content = stamps.files_of(run / stage)
        parts = {"data.path": str(folder / "my data"), "localize.encoder": f"transformers:{folder}/bert"}
        stamps.write_stamp(run / stage, stamps.Stamp(stage, parts, content=content, files=files))
    (run / "report.html").write_text(f"<p>data: {folder}/my data</p>")
    return run


def test_a_run_names_its_data_by_the_last_part(tmp_path):
    run = localized(tmp_path)
    pack(run, tmp_path / "a.tar")
    assert str(tmp_path).encode() not in (tmp_path / "a.tar").read_bytes()
    folder, told = unpack(tmp_path / "a.tar", tmp_path / "there")
    assert told["kind"] == "run"
    assert read_toml(folder / "config.toml")["data"] == {"reader": "csv", "path": "my data"}
    stamp = stamps.read_stamp(folder / "prepare")
    assert stamp is not None
    assert stamp.parts == {"data.path": "my data", "localize.encoder": "transformers:bert"}
    assert store.read_json(folder / "prepare/stage.json")["fingerprint"] == stamp.fingerprint
    assert stamps.damage(folder / "prepare") is None
    assert (folder / "report.html").read_text() == "<p>data: my data</p>"
    other = localized(tmp_path / "elsewhere")
    pack(other, tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


@pytest.mark.parametrize(
    ("path", "expected"), [("/a/b c", "b c"), ("C:\\x\\y", "y"), ("~/z/", "z"), ("/", "data")]
)
def test_the_last_part(path, expected):
    assert last(path) == expected


# What is not packed


def damage(folder: Path) -> None:
    (folder / "items.json").write_text("{}")


def link(folder: Path) -> None:
    (folder / "link").symlink_to("/etc")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        (damage, DamagedError, "items.json: not the file that was exported"),
        (link, StoreError, "link: a link; put the file itself there"),
        (pipe, StoreError, "pipe: a pipe, socket or device"),
        (lambda folder: (folder / CARD).write_text(KEY), InputError, "has a key or a password in it"),
        (lambda folder: (folder / "artefact.json").unlink(), StoreError, "neither a run nor an export"),
    ],
)
def test_what_cannot_be_handed_on(export, tmp_path, fault, error, message):
    folder = tmp_path / "onnx"
    shutil.copytree(export, folder)
    fault(folder)
    with pytest.raises(error, match=message) as caught:
        pack(folder, tmp_path / "a.tar")
    assert KEY not in str(caught.value)
    assert not (tmp_path / "a.tar").exists()


def test_a_path_of_this_machine_in_another_file(tmp_path):
    run = localized(tmp_path)
    (run / "notes.md").write_text(f"from {tmp_path}/my data")
    with pytest.raises(InputError, match=r"notes.md: has the path .*my data of this machine"):
        pack(run, tmp_path / "a.tar")
    with pytest.raises(InputError, match="inside of what is packed"):
        pack(run, run / "a.tar")


# What is not opened

GOOD = {"x.txt": b"hello"}


def entry(data: bytes) -> list[Any]:
    import hashlib

    return [len(data), hashlib.sha256(data).hexdigest()]


def archive(path: Path, members: list[tuple[tarfile.TarInfo, bytes]], **said: Any) -> Path:
    content = {
        "format": 1,
        "kind": "run",
        "name": "n",
        "files": {key: entry(one) for key, one in GOOD.items()},
    }
    text = json.dumps(content | said).encode()
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as out:
        for member, data in [(tarfile.TarInfo(f"n/{CONTENTS}"), text), *members]:
            member.size = len(data)
            out.addfile(member, io.BytesIO(data))
    return path


def file(name: str, data: bytes = b"hello", kind: bytes = tarfile.REGTYPE) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, "x"
    return member, data if kind in (tarfile.REGTYPE, b"L") else b""


HOSTILE = [
    ([file("n/x.txt"), file("n/y.txt")], {}, "'n/y.txt' is not in its list"),
    ([file("n/x.txt"), file("n/x.txt")], {}, "or there twice"),
    ([file("x.txt")], {}, "'x.txt' is not in its list"),
    ([file("n/../x.txt")], {}, "is not in its list"),
    ([file("/n/x.txt")], {}, "is not in its list"),
    ([file("n/x.txt", kind=tarfile.SYMTYPE)], {}, "not a regular file"),
    ([file("n/x.txt", kind=tarfile.LNKTYPE)], {}, "not a regular file"),
    ([file("n/x.txt", kind=tarfile.DIRTYPE)], {}, "not a regular file"),
    ([file("n/x.txt", kind=tarfile.FIFOTYPE)], {}, "not a regular file"),
    ([file("n/x.txt", kind=tarfile.CHRTYPE)], {}, "not a regular file"),
    ([file("n/x.txt", b"long", kind=b"L")], {}, "not a regular file"),
    ([file("n/x.txt", b"hallo")], {}, "was changed"),
    ([file("n/x.txt", b"hello!")], {}, "another size"),
    ([], {}, "cut off, x.txt is missing"),
    ([], {"files": {"../x": [1, ""]}}, "is odd"),
    ([], {"files": {"/x": [1, ""]}}, "is odd"),
    ([], {"files": {"a\\b": [1, ""]}}, "is odd"),
    ([], {"files": {"c:x": [1, ""]}}, "is odd"),
    ([], {"files": {"a": [1, ""], "A": [1, ""]}}, "is odd"),
    ([], {"files": {"a": [1, ""], "a/b": [1, ""]}}, "is odd"),
    ([], {"files": {"a": [-1, ""]}}, "is odd"),
    ([], {"files": {"a": [True, ""]}}, "is odd"),
    ([], {"files": {"a": 3}}, "is odd"),
    ([], {"files": []}, "is odd"),
    ([], {"name": "../n"}, "is odd"),
    ([], {"name": "a/b"}, "is odd"),
    ([], {"name": ""}, "is odd"),
    ([], {"format": 2}, "format 2, this version reads 1"),
    ([], {"files": {"a": [5 * 2**30, ""], "b": [5 * 2**30, ""]}}, "has more than 8 GiB"),
]


@pytest.mark.parametrize(("members", "said", "message"), HOSTILE)
def test_what_is_not_opened_leaves_nothing(tmp_path, members, said, message):
    made = archive(tmp_path / "a.tar", members, **said)
    with pytest.raises((StoreError, InputError), match=message) as caught:
        unpack(made, tmp_path / "n", most=8)
    assert "\n" not in str(caught.value)
    assert [one.name for one in tmp_path.iterdir()] == ["a.tar"]


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 2000, b"\x1f\x8b\x08" + bytes(600), bytes(10240)])
def test_files_that_are_no_archive(tmp_path, data):
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(StoreError, match="not what llm4sbr pack writes"):
        unpack(tmp_path / "a.tar", tmp_path / "n")


def test_an_archive_that_broke_off_and_a_folder_that_is_there(export, tmp_path):
    pack(export, tmp_path / "a.tar")
    whole = (tmp_path / "a.tar").read_bytes()
    for size in (700, len(whole) // 4, len(whole.rstrip(b"\0")) - 1):
        (tmp_path / "b.tar").write_bytes(whole[:size])
        with pytest.raises(StoreError):
            unpack(tmp_path / "b.tar", tmp_path / "n")
        assert not (tmp_path / "n").exists()
    (tmp_path / "n").mkdir()
    with pytest.raises(StoreError, match="is there already; name another folder"):
        unpack(tmp_path / "a.tar", tmp_path / "n")


@given(st.text(max_size=30))
def test_a_safe_name_stays_below(name):
    if safe(name):
        path = Path("/base") / name
        assert path.resolve().is_relative_to("/base")
        assert path.as_posix() == f"/base/{name}"
