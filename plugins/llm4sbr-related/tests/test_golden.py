"""Each component against its formulas, worked out by hand on a catalogue of six items."""

from __future__ import annotations

from itertools import permutations
from math import exp, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from llm4sbr_related.answers import letters, rating
from llm4sbr_related.gpt4rec import GPT4Rec, queries, shared
from llm4sbr_related.llamarec import LlamaRec
from llm4sbr_related.ranking import ListWise, PairWise
from llm4sbr_related.rating import PointWise, ZeroShotRating

from llm4sbr.protocols import Catalogue, Sessions

TITLES = ["Fargo", "Heat", "Alien", "Jaws", "Babe", "Casino"]
KINDS = ["Crime", "Crime", "Horror", "Horror", "Comedy", "Crime"]


def fitted(kind, repeats=False, **options):
    """Popularity is the retriever: items 6, 5, 4, 3, 2, 1 were clicked 6, 5, 4, 3, 2, 1 times."""
    made = kind(6, retriever="popularity", candidates=4, **options)
    clicks = torch.tensor([item for item in range(1, 7) for _ in range(item)])
    made.fit(Sessions(clicks, torch.tensor([0, len(clicks)])))
    made.fit_catalogue(Catalogue([f"k{i}" for i in range(6)], TITLES, {"kind": KINDS}), repeats=repeats)
    return made


def order(scores):
    """Catalogue ids, best first, of scores without equal ones."""
    assert len(scores.unique()) == len(scores)
    return (scores.argsort(descending=True) + 1).tolist()


def test_list_wise():
    # Of session (6) the candidates are 5, 4, 3, 2: Babe, Jaws, Alien, Heat, which are shown as
    # A Alien (3), B Babe (5), C Heat (2), D Jaws (4).
    made = fitted(ListWise)
    (prompt,) = made.prompts([6])
    assert "oldest first:\n1. Casino\nCandidates" in prompt
    assert "\nA. Alien\nB. Babe\nC. Heat\nD. Jaws\nRank all 4 candidates" in prompt
    assert order(made.rescored([6], ["C, A, D, B"])) == [2, 3, 4, 5, 6, 1]
    # What the answer leaves out follows as the retriever has it: 5, 4 before 3.
    assert order(made.rescored([6], ["C"])) == [2, 5, 4, 3, 6, 1]
    assert order(made.rescored([6], ["No idea."])) == [5, 4, 3, 2, 6, 1]


def test_own_items_are_candidates_where_lists_repeat_them():
    (prompt,) = fitted(ListWise, repeats=True).prompts([6])
    assert "\nA. Alien\nB. Babe\nC. Casino\nD. Jaws\n" in prompt


def test_only_the_last_items_of_a_session_are_shown():
    (prompt,) = fitted(ListWise, history=2).prompts([1, 2, 3])
    assert "oldest first:\n1. Heat\n2. Alien\nCandidates" in prompt


def test_pair_wise():
    # Shown order 3, 5, 2, 4 (places 0 to 3); a pair (i, j) has the earlier first if i + j is odd:
    # (0,1) 3-5, (0,2) 2-3, (0,3) 3-4, (1,2) 5-2, (1,3) 4-5, (2,3) 2-4.
    made = fitted(PairWise)
    prompts = made.prompts([6])
    shown = [[line[3:] for line in text.splitlines() if line[:3] in ("A. ", "B. ")] for text in prompts]
    pairs = [(3, 5), (2, 3), (3, 4), (5, 2), (4, 5), (2, 4)]
    assert shown == [[TITLES[a - 1], TITLES[b - 1]] for a, b in pairs]
    # Winners 3, 2, 3, 2, nobody, 4: item 2 and 3 won twice, 4 once, 5 never; 3 before 2 by the retriever.
    answers = ["A", "A.", "The answer is: A", "B", "both", "B"]
    assert order(made.rescored([6], answers)) == [3, 2, 4, 5, 6, 1]


def test_point_wise():
    # Prompts about 5, 4, 3, 2; ratings 2, none, 5, 2 (whole): 3 first, 5 before 2 by the retriever, 4 last.
    made = fitted(PointWise)
    assert [text.splitlines()[3] for text in made.prompts([6])] == ["Babe", "Jaws", "Alien", "Heat"]
    assert order(made.rescored([6], ["2", "I cannot say", "5 of 5", "2.9"])) == [3, 5, 2, 4, 6, 1]


def test_zero_shot_rating_takes_fractions_and_shows_attributes():
    made = fitted(ZeroShotRating)
    assert "Babe, Comedy" in made.prompts([6])[0]
    assert "1. Casino, Crime\n" in made.prompts([6])[0]
    assert order(made.rescored([6], ["2", "I cannot say", "5 of 5", "2.9"])) == [3, 2, 5, 4, 6, 1]


class Logits:
    """Gives the same logits after every prompt; log-softmax as the formula says."""

    fingerprint, batch_size = "logits", 2

    def next_token_scores(self, prompts, words):
        logits = [0.0, 1.0, 3.0, -1.0]
        total = log(sum(exp(z) for z in logits))
        return [[z - total for z in logits] for _ in prompts]

    def count_tokens(self, texts):
        return [7 for _ in texts]


def test_llamarec():
    made = fitted(LlamaRec)
    reader = made.reader(Logits())
    assert reader.fingerprint == "logits, next-token scores of ABCD"
    answers = reader.generate(made.prompts([6]))
    # exp(z) = 1, 2.718, 20.086, 0.368, together 24.172; logs of the shares
    assert answers == ["-3.1852 -2.1852 -0.1852 -4.1852"]
    assert reader.count_tokens(["a prompt", *answers]) == [7, 1]
    assert order(made.rescored([6], answers)) == [2, 5, 3, 4, 6, 1]  # C Heat, B Babe, A Alien, D Jaws


def test_bm25_by_hand():
    # Titles of 2, 3 and 1 words, 2 on average; k1 1.5, b 0.75. "red" is in 2 of 3, "lamp" in 1.
    made = GPT4Rec(3)
    made.fit_catalogue(Catalogue(["a", "b", "c"], ["Red Lamp", "Oak Chair, Red", "Blue"]), repeats=False)
    red, lamp = log(1 + 1.5 / 2.5), log(1 + 2.5 / 1.5)
    short = 1 / (1 + 1.5 * (0.25 + 0.75 * 2 / 2))
    long = 1 / (1 + 1.5 * (0.25 + 0.75 * 3 / 2))
    scores = made.score(torch.tensor([[1, 0], [3, 1]]), torch.tensor([[True, False], [True, True]]))
    expected = [(red + lamp) * short, red * long, 0.0]
    torch.testing.assert_close(scores[0], torch.tensor(expected))
    assert (scores[1] > 0).all()  # both titles are searched for
    # One query for "lamp" and one for "blue": the first has its best item first.
    assert order(made.rescored([2], ["1. lamp; 2. blue red"])) == [1, 3, 2]
    torch.testing.assert_close(made.rescored([1], [" ; "]), scores[0])  # no query: as without answers
    torch.testing.assert_close(made.rescored([1], ["green"]), scores[0])  # nothing found


def test_queries_share_the_list():
    # K 4, two queries: the best two of each, 2 is taken already; then the rest by their best score.
    first = np.array([3.0, 9.0, 1.0, 0.0, 2.0, 0.0], np.float32)
    second = np.array([0.0, 8.0, 5.0, 0.5, 0.0, 0.0], np.float32)
    found = shared([first, second], 4)
    assert (np.argsort(-found, kind="stable") + 1).tolist() == [2, 1, 3, 4, 5, 6]
    assert found[5] == 0.0


def test_queries_of_an_answer():
    assert queries("1. old crime films; 2) Horror; horror ;; Horror", 3) == [
        "old crime films",
        "Horror",
        "horror",
    ]


@pytest.mark.parametrize(
    ("answer", "places"),
    [
        ("B, A, C", [1, 0, 2]),
        ("B > A > C", [1, 0, 2]),
        ("B A C", [1, 0, 2]),
        ("BAC", [1, 0, 2]),
        ("B. Babe\nA. A Close Shave", [1, 0]),
        ("I think B.", [1]),
        ("A user would choose C", [2]),
        ("A, A, B", [0, 1]),
        ("Z, B", [1]),
        ("**B**", [1]),
        ("ABBA", []),
        ("", []),
    ],
)
def test_letters(answer, places):
    assert letters(answer, 3) == places


@pytest.mark.parametrize(
    ("answer", "whole", "value"),
    [("4", True, 4), ("3.5", True, 3), ("3.5", False, 3.5), ("5.5", False, 0), ("Jaws (1975): 4/5", True, 4)],
)
def test_ratings(answer, whole, value):
    assert rating(answer, whole=whole) == value


@given(st.text())
def test_any_answer_can_be_read(answer):
    found = letters(answer, 4)
    assert len(set(found)) == len(found)
    assert set(found) <= set(range(4))
    assert rating(answer, whole=False) == 0 or 1 <= rating(answer, whole=False) <= 5


def test_every_order_can_be_told():
    made, shown = fitted(ListWise), [3, 5, 2, 4]
    for places in permutations(range(4)):
        answer = ", ".join("ABCD"[place] for place in places)
        assert order(made.rescored([6], [answer]))[:4] == [shown[place] for place in places]
