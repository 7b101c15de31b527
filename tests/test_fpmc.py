"""FPMC: the transition from the last item, and nothing else."""

from __future__ import annotations

import torch

from llm4sbr.backbones.fpmc import FPMC
from llm4sbr.testing.backbones import pad


def test_equals_its_paper():
    # Factors of the previous item p_1 = (1, 2), p_2 = (3, -1); of the next n_1 = (1, 0), n_2 = (2, 5).
    # <n_1, p_1> = 1, <n_2, p_1> = 12, <n_1, p_2> = 3, <n_2, p_2> = 1.
    model = FPMC(2, 2).eval()
    with torch.no_grad():
        model.previous.copy_(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        model.items.copy_(torch.tensor([[1.0, 0.0], [2.0, 5.0]]))
    encoded = model(*pad([[2, 1], [1, 1, 2], [2]]))
    scores = encoded.long @ model.item_embeddings().T
    torch.testing.assert_close(scores, torch.tensor([[1.0, 12.0], [3.0, 1.0], [3.0, 1.0]]))
    assert torch.equal(encoded.long, encoded.short)


def test_a_transition_is_not_its_reverse():
    torch.manual_seed(0)
    model = FPMC(4, 8)
    scores = model(*pad([[1], [2]])).long @ model.item_embeddings().T
    assert (scores[0, 1] - scores[1, 0]).abs() > 1e-4
