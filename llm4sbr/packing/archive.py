"""One tar file with a run or an export: the same bytes wherever it is packed, and checked when it is opened.

The first member says what is in it, with sizes and hashes. What else is in an archive that somebody sends is
taken for nothing: only regular files whose names the list has are written, and no more than their sizes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO, Any

from llm4sbr import store
from llm4sbr.errors import DamagedError, InputError, StoreError
from llm4sbr.packing.contents import File, files_of, kind_of

CONTENTS = "llm4sbr.json"
FORMAT = 1
GIB = 2**30

LARGEST = 8 * GIB - 1
"""Bytes of a file that this kind of tar can have."""
FILES, LONGEST, LIST = 100_000, 240, 64 * 2**20
"""Most files of an archive, characters of a name, and bytes of the list."""

NAME = re.compile(r"[^\x00-\x1f\x7f\\:]+")
PART = re.compile(r"(?!\.)[^/]*[^/. ]")


def pack(folder: Path, out: Path) -> dict[str, Any]:
    """Write a run or an export into a tar file, and return what it lists.

    Raises:
        StoreError: the folder is neither, not whole, or `out` cannot be written.
        InputError: it has a key in it, or a path of this machine that cannot be left out.
    """
    folder = folder.resolve()
    if out.resolve().is_relative_to(folder):
        raise InputError(f"{out}: inside of what is packed; write it elsewhere")
    kind, files = kind_of(folder), files_of(folder)
    listed = {file.name: _entry(file) for file in files}
    content = {"format": FORMAT, "kind": kind, "name": folder.name, "files": listed}
    if not safe(folder.name) or "/" in folder.name:
        raise InputError(f"{folder.name!r}: no name that every system can have; rename the folder")
    with (
        store.writing(out) as temporary,
        tarfile.open(temporary, "w:", format=tarfile.USTAR_FORMAT) as archive,
    ):
        text = json.dumps(content, indent=1, sort_keys=True).encode()
        _add(archive, f"{folder.name}/{CONTENTS}", len(text), io.BytesIO(text))
        for file in files:
            with _opened(file) as stream:
                _add(archive, f"{folder.name}/{file.name}", listed[file.name][0], stream)
    return content


def unpack(archive: Path, folder: Path | None = None, *, most: float = 64) -> tuple[Path, dict[str, Any]]:
    """Open a packed run or export as a folder, which must not be there yet; returns it and what it lists.

    Args:
        archive: written by `pack`, or by somebody who says so.
        folder: by default the packed folder's name, in the current one.
        most: GiB that it may have.

    Raises:
        StoreError: it is not such an archive, or the folder is there already.
        DamagedError: it is cut off or changed.
        InputError: it is larger than allowed.
    """
    with store.open_for_reading(archive) as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Plain) as opened:
                return _unpack(archive, opened, folder, most * GIB)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise StoreError(f"{archive}: not what llm4sbr pack writes: {error}") from None


class _Plain(tarfile.TarInfo):
    """A regular file without extensions: tarfile keeps the others' headers in memory, however long."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> _Plain:
        found = super().frombuf(buf, encoding, errors)
        if found.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise StoreError(f"{found.name!r:.100}: not a regular file; the archive is not opened")
        return found


def _unpack(
    path: Path, archive: tarfile.TarFile, folder: Path | None, most: float
) -> tuple[Path, dict[str, Any]]:
    first = archive.next()
    if first is None or not first.name.endswith(f"/{CONTENTS}") or first.size > LIST:
        raise StoreError(f"{path}: not what llm4sbr pack writes: {CONTENTS} is not its first file")
    content = _list(path, _read(archive, first))
    name, files = content["name"], content["files"]
    if sum(size for size, _ in files.values()) > most:
        raise InputError(f"{path}: has more than {most / GIB:g} GiB; --max-size allows more")
    folder = folder if folder is not None else Path(name)
    if folder.exists():
        raise StoreError(f"{folder}: is there already; name another folder")
    temporary = folder.with_name(f".{folder.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with store.explained(folder):
            temporary.mkdir(parents=True)
            left = dict(files)
            while (member := archive.next()) is not None:
                inner = member.name.removeprefix(f"{name}/")
                if inner == member.name or inner not in left:
                    raise StoreError(f"{path}: {member.name!r:.100} is not in its list, or there twice")
                _write(path, archive, member, temporary / inner, left.pop(inner))
            if left:
                raise DamagedError(f"{path}: cut off, {min(left)} is missing; get it again")
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder, content


def _list(path: Path, text: bytes) -> dict[str, Any]:
    """What the archive says it has; `StoreError` if anything in it is odd."""
    wrong = StoreError(f"{path}: not what llm4sbr pack writes: its {CONTENTS} is odd")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise wrong from None
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise wrong
    if found.get("format") != FORMAT:
        raise StoreError(f"{path}: format {found.get('format')!r:.20}, this version reads {FORMAT}")
    names = [found.get("name"), *found["files"]]
    if len(names) > FILES or not all(isinstance(name, str) and safe(name) for name in names):
        raise wrong
    if "/" in names[0] or len({name.lower() for name in names[1:]}) < len(names) - 1:
        raise wrong
    inner = {parent.as_posix() for name in names[1:] for parent in PurePosixPath(name).parents}
    if inner & set(names[1:]) or not all(map(_is_entry, found["files"].values())):
        raise wrong
    return found


def _is_entry(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 2:
        return False
    size, digest = value
    return type(size) is int and 0 <= size <= LARGEST and isinstance(digest, str)


def safe(name: str) -> bool:
    """Whether a name with slashes stays below its folder on every system."""
    parts = name.split("/")
    return len(name) <= LONGEST and bool(NAME.fullmatch(name)) and all(map(PART.fullmatch, parts))


def _write(
    path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, out: Path, entry: list[Any]
) -> None:
    size, digest = entry
    if member.size != size:
        raise DamagedError(f"{path}: {member.name!r:.100} has another size than its list says; get it again")
    source = archive.extractfile(member)
    assert source is not None
    out.parent.mkdir(parents=True, exist_ok=True)
    hashed = hashlib.sha256()
    with source, out.open("xb") as target:
        while block := source.read(2**20):
            hashed.update(block)
            target.write(block)
    if hashed.hexdigest() != digest:
        raise DamagedError(f"{path}: {member.name!r:.100} was changed (its sha256 differs); get it again")


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None
    with stream:
        return stream.read()


def _entry(file: File) -> list[Any]:
    """Size and sha256 of what is handed on."""
    if file.changed is not None:
        return [len(file.changed), hashlib.sha256(file.changed).hexdigest()]
    size = store.regular(file.path).st_size
    if size > LARGEST or not safe(file.name):
        raise InputError(f"{file.path}: too large (8 GiB), or a name that not every system can have")
    return [size, store.file_sha256(file.path)]


def _opened(file: File) -> IO[bytes]:
    if file.changed is not None:
        return io.BytesIO(file.changed)
    opened: IO[bytes] = store.open_for_reading(file.path)
    return opened


def _add(archive: tarfile.TarFile, name: str, size: int, stream: IO[bytes]) -> None:
    """A member that says nothing of who packed it, and when."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    archive.addfile(member, stream)
