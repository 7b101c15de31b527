"""What is redone, what is fresh, and that the reason is said."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest
from rich.console import Console

from llm4sbr import pipeline, stamps, store
from llm4sbr.config import PROTOCOLS, Settings, departures, flatten, in_force, merge, nest, to_settings
from llm4sbr.config import files as config_files
from llm4sbr.errors import ConfigError, RegistryError, StoreError
from llm4sbr.progress import Progress
from llm4sbr.testing.toy import toy_log


@pytest.fixture
def chosen(tmp_path: Path) -> Settings:
    toy_log(tmp_path / "log")
    return nest({"data.reader": "csv", "data.path": str(tmp_path / "log"), "data.min_item_count": 1})


def _execute(run: Path, chosen: Settings, **options: object) -> list[str]:
    """The stages' lines that a run said."""
    said = io.StringIO()
    progress = Progress(console=Console(file=said, width=200))
    pipeline.execute(run, chosen, progress=progress, **options)  # type: ignore[arg-type]
    return [line for line in said.getvalue().splitlines() if line.split(":")[0] in stamps.STAGE_NAMES]


def test_fresh_stages_are_skipped(tmp_path: Path, chosen: Settings) -> None:
    run = tmp_path / "run"
    assert _execute(run, chosen, until="prepare") == ["prepare: to do"]
    assert _execute(run, chosen, until="prepare") == ["prepare: fresh"]
    assert _execute(run, {}, until="prepare") == ["prepare: fresh"]  # config.toml of before holds


def test_a_changed_setting_is_named(tmp_path: Path, chosen: Settings) -> None:
    run = tmp_path / "run"
    _execute(run, chosen, until="prepare")
    assert _execute(run, nest({"data.max_length": 3}), until="prepare") == [
        "prepare: redone, data.max_length: 50 -> 3"
    ]


def test_a_changed_file_is_noticed(tmp_path: Path, chosen: Settings) -> None:
    run = tmp_path / "run"
    _execute(run, chosen, until="prepare")
    with (tmp_path / "log" / "items.csv").open("a") as stream:
        stream.write("\n")
    assert _execute(run, {}, until="prepare") == ["prepare: redone, files of data.path changed"]


@pytest.mark.parametrize("hashed", [1 << 20, 0])
def test_a_file_that_changed_behind_an_equal_size_and_time_is_noticed(
    tmp_path: Path, chosen: Settings, monkeypatch: pytest.MonkeyPatch, hashed: int
) -> None:
    monkeypatch.setattr(config_files, "HASHED", hashed)
    file = tmp_path / "log" / "items.csv"
    _execute(tmp_path / "run", chosen, until="prepare")
    status = file.stat()
    file.write_bytes(file.read_bytes().replace(b"Red Lamp", b"Fed Lamp"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    said = _execute(tmp_path / "run", chosen, until="prepare")
    assert said == ["prepare: redone, files of data.path changed"]


def test_files_that_are_named_are_looked_at_and_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = toy_log(tmp_path / "log")
    (log / "items.csv").rename(tmp_path / "titles.csv")
    (log / "notes.txt").write_text("not read")
    monkeypatch.chdir(tmp_path)
    named = {"data.path": "log/interactions.csv", "data.options.items": "titles.csv"}
    run = tmp_path / "run"
    _execute(run, nest({"data.reader": "csv", "data.min_item_count": 1, **named}), until="prepare")
    monkeypatch.chdir(log)
    (log / "notes.txt").write_text("nor now")
    assert _execute(run, {}, until="prepare") == ["prepare: fresh"]
    with (tmp_path / "titles.csv").open("a") as stream:
        stream.write("i99,New\n")
    assert _execute(run, {}, until="prepare") == ["prepare: redone, files of data.path changed"]


def test_force_redoes_and_equal_output_keeps_what_follows_fresh(tmp_path: Path, chosen: Settings) -> None:
    run = tmp_path / "run"
    _execute(run, chosen, until="localize")
    before = stamps.read_stamp(run / "prepare")
    assert _execute(run, {}, until="prepare", force=True) == ["prepare: redone as asked"]
    after = stamps.read_stamp(run / "prepare")
    assert before is not None
    assert after is not None
    assert before.content == after.content
    assert _execute(run, {}, until="localize") == ["prepare: fresh", "infer: fresh", "localize: fresh"]


def test_neutral_settings_redo_nothing(tmp_path: Path, chosen: Settings) -> None:
    run = tmp_path / "run"
    _execute(run, chosen, until="infer")
    lines = _execute(
        run, nest({"train.workers": 2, "infer.cache": str(tmp_path / "a.sqlite")}), until="infer"
    )
    assert lines == ["prepare: fresh", "infer: fresh"]


def test_suggestions_fill_only_what_nobody_chose(tmp_path: Path) -> None:
    config = in_force.configure(None, nest({"data.reader": "ml-100k"}))
    assert config.data.sessions is not None
    config = in_force.configure(None, nest({"data.reader": "ml-100k", "data.sessions": "user"}))
    assert config.data.sessions == "user"


def test_protocol_stands_between_suggestions_and_choices() -> None:
    config = in_force.configure(None, nest({"data.reader": "ml-1m", "protocol": "paper"}))
    flat = flatten(to_settings(config))
    assert {key: flat[key] for key in PROTOCOLS["paper"]} == PROTOCOLS["paper"]
    assert (config.data.split, config.train.decay, config.data.sessions) == ("paper", 0.1, "bins")
    assert departures(config) == []
    chosen = nest({"protocol": "paper", "train.decay": 0.5, "data.split": "random"})
    config = in_force.configure(None, chosen)
    assert (config.data.split, config.train.decay, config.train.decay_every) == ("random", 0.5, 3)
    assert departures(config) == ["data.split=random", "train.decay=0.5"]


def test_protocol_can_be_taken_back_and_is_not_confused_with_choices(
    tmp_path: Path, chosen: Settings
) -> None:
    run = tmp_path / "run"
    _execute(run, merge(chosen, nest({"protocol": "paper"})), until="prepare")
    assert "split" not in (run / "config.toml").read_text()
    resolved = (run / "resolved.toml").read_text()
    assert resolved.startswith('protocol = "paper"')
    assert 'split = "paper"' in resolved
    (line,) = _execute(run, nest({"protocol": "default"}), until="prepare")
    assert "data.split: paper -> None" in line
    assert store.read_json(run / "prepare" / "stats.json")["rules"]["split"] == "temporal"


def test_default_run_is_a_plain_folder_name() -> None:
    chosen = nest({"data.reader": "csv", "infer.llm": "transformers:/some/where"})
    assert in_force.default_run(chosen) == Path("runs/csv-transformers--some-where")
    assert in_force.default_run(nest({"protocol": "paper"})) == Path("runs/ml-100k-none-paper")


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, chosen: Settings) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"x")
    with pytest.raises(StoreError, match="holds other files and no run"):
        pipeline.execute(tmp_path / "photos", chosen, until="prepare", progress=Progress(quiet=True))
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["me.jpg"]


def test_two_processes_do_not_share_a_run(tmp_path: Path, chosen: Settings) -> None:
    run = tmp_path / "run"
    with (
        pipeline._locked(run),
        pytest.raises(StoreError, match="another llm4sbr process"),
        pipeline._locked(run),
    ):
        pass


def test_missing_data_folder(tmp_path: Path) -> None:
    chosen = nest({"data.reader": "csv", "data.path": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match=r"nowhere does not exist"):
        pipeline.execute(tmp_path / "run", chosen, until="prepare", progress=Progress(quiet=True))


def test_a_run_of_another_version(tmp_path: Path, chosen: Settings) -> None:
    run = tmp_path / "run"
    _execute(run, chosen, until="prepare")
    stamp = store.read_record(run / "prepare" / "stage.json")
    store.write_record(run / "prepare" / "stage.json", stamp | {"format": 99})
    with pytest.raises(StoreError, match=r"written in run format 99, this version reads 1"):
        _execute(run, {}, until="prepare")


def test_a_setting_that_a_new_version_brings_makes_no_run_stale(tmp_path: Path, chosen: Settings) -> None:
    run = tmp_path / "run"
    _execute(run, chosen, until="infer")
    old = stamps.read_stamp(run / "infer")
    assert old is not None
    parts = {key: value for key, value in old.parts.items() if key != "infer.select"}
    stamps.write_stamp(run / "infer", old._replace(parts=parts))
    assert _execute(run, {}, until="infer") == ["prepare: fresh", "infer: fresh"]
    lines = _execute(run, nest({"infer.select": "recent"}), until="infer")
    assert lines[1].startswith("infer: redone, infer.select")


def test_a_choice_of_before_is_taken_back_by_default(tmp_path: Path, chosen: Settings) -> None:
    run = tmp_path / "run"
    _execute(
        run, merge(chosen, nest({"data.sessions": "user", "data.options.title": "title"})), until="prepare"
    )
    taken_back = nest({"data.sessions": "default", "data.options": "default"})
    assert _execute(run, taken_back, until="prepare")[0].startswith("prepare: redone, data.options")
    assert "sessions" not in (run / "config.toml").read_text()


@pytest.mark.parametrize(
    "setting", ["data.options", "train.options", "train.fuser_options", "localize.options", "infer.options"]
)
def test_an_option_that_nobody_takes_is_refused_at_once_and_not_kept(
    tmp_path: Path, chosen: Settings, setting: str
) -> None:
    run = tmp_path / "run"
    with pytest.raises(RegistryError, match="has no option 'colour'"):
        pipeline.execute(run, merge(chosen, nest({f"{setting}.colour": 1})), until="prepare")
    assert not run.exists()


def test_a_stage_that_there_is_not(tmp_path: Path, chosen: Settings) -> None:
    with pytest.raises(
        ConfigError, match="no stage 'export'; there are prepare, infer, localize, train, eva"
    ):
        pipeline.execute(tmp_path / "run", chosen, until="export")
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_gone_or_changed_is_made_anew(tmp_path: Path, chosen: Settings) -> None:
    run = tmp_path / "run"
    _execute(run, chosen, until="prepare")
    (run / "prepare" / "items.parquet").unlink()
    again = "prepare: redone, prepare/items.parquet is missing"
    assert _execute(run, {}, until="infer") == [again, "infer: to do"]
    (run / "infer" / "infer.json").write_text("{}")
    again = "infer: redone, infer/infer.json has changed since it was written"
    assert _execute(run, {}, until="infer") == ["prepare: fresh", again]
    (run / "infer" / "stage.json").write_text("{")
    with pytest.raises(StoreError, match=r"stage.json: not a whole JSON file: .*; delete it and run again"):
        _execute(run, {}, until="infer")


def test_a_home_folder_is_meant_by_a_tilde(
    tmp_path: Path, chosen: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    _execute(Path("~/run"), chosen, until="prepare")
    assert (tmp_path / "run" / "prepare").is_dir()
    assert not (tmp_path / "~").exists()
