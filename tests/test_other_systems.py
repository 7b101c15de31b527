"""Without the modules and functions that only POSIX systems have, everything still works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

from llm4sbr import folders
from llm4sbr.testing.toy import toy_log
from llm4sbr.testing.toy_export import toy_export

ELSEWHERE = """
import os, signal, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in {"resource", "fcntl", "pwd", "grp", "termios", "tty", "syslog", "readline", "uvloop"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
for module, names in {
    os: ["forkpty", "killpg", "setsid", "sysconf", "getpgid"],
    signal: ["siginterrupt", "SIGKILL", "SIGHUP", "SIGUSR1", "setitimer", "pthread_kill"],
}.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
"""
"""What Windows lacks and the standard library does not itself use on this system; and uvloop."""


def elsewhere(arguments: list[str], cwd: Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """The command line, run where POSIX's own modules cannot be imported."""
    program = f"{code}\nfrom llm4sbr import cli\ncli.main({arguments!r})"
    path = cwd / "elsewhere.py"
    path.write_text(f"{ELSEWHERE}\nif __name__ == '__main__':\n{indent(program, '    ')}")  # workers read it
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(path)], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["plugins", "list"]])
def test_commands_that_need_no_run(arguments, tmp_path):
    done = elsewhere(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow
def test_the_doctor(tmp_path):
    assert elsewhere(["doctor"], tmp_path).returncode == 0


def test_recommend_from_an_export(tmp_path):
    folder = toy_export(tmp_path / "export")
    done = elsewhere(["recommend", str(folder), "--session", "i03", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"id": 4' in done.stdout


def test_serve_answers_and_ends(tmp_path):
    folder = toy_export(tmp_path / "export")
    ask = """
import threading, time, urllib.request
def ask():
    for _ in range(600):
        time.sleep(0.1)
        try:
            url, data = "http://127.0.0.1:18431/recommend", b'{"session": [3], "k": 1}'
            body = urllib.request.urlopen(urllib.request.Request(url, data=data)).read()
            break
        except OSError:
            pass
    sys.stdout.write(body.decode())
    sys.stdout.flush()
    signal.raise_signal(signal.SIGINT)
threading.Thread(target=ask, daemon=True).start()
"""
    done = elsewhere(["serve", str(folder), "--port", "18431", "--watch", "0"], tmp_path, ask)
    assert done.returncode == 0, done.stderr
    assert '"id":4' in done.stdout


@pytest.mark.slow
def test_training_and_what_comes_after(tmp_path):
    toy_log(tmp_path / "shop", sessions=40)
    settings = ["--llm", "none", "--epochs", "1", "--set", "train.workers=2", "--seeds", "2"]
    arguments = ["run", "run", "--dataset", "csv", "--data", "shop", *settings, "--json"]
    done = elsewhere(arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "MRR@20" in done.stdout
    done = elsewhere(["recommend", "run", "--session", "i03", "-k", "2"], tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_folder_is_not_held_twice_where_locks_exist(tmp_path):
    code = f"""
from pathlib import Path
from llm4sbr import folders
with folders.locked(Path({str(tmp_path / "held")!r}), what="run"):
    sys.stdout.write("held")
    sys.exit(0)
"""
    with folders.locked(tmp_path / "held", what="run"):
        command = [sys.executable, "-c", f"import sys\n{code}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "another llm4sbr process is working on this run" in done.stderr
    assert elsewhere(["--help"], tmp_path, code).stdout == "held"  # no module for it: not held, not refused
