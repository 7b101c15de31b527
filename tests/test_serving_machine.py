"""A serving machine: the wheel with the extra `serve` in a fresh environment, and an exported model."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from llm4sbr.testing.live_server import live_server
from llm4sbr.testing.toy_export import toy_export

ROOT = Path(__file__).parent.parent
MOST = 250 * 10**6
"""Bytes that the environment may have, pip's own aside."""


def run(*command: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment's `bin`; set up as the README has it, from the wheel instead of an index."""
    if not importlib.util.find_spec("hatchling"):
        pytest.skip("hatchling is not installed: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("machine")
    built = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", folder / "env")
    place = folder / "env" / "bin"
    run(place / "python", "-m", "pip", "install", "-q", f"{wheel}[serve]")
    return place


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_environment_is_small_and_has_no_torch(machine):
    found = json.loads(run(machine / "python", "-m", "pip", "list", "--format", "json"))
    names = {one["name"].lower() for one in found}
    assert {"llm4sbr", "onnxruntime", "uvicorn"} <= names
    assert not names & {"torch", "transformers", "polars", "onnx", "onnxscript", "scipy"}
    (packages,) = machine.parent.glob("lib/python*/site-packages")
    own = [
        path
        for path in packages.iterdir()
        if not path.name.startswith(("pip", "setuptools", "pkg_resources"))
    ]
    files = [path for one in own for path in ([one] if one.is_file() else one.rglob("*")) if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    sys.stdout.write(f"{size / 10**6:.0f} MB\n")  # pytest -rP shows it
    assert size < MOST


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_recommends_and_serves(machine, tmp_path, monkeypatch):
    folder = toy_export(tmp_path / "export", predictor=True)
    said = run(machine / "llm4sbr", "recommend", folder, "--session", "i03", "-k", "2", "--json")
    assert [item["id"] for item in json.loads(said)["items"]] == [4, 5]
    assert "After" in run(machine / "llm4sbr", "recommend", folder, "--session", "i03")
    assert "onnxruntime" in run(machine / "llm4sbr", "doctor")
    monkeypatch.setattr(sys, "executable", str(machine / "python"))
    with live_server(folder) as server:
        answer = server.ask("/recommend", {"session": [3, "i07", "red lmp"], "k": 1, "explain": True})
        assert answer.status == 200, answer.body
        assert server.ask("/items?search=lamp").json["items"]
        assert server.ask("/").status == 200
        assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("arguments", [["run", "x"], ["recommend", "x", "--session", "a"], ["export", "x"]])
def test_what_it_cannot_do_is_one_line_with_a_command(machine, arguments, tmp_path):
    done = subprocess.run(
        [str(machine / "llm4sbr"), *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "is not installed: pip install " in line
    assert line.endswith("-py3-none-any.whl[train]'")
    assert not list(tmp_path.iterdir())
