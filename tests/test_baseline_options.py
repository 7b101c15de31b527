"""Options of baselines: used wherever the baseline is, checked before use, and fitted again one by one."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from llm4sbr import pipeline, store
from llm4sbr.baselines.slist import SLIST, slis, slit
from llm4sbr.config import flatten, merge, nest, read_toml, space
from llm4sbr.config.in_force import configure
from llm4sbr.data.prepared import load
from llm4sbr.errors import ConfigError, Llm4sbrError
from llm4sbr.evaluation.ranking import rank_all
from llm4sbr.progress import Progress
from llm4sbr.serving.recommend import Recommender
from llm4sbr.testing.backbones import pad
from llm4sbr.tuning.space import search_space

sys.path.insert(0, str(Path(__file__).parent))

from toy_runs import execute, settings

L2 = "train.baseline_options.slist.l2"
OTHER = {"alpha": 1.0, "decay": 100.0}
"""Options with which the toy's sessions are ranked otherwise: blind to order."""

RANKS = "evaluate/baselines/{}/ranks.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("finished")
    small = nest({"infer.llm": "none", "train.baselines": ["popularity", "slist"]})
    pipeline.execute(base / "run", merge(settings(base), small), progress=Progress(quiet=True))
    return base / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def made(run: Path) -> dict[str, int]:
    """Which file holds a baseline's ranks: one that was written again is another one."""
    return {name: (run / RANKS.format(name)).stat().st_ino for name in ("popularity", "slist")}


def ranks(run: Path, **options: float) -> torch.Tensor:
    """The ranks that SLIST with these options gives to the test samples."""
    prepared = load(run / "prepare")
    model = SLIST(prepared.catalogue.size, **options)  # type: ignore[arg-type]
    model.fit(prepared.train)
    return rank_all(
        lambda batch: model.score(batch.items, batch.mask),
        prepared.sessions,
        prepared.samples["test"],
        num_items=prepared.catalogue.size,
        batch_size=512,
        repeats=prepared.repeats,
    )


def found(run: Path) -> torch.Tensor:
    return store.read_tensors(run / "evaluate/ranks.safetensors")["slist"]


def test_an_option_is_used_and_fits_its_own_baseline_alone(run: Path) -> None:
    before, usual = made(run), ranks(run)
    assert torch.equal(found(run), usual)
    lines = execute(run, {f"train.baseline_options.slist.{one}": value for one, value in OTHER.items()})
    assert lines[:4] == [f"{name}: fresh" for name in ("prepare", "infer", "localize", "train")]
    changes = (
        "train.baseline_options.slist.alpha: None -> 1.0; train.baseline_options.slist.decay: None -> 100.0"
    )
    assert lines[4:] == [f"evaluate: redone, {changes}", "evaluate: 1 of 2 baselines are there already"]
    other = ranks(run, **OTHER)
    assert torch.equal(found(run), other)
    assert not torch.equal(other, usual), "the options change nothing here, so the test shows nothing"
    after = made(run)
    assert (after["popularity"] == before["popularity"], after["slist"] == before["slist"]) == (True, False)
    execute(run, {"train.baseline_options.slist": "default"})
    assert torch.equal(found(run), usual)
    assert "baseline_options" not in (run / "config.toml").read_text()


def test_other_lists_and_baselines_fit_only_what_is_new(run: Path) -> None:
    before = made(run)
    assert execute(run, {"evaluate.k": [3]})[-1] == "evaluate: 2 of 2 baselines are there already"
    execute(run, {"train.baselines": ["slist", "s-pop"]})
    assert list(store.read_json(run / "evaluate/metrics.json")["rows"][i]["name"] for i in (0, 1)) == [
        "slist",
        "s-pop",
    ]
    lines = execute(run, {"train.baselines": ["popularity", "slist"]})
    assert lines[-1] == "evaluate: 2 of 2 baselines are there already"
    assert made(run) == before


@pytest.mark.parametrize("how", ["deleted", "changed"])
def test_damaged_ranks_are_made_again_and_no_others(run: Path, how: str) -> None:
    before, path = made(run), run / RANKS.format("slist")
    path.unlink() if how == "deleted" else path.write_bytes(bytes(path.stat().st_size))
    what = "is missing" if how == "deleted" else "has changed since it was written"
    assert f"evaluate: redone, {RANKS.format('slist')} {what}" in execute(run, {})
    assert torch.equal(found(run), ranks(run))
    assert made(run)["popularity"] == before["popularity"]


def test_other_data_fits_all_again(run: Path) -> None:
    lines = execute(run, {"data.max_length": 3})
    assert "there already" not in lines[-1]
    assert torch.equal(found(run), ranks(run))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({L2: -1.0}, "l2 = -1 must be above 0"),
        ({L2: "much"}, "option l2 = 'much'"),
        ({"train.baseline_options.slist.colour": 1}, "baseline 'slist' has no option 'colour'; it takes: "),
        (
            {"train.baseline_options.slist.num_items": 3},
            "slist.num_items: no option; the value comes from the catalogue",
        ),
        ({"train.baseline_options.stan.k": 3}, "train.baselines does not name it; it has popularity, slist"),
        ({"train.baseline_options.slits.l2": 3}, "slits: train.baselines does not name it"),
        ({"train.baseline_options.slist": 3}, "train.baseline_options.slist = 3"),
    ],
)
def test_what_cannot_be_used_is_refused_and_not_kept(run: Path, given: dict[str, Any], message: str) -> None:
    before = (run / "config.toml").read_bytes()
    with pytest.raises(Llm4sbrError) as error:
        execute(run, given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert (run / "config.toml").read_bytes() == before
    assert execute(run, {})[-1] == "evaluate: fresh"


def test_options_go_with_their_baseline(run: Path) -> None:
    execute(run, {L2: 1.0})
    execute(run, {"train.baselines": ["popularity"]})
    assert "train.baseline_options.slist.l2" not in flatten(read_toml(run / "config.toml"))
    execute(run, {"train.baselines": ["stan"], "train.baseline_options.stan.k": 3})
    assert flatten(read_toml(run / "config.toml"))["train.baseline_options.stan.k"] == 3


def test_the_model_that_is_served_has_the_options_of_the_table(run: Path) -> None:
    execute(run, {L2: 0.01, "train.baseline_options.slist.neighbours": 3})
    prepared = load(run / "prepare")
    model = SLIST(prepared.catalogue.size, l2=0.01, neighbours=3)
    model.fit(prepared.train)
    batch = pad([[1, 2], [3]])
    with torch.no_grad():
        served = Recommender.load(run, variant="slist").model(*batch)
    torch.testing.assert_close(served, model.score(*batch))


def test_trials_of_a_model_do_not_search_them(run: Path) -> None:
    with pytest.raises(ConfigError, match=f"{L2}: does not decide how a model is trained"):
        search_space(configure(run), "plain", space.given([f"{L2}=1,10"]))


def test_the_parts_of_slist_take_its_options() -> None:
    first, second = slis(3, l2=2.0, neighbours=5), slit(3, cut_decay=1.0, decay=4.0)
    assert (first.alpha, first.l2, first.kept) == (1, 2, 5)
    assert (second.alpha, second.cut_decay, second.decay) == (0, 1, 4)
