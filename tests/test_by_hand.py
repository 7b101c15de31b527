"""Gradients written out are those of the same formulas in plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from llm4sbr.fast import backbones
from llm4sbr.fast import fusion as fusion_by_hand
from llm4sbr.fusion.losses import joint_loss
from llm4sbr.fusion.model import Recipe, build
from llm4sbr.protocols import Sessions
from llm4sbr.testing.backbones import SESSIONS, pad

BACKBONES = ["sr-gnn", "tagnn", "gc-san", "narm", "stamp", "gce-gnn", "s2-dhcn"]


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def outcome(model, seed):
    torch.manual_seed(seed)  # dropout
    output = model.represent(*pad(SESSIONS))
    loss = functional.cross_entropy(output.scores, torch.arange(len(SESSIONS)) % 7)
    model.zero_grad()
    loss.backward()
    return [output.scores.detach(), *(one.grad.clone() for one in model.parameters() if one.grad is not None)]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_is_the_same_with_and_without(backbone, monkeypatch):
    torch.manual_seed(0)
    model = build(Recipe(40, 16, backbone))
    items = torch.tensor([item for session in SESSIONS for item in session])
    model.backbone.fit(Sessions(items, torch.tensor([0, *map(len, SESSIONS)]).cumsum(0)))
    model.train()
    used = []
    real = backbones.applies
    monkeypatch.setattr(backbones, "applies", lambda *given: used.append(real(*given)) or used[-1])
    ours = outcome(model, 1)
    assert used
    assert all(used)
    monkeypatch.setattr(backbones, "applies", lambda *given: False)
    plain = outcome(model, 1)
    for one, two in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("double")
def test_several_steps_of_message_passing():
    torch.manual_seed(0)
    model = build(Recipe(40, 16, "sr-gnn", {"steps": 3})).train()
    ours = outcome(model, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "applies", lambda *given: False)
        plain = outcome(model, 1)
    for one, two in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


def learned(model, intents):
    output = model.represent(*pad(SESSIONS), intents)
    loss = joint_loss(output, torch.arange(len(SESSIONS)) % 7 + 1, tau=0.1).total
    model.zero_grad()
    loss.backward()
    return [output.scores.detach(), loss.detach(), *(one.grad.clone() for one in model.parameters())]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("horizons", [("long", "short"), ("short",), ("short", "long", "short")])
@pytest.mark.parametrize("fuser", ["gated", "concat"])
def test_intents_teach_the_same(fuser, horizons, monkeypatch):
    torch.manual_seed(0)
    model = build(Recipe(40, 16, "sr-gnn", {}, fuser, {}, horizons, horizons, 6)).train()
    intents = torch.randn(len(SESSIONS), len(horizons), 6)
    intents[1] = 0
    intents[2, -1] = 0
    used = []
    for name in ("applies", "usable"):
        real = getattr(fusion_by_hand, name)
        monkeypatch.setattr(
            fusion_by_hand, name, lambda *given, real=real: used.append(real(*given)) or used[-1]
        )
    ours = learned(model, intents)
    assert len(used) == (4 if fuser == "gated" else 3)  # map, gate, cross entropy, agreement
    assert all(used)
    for module, name in ((backbones, "applies"), (fusion_by_hand, "applies"), (fusion_by_hand, "usable")):
        monkeypatch.setattr(module, name, lambda *given: False)
    plain = learned(model, intents)
    for one, two in zip(ours, plain, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("double")
def test_intents_that_are_computed_get_their_gradient():
    model = build(Recipe(40, 16, "sr-gnn", {}, "gated", {}, ("long",), ("long",), 6)).train()
    intents = torch.randn(len(SESSIONS), 1, 6, requires_grad=True)
    model(*pad(SESSIONS), intents).square().sum().backward()
    assert intents.grad.abs().sum() > 0


def test_tanh_is_close():
    given = torch.linspace(-12, 12, 4001, requires_grad=True)
    result = backbones.tanh(given)
    torch.testing.assert_close(result, torch.tanh(given), rtol=0, atol=2e-7)
    result.sum().backward()
    torch.testing.assert_close(given.grad, 1 - torch.tanh(given.detach()) ** 2, rtol=0, atol=1e-6)
