"""Shows progress on standard error: as a bar in a terminal, elsewhere as a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm4sbr.printable import printable

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[..., None]
"""`advance(n=1, note="", total=None)` reports that n more parts are done. A `note` that is not empty is shown
from then on, and a `total` replaces the expected total."""

EVERY = 10.0
"""Minimum seconds between two lines of progress outside a terminal."""


class Progress:
    """Reports the progress of long tasks.

    Args:
        quiet: print nothing.
        console: a rich console; by default one on standard error, created when it is first needed.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.quiet = quiet
        self._console = console

    @property
    def console(self) -> Console:
        """The console that everything is printed to."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, quiet=self.quiet, soft_wrap=not sys.stderr.isatty())
        return self._console

    def note(self, text: str) -> None:
        """Print one line about what was done or decided."""
        if not self.quiet:
            self.console.print(printable(text), markup=False, highlight=False)

    @contextmanager
    def task(
        self, label: str, total: int, *, unit: str = "", parts: int = 1, at_most: bool = False
    ) -> Iterator[Advance]:
        """Show the progress of one task; yields the function that reports it, see `Advance`.

        Args:
            label: name of the task.
            total: number of parts of the work.
            unit: what is counted, in the plural, such as `prompts`.
            parts: number of parts that make up one unit; with 100, parts are hundredths of a unit.
            at_most: the total is an upper bound, until another total is reported.
        """
        state = _State(total, unit, parts, at_most, time.monotonic())
        if self.quiet or total <= 0:
            yield lambda n=1, note="", total=None: None
            return
        yield from self._bar(label, state) if self.console.is_terminal else self._lines(label, state)
        self.note(
            f"{label}: {state.amount(state.done)}{_of(unit)} in {_clock(time.monotonic() - state.started)}"
        )

    def _bar(self, label: str, state: _State) -> Iterator[Advance]:
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(),
            rich.TextColumn("{task.fields[status]}", markup=False),
        )
        with rich.Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(label, total=state.total, status="")

            def advance(n: int = 1, note: str = "", total: int | None = None) -> None:
                state.advance(n, note, total)
                bars.update(task, completed=state.done, total=state.total, status=state.status())

            yield advance

    def _lines(self, label: str, state: _State) -> Iterator[Advance]:
        said = state.started

        def advance(n: int = 1, note: str = "", total: int | None = None) -> None:
            nonlocal said
            state.advance(n, note, total)
            if time.monotonic() - said >= EVERY and state.done < state.total:
                said = time.monotonic()
                self.note(f"{label}: {state.status()}")

        yield advance


@dataclass
class _State:
    """The progress of one task."""

    total: int
    unit: str
    parts: int
    at_most: bool
    started: float
    done: int = 0
    note: str = ""
    first: tuple[int, float] | None = None
    """What was done at the first report, and when. Start-up and what a cache already has are no measure of
    what is to come."""

    def advance(self, n: int, note: str, total: int | None) -> None:
        self.done += n
        if n and self.first is None:
            self.first = self.done, time.monotonic()
        self.note = printable(note) or self.note
        if total is not None:
            self.total, self.at_most = total, False

    def amount(self, number: int) -> str:
        """A number of parts as units, with one decimal unless it is a whole number of units."""
        units = number / self.parts
        return f"{units:,.1f}" if number % self.parts else f"{units:,.0f}"

    def status(self) -> str:
        """Such as `30/100, 2.5 prompts/s, 28.0s left, 3 cached`."""
        part = f"{self.amount(self.done)}/{self.amount(self.total)}"
        return ", ".join(text for text in (part, self._pace(), self.note) if text)

    def _pace(self) -> str:
        """The rate since the first report and the time left by it; nothing before a second report."""
        done, begun = self.first or (self.done, 0.0)
        seconds, done = time.monotonic() - begun, self.done - done
        if not done:
            return ""
        left = _clock(seconds / done * max(self.total - self.done, 0))
        most = "at most " if self.at_most else ""
        return f"{_rate(done / self.parts, seconds, self.unit)}, {most}{left} left"


def _of(unit: str) -> str:
    return f" {unit}" if unit else ""


def _rate(done: float, seconds: float, unit: str) -> str:
    """Units per second; per minute or hour if that number would be below 0.1."""
    rate = done / max(seconds, 1e-9)
    if rate >= 10:
        return f"{rate:,.0f}{_of(unit)}/s"
    spans = {"s": 1, "min": 60, "h": 3600}
    span = next((name for name, length in spans.items() if rate * length >= 0.1), "h")
    return f"{rate * spans[span]:.1f}{_of(unit)}/{span}"


def _clock(seconds: float) -> str:
    if seconds < 59.95:  # a larger value would be rounded to 60.0s
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
