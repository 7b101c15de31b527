"""Perspectives that ask about items: every item is asked once, and every session has answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from llm4sbr import store
from llm4sbr.asking.keys import PromptKeys
from llm4sbr.asking.order import order
from llm4sbr.cli import _guarded
from llm4sbr.config import build, flatten
from llm4sbr.data.batches import item_keys, prefix_key, sample_keys
from llm4sbr.data.distinct import Distinct
from llm4sbr.data.prepared import Prepared, load
from llm4sbr.errors import ConfigError, InputError, StoreError
from llm4sbr.fusion.predictor import ItemIntents
from llm4sbr.fusion.saved import load_model
from llm4sbr.fusion.whitened import Whitened
from llm4sbr.intents import IntentStore, IntentWriter, verify_all
from llm4sbr.perspectives import Audience, Choose, Complement, Long, Short
from llm4sbr.progress import Progress
from llm4sbr.protocols import Item, Samples, Sessions
from llm4sbr.serving.artefact import Artefact
from llm4sbr.serving.exported import ExportedRecommender
from llm4sbr.serving.recommend import Recommender
from llm4sbr.testing.toy import toy_catalogue
from tests.toy_runs import execute, settings

ITEMS = 20
QUIET = Progress(quiet=True)

ORACLE = '''
from llm4sbr.testing.toy import toy_catalogue

class Oracle:
    """Names the item that follows the quoted one, but for the first item, about which it says nothing."""

    fingerprint = "oracle"

    def __init__(self, *, log):
        self.log = log

    def generate(self, prompts):
        titles = toy_catalogue(20).titles
        with open(self.log, "a") as stream:
            stream.writelines(prompt + "\\n" for prompt in prompts)
        named = ['"' + title[:-7] + '"' for title in titles]
        places = [next(i for i in range(20) if named[i] in prompt) for prompt in prompts]
        return ["" if place == 0 else titles[(place + 1) % 20] for place in places]
'''


def data(prefixes: list[list[int]]) -> Prepared:
    """Sessions that consist of these prefixes and item 9; the first half is trained on."""
    items = torch.tensor([item for prefix in prefixes for item in (*prefix, 9)])
    ends = torch.tensor([len(prefix) + 1 for prefix in prefixes]).cumsum(0)
    sessions = Sessions(items, torch.cat([torch.zeros(1, dtype=torch.int64), ends]))
    start, end = sessions.offsets[:-1], ends - 1
    samples = Samples(start, end, sample_keys(sessions, start, end))
    half = len(prefixes) // 2
    train, test = (Samples(*(part[some] for part in samples)) for some in (slice(half), slice(half, None)))
    none = Samples(*(part[:0] for part in samples))
    return Prepared(
        toy_catalogue(ITEMS), sessions, sessions, {"train": train, "valid": none, "test": test}, {}
    )


# What asks about items


@pytest.mark.parametrize("kind", [Audience, Complement, Short])
def test_a_wording_with_one_item_asks_about_items(kind) -> None:
    made = kind(wording="natural")
    assert made.unit == "item"
    red, blue = Item(1, "a", "Red Lamp"), Item(2, "b", "Blue Vase")
    assert made.prompt([red, blue]) == made.prompt([blue])
    assert "Red Lamp" not in made.prompt([red, blue])


def test_all_others_ask_about_sessions() -> None:
    assert [kind().unit for kind in (Short, Long, Choose)] == ["session"] * 3
    assert Choose(max_items=1).unit == "session"  # its list depends on the whole session
    assert Long(max_items=1).unit == "item"


def test_a_description_stays_whole() -> None:
    parse = Audience().parse
    assert parse("  People who read\nin bed.\n") == "People who read in bed."
    assert parse("<think>Hm.</think>Collectors.") == "Collectors."
    assert parse("I'm sorry, but I cannot tell.") == parse("\n") == parse("…") == ""


# Questions


def test_every_item_is_a_sample_also_one_that_ends_no_session() -> None:
    samples = Distinct.of_items(data([[1, 2], [3], [2]]))
    assert samples.keys.tolist() == [prefix_key([item]) for item in range(1, ITEMS + 1)]
    assert [[one.id for one in prefix] for prefix in samples.prefixes] == [[i + 1] for i in range(ITEMS)]
    assert samples.targets(data([[1, 2], [3], [2]]))[1] == [9]
    assert samples.targets(data([[1, 2], [3], [2]]))[0] == []  # nothing follows item 1 but what is a prefix


def test_a_budget_goes_to_the_items_that_most_sessions_end_with(tmp_path: Path) -> None:
    prepared = data([[1, 2], [3], [3, 2], [1, 2]])
    samples = Distinct.of_items(prepared)

    def ordered(select: str) -> list[int]:
        config = build({"infer": {"select": select, "budget": "3"}})
        with PromptKeys(1) as keys:
            return list(order(tmp_path, tmp_path, samples, prepared, config, QUIET, keys=keys))

    assert ordered("coverage")[:2] == [1, 2]  # items 2 and 3
    assert sorted(ordered("coverage")) == sorted(ordered("random")) == list(range(ITEMS))
    for select in ("recent", "uncertain"):
        with pytest.raises(ConfigError, match="take coverage or random"):
            ordered(select)


# Intents


def test_a_session_has_the_intents_of_its_last_item(tmp_path: Path) -> None:
    writer = IntentWriter(tmp_path, ["next"], about={"catalogue": "", "unit": "item"})
    for key, item in sorted((prefix_key([item]), item) for item in (2, 3)):
        writer.add(torch.tensor([key]), torch.full((1, 1, 4), item), torch.ones(1, 1, 1), torch.ones(1, 1, 1))
    writer.close()
    intents, prepared = IntentStore.open(tmp_path), data([[1, 2], [3, 1], [3]])
    both = Samples(*(torch.cat(parts) for parts in zip(*prepared.samples.values(), strict=True)))
    found = intents.gather(intents.rows_of(prepared.sessions, both))
    assert found[:, 0, 0].tolist() == [2, 0, 3]
    assert intents.by_item(4)[:, 0, 0].tolist() == [0, 2, 3, 0]
    assert (intents.row([1, 2]), intents.row([2, 1])) == (intents.row([2]), -1)


def test_the_table_knows_nothing_but_the_last_click() -> None:
    table = ItemIntents(5, 2, 3)
    values = torch.arange(30.0).view(5, 2, 3)
    table.fit(values)
    items = torch.tensor([[1, 4, 0], [5, 2, 3], [2, 0, 0]])
    assert torch.equal(table(items, items > 0), values[[3, 2, 1]])
    assert torch.equal(item_keys(torch.tensor([7])), torch.tensor([prefix_key([7])]))


# A whole run


@pytest.fixture
def run(tmp_path: Path, install) -> Path:
    install("oracle-llm", {"llms": {"oracle": "oracle:Oracle"}}, oracle=ORACLE)
    given = flatten(settings(tmp_path)) | {
        "infer.llm": "oracle",
        "infer.options.log": str(tmp_path / "asked.txt"),
        "infer.cache": str(tmp_path / "answers.sqlite"),
        "infer.perspectives": ["next", "complement"],
        "infer.wording": "natural",
        "infer.controls": ["item-text", "shuffled"],
        "localize.localizer": "title",
        "train.fuser": "whitened",
        "train.plain": False,
    }
    execute(tmp_path / "run", given, until="evaluate")
    return tmp_path / "run"


def test_a_run_with_answers_about_all_items(run: Path, tmp_path: Path, capsys) -> None:
    prepared = load(run / "prepare")
    # asked once per item and perspective, and nothing but items
    assert len((tmp_path / "asked.txt").read_text().splitlines()) == 2 * ITEMS
    told = store.read_json(run / "infer" / "infer.json")
    assert (told["unit"], told["samples"], told["answered"]) == ("item", ITEMS, ITEMS)
    for source in ("llm", "item-text", "shuffled"):
        assert len(pl.read_parquet(run / "infer" / source / "next.parquet")) == ITEMS

    # the intents are the vectors of the items named
    vectors = store.read_tensors(run / "localize" / "items.safetensors")["items"]
    intents = IntentStore.open(run / "localize" / "llm").by_item(ITEMS)
    torch.testing.assert_close(intents[1:, 0], vectors.roll(-1, 0)[1:], atol=1e-2, rtol=1e-2)
    assert not intents[0].any()  # about the first item the LLM said nothing

    # the table covers every test sample, and there is no nearest session to ask
    found = json.loads((run / "evaluate" / "metrics.json").read_text())
    assert found["coverage"] == 1.0
    assert [(one["name"], one["covered"]) for one in found["sources"]] == [("items", 1.0), ("none", 0.0)]
    rows = {row["name"]: row["metrics"] for row in found["rows"]}
    assert found["sources"][0]["metrics"] == rows["llm"]

    # live sessions that nobody has seen
    recommender = Recommender.load(run, variant="llm")
    session = [5, 2, 9, 2, 7]
    assert prefix_key(session) not in torch.cat([part.key for part in prepared.samples.values()])
    live = recommender.recommend(session, k=5)
    assert live.intents is not None
    assert live.intents.source == "items"
    assert live.intents.session == [prepared.catalogue.titles[6]]
    assert live.intents.perspectives[0].answer == prepared.catalogue.titles[7]
    assert live.intents.perspectives[0].items[0].id == 8
    assert recommender.recommend(session, source="cache").intents.source == "none"  # type: ignore[union-attr]
    with pytest.raises(InputError, match="take 'items'"):
        recommender.recommend(session, source="predictor")

    # the model alone and the exported graph look up the same intents
    recommender.live = None
    alone = recommender.recommend(session, k=5)
    assert alone.items == live.items
    assert alone.intents is not None
    assert alone.intents.source == "items"
    assert alone.intents.perspectives[0].items[0].id == 8
    assert _guarded(["export", str(run), "--variant", "llm", "-k", "5", "--quiet"]) == 0
    artefact = Artefact.open(run / "export" / "onnx-llm", threads=1)
    assert (artefact.intent_mode, artefact.source, artefact.takes_intents) == ("predictor", "items", False)
    items = np.array([session])
    graph = artefact.predict(items, items > 0)
    np.testing.assert_array_equal(graph[0], intents[6].numpy())
    served = ExportedRecommender.load(run / "export" / "onnx-llm")
    assert [one.id for one in served.recommend(session, k=5).items] == [one.id for one in live.items]
    assert served.recommend(session, source="items").intents.source == "items"  # type: ignore[union-attr]
    with pytest.raises(InputError, match="looks its intents up"):
        served.recommend(session, source="nearest")

    # commands
    capsys.readouterr()
    assert _guarded(["recommend", str(run), "--variant", "llm", "--session", "i05|i02", "-k", "3"]) == 0
    assert "said about the last item" in capsys.readouterr().out
    assert _guarded(["recommend", str(run / "export" / "onnx-llm"), "--session", "i05|i02", "-k", "3"]) == 0
    assert "last item" in capsys.readouterr().out
    assert _guarded(["intents", "show", str(run), "--session", "i05|i02", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown[0]["session"] == [prepared.catalogue.titles[1]]
    assert _guarded(["intents", "stats", str(run), "--json"]) == 0
    assert {share for one in json.loads(capsys.readouterr().out) for share in one["covered"].values()} == {
        1.0
    }
    assert _guarded(["infer", str(run), "--dry-run"]) == 0
    assert f"40 prompts about {ITEMS} items, 40 of them distinct, 40 answered" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["answers", "both"])
def test_answers_represent_the_items_of_their_own_source(run: Path, kind: str, capsys) -> None:
    lines = execute(run, {"localize.item_text": kind}, until="train")
    assert f"localize: 1 of {ITEMS} items have no answer; their titles stand in" in lines  # once
    vectors = {
        name: store.read_tensors(run / "localize" / name / "items.safetensors")["items"]
        for name in ("llm", "item-text", "shuffled")
    }
    titles = store.read_tensors(run / "localize" / "items.safetensors")["items"]
    # The oracle names the item that follows, from both perspectives, and nothing about the first item.
    following = titles.roll(-1, 0)
    if (
        kind == "both"
    ):  # the direction of the mean of the lines, each as often as it is said, and their mean length
        lines_of = [titles, following, following]
        whole = torch.stack(lines_of).sum(0)
        length = torch.stack([part.norm(dim=1) for part in lines_of]).mean(0)
        following = whole / whole.norm(dim=1, keepdim=True) * length.unsqueeze(1)
    torch.testing.assert_close(vectors["llm"][1:], following[1:], atol=1e-5, rtol=1e-4)
    assert torch.equal(vectors["llm"][0], titles[0])
    torch.testing.assert_close(vectors["item-text"], titles, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(vectors["shuffled"], vectors["llm"], atol=1e-2)
    # what a model has learned from is its own source's
    for name, own in vectors.items():
        saved = load_model(run / "train" / name / "seed-0").model.fuser.titles.vectors
        whitening = Whitened(8, 2, num_items=ITEMS, text_dim=own.shape[1])
        whitening.fit(own, torch.ones(ITEMS, dtype=torch.int64))
        assert torch.equal(saved, whitening.titles.vectors)
    assert Recommender.load(run, variant="llm").recommend([5, 2], k=3).items
    verify_all(run / "localize", catalogue=load_model(run / "train/llm/seed-0").catalogue)
    (run / "localize/llm/items.safetensors").write_bytes(b"0")
    with pytest.raises(StoreError, match="changed since it was written"):
        verify_all(run / "localize", catalogue=load_model(run / "train/llm/seed-0").catalogue)


def test_changed_answers_train_the_models_that_read_them(run: Path) -> None:
    execute(run, {"localize.item_text": "answers", "infer.controls": ["item-text"]}, until="train")
    kept = (run / "train/item-text/seed-0/model.safetensors").stat().st_ino
    lines = execute(run, {"infer.perspectives": ["next"]}, until="train")
    assert "train: redone" in " ".join(lines)
    assert (run / "train/item-text/seed-0/model.safetensors").stat().st_ino != kept
    before = (run / "train/llm/seed-0/model.safetensors").stat().st_ino
    assert "train: fresh" in execute(run, {}, until="train")
    execute(run, {"localize.item_text": "both"}, until="train")
    assert (run / "train/llm/seed-0/model.safetensors").stat().st_ino != before


def test_answers_about_sessions_represent_no_items(run: Path) -> None:
    with pytest.raises(ConfigError, match=r"item_text = 'answers': these perspectives ask about sessions"):
        execute(
            run, {"localize.item_text": "answers", "infer.perspectives": ["long"], "infer.llm": "item-text"}
        )
    assert (run / "localize/llm/manifest.json").exists()
