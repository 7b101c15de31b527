"""The answer cache: what an LLM said to a prompt, asked once and kept for every run.

One SQLite file in WAL mode, safe with several processes at once. Every `put_many` is one transaction, so
a process killed at any moment loses the batch in flight and nothing else. The key is a hash of the LLM's
fingerprint and the prompt; parsing is not part of it, so a better parser costs no calls.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from llm4sbr.errors import StoreError

__all__ = ["Answer", "AnswerCache", "Kept", "answer_key"]

APPLICATION_ID = 0x4C345342
"""Marks an SQLite file as ours ("L4SB")."""

VERSION = 2
"""Version of the layout; one of version 1, which did not know the LLMs by name, is brought up to date."""

LAYOUT = (
    "CREATE TABLE llms (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE)",
    "INSERT INTO llms VALUES (0, '')",
)
TABLE = (
    "CREATE TABLE answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL, seconds REAL NOT NULL, "
    "tokens INTEGER NOT NULL, llm INTEGER NOT NULL DEFAULT 0, added REAL NOT NULL DEFAULT 0) WITHOUT ROWID"
)
UPGRADE = (
    "ALTER TABLE answers ADD COLUMN llm INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE answers ADD COLUMN added REAL NOT NULL DEFAULT 0",
)

WAIT = 60.0
"""Seconds to wait for another process's transaction."""

AT_ONCE = 500
"""Keys per query."""


class Answer(NamedTuple):
    """What the LLM said and what it cost."""

    text: str
    """Raw, as the LLM gave it."""
    seconds: float
    """Wall time; a batch's time is shared evenly by its prompts."""
    tokens: int
    """Of prompt and answer together; 0 if the LLM does not count."""


class Kept(NamedTuple):
    """What the cache has of one LLM."""

    llm: str
    """Its fingerprint; "" where an older version did not write it down."""
    answers: int
    seconds: float
    """What these answers took, in all."""
    tokens: int
    first: float
    """Seconds since 1970 when the first of them was put here; 0 if that is not known."""
    last: float


def answer_key(fingerprint: str, prompt: str) -> bytes:
    """32 bytes: sha256 of the LLM's fingerprint and the prompt, which cannot run into each other."""
    digest = hashlib.sha256(f"{len(fingerprint)}:{fingerprint}".encode())
    digest.update(prompt.encode())
    return digest.digest()


class AnswerCache:
    """Answers by key. Use it in a `with` block, or call `close`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> AnswerCache:
        """Open the cache at `path`, made if missing.

        Raises:
            StoreError: the file is damaged, another program's database, of a newer version, or cannot be
                written; the message says what to do.
        """
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # polars reads the answers that it writes from a thread of its own, while this one waits
            connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
            try:
                _prepare(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Answer]:
        """The answers that are known, by key."""
        found = {}
        with _explained(self.path):
            for some in _groups(keys):
                marks = ",".join("?" * len(some))
                query = f"SELECT key, answer, seconds, tokens FROM answers WHERE key IN ({marks})"
                found.update({row[0]: Answer(*row[1:]) for row in self._connection.execute(query, some)})
        return found

    def known(self, keys: Iterable[bytes], *, before: float | None = None) -> set[bytes]:
        """Which of these have an answer, one that was put here before a time (seconds since 1970)."""
        found: set[bytes] = set()
        limit = float("inf") if before is None else before
        with _explained(self.path):
            for some in _groups(keys):
                marks = ",".join("?" * len(some))
                query = f"SELECT key FROM answers WHERE key IN ({marks}) AND added < ?"
                found.update(row[0] for row in self._connection.execute(query, (*some, limit)))
        return found

    def put_many(self, answers: Mapping[bytes, Answer], *, llm: str = "", added: float | None = None) -> int:
        """Add answers in one transaction; where another process was first, its answer stays.

        Args:
            answers: by key.
            llm: fingerprint of the LLM that gave them.
            added: seconds since 1970, by default now.

        Returns:
            How many were not there before.
        """
        when = time.time() if added is None else added
        with _explained(self.path), _transaction(self._connection):
            number = self._number(llm)
            rows = [(key, *answer, number, when) for key, answer in answers.items()]
            before = self._connection.total_changes
            self._connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)", rows)
            return self._connection.total_changes - before

    def _number(self, llm: str) -> int:
        self._connection.execute("INSERT OR IGNORE INTO llms (fingerprint) VALUES (?)", (llm,))
        row = self._connection.execute("SELECT id FROM llms WHERE fingerprint = ?", (llm,)).fetchone()
        return int(row[0])

    def stats(self) -> list[Kept]:
        """What there is, by LLM, the largest first."""
        query = (
            "SELECT fingerprint, count(*), sum(seconds), sum(tokens), min(added), max(added) "
            "FROM answers JOIN llms ON llm = id GROUP BY id ORDER BY count(*) DESC, fingerprint"
        )
        with _explained(self.path):
            return [Kept(*row) for row in self._connection.execute(query)]

    def rows(self, *, llm: str = "") -> Iterator[tuple[bytes, Answer, str, float]]:
        """Every answer with its key, LLM and time, or those of LLMs whose fingerprint contains `llm`."""
        query = (
            "SELECT key, answer, seconds, tokens, fingerprint, added FROM answers JOIN llms ON llm = id "
            "WHERE instr(fingerprint, ?) ORDER BY key"
        )
        with _explained(self.path):
            for row in self._connection.execute(query, (llm,)):
                yield row[0], Answer(*row[1:4]), row[4], row[5]

    def prune(self, *, llm: str = "", before: float | None = None, dry: bool = False) -> int:
        """Drop the answers of LLMs whose fingerprint contains `llm`, put here before a time; how many."""
        found = "FROM answers WHERE llm IN (SELECT id FROM llms WHERE instr(fingerprint, ?)) AND added < ?"
        values = (llm, float("inf") if before is None else before)
        with _explained(self.path):
            count = int(self._connection.execute(f"SELECT count(*) {found}", values).fetchone()[0])
            if count and not dry:
                with _transaction(self._connection):
                    self._connection.execute(f"DELETE {found}", values)
                self._connection.execute("VACUUM")
            return count

    def __len__(self) -> int:
        with _explained(self.path):
            return int(self._connection.execute("SELECT count(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Close the file; what was put stays."""
        self._connection.close()

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    with _transaction(connection):  # two processes may make the file at the same moment
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and application != APPLICATION_ID:
            raise StoreError(
                f"{path}: another program's database, not an answer cache; choose another infer.cache"
            )
        if tables and version not in (1, VERSION):
            raise StoreError(
                f"{path}: an answer cache of version {version}, this program writes {VERSION}; "
                "choose another infer.cache"
            )
        if not tables:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        if not tables or version < VERSION:
            for statement in (*LAYOUT, *(UPGRADE if tables else (TABLE,))):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing; a power cut may


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk has rolled back by itself
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{path}: cannot make the answer cache: {error.strerror}; choose another infer.cache"
        ) from None
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {_advice(error)}") from error


def _advice(error: sqlite3.Error) -> str:
    # The low byte is the kind of error, the rest its detail (sqlite.org/rescode.html).
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if kind == sqlite3.SQLITE_FULL:
        return "no space left for the answer cache; free some and run again, finished answers are kept"
    if kind in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return f"not a whole answer cache ({error}); move it away, its prompts will be asked again"
    if kind == sqlite3.SQLITE_BUSY:
        return f"another process has held the answer cache for {WAIT:.0f} s; run again when it has ended"
    return f"cannot use the answer cache: {error}; check the file's permissions or choose another infer.cache"


def _groups(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    keys = list(keys)
    for begin in range(0, len(keys), AT_ONCE):
        yield keys[begin : begin + AT_ONCE]
