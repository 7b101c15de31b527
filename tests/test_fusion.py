"""The whole model: shapes, invariances, missing intents, and its files."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm4sbr import registry
from llm4sbr.errors import RegistryError, StoreError
from llm4sbr.fusion.fusers import Concat, Gated
from llm4sbr.fusion.model import Recipe, build, slots
from llm4sbr.fusion.saved import load_model, save_model
from llm4sbr.testing.backbones import pad

BACKBONES = [component.name for component in registry.components("backbones")]
FUSERS = [component.name for component in registry.components("fusers")]
# Every fuser with a backbone without scores of its own, every backbone with fusers without and with texts.
PAIRS = [(fuser, "sr-gnn") for fuser in FUSERS]
PAIRS += [(fuser, name) for fuser in ("gated", "whitened") for name in BACKBONES if name != "sr-gnn"]
N, D, E = 9, 8, 5


def recipe(fuser="gated", horizons=("long", "short"), backbone="sr-gnn"):
    return Recipe(
        N, D, backbone, fuser=fuser, perspectives=tuple(horizons), horizons=tuple(horizons), text_dim=E
    )


def made(*args, **kwargs):
    torch.manual_seed(0)
    return build(recipe(*args, **kwargs)).eval()


sessions = st.lists(st.lists(st.integers(1, N), min_size=1, max_size=8), min_size=2, max_size=5)


@pytest.mark.parametrize(("fuser", "backbone"), PAIRS)
@settings(max_examples=15, deadline=None)
@given(batch=sessions, extra=st.integers(0, 6), seed=st.integers(0, 99))
def test_padding_and_company_do_not_matter(fuser, backbone, batch, extra, seed):
    model = made(fuser, backbone=backbone)
    random = torch.Generator().manual_seed(seed)
    intents = torch.randn(len(batch), 2, E, generator=random)
    intents[0] = 0
    expected = model(*pad(batch), intents)
    wider = model(*pad(batch, width=max(map(len, batch)) + extra), intents)
    alone = torch.cat([model(*pad([one]), intents[i : i + 1]) for i, one in enumerate(batch)])
    close = 1e-4 * max(
        1.0, float(expected.detach().abs().max())
    )  # vectors that nearly cancel out are normalised
    torch.testing.assert_close(wider, expected, atol=close, rtol=1e-5)
    torch.testing.assert_close(alone, expected, atol=close, rtol=1e-5)


def test_plain_readout_by_hand():
    model = build(Recipe(N, D, "sr-gnn")).eval()
    items, mask = pad([[1, 2]])
    encoded = model.backbone(items, mask)
    readout = model.readout.weight @ torch.cat([encoded.short[0], encoded.long[0]])
    expected = model.backbone.item_embeddings() @ readout
    torch.testing.assert_close(model(items, mask)[0], expected)


@pytest.mark.parametrize("fuser", [None, "gated", "catalogue"])
def test_a_backbone_has_the_last_word_on_the_vector(fuser):
    torch.manual_seed(0)
    model = build(Recipe(N, D, "sr-gnn") if fuser is None else recipe(fuser)).eval()
    batch = (*pad([[1, 2, 3], [4]]), None if fuser is None else torch.randn(2, 2, E))
    before = model.represent(*batch).fused
    model.backbone.query = lambda vectors: vectors / vectors.norm(dim=1, keepdim=True)
    output = model.represent(*batch)
    torch.testing.assert_close(output.fused, before / before.norm(dim=1, keepdim=True))
    torch.testing.assert_close(output.scores, output.fused @ model.backbone.items.T)  # titles are zero


def test_without_intents_is_with_zero_intents():
    model = made()
    items, mask = pad([[1, 2, 3], [4]])
    zero = model.represent(items, mask, torch.zeros(2, 2, E))
    assert torch.equal(model(items, mask), zero.scores)
    assert not zero.known.any()
    assert not zero.semantic.any()  # the bias of Eq. 6 does not speak for an LLM that said nothing


def test_one_perspective_may_be_missing():
    model = made()
    intents = torch.randn(1, 2, E)
    intents[0, 1] = 0
    output = model.represent(*pad([[1, 2, 3]]), intents)
    assert output.known.tolist() == [[True, False]]
    torch.testing.assert_close(output.semantic[0, 0], model.text(intents[0, 0]))
    assert not output.semantic[0, 1].any()


def test_behavioural_vectors_follow_the_horizons():
    output = made(horizons=("short", "long", "short")).represent(*pad([[1, 2, 3]]), torch.randn(1, 3, E))
    long, short = output.encoded.long[0], output.encoded.short[0]
    torch.testing.assert_close(output.behavioural[0], torch.stack([short, long, short]))


@pytest.mark.parametrize("fuser", FUSERS)
@pytest.mark.parametrize("only", ["long", "short"])
def test_one_horizon_keeps_the_other_representation(only, fuser):
    assert slots((only,)) == (only, "short" if only == "long" else "long")
    model = made(fuser, horizons=(only,))
    output = model.represent(*pad([[1, 2, 3], [4, 2]]), torch.randn(2, 1, E))
    assert output.behavioural.shape == (2, 2, D)
    assert output.known.tolist() == [[True, False]] * 2


def test_intents_change_the_scores():
    model = made()
    items, mask = pad([[1, 2, 3]])
    assert not torch.allclose(model(items, mask), model(items, mask, torch.ones(1, 2, E)), atol=1e-4)


def test_gated_by_hand():
    fuser = Gated(2, 2)
    with torch.no_grad():
        fuser.gate.copy_(torch.tensor([[1.0, 1.0], [2.0, 0.0]]))
        fuser.out.weight.copy_(torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]))
    behavioural = torch.tensor([[[3.0, 1.0], [5.0, 0.0]]])
    semantic = torch.tensor([[[-3.0, -1.0], [math.log(3) - 5, 0.0]]])
    # Gate 1: 1 * s(0) + 1 * s(0) = 1; gate 2: 2 * s(log 3) = 2 * 3/4 = 1.5 (s the sigmoid).
    torch.testing.assert_close(fuser(behavioural, semantic), torch.tensor([[3.0, 7.5]]))


def test_concat_by_hand():
    fuser = Concat(1, 2)
    with torch.no_grad():
        fuser.out.weight.copy_(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]))
    fused = fuser(torch.tensor([[[1.0], [2.0]]]), torch.tensor([[[3.0], [4.0]]]))
    assert fused.item() == 1 + 20 + 300 + 4000


def saved(folder, **changes):
    model = made()
    save_model(folder, model, recipe=recipe(), catalogue="abc", facts={"seed": 3})
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(record | changes))
    return model


def test_saved_and_loaded(tmp_path):
    model = saved(tmp_path)
    loaded = load_model(tmp_path)
    items, mask = pad([[1, 2, 3], [4]])
    intents = torch.randn(2, 2, E)
    assert torch.equal(loaded.model(items, mask, intents), model(items, mask, intents))
    assert loaded.recipe == recipe()
    assert (loaded.catalogue, loaded.facts) == ("abc", {"seed": 3})
    record = json.loads((tmp_path / "model.json").read_text())
    assert record["versions"]["backbones/sr-gnn"].startswith("llm4sbr==")
    assert record["parameters"] == sum(p.numel() for p in model.parameters())


def one_line(error):
    assert "\n" not in str(error.value)


def test_changed_weights_are_noticed(tmp_path):
    saved(tmp_path)
    content = bytearray((tmp_path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(StoreError, match=r"model\.safetensors: changed since") as error:
        load_model(tmp_path)
    one_line(error)


@pytest.mark.parametrize("keep", [0, 10, 200])
def test_truncated_weights_are_noticed(tmp_path, keep):
    saved(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        load_model(tmp_path)


def test_weights_of_another_shape_are_noticed(tmp_path):
    saved(tmp_path, recipe=recipe()._replace(dim=D + 1)._asdict())
    with pytest.raises(
        StoreError, match=rf"backbone\.attend_all\.bias: the file has \({D},\), .* \({D + 1},\)"
    ) as error:
        load_model(tmp_path)
    one_line(error)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": None},
        {"recipe": {"dim": 4}},
        {"recipe": {"perspectives": [], "horizons": [], "x": 1}},
        {"facts": 3},
    ],
)
def test_broken_record_is_noticed(tmp_path, changes):
    saved(tmp_path, **changes)
    with pytest.raises(StoreError, match=r"model\.json: not a model record") as error:
        load_model(tmp_path)
    one_line(error)


def test_record_of_another_version(tmp_path):
    saved(tmp_path, format=99)
    with pytest.raises(StoreError, match="format 99, this version reads 1"):
        load_model(tmp_path)


def test_record_can_only_name_what_is_installed(tmp_path):
    saved(tmp_path, recipe=recipe()._replace(backbone="os.system")._asdict())
    with pytest.raises(RegistryError, match=r"os\.system"):
        load_model(tmp_path)


def test_missing_model(tmp_path):
    with pytest.raises(StoreError, match="No such file"):
        load_model(tmp_path)
