"""Reads and writes files safely: a file is complete or absent, and checked when it is read.

Files are written under a temporary name and renamed; a folder is replaced by two renames. Tensors are
safetensors, tables Parquet; nothing here reads pickle. `stamps` uses this for the stages of a run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm4sbr.errors import StoreError

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

STAMP = "stage.json"
"""Written last into a stage's folder."""

LOCK = ".lock"
"""Lock file of the process that works on a folder."""

BEGUN = "begun.json"
"""In the folder of an unfinished stage: the fingerprint it was started with."""


def cache_dir() -> Path:
    """The folder for downloads and answers: `LLM4SBR_CACHE`, else `llm4sbr` in the user's cache folder."""
    chosen = os.environ.get("LLM4SBR_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llm4sbr"


def fingerprint(value: object) -> str:
    """sha256 (hex) of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file."""
    with open_for_reading(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def folder_sha256(folder: Path) -> str:
    """sha256 (hex) of the names and contents of all files in a folder, except the stage's own records."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (STAMP, BEGUN))
    return fingerprint([[path.relative_to(folder).as_posix(), file_sha256(path)] for path in files])


def open_for_reading(path: Path) -> Any:
    """`path` opened in binary mode; `StoreError` if that fails."""
    try:
        return path.open("rb")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # a NUL character or a lone surrogate in the name
        raise StoreError(f"{path!r}: {error}") from None


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`, renamed to `path` if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def explained(path: Path, *, only_full: bool = False) -> Iterator[None]:
    """Turns an `OSError` while writing to `path` into a one-line `StoreError`.

    Args:
        path: what is being written.
        only_full: convert only the error of a full disk.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if only_full and not full:
            raise
        hint = "; free some space and run the same command again, finished work is kept" if full else ""
        raise StoreError(f"{path}: cannot write: {error.strerror or error}{hint}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, indented, with keys in the given order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON; `StoreError` names the file and the line of an error."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # ValueError also for numbers with thousands of digits
        raise StoreError(f"{path}: not a whole JSON file: {error}") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] = {}) -> None:
    """Write a safetensors file atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with writing(path) as temporary:
        try:
            save_file(
                {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, dict(metadata)
            )
        except SafetensorError as error:
            raise _system_error(error) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, memory-mapped; `StoreError` if it is missing, truncated or invalid."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:  # its `strerror` is empty here
        raise StoreError(f"{path}: no such file") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from None
    except (SafetensorError, ValueError) as error:
        raise StoreError(
            f"{path}: not a whole safetensors file ({error}); delete its folder and run again"
        ) from None


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Write a Parquet file atomically."""
    import polars as pl

    with writing(path) as temporary:
        try:
            table.write_parquet(temporary)
        except pl.exceptions.ComputeError as error:
            raise _system_error(error) from error


def write_table_parts(path: Path, schema: Mapping[str, Any], parts: Iterator[pl.DataFrame]) -> None:
    """Write a Parquet file atomically from parts, of which only a few are in memory at once.

    Args:
        path: the file.
        schema: columns and their polars types.
        parts: frames with this schema, in order.
    """
    import polars as pl
    from polars.io.plugins import register_io_source

    def source(*_: object) -> Iterator[pl.DataFrame]:
        yield from parts

    with writing(path) as temporary:
        try:
            register_io_source(source, schema=dict(schema)).sink_parquet(temporary)
        except pl.exceptions.ComputeError as error:
            raise _system_error(error) from error


def read_table(path: Path, columns: list[str] | None = None) -> pl.DataFrame:
    """Read a Parquet file; `StoreError` if it is missing, truncated or invalid."""
    import polars as pl

    with _readable(path):
        return pl.read_parquet(path, columns=columns)


def read_parts(
    path: Path, column: str, size: int, *, first: int = 0, last: int | None = None
) -> Iterator[pl.Series]:
    """One column of a Parquet file from row `first` to `last - 1`, `size` rows at a time.

    Raises the errors of `read_table`.
    """
    import polars as pl

    with _readable(path):
        end = pl.scan_parquet(path).select(pl.len()).collect().item() if last is None else last
        for begin in range(first, end, size):
            rows = pl.scan_parquet(path).select(column).slice(begin, min(size, end - begin))
            yield rows.collect()[column]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import polars as pl

    try:
        yield
    except FileNotFoundError:  # its `strerror` is empty here
        raise StoreError(f"{path}: no such file") from None
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from None
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise StoreError(
            f"{path}: not a whole Parquet file ({reason}); delete its folder and run again"
        ) from None


@contextmanager
def locked(folder: Path, *, what: str) -> Iterator[None]:
    """Lock a folder (created if missing) for this process; `StoreError` if another process has locked it.

    Args:
        folder: locked until the block or the process ends.
        what: what it is, for the message.
    """
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
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


def _system_error(error: Exception) -> Exception:
    """The operating system's error that a Rust library wrapped in text, or the error itself."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else error


def _sync(path: Path) -> None:
    with path.open("rb+") as stream:  # Windows only syncs what is open for writing
        os.fsync(stream.fileno())
