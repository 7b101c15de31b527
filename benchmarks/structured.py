"""A made-up catalogue with structure, and a model trained on its sessions, to measure an index with.

Items belong to a tree: 100 departments, each with 20 shelves, whose centres in 100 dimensions deviate from
their department's, and items from their shelf's. Popularity falls as 1 / rank^0.8. A session picks a shelf by
the popularity of its items and clicks there; one click in five is on another shelf of the department. SR-GNN
begins with the items' vectors as embeddings, as with `train.text_init`, and is trained on such sessions by a
softmax over the batch's targets and 2,000 items drawn by popularity, corrected by log Q (Yi et al. 2019).
Random vectors would say little: no two items of theirs are near each other, so no index can leave items out.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
from synthetic import LONGEST, WIDTH
from torch import Tensor
from torch.nn import functional

from llm4sbr.fusion.model import LLM4SBR, Recipe, build
from llm4sbr.serving.artefact import Artefact
from llm4sbr.store import read_tensors, write_tensors

DEPARTMENTS, SHELVES = 100, 20
NEGATIVES, BATCH = 2000, 200


class Shop:
    """Items with a place in the tree, and sessions of them.

    Args:
        items: N.
        seed: of everything.
    """

    def __init__(self, items: int, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        shelves = min(DEPARTMENTS * SHELVES, items // 5)
        self.shelf = torch.randint(shelves, (items,), generator=self.generator)
        self.order = self.shelf.argsort(stable=True)  # item rows by shelf
        self.counts = self.shelf.bincount(minlength=shelves)
        self.starts = self.counts.cumsum(0) - self.counts
        rank = torch.randperm(items, generator=self.generator) + 1
        self.popularity = (1 / rank**0.8) / (1 / rank**0.8).sum()
        self.by_shelf = torch.zeros(shelves).index_add_(0, self.shelf, self.popularity)
        self.within = self.popularity[self.order].double().cumsum(0)
        self.shelves = shelves

    def vectors(self) -> Tensor:
        """Item vectors, float (N, D), of length about 1."""

        def draw(count: int) -> Tensor:
            return torch.randn(count, WIDTH, generator=self.generator)

        department = torch.arange(self.shelves) % DEPARTMENTS
        centres = draw(DEPARTMENTS)[department] + 0.7 * draw(self.shelves)
        return (centres[self.shelf] + 0.5 * draw(len(self.shelf))) / WIDTH**0.5  # type: ignore[no-any-return]

    def sessions(self, count: int, clicks: int) -> Tensor:
        """Item ids, int64 (count, clicks)."""
        shelf = self.by_shelf.multinomial(count, replacement=True, generator=self.generator)
        shelf = shelf.unsqueeze(1).repeat(1, clicks)
        away = torch.rand(shelf.shape, generator=self.generator) < 0.2
        step = DEPARTMENTS * torch.randint(SHELVES, shelf.shape, generator=self.generator)
        shelf = torch.where(away, (shelf + step) % self.shelves, shelf)
        shelf = torch.where(self.counts[shelf] > 0, shelf, shelf[:, :1])
        first, last = self.starts[shelf], self.starts[shelf] + self.counts[shelf] - 1
        low = torch.where(first > 0, self.within[first - 1], 0.0)
        drawn = low + torch.rand(shelf.shape, generator=self.generator) * (self.within[last] - low)
        place = torch.minimum(torch.searchsorted(self.within, drawn), last)
        return self.order[place] + 1


def trained(items: int, *, steps: int, kept: Path, seed: int = 0) -> tuple[LLM4SBR, Shop]:
    """SR-GNN after `steps` steps on sessions of a shop, and the shop; the weights are kept in a file."""
    shop = Shop(items, seed)
    torch.manual_seed(seed)
    model = build(Recipe(items, WIDTH, "sr-gnn"))
    if kept.exists():
        model.load_state_dict(read_tensors(kept))
        return model.eval(), shop
    table = model.backbone.item_embeddings()
    with torch.no_grad():
        table.copy_(shop.vectors())
    table.requires_grad_(False)  # only the rows that a step touches are moved, below
    others = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.Adam(others, lr=0.002)
    began = time.perf_counter()
    for step in range(steps):
        clicks = 2 + int(torch.randint(6, (1,), generator=shop.generator))
        sessions = shop.sessions(BATCH, clicks + 1)
        loss = _step(model, shop, sessions, optimizer)
        if step % 250 == 0:
            print(f"  step {step}: loss {loss:.3f}, {time.perf_counter() - began:.0f} s", file=sys.stderr)
    write_tensors(kept, model.state_dict())
    return model.eval(), shop


def _step(model: LLM4SBR, shop: Shop, sessions: Tensor, optimizer: torch.optim.Optimizer) -> float:
    """One step over sampled items; rows of the item table move by plain gradient descent."""
    items, targets = sessions[:, :-1], sessions[:, -1]
    drawn = shop.popularity.multinomial(NEGATIVES, replacement=True, generator=shop.generator) + 1
    candidates = torch.cat([targets, drawn])
    every = torch.cat([items.flatten(), candidates])
    ids, place = every.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    table = model.backbone.item_embeddings()
    small = build(Recipe(len(ids), WIDTH, "sr-gnn"))  # the same model over the items of this step alone
    rows = table[ids - 1].clone().requires_grad_()
    names = {id(one): name for name, one in small.named_parameters()}
    own = names[id(small.backbone.item_embeddings())]
    weights = dict(model.named_parameters()) | {own: rows}
    local = place[: items.numel()].reshape(items.shape) + 1
    encode = _Queries(small)
    query = torch.func.functional_call(
        encode,
        {f"model.{name}": one for name, one in weights.items()},
        (local, torch.ones_like(local).bool()),
    )
    scores = query @ rows[place[items.numel() :]].T - shop.popularity[candidates - 1].log()
    same = candidates[BATCH:].unsqueeze(0) == targets.unsqueeze(1)
    scores[:, BATCH:] = scores[:, BATCH:].masked_fill(same, -torch.inf)
    loss = functional.cross_entropy(scores, torch.arange(len(targets)))
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    with torch.no_grad():
        table.index_add_(0, ids - 1, rows.grad, alpha=-0.5)  # type: ignore[arg-type]
    return float(loss.detach())


class _Queries(torch.nn.Module):
    """The vectors that a plain model scores items with."""

    def __init__(self, model: LLM4SBR) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Tensor, mask: Tensor) -> Tensor:
        """Float (B, D) of int64 (B, T) under bool (B, T)."""
        fused = self.model.represent(items, mask).fused
        assert fused is not None
        return fused


def held_out(shop: Shop, count: int) -> Tensor:
    """Sessions that the model was not trained on, right-padded int64 (count, T) of mixed lengths."""
    clicks = (1 + torch.rand(count, generator=shop.generator).log().neg() * 4).long().clamp(1, LONGEST)
    sessions = shop.sessions(count, int(clicks.max()))
    return sessions * (torch.arange(sessions.shape[1]) < clicks.unsqueeze(1))


@torch.no_grad()
def recall_of(folder: Path, model: LLM4SBR, sessions: Tensor) -> float:
    """Share of the model's own 20 best items in the lists of an artefact, own items left out."""
    artefact, shares = Artefact.open(folder), []
    for row in sessions:
        items = row[row > 0].unsqueeze(0)
        scores = model(items, items > 0)
        best = scores.scatter(1, items - 1, -torch.inf).topk(artefact.k).indices[0] + 1
        found = artefact.top(items.numpy(), (items > 0).numpy(), exclude_seen=True)[0][0]
        shares.append(len(set(best.tolist()) & set(found.tolist())) / artefact.k)
    return sum(shares) / len(shares)
