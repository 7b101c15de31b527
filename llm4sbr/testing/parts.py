"""Checks a model on a part of its catalogue, for the contracts of backbones and fusers."""

from __future__ import annotations

import torch
from torch import Tensor

from llm4sbr.fusion.model import LLM4SBR, Recipe
from llm4sbr.fusion.on_part import OnPart, item_tables, rows_read
from llm4sbr.fusion.part import Part


def check_part(model: LLM4SBR, recipe: Recipe, items: Tensor, mask: Tensor, intents: Tensor | None) -> None:
    """Assert that items score the same if the model has the rows of some items only.

    Args:
        model: the model.
        recipe: what it was built from.
        items: int64 (B, T), not on the item before the last of the catalogue.
        mask: bool (B, T).
        intents: float (B, P, E), if it takes any.
    """
    tables = item_tables(recipe)
    unclicked = torch.tensor([recipe.num_items - 1])
    read = torch.cat([rows_read(model, tables, items[mask]), unclicked])
    ids = torch.unique(read[read > 0])
    place = torch.zeros(recipe.num_items + 1, dtype=torch.int64)
    place[ids] = torch.arange(1, len(ids) + 1)
    rows = tuple(model.get_parameter(name)[ids - 1] for name in tables.parameters)
    expected = model.eval()(items, mask, intents)[:, ids - 1]
    found = OnPart(model, tables)(items, mask, intents, fold=None, part=Part(ids, place), rows=rows)
    worst = float((found.scores - expected).detach().abs().max())
    assert worst < 1e-5, (
        f"with the fuser {recipe.fuser}, a score on a part of the catalogue differs by {worst:.2g}"
    )
