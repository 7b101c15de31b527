"""Runs jobs in parallel processes and reports their progress.

Each worker process has its own pipe: it receives jobs and sends progress and results. A broken pipe tells
either side that the other died, so a worker ends soon after its parent.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from llm4sbr.errors import Llm4sbrError, TrainingError

Report = Callable[[int, str], None]
"""`report(n, note)`: n more units are done, with a status text."""

Work = Callable[[Any, Report], Any]
"""Function for one job; it, its jobs and its results must be picklable by name."""


GUARD = 'put what uses llm4sbr under: if __name__ == "__main__":'
"""What a Python program needs, since worker processes import it again."""


def check_not_imported() -> None:
    """Refuse to work in a worker process that is still importing the user's program again."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise TrainingError(f"a worker process imports this program again, and reached llm4sbr: {GUARD}")


def run(
    work: Work,
    jobs: Sequence[Any],
    *,
    workers: int,
    progress: Callable[[int, int, str], None],
    done: Callable[[int, Any], None],
    fresh: bool = False,
) -> None:
    """Run all jobs, in order, at most `workers` at a time; with one worker in this process.

    The workers divide the machine's cores among them for PyTorch's threads.

    Args:
        work: runs one job.
        jobs: the jobs.
        workers: number of processes.
        progress: called with a job's index, the number of units just done, and its status text.
        done: called with a job's index and its result.
        fresh: run one job after the other, each in a new process, as when memory is measured.

    Raises:
        Llm4sbrError: raised by a job; the other jobs are stopped.
        RuntimeError: any other error of a job in a worker process, with its traceback as a note.
        TrainingError: a worker process died.
    """
    if fresh:
        for index, job in enumerate(jobs):
            _side_by_side(work, {index: job}, 1, progress, done)
    elif min(workers, len(jobs)) <= 1:
        for index, job in enumerate(jobs):
            done(index, work(job, partial(progress, index)))
    else:
        _side_by_side(work, dict(enumerate(jobs)), min(workers, len(jobs)), progress, done)


def _side_by_side(
    work: Work,
    jobs: Mapping[int, Any],
    workers: int,
    progress: Callable[[int, int, str], None],
    done: Callable[[int, Any], None],
) -> None:
    """Run jobs by index in so many processes."""
    pool = _Pool(work, workers)
    try:
        pool.run(jobs, progress, done)
    finally:
        pool.stop()


class _Pool:
    def __init__(self, work: Work, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
        self.workers: dict[Connection, BaseProcess] = {}
        self.busy: dict[Connection, int] = {}
        self.heard: set[Connection] = set()
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work, threads), daemon=True)
            process.start()
            theirs.close()
            self.workers[ours] = process

    def run(
        self,
        jobs: Mapping[int, Any],
        progress: Callable[[int, int, str], None],
        done: Callable[[int, Any], None],
    ) -> None:
        waiting = list(jobs)[::-1]
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

    def _next(self, pipe: Connection, jobs: Mapping[int, Any], waiting: list[int]) -> None:
        if waiting:
            index = waiting.pop()
            with suppress(BrokenPipeError):  # a dead worker is noticed when its pipe is read
                pipe.send(jobs[index])
            self.busy[pipe] = index

    def _receive(self, pipe: Connection) -> tuple[Any, ...]:
        try:
            message: tuple[Any, ...] = pipe.recv()
            self.heard.add(pipe)
            return message
        except (EOFError, ConnectionResetError):
            process = self.workers[pipe]
            process.join()
            if process.exitcode == 1 and pipe not in self.heard:
                raise TrainingError(
                    f"a worker process ended while it imported this program: {GUARD}"
                ) from None
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
    """The error in a form that can be sent through a pipe, with its traceback as a note."""
    reported = RuntimeError(f"{type(error).__name__}: {error}")
    reported.add_note("".join(traceback.format_exception(error)))
    return reported


def _serve(pipe: Connection, work: Work, threads: int | None) -> None:
    """Main loop of a worker: Ctrl-C is left to the parent, and a broken pipe ends the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if threads is not None:
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
            except Exception as error:  # a bug of ours or of a plugin; the parent reports it in one line
                answer = ("error", _portable(error))
            pipe.send(answer)
