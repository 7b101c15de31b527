"""The fuser `catalogue`: an intent scores items by their titles, instead of only acting as a gate.

With `gated` a shuffled intent works nearly as well as the right one: a gate is one number per session and
perspective, and items are represented by ids only, so that an item without clicks in training cannot be
found. Here every item j also has its title vector t_j, a constant from stage `localize`, and the scores
become

    score_j = backbone's score of the fused vector v + t_j . (text query of v and the intents)

The query's inner products are one matrix product, (B, E) with (E, N), added to the backbone's score, so that
any backbone works, also one with its own scoring function. The cost in time is E / D times the backbone's
scoring. In memory and on disk the titles take 2 N E bytes per model (9 MB for 12,101 items of 384 numbers in
float16); they are saved with it, so that a model can score without its run. `whitened` keeps only R = 128
numbers per title.
"""

from __future__ import annotations

from torch import Tensor, nn

from llm4sbr.fusion.fusers import Gated
from llm4sbr.fusion.titles import IntentWeights, TitleVectors


class TextCatalogue(nn.Module):
    """An item is its embedding e_j plus a learned linear map M of its title vector; intents score titles too.

        score_j = v . (e_j + M t_j) + sum_p w_p (i_p . t_j)    v = gated(behavioural, semantic)

    M is initially zero, and w_p > 0 is initially `FIRST_WEIGHT`. Because v . M t_j = (M^T v) . t_j, the sums
    e_j + M t_j are never computed. A session without an intent is scored by the first term. E D + P
    parameters more than `gated`.

    Args:
        dim: D.
        perspectives: P.
        num_items: N.
        text_dim: E.
    """

    needs_catalogue = True

    def __init__(self, dim: int, perspectives: int, *, num_items: int, text_dim: int) -> None:
        super().__init__()
        self.vector = Gated(dim, perspectives)
        self.titles = TitleVectors(num_items, text_dim)
        self.weights = IntentWeights(perspectives)
        self.to_text = nn.Linear(dim, text_dim, bias=False)  # M^T
        nn.init.zeros_(self.to_text.weight)

    def fit(self, titles: Tensor, clicks: Tensor) -> None:
        """Store the catalogue's text vectors, float (N, E); `clicks` is not used."""
        self.titles.fit(titles)

    def texts(self, items: Tensor) -> Tensor:
        """The title vectors of items int64 (B, T), float (B, T, E), for the predictor of intents."""
        found: Tensor = self.titles.of(items)
        return found

    def forward(self, behavioural: Tensor, semantic: Tensor) -> Tensor:
        """(B, P, D) and (B, P, D) -> (B, D), as `gated`."""
        fused: Tensor = self.vector(behavioural, semantic)
        return fused

    def rescore(self, scores: Tensor, fused: Tensor, intents: Tensor | None) -> Tensor:
        """Add the text terms to the scores float (B, N); `fused` (B, D), `intents` (B, p, E) with p <= P."""
        added: Tensor = scores + self.titles(self.queries(fused, intents)[1])
        return added

    def factors(self, items: Tensor) -> list[Tensor]:
        """Tables for `queries`: items float (N, D), titles (N, E)."""
        return [items, self.titles.vectors.to(items.dtype)]

    def factors_of_new(self, vectors: Tensor) -> list[Tensor]:
        """As `factors`, of items without a click, by text vectors float (n, E)."""
        titles = vectors.to(self.titles.vectors.dtype).float()  # rounded as the others
        return [titles.new_zeros(len(titles), self.to_text.in_features), titles]

    def queries(self, fused: Tensor, intents: Tensor | None) -> list[Tensor]:
        """Queries for items float (B, D), for titles (B, E); arguments as in `rescore`."""
        query: Tensor = self.to_text(fused)
        return [fused, query if intents is None else query + self.weights(intents)]
