"""Which sessions the HTML report shows."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr.report.page.chosen import choose


def test_sessions_are_chosen_by_rule() -> None:
    ranks = {"llm": torch.tensor([1, 10, 11, 50, 3, 2]), "plain": torch.tensor([11, 2, 10, 60, 30, 99])}
    keys = torch.tensor([5, 1, 4, 3, 2, 0])
    eligible = torch.tensor([True, True, True, True, True, False])
    sizes, chosen = choose(ranks, keys, eligible, count=4)
    only_with, only_without, both, neither = chosen
    assert "only with the intents" in only_with
    assert [sizes[title] for title in chosen] == [2, 1, 1, 1]
    assert chosen[only_with].tolist() == [4]  # of samples 0 and 4 the one with the smaller key
    assert [chosen[title].tolist() for title in (only_without, both, neither)] == [[2], [1], [3]]
    _, more = choose(ranks, keys, eligible, count=30)
    assert more[only_with].tolist() == [4, 0]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20), st.booleans()), max_size=80), st.booleans())
def test_as_many_sessions_are_shown_as_there_are(rows: list[tuple[int, int, bool]], alone: bool) -> None:
    with_, without, eligible = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    ranks = {"plain": torch.tensor(without, dtype=torch.int64)}
    ranks |= {} if alone else {"llm": torch.tensor(with_, dtype=torch.int64)}
    allowed = torch.tensor(eligible, dtype=torch.bool)
    sizes, chosen = choose(ranks, torch.arange(len(rows)), allowed)
    shown = torch.cat(list(chosen.values())).tolist()
    assert len(shown) == len(set(shown)) == min(30, sum(eligible)) == min(30, sum(sizes.values()))
    assert all(eligible[one] for one in shown)
    counts = [len(members) for members in chosen.values()]
    most = max(counts, default=0)
    assert all(c >= most - 1 or c == size for c, size in zip(counts, sizes.values(), strict=True))
