"""Folders of stages: a stamp records what a result was made from, and a folder is either complete or absent.

A stage writes into `<stage>.tmp` and renames it at the end, so a folder without `.tmp` is complete. The stamp
is the file `stage.json` inside.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from llm4sbr.errors import StoreError
from llm4sbr.store import (
    BEGUN,
    STAMP,
    explained,
    fingerprint,
    folder_sha256,
    mend_folder,
    read_json,
    replace_folder,
    write_json,
)

STAGE_NAMES = ("prepare", "infer", "localize", "train", "evaluate")
"""The stages of a run, in order; also the names of their folders."""

FORMAT = 1
"""Version of the run folder's layout."""


class Stamp(NamedTuple):
    """What a stage's result was made from."""

    stage: str
    parts: dict[str, Any]
    """Settings, component versions and upstream fingerprints, by dotted key."""
    seconds: float = 0.0
    """Wall time of the stage."""
    peak_memory: int = 0
    """Largest resident memory while it ran, in bytes."""
    content: str = ""
    """Hash of the files it wrote; part of the stamps of stages that read them."""

    @property
    def fingerprint(self) -> str:
        """Hash of `parts`."""
        return fingerprint([FORMAT, self.stage, self.parts])


def read_stamp(folder: Path) -> Stamp | None:
    """The stamp of a finished stage, None if there is none; `StoreError` if its layout version differs.

    A folder that a crash left under its `.old` name is restored first, see `mend_folder`.
    """
    mend_folder(folder)
    path = folder / STAMP
    if not path.exists():
        return None
    try:
        content = read_json(path)
    except StoreError as error:
        raise StoreError(f"{error}; delete {folder} and run again") from None
    try:
        if content["format"] != FORMAT:
            raise StoreError(
                f"{path}: written in run format {content['format']}, this version reads {FORMAT}; "
                "use the version that wrote it, or start a new run directory"
            )
        return Stamp(**{key: content[key] for key in Stamp._fields})
    except (KeyError, TypeError):
        raise StoreError(f"{path}: not a stage record; delete {folder} and run again") from None


def write_stamp(folder: Path, stamp: Stamp) -> None:
    """Write the stamp of a stage into its folder."""
    content = {"format": FORMAT, "stage": stamp.stage, "fingerprint": stamp.fingerprint}
    write_json(
        folder / STAMP, content | {key: getattr(stamp, key) for key in Stamp._fields if key != "stage"}
    )


def changes(old: Stamp, new: Stamp) -> list[str]:
    """The differences of two stamps, one text per key, such as `localize.f: 5 -> 3`."""
    keys = sorted(old.parts.keys() | new.parts.keys())
    return [
        f"{key}: {old.parts.get(key)} -> {new.parts.get(key)}"
        for key in keys
        if old.parts.get(key) != new.parts.get(key)
    ]


@contextmanager
def stage_folder(final: Path, stamp: Stamp) -> Iterator[Path]:
    """A folder to write a stage into; it is renamed to `final` if the block succeeds.

    Files of an interrupted attempt are kept if it had the same `stamp`, so that a stage can resume; otherwise
    the folder is emptied.
    """
    temporary = begin_stage(final, stamp)
    try:
        with explained(final, only_full=True):  # other `OSError`s of the stage do not concern this folder
            yield temporary
    except BaseException:
        if {path.name for path in temporary.iterdir()} <= {BEGUN}:  # nothing worth keeping
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    with explained(final):
        if not (temporary / STAMP).exists():
            write_stamp(temporary, stamp._replace(content=folder_sha256(temporary)))
        replace_folder(temporary, final)
        (final / BEGUN).unlink()


def begin_stage(final: Path, stamp: Stamp) -> Path:
    """The folder in which a stage is written before it is renamed to `final`; see `stage_folder`."""
    folder = final.with_name(final.name + ".tmp")
    with explained(final):
        mend_folder(final)
        if _begun_with(folder / BEGUN) == stamp.fingerprint:
            for leftover in folder.rglob(".*.tmp"):  # of a `writing` that was interrupted
                leftover.unlink()
        else:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(folder / BEGUN, {"fingerprint": stamp.fingerprint})
    return folder


def _begun_with(path: Path) -> str | None:
    try:
        found = read_json(path)
    except StoreError:
        return None
    return found.get("fingerprint") if isinstance(found, dict) else None
