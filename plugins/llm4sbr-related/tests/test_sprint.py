"""SPRINT's missing part: intents of the pool that predict nothing are found out, by the formula."""

from __future__ import annotations

from math import inf, sqrt

import pytest
import torch
from llm4sbr_related.sprint import ValidatedPool, scores

from llm4sbr.errors import ConfigError
from llm4sbr.protocols import Sessions
from llm4sbr.testing.localizers import CATALOGUE, LetterEncoder, LocalizerContract

TRAIN = Sessions(torch.tensor([1, 2, 3, 4]), torch.tensor([0, 2, 4]))


class TestValidatedPool(LocalizerContract):
    create = staticmethod(lambda f: ValidatedPool(f, size=2, least=-10.0))


def test_z_by_hand():
    titles = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    intents = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    tied, targets = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 3, 1, 2])
    # Intent 0: likeness 1, 0.6 | 1, 0 of the targets 1, 3 | 1, 2.
    mean = (1 + 0.6 + 1 + 0) / 4
    variance = sum((x - mean) ** 2 for x in (1, 0.6, 1, 0)) / 4
    first = ((1 + 0.6) / 2 - mean) / sqrt(variance / 2)
    # Intent 1: likeness 0, 0.8 | 0, 1.
    mean = (0 + 0.8 + 0 + 1) / 4
    variance = sum((x - mean) ** 2 for x in (0, 0.8, 0, 1)) / 4
    second = ((0 + 1) / 2 - mean) / sqrt(variance / 2)
    assert scores(intents, titles, tied, targets).tolist() == pytest.approx([first, second, -inf])


def fitted(answers, targets, **options):
    made = ValidatedPool(1, size=4, **options)
    made.fit(answers, TRAIN, CATALOGUE, LetterEncoder(), targets=torch.tensor(targets))
    return made


def test_an_intent_that_says_what_comes_next_stays_and_another_goes():
    # After "Green Chair" comes the green chair or the table; after "Blue Table" anything but a table.
    answers = 40 * ["Green Chair"] + 40 * ["Blue Table"]
    made = fitted(answers, 20 * [2, 4] + 20 * [1, 3])
    assert made.facts == {"intents": 2, "valid": 1}
    found = made.localize(["Green Chair", "Blue Table", "", "green chairs"], CATALOGUE, LetterEncoder())
    assert found.items[:, 0].tolist() == [2, 0, 0, 2]
    assert found.embeddings.any(1).tolist() == [True, False, False, True]
    assert found.weights.sum(1).tolist() == pytest.approx([1, 0, 0, 1])


def test_without_a_valid_intent_no_session_has_one():
    made = fitted(["Green Chair", "Blue Table"] * 4, [4, 2] * 4)
    assert made.facts["valid"] == 0
    found = made.localize(["Green Chair", "Blue Table"], CATALOGUE, LetterEncoder())
    assert not found.embeddings.any()
    assert not found.items.any()


def test_intents_by_chance_pass_as_rarely_as_the_bound_says():
    random = torch.Generator().manual_seed(0)
    titles = torch.nn.functional.normalize(torch.randn(50, 8, generator=random), dim=1)
    intents = torch.nn.functional.normalize(torch.randn(400, 8, generator=random), dim=1)
    tied = torch.arange(400).repeat(30)
    targets = torch.randint(1, 51, (len(tied),), generator=random)
    passed = (scores(intents, titles, tied, targets) > 1.64).double().mean()
    assert 0.02 < float(passed) < 0.09


def test_answers_without_any_text_are_one_line():
    with pytest.raises(ConfigError, match="no answer to a training sample has a text"):
        fitted(["", " "], [1, 2])
