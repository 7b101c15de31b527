from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
import pytest
import torch

from llm4sbr.data.batches import prefix_key, sample_keys
from llm4sbr.data.prepared import Prepared
from llm4sbr.intents import IntentStore, IntentWriter
from llm4sbr.protocols import Samples, Sessions
from llm4sbr.serving.intents import LiveIntents, tried
from llm4sbr.serving.recommendation import Explanation, PerspectiveIntent, Tied
from llm4sbr.testing.toy import toy_catalogue

KNOWN = [[1, 2, 3], [4, 5, 3], [1, 5, 2, 3], [6, 7], [8, 3]]
NAMES = ["long", "short"]


def prepared(prefixes: Sequence[Sequence[int]]) -> Prepared:
    """Data whose samples have these prefixes, each followed by item 9."""
    items = torch.tensor([item for prefix in prefixes for item in (*prefix, 9)])
    ends = torch.tensor([len(prefix) + 1 for prefix in prefixes]).cumsum(0)
    sessions = Sessions(items, torch.cat([torch.zeros(1, dtype=torch.int64), ends]))
    start, end = sessions.offsets[:-1], ends - 1
    samples = Samples(start, end, sample_keys(sessions, start, end))
    half = len(prefixes) // 2
    parts = {
        "train": Samples(*(part[:half] for part in samples)),
        "valid": Samples(*(part[:0] for part in samples)),
        "test": Samples(*(part[half:] for part in samples)),
    }
    return Prepared(toy_catalogue(), sessions, sessions, parts, {})


def live(
    folder: Path, given: Mapping[tuple[int, ...], float], *, known: Sequence[Sequence[int]]
) -> LiveIntents:
    """Intents (value, value) for some prefixes, tied to items 1 and 2 from `long`, to item 3 from `short`."""
    writer = IntentWriter(folder, NAMES, about={"catalogue": ""})
    for key, value in sorted((prefix_key(prefix), value) for prefix, value in given.items()):
        intents = torch.full((1, 2, 4), value)
        located = torch.tensor([[[1, 2], [3, 0]]])
        writer.add(torch.tensor([key]), intents, located, torch.tensor([[[0.75, 0.25], [1.0, 0.0]]]))
    writer.close()
    return LiveIntents(IntentStore.open(folder), prepared(known), folder / "answers")


@pytest.fixture
def shop(tmp_path: Path) -> LiveIntents:
    return live(tmp_path, {tuple(ids): float(i + 1) for i, ids in enumerate(KNOWN)}, known=KNOWN)


def first(shop: LiveIntents, ids: list[int], source: str) -> tuple[torch.Tensor, Explanation] | None:
    """What the first source that has something finds."""
    every = (shop.find(ids, one) for one in tried(source))
    return next((found for found in every if found), None)


def value(shop: LiveIntents, ids: list[int], source: str = "auto") -> tuple[float, str]:
    found = first(shop, ids, source)
    if found is None:
        return 0, "none"
    vectors, explained = found
    assert vectors.shape == (1, 2, 4)
    assert vectors.dtype == torch.float32
    assert (vectors == vectors[0, 0, 0]).all()
    return float(vectors[0, 0, 0]), explained.source


def explained(shop: LiveIntents, ids: list[int]) -> Explanation:
    found = first(shop, ids, "auto")
    assert found is not None
    return found[1]


@pytest.mark.parametrize("number", range(len(KNOWN)))
def test_a_session_that_was_seen(shop: LiveIntents, number: int) -> None:
    assert value(shop, KNOWN[number]) == (number + 1, "cache")


@pytest.mark.parametrize(
    ("ids", "number"),
    [
        ([9, 1, 2, 3], 1),  # [1, 2, 3] and [1, 5, 2, 3] share three items, the first is shorter
        ([5, 1, 1, 2, 3], 3),  # [1, 5, 2, 3] shares four
        ([4, 3], 2),
        ([3], 5),  # all share the last item only: the shortest
        ([5, 4, 7], 4),
    ],
)
def test_the_nearest_session(shop: LiveIntents, ids: list[int], number: int) -> None:
    assert value(shop, ids) == (number, "nearest")


def test_nothing_known_ends_like_this(shop: LiveIntents) -> None:
    assert value(shop, [1, 2, 3, 10]) == (0, "none")
    assert value(shop, [2]) == (0, "none")


def test_one_place_only(shop: LiveIntents) -> None:
    assert value(shop, [1, 2, 3], "none") == (0, "none")
    assert value(shop, [9, 1, 2, 3], "cache") == (0, "none")
    assert value(shop, [1, 2, 3], "nearest") == (1, "nearest")


def test_zero_intents_are_passed_over(tmp_path: Path) -> None:
    # the LLM's answers for [1, 2, 3] were unusable; those for [4, 5, 3] are next
    shop = live(tmp_path, {(1, 2, 3): 0.0, (4, 5, 3): 2.0}, known=KNOWN)
    assert value(shop, [1, 2, 3]) == (2, "nearest")


def test_sessions_without_intents_and_intents_without_session(tmp_path: Path) -> None:
    shop = live(tmp_path, {(4, 5, 3): 2.0, (11, 12): 7.0}, known=KNOWN)
    assert value(shop, [1, 2, 3]) == (2, "nearest")
    assert value(shop, [13, 12]) == (0, "none")
    assert value(shop, [11, 12]) == (7, "cache")
    assert explained(shop, [11, 12]).session == []


def test_the_same_session_in_two_places(tmp_path: Path) -> None:
    shop = live(tmp_path, {(4, 5, 3): 2.0}, known=[[4, 5, 3], [1], [4, 5, 3], [4, 5, 3]])
    assert value(shop, [5, 3]) == (2, "nearest")
    assert explained(shop, [5, 3]).session == explained(shop, [4, 5, 3]).session


def test_no_intents_at_all(tmp_path: Path) -> None:
    shop = live(tmp_path, {}, known=KNOWN)
    assert first(shop, [1, 2, 3], "auto") is None


def test_explanation(shop: LiveIntents) -> None:
    titles = toy_catalogue().titles
    folder = shop.answers
    folder.mkdir()
    for name in NAMES:
        parsed = [f"{name} {ids}" for ids in KNOWN]
        keys = [prefix_key(ids) for ids in KNOWN]
        pl.DataFrame({"key": keys, "parsed": parsed}).write_parquet(folder / f"{name}.parquet")
    assert explained(shop, [9, 4, 5, 3]) == Explanation(
        "nearest",
        [titles[3], titles[4], titles[2]],
        [
            PerspectiveIntent(
                "long",
                "long [4, 5, 3]",
                [Tied(1, "i01", titles[0], 0.75), Tied(2, "i02", titles[1], 0.25)],
            ),
            PerspectiveIntent("short", "short [4, 5, 3]", [Tied(3, "i03", titles[2], 1.0)]),
        ],
    )


def test_answers_that_are_no_longer_kept(shop: LiveIntents) -> None:
    assert [intent.answer for intent in explained(shop, [1, 2, 3]).perspectives] == ["", ""]


def test_only_the_latest_of_many_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [[1, 2, 3], [4, 5, 3], [6, 7, 3]]
    shop = live(tmp_path, {tuple(ids): float(i + 1) for i, ids in enumerate(known)}, known=known)
    assert value(shop, [9, 1, 2, 3]) == (1, "nearest")
    monkeypatch.setattr("llm4sbr.intents.nearest.COMPARED", 2)
    assert value(shop, [9, 1, 2, 3]) == (2, "nearest")
    assert value(shop, [9, 6, 3]) == (3, "nearest")
