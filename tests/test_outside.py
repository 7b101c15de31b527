"""Proved from outside: wheels in a new environment, a run of third-party components, then without them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from llm4sbr.scaffold import new_plugin
from llm4sbr.testing.toy import toy_log

ROOT = Path(__file__).parent.parent
OWN = ("llm4sbr", "__editable__", "_editable")
KINDS = ("reader", "llm", "perspective", "encoder", "localizer", "backbone", "fuser", "baseline")
KINDS += ("engine", "exporter", "logger")

pytestmark = pytest.mark.slow


class Outside:
    """An environment of its own, away from the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        self.python = folder / "venv" / "bin" / "python"
        self.site = next((folder / "venv" / "lib").glob("python*/site-packages"))
        _share_dependencies(folder / "dependencies", self.site)

    def install(self, *sources: Path) -> None:
        wheels = self.folder / "wheels"
        build = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(wheels),
        ]
        for source in sources:
            subprocess.run([*build, str(source)], check=True, capture_output=True)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(self.python),
            "install",
            "-q",
            "--no-deps",
            "--no-index",
        ]
        subprocess.run([*pip, *map(str, wheels.glob("*.whl"))], check=True, capture_output=True)

    def uninstall(self, package: str) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "uninstall", "-q", "-y", package]
        subprocess.run(pip, check=True, capture_output=True)

    def run(self, *arguments: str, fails: bool = False) -> str:
        """What `llm4sbr` prints: on standard output, or if it fails on standard error."""
        done = subprocess.run(
            self.command(arguments), cwd=self.work, env=self.environment, capture_output=True, text=True
        )
        assert done.returncode == (2 if fails else 0), done.stderr
        return done.stderr if fails else done.stdout

    def command(self, arguments: Sequence[str]) -> list[str]:
        return [str(self.python), "-P", "-m", "llm4sbr", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LLM4SBR", "VIRTUAL_ENV"))}
        return kept | {"LLM4SBR_CACHE": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}


def _share_dependencies(folder: Path, site: Path) -> None:
    """Everything installed here but what is ours, so that nothing is downloaded again."""
    folder.mkdir()
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(OWN) and entry.suffix != ".pth" and entry.name != "__pycache__":
            (folder / entry.name).symlink_to(entry)
    (site / "dependencies.pth").write_text(f"{folder}\n")


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Outside:
    made = Outside(tmp_path_factory.mktemp("outside"))
    plugins = []
    for kind in KINDS:
        new_plugin(f"my-{kind}", kind, made.folder / "src" / kind)
        plugins.append(made.folder / "src" / kind)
    made.install(ROOT, *(path.parent for path in sorted(ROOT.glob("plugins/*/pyproject.toml"))), *plugins)
    return made


@pytest.fixture(scope="module")
def run(outside: Outside) -> Path:
    """A run made of nothing but the third-party components, evaluated and exported."""
    log, source = outside.work / "log", toy_log(outside.folder / "csv")
    log.mkdir()
    clicks = pl.read_csv(source / "interactions.csv")
    clicks.write_csv(log / "clicks.tsv", separator="\t", include_header=False)
    items = pl.read_csv(source / "items.csv").select("item_id", "title")
    items.write_csv(log / "titles.tsv", separator="\t", include_header=False)
    chosen = {
        f"--{kind}": f"my-{kind}"
        for kind in ("llm", "perspective", "encoder", "localizer", "backbone", "fuser", "engine")
    }
    options = [word for pair in chosen.items() for word in pair]
    options += [
        "--dataset",
        "my-reader",
        "--data",
        "log",
        "--epochs",
        "2",
        "--controls",
        "shuffled",
        "--workers",
        "1",
    ]
    options += [
        "--set",
        'train.baselines=["my-baseline"]',
        "--set",
        "data.min_item_count=1",
        "--set",
        "train.dim=16",
    ]
    outside.run("run", "run", *options, "-q")
    return outside.work / "run"


def test_nothing_of_the_repository_is_on_the_path(outside):
    code = "import llm4sbr, sys; print(llm4sbr.__file__); print(*sys.path, sep='\\n')"
    command = [str(outside.python), "-P", "-c", code]
    said = subprocess.run(
        command, cwd=outside.work, env=outside.environment, capture_output=True, text=True, check=True
    )
    assert str(ROOT / "llm4sbr") not in said.stdout
    assert said.stdout.startswith(str(outside.site))


def test_all_plugins_are_listed(outside):
    listed = {(c["kind"], c["name"]): c for c in json.loads(outside.run("plugins", "list", "--json"))}
    assert {(f"{kind}s", f"my-{kind}") for kind in KINDS} <= listed.keys()
    assert listed["fusers", "nullspace"]["package"] == "llm4sbr-nullspace"
    for name in ("core", "niser", "lessr", "atten-mixer", "hide", "msgat", "kmvg"):
        assert listed["backbones", name]["package"] == "llm4sbr-sequential"
    assert listed["llms", "openai"]["package"] == "llm4sbr-openai"


def test_third_party_components_are_what_the_run_used(outside, run):
    versions = json.loads((run / "versions.json").read_text())
    used = " ".join(map(str, versions.values()))
    for kind in KINDS:
        assert kind in ("exporter", "logger") or f"my-{kind}==0.1.0" in used
    found = json.loads(outside.run("evaluate", "run", "--json", "-q"))
    assert found["rows"]


def test_it_is_exported_and_served(outside, run):
    found = json.loads(
        outside.run("export", "run", "--format", "onnx,my-exporter", "-q", "-k", "5", "--json")
    )
    assert {name.partition("-")[0] for name in found} == {"onnx", "my"}
    assert served(outside, "run/export/onnx") == 5


def test_the_python_interface_does_the_same(outside, run):
    code = "import llm4sbr, sys; found = llm4sbr.load('run').recommend(['Red Lamp (1990)'], k=3); "
    code += "sys.stdout.write(' '.join(item.key for item in found.items))"
    command = [str(outside.python), "-P", "-c", code]
    said = subprocess.run(
        command, cwd=outside.work, env=outside.environment, capture_output=True, text=True, check=True
    )
    assert len(said.stdout.split()) == 3


def served(outside: Outside, artefact: str) -> int:
    """How many items a server that was started for an artefact recommends."""
    command = outside.command(["serve", artefact, "--port", "0"])
    server = subprocess.Popen(
        command, cwd=outside.work, env=outside.environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr
        url = ""
        deadline = time.monotonic() + 60
        while not url and time.monotonic() < deadline:
            line = server.stderr.readline()
            if "http://" in line:
                url = "http://" + line.split("http://")[1].split('"')[0].split()[0].rstrip("/")
        while not _ready(url) and time.monotonic() < deadline:
            time.sleep(0.1)
        body = json.dumps({"session": ["Red Lamp (1990)"]}).encode()
        request = urllib.request.Request(f"{url}/recommend", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return len(json.loads(answer.read())["items"])
    finally:
        server.terminate()
        assert server.wait(timeout=40) == 0
        server.stderr.close()


def _ready(url: str) -> bool:
    """Whether the server has warmed up."""
    try:
        with urllib.request.urlopen(f"{url}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def test_without_a_plugin_old_runs_stay_readable_and_say_what_is_missing(outside, run):
    before = outside.run("recommend", "run", "--session", "Red Lamp (1990)", "--json", "-q")
    assert json.loads(before)
    outside.uninstall("my-backbone")
    said = outside.run("recommend", "run", "--session", "Red Lamp (1990)", "-q", fails=True)
    assert "trained with the backbone 'my-backbone' of my-backbone==0.1.0, which is not installed" in said
    assert said.strip().endswith("pip install my-backbone==0.1.0")
    assert len(said.strip().splitlines()) == 1
    assert json.loads((run / "evaluate" / "metrics.json").read_text())["rows"]
    outside.run("report", "run")
    assert "logged/run/run.json" in outside.run("log", "run", "--to", "my-logger")
    outside.run("answers", "stats", "--json")
    assert "my-backbone" in outside.run("config", "run")
    assert served(outside, "run/export/onnx") == 5, "an exported model needs no plugin"


def test_without_any_of_them_the_run_is_still_readable(outside, run):
    for kind in KINDS:
        outside.uninstall(f"my-{kind}")
    left = json.loads(outside.run("plugins", "list", "--json"))
    assert not any(component["package"].startswith("my-") for component in left)
    outside.run("report", "run")
    assert json.loads(outside.run("config", "run", "--json"))["localize"]["encoder"] == "my-encoder"
    said = outside.run("run", "run", "-q", fails=True)
    assert "'my-" in said
    assert "is installed" in said
    assert len(said.strip().splitlines()) == 1
