"""`llm4sbr log`: what a logger is told of a run, and that no key gets there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from llm4sbr import registry
from llm4sbr.cli import cli
from llm4sbr.config import Config, to_settings, to_toml
from llm4sbr.config.layers import write_settings
from llm4sbr.errors import InputError, StoreError
from llm4sbr.packing.logged import log
from llm4sbr.testing.toy_export import toy_export
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.testing.training import settings, trained

KEY = "hf_" + "a1" * 17


class Remembers:
    """A logger that keeps what it is told."""

    def __init__(self, *, fails: str = "") -> None:
        self.fails = fails
        self.told: dict[str, Any] = {"curves": [], "metrics": {}, "artefacts": []}

    def begin(self, run: Path, settings: dict[str, str]) -> None:
        self.told |= {"run": run.name, "settings": settings}

    def curve(self, model: str, step: int, values: dict[str, float]) -> None:
        self.told["curves"].append((model, step, values))

    def metrics(self, model: str, values: dict[str, float]) -> None:
        self.told["metrics"][model] = values

    def artefact(self, name: str, content: Path) -> None:
        self.told["artefacts"].append((name, content.name, content.read_text()))

    def end(self) -> str:
        if self.fails:
            raise ConnectionError(self.fails)
        return "there"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = toy_run(tmp_path_factory.mktemp("logged") / "shop", sources=("llm",))
    config = settings(controls=(), epochs=2)
    trained(run, config)
    base = to_settings(Config())
    base["data"] |= {"path": "/home/ann/shop data"}
    write_settings(run / "resolved.toml", to_toml(base))
    (run / "report.html").write_text("<p>of /home/ann/shop data</p>")
    return run


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> list[Remembers]:
    made: list[Remembers] = []

    def create(kind: str, name: str, **options: Any) -> Remembers:
        made.append(Remembers(**options))
        return made[-1]

    monkeypatch.setattr(registry, "create", create)
    return made


def test_what_is_told(finished, logger):
    assert log(finished, "mine", {}) == "there"
    told = logger[0].told
    assert told["run"] == "shop"
    assert told["settings"]["data.path"] == "shop data"
    models = {"item-item/seed-0", "llm/seed-0", "plain/seed-0"}
    assert {model for model, *_ in told["curves"]} <= models
    lines = (finished / "train/plain/seed-0/log.jsonl").read_text().splitlines()
    plain = [one for one in told["curves"] if one[0] == "plain/seed-0"]
    assert [step for _, step, _ in plain] == [json.loads(line)["epoch"] for line in lines]
    assert plain[0][2]["loss"] == json.loads(lines[0])["loss"]
    assert plain[0][2]["valid.HR@20"] == json.loads(lines[0])["valid"]["HR@20"]
    assert told["artefacts"] == [("report.html", "report.html", "<p>of shop data</p>")]
    log(finished, "mine", {}, artefacts=False)
    assert logger[1].told["artefacts"] == []


def test_no_key_gets_into_a_log(finished, logger, tmp_path, monkeypatch):
    run = tmp_path / "shop"
    shutil.copytree(finished, run)
    (run / "report.html").write_text(f"by {KEY}")
    with pytest.raises(InputError, match="has a key or a password in it"):
        log(run, "mine", {})
    assert not logger
    with pytest.raises(InputError) as caught:
        log(finished, "mine", {"fails": f"401 for {KEY}\nat https://host"})
    assert str(caught.value) == "logger mine: ConnectionError: 401 for *** at https://host"
    monkeypatch.setenv("MY_SHOP_KEY", "shop data")  # a key that is the value of a setting
    log(finished, "mine", {}, artefacts=False)
    assert "shop data" not in logger[-1].told["settings"].values()


def test_what_is_no_trained_run(tmp_path, logger):
    with pytest.raises(StoreError, match="an export; name the run"):
        log(toy_export(tmp_path / "export"), "mine", {})
    with pytest.raises(StoreError, match="no such run"):
        log(tmp_path / "nothing", "mine", {})
    with pytest.raises(StoreError, match="neither a run nor an export"):
        log(tmp_path, "mine", {})


def test_the_command(finished, tmp_path):
    pytest.importorskip("tensorboard")
    command = ["log", str(finished), "--to", "tensorboard", "--option", f"folder={tmp_path}", "--json"]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "logger": "tensorboard",
        "see": f"tensorboard --logdir {tmp_path}",
    }
    assert (tmp_path / "shop/plain/seed-0").is_dir()
    for options, message in (
        (["--to", "tensorbord"], "did you mean 'tensorboard'"),
        (["--to", "tensorboard", "--option", "port=3"], "has no option 'port'"),
    ):
        failed = CliRunner().invoke(cli, ["log", str(finished), *options])
        assert message in str(failed.exception)
