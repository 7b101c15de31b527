"""Jobs side by side in processes, with their progress.

Each worker process has a pipe of its own: it gets jobs, and sends what it has to say. A pipe that breaks
tells either end that the other one died, so no worker outlives its parent for longer than its next word.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from llm4sbr.errors import Llm4sbrError, TrainingError

Report = Callable[[int, str], None]
"""`report(n, note)`: n more units are done; the note says how it stands."""

Work = Callable[[Any, Report], Any]
"""Does one job; importable by name, as are its jobs and results."""


def run(
    work: Work,
    jobs: Sequence[Any],
    *,
    workers: int,
    progress: Callable[[int, int, str], None],
    done: Callable[[int, Any], None],
) -> None:
    """Do all jobs, in order, at most `workers` at a time; with one worker in this very process.

    Each worker takes its share of the machine's cores for PyTorch's threads.

    Args:
        work: does one job.
        jobs: what to do.
        workers: processes to use.
        progress: called with a job's index, the units just done, and its note.
        done: called with a job's index and its result.

    Raises:
        Llm4sbrError: what a job raised; the other jobs are stopped.
        RuntimeError: another error of a job in a process of its own, with its traceback as a note.
        TrainingError: a worker process died.
    """
    if min(workers, len(jobs)) <= 1:
        for index, job in enumerate(jobs):
            done(index, work(job, partial(progress, index)))
        return
    pool = _Pool(work, min(workers, len(jobs)))
    try:
        pool.run(jobs, progress, done)
    finally:
        pool.stop()


class _Pool:
    def __init__(self, work: Work, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        threads = max(1, (os.cpu_count() or 1) // workers)
        self.workers: dict[Connection, BaseProcess] = {}
        self.busy: dict[Connection, int] = {}
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work, threads), daemon=True)
            process.start()
            theirs.close()
            self.workers[ours] = process

    def run(
        self, jobs: Sequence[Any], progress: Callable[[int, int, str], None], done: Callable[[int, Any], None]
    ) -> None:
        waiting = list(range(len(jobs)))[::-1]
        for pipe in self.workers:
            self._next(pipe, jobs, waiting)
        while self.busy:
            ready = wait(list(self.busy))
            for pipe in [one for one in self.busy if one in ready]:
                kind, *content = self._receive(pipe)
                if kind == "progress":
                    progress(self.busy[pipe], *content)
                elif kind == "error":
                    raise content[0]
                else:
                    done(self.busy.pop(pipe), content[0])
                    self._next(pipe, jobs, waiting)

    def _next(self, pipe: Connection, jobs: Sequence[Any], waiting: list[int]) -> None:
        if waiting:
            index = waiting.pop()
            with suppress(BrokenPipeError):  # a dead worker is noticed when it is listened to
                pipe.send(jobs[index])
            self.busy[pipe] = index

    def _receive(self, pipe: Connection) -> tuple[Any, ...]:
        try:
            return pipe.recv()  # type: ignore[no-any-return]
        except (EOFError, ConnectionResetError):
            process = self.workers[pipe]
            process.join()
            raise TrainingError(
                f"a worker process died ({_ending(process.exitcode)}); run the same command again, finished "
                "epochs are kept; if memory was short, set train.workers=1"
            ) from None

    def stop(self) -> None:
        for pipe in self.workers:
            pipe.close()
        for process in self.workers.values():
            process.terminate()
        for process in self.workers.values():
            process.join()


def _ending(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"


def _portable(error: Exception) -> Exception:
    """The error as one that passes through a pipe, with its traceback as a note."""
    told = RuntimeError(f"{type(error).__name__}: {error}")
    told.add_note("".join(traceback.format_exception(error)))
    return told


def _serve(pipe: Connection, work: Work, threads: int) -> None:
    """Life of a worker: Ctrl-C is the parent's to handle, and a broken pipe is the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import torch

    torch.set_num_threads(threads)

    def report(n: int, note: str) -> None:
        pipe.send(("progress", n, note))

    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            job = pipe.recv()
            try:
                answer: tuple[Any, ...] = ("done", work(job, report))
            except Llm4sbrError as error:
                answer = ("error", error)
            except Exception as error:  # a fault of ours or of a plugin's; the parent says it in one line
                answer = ("error", _portable(error))
            pipe.send(answer)
