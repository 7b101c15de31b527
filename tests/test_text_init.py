"""Item embeddings that start as text vectors: the formula, the row, and what makes it stale."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from llm4sbr.config import build
from llm4sbr.errors import ConfigError
from llm4sbr.fusion.saved import load_model
from llm4sbr.progress import Progress
from llm4sbr.stages.evaluate import evaluate
from llm4sbr.stages.train import train
from llm4sbr.store import read_tensors
from llm4sbr.testing.toy_run import toy_run
from llm4sbr.training.text_init import components, start_from_text

QUIET = Progress(quiet=True)


class Table(nn.Module):
    def __init__(self, rows, dim):
        super().__init__()
        self.items = nn.Parameter(torch.rand(rows, dim, generator=torch.Generator().manual_seed(1)))


def test_components_by_hand():
    # The centred points are on two orthogonal axes, (3, 1) and (1, -3), at +-sqrt(10) and at +-0.1 sqrt(10).
    # The largest loading of the second axis is -3, so its sign turns.
    long, short = torch.tensor([3.0, 1.0]), 0.1 * torch.tensor([1.0, -3.0])
    points = torch.stack([long, -long, short, -short]) + torch.tensor([5.0, -7.0])
    root = 10**0.5
    expected = torch.tensor([[root, 0], [-root, 0], [0, -0.1 * root], [0, 0.1 * root]], dtype=torch.float64)
    assert torch.allclose(components(points, 2), expected, atol=1e-6)
    assert torch.allclose(components(points, 1), expected[:, :1], atol=1e-6)
    assert components(points, 5).shape == (4, 2)  # no more axes than the texts have


def test_components_keep_what_any_rotation_of_the_text_space_keeps():
    made = torch.Generator().manual_seed(0)
    vectors = torch.randn(30, 6, generator=made)
    turned = vectors @ torch.linalg.qr(torch.randn(6, 6, generator=made))[0]
    found, other = components(vectors, 4), components(turned, 4)
    assert torch.allclose(found @ found.T, other @ other.T, atol=1e-4)
    products = found.T @ found
    assert torch.allclose(products, products.diag().diag(), atol=1e-8)  # uncorrelated
    assert products.diag().tolist() == sorted(products.diag().tolist(), reverse=True)


def test_the_table_keeps_its_size_and_what_text_does_not_fill():
    model = Table(4, 3)
    before = model.items.detach().clone()
    points = torch.tensor([[3.0, 1.0], [-3.0, -1.0], [0.1, -0.3], [-0.1, 0.3]])
    start_from_text(model, points, name="toy")
    after = model.items.detach()
    assert torch.equal(after[:, 2], before[:, 2])  # two axes of text, three columns
    root_mean_square = before[:, :2].square().mean().sqrt()
    assert torch.allclose(after[:, :2].square().mean().sqrt(), root_mean_square)
    found = components(points, 3).float()
    assert torch.allclose(after[:, :2] / after[0, 0], found / found[0, 0], atol=1e-6)


def test_texts_that_are_all_alike_change_nothing():
    model = Table(4, 3)
    before = model.items.detach().clone()
    start_from_text(model, torch.ones(4, 5), name="toy")
    assert torch.equal(model.items, before)


def test_a_backbone_without_a_table_is_refused():
    with pytest.raises(ConfigError, match="the backbone 'mine' has no parameter `items`"):
        start_from_text(nn.Linear(2, 2), torch.ones(4, 5), name="mine")


def settings(**changes):
    small = {
        "dim": 8,
        "epochs": 1,
        "workers": 1,
        "device": "cpu",
        "neighbours": 0,
        "counted": [],
        "baselines": ["popularity"],
    }
    infer = {"llm": "item-text", "controls": []}
    return build({"infer": infer, "train": small | changes, "evaluate": {"k": [5]}})


def stage(run, name, function, config):
    (run / name).mkdir()
    function(run, run / name, config, QUIET)


def test_it_is_a_row_that_starts_where_the_texts_are(tmp_path):
    run = toy_run(tmp_path / "run", sources=("llm",))
    config = settings(text_init=True, learning_rate=1e-12, l2=0.0)
    stage(run, "train", train, config)
    start = load_model(run / "train/text-init/seed-0").model.backbone.item_embeddings()
    plain = load_model(run / "train/plain/seed-0").model.backbone.item_embeddings()
    vectors = read_tensors(run / "localize/items.safetensors")["items"]
    expected = components(vectors, 8).float()
    assert torch.allclose(start / start[0, 0], expected / expected[0, 0], atol=1e-3)
    assert torch.allclose(start.square().mean(), plain.square().mean(), rtol=1e-3)
    stage(run, "evaluate", evaluate, config)
    found = json.loads((run / "evaluate/metrics.json").read_text())
    row = next(row for row in found["rows"] if row["name"] == "text-init")
    assert (row["kind"], row["label"]) == ("text-init", "sr-gnn, text-init")
    assert set(row["p"]) == {"HR@5", "MRR@5", "NDCG@5"}  # compared with plain
    assert [row["name"] for row in found["rows"]] == ["popularity", "plain", "text-init", "llm"]


def test_without_text_vectors_it_is_refused(tmp_path):
    run = toy_run(tmp_path / "run", sources=())
    with pytest.raises(ConfigError, match=r"train\.text_init: .* no text vectors .* infer\.llm"):
        stage(run, "train", train, settings(text_init=True))
    assert not list((run / "train").iterdir())
