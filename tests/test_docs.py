"""What the pages show is what happens: their commands and examples are run."""

from __future__ import annotations

import doctest
import importlib
import os
import shlex
import shutil
import sys
import tomllib
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner

from llm4sbr import registry
from llm4sbr.cli import cli
from llm4sbr.testing.live_server import LiveServer, live_server

sys.path.insert(0, str(Path(__file__).parent))
from docs_pages import Block, blocks, steps

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
FIRST = DOCS / "getting-started.md"
"""Makes the toy data and the run that other pages go on with."""

SLOW = {"serving.md", "experiments.md", "exporters.md", "python.md"}
"""Pages that export a model or train many."""

STAND_INS = """
import zlib

import torch


class Encoder:
    fingerprint = "letters"
    dim = 64

    def encode(self, texts):
        vectors = torch.zeros(len(texts), self.dim)
        for row, text in enumerate(texts):
            for start in range(len(text) - 2):
                vectors[row, zlib.crc32(text[start : start + 3].encode()) % self.dim] += 1
        return torch.nn.functional.normalize(vectors, dim=1)


class LLM:
    fingerprint = "repeats"
    batch_size = 32
    suggests = {"infer.wording": "natural", "localize.encoder": "embedded"}

    def generate(self, prompts):
        lines = [prompt.splitlines() for prompt in prompts]
        return [some[-2] if len(some) > 1 else some[0].split('"')[1] for some in lines]
"""
"""Under the names of `llm4sbr-embedded`: pages run with these instead of real models."""


class Reader:
    """Runs the blocks of one page in the current folder."""

    def __init__(self) -> None:
        self.globals: dict[str, object] = {"__name__": "__main__"}
        self.server: LiveServer | None = None
        self.stop = None

    def run(self, block: Block) -> None:
        if block.file:
            path = Path(block.file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "pycon":
            self._doctest(block.text)
        elif block.language == "console" and "test" in block.tags:
            for step in steps(block):
                said = self._command(step.command)
                assert agrees(step.output, said), f"$ {step.command}\n{said}"

    def _doctest(self, text: str) -> None:
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        test = doctest.DocTestParser().get_doctest(text, self.globals, "page", None, 0)
        said: list[str] = []
        doctest.DocTestRunner(optionflags=flags).run(test, out=said.append, clear_globs=False)
        self.globals = test.globs
        assert not said, "".join(said)

    def _command(self, command: str) -> str:
        """What a command prints on standard output."""
        given, pipe, behind = command.rpartition(" | ")
        words = shlex.split(behind if pipe else command, comments=True)
        if words[0] == "llm4sbr" and words[-1] == "&":
            self.stop = live_server(Path(words[2]), *words[3:-1])
            self.server = self.stop.__enter__()
            return ""
        if words[0] == "llm4sbr":
            said = CliRunner().invoke(cli, words[1:], input=shlex.split(given)[-1] if pipe else None)
            assert said.exit_code == 0, f"$ {command}\n{said.output}\n{trace(said.exception)}"
            return said.stdout
        if words[0] == "curl":
            return self._curl(words[1:])
        if words[:2] == ["pip", "install"] and words[2] == "-e":
            return install(Path(words[3].partition("[")[0]))
        if words[0] == "pytest":  # run for every kind by test_scaffold
            assert list(Path(words[1]).glob("tests/test_*.py"))
            return ""
        if words[0] == "cat":
            return Path(words[1]).read_text()
        raise AssertionError(f"{command}: a page says it is tested, but it cannot be run here")

    def _curl(self, words: list[str]) -> str:
        assert self.server is not None
        url = urlsplit(next(f"http://{word}" for word in words if word.startswith("localhost")))
        body = words[words.index("-d") + 1].encode() if "-d" in words else None
        answer = self.server.ask(url.path + (f"?{url.query}" if url.query else ""), body)
        assert answer.status == 200, answer
        return answer.body.decode()

    def close(self) -> None:
        if self.stop is not None:
            self.stop.__exit__(None, None, None)


def trace(error: BaseException | None) -> str:
    return "".join(traceback.format_exception(error)[-3:]) if error else ""


def agrees(expected: str, said: str) -> bool:
    """Whether an output has the lines that a page shows; `...` stands for anything."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return not expected.strip() or doctest.OutputChecker().check_output(expected.strip(), said.strip(), flags)


def install(folder: Path) -> str:
    """What `pip install -e` of a scaffolded plugin comes to: a folder on the path, known entry points."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    announce(folder, project["name"], project["entry-points"])
    return ""


def announce(site: Path, package: str, groups: dict[str, dict[str, str]]) -> None:
    info = site / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [
        line
        for group, names in groups.items()
        for line in (f"[{group}]", *(f"{n} = {t}" for n, t in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))
    sys.path.insert(0, str(site.resolve()))
    os.environ["LLM4SBR_PLUGINS"] += f",{package}"
    importlib.invalidate_caches()
    registry._entries.cache_clear()


@pytest.fixture
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, an empty answer cache, one process, and the stand-ins."""
    monkeypatch.setenv("LLM4SBR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LLM4SBR_PLUGINS", "")
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    site = tmp_path / "site"
    site.mkdir()
    (site / "stand_ins.py").write_text(STAND_INS)
    groups = {
        "llm4sbr.llms": {"embedded": "stand_ins:LLM"},
        "llm4sbr.encoders": {"embedded": "stand_ins:Encoder"},
    }
    announce(site, "stand-ins", groups)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    yield work
    registry._entries.cache_clear()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first page's folder is kept for the others; empty until that has run."""
    return tmp_path_factory.mktemp("begun")


def read(page: Path) -> None:
    reader = Reader()
    try:
        for block in blocks(page):
            reader.run(block)
    finally:
        reader.close()


def begin(begun: Path, work: Path) -> None:
    """Put what the first page makes into the current folder."""
    if not any(begun.iterdir()):
        read(FIRST)
        shutil.copytree(work, begun, dirs_exist_ok=True)
    else:
        shutil.copytree(begun, work, dirs_exist_ok=True)


def is_run(page: Path) -> bool:
    return any(block.language == "pycon" or "test" in block.tags for block in blocks(page))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, id=str(page.relative_to(DOCS)), marks=[pytest.mark.slow] if page.name in SLOW else []
        )
        for page in PAGES
        if is_run(page)
    ],
)
def test_what_a_page_shows_is_what_happens(page, begun, surroundings):
    begin(begun, surroundings)
    if page != FIRST:
        read(page)


def test_an_output_that_differs_is_found(surroundings):
    block = Block("console", ("test",), "$ llm4sbr plugins list backbones\n...sr-gmn...\n")
    with pytest.raises(AssertionError, match="plugins list"):
        Reader().run(block)
    Reader().run(block._replace(text=block.text.replace("gmn", "gnn")))
