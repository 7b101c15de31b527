"""The answer cache: every answer an LLM gave, by prompt, shared by all runs.

One SQLite file in WAL mode, safe for several processes at once. Each `put_many` is one transaction, so a
killed process loses only the batch it was working on. The key is a hash of the LLM's fingerprint and the
prompt. Parsing is not part of the key, so a changed parser needs no new LLM calls.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from llm4sbr import store
from llm4sbr.errors import DamagedError, StoreError

__all__ = ["Answer", "AnswerCache", "CacheStats", "answer_key"]

APPLICATION_ID = 0x4C345342
"""Marks an SQLite file as ours ("L4SB")."""

VERSION = 3
"""Version of the tables. Version 1 did not record which LLM gave an answer, version 2 had no sums; both are
upgraded when they are opened."""

LAYOUT = (
    "CREATE TABLE llms (id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE)",
    "INSERT INTO llms VALUES (0, '')",
)
TABLE = (
    "CREATE TABLE answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL, seconds REAL NOT NULL, "
    "tokens INTEGER NOT NULL, llm INTEGER NOT NULL DEFAULT 0, added REAL NOT NULL DEFAULT 0, "
    "sum INTEGER NOT NULL DEFAULT -1) WITHOUT ROWID"
)
UPGRADE = {
    1: (
        *LAYOUT,
        "ALTER TABLE answers ADD COLUMN llm INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE answers ADD COLUMN added REAL NOT NULL DEFAULT 0",
    ),
    2: ("ALTER TABLE answers ADD COLUMN sum INTEGER NOT NULL DEFAULT -1",),
}
"""Version -> statements that make the next one of it."""

UNKNOWN = -1
"""The sum of an answer that an older version added."""

WAIT = 60.0
"""Seconds to wait for another process's transaction."""

AT_ONCE = 500
"""Keys per SQL query."""


class Answer(NamedTuple):
    """An LLM's answer and its cost."""

    text: str
    """The raw text."""
    seconds: float
    """Wall time; a batch's time is divided evenly among its prompts."""
    tokens: int
    """Tokens of prompt and answer together; 0 if the LLM does not count them."""


class CacheStats(NamedTuple):
    """Statistics of one LLM's answers in the cache."""

    llm: str
    """The LLM's fingerprint; "" if an older version did not record it."""
    answers: int
    seconds: float
    """Total time of these answers."""
    tokens: int
    first: float
    """When the first of them was added, in seconds since 1970; 0 if unknown."""
    last: float


def answer_key(fingerprint: str, prompt: str) -> bytes:
    """Cache key: sha256 of the fingerprint's length, the fingerprint and the prompt, 32 bytes.

    The length keeps different pairs apart: "ab" + "c" is not "a" + "bc".
    """
    digest = hashlib.sha256(f"{len(fingerprint)}:{fingerprint}".encode())
    digest.update(prompt.encode())
    return digest.digest()


def _sum(key: bytes, answer: Answer) -> int:
    """Checksum (CRC-32) of an answer and its key, by which a flipped bit is found."""
    text = f"{answer.seconds!r} {answer.tokens} {answer.text}"
    return zlib.crc32(key + text.encode(errors="surrogatepass"))


class AnswerCache:
    """Answers by key. Use it in a `with` block, or call `close`."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> AnswerCache:
        """Open the cache at `path`; it is created if missing.

        Raises:
            StoreError: the file is damaged, another program's database, of a newer version, or not writable;
                the message says what to do.
        """
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_dir():
                store.regular(path)
            # polars may call back from its own thread while this one waits
            connection = sqlite3.connect(path, timeout=WAIT, isolation_level=None, check_same_thread=False)
            try:
                _prepare(connection, path)
            except BaseException:
                connection.close()
                raise
        return cls(path, connection)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Answer]:
        """The cached answers, by key; keys without an answer are left out."""
        found = {}
        with _explained(self.path):
            for some in _groups(keys):
                marks = ",".join("?" * len(some))
                query = f"SELECT key, answer, seconds, tokens, sum FROM answers WHERE key IN ({marks})"
                for key, *values, total in self._connection.execute(query, some):
                    found[key] = self._checked(key, Answer(*values), total)
        return found

    def _checked(self, key: bytes, answer: Answer, total: int) -> Answer:
        """The answer; `DamagedError` if it is not what was stored."""
        if total not in (UNKNOWN, _sum(key, answer)):
            raise DamagedError(
                f"{self.path}: an answer changed since it was stored (its checksum differs); move the file "
                "away, or drop its LLM's answers with llm4sbr answers prune: what is missing is asked again"
            )
        return answer

    def known(self, keys: Iterable[bytes], *, before: float | None = None) -> set[bytes]:
        """Which keys have an answer, optionally only those added before a time (seconds since 1970)."""
        found: set[bytes] = set()
        limit = float("inf") if before is None else before
        with _explained(self.path):
            for some in _groups(keys):
                marks = ",".join("?" * len(some))
                query = f"SELECT key FROM answers WHERE key IN ({marks}) AND added < ?"
                found.update(row[0] for row in self._connection.execute(query, (*some, limit)))
        return found

    def put_many(self, answers: Mapping[bytes, Answer], *, llm: str = "", added: float | None = None) -> int:
        """Add answers in one transaction. An answer that another process added first is kept.

        Args:
            answers: key -> answer.
            llm: fingerprint of the LLM.
            added: time in seconds since 1970; default now.

        Returns:
            How many answers were new.
        """
        when = time.time() if added is None else added
        with _explained(self.path), _transaction(self._connection):
            number = self._number(llm)
            rows = [
                (key, *answer, number, when, _sum(key, answer))
                for key, one in answers.items()
                for answer in [one._replace(seconds=float(one.seconds))]  # as it is read again
            ]
            before = self._connection.total_changes
            self._connection.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            return self._connection.total_changes - before

    def _number(self, llm: str) -> int:
        self._connection.execute("INSERT OR IGNORE INTO llms (fingerprint) VALUES (?)", (llm,))
        row = self._connection.execute("SELECT id FROM llms WHERE fingerprint = ?", (llm,)).fetchone()
        return int(row[0])

    def stats(self) -> list[CacheStats]:
        """One entry per LLM, the one with most answers first."""
        query = (
            "SELECT fingerprint, count(*), sum(seconds), sum(tokens), min(added), max(added) "
            "FROM answers JOIN llms ON llm = id GROUP BY id ORDER BY count(*) DESC, fingerprint"
        )
        with _explained(self.path):
            return [CacheStats(*row) for row in self._connection.execute(query)]

    def rows(self, *, llm: str = "") -> Iterator[tuple[bytes, Answer, str, float]]:
        """All answers with key, LLM and time, or only those of LLMs whose fingerprint contains `llm`."""
        query = (
            "SELECT key, answer, seconds, tokens, fingerprint, added, sum FROM answers JOIN llms ON llm = id "
            "WHERE instr(fingerprint, ?) ORDER BY key"
        )
        with _explained(self.path):
            for row in self._connection.execute(query, (llm,)):
                yield row[0], self._checked(row[0], Answer(*row[1:4]), row[6]), row[4], row[5]

    def prune(self, *, llm: str = "", before: float | None = None, dry: bool = False) -> int:
        """Delete answers of LLMs whose fingerprint contains `llm`, added before a time; returns the count."""
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
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> AnswerCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    with _transaction(connection):  # two processes may create the file at the same time
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and application != APPLICATION_ID:
            raise StoreError(
                f"{path}: another program's database, not an answer cache; choose another infer.cache"
            )
        if tables and version not in (*UPGRADE, VERSION):
            raise StoreError(
                f"{path}: an answer cache of version {version}, this program writes {VERSION}; "
                "choose another infer.cache"
            )
        if not tables:
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        if not tables or version < VERSION:
            newer = [statement for one in range(version, VERSION) for statement in UPGRADE.get(one, ())]
            for statement in newer if tables else (*LAYOUT, TABLE):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")  # survives a killed process, not always a power cut


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # on a full disk SQLite has already rolled back
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
    # The low byte is the kind of error, the other bytes its details (sqlite.org/rescode.html).
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
