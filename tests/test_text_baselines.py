"""Baselines that rank by text: `llmseqsim` and `llm-infer`."""

from __future__ import annotations

import json

import pytest
import torch

from llm4sbr import registry
from llm4sbr.config import build, to_settings
from llm4sbr.data.prepared import load
from llm4sbr.errors import ConfigError
from llm4sbr.intents import IntentStore
from llm4sbr.localizers.candidates import Candidates
from llm4sbr.progress import Progress
from llm4sbr.protocols import Catalogue, Localization, Sessions
from llm4sbr.stages.evaluate import evaluate
from llm4sbr.stages.train import train
from llm4sbr.store import read_tensors
from llm4sbr.testing.localizers import LetterEncoder
from llm4sbr.testing.toy_run import toy_run

QUIET = Progress(quiet=True)
TITLES = torch.tensor([[2.0, 0.0], [0.0, 0.5], [3.0, 3.0], [-1.0, 0.0]])
ROOT = 2**-0.5


def created(name):
    made = registry.create("baselines", name, num_items=4)
    made.fit(Sessions(torch.tensor([1, 2]), torch.tensor([0, 2])))
    made.fit_text(TITLES)
    return made


def test_llmseqsim_by_hand():
    items = torch.tensor([[1, 2, 0], [1, 1, 2], [3, 0, 0]])
    scores = created("llmseqsim").score(items, items > 0)
    # unit titles (1, 0), (0, 1), (r, r), (-1, 0); sums (1, 1), (2, 1) and (r, r), scaled to length 1
    fifth = 5**-0.5
    expected = [
        [ROOT, ROOT, 1.0, -ROOT],
        [2 * fifth, fifth, 3 * ROOT * fifth, -2 * fifth],
        [ROOT, ROOT, 1.0, -ROOT],
    ]
    torch.testing.assert_close(scores, torch.tensor(expected))


def test_llm_infer_by_hand():
    items = torch.tensor([[1], [1]])
    answers = Localization(
        torch.tensor([[[3, 1], [3, 0]], [[0, 0], [0, 0]]]),  # (B, P, F)
        torch.tensor([[[0.75, 0.25], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]),
        torch.tensor([[[0.0, 4.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]),  # (B, P, E)
    )
    scores = created("llm-infer").score(items, items > 0, answers)
    # cosines with (0, 1) and (1, 0), and weights 0.25 for item 1, 0.75 + 1 for item 3
    torch.testing.assert_close(scores[0], torch.tensor([1.25, 1.0, 2 * ROOT + 1.75, -1.0]))
    assert scores[1].tolist() == [0.0] * 4  # nothing was said about it


def settings(**train):
    small = {"dim": 8, "epochs": 1, "workers": 1, "device": "cpu", "neighbours": 0}
    small |= {"baselines": ["llmseqsim", "llm-infer"]} | train
    infer = {"llm": "item-text", "controls": []}
    return build({"infer": infer, "train": small, "evaluate": {"k": [5]}})


def stage(run, name, function, config):
    (run / name).mkdir()
    function(run, run / name, config, QUIET)


def test_rows_of_a_run(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm",))
    stage(run, "train", train, settings())
    stage(run, "evaluate", evaluate, settings())
    rows = {row["name"]: row for row in json.loads((run / "evaluate/metrics.json").read_text())["rows"]}
    assert rows["llm-infer"]["kind"] == rows["llmseqsim"]["kind"] == "baseline"
    # The toy's answers name the next item, and every fifth sample has none: then all items score the same,
    # and the target comes last of those that are not the session's own.
    prepared = load(run / "prepare")
    test = prepared.samples["test"]
    known = IntentStore.open(run / "localize/llm").rows_of(prepared.sessions, test) >= 0
    others = [prepared.catalogue.size - len(set(prepared.prefix(test, one))) for one in range(len(known))]
    ranks = read_tensors(run / "evaluate/ranks.safetensors")["llm-infer"]
    assert ranks.tolist() == torch.where(known, 1, torch.tensor(others)).tolist()
    assert 0 < int(known.sum()) < len(known)
    assert rows["llm-infer"]["metrics"]["HR@5"]["mean"] == pytest.approx((ranks == 1).double().mean().item())


def test_without_texts_they_are_refused(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    stage(run, "train", train, settings())
    with pytest.raises(ConfigError, match=r"llmseqsim needs text vectors of the items.*infer\.llm = none"):
        stage(run, "evaluate", evaluate, build(to_settings(settings()), {"infer": {"llm": "none"}}))
    assert not list((run / "evaluate").iterdir())


def test_what_ranks_by_text_proposes_no_candidates():
    localizer = Candidates(1, size=2, model="llmseqsim")
    sessions = Sessions(torch.tensor([1, 2]), torch.tensor([0, 2]))
    with pytest.raises(ConfigError, match="'llmseqsim' ranks by texts"):
        localizer.fit([], sessions, Catalogue(["a", "b"], ["A", "B"]), LetterEncoder())
