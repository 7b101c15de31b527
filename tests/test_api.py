"""The public names: all that the command line does, and never the code of a run."""

from __future__ import annotations

import ast
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import click
import pytest

import llm4sbr
from llm4sbr.backbones.sr_gnn import SRGNN
from llm4sbr.cli import cli
from llm4sbr.errors import ExportError, Llm4sbrError, StoreError
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.testing.training import settings, trained

sys.path.insert(0, str(Path(__file__).parent))
from toy_runs import sign

PAGE = Path(__file__).parent.parent / "docs" / "python.md"


def commands(command: click.Command) -> set[str]:
    """The names of a command's own commands, groups left out."""
    found = set()
    for name, below in getattr(command, "commands", {}).items():
        found |= commands(below) if isinstance(below, click.Group) else {name}
    return found


def test_every_command_has_its_line_of_python():
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `llm4sbr ")]
    named = {word for row in rows for word in row.split("|")[1].replace("`", " ").replace(",", " ").split()}
    assert commands(cli) <= named


def test_public_names_are_exactly_these_and_importing_them_loads_nothing_heavy():
    assert llm4sbr.__all__ == sorted(llm4sbr.__all__, key=lambda name: (name != "PLUGIN_API", name))
    for name in llm4sbr.__all__:
        assert getattr(llm4sbr, name) is not None
    stated = ast.parse(Path(llm4sbr.__file__).read_text())
    typed = {
        alias.name for node in ast.walk(stated) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert set(llm4sbr.__all__) - {"__version__"} <= typed, "a type checker sees each of them"
    code = f"import sys, llm4sbr; [getattr(llm4sbr, name) for name in {llm4sbr.__all__!r}]; "
    code += "sys.exit(bool({'torch', 'polars', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose models are trained."""
    run = toy_run(tmp_path_factory.mktemp("api") / "run", sources=("llm",))
    trained(run, settings(controls=(), epochs=1))
    return run


HOSTILE = """
raise SystemExit("code of a run was executed")
"""

LOAD = """
import sys
import llm4sbr
run = sys.argv[1]
import llm4sbr.serving.recommend, torch, polars
from llm4sbr.fusion import fusers
import llm4sbr.backbones.sr_gnn

def watch(event, arguments):
    if event == "pickle.find_class":
        raise SystemExit(f"unpickled {arguments}")
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn"):
        raise SystemExit(f"started {arguments}")
    if event == "compile" and run in str(arguments[1]):
        raise SystemExit(f"compiled {arguments[1]}")
    if event == "exec" and run in arguments[0].co_filename:
        raise SystemExit(f"executed {arguments[0].co_filename}")
    if event == "import" and run in str(arguments[1]):
        raise SystemExit(f"imported {arguments}")

sys.addaudithook(watch)
found = llm4sbr.load(run).recommend([1, 2], k=3)
sys.stdout.write(str(len(found.items)))
try:
    compile("1", f"{run}/model.py", "exec")
except SystemExit:
    sys.stdout.write(", watched")
"""


@pytest.mark.slow
def test_loading_a_run_executes_nothing_of_it(finished, tmp_path):
    """Modules of many names lie in the run, which is even the current folder; an audit hook looks on."""
    names = ("sitecustomize", "torch", "polars", "llm4sbr", "conftest", "model", "usercustomize", "sr_gnn")
    for folder in (finished, finished / "train", finished / "train" / "plain" / "seed-0"):
        for name in names:
            (folder / f"{name}.py").write_text(HOSTILE)
    script = tmp_path / "load.py"
    script.write_text(LOAD)
    said = subprocess.run(
        [sys.executable, str(script), str(finished)],
        cwd=finished,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.returncode, said.stdout) == (0, "3, watched"), said.stderr
    for path in finished.rglob("*.py"):
        path.unlink()


class Evil:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize("name", ["prepare/splits.safetensors", "train/llm/seed-0/model.safetensors"])
def test_a_pickle_in_the_place_of_a_file_is_refused(finished, name):
    path = finished / name
    content = path.read_bytes()
    path.write_bytes(pickle.dumps(Evil()))
    try:
        with pytest.raises(StoreError, match=Path(name).name) as caught:
            llm4sbr.load(finished, variant="llm")
        assert "\n" not in str(caught.value)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    "backbone", ["os:system", "../../evil", "builtins:eval", "llm4sbr.cli:main"], ids=lambda name: name[:4]
)
def test_a_run_can_only_ask_for_what_is_installed(finished, backbone):
    path = finished / "train" / "llm" / "seed-0" / "model.json"
    content = path.read_text()
    record = json.loads(content)
    record["recipe"]["backbone"] = backbone
    path.write_text(json.dumps(record))
    sign(path.parent)
    try:
        with pytest.raises(Llm4sbrError, match="installed") as caught:
            llm4sbr.load(finished, variant="llm")
        assert "\n" not in str(caught.value)
    finally:
        path.write_text(content)
        sign(path.parent)


def test_settings_of_a_run_are_readable_without_its_plugins(tmp_path):
    """What was in force then; with a setting chosen now, what is missing is said."""
    (tmp_path / "config.toml").write_text('[data]\nreader = "gone"\n')
    (tmp_path / "resolved.toml").write_text('[data]\nreader = "gone"\n[train]\ndim = 24\n')
    assert llm4sbr.settings(tmp_path).train.dim == 24
    with pytest.raises(Llm4sbrError, match="no reader 'gone' is installed"):
        llm4sbr.run(tmp_path, train={"dim": 32})


def test_a_component_that_has_gone_is_named_with_its_package(finished):
    path = finished / "train" / "llm" / "seed-0" / "model.json"
    content = path.read_text()
    record = json.loads(content)
    record["recipe"]["backbone"] = "gone"
    record["versions"]["backbones/gone"] = "sbr-gone==4.2"
    path.write_text(json.dumps(record))
    sign(path.parent)
    try:
        with pytest.raises(Llm4sbrError) as caught:
            llm4sbr.load(finished, variant="llm")
    finally:
        path.write_text(content)
        sign(path.parent)
    assert "trained with the backbone 'gone' of sbr-gone==4.2, which is not installed" in str(caught.value)
    assert str(caught.value).endswith("pip install sbr-gone==4.2")


def test_a_backbone_that_says_it_cannot_be_exported_is_believed(finished, monkeypatch):
    monkeypatch.setattr(SRGNN, "lacks", {"export": "it loops over rows"}, raising=False)
    with pytest.raises(ExportError, match=r"^the backbone 'sr-gnn' cannot be exported: it loops over rows$"):
        llm4sbr.export(finished)
    assert not (finished / "export").exists()


@pytest.mark.slow
def test_a_model_is_exported_and_served_from_python(finished):
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    artefacts = llm4sbr.export(finished, ["onnx"], k=4, variant="plain")
    assert artefacts["onnx-plain" if "onnx-plain" in artefacts else "onnx"]["k"] == 4
    code = "import sys, llm4sbr; llm4sbr.serve(sys.argv[1], port=0)"
    command = [sys.executable, "-c", code, str(finished)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        try:
            url = next(json.loads(line)["url"] for line in server.stderr if '"url"' in line)
            for _ in range(200):
                try:
                    request = urllib.request.Request(
                        f"{url}/recommend", json.dumps({"session": ["i01"]}).encode()
                    )
                    with urllib.request.urlopen(request, timeout=10) as answer:
                        assert len(json.loads(answer.read())["items"]) == 4
                    break
                except OSError:
                    time.sleep(0.1)
            else:
                raise AssertionError("no answer")
        finally:
            server.send_signal(signal.SIGTERM)
            server.stderr.read()
    assert server.returncode == 0
