"""CTRL: the contrastive loss by its formula, a model that is served without text, and the contract."""

from __future__ import annotations

from math import exp, log

import pytest
import torch

from llm4sbr import registry
from llm4sbr.errors import ConfigError
from llm4sbr.fusion.losses import joint_loss
from llm4sbr.fusion.model import Output
from llm4sbr.protocols import Encoded
from llm4sbr.testing.fusers import FuserContract


class TestCTRL(FuserContract):
    name = "ctrl"


def made(dim=4, perspectives=1, **options):
    return registry.create("fusers", "ctrl", dim=dim, perspectives=perspectives, **options)


def test_the_loss_by_hand():
    # Two parts of one number each, of length 1 by their signs: sim counts parts with the same sign somewhere.
    text = torch.tensor([[2.0, -1.0], [3.0, 1.0]])
    ids = torch.tensor([[1.0, 1.0], [-4.0, -1.0]])
    # sim(text_1, id_1) = 1 - 1, sim(text_1, id_2) = -1 + 1, sim(text_2, id_1) = 2, sim(text_2, id_2) = -2.
    forth = (log(2) + log(1 + exp(4 / 0.5))) / 2
    # sim(id_1, text_1) = 2, sim(id_1, text_2) = 2, sim(id_2, text_1) = 2, sim(id_2, text_2) = -2.
    back = (log(2) + log(1 + exp(4 / 0.5))) / 2
    fuser, known = made(2, parts=2, temperature=0.5), torch.ones(2, 1, dtype=torch.bool)
    align, uniform = fuser.agreement(ids.unsqueeze(1), text.unsqueeze(1), known)
    assert float(align) == pytest.approx((forth + back) / 2)
    assert float(uniform) == 0


def test_the_loss_with_loops():
    torch.manual_seed(0)
    ids, text = torch.randn(5, 2, 6), torch.randn(5, 2, 6)
    known = torch.tensor([[1, 1], [1, 0], [0, 0], [1, 0], [1, 0]], dtype=torch.bool)

    def unit(vector, part):
        own = vector[2 * part : 2 * part + 2]
        return own / own.norm()

    def sim(a, b):
        return sum(max(float(unit(a, m) @ unit(b, n)) for n in range(3)) for m in range(3))

    def direction(first, second):
        rows = [sum(exp(sim(a, b) / 0.2) for b in second) for a in first]
        pairs = zip(first, second, rows, strict=True)
        return -sum(log(exp(sim(a, b) / 0.2) / row) for a, b, row in pairs) / len(first)

    rows = [0, 1, 3, 4]  # the second perspective has one text, too few to compare
    own_text, own_ids = [text[row, 0] for row in rows], [ids[row, 0] for row in rows]
    expected = (direction(own_text, own_ids) + direction(own_ids, own_text)) / 2
    fuser = made(6, 2, parts=3, temperature=0.2)
    assert float(fuser.agreement(ids, text, known)[0]) == pytest.approx(expected, rel=1e-5)
    assert float(fuser.agreement(ids, text, known & False)[0]) == 0


def test_text_reaches_scores_through_the_loss_alone():
    torch.manual_seed(0)
    fuser, ids, text = made(8, 2), torch.randn(3, 2, 8), torch.randn(3, 2, 8)
    assert torch.equal(fuser(ids, text), fuser(ids, 0 * text))


def test_the_joint_loss_takes_it_in_the_place_of_alignment():
    torch.manual_seed(0)
    ids, text, known = torch.randn(4, 1, 4), torch.randn(4, 1, 4), torch.ones(4, 1, dtype=torch.bool)
    fuser, target = made(), torch.tensor([1, 2, 3, 1])
    output = Output(torch.randn(4, 3), Encoded(ids[:, 0], ids[:, 0]), ids, text, known)
    found = joint_loss(output, target, tau=0.5, agree=fuser.agreement)
    assert float(found.alignment) == pytest.approx(float(fuser.agreement(ids, text, known)[0]))
    assert float(found.total) == pytest.approx(float(found.recommendation + 0.5 * found.alignment))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"parts": 3}, r"ctrl: parts = 3: must divide train\.dim = 4"),
        ({"parts": 0}, r"ctrl: parts = 0"),
        ({"temperature": 0.0}, r"ctrl: temperature = 0\.0: must be positive"),
    ],
    ids=str,
)
def test_options_out_of_range_are_named(option, said):
    with pytest.raises(ConfigError, match=rf"^{said}"):
        made(**option)
