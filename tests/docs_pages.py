"""Reads the documentation's pages as programs: their fenced blocks are what the tests run.

console test   every line that begins with `$ ` is run, on toy data; lines below it are in its output, `...`
               for what varies
console needs=X  cannot be run here, for a reason in `NEEDS`; that options, components and settings exist is
               checked
pycon          is run as a doctest
toml file=X    is a file that the page's commands find, as any language with `file=`
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from llm4sbr.cli import cli
from llm4sbr.commands.options import SETTINGS
from llm4sbr.config import Config, build, flatten, nest, parse_set

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^```([\w+-]+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

GENERATED = re.compile(r"^<!-- generated: .*?^<!-- end of what is generated -->$", re.MULTILINE | re.DOTALL)

KIND_OF = {
    "data.reader": "readers",
    "infer.llm": "llms",
    "engine.name": "engines",
    "infer.controls": "llms",
    "infer.perspectives": "perspectives",
    "localize.encoder": "encoders",
    "localize.localizer": "localizers",
    "train.backbone": "backbones",
    "train.fuser": "fusers",
    "train.baselines": "baselines",
}
"""Setting -> the kind of component that it names."""


NEEDS = {
    "gpu": "an NVIDIA GPU",
    "docker": "a container engine",
    "cluster": "a Kubernetes cluster",
    "processes": "torchrun; tests/test_distributed.py runs it",
    "hub": "a model from a hub",
    "network": "packages from an index, or a server elsewhere",
    "data": "the reader's own data",
    "port": "a port of the machine; tests/test_server_life.py serves on a free one",
    "time": "minutes; a smaller one is run",
}
"""Why a block of a page is not run."""


class Block(NamedTuple):
    """A fenced block."""

    language: str
    tags: tuple[str, ...]
    text: str

    @property
    def needs(self) -> str | None:
        """Why it is not run, if it says so."""
        return next((tag.removeprefix("needs=") for tag in self.tags if tag.startswith("needs=")), None)

    @property
    def file(self) -> str | None:
        """The file that it is, if it is one."""
        return next((tag.removeprefix("file=") for tag in self.tags if tag.startswith("file=")), None)


class Step(NamedTuple):
    """A command and what a page says it prints."""

    command: str
    output: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order, without those that are generated."""
    found = FENCE.findall(GENERATED.sub("", page.read_text(encoding="utf-8")))
    return [Block(language, tuple(tags.split()), text) for language, tags, text in found]


def steps(block: Block) -> list[Step]:
    """The commands of a console block, continued lines as one."""
    found: list[Step] = []
    for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
        if line.startswith("$ "):
            found.append(Step(line[2:], ""))
        elif found:
            found[-1] = found[-1]._replace(output=f"{found[-1].output}{line}\n")
        else:
            raise AssertionError(f"console block begins without a command: {line}")
    return found


def indented(page: Path) -> Iterator[str]:
    """The commands `llm4sbr ...` of a README: lines of indented or fenced code, continued ones as one."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    fenced = "\n".join(FENCE_ANY.findall(text))
    code = [line for line in text.splitlines() if line.startswith("    ")] + fenced.splitlines()
    for line in code:
        command = line.strip().removeprefix("$ ").removeprefix(".venv/bin/")
        if command.startswith("llm4sbr "):
            yield re.split(r"\s{3,}", command)[0]  # what stands behind it explains it


FENCE_ANY = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def known_components() -> set[tuple[str, str]]:
    """Kind and name of all that the packages of this repository offer, installed or not."""
    found = set()
    for path in (ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")):
        groups = tomllib.loads(path.read_text())["project"].get("entry-points", {})
        found |= {(g.removeprefix("llm4sbr."), name) for g, names in groups.items() for name in names}
    return found


def parse(arguments: list[str]) -> list[click.Context]:
    """The contexts of a command line that is parsed and not run; click's error if it cannot be."""
    contexts: list[click.Context] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click.Command, "invoke", lambda self, context: contexts.append(context))
        cli.main(arguments, standalone_mode=False)
    return contexts


def check(command: str, own: set[tuple[str, str]]) -> None:
    """A command of a page must mean something; `own` are components that the page itself makes."""
    for part in re.split(r"\s(?:\||&&|;)\s", command):
        words = shlex.split(part, comments=True)
        while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
            words = words[1:]
        _check_words(words, own)


def _check_words(words: list[str], own: set[tuple[str, str]]) -> None:
    if not words or words == ["&"]:
        return
    program, *rest = words
    if "torchrun" in program or words[:3] == ["python", "-m", "llm4sbr"]:
        program, rest = "llm4sbr", rest[rest.index("llm4sbr") + 1 :]
    if program == "llm4sbr":
        _check_llm4sbr([word for word in rest if word not in ("&", "<", ">")], own)
    elif program == "pip":
        _check_pip(rest)
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(), re.M), f"no target {rest[0]}"
    elif program == "python":
        assert rest[0] == "-m" or (ROOT / rest[0]).exists(), f"no {rest[0]}"
    else:
        assert program in OTHERS, f"{program}: neither run nor checked"


OTHERS = {
    "cat",
    "curl",
    "echo",
    "export",
    "git",
    "mlflow",
    "wandb",
    "cd",
    "pytest",
    "sh",
    "cp",
    "scp",
    "docker",
    "kubectl",
    "printf",
    "nvidia-smi",
    "zcat",
}
"""Programs that are not ours."""


def _check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    ours = {path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml")}
    for word in words[1:]:
        name, _, asked = word.rstrip("]").partition("[")
        if name in (".", "llm4sbr") and asked:
            assert set(asked.split(",")) <= set(extras), f"no extra {asked}"
        elif name.startswith("llm4sbr-"):
            assert name in ours, f"no plugin {name}"
        elif name.startswith("plugins/"):
            assert (ROOT / name).exists(), f"no {name}"


def _check_llm4sbr(arguments: list[str], own: set[tuple[str, str]]) -> None:
    known = known_components() | own
    for context in parse(arguments):
        given = {
            setting.key: value
            for setting in SETTINGS
            if (value := context.params.get(setting.parameter)) is not None
        }
        chosen = flatten(nest(given)) | flatten(parse_set(context.params.get("assignments") or ()))
        _check_settings(chosen, known)
        for name in str(context.params.get("formats") or "").split(","):
            assert not name or ("exporters", name) in known, f"no exporter {name}"


def _check_settings(chosen: dict[str, Any], known: set[tuple[str, str]]) -> None:
    lists = {key for key, value in flatten(Config().model_dump()).items() if isinstance(value, tuple)}
    values: dict[str, Any] = {}
    for key, value in chosen.items():
        values[key] = value.split(",") if key in lists and isinstance(value, str) else value
        for name in values[key] if isinstance(values[key], list | tuple) else [values[key]]:
            if key in KIND_OF:
                kind = KIND_OF[key]
                whole = (kind, name) in known
                assert whole or (kind, str(name).partition(":")[0]) in known, f"no {kind[:-1]} {name}"
    build(nest(values))
