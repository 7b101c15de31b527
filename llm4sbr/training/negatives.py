"""Draws the items that a training step scores besides the targets: negatives, shared by the whole batch.

A session's softmax is over the batch's targets and the drawn items instead of the catalogue:

    loss = log(exp(s_target) + sum over j of exp(s_j) / p_j) - s_target        j: the step's other items

An item counts for those that it stands for. p_j is the probability that a step has it, so the sum over j
estimates that over the catalogue without bias; log p_j is subtracted from its score (logQ correction, Bengio
& Senecal 2008). The target is there for certain: its score stays as it is. With q_j the chance of a draw, t_j
the share among the training targets, n draws and B sessions

    p_j = 1 - (1 - q_j)^n (1 - t_j)^B

Negatives are drawn once per batch (Hidasi & Karatzoglou, CIKM 2018), so that scoring stays one product of
matrices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from llm4sbr.config import TrainConfig
from llm4sbr.data.batches import Batch
from llm4sbr.errors import ConfigError
from llm4sbr.fusion.model import Recipe
from llm4sbr.fusion.on_part import ItemTables, item_tables

FULL_UNTIL = 20_000
"""Largest catalogue that `train.loss = auto` scores whole."""

SAMPLED = "popularity"
"""What `train.loss = auto` is for a larger one."""

POWER = 0.5
"""`popularity` draws an item in proportion to its clicks to this power (GRU4Rec's `sample_alpha`)."""


class Sample(NamedTuple):
    """The C items that a step computes with."""

    ids: Tensor
    """int64 (C,), distinct, ascending: those that are scored, and those whose vectors the sessions read."""
    log_share: Tensor
    """float32 (C,): log p_j; infinity for items that are read but not scored."""


class Negatives:
    """Draws a sample for each batch.

    Args:
        kind: `uniform`; `popularity`; or `in-batch`, the targets of the batch alone.
        count: n, the number of draws.
        clicks: int64 (N,), of each item in training.
        targets: int64 (N,), how often each item is a training target.
    """

    def __init__(self, kind: str, count: int, clicks: Tensor, targets: Tensor) -> None:
        self.kind, self.size = kind, len(clicks)
        self.count = 0 if kind == "in-batch" else count
        weight = clicks.double().clamp(min=0.5) ** (POWER if kind == "popularity" else 0.0)
        self.chance = weight / weight.sum()  # q
        self.below = self.chance.cumsum(0) if kind == "popularity" else None
        self.asked = targets.double() / max(1, int(targets.sum()))  # t

    def __str__(self) -> str:
        """In words, for a model's record."""
        return f"{self.kind}, {self.count:,} negatives" if self.count else self.kind

    def draw(self, batch: Batch, read: Tensor, random: torch.Generator) -> Sample:
        """The items of a step.

        Args:
            batch: the whole batch, of all processes.
            read: int64 (R,), ids of the items whose vectors the batch's sessions read; 0 is none.
            random: what is drawn from.
        """
        scored = torch.cat([batch.target, self._drawn(random)])
        ids, place = torch.unique(torch.cat([scored, read]), return_inverse=True)
        known = torch.zeros(len(ids), dtype=torch.bool)
        known[place[: len(scored)]] = True
        if not ids[0]:  # padding
            ids, known = ids[1:], known[1:]
        never = torch.log1p(-self.chance[ids - 1].clamp(max=1 - 1e-12)) * self.count
        never += torch.log1p(-self.asked[ids - 1].clamp(max=1 - 1e-12)) * len(batch.target)
        share = torch.log(-torch.expm1(never)).float()
        return Sample(ids, torch.where(known, share, torch.inf))

    def _drawn(self, random: torch.Generator) -> Tensor:
        if self.below is None:
            return torch.randint(1, self.size + 1, (self.count,), generator=random)
        drawn = torch.rand(self.count, dtype=torch.float64, generator=random) * self.below[-1]
        return torch.searchsorted(self.below, drawn, right=True).clamp(max=self.size - 1) + 1


def corrected(scores: Tensor, log_share: Tensor, target: Tensor) -> Tensor:
    """Scores float (B, C) less log p, float (C,), except the targets', int64 (B,), numbered from 1."""
    less = log_share.repeat(len(scores), 1).scatter_(1, target.unsqueeze(1) - 1, 0.0)
    return scores - less


def chosen_loss(config: TrainConfig, recipe: Recipe) -> tuple[str, ItemTables | None]:
    """What `train.loss` is for a model: `full`, or how negatives are drawn and the tables that this needs.

    Raises:
        ConfigError: more negatives than items, or a component that needs the whole catalogue.
    """
    kind, size = config.loss, recipe.num_items
    if kind == "auto":
        if size <= FULL_UNTIL:
            return "full", None
        try:
            return SAMPLED, item_tables(recipe)
        except ConfigError:
            return "full", None
    if kind == "full":
        return kind, None
    if kind != "in-batch" and config.negatives > size:
        raise ConfigError(
            f"train.negatives = {config.negatives:,}: the catalogue has {size:,} items; lower it, or set "
            "train.loss=full"
        )
    try:
        return kind, item_tables(recipe)
    except ConfigError as error:
        raise ConfigError(f"train.loss = {kind}: {error}; set train.loss=full") from None
