"""A stage's folder: its stamp, and that a crash at any moment loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr import stamps, store
from llm4sbr.errors import StoreError
from llm4sbr.stamps import Stamp

ONE = Stamp("train", {"train.dim": 8})
TWO = Stamp("train", {"train.dim": 16})


def test_stamp_is_read_back(tmp_path: Path) -> None:
    stamp = Stamp("train", {"train.dim": 8, "list": [1, 2]}, 1.5, 2**40, "abc")
    stamps.write_stamp(tmp_path, stamp)
    assert stamps.read_stamp(tmp_path) == stamp
    assert json.loads((tmp_path / "stage.json").read_text())["fingerprint"] == stamp.fingerprint


def test_no_stamp_is_none(tmp_path: Path) -> None:
    assert stamps.read_stamp(tmp_path) is None
    assert stamps.read_stamp(tmp_path / "absent") is None


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1e6), st.integers(0, 2**50), st.text(max_size=5))
def test_fingerprint_of_a_stamp_is_of_its_inputs_only(seconds: float, memory: int, content: str) -> None:
    assert ONE._replace(seconds=seconds, peak_memory=memory, content=content).fingerprint == ONE.fingerprint
    assert ONE.fingerprint != TWO.fingerprint
    assert ONE.fingerprint != ONE._replace(stage="infer").fingerprint


def test_stamp_of_another_format_says_both_versions(tmp_path: Path) -> None:
    stamps.write_stamp(tmp_path, ONE)
    path = tmp_path / store.STAMP
    store.write_record(path, store.read_record(path) | {"format": 99})
    with pytest.raises(
        StoreError, match="run format 99, this version reads 1; use the version that wrote it"
    ):
        stamps.read_stamp(tmp_path)


@pytest.mark.parametrize("content", ["[]", "3", "{}", '{"format": 1}', '{"format": 1, "stage": "x"}'])
def test_foreign_stamp_says_what_to_delete(tmp_path: Path, content: str) -> None:
    (tmp_path / store.STAMP).write_text(content)
    with pytest.raises(StoreError, match=f"not a stage record; delete {tmp_path} and run again"):
        stamps.read_stamp(tmp_path)


def test_changes_name_key_old_and_new() -> None:
    old = Stamp("localize", {"f": 5, "gone": "x", "same": 1})
    new = Stamp("localize", {"f": 3, "same": 1, "added": True})
    assert stamps.changes(old, new) == ["added: None -> True", "f: 5 -> 3", "gone: x -> None"]
    assert stamps.changes(old, old._replace(seconds=9.0)) == []


def interrupted(final: Path, stamp: Stamp) -> None:
    """An attempt at a stage that wrote one whole file and then failed."""

    def attempt() -> None:
        with stamps.stage_folder(final, stamp) as out:
            store.write_text(out / "part", "whole")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt()


def test_finished_stage_has_its_name_and_its_stamp(tmp_path: Path) -> None:
    final = tmp_path / "train"
    with stamps.stage_folder(final, ONE) as out:
        store.write_text(out / "model", "1")
        assert not final.exists()
    stamp = stamps.read_stamp(final)
    assert stamp
    assert (stamp.parts, stamp.content) == (ONE.parts, store.folder_sha256(final))
    assert sorted(p.name for p in final.iterdir()) == ["model", "stage.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_stage_keeps_the_stamp_that_it_wrote_itself(tmp_path: Path) -> None:
    with stamps.stage_folder(tmp_path / "train", ONE) as out:
        stamps.write_stamp(out, ONE._replace(seconds=12.5, content="own"))
    assert stamps.read_stamp(tmp_path / "train") == ONE._replace(seconds=12.5, content="own")


def test_interrupted_work_is_handed_back_for_the_same_stamp(tmp_path: Path) -> None:
    final = tmp_path / "train"
    interrupted(final, ONE)
    assert stamps.read_stamp(final) is None
    with stamps.stage_folder(final, ONE) as out:
        assert (out / "part").read_text() == "whole"


def test_interrupted_work_is_dropped_for_another_stamp(tmp_path: Path) -> None:
    final = tmp_path / "train"
    interrupted(final, ONE)
    with stamps.stage_folder(final, TWO) as out:
        assert [p.name for p in out.iterdir()] == [store.BEGUN]


def test_former_result_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    final = tmp_path / "train"
    with stamps.stage_folder(final, ONE) as out:
        store.write_text(out / "model", "old")
    interrupted(final, TWO)
    assert (final / "model").read_text() == "old"
    with stamps.stage_folder(final, TWO) as out:
        store.write_text(out / "model", "new")
    assert (final / "model").read_text() == "new"


def test_a_stage_s_own_operating_system_error_is_not_called_a_write_error(tmp_path: Path) -> None:
    def stage() -> None:
        with stamps.stage_folder(tmp_path / "infer", ONE):
            raise ConnectionRefusedError("no server there")

    with pytest.raises(ConnectionRefusedError, match="no server there"):
        stage()


REPLACE = """
import os, signal, sys
from pathlib import Path
from llm4sbr import folders, stamps, store

step = int(sys.argv[2])
calls = 0

def counted(original):
    def call(*arguments, **options):
        global calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    return call

with stamps.stage_folder(Path(sys.argv[1]), stamps.Stamp("train", {"train.dim": 16})) as out:
    store.write_text(out / "model", "new")
    stamps.write_stamp(out, stamps.Stamp("train", {"train.dim": 16}, content="new"))
    # From here on every system call that moves or removes something may be the last one.
    Path.rename, Path.unlink = counted(Path.rename), counted(Path.unlink)
    folders.shutil.rmtree = counted(folders.shutil.rmtree)
print("finished")
"""


@pytest.mark.parametrize("step", range(1, 7))
@pytest.mark.parametrize("then", [ONE, TWO], ids=["former settings", "new settings"])
def test_kill_9_at_any_step_of_a_replacement_loses_neither_folder(
    tmp_path: Path, step: int, then: Stamp
) -> None:
    final = tmp_path / "train"
    with stamps.stage_folder(final, ONE) as out:
        store.write_text(out / "model", "old")
    done = subprocess.run(
        [sys.executable, "-c", REPLACE, str(final), str(step)], capture_output=True, text=True, check=False
    )
    finished = done.stdout == "finished\n"
    assert finished == (step == 6), "five steps: remove, rename, rename, remove, unlink"
    assert finished or done.returncode == -signal.SIGKILL

    stamp = stamps.read_stamp(final)
    assert stamp, "a whole folder stands under the name"
    model = (final / "model").read_text()
    assert (stamp.parts, model) in [(ONE.parts, "old"), (TWO.parts, "new")]
    assert stamp.content in (store.folder_sha256(final), "new")
    if model == "old":  # what was finished but not yet in place is not lost for its own stamp
        with stamps.stage_folder(final, TWO) as out:
            assert (out / "model").read_text() == "new"
    with stamps.stage_folder(final, then) as out:
        store.write_text(out / "model", "last")
    assert (final / "model").read_text() == "last"
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_leftovers_of_a_killed_write_do_not_reach_the_result(tmp_path: Path) -> None:
    final = tmp_path / "train"
    code = f"""
import os, signal
from pathlib import Path
from llm4sbr import folders, stamps, store
with stamps.stage_folder(Path({str(final)!r}), stamps.Stamp("train", {{"train.dim": 8}})) as out:
    store.write_text(out / "sub" / "first", "1")
    with store.writing(out / "sub" / "second") as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert [p for p in (tmp_path / "train.tmp" / "sub").iterdir() if p.name.endswith(".tmp")]
    with stamps.stage_folder(final, ONE):
        pass
    assert [p.name for p in (final / "sub").iterdir()] == ["first"]


def test_a_stage_that_fails_at_once_leaves_nothing(tmp_path: Path) -> None:
    stamp = stamps.Stamp("prepare", {})
    with pytest.raises(ValueError, match="no"), stamps.stage_folder(tmp_path / "prepare", stamp):
        raise ValueError("no")
    assert not list(tmp_path.iterdir())
