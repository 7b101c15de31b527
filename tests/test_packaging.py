from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm4sbr import registry

ROOT = Path(__file__).parent.parent
PACKAGES = (ROOT / "llm4sbr", ROOT / "export" / "llm4sbr_export")
MODULES = sorted(path for package in PACKAGES for path in package.rglob("*.py"))

LIGHT = (
    "",
    ".api",
    ".cli",
    ".config",
    ".errors",
    ".commands.options",
    ".pipeline",
    ".progress",
    ".protocols",
)
LIGHT += (".registry", ".store", ".doctor", ".report.terminal.stages")
HEAVY = {"torch", "transformers", "polars"}

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}
UNSAFE_CALLS = {"torch.load", "torch.save", "numpy.load", "np.load", "eval", "exec", "os.system"}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(code: str, **environment: str) -> set[str]:
    """Top-level modules that a new process has imported after `code`."""
    code = f"{code}\nimport sys\nsys.stdout.write(' '.join(sys.modules))"
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )
    return {name.partition(".")[0] for name in done.stdout.split()}


# The wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not importlib.util.find_spec("hatchling"):
        pytest.skip("hatchling is not installed: pip install -e '.[dev]'")
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = out.glob("*.whl")
    return found


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if ".dist-info/" not in name}
    files = [(package.parent, path) for package in PACKAGES for path in package.rglob("*") if path.is_file()]
    source = {path.relative_to(top).as_posix() for top, path in files if "__pycache__" not in path.parts}
    assert inside == source
    assert "llm4sbr/py.typed" in inside
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_wheel_works_from_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = f"""
import llm4sbr
from llm4sbr import registry
assert llm4sbr.__file__.startswith({str(tmp_path)!r}), llm4sbr.__file__
assert registry.load("fusers", "gated").__module__ == "llm4sbr.fusion.fusers"
"""
    assert "llm4sbr" in imported(code, PYTHONPATH=str(tmp_path))


# Importing


@pytest.mark.parametrize("module", LIGHT)
def test_importing_loads_nothing_heavy(module: str) -> None:
    assert not imported(f"import llm4sbr{module}") & HEAVY


def test_command_line_starts_without_what_only_commands_need() -> None:
    assert not imported("import llm4sbr.cli") & (HEAVY | {"pydantic", "rich", "numpy"})


@pytest.mark.parametrize(
    "component",
    [c for c in registry.components() if c.package == registry.CORE],
    ids=lambda c: f"{c.kind}/{c.name}",
)
def test_every_entry_point_of_ours_can_be_imported(component: registry.Component) -> None:
    assert callable(registry.load(component.kind, f"{component.package}:{component.name}"))


def test_installed_entry_points_are_those_of_the_sources() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    ours = {
        (f"llm4sbr.{c.kind}", c.name, c.target) for c in registry.components() if c.package == registry.CORE
    }
    assert ours == {
        (group, name, target) for group, entries in declared.items() for name, target in entries.items()
    }


def test_packages_that_error_messages_offer_are_real() -> None:
    projects = [tomllib.loads(path.read_text())["project"] for path in ROOT.glob("plugins/*/pyproject.toml")]
    entries = {project["name"]: project.get("entry-points", {}) for project in projects}
    ours = {
        (group.removeprefix("llm4sbr."), name): package
        for package, groups in entries.items()
        for group, names in groups.items()
        for name in names
    }
    assert ours == registry.OFFERED


def test_pieces_that_plugins_build_backbones_from_are_documented() -> None:
    page = (ROOT / "docs" / "plugins" / "backbones.md").read_text(encoding="utf-8")
    used = {
        f"{node.module}.{alias.name}"
        for path in ROOT.glob("plugins/*/llm4sbr_*/*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llm4sbr.backbones")
        for alias in node.names
    }
    assert used
    assert [name for name in sorted(used) if f":: {name}\n" not in page] == []


# The sources


def test_no_module_is_long() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


def test_every_module_says_what_it_is_for() -> None:
    trees = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    assert [name for name, tree in trees.items() if not ast.get_docstring(tree)] == []


def unsafe(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in UNSAFE_MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (n for n in names if n.partition(".")[0] in UNSAFE_MODULES or n in UNSAFE_CALLS)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in UNSAFE_CALLS:
            yield ast.unparse(node.func)


def test_nothing_in_the_package_executes_what_it_reads() -> None:
    found = {name_of(path): list(unsafe(ast.parse(path.read_text(encoding="utf-8")))) for path in MODULES}
    assert {name: names for name, names in found.items() if names} == {}


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "torch.load('x')", "from torch import load", "eval('1')"],
)
def test_the_check_above_finds_what_it_is_for(source: str) -> None:
    assert list(unsafe(ast.parse(source)))
