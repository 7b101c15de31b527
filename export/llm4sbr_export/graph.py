"""The module that every format exports: sessions in, the K best items out.

    items, mask [, intents] --model--> queries --head--> scores (B, N) --seen out--> top K

If scores are inner products, all item data is in constant tables: the embeddings (N, D) and, for catalogue
fusers, the title vectors (N, E). Each batch reads them once, which is most of a request's cost. The scores of
an item-item model are read from a few rows of it and added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from llm4sbr.errors import InputError
from llm4sbr.fusion.linear import Linear
from llm4sbr.fusion.predictor import ItemIntents
from llm4sbr.fusion.rows import folded
from llm4sbr_export.heads import COARSE, Exact, ReRanked, without

if TYPE_CHECKING:
    from llm4sbr.fusion.model import LLM4SBR, Output

QUERY = "session_query"
"""Name of the output with which items are scored that the graph does not have, see `serving.added`."""

ALLOWED = "allowed"
"""Name of the input for filters, which need not be given: by default all items may be in the list."""

INTENT_MODES = ("plain", "intents", "predictor", "none")
"""Where a graph's intents come from: a model without fuser has none; they are an input; the model predicts
them; or a model with a fuser uses none."""


class Graph(nn.Module):
    """A trained model with scoring, exclusion and top-K.

    Args:
        model: in evaluation mode, on the CPU; it is modified.
        k: K.
        intent_mode: one of `INTENT_MODES`.
        precision: `fp32`, or one of `heads.COARSE`, which select candidates and score those exactly; with
            `index` the scores are not the graph's, see `index.QueryGraph`.
        query_range: largest absolute value in a query, for a precision that also rounds queries.
        filtered: also take which items may be in the list.
        with_intents: also return the predicted intents, in the intent mode `predictor`.
        with_query: also return the session's query, where a fuser scores titles by it.
        most_clicks: maximum T, for a runtime whose scatter cannot add: sums over clicks are then computed one
            click after the other. None for a runtime that can.

    Raises:
        InputError: K is not in 1..N, the model cannot have this intent mode, or no single table to compress.
    """

    def __init__(
        self,
        model: LLM4SBR,
        *,
        k: int,
        intent_mode: str,
        precision: str = "fp32",
        query_range: float | None = None,
        with_intents: bool = False,
        with_query: bool = False,
        filtered: bool = False,
        most_clicks: int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(model.backbone, Linear):
            model.backbone.most_clicks = most_clicks
        self.model = model.float()  # titles are stored in half precision, but computed with in float32
        if isinstance(model.predictor, ItemIntents):
            model.predictor.half()  # a row is read per session, so its conversion costs nothing
        self.num_items = len(model.backbone.item_embeddings())
        self.k, self.intent_mode, self.precision = k, intent_mode, precision
        self.with_intents = with_intents and intent_mode == "predictor"
        self.filtered = filtered
        self._check()
        tables = self._tables()
        if not tables and precision != "fp32":
            scorer = model.backbone if hasattr(model.backbone, "score") else model.fuser
            raise InputError(
                f"precision {precision}: {type(scorer).__name__} scores by more than one product, "
                "there is no table to make smaller; export fp32"
            )
        self.exact = Exact(tables, repeats=self.model.repeats) if tables else None
        self.with_query = with_query and self.exact is not None and model.rescores
        self.coarse = None
        if self.exact and precision in COARSE:
            self.coarse = ReRanked(self.exact, precision, k=k, query_range=query_range)

    def forward(
        self,
        items: Tensor,
        mask: Tensor,
        exclude_seen: Tensor,
        intents: Tensor | None = None,
        allowed: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Item ids int64 (B, K), best first, 0 for none, and their scores float32 (B, K).

        With `with_intents`, also the predicted intents float32 (B, P, E); with `with_query`, the session's
        query, float32 (B, Q).

        Args:
            items: int64 (B, T), right-padded with 0; every session has at least one click.
            mask: bool (B, T), true at clicks. An item where the mask is false is an older click: the model
                does not read it, but it is excluded like the others.
            exclude_seen: bool (B, 1), exclude the session's own items.
            intents: float32 (B, P, E), only in the intent mode `intents`.
            allowed: float32 (B or 1, N or 1), 0 for items that may be in the list, minus infinity for
                others; only with `filtered`.
        """
        read = torch.where(mask, items, 0)
        output = self.model.represent(read, mask, intents, predict=self.intent_mode == "predictor")
        clicked = torch.where(items > 0, items, items[:, :1]) - 1  # padding repeats the first click
        queries = self.queries(output) if self.exact else []
        if self.exact is None:
            scores = output.scores if allowed is None else output.scores + allowed
            values, rows = torch.topk(without(scores, clicked, exclude_seen), self.k)
        else:
            head = self.coarse or self.exact
            values, rows = head(queries, clicked, exclude_seen, self.k, output.added, allowed)
        found = [torch.where(values == -torch.inf, 0, rows + 1), values]
        found += [cast(Tensor, output.intents)] if self.with_intents else []
        return tuple(found + ([torch.cat(queries, 1)] if self.with_query else []))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs of `forward`."""
        more = {"intents": self.with_intents, QUERY: self.with_query}
        return ("item_ids", "scores", *(name for name, there in more.items() if there))

    def queries(self, output: Output) -> list[Tensor]:
        """The queries for each table, float (B, Q) each."""
        fused = cast(Tensor, output.fused)
        if not self.model.rescores:
            return [fused]
        if self.intent_mode == "none":
            return [torch.cat([fused, torch.ones_like(fused[:, :1])], 1)]
        queries: list[Tensor] = cast(Any, self.model.fuser).queries(fused, output.intents)
        return queries

    def example(self) -> dict[str, Tensor]:
        """Example inputs for tracing: two sessions, of two and three clicks."""
        items = torch.tensor([[1, 1, 0], [1, 1, 1]])
        inputs = {"items": items, "mask": items > 0, "exclude_seen": torch.ones(2, 1, dtype=torch.bool)}
        if self.intent_mode == "intents":
            inputs["intents"] = torch.ones(2, len(self.model.horizons), self.model.text_dim)
        if self.filtered:
            inputs[ALLOWED] = torch.zeros(1, 1)
        return inputs

    def _tables(self) -> list[Tensor]:
        """The tables for scoring, float (N, D) and (N, E); empty if scores are not inner products."""
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
            return [folded(fuser, tables)] if self.intent_mode == "none" else tables

    def _check(self) -> None:
        fused = self.model.fuser is not None
        if not 1 <= self.k <= self.num_items:
            raise InputError(f"k = {self.k}: the catalogue has {self.num_items} items; choose a smaller -k")
        if self.intent_mode not in INTENT_MODES:
            raise InputError(f"intent mode {self.intent_mode!r}: expected {', '.join(INTENT_MODES)}")
        if fused == (self.intent_mode == "plain"):
            kind = "takes intents" if fused else "is a plain backbone"
            raise InputError(f"intent mode {self.intent_mode!r}: the model {kind}")
        if self.intent_mode == "predictor" and getattr(self.model, "predictor", None) is None:
            raise InputError("intent mode 'predictor': the model was trained without a predictor")
