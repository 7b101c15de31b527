"""Processes that measure: fresh, started one by one, and asked in turns over their standard input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any


class Child:
    """A script started again as `SCRIPT --child TASK`, which answers every line with a line, both JSON.

    Args:
        script: path of the script; its `main` calls `answer_for`.
        task: what the child is for.
        threads: set for every library that would otherwise take all cores.
        python: what runs the script, if not the Python that runs this one.

    Attributes:
        ready: what the child said once it had started.
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
        """What the child answers; `SystemExit` if it died."""
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
    """Be the child: say what is ready, then answer questions until there are no more."""
    print(json.dumps(ready), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(**json.loads(line))), flush=True)
