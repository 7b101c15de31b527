from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import torch

from llm4sbr import config, store
from llm4sbr.data.batches import prefix_key, sample_keys
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.errors import StoreError
from llm4sbr.progress import Progress
from llm4sbr.protocols import Catalogue
from llm4sbr.stages.prepare import prepare
from llm4sbr.testing.toy import toy_catalogue, toy_log, toy_sessions


def run(folder: Path, log: Path, **data: object) -> Prepared:
    out = folder / "prepare"
    out.mkdir(exist_ok=True)
    prepare(
        folder, out, config.build({"data": {"reader": "csv", "path": str(log), **data}}), Progress(quiet=True)
    )
    return load(out)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return toy_log(tmp_path / "log")


def test_toy_data_comes_out_as_it_went_in(tmp_path, log):
    prepared = run(tmp_path, log)
    assert prepared.catalogue == toy_catalogue()
    expected = toy_sessions()
    assert torch.equal(prepared.sessions.items, expected.items)
    assert torch.equal(prepared.sessions.offsets, expected.offsets)
    # 60 sessions of 6, 7, 8 clicks in turn: 420 clicks, one sample per click but the first of each.
    stats = prepared.stats
    assert (stats["sessions"], stats["clicks"], stats["items"], stats["samples"]) == (60, 420, 20, 360)
    assert (stats["average_length"], stats["average_length_with_target"]) == (6.0, 7.0)
    assert stats["splits"] == {
        "train": {"sessions": 48, "clicks": 336, "samples": 288},
        "valid": {"sessions": 6, "clicks": 42, "samples": 36},
        "test": {"sessions": 6, "clicks": 42, "samples": 36},
    }
    assert stats["length_quantiles"]["0.5"] == 7.0
    assert (stats["first_click"], stats["last_click"]) == (1e9, 1e9 + 59 * 86400 + 7 * 60)


def test_files_are_as_the_other_stages_expect(tmp_path, log):
    run(tmp_path, log)
    out = tmp_path / "prepare"
    assert {path.name for path in out.iterdir()} == {
        "items.parquet",
        "sessions.parquet",
        "splits.safetensors",
        "stats.json",
    }
    items = pl.read_parquet(out / "items.parquet")
    assert items.schema == {"id": pl.Int64, "key": pl.String, "title": pl.String, "category": pl.String}
    assert items["id"].to_list() == list(range(1, 21))
    sessions = pl.read_parquet(out / "sessions.parquet")
    assert sessions.schema == {"session": pl.String, "time": pl.Float64, "items": pl.List(pl.Int64)}
    assert sessions["session"][:2].to_list() == ["u000/1", "u001/1"]
    assert sessions["time"][1] == 1e9 + 86400


def test_samples_point_at_prefix_and_target(tmp_path, log):
    prepared = run(tmp_path, log, max_length=3)
    samples = prepared.samples["train"]
    for index in range(len(samples.end)):
        prefix, target = prepared.prefix(samples, index), int(prepared.sessions.items[samples.end[index]])
        assert 1 <= len(prefix) <= 3
        assert target == prefix[-1] % 20 + 1
        assert int(samples.key[index]) == prefix_key(prefix)
    lengths = samples.end - samples.start
    assert lengths.max() == 3
    assert (lengths == 1).sum() == 48  # the first sample of each session is not lengthened
    whole = prepared.sessions
    assert torch.equal(samples.key, sample_keys(whole, samples.start, samples.end))


def test_train_sessions_are_those_of_the_training_samples(tmp_path, log):
    prepared = run(tmp_path, log, train_prefixes="last")
    assert prepared.stats["rules"]["train_prefixes"] == "last"
    assert prepared.stats["rules"]["test_prefixes"] == "all"
    assert len(prepared.train.offsets) - 1 == 48 == len(prepared.samples["train"].end)
    assert torch.equal(prepared.train.items, prepared.sessions.items[: len(prepared.train.items)])
    assert int(prepared.samples["test"].start.min()) >= len(prepared.train.items)


def test_paper_split_has_an_empty_validation_part(tmp_path, log):
    prepared = run(tmp_path, log, split="paper")
    assert [len(prepared.samples[name].end) for name in ("train", "valid", "test")] == [324, 0, 36]
    assert prepared.samples["valid"].key.dtype == torch.int64


def test_two_runs_write_the_same_bytes(tmp_path, log):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run(tmp_path / name, log, split="random", sample=0.8, seed=5)
    for path in (tmp_path / "one" / "prepare").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / "prepare" / path.name).read_bytes()


def test_max_sessions_and_sample(tmp_path, log):
    prepared = run(tmp_path, log, max_sessions=30, min_item_count=1)
    assert prepared.stats["sessions"] == 30
    assert prepared.stats["first_click"] == 1e9 + 30 * 86400
    assert run(tmp_path, log, sample=0.5, min_item_count=1).stats["sessions"] == 30


def test_what_is_not_taken_and_what_is_cut_is_counted(tmp_path, log):
    whole = run(tmp_path, log, min_item_count=1)
    stats = run(tmp_path, log, max_sessions=30, min_item_count=1).stats
    untaken = "sessions too short or not taken (data.sample, data.max_sessions)"
    assert (whole.stats["dropped"][untaken], stats["dropped"][untaken]) == (0, 30)
    lengths = whole.sessions.offsets.diff()  # a session of n clicks has prefixes of 1 to n - 1 clicks
    cut = run(tmp_path, log, min_item_count=1, max_length=4).stats["dropped"]
    assert cut["samples cut to their last clicks (data.max_length)"] == int((lengths - 5).clamp(min=0).sum())


@pytest.mark.parametrize("name", ["items.parquet", "sessions.parquet", "splits.safetensors", "stats.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_a_damaged_folder_is_a_store_error(tmp_path, log, name, damage):
    run(tmp_path, log)
    path = tmp_path / "prepare" / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-30])
    elif name == "stats.json":
        path.write_text(json.dumps({"sessions": 3}))
    else:
        path.write_bytes(content[:-5] + bytes([content[-5] ^ 1]) + content[-4:])
    with pytest.raises(StoreError, match=name) as caught:
        load(tmp_path / "prepare")
    assert "\n" not in str(caught.value)


def test_catalogue_hash_tells_catalogues_apart():
    one = Catalogue(["a", "b"], ["A", "B"], {"year": ["1", "2"]})
    assert catalogue_hash(one) == catalogue_hash(Catalogue(*one))
    others = [one._replace(titles=["A", "C"]), one._replace(keys=["b", "a"]), one._replace(attributes={})]
    assert len({catalogue_hash(one), *map(catalogue_hash, others)}) == 4


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("LLM4SBR_CACHE", raising=False)
    assert store.cache_dir() == tmp_path / "xdg" / "llm4sbr"
    monkeypatch.setenv("LLM4SBR_CACHE", str(tmp_path / "own"))
    assert store.cache_dir() == tmp_path / "own"
    monkeypatch.delenv("LLM4SBR_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.cache_dir() == tmp_path / ".cache" / "llm4sbr"
