"""What every format is made from: sessions in, the K best items out, as one module.

    items, mask [, intents] --model--> queries --head--> scores (B, N) --seen out--> top K

Where scores are inner products, all that an item is scored with lies in constant tables: its embedding (N, D)
and, for fusers that speak to titles, its title's vector (N, E). They are read once per batch, which is what a
request costs. What an item-item model adds is read off a few rows of it and added to these scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from llm4sbr.errors import InputError
from llm4sbr_export.heads import Exact, ReRanked, without

if TYPE_CHECKING:
    from llm4sbr.fusion.model import LLM4SBR, Output

VARIANTS = ("plain", "intents", "predictor", "none")
"""Where intents come from: a plain model; an input; the model's own predictor; nowhere (a fused model)."""


class Graph(nn.Module):
    """A trained model with scoring, exclusion and top-K.

    Args:
        model: in evaluation mode, on the CPU; taken over.
        k: K.
        variant: one of `VARIANTS`.
        precision: `fp32`, or one of `heads.COARSE`, which choose candidates and score those exactly.
        query_range: largest absolute value in a query, for a precision that rounds queries too.
        told: also give the predicted intents, in the variant `predictor`.

    Raises:
        InputError: K is not in 1..N, the model has no such variant, or it has no table to make smaller.
    """

    def __init__(
        self,
        model: LLM4SBR,
        *,
        k: int,
        variant: str,
        precision: str = "fp32",
        query_range: float | None = None,
        told: bool = False,
    ) -> None:
        super().__init__()
        self.model = model.float()  # titles are kept in half precision, but read in full
        self.num_items = len(model.backbone.item_embeddings())
        self.k, self.variant, self.precision = k, variant, precision
        self.told = told and variant == "predictor"
        self._check()
        tables = self._tables()
        if not tables and precision != "fp32":
            scorer = model.backbone if hasattr(model.backbone, "score") else model.fuser
            raise InputError(
                f"precision {precision}: {type(scorer).__name__} scores by more than one product, "
                "there is no table to make smaller; export fp32"
            )
        self.exact = Exact(tables, repeats=self.model.repeats) if tables else None
        self.coarse = None
        if self.exact and precision != "fp32":
            self.coarse = ReRanked(self.exact, precision, k=k, query_range=query_range)

    def forward(
        self, items: Tensor, mask: Tensor, exclude_seen: Tensor, intents: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Item ids int64 (B, K), best first, 0 where there is none, and their scores float32 (B, K).

        With `told`, the predicted intents float32 (B, P, E) too.

        Args:
            items: int64 (B, T), right-padded; every session has a click.
            mask: bool (B, T), true at clicks.
            exclude_seen: bool (B, 1), leave out the session's own items.
            intents: float32 (B, P, E), in the variant `intents` only.
        """
        output = self.model.represent(items, mask, intents, predict=self.variant == "predictor")
        clicked = torch.where(mask, items, items[:, :1]) - 1  # padding repeats the first click
        if self.exact is None:
            values, rows = torch.topk(without(output.scores, clicked, exclude_seen), self.k)
        else:
            head = self.coarse or self.exact
            values, rows = head(self.queries(output), clicked, exclude_seen, self.k, output.added)
        found = (torch.where(values == -torch.inf, 0, rows + 1), values)
        return (*found, cast(Tensor, output.intents)) if self.told else found

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `forward` gives."""
        return ("item_ids", "scores", "intents") if self.told else ("item_ids", "scores")

    def queries(self, output: Output) -> list[Tensor]:
        """What each table is multiplied with, float (B, Q) each."""
        fused = cast(Tensor, output.fused)
        if not self.model.rescores:
            return [fused]
        if self.variant == "none":
            return [torch.cat([fused, torch.ones_like(fused[:, :1])], 1)]
        queries: list[Tensor] = cast(Any, self.model.fuser).queries(fused, output.intents)
        return queries

    def example(self) -> dict[str, Tensor]:
        """Inputs to trace with: two sessions, of two clicks and three."""
        items = torch.tensor([[1, 1, 0], [1, 1, 1]])
        inputs = {"items": items, "mask": items > 0, "exclude_seen": torch.ones(2, 1, dtype=torch.bool)}
        if self.variant == "intents":
            inputs["intents"] = torch.ones(2, len(self.model.horizons), self.model.text_dim)
        return inputs

    def _tables(self) -> list[Tensor]:
        """What items are scored with, float (N, D) and (N, E); empty where scores are more than products."""
        model = self.model
        if hasattr(model.backbone, "score"):
            return []
        items = model.backbone.item_embeddings()
        if not model.rescores:
            return [items]
        fuser = cast(Any, model.fuser)
        if not hasattr(fuser, "factors"):
            return []
        with torch.no_grad():
            tables: list[Tensor] = fuser.factors(items)
            return [folded(fuser, tables)] if self.variant == "none" else tables

    def _check(self) -> None:
        fused = self.model.fuser is not None
        if not 1 <= self.k <= self.num_items:
            raise InputError(f"k = {self.k}: the catalogue has {self.num_items} items; choose a smaller -k")
        if self.variant not in VARIANTS:
            raise InputError(f"variant {self.variant!r}: expected {', '.join(VARIANTS)}")
        if fused == (self.variant == "plain"):
            kind = "takes intents" if fused else "is a plain backbone"
            raise InputError(f"variant {self.variant!r}: the model {kind}")
        if self.variant == "predictor" and getattr(self.model, "predictor", None) is None:
            raise InputError("variant 'predictor': the model was trained without a predictor")


def folded(fuser: Any, tables: list[Tensor]) -> Tensor:
    """One table (N, D + 1) for [fused; 1]: without intents, queries are affine in the fused vector."""
    dim = tables[0].shape[1]
    start = fuser.queries(torch.zeros(1, dim), None)
    slopes = [query - first for query, first in zip(fuser.queries(torch.eye(dim), None), start, strict=True)]
    columns = [
        sum(table @ query.T for table, query in zip(tables, queries, strict=True))
        for queries in (slopes, start)
    ]
    return torch.cat(cast(list[Tensor], columns), 1)
