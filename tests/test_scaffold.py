from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from llm4sbr import registry
from llm4sbr.cli import cli
from llm4sbr.errors import InputError, RegistryError
from llm4sbr.protocols import PLUGIN_API
from llm4sbr.registry import KINDS
from llm4sbr.scaffold import new_plugin


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_whole_distribution(tmp_path, kind):
    files = new_plugin(f"my-{kind[:-1]}", kind[:-1], tmp_path / "new")
    names = {str(path.relative_to(tmp_path / "new")) for path in files}
    module = f"my_{kind[:-1]}"
    assert names == {
        "pyproject.toml", "README.md", ".github/workflows/test.yml",
        f"{module}/__init__.py", f"{module}/py.typed", f"tests/test_{module}.py",
    }  # fmt: skip
    project = tomllib.loads((tmp_path / "new" / "pyproject.toml").read_text())["project"]
    (target,) = project["entry-points"][f"llm4sbr.{kind}"].values()
    tree = ast.parse((tmp_path / "new" / module / "__init__.py").read_text())
    assert target.split(":")[1] in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    assert not any("$" in path.read_text() for path in files)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_installs_passes_its_tests_and_is_listed(tmp_path, kind):
    folder, site = tmp_path / "new", tmp_path / "site"
    new_plugin(f"my-{kind[:-1]}", kind, folder)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(site), str(folder)], check=True, capture_output=True)
    assert (site / f"my_{kind[:-1]}" / "py.typed").exists()
    there = os.environ | {"PYTHONPATH": str(site)}
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    found = subprocess.run(tests, env=there, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert "passed" in found.stdout
    listed = [sys.executable, "-m", "llm4sbr", "plugins", "list", kind]
    said = subprocess.run(listed, env=there, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert f"my-{kind[:-1]}" in said


@pytest.mark.slow
def test_a_strict_type_checker_finds_nothing(tmp_path):
    """The package says that it is typed (`py.typed`), so its annotations must be whole."""
    pytest.importorskip("mypy")
    for kind in KINDS:
        new_plugin(f"my-{kind[:-1]}", kind, tmp_path / kind)
    modules = [str(path) for path in tmp_path.glob("*/my_*/__init__.py")]
    assert len(modules) == len(KINDS)
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", *modules]
    there = os.environ | {"MYPYPATH": os.pathsep.join(str(tmp_path / kind) for kind in KINDS)}
    said = subprocess.run(command, env=there, cwd=tmp_path, capture_output=True, text=True).stdout
    assert "Success: no issues found" in said, said


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("My_Backbone", "backbone", "small letters"),
        ("../evil", "backbone", "small letters"),
        ("sr-gnn", "backbone", "is a backbone of llm4sbr already"),
        ("llm4sbr-sr-gnn", "backbones", "is a backbone of llm4sbr already"),
        ("json", "llm", "'json' is a word or a module of Python; choose another name, my-json"),
        ("lambda", "llm", "of Python"),
        ("click", "llm", "a module of click"),
        ("mine", "spaceship", "no such kind; known: reader"),
    ],
)
def test_wrong_names_are_one_line(tmp_path, name, kind, message):
    with pytest.raises(InputError, match=message) as caught:
        new_plugin(name, kind, tmp_path / "new")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="holds files already"):
        new_plugin("my-llm", "llm", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_the_command_says_what_to_do_next(tmp_path):
    found = CliRunner().invoke(
        cli, ["plugins", "new", "my-llm", "--kind", "llm", "--folder", str(tmp_path / "x")]
    )
    assert found.exit_code == 0, found.output
    assert "pip install -e" in found.output.splitlines()[-1]
    assert Path(tmp_path / "x" / "my_llm" / "__init__.py").exists()


@pytest.mark.parametrize(
    ("api", "mend"),
    [
        (PLUGIN_API + 1, "then pip install .*"),  # of llm4sbr itself, which was installed from its sources
        (0, "pip install --upgrade old-llm"),
        ("x", "pip install --upgrade old-llm"),
    ],
)
def test_a_plugin_for_other_protocols_is_one_line(install, api, mend):
    module = f"old_llm_{api}"  # modules stay imported between tests
    install(
        "old-llm", {"llms": {"old": f"{module}:Old"}}, **{module: f"class Old:\n    plugin_api = {api!r}\n"}
    )
    with pytest.raises(RegistryError, match=f"{mend}$") as caught:
        registry.load("llms", "old")
    assert f"written for version {api!r}" in str(caught.value)


def test_a_plugin_that_states_this_version_is_loaded(install):
    install(
        "new-llm", {"llms": {"new": "new_llm:New"}}, new_llm=f"class New:\n    plugin_api = {PLUGIN_API}\n"
    )
    assert registry.load("llms", "new").__name__ == "New"
