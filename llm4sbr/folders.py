"""Locks and replaces folders: one process works on a run at a time, and a folder is complete or absent."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from llm4sbr.errors import StoreError
from llm4sbr.store import explained, regular

LOCK = ".lock"
"""Lock file of the process that works on a folder."""


@contextmanager
def locked(folder: Path, *, what: str) -> Iterator[None]:
    """Lock a folder (created if missing) for this process; `StoreError` if another process has locked it.

    Args:
        folder: locked until the block or the process ends.
        what: what it is, for the message.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / LOCK).exists():
            regular(folder / LOCK)
        lock = (folder / LOCK).open("w")
    with lock:
        try:
            _hold(lock.fileno())
        except OSError:
            raise StoreError(f"{folder}: another llm4sbr process is working on this {what}") from None
        yield


def _hold(number: int) -> None:
    """Lock an open file until it is closed; `OSError` if another process has it."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows, whose module the type checker knows there only
        with suppress(ModuleNotFoundError):
            windows: Any = import_module("msvcrt")
            windows.locking(number, windows.LK_NBLCK, 1)
    else:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)


def replace_folder(new: Path, final: Path) -> None:
    """Rename `new` to `final`, removing what was there.

    Two renames: a crash between them leaves the old folder as `<final>.old`, see `mend_folder`. If `final` is
    a link, the link is removed, not its target.
    """
    old = final.with_name(final.name + ".old")
    _remove(old)
    if os.path.lexists(final):
        final.rename(old)
    new.rename(final)
    _remove(old)


def mend_folder(final: Path) -> None:
    """Complete or undo a `replace_folder` that a crash interrupted: restore or remove the old folder."""
    old = final.with_name(final.name + ".old")
    if not os.path.lexists(old):
        return
    with explained(final):
        if final.exists():
            _remove(old)
        else:
            old.rename(final)


def link_files(source: Path, target: Path) -> None:
    """The same files in another folder, the records that vouch for them last. None is ever written again."""
    for path in sorted(source.rglob("*"), key=lambda one: one.suffix == ".json"):
        if path.is_file():
            link_file(path, target / path.relative_to(source))


def link_file(source: Path, target: Path) -> None:
    """The same file under another name, a copy where the file system has no links."""
    if target.exists() and target.samefile(source):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
