from __future__ import annotations

import doctest
import importlib
import inspect
import json
import os
import pydoc
import re
import shlex
import shutil
import sys
import tomllib
import traceback
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import click
import pytest
from click.testing import CliRunner

import llm4sbr
from llm4sbr import config, registry
from llm4sbr.cli import cli
from llm4sbr.registry import KINDS
from llm4sbr.testing.live_server import LiveServer, live_server

sys.path.insert(0, str(Path(__file__).parent))
from docs_pages import FENCE, NEEDS, Block, Step, blocks, check, indented, parse, steps

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
READMES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "export/README.md")
]
READMES += sorted(ROOT.glob("plugins/*/README.md"))
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_command_of_a_page_exists(page):
    own = set()
    for block in blocks(page):
        if block.language in ("toml", "json") and "fragment" not in block.tags:
            {"toml": tomllib, "json": json}[block.language].loads(block.text)
        for step in steps(block) if block.language == "console" else []:
            check(step.command, own)
            words = shlex.split(step.command)
            if words[:3] == ["llm4sbr", "plugins", "new"]:
                own.add((f"{words[words.index('--kind') + 1]}s", words[3]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_a_block_of_commands_is_run_or_says_why_not(page):
    for block in blocks(page):
        if block.language in ("sh", "bash", "shell"):
            raise AssertionError(f"commands are `console` blocks: {block.text}")
        if block.language == "console":
            assert ("test" in block.tags) != (block.needs in NEEDS), f"neither run nor excused: {block.text}"


def test_most_commands_are_run():
    every = [block for page in PAGES for block in blocks(page) if block.language == "console"]
    run = sum(len(steps(block)) for block in every if "test" in block.tags)
    assert run > sum(len(steps(block)) for block in every) / 2


@pytest.mark.parametrize("page", READMES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_readme_exists(page):
    for command in indented(page):
        check(command, set())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_names_in_running_text_exist(page):
    for name in re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text())):
        assert means_something(name), f"{page.name}: `{name}` is nothing"


def means_something(name: str) -> bool:
    """Whether an option, a setting, a dotted name or a path of ours exists; other texts may be anything."""
    if name.startswith("--"):
        return any(name.split()[0].partition("=")[0] in options(command) for command in commands(cli))
    if re.fullmatch(r"(data|infer|localize|train|evaluate|engine)\.\w+( = .*|=.*)?", name):
        return re.split(r" ?=", name)[0] in config.flatten(config.Config().model_dump())
    if re.fullmatch(r"llm4sbr(\.\w+)+", name):
        return pydoc.locate(name) is not None
    if re.fullmatch(r"(llm4sbr|docs|tests|benchmarks|export|plugins)/[\w/-]+\.\w+", name):
        return (ROOT / name).exists()
    return True


def commands(command: click.Command) -> Iterator[click.Command]:
    yield command
    for below in getattr(command, "commands", {}).values():
        yield from commands(below)


def options(command: click.Command) -> set[str]:
    return {flag for parameter in command.params for flag in parameter.opts} | {"--help", "--nproc-per-node"}


@pytest.mark.parametrize(
    "name", ["--bakbone sr-gnn", "train.width", "llm4sbr.runn", "benchmarks/nothing.py", "train.dimm = 3"]
)
def test_a_name_that_is_nothing_is_found(name):
    assert not means_something(name)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("llm4sbr run runs/x --bakbone sr-gnn", "--bakbone"),
        ("llm4sbr run runs/x --backbone sr-gmn", "no backbone sr-gmn"),
        ("llm4sbr run runs/x --set train.width=3", "train.width"),
        ("llm4sbr experiment table9 runs/x", "table9"),
        ("torchrun --nproc-per-node 2 -m llm4sbr trian runs/x", "trian"),
        ("pip install 'llm4sbr[everything]'", "no extra everything"),
        ("make coffee", "no target coffee"),
        ("rm -rf /", "neither run nor checked"),
    ],
)
def test_a_command_that_does_not_exist_is_found(command, message):
    with pytest.raises(Exception, match=re.escape(message)):
        check(command, set())


def test_an_output_that_differs_is_found(surroundings):
    block = Block("console", ("test",), "$ llm4sbr plugins list backbones\n...sr-gmn...\n")
    with pytest.raises(AssertionError, match="plugins list"):
        Reader().run(block)
    Reader().run(block._replace(text=block.text.replace("gmn", "gnn")))


def test_every_kind_has_a_page_with_its_example():
    for kind in KINDS:
        text = (DOCS / "plugins" / f"{kind}.md").read_text()
        assert f"<!-- generated: template {kind}.py.txt -->" in text
        assert f"llm4sbr plugins new my-{kind[:-1]} --kind {kind[:-1]}" in text


def test_generated_parts_have_every_command_and_setting():
    sys.path.insert(0, str(DOCS))
    try:
        import generate
    finally:
        sys.path.remove(str(DOCS))
    commands, settings = generate.commands(), generate.settings()
    for name in ("run", "infer", "answers import", "plugins new", "serve"):
        assert f"## llm4sbr {name}\n" in commands
    assert "`--llm-budget AMOUNT`" in commands
    flat = config.flatten(config.Config().model_dump())
    for key in flat:
        assert f"| `{key}` |" in settings
    empty = [line for line in settings.splitlines() if line.startswith("| `") and line.endswith("|  |")]
    assert not empty, "settings without a docstring"
    for page in PAGES:
        assert "<!-- generated" not in generate.fill(page.read_text())


def test_public_names_are_typed_documented_and_on_the_page():
    text = (DOCS / "python.md").read_text()
    for name in llm4sbr.__all__:
        found = getattr(llm4sbr, name)
        assert f"`llm4sbr.{name}`" in text or f"autofunction:: llm4sbr.{name}" in text
        if inspect.isroutine(found):
            assert inspect.getdoc(found)
            signature = inspect.signature(found)
            assert signature.return_annotation is not inspect.Signature.empty
            assert all(p.annotation is not p.empty for p in signature.parameters.values())
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = llm4sbr.nothing


def test_a_command_is_parsed_and_not_run(tmp_path):
    contexts = parse(["run", str(tmp_path / "x"), "--epochs", "3"])
    assert contexts[-1].params["train__epochs"] == 3
    assert not (tmp_path / "x").exists()


def test_steps_of_a_block():
    block = Block("console", (), "$ llm4sbr run x \\\n    --epochs 1\na\n$ cat y\n")
    assert steps(block) == [Step("llm4sbr run x  --epochs 1", "a\n"), Step("cat y", "")]
