"""Options of `llm4sbr serve` that no server can obey are refused with one line."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llm4sbr.testing.toy_export import toy_export


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--host", "nowhere.invalid", "error: nowhere.invalid:0: "),
        ("--host", "", "Invalid value for '--host'"),  # would be every address that the machine has
        ("--name", "a/b", "Invalid value for '--name'"),
        ("--timeout", "nan", "'nan' is not a valid number"),
        ("--max-body", "inf", "'inf' is not a valid number"),
    ],
)
def test_settings_that_cannot_be(tmp_path, option, value, message):
    command = [sys.executable, "-m", "llm4sbr", "serve", str(toy_export(tmp_path)), "--port", "0"]
    done = subprocess.run([*command, option, value], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert message in line
    assert "Unknown error" not in line
    assert "while attempting" not in line
