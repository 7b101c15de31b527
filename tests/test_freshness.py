"""What is made again and what is used again, part by part; and that a damaged run is noticed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from llm4sbr import pipeline, stamps, store
from llm4sbr.errors import InputError, StoreError
from llm4sbr.exporting.trained_model import ReferenceModel
from llm4sbr.progress import Progress
from llm4sbr.serving.recommend import Recommender

sys.path.insert(0, str(Path(__file__).parent))

from toy_runs import execute, settings


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("finished")
    pipeline.execute(base / "run", settings(base), progress=Progress(quiet=True))
    return base / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def files(run: Path, pattern: str) -> dict[str, int]:
    """The run's files and which they are: a file that was written again is another one."""
    return {path.relative_to(run).as_posix(): path.stat().st_ino for path in sorted(run.glob(pattern))}


WEIGHTS = "train/*/seed-*/model.safetensors"
FRESH = ["prepare: fresh", "infer: fresh", "localize: fresh", "train: fresh"]


def test_baselines_and_lengths_of_lists_train_nothing(run: Path) -> None:
    before = files(run, WEIGHTS)
    assert len(before) == 3
    given = {"train.baselines": ["popularity", "s-pop"], "evaluate.k": [3]}
    assert execute(run, given)[:4] == FRESH
    assert files(run, WEIGHTS) == before


def test_another_seed_trains_that_seed_only_and_is_used_again(run: Path) -> None:
    before, table = files(run, WEIGHTS), (run / "evaluate/metrics.json").read_bytes()
    lines = execute(run, {"train.seeds": 2})
    assert lines[3:5] == ["train: redone, train.seeds: 1 -> 2", "train: 3 of 6 models are there already"]
    both = files(run, WEIGHTS)
    assert len(both) == 6
    assert before.items() <= both.items()
    assert "train: 3 of 3 models are there already" in execute(run, {"train.seeds": 1})
    assert (run / "evaluate/metrics.json").read_bytes() == table
    assert files(run, WEIGHTS) == both  # the second seed stays
    assert "train: 6 of 6 models are there already" in execute(run, {"train.seeds": 2})
    assert files(run, WEIGHTS) == both


def test_a_model_that_nobody_asks_for_now_is_in_no_table_and_can_be_named(run: Path) -> None:
    execute(run, {"train.seeds": 2})
    lines = execute(run, {"train.seeds": 1})
    rows = store.read_json(run / "evaluate/metrics.json")["rows"]
    assert [row["name"] for row in rows] == ["popularity", "plain", "llm", "none"]
    assert "evaluate/ranks.safetensors" in files(run, "evaluate/*")
    assert list(store.read_tensors(run / "evaluate/ranks.safetensors")) == [
        "llm/seed-0",
        "none/seed-0",
        "plain/seed-0",
        "popularity",
    ]
    assert lines[-2].startswith("evaluate: redone")
    assert lines[-1] == "evaluate: 1 of 1 baselines are there already"
    assert Recommender.load(run).trained.seed == 0
    assert Recommender.load(run, seed=1).trained.seed == 1
    execute(run, {"train.dim": 6}, until="train")  # the other seed is of width 8
    with pytest.raises(InputError, match="no seed 1"):
        Recommender.load(run, seed=1)


def test_training_more_seeds_and_none_of_them_leaves_the_table_fresh(run: Path) -> None:
    execute(run, {"train.seeds": 2}, until="train")
    execute(run, {"train.seeds": 1}, until="train")
    assert execute(run, {})[-1] == "evaluate: fresh"


def test_another_control_asks_localizes_and_trains_that_control_only(run: Path) -> None:
    kept = {pattern: files(run, pattern) for pattern in ("infer/llm/*", "localize/llm/*", WEIGHTS)}
    lines = execute(run, {"infer.controls": ["shuffled", "none"]})
    assert "infer: the answers of item-text are there already" in lines
    assert "train: 3 of 4 models are there already" in lines
    for pattern, before in kept.items():
        assert before.items() <= files(run, pattern).items()
    assert (run / "train/shuffled/seed-0/model.safetensors").exists()
    execute(run, {"infer.controls": ["none"]})
    rows = store.read_json(run / "evaluate/metrics.json")["rows"]
    assert [row["name"] for row in rows] == ["popularity", "plain", "llm", "none"]
    lines = execute(run, {"infer.controls": ["shuffled", "none"]})
    assert "train: 4 of 4 models are there already" in lines


def test_a_model_that_starts_from_text_depends_on_the_texts(run: Path) -> None:
    before = files(run, WEIGHTS)
    assert "train: 3 of 4 models are there already" in execute(run, {"train.text_init": True})
    both = files(run, WEIGHTS)
    assert both.keys() - before.keys() == {"train/text-init/seed-0/model.safetensors"}
    assert before.items() <= both.items()
    assert Recommender.load(run, variant="text-init").trained.variant == "text-init"
    lines = execute(run, {"localize.encoder_options": {"pooling": "cls"}})
    assert "train: 1 of 4 models are there already" in lines  # all but plain
    assert files(run, "train/plain/*/model.safetensors").items() <= before.items()


def test_work_of_a_stopped_attempt_with_other_settings_is_used(run: Path, monkeypatch: Any) -> None:
    from llm4sbr.training import job as stage

    original, trained = stage._train, []

    def stopping(job: Any, *rest: Any) -> Any:
        if len(trained) == 2:
            raise KeyboardInterrupt
        trained.append((job.variant, job.seed))
        return original(job, *rest)

    monkeypatch.setattr(stage, "_train", stopping)
    with pytest.raises(KeyboardInterrupt):
        execute(run, {"train.seeds": 3})
    assert trained == [("plain", 1), ("llm", 1)]
    monkeypatch.setattr(stage, "_train", original)
    assert "train: 5 of 6 models are there already" in execute(run, {"train.seeds": 2})


def test_models_of_an_older_version_are_used_too(run: Path) -> None:
    for path in run.rglob(store.STAMP):
        if path.parent.parent == run:
            stamp = stamps.read_stamp(path.parent)
            assert stamp
            stamps.write_stamp(path.parent, stamp._replace(files=None))
        else:
            path.unlink()
    (run / "train/models.json").unlink()
    before = files(run, WEIGHTS)
    assert execute(run, {}) == [*FRESH, "evaluate: fresh"]
    assert "train: 3 of 6 models are there already" in execute(run, {"train.seeds": 2})
    assert before.items() <= files(run, WEIGHTS).items()


def test_a_backbone_that_chooses_whom_to_ask_is_looked_at(run: Path) -> None:
    execute(run, {"infer.select": "uncertain"}, until="infer")
    again = execute(run, {"train.dim": 6}, until="infer")
    assert again[1] == "infer: redone, train.dim: 8 -> 6"
    unread = {"train.seeds": 2, "train.epochs": 2, "train.baselines": [], "train.tau": 0.5}
    assert execute(run, unread, until="infer") == ["prepare: fresh", "infer: fresh"]
    execute(run, {"infer.select": "random"}, until="infer")
    assert execute(run, {"train.dim": 8}, until="infer") == ["prepare: fresh", "infer: fresh"]


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("prepare/sessions.parquet", "prepare"),
        ("infer/llm/long.parquet", "infer"),
        ("localize/items.safetensors", "localize"),
        ("localize/llm/intents-00000.safetensors", "localize"),
        ("train/llm/seed-0/model.safetensors", "train"),
        ("train/plain/seed-0/model.json", "train"),
        ("evaluate/metrics.json", "evaluate"),
    ],
)
@pytest.mark.parametrize("how", ["deleted", "cut"])
def test_a_damaged_file_is_made_anew_and_no_other(run: Path, name: str, stage: str, how: str) -> None:
    before = files(run, WEIGHTS)
    rows = store.read_json(run / "evaluate/metrics.json")["rows"]
    path = run / name
    path.unlink() if how == "deleted" else path.write_bytes(path.read_bytes()[:-1])
    lines = execute(run, {})
    why = "is missing" if how == "deleted" else "has changed since it was written"
    assert f"{stage}: redone, {name} {why}" in lines
    assert path.exists()
    assert execute(run, {}) == [*FRESH, "evaluate: fresh"]
    written = files(run, WEIGHTS).items() - before.items()
    assert {one for one, _ in written} <= {name, name.replace("model.json", "model.safetensors")}
    after = store.read_json(run / "evaluate/metrics.json")["rows"]
    assert [row["metrics"] for row in after] == [row["metrics"] for row in rows]


@pytest.mark.parametrize("name", ["train/llm/seed-0/model.safetensors", "prepare/items.parquet"])
@pytest.mark.parametrize("reader", [Recommender.load, ReferenceModel.of])
def test_who_reads_a_damaged_run_names_the_command(run: Path, name: str, reader: Any) -> None:
    path = run / name
    content = path.read_bytes()
    path.unlink()
    stage = name.partition("/")[0]
    with pytest.raises(StoreError, match=rf"{name}: .*; run llm4sbr {stage} {run}$"):
        reader(run)
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(StoreError, match=rf"{name}: .*; delete it and run llm4sbr {stage} {run}$"):
        reader(run)


def test_force_makes_what_is_asked_for_anew_and_keeps_the_rest(run: Path) -> None:
    execute(run, {"train.seeds": 2}, until="train")
    before = files(run, WEIGHTS)
    execute(run, {"train.seeds": 1}, until="train", force=True)
    after = files(run, WEIGHTS)
    assert {name for name in before if before[name] == after[name]} == {
        name for name in before if "seed-1" in name
    }
