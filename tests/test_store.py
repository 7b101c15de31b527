from __future__ import annotations

import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch

from llm4sbr import stamps, store
from llm4sbr.errors import StoreError
from llm4sbr.stamps import Stamp

ONE = Stamp("train", {"train.dim": 8})


# Whole files


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6).view(2, 3).T, "empty": torch.zeros(0, 4)}
    table = pl.DataFrame({"key": [1, 2], "text": ["Ärger\n", ""]})
    store.write_tensors(tmp_path / "new" / "t.safetensors", tensors, {"made": "here"})
    store.write_table(tmp_path / "t.parquet", table)
    store.write_json(tmp_path / "t.json", {"ä": [1, None]})
    read = store.read_tensors(tmp_path / "new" / "t.safetensors")
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    assert store.read_table(tmp_path / "t.parquet").equals(table)
    assert store.read_table(tmp_path / "t.parquet", ["key"]).columns == ["key"]
    assert store.read_json(tmp_path / "t.json") == {"ä": [1, None]}
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_failed_write_leaves_the_former_file_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    store.write_text(file, "former")

    def fails() -> None:
        with store.writing(file) as temporary:
            temporary.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert file.read_text() == "former"


def test_kill_9_leaves_the_former_or_the_new_file_but_never_half_of_one(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    store.write_json(file, [0] * 200_000)
    code = f"""
from pathlib import Path
from llm4sbr import store
for number in range(10**9):
    store.write_json(Path({str(file)!r}), [number % 10] * 200_000)
    print(flush=True)
"""
    caught = 0
    for _ in range(6):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
            assert child.stdout
            child.stdout.readline()  # it has written once; now it is somewhere in the next writes
            limit = time.monotonic() + 10
            while not list(tmp_path.glob(".a.json.*.tmp")) and time.monotonic() < limit:
                pass
            child.send_signal(signal.SIGKILL)
        content = store.read_json(file)
        assert content == content[:1] * 200_000
        caught += len(leftovers := list(tmp_path.glob(".a.json.*.tmp")))
        for leftover in leftovers:
            leftover.unlink()
    assert caught, "at least one child was killed in the middle of a write"


READERS = {
    "t.safetensors": store.read_tensors,
    "t.parquet": store.read_table,
    "t.json": store.read_json,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    store.write_tensors(folder / "t.safetensors", {"a": torch.arange(20)})
    store.write_table(folder / "t.parquet", pl.DataFrame({"a": range(20)}))
    store.write_json(folder / "t.json", list(range(20)))
    return {name: (folder / name).read_bytes() for name in READERS}


@pytest.mark.parametrize("name", READERS)
def test_a_file_cut_anywhere_is_a_store_error(tmp_path: Path, whole: dict[str, bytes], name: str) -> None:
    path = tmp_path / name
    for length in [*range(0, len(whole[name]) - 2, max(1, len(whole[name]) // 23)), len(whole[name]) - 2]:
        path.write_bytes(whole[name][:length])
        with pytest.raises(StoreError) as error:
            READERS[name](path)
        assert str(error.value).startswith(f"{path}: not a whole ")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", [b"\x80\x04\x95pickle", b"PK\x03\x04zip archive", b"\xff\xfe"])
def test_a_foreign_file_is_a_store_error(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"not a whole (safetensors|Parquet|JSON) file"):
        READERS[name](path)


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_is_said_to_be_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match=r"(?i): no such file") as error:
        READERS[name](tmp_path / name)
    assert str(error.value).count(name) == 1


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    store.write_table(tmp_path / "t.parquet", pl.DataFrame({"a": [1]}))
    with pytest.raises(StoreError, match="absent"):
        store.read_table(tmp_path / "t.parquet", ["absent"])


# A full disk, a place that cannot be written

WRITES = """
import sys, polars as pl, torch
from pathlib import Path
from llm4sbr import store
from llm4sbr.errors import StoreError
path = Path(sys.argv[1]) / "file"
random = torch.rand(1_000_000)
for write in (
    lambda: store.write_tensors(path, {"a": random}),
    lambda: store.write_table(path, pl.DataFrame({"a": random.numpy()})),
    lambda: store.write_text(path, "x" * 4_000_000),
):
    try:
        write()
    except StoreError as error:
        print(error)
"""


def too_much(folder: Path, *, limit: int | None = None) -> list[str]:
    """Error lines of a child that writes 4 MB of tensors, table and text, files of at most `limit` bytes."""

    def restrict() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-c", WRITES, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, preexec_fn=restrict)
    return done.stdout.splitlines()


def test_a_file_size_limit_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    line = f"{tmp_path / 'file'}: cannot write: File too large"
    assert too_much(tmp_path, limit=1_000_000) == [line] * 3
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [str(mount), "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if not mount or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk: Path) -> None:
    line = (
        f"{small_disk / 'file'}: cannot write: No space left on device; "
        "free some space and run the same command again, finished work is kept"
    )
    assert too_much(small_disk) == [line] * 3
    assert not list(small_disk.iterdir())


def test_a_disk_that_fills_while_a_stage_runs_keeps_its_finished_files(small_disk: Path) -> None:
    def stage() -> None:
        with stamps.stage_folder(small_disk / "train", ONE) as out:
            store.write_text(out / "first", "done")
            (out / "log").write_text("x" * 4_000_000)

    with pytest.raises(StoreError, match="train: cannot write: No space left on device; free some space"):
        stage()
    (small_disk / "train.tmp" / "log").unlink()
    with stamps.stage_folder(small_disk / "train", ONE) as out:
        assert (out / "first").read_text() == "done"


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(StoreError, match=r"run/a\.json: cannot write: (Not a directory|File exists)"):
        store.write_json(tmp_path / "run" / "a.json", {})


# Fingerprints


def test_fingerprint_is_the_hash_of_sorted_json() -> None:
    expected = hashlib.sha256('{"a":[1,"ä"],"b":null}'.encode()).hexdigest()
    assert store.fingerprint({"b": None, "a": (1, "ä")}) == expected


def test_folder_hash_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, str]) -> str:
        for path, content in files.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(content)
        return store.folder_sha256(tmp_path / name)

    base = folder("a", {"x": "1", "sub/y": "2"})
    assert folder("b", {"sub/y": "2", "x": "1", store.STAMP: "{}", store.BEGUN: "{}"}) == base
    assert folder("c", {"x": "1", "sub/z": "2"}) != base
    assert folder("d", {"x": "1", "sub/y": "3"}) != base


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LLM4SBR_CACHE", raising=False)
    assert store.cache_dir() == tmp_path / "llm4sbr"
    monkeypatch.setenv("LLM4SBR_CACHE", os.fspath(tmp_path / "own"))
    assert store.cache_dir() == tmp_path / "own"
