"""A refused command changes nothing, and what a run keeps can be taken back."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llm4sbr import cli, pipeline
from llm4sbr.config import Config, flatten, nest, read_toml
from llm4sbr.config.in_force import naming_kept
from llm4sbr.config.layers import SEAL
from llm4sbr.errors import Llm4sbrError, StoreError
from llm4sbr.progress import Progress
from llm4sbr.testing.toy import toy_log

sys.path.insert(0, str(Path(__file__).parent))

from toy_runs import execute, settings

WRONG: dict[str, list[Any]] = {
    "protocol": ["papre"],
    "data.reader": ["csw"],
    "data.path": ["/nowhere"],
    "data.options": [
        {"colour": 1},
        {"path": "x"},
        {"item": "x"},
        {"time": "x"},
        {"separator": "xy"},
        {"encoding": "x"},
    ],
    "data.sessions": ["sesion", "session"],
    "data.min_item_count": [0, 10**6],
    "data.min_length": [1, 10**6],
    "infer.llm": ["transformers:/nowhere", "nobody"],
    "infer.options": [{"colour": 1}],
    "infer.perspectives": [[], ["sideways"]],
    "infer.wording": ["nowhere.toml"],
    "infer.attributes": [["colour"]],
    "infer.budget": ["soon"],
    "infer.controls": [["nobody"]],
    "infer.cache": [],  # a control answers here, so it is not opened
    "localize.encoder": ["transformers:/nowhere", "nobody"],
    "localize.encoder_options": [{"colour": 1}],
    "localize.localizer": ["nobody"],
    "localize.options": [{"colour": 1}, {"f": 3}],
    "localize.f": [-1, 1000],
    "train.backbone": ["nobody"],
    "train.options": [{"colour": 1}, {"dim": 3}],
    "train.fuser": ["nobody"],
    "train.fuser_options": [{"colour": 1}, {"text_dim": 3}],
    "train.baselines": [["nobody"]],
    "train.baseline_options": [{"popularity": {"colour": 1}}, {"slist": {"l2": 1}}, {"popularity": 5}],
    "train.device": ["nowhere"],
    "evaluate.k": [[0], [1000], []],
    "evaluate.budget": ["soon"],
    "engine.name": ["nobody"],
    "engine.options": [{"colour": 1}],
}
"""Setting -> values that are wrong here; of numbers, switches and fixed choices, `anything else` is wrong."""

SETTINGS = sorted(flatten(Config().model_dump()))
CASES = [(key, value) for key in SETTINGS for value in WRONG.get(key, ["anything else"])]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("finished")
    pipeline.execute(base / "run", settings(base), progress=Progress(quiet=True))
    return base / "run"


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def unchanged(finished: Path) -> Iterator[Path]:
    """The run, which must be the same afterwards."""
    before = contents(finished)
    yield finished
    assert contents(finished) == before


def test_every_setting_is_tried() -> None:
    assert WRONG.keys() <= set(SETTINGS)


@pytest.mark.parametrize(("key", "value"), CASES, ids=[f"{key}={value}" for key, value in CASES])
def test_a_wrong_value_of_any_setting_leaves_the_run_as_it_was(unchanged: Path, key: str, value: Any) -> None:
    with pytest.raises(Llm4sbrError):
        execute(unchanged, {key: value})


def test_what_a_stopped_command_has_begun_survives_a_refused_one(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    (run / "train.tmp" / "plain" / "seed-7").mkdir(parents=True)
    (run / "train.tmp" / "begun.json").write_text('{"fingerprint": "of other settings"}')
    (run / "train.tmp" / "plain" / "seed-7" / "checkpoint.safetensors").write_bytes(b"hours of work")
    before = contents(run)
    with pytest.raises(Llm4sbrError):
        execute(run, {"train.options": {"rounds": -1}})
    assert contents(run) == before


def test_a_refused_command_begins_no_run(finished: Path, tmp_path: Path) -> None:
    given = read_toml(finished / "config.toml") | {"evaluate": {"k": [1000]}}
    given["data"]["options"] = {"item": "x"}
    with pytest.raises(Llm4sbrError):
        pipeline.execute(tmp_path / "new", given, progress=Progress(quiet=True))
    assert not (tmp_path / "new").exists()


def test_what_earlier_stages_accepted_is_kept_and_what_was_refused_is_not(
    finished: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    with pytest.raises(Llm4sbrError, match=r"localize\.f = 1000"):
        execute(run, {"data.max_length": 4, "localize.f": 1000, "train.dim": 6})
    kept = flatten(read_toml(run / "config.toml"))
    assert kept["data.max_length"] == 4
    assert "localize.f" not in kept
    assert kept["train.dim"] == 8


def ends(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(ended.value.code or 0)


@pytest.mark.parametrize("way", ["set empty", "set default", "config"])
def test_a_kept_choice_is_named_and_taken_back(
    finished: Path, tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    text = (run / "config.toml").read_text().rpartition(SEAL)[0]  # edited by hand
    (run / "config.toml").write_text(f"{text}\n[localize.options]\ncolour = 1\n".replace("f = 5\n", ""))
    assert "localize.options.colour" in flatten(read_toml(run / "config.toml"))
    assert ends(["localize", str(run), "--set", "localize.f=3", "-q"]) == 2
    told = capsys.readouterr().err
    assert f"localize.options.colour = 1 is kept in {run / 'config.toml'}" in told
    assert f"llm4sbr config {run} --set localize.options.colour=default takes it back" in told
    if way == "config":
        assert ends(["config", str(run), "--set", "localize.options.colour=default"]) == 0
        assert "colour" not in (run / "config.toml").read_text()
    value = "default" if way == "set default" else ""
    taken = ["--set", f"localize.options.colour={value}"] if way != "config" else []
    assert ends(["localize", str(run), "-q", *taken]) == 0
    assert "colour" not in (run / "config.toml").read_text()


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("no encoder 'minilm' is installed", True),
        ("the encoder minilm cannot be loaded; take --encoder bert", True),
        ("the LLM cannot be loaded; take the one that works offline, --llm minilm", False),
    ],
)
def test_a_kept_choice_that_is_only_advised_is_not_blamed(tmp_path: Path, message: str, named: bool) -> None:
    kept = nest({"localize.encoder": "minilm"})
    with pytest.raises(StoreError) as caught, naming_kept(tmp_path, kept, nest({"infer.llm": "qwen-7b"})):
        raise StoreError(message)
    assert ("localize.encoder = 'minilm' is kept" in str(caught.value)) is named


def test_an_empty_text_is_still_sayable() -> None:
    from llm4sbr.config import parse_set

    assert parse_set(["data.options.separator="]) == nest({"data.options.separator": "default"})
    assert parse_set(['data.options.separator=""']) == nest({"data.options.separator": ""})


COMMANDS = [
    ["infer"],
    ["infer", "--dry-run"],
    ["localize"],
    ["train"],
    ["evaluate"],
    ["recommend", "--session", "Red Lamp"],
    ["export"],
    ["report"],
    ["intents", "stats"],
    ["config"],
    ["serve"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_mistyped_run_is_said_and_not_begun(
    tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "shop").mkdir()
    names = 2 if command[0] == "intents" else 1
    mistyped = [*command[:names], str(tmp_path / "shpo"), *command[names:]]
    assert ends(mistyped) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'shpo'}: no such run; did you mean {tmp_path / 'shop'}?" in " ".join(told.split())
    assert not (tmp_path / "shpo").exists()
    (tmp_path / "shop").rmdir()
    assert ends(mistyped) == 2
    assert "llm4sbr run and llm4sbr prepare begin one" in capsys.readouterr().err


def test_a_stage_that_is_given_data_begins_a_run(tmp_path: Path) -> None:
    toy_log(tmp_path / "log", sessions=60)
    command = ["infer", str(tmp_path / "run"), "--dataset", "csv", "--data", str(tmp_path / "log")]
    assert ends([*command, "--llm", "item-text", "--quiet"]) == 0
    assert (tmp_path / "run" / "infer").is_dir()


def test_only_a_run_is_worked_on(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"not a run directory \(no config.toml\)"):
        pipeline.execute(tmp_path / "empty", {}, new=False)
    assert list((tmp_path / "empty").iterdir()) == []
