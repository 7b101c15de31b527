"""What of a run or an export is handed on: its files, without paths of this machine and without keys."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, Literal, NamedTuple

from llm4sbr import secrets, stamps, store
from llm4sbr.config import read_toml
from llm4sbr.config.layers import SEAL
from llm4sbr.config.tree import to_toml
from llm4sbr.errors import InputError, StoreError
from llm4sbr.serving.artefact import RECORD, check_files, read_record

Kind = Literal["run", "export"]

SETTINGS = ("config.toml", "resolved.toml")
LEFT_OUT = ("engines", "tensorboard")
"""Folders of what this machine's GPU made, and of what can be made again."""

LOCAL = re.compile(r"((?:[\w.-]+:)?)((?:/|~|[A-Za-z]:[\\/]).+)", re.DOTALL)
"""A setting with a path of this machine: `/data/shop`, `transformers:/models/qwen`."""

TEXTS = (".json", ".jsonl", ".toml", ".md", ".html", ".txt", ".csv", ".sh", ".pbtxt")
"""Suffixes of files in which keys are looked for."""


class File(NamedTuple):
    """One file to hand on."""

    name: str
    """Relative to the folder, with slashes."""
    path: Path
    changed: bytes | None = None
    """What is handed on instead of the file's content."""


def kind_of(folder: Path) -> Kind:
    """What a folder is; `StoreError` if neither a run nor an export, or not whole."""
    if (folder / RECORD).exists():
        check_files(folder, read_record(folder))
        return "export"
    stamps.check_there(folder)
    if not (folder / stamps.STAGE_NAMES[0]).is_dir():
        raise StoreError(f"{folder}: neither a run nor an export; name the folder that has {RECORD}")
    for stage in stamps.STAGE_NAMES:
        if (folder / stage / store.STAMP).exists():
            lacks = stamps.damage(folder / stage, stamps.parts_of(folder / stage))
            if lacks:
                raise StoreError(f"{folder}: {lacks}; run llm4sbr {stage} {folder} first")
    return "run"


def files_of(folder: Path) -> list[File]:
    """All finished files of a run or an export, in the order of their names.

    Settings and stage records name data by its last part only, `shop` for `/data/shop`; so does the report.

    Raises:
        StoreError: something is no regular file.
        InputError: a file has a key, or a path of this machine where it cannot be changed.
    """
    paths = [path for path in sorted(folder.rglob("*")) if _belongs(path.relative_to(folder))]
    found = [path for path in paths if path.is_symlink() or not path.is_dir()]
    for path in found:
        if path.is_symlink():
            raise StoreError(f"{path}: a link; put the file itself there, or remove it")
        store.regular(path)
    settings = {path: _values(path) for path in found if path.name in (*SETTINGS, store.STAMP)}
    local = sorted({one for values in settings.values() for one in _paths(values)}, key=len, reverse=True)
    files = [_file(folder, path, settings.get(path), local) for path in found]
    return sorted(files, key=lambda file: file.name)


def _belongs(name: PurePath) -> bool:
    unfinished = any(part.startswith(".") or part.endswith((".tmp", ".old")) for part in name.parts)
    return not unfinished and not set(name.parts) & set(LEFT_OUT)


def _file(folder: Path, path: Path, settings: Any, local: Sequence[str]) -> File:
    name = path.relative_to(folder).as_posix()
    if path.suffix not in TEXTS:
        return File(name, path)
    with store.open_for_reading(path) as stream:
        content: bytes = stream.read()
    text = content.decode("utf-8", "replace")
    if settings is not None and any(True for _ in _paths(settings)):
        content = (_record if path.name == store.STAMP else _toml)(settings).encode()
    elif path.suffix == ".html":
        for one in local:
            text = text.replace(html.escape(one), html.escape(last(one))).replace(one, last(one))
        content = text.encode()
    for one in local:
        if _inside(one).search(content.decode("utf-8", "replace")):
            raise InputError(
                f"{path}: has the path {one} of this machine; set it relative, and make it again"
            )
    if secrets.mask(text) != text:
        raise InputError(f"{path}: has a key or a password in it; remove it before it is handed on")
    return File(name, path, content)


def _inside(path: str) -> re.Pattern[str]:
    """A path as a whole, also escaped in JSON."""
    return re.compile("|".join(rf"{re.escape(one)}(?![\w-])" for one in {path, json.dumps(path)[1:-1]}))


def _values(path: Path) -> Any:
    return read_toml(path) if path.name in SETTINGS else store.read_record(path)


def _paths(value: Any) -> list[str]:
    """All paths of this machine in settings or a stage's record."""
    if isinstance(value, Mapping):
        return [one for inner in value.values() for one in _paths(inner)]
    if isinstance(value, list | tuple):
        return [one for inner in value for one in _paths(inner)]
    found = LOCAL.fullmatch(value) if isinstance(value, str) and "://" not in value else None
    return [found[2]] if found else []


def last(path: str) -> str:
    """The last part of a path, of whichever system it is."""
    return re.split(r"[\\/]", path.rstrip("\\/"))[-1] or "data"


def without_paths(value: Any) -> Any:
    """The value with the last part of every path of this machine."""
    if isinstance(value, Mapping):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(inner) for inner in value]
    found = LOCAL.fullmatch(value) if isinstance(value, str) and "://" not in value else None
    return found[1] + last(found[2]) if found else value


def _record(record: dict[str, Any]) -> str:
    changed = without_paths(record)
    changed["fingerprint"] = store.fingerprint([stamps.FORMAT, changed["stage"], changed["parts"]])
    return json.dumps({**changed, store.SEAL: store.fingerprint(changed)}, indent=2) + "\n"


def _toml(settings: dict[str, Any]) -> str:
    text = to_toml(without_paths(settings))
    return f"{text}{SEAL}{store.fingerprint(text)}\n"
