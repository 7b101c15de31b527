from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from llm4sbr import config as settings
from llm4sbr.config import Config
from llm4sbr.data.prepared import Prepared, catalogue_hash, load
from llm4sbr.intents import IntentStore
from llm4sbr.localization.space import item_texts
from llm4sbr.localizers import Nearest
from llm4sbr.progress import Progress
from llm4sbr.protocols import Catalogue
from llm4sbr.testing.localizers import LetterEncoder
from llm4sbr.testing.toy_run import toy_run

sys.path.insert(0, str(Path(__file__).parent))

from toy_answers import (
    Spy,
    distinct_keys,
    first_titles,
    last_titles,
    localize,
    stage,
    use_letters,
    write_answers,
)


@pytest.fixture(autouse=True)
def _letters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_letters(monkeypatch, tmp_path / "cache")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return toy_run(tmp_path / "run", sources=())


@pytest.fixture
def prepared(run: Path) -> Prepared:
    return load(run / "prepare")


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
