"""What is published: the sources whole, the plugins typed and bound, the same version everywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(ROOT.glob("plugins/*/pyproject.toml"))


def project_of(path: Path) -> dict:
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"]


VERSION = project_of(ROOT / "pyproject.toml")["version"]


def workflow(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PLUGINS, ids=lambda path: path.parent.name)
def test_plugins_are_typed_and_bound_to_the_versions_they_are_for(path: Path) -> None:
    project = project_of(path)
    (needed,) = [one for one in map(Requirement, project["dependencies"]) if one.name == "llm4sbr"]
    major, minor = map(int, VERSION.split(".")[:2])
    assert needed.specifier.contains(VERSION)
    assert not needed.specifier.contains(f"{major}.{minor + 1}.0")
    packages = tomllib.loads(path.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert all((path.parent / package / "py.typed").exists() for package in packages)
    assert {target.split(":")[0].split(".")[0] for target in targets(project)} <= set(packages)


def targets(project: dict) -> list[str]:
    """Where the entry points and commands of a project lead."""
    groups = [*project.get("entry-points", {}).values(), project.get("scripts", {})]
    return [target for group in groups for target in group.values()]


@pytest.mark.parametrize("path", [ROOT / "pyproject.toml", *PLUGINS], ids=lambda path: path.parent.name)
def test_every_project_says_what_it_is(path: Path) -> None:
    project = project_of(path)
    fields = {"authors", "classifiers", "description", "keywords", "license", "readme", "requires-python"}
    assert fields <= set(project)
    assert (path.parent / project["readme"]).exists()
    assert "Typing :: Typed" in project["classifiers"]


def test_one_version_everywhere() -> None:
    released = re.findall(r"^## \[(.+?)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert released[0] == (VERSION, cited["date-released"])
    assert cited["version"] == VERSION
    assert cited["license"] == project_of(ROOT / "pyproject.toml")["license"]


def test_checks_run_on_the_pythons_that_are_promised() -> None:
    matrix = workflow("check.yml")["jobs"]["everyday"]["strategy"]["matrix"]
    promised = re.findall(r"Python :: (3\.\d+)", " ".join(project_of(ROOT / "pyproject.toml")["classifiers"]))
    assert matrix["python"] == promised
    assert len(matrix["os"]) == 2


def test_workflows_ask_make_for_what_it_has() -> None:
    text = "".join(path.read_text() for path in (ROOT / ".github" / "workflows").glob("*.yml"))
    asked = set(re.findall(r"\bmake ([a-z-]+)", text))
    assert asked
    assert asked <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def test_nothing_is_published_that_was_not_checked() -> None:
    jobs = workflow("release.yml")["jobs"]
    assert jobs["check"]["uses"] == "./.github/workflows/check.yml"
    assert set(jobs["publish"]["needs"]) == {"check", "build"}
    assert jobs["publish"]["permissions"] == {
        "id-token": "write"
    }  # of all jobs the only one that may publish
    assert all("permissions" not in job for name, job in jobs.items() if name != "publish")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_source_distribution_passes_its_own_tests(tmp_path: Path) -> None:
    """Those that read other files of the tree, and the plugins'; all others are collected, so they import."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    there = tmp_path / archive.name.removesuffix(".tar.gz")
    places = [there, there / "export", *(there / path.parent.relative_to(ROOT) for path in PLUGINS)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    chosen = ["tests/test_packaging.py", "tests/test_release.py", "tests/test_benchmark_tables.py"]
    chosen += ["plugins/llm4sbr-perspectives", "plugins/llm4sbr-vllm"]
    for arguments in (["--collect-only"], ["-m", "not slow", *chosen]):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
        done = subprocess.run(
            command, cwd=there, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:]
    origin = "import llm4sbr, llm4sbr_vllm; print(llm4sbr.__file__, llm4sbr_vllm.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", origin],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.count(str(there)) == 2
