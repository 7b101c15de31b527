"""Exports answers to a file and imports them: JSON Lines, gzipped if the name ends in `.gz`.

A line is `{"key": 64 hex digits, "llm": fingerprint, "answer": ..., "seconds": ..., "tokens": ..., "added":
...}`. Imported files may come from anybody: all lines are validated before the first answer is added.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from llm4sbr import store
from llm4sbr.asking.cache import Answer, AnswerCache
from llm4sbr.errors import DataError, StoreError
from llm4sbr.secrets import mask

__all__ = ["export_answers", "import_answers"]

LONGEST = 1_000_000
"""Maximum length of a line in characters; an LLM's answer usually has a few hundred."""

BLOCK = 10_000
"""Answers per transaction."""


class SharedAnswer(NamedTuple):
    """One exported answer."""

    key: bytes
    llm: str
    answer: Answer
    added: float


def export_answers(cache: AnswerCache, path: Path, *, llm: str = "") -> int:
    """Write the answers of LLMs whose fingerprint contains `llm` to `path`; returns how many.

    Raises:
        StoreError: the file cannot be written; no partial file is left.
    """
    count = 0
    with store.writing(path) as temporary, _open(temporary, path, "wt") as stream:
        for key, answer, fingerprint, added in cache.rows(llm=llm):
            line = {"key": key.hex(), "llm": mask(fingerprint), **_fields(answer), "added": added}
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count


def import_answers(cache: AnswerCache, path: Path) -> tuple[int, int]:
    """Add the answers of a file; answers that the cache already has are kept.

    Returns:
        Number of answers in the file, and how many of them were new.

    Raises:
        DataError: a line is not an answer; the message says which one. Nothing is added then.
    """
    for _ in _lines(path):
        pass
    count = new = 0
    block: dict[str, dict[bytes, tuple[Answer, float]]] = {}
    for line in _lines(path):
        block.setdefault(line.llm, {})[line.key] = (line.answer, line.added)
        count += 1
        if count % BLOCK == 0:
            new += _put(cache, block)
    return count, new + _put(cache, block)


def _put(cache: AnswerCache, block: dict[str, dict[bytes, tuple[Answer, float]]]) -> int:
    new = 0
    for llm, answers in block.items():
        latest = max(added for _, added in answers.values())
        new += cache.put_many({key: answer for key, (answer, _) in answers.items()}, llm=llm, added=latest)
    block.clear()
    return new


def _fields(answer: Answer) -> dict[str, Any]:
    return {"answer": answer.text, "seconds": answer.seconds, "tokens": answer.tokens}


def _open(path: Path, name: Path, mode: str) -> IO[str]:
    if name.suffix == ".gz":
        return cast(IO[str], gzip.open(path, mode, encoding="utf-8"))
    return path.open(mode, encoding="utf-8")


def _lines(path: Path) -> Iterator[SharedAnswer]:
    try:
        store.regular(path)
        with _open(path, path, "rt") as stream:
            number = 0
            while text := stream.readline(LONGEST + 1):
                number += 1
                if len(text) > LONGEST:
                    raise DataError(
                        f"{path}:{number}: longer than {LONGEST:,} characters; no answer was added"
                    )
                yield _parsed(text, f"{path}:{number}")
    except (OSError, StoreError, EOFError, UnicodeDecodeError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error).removeprefix(f"{path}: ")
        raise DataError(f"{path}: cannot be read: {reason}") from None


def _parsed(text: str, where: str) -> SharedAnswer:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: not JSON ({error}); expected what `llm4sbr answers export` writes"
        ) from None
    kinds: dict[str, Any] = {
        "key": str, "llm": str, "answer": str, "seconds": (int, float), "tokens": int, "added": (int, float)
    }  # fmt: skip
    for field, kind in kinds.items():
        value: Any = found.get(field) if isinstance(found, dict) else None
        wrong = not isinstance(value, kind) or isinstance(value, bool)
        if not wrong and kind is str:
            wrong = (
                re.search("[\ud800-\udfff]", value) is not None
            )  # a lone surrogate, which cannot be written as UTF-8
        elif not wrong:
            wrong = not (math.isfinite(value) and 0 <= value < 2**53)
        if wrong:
            raise DataError(f"{where}: {field}: {value!r:.80} is not usable; no answer was added")
    if not re.fullmatch("[0-9a-f]{64}", found["key"]):
        raise DataError(f"{where}: key: {found['key']!r:.80} is not 64 hex digits; no answer was added")
    answer = Answer(found["answer"], float(found["seconds"]), found["tokens"])
    return SharedAnswer(bytes.fromhex(found["key"]), found["llm"], answer, float(found["added"]))
