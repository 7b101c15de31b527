"""Reads the user's files as bytes, and explains in one line what is wrong with a file."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from llm4sbr import store
from llm4sbr.errors import DataError, StoreError

_PIECE = 1 << 22
_GZIP = b"\x1f\x8b"
_OTHERS = {
    b"\x28\xb5\x2f\xfd": "a zstd file: unpack it first",
    b"PK\x03\x04": "a zip file: unpack it first",
    b"\xfd7zXZ": "an xz file: unpack it first",
    b"BZh": "a bzip2 file: unpack it first",
    b"PAR1": "a Parquet file: --dataset parquet reads it",
}
"""First bytes of file formats that are not text, with advice."""

UNPACKED, RATIO = 1 << 30, 100
"""A packed file may unpack to so many bytes, or to so many times its own size if that is more: tables of
clicks shrink to a tenth or so, and what grows a thousandfold is made to fill the memory."""

_PARTS = ("train", "valid", "val", "test")
"""What the parts of one log are called, in order."""


def find(folder: Path, stem: str, endings: Sequence[str], *, holds: str) -> Path:
    """The file `stem` + one of `endings` in `folder`, the first that exists.

    Raises:
        DataError: the folder or the file is missing; `holds` describes the expected content.
    """
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}; it should hold {stem}{endings[0]} ({holds})")
    for ending in endings:
        if (folder / f"{stem}{ending}").is_file() or (folder / f"{stem}{ending}").is_dir():
            return folder / f"{stem}{ending}"
    raise DataError(
        f"{folder}: no {' or '.join(stem + ending for ending in endings)} ({holds}) in this folder"
    )


def parts(path: Path, endings: Sequence[str]) -> list[Path]:
    """The file itself, the files that a name with `*` stands for, or the part files of a folder of Spark.

    Several are in order of their names, with `train`, `valid`, `test` in this order.

    Raises:
        DataError: a folder or a name with `*` without any, or a pipe, socket or device.
    """
    if "*" in path.name:
        found = sorted(path.parent.glob(path.name), key=_part)
        if not found:
            raise DataError(f"{path}: no such files")
        return found
    if not path.is_dir():
        check_regular(path)
        return [path]
    found = sorted(
        file
        for file in path.iterdir()
        if file.is_file() and file.name.endswith(tuple(endings)) and file.name[0] not in "._"
    )
    if not found:
        raise DataError(f"{path}: a folder without part files that end with {' or '.join(endings)}")
    return found


def check_regular(path: Path) -> None:
    """Raise a `DataError` for a pipe, socket or device, which would be waited for."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise DataError(f"{path}: not a regular file; write what it gives into one")


def _part(path: Path) -> tuple[int, str]:
    named = [place for place, part in enumerate(_PARTS) if f".{part}." in path.name]
    return (named[0] if named else -1, path.name)


def opened(path: Path) -> BinaryIO:
    """A regular file, opened in binary mode; `DataError` if that fails."""
    try:
        found: BinaryIO = store.open_for_reading(path)
    except StoreError as error:
        raise DataError(str(error)) from None
    return found


def allowed(packed: int) -> int:
    """The number of bytes to which a packed file of so many bytes may unpack."""
    return max(UNPACKED, RATIO * packed)


def too_large(path: Path | str, limit: int) -> DataError:
    """The error for a packed file that unpacks to more than `limit` bytes."""
    return DataError(
        f"{path}: unpacks to more than {limit:,} bytes, the limit for a packed file of this size "
        f"({UNPACKED:,} bytes, or {RATIO} times its own); if it is meant to be so large, unpack it first"
    )


def each_line(path: Path) -> Iterator[bytes]:
    """The lines of a text file, unpacked if gzipped, without holding all of it.

    Raises:
        DataError: as `opened`, or the file unpacks to too much.
        OSError: it cannot be read.
        EOFError, gzip.BadGzipFile, zlib.error: the gzip file is truncated or damaged.
    """
    with opened(path) as stream:
        if not _packed(path, stream):
            yield from stream
            return
        limit = left = allowed(path.stat().st_size)
        with gzip.GzipFile(fileobj=stream) as unpacker:
            while line := unpacker.readline(left + 1):
                left -= len(line)
                if left < 0:
                    raise too_large(path, limit)
                yield line


def content(path: Path, *, encoding: str | None = None, advise: bool = True) -> bytes:
    """A file's bytes, unpacked if gzipped, and converted to UTF-8 from `encoding`.

    `advise`: whether the reader has an option for the encoding, which a message may name.

    Raises:
        DataError: the file is missing, unreadable, empty, a truncated gzip file, or not in `encoding`.
    """
    try:
        with opened(path) as stream:
            data = _unpacked(path, stream) if _packed(path, stream) else stream.read()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    if not data.strip():
        raise DataError(f"{path}: the file is empty")
    data = data if encoding is None else _recoded(path, data, encoding, advise=advise)
    return data if b"\n" in data else data.replace(b"\r", b"\n")  # line ends of old Macs


def first_line(path: Path, *, encoding: str | None = None, advise: bool = True) -> str:
    """The first line of a text file, without byte order mark and line end; raises the errors of `content`."""
    if encoding is not None:
        return content(path, encoding=encoding).split(b"\n", 1)[0].decode().lstrip("\ufeff").rstrip("\r")
    try:
        line = next(each_line(path), b"")
    except (EOFError, gzip.BadGzipFile, zlib.error):
        line = content(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from None
    check_utf8(path, line, advise=advise)
    return line.decode("utf-8-sig").rstrip("\r\n").partition("\r")[0]


def check_utf8(path: Path, data: bytes, *, advise: bool = True) -> None:
    """Raise a `DataError` with the first row that is not UTF-8; with `advise` it names an option for that."""
    _recoded(path, data, "utf-8", advise=advise)


def _packed(path: Path, stream: BinaryIO) -> bool:
    """Whether the stream is gzip; raises `DataError` for any other format that is not text."""
    begin = stream.read(8)
    stream.seek(0)
    for magic, what in _OTHERS.items():
        if begin.startswith(magic):
            raise DataError(f"{path}: this is {what}")
    return begin.startswith(_GZIP)


def _unpacked(path: Path, stream: BinaryIO) -> bytes:
    pieces, limit = bytearray(), allowed(path.stat().st_size)
    try:
        with gzip.GzipFile(fileobj=stream) as unpacker:
            while piece := unpacker.read(_PIECE):
                pieces += piece
                if len(pieces) > limit:
                    raise too_large(path, limit)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        row = pieces.count(b"\n") + 1
        raise DataError(
            f"{path}:{row}: the gzip file is truncated or damaged here; get a whole copy of it"
        ) from None
    return bytes(pieces)


def _recoded(path: Path, data: bytes, encoding: str, *, advise: bool = True) -> bytes:
    try:
        return data.decode(codecs.lookup(encoding).name).encode()
    except LookupError:
        raise DataError(f"{path}: no encoding {encoding!r}; for instance utf-8, latin-1, utf-16") from None
    except UnicodeError as error:
        row = data.count(b"\n", 0, getattr(error, "start", 0)) + 1
        named = "name its encoding, for instance --set data.options.encoding=latin-1"
        what = named if advise else "convert the file to UTF-8"
        raise DataError(f"{path}:{row}: the text is not {encoding}; {what}") from None
