"""Folders of stages: a stamp records what a result was made from, and a folder is either complete or absent.

A stage writes into `<stage>.tmp` and renames it, so that a folder without `.tmp` is whole; `stage.json`
inside says from what it was made and which files it has. What a stage makes piece by piece (a source of
answers or intents, a trained model) has a folder of its own inside, with a `stage.json` of its own: a part.
Parts outlive the settings that asked for them, and are used again when they are asked for again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from llm4sbr.errors import StoreError
from llm4sbr.folders import link_files, mend_folder, replace_folder
from llm4sbr.store import (
    BEGUN,
    SMALL,
    STAMP,
    explained,
    file_sha256,
    fingerprint,
    read_json,
    read_record,
    write_json,
    write_record,
)

STAGE_NAMES = ("prepare", "infer", "localize", "train", "evaluate")
"""The stages of a run, in order; also the names of their folders."""

SECTIONS = {"protocol": "prepare", "data": "prepare", "engine": "infer"} | {
    name: name for name in STAGE_NAMES[1:]
}
"""Section of the settings -> the first stage that reads it."""

FORMAT = 1
"""Version of the run folder's layout."""

Files = dict[str, list[Any]]
"""Name of a file -> its bytes and its sha256."""


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
    """Hash of the files it wrote; what stages that read them are stamped with."""
    files: Files | None = None
    """Those files, without the parts' own; None if an older version wrote the stamp."""

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
    content = read_record(path)
    try:
        if content["format"] != FORMAT:
            raise StoreError(
                f"{path}: written in run format {content['format']}, this version reads {FORMAT}; "
                "use the version that wrote it, or start a new run directory"
            )
        found = Stamp(**{key: content[key] for key in Stamp._fields if key != "files" or key in content})
        kinds: tuple[Any, ...] = (str, dict, (int, float), int, str, (dict, type(None)))
        if not all(isinstance(value, kind) for value, kind in zip(found, kinds, strict=True)):
            raise TypeError("a field of another type")
        return found
    except (KeyError, TypeError):
        raise StoreError(f"{path}: not a stage record; delete {folder} and run again") from None


def write_stamp(folder: Path, stamp: Stamp) -> None:
    """Write the stamp of a stage into its folder."""
    content = {"format": FORMAT, "stage": stamp.stage, "fingerprint": stamp.fingerprint}
    write_record(
        folder / STAMP, content | {key: getattr(stamp, key) for key in Stamp._fields if key != "stage"}
    )


def changes(old: Stamp, new: Stamp) -> list[str]:
    """The differences of two stamps, one text per key, such as `localize.f: 5 -> 3`; no options are none."""
    before, after = ({key: value for key, value in one.parts.items() if value != {}} for one in (old, new))
    keys = sorted(before.keys() | after.keys())
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)
    ]


BEGIN = "llm4sbr run and llm4sbr prepare begin one, and so does --data"


def check_there(run: Path) -> None:
    """Refuse a run directory that is not there; `StoreError` names the one that may have been meant."""
    if run.exists():
        return
    others = [path.name for path in run.parent.iterdir() if path.is_dir()] if run.parent.is_dir() else []
    near = get_close_matches(run.name, others, n=1)
    hint = f"did you mean {run.with_name(near[0])}?" if near else BEGIN
    raise StoreError(f"{run}: no such run; {hint}")


@contextmanager
def naming_command(run: Path) -> Iterator[None]:
    """Adds to an error about a file of a finished stage the command that creates it again."""
    try:
        yield
    except StoreError as error:
        text = str(error)
        stage = next((name for name in STAGE_NAMES if text.startswith(f"{run / name}/")), None)
        if stage is None or f"llm4sbr {stage}" in text:
            raise
        text = re.sub(r"; (run \w+|train it|train the model|train) again$", "", text)
        delete = "delete it and " if Path(text.partition(":")[0]).is_file() else ""
        raise StoreError(f"{text}; {delete}run llm4sbr {stage} {run}") from None


def files_of(folder: Path, parts: Collection[str] = ()) -> tuple[Files, str]:
    """The files below a folder, and a hash of their names and contents.

    Args:
        folder: of a stage or a part.
        parts: folders inside that are parts; of these, what their own stamps say counts for the hash.
    """
    own = {
        path.relative_to(folder).as_posix(): [path.stat().st_size, file_sha256(path)]
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (STAMP, BEGUN) and not (parts_above(path, folder))
    }
    every = dict(own)
    for part in parts:
        stamp = read_stamp(folder / part)
        files = (stamp and stamp.files) or files_of(folder / part)[0]
        every |= {f"{part}/{name}": entry for name, entry in files.items()}
    return own, fingerprint([[name, every[name][1]] for name in sorted(every)])


def parts_above(path: Path, folder: Path) -> bool:
    """Whether a file below a folder belongs to a part of it, finished or begun."""
    between = path.relative_to(folder).parents
    return any((folder / one / name).exists() for one in list(between)[:-1] for name in (STAMP, BEGUN))


def damage(folder: Path, parts: Collection[str] = ()) -> str | None:
    """What a finished stage or part lacks: a file that is missing or not what was written, None if nothing.

    Sizes are compared, and hashes of small files.
    """
    for place in (folder, *(folder / part for part in parts)):
        stamp = read_stamp(place)
        if stamp is None:
            return f"{place.relative_to(folder.parent)} is missing"
        for name, (size, digest) in (stamp.files or {}).items():
            path = place / name
            shown = path.relative_to(folder.parent)
            if not path.is_file():
                return f"{shown} is missing"
            if path.stat().st_size != size or (size <= SMALL and file_sha256(path) != digest):
                return f"{shown} has changed since it was written"
    return None


def parts_of(folder: Path) -> list[str]:
    """Names of the finished parts in a stage's folder, relative to it."""
    found = (path.parent.relative_to(folder).as_posix() for path in folder.rglob(STAMP))
    return sorted(name for name in found if name != ".")


def begin_part(folder: Path, stamp: Stamp) -> None:
    """Make a part's folder; what an interrupted attempt left stays if it was made from the same stamp."""
    with explained(folder):
        if _begun_with(folder / BEGUN) == stamp.fingerprint and not (folder / STAMP).exists():
            _drop_leftovers(folder)
            return
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(
            folder / BEGUN, {"fingerprint": stamp.fingerprint, "stage": stamp.stage, "parts": stamp.parts}
        )


def finish_part(folder: Path) -> None:
    """The part that was begun is whole now."""
    if not (folder / BEGUN).exists():
        return
    begun = read_json(folder / BEGUN)
    files, content = files_of(folder)
    write_stamp(folder, Stamp(begun["stage"], begun["parts"], content=content, files=files))
    (folder / BEGUN).unlink()


def keep_parts(source: Path, target: Path) -> None:
    """Add to a stage's folder those whole parts of another that it does not have."""
    for part in parts_of(source):
        begun = any((target / part / name).exists() for name in (STAMP, BEGUN))
        if not begun and damage(source / part) is None:
            shutil.rmtree(target / part, ignore_errors=True)
            link_files(source / part, target / part)


def whole(folder: Path, stamp: Stamp) -> bool:
    """Whether a part is there, made from this stamp and undamaged."""
    found = read_stamp(folder)
    return found is not None and found.fingerprint == stamp.fingerprint and damage(folder) is None


@dataclass(frozen=True)
class Attempt:
    """An attempt at a stage, as the stage sees it."""

    out: Path
    """The folder to write into."""
    stamp: Stamp
    """Of the stage."""
    before: Path | None = None
    """The stage's finished folder, whose parts may be used; None to redo everything."""
    begins: Callable[[], None] = lambda: None

    @classmethod
    def alone(cls, out: Path, stage: str) -> Attempt:
        """Of a stage that is not part of a run; what it is made from is not looked at."""
        return cls(out, Stamp(stage, {}))

    def begin(self) -> None:
        """To be called when nothing is left that could be refused, before anything is written."""
        self.begins()

    def old(self, part: str) -> Stamp | None:
        """The stamp of a part that may be used."""
        return read_stamp(self.out / part) or (read_stamp(self.before / part) if self.before else None)

    def has(self, part: str, stamp: Stamp) -> bool:
        """Whether a part need not be made."""
        return any(whole(place / part, stamp) for place in (self.out, self.before) if place)


@contextmanager
def stage_folder(final: Path, stamp: Stamp) -> Iterator[Path]:
    """A folder to write a stage into; it is renamed to `final` if the block succeeds.

    Work that an interrupted attempt left is handed back if it was made from the same `stamp`, so a stage
    may look for what it wrote before; otherwise only its parts are, since these have their own stamps.
    """
    temporary = begin_stage(final, stamp)
    try:
        with explained(final, only_full=True):  # other `OSError`s of the stage do not concern this folder
            yield temporary
    except BaseException:
        if _nothing_new(temporary, final):
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    with explained(final):
        if not (temporary / STAMP).exists():
            files, content = files_of(temporary)
            write_stamp(temporary, stamp._replace(content=content, files=files))
        replace_folder(temporary, final)
        (final / BEGUN).unlink()


def unfinished(final: Path) -> Path:
    """Where a stage is written before its folder gets its name."""
    return final.with_name(final.name + ".tmp")


def begin_stage(final: Path, stamp: Stamp) -> Path:
    """The folder in which a stage is written before it gets the name `final`; see `stage_folder`."""
    folder = unfinished(final)
    with explained(final):
        mend_folder(final)
        if _begun_with(folder / BEGUN) == stamp.fingerprint:
            _drop_leftovers(folder)
        else:
            _drop_all_but_parts(folder)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / BEGUN, {"fingerprint": stamp.fingerprint})
    return folder


def _drop_leftovers(folder: Path) -> None:
    """Remove what a `writing` that was killed left."""
    for leftover in folder.rglob(".*.tmp"):
        leftover.unlink()


def _drop_all_but_parts(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    if not any(path.name in (STAMP, BEGUN) and path.parent != folder for path in files):
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in files:
        if not parts_above(path, folder):
            path.unlink()


def _nothing_new(folder: Path, final: Path) -> bool:
    """Whether an unfinished stage's folder has nothing that is worth keeping: its own files or others'."""
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / BEGUN]
    there = [final / path.relative_to(folder) for path in files]
    return all(one.exists() and one.samefile(path) for path, one in zip(files, there, strict=True))


def _begun_with(path: Path) -> str | None:
    try:
        found = read_json(path)
    except StoreError:
        return None
    return found.get("fingerprint") if isinstance(found, dict) else None
