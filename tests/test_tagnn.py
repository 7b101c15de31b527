"""TAGNN's score against its paper's equations in NumPy, target by target; plain and fused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llm4sbr.backbones import tagnn
from llm4sbr.backbones.tagnn import TAGNN
from llm4sbr.fusion.losses import joint_loss
from llm4sbr.fusion.model import LLM4SBR, Recipe, build
from llm4sbr.testing.backbones import pad

SESSION = [2, 5, 2, 4]
BATCH = [SESSION, [1, 2, 3, 4, 5, 6, 7]]


def score_by_the_paper(model, fused, states):
    """For every target: attention over the clicks, the three parts of W_3, and the product."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    scores = []
    for v in w["sessions.items"]:
        e = np.array([v @ w["target_key.weight"] @ h for h in states])
        beta = np.exp(e) / np.exp(e).sum()
        target = sum(b * h for b, h in zip(beta, states, strict=True))
        scores.append((w["target_value.weight"] @ target + fused) @ v)
    return np.array(scores)


@pytest.mark.parametrize("block", [2, 3, 1024])
def test_score_equals_its_paper(monkeypatch, block):
    monkeypatch.setattr(tagnn, "BLOCK", block)
    torch.manual_seed(0)
    model = TAGNN(7, 6)
    encoded = model(*pad(BATCH))
    fused = torch.randn(2, 6)
    found = model.score(fused, encoded).detach().numpy()
    for row, session in enumerate(BATCH):
        states = encoded.states[row, : len(session)].detach().double().numpy()
        expected = score_by_the_paper(model, fused[row].double().numpy(), states)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_plain_score_is_the_paper_with_one_map_of_three_parts():
    torch.manual_seed(0)
    backbone = TAGNN(7, 6)
    model = LLM4SBR(backbone, None, (), 0).eval()
    items, mask = pad([SESSION])
    encoded = backbone(items, mask)
    states = encoded.states[0].detach().double().numpy()
    readout = model.readout.weight.detach().double().numpy()
    long, short = encoded.long[0].detach().double().numpy(), encoded.short[0].detach().double().numpy()
    np.testing.assert_allclose(short, states[-1], atol=1e-6)
    expected = score_by_the_paper(backbone, readout @ np.concatenate([short, long]), states)
    np.testing.assert_allclose(model(items, mask)[0].detach().numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("fuser", ["gated", "concat"])
def test_target_attention_stays_when_fused(fuser):
    torch.manual_seed(0)
    recipe = Recipe(7, 6, "tagnn", fuser=fuser, perspectives=("long",), horizons=("long",), text_dim=4)
    model = build(recipe).eval()
    items, mask = pad(BATCH)
    output = model.represent(items, mask, torch.randn(2, 1, 4))
    fused = model.fuser(output.behavioural, output.semantic)
    states = output.encoded.states[0, : len(SESSION)].detach().double().numpy()
    expected = score_by_the_paper(model.backbone, fused[0].detach().double().numpy(), states)
    np.testing.assert_allclose(output.scores[0].detach().numpy(), expected, atol=1e-5)


def test_recomputed_attention_has_the_same_gradient(monkeypatch):
    def gradients(kept):
        monkeypatch.setattr(tagnn, "KEPT", kept)
        torch.manual_seed(0)
        model = build(Recipe(7, 6, "tagnn"))
        joint_loss(model.represent(*pad(BATCH)), torch.tensor([1, 2]), tau=0.1).total.backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    whole, again = gradients(2**24), gradients(0)
    assert whole.keys() == again.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(again[name], gradient)
