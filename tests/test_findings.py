"""The scripts of `findings/` keep their form; what they show is outside the checks."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

FINDINGS = Path(__file__).parent.parent / "findings"
SCRIPTS = sorted(FINDINGS.glob("*.sh"))


def test_every_script_has_its_line_in_the_table() -> None:
    rows = re.findall(r"^\| `(.+?\.sh)` \|", (FINDINGS / "README.md").read_text(encoding="utf-8"), re.M)
    assert rows
    assert sorted(rows) == [path.name for path in SCRIPTS]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_stands_alone_and_says_what_it_expects(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
    packages = re.findall(r"^\s*install (.+)$", text, re.M)
    assert packages
    assert all("==" in package for line in packages for package in line.split())  # pinned
    assert "llm4sbr" not in text
    assert re.search(r"^expect ", text, re.M)
