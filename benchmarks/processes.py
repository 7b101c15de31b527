"""Fresh child processes for measurements, which get requests on standard input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any


class Child:
    """A script started as `SCRIPT --child TASK`, which answers every line of JSON with a line of JSON.

    Args:
        script: path of the script; its `main` calls `answer_for`.
        task: the child's task.
        threads: number of threads, for every library that would otherwise use all cores.
        python: the Python interpreter, by default this one.

    Attributes:
        ready: the child's first message.
    """

    def __init__(
        self, script: str, task: Mapping[str, Any], *, threads: int, python: str = sys.executable
    ) -> None:
        self.task = task
        self.process = subprocess.Popen(
            [python, script, "--child", json.dumps(task)],
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ready: dict[str, Any] = self._receive()

    def __enter__(self) -> Child:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        if self.process.returncode is None:
            self.process.communicate()

    def ask(self, **question: Any) -> dict[str, Any]:
        """The child's answer; raises `SystemExit` if it died."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return self._receive()

    def _receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.communicate()
            raise SystemExit(f"{dict(self.task)}: the measuring process ended with {self.process.returncode}")
        found: dict[str, Any] = json.loads(line)
        return found


def answer_for(ready: Mapping[str, Any], answer: Callable[..., dict[str, Any]]) -> None:
    """Run as the child: send the first message, then answer requests until input ends."""
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)
