"""Every hint of `pip install` fits the way in which this copy was installed."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from llm4sbr import cli, registry
from llm4sbr.system import installation

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = [*ROOT.glob("llm4sbr/**/*.py"), *ROOT.glob("export/**/*.py")]
SOURCES += ROOT.glob("plugins/*/llm4sbr_*/*.py")

FROM_AN_INDEX = {
    "llm4sbr/doctor.py": 4,  # packages that llm4sbr or a plugin requires by name
    "llm4sbr/fusion/saved.py": 1,  # a package that a run was trained with and that is not ours
    "llm4sbr/frames.py": 1,  # polars or pandas
    "llm4sbr/packing/hub.py": 1,  # huggingface_hub
    "llm4sbr/commands/plugins.py": 1,  # the folder that the command has just made
    "plugins/llm4sbr-vllm/llm4sbr_vllm/__init__.py": 1,
    "plugins/llm4sbr-embedded/llm4sbr_embedded/__init__.py": 1,
    "export/llm4sbr_export/triton_client.py": 1,
}
"""Texts that advise `pip install` themselves: what they name is on every index, or on this machine."""


@pytest.fixture
def copy(install, tmp_path, monkeypatch):
    """`copy(record)`: a package `sbr-copy` with one extra, installed as `direct_url.json` says."""

    def make(record: dict | None) -> None:
        site = install("sbr-copy", {})
        info = site / "sbr_copy-1.0.dist-info"
        with (info / "METADATA").open("a") as stream:
            stream.write('Provides-Extra: more\nRequires-Dist: absent-thing>=2; extra == "more"\n')
        if record:
            (info / "direct_url.json").write_text(json.dumps(record))

    return make


def test_a_clone_is_installed_again_from_its_folder(copy, tmp_path):
    folder = tmp_path / "a clone"
    folder.mkdir()
    copy({"url": folder.as_uri(), "dir_info": {"editable": True}})
    assert installation.command("more", package="sbr-copy") == f"pip install -e '{folder}[more]'"


def test_sources_that_were_not_installed_editably_stay_so(copy, tmp_path):
    copy({"url": tmp_path.as_uri(), "dir_info": {}})
    assert shlex.split(installation.command("more", package="sbr-copy"))[2:] == [f"{tmp_path}[more]"]


def test_a_wheel_that_is_still_there_is_named(copy, tmp_path):
    wheel = tmp_path / "sbr_copy-1.0-py3-none-any.whl"
    wheel.touch()
    copy({"url": wheel.as_uri(), "archive_info": {}})
    assert shlex.split(installation.command("more", package="sbr-copy"))[2:] == [f"{wheel}[more]"]


@pytest.mark.parametrize(
    "url", ["file:///no/such/sbr_copy-1.0-py3-none-any.whl", "https://host.invalid/a.whl"]
)
def test_where_the_wheel_is_gone_the_packages_of_the_extra_are_named(copy, url):
    copy({"url": url, "archive_info": {}})
    assert installation.command("more", package="sbr-copy") == "pip install 'absent-thing>=2'"


def test_a_copy_from_an_index_is_named_by_its_name(copy):
    copy(None)
    assert installation.command("more", package="sbr-copy") == "pip install 'sbr-copy[more]'"


@pytest.mark.parametrize("package", sorted(set(registry.OFFERED.values())))
def test_plugins_of_a_clone_are_installed_from_its_folder(package):
    (place,) = shlex.split(installation.plugin_command(package))[3:]
    assert (Path(place) / "pyproject.toml").exists()


def test_plugins_of_a_wheel_stand_beside_it_or_in_the_sources(monkeypatch, tmp_path):
    core = tmp_path / "llm4sbr-0.1.0-py3-none-any.whl"
    monkeypatch.setattr(installation, "origin", lambda package="llm4sbr": installation.Origin("wheel", core))
    assert "in a copy of llm4sbr's sources" in installation.plugin_command("llm4sbr-ray")
    beside = tmp_path / "llm4sbr_ray-0.1.0-py3-none-any.whl"
    beside.touch()
    assert installation.plugin_command("llm4sbr-ray") == f"pip install {beside}"


# What the rest of the package says


def test_extras_that_are_advised_exist():
    extras = set(PROJECT["optional-dependencies"])
    calls = [
        node
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).removeprefix("installation.") in ("command", "not_installed", "require")
    ]
    named = [one.value for call in calls for one in call.args[-1:] if isinstance(one, ast.Constant)]
    assert {"train", "serve", "onnx", "tensorrt", "rtx", "gguf"} <= set(named)
    assert set(named) - extras == {"EXTRA"}  # what doctor leaves to the reader
    assert set(installation.ADVISED) <= extras


def test_no_other_module_says_pip_install_by_itself():
    said = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        found = sum(isinstance(text, str) and "pip install" in text for text in texts)
        if found and path.name != "installation.py":
            said[path.relative_to(ROOT).as_posix()] = found
    assert said == FROM_AN_INDEX


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("torch.nn", "train"),
        ("transformers", "train"),
        ("polars", "train"),
        ("jinja2", "train"),
        ("uvicorn", "serve"),
        ("prometheus_client", "serve"),
        ("onnxruntime", "serve"),
        ("onnxscript", "onnx"),
        ("accelerate", "gguf"),
        ("json.absent", None),
    ],
)
def test_every_module_of_an_extra_leads_to_its_command(module, extra):
    found = installation.missing_module(ModuleNotFoundError(name=module))
    assert str(found) == (
        f"{module.partition('.')[0]} is not installed: {installation.command(extra)}" if extra else "None"
    )


BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {modules!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocked())
from llm4sbr import cli
cli.main({arguments!r})
"""


def without(modules: set[str], *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = BLOCKED.format(modules=modules, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=cwd)


@pytest.mark.parametrize(
    ("arguments", "modules", "extra"),
    [
        (["recommend", "runs/x", "--session", "a"], {"torch", "polars"}, "train"),
        (["serve", "runs/x"], {"uvicorn"}, "serve"),
        (["report", "runs/x"], {"jinja2"}, "train"),
        (["export", "runs/x"], {"torch"}, "train"),
    ],
)
def test_a_command_that_lacks_a_package_says_which_command_brings_it(arguments, modules, extra, tmp_path):
    done = without(modules, *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(rf"error: \w+ is not installed: {re.escape(installation.command(extra))}", line)
    assert not list(tmp_path.iterdir())


def test_a_stage_is_refused_before_it_writes_anything(monkeypatch, tmp_path, capsys):
    real = installation.installed_version
    monkeypatch.setattr(
        installation, "installed_version", lambda name: None if name == "polars" else real(name)
    )
    with pytest.raises(SystemExit) as caught:
        cli.main(["prepare", str(tmp_path / "run"), "--dataset", "csv", "--data", str(tmp_path)])
    assert caught.value.code == 2
    assert f"polars is not installed: {installation.command('train')}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("extra", [None, *installation.ADVISED])
def test_commands_for_this_copy_name_a_folder_that_pip_can_install(extra):
    arguments = shlex.split(installation.command(*([extra] if extra else [])))
    place, _, extras = arguments[-1].partition("[")
    assert (Path(place) / "pyproject.toml").exists()
    assert extras.rstrip("]") == (extra or "")
