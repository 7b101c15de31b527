from __future__ import annotations

import importlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from llm4sbr import config as settings
from llm4sbr.config import Config
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.errors import StoreError
from llm4sbr.intents import IntentStore
from llm4sbr.localization.space import item_texts
from llm4sbr.localizers import Nearest
from llm4sbr.progress import Progress
from llm4sbr.protocols import Catalogue
from llm4sbr.testing.localizers import LetterEncoder
from llm4sbr.testing.toy_run import toy_run

stage = importlib.import_module("llm4sbr.stages.localize")
QUIET = Progress(quiet=True)


class Spy(LetterEncoder):
    """Counts the texts that are really encoded, by all instances."""

    texts: list[str] = []

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        Spy.texts += texts
        return super().encode(texts)


@pytest.fixture(autouse=True)
def _spy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLM4SBR_CACHE", str(tmp_path / "cache"))
    create = stage.registry.create
    monkeypatch.setattr(Spy, "texts", [])

    def with_spy(kind: str, name: str, /, **options: Any) -> Any:
        return Spy(**options) if kind == "encoders" else create(kind, name, **options)

    monkeypatch.setattr(stage.registry, "create", with_spy)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return toy_run(tmp_path / "run", sources=())


@pytest.fixture
def prepared(run: Path) -> Prepared:
    return load(run / "prepare")


def distinct_keys(prepared: Prepared) -> dict[int, list[int]]:
    """Sample key -> prefix."""
    return {
        int(key): prepared.prefix(samples, i)
        for samples in prepared.samples.values()
        for i, key in enumerate(samples.key)
    }


def write_answers(run: Path, source: str, answers: Mapping[str, Mapping[int, str]]) -> None:
    for perspective, parsed in answers.items():
        folder = run / "infer" / source
        folder.mkdir(parents=True, exist_ok=True)
        table = pl.DataFrame(
            {"key": list(parsed), "answer": list(parsed.values()), "parsed": list(parsed.values())},
            schema={"key": pl.Int64, "answer": pl.String, "parsed": pl.String},
        )
        table.sample(fraction=1, shuffle=True, seed=1).write_parquet(folder / f"{perspective}.parquet")


def last_titles(prepared: Prepared) -> dict[int, str]:
    return {key: prepared.catalogue.titles[ids[-1] - 1] for key, ids in distinct_keys(prepared).items()}


def first_titles(prepared: Prepared) -> dict[int, str]:
    return {key: prepared.catalogue.titles[ids[0] - 1] for key, ids in distinct_keys(prepared).items()}


def localize(run: Path, **chosen: Any) -> tuple[Path, dict[str, Any]]:
    out = run / "localize.tmp"
    out.mkdir(exist_ok=True)
    config = settings.build({"localize": {"encoder": "letters", "f": 2} | chosen})
    stage.localize(run, out, config, QUIET)
    return out, json.loads((out / "localize.json").read_text())


def test_every_answer_is_under_its_samples_key(run: Path, prepared: Prepared) -> None:
    write_answers(run, "llm", {"long": first_titles(prepared), "short": last_titles(prepared)})
    out, _ = localize(run)
    opened = IntentStore.open(out / "llm")
    assert opened.perspectives == ["long", "short"]
    assert opened.catalogue_hash == catalogue_hash(prepared.catalogue)
    prefixes = distinct_keys(prepared)
    assert len(opened) == len(prefixes)
    rows = opened.rows(torch.tensor(list(prefixes)))
    items, weights = opened.located(rows)
    # every answer is a title, so the best item is that very one
    assert items[:, 0, 0].tolist() == [ids[0] for ids in prefixes.values()]
    assert items[:, 1, 0].tolist() == [ids[-1] for ids in prefixes.values()]
    expected = Nearest(f=2).localize(
        list(last_titles(prepared).values()), prepared.catalogue, LetterEncoder()
    )
    torch.testing.assert_close(opened.gather(rows)[:, 1], expected.embeddings, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(weights[:, 1], expected.weights, atol=1e-3, rtol=0)


def test_small_blocks_change_nothing(run: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    write_answers(run, "llm", {"long": first_titles(prepared), "short": last_titles(prepared)})
    out, summary = localize(run)
    before = IntentStore.open(out / "llm")
    intents = before.gather(torch.arange(len(before)))
    (out / "llm" / "manifest.json").unlink()
    monkeypatch.setattr("llm4sbr.localization.source.BLOCK", 7)
    out, again = localize(run)
    after = IntentStore.open(out / "llm")
    assert torch.equal(before.keys, after.keys)
    torch.testing.assert_close(after.gather(torch.arange(len(after))), intents, atol=1e-3, rtol=1e-3)
    assert again == summary


def test_every_text_is_localized_once_also_when_other_sources_have_it(
    run: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, localize_all = [], Nearest.localize

    def counted(self: Nearest, answers: Sequence[str], *others: Any) -> Any:
        given.extend(answers)
        return localize_all(self, answers, *others)

    monkeypatch.setattr(Nearest, "localize", counted)
    monkeypatch.setattr("llm4sbr.localization.source.BLOCK", 7)
    titles = last_titles(prepared)
    moved = dict(zip(titles, [*list(titles.values())[1:], "Something new"], strict=True))
    write_answers(run, "llm", {"long": titles, "short": titles})
    write_answers(run, "shuffled", {"long": moved, "short": titles})
    out, _ = localize(run)
    assert sorted(given) == sorted({*titles.values(), "Something new"})
    opened = IntentStore.open(out / "shuffled")
    expected = Nearest(f=2).localize(list(moved.values()), prepared.catalogue, LetterEncoder())
    rows = opened.rows(torch.tensor(list(moved)))
    torch.testing.assert_close(opened.gather(rows)[:, 0], expected.embeddings, atol=1e-2, rtol=1e-3)
    assert torch.equal(opened.located(rows)[0][:, 0], expected.items)


def test_item_vectors_are_written_in_catalogue_order(run: Path, prepared: Prepared) -> None:
    write_answers(run, "llm", {"long": last_titles(prepared), "short": last_titles(prepared)})
    out, _ = localize(run)
    items = stage.store.read_tensors(out / "items.safetensors")["items"]
    assert torch.equal(items, LetterEncoder().encode(prepared.catalogue.titles))


def test_full_item_text(run: Path, prepared: Prepared) -> None:
    write_answers(run, "llm", {"long": last_titles(prepared), "short": last_titles(prepared)})
    out, _ = localize(run, item_text="full")
    items = stage.store.read_tensors(out / "items.safetensors")["items"]
    catalogue = prepared.catalogue
    longer = catalogue._replace(attributes={"maker": ["Acme"] * catalogue.size})
    assert torch.equal(items, LetterEncoder().encode(catalogue.texts()))
    assert item_texts(longer, "full").titles[0] == f"{catalogue.titles[0]}, Acme"
    assert item_texts(longer, "title") == Catalogue(catalogue.keys, catalogue.titles)


def test_statistics(run: Path, prepared: Prepared) -> None:
    # long: the first item's title in capitals, short: nothing at all, but for one answer of no item's words
    keys = list(distinct_keys(prepared))
    shouted = {key: title.upper() for key, title in first_titles(prepared).items()}
    short = dict.fromkeys(keys, "") | {keys[0]: "zzz zzz"}
    write_answers(run, "llm", {"long": shouted, "short": short})
    out, summary = localize(run)
    found = summary["sources"]["llm"]
    assert found["samples"] == len(keys)
    assert found["perspectives"]["long"] == {
        "empty": 0,
        "distinct": len(set(shouted.values())),
        "exact_title": 1.0,
        "near_title": 0.0,
        "no_title": 0.0,
        "grounding": pytest.approx(1.0),
        "repeats_session": 1.0,
    }
    told = found["perspectives"]["short"]
    assert (told["empty"], told["distinct"], told["exact_title"]) == (len(keys) - 1, 1, 0.0)
    opened = IntentStore.open(out / "llm")
    assert not opened.gather(opened.rows(torch.tensor(keys[1:])))[:, 1].any()


def test_grounding_by_hand(run: Path, prepared: Prepared) -> None:
    encoder, keys = LetterEncoder(), list(distinct_keys(prepared))
    answer, other = encoder.encode(["a red lamp, or so"]), encoder.encode(prepared.catalogue.titles)
    best = torch.cosine_similarity(answer, other).max().item()
    write_answers(
        run, "llm", {name: dict.fromkeys(keys[:1], "a red lamp, or so") for name in ("long", "short")}
    )
    _, summary = localize(run)
    told = summary["sources"]["llm"]["perspectives"]["long"]
    assert told["grounding"] == pytest.approx(best, abs=1e-4)


def test_a_text_is_encoded_once_for_all_sources(run: Path, prepared: Prepared) -> None:
    titles = last_titles(prepared)
    write_answers(run, "llm", {"long": titles, "short": titles})
    rolled = dict(zip(titles, [*list(titles.values())[1:], "a new text"], strict=True))
    write_answers(run, "shuffled", {"long": rolled, "short": rolled})
    localize(run)
    assert sorted(Spy.texts) == sorted({*prepared.catalogue.titles, "a new text"})


def test_a_sample_without_one_of_its_answers(run: Path, prepared: Prepared) -> None:
    titles = last_titles(prepared)
    key = next(iter(titles))
    write_answers(run, "llm", {"long": titles, "short": {k: t for k, t in titles.items() if k != key}})
    opened = IntentStore.open(localize(run)[0] / "llm")
    intents = opened.gather(opened.rows(torch.tensor([key])))
    assert intents[0, 0].any()
    assert not intents[0, 1].any()


def test_f_0(run: Path, prepared: Prepared) -> None:
    titles = last_titles(prepared)
    write_answers(run, "llm", {"long": titles, "short": titles})
    out, summary = localize(run, f=0)
    opened = IntentStore.open(out / "llm")
    assert (opened.f, opened.dim) == (0, 64)
    expected = LetterEncoder().encode([titles[int(opened.keys[0])]])
    torch.testing.assert_close(opened.gather(torch.tensor([0]))[:, 0], expected)
    told = summary["sources"]["llm"]["perspectives"]["long"]  # of the items that the answers are most like
    assert (told["grounding"], told["repeats_session"]) == (pytest.approx(1.0), 1.0)


def test_no_answer_in_the_budget(run: Path) -> None:
    write_answers(run, "llm", {"long": {}, "short": {}})
    opened = IntentStore.open(localize(run)[0] / "llm")
    assert (len(opened), opened.dim, opened.f) == (0, 64, 2)


def test_without_sources_only_the_summary_is_written(run: Path) -> None:
    (run / "infer").mkdir()
    out, summary = localize(run)
    assert [path.name for path in out.iterdir()] == ["localize.json"]
    assert summary == {"sources": {}}
    assert Spy.texts == []


def test_finished_sources_of_an_interrupted_attempt_are_kept(run: Path, prepared: Prepared) -> None:
    titles = last_titles(prepared)
    for source in ("llm", "shuffled", "item-text"):
        write_answers(run, source, {"long": titles, "short": titles})
    out, summary = localize(run)
    shard = "intents-00000.safetensors"
    written = {source: (out / source / shard).stat().st_mtime_ns for source in summary["sources"]}
    (out / "shuffled" / "manifest.json").unlink()  # killed before it was finished
    damaged = bytearray((out / "item-text" / shard).read_bytes())
    damaged[-1] ^= 1
    (out / "item-text" / shard).write_bytes(damaged)
    out, again = localize(run)
    assert again == summary
    assert (out / "llm" / shard).stat().st_mtime_ns == written["llm"]
    assert (out / "shuffled" / shard).stat().st_mtime_ns > written["shuffled"]
    IntentStore.open(out / "item-text").verify()


KILLED = """
import os, signal, sys
from pathlib import Path
from llm4sbr import config, registry
from llm4sbr.intents import writer
from llm4sbr.progress import Progress
from llm4sbr.stages import localize as stage
from llm4sbr.testing.localizers import LetterEncoder

def die(self, rows):
    write(self, rows)
    if self.folder.name == "shuffled":
        os.kill(os.getpid(), signal.SIGKILL)  # the shard is there, the manifest is not

create, write = registry.create, writer._Shards._write
registry.create = lambda kind, *a, **o: LetterEncoder() if kind == "encoders" else create(kind, *a, **o)
writer._Shards._write = die
run = Path(sys.argv[1])
settings = config.build({"localize": {"encoder": "letters", "f": 2}})
stage.localize(run, run / "localize.tmp", settings, Progress(quiet=True))
"""


def test_kill_9_loses_the_source_at_work_only(run: Path, prepared: Prepared) -> None:
    titles = last_titles(prepared)
    for source in ("llm", "shuffled"):
        write_answers(run, source, {"long": titles, "short": titles})
    out = run / "localize.tmp"
    out.mkdir()
    ended = subprocess.run([sys.executable, "-c", KILLED, str(run)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (out / "shuffled" / "keys-00000.safetensors").exists()
    assert not (out / "shuffled" / "manifest.json").exists()
    kept = (out / "llm" / "intents-00000.safetensors").stat().st_mtime_ns
    localize(run)
    assert (out / "llm" / "intents-00000.safetensors").stat().st_mtime_ns == kept
    for source in ("llm", "shuffled"):
        opened = IntentStore.open(out / source)
        opened.verify()
        assert len(opened) == len(titles)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"long": {123: "Red Lamp"}, "short": {123: "Red Lamp"}}, "sessions that prepare does not have"),
        ({"long": {}}, "short.parquet: "),
    ],
)
def test_answers_that_do_not_fit(run: Path, answers: Mapping[str, Mapping[int, str]], message: str) -> None:
    write_answers(run, "llm", answers)
    with pytest.raises(StoreError) as caught:
        localize(run)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_two_answers_for_one_sample(run: Path, prepared: Prepared) -> None:
    titles = last_titles(prepared)
    write_answers(run, "llm", {"long": titles, "short": titles})
    path = run / "infer" / "llm" / "long.parquet"
    table = pl.read_parquet(path)
    pl.concat([table, table[:1]]).write_parquet(path)
    with pytest.raises(StoreError, match="two answers"):
        localize(run)


def test_progress_counts_every_text(run: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    titles = last_titles(prepared)
    write_answers(run, "llm", {"long": titles, "short": dict.fromkeys(titles, "a green chair")})
    said: list[int] = []
    totals: list[int] = []

    class Recorder(Progress):
        def task(self, label: str, total: int, *, unit: str = "") -> Any:
            from contextlib import nullcontext

            totals.append(total)
            record: Callable[..., None] = lambda n=1, note="": said.append(n)  # noqa: E731
            return nullcontext(record)

    out = run / "localize.tmp"
    out.mkdir()
    stage.localize(run, out, Config(localize=settings.LocalizeConfig(encoder="letters")), Recorder())
    assert [sum(said)] == totals
