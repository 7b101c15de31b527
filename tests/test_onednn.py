"""oneDNN in whole models, and what its products cost."""

from __future__ import annotations

import time

import pytest
import torch
from torch.nn import functional

from llm4sbr.fast import onednn
from llm4sbr.fast.onednn import OneDNN
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.testing.backbones import SESSIONS, pad

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


def test_gaps_between_rows_cost_little():
    wide = torch.randn(64, 3001)

    def seconds(weight):
        begun = time.thread_time()
        onednn.product(wide[:, 1:], weight)
        return time.thread_time() - begun

    gaps = min(seconds(wide[:, 1:]) for _ in range(3))
    assert gaps < 20 * min(seconds(wide[:, 1:].contiguous()) for _ in range(3))  # 2,000 without the copy


def test_a_model_learns_the_same():
    recipe = Recipe(40, 16, "sr-gnn", fuser="gated", perspectives=("long",), horizons=("long",), text_dim=6)
    torch.manual_seed(0)
    model = build(recipe)
    intents, target = torch.randn(len(SESSIONS), 1, 6), torch.ones(len(SESSIONS), dtype=torch.int64)
    gradients = []
    for context in (OneDNN(), torch.enable_grad()):
        model.zero_grad()
        with context:
            functional.cross_entropy(model(*pad(SESSIONS), intents), target).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
