"""The model: a backbone, optionally with intents and a fuser.

    items, mask --backbone--> long, short (B, D) --per perspective--> behavioural (B, P, D) -+
    intents (B, P, E) --linear map, Eq. 6--> semantic (B, P, D) ----------------------------+--fuser--> (B, D)
    scores = fused . item embeddings (Eq. 10), or the backbone's own; a `CatalogueFuser` adds text scores

For sessions without an LLM answer, a `Predictor` can compute intents from long, short and the items' titles.
If the LLM was asked about items, `ItemIntents` has the answers about a session's last item.

Without perspectives it is the plain backbone with its own readout, W [short; long]. A fixed item-item model
may add to the scores of both in training (`item_item`), and what is counted afterwards (`counted`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from llm4sbr import registry
from llm4sbr.fast import fusion
from llm4sbr.fusion.counted import Counted
from llm4sbr.fusion.item_item import ItemItemScores, entries_per_item
from llm4sbr.fusion.part import Part
from llm4sbr.fusion.predictor import ItemIntents, Predictor
from llm4sbr.protocols import Backbone, CatalogueFuser, Encoded, Fuser, Horizon


class Output(NamedTuple):
    """Scores, and the tensors that the losses need."""

    scores: Tensor
    """float (B, N), column j for item j + 1."""
    encoded: Encoded
    behavioural: Tensor | None = None
    """float (B, P, D), None in a plain model; P counts `slots`."""
    semantic: Tensor | None = None
    """float (B, P, D), zero rows where no intent is known."""
    known: Tensor | None = None
    """bool (B, P)."""
    fused: Tensor | None = None
    """float (B, D), the session vector used for scoring."""
    intents: Tensor | None = None
    """float (B, P, E), given or predicted."""
    added: Tensor | None = None
    """float (B, N), the part of the scores that is neither the backbone's nor the fuser's."""


def slots(horizons: Sequence[Horizon]) -> tuple[Horizon, ...]:
    """The perspectives' horizons, followed by horizons that no perspective has.

    A fuser gets one position per slot. The extra positions never have an intent; they make sure that both the
    whole session and its last item contribute if the LLM was asked from one perspective only.
    """
    every: tuple[Horizon, ...] = ("long", "short")
    return (*horizons, *(one for one in every if one not in horizons))


class LLM4SBR(nn.Module):
    """Scores the whole catalogue for sessions with or without intents.

    Args:
        backbone: the session encoder; with the class attribute `plain_readout = "long"` the plain model
            scores with `long` alone, a method `query(fused)` transforms the session vector before scoring,
            and a method `score(fused, encoded)` replaces the dot product.
        fuser: created for `len(slots(horizons))` perspectives; None for the plain backbone.
        horizons: one per perspective, in the order of the intents; empty for the plain backbone.
        text_dim: E; 0 for the plain backbone.
        item_item: what else adds to the scores, if anything.
    """

    def __init__(
        self,
        backbone: Backbone,
        fuser: Fuser | None,
        horizons: Sequence[Horizon],
        text_dim: int,
        *,
        item_item: ItemItemScores | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.horizons = tuple(horizons)
        self.text_dim = text_dim
        self.fuser = fuser
        self.item_item = item_item
        self.counted: Counted | None = None
        self.rescores = getattr(fuser, "needs_catalogue", False)
        self.predictor: Predictor | ItemIntents | None = None
        dim = backbone.item_embeddings().shape[1]
        if fuser is not None:
            self.text = nn.Linear(text_dim, dim)  # Eq. 6, one map for all perspectives
            _small(self.text)
        elif getattr(backbone, "plain_readout", "both") != "long":
            self.readout = nn.Linear(2 * dim, dim, bias=False)
            _small(self.readout)

    def forward(
        self, items: Tensor, mask: Tensor, intents: Tensor | None = None, *, predict: bool = False
    ) -> Tensor:
        """Scores, float (B, N), of int64 (B, T) under bool (B, T) with float (B, P, E) or no intents.

        With `predict` the predictor's intents replace missing ones: zero rows of `intents`, or all if it is
        None.
        """
        return self.represent(items, mask, intents, predict=predict).scores

    def represent(
        self,
        items: Tensor,
        mask: Tensor,
        intents: Tensor | None = None,
        *,
        predict: bool = False,
        fold: Tensor | None = None,
        part: Part | None = None,
    ) -> Output:
        """Scores together with the vectors they were computed from; arguments as in `forward`.

        `fold`, int64 (B,), says for training sessions what the item-item model must not know of them. `part`
        are the items that the item tables hold at present, if these are not all.
        """
        own = items if part is None else part.place[items]
        output = self._represent(own, mask, intents, predict=predict)
        parts = [self.item_item(items, mask, fold, part)] if self.item_item is not None else []
        if self.counted is not None:
            parts.append(self.counted(items, mask))
        if not parts:
            return output
        added: Tensor = sum(parts[1:], parts[0])
        return output._replace(scores=output.scores + added, added=added)

    def _represent(self, items: Tensor, mask: Tensor, intents: Tensor | None, *, predict: bool) -> Output:
        encoded = self.backbone(items, mask)
        if self.fuser is None:
            fused = self._query(self._plain(encoded))
            return Output(self._score(fused, encoded), encoded, fused=fused)
        if predict:
            intents = self._completed(intents, self.predict(encoded, items, mask))
        order = slots(self.horizons)
        behavioural = torch.stack([encoded.long if one == "long" else encoded.short for one in order], 1)
        semantic, known = self._semantic(behavioural, intents)
        fused = self._query(self.fuser(behavioural, semantic))
        scores = self._score(fused, encoded)
        if self.rescores:
            scores = cast(CatalogueFuser, self.fuser).rescore(scores, fused, intents)
            if (repeats := self.repeats) is not None:
                scores = scores + repeats * clicked(items, mask, scores)
        return Output(scores, encoded, behavioural, semantic, known, fused, intents)

    def add_counted(self, names: Sequence[str]) -> Counted:
        """Add what is counted, with empty tables of these names, and return it."""
        device = next(self.parameters()).device
        self.counted = Counted(len(self.backbone.item_embeddings()), names).to(device)
        return self.counted

    def add_predictor(self) -> Predictor:
        """Add a predictor with initial weights, and return it."""
        dim = self.backbone.item_embeddings().shape[1]
        self.predictor = Predictor(
            dim, len(self.horizons), self.text_dim, titles=hasattr(self.fuser, "texts")
        )
        return self.predictor

    def add_item_intents(self) -> ItemIntents:
        """Give the model an empty table of intents by item in the place of a predictor, and return it."""
        items = len(self.backbone.item_embeddings())
        self.predictor = ItemIntents(items, len(self.horizons), self.text_dim)
        return self.predictor

    @property
    def own_source(self) -> str | None:
        """What the model's own intents are, as a source of `serving`: `items`, `predictor` or none."""
        if self.predictor is None:
            return None
        return "items" if isinstance(self.predictor, ItemIntents) else "predictor"

    def predict(self, encoded: Encoded, items: Tensor, mask: Tensor) -> Tensor:
        """The model's own intents, float (B, P, E), for sessions and the backbone's encoding of them.

        Raises:
            ValueError: the model has no predictor.
        """
        if self.predictor is None:
            raise ValueError("the model has no predictor of intents")
        if isinstance(self.predictor, ItemIntents):
            return cast(Tensor, self.predictor(items, mask))
        predicted: Tensor = self.predictor(encoded, mask, self.texts(items))
        return predicted

    @property
    def repeats(self) -> Tensor | None:
        """Scalar that the fuser adds to the scores of a session's own items, or None."""
        return getattr(self.fuser, "repeats", None)

    def texts(self, items: Tensor) -> Tensor | None:
        """Title vectors of items int64 (B, T), float (B, T, E), if the fuser has them; else None."""
        of = getattr(self.fuser, "texts", None)
        return None if of is None else cast(Tensor, of(items))

    @staticmethod
    def _completed(intents: Tensor | None, predicted: Tensor) -> Tensor:
        if intents is None:
            return predicted
        return torch.where(intents.abs().sum(2, keepdim=True) > 0, intents, predicted)

    def _semantic(self, behavioural: Tensor, intents: Tensor | None) -> tuple[Tensor, Tensor]:
        slots, extra = behavioural[:, :, 0], behavioural.shape[1]
        if intents is None:
            return torch.zeros_like(behavioural), torch.zeros_like(slots, dtype=torch.bool)
        if fusion.applies(self, behavioural) and not intents.requires_grad:
            known = torch.linalg.vector_norm(intents, dim=2) > 0  # (B, P)
            mapped = fusion.semantic(intents, known, self.text)
        else:  # a zero intent stays zero: a missing answer must not be replaced by the map's bias
            known = intents.abs().sum(2) > 0
            mapped = self.text(intents) * known.unsqueeze(2)
        extra -= intents.shape[1]
        if extra:
            mapped = torch.cat([mapped, torch.zeros_like(behavioural[:, -extra:])], 1)
            known = torch.cat([known, torch.zeros_like(slots[:, -extra:], dtype=torch.bool)], 1)
        return mapped, known

    def _plain(self, encoded: Encoded) -> Tensor:
        if getattr(self.backbone, "plain_readout", "both") == "long":
            return encoded.long
        mapped: Tensor = self.readout(torch.cat([encoded.short, encoded.long], 1))
        return mapped

    def _query(self, fused: Tensor) -> Tensor:
        own = getattr(self.backbone, "query", None)
        return fused if own is None else cast(Tensor, own(fused))

    def _score(self, fused: Tensor, encoded: Encoded) -> Tensor:
        own = getattr(self.backbone, "score", None)
        if own is not None:
            return cast(Tensor, own(fused, encoded))
        items = self.backbone.item_embeddings() if encoded.items is None else encoded.items
        return fused @ items.T


def clicked(items: Tensor, mask: Tensor, scores: Tensor) -> Tensor:
    """1 at a session's own items, else 0, like `scores` (B, N), for int64 (B, T) under bool (B, T)."""
    own = torch.where(mask, items, items[:, :1]) - 1  # padding repeats the first click
    return torch.zeros_like(scores).scatter(1, own, 1.0)


class Recipe(NamedTuple):
    """Everything that `build` needs to create a model."""

    num_items: int
    """N."""
    dim: int
    """D."""
    backbone: str
    """An installed name of kind `backbones`."""
    backbone_options: dict[str, Any] = {}
    fuser: str | None = None
    """An installed name of kind `fusers`; None for the plain backbone."""
    fuser_options: dict[str, Any] = {}
    perspectives: tuple[str, ...] = ()
    horizons: tuple[Horizon, ...] = ()
    """One per perspective."""
    text_dim: int = 0
    """E."""
    predictor: bool = False
    """Whether the model has a predictor of intents."""
    item_intents: bool = False
    """Whether it has a table of intents by item instead."""
    neighbours: int = 0
    """M, entries per item of the item-item model whose scores are added; 0 for none."""
    counted: tuple[str, ...] = ()
    """Tables of `Counted`; none if there is no such part."""

    def components(self) -> list[tuple[str, str]]:
        """(kind, name) of every component."""
        return [("backbones", self.backbone)] + ([("fusers", self.fuser)] if self.fuser else [])


def build(recipe: Recipe) -> LLM4SBR:
    """Create a model with initial weights; `RegistryError` for an unknown name or option."""
    backbone = registry.create(
        "backbones", recipe.backbone, num_items=recipe.num_items, dim=recipe.dim, **recipe.backbone_options
    )
    fuser = None
    if recipe.fuser is not None:
        count = len(slots(recipe.horizons))
        options = recipe.fuser_options
        if needs_catalogue(recipe):
            options = {**options, "num_items": recipe.num_items, "text_dim": recipe.text_dim}
        fuser = registry.create("fusers", recipe.fuser, dim=recipe.dim, perspectives=count, **options)
    count = entries_per_item(recipe.neighbours, recipe.num_items)
    item_item = ItemItemScores(recipe.num_items, count) if count else None
    model = LLM4SBR(backbone, fuser, recipe.horizons, recipe.text_dim, item_item=item_item)
    if recipe.counted:
        model.add_counted(recipe.counted)
    if recipe.predictor:
        model.add_predictor()
    if recipe.item_intents:
        model.add_item_intents()
    return model


def needs_catalogue(recipe: Recipe) -> bool:
    """Whether the fuser needs the catalogue's text vectors (`CatalogueFuser.fit`) before training."""
    if recipe.fuser is None:
        return False
    name, _ = registry.split_argument("fusers", recipe.fuser, {})
    return bool(getattr(registry.load("fusers", name), "needs_catalogue", False))


def _small(layer: nn.Linear) -> None:
    bound = layer.out_features**-0.5  # as the backbones' own maps: uniform within 1 / sqrt(D)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -bound, bound)
