"""Shows progress on standard error: a bar in a terminal, otherwise a line from time to time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[..., None]
"""`advance(n=1, note="", total=None)`: n more parts are done; the note replaces the one shown, the total
the one expected so far."""

EVERY = 10.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Where long work says how far it is.

    Args:
        quiet: say nothing at all.
        console: a rich console on standard error; made when first needed.
    """

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.quiet = quiet
        self._console = console

    @property
    def console(self) -> Console:
        """The console that everything goes to."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, quiet=self.quiet, soft_wrap=not sys.stderr.isatty())
        return self._console

    def note(self, text: str) -> None:
        """One line about what was done or decided."""
        if not self.quiet:
            self.console.print(text, markup=False, highlight=False)

    @contextmanager
    def task(
        self, label: str, total: int, *, unit: str = "", parts: int = 1, at_most: bool = False
    ) -> Iterator[Advance]:
        """A piece of work; yields the function to call when some of it is done.

        Args:
            label: what is being done.
            total: parts of the work.
            unit: what is counted.
            parts: of a unit; 100 counts hundredths.
            at_most: the work may end earlier, as long as no other total is told.
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
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.TextColumn("{task.fields[status]}"),
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
    """How far a task is."""

    total: int
    unit: str
    parts: int
    at_most: bool
    started: float
    done: int = 0
    note: str = ""

    def advance(self, n: int, note: str, total: int | None) -> None:
        self.done += n
        self.note = note or self.note
        if total is not None:
            self.total, self.at_most = total, False

    def amount(self, number: int) -> str:
        """Whole units, or with one decimal where parts of them are counted."""
        units = number / self.parts
        return f"{units:,.1f}" if number % self.parts else f"{units:,.0f}"

    def status(self) -> str:
        """`30/100, 2.5 prompts/s, 28.0s left, 3 cached`."""
        seconds = time.monotonic() - self.started
        left = _clock(seconds / max(self.done, 1) * max(self.total - self.done, 0))
        rate = _rate(self.done / self.parts, seconds, self.unit)
        most = "at most " if self.at_most else ""
        text = f"{self.amount(self.done)}/{self.amount(self.total)}, {rate}, {most}{left} left"
        return f"{text}, {self.note}" if self.note else text


def _of(unit: str) -> str:
    return f" {unit}" if unit else ""


def _rate(done: float, seconds: float, unit: str) -> str:
    """By the second, or by the minute or hour where that is less than a tenth."""
    rate = done / max(seconds, 1e-9)
    if rate >= 10:
        return f"{rate:,.0f}{_of(unit)}/s"
    spans = {"s": 1, "min": 60, "h": 3600}
    span = next((name for name, length in spans.items() if rate * length >= 0.1), "h")
    return f"{rate * spans[span]:.1f}{_of(unit)}/{span}"


def _clock(seconds: float) -> str:
    if seconds < 59.95:  # anything more would be shown as 60.0s
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
