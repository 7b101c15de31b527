"""Training on sampled items: what is drawn, what a step computes and changes, whole trainings."""

from __future__ import annotations

import json
import math
import threading
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from llm4sbr.backbones.sr_gnn import SRGNN
from llm4sbr.config import TrainConfig
from llm4sbr.data.batches import Batch
from llm4sbr.errors import ConfigError
from llm4sbr.fusion.model import LLM4SBR, Recipe, build
from llm4sbr.fusion.on_part import item_tables, rows_read
from llm4sbr.stages.train import TrainingJob, train_job
from llm4sbr.store import read_tensors
from llm4sbr.testing.backbones import pad
from llm4sbr.testing.toy import toy_sessions
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.testing.training import equal, log, record, settings, trained, weights
from llm4sbr.training import negatives
from llm4sbr.training.negatives import Negatives, Sample, chosen_loss
from llm4sbr.training.step import Step
from llm4sbr.training.team import ALONE, Team

CPU = torch.device("cpu")
ITEMS = 40
SESSIONS = [[3], [1, 2, 3, 4, 5], [7, 7, 7], [2, 9, 2, 9, 4, 2], [5, 9], [8, 1], [4]]


@pytest.fixture(autouse=True)
def one_thread():
    """Several threads gain nothing on toys, and add up in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch_of(sessions: list[list[int]]) -> Batch:
    items, mask = pad(sessions)
    return Batch(items, mask, torch.arange(len(sessions)) % 9 + 1, torch.arange(len(sessions)))


def test_the_share_by_hand() -> None:
    """p = 1 - (1 - q)^n (1 - t)^B, for items that are drawn, targets, or both; not for items only read."""
    clicks, targets = torch.tensor([4, 1, 1, 0]), torch.tensor([3, 1, 0, 0])
    batch = Batch(torch.tensor([[3]]), torch.tensor([[True]]), torch.tensor([1]), torch.tensor([0]))
    found = Negatives("uniform", 2, clicks, targets)
    random = torch.Generator().manual_seed(0)
    for _ in range(30):
        sample = found.draw(batch, torch.tensor([0, 3]), random)
        shares = dict(zip(sample.ids.tolist(), sample.log_share.exp().tolist(), strict=True))
        expected = {1: 1 - 0.75**2 * 0.25, 2: 1 - 0.75**2 * 0.75, 3: 1 - 0.75**2, 4: 1 - 0.75**2}
        assert {1, 3} <= shares.keys() <= expected.keys()
        for item, share in shares.items():
            assert share == pytest.approx(expected[item]) or (item == 3 and share == math.inf)
    alone = Negatives("in-batch", 2, clicks, targets).draw(batch, torch.tensor([3]), random)
    assert alone.ids.tolist() == [1, 3]
    assert alone.log_share.exp().tolist() == pytest.approx([0.75, math.inf])
    q = torch.tensor([2, 1, 1, 0.5**0.5]) / (4 + 0.5**0.5)  # roots of the clicks, at least half a click each
    popular = Negatives("popularity", 2, clicks, targets)
    torch.testing.assert_close(popular.chance, q.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["uniform", "popularity"])
def test_the_sum_over_a_sample_is_that_over_all_on_average(kind: str) -> None:
    torch.manual_seed(0)
    size, scores = 50, torch.randn(50).double()
    clicks = torch.randint(0, 30, (size,))
    found = Negatives(kind, 8, clicks, clicks)
    random = torch.Generator().manual_seed(0)
    sums = []
    for _ in range(2500):
        targets = torch.multinomial(clicks.float(), 3, replacement=True, generator=random) + 1
        batch = Batch(targets, targets > 0, targets, targets)
        ids, share = found.draw(batch, torch.zeros(0, dtype=torch.int64), random)
        sums.append((scores[ids - 1].exp() / share.exp()).sum())
    mean, spread = torch.stack(sums).mean(), torch.stack(sums).std() / len(sums) ** 0.5
    assert abs(mean - scores.exp().sum()) < 4 * spread
    assert spread < 0.02 * mean


def fresh(backbone: str = "sr-gnn", fuser: str | None = None, neighbours: int = 0) -> tuple[LLM4SBR, Recipe]:
    torch.manual_seed(0)
    recipe = Recipe(ITEMS, 6, backbone, neighbours=neighbours)
    if fuser:
        recipe = recipe._replace(
            fuser=fuser, perspectives=("long", "short"), horizons=("long", "short"), text_dim=4
        )
    model = build(recipe)
    model.backbone.fit(toy_sessions(items=20))
    return model, recipe


def sample_of(model: LLM4SBR, recipe: Recipe, batch: Batch, drawn: list[int]) -> Sample:
    """The batch's targets and these items, each for three others but itself."""
    read = rows_read(model, item_tables(recipe), batch.items[batch.mask])
    scored = torch.cat([batch.target, torch.tensor(drawn)])
    ids = torch.cat([scored, read[read > 0]]).unique()
    return Sample(ids, torch.where(torch.isin(ids, scored), math.log(0.25), torch.inf))


@pytest.mark.parametrize("repeats", [True, False])
def test_the_loss_of_a_step_by_hand(repeats: bool) -> None:
    model, recipe = fresh()
    batch, drawn = batch_of(SESSIONS), [30, 31, 32, 4]
    scores = model(batch.items, batch.mask).detach()
    expected = []
    for row, target in enumerate(batch.target.tolist()):
        others = {*batch.target.tolist(), *drawn} - {target}
        if not repeats:
            others -= set(SESSIONS[row])
        own = scores[row, target - 1]
        rest = sum(4 * scores[row, item - 1].exp() for item in others)
        expected.append(torch.log(own.exp() + rest) - own)
    part = ALONE.part(batch, sample_of(model, recipe, batch, drawn))
    step = Step(model, TrainConfig(), team=ALONE, device=CPU, repeats=repeats, tables=item_tables(recipe))
    assert float(step(part, None)[1]) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)


def test_a_step_changes_the_rows_in_use_alone() -> None:
    model, recipe = fresh("fpmc", "whitened")
    before = deepcopy(model.state_dict())
    batch = batch_of(SESSIONS)
    sample = sample_of(model, recipe, batch, [30, 31])
    step = Step(model, TrainConfig(l2=0.1), team=ALONE, device=CPU, tables=item_tables(recipe))
    for _ in range(3):
        step(ALONE.part(batch, sample), torch.randn(7, 2, 4))
    step.end_epoch()
    for name in ("backbone.items", "backbone.previous"):
        changed = (model.state_dict()[name] != before[name]).any(1).nonzero().squeeze(1) + 1
        assert changed.tolist() == sample.ids.tolist()
    assert not step.place.any()
    assert all(torch.equal(one, before[name]) for name, one in model.named_buffers())


@pytest.mark.parametrize("fuser", [None, "gated"])
def test_with_every_item_a_step_is_that_of_the_full_loss(fuser: str | None) -> None:
    """As p is 1 then; also with the item-item model, whose tables hold ids of the catalogue."""
    batch, intents = batch_of(SESSIONS), torch.randn(7, 2, 4) if fuser else None
    everything = Sample(torch.arange(1, ITEMS + 1), torch.zeros(ITEMS))
    losses, models = [], []
    for sample in (None, everything):
        model, recipe = fresh(fuser=fuser, neighbours=3)
        assert model.item_item is not None
        torch.manual_seed(1)
        model.item_item.items.copy_(torch.randint(0, ITEMS + 1, (ITEMS, 3)))
        model.item_item.weights.copy_(torch.rand(ITEMS, 3) * (model.item_item.items > 0))
        tables = item_tables(recipe) if sample else None
        step = Step(model, TrainConfig(), team=ALONE, device=CPU, repeats=False, tables=tables)
        losses.append(torch.stack([step(ALONE.part(batch, sample), intents) for _ in range(4)]))
        models.append(model)
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
    for (name, one), two in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-4, msg=name)


class Threads(Team):
    """A team whose processes are threads of this one."""

    def __init__(self, rank: int, size: int, shared: Any) -> None:
        super().__init__(rank, size)
        self.tensors, self.barrier = shared

    def sum(self, tensor: Tensor) -> Tensor:
        self.tensors[self.rank] = tensor.clone()
        self.barrier.wait(20)
        tensor.copy_(sum(self.tensors))
        self.barrier.wait(20)
        return tensor


@pytest.mark.parametrize("samples", [7, 2])
def test_three_processes_make_the_step_of_one(samples: int) -> None:
    alone, recipe = fresh("gce-gnn", "whitened")
    alone.train()
    for module in alone.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    assert alone.fuser is not None
    alone.fuser.keep.fill_(1.0)  # type: ignore[union-attr, operator]
    models, tables = [deepcopy(alone) for _ in range(3)], item_tables(recipe)
    batch, intents = batch_of(SESSIONS[:samples]), torch.randn(samples, 2, 4)
    sample = sample_of(alone, recipe, batch, [30, 31])
    losses = Step(alone, TrainConfig(), team=ALONE, device=CPU, tables=tables)(
        ALONE.part(batch, sample), intents
    )
    shared, found = ([None] * 3, threading.Barrier(3)), [torch.zeros(4)] * 3

    def work(rank: int) -> None:
        team = Threads(rank, 3, shared)
        part = team.part(batch, sample)
        step = Step(models[rank], TrainConfig(), team=team, device=CPU, tables=tables)
        found[rank] = step(part, intents[part.batch.index])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(sum(found), losses)
    for model in models:
        for (name, one), two in zip(models[0].named_parameters(), model.parameters(), strict=True):
            assert torch.equal(one, two), name
        torch.testing.assert_close(
            model.backbone.item_embeddings(), alone.backbone.item_embeddings(), rtol=0, atol=1e-4
        )


@pytest.mark.parametrize(
    ("kind", "variant"), [("uniform", "plain"), ("popularity", "llm"), ("in-batch", "plain")]
)
def test_learns_the_toy_rule(tmp_path: Path, kind: str, variant: str) -> None:
    """Also with intents, whose fuser scores titles, with the item-item model and without own items."""
    run = toy_run(tmp_path / "run", sources=("llm",))
    some = {"dim": 16, "epochs": 25, "learning_rate": 0.03, "decay": 1, "patience": 40, "counted": ()}
    job = TrainingJob(run, run / "model", settings(loss=kind, negatives=8, **some), variant, 0)
    train_job(job, lambda count, note: None)
    facts = json.loads((run / "model/model.json").read_text())["facts"]
    assert facts["valid"]["HR@5"] == 1
    assert facts["loss"] == ("in-batch" if kind == "in-batch" else f"{kind}, 8 negatives")


@pytest.mark.parametrize("backbone", ["sr-gnn", "gce-gnn", "fpmc"])
def test_interrupted_training_ends_with_the_same_weights(tmp_path: Path, backbone: str) -> None:
    run = toy_run(tmp_path / "run", sources=("llm",))
    some = {"loss": "popularity", "negatives": 6, "epochs": 2, "intent_dropout": 0.2, "backbone": backbone}
    config = settings(controls=(), counted=(), **some)
    whole, broken = (TrainingJob(run, run / name, config, "llm", 0) for name in ("whole", "broken"))
    train_job(whole, lambda count, note: None)
    done: list[int] = []

    def stops(count: int, note: str) -> None:
        done.append(count)
        if len(done) == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_job(broken, stops)
    assert 1 <= len((run / "broken/log.jsonl").read_text().splitlines()) < 2
    train_job(broken, lambda count, note: None)
    one, two = (weights_in(run / name) for name in ("whole", "broken"))
    assert equal(one, two)


def weights_in(folder: Path) -> dict[str, Tensor]:
    return read_tensors(folder / "model.safetensors")


def test_auto_samples_large_catalogues_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = toy_run(tmp_path / "run", sources=())
    assert record(trained(run, settings(epochs=1, negatives=7), "small"))["facts"]["loss"] == "full"
    monkeypatch.setattr(negatives, "FULL_UNTIL", 19)
    out = trained(run, settings(epochs=1, negatives=7), "large")
    assert record(out)["facts"]["loss"] == "popularity, 7 negatives"
    some = settings(epochs=1, negatives=7, backbone="s2-dhcn")
    assert record(trained(run, some, "cannot"))["facts"]["loss"] == "full"
    assert len(log(out)) == 1
    assert not equal(weights(out), weights(run / "small"))


def test_whole_numbers_of_unknown_meaning_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(self: SRGNN, *given: Any, **options: Any) -> None:
        before(self, *given, **options)
        self.register_buffer("friends", torch.zeros(len(self.items), 2, dtype=torch.int64))

    before = SRGNN.__init__
    monkeypatch.setattr(SRGNN, "__init__", init)
    with pytest.raises(ConfigError, match=r"backbone.friends has whole numbers, .* `item_ids`"):
        item_tables(Recipe(9, 4, "sr-gnn"))
    monkeypatch.setattr(SRGNN, "item_ids", ("friends",), raising=False)
    assert item_tables(Recipe(9, 4, "sr-gnn")).ids == ("backbone.friends",)


def test_what_cannot_be_sampled_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"train.loss = uniform: the backbone 's2-dhcn' .* train.loss=full"):
        chosen_loss(TrainConfig(loss="uniform", negatives=5), Recipe(9, 4, "s2-dhcn"))
    with pytest.raises(ConfigError, match=r"train.negatives = 10: the catalogue has 9 items"):
        chosen_loss(TrainConfig(loss="popularity", negatives=10), Recipe(9, 4, "sr-gnn"))
    assert chosen_loss(TrainConfig(loss="in-batch", negatives=10), Recipe(9, 4, "sr-gnn"))[0] == "in-batch"


def test_corrected_scores_by_hand() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0]])
    share = torch.tensor([0.5, 0.25, math.inf])
    found = negatives.corrected(scores, share, torch.tensor([2]))
    assert found.tolist() == [[0.5, 2.0, -math.inf]]
    assert functional.cross_entropy(found, torch.tensor([1])).isfinite()
