from __future__ import annotations

import numpy as np
import pytest
import torch
from llm4sbr_nullspace import NullSpace

from llm4sbr.errors import ConfigError
from llm4sbr.testing.fusers import FuserContract


class TestNullSpace(FuserContract):
    name = "nullspace"


def _made(items: int = 40, dim: int = 6, text: int = 5) -> tuple[NullSpace, torch.Tensor]:
    torch.manual_seed(0)
    fuser = NullSpace(dim, 2, num_items=items, text_dim=text)
    titles = torch.randn(items, text) @ torch.randn(text, text) + 3
    fuser.fit(titles, torch.ones(items, dtype=torch.int64))
    torch.nn.init.normal_(fuser.ids)
    return fuser.eval(), titles


def test_titles_are_their_strongest_components_with_deviation_one():
    fuser, titles = _made()
    rows = titles.double().numpy()
    centred = rows - rows.mean(0)
    left, _, _ = np.linalg.svd(centred, full_matrices=False)
    expected = left[:, :3] * np.sqrt(len(rows))  # of deviation 1, strongest first, signs are free
    found = fuser.titles.numpy()[:, ::-1]
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)


def test_scores_by_the_formula_in_numpy():
    fuser, _ = _made()
    behavioural, semantic, intents = torch.randn(4, 2, 6), torch.randn(4, 2, 6), torch.randn(4, 2, 5)
    intents[1, 0] = 0
    with torch.no_grad():
        fused = fuser(behavioural, semantic)
        found = fuser.rescore(torch.full((4, 40), 7.0), fused, intents).numpy()
    weights = {name: value.double().numpy() for name, value in fuser.state_dict().items()}
    h = (behavioural + semantic).double().numpy().reshape(4, -1)
    q = h @ weights["vector.weight"].T @ weights["query.weight"].T
    for row in range(4):
        for p in range(2):
            i = intents[row, p].double().numpy()
            if i.any():
                q[row, :3] += weights["told"][p] * (i - weights["mean"]) @ weights["axes"] / 3
    items = np.concatenate([weights["titles"], weights["ids"]], axis=1)
    np.testing.assert_allclose(found, q @ items.T, atol=1e-4)


def test_a_share_outside_0_to_1():
    for share in (0.0, 1.0, -1.0):
        with pytest.raises(ConfigError, match="share"):
            NullSpace(8, 2, num_items=3, text_dim=4, share=share)
