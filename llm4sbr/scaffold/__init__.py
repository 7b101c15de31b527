"""Writes a new plugin: a complete package with a working component, as a starting point."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.metadata import packages_distributions
from importlib.resources import files
from pathlib import Path
from string import Template

from packaging.version import Version

from llm4sbr.errors import InputError
from llm4sbr.protocols import PLUGIN_API
from llm4sbr.registry import KINDS, components, core_version
from llm4sbr.store import writing

__all__ = ["new_plugin"]

NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")

FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    ".github/workflows/test.yml": "test.yml.txt",
}
"""File of the package -> template, for every kind; module and tests have one template per kind."""


def new_plugin(name: str, kind: str, folder: Path | None = None) -> list[Path]:
    """Write a package with one component, and return its files.

    Args:
        name: name of the package, such as `my-backbone`; the component has the same name without a leading
            `llm4sbr-`.
        kind: singular or plural, `backbone` or `backbones`.
        folder: where to write it, by default a folder of the package's name; must be new or empty.

    Raises:
        InputError: an invalid or taken name, an unknown kind, or a folder with files in it.
    """
    kind = kind if kind in KINDS else f"{kind}s"
    if kind not in KINDS:
        raise InputError(f"--kind {kind[:-1]}: no such kind; known: {', '.join(k[:-1] for k in KINDS)}")
    if not NAME.fullmatch(name):
        raise InputError(
            f"{name!r}: a plugin's name has small letters, digits and single hyphens: my-{kind[:-1]}"
        )
    module = name.replace("-", "_")
    component = name.removeprefix("llm4sbr-")
    taken = [c for c in components(kind) if c.name == component]
    if taken:
        raise InputError(f"{component!r} is a {kind[:-1]} of {taken[0].package} already; choose another name")
    taken_by = set(packages_distributions().get(module, []))
    if taken_by or module in sys.stdlib_module_names or keyword.iskeyword(module):
        owner = ", ".join(sorted(taken_by)) or "Python"
        raise InputError(
            f"{name!r}: {module!r} is a word or a module of {owner}; choose another name, my-{name}"
        )
    folder = folder or Path(name)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: holds files already; name a new or empty folder")
    values = {
        "name": name,
        "component": component,
        "module": module,
        "Class": "".join(part.capitalize() for part in re.split("[-_]", component)),
        "kind": kind,
        "singular": kind[:-1],
        "version": core_version(),
        "next": _next(core_version()),
        "api": str(PLUGIN_API),
    }
    own = {f"{module}/__init__.py": f"{kind}.py.txt", f"tests/test_{module}.py": f"{kind}_test.py.txt"}
    texts = {target: Template(_template(name)).substitute(values) for target, name in (FILES | own).items()}
    texts[f"{module}/py.typed"] = ""  # type checkers read the annotations
    written = []
    for target, text in texts.items():
        path = folder / target
        with writing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(path)
    return written


def _next(version: str) -> str:
    """The first version that may be incompatible with this one: before 1.0 the next minor version."""
    major, minor, *_ = Version(version).release
    return f"{major + 1}" if major else f"0.{minor + 1}"


def _template(name: str) -> str:
    return (files("llm4sbr.scaffold") / "templates" / name).read_text(encoding="utf-8")
