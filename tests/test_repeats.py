"""A session's own items: counted, left out of the softmax, of every rank, and of lists that are served."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from torch.nn import functional

from llm4sbr.config import Config, build, nest
from llm4sbr.data.batches import collate, sample_keys
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.data.repeats import repeat_share, without_own
from llm4sbr.evaluation.ranking import rank_all
from llm4sbr.fusion.model import Recipe
from llm4sbr.fusion.model import build as build_model
from llm4sbr.progress import Progress
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.stages.prepare import prepare
from llm4sbr.training.step import Step
from llm4sbr.training.team import ALONE

CPU, QUIET = torch.device("cpu"), Progress(quiet=True)


def every_prefix(lists: list[list[int]], longest: int = 50) -> tuple[Sessions, Samples]:
    ends = torch.tensor([len(one) for one in lists]).cumsum(0)
    sessions = Sessions(torch.tensor([i for one in lists for i in one]), torch.cat([torch.tensor([0]), ends]))
    spans = [
        (max(int(first), end - longest), end)
        for first, last in zip(sessions.offsets, sessions.offsets[1:], strict=False)
        for end in range(int(first) + 1, int(last))
    ]
    start, end = torch.tensor(spans, dtype=torch.int64).reshape(-1, 2).T.contiguous()
    return sessions, Samples(start, end, sample_keys(sessions, start, end))


def test_the_share_of_repeats_by_hand():
    assert repeat_share(*every_prefix([[1, 2, 1], [1, 3], [2, 2, 2]])) == 3 / 5
    assert repeat_share(*every_prefix([[1, 2, 3], [3, 2, 1]])) == 0  # another session's items do not count
    assert repeat_share(*every_prefix([[1, 2, 3, 1]], longest=2)) == 0  # 1 is no longer in the prefix
    assert repeat_share(*every_prefix([])) == 0


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, 4), min_size=2, max_size=6), min_size=1, max_size=6), st.integers(1, 6)
)
def test_the_share_of_repeats_is_what_a_loop_counts(lists, longest):
    sessions, samples = every_prefix(lists, longest)
    items = sessions.items.tolist()
    found = [
        items[end] in items[start:end] for start, end in zip(*(x.tolist() for x in samples[:2]), strict=True)
    ]
    assert repeat_share(sessions, samples) == pytest.approx(sum(found) / len(found))


def test_own_items_have_minus_infinity_and_a_target_keeps_its_score():
    scores = torch.arange(8.0).reshape(2, 4)
    items, mask = torch.tensor([[3, 1, 3], [2, 0, 0]]), torch.tensor([[True] * 3, [True, False, False]])
    gone = -torch.inf
    assert without_own(scores, items, mask).tolist() == [[gone, 1, gone, 3], [4, gone, 6, 7]]
    kept = without_own(scores, items, mask, but=torch.tensor([3, 4]))
    assert kept.tolist() == [[gone, 1, 2, 3], [4, gone, 6, 7]]


def test_ranks_without_own_items_by_hand():
    sessions, samples = every_prefix([[1, 2, 3], [4, 1, 4]])
    scores = torch.tensor([[9.0, 8.0, 7.0, 6.0]])

    def ranks(*, repeats: bool) -> list[int]:
        score = lambda batch: scores.expand(len(batch.target), -1)  # noqa: E731
        return rank_all(score, sessions, samples, num_items=4, batch_size=3, repeats=repeats).tolist()

    assert ranks(repeats=True) == [2, 3, 1, 4]
    assert ranks(repeats=False) == [1, 1, 1, 4]  # the last target is an item of its session: never found


@pytest.mark.parametrize("dim", [8, 100])
@pytest.mark.parametrize("fuser", [None, "gated"])
def test_a_step_learns_nothing_about_own_items(dim, fuser):
    """The loss and the change of the weights are those of a softmax over the other items and the target."""
    sessions, samples = every_prefix([[1, 2, 3, 4, 5], [5, 2, 5, 1], [6, 6]] * 40)
    batch = collate(sessions, samples, torch.arange(len(samples.end)))
    about = {"perspectives": ("long",), "horizons": ("long",), "text_dim": 4} if fuser else {}
    recipe = Recipe(7, dim, "sr-gnn", fuser=fuser, **about)
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(build_model(recipe))
    intents = torch.randn(len(batch.index), 1, 4) if fuser else None
    config = Config().train.model_copy(update={"tau": 0.0})
    step = Step(models[0], config, team=ALONE, device=CPU, repeats=False)
    losses = step(ALONE.part(batch), intents)

    output = models[1].represent(batch.items, batch.mask, intents)
    rows = []
    for row, target in enumerate(batch.target.tolist()):
        others = [i for i in range(1, 8) if i == target or i not in batch.items[row].tolist()]
        chosen = output.scores[row, torch.tensor(others) - 1]
        rows.append(functional.cross_entropy(chosen, torch.tensor(others.index(target))))
    expected = torch.stack(rows).mean()
    expected.backward()
    assert float(losses[1]) == pytest.approx(float(expected.detach()), rel=1e-4)
    changed = dict(models[0].named_parameters())
    for name, parameter in models[1].named_parameters():
        assert torch.allclose(changed[name].grad, parameter.grad, atol=1e-5), name


def _prepared(folder: Path, sessions: list[list[int]], **data: object) -> tuple[Prepared, list[str]]:
    (folder / "log").mkdir(parents=True)
    rows = [
        (f"s{s}", f"i{i}", 1e9 + 1e5 * s + n) for s, one in enumerate(sessions) for n, i in enumerate(one)
    ]
    log = pl.DataFrame(rows, schema=["session_id", "item_id", "timestamp"], orient="row")
    log.write_csv(folder / "log" / "interactions.csv")
    items = sorted({item for _, item, _ in rows})
    pl.DataFrame({"item_id": items, "title": items}).write_csv(folder / "log" / "items.csv")
    (folder / "prepare").mkdir()
    chosen = {"reader": "csv", "path": folder / "log", "min_item_count": 1, **data}
    told: list[str] = []
    progress = Progress(quiet=True)
    progress.note = told.append  # type: ignore[method-assign]
    prepare(
        folder,
        folder / "prepare",
        build(nest({f"data.{key}": value for key, value in chosen.items()})),
        progress,
    )
    return load(folder / "prepare"), told


@pytest.mark.parametrize(
    ("again", "repeats", "share"),
    [(0, False, 0.0), (1, False, 1 / 240), (3, True, 3 / 240), (80, True, 80 / 240)],
)
def test_the_data_decides(tmp_path, again, repeats, share):
    """80 of 100 sessions are trained on, 3 targets each; from 1% of repeats on, own items may be listed."""
    lists = [[0, 1, 2, 1 if n < again else 3] for n in range(80)] + [[0, 1, 2, 3]] * 20
    found, told = _prepared(tmp_path, lists)
    assert found.repeats is repeats
    assert found.stats["rules"]["repeats"] is repeats
    assert found.stats["repeat_share"] == pytest.approx(share, abs=1e-6)
    assert any("repeat an item of their session" in line for line in told)


@pytest.mark.parametrize(("chosen", "repeats"), [("yes", True), ("no", False)])
def test_a_choice_wins(tmp_path, chosen, repeats):
    lists = [[0, 1, 0, 1], [1, 2, 3]] * 10
    found, _ = _prepared(tmp_path, lists, repeats=chosen)
    assert found.repeats is repeats
    assert found.stats["repeat_share"] > 0.3


def test_data_of_an_earlier_version_kept_own_items_in(tmp_path):
    found, _ = _prepared(tmp_path, [[0, 1, 2]] * 20)
    rules = {"split": "random"}
    assert not found.repeats
    assert found._replace(stats={"rules": rules}).repeats
