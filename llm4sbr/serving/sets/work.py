"""Answers a set block by block; complete parts are not computed again."""

from __future__ import annotations

import gc
import hashlib
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llm4sbr import folders, registry, store
from llm4sbr.errors import InputError
from llm4sbr.progress import Progress
from llm4sbr.serving.sets.fields import (
    ATTRIBUTES,
    FILTERS,
    check_objects,
    others_of,
    own_filters,
    parse,
    record,
)
from llm4sbr.serving.sets.read import STANDARD, Row, columns_of, content, count, format_of, read
from llm4sbr.serving.sets.write import Records, Writer, as_lines

if TYPE_CHECKING:
    from llm4sbr.serving.exported import ExportedRecommender
    from llm4sbr.serving.recommend import Recommender

SAID = 20
"""Broken rows that are told one by one."""

GARBAGE = 100_000
"""New objects between two garbage collections; 700 cost a fifth of the time and find no cycles."""


class SessionSet(NamedTuple):
    """Sessions to answer, and how."""

    source: Path
    """The file of sessions, or `STANDARD`."""
    target: Path
    """The file of lists, or `STANDARD`."""
    fields: str | None = None
    """Comma-separated, see `fields`."""
    options: Mapping[str, Any] = {}
    """Of `recommend_all`."""
    engine: str = "local"
    """Where sessions are answered: an installed name of kind `engines`."""


class Answered(NamedTuple):
    """A block's results."""

    records: Records
    broken: list[tuple[int, str]]
    """Number of every row without a list, and why."""


class Answering:
    """Answers blocks of rows: what an engine's workers do.

    Args:
        load: opens the model; picklable, like everything here.
        fields: what is written.
        options: of `recommend_all`.
        opened: the model, if it is open in this process; workers of other processes open their own.
    """

    def __init__(
        self,
        load: Callable[[], Recommender | ExportedRecommender],
        fields: Sequence[str],
        options: Mapping[str, Any],
        opened: Recommender | ExportedRecommender | None = None,
    ) -> None:
        self.given = (load, fields, options)
        self.opened = opened

    def __reduce__(self) -> tuple[Any, ...]:
        return Answering, self.given

    def __call__(self) -> Callable[[list[Row]], Answered]:
        """The function that answers a block."""
        load, fields, options = self.given
        recommender = self.opened or load()

        def work(rows: list[Row]) -> Answered:
            good = [row.session for row in rows if row.session is not None]
            each = [own_filters(row) for row in rows if row.session is not None]
            answers = iter(recommender.recommend_all(good, each=each, **options))
            found = [InputError(row.error) if row.session is None else next(answers) for row in rows]
            pairs = list(zip(rows, found, strict=True))
            broken = [
                (row.number, " ".join(str(one).split())) for row, one in pairs if isinstance(one, InputError)
            ]
            return Answered([record(fields, row, one) for row, one in pairs], broken)

        return work


def recommend_set(
    wanted: SessionSet, load: Callable[[], Recommender | ExportedRecommender], progress: Progress
) -> dict[str, int]:
    """Write the lists of a set of sessions.

    An interrupted call leaves the parts that are complete in a folder beside `target`; the same call takes
    them over. `target` is there only when it is complete.

    Args:
        wanted: the set.
        load: opens the model, here and in the engine's workers.
        progress: shows the sessions done, and the broken rows.

    Returns:
        The number of rows, and how many of them are `broken`.

    Raises:
        InputError: a file, a field or an option is invalid.
        StoreError: the lists cannot be written, or another process is writing them.
    """
    check_paths(wanted)
    gc.set_threshold(GARBAGE)
    columns = columns_of(wanted.source) if wanted.source != STANDARD else None
    fields = parse(wanted.fields, wanted.source, columns)
    wanted = wanted._replace(options={**wanted.options, ATTRIBUTES: ATTRIBUTES in fields})
    types = {name: kind for name, kind in (columns or {}).items() if kind is not None}
    opened = load()
    opened.recommend_all([], **wanted.options)  # checks the options
    answering = Answering(load, fields, wanted.options, opened)
    filters = [name for name in FILTERS if columns is None or name in columns]
    blocks = _checked(wanted.source, fields, filters)
    with (
        closing(registry.create("engines", wanted.engine)) as engine,
        progress.task("recommend", count(wanted.source), unit="sessions", at_most=True) as advance,
    ):
        told = _Told(progress, advance)
        if wanted.target == STANDARD:
            for answered in engine.map(answering, blocks):
                sys.stdout.buffer.write(as_lines(answered.records))
                sys.stdout.buffer.flush()
                told.add(len(answered.records), answered.broken)
        else:
            writer = Writer(format_of(wanted.target), fields, types)
            settings = [opened.fingerprint, fields, dict(wanted.options), registry.core_version()]
            parts = _Parts(wanted.target, writer, store.fingerprint(settings), told)
            parts.fill(lambda missing: engine.map(answering, missing), blocks)
    return told.summary()


def check_paths(wanted: SessionSet) -> None:
    """Raise `InputError` if the files' names cannot be used together."""
    for path in (wanted.source, wanted.target):
        format_of(path)
    if wanted.target == STANDARD:
        return
    if wanted.target.is_dir():
        raise InputError(f"--out {wanted.target}: is a folder; name a file")
    if wanted.source.exists() and wanted.target.exists() and wanted.source.samefile(wanted.target):
        raise InputError(f"--out {wanted.target}: is the file of sessions; name another")


def _checked(source: Path, fields: Sequence[str], filters: Sequence[str]) -> Iterator[list[Row]]:
    """The blocks of a file; of lines of JSON the first is checked to have the fields."""
    others = others_of(fields)
    for number, rows in enumerate(read(source, list(dict.fromkeys([*others, *filters])))):
        if number == 0 and others and format_of(source) == ".jsonl":
            check_objects(fields, source, rows)
        yield rows


class _Told:
    """Counts rows and names broken ones, the first `SAID` one by one."""

    def __init__(self, progress: Progress, advance: Callable[[int], None]) -> None:
        self.progress = progress
        self.advance = advance
        self.rows = self.broken = 0

    def add(self, rows: int, broken: Sequence[Sequence[Any]]) -> None:
        """Rows that are done, and those of them that have no list, each with its number and the reason."""
        for number, text in broken[: max(SAID - self.broken, 0)]:
            self.progress.note(f"row {number}: {text}")
        self.rows += rows
        self.broken += len(broken)
        self.advance(rows)

    def summary(self) -> dict[str, int]:
        """Numbers of rows."""
        if self.broken > SAID:
            self.progress.note(f"and {self.broken - SAID:,} more rows have no list")
        return {"rows": self.rows, "broken": self.broken}


class _Parts:
    """The parts of a file that is being written, in a folder beside it.

    Args:
        target: the file.
        writer: writes parts and the file.
        settings: what lists depend on besides their sessions.
        told: is told of every part.
    """

    def __init__(self, target: Path, writer: Writer, settings: str, told: _Told) -> None:
        self.target = target
        self.writer = writer
        self.settings = settings
        self.told = told
        self.folder = target.with_name(target.name + ".parts")

    def fill(
        self, answer: Callable[[Iterator[list[Row]]], Iterator[Answered]], blocks: Iterator[list[Row]]
    ) -> None:
        """Write the parts that are missing, then the file, and remove the parts."""
        paths: list[Path] = []
        waiting: deque[Path] = deque()

        def missing() -> Iterator[list[Row]]:
            for rows in blocks:
                path = self._path(len(paths), rows)
                paths.append(path)
                if path.exists():
                    self.told.add(len(rows), store.read_json(path.with_suffix(".json")))
                else:
                    waiting.append(path)
                    yield rows

        with folders.locked(self.folder, what="set"):
            for answered in answer(missing()):
                path = waiting.popleft()
                store.write_json(path.with_suffix(".json"), answered.broken)  # first: a part counts as done
                self.writer.part(path, answered.records)
                self.told.add(len(answered.records), answered.broken)
            self.writer.whole(self.target, paths)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int, rows: list[Row]) -> Path:
        name = hashlib.sha256(self.settings.encode() + content(rows)).hexdigest()[:24]
        return self.folder / f"{number:06}-{name}{self.writer.kind}"
