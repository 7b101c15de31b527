"""The pages and READMEs as they are written: commands, names and generated parts; nothing of them is run."""

from __future__ import annotations

import inspect
import json
import pydoc
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import llm4sbr
from llm4sbr import config
from llm4sbr.cli import cli
from llm4sbr.registry import KINDS

sys.path.insert(0, str(Path(__file__).parent))
from docs_pages import FENCE, GENERATED, NEEDS, Block, Step, blocks, check, indented, parse, steps

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
READMES = [
    ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "export/README.md")
]
READMES += sorted(ROOT.glob("plugins/*/README.md"))


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
    for name in re.findall(r"`([^`\n]+)`", FENCE.sub("", GENERATED.sub("", page.read_text()))):
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
    flags = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    return flags | {"--help", "--nproc-per-node"}


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
        text = page.read_text(encoding="utf-8")
        assert generate.fill(text) == text, f"{page}: not current; python docs/generate.py"
    marked = "a\n\n<!-- generated: protocol paper -->\n\nb\n"
    filled = generate.fill(marked)
    assert "| `train.fuser` | `gated` |" in filled
    assert filled == generate.fill(filled)
    assert filled.endswith("\n\nb\n")


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


@pytest.mark.parametrize("page", [*PAGES, *READMES], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for path, heading in re.findall(
        r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text(encoding="utf-8")
    ):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{path} is nowhere"
        assert not heading or heading in anchors(target), f"{path} has no heading {heading}"


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_extra_is_in_the_table():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| (`.*`) \|", (DOCS / "getting-started.md").read_text(), re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert extras.keys() - {"http"} <= told, "http is a part of others"


def test_steps_of_a_block():
    block = Block("console", (), "$ llm4sbr run x \\\n    --epochs 1\na\n$ cat y\n")
    assert steps(block) == [Step("llm4sbr run x  --epochs 1", "a\n"), Step("cat y", "")]
