"""A disk that fills while an LLM is asked: one line, and a restart asks only what is missing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llm4sbr.testing.toy_run import toy_run

CHILD = """
import json, subprocess, sys
from pathlib import Path
from llm4sbr.config import build
from llm4sbr.errors import StoreError
from llm4sbr.asking.cache import AnswerCache
from llm4sbr.progress import Progress
from llm4sbr.stages.infer import infer

run, disk, log = map(Path, sys.argv[1:])
config = build({"infer": {"llm": "talker", "options": {"log": str(log)}, "cache": disk / "answers.sqlite"}})
(out := disk / "out").mkdir()
found = {}
try:
    infer(run, out, config, Progress(quiet=True))
except StoreError as error:
    found["error"] = str(error)
found["asked"] = len(log.read_text().split())
subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)  # somebody made room
with AnswerCache.open(disk / "answers.sqlite") as cache:
    found["kept"] = len(cache)
infer(run, out, config, Progress(quiet=True))
found["asked at last"] = log.read_text().split()
with AnswerCache.open(disk / "answers.sqlite") as cache:
    found["kept at last"] = len(cache)
print(json.dumps(found))
"""

TALKER = '''
import hashlib

class Talker:
    """Says a lot, differently to each prompt."""

    fingerprint, batch_size = "talker", 4

    def __init__(self, *, log):
        self.log = log

    def generate(self, prompts):
        with open(self.log, "a") as stream:
            stream.write("".join(hashlib.sha256(p.encode()).hexdigest() + "\\\\n" for p in prompts))
        return [hashlib.sha256(p.encode()).hexdigest() * 30 for p in prompts]
'''


@pytest.mark.slow
def test_a_disk_that_fills_while_asking(install, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=600k none {disk}"
    if not unshare or subprocess.run([unshare, "-rm", "sh", "-c", mount], check=False).returncode:
        pytest.skip("a small disk needs a mount namespace of one's own")
    install("talker-llm", {"llms": {"talker": "talker:Talker"}}, talker=TALKER.replace("\\\\", "\\"))
    run = toy_run(tmp_path / "run", sources=())
    (tmp_path / "child.py").write_text(CHILD)
    child = f"{mount} && exec {sys.executable} {tmp_path / 'child.py'} {run} {disk} {tmp_path / 'log'}"
    done = subprocess.run([unshare, "-rm", "sh", "-c", child], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert "answers.sqlite: no space left for the answer cache; free some and run again" in found["error"]
    assert 0 < found["kept"] < found["kept at last"]
    assert found["asked"] - found["kept"] <= 4  # the batch in flight
    asked = found["asked at last"]
    assert len(set(asked)) == found["kept at last"]
    assert len(asked) - len(set(asked)) <= 4
