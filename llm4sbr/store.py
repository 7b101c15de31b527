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
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm4sbr.errors import DamagedError, StoreError

if TYPE_CHECKING:
    import polars as pl
    from torch import Tensor

STAMP = "stage.json"
"""Written last into a stage's folder."""

BEGUN = "begun.json"
"""In the folder of an unfinished stage: the fingerprint it was started with."""

SEAL = "sha256"
"""Field of a record with the hash of its other fields."""

SMALL = 2**20
"""Bytes up to which a file is hashed whenever that is of use."""

DEEPEST = 4
"""Folders above a file in which its record is looked for."""


def cache_dir() -> Path:
    """The folder for downloads and answers: `LLM4SBR_CACHE`, else `llm4sbr` in the user's cache folder."""
    chosen = os.environ.get("LLM4SBR_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "llm4sbr"
    except RuntimeError:
        raise StoreError(
            "this user has no home folder for what is kept between runs; set LLM4SBR_CACHE to a folder"
        ) from None


def fingerprint(value: object) -> str:
    """sha256 (hex) of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file; that of a large one is not computed twice while the file stays as it is."""
    status = regular(path)
    if status.st_size <= SMALL:  # times are too coarse for files that a moment changes
        return _sha256(path)
    return _known_sha256(path, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _sha256(path: Path) -> str:
    with open_for_reading(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=4096)
def _known_sha256(path: Path, *state: int) -> str:
    return _sha256(path)


def folder_sha256(folder: Path) -> str:
    """sha256 (hex) of the names and contents of all files in a folder, except the stage's own records."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (STAMP, BEGUN))
    return fingerprint([[path.relative_to(folder).as_posix(), file_sha256(path)] for path in files])


def regular(path: Path) -> os.stat_result:
    """The status of a regular file, also behind a link; `StoreError` of anything else.

    Opening a pipe waits for somebody who writes into it, and reading from a device may never end.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    except ValueError as error:  # a NUL character or a lone surrogate in the name
        raise StoreError(f"{path!r}: {error}") from None
    if stat.S_ISDIR(status.st_mode):
        raise StoreError(f"{path}: a folder, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise StoreError(f"{path}: a pipe, socket or device, not a file")
    return status


def open_for_reading(path: Path) -> Any:
    """A regular file, opened in binary mode; `StoreError` if that fails."""
    regular(path)
    try:
        return path.open("rb")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None


def checked(path: Path) -> Path:
    """The path of a regular file, which has the content that its stage or part recorded, if it is of one.

    Raises:
        StoreError: there is no such file.
        DamagedError: its content is another one.
    """
    regular(path)
    record = next((one for one in _records(path) if one.is_file()), None)
    if record is None or record.name == BEGUN or path in (record, record.with_name(BEGUN)):
        return path
    content = read_record(record)
    try:
        entry = (content.get("files") or {}).get(path.relative_to(record.parent).as_posix())
        changed = entry is not None and file_sha256(path) != entry[1]
    except (AttributeError, LookupError, TypeError):
        raise DamagedError(f"{record}: not a stage record; delete it and run again") from None
    if changed:
        stage, *parts = str(content.get("stage")).split("/")
        levels = 2 if stage == "refit" else len(parts)  # how deep a part is in its stage's folder
        run = record.parent.parents[levels]
        raise DamagedError(
            f"{path}: changed since it was written (its sha256 differs); delete it and run "
            f"llm4sbr {stage} {run}"
        )
    return path


def _records(path: Path) -> Iterator[Path]:
    """Where the record of the stage or part that a file belongs to may be, the innermost first."""
    return (folder / name for folder in list(path.parents)[:DEEPEST] for name in (STAMP, BEGUN))


def write_record(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, with a hash of its own."""
    plain = json.loads(json.dumps(value))
    write_json(path, {**plain, SEAL: fingerprint(plain)})


def read_record(path: Path, advice: str = "delete it and run again") -> Any:
    """Read what `write_record` wrote, or JSON without a hash.

    Args:
        path: the file.
        advice: what to do if its hash is another one, for the `DamagedError`.
    """
    try:
        found = read_json(path)
    except DamagedError as error:
        raise DamagedError(f"{error}; {advice}") from None
    if isinstance(found, dict) and SEAL in found and found.pop(SEAL) != fingerprint(found):
        raise DamagedError(f"{path}: changed since it was written (its sha256 differs); {advice}")
    return found


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A temporary path next to `path`, renamed to `path` if the block succeeds."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = stat.S_IMODE(temporary.stat().st_mode)
            yield temporary
            temporary.chmod(mode)  # as the user's umask has it: some writers make files for their owner alone
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


def make_executable(path: Path) -> None:
    """Let everybody run a script who may read it."""
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(mode | (mode & 0o444) >> 2)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically, indented, with keys in the given order."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """Read a text file; `StoreError` if it cannot be, `DamagedError` if it is not what its stage wrote."""
    try:
        return checked(path).read_text(encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise StoreError(f"{path}: not a text in UTF-8: {error}") from None


def read_json(path: Path) -> Any:
    """Read JSON; `StoreError` names the file and the line of an error."""
    try:
        return json.loads(checked(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # ValueError also for numbers with thousands of digits
        raise DamagedError(f"{path}: not a whole JSON file: {error}") from None


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
        return load_file(checked(path))
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from None
    except (SafetensorError, ValueError) as error:
        raise DamagedError(
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

    checked(path)
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).splitlines()[0]
        raise DamagedError(
            f"{path}: not a whole Parquet file ({reason}); delete its folder and run again"
        ) from None


def _system_error(error: Exception) -> Exception:
    """The operating system's error that a Rust library wrapped in text, or the error itself."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else error


def _sync(path: Path) -> None:
    with path.open("rb+") as stream:  # Windows only syncs what is open for writing
        os.fsync(stream.fileno())
