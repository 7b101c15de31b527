"""The command against a server, from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bad_server import Handler, Server

from llm4sbr.asking.cache import AnswerCache
from llm4sbr.testing.toy import toy_log


@pytest.mark.slow
def test_ctrl_c_ends_the_wait_for_a_server_and_keeps_what_it_said(server: Server, tmp_path: Path) -> None:
    def hang(handler: Handler, prompt: str, times: int) -> bool:
        if len(server.seen) > 20:
            time.sleep(60)
        return False

    server.behave = hang
    log, cache = toy_log(tmp_path / "log"), tmp_path / "answers.sqlite"
    command = [sys.executable, "-m", "llm4sbr", "run", str(tmp_path / "run"), "--dataset", "csv"]
    command += ["--data", str(log), "--llm", "openai:m", "--set", "data.min_item_count=1"]
    command += ["--set", f"infer.options.url={server.url}", "--set", "infer.options.concurrency=1"]
    command += ["--set", f"infer.cache={cache}"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        deadline = time.monotonic() + 90
        while len(server.seen) <= 20 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(server.seen) > 20
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=20)
    finally:
        child.kill()
    assert child.returncode == 130, said
    assert said.strip().splitlines()[-1].startswith("interrupted")
    with AnswerCache.open(cache) as answers:
        assert len(answers) == 20  # every answer that came
