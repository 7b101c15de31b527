"""Progress of long work, on standard error: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[..., None]
"""`advance(n=1, note="")`: n more units are done; the note replaces the one shown."""

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
    def task(self, label: str, total: int, *, unit: str = "") -> Iterator[Advance]:
        """A piece of work of `total` units; yields the function to call when some are done."""
        if self.quiet or total <= 0:
            yield lambda n=1, note="": None
        elif self.console.is_terminal:
            yield from self._bar(label, total, unit)
        else:
            yield from self._lines(label, total, unit)

    def _bar(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        from rich import progress as rich

        columns = (
            rich.TextColumn("{task.description}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TextColumn("{task.fields[rate]}"),
            rich.TimeRemainingColumn(),
            rich.TextColumn("[dim]{task.fields[note]}"),
        )
        started = time.monotonic()
        with rich.Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(label, total=total, rate="", note="")
            done = 0

            def advance(n: int = 1, note: str = "") -> None:
                nonlocal done
                done += n
                rate = _rate(done, time.monotonic() - started, unit)
                bars.update(task, advance=n, rate=rate, note=note or bars.tasks[0].fields["note"])

            yield advance
        self.note(f"{label}: {done:,}{_of(unit)} in {_clock(time.monotonic() - started)}")

    def _lines(self, label: str, total: int, unit: str) -> Iterator[Advance]:
        started = said = time.monotonic()
        done = 0

        def advance(n: int = 1, note: str = "") -> None:
            nonlocal done, said
            done += n
            now = time.monotonic()
            if now - said >= EVERY and done < total:
                said = now
                left = (now - started) / max(done, 1) * (total - done)
                rate = _rate(done, now - started, unit)
                tail = f", {note}" if note else ""
                self.note(f"{label}: {done:,}/{total:,}, {rate}, {_clock(left)} left{tail}")

        yield advance
        self.note(f"{label}: {done:,}{_of(unit)} in {_clock(time.monotonic() - started)}")


def _of(unit: str) -> str:
    return f" {unit}" if unit else ""


def _rate(done: int, seconds: float, unit: str) -> str:
    rate = done / max(seconds, 1e-9)
    return f"{rate:,.0f}{_of(unit)}/s" if rate >= 10 else f"{rate:.1f}{_of(unit)}/s"


def _clock(seconds: float) -> str:
    if seconds < 59.95:  # anything more would be shown as 60.0s
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{rest:02d}s"
