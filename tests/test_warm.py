"""Models that start from an older run's: rows by key, moments, what is refused, and what makes them stale."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from llm4sbr import pipeline, registry, store
from llm4sbr.cli import cli
from llm4sbr.config import nest
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.errors import DamagedError, InputError, StoreError
from llm4sbr.fusion.model import Recipe
from llm4sbr.fusion.on_part import tables_of
from llm4sbr.progress import Progress
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.testing.toy import toy_catalogue, toy_log
from llm4sbr.training.start import Start
from llm4sbr.training.warm import Filling, WarmStart

sys.path.insert(0, str(Path(__file__).parent))

from toy_runs import execute, settings

QUIET = Progress(quiet=True)
PART = "llm/seed-0"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`old`: 20 items, 60 sessions. `new`: started from it, the same log and 30 days and 4 items more."""
    base = tmp_path_factory.mktemp("warm")
    pipeline.execute(base / "old", settings(base), progress=QUIET, until="train")
    _grown(base)
    given = nest({"data.path": str(base / "more")})
    pipeline.execute(base / "new", given, progress=QUIET, start=base / "old")
    return base


def _grown(base: Path) -> None:
    """The old log, then the days after it on the grown catalogue."""
    toy_log(base / "more", items=24, sessions=90)
    lines = (base / "more/interactions.csv").read_text().splitlines(True)
    later = [line for line in lines[1:] if int(line[1:4]) >= 60]
    (base / "more/interactions.csv").write_text((base / "log/interactions.csv").read_text() + "".join(later))


@pytest.fixture
def runs(base: Path, tmp_path: Path) -> Path:
    for name in ("old", "new"):
        shutil.copytree(base / name, tmp_path / name)
    return tmp_path


def _record(run: Path, part: str = PART) -> dict[str, Any]:
    return store.read_json(run / "train" / part / "model.json")


def _prepared(keys: list[str], items: list[int], lengths: list[int]) -> Prepared:
    catalogue = toy_catalogue(len(keys))._replace(keys=keys)
    sessions = Sessions(torch.tensor(items), torch.tensor([0, *lengths]).cumsum(0))
    none = Samples(*(torch.zeros(0, dtype=torch.int64) for _ in Samples._fields))
    return Prepared(catalogue, sessions, sessions, {"train": none}, {})


def test_rows_follow_keys_and_new_ones_their_neighbours_by_hand():
    # Old ids: 1, 2, 3. New catalogue: old item 3, a new item, old item 1, a new item that stands nowhere.
    rows = torch.tensor([2, -1, 0, -1])
    table = torch.tensor([[1.0, 5.0], [9.0, 9.0], [3.0, 1.0]])
    # The new item 2 is next to item 1 (old 3) twice and to item 3 (old 1) once, in sessions of one length.
    fill = Filling(rows, None, _prepared(list("abcd"), [1, 2, 2, 1, 2, 3], [2, 2, 2]))
    found = fill(table, 0)
    assert found[0].tolist() == [3.0, 1.0]
    assert found[2].tolist() == [1.0, 5.0]
    assert torch.allclose(found[1], torch.tensor([(2 * 3 + 1) / 3, (2 * 1 + 5) / 3]))
    assert torch.allclose(found[3], torch.tensor([2.0, 3.0]))  # nothing known: the mean of the known
    assert fill(table, 0, new=False)[1].tolist() == [0.0, 0.0]
    padded = torch.cat([torch.full((1, 2), 7.0), table])
    assert torch.equal(fill(padded, 1), torch.cat([padded[:1], found]))
    assert fill(table[:, 0], 0).shape == (4,)


def test_new_rows_follow_a_linear_map_of_texts_where_there_is_one():
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(400, 3, generator=random)
    rows = torch.arange(400)
    rows[395:] = -1
    table = vectors @ torch.tensor([[1.0, 0.0], [2.0, -1.0], [0.0, 3.0]]) + torch.tensor([4.0, 5.0])
    found = Filling(rows, vectors, _prepared([str(n) for n in range(400)], [1, 2], [2]))(table[:395], 0)
    assert torch.equal(found[:395], table[:395])
    # The ridge is one axis' average of squares: 1 / (1 + 1) of the map at equal axes.
    x = vectors[:395].double() - vectors[:395].double().mean(0)
    products = x.T @ x
    y = table[:395].double() - table[:395].double().mean(0)
    map_ = torch.linalg.inv(products + products.trace() / 3 * torch.eye(3, dtype=torch.float64)) @ x.T @ y
    expected = (vectors[395:].double() - vectors[:395].double().mean(0)) @ map_ + table[:395].double().mean(0)
    assert torch.allclose(found[395:].double(), expected, atol=1e-5)


def test_nothing_known_is_refused():
    with pytest.raises(StoreError, match="no item"):
        Filling(torch.tensor([-1, -1]), None, _prepared(["a", "b"], [1, 2], [2]))


@pytest.mark.parametrize("name", [one.name for one in registry.components("backbones")])
def test_every_backbones_tables_are_found(name: str):
    model = tables_of(Recipe(20, 8, name))
    assert model
    assert set(model.values()) <= {0, 1}


def test_weights_before_training_are_the_old_ones_by_key(base: Path) -> None:
    from llm4sbr.fusion.saved import load_model

    old, new = load(base / "old/prepare").catalogue.keys, load(base / "new/prepare")
    start = Start.of(base / "new")
    assert start is not None
    saved = load_model(base / "new/train" / PART)
    warm = WarmStart.of(start, PART, saved.recipe, base / "new", new, None)
    assert warm is not None
    assert warm.load(saved.model) == []
    before = store.read_tensors(base / "old/train" / PART / "model.safetensors")["backbone.items"]
    table = saved.model.backbone.items
    assert (len(old), len(new.catalogue.keys)) == (20, 24)
    for number, key in enumerate(new.catalogue.keys):
        if key in old:
            assert torch.equal(table[number], before[old.index(key)])
    # Moments go to the same rows; a new item has none.
    moments = store.read_tensors(base / "old/train" / PART / "moments.safetensors")
    optimizer = torch.optim.Adam(saved.model.parameters(), 0.1, fused=True)
    warm.resume(saved.model, {"adam": optimizer})
    squares, known = optimizer.state[table]["exp_avg_sq"], moments["backbone.items.exp_avg_sq"]
    assert float(known.abs().max()) > 0
    for number, key in enumerate(new.catalogue.keys):
        expected = known[old.index(key)] if key in old else torch.zeros_like(known[0])
        assert torch.equal(squares[number], expected)
    assert float(optimizer.state[table]["step"]) == float(moments["backbone.items.step"]) > 0


def test_an_epoch_has_what_is_new_and_as_much_of_what_is_old(base: Path) -> None:
    run, prepared = base / "new", load(base / "new/prepare")
    start = Start.of(run)
    assert start is not None
    new = start.unseen(run, prepared)
    old = load(base / "old/prepare")
    count = len(old.train.offsets) - 1  # the toy log's sessions are whole days, in order
    first = int(prepared.sessions.offsets[count])
    assert torch.equal(new, prepared.samples["train"].start >= first)
    assert 0 < int(new.sum()) < int((~new).sum())
    warm = WarmStart({}, {}, new, {})
    random = torch.Generator().manual_seed(0)
    one, two = (warm.epoch(1.0, random) for _ in range(2))
    for chosen in (one, two):
        assert len(chosen.unique()) == len(chosen) == 2 * int(new.sum())
        assert int(new[chosen].sum()) == int(new.sum())
    assert not torch.equal(one, two)
    assert torch.equal(warm.epoch(0.0, random), new.nonzero().squeeze(1))
    assert torch.equal(warm.epoch(1e9, random), torch.arange(len(new)))
    assert torch.equal(warm._replace(new=new & False).epoch(1.0, random), torch.arange(len(new)))
    facts = _record(run)["facts"]
    assert facts["samples"] == 2 * facts["warm"]["new_samples"] == 2 * int(new.sum())


def test_learned_maps_keep_the_axes_that_they_refer_to(base: Path) -> None:
    old, new = (
        store.read_tensors(base / one / "train" / PART / "model.safetensors") for one in ("old", "new")
    )
    assert torch.equal(old["fuser.whitening.axes"], new["fuser.whitening.axes"])
    assert len(new["fuser.titles.vectors"]) == 24


def test_it_is_told_everywhere(base: Path) -> None:
    facts = _record(base / "new")["facts"]["warm"]
    assert facts["from"] == "old"
    assert facts["weights"] == _record(base / "old")["weights"]
    assert (facts["items"], facts["new_items"], facts["new_rows_from"]) == (20, 4, "titles")
    assert facts["own"] == []
    assert _record(base / "new", "plain/seed-0")["facts"]["warm"]["new_rows_from"] == "sessions"
    metrics = store.read_json(base / "new/evaluate/metrics.json")
    assert metrics["warm"] == {"from": "old", "anew": []}
    assert "models started from those of old" in (base / "new/report.html").read_text()
    assert "warm" not in _record(base / "old")["facts"]


def test_what_it_started_from_decides_and_the_old_run_may_go(runs: Path) -> None:
    shutil.rmtree(runs / "old")
    (runs / "new").rename(runs / "renamed")
    assert execute(runs / "renamed", {}) == [
        f"{stage}: fresh" for stage in ("prepare", "infer", "localize", "train", "evaluate")
    ]


@pytest.mark.slow
def test_other_old_weights_train_what_started_from_them_only(runs: Path) -> None:
    # Without intents (`none`) there is nothing that tau weighs: the same weights, so the same start.
    execute(runs / "old", {"train.tau": 0.3}, until="train")
    lines = execute(runs / "new", {}, start=runs / "old")
    assert "train: redone, start changed" in lines
    assert "train: 2 of 3 models are there already" in lines
    lines = execute(runs / "new", {}, start=runs / "old")
    assert "train: fresh" in lines
    assert any("redone, start: " in line for line in execute(runs / "new", {}, start="none"))
    assert "warm" not in _record(runs / "new")["facts"]
    assert not (runs / "new/start").exists()


@pytest.mark.slow
def test_epochs_of_a_start_concern_only_those_that_have_one(runs: Path) -> None:
    assert "train: 3 of 3 models are there already" in execute(
        runs / "old", {"train.warm_epochs": 2}, until="train"
    )
    assert "train: 3 of 3 models are there already" not in execute(runs / "new", {"train.warm_epochs": 2})


def refused(runs: Path, given: dict[str, Any], old: str = "old") -> str:
    with pytest.raises((InputError, StoreError)) as found:
        execute(runs / "fresh", given, until="train", start=runs / old)
    assert not (runs / "fresh").exists()
    return str(found.value)


def test_refused_and_nothing_is_left(runs: Path, base: Path) -> None:
    more = {"data.path": str(base / "more")}
    assert "train.dim is 8 in old and 6 in" in refused(runs, more | {"train.dim": 6})
    assert "no such run" in refused(runs, more, old="odl")
    toy_log(runs / "other", items=30)
    names = (runs / "other/items.csv").read_text().replace("i", "x").replace("xtem_xd,txtle", "item_id,title")
    (runs / "other/items.csv").write_text(names)
    clicks = (runs / "other/interactions.csv").read_text().replace(",i", ",x").replace(",xtem_id", ",item_id")
    (runs / "other/interactions.csv").write_text(clicks)
    assert "of another data set: 0 of its 20 items" in refused(runs, {"data.path": str(runs / "other")})
    # A split at random tests on what the old models were trained on.
    assert "trained on in old" in refused(runs, more | {"data.split": "random"})
    with pytest.raises(InputError, match="cannot start from itself"):
        execute(runs / "new", {}, until="train", start=runs / "new")
    assert execute(runs / "new", {})[3] == "train: fresh"


def test_other_components_later_are_refused_and_the_models_stay(runs: Path) -> None:
    before = (runs / "new/train" / PART / "model.json").read_bytes()
    with pytest.raises(InputError, match="--from none"):
        execute(runs / "new", {"train.backbone": "gru4rec"}, until="train")
    assert (runs / "new/train" / PART / "model.json").read_bytes() == before
    assert execute(runs / "new", {})[3] == "train: fresh"


def test_damaged_weights_to_start_from(runs: Path) -> None:
    for name in ("model.safetensors", "moments.safetensors"):
        path = runs / "new/start" / PART / name
        path.write_bytes(path.read_bytes()[:-1] + b"!")
        with pytest.raises(DamagedError, match="begin again with --from"):
            execute(runs / "new", {}, until="train", force=True)
        shutil.copy(runs / "old/train" / PART / name, path)


@pytest.mark.slow
def test_the_command(runs: Path, base: Path) -> None:
    found = CliRunner().invoke(
        cli, ["train", str(runs / "two"), "--from", str(runs / "old"), "--data", str(base / "more"), "--json"]
    )
    assert found.exit_code == 0, found.output
    assert _record(runs / "two")["weights"] == _record(runs / "new")["weights"]
    assert '"from": "old"' in found.output
